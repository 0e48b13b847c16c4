package vex

import (
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Read reads a document of any of the three formats, told apart by what they say
// of themselves. Errors are fault.Invalid, or fault.TooLarge.
func Read(b []byte) (*Document, error) {
	if len(b) > MaxBytes {
		return nil, fault.Newf(fault.TooLarge, "a VEX document of %d bytes: at most %d", len(b), MaxBytes)
	}
	var head struct {
		Context  any    `json:"@context"`
		BOM      string `json:"bomFormat"`
		Document *struct {
			Category string `json:"category"`
		} `json:"document"`
	}
	if err := strictjson.Unmarshal(b, &head, strictjson.WithMaxBytes(MaxBytes)); err != nil {
		return nil, fault.Newf(fault.Invalid, "VEX: %w", err)
	}
	var d *Document
	var err error
	context, _ := head.Context.(string)
	switch {
	case strings.HasPrefix(context, "https://openvex.dev/ns"):
		d, err = readOpenVEX(b)
	case head.BOM == "CycloneDX":
		d, err = readCycloneDX(b)
	case head.Document != nil:
		d, err = readCSAF(b)
	default:
		return nil, fault.Newf(fault.Invalid, "VEX: want OpenVEX (@context), CSAF (document.category) or CycloneDX (bomFormat)")
	}
	if err != nil {
		return nil, err
	}
	if len(d.Statements) == 0 {
		return nil, fault.Newf(fault.Invalid, "VEX: the document states nothing")
	}
	if len(d.Statements) > maxStatements {
		return nil, fault.Newf(fault.TooLarge, "VEX: %d statements, at most %d", len(d.Statements), maxStatements)
	}
	for i := range d.Statements {
		s := &d.Statements[i]
		for _, p := range s.Products {
			// A pattern of repositories here is ours to write, and no other's name for a
			// product: "**" in the place of a package URL would be everything.
			if !strings.HasPrefix(p, "pkg:") && !strings.HasPrefix(p, "sha256:") && !strings.HasPrefix(p, "sha512:") && !(d.Format == "openvex" && strings.HasPrefix(p, repositoryURN)) {
				return nil, fault.Newf(fault.Invalid, "VEX: statement %d: product %.200q: want a package URL, a digest, or %sPATTERN", i+1, p, repositoryURN)
			}
		}
		s.Impact, s.Action = excerpt.Text(s.Impact, maxText), excerpt.Text(s.Action, maxText)
		if err := s.Check(); err != nil {
			return nil, fault.Newf(fault.Invalid, "VEX: statement %d: %w", i+1, err)
		}
	}
	d.ID, d.Author = excerpt.Line(d.ID, 300, '?'), excerpt.Line(d.Author, 200, '?')
	return d, nil
}

// openVEX is the document of OpenVEX 0.2.0, and of 0.0.1 where they differ.
type openVEX struct {
	Context    string             `json:"@context"`
	ID         string             `json:"@id"`
	Author     string             `json:"author"`
	Timestamp  string             `json:"timestamp"`
	Version    any                `json:"version,omitempty"`
	Statements []openVEXStatement `json:"statements"`
}

type openVEXStatement struct {
	Vulnerability any              `json:"vulnerability"` // object, or a name
	Products      []openVEXProduct `json:"products,omitempty"`
	Status        Status           `json:"status"`
	Justification string           `json:"justification,omitempty"`
	Impact        string           `json:"impact_statement,omitempty"`
	Action        string           `json:"action_statement,omitempty"`
	Versions      string           `json:"urn:assay:versions,omitempty"`
	Until         string           `json:"urn:assay:until,omitempty"`
}

type openVEXVulnerability struct {
	Name    string   `json:"name"`
	Aliases []string `json:"aliases,omitempty"`
}

type openVEXProduct struct {
	ID            string            `json:"@id"`
	Identifiers   map[string]string `json:"identifiers,omitempty"`
	Hashes        map[string]string `json:"hashes,omitempty"`
	Subcomponents []openVEXProduct  `json:"subcomponents,omitempty"`
}

// exact leaves out, of the ways in which a document identifies one product, those
// that are wider than another: who names a digest does not mean the repository, and
// who names a version does not mean all.
func exact(names []string) []string {
	purls := make([]artifact.PURL, len(names))
	digest := false
	for i, n := range names {
		purls[i], _ = artifact.ParsePURL(n) // what is none is judged by Check
		_, err := artifact.ParseDigest(purls[i].Version)
		digest = digest || strings.HasPrefix(n, "sha256:") || purls[i].Type == "oci" && err == nil
	}
	var out []string
	for i, n := range names {
		p := purls[i]
		_, err := artifact.ParseDigest(p.Version)
		wide := digest && p.Type == "oci" && err != nil
		wide = wide || p.Type != "" && p.Version == "" && slices.ContainsFunc(purls, func(o artifact.PURL) bool { return o.Version != "" && o.Package().String() == p.Package().String() })
		if !wide {
			out = append(out, n)
		}
	}
	return out
}

// within are the names of a component of a product: package URLs, since findings are
// known by those.
func within(names []string) (out []string) {
	for _, n := range names {
		if strings.HasPrefix(n, "pkg:") {
			out = append(out, n)
		}
	}
	return out
}

// names are all ways in which the document identifies a product.
func (p *openVEXProduct) names() (out []string) {
	for k, v := range p.Hashes {
		if strings.EqualFold(k, "sha-256") || strings.EqualFold(k, "sha256") {
			out = append(out, "sha256:"+strings.ToLower(v))
		}
	}
	if v := p.Identifiers["purl"]; v != "" {
		out = append(out, v)
	}
	if p.ID != "" && (len(out) == 0 || strings.HasPrefix(p.ID, "pkg:") && p.ID != p.Identifiers["purl"]) {
		out = append(out, p.ID)
	}
	return out
}

func readOpenVEX(b []byte) (*Document, error) {
	var in openVEX
	if err := strictjson.Unmarshal(b, &in, strictjson.WithMaxBytes(MaxBytes)); err != nil {
		return nil, fault.Newf(fault.Invalid, "OpenVEX: %w", err)
	}
	d := &Document{ID: in.ID, Author: in.Author, Format: "openvex"}
	for i := range in.Statements {
		st := &in.Statements[i]
		names, err := vulnerabilityNames(st.Vulnerability)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "OpenVEX: statement %d: %w", i+1, err)
		}
		var until time.Time
		if st.Until != "" {
			if until, err = time.Parse(time.RFC3339, st.Until); err != nil {
				return nil, fault.Newf(fault.Invalid, "OpenVEX: statement %d: urn:assay:until %.40q: want RFC 3339", i+1, st.Until)
			}
		}
		for j := range st.Products {
			p := &st.Products[j]
			out := Statement{
				Vulnerabilities: names, Products: exact(p.names()), Status: st.Status, Justification: st.Justification, Impact: st.Impact, Action: st.Action, Versions: st.Versions, Until: until.UTC(),
			}
			for k := range p.Subcomponents {
				part := exact(p.Subcomponents[k].names())
				if purls := within(part); len(purls) > 0 {
					part = purls
				}
				if len(part) == 0 {
					return nil, fault.Newf(fault.Invalid, "OpenVEX: statement %d: a subcomponent has no package URL: it would be about all of the product", i+1)
				}
				out.Components = append(out.Components, part...)
			}
			d.Statements = append(d.Statements, out)
			if len(d.Statements) > maxStatements {
				return nil, fault.Newf(fault.TooLarge, "OpenVEX: over %d statements", maxStatements)
			}
		}
		if len(st.Products) == 0 {
			return nil, fault.Newf(fault.Invalid, "OpenVEX: statement %d names no product: it would be about everything", i+1)
		}
	}
	return d, nil
}

func vulnerabilityNames(v any) ([]string, error) {
	switch v := v.(type) {
	case string:
		return []string{v}, nil
	case map[string]any:
		var out []string
		if name, is := v["name"].(string); is && name != "" {
			out = append(out, name)
		}
		if aliases, is := v["aliases"].([]any); is {
			for _, a := range aliases {
				if s, is := a.(string); is {
					out = append(out, s)
				}
			}
		}
		return out, nil
	}
	return nil, fault.Newf(fault.Invalid, "vulnerability: want an object with a name")
}

// csaf is what is read of the VEX profile of CSAF 2.0 (section 4.5).
type csaf struct {
	Document struct {
		Category  string `json:"category"`
		Publisher struct {
			Name string `json:"name"`
		} `json:"publisher"`
		Tracking struct {
			ID string `json:"id"`
		} `json:"tracking"`
	} `json:"document"`
	Tree struct {
		Branches      []csafBranch  `json:"branches"`
		Products      []csafProduct `json:"full_product_names"`
		Relationships []struct {
			Product   csafProduct `json:"full_product_name"`
			Category  string      `json:"category"`
			Reference string      `json:"product_reference"`
			RelatesTo string      `json:"relates_to_product_reference"`
		} `json:"relationships"`
	} `json:"product_tree"`
	Vulnerabilities []struct {
		CVE string `json:"cve"`
		IDs []struct {
			Text string `json:"text"`
		} `json:"ids"`
		Status map[string][]string `json:"product_status"`
		Flags  []struct {
			Label    string   `json:"label"`
			Products []string `json:"product_ids"`
		} `json:"flags"`
		Threats []struct {
			Category string   `json:"category"`
			Details  string   `json:"details"`
			Products []string `json:"product_ids"`
		} `json:"threats"`
	} `json:"vulnerabilities"`
}

type csafBranch struct {
	Branches []csafBranch `json:"branches"`
	Product  *csafProduct `json:"product"`
}

type csafProduct struct {
	ID     string `json:"product_id"`
	Helper struct {
		PURL   string `json:"purl"`
		Hashes []struct {
			Files []struct {
				Algorithm string `json:"algorithm"`
				Value     string `json:"value"`
			} `json:"file_hashes"`
		} `json:"hashes"`
	} `json:"product_identification_helper"`
}

func (p *csafProduct) names() (out []string) {
	if p.Helper.PURL != "" {
		out = append(out, p.Helper.PURL)
	}
	defer func() { out = exact(out) }()
	for _, h := range p.Helper.Hashes {
		for _, f := range h.Files {
			if strings.EqualFold(f.Algorithm, "sha256") {
				out = append(out, "sha256:"+strings.ToLower(f.Value))
			}
		}
	}
	return out
}

// named is how a product ID of the tree is known outside: the product, and the
// component within it where it is a relation of two.
type named struct {
	products, components []string
	related              bool // it is a relation: components are wanted
}

func (c *csaf) products() map[string]named {
	out := map[string]named{}
	add := func(p *csafProduct) { out[p.ID] = named{products: p.names()} }
	var walk func([]csafBranch, int)
	walk = func(all []csafBranch, depth int) {
		for i := range all {
			if p := all[i].Product; p != nil {
				add(p)
			}
			if depth < 64 {
				walk(all[i].Branches, depth+1)
			}
		}
	}
	walk(c.Tree.Branches, 0)
	for i := range c.Tree.Products {
		add(&c.Tree.Products[i])
	}
	for _, r := range c.Tree.Relationships {
		// "default_component_of", "installed_on": the first lies in the second.
		part := out[r.Reference]
		if !part.related {
			part.components = part.products
		}
		out[r.Product.ID] = named{products: out[r.RelatesTo].products, components: within(part.components), related: true}
	}
	return out
}

var csafStatus = []struct {
	name   string
	status Status
}{
	{"known_not_affected", NotAffected}, {"known_affected", Affected}, {"first_affected", Affected}, {"last_affected", Affected},
	{"fixed", Fixed}, {"first_fixed", Fixed}, {"under_investigation", Investigating},
}

func readCSAF(b []byte) (*Document, error) {
	var in csaf
	if err := strictjson.Unmarshal(b, &in, strictjson.WithMaxBytes(MaxBytes)); err != nil {
		return nil, fault.Newf(fault.Invalid, "CSAF: %w", err)
	}
	if in.Document.Category != "csaf_vex" && in.Document.Category != "csaf_security_advisory" {
		return nil, fault.Newf(fault.Invalid, "CSAF: category %.60q, want csaf_vex", in.Document.Category)
	}
	d := &Document{ID: in.Document.Tracking.ID, Author: in.Document.Publisher.Name, Format: "csaf"}
	products := in.products()
	for i := range in.Vulnerabilities {
		v := &in.Vulnerabilities[i]
		var names []string
		if v.CVE != "" {
			names = append(names, v.CVE)
		}
		for _, id := range v.IDs {
			names = append(names, id.Text)
		}
		labels, impact := map[string]string{}, map[string]string{}
		for _, f := range v.Flags {
			for _, p := range f.Products {
				labels[p] = f.Label // CSAF's labels are OpenVEX's justifications
			}
		}
		for _, t := range v.Threats {
			if t.Category == "impact" {
				for _, p := range t.Products {
					impact[p] = t.Details
				}
			}
		}
		for _, row := range csafStatus {
			for _, id := range v.Status[row.name] {
				where := products[id]
				if len(where.products) == 0 || where.related && len(where.components) == 0 {
					if row.status == Affected || row.status == Investigating {
						continue // it takes nothing away
					}
					return nil, fault.Newf(fault.Invalid, "CSAF: product %.80q has neither package URL nor hash: nothing can be told to be it", id)
				}
				d.Statements = append(d.Statements, Statement{
					Vulnerabilities: names, Products: where.products, Components: where.components, Status: row.status, Justification: labels[id], Impact: impact[id],
				})
				if len(d.Statements) > maxStatements {
					return nil, fault.Newf(fault.TooLarge, "CSAF: over %d statements", maxStatements)
				}
			}
		}
	}
	return d, nil
}
