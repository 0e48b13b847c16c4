package baseline_test

import (
	"slices"
	"testing"
	"time"

	"assay/builder/runner"
	"assay/policy"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
	"assay/trust/trusttest"
	"assay/verify"
)

// TestThreat_Runner_DrillsAreDenied: the drills of caches, used machines and
// steps that were not there before, from the evidence to a policy's deny.
func TestThreat_Runner_DrillsAreDenied(t *testing.T) {
	for name, c := range map[string]struct {
		wish   string
		before func(t *testing.T, s *site)
		change func(b *build)
		denied bool
	}{
		"as usual": {"anomalies: none, ephemeral: true", nil, func(*build) {}, false},
		"cache poisoned by another branch's run": {"anomalies: none", func(t *testing.T, s *site) {
			pull := usual("bld_pr")
			pull.ref, pull.trigger, pull.caches = "refs/pull/7/merge", "pull_request", []runner.Cache{{Key: "mod", Saved: sum("evil cache")}}
			s.run(t, pull)
		}, func(b *build) { b.caches = []runner.Cache{{Key: "mod", Restored: sum("evil cache")}} }, true},
		"runner reused":                     {"ephemeral: true", nil, func(b *build) { b.used = 3 }, true},
		"runner reused, and hides it":       {"ephemeral: true", nil, func(b *build) { b.instance = "machine bld_1" }, true},
		"runner reused, as an anomaly":      {"anomalies: none", nil, func(b *build) { b.used = 3 }, true},
		"publish outside the declared step": {"anomalies: none", nil, func(b *build) { b.command = []any{"sh", "-c", "make && make publish"} }, true},
		"publish to elsewhere":              {"anomalies: none", nil, func(b *build) { b.egress = append(b.egress, "198.51.100.9 443") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			db := storetest.Open(t, store.SQLite)
			s := open(t, db)
			if err := db.Migrate(t.Context(), verify.Migrations); err != nil {
				t.Fatal(err)
			}
			s.run(t, usual("bld_1"))
			if c.before != nil {
				c.before(t, s)
			}
			b := usual("bld_2")
			c.change(&b)
			s.run(t, b)

			v, err := verify.NewVerifier(verify.VerifierOptions{Roots: []*trust.Root{s.world.Root(t, trust.WithName("test"))}})
			if err != nil {
				t.Fatal(err)
			}
			e, err := verify.New(verify.Options{
				DB: db, Source: s.ev, Runners: s.Store, Key: trusttest.NewKey(t), VerifierID: "https://assay.test",
				Clock: func() time.Time { return s.world.Start.Add(time.Hour) },
				Trust: func() verify.TrustState { return verify.TrustState{Verifier: v} },
			})
			if err != nil {
				t.Fatal(err)
			}
			p, err := policy.ParseRequirements([]byte("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  requirements:\n    runner: {" + c.wish +
				", identities: [{issuer: \"" + issuer + "\", subject: \"" + repo + "/.ci/build.yml@refs/heads/main\"}]}\n"))
			if err != nil {
				t.Fatal(err)
			}
			d, err := e.Decide(t.Context(), verify.Target{Digest: sum("product of bld_2"), Kind: policy.File}, policy.Scope{ID: "test"}, p)
			if err != nil {
				t.Fatal(err)
			}
			of := slices.ContainsFunc(d.Checks, func(k policy.Check) bool { return k.Status == policy.Fail })
			if d.Allowed() == c.denied || of != c.denied {
				t.Errorf("%s, want denied %v: %+v", d.Verdict, c.denied, d.Checks)
			}
		})
	}
}
