// Package vectors finds the test data that lies beside the repository, in
// ../shared: conformance suites, hostile inputs, real SBOMs. The data is read
// only by tests and is never copied into the project.
package vectors

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// The environment variables that move the data and that make it compulsory.
const (
	envShared  = "ASSAY_SHARED"          // folder that stands for ../shared
	envRequire = "ASSAY_REQUIRE_VECTORS" // "1": absent data fails the test; continuous integration sets it
)

// Dir gives the absolute path of shared/vectors/<name>, for example
// Dir(t, "merkle-proofs") or Dir(t, "hostile/json"). Where the folder is absent
// the test is skipped with a message that names it, or fails when
// ASSAY_REQUIRE_VECTORS=1.
func Dir(t testing.TB, name string) string {
	t.Helper()
	return find(t, filepath.Join("vectors", filepath.FromSlash(name)))
}

// Shared gives the absolute path of shared/<name>, for data that is not under
// vectors ("osv", "sboms"). Absence is treated as in [Dir].
func Shared(t testing.TB, name string) string {
	t.Helper()
	return find(t, filepath.FromSlash(name))
}

// Read gives the contents of one file below shared/vectors; the folder's
// absence is treated as in [Dir], the file's absence fails the test.
func Read(t testing.TB, dir string, elem ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{Dir(t, dir)}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Within runs fn, which handles one hostile input, and fails the test when it
// takes longer than d or allocates more than limit bytes. Everything that fn
// allocates counts, freed or not, which bounds the growth of the process from
// above. A run that is only slow is repeated twice: the machine may be busy.
func Within(t testing.TB, d time.Duration, limit uint64, fn func()) {
	t.Helper()
	var took time.Duration
	for range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		fn()
		took = time.Since(start)
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > limit {
			t.Errorf("allocated %d bytes, want at most %d", grown, limit)
			return
		}
		if took <= d {
			return
		}
	}
	t.Errorf("took %v, want at most %v", took, d)
}

func find(t testing.TB, rel string) string {
	t.Helper()
	base := os.Getenv(envShared)
	if base == "" {
		root, err := moduleRoot()
		if err != nil {
			t.Fatal(err)
		}
		base = filepath.Join(filepath.Dir(root), "shared")
	}
	dir, err := filepath.Abs(filepath.Join(base, rel))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		if os.Getenv(envRequire) == "1" {
			t.Fatalf("test data %s is absent and %s=1: put it there or set %s", dir, envRequire, envShared)
		}
		t.Skipf("test data %s is absent: put it there or set %s to run this test", dir, envShared)
	}
	return dir
}

// moduleRoot walks up from the working directory, which in a test is the
// package's folder, to the folder that holds go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for start := dir; ; {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", &os.PathError{Op: "find go.mod above", Path: start, Err: os.ErrNotExist}
		}
		dir = up
	}
}
