package sbom

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"

	"assay/internal/fault"
)

// noDirectives gives the tokens of a document and refuses a DOCTYPE: entities
// are how XML reads files and grows without end.
type noDirectives struct{ d *xml.Decoder }

func (n noDirectives) Token() (xml.Token, error) {
	t, err := n.d.RawToken()
	if _, is := t.(xml.Directive); is {
		return nil, fault.Newf(fault.Invalid, "the document has a DOCTYPE, which is never read: remove it")
	}
	return t, err
}

type cdxXMLDependency struct {
	Ref string             `xml:"ref,attr"`
	On  []cdxXMLDependency `xml:"dependency"`
}

type cdxXMLMetadata struct {
	Timestamp string `xml:"timestamp"`
	Tools     struct {
		Tools      []cdxTool `xml:"tool"`
		Components []cdxTool `xml:"components>component"`
	} `xml:"tools"`
	Authors   []cdxParty    `xml:"authors>author"`
	Supplier  cdxParty      `xml:"supplier"`
	Component *cdxComponent `xml:"component"`
}

// UnmarshalXML reads <licenses>, whose children are of two names.
func (l *cdxLicenses) UnmarshalXML(d *xml.Decoder, start xml.StartElement) error {
	var in struct {
		Licenses []struct {
			ID   string `xml:"id"`
			Name string `xml:"name"`
			Ack  string `xml:"acknowledgement,attr"`
		} `xml:"license"`
		Expressions []struct {
			Text string `xml:",chardata"`
			Ack  string `xml:"acknowledgement,attr"`
		} `xml:"expression"`
	}
	if err := d.DecodeElement(&in, &start); err != nil {
		return err
	}
	for _, one := range in.Licenses {
		var c cdxLicense
		c.License.ID, c.License.Name, c.License.Acknowledgement = one.ID, one.Name, one.Ack
		*l = append(*l, c)
	}
	for _, one := range in.Expressions {
		*l = append(*l, cdxLicense{Expression: one.Text, Acknowledgement: one.Ack})
	}
	return nil
}

// readXML reads CycloneDX in XML.
func (s *stream) readXML() error {
	raw := xml.NewDecoder(s.r)
	raw.Strict = true
	d := xml.NewTokenDecoder(noDirectives{raw})
	root := false
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			if !root {
				return fault.Newf(fault.Invalid, "the XML document is empty: want <bom> of CycloneDX")
			}
			return nil
		}
		if err != nil {
			return err
		}
		start, is := t.(xml.StartElement)
		if !is {
			continue
		}
		if !root {
			if err := s.xmlRoot(start); err != nil {
				return err
			}
			root = true
			continue
		}
		if err := s.xmlMember(d, start); err != nil {
			return err
		}
	}
}

func (s *stream) xmlRoot(start xml.StartElement) error {
	version, is := strings.CutPrefix(start.Name.Space, "http://cyclonedx.org/schema/bom/")
	if start.Name.Local != "bom" || !is || !slices.Contains(cycloneDXVersions, version) {
		return fault.Newf(fault.Invalid, "XML element %.60q of namespace %.80q: want <bom> of CycloneDX %s", start.Name.Local, start.Name.Space, strings.Join(cycloneDXVersions, ", "))
	}
	s.head.Format, s.head.SpecVersion = CycloneDXXML, version
	for _, a := range start.Attr {
		switch a.Name.Local {
		case "serialNumber":
			s.head.ID = a.Value
		case "version":
			s.head.Version, _ = strconv.Atoi(a.Value)
		}
	}
	return nil
}

// xmlMember reads one child of <bom>, or a child of its lists: those are walked
// one by one, so that a long list is never held.
func (s *stream) xmlMember(d *xml.Decoder, start xml.StartElement) error {
	switch start.Name.Local {
	case "components", "dependencies", "compositions", "services", "vulnerabilities":
		return nil // its children come next
	case "metadata":
		var m cdxXMLMetadata
		if err := d.DecodeElement(&m, &start); err != nil {
			return err
		}
		s.head.Created, s.head.Supplier = s.timestamp(m.Timestamp), trimmed(m.Supplier.Name)
		for _, a := range m.Authors {
			s.head.Authors = append(s.head.Authors, trimmed(a.Name))
		}
		s.head.Authors = distinct(s.head.Authors)
		s.tools(append(m.Tools.Tools, m.Tools.Components...))
		return s.cdxSubject(m.Component)
	case "component", "service":
		var c cdxComponent
		if err := d.DecodeElement(&c, &start); err != nil {
			return err
		}
		if start.Name.Local == "service" {
			c.Type = "service"
		}
		_, err := s.cdxComponent(&c, "", 0)
		return err
	case "dependency":
		var dep cdxXMLDependency
		if err := d.DecodeElement(&dep, &start); err != nil {
			return err
		}
		on := make([]string, 0, len(dep.On))
		for _, one := range dep.On {
			on = append(on, one.Ref)
		}
		return s.dependency(dep.Ref, on...)
	case "composition":
		var c struct {
			Aggregate  string `xml:"aggregate"`
			Assemblies []struct {
				Ref string `xml:"ref,attr"`
			} `xml:"assemblies>assembly"`
			Dependencies []struct {
				Ref string `xml:"ref,attr"`
			} `xml:"dependencies>dependency"`
		}
		if err := d.DecodeElement(&c, &start); err != nil {
			return err
		}
		out := cdxComposition{Aggregate: c.Aggregate}
		for _, r := range c.Assemblies {
			out.Assemblies = append(out.Assemblies, r.Ref)
		}
		for _, r := range c.Dependencies {
			out.Dependencies = append(out.Dependencies, r.Ref)
		}
		s.composition(&out)
		return nil
	case "vulnerability":
		s.head.Vulnerabilities++
	}
	return d.Skip()
}
