package artifact

import (
	"slices"
	"strings"
	"unicode/utf8"

	"assay/internal/fault"

	packageurl "github.com/package-url/packageurl-go"
)

// MaxPURL is the longest package URL that is read, in bytes.
const MaxPURL = 4 << 10

// PURL names a software package (ECMA-427). It is normalised by the rules of its
// type when it is made, so that equal packages have equal text.
type PURL struct {
	Type      string // "npm", "golang", "deb", …
	Namespace string // "" where the type has none
	Name      string
	Version   string // "" when any
	Subpath   string
	// Qualifiers are sorted by key; each key stands once.
	Qualifiers []Qualifier
}

// Qualifier is one key and value behind a package URL's "?".
type Qualifier struct{ Key, Value string }

// ParsePURL reads and normalises a package URL. One that is too long, lacks a
// part that its type demands, or is no package URL at all is fault.Invalid.
func ParsePURL(s string) (PURL, error) {
	if len(s) > MaxPURL || !utf8.ValidString(s) {
		return PURL{}, fault.Newf(fault.Invalid, "package URL of %d bytes: want UTF-8 of at most %d", len(s), MaxPURL)
	}
	p, err := packageurl.FromString(s)
	if err == nil {
		err = p.Normalize()
	}
	if err != nil {
		return PURL{}, fault.Newf(fault.Invalid, "package URL %.200q: %w; want pkg:TYPE/[NAMESPACE/]NAME[@VERSION][?QUALIFIERS][#SUBPATH]", s, err)
	}
	return fromLibrary(p), nil
}

// NewPURL makes a package URL from parts, normalised as [ParsePURL] does.
func NewPURL(typ, namespace, name, version string, qualifiers map[string]string, subpath string) (PURL, error) {
	p := packageurl.NewPackageURL(typ, namespace, name, version, packageurl.QualifiersFromMap(qualifiers), subpath)
	if err := p.Normalize(); err != nil {
		return PURL{}, fault.Newf(fault.Invalid, "package URL of type %.40q and name %.200q: %w", typ, name, err)
	}
	return fromLibrary(*p), nil
}

func fromLibrary(p packageurl.PackageURL) PURL {
	out := PURL{Type: p.Type, Namespace: p.Namespace, Name: p.Name, Version: p.Version, Subpath: p.Subpath}
	if p.Type == "git" {
		// The repository's whole path is its name, the host is its namespace, and
		// the type's definition folds the case of both.
		whole := strings.ToLower(strings.Trim(p.Namespace+"/"+p.Name, "/"))
		out.Namespace, out.Name, _ = strings.Cut(whole, "/")
		if out.Name == "" {
			out.Namespace, out.Name = "", whole
		}
	}
	for _, q := range p.Qualifiers {
		out.Qualifiers = append(out.Qualifiers, Qualifier{q.Key, q.Value})
	}
	slices.SortFunc(out.Qualifiers, func(a, b Qualifier) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// String is the canonical text; "" of the zero PURL.
func (p PURL) String() string {
	if p.Type == "" {
		return ""
	}
	q := make(packageurl.Qualifiers, len(p.Qualifiers))
	for i, one := range p.Qualifiers {
		q[i] = packageurl.Qualifier{Key: one.Key, Value: one.Value}
	}
	namespace, name := p.Namespace, p.Name
	if p.Type == "git" {
		// Slashes in the name of a repository stand for themselves.
		whole := strings.Trim(namespace+"/"+name, "/")
		cut := strings.LastIndexByte(whole, '/')
		namespace, name = whole[:max(cut, 0)], whole[cut+1:]
	}
	return packageurl.PackageURL{Type: p.Type, Namespace: namespace, Name: name, Version: p.Version, Qualifiers: q, Subpath: p.Subpath}.String()
}

// Package is the package whatever its version, build and files:
// "pkg:TYPE/NAMESPACE/NAME".
func (p PURL) Package() PURL {
	return PURL{Type: p.Type, Namespace: p.Namespace, Name: p.Name}
}

// Component leaves out what says where a package was fetched from rather than
// what it is: one component has one of these, however it was found.
func (p PURL) Component() PURL {
	p.Qualifiers = slices.DeleteFunc(slices.Clone(p.Qualifiers), func(q Qualifier) bool {
		switch q.Key {
		case "vcs_url", "download_url", "repository_url", "checksum", "file_name", "package-id":
			return true
		}
		return false
	})
	if len(p.Qualifiers) == 0 {
		p.Qualifiers = nil
	}
	return p
}

// Qualifier is the value of a key; "" when there is none.
func (p PURL) Qualifier(key string) string {
	for _, q := range p.Qualifiers {
		if q.Key == key {
			return q.Value
		}
	}
	return ""
}
