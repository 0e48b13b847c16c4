package sbom

import (
	"slices"
	"sort"
	"strings"

	"assay/internal/fault"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// spdxPackage is an SPDX 2.2 or 2.3 package (SPDX 2.3 section 7).
type spdxPackage struct {
	ID          string            `json:"SPDXID"`
	Name        string            `json:"name"`
	PackageName string            `json:"packageName"` // as some writers have it
	Version     string            `json:"versionInfo"`
	Supplier    string            `json:"supplier"`
	Purpose     string            `json:"primaryPackagePurpose"`
	Declared    string            `json:"licenseDeclared"`
	Concluded   string            `json:"licenseConcluded"`
	SourceInfo  string            `json:"sourceInfo"`
	Checksums   []spdxChecksum    `json:"checksums"`
	Refs        []spdxExternalRef `json:"externalRefs"`
	Comment     string            `json:"comment"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxExternalRef struct {
	Type    string `json:"referenceType"`
	Locator string `json:"referenceLocator"`
}

type spdxFile struct {
	ID        string         `json:"SPDXID"`
	Name      string         `json:"fileName"`
	Concluded string         `json:"licenseConcluded"`
	Checksums []spdxChecksum `json:"checksums"`
}

type spdxRelationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

// spdxDocumentID is the name that every SPDX 2 document has for itself.
const spdxDocumentID = "SPDXRef-DOCUMENT"

// spdxPurposes are CycloneDX's types in SPDX's words, as its schema has them: the
// text of SPDX 2.3 section 7.24 has OPERATING-SYSTEM, which is read as well.
var spdxPurposes = map[string]string{
	"application": "APPLICATION", "framework": "FRAMEWORK", "library": "LIBRARY", "container": "CONTAINER",
	"operating-system": "OPERATING_SYSTEM", "device": "DEVICE", "firmware": "FIRMWARE", "file": "FILE",
}

// spdxMember reads one top-level member of SPDX 2; false when it is none.
func (s *stream) spdxMember(d *jsontext.Decoder, name string) (bool, error) {
	switch name {
	case "spdxVersion":
		var v string
		if err := json.UnmarshalDecode(d, &v); err != nil {
			return true, err
		}
		s.head.SpecVersion = strings.TrimPrefix(v, "SPDX-")
		return true, s.is(SPDXJSON)
	case "SPDXID":
		var id string
		if err := json.UnmarshalDecode(d, &id); err != nil {
			return true, err
		}
		if id != spdxDocumentID {
			return true, fault.Newf(fault.Invalid, "the document's SPDXID is %.60q: want %s (SPDX 2.3 section 6.3)", id, spdxDocumentID)
		}
		return true, nil
	case "name":
		return true, json.UnmarshalDecode(d, &s.head.Name)
	case "documentNamespace":
		return true, json.UnmarshalDecode(d, &s.head.ID)
	case "documentDescribes":
		return true, array(d, name, func() error {
			var ref string
			if err := json.UnmarshalDecode(d, &ref); err != nil {
				return err
			}
			s.root(ref)
			return nil
		})
	case "creationInfo":
		return true, s.spdxCreation(d)
	case "packages":
		return true, array(d, name, func() error {
			var p spdxPackage
			if err := json.UnmarshalDecode(d, &p); err != nil {
				return err
			}
			return s.spdxPackage(&p)
		})
	case "files":
		return true, array(d, name, func() error {
			var f spdxFile
			if err := json.UnmarshalDecode(d, &f); err != nil {
				return err
			}
			return s.spdxFile(&f)
		})
	case "relationships":
		return true, array(d, name, func() error {
			var r spdxRelationship
			if err := json.UnmarshalDecode(d, &r); err != nil {
				return err
			}
			return s.relationship(r)
		})
	}
	return false, nil
}

func (s *stream) spdxCreation(d *jsontext.Decoder) error {
	var c struct {
		Created  string           `json:"created"`
		Creators []jsontext.Value `json:"creators"`
	}
	if err := json.UnmarshalDecode(d, &c); err != nil {
		return err
	}
	s.head.Created = s.timestamp(c.Created)
	for _, v := range c.Creators {
		var text string
		if json.Unmarshal(v, &text) != nil {
			// {"Person": "…"}, as some writers have it.
			var one map[string]string
			if json.Unmarshal(v, &one) != nil {
				s.problem("a creator is neither text nor an object of texts")
				continue
			}
			for _, k := range sortedKeys(one) {
				s.creator(k + ": " + one[k])
			}
			continue
		}
		s.creator(text)
	}
	return nil
}

func (s *stream) creator(text string) {
	if tool, is := strings.CutPrefix(text, "Tool:"); is {
		s.head.Tools = distinct(append(s.head.Tools, trimmed(tool)))
	} else if p := party(text); p != "" {
		s.head.Authors = distinct(append(s.head.Authors, p))
	}
}

func (s *stream) root(ref string) {
	if ref != "" && len(s.head.Roots) < maxList && !slices.Contains(s.head.Roots, ref) {
		s.head.Roots = append(s.head.Roots, ref)
	}
}

func (s *stream) spdxPackage(p *spdxPackage) error {
	if p.ID == "" {
		return fault.Newf(fault.Invalid, "package %.80q has no SPDXID (SPDX 2.3 section 7.2)", p.Name)
	}
	c := Component{Ref: p.ID, Type: "library", Name: p.Name, Version: p.Version, Supplier: party(p.Supplier)}
	if c.Name == "" {
		c.Name = p.PackageName
	}
	if c.Version == "NOASSERTION" {
		c.Version = ""
	}
	for typ, purpose := range spdxPurposes {
		if strings.ReplaceAll(p.Purpose, "-", "_") == purpose {
			c.Type = typ
		}
	}
	if !none(p.Declared) {
		c.Licenses = []string{p.Declared}
	}
	if !none(p.Concluded) {
		c.Concluded = []string{p.Concluded}
	}
	for _, h := range p.Checksums {
		s.digest(&c.Digests, h.Algorithm, h.Value)
	}
	for _, r := range p.Refs {
		switch r.Type {
		case "purl":
			if got := s.purl(r.Locator); c.PURL.Type == "" {
				c.PURL = got
			} else if got.Type != "" && got.String() != c.PURL.String() {
				s.problem("package %q has two package URLs; %s is used", c.Name, c.PURL)
			}
		case "cpe23Type", "cpe22Type":
			c.CPEs = append(c.CPEs, r.Locator)
		}
	}
	spdxComment(&c, p.Comment)
	return s.component(c)
}

// spdxComment reads what CycloneDX has a member for and SPDX 2 has not; see
// the writer's.
func spdxComment(c *Component, comment string) {
	for _, line := range strings.Split(comment, "\n") {
		key, value, ok := strings.Cut(line, ": ")
		if !ok {
			continue
		}
		switch key {
		case "assay:group":
			c.Group = value
		case "assay:scope":
			c.Scope = value
		case "assay:type":
			c.Type = value
		case "assay:parent":
			c.Parent = value
		case "assay:source":
			c.SourceName, c.SourceVersion, _ = strings.Cut(value, " ")
		case "assay:location":
			c.Locations = append(c.Locations, unescape(value))
		}
	}
}

func (s *stream) spdxFile(f *spdxFile) error {
	c := Component{Ref: f.ID, Type: "file", Name: f.Name}
	if !none(f.Concluded) {
		c.Concluded = []string{f.Concluded}
	}
	for _, h := range f.Checksums {
		s.digest(&c.Digests, h.Algorithm, h.Value)
	}
	return s.component(c)
}

// relationship takes those that say what is described and what needs what
// (SPDX 2.3 section 11).
func (s *stream) relationship(r spdxRelationship) error {
	switch r.Type {
	case "DESCRIBES":
		if r.From == spdxDocumentID {
			s.root(r.To)
		}
	case "DESCRIBED_BY":
		if r.To == spdxDocumentID {
			s.root(r.From)
		}
	case "DEPENDS_ON", "STATIC_LINK", "DYNAMIC_LINK", "HAS_PREREQUISITE":
		return s.dependency(r.From, r.To)
	case "DEPENDENCY_OF", "RUNTIME_DEPENDENCY_OF", "BUILD_DEPENDENCY_OF", "DEV_DEPENDENCY_OF", "OPTIONAL_DEPENDENCY_OF",
		"PROVIDED_DEPENDENCY_OF", "TEST_DEPENDENCY_OF", "PREREQUISITE_FOR":
		return s.dependency(r.To, r.From)
	}
	return nil
}

func (s *stream) spdxDone() error {
	if v := s.head.SpecVersion; v != "2.2" && v != "2.3" && v != "2.2.1" && v != "2.2.2" && v != "2.3.1" {
		return fault.Newf(fault.Invalid, "spdxVersion %.20q: want SPDX-2.2 or SPDX-2.3", v)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
