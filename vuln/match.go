package vuln

import (
	"slices"
	"strings"

	"github.com/google/osv-scalibr/semantic"
)

// Status is the answer of matching.
type Status int

// The answers. Unknown is none of the others: whoever counts, counts it apart.
const (
	NotAffected Status = iota
	IsAffected
	Unknown
)

// String is the word for it.
func (s Status) String() string {
	return [...]string{"not_affected", "affected", "unknown"}[s]
}

// Verdict is what an advisory says about one version.
type Verdict struct {
	Status Status
	Reason string // of Unknown
	Fixed  string // the least version behind the affected range that is fixed; "" when none is named
}

// family is the ecosystem whose version order counts. Those that OSV names and
// the library does not are ordered as their packages are.
func family(ecosystem string) string {
	base, _, _ := strings.Cut(ecosystem, ":")
	if base == "GitHub Actions" {
		return "npm" // both are SemVer, with parts left out
	}
	return base
}

// parsed is a version that was read, or why it cannot be.
type parsed struct {
	text string
	v    semantic.Version
	err  error
}

func parse(version, family string) parsed {
	if len(version) > maxVersion {
		return parsed{text: version, err: semantic.ErrInvalidVersion}
	}
	if version == "" {
		return parsed{err: semantic.ErrInvalidVersion}
	}
	if family == "Go" && (version[0] < '0' || version[0] > '9') {
		// "(devel)": a program that was built of a working folder. The library
		// orders it before all others.
		return parsed{text: version, err: semantic.ErrInvalidVersion}
	}
	v, err := semantic.Parse(version, family)
	return parsed{version, v, err}
}

// maxVersion is the longest version that is compared, in bytes.
const maxVersion = 256

// compare orders two versions that were read.
func (p parsed) compare(q parsed) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	if q.err != nil {
		return 0, q.err
	}
	return p.v.Compare(q.v)
}

// span is a part of the version line: from introduced on (all, if zero) up to
// but not with fixed, or up to and with last. An open end has neither.
type span struct {
	from     parsed
	all      bool // from before every version
	to       parsed
	open     bool // no end
	included bool // to is affected itself
}

// Affects says whether one version is affected: by the list of versions, or by a
// range (the algorithm of the OSV schema, with events in any order).
func (a *Affected) Affects(version string) Verdict {
	m := a.compile(nil)
	p := parse(version, m.family)
	return m.judge(p)
}

// Judges gives, for each of so many packages of one advisory, what judges many of
// its versions: bounds are read once, and what packages share is compared once.
func Judges(packages int) func(a *Affected) func(version string) Verdict {
	all := newReaders(packages)
	return func(a *Affected) func(version string) Verdict {
		m := a.compile(all)
		return func(version string) Verdict { return m.judge(m.reader.parse(version, m.family)) }
	}
}

// reader remembers what it read and compared. Advisories of distributions name
// hundreds of packages that were built of few sources: their bounds, and what is
// stored of them, are few versions over and over. nil remembers nothing.
type reader struct {
	read  map[string]parsed
	order map[[2]string]int
}

// readers are one for each family, for an advisory of so many packages that it
// pays.
type readers map[string]*reader

func newReaders(packages int) readers {
	if packages < 16 {
		return nil
	}
	return readers{}
}

func (all readers) of(family string) *reader {
	if all == nil {
		return nil
	}
	r := all[family]
	if r == nil {
		r = &reader{read: map[string]parsed{}, order: map[[2]string]int{}}
		all[family] = r
	}
	return r
}

func (r *reader) parse(version, family string) parsed {
	if r == nil {
		return parse(version, family)
	}
	p, known := r.read[version]
	if !known {
		p = parse(version, family)
		r.read[version] = p
	}
	return p
}

func (r *reader) compare(p, q parsed) (int, error) {
	if r == nil || p.err != nil || q.err != nil {
		return p.compare(q)
	}
	key := [2]string{p.text, q.text}
	if c, known := r.order[key]; known {
		return c, nil
	}
	c, err := p.compare(q)
	if err == nil {
		r.order[key] = c
	}
	return c, err
}

// matcher is a package of an advisory with its versions read once.
type matcher struct {
	family  string
	reader  *reader
	list    []string
	listed  map[string]bool // list, made when it is asked about often
	asked   int
	read    []parsed // list, made when it is compared with
	spans   []span
	problem string // a bound that cannot be read: what it would have said is unknown
	none    bool   // neither list nor range that can be judged by version
}

func (a *Affected) compile(all readers) *matcher {
	m := &matcher{family: family(a.Package.Ecosystem), none: true}
	m.reader = all.of(m.family)
	if len(a.Versions) > 0 {
		m.none = false
		m.list = a.Versions
	}
	for _, r := range a.Ranges {
		if r.Type == "GIT" {
			continue // commits have no order without their repository
		}
		f := m.family
		m.none = false
		m.addRange(r, f)
	}
	return m
}

// lists says whether a version stands in the list, letter by letter. Most lists
// are asked about a few times, and are not worth a map.
func (m *matcher) lists(version string) bool {
	if m.listed == nil {
		if m.asked++; m.asked <= 16 {
			return slices.Contains(m.list, version)
		}
		m.listed = make(map[string]bool, len(m.list))
		for _, v := range m.list {
			m.listed[v] = true
		}
	}
	return m.listed[version]
}

// addRange turns events into spans. Sorted, an introduced opens a span that the
// next fixed or last_affected ends; a second introduced within is nothing new.
func (m *matcher) addRange(r Range, family string) {
	type point struct {
		Event
		at  parsed
		min bool
	}
	if e := r.Events; len(e) == 2 && e[0].Introduced == "0" && e[1].Introduced == "" && e[1].Limit == "" {
		// As most are: from the beginning to one end.
		s := span{all: true, to: m.reader.parse(e[1].Fixed+e[1].LastAffected, family), included: e[1].LastAffected != ""}
		if s.to.err != nil {
			m.problem = "the advisory's version " + quoted(s.to.text) + " cannot be read"
			return
		}
		m.spans = append(m.spans, s)
		return
	}
	points := make([]point, 0, len(r.Events))
	for _, e := range r.Events {
		p := point{Event: e, min: e.Introduced == "0"}
		if text := e.Introduced + e.Fixed + e.LastAffected + e.Limit; !p.min && text != "*" {
			if p.at = m.reader.parse(text, family); p.at.err != nil {
				m.problem = "the advisory's version " + quoted(text) + " cannot be read"
				return
			}
		}
		if e.Limit == "*" {
			continue // no limit
		}
		points = append(points, p)
	}
	slices.SortStableFunc(points, func(x, y point) int {
		switch {
		case x.min && y.min:
			return 0
		case x.min:
			return -1
		case y.min:
			return 1
		}
		c, err := x.at.compare(y.at)
		if err != nil {
			m.problem = "the advisory's versions cannot be compared"
		}
		if c == 0 { // an end at the very place comes before a beginning
			return ends(x.Event) - ends(y.Event)
		}
		return c
	})
	var open *span
	for _, p := range points {
		switch {
		case p.Introduced != "" && open == nil:
			open = &span{from: p.at, all: p.min, open: true}
		case p.Introduced != "":
		case open != nil:
			open.to, open.open, open.included = p.at, false, p.LastAffected != ""
			m.spans = append(m.spans, *open)
			open = nil
		}
	}
	if open != nil {
		m.spans = append(m.spans, *open)
	}
}

// ends orders events of one version: last_affected lies behind an introduced of
// the same version, a fixed before it.
func ends(e Event) int {
	switch {
	case e.Fixed != "" || e.Limit != "":
		return 0
	case e.Introduced != "":
		return 1
	}
	return 2
}

func quoted(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return `"` + strings.ToValidUTF8(s, "?") + `"`
}

// judge says what is so for one version.
func (m *matcher) judge(p parsed) Verdict {
	if m.lists(p.text) {
		return Verdict{Status: IsAffected, Fixed: m.fixAfter(p)}
	}
	if m.none {
		return Verdict{Status: Unknown, Reason: "the advisory names no version, and no range other than of commits"}
	}
	if p.text == "" {
		return Verdict{Status: Unknown, Reason: "the component's version is not known"}
	}
	if len(m.spans) > 0 && p.err != nil {
		return Verdict{Status: Unknown, Reason: "the component's version " + quoted(p.text) + " cannot be read"}
	}
	for i := range m.spans {
		in, err := m.spans[i].holds(p, m.reader)
		if err != nil {
			return Verdict{Status: Unknown, Reason: "the component's version " + quoted(p.text) + " cannot be compared"}
		}
		if in {
			return Verdict{Status: IsAffected, Fixed: m.spans[i].fix()}
		}
	}
	if m.problem != "" {
		return Verdict{Status: Unknown, Reason: m.problem}
	}
	if len(m.spans) == 0 {
		if p.err != nil {
			return Verdict{Status: Unknown, Reason: "the component's version " + quoted(p.text) + " cannot be read"}
		}
		// A list alone: the same version may be spelled in another way.
		if m.read == nil {
			m.read = make([]parsed, 0, len(m.list))
			for _, v := range m.list {
				m.read = append(m.read, parse(v, m.family))
			}
		}
		for _, v := range m.read {
			if c, err := v.compare(p); err == nil && c == 0 {
				return Verdict{Status: IsAffected}
			}
		}
	}
	return Verdict{Status: NotAffected}
}

func (s *span) holds(p parsed, r *reader) (bool, error) {
	if !s.all {
		if c, err := r.compare(p, s.from); err != nil || c < 0 {
			return false, err
		}
	}
	if s.open {
		return true, nil
	}
	c, err := r.compare(p, s.to)
	return err == nil && (c < 0 || c == 0 && s.included), err
}

// fix is the version that mends what lies in the span.
func (s *span) fix() string {
	if s.open || s.included {
		return ""
	}
	return s.to.text
}

// fixAfter is the least fixed version above p, for one that stands in the list
// and in no range.
func (m *matcher) fixAfter(p parsed) string {
	best := parsed{}
	for i := range m.spans {
		s := &m.spans[i]
		if s.fix() == "" {
			continue
		}
		if c, err := s.to.compare(p); err != nil || c <= 0 {
			continue
		}
		if best.text == "" {
			best = s.to
		} else if c, err := s.to.compare(best); err == nil && c < 0 {
			best = s.to
		}
	}
	return best.text
}
