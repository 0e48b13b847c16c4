package main

import (
	"slices"

	"assay/client"
	"assay/sbom"
)

// enterPaths says of each finding how the document reaches its component, from
// what its root needs itself.
func enterPaths(d *sbom.Document, got *client.Findings) {
	if len(got.Items) == 0 {
		return
	}
	refs, keys := map[string]string{}, map[string]string{} // by key, by ref
	for i := range d.Components {
		c := &d.Components[i]
		key := c.PURL.Component().String()
		if key == "" {
			key = "name:" + c.FullName() + "@" + c.Version
		}
		keys[c.Ref] = key
		if _, twice := refs[key]; !twice {
			refs[key] = c.Ref
		}
	}
	path := d.Paths()
	for i := range got.Items {
		f := &got.Items[i]
		way := path(refs[f.Component])
		if len(way) < 2 || len(way) > 65 || !slices.Contains(d.Roots, way[0]) {
			continue
		}
		f.Path = nil
		for _, ref := range way[1:] {
			f.Path = append(f.Path, keys[ref])
		}
	}
}
