package sbom_test

import (
	"errors"
	"strings"
	"testing"

	"assay/event"
	"assay/internal/fault"
	"assay/sbom"
	"assay/store"
	"assay/store/storetest"
)

// TestThreat_SBOM_Upload: what nobody signed is about a name, never about an
// artifact, and the next one takes its place.
func TestThreat_SBOM_Upload(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(t.Context(), event.Migrations, sbom.Migrations); err != nil {
			t.Fatal(err)
		}
		s := sbom.NewStore(db, sbom.Limits{})
		up := func(version, component string) (string, error) {
			token, _, err := s.Upload(t.Context(), sbom.Upload{Project: "team/app", Version: version, Uploader: "robot:ci", Document: []byte(
				`{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [{"type": "library", "bom-ref": "a", "name": "` + component + `", "version": "1.0.0", "purl": "pkg:npm/` + component + `@1.0.0"}]}`)})
			return token, err
		}
		tokens := map[string]bool{}
		for _, one := range [][2]string{{"1", "left-pad"}, {"1", "right-pad"}, {"1", "left-pad"}, {"2", "left-pad"}} {
			token, err := up(one[0], one[1])
			if err != nil || tokens[token] || len(token) != 36 {
				t.Fatalf("%q, %v", token, err)
			}
			tokens[token] = true
			if project, document, err := s.Uploaded(t.Context(), token); err != nil || project != "team/app" || document == 0 {
				t.Errorf("%s %d %v", project, document, err)
			}
		}
		found, _, err := s.Search(t.Context(), sbom.Query{Name: "left-pad", Subject: sbom.ProjectSubject("team/app", "1")})
		if err != nil || len(found) != 1 || !strings.Contains(found[0].Component, "left-pad") {
			t.Errorf("%+v, %v", found, err)
		}
		if gone, _, err := s.Search(t.Context(), sbom.Query{Name: "right-pad"}); err != nil || len(gone) != 0 {
			t.Errorf("what was replaced is still found: %+v, %v", gone, err)
		}
		docs, err := s.Documents(t.Context(), sbom.ProjectSubject("team/app", "1"))
		if err != nil || len(docs) != 3 || docs[0].Problem != "" || docs[1].Problem == "" || docs[2].Problem == "" || docs[0].Identity != "robot:ci" || docs[0].Issuer != "" {
			t.Errorf("%+v, %v", docs, err)
		}
		if _, _, err := s.Upload(t.Context(), sbom.Upload{Project: "team/app", Version: "1", Document: []byte("<html>")}); !errors.Is(err, fault.Invalid) {
			t.Errorf("no document: %v", err)
		}
		if found, _, err = s.Search(t.Context(), sbom.Query{Name: "left-pad", Subject: sbom.ProjectSubject("team/app", "1")}); err != nil || len(found) != 1 {
			t.Errorf("after one that cannot be read: %+v, %v", found, err)
		}
		if _, _, err := s.Upload(t.Context(), sbom.Upload{Document: []byte("{}")}); !errors.Is(err, fault.Invalid) {
			t.Errorf("no project: %v", err)
		}
		if _, _, err := s.Uploaded(t.Context(), "none"); !errors.Is(err, fault.NotFound) {
			t.Errorf("%v", err)
		}
	})
}
