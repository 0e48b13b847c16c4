package suite

import (
	"path"
	"strings"

	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/policy"
)

// surroundings finds what modules read beside the facts, as bundles have it:
// libraries are modules of other packages, a/b/data.json stands at data.a.b.
func (s *sorted) surroundings() error {
	root := map[string]any{}
	for name, b := range s.text {
		switch {
		case strings.HasSuffix(name, "_test.rego"):
		case strings.HasSuffix(name, ".rego"):
			m := policy.Module{Name: name, Text: string(b)}
			if pkg, err := policy.PackageOf(m); err == nil && pkg != "assay.policy" { // what does not parse is told of in its turn
				s.libraries = append(s.libraries, m)
			}
		case path.Base(name) == "data.json":
			var v map[string]any
			if err := strictjson.Unmarshal(b, &v); err != nil {
				return fault.Newf(fault.Invalid, "%s: want one JSON object: %w", name, err)
			}
			for k, one := range v {
				root[k] = one
			}
		}
	}
	s.data = map[string]policy.Value{}
	for k, v := range root {
		s.data[k] = policy.Value{JSON: v}
	}
	return nil
}

// tested compiles a module as it would be in force: with the policy of its name
// beside it, its libraries and its data.
func (s *sorted) tested(name string, m policy.Module) error {
	d := &policy.Document{APIVersion: policy.APIVersion, Kind: policy.KindPolicy, Metadata: policy.Metadata{Name: "tested"}}
	for _, ext := range []string{".yaml", ".yml"} {
		if b, ok := s.text[strings.TrimSuffix(name, ".rego")+ext]; ok {
			if beside, err := policy.ParseDocument(b); err == nil && beside.Kind == policy.KindPolicy {
				d.Spec.Requirements = beside.Spec.Requirements
			}
		}
	}
	d.Spec.Rego = append(policy.Modules{m}, s.libraries...)
	d.Spec.Data = s.data
	_, err := policy.Compile(d)
	return err
}
