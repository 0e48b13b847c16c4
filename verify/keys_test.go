package verify

import (
	"crypto"
	"testing"
	"time"

	"assay/attestation"
	"assay/policy"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
	"assay/trust/trusttest"
)

// When another key signs decisions: those that were signed before verify under
// the old key, new ones are the new key's, what stands is signed anew when it is
// due, and bundles by either are no evidence here.
func TestDecisionKeysFollow(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		r := newRig(t, db)
		old, next := r.key, trusttest.NewKey(t)
		by := func(d *Decision, k crypto.Signer) bool {
			t.Helper()
			env, err := attestation.ParseEnvelope(d.VSA, attestation.DefaultLimits())
			if err != nil {
				t.Fatal(err)
			}
			_, err = attestation.VerifyDSSE(env, k.Public())
			return err == nil
		}
		vsa := statement(t, content, attestation.PredicateVSA, map[string]any{"verifier": map[string]any{"id": "x"}})
		r.items = Items{item(r.w.Sign(t, trusttest.Request{Statement: vsa, Key: old}))}
		fp, err := trust.KeyFingerprint(old.Public())
		if err != nil {
			t.Fatal(err)
		}
		p, err := policy.DefaultKey(fp)
		if err != nil {
			t.Fatal(err)
		}
		noEvidence := func(when string, d *Decision) {
			t.Helper()
			f, err := r.Facts(t.Context(), d.FactsHash)
			if err != nil {
				t.Fatal(err)
			}
			if d.Allowed() || len(f.Rejected) != 1 || f.Rejected[0].Code != codeOwnDecision {
				t.Errorf("%s: %s, %+v", when, d.Verdict, f.Rejected)
			}
		}
		first := decideOn(t, r, p)
		if again := decideOn(t, r, p); again.ID != first.ID || !by(first, old) {
			t.Fatalf("not extended, or not the old key's: %s, %s", first.ID, again.ID)
		}
		if err := r.SetKey(next, old.Public()); err != nil {
			t.Fatal(err)
		}
		r.advance(time.Second)
		second := decideOn(t, r, p)
		if !by(second, next) || by(second, old) {
			t.Error("the decision is not the new key's")
		}
		noEvidence("by the old key, after the change", second)
		if kept, err := r.Get(t.Context(), first.ID); err != nil || !by(kept, old) {
			t.Errorf("the old decision: %v", err)
		}
		r.advance(time.Second)
		if third := decideOn(t, r, p); third.ID != second.ID || !by(third, next) {
			t.Error("signed anew although nothing changed")
		}
	})
}
