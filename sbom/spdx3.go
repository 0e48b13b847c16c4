package sbom

import (
	"cmp"
	"slices"
	"sort"
	"strings"

	"assay/internal/fault"

	"github.com/go-json-experiment/json/jsontext"
)

// spdx3Element is any element of an SPDX 3.0.1 graph (SPDX 3.0.1, JSON-LD
// serialisation): the members that are read.
type spdx3Element struct {
	Type   string `json:"type"`
	AtType string `json:"@type"`
	ID     string `json:"spdxId"`
	AtID   string `json:"@id"`

	Name         string         `json:"name"`
	CreationInfo jsontext.Value `json:"creationInfo"`
	Comment      string         `json:"comment"`

	// CreationInfo
	SpecVersion string   `json:"specVersion"`
	Created     string   `json:"created"`
	CreatedBy   []string `json:"createdBy"`
	// SpdxDocument, Sbom
	RootElement []string `json:"rootElement"`
	// Package and File
	Version     string           `json:"software_packageVersion"`
	PURL        string           `json:"software_packageUrl"`
	Purpose     string           `json:"software_primaryPurpose"`
	SuppliedBy  string           `json:"suppliedBy"`
	VerifiedBy  []spdx3Integrity `json:"verifiedUsing"`
	Identifiers []spdx3ID        `json:"externalIdentifier"`
	// Relationship
	From         string   `json:"from"`
	To           []string `json:"to"`
	Relationship string   `json:"relationshipType"`
	Completeness string   `json:"completeness"`
	// Licences
	Expression string `json:"simplelicensing_licenseExpression"`
}

type spdx3Integrity struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"hashValue"`
}

type spdx3ID struct {
	Type       string `json:"externalIdentifierType"`
	Identifier string `json:"identifier"`
}

// spdx3 reads a graph: its elements name each other, in any order. Packages and
// files are therefore kept until all of it was seen; where the document can be
// read again, they are read in a second walk instead.
type spdx3 struct {
	s          *stream
	names      graphNames
	seen       int // packages and files
	components []graphComponent
	creators   []string
	documents  []spdx3Element
}

type graphComponent struct {
	Component
	supplier string // the agent's ID
}

// graphNames is what elements say of other ones.
type graphNames struct {
	names    map[string]string // agents, tools and licence expressions by ID
	kinds    map[string]string
	licenses []graphLicense // by component
}

// graphLicense is one licence of a component, both by the number of their IDs.
type graphLicense struct {
	of, to    uint32
	concluded bool
}

func (g *spdx3) element(e *spdx3Element) error {
	if e.Type == "" {
		e.Type = e.AtType
	}
	if e.ID == "" {
		e.ID = e.AtID
	}
	kind := strings.TrimPrefix(strings.TrimPrefix(e.Type, "software_"), "Core/")
	if g.s.graph != nil { // the second walk
		if kind == "Package" || kind == "File" {
			return g.s.component(g.s.settled(g.component(e, kind)))
		}
		return nil
	}
	if g.names.names == nil {
		g.names.names, g.names.kinds = map[string]string{}, map[string]string{}
	}
	switch kind {
	case "CreationInfo":
		if g.s.head.SpecVersion == "" {
			g.s.head.SpecVersion = e.SpecVersion
			g.s.head.Created = g.s.timestamp(e.Created)
			g.creators = e.CreatedBy
		}
	case "SpdxDocument", "Sbom":
		e.Type = kind
		g.documents = append(g.documents, *e)
	case "Package", "File":
		if e.ID == "" {
			return fault.Newf(fault.Invalid, "%s %.80q has no spdxId", kind, e.Name)
		}
		if g.seen++; g.seen > g.s.lim.Components {
			return fault.Newf(fault.TooLarge, "more than %d components", g.s.lim.Components)
		}
		g.s.refs.refs[g.s.refs.number(e.ID)].element = true
		if g.s.again == nil {
			g.components = append(g.components, g.component(e, kind))
		}
	case "Relationship", "LifecycleScopedRelationship":
		return g.relation(e)
	case "Person", "Organization", "SoftwareAgent", "Agent", "Tool":
		g.names.names[e.ID], g.names.kinds[e.ID] = e.Name, kind
	default:
		if e.Expression != "" {
			g.names.names[e.ID] = e.Expression
		}
	}
	return nil
}

func (g *spdx3) component(e *spdx3Element, kind string) graphComponent {
	c := Component{Ref: e.ID, Type: "library", Name: e.Name, Version: e.Version, PURL: g.s.purl(e.PURL)}
	if kind == "File" {
		c.Type = "file"
	}
	for typ, purpose := range spdxPurposes {
		if strings.EqualFold(strings.ReplaceAll(purpose, "_", ""), e.Purpose) {
			c.Type = typ
		}
	}
	for _, v := range e.VerifiedBy {
		if v.Algorithm != "" {
			g.s.digest(&c.Digests, v.Algorithm, v.Value)
		}
	}
	for _, id := range e.Identifiers {
		switch id.Type {
		case "packageUrl":
			if c.PURL.Type == "" {
				c.PURL = g.s.purl(id.Identifier)
			}
		case "cpe22", "cpe23":
			c.CPEs = append(c.CPEs, id.Identifier)
		}
	}
	spdxComment(&c, e.Comment)
	return graphComponent{c, e.SuppliedBy}
}

// done hands on what the graph says, once all of it is known.
func (g *spdx3) done() error {
	s := g.s
	if s.graph != nil {
		return nil
	}
	if !strings.HasPrefix(s.head.SpecVersion, "3.0") {
		return fault.Newf(fault.Invalid, "SPDX specVersion %.20q: want 3.0.1", s.head.SpecVersion)
	}
	inner := map[string]bool{}
	for _, d := range g.documents {
		inner[d.ID] = d.Type == "Sbom"
	}
	for _, d := range g.documents {
		if d.Type == "SpdxDocument" {
			s.head.ID, s.head.Name = d.ID, d.Name
		}
		for _, r := range d.RootElement {
			if !inner[r] { // the document's root may be its SBOM, whose roots count
				s.root(r)
			}
		}
	}
	for _, id := range g.creators {
		name, kind := g.names.names[id], g.names.kinds[id]
		switch {
		case kind == "SoftwareAgent" || kind == "Tool":
			s.head.Tools = distinct(append(s.head.Tools, name))
		case name != "":
			s.head.Authors = distinct(append(s.head.Authors, name))
		}
	}
	slices.SortStableFunc(g.names.licenses, func(a, b graphLicense) int { return cmp.Compare(a.of, b.of) })
	s.graph = &g.names
	if s.again != nil {
		in, err := s.again()
		if err != nil {
			return err
		}
		second := &stream{lim: s.lim, visit: s.visit, refs: s.refs, graph: s.graph, head: Header{Problems: s.head.Problems}}
		err = second.walk(in)
		s.head.Problems = second.head.Problems
		return err
	}
	for _, c := range g.components {
		if err := s.component(s.settled(c)); err != nil {
			return err
		}
	}
	return nil
}

// settled adds to a component what the graph says of it elsewhere.
func (s *stream) settled(in graphComponent) Component {
	c, g := in.Component, s.graph
	c.Supplier = g.names[in.supplier]
	if c.Parent != "" {
		if n, is := s.refs.find(c.Parent); !is || !s.refs.refs[n].element {
			c.Parent = c.Ref[:strings.LastIndexByte(c.Ref, '#')+1] + c.Parent
		}
	}
	n, is := s.refs.find(c.Ref)
	if !is {
		return c
	}
	at, _ := slices.BinarySearchFunc(g.licenses, n, func(l graphLicense, n uint32) int { return cmp.Compare(l.of, n) })
	for ; at < len(g.licenses) && g.licenses[at].of == n; at++ {
		to := s.refs.ref(g.licenses[at].to)
		text := g.names[to]
		if text == "" {
			// One of the listed licences, by its address.
			text = to[strings.LastIndexByte(to, '/')+1:]
		}
		switch {
		case none(text) || strings.HasSuffix(text, "NoAssertionLicense") || strings.HasSuffix(text, "NoneLicense"):
		case g.licenses[at].concluded:
			c.Concluded = append(c.Concluded, text)
		default:
			c.Licenses = append(c.Licenses, text)
		}
	}
	sort.Strings(c.Licenses)
	sort.Strings(c.Concluded)
	return c
}

func (g *spdx3) relation(r *spdx3Element) error {
	switch r.Relationship {
	case "dependsOn", "hasPrerequisite", "hasStaticLink", "hasDynamicLink":
		if strings.EqualFold(r.Completeness, "incomplete") {
			g.s.head.Incomplete = distinct(append(g.s.head.Incomplete, "the document says incomplete: "+clip(r.From, 200)))
		}
		return g.s.dependency(r.From, r.To...)
	case "hasDeclaredLicense", "hasConcludedLicense":
		if len(g.names.licenses)+len(r.To) > g.s.lim.Edges {
			return fault.Newf(fault.TooLarge, "more than %d relationships", g.s.lim.Edges)
		}
		of := g.s.refs.number(r.From)
		for _, to := range r.To {
			g.names.licenses = append(g.names.licenses, graphLicense{of: of, to: g.s.refs.number(to), concluded: r.Relationship == "hasConcludedLicense"})
		}
	}
	return nil
}
