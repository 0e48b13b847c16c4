package sbom_test

import (
	"fmt"
	"strings"
	"testing"

	"assay/sbom"
	"assay/sbom/overlay"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
)

func overlaid(t testing.TB, s *sbom.Store, id, signer, predicate string) {
	t.Helper()
	if err := s.Overlay(t.Context(), sbom.Source{Attestation: id, Subject: subject(1), Identity: signer}, strings.NewReader(predicate)); err != nil {
		t.Fatal(err)
	}
}

func TestOverlaysAreIndexed(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		index(t, s, 1, fmt.Sprintf(small, strings.Repeat("a", 64)))
		index(t, s, 2, fmt.Sprintf(small, strings.Repeat("b", 64))) // of another artifact: nothing is added to it
		ann := `{"components":[{"purl":"pkg:npm/left-pad","owner":{"value":"team-a","source":"cmdb"},"license":{"value":"AGPL-3.0-only","source":"its file"}},
			{"purl":"pkg:deb/debian/curl@7.88","supplier":{"value":"Debian","source":"archive"}},{"purl":"pkg:deb/debian/curl@9","owner":{"value":"nobody","source":"x"}}]}`
		overlaid(t, s, "att_ann", "ann", ann)
		overlaid(t, s, "att_ann", "ann", ann) // again: nothing
		overlaid(t, s, "att_bob", "bob", `{"components":[{"purl":"pkg:npm/left-pad@1.0.0","owner":{"value":"team-b","source":"hearsay"}}]}`)
		overlaid(t, s, "att_bad", "eve", `{"components":[{"purl":"pkg:npm/left-pad","owner":{"value":"eve"}}]}`)

		owners := []overlay.Fact{
			{Component: "pkg:npm/left-pad@1.0.0", Field: "owner", Value: "team-a", Source: "cmdb", Signer: "ann", Attestation: "att_ann", Disputed: true},
			{Component: "pkg:npm/left-pad@1.0.0", Field: "owner", Value: "team-b", Source: "hearsay", Signer: "bob", Attestation: "att_bob", Disputed: true},
		}
		license := overlay.Fact{Component: "pkg:npm/left-pad@1.0.0", Field: "license", Value: "AGPL-3.0-only", Source: "its file", Signer: "ann", Attestation: "att_ann"}
		curl := overlay.Fact{Component: "pkg:deb/debian/curl@7.88?arch=amd64&distro=debian-12", Field: "supplier", Value: "Debian", Source: "archive", Signer: "ann", Attestation: "att_ann"}
		var all []overlay.Fact
		for after, pages := "", 0; ; pages++ {
			page, next, err := s.Added(t.Context(), subject(1), nil, 1, after)
			if err != nil || pages > 2 {
				t.Fatal(pages, err)
			}
			all = append(all, page...)
			if after = next; after == "" {
				break
			}
		}
		overlay.Compare(all)
		if diff := cmp.Diff(append([]overlay.Fact{curl, license}, owners...), all); diff != "" {
			t.Error(diff)
		}
		bobs, _, err := s.Added(t.Context(), subject(1), []string{"bob"}, 0, "")
		undisputed := owners[1]
		undisputed.Disputed = false
		if diff := cmp.Diff([]overlay.Fact{undisputed}, bobs); diff != "" || err != nil {
			t.Error(diff, err)
		}
		for q, want := range map[sbom.Query]int{
			{Owner: "team-a"}: 1, {Owner: "team-b"}: 1, {Owner: "nobody"}: 0, {Owner: "eve"}: 0, {Supplier: "Debian"}: 1, {Owner: "Debian"}: 0,
			{License: "AGPL-3.0-only"}: 1, {License: "MIT"}: 2, {PURL: "pkg:npm/left-pad"}: 2,
		} {
			found, _, err := s.Search(t.Context(), q)
			if err != nil || len(found) != want {
				t.Errorf("%+v: %+v, %v, want %d", q, found, err, want)
			}
			if q.Owner == "team-a" && len(found) == 1 {
				if diff := cmp.Diff(append([]overlay.Fact{license}, owners...), found[0].Added); diff != "" {
					t.Error(diff)
				}
			}
			if q.PURL != "" && len(found) == 2 && (len(found[0].Added) != 3 || len(found[1].Added) != 0) {
				t.Errorf("%+v", found)
			}
		}
		known, err := s.Overlays(t.Context(), subject(1))
		if err != nil || len(known) != 3 || !strings.Contains(known[2].Problem+known[1].Problem+known[0].Problem, "want a value and its source") {
			t.Errorf("%+v, %v", known, err)
		}
	})
}

// TestThreat_Overlay_Flood: somebody who signs without end makes no question
// about an artifact slow.
func TestThreat_Overlay_Flood(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	index(t, s, 1, fmt.Sprintf(small, strings.Repeat("a", 64)))
	for i := range sbom.MaxOverlays + 3 {
		overlaid(t, s, fmt.Sprintf("att_%03d", i), "eve", fmt.Sprintf(`{"components":[{"purl":"pkg:npm/left-pad","owner":{"value":"eve%d","source":"me"}}]}`, i))
	}
	facts, _, err := s.Added(t.Context(), subject(1), nil, 0, "")
	if err != nil || len(facts) != sbom.MaxOverlays {
		t.Errorf("%d facts, %v", len(facts), err)
	}
	known, err := s.Overlays(t.Context(), subject(1))
	if err != nil || len(known) != sbom.MaxOverlays+3 || !strings.Contains(known[len(known)-1].Problem, "at most 100") {
		t.Errorf("%d, %v", len(known), err)
	}
}
