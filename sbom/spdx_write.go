package sbom

import (
	"net/url"
	"strings"
	"unicode"

	"assay/artifact"
)

// spdxHashNames spells in-toto's algorithm names as SPDX 2.3 does (section 7.10).
var spdxHashNames = map[string]string{
	"md2": "MD2", "md4": "MD4", "md5": "MD5", "md6": "MD6", "adler32": "ADLER32", "sha1": "SHA1", "sha224": "SHA224", "sha256": "SHA256",
	"sha384": "SHA384", "sha512": "SHA512", "sha3_256": "SHA3-256", "sha3_384": "SHA3-384", "sha3_512": "SHA3-512",
	"blake2b_256": "BLAKE2b-256", "blake2b_384": "BLAKE2b-384", "blake2b_512": "BLAKE2b-512", "blake3": "BLAKE3",
}

// spdxID gives a ref a name that SPDX allows: letters, figures, "." and "-" after
// SPDXRef- (SPDX 2.3 section 7.2). Refs that are such names stay, and none of the
// others becomes one of them.
func spdxID(ref string, has func(ref string) bool) string {
	rest, is := strings.CutPrefix(ref, "SPDXRef-")
	if is && ref != spdxDocumentID && rest != "" && strings.IndexFunc(rest, notIDRune) < 0 {
		return ref
	}
	clean := strings.Map(func(r rune) rune {
		if notIDRune(r) {
			return '-'
		}
		return r
	}, rest)
	if len(clean) > 60 {
		clean = clean[:60]
	}
	sum := artifact.SHA256Of([]byte(ref)).Hex()
	id := "SPDXRef-" + clean + "-" + sum[:16]
	for n := 17; has(id) && n <= len(sum); n++ {
		id = "SPDXRef-" + clean + "-" + sum[:n]
	}
	return id
}

// id is a component's name in SPDX; "" when no component has the ref.
func (w *writer) id(ref string) string {
	if !w.src.has(ref) {
		return ""
	}
	return spdxID(ref, w.src.has)
}

func notIDRune(r rune) bool {
	return r > unicode.MaxASCII || !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-')
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func (w *writer) spdx() error {
	d := w.d
	w.begin("")
	w.text("spdxVersion", "SPDX-2.3")
	w.text("dataLicense", "CC0-1.0")
	w.text("SPDXID", spdxDocumentID)
	w.text("name", or(d.Name, "unnamed"))
	w.text("documentNamespace", d.namespace())
	w.begin("creationInfo")
	w.text("created", or(w.created(), "1970-01-01T00:00:00Z"))
	var creators []string
	for _, t := range d.Tools {
		creators = append(creators, "Tool: "+t)
	}
	for _, a := range d.Authors {
		creators = append(creators, "Organization: "+a)
	}
	if len(creators) == 0 {
		creators = []string{"Organization: NOASSERTION"}
	}
	w.value("creators", creators)
	w.end()
	files := false
	w.many("packages", func(item func()) error {
		return w.src.components(func(c *Component) error {
			if spdxIsFile(c) {
				files = true
				return nil
			}
			item()
			w.spdxPackage(c)
			return w.err
		})
	})
	if files {
		w.many("files", func(item func()) error {
			return w.src.components(func(c *Component) error { return w.spdxFile(c, item) })
		})
	}
	w.many("relationships", func(item func()) error {
		edge := func(from, kind, to string) {
			item()
			w.begin("")
			w.text("spdxElementId", from)
			w.text("relationshipType", kind)
			w.text("relatedSpdxElement", to)
			w.end()
		}
		for _, r := range d.Roots {
			if id := w.id(r); id != "" {
				edge(spdxDocumentID, "DESCRIBES", id)
			}
		}
		return w.src.dependencies(func(from string, on []string) error {
			if from = w.id(from); from == "" {
				return w.err
			}
			for _, to := range on {
				if to = w.id(to); to != "" {
					edge(from, "DEPENDS_ON", to)
				}
			}
			return w.err
		})
	})
	w.end()
	return w.err
}

// spdxIsFile says whether SPDX has a component among its files, which must have
// this digest (SPDX 2.3 section 8.4).
func spdxIsFile(c *Component) bool {
	return c.Type == "file" && c.PURL.Type == "" && c.Digests["sha1"] != ""
}

func (w *writer) spdxFile(c *Component, item func()) error {
	if !spdxIsFile(c) {
		return w.err
	}
	item()
	w.begin("")
	w.text("fileName", c.Name)
	w.text("SPDXID", w.id(c.Ref))
	w.pairs("checksums", "algorithm", "checksumValue", digestPairs(c, func(a string) string { return spdxHashNames[a] }))
	w.text("licenseConcluded", or(spdxLicense(c.Concluded), "NOASSERTION"))
	w.text("copyrightText", "NOASSERTION")
	w.end()
	return w.err
}

// namespace is the document's ID as a URI, which SPDX demands.
func (h *Header) namespace() string {
	if strings.Contains(h.ID, ":") {
		return h.ID
	}
	return "https://assay.invalid/spdx/" + url.PathEscape(or(h.ID, or(h.Name, "unnamed")))
}

func (w *writer) spdxPackage(c *Component) {
	w.begin("")
	w.text("name", c.Name)
	w.text("SPDXID", w.id(c.Ref))
	w.text("versionInfo", c.Version)
	if c.Supplier != "" {
		w.text("supplier", "Organization: "+c.Supplier)
	}
	w.text("downloadLocation", "NOASSERTION")
	w.value("filesAnalyzed", false)
	w.pairs("checksums", "algorithm", "checksumValue", digestPairs(c, func(a string) string { return spdxHashNames[a] }))
	w.text("licenseConcluded", or(spdxLicense(c.Concluded), "NOASSERTION"))
	w.text("licenseDeclared", or(spdxLicense(c.Licenses), "NOASSERTION"))
	w.text("copyrightText", "NOASSERTION")
	var refs [][3]string
	if p := c.PURL.String(); p != "" {
		refs = append(refs, [3]string{"PACKAGE-MANAGER", "purl", p})
	}
	for _, cpe := range c.CPEs {
		kind := "cpe22Type"
		if strings.HasPrefix(cpe, "cpe:2.3:") {
			kind = "cpe23Type"
		}
		refs = append(refs, [3]string{"SECURITY", kind, cpe})
	}
	w.list("externalRefs", len(refs), func(i int) {
		w.begin("")
		w.text("referenceCategory", refs[i][0])
		w.text("referenceType", refs[i][1])
		w.text("referenceLocator", refs[i][2])
		w.end()
	})
	w.text("primaryPackagePurpose", spdxPurposes[c.Type])
	w.text("comment", w.spdxComment(c))
	w.end()
}

// spdxLicense joins licences into one expression.
func spdxLicense(in []string) string {
	parts := make([]string, len(in))
	for i, l := range in {
		if parts[i] = l; isExpression(l) && len(in) > 1 {
			parts[i] = "(" + l + ")"
		}
	}
	return strings.Join(parts, " AND ")
}

// spdxComment keeps, in the one free text of a package, what SPDX has no
// member for; [spdxComment] reads it back.
func (w *writer) spdxComment(c *Component) string {
	var lines []string
	add := func(key, value string) {
		if value != "" {
			lines = append(lines, "assay:"+key+": "+value)
		}
	}
	add("group", c.Group)
	add("scope", c.Scope)
	if spdxPurposes[c.Type] == "" {
		add("type", c.Type)
	}
	if c.Parent != "" {
		add("parent", w.id(c.Parent))
	}
	if c.SourceName != "" && c.PURL.Qualifier("upstream") == "" {
		add("source", strings.TrimSpace(c.SourceName+" "+c.SourceVersion))
	}
	for _, l := range c.Locations {
		add("location", url.PathEscape(l))
	}
	return strings.Join(lines, "\n")
}
