package sbom_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/internal/fault"
	"assay/internal/vectors"
	"assay/sbom"
)

// refused are the documents of the corpus that are no SBOM, or a broken one, with
// a word of the reason.
var refused = map[string]string{
	"invalid-cyclonedx.json":            "bomFormat",
	"invalid-cyclonedx.xml":             "empty",
	"invalid-spdx.json":                 "spdxVersion",
	"invalid-spdx-identifier-spdx.json": "SPDXID",
	"invalid-scorecard.json":            "no SBOM",
	"kubernetes-scorecard.json":         "no SBOM",
	"ingest_predicates.json":            "no SBOM",
	"eol-all.json":                      "neither JSON",
	"eol-sapmachine.json":               "neither JSON",
	"open-vex-affected.json":            "no SBOM",
	"open-vex-not-affected.json":        "no SBOM",
	"rhsa-csaf.json":                    "no SBOM",
	"oci-dsse-att.json":                 "no SBOM",
	"crev-review.json":                  "no SBOM",
	"github-review.json":                "no SBOM",
}

func TestCorpus(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(filepath.Dir(vectors.Dir(t, "purl")), "..", "sboms", "*"))
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, file := range files {
		name := filepath.Base(file)
		if ext := filepath.Ext(name); ext != ".json" && ext != ".xml" {
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d, err := sbom.Parse(b)
		word, bad := refused[name]
		bad = bad || strings.HasPrefix(name, "cd-") || strings.HasPrefix(name, "certify-") || strings.HasSuffix(name, "in-toto.json")
		if bad {
			if err == nil || !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), word) {
				t.Errorf("%s: got %v, want a refusal with %q", name, err, word)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		read++
		t.Logf("%s: %s %s %d components %d deps roots=%d problems=%q vulns=%d", name, d.Format, d.SpecVersion, len(d.Components), len(d.Dependencies), len(d.Roots), d.Problems, d.Vulnerabilities)
	}
	if read < 30 {
		t.Fatalf("only %d documents were read", read)
	}
}
