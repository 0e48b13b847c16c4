package sbom

import (
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

// spdx3 collects a graph: its elements name each other, in any order.
type spdx3 struct {
	s          *stream
	components []Component
	names      map[string]string // agents, tools and licence expressions by ID
	kinds      map[string]string
	relations  []spdx3Element
	suppliers  map[string]string // component ref -> agent
	creators   []string
	documents  []spdx3Element
}

func (g *spdx3) element(e *spdx3Element) error {
	if e.Type == "" {
		e.Type = e.AtType
	}
	if e.ID == "" {
		e.ID = e.AtID
	}
	if g.names == nil {
		g.names, g.kinds, g.suppliers = map[string]string{}, map[string]string{}, map[string]string{}
	}
	switch kind := strings.TrimPrefix(strings.TrimPrefix(e.Type, "software_"), "Core/"); kind {
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
		return g.component(e, kind)
	case "Relationship", "LifecycleScopedRelationship":
		if len(g.relations)+len(e.To) > g.s.lim.Edges {
			return fault.Newf(fault.TooLarge, "more than %d relationships", g.s.lim.Edges)
		}
		g.relations = append(g.relations, *e)
	case "Person", "Organization", "SoftwareAgent", "Agent", "Tool":
		g.names[e.ID], g.kinds[e.ID] = e.Name, kind
	default:
		if e.Expression != "" {
			g.names[e.ID] = e.Expression
		}
	}
	return nil
}

func (g *spdx3) component(e *spdx3Element, kind string) error {
	if e.ID == "" {
		return fault.Newf(fault.Invalid, "%s %.80q has no spdxId", kind, e.Name)
	}
	if len(g.components) >= g.s.lim.Components {
		return fault.Newf(fault.TooLarge, "more than %d components", g.s.lim.Components)
	}
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
	if e.SuppliedBy != "" {
		g.suppliers[e.ID] = e.SuppliedBy
	}
	g.components = append(g.components, c)
	return nil
}

// done hands on what the graph says, once all of it is known.
func (g *spdx3) done() error {
	s := g.s
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
		switch {
		case g.kinds[id] == "SoftwareAgent" || g.kinds[id] == "Tool":
			s.head.Tools = distinct(append(s.head.Tools, g.names[id]))
		case g.names[id] != "":
			s.head.Authors = distinct(append(s.head.Authors, g.names[id]))
		}
	}
	index := make(map[string]int, len(g.components))
	for i, c := range g.components {
		index[c.Ref] = i
	}
	for i := range g.relations {
		if err := g.relation(&g.relations[i], index); err != nil {
			return err
		}
	}
	for _, c := range g.components {
		c.Supplier = g.names[g.suppliers[c.Ref]]
		if _, known := index[c.Parent]; c.Parent != "" && !known {
			c.Parent = c.Ref[:strings.LastIndexByte(c.Ref, '#')+1] + c.Parent
		}
		if err := s.component(c); err != nil {
			return err
		}
	}
	return nil
}

func (g *spdx3) relation(r *spdx3Element, index map[string]int) error {
	from, known := index[r.From]
	switch r.Relationship {
	case "dependsOn", "hasPrerequisite", "hasStaticLink", "hasDynamicLink":
		if strings.EqualFold(r.Completeness, "incomplete") {
			g.s.head.Incomplete = distinct(append(g.s.head.Incomplete, "the document says incomplete: "+clip(r.From, 200)))
		}
		return g.s.dependency(r.From, r.To...)
	case "hasDeclaredLicense", "hasConcludedLicense":
		if !known {
			return nil
		}
		for _, to := range r.To {
			text := g.names[to]
			if text == "" {
				// One of the listed licences, by its address.
				text = to[strings.LastIndexByte(to, '/')+1:]
			}
			if none(text) || strings.HasSuffix(text, "NoAssertionLicense") || strings.HasSuffix(text, "NoneLicense") {
				continue
			}
			c := &g.components[from]
			if r.Relationship == "hasDeclaredLicense" {
				c.Licenses = append(c.Licenses, text)
			} else {
				c.Concluded = append(c.Concluded, text)
			}
		}
		sort.Strings(g.components[from].Licenses)
		sort.Strings(g.components[from].Concluded)
	}
	return nil
}
