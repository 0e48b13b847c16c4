package evidence_test

import (
	"slices"
	"strings"
	"testing"

	"assay/artifact"
	"assay/evidence"
	"assay/store"
	"assay/store/storetest"
	"assay/trust/trusttest"
)

// TestBuiltFrom: by the evidence about a commit one finds what was built from
// it, be the provenance new or from before there was such an index.
func TestBuiltFrom(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		commit := strings.Repeat("c", 40)
		from := func(alg, id string, subjects ...string) []byte {
			text := strings.Replace(string(provenanceOf(subjects...)), `"resolvedDependencies":[]`, `"resolvedDependencies":[{"uri":"git+https://git.example/a@main","digest":{"`+alg+`":"`+id+`"}}]`, 1)
			return s.world.Draft(t, trusttest.Request{Statement: []byte(text), Leaf: leaf()}).JSON(t)
		}
		about := func(id string) string {
			text := `{"_type":"https://in-toto.io/Statement/v1","subject":[{"uri":"git+https://git.example/a","digest":{"gitCommit":"` + id + `"}}],"predicateType":"https://example.com/a","predicate":{}}`
			raw := s.world.Draft(t, trusttest.Request{Statement: []byte(text), Leaf: leaf()}).JSON(t)
			s.ingest(t, raw, "")
			return evidence.ID(raw)
		}
		id, other := about(commit), about(strings.Repeat("d", 40))
		s.ingest(t, from("gitCommit", commit, "one", "two"), "")
		s.ingest(t, from("sha1", commit, "two", "three"), "")
		s.ingest(t, from("gitCommit", strings.Repeat("e", 40), "four"), "")
		built := func(id string) (out []artifact.Digest) {
			err := db.View(t.Context(), func(tx *store.Tx) error {
				rows, err := tx.Query(t.Context(), evidence.BuiltFrom, id)
				if err != nil {
					return err
				}
				defer rows.Close()
				for rows.Next() {
					var d artifact.Digest
					if err := rows.Scan(&d); err != nil {
						return err
					}
					out = append(out, d)
				}
				return rows.Err()
			})
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(out)
			return out
		}
		want := []artifact.Digest{digest("one"), digest("two"), digest("three")}
		slices.Sort(want)
		for _, when := range []string{"ingested", "backfilled"} {
			if got := built(id); !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", when, got, want)
			}
			if got := built(other); len(got) != 0 {
				t.Errorf("%s: %v of a commit that nothing was built from", when, got)
			}
			// As the migration leaves a database from before.
			s.exec(t, `DELETE FROM evidence_built`)
			s.exec(t, `UPDATE evidence_bundle SET built = NULL`)
			if n, err := s.Backfill(t.Context(), 100); err != nil || n != 3 {
				t.Fatalf("backfilled %d, %v", n, err)
			}
		}
	})
}
