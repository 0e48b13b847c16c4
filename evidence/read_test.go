package evidence_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/attestation"
	"assay/evidence"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
	"assay/trust/trusttest"
)

// fill ingests a mixture whose parts the filters tell apart, and gives all its
// records in the order of a list.
func fill(t *testing.T, s *site) []evidence.Record {
	t.Helper()
	types := []string{attestation.PredicateSPDX, attestation.PredicateProvenanceV1, attestation.PredicateOpenVEX}
	for i := range 30 {
		l := trusttest.Leaf{Issuer: fmt.Sprintf("https://issuer-%d.assay.test", i%2), Subject: fmt.Sprintf("person-%d@assay.test", i%4)}
		app, repository := fmt.Sprint("app ", i%5), ""
		if i%3 != 0 {
			repository = fmt.Sprintf("team-%d/app", i%3)
		}
		var b []byte
		if i%10 == 9 { // about four things at once, in one transaction
			st := attestation.Statement{Type: attestation.StatementV1, PredicateType: types[i%3], Predicate: []byte(`{}`)}
			for n := range 4 {
				st.Subject = append(st.Subject, attestation.Subject{Digest: digest(fmt.Sprint("app ", n)).Set()})
			}
			raw, err := st.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			b = s.world.Draft(t, trusttest.Request{Statement: raw, Leaf: l}).JSON(t)
		} else {
			b = s.world.Draft(t, trusttest.Request{Statement: trusttest.Statement([]byte(app), types[i%3]), Leaf: l}).JSON(t)
		}
		s.ingest(t, b, repository)
	}
	all, err := s.List(t.Context(), evidence.Filter{Limit: 1000})
	if err != nil || len(all) != 39 {
		t.Fatalf("%d records (%v), want 39", len(all), err)
	}
	return all
}

func TestList(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		all := fill(t, s)
		for i := 1; i < len(all); i++ {
			if all[i].IngestedAt.After(all[i-1].IngestedAt) {
				t.Errorf("record %d is newer than the one before it", i)
			}
		}
		sub, typ, iss, who := digest("app 2"), attestation.PredicateProvenanceV1, "https://issuer-1.assay.test", "person-3@assay.test"
		for name, f := range map[string]evidence.Filter{
			"everything":                 {},
			"subject":                    {Subject: sub},
			"type":                       {PredicateType: typ},
			"issuer":                     {Issuer: iss},
			"identity":                   {Identity: who},
			"repository":                 {Repository: "team-1/app"},
			"subject and type":           {Subject: sub, PredicateType: typ},
			"subject and repository":     {Subject: sub, Repository: "team-2/app"},
			"type and repository":        {PredicateType: typ, Repository: "team-1/app"},
			"issuer and identity":        {Issuer: iss, Identity: who},
			"all at once":                {Subject: digest("app 3"), PredicateType: attestation.PredicateOpenVEX, Issuer: iss, Identity: who, Repository: "team-2/app"},
			"type is matched exactly":    {PredicateType: strings.TrimSuffix(typ, "1")},
			"nobody":                     {Identity: "nobody@assay.test"},
			"identity of another issuer": {Issuer: "https://issuer-0.assay.test", Identity: who},
		} {
			var want []evidence.Record
			for _, r := range all {
				if (f.Subject == "" || r.Subject == f.Subject) && (f.PredicateType == "" || r.PredicateType == f.PredicateType) &&
					(f.Issuer == "" || r.Signer.Issuer == f.Issuer) && (f.Identity == "" || r.Signer.Subject == f.Identity) &&
					(f.Repository == "" || r.Repository == f.Repository) {
					want = append(want, r)
				}
			}
			// In pages of every size the list is the same, none missed or twice.
			for _, size := range []int{1, 3, 7, 1000} {
				var got []evidence.Record
				for page := f; ; {
					page.Limit = size
					part, err := s.List(t.Context(), page)
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					if got = append(got, part...); len(part) < size {
						break
					}
					page.After = part[len(part)-1].Cursor()
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("%s in pages of %d (-want +got):\n%s", name, size, d)
				}
			}
		}
	})
}

// Something must match each of the filters above, or their test proves nothing.
func TestListFiltersMatchSomething(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	fill(t, s)
	got, err := s.List(t.Context(), evidence.Filter{Subject: digest("app 3"), PredicateType: attestation.PredicateOpenVEX,
		Issuer: "https://issuer-1.assay.test", Identity: "person-3@assay.test", Repository: "team-2/app"})
	if err != nil || len(got) == 0 {
		t.Errorf("%d records (%v), want some", len(got), err)
	}
}

func TestListRefuses(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	for name, f := range map[string]evidence.Filter{
		"subject":            {Subject: "sha256:12"},
		"cursor":             {After: "12"},
		"cursor of numbers":  {After: "a/att_" + strings.Repeat("0", 64) + "/sha256:" + strings.Repeat("0", 64)},
		"cursor of anything": {After: "1/att_1/sha256:" + strings.Repeat("0", 64)},
	} {
		if _, err := s.List(t.Context(), f); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
	for _, id := range []string{"", "att_12", "sha256:" + strings.Repeat("0", 64), "att_" + strings.Repeat("G", 64)} {
		if _, err := s.Get(t.Context(), id); !errors.Is(err, fault.Invalid) {
			t.Errorf("get %q: %v, want invalid", id, err)
		}
		if _, err := s.Bundle(t.Context(), id); !errors.Is(err, fault.Invalid) {
			t.Errorf("bundle %q: %v, want invalid", id, err)
		}
	}
	absent := "att_" + strings.Repeat("0", 64)
	if _, err := s.Get(t.Context(), absent); !errors.Is(err, fault.NotFound) {
		t.Errorf("get: %v, want not found", err)
	}
	if _, err := s.Bundle(t.Context(), absent); !errors.Is(err, fault.NotFound) {
		t.Errorf("bundle: %v, want not found", err)
	}
	if _, _, err := s.Evidence(t.Context(), "sha1:12"); !errors.Is(err, fault.Invalid) {
		t.Errorf("evidence: %v, want invalid", err)
	}
}

// Evidence gives the newest bundles up to its caps, and says when there are
// more.
func TestEvidence(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db, func(o *evidence.Options) { o.Limits.MaxEvidence = 8 })
		ask := func(want []string, wantMore bool) []evidence.Item {
			t.Helper()
			items, more, err := s.Evidence(t.Context(), digest("app"))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, i := range items {
				got = append(got, i.ID)
				if evidence.ID(i.Bundle) != i.ID || i.Source != "evidence" || i.Repository != "team/app" || i.Payload != nil || i.Legacy || i.IngestedAt.IsZero() {
					t.Errorf("item %+v", i)
				}
			}
			if d := cmp.Diff(want, got); d != "" || more != wantMore {
				t.Errorf("truncated %v, want %v (-want +got):\n%s", more, wantMore, d)
			}
			return items
		}
		ask(nil, false)
		var newest []string
		for i := range 10 {
			s.ingest(t, s.attest(t, "other", attestation.PredicateSPDX), "team/app")
			r, _ := s.ingest(t, s.attest(t, "app", attestation.PredicateSPDX), "team/app")
			newest = append([]string{r[0].ID}, newest...)
			if i < 8 {
				ask(newest, false)
			} else {
				ask(newest[:8], true)
			}
		}
		few := openIn(t, db, s.world, s.blobDir+"2", func(o *evidence.Options) { o.Limits.EvidenceBytes = 15_000 })
		items, more, err := few.Evidence(t.Context(), digest("app"))
		if err != nil || !more || len(items) < 1 || len(items) > 4 {
			t.Errorf("%d items of some 5 KB within 15,000 bytes, truncated %v, %v", len(items), more, err)
		}
	})
}

// A list by subject among many must not read the whole table.
func TestListIsKeyed(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	s := open(t, db)
	r, _ := s.ingest(t, s.attest(t, "app", attestation.PredicateSPDX), "team/app")
	const rows = 20_000
	s.exec(t, `INSERT INTO evidence_bundle (id, scheme, predicate_type, issuer, identity, key, root, trusted_time, time_source, log_id, log_index, legacy, size, trust_epoch, ingested_at, repository, source, content)
		WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
		SELECT 'att_' || i, 'dsse', 'type', 'issuer', 'who ' || (i % 100), '', '', 0, '', '', 0, 0, 0, 0, i, '', '', ? FROM n`, rows, []byte("x"))
	s.exec(t, `INSERT INTO evidence_subject (subject, ingested_at, id) SELECT 'sha256:' || ingested_at, ingested_at, id FROM evidence_bundle WHERE predicate_type = 'type'`)
	s.exec(t, `INSERT INTO evidence_origin (repository, ingested_at, id, actor, added_at) SELECT 'r/' || (ingested_at % 100), ingested_at, id, '', 0 FROM evidence_bundle WHERE predicate_type = 'type'`)
	for name, f := range map[string]evidence.Filter{
		"subject":    {Subject: r[0].Subject},
		"repository": {Repository: "team/app"},
		"identity":   {Identity: testSubject},
		"type":       {PredicateType: attestation.PredicateSPDX},
	} {
		best := time.Hour
		for range 20 {
			start := time.Now()
			got, err := s.List(t.Context(), f)
			if err != nil || len(got) != 1 || got[0].ID != r[0].ID {
				t.Fatalf("%s: %d records, %v", name, len(got), err)
			}
			best = min(best, time.Since(start))
		}
		if best > 5*time.Millisecond {
			t.Errorf("by %s: %v among %d bundles, want under 5 ms: an index is not used", name, best, rows)
		}
	}
}
