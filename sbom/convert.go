package sbom

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"assay/internal/fault"
)

// Convert writes a document in another format, as [Read] and [Write] would, and
// gives what it says of itself. Components are never all in memory: the document
// is read several times, and of each component only the name is kept. Nothing is
// written of one that cannot be read to its end.
func Convert(w io.Writer, in io.ReadSeeker, lim Limits, format Format, version string) (Header, error) {
	version, err := settledVersion(format, version)
	if err != nil {
		return Header{}, err
	}
	s, err := newReread(in, lim)
	if err != nil {
		return Header{}, err
	}
	head := s.head
	if format == CycloneDXJSON && !s.nested() {
		// Components stand apart from what they are in, which only a tree in memory
		// can bring together.
		r, err := s.start()
		if err != nil {
			return Header{}, err
		}
		d, err := Read(r, lim)
		if err != nil {
			return Header{}, err
		}
		return head, write(w, newDocumentSource(d), format, version)
	}
	return head, write(w, s, format, version)
}

// reread is a document that is read again for each walk. Between the walks it
// keeps the refs, and by their numbers who is in whom and who depends on whom.
type reread struct {
	in      io.ReadSeeker
	lim     Limits
	head    Header
	refs    *refTable
	graph   *graphNames
	count   int      // components
	order   []uint32 // their refs; nil where nobody asks
	parents []uint32 // of the components: the ref's number and 1; 0 for none
	edges   []uint64 // from and to, by number in the upper and lower half; then sorted, by rank
	sorted  []uint32 // the refs in the order of their letters: number by rank
}

func newReread(in io.ReadSeeker, lim Limits) (*reread, error) {
	s := &reread{in: in, lim: lim.withDefaults(), refs: newRefTable()}
	first := &stream{lim: s.lim, refs: s.refs, again: s.start, visit: Visitor{
		Component: func(c Component) error {
			parent := uint32(0)
			if c.Parent != "" {
				parent = s.refs.number(c.Parent) + 1
			}
			s.count++
			s.order, s.parents = append(s.order, s.refs.number(c.Ref)), append(s.parents, parent)
			return nil
		},
		Dependency: func(dep Dependency) error {
			from := uint64(s.refs.number(dep.Ref)) << 32
			for _, on := range dep.On {
				s.edges = append(s.edges, from|uint64(s.refs.number(on)))
			}
			return nil
		},
	}}
	r, err := s.start()
	if err != nil {
		return nil, err
	}
	if s.head, err = first.run(r); err != nil {
		return nil, err
	}
	s.graph = first.graph
	var rank []uint32
	s.sorted, rank = s.refs.ranks()
	for i, e := range s.edges {
		s.edges[i] = uint64(rank[e>>32])<<32 | uint64(rank[uint32(e)])
	}
	slices.Sort(s.edges)
	s.edges = slices.Compact(s.edges)
	return s, nil
}

func (s *reread) start() (io.Reader, error) {
	if _, err := s.in.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read SBOM again: %w", err)
	}
	return s.in, nil
}

func (s *reread) header() *Header { return &s.head }

func (s *reread) has(ref string) bool { return s.refs.has(ref) }

func (s *reread) components(visit func(*Component) error) error {
	r, err := s.start()
	if err != nil {
		return err
	}
	s.refs.pass++
	at := 0
	changed := fault.Newf(fault.Conflict, "the document changed while it was read: try again")
	walk := &stream{lim: s.lim, refs: s.refs, graph: s.graph, visit: Visitor{Component: func(c Component) error {
		if at >= s.count || s.order != nil && !bytes.Equal(s.refs.bytes(s.order[at]), []byte(c.Ref)) {
			return changed
		}
		at++
		return visit(&c)
	}}}
	if _, err := walk.run(r); err != nil {
		return err
	}
	if at != s.count {
		return changed
	}
	return nil
}

func (s *reread) dependencies(visit func(string, []string) error) error {
	for at := 0; at < len(s.edges); {
		from := s.edges[at] >> 32
		var on []string
		for ; at < len(s.edges) && s.edges[at]>>32 == from; at++ {
			on = append(on, s.refs.ref(s.sorted[uint32(s.edges[at])]))
		}
		if err := visit(s.refs.ref(s.sorted[from]), on); err != nil {
			return err
		}
	}
	return nil
}

func (s *reread) component(ref string) (*Component, error) {
	if !s.has(ref) {
		return nil, nil
	}
	var found *Component
	enough := errors.New("found")
	err := s.components(func(c *Component) error {
		if c.Ref == ref {
			found = c
			return enough
		}
		return nil
	})
	if errors.Is(err, enough) {
		err = nil
	}
	return found, err
}

// nested says whether each component comes after the one that it is in, with
// nothing between them that is in neither, so that a tree can be written as they
// come.
func (s *reread) nested() bool {
	none := ^uint32(0)
	subject := none
	if len(s.head.Roots) > 0 {
		if n, is := s.refs.find(s.head.Roots[0]); is {
			subject = n
		}
	}
	var open []uint32
	for i, n := range s.order {
		if n == subject {
			continue
		}
		parent := s.parents[i] - 1 // none: all bits
		if parent == none || parent == subject || !s.refs.refs[parent].component {
			open = append(open[:0], n)
			continue
		}
		for len(open) > 0 && open[len(open)-1] != parent {
			open = open[:len(open)-1]
		}
		if len(open) == 0 || len(open) > maxWrittenNesting {
			return false
		}
		open = append(open, n)
	}
	return true
}
