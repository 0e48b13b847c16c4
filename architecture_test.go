// Package assay holds the house to its plan: no code, only this test.
package assay

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// floors lists the packages from the top of the house to the ground. An import
// goes down, never up and never sideways into itself. ARCHITECTURE.md says what
// each floor is for; a new arrow changes both, in a commit of its own.
var floors = []string{
	"e2e", "bench", "examples",
	"cmd",
	"server",
	"ui",
	"api",
	"backup",
	"transfer",
	"registry",
	"gate",
	"admission",
	"config",
	"alert",
	"slo",
	"assess",
	"report",
	"readiness",
	"policy/bundle",
	"policy/convert",
	"profile",
	"policy/exception",
	"action",
	"verify",
	"builder",
	"vuln",
	"sbom/scan",
	"sbom",
	"inventory/agent",
	"inventory/threat",
	"inventory",
	"source",
	"evidence",
	"authority",
	"audit",
	"trust",
	"tlog",
	"identity",
	"webhook",
	"siem",
	"event",
	"policy",
	"client",
	"attestation",
	"blob",
	"store",
	"artifactid",
	"internal/oci",
	"telemetry",
	"artifact",
	"internal",
	"docs",
}

// floorOf finds the floor of a package path below the module, with the longest
// match first, so that internal/oci is not internal.
func floorOf(pkg string) int {
	best, length := -1, -1
	for i, f := range floors {
		if (pkg == f || strings.HasPrefix(pkg, f+"/")) && len(f) > length {
			best, length = i, len(f)
		}
	}
	return best
}

func TestImportsGoDown(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (path == "tools" || path == "bin" || strings.HasPrefix(d.Name(), ".") && path != ".") {
			return filepath.SkipDir
		}
		if d.IsDir() && path != "." {
			// A module of its own is another house.
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
				return filepath.SkipDir
			}
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || path == "architecture_test.go" {
			return nil
		}
		// Tests may reach for the test halves of higher floors.
		if strings.HasSuffix(path, "_test.go") {
			return nil
		}
		pkg := filepath.ToSlash(filepath.Dir(path))
		from := floorOf(pkg)
		if from < 0 {
			t.Errorf("%s: package %s has no floor: add it to floors and to ARCHITECTURE.md", path, pkg)
			return nil
		}
		seen++
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			below, ours := strings.CutPrefix(imported, "assay/")
			if !ours {
				continue
			}
			to := floorOf(below)
			// Within one floor a package may use its own parts.
			if to < from || to == from && strings.SplitN(below, "/", 2)[0] != strings.SplitN(pkg, "/", 2)[0] {
				t.Errorf("%s: %s imports %s, which is not below it", path, pkg, below)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 20 {
		t.Fatalf("only %d files were looked at", seen)
	}
}
