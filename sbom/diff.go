package sbom

import "slices"

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
func Diff(before, after *Document) Difference { return diff(versions(before), versions(after)) }

func diff(a, b map[string]map[string]map[string]bool) Difference {
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
		addVersion(out, &c)
	}
	return out
}

// packageName is what a package is compared by.
func packageName(c *Component) string { return or(c.PURL.Package().String(), c.FullName()) }

func addVersion(out map[string]map[string]map[string]bool, c *Component) {
	key := packageName(c)
	if out[key] == nil {
		out[key] = map[string]map[string]bool{}
	}
	if out[key][c.Version] == nil {
		out[key][c.Version] = map[string]bool{}
	}
	for _, l := range append(slices.Clone(c.Licenses), c.Concluded...) {
		out[key][c.Version][l] = true
	}
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
