package sbom

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"assay/internal/fault"

	"github.com/go-json-experiment/json/jsontext"
)

// cdxHashNames spells in-toto's algorithm names as CycloneDX does.
var cdxHashNames = map[string]string{
	"md5": "MD5", "sha1": "SHA-1", "sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512",
	"sha3_256": "SHA3-256", "sha3_384": "SHA3-384", "sha3_512": "SHA3-512",
	"blake2b_256": "BLAKE2b-256", "blake2b_384": "BLAKE2b-384", "blake2b_512": "BLAKE2b-512", "blake3": "BLAKE3",
}

// idProperty keeps a name that is no UUID, as SPDX's namespaces are.
const idProperty = "assay:id"

var uuidURN = regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// serialNumber is a document's name as CycloneDX demands it, a UUID (ECMA-424,
// serialNumber): of another name it is one made of it (RFC 9562 section 5.8), so
// that the same name gives the same number.
func serialNumber(id string) string {
	if id == "" || uuidURN.MatchString(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

func (w *writer) cycloneDX(version string) error {
	d := w.d
	w.begin("")
	w.text("bomFormat", "CycloneDX")
	w.text("specVersion", version)
	w.text("serialNumber", serialNumber(d.ID))
	w.value("version", max(d.Version, 1))
	w.begin("metadata")
	w.text("timestamp", w.created())
	if len(d.Tools) > 0 {
		w.begin("tools")
		w.list("components", len(d.Tools), func(i int) {
			w.begin("")
			w.text("type", "application")
			w.text("name", d.Tools[i])
			w.end()
		})
		w.end()
	}
	w.list("authors", len(d.Authors), func(i int) {
		w.begin("")
		w.text("name", d.Authors[i])
		w.end()
	})
	subject := w.subject()
	if subject != nil {
		w.token(jsontext.String("component"))
		w.cdxOpen(subject, version)
		w.cdxClose(subject.Locations)
	}
	if d.Supplier != "" {
		w.begin("supplier")
		w.text("name", d.Supplier)
		w.end()
	}
	if serialNumber(d.ID) != d.ID {
		w.pairs("properties", "name", "value", []pair{{idProperty, d.ID}})
	}
	w.end()
	w.cdxComponents(subject, version)
	w.many("dependencies", func(item func()) error {
		return w.src.dependencies(func(from string, on []string) error {
			item()
			w.begin("")
			w.text("ref", from)
			w.value("dependsOn", on)
			w.end()
			return w.err
		})
	})
	switch {
	case len(d.Incomplete) > 0:
		w.list("compositions", len(d.Incomplete), func(int) {
			w.begin("")
			w.text("aggregate", "incomplete")
			w.end()
		})
	case d.Complete:
		w.list("compositions", 1, func(int) {
			w.begin("")
			w.text("aggregate", "complete")
			w.end()
		})
	}
	w.end()
	return w.err
}

// maxWrittenNesting is how deep components are written inside each other, which
// is what is read.
const maxWrittenNesting = 64

// cdxComponents writes the tree: a component inside its parent.
func (w *writer) cdxComponents(subject *Component, version string) {
	if w.err != nil {
		return
	}
	if doc, is := w.src.(*documentSource); is {
		w.cdxTree(doc.d, subject, version)
		return
	}
	// Here each component follows its parent: see [nesting].
	var open []Component // what children may come for
	children := make([]bool, 0, maxWrittenNesting)
	closeLast := func() {
		last := len(open) - 1
		if children[last] {
			w.token(jsontext.EndArray)
		}
		w.cdxClose(open[last].Locations)
		open, children = open[:last], children[:last]
	}
	w.many("components", func(item func()) error {
		err := w.src.components(func(c *Component) error {
			if subject != nil && c.Ref == subject.Ref {
				return nil
			}
			inside := c.Parent != "" && w.src.has(c.Parent) && (subject == nil || c.Parent != subject.Ref)
			for len(open) > 0 && !(inside && open[len(open)-1].Ref == c.Parent) {
				closeLast()
			}
			if last := len(open) - 1; last < 0 {
				item()
			} else if !children[last] {
				children[last] = true
				w.token(jsontext.String("components"))
				w.token(jsontext.BeginArray)
			}
			w.cdxOpen(c, version)
			open, children = append(open, Component{Ref: c.Ref, Locations: c.Locations}), append(children, false)
			return w.err
		})
		for len(open) > 0 {
			closeLast()
		}
		return err
	})
}

// cdxTree writes the components of a document in memory, in whatever order they
// stand.
func (w *writer) cdxTree(d *Document, subject *Component, version string) {
	children := map[string][]*Component{}
	var top []*Component
	for i := range d.Components {
		c := &d.Components[i]
		switch {
		case c == subject:
		case c.Parent != "" && c.Parent != c.Ref && w.src.has(c.Parent) && (subject == nil || c.Parent != subject.Ref):
			children[c.Parent] = append(children[c.Parent], c)
		default:
			top = append(top, c)
		}
	}
	// Those that are inside each other are inside nothing else: each circle is cut
	// at its first.
	reached := map[string]bool{}
	var reach func(c *Component)
	reach = func(c *Component) {
		if reached[c.Ref] {
			return
		}
		reached[c.Ref] = true
		for _, kid := range children[c.Ref] {
			reach(kid)
		}
	}
	for _, c := range top {
		reach(c)
	}
	for i := range d.Components {
		if c := &d.Components[i]; c != subject && !reached[c.Ref] {
			children[c.Parent] = slices.DeleteFunc(children[c.Parent], func(kid *Component) bool { return kid == c })
			top = append(top, c)
			reach(c)
		}
	}
	w.list("components", len(top), func(i int) { w.cdxBranch(top[i], version, children, 0) })
}

func (w *writer) cdxBranch(c *Component, version string, children map[string][]*Component, depth int) {
	if depth > maxWrittenNesting && w.err == nil {
		w.err = fault.Newf(fault.Invalid, "component %.80q: it is more than %d deep in others, which CycloneDX documents here are not", c.Name, maxWrittenNesting)
	}
	if w.err != nil {
		return
	}
	w.cdxOpen(c, version)
	kids := children[c.Ref]
	w.list("components", len(kids), func(i int) { w.cdxBranch(kids[i], version, children, depth+1) })
	w.cdxClose(c.Locations)
}

// cdxOpen writes a component up to the components in it.
func (w *writer) cdxOpen(c *Component, version string) {
	w.begin("")
	typ := c.Type
	if typ == "" {
		typ = "library"
	}
	w.text("type", typ)
	w.text("bom-ref", c.Ref)
	if c.Supplier != "" {
		w.begin("supplier")
		w.text("name", c.Supplier)
		w.end()
	}
	w.text("group", c.Group)
	w.text("name", c.Name)
	w.text("version", c.Version)
	w.text("scope", c.Scope)
	w.pairs("hashes", "alg", "content", digestPairs(c, func(a string) string { return cdxHashNames[a] }))
	w.cdxLicenses(c, version)
	if len(c.CPEs) > 0 {
		w.text("cpe", c.CPEs[0])
	}
	w.text("purl", c.PURL.String())
	var props []pair
	for _, cpe := range c.CPEs[min(1, len(c.CPEs)):] {
		props = append(props, pair{"assay:cpe", cpe})
	}
	if c.SourceName != "" {
		props = append(props, pair{"assay:source:name", c.SourceName})
	}
	if c.SourceVersion != "" {
		props = append(props, pair{"assay:source:version", c.SourceVersion})
	}
	w.pairs("properties", "name", "value", props)
}

// cdxClose writes the rest of a component.
func (w *writer) cdxClose(locations []string) {
	if len(locations) > 0 {
		w.begin("evidence")
		w.list("occurrences", len(locations), func(i int) {
			w.begin("")
			w.text("location", locations[i])
			w.end()
		})
		w.end()
	}
	w.end()
}

// cdxLicenses writes licences. CycloneDX allows a list of licences, or one
// expression (ECMA-424, licenseChoice); since 1.7 a list may hold both.
func (w *writer) cdxLicenses(c *Component, version string) {
	type choice struct{ text, ack string }
	var all []choice
	for _, l := range c.Licenses {
		all = append(all, choice{l, "declared"})
	}
	for _, l := range c.Concluded {
		all = append(all, choice{l, "concluded"})
	}
	lone := len(all) == 1 || version == "1.7"
	w.list("licenses", len(all), func(i int) {
		l := all[i]
		w.begin("")
		if isExpression(l.text) && lone {
			w.text("expression", l.text)
		} else {
			w.begin("license")
			if !isExpression(l.text) && KnownLicense(l.text) {
				w.text("id", l.text)
			} else {
				w.text("name", l.text)
			}
			w.text("acknowledgement", l.ack)
			w.end()
			w.end()
			return
		}
		w.text("acknowledgement", l.ack)
		w.end()
	})
}

// isExpression says whether a licence is an SPDX expression of several parts.
func isExpression(s string) bool {
	return strings.Contains(s, " OR ") || strings.Contains(s, " AND ") || strings.Contains(s, " WITH ")
}
