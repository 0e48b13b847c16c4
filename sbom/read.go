package sbom

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"

	"assay/internal/excerpt"
	"assay/internal/fault"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits bound what a document may cost. Zero values mean the defaults.
type Limits struct {
	Bytes      int64 // of the document; default 512 MiB
	Components int   // default 1,000,000
	Edges      int   // dependencies in all; default 5,000,000
	Nesting    int   // components inside components; default 64
}

const (
	maxProblems = 100
	maxText     = 4 << 10 // bytes of a name, version or ref
	maxList     = 1_000   // licences, locations, digests of one component
)

func (l Limits) withDefaults() Limits {
	if l.Bytes <= 0 {
		l.Bytes = 512 << 20
	}
	if l.Components <= 0 {
		l.Components = 1_000_000
	}
	if l.Edges <= 0 {
		l.Edges = 5_000_000
	}
	if l.Nesting <= 0 {
		l.Nesting = 64
	}
	return l
}

// Visitor takes what a document holds, as it comes. An error ends the reading
// and is given back. Dependencies may come before the components that they name.
type Visitor struct {
	Component  func(Component) error
	Dependency func(Dependency) error
}

// Stream reads a document of any known format to its end. Memory is bounded by
// the largest single component, not by the document.
func Stream(r io.Reader, lim Limits, v Visitor) (Header, error) {
	return (&stream{lim: lim.withDefaults(), visit: v, refs: newRefTable()}).run(r)
}

// run is one reading.
func (s *stream) run(r io.Reader) (Header, error) {
	if err := s.walk(r); err != nil {
		return Header{}, fmt.Errorf("read SBOM: %w", err)
	}
	return s.head, nil
}

func (s *stream) walk(r io.Reader) error {
	limited := &limitedReader{r: r, left: s.lim.Bytes, most: s.lim.Bytes}
	s.r = bufio.NewReaderSize(limited, 64<<10)
	err := s.read()
	switch {
	case limited.exceeded:
		return fault.Newf(fault.TooLarge, "the document has more than %d bytes: raise the limit, or split it", s.lim.Bytes)
	case limited.failed != nil: // not the document's fault
		return limited.failed
	case err != nil && fault.KindOf(err) == fault.Internal && !errors.Is(err, errVisitor):
		return fault.Wrap(fault.Invalid, err)
	}
	return err
}

// Read reads a whole document.
func Read(r io.Reader, lim Limits) (*Document, error) {
	d := &Document{}
	index := map[string]int{}
	head, err := Stream(r, lim, Visitor{
		Component: func(c Component) error { d.Components = append(d.Components, c); return nil },
		Dependency: func(dep Dependency) error {
			if i, ok := index[dep.Ref]; ok {
				d.Dependencies[i].On = append(d.Dependencies[i].On, dep.On...)
				return nil
			}
			index[dep.Ref] = len(d.Dependencies)
			d.Dependencies = append(d.Dependencies, dep)
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	d.Header = head
	d.Dependencies = slices.DeleteFunc(d.Dependencies, func(dep Dependency) bool { return len(dep.On) == 0 })
	for i := range d.Dependencies {
		sort.Strings(d.Dependencies[i].On)
		d.Dependencies[i].On = slices.Compact(d.Dependencies[i].On)
	}
	sort.Slice(d.Dependencies, func(i, j int) bool { return d.Dependencies[i].Ref < d.Dependencies[j].Ref })
	return d, nil
}

// Parse reads a document from memory.
func Parse(b []byte) (*Document, error) { return Read(bytes.NewReader(b), Limits{}) }

// errVisitor marks what a visitor said, which is not the document's fault.
var errVisitor = errors.New("visitor")

// stream is one reading.
type stream struct {
	r     *bufio.Reader
	lim   Limits
	visit Visitor
	head  Header

	components, edges int
	refs              *refTable

	// again gives the document from its beginning, where it can be read more than
	// once: an SPDX 3 graph is then walked twice instead of being held.
	again func() (io.Reader, error)
	// graph is what an SPDX 3 document's elements say of each other, from a walk
	// before this one.
	graph *graphNames
}

// read finds out the format by the first bytes.
func (s *stream) read() error {
	if b, err := s.r.Peek(3); err == nil && bytes.Equal(b, []byte("\xef\xbb\xbf")) {
		_, _ = s.r.Discard(3)
	}
	for {
		b, err := s.r.Peek(1)
		if err != nil {
			return fault.Newf(fault.Invalid, "the document is empty")
		}
		switch b[0] {
		case ' ', '\t', '\r', '\n':
			_, _ = s.r.Discard(1)
			continue
		case '{':
			return s.readJSON()
		case '<':
			return s.readXML()
		default:
			if start, _ := s.r.Peek(512); looksLikeTagValue(start) {
				return s.readTagValue()
			}
			return fault.Newf(fault.Invalid, "neither JSON, XML nor SPDX tag-value: want CycloneDX 1.2 to 1.7 or SPDX 2.2, 2.3 or 3.0.1; plain package lists are read with --type")
		}
	}
}

// problem keeps what could not be used.
func (s *stream) problem(format string, args ...any) {
	if len(s.head.Problems) < maxProblems {
		s.head.Problems = append(s.head.Problems, clip(fmt.Sprintf(format, args...), 300))
	}
}

// component checks and hands on.
func (s *stream) component(c Component) error {
	if s.components++; s.components > s.lim.Components {
		return fault.Newf(fault.TooLarge, "more than %d components", s.lim.Components)
	}
	for _, text := range []*string{&c.Ref, &c.Group, &c.Name, &c.Version, &c.Supplier, &c.Type} {
		if len(*text) > maxText {
			return fault.Newf(fault.TooLarge, "component %.80q: a text of %d bytes, want at most %d", c.Name, len(*text), maxText)
		}
	}
	settle(&c)
	if c.Name == "" {
		if c.PURL.Type == "" {
			s.problem("a component with ref %q has neither name nor package URL", c.Ref)
			return nil
		}
		c.Name = c.PURL.Name
	}
	if c.Ref == "" {
		c.Ref = fmt.Sprintf("assay-%d", s.components)
	}
	if s.refs.taken(c.Ref) {
		s.problem("two components have the ref %q", c.Ref)
		c.Ref = fmt.Sprintf("%s#assay-%d", c.Ref, s.components)
	}
	s.refs.take(c.Ref)
	if s.visit.Component == nil {
		return nil
	}
	if err := s.visit.Component(c); err != nil {
		return errors.Join(errVisitor, err)
	}
	return nil
}

func (s *stream) dependency(from string, on ...string) error {
	if s.edges += len(on); s.edges > s.lim.Edges {
		return fault.Newf(fault.TooLarge, "more than %d dependencies", s.lim.Edges)
	}
	if s.visit.Dependency == nil || len(on) == 0 {
		return nil
	}
	if err := s.visit.Dependency(Dependency{Ref: from, On: on}); err != nil {
		return errors.Join(errVisitor, err)
	}
	return nil
}

// limitedReader says, unlike io.LimitReader, that there was more.
type limitedReader struct {
	r          io.Reader
	left, most int64
	exceeded   bool
	failed     error // of the reader below
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if l.left <= 0 {
		var one [1]byte
		if n, err := l.r.Read(one[:]); n == 0 {
			return 0, err
		}
		l.exceeded = true
		return 0, fault.Newf(fault.TooLarge, "more than %d bytes", l.most)
	}
	if int64(len(p)) > l.left {
		p = p[:l.left]
	}
	n, err := l.r.Read(p)
	l.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		l.failed = err
	}
	return n, err
}

func clip(s string, n int) string { return excerpt.Text(s, n) }

// object walks the members of a JSON object whose "{" is next; fn reads each
// value whole.
func object(d *jsontext.Decoder, what string, fn func(name string) error) error {
	t, err := d.ReadToken()
	if err != nil {
		return err
	}
	if t.Kind() != '{' {
		return fault.Newf(fault.Invalid, "%s: want an object, found %s", what, t.Kind())
	}
	for d.PeekKind() != '}' {
		t, err := d.ReadToken()
		if err != nil {
			return err
		}
		if err := fn(t.String()); err != nil {
			return err
		}
	}
	_, err = d.ReadToken()
	return err
}

// array walks the elements of a JSON array; null counts as an empty one.
func array(d *jsontext.Decoder, what string, fn func() error) error {
	t, err := d.ReadToken()
	if err != nil {
		return err
	}
	switch t.Kind() {
	case 'n':
		return nil
	case '[':
	default:
		return fault.Newf(fault.Invalid, "%s: want an array, found %s", what, t.Kind())
	}
	for d.PeekKind() != ']' {
		if err := fn(); err != nil {
			return err
		}
	}
	_, err = d.ReadToken()
	return err
}
