package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/policy"
	"assay/registry"
	"assay/store"
	"assay/trust"
	"assay/verify"
	"assay/verify/replay"
)

// replays measures a policy replayed over what a site decided: 100,000 decisions
// upon 20,000 distinct facts of some 16 KB.
func (b *bench) replays(ctx context.Context) error {
	facts, each := 20_000, 5
	if b.quick {
		facts = 400
	}
	db, err := store.Open(ctx, "sqlite:"+filepath.Join(b.folder("replay"), "assay.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.Migrate(ctx, event.Migrations, trust.Migrations, registry.Migrations, verify.Migrations); err != nil {
		return err
	}
	bytes, err := fillDecisions(ctx, db, facts, each)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	engine, err := verify.New(verify.Options{DB: db, Source: nothing{}, Trust: func() verify.TrustState { return verify.TrustState{} }, Key: key, VerifierID: "https://bench.example"})
	if err != nil {
		return err
	}
	other, err := policy.ParseRequirements([]byte(`
apiVersion: assay/v1
kind: Policy
metadata: {name: release}
spec:
  requirements:
    requireLog: true
    signatures:
      - identities: [{issuer: "https://issuer.example", subjectRegexp: "ci-1[0-9]*@example\\.org"}]
    attestations:
      - predicateType: https://example.org/t3/v1
        identities: [{issuer: "https://issuer.example", subjectRegexp: ".*@example\\.org"}]
        fields: [{path: result, equals: PASSED}]
`))
	if err != nil {
		return err
	}
	set, err := policy.NewSet(other)
	if err != nil {
		return err
	}
	var took, cpu samples
	m := startMeter(nil)
	if err := b.turns(ctx, func(int) error {
		began, used := time.Now(), ownCPU()
		got, err := replay.Run(ctx, engine, set, replay.Options{Since: time.Unix(0, 0)})
		if err != nil {
			return err
		}
		if got.Facts != facts || got.Decisions != facts*each || got.Stricter == 0 || got.Same == 0 || got.Unknowns != 0 {
			return fmt.Errorf("replay: %d facts, %d decisions, %d stricter, %d the same, %d unknown", got.Facts, got.Decisions, got.Stricter, got.Same, got.Unknowns)
		}
		took, cpu = append(took, time.Since(began).Seconds()), append(cpu, (ownCPU()-used).Seconds())
		return nil
	}); err != nil {
		return err
	}
	note := fmt.Sprintf("%d recorded decisions upon %d distinct facts of %.1f KB, SQLite", facts*each, facts, float64(bytes)/float64(facts)/1000)
	f := figure("replay", "s", took, &Aim{"<=", 60})
	f.Others, f.Note = m.stop(b.processors).others, note
	b.add(f)
	f = figure("replay.cpu", "s", cpu, nil)
	f.Note = "processor time of the same"
	b.add(f)
	return nil
}

type nothing struct{}

func (nothing) Evidence(context.Context, artifact.Digest) ([]verify.Item, bool, error) {
	return nil, false, nil
}

// fillDecisions writes decisions as the engine does, and gives the bytes of the
// facts.
func fillDecisions(ctx context.Context, db *store.DB, facts, each int) (bytes int, err error) {
	const batch = 500
	for from := 0; from < facts; from += batch {
		err := db.Update(ctx, func(tx *store.Tx) error {
			for i := from; i < min(from+batch, facts); i++ {
				f := benchFacts(i)
				body, err := f.Canonical()
				if err != nil {
					return err
				}
				id := policy.FactsID(body)
				bytes += len(body)
				at := store.Micros(time.Unix(1_700_000_000+int64(i), 0))
				if _, err := tx.Exec(ctx, `INSERT INTO decision_facts (id, body, created) VALUES (?, ?, ?)`, id, body, at); err != nil {
					return err
				}
				for k := range each {
					if _, err := tx.Exec(ctx, `INSERT INTO decision (id, digest, scope_id, verdict, mode, policy, policy_hash, facts_id, trust_epoch, decided, checks, vsa) VALUES (?, ?, ?, 'allow', 'enforce', 'release', 'hash', ?, 1, ?, '[]', ?)`,
						fmt.Sprintf("dec_%d_%d", i, k), string(f.Subject.Digest), fmt.Sprintf("default/%d", k), id, at+int64(k), []byte("{}")); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return bytes, nil
}

func benchFacts(i int) *policy.Facts {
	digest := artifact.SHA256Of(fmt.Appendf(nil, "artifact %d", i))
	index := int64(i)
	evidence := func(k int) policy.Evidence {
		id := artifact.SHA256Of(fmt.Appendf(nil, "evidence %d %d", i, k))
		return policy.Evidence{
			ID: "att_" + strings.TrimPrefix(string(id), "sha256:"), Source: "evidence", Repository: "team/app", Root: "site.example", Scheme: "dsse",
			Identity:    &policy.Identity{Issuer: "https://issuer.example", Subject: fmt.Sprintf("ci-%d@example.org", i%40), Extensions: map[string]string{"sourceRepositoryURI": "https://git.example/team/app", "sourceRepositoryDigest": strings.Repeat("a", 40)}},
			TrustedTime: "2026-01-01T00:00:00Z", TimeSource: "tsa", LogIndex: &index, LogID: strings.Repeat("0", 64),
		}
	}
	f := &policy.Facts{
		Schema: policy.FactsSchema, Subject: policy.Subject{Digest: digest, Kind: policy.Image, Repository: "team/app", Tags: []string{"latest"}}, Scope: policy.Scope{ID: "default"},
		Signatures: []policy.Signature{{Evidence: evidence(0)}}, Trust: policy.Trust{Roots: []string{"site.example"}},
	}
	for k := range 17 {
		fields := map[string]any{"result": "PASSED"}
		for n := range 6 {
			fields[fmt.Sprintf("field%d", n)] = strings.Repeat("x", 24)
		}
		f.Attestations = append(f.Attestations, policy.Attestation{Evidence: evidence(k + 1), PredicateType: fmt.Sprintf("https://example.org/t%d/v1", k%8), Fields: fields})
	}
	return f
}
