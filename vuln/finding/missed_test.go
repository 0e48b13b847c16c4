package finding_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"assay/event"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
)

func (s *site) missed() (lines []string) {
	s.t.Helper()
	all, totals, err := s.m.MissedSince(s.t.Context(), time.Unix(0, 0), "", 100)
	if err != nil {
		s.t.Fatal(err)
	}
	n := int64(0)
	for _, x := range all {
		lines = append(lines, fmt.Sprintf("%s %s %s/%s %s received=%t artifacts=%d", x.Advisory, x.Component, x.Feed, x.Ecosystem, x.Cause, !x.Received.IsZero(), x.Artifacts))
	}
	for _, k := range totals {
		n += k
	}
	if int(n) != len(all) {
		s.t.Errorf("%d rows, and in all %v", len(all), totals)
	}
	slices.Sort(lines)
	return lines
}

// TestMissed: a scan that came out clean though the advisory was there is counted
// when it turns out; what nobody could have known is not.
func TestMissed(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		// Without a feed nothing came out clean: the first one shows no miss, though all
		// of it was published long ago.
		s.document(1, "pkg:npm/left-pad@1.5.0", "pkg:npm/other@1.0.0")
		old := `"published": "2020-01-01T00:00:00Z",`
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "1.1.0", old+`"aliases": ["CVE-2024-1"],`), advisory("GHSA-2", "npm", "other", "2.0.0", old))
		if got := s.missed(); got != nil {
			t.Errorf("the first import: %q", got)
		}
		s.document(2, "pkg:npm/left-pad@1.5.0")
		s.document(3, "pkg:npm/left-pad@0.5.0", "pkg:npm/late@1.0.0")
		// The record is corrected: 1.5.0 was affected all the time. What it said of
		// 0.5.0 is no news.
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "1.6.0", old+`"aliases": ["CVE-2024-1"],`), advisory("GHSA-2", "npm", "other", "2.0.0", old))
		want := []string{"GHSA-1 pkg:npm/left-pad@1.5.0 osv/npm record received=true artifacts=2"}
		if diff := cmp.Diff(want, s.missed()); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"1", "2"}, s.told(event.VulnMissed)); diff != "" {
			t.Error(diff)
		}
		// Another feed says the same of the same flaw: it was told already.
		s.bring("other", "", advisory("PYSEC-9", "npm", "left-pad", "1.6.0", old+`"aliases": ["CVE-2024-1"],`))
		s.bring("other", "", advisory("PYSEC-9", "npm", "left-pad", "1.7.0", old+`"aliases": ["CVE-2024-1"],`))
		// A record comes that says it was published before the scan; one that says
		// nothing, and one that says the year 1, are believed nothing.
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "1.6.0", old+`"aliases": ["CVE-2024-1"],`), advisory("GHSA-2", "npm", "other", "2.0.0", old),
			advisory("GHSA-3", "npm", "late", "2.0.0", old), advisory("GHSA-4", "npm", "late", "2.0.0", ""), advisory("GHSA-5", "npm", "late", "2.0.0", `"published": "0001-01-01T00:00:00Z",`))
		want = append(want, "GHSA-3 pkg:npm/late@1.0.0 osv/npm feed received=false artifacts=1")
		if diff := cmp.Diff(want, s.missed()); diff != "" {
			t.Error(diff)
		}
		// A new document is told at once, which misses nothing.
		s.document(4, "pkg:npm/late@1.0.1")
		if diff := cmp.Diff(want, s.missed()); diff != "" {
			t.Error(diff)
		}
		if _, _, err := s.m.MissedSince(t.Context(), time.Unix(0, 0), "other", 10); err == nil {
			t.Error("a cause that is none")
		}
	})
}

// TestMissedByTheMatcher: what today's matcher reads out of the record that was in
// force at the scan is the matcher's miss, not the feed's.
func TestMissedByTheMatcher(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "2.0.0", ""))
		s.document(1, "pkg:npm/left-pad@1.5.0")
		// As an older matcher would have left it, that did not see it.
		if err := db.Update(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `DELETE FROM finding_match`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "2.1.0", ""))
		if diff := cmp.Diff([]string{"GHSA-1 pkg:npm/left-pad@1.5.0 osv/npm matcher received=true artifacts=1"}, s.missed()); diff != "" {
			t.Error(diff)
		}
	})
}

// TestCosts: what was spent stands by tier, and of what was looked up anew alone.
func TestCosts(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "2.0.0", ""), advisory("GHSA-2", "npm", "left-pad", "1.0.0", ""))
		s.document(1, "pkg:npm/left-pad@1.5.0", "pkg:npm/other@1")
		s.document(2, "pkg:npm/left-pad@1.5.0")
		got, err := s.m.Costs(context.Background(), time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Tiers) != 1 || got.Tiers[0].Tier != 1 || got.Tiers[0].Scans != 2 || got.Tiers[0].Components != 3 || got.Tiers[0].Fresh != 2 || got.Tiers[0].Advisories != 2 || got.Tiers[0].Wall <= 0 || got.Tiers[0].CPU <= 0 {
			t.Errorf("%+v", got.Tiers)
		}
		if got.Feeds.Operations != 1 || got.Feeds.Advisories != 2 || len(got.Pending) != 4 {
			t.Errorf("%+v", got)
		}
		all, err := s.m.Scans(t.Context(), time.Unix(0, 0), subject(2), 10)
		if err != nil || len(all) != 1 || all[0].Fresh != 0 || all[0].Advisories != 0 || all[0].Components != 1 {
			t.Errorf("%+v %v", all, err)
		}
	})
}
