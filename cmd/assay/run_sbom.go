package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"assay/attestation"
	"assay/internal/fault"
	"assay/sbom"
	"assay/sbom/scan"
)

// describeProducts makes a bill of materials of each product. A file that cannot
// be read as anything has none, which is said; that is no failure of the build.
func (w *wrapped) describeProducts(ctx context.Context) error {
	for i, p := range w.run.Products {
		path := filepath.FromSlash(p.Name)
		if !filepath.IsAbs(path) {
			path = filepath.Join(w.f.build.Dir, path)
		}
		d, err := scan.Path(ctx, path, scan.Options{Tool: "assay " + version(), Now: w.run.FinishedOn, NoDocuments: true})
		if errors.Is(err, fault.Invalid) {
			w.app.notef("assay: no bill of materials of %s: %s\n", line(p.Name), clean(err.Error()))
			continue
		}
		if err != nil {
			return fmt.Errorf("bill of materials of %s: %w", p.Name, err)
		}
		d.Name = p.Name
		var doc bytes.Buffer
		if err := sbom.Write(&doc, d, sbom.CycloneDXJSON, ""); err != nil {
			return fmt.Errorf("bill of materials of %s: %w", p.Name, err)
		}
		subjects := []subject{{Name: p.Name, Digest: p.Digest.Set()}}
		if len(w.run.Products) == 1 { // what was pushed holds this file and no other that runs
			for _, t := range w.images {
				subjects = append(subjects, subject{Name: t.name(), Digest: t.digest.Set()})
			}
		}
		name := "sbom"
		if i > 0 {
			name = fmt.Sprintf("sbom-%d", i+1)
		}
		w.statements = append(w.statements, statement{predicateType: attestation.PredicateCycloneDX, subjects: subjects, predicate: doc.Bytes(), name: name})
	}
	return nil
}
