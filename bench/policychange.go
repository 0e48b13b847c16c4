package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"assay/artifact"
	"assay/attestation"
	"assay/client"
)

const (
	changedImages     = 10_000
	changedNamespaces = 100
	changedTogether   = 100 // subjects of one statement
)

// policyChange measures how long it takes until all that runs was decided about by a
// policy that was just applied: 10,000 images with provenance, one workload each.
func (b *bench) policyChange(ctx context.Context) error {
	n := changedImages
	if b.quick {
		n = 300
	}
	dir := b.folder("policy-change")
	defer os.RemoveAll(dir)
	port, err := freePort()
	if err != nil {
		return err
	}
	s, err := upWith(ctx, b.assay, dir, fmt.Sprintf("ASSAY_ADMISSION_LISTEN=127.0.0.1:%d", port), "ASSAY_ADMISSION_CLUSTER=bench", "ASSAY_ADMISSION_ENVIRONMENT=production")
	if err != nil {
		return err
	}
	defer s.stop()
	if err := requireProvenance(ctx, s, "built"); err != nil {
		return err
	}
	digests, err := pushMany(ctx, s, n)
	if err != nil {
		return err
	}
	if err := attestMany(ctx, s, digests); err != nil {
		return err
	}
	var report client.WorkloadReport
	report.Cluster, report.Complete = "bench", true
	for i, d := range digests {
		report.Workloads = append(report.Workloads, client.ReportedWorkload{
			Namespace: fmt.Sprintf("ns-%03d", i%changedNamespaces), Kind: "Deployment", Name: fmt.Sprintf("app-%05d", i), Instance: fmt.Sprintf("app-%05d-x", i), Container: "app",
			Image: s.Services.Registry + "/" + benchRepository + "@" + string(d), Digest: d, Node: fmt.Sprintf("node-%03d", i%200),
		})
	}
	if _, err := s.admin.ReportWorkloads(ctx, report); err != nil {
		return err
	}
	was := map[string]bool{}
	if err := redecided(ctx, s, n, was); err != nil {
		return err
	}
	var took, cpu samples
	var others float64
	if err := b.turns(ctx, func(i int) error {
		m := startMeter(s.process)
		if err := requireProvenance(ctx, s, fmt.Sprintf("built-%d", i)); err != nil {
			return err
		}
		if err := redecided(ctx, s, n, was); err != nil {
			return err
		}
		used := m.stop(b.processors)
		others, cpu = max(others, used.others), append(cpu, float64(used.server.Microseconds())/float64(n))
		took = append(took, used.wall.Seconds())
		return nil
	}); err != nil {
		return err
	}
	f := figure("policy.change", "s", took, &Aim{"<=", 30})
	f.Others, f.CPU = others, cpu.median()
	f.Note = fmt.Sprintf("from the new policy's request until each of %d running images, with provenance, in %d namespaces stands by a decision that it made; the processor's time is for one", n, changedNamespaces)
	b.add(f)
	return nil
}

// requireProvenance applies a policy whose one requirement has a name of its own.
func requireProvenance(ctx context.Context, s *site, name string) error {
	_, err := s.admin.Apply(ctx, fmt.Appendf(nil, "apiVersion: assay/v1\nkind: Policy\nmetadata: {name: built}\nspec:\n  requirements:\n    attestations: [{name: %s, predicateType: %q, identities: [{issuer: %q, subject: %q}]}]\n",
		name, attestation.PredicateProvenanceV1, s.Services.OIDC, benchSubject), false, false)
	return err
}

// pushMany pushes n manifests that differ by an annotation.
func pushMany(ctx context.Context, s *site, n int) ([]artifact.Digest, error) {
	token, err := scopedToken(ctx, s)
	if err != nil {
		return nil, err
	}
	one, err := newOCIClient(s.PublicURL, token)
	if err != nil {
		return nil, err
	}
	defer one.close()
	if err := one.putConfig(ctx); err != nil {
		return nil, err
	}
	digests := make([]artifact.Digest, n)
	const pushers = 8
	return digests, inParallel(pushers, pushers, func(p int) error {
		c, err := newOCIClient(s.PublicURL, token)
		if err != nil {
			return err
		}
		defer c.close()
		for i := p; i < n; i += pushers {
			m := image{tag: fmt.Sprintf("v%d", i), manifest: fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[],"annotations":{"n":"%d"}}`, manifestType, emptyType, emptyDigest, i)}
			if err := c.putManifest(ctx, m); err != nil {
				return err
			}
			digests[i] = artifact.SHA256Of(m.manifest)
		}
		return nil
	})
}

// attestMany has the site sign provenance of all, many to a statement.
func attestMany(ctx context.Context, s *site, digests []artifact.Digest) error {
	token, err := s.token(ctx, "sigstore")
	if err != nil {
		return err
	}
	signing := &client.Signing{
		Fulcio: s.Services.Fulcio, Rekor: s.Services.Rekor, TSA: s.Services.TSA, HTTP: &http.Client{Timeout: time.Minute},
		Token: func(context.Context) (string, error) { return token, nil },
	}
	for at := 0; at < len(digests); at += changedTogether {
		var subjects []attestation.Subject
		for _, d := range digests[at:min(at+changedTogether, len(digests))] {
			subjects = append(subjects, attestation.Subject{Name: "app", Digest: d.Set()})
		}
		st, err := attestation.NewStatement(attestation.PredicateProvenanceV1, map[string]any{
			"buildDefinition": map[string]any{"buildType": "https://builder.example.com/build/v1", "externalParameters": map[string]any{}, "resolvedDependencies": []any{}},
			"runDetails":      map[string]any{"builder": map[string]any{"id": "https://builder.example.com/runner/v1"}, "metadata": map[string]any{}},
		}, subjects...)
		if err != nil {
			return err
		}
		body, err := st.Bytes()
		if err != nil {
			return err
		}
		bundle, err := signing.Statement(ctx, attestation.PayloadType, body, attestation.PAE(attestation.PayloadType, body))
		if err != nil {
			return err
		}
		raw, err := protojson.Marshal(bundle)
		if err != nil {
			return err
		}
		if _, err := s.admin.Ingest(ctx, raw, benchRepository); err != nil {
			return err
		}
	}
	return nil
}

// redecided waits until each of n images that run is allowed by a decision that was
// not there before, and notes those.
func redecided(ctx context.Context, s *site, n int, was map[string]bool) error {
	for deadline := time.Now().Add(4 * time.Minute); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		page, err := s.admin.RunningImages(ctx, "bench", "allowed", "", 0)
		if err != nil {
			return err
		}
		var fresh []string
		for _, r := range page.Items {
			if r.Decision != "" && !was[r.Decision] {
				fresh = append(fresh, r.Decision)
			}
		}
		if len(fresh) == n {
			for _, d := range fresh {
				was[d] = true
			}
			return nil
		}
	}
	return errors.New("not all that runs was decided about anew within four minutes")
}
