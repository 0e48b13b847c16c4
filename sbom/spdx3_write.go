package sbom

import (
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// spdx3Context is the context that every SPDX 3.0.1 document names; it is never
// fetched.
const spdx3Context = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"

// spdx3HashNames spells in-toto's algorithm names as SPDX 3.0.1 does
// (Core/HashAlgorithm).
var spdx3HashNames = map[string]string{
	"md2": "md2", "md4": "md4", "md5": "md5", "md6": "md6", "adler32": "adler32", "sha1": "sha1", "sha224": "sha224", "sha256": "sha256",
	"sha384": "sha384", "sha512": "sha512", "sha3_256": "sha3_256", "sha3_384": "sha3_384", "sha3_512": "sha3_512",
	"blake2b_256": "blake2b256", "blake2b_384": "blake2b384", "blake2b_512": "blake2b512", "blake3": "blake3",
}

func (w *writer) spdx3() error {
	d := w.d
	base := strings.TrimSuffix(d.namespace(), "#")
	id := func(name string) string { return base + "#" + name }
	w.begin("")
	w.text("@context", spdx3Context)
	w.token(jsontext.String("@graph"))
	w.token(jsontext.BeginArray)

	w.begin("")
	w.text("type", "CreationInfo")
	w.text("@id", "_:creation")
	w.text("specVersion", DefaultSPDX3)
	w.text("created", or(w.created(), "1970-01-01T00:00:00Z"))
	var by []string
	for i := range d.Authors {
		by = append(by, id("author-"+itoa(i)))
	}
	for i := range d.Tools {
		by = append(by, id("tool-"+itoa(i)))
	}
	if len(by) == 0 {
		by = []string{id("nobody")}
	}
	w.value("createdBy", by)
	w.end()
	agent := func(kind, ref, name string) {
		w.element(kind, ref)
		w.text("name", name)
		w.end()
	}
	for i, a := range d.Authors {
		agent("Organization", id("author-"+itoa(i)), a)
	}
	for i, t := range d.Tools {
		agent("SoftwareAgent", id("tool-"+itoa(i)), t)
	}
	if len(d.Authors)+len(d.Tools) == 0 {
		agent("Agent", id("nobody"), "")
	}
	roots := make([]string, 0, len(d.Roots))
	for _, r := range d.Roots {
		if ref := w.id(r); ref != "" {
			roots = append(roots, id(ref))
		}
	}
	w.element("SpdxDocument", base)
	w.text("name", or(d.Name, "unnamed"))
	if len(roots) > 0 {
		w.value("rootElement", roots)
	}
	w.value("profileConformance", []string{"core", "software", "simpleLicensing"})
	w.end()

	suppliers := map[string]string{}
	licenses := map[string]string{}
	if w.err == nil {
		w.err = w.src.components(func(c *Component) error {
			w.spdx3Component(c, id, suppliers, licenses)
			return w.err
		})
	}
	if w.err == nil {
		w.err = w.src.dependencies(func(from string, on []string) error {
			var to []string
			for _, ref := range on {
				if ref = w.id(ref); ref != "" {
					to = append(to, id(ref))
				}
			}
			if from = w.id(from); from != "" && len(to) > 0 {
				w.relationship(id("depends-"+from), id(from), "dependsOn", to)
			}
			return w.err
		})
	}
	w.token(jsontext.EndArray)
	w.end()
	return w.err
}

func (w *writer) element(kind, ref string) {
	w.begin("")
	w.text("type", kind)
	w.text("spdxId", ref)
	w.text("creationInfo", "_:creation")
}

func (w *writer) relationship(ref, from, kind string, to []string) {
	w.element("Relationship", ref)
	w.text("from", from)
	w.text("relationshipType", kind)
	w.value("to", to)
	w.end()
}

func (w *writer) spdx3Component(c *Component, id func(string) string, suppliers, licenses map[string]string) {
	name := w.id(c.Ref)
	if c.Supplier != "" && suppliers[c.Supplier] == "" {
		suppliers[c.Supplier] = id("supplier-" + itoa(len(suppliers)))
		w.element("Organization", suppliers[c.Supplier])
		w.text("name", c.Supplier)
		w.end()
	}
	isFile := c.Type == "file" && c.PURL.Type == ""
	if isFile {
		w.element("software_File", id(name))
	} else {
		w.element("software_Package", id(name))
		w.text("software_packageVersion", c.Version)
		w.text("software_packageUrl", c.PURL.String())
	}
	w.text("name", c.Name)
	w.text("comment", w.spdxComment(c))
	if c.Supplier != "" {
		w.text("suppliedBy", suppliers[c.Supplier])
	}
	if p := spdxPurposes[c.Type]; p != "" {
		if p = strings.ToLower(p); p == "operating_system" {
			p = "operatingSystem"
		}
		w.text("software_primaryPurpose", p)
	}
	sums := digestPairs(c, func(a string) string { return spdx3HashNames[a] })
	w.list("verifiedUsing", len(sums), func(i int) {
		w.begin("")
		w.text("type", "Hash")
		w.text("algorithm", sums[i].Name)
		w.text("hashValue", sums[i].Value)
		w.end()
	})
	w.list("externalIdentifier", len(c.CPEs), func(i int) {
		kind := "cpe22"
		if strings.HasPrefix(c.CPEs[i], "cpe:2.3:") {
			kind = "cpe23"
		}
		w.begin("")
		w.text("type", "ExternalIdentifier")
		w.text("externalIdentifierType", kind)
		w.text("identifier", c.CPEs[i])
		w.end()
	})
	w.end()
	for _, l := range []struct {
		kind string
		all  []string
	}{{"hasDeclaredLicense", c.Licenses}, {"hasConcludedLicense", c.Concluded}} {
		var to []string
		for _, text := range l.all {
			if licenses[text] == "" {
				licenses[text] = id("license-" + itoa(len(licenses)))
				w.element("simplelicensing_LicenseExpression", licenses[text])
				w.text("simplelicensing_licenseExpression", text)
				w.end()
			}
			to = append(to, licenses[text])
		}
		if len(to) > 0 {
			w.relationship(id(strings.TrimPrefix(l.kind, "has")+"-"+name), id(name), l.kind, to)
		}
	}
}
