package main

import (
	"archive/zip"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"
)

// makeZip is "mkzip ZIP FILE …": the files by their base names.
func makeZip(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: mkzip ZIP FILE …")
	}
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[0])), 0o700))
	out, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer out.Close()
	z := zip.NewWriter(out)
	for _, f := range args[1:] {
		w, err := z.Create(filepath.Base(f))
		ts.Check(err)
		_, err = w.Write([]byte(ts.ReadFile(f)))
		ts.Check(err)
	}
	ts.Check(z.Close())
}
