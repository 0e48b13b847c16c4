package policy

import (
	"fmt"
	"slices"
	"strings"

	"assay/internal/fault"
	"assay/internal/strictjson"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

// maxData bounds what the modules of a policy read beside the facts, in bytes of
// canonical JSON.
const maxData = 1 << 20

// surroundings are what the modules of one policy see beside the facts: its
// libraries, which are modules of packages other than assay.policy, and its data.
type surroundings struct {
	libraries []Module
	packages  []ast.Ref
	data      map[string]any
}

func newSurroundings(modules []Module, data map[string]Value) (*surroundings, error) {
	s := &surroundings{data: map[string]any{}}
	for _, m := range modules {
		mod, err := parseModule(m)
		if err != nil {
			return nil, fmt.Errorf("module %s: %w", m.Name, err)
		}
		path := mod.Package.Path
		if path.String() == regoPackage {
			continue
		}
		if name := first(path); name == "assay" || name == "system" {
			return nil, fault.Newf(fault.Invalid, "module %s: package %s, want package assay.policy, or for a library a name that does not begin with assay or system", m.Name, strings.TrimPrefix(path.String(), "data."))
		}
		s.libraries, s.packages = append(s.libraries, m), append(s.packages, path)
	}
	for name, v := range data {
		if name == "" || name == "assay" || name == "system" {
			return nil, fault.Newf(fault.Invalid, "spec.data.%.40s: assay and system are taken", name)
		}
		if slices.ContainsFunc(s.packages, func(p ast.Ref) bool { return first(p) == name }) {
			return nil, fault.Newf(fault.Invalid, "spec.data.%.40s: a library's package begins with this name", name)
		}
		s.data[name] = v.JSON
	}
	b, err := strictjson.Canonical(s.data)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "spec.data: %w", err)
	}
	if len(b) > maxData {
		return nil, fault.Newf(fault.TooLarge, "spec.data of %d bytes: at most %d", len(b), maxData)
	}
	return s, nil
}

// first is the first name of a package, behind "data".
func first(p ast.Ref) string {
	if len(p) < 2 {
		return ""
	}
	name, _ := p[1].Value.(ast.String)
	return string(name)
}

func (s *surroundings) isLibrary(name string) bool {
	return slices.ContainsFunc(s.libraries, func(m Module) bool { return m.Name == name })
}

func (s *surroundings) firstPackage() string {
	return strings.TrimPrefix(s.packages[0].String(), "data.")
}

// names says whether a module, or a library that it may call, has a word in it.
func (s *surroundings) names(m Module, word string) bool {
	return strings.Contains(m.Text, word) || slices.ContainsFunc(s.libraries, func(l Module) bool { return strings.Contains(l.Text, word) })
}

// vet holds a module, or a library, to what may be written.
func (s *surroundings) vet(mod *ast.Module) error {
	for _, check := range []func(*ast.Module) error{s.onlyKnownData, checkPatterns, checkWeight, guardCalls} {
		if err := check(mod); err != nil {
			return err
		}
	}
	return nil
}

// onlyKnownData refuses references to documents that do not exist here: they
// would be undefined in silence, and a deny rule over them would never hold.
func (s *surroundings) onlyKnownData(mod *ast.Module) (err error) {
	own := mod.Package.Path
	ast.WalkRefs(mod, func(r ast.Ref) bool {
		if err != nil || !r.HasPrefix(ast.DefaultRootRef) || r.HasPrefix(own) {
			return false
		}
		if slices.ContainsFunc(s.packages, r.HasPrefix) {
			return false
		}
		if len(r) > 1 {
			if name, is := r[1].Value.(ast.String); is {
				if _, there := s.data[string(name)]; there {
					return false
				}
			}
		}
		err = fault.Newf(fault.Invalid, "%s: there is no %s; a module sees input, its own package, the policy's libraries and its data", mod.Package.Location, clip(r.String(), 100))
		return false
	})
	return err
}

// options bring libraries and data into one evaluation. Each module has its own
// copies, since compiling changes them.
func (s *surroundings) options() (out []func(*rego.Rego), err error) {
	for _, l := range s.libraries {
		mod, err := parseModule(l)
		if err == nil {
			err = s.vet(mod)
		}
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "library %s: %w", l.Name, err)
		}
		out = append(out, rego.ParsedModule(mod))
	}
	if len(s.data) > 0 {
		out = append(out, rego.Store(inmem.NewFromObject(s.data)))
	}
	return out, nil
}
