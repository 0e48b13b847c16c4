package retention_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/config"
	"assay/event"
	"assay/registry/registrytest"
	"assay/registry/retention"
	"assay/store"
	"assay/store/storetest"
)

// TestAttestationsAndDecisions: evidence goes when it is old and what it is about
// is nowhere and not held; decisions go when they are old and replaced.
func TestAttestationsAndDecisions(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := start(t, db, nil)
		image := s.Client(t, "owner").PushImage("team/app", "v1", registrytest.Image{Layer: "one"})
		about := func(name string) artifact.Digest { return artifact.SHA256Of([]byte(name)) }
		old, young := time.Now().Add(-100*24*time.Hour), time.Now().Add(-time.Hour)
		const bom = "https://cyclonedx.org/bom"
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			for _, b := range []struct {
				id, predicate string
				subject       artifact.Digest
				at            time.Time
			}{
				{"att_kept", "p", image, old}, {"att_gone", "p", about("gone"), old}, {"att_young", "p", about("gone"), young},
				{"att_held", "p", about("held"), old}, {"att_bom", bom, about("gone"), old},
			} {
				if _, err := tx.Exec(t.Context(), `INSERT INTO evidence_bundle (id, scheme, predicate_type, issuer, identity, key, root, trusted_time, time_source,
					log_id, log_index, legacy, size, trust_epoch, ingested_at, repository, source) VALUES (?, '', ?, '', '', '', '', 0, '', '', 0, 0, 1, 1, ?, '', '')`, b.id, b.predicate, b.at); err != nil {
					return err
				}
				if _, err := tx.Exec(t.Context(), `INSERT INTO evidence_subject (subject, ingested_at, id) VALUES (?, ?, ?)`, string(b.subject), b.at, b.id); err != nil {
					return err
				}
			}
			for i, id := range []string{"dec_1", "dec_2", "dec_3"} {
				if _, err := tx.Exec(t.Context(), `INSERT INTO decision_facts (id, body, created) VALUES (?, ?, ?)`, "facts_"+id, []byte("{}"), old); err != nil {
					return err
				}
				if _, err := tx.Exec(t.Context(), `INSERT INTO decision (id, digest, scope_id, verdict, mode, policy, policy_hash, facts_id, trust_epoch, decided, checks, vsa)
					VALUES (?, ?, 'gate', 'allow', 'enforce', 'p', 'h', ?, 1, ?, '[]', ?)`, id, string(image), "facts_"+id, old.Add(time.Duration(i)*time.Hour), []byte("{}")); err != nil {
					return err
				}
			}
			_, err := tx.Exec(t.Context(), `INSERT INTO current_decision (digest, scope_id, decision_id, trust_epoch, valid_until, checked) VALUES (?, 'gate', 'dec_3', 1, 0, 0)`, string(image))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.holds.Add(t.Context(), "boss", retention.HoldRequest{Digest: about("held"), Reason: "case 1"}); err != nil {
			t.Fatal(err)
		}
		rule := func(class string, last int) config.RetentionRule {
			return config.RetentionRule{Name: class, RetentionSpec: config.RetentionSpec{Class: class, KeepFor: 30 * 24 * time.Hour, KeepLast: last}}
		}
		for _, one := range []struct {
			rules []config.RetentionRule
			want  []string
		}{
			{[]config.RetentionRule{rule(config.ClassSBOMs, 0)}, []string{"att_bom"}},
			{[]config.RetentionRule{rule(config.ClassAttestations, 0)}, []string{"att_bom", "att_gone"}},
			{[]config.RetentionRule{rule(config.ClassDecisions, 0)}, []string{"dec_1", "dec_2"}},
			{[]config.RetentionRule{rule(config.ClassDecisions, 1)}, []string{"dec_1"}},
		} {
			s.rules = one.rules
			r, err := s.Plan(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, i := range r.Items {
				if i.Deleted {
					got = append(got, i.ID)
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(one.want, got); diff != "" {
				t.Errorf("%s: %s", one.rules[0].Name, diff)
			}
		}
		s.rules = []config.RetentionRule{rule(config.ClassAttestations, 0), rule(config.ClassDecisions, 0)}
		r, err := s.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.Deleted != 4 || r.Held != 1 {
			t.Errorf("%+v", r)
		}
		var left int64
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(t.Context(), `SELECT (SELECT COUNT(*) FROM evidence_bundle) * 100 + (SELECT COUNT(*) FROM decision) * 10 + (SELECT COUNT(*) FROM decision_facts)`).Scan(&left)
		}); err != nil || left != 311 {
			t.Errorf("left %d, want 3 bundles, 1 decision, 1 facts: %v", left, err)
		}
		if n := len(s.Events(t, event.AttestationDropped)); n != 2 {
			t.Errorf("%d events", n)
		}
	})
}
