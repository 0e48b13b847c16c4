package finding_test

import (
	"testing"

	"assay/artifact"
	"assay/sbom"
	"assay/store"
	"assay/store/storetest"
)

// TestByAdvisory: who asks where a flaw is hears what the artifacts are called.
func TestByAdvisory(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		s.document(1, "pkg:npm/left-pad@1.0.0")
		for range 2 { // the later one takes the place of the first
			_, ix, err := s.boms.Upload(t.Context(), sbom.Upload{Project: "team/app", Version: "1.0", Uploader: "robot", Document: []byte(
				`{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"metadata":{"component":{"bom-ref":"root","type":"application","name":"whatever"}},
				"components":[{"type":"library","bom-ref":"a","name":"left-pad","version":"1.0.0","purl":"pkg:npm/left-pad@1.0.0"}]}`)})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.m.Scan(t.Context(), ix.ID); err != nil {
				t.Fatal(err)
			}
		}
		s.bring("osv", "npm", advisory("GHSA-1", "npm", "left-pad", "1.1.0", `"aliases": ["CVE-2024-1"],`))
		got, err := s.m.ByAdvisory(t.Context(), "CVE-2024-1", 10)
		if err != nil {
			t.Fatal(err)
		}
		names := map[artifact.Digest]string{}
		for _, a := range got {
			names[a.Subject] = a.Name
		}
		if len(got) != 2 || names[sbom.ProjectSubject("team/app", "1.0")] != "team/app 1.0" || names[subject(1)] == "" {
			t.Errorf("%+v", got)
		}
		if one, err := s.m.ByAdvisory(t.Context(), "GHSA-1", 1); err != nil || len(one) != 1 || one[0].Advisory != "GHSA-1" {
			t.Errorf("%+v, %v", one, err)
		}
	})
}
