package sbom

import "sort"

// Change is one package that two documents differ in.
type Change struct {
	Package string   // package URL without version, or the full name where there is none
	Before  []string // versions; empty when it was added
	After   []string // versions; empty when it was removed
}

// Difference is what changed from one document to another.
type Difference struct {
	Added, Removed, Changed []Change
	// Licenses are packages of one version whose licences differ: Before and
	// After are licences then.
	Licenses []Change
	Same     int // packages of which nothing changed
}

// Diff compares the packages of two documents, by package URL where there is
// one and by name where not; refs and the order do not matter.
func Diff(before, after *Document) Difference {
	a, b := versions(before), versions(after)
	var out Difference
	for _, pkg := range sortedKeys(a) {
		was, is := a[pkg], b[pkg]
		switch {
		case is == nil:
			out.Removed = append(out.Removed, Change{Package: pkg, Before: sortedKeys(was)})
			continue
		case !sameKeys(was, is):
			out.Changed = append(out.Changed, Change{Package: pkg, Before: sortedKeys(was), After: sortedKeys(is)})
			continue
		}
		same := true
		for _, v := range sortedKeys(was) {
			if !sameKeys(was[v], is[v]) {
				same = false
				out.Licenses = append(out.Licenses, Change{Package: pkg + "@" + v, Before: sortedKeys(was[v]), After: sortedKeys(is[v])})
			}
		}
		if same {
			out.Same++
		}
	}
	for _, pkg := range sortedKeys(b) {
		if a[pkg] == nil {
			out.Added = append(out.Added, Change{Package: pkg, After: sortedKeys(b[pkg])})
		}
	}
	return out
}

// Empty says that nothing changed.
func (d Difference) Empty() bool {
	return len(d.Added)+len(d.Removed)+len(d.Changed)+len(d.Licenses) == 0
}

// versions gives, for each package, its versions with their licences.
func versions(d *Document) map[string]map[string]map[string]bool {
	out := map[string]map[string]map[string]bool{}
	for _, c := range d.Packages() {
		key := c.PURL.Package().String()
		if key == "" {
			key = c.FullName()
		}
		if out[key] == nil {
			out[key] = map[string]map[string]bool{}
		}
		if out[key][c.Version] == nil {
			out[key][c.Version] = map[string]bool{}
		}
		all := append(append([]string{}, c.Licenses...), c.Concluded...)
		sort.Strings(all)
		for _, l := range all {
			out[key][c.Version][l] = true
		}
	}
	return out
}

func sameKeys[V any](a, b map[string]V) bool {
	if len(a) != len(b) {
		return false
	}
	for k := range a {
		if _, ok := b[k]; !ok {
			return false
		}
	}
	return true
}
