package vuln

import (
	"iter"
	"slices"
	"sort"
	"sync"

	"github.com/google/osv-scalibr/semantic"
)

// Component is a package in one version, as it stands in the index: id is the
// store's own.
type Component struct {
	ID int64
	Candidate
}

// Index answers which documents hold what an advisory affects. It is the
// inverted form of what the database holds, made at start and kept up to date;
// everything in it can be made anew.
//
// Components of one package lie sorted by version, so that a range of versions is
// two binary searches, however many versions there are. A component's documents
// are a list of numbers of four bytes each. Methods may be called concurrently.
type Index struct {
	mu       sync.RWMutex
	packages map[Package]*entry
	at       map[int64]*entry   // of a component: the package it stands in
	also     map[int64][]*entry // further ones, of the few that are looked up in several ways
	docs     docs
	unsorted map[*entry]bool

	components  int
	occurrences int
}

// entry is one package: its versions.
type entry struct {
	family   string
	versions []version          // sorted once settled; those that cannot be read last
	readable int                // how many of them can be read
	read     []semantic.Version // those, as they are compared
}

// parsed is a version as it is compared.
func (e *entry) parsed(i int) parsed {
	if i < len(e.read) {
		return parsed{text: e.versions[i].text, v: e.read[i]}
	}
	return parse(e.versions[i].text, e.family)
}

// version is one component.
type version struct {
	id       int64
	text     string
	platform string
	docs     []uint32
}

// docs are the documents by number, and the numbers by document.
type docs struct {
	ids    []int64
	number map[int64]uint32
	gone   map[uint32]bool
}

// NewIndex makes an empty index.
func NewIndex() *Index {
	return &Index{packages: map[Package]*entry{}, at: map[int64]*entry{}, also: map[int64][]*entry{}, unsorted: map[*entry]bool{}, docs: docs{number: map[int64]uint32{}, gone: map[uint32]bool{}}}
}

// Add enters components that are new to the index, under each of the packages
// that they are looked up by.
func (x *Index) Add(all ...Component) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range all {
		e := x.packages[c.Package]
		if e == nil {
			e = &entry{family: family(c.Ecosystem)}
			x.packages[c.Package] = e
		}
		switch first := x.at[c.ID]; {
		case first == e || slices.Contains(x.also[c.ID], e):
			continue
		case first == nil:
			x.at[c.ID] = e
		default:
			x.also[c.ID] = append(x.also[c.ID], e)
		}
		e.versions = append(e.versions, version{id: c.ID, text: c.Version, platform: c.Platform})
		x.unsorted[e], e.read = true, nil
		x.components++
	}
}

// Occur enters a document's components. Those that were never added are of
// packages that no feed knows.
func (x *Index) Occur(document int64, components ...int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := x.docs.of(document)
	for _, id := range components {
		for e := range x.places(id) {
			if v := e.find(id); v != nil {
				v.docs = append(v.docs, n)
				x.occurrences++
			}
		}
	}
}

// Load enters all documents of one component at once, as they come from the
// database: the list has exactly the length that it needs.
func (x *Index) Load(component int64, documents []int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.at[component] == nil {
		return
	}
	list := make([]uint32, len(documents))
	for i, d := range documents {
		list[i] = x.docs.of(d)
	}
	for e := range x.places(component) {
		if v := e.find(component); v != nil {
			if len(v.docs) > 0 || e != x.at[component] {
				v.docs = slices.Concat(v.docs, list)
			} else {
				v.docs = list
			}
			x.occurrences += len(list)
		}
	}
}

// places are the packages of a component.
func (x *Index) places(component int64) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		if e := x.at[component]; e == nil || !yield(e) {
			return
		}
		for _, e := range x.also[component] {
			if !yield(e) {
				return
			}
		}
	}
}

// Forget takes a document out.
func (x *Index) Forget(document int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n, is := x.docs.number[document]; is {
		x.docs.gone[n] = true
		delete(x.docs.number, document)
	}
}

func (d *docs) of(id int64) uint32 {
	n, is := d.number[id]
	if !is {
		n = uint32(len(d.ids))
		d.ids = append(d.ids, id)
		d.number[id] = n
	}
	return n
}

func (e *entry) find(id int64) *version {
	for i := range e.versions {
		if e.versions[i].id == id {
			return &e.versions[i]
		}
	}
	return nil
}

// Size is how many components, documents and occurrences there are.
func (x *Index) Size() (components, documents, occurrences int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.components, len(x.docs.number), x.occurrences
}

// Hit is a component that an advisory affects, or of which it cannot be told.
type Hit struct {
	Component int64
	Package   Package
	Version   string
	Verdict
	Documents []int64
}

// Affected finds what an advisory affects. Documents are given when documents is
// set; otherwise each hit says only that there are some. The work grows with what
// is hit, not with what is stored.
func (x *Index) Affected(a *Advisory, documents bool) []Hit {
	if documents {
		return x.affected(a, x.documents)
	}
	return x.affected(a, nil)
}

// affected gives each hit the documents that list takes from its own; nil gives
// none.
func (x *Index) affected(a *Advisory, list func([]uint32) []int64) []Hit {
	if a.IsWithdrawn() {
		return nil
	}
	if len(a.Affected) == 1 {
		return x.of(nil, &a.Affected[0], nil, list)
	}
	var hits []Hit
	all := newReaders(len(a.Affected))
	for i := range a.Affected {
		hits = x.of(hits, &a.Affected[i], all, list)
	}
	if len(hits) == 0 {
		return nil
	}
	// One advisory may name a package twice, by several ranges.
	seen := make(map[int64]int, len(hits))
	some := hits[:0]
	for _, h := range hits {
		at, is := seen[h.Component]
		switch {
		case !is:
			seen[h.Component] = len(some)
			some = append(some, h)
		case some[at].Status == Unknown && h.Status == IsAffected:
			some[at] = h
		}
	}
	return some
}

// of judges the versions of one package, and adds what is hit.
func (x *Index) of(hits []Hit, f *Affected, all readers, list func([]uint32) []int64) []Hit {
	key := f.Key()
	e := x.settled(key)
	if e == nil {
		return hits
	}
	m := f.compile(all)
	x.mu.RLock()
	defer x.mu.RUnlock()
	hit := func(v *version, verdict Verdict) {
		if !f.For(v.platform) {
			return
		}
		h := Hit{Component: v.id, Package: key, Version: v.text, Verdict: verdict}
		if list != nil {
			h.Documents = list(v.docs)
		}
		hits = append(hits, h)
	}
	whole := m.problem == "" && !m.none && (len(m.list) == 0 || len(m.spans) > 0)
	if !whole || e.readable < 3 {
		for i := range e.versions {
			if v := m.judge(e.parsed(i)); v.Status != NotAffected {
				hit(&e.versions[i], v)
			}
		}
		return hits
	}
	in := make([]bool, e.readable)
	for i := range m.spans {
		from, to := m.spans[i].within(e, m.reader)
		for n := from; n < to; n++ {
			if !in[n] {
				in[n] = true
				hit(&e.versions[n], Verdict{Status: IsAffected, Fixed: m.spans[i].fix()})
			}
		}
	}
	for n := range e.versions {
		switch v := &e.versions[n]; {
		case n < e.readable && in[n]:
		case m.lists(v.text):
			hit(v, m.judge(e.parsed(n)))
		case n >= e.readable:
			if verdict := m.judge(e.parsed(n)); verdict.Status != NotAffected {
				hit(v, verdict)
			}
		}
	}
	return hits
}

// within finds the versions of a span by binary search.
func (s *span) within(e *entry, r *reader) (from, to int) {
	search := func(p parsed, behind bool) int {
		return sort.Search(e.readable, func(i int) bool {
			c, err := r.compare(e.parsed(i), p)
			return err == nil && (c > 0 || c == 0 && !behind)
		})
	}
	to = e.readable
	if !s.all {
		from = search(s.from, false)
	}
	if !s.open {
		to = search(s.to, s.included)
	}
	return from, max(from, to)
}

// settled is the package with its versions in order.
func (x *Index) settled(key Package) *entry {
	x.mu.RLock()
	e := x.packages[key]
	settled := e == nil || !x.unsorted[e]
	x.mu.RUnlock()
	if settled {
		return e
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.unsorted[e] {
		e.settle()
		delete(x.unsorted, e)
	}
	return e
}

// settle sorts the versions; those that cannot be read come last.
func (e *entry) settle() {
	type read struct {
		parsed
		version
	}
	all := make([]read, len(e.versions))
	for i, v := range e.versions {
		all[i] = read{parse(v.text, e.family), v}
	}
	slices.SortStableFunc(all, func(a, b read) int {
		switch {
		case a.err != nil && b.err != nil:
			return 0
		case a.err != nil:
			return 1
		case b.err != nil:
			return -1
		}
		c, _ := a.compare(b.parsed)
		return c
	})
	e.readable = len(all)
	e.read = make([]semantic.Version, 0, len(all))
	for i, r := range all {
		e.versions[i] = r.version
		if r.err == nil {
			e.read = append(e.read, r.v)
		} else if e.readable == len(all) {
			e.readable = i
		}
	}
}

func (x *Index) documents(list []uint32) []int64 {
	out := make([]int64, 0, len(list))
	whole := len(x.docs.gone) == 0
	for _, n := range list {
		if whole || !x.docs.gone[n] {
			out = append(out, x.docs.ids[n])
		}
	}
	return out
}
