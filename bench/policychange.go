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
)

// policyChange measures how long it takes until all that runs was decided about by a
// policy that was just applied: 10,000 images with provenance, one workload each.
func (b *bench) policyChange(ctx context.Context) error {
	n := changedImages
	if b.quick {
		n = 500
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
	b.say("policy: %d images pushed", n)
	if err := attestMany(ctx, s, digests); err != nil {
		return err
	}
	b.say("policy: their provenance is stored")
	var report client.WorkloadReport
	report.Cluster, report.Complete = "bench", true
	for i, d := range digests {
		report.Workloads = append(report.Workloads, client.ReportedWorkload{
			Namespace: changedNamespace(i), Kind: "Deployment", Name: fmt.Sprintf("app-%05d", i), Instance: fmt.Sprintf("app-%05d-x", i), Container: "app",
			Image: s.Services.Registry + "/" + changedRepository(i) + "@" + string(d), Digest: d, Node: fmt.Sprintf("node-%03d", i%200),
		})
	}
	if _, err := s.admin.ReportWorkloads(ctx, report); err != nil {
		return err
	}
	b.say("policy: they are known to run")
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

// Each namespace runs images of a repository of its own.
func changedNamespace(i int) string  { return fmt.Sprintf("ns-%03d", i%changedNamespaces) }
func changedRepository(i int) string { return fmt.Sprintf("bench-%03d/app", i%changedNamespaces) }

// pushMany pushes n manifests that differ by an annotation, to as many repositories
// as there are namespaces.
func pushMany(ctx context.Context, s *site, n int) ([]artifact.Digest, error) {
	digests := make([]artifact.Digest, n)
	const pushers = 8
	return digests, inParallel(pushers, pushers, func(p int) error {
		for r := p; r < changedNamespaces; r += pushers {
			if err := pushTo(ctx, s, r, digests); err != nil {
				return err
			}
		}
		return nil
	})
}

// pushTo pushes those images whose repository it is.
func pushTo(ctx context.Context, s *site, r int, digests []artifact.Digest) error {
	token, err := scopedToken(ctx, s, changedRepository(r))
	if err != nil {
		return err
	}
	c, err := newOCIClient(s.PublicURL, token)
	if err != nil {
		return err
	}
	defer c.close()
	c.repository = changedRepository(r)
	if err := c.putConfig(ctx); err != nil {
		return err
	}
	for i := r; i < len(digests); i += changedNamespaces {
		m := image{tag: fmt.Sprintf("v%d", i), manifest: fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[],"annotations":{"n":"%d"}}`, manifestType, emptyType, emptyDigest, i)}
		if err := c.putManifest(ctx, m); err != nil {
			return err
		}
		digests[i] = artifact.SHA256Of(m.manifest)
	}
	return nil
}

// attestMany has the site sign provenance of all, one statement for a repository.
func attestMany(ctx context.Context, s *site, digests []artifact.Digest) error {
	token, err := s.token(ctx, "sigstore")
	if err != nil {
		return err
	}
	signing := &client.Signing{
		Fulcio: s.Services.Fulcio, Rekor: s.Services.Rekor, TSA: s.Services.TSA, HTTP: &http.Client{Timeout: time.Minute},
		Token: func(context.Context) (string, error) { return token, nil },
	}
	for r := range min(changedNamespaces, len(digests)) {
		var subjects []attestation.Subject
		for i := r; i < len(digests); i += changedNamespaces {
			subjects = append(subjects, attestation.Subject{Name: "app", Digest: digests[i].Set()})
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
		if _, err := s.admin.Ingest(ctx, raw, changedRepository(r)); err != nil {
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
