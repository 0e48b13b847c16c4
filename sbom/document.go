package sbom

import (
	"slices"
	"strings"
	"time"

	"assay/artifact"
)

// Format is a family of documents, in the notation that `assay sbom -o` takes.
type Format string

// The formats.
const (
	CycloneDXJSON Format = "cyclonedx-json"
	CycloneDXXML  Format = "cyclonedx-xml"
	SPDXJSON      Format = "spdx-json"
	SPDXTagValue  Format = "spdx-tag-value"
	SPDX3JSON     Format = "spdx3-json"
)

// Header is what a document says of itself. All of it is claimed.
type Header struct {
	Format      Format
	SpecVersion string // "1.6", "2.3", "3.0.1"
	// ID is the document's own name: CycloneDX serialNumber, SPDX namespace.
	ID      string
	Version int // CycloneDX version; 0 elsewhere
	Name    string
	Created time.Time // zero when absent
	Tools   []string  // "vendor name version"
	Authors []string
	// Supplier is who gives the described software.
	Supplier string
	// Roots are the refs of what the document describes.
	Roots []string
	// Incomplete says why not all is there: a composition that says so, a binary
	// that hides its modules. Empty means that the document claims nothing.
	Incomplete []string
	// Complete is true when the document claims to hold every dependency.
	Complete bool
	// VulnerabilitiesOnly marks CycloneDX documents without components that carry
	// statements about vulnerabilities (VEX).
	Vulnerabilities int
	// Problems are parts that could not be used, at most [maxProblems].
	Problems []string
}

// missing is why a document of so many packages may not hold everything: one
// without any says nothing of what it describes, unless it claims that this is all.
func (h *Header) missing(packages int) []string {
	if packages == 0 && len(h.Incomplete) == 0 && !h.Complete {
		return []string{"it names no package, and does not say that there is none"}
	}
	return h.Incomplete
}

// Missing is why the document may not hold everything; empty when nothing says so.
func (d *Document) Missing() []string { return d.missing(len(d.Packages())) }

// Document is a whole bill of materials.
type Document struct {
	Header
	Components   []Component  // in the document's order, each ref once
	Dependencies []Dependency // who depends on what, by ref
}

// Component is one package, file, image or service of a document.
type Component struct {
	Ref     string // the document's own name for it; unique in it
	Type    string // CycloneDX type: library, application, container, operating-system, file, …
	Group   string
	Name    string
	Version string
	PURL    artifact.PURL // zero when there is none
	CPEs    []string
	Digests artifact.DigestSet
	// Licences as declared, as SPDX expressions where the document has such.
	Licenses []string
	// Concluded are the licences that the document's author found.
	Concluded []string
	Supplier  string
	Scope     string // CycloneDX scope: required, optional, excluded; "" is required
	// Source is the source package that a distribution built it from, as
	// "name version"; matching uses it for dpkg and rpm.
	SourceName, SourceVersion string
	// Parent is the ref of the component that holds this one; "" at the top.
	Parent string
	// Locations are the files that it was found in.
	Locations []string
}

// Dependency says what one component needs.
type Dependency struct {
	Ref string
	On  []string // refs, sorted, each once
}

// FullName is the name with its group, as the ecosystem writes it.
func (c *Component) FullName() string {
	switch {
	case c.Group == "":
		return c.Name
	case c.PURL.Type == "maven":
		return c.Group + ":" + c.Name
	default:
		return c.Group + "/" + c.Name
	}
}

// stands says of what a document describes whether it stands for what the document
// is about, and is no part of it. A document that describes several packages lists
// them, as some writers do with all that they found: what is published is a part then.
func (h *Header) stands(c *Component) bool { return len(h.Roots) < 2 || !c.published() }

// published says whether the package URL is of a kind that somebody publishes.
func (c *Component) published() bool {
	switch c.PURL.Type {
	case "", "generic", "oci", "docker":
		return false
	}
	return true
}

// IsPackage says whether this is software that somebody publishes, rather than a
// file, an image or a data set.
func (c *Component) IsPackage() bool {
	if c.published() {
		return true
	}
	switch c.Type {
	case "library", "framework", "application", "operating-system", "":
		return true
	}
	return false
}

// Direct gives the refs that a root depends on itself. nil when the document
// has no edges from its roots: then nobody can tell direct from transitive.
func (d *Document) Direct() map[string]bool {
	var out map[string]bool
	for _, dep := range d.Dependencies {
		if !slices.Contains(d.Roots, dep.Ref) {
			continue
		}
		for _, ref := range dep.On {
			if out == nil {
				out = map[string]bool{}
			}
			out[ref] = true
		}
	}
	return out
}

// Path is a shortest way from a root to ref, both included; nil when there is
// none.
func (d *Document) Path(ref string) []string { return d.Paths()(ref) }

// Paths is [Document.Path] for many, which goes over the document once.
func (d *Document) Paths() func(ref string) []string {
	on := make(map[string][]string, len(d.Dependencies))
	for _, dep := range d.Dependencies {
		on[dep.Ref] = append(on[dep.Ref], dep.On...)
	}
	from := map[string]string{}
	queue := slices.Clone(d.Roots)
	for _, r := range queue {
		from[r] = ""
	}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		for _, next := range on[at] {
			if _, seen := from[next]; !seen {
				from[next] = at
				queue = append(queue, next)
			}
		}
	}
	return func(ref string) (path []string) {
		if _, reached := from[ref]; !reached {
			return nil
		}
		for at := ref; at != ""; at = from[at] {
			path = append(path, at)
		}
		slices.Reverse(path)
		return path
	}
}

// Component finds a component by its ref; nil when there is none.
func (d *Document) Component(ref string) *Component {
	for i := range d.Components {
		if d.Components[i].Ref == ref {
			return &d.Components[i]
		}
	}
	return nil
}

// Packages are the components that are packages, without what the document
// describes as a whole.
func (d *Document) Packages() []Component {
	out := make([]Component, 0, len(d.Components))
	for _, c := range d.Components {
		if c.IsPackage() && !(slices.Contains(d.Roots, c.Ref) && d.stands(&c)) {
			out = append(out, c)
		}
	}
	return out
}

func trimmed(parts ...string) string {
	return strings.Join(strings.Fields(strings.Join(parts, " ")), " ")
}
