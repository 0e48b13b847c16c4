package vex

import (
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/clock"
	"assay/store"
	"assay/store/storetest"
)

// A statement is never about more than its document named.
func TestThreat_VEX_WiderThanNamed(t *testing.T) {
	digest := strings.TrimPrefix(string(image), "sha256:")
	one := func(product string) string {
		return `{"@context": "https://openvex.dev/ns/v0.2.0", "author": "Vendor", "statements": [{"vulnerability": {"name": "CVE-2024-1"}, "status": "fixed", "products": [` + product + `]}]}`
	}
	other := Subject{Digest: artifact.SHA256Of(nil), Repository: "team/app", Host: "registry.example"}
	const oci = "pkg:oci/app?repository_url=registry.example/team/app"
	const flawed = "pkg:npm/left-pad@1.0.0"
	for name, tt := range map[string]struct {
		text      string
		component string
		about     Subject
		want      bool
		wrong     string // it is refused, with this
	}{
		"its repository":                {text: one(`{"@id": "` + oci + `"}`), about: other, want: true},
		"another registry's":            {text: one(`{"@id": "pkg:oci/app?repository_url=elsewhere.example/team/app"}`), about: other},
		"a tag":                         {text: one(`{"@id": "` + oci + `&tag=v1"}`), wrong: "want a digest"},
		"a version":                     {text: one(`{"@id": "pkg:oci/app@v1?repository_url=registry.example/team/app"}`), wrong: "want a digest"},
		"a digest, and its repository":  {text: one(`{"@id": "` + oci + `", "hashes": {"sha-256": "` + digest + `"}}`), about: other},
		"the same by package URLs":      {text: one(`{"@id": "` + oci + `", "identifiers": {"purl": "pkg:oci/app@sha256%3A` + digest + `"}}`), about: other},
		"a version, and its package":    {text: one(`{"@id": "pkg:npm/left-pad", "identifiers": {"purl": "pkg:npm/left-pad@2.0.0"}}`), about: other},
		"a subcomponent without a name": {text: one(`{"@id": "` + oci + `", "subcomponents": [{"identifiers": {"cpe23": "cpe:2.3:a:x:y:1"}}]}`), wrong: "all of the product"},
		"CSAF, an unnamed component": {
			text: strings.Replace(csafText, `"purl": "pkg:npm/left-pad@1.0.0"`, `"cpe": "cpe:/a:x"`, 1), wrong: "neither package URL nor hash",
		},
		"CSAF, a relation of a relation": {
			text:      strings.NewReplacer(`"relationships": [`, `"relationships": [{"category": "default_component_of", "product_reference": "PAD", "relates_to_product_reference": "PAD", "full_product_name": {"product_id": "IN"}},`, `"product_reference": "PAD", "relates_to_product_reference": "APP"`, `"product_reference": "IN", "relates_to_product_reference": "APP"`).Replace(csafText),
			component: "pkg:npm/right-pad@1.0.0", about: Subject{Digest: image},
		},
		"every artifact":                       {text: one(`{"@id": "**"}`), wrong: "want a package URL"},
		"a pattern":                            {text: one(`{"@id": "team/**"}`), wrong: "want a package URL"},
		"a pattern as a package URL":           {text: one(`{"@id": "https://vendor.example/app", "identifiers": {"purl": "**"}}`), wrong: "want a package URL"},
		"CSAF, a pattern as a package URL":     {text: strings.NewReplacer(`"hashes": [{"file_hashes": [{"algorithm": "sha256", "value": "2C8B08DA5CE60398E1F19AF0E5DCCC744DF274B826ABE585EABA68C525434806"}]}]`, `"purl": "**"`).Replace(csafText), wrong: "want a package URL"},
		"CycloneDX, a pattern as its own name": {text: strings.Replace(cdxText, `"hashes": [{"alg": "SHA-256", "content": "2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806"}]`, `"purl": "**"`, 1), wrong: "want a package URL"},
		"our own pattern":                      {text: one(`{"@id": "urn:assay:repository:team/**"}`), about: other, want: true},
		"CycloneDX, some versions": {
			text: strings.Replace(cdxText, `{"ref": "pad"}`, `{"ref": "pad", "versions": [{"version": "0.9", "status": "unaffected"}]}`, 1), wrong: "want one component for each version",
		},
		"CycloneDX, an unnamed component": {
			text: strings.Replace(cdxText, `"purl": "pkg:npm/left-pad@1.0.0"`, `"hashes": [{"alg": "SHA-256", "content": "`+digest+`"}]`, 1), wrong: "all of the product",
		},
		"CycloneDX, a component with its hash": {
			text: strings.Replace(cdxText, `"purl": "pkg:npm/left-pad@1.0.0"`, `"purl": "pkg:npm/left-pad@1.0.0", "hashes": [{"alg": "SHA-256", "content": "`+digest+`"}]`, 1), about: Subject{Digest: image}, want: true,
		},
	} {
		d, err := Read([]byte(tt.text))
		if tt.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("%s: %v, want %q", name, err, tt.wrong)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		component := tt.component
		if component == "" {
			component = flawed
		}
		if got := d.Statements[0].About(tt.about, Flaw{[]string{"CVE-2024-1"}, component}); got != tt.want {
			t.Errorf("%s: %v, want %v: %+v", name, got, tt.want, d.Statements[0])
		}
	}
}

// What one process withdraws counts no longer in another, whatever their clocks say.
func TestThreat_VEX_WithdrawnByASlowClock(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
			t.Fatal(err)
		}
		s := NewStore(Options{DB: db, Sign: sign, Site: "https://site.example"})
		e, err := s.State(t.Context(), Request{Source: Triage, Actor: "alice", Reason: "a test", Statements: []Statement{{Vulnerabilities: []string{"CVE-1"}, Products: []string{"**"}, Status: Fixed}}})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := s.Book(t.Context()); err != nil || b.Of(Subject{}, Flaw{Names: []string{"CVE-1"}}, db.Now()) == nil {
			t.Fatalf("it does not count: %v", err)
		}
		// As another replica does, whose clock is an hour behind.
		if err := db.Update(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE vex_document SET withdrawn = ?, withdrawn_by = 'bob', changed = ? WHERE id = ?`, store.Micros(tx.Now().Add(-time.Hour)), store.Micros(tx.Now().Add(-time.Hour)), e.ID)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if b, err := s.Book(t.Context()); err != nil || b.Of(Subject{}, Flaw{Names: []string{"CVE-1"}}, clock.System()) != nil {
			t.Errorf("what was withdrawn counts (%v)", err)
		}
	})
}
