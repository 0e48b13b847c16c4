package sbom

import (
	"fmt"
	"hash/maphash"
	"io"
)

// Quality judges how much a document can be relied on, in parts that each say
// why. It says nothing about the software.
type Quality struct {
	Score int // 0 to 100: the weighted sum of the parts
	Parts []QualityPart
	// Incomplete repeats why the document may not hold everything; an incomplete
	// document never counts as clean.
	Incomplete []string
}

// QualityPart is one thing that is looked at.
type QualityPart struct {
	Name   string // stable: "identified", "versioned", …
	Weight int    // of the score; the weights add up to 100
	Have   int    // how many packages have it, or 1
	Of     int    // of how many; 0 when nothing was there to look at
	Reason string // what is missing, with an example; "" when all is there
}

// aspect is a part that each package has or lacks.
type aspect struct {
	name   string
	weight int
	want   string
	has    func(c *Component) bool
}

var aspects = [...]aspect{
	{"identified", 30, "a package URL", func(c *Component) bool { return c.PURL.Type != "" }},
	{"versioned", 25, "a version", func(c *Component) bool { return c.Version != "" && c.Version != "(devel)" && c.Version != "UNKNOWN" }},
	{"licensed", 10, "a licence that is a valid SPDX expression", func(c *Component) bool {
		for _, l := range append(append([]string{}, c.Licenses...), c.Concluded...) {
			if LicenseIDs(l) != nil {
				return true
			}
		}
		return false
	}},
	{"supplied", 5, "a supplier", func(c *Component) bool { return c.Supplier != "" }},
	{"hashed", 5, "a digest", func(c *Component) bool { return len(c.Digests) > 0 }},
}

// Judge scores a document: the minimum elements of an SBOM (NTIA 2021), and what
// matching against advisories needs.
func Judge(d *Document) Quality {
	var t tally
	for i := range d.Components {
		t.component(&d.Components[i])
	}
	for _, dep := range d.Dependencies {
		t.edges += len(dep.On)
	}
	return t.judge(d.Header)
}

// isPublished is, beside those of the aspects, the bit of what somebody publishes.
const isPublished = 1 << 7

// tally counts, as components pass, what a score is made of.
type tally struct {
	packages, edges int
	have            [len(aspects)]int
	lacking         [len(aspects)]string // the first package that lacks it
	// bits are the aspects that a ref has, by its hash: what is described is taken
	// out again, and a letter more for each of a million packages is much.
	bits map[uint64]uint8
	seed maphash.Seed
}

func (t *tally) component(c *Component) {
	if !c.IsPackage() {
		return
	}
	if t.bits == nil {
		t.bits, t.seed = map[uint64]uint8{}, maphash.MakeSeed()
	}
	t.packages++
	bits := uint8(0)
	if c.published() {
		bits = isPublished
	}
	defer func() { t.bits[maphash.String(t.seed, c.Ref)] = bits }()
	for i, a := range aspects {
		if a.has(c) {
			t.have[i]++
			bits |= 1 << i
		} else if t.lacking[i] == "" {
			t.lacking[i] = clip(c.FullName(), 100)
		}
	}
}

func (t *tally) judge(head Header) Quality {
	for _, r := range head.Roots {
		if t.bits == nil {
			break
		}
		h := maphash.String(t.seed, r)
		if bits, is := t.bits[h]; is && (len(head.Roots) < 2 || bits&isPublished == 0) {
			delete(t.bits, h)
			t.packages--
			for i := range aspects {
				t.have[i] -= int(bits >> i & 1)
			}
		}
	}
	q := Quality{Incomplete: head.missing(t.packages)}
	for i, a := range aspects {
		part := QualityPart{Name: a.name, Weight: a.weight, Of: t.packages, Have: t.have[i]}
		if part.Have < part.Of {
			part.Reason = fmt.Sprintf("without %s: %s", a.want, t.lacking[i])
		}
		if more := part.Of - part.Have - 1; more > 0 {
			part.Reason += fmt.Sprintf(" and %d more", more)
		}
		q.Parts = append(q.Parts, part)
	}
	one := func(name string, weight int, ok bool, reason string) {
		part := QualityPart{Name: name, Weight: weight, Of: 1, Have: 1}
		if !ok {
			part.Have, part.Reason = 0, reason
		}
		q.Parts = append(q.Parts, part)
	}
	one("related", 10, t.edges > 0 || t.packages < 2, "no dependencies between packages: direct and transitive cannot be told apart")
	one("subject", 5, len(head.Roots) > 0, "it does not say what it describes")
	one("dated", 5, !head.Created.IsZero() && len(head.Tools)+len(head.Authors) > 0, "it does not say when and by what it was made")
	one("whole", 5, len(head.Incomplete) == 0 && len(head.Problems) == 0, "parts are missing or were not understood")
	for i, p := range q.Parts {
		switch {
		case p.Of > 0:
			q.Score += p.Weight * p.Have * 1000 / p.Of
		case t.packages == 0:
			q.Parts[i].Reason = "no packages in it"
		}
	}
	q.Score /= 1000
	if t.packages == 0 {
		q.Score = 0
	}
	return q
}

// Examine reads a document and judges it, without holding it.
func Examine(in io.ReadSeeker, lim Limits) (Header, Quality, error) {
	s := &reread{in: in}
	var t tally
	walk := &stream{lim: lim.withDefaults(), refs: newRefTable(), again: s.start, visit: Visitor{
		Component:  func(c Component) error { t.component(&c); return nil },
		Dependency: func(dep Dependency) error { t.edges += len(dep.On); return nil },
	}}
	r, err := s.start()
	if err != nil {
		return Header{}, Quality{}, err
	}
	head, err := walk.run(r)
	if err != nil {
		return Header{}, Quality{}, err
	}
	return head, t.judge(head), nil
}

// Packages is how many packages were looked at, without what the document
// describes.
func (q Quality) Packages() int {
	if len(q.Parts) == 0 {
		return 0
	}
	return q.Parts[0].Of
}
