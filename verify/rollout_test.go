package verify

import (
	"testing"
	"time"

	"assay/policy"
	"assay/store"
	"assay/store/storetest"
)

// A stage of a roll-out that begins makes the decision anew: it told before, it
// refuses now, and says so in an event and in the summary that others read.
func TestDecisionFollowsRollout(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		r := newRig(t, db)
		start := r.clock().Add(30 * time.Minute).UTC().Truncate(time.Second)
		p := parse(t, policyHead+"  rollout: [{rules: [signatures], stages: [{mode: warn}, {mode: enforce, from: "+start.Format(time.RFC3339)+"}]}]\n  requirements: {signatures: [{identities: [{issuer: https://issuer.example, subject: nobody@example.com}]}]}\n")
		d := decideOn(t, r, p)
		if d.Verdict != policy.Deny || d.Mode != policy.Warn || d.Blocks() || !d.ValidUntil.Equal(start) {
			t.Fatalf("%s in mode %s until %s, want it to warn until %s", d.Verdict, d.Mode, d.ValidUntil, start)
		}
		r.advance(31 * time.Minute)
		now := decideOn(t, r, p)
		if now.ID == d.ID || now.Mode != policy.Enforce || !now.Blocks() {
			t.Fatalf("%s in mode %s; it was %s", now.ID, now.Mode, d.ID)
		}
		var told bool
		for _, e := range events(t, db) {
			told = told || e == "decision.changed deny deny"
		}
		if !told {
			t.Errorf("no decision.changed: %q", events(t, db))
		}
	})
}
