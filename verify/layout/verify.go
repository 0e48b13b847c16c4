package layout

import (
	"crypto"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
)

// Bounds of layouts within layouts: how deep, and how many are followed in all.
// A document that many functionaries signed is followed for each of them.
const (
	maxDepth   = 4
	maxLayouts = 512
)

// Document is a signed link, or a sublayout in the place of one.
type Document struct {
	Name string // where it was read, for people
	Body []byte
}

// Attested is a link from evidence that was verified already, with who signed.
type Attested struct {
	Name string
	Link *Link
	Key  string // fingerprint of the key that signed, "sha256:" and hex
}

// Input is what a verification is made of.
type Input struct {
	Layout *Metadata
	Owners []crypto.PublicKey // keys of the layout's owners: each must have signed it
	// Links are documents by folder: "" for the layout's own steps, and for a
	// sublayout "STEP.KEYID" with the first eight letters of the functionary's key
	// id, below the folder of the layout that it stands in.
	Links    map[string][]Document
	Attested []Attested // of the layout's own steps
	// Parameters stand for {NAME} in rules and expected commands.
	Parameters map[string]string
	Now        time.Time
	// SkipInspections lets a layout with inspections be looked at; the outcome is
	// then never Verified.
	SkipInspections bool
}

// Outcome is what a layout that is followed says.
type Outcome struct {
	Verified    bool          `json:"verified"` // false only where inspections were skipped
	Expires     time.Time     `json:"expires"`
	Steps       []StepOutcome `json:"steps"`
	Inspections int           `json:"inspections_skipped,omitempty"`
	Warnings    []string      `json:"warnings,omitempty"` // a command that is not the expected one proves and disproves nothing
	// Materials are what went into the first step, Products what came out of the
	// last.
	Materials Artifacts `json:"-"`
	Products  Artifacts `json:"-"`
}

// StepOutcome is one step that was carried out as it had to be.
type StepOutcome struct {
	Name          string   `json:"name"`
	Threshold     int      `json:"threshold"`
	Functionaries []string `json:"functionaries"` // fingerprints of the keys that signed, sorted
	Materials     int      `json:"materials"`
	Products      int      `json:"products"`
	Sublayout     bool     `json:"sublayout,omitempty"`
}

// Has says whether an artifact came out of the last step.
func (o *Outcome) Has(d artifact.DigestSet) bool {
	for _, p := range o.Products {
		if p.Match(d) {
			return true
		}
	}
	return false
}

// Verify holds links against a layout. A layout that is not followed, is not
// signed by its owners or has expired is fault.Unverified, one that cannot be
// read or executed here fault.Invalid.
func Verify(in Input) (*Outcome, error) {
	if in.Layout == nil || in.Layout.Layout == nil {
		return nil, fault.Newf(fault.Invalid, "this is a link, and no layout")
	}
	if len(in.Owners) == 0 {
		return nil, fault.Newf(fault.Invalid, "want at least one key of the layout's owners: a layout by anybody demands nothing")
	}
	owners := make([]*publicKey, 0, len(in.Owners))
	for _, pub := range in.Owners {
		k, err := newPublicKey(pub, "")
		if err != nil {
			return nil, err
		}
		owners = append(owners, k)
	}
	v := &verification{in: &in, parsed: map[string][]parsedDocument{}}
	return v.layout(in.Layout, owners, "", in.Attested, 0)
}

type verification struct {
	in      *Input
	parsed  map[string][]parsedDocument // by folder, each read once
	layouts int                         // that were followed
}

type parsedDocument struct {
	name string
	m    *Metadata
	err  error
}

// documents are those of a folder.
func (v *verification) documents(dir string) []parsedDocument {
	out, known := v.parsed[dir]
	if !known {
		for _, doc := range v.in.Links[dir] {
			m, err := Parse(doc.Body)
			out = append(out, parsedDocument{doc.Name, m, err})
		}
		v.parsed[dir] = out
	}
	return out
}

// layout is the specification's workflow (5.2), without its last step, which
// would run commands.
func (v *verification) layout(m *Metadata, owners []*publicKey, dir string, attested []Attested, depth int) (*Outcome, error) {
	l := m.Layout
	if v.layouts++; v.layouts > maxLayouts {
		return nil, fault.Newf(fault.TooLarge, "more than %d layouts within layouts", maxLayouts)
	}
	for _, k := range owners {
		if !m.signedBy(k) {
			return nil, fault.Newf(fault.Unverified, "the layout is not signed by key %s", k.fingerprint)
		}
	}
	if !v.in.Now.Before(l.expires) {
		return nil, fault.Newf(fault.Unverified, "the layout expired at %s", l.Expires)
	}
	if n := len(l.Inspect); n > 0 && !v.in.SkipInspections {
		return nil, fault.Newf(fault.Invalid, "the layout has %d inspections: those are commands that its signer has the verifier run, and none is run here; take them out of the layout and make steps of them", n)
	}
	out := &Outcome{Verified: len(l.Inspect) == 0, Expires: l.expires.UTC(), Inspections: len(l.Inspect)}
	links := map[string]*Link{}
	for i := range l.Steps {
		s := &l.Steps[i]
		link, step, err := v.step(l, s, dir, attested, depth, out)
		if err != nil {
			return nil, fmt.Errorf("step %s: %w", clip(s.Name, 80), err)
		}
		links[s.Name] = link
		out.Steps = append(out.Steps, *step)
	}
	for i := range l.Steps {
		if err := v.rules(&l.Steps[i], links); err != nil {
			return nil, fmt.Errorf("step %s: %w", clip(l.Steps[i].Name, 80), err)
		}
	}
	out.Materials, out.Products = links[l.Steps[0].Name].Materials, links[l.Steps[len(l.Steps)-1].Name].Products
	return out, nil
}

// step finds the links of a step by enough distinct functionaries, all of which
// must say the same.
func (v *verification) step(l *Layout, s *Step, dir string, attested []Attested, depth int, out *Outcome) (*Link, *StepOutcome, error) {
	by := map[string]*Link{}
	got := &StepOutcome{Name: s.Name, Threshold: s.Threshold}
	var first error
	refuse := func(err error) {
		if first == nil {
			first = err
		}
	}
	for _, doc := range v.documents(dir) {
		m := doc.m
		if doc.err != nil {
			refuse(fmt.Errorf("%s: %w", clip(doc.name, 120), doc.err))
			continue
		}
		if m.Link != nil && m.Link.Name != s.Name {
			continue
		}
		for _, id := range s.PubKeys {
			k := l.keys[id]
			if by[k.fingerprint] != nil || !m.signedBy(k) {
				continue
			}
			if m.Link != nil {
				by[k.fingerprint] = m.Link
				continue
			}
			if !strings.HasPrefix(base(doc.name), s.Name+".") {
				continue // a sublayout's step is told by its file's name alone
			}
			sub, err := v.sublayout(m, k, join(dir, s.Name+"."+id[:min(8, len(id))]), depth)
			if err != nil {
				return nil, nil, fmt.Errorf("sublayout %s: %w", clip(doc.name, 120), err)
			}
			out.Verified = out.Verified && sub.Verified
			out.Inspections += sub.Inspections
			got.Sublayout = true
			by[k.fingerprint] = &Link{Name: s.Name, Materials: sub.Materials, Products: sub.Products}
		}
	}
	for _, a := range attested {
		known := slices.ContainsFunc(s.PubKeys, func(id string) bool { return l.keys[id].fingerprint == a.Key })
		if known && a.Link.Name == s.Name && by[a.Key] == nil {
			by[a.Key] = a.Link
		}
	}
	for k := range by {
		got.Functionaries = append(got.Functionaries, k)
	}
	sort.Strings(got.Functionaries)
	if len(by) < s.Threshold {
		err := fault.Newf(fault.Unverified, "%d of %d links by distinct functionaries", len(by), s.Threshold)
		if first != nil {
			err = errors.Join(err, first)
		}
		return nil, nil, err
	}
	link := by[got.Functionaries[0]]
	for _, k := range got.Functionaries[1:] {
		if !by[k].Materials.equal(link.Materials) || !by[k].Products.equal(link.Products) {
			return nil, nil, fault.Newf(fault.Unverified, "the links of %s and %s name different artifacts", got.Functionaries[0], k)
		}
	}
	if want := v.substitute(s.ExpectedCommand); len(want) > 0 && !got.Sublayout && !slices.Equal(want, link.Command) {
		out.Warnings = append(out.Warnings, fmt.Sprintf("step %s: the command was [%s], expected [%s]", clip(s.Name, 80), clip(strings.Join(link.Command, " "), 200), clip(strings.Join(want, " "), 200)))
	}
	got.Materials, got.Products = len(link.Materials), len(link.Products)
	return link, got, nil
}

func (v *verification) sublayout(m *Metadata, k *publicKey, dir string, depth int) (*Outcome, error) {
	if depth+1 >= maxDepth {
		return nil, fault.Newf(fault.TooLarge, "layouts within layouts are followed %d deep", maxDepth)
	}
	return v.layout(m, []*publicKey{k}, dir, nil, depth+1)
}

func (v *verification) rules(s *Step, links map[string]*Link) error {
	link := links[s.Name]
	for _, side := range []struct {
		name  string
		rules [][]string
		own   Artifacts
	}{{"materials", s.ExpectedMaterials, link.Materials}, {"products", s.ExpectedProducts, link.Products}} {
		var rules []*rule
		for _, words := range side.rules {
			r, err := parseRule(v.substitute(words), false)
			if err != nil {
				return err
			}
			if r.verb == "MATCH" && links[r.from] == nil {
				return fault.Newf(fault.Invalid, "rule [%s]: there is no step %.60q", r.text, r.from)
			}
			rules = append(rules, r)
		}
		if err := apply(rules, side.name, side.own, link.Materials, link.Products, links); err != nil {
			return err
		}
	}
	return nil
}

// substitute puts parameters in, once: what a value holds is not looked at again.
func (v *verification) substitute(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = parameter.ReplaceAllStringFunc(w, func(m string) string {
			if value, ok := v.in.Parameters[m[1:len(m)-1]]; ok {
				return value
			}
			return m
		})
	}
	return out
}

func base(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
