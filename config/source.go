package config

import (
	"assay/internal/fault"
	"assay/source/forge"
)

// KindSource is a document that names a repository at a forge, whose pushes and
// reviews are recorded: forge.Spec.
const KindSource = "Source"

// sources compiles the repositories among documents, in their order.
func sources(docs []Document) (out []*forge.Source, err error) {
	seen := map[string]string{}
	for _, d := range docs {
		if d.Source == nil {
			continue
		}
		s, err := forge.Compile(d.Name, *d.Source)
		if err != nil {
			return nil, err
		}
		at := s.URL + " " + s.Branch
		if other := seen[at]; other != "" {
			return nil, fault.Newf(fault.Conflict, "sources %s and %s are the same branch of %s: make them one", other, d.Name, s.URL)
		}
		seen[at] = d.Name
		out = append(out, s)
	}
	return out, nil
}
