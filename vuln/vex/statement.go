// Package vex reads and keeps statements about whether flaws concern an artifact
// (VEX: OpenVEX, CSAF 2.0, CycloneDX), and says which of them counts about a
// finding.
//
// A statement suppresses nothing by being there. It counts when the site itself
// made it or took it over, by somebody with the right to, signed, logged and on
// record; or when a policy names the identity that signed it as evidence.
package vex

import (
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/vuln"
)

// PredicateOpenVEX is the type of an OpenVEX document as a statement's predicate.
const PredicateOpenVEX = "https://openvex.dev/ns/v0.2.0"

// Predicates are the types under which OpenVEX documents are attested: cosign and
// vexctl leave the version out.
var Predicates = []string{"https://openvex.dev/ns", PredicateOpenVEX, "https://openvex.dev/ns/v0.0.1"}

// Status is what a statement says.
type Status string

// The statuses of OpenVEX.
const (
	NotAffected   Status = "not_affected"
	Affected      Status = "affected"
	Fixed         Status = "fixed"
	Investigating Status = "under_investigation"
)

// Caution orders statuses; the greater wins between authors. -1 is no status.
func (s Status) Caution() int {
	return slices.Index([]Status{NotAffected, Fixed, Investigating, Affected}, s)
}

// Justifications of OpenVEX for not_affected, which wants one of them, or a text.
var Justifications = []string{
	"component_not_present", "vulnerable_code_not_present", "vulnerable_code_not_in_execute_path",
	"vulnerable_code_cannot_be_controlled_by_adversary", "inline_mitigations_already_exist",
}

// Uncalled says of a justification that the flaw's code is not in the product, or
// that nothing comes to it.
func Uncalled(justification string) bool {
	return justification == Justifications[1] || justification == Justifications[2]
}

// Statement is one word about flaws of products.
type Statement struct {
	Vulnerabilities []string `json:"vulnerabilities"`         // names and aliases of one flaw
	Products        []string `json:"products"`                // digests, package URLs, or patterns of repositories ("team/**"); "**": every artifact
	Components      []string `json:"components,omitempty"`    // package URLs within the products, without a version: all of them; absent: any
	Versions        string   `json:"versions,omitempty"`      // of the components, as "vers:npm/>=1.0|<2.0"; absent: all
	Status          Status   `json:"status"`                  //
	Justification   string   `json:"justification,omitempty"` // of not_affected
	Impact          string   `json:"impact,omitempty"`        // why, in words
	Action          string   `json:"action,omitempty"`        // what to do, of affected

	Until time.Time `json:"until,omitzero"` // when it ends by its own word; zero: no end
}

// Document is statements of one author.
type Document struct {
	ID         string      `json:"id"`     // by its own word
	Author     string      `json:"author"` // by its own word: nobody's identity
	Format     string      `json:"format"` // openvex, csaf, cyclonedx
	Statements []Statement `json:"statements"`
}

// Bounds of a document.
const (
	MaxBytes      = 16 << 20
	maxStatements = 20_000
	maxNames      = 64     // of a flaw
	maxProducts   = 10_000 // of a statement
	maxText       = 2000
)

// Check says what is wrong with a statement. Errors are fault.Invalid.
func (s *Statement) Check() error {
	if len(s.Vulnerabilities) == 0 || len(s.Vulnerabilities) > maxNames {
		return fault.Newf(fault.Invalid, "%d names of the vulnerability: want 1 to %d", len(s.Vulnerabilities), maxNames)
	}
	for _, v := range s.Vulnerabilities {
		if v == "" || len(v) > 120 || strings.ContainsAny(v, " \n\t") {
			return fault.Newf(fault.Invalid, "vulnerability %.60q: want a name such as CVE-2024-3094", v)
		}
	}
	if s.Status.Caution() < 0 {
		return fault.Newf(fault.Invalid, "status %.40q: want not_affected, affected, fixed or under_investigation", string(s.Status))
	}
	if s.Justification != "" && !slices.Contains(Justifications, s.Justification) {
		return fault.Newf(fault.Invalid, "justification %.60q: want %s", s.Justification, strings.Join(Justifications, ", "))
	}
	if s.Status == NotAffected && s.Justification == "" && strings.TrimSpace(s.Impact) == "" {
		return fault.Newf(fault.Invalid, "not_affected wants a justification (%s), or an impact statement", strings.Join(Justifications, ", "))
	}
	if len(s.Products) == 0 || len(s.Products) > maxProducts || len(s.Components) > maxProducts {
		return fault.Newf(fault.Invalid, "%d products and %d components: want 1 to %d products", len(s.Products), len(s.Components), maxProducts)
	}
	for _, p := range s.Products {
		if _, err := parseProduct(p); err != nil {
			return err
		}
	}
	for _, c := range s.Components {
		if _, err := artifact.ParsePURL(c); err != nil {
			return err
		}
	}
	if s.Versions != "" {
		if len(s.Components) == 0 {
			return fault.Newf(fault.Invalid, "versions %.60q: name the component whose versions they are", s.Versions)
		}
		if _, err := parseVers(s.Versions); err != nil {
			return err
		}
	}
	return nil
}

// repositoryURN stands before a pattern of repositories in documents of others'
// forms, where a product is a URI.
const repositoryURN = "urn:assay:repository:"

// product is a place that a statement is about.
type product struct {
	digest     artifact.Digest
	purl       artifact.PURL
	repository *glob.Glob
	host       string // of the registry that the repository is in; "": this one
}

func parseProduct(text string) (p product, err error) {
	switch {
	case len(text) > artifact.MaxPURL:
		return p, fault.Newf(fault.Invalid, "product %.60q: %d bytes are too many", text, len(text))
	case strings.HasPrefix(text, "pkg:"):
		p.purl, err = artifact.ParsePURL(text)
		if err != nil || p.purl.Type != "oci" {
			return p, err
		}
		// What the package URL of an image names is its digest, or a repository.
		if d, derr := artifact.ParseDigest(p.purl.Version); derr == nil {
			p.digest = d
			return p, nil
		}
		if p.purl.Version != "" || p.purl.Qualifier("tag") != "" {
			return p, fault.Newf(fault.Invalid, "product %.200q: want a digest as its version: what a tag points to, others may change, and the repository is more than was named", text)
		}
		url := p.purl.Qualifier("repository_url")
		host, name, is := strings.Cut(url, "/")
		if !is {
			return p, fault.Newf(fault.Invalid, "product %.200q: want a digest as its version, or a repository_url: a name alone is nobody's", text)
		}
		g, gerr := glob.Exact(name)
		p.repository, p.host = &g, strings.ToLower(host)
		return p, gerr
	case strings.HasPrefix(text, "sha256:"), strings.HasPrefix(text, "sha512:"):
		p.digest, err = artifact.ParseDigest(text)
		return p, err
	}
	g, err := glob.Parse(strings.TrimPrefix(text, repositoryURN))
	if err != nil {
		return p, fault.Newf(fault.Invalid, "product %.200q: want a digest, a package URL, or a pattern of repositories such as team/**: %w", text, err)
	}
	p.repository = &g
	return p, nil
}

// Subject is the artifact that a finding is about.
type Subject struct {
	Digest     artifact.Digest
	Repository string // of the own registry, where it is met; "" for others
	Host       string // of the own registry; "": not known, and any host that a product names is taken for it
}

// in says whether a product is a repository that the artifact is met in: of the same
// name in another registry is another one.
func (s *Subject) in(p *product) bool {
	if p.host != "" && s.Host != "" && p.host != s.Host {
		return false
	}
	return p.repository.Everything() || s.Repository != "" && p.repository.Match(s.Repository)
}

// Flaw is a finding, by all the names of its flaw.
type Flaw struct {
	Names     []string
	Component string // package URL
}

// About says whether a statement is about a flaw of a component of an artifact.
func (s *Statement) About(sub Subject, f Flaw) bool {
	if !slices.ContainsFunc(s.Vulnerabilities, func(v string) bool {
		return slices.ContainsFunc(f.Names, func(n string) bool { return strings.EqualFold(n, v) })
	}) {
		return false
	}
	component, err := artifact.ParsePURL(f.Component)
	known := err == nil
	if !slices.ContainsFunc(s.Products, func(text string) bool {
		p, err := parseProduct(text)
		switch {
		case err != nil:
			return false
		case p.digest != "":
			return p.digest == sub.Digest
		case p.repository != nil:
			return sub.in(&p)
		}
		return known && covers(p.purl, component) // the statement is about the component itself
	}) {
		return false
	}
	if len(s.Components) == 0 {
		return true
	}
	return known && slices.ContainsFunc(s.Components, func(text string) bool {
		c, err := artifact.ParsePURL(text)
		return err == nil && covers(c, component) && s.holdsVersion(component)
	})
}

// Ends is the earlier of a statement's own end and another; zero is none.
func (s *Statement) Ends(other time.Time) time.Time {
	if other.IsZero() || !s.Until.IsZero() && s.Until.Before(other) {
		return s.Until
	}
	return other
}

// covers says whether what a statement names is the component: the same package,
// and of the same version where the statement names one.
func covers(named, component artifact.PURL) bool {
	if named.Package().String() != component.Package().String() {
		return false
	}
	if distro := named.Qualifier("distro"); distro != "" && distro != component.Qualifier("distro") {
		return false
	}
	return named.Version == "" || named.Version == component.Version
}

func (s *Statement) holdsVersion(component artifact.PURL) bool {
	if s.Versions == "" {
		return true
	}
	a, err := parseVers(s.Versions)
	if err != nil {
		return false
	}
	candidates, _ := vuln.Lookups(component, component.Version, "", "")
	for _, c := range candidates {
		a.Package.Ecosystem, a.Package.Name = c.Ecosystem, c.Name
		if a.Affects(c.Version).Status == vuln.IsAffected {
			return true
		}
	}
	return false // nothing unknown counts as covered
}

// parseVers reads a version range specifier: "vers:TYPE/>=1.0|<2.0|3.1". Parts are
// in order; "*" is every version.
func parseVers(text string) (*vuln.Affected, error) {
	bad := func(why string) error {
		return fault.Newf(fault.Invalid, "versions %.80q: %s; want vers:TYPE/>=1.0.0|<2.0.0", text, why)
	}
	rest, is := strings.CutPrefix(text, "vers:")
	_, list, there := strings.Cut(rest, "/")
	if !is || !there || list == "" || len(text) > 1000 {
		return nil, bad("it is no range")
	}
	a := &vuln.Affected{}
	if list == "*" {
		a.Ranges = []vuln.Range{{Type: "ECOSYSTEM", Events: []vuln.Event{{Introduced: "0"}}}}
		return a, nil
	}
	var open bool
	var r vuln.Range
	for i, part := range strings.Split(list, "|") {
		switch part = strings.TrimSpace(part); {
		case strings.HasPrefix(part, ">="):
			if open {
				return nil, bad("a range begins twice")
			}
			r, open = vuln.Range{Type: "ECOSYSTEM", Events: []vuln.Event{{Introduced: part[2:]}}}, true
		case strings.HasPrefix(part, "<"):
			end := vuln.Event{Fixed: part[1:]}
			if strings.HasPrefix(part, "<=") {
				end = vuln.Event{LastAffected: part[2:]}
			}
			if !open {
				if i > 0 {
					return nil, bad("a range ends that did not begin")
				}
				r = vuln.Range{Type: "ECOSYSTEM", Events: []vuln.Event{{Introduced: "0"}}}
			}
			r.Events = append(r.Events, end)
			a.Ranges, open = append(a.Ranges, r), false
		case part == "" || strings.ContainsAny(part[:1], ">!*"):
			return nil, bad("it takes >=, <, <= and single versions")
		default:
			a.Versions = append(a.Versions, strings.TrimPrefix(part, "="))
		}
	}
	if open {
		a.Ranges = append(a.Ranges, r)
	}
	for _, r := range a.Ranges {
		for _, e := range r.Events {
			if e.Introduced+e.Fixed+e.LastAffected == "" {
				return nil, bad("a bound without a version")
			}
		}
	}
	return a, nil
}
