package server

import (
	"testing"

	"assay/admission"
	"assay/artifact"
	"assay/config"
	"assay/policy"
	"assay/store"
	"assay/store/storetest"
	"assay/verify"
)

// TestDecidedAhead: what is pushed is decided about where it may be asked for before
// anybody asks, and again when its evidence comes and when another policy applies.
func TestDecidedAhead(t *testing.T) {
	for _, dialect := range []store.Dialect{store.SQLite, store.PostgreSQL} {
		t.Run(string(dialect), func(t *testing.T) {
			testDecidedAhead(t, newSite(t, true, func(c *config.Config) {
				admitting(c)
				if dialect == store.PostgreSQL {
					c.Store.DSN = storetest.DSN(t, dialect)
				}
			}))
		})
	}
}

func testDecidedAhead(t *testing.T, s *testSite) {
	s.apply(s.policyDoc("me@example.com"), false)
	s.runs("nginx:1.27", artifact.SHA256Of([]byte("nginx")), 1, 1) // so c1/shop is known
	r := s.reviewer()
	_ = r.ask(admission.PathValidate, "bank", s.host()+"/bank/none:v1")
	old, _ := s.image("bank/old", "v1", "old layer")
	s.signImage("bank/old", old)
	await(t, func() bool { return r.ask(admission.PathMutate, "bank", s.host()+"/bank/old:v1").Allowed }) // and c1/bank

	stands := func(d artifact.Digest, namespace, repository string) *verify.Decision {
		t.Helper()
		out, err := s.engine.Current(t.Context(), d, s.placeOf("c1", namespace).ScopeID(repository))
		if err != nil {
			return nil
		}
		return out
	}
	manifest, d := s.image("shop/new", "v1", "a new layer")
	await(t, func() bool { return stands(d, "shop", "shop/new") != nil })
	if stands(d, "shop", "shop/new").Verdict != policy.Deny {
		t.Fatal("allowed without a signature")
	}
	s.signImage("shop/new", manifest)
	await(t, func() bool { x := stands(d, "shop", "shop/new"); return x != nil && x.Verdict == policy.Allow })
	if x := stands(d, "system", "shop/new"); x != nil {
		t.Errorf("decided for a namespace that nobody knows: %+v", x)
	}
	was := stands(d, "shop", "shop/new").ID
	if a := r.ask(admission.PathMutate, "shop", s.host()+"/shop/new:v1"); !a.Allowed {
		t.Errorf("%+v", a.Status)
	}
	if now := stands(d, "shop", "shop/new").ID; now != was {
		t.Errorf("the first Pod had decision %s made, though %s stood", now, was)
	}
	s.apply(s.policyDoc("other@example.com"), false)
	await(t, func() bool { x := stands(d, "shop", "shop/new"); return x != nil && x.Verdict == policy.Deny })
	// A start of its own finds nothing to do, and what waits is not lost by it.
	m2, d2 := s.image("shop/second", "v1", "a second layer")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.signImage("shop/second", m2)
	s.apply(s.policyDoc("me@example.com"), false)
	await(t, func() bool { x := stands(d2, "shop", "shop/second"); return x != nil && x.Verdict == policy.Allow })
	await(t, func() bool {
		var waiting []admission.Coming
		if err := s.db.View(t.Context(), func(tx *store.Tx) (err error) {
			waiting, err = admission.Announced(t.Context(), tx, 10)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return len(waiting) == 0
	})
}
