package server

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestCollectorKnowsAllRoots holds the collector to the packages that keep
// content in the blob store: who writes into it needs a root in openCollector,
// or its blobs are deleted.
func TestCollectorKnowsAllRoots(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.ImportPath}} {{join .Imports \",\"}}", "assay/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	known := []string{
		"assay/backup", "assay/bench", "assay/blob/blobtest", "assay/blob/s3", // store nothing of their own
		"assay/registry/collect", "assay/registry/integrity", // read, delete, and write again what registry needs
		"assay/registry", "assay/registry/registrytest", "assay/evidence", "assay/transfer", "assay/builder/buildlog", "assay/server", // have roots
	}
	for line := range strings.Lines(string(out)) {
		pkg, imports, _ := strings.Cut(strings.TrimSpace(line), " ")
		if slices.Contains(strings.Split(imports, ","), "assay/blob") && !slices.Contains(known, pkg) {
			t.Errorf("package %s uses the blob store: give it a Needs(ctx, tx, digests, keep), add that to the roots in server/collect.go, and the package to this list", pkg)
		}
	}
}
