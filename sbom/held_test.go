package sbom_test

import (
	"fmt"
	"strings"
	"testing"

	"assay/artifact"
	"assay/evidence"
	"assay/sbom"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
)

// A component stands under all that a document says of it, however often it names
// it.
func TestHeldTwiceNamed(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		index(t, s, 1, `{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[
			{"type":"library","bom-ref":"a","name":"a","version":"1","purl":"pkg:npm/a@1","licenses":[{"expression":"MIT"}]},
			{"type":"library","bom-ref":"b","name":"a","version":"1","purl":"pkg:npm/a@1","licenses":[{"expression":"GPL-3.0-only OR X11"}]},
			{"type":"library","bom-ref":"c","name":"a","version":"1","purl":"pkg:npm/a@1"}]}`)
		var got []string
		if err := s.EachHeld(t.Context(), subject(1), sbom.HeldAsk{First: true}, func(c *sbom.HeldComponent) error {
			for _, l := range c.Licenses {
				parts, known := sbom.LicenseParts(l.Value)
				got = append(got, fmt.Sprint(c.Key, parts, known, c.First.IsZero()))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]string{"pkg:npm/a@1[MIT GPL-3.0-only OR X11] [true true] false"}, got); d != "" {
			t.Error(d)
		}
	})
}

func TestLicenseParts(t *testing.T) {
	for text, want := range map[string]string{
		"MIT": "MIT true", "MIT AND GPL-3.0-only": "MIT true|GPL-3.0-only true", "(MIT AND X11) AND (ISC OR MIT)": "MIT true|X11 true|ISC OR MIT true",
		"MIT AND ISC OR X11": "MIT AND ISC OR X11 true", "LicenseRef-a AND MIT": "LicenseRef-a false|MIT true", "some words": "some words false",
		"MIT AND some words": "MIT AND some words false", "MIT AND": "MIT AND false",
	} {
		parts, known := sbom.LicenseParts(text)
		var got []string
		for i := range parts {
			got = append(got, fmt.Sprint(parts[i], " ", known[i]))
		}
		if strings.Join(got, "|") != want {
			t.Errorf("%q: %q, want %s", text, got, want)
		}
	}
}

// Evidence about what an artifact holds is found by digest, of the types asked for.
func TestEvidenceOfComponents(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		if err := db.Migrate(t.Context(), evidence.Migrations); err != nil {
			t.Fatal(err)
		}
		index(t, s, 1, fmt.Sprintf(small, strings.Repeat("a", 64)))
		held, other := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
		if err := db.Update(t.Context(), func(tx *store.Tx) error {
			for i, row := range [][3]string{{"att_1", held, "https://openvex.dev/ns"}, {"att_2", held, "https://example.org/other"}, {"att_3", other, "https://openvex.dev/ns"}} {
				if _, err := tx.Exec(t.Context(), `INSERT INTO evidence_bundle (id, scheme, predicate_type, issuer, identity, key, root, trusted_time, time_source, log_id, log_index, legacy, size, trust_epoch, ingested_at, repository, source)
					VALUES (?, 'dsse', ?, '', '', '', '', 0, '', '', -1, 0, 1, 0, ?, '', '')`, row[0], row[2], i); err != nil {
					return err
				}
				if _, err := tx.Exec(t.Context(), `INSERT INTO evidence_subject (subject, ingested_at, id) VALUES (?, ?, ?)`, row[1], i, row[0]); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		got, err := s.EvidenceOfComponents(t.Context(), subject(1), []string{"https://openvex.dev/ns", "https://openvex.dev/ns/v0.2.0"}, 32)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]sbom.ComponentEvidence{{Attestation: "att_1", Digest: artifact.Digest(held)}}, got); d != "" {
			t.Error(d)
		}
	})
}
