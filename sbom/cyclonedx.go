package sbom

import (
	"slices"
	"strings"
	"time"

	"assay/internal/fault"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// cycloneDXVersions are those that are read.
var cycloneDXVersions = []string{"1.2", "1.3", "1.4", "1.5", "1.6", "1.7"}

// cdxComponent is a CycloneDX component (ECMA-424, component), in JSON and XML.
type cdxComponent struct {
	Type       string         `json:"type" xml:"type,attr"`
	Ref        string         `json:"bom-ref" xml:"bom-ref,attr"`
	Group      string         `json:"group" xml:"group"`
	Name       string         `json:"name" xml:"name"`
	Version    string         `json:"version" xml:"version"`
	PURL       string         `json:"purl" xml:"purl"`
	CPE        string         `json:"cpe" xml:"cpe"`
	Scope      string         `json:"scope" xml:"scope"`
	Publisher  string         `json:"publisher" xml:"publisher"`
	Author     string         `json:"author" xml:"author"`
	Supplier   cdxParty       `json:"supplier" xml:"supplier"`
	Hashes     []cdxHash      `json:"hashes" xml:"hashes>hash"`
	Licenses   cdxLicenses    `json:"licenses" xml:"licenses"`
	Components []cdxComponent `json:"components" xml:"components>component"`
	Properties []cdxProperty  `json:"properties" xml:"properties>property"`
	Evidence   cdxEvidence    `json:"evidence" xml:"evidence"`
}

type cdxParty struct {
	Name string `json:"name" xml:"name"`
}

type cdxHash struct {
	Alg     string `json:"alg" xml:"alg,attr"`
	Content string `json:"content" xml:",chardata"`
}

type cdxProperty struct {
	Name  string `json:"name" xml:"name,attr"`
	Value string `json:"value" xml:",chardata"`
}

type cdxEvidence struct {
	Occurrences []struct {
		Location string `json:"location" xml:"location"`
	} `json:"occurrences" xml:"occurrences>occurrence"`
}

// cdxLicense is one choice: an SPDX identifier, a name, or an expression.
type cdxLicense struct {
	License struct {
		ID              string `json:"id"`
		Name            string `json:"name"`
		Acknowledgement string `json:"acknowledgement"`
	} `json:"license"`
	Expression      string `json:"expression"`
	Acknowledgement string `json:"acknowledgement"`
}

type cdxLicenses []cdxLicense

type cdxDependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

type cdxComposition struct {
	Aggregate    string   `json:"aggregate" xml:"aggregate"`
	Assemblies   []string `json:"assemblies"`
	Dependencies []string `json:"dependencies"`
}

type cdxMetadata struct {
	Timestamp string         `json:"timestamp"`
	Tools     jsontext.Value `json:"tools"`
	Authors   []cdxParty     `json:"authors"`
	Supplier  cdxParty       `json:"supplier"`
	Component *cdxComponent  `json:"component"`
	Props     []cdxProperty  `json:"properties"`
}

type cdxTool struct {
	Vendor  string   `json:"vendor" xml:"vendor"`
	Group   string   `json:"group" xml:"group"`
	Name    string   `json:"name" xml:"name"`
	Version string   `json:"version" xml:"version"`
	Author  cdxText  `json:"author" xml:"-"`
	Supp    cdxParty `json:"supplier" xml:"-"`
}

// cdxText takes any value: tools were objects of several shapes.
type cdxText = jsontext.Value

// cycloneDXMember reads one top-level member; false when it is none of theirs.
func (s *stream) cycloneDXMember(d *jsontext.Decoder, name string) (bool, error) {
	switch name {
	case "bomFormat":
		var format string
		if err := json.UnmarshalDecode(d, &format); err != nil {
			return true, err
		}
		if format != "CycloneDX" {
			return true, fault.Newf(fault.Invalid, "bomFormat %.40q: want CycloneDX", format)
		}
		return true, s.is(CycloneDXJSON)
	case "specVersion":
		return true, json.UnmarshalDecode(d, &s.head.SpecVersion)
	case "serialNumber":
		if s.head.ID != "" { // of another format, in the metadata
			return true, d.SkipValue()
		}
		return true, json.UnmarshalDecode(d, &s.head.ID)
	case "version":
		return true, json.UnmarshalDecode(d, &s.head.Version)
	case "metadata":
		var m cdxMetadata
		if err := json.UnmarshalDecode(d, &m); err != nil {
			return true, err
		}
		return true, s.cdxMetadata(&m)
	case "components", "services":
		return true, array(d, name, func() error {
			var c cdxComponent
			if err := json.UnmarshalDecode(d, &c); err != nil {
				return err
			}
			if name == "services" {
				c.Type = "service"
			}
			_, err := s.cdxComponent(&c, "", 0)
			return err
		})
	case "dependencies":
		return true, array(d, name, func() error {
			var dep cdxDependency
			if err := json.UnmarshalDecode(d, &dep); err != nil {
				return err
			}
			return s.dependency(dep.Ref, dep.DependsOn...)
		})
	case "compositions":
		return true, array(d, name, func() error {
			var c cdxComposition
			if err := json.UnmarshalDecode(d, &c); err != nil {
				return err
			}
			s.composition(&c)
			return nil
		})
	case "vulnerabilities":
		return true, array(d, name, func() error { s.head.Vulnerabilities++; return d.SkipValue() })
	}
	return false, nil
}

func (s *stream) cdxMetadata(m *cdxMetadata) error {
	s.head.Created = s.timestamp(m.Timestamp)
	s.head.Supplier = trimmed(m.Supplier.Name)
	for _, a := range m.Authors {
		s.head.Authors = append(s.head.Authors, trimmed(a.Name))
	}
	s.head.Authors = distinct(s.head.Authors)
	if len(m.Tools) > 0 {
		var list []cdxTool
		if m.Tools.Kind() == '{' { // since 1.5
			var sets struct {
				Components []cdxTool `json:"components"`
				Services   []cdxTool `json:"services"`
			}
			if err := json.Unmarshal(m.Tools, &sets); err != nil {
				return err
			}
			list = append(sets.Components, sets.Services...)
		} else if err := json.Unmarshal(m.Tools, &list); err != nil {
			return err
		}
		s.tools(list)
	}
	for _, p := range m.Props {
		if p.Name == idProperty {
			s.head.ID = clip(p.Value, maxText)
		}
	}
	return s.cdxSubject(m.Component)
}

func (s *stream) tools(list []cdxTool) {
	for _, t := range list {
		s.head.Tools = append(s.head.Tools, trimmed(t.Vendor, t.Group, t.Name, t.Version))
	}
	s.head.Tools = distinct(s.head.Tools)
}

func (s *stream) cdxSubject(c *cdxComponent) error {
	if c == nil {
		return nil
	}
	ref, err := s.cdxComponent(c, "", 0)
	if err != nil {
		return err
	}
	if ref != "" {
		s.head.Roots = append(s.head.Roots, ref)
	}
	if s.head.Name == "" {
		s.head.Name = trimmed(c.Name)
	}
	return nil
}

// cdxComponent hands on a component and those inside it.
func (s *stream) cdxComponent(in *cdxComponent, parent string, depth int) (ref string, err error) {
	if depth > s.lim.Nesting {
		return "", fault.Newf(fault.TooLarge, "components are nested more than %d deep", s.lim.Nesting)
	}
	c := Component{
		Ref: in.Ref, Type: in.Type, Group: in.Group, Name: in.Name, Version: in.Version, PURL: s.purl(in.PURL),
		Scope: in.Scope, Supplier: trimmed(in.Supplier.Name), Parent: parent,
	}
	if c.Supplier == "" {
		c.Supplier = trimmed(in.Publisher)
	}
	if in.CPE != "" {
		c.CPEs = []string{in.CPE}
	}
	for _, h := range in.Hashes {
		s.digest(&c.Digests, h.Alg, h.Content)
	}
	for _, l := range in.Licenses {
		text, ack := l.Expression, l.Acknowledgement
		if text == "" {
			text, ack = l.License.ID, l.License.Acknowledgement
		}
		if text == "" {
			text = l.License.Name
		}
		if ack == "concluded" {
			c.Concluded = append(c.Concluded, trimmed(text))
		} else {
			c.Licenses = append(c.Licenses, trimmed(text))
		}
	}
	for _, p := range in.Properties {
		cdxProperties(&c, p)
	}
	for _, o := range in.Evidence.Occurrences {
		c.Locations = append(c.Locations, o.Location)
	}
	if c.Ref == "" {
		c.Ref = c.PURL.String()
	}
	had := s.components
	ref = c.Ref
	if ref == "" || s.refs.taken(ref) {
		ref = s.free(ref)
		if c.Ref != "" && in.Ref != "" {
			s.problem("two components have the ref %q", c.Ref)
		}
		c.Ref = ref
	}
	if err := s.component(c); err != nil {
		return "", err
	}
	if s.components == had {
		ref = ""
	}
	for i := range in.Components {
		if _, err := s.cdxComponent(&in.Components[i], ref, depth+1); err != nil {
			return "", err
		}
	}
	return ref, nil
}

// free is a ref that no component has yet.
func (s *stream) free(base string) string {
	for n := s.components + 1; ; n++ {
		ref := strings.TrimPrefix(base+"#assay-"+itoa(n), "#")
		if !s.refs.taken(ref) {
			return ref
		}
	}
}

// cdxProperties takes over what scanners put into properties for want of a
// member: CycloneDX's registered taxonomies, and the two that carry source
// packages.
func cdxProperties(c *Component, p cdxProperty) {
	switch {
	case p.Name == "aquasecurity:trivy:SrcName", p.Name == "assay:source:name":
		c.SourceName = p.Value
	case p.Name == "aquasecurity:trivy:SrcVersion", p.Name == "assay:source:version":
		c.SourceVersion = p.Value
	case strings.HasPrefix(p.Name, "syft:cpe23"), p.Name == "assay:cpe":
		c.CPEs = append(c.CPEs, p.Value)
	case strings.HasPrefix(p.Name, "syft:location:") && strings.HasSuffix(p.Name, ":path"):
		c.Locations = append(c.Locations, p.Value)
	}
}

func (s *stream) composition(c *cdxComposition) {
	switch {
	case strings.HasPrefix(c.Aggregate, "incomplete"):
		what := append(slices.Clone(c.Assemblies), c.Dependencies...)
		s.head.Incomplete = distinct(append(s.head.Incomplete, trimmed("the document says", c.Aggregate+":", clip(strings.Join(what, " "), 200))))
	case c.Aggregate == "complete" && len(c.Dependencies)+len(c.Assemblies) == 0:
		s.head.Complete = true
	case c.Aggregate == "complete":
		for _, ref := range append(slices.Clone(c.Dependencies), c.Assemblies...) {
			s.head.Complete = s.head.Complete || slices.Contains(s.head.Roots, ref)
		}
	}
}

// timestamp reads a claimed time; one that does not parse is a problem.
func (s *stream) timestamp(text string) time.Time {
	if text = strings.TrimSpace(text); text == "" {
		return time.Time{}
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04Z07:00", "2006-01-02"} {
		if t, err := time.Parse(layout, text); err == nil {
			if t.Unix() == 0 {
				return time.Time{} // what writers put where a time must stand
			}
			return t.UTC().Truncate(time.Second) // SPDX holds no more
		}
	}
	s.problem("the time %q is not understood, want RFC 3339", clip(text, 60))
	return time.Time{}
}

// is settles the format; two formats in one document are refused.
func (s *stream) is(f Format) error {
	if s.head.Format != "" && s.head.Format != f {
		return fault.Newf(fault.Invalid, "the document claims to be %s and %s", s.head.Format, f)
	}
	s.head.Format = f
	return nil
}
