package vuln

// Set is documents to be asked about apart: those of artifacts that run. A bit for
// each, so that asking costs no more than without it. It belongs to its index, and
// is locked with that.
type Set struct {
	x    *Index
	bits []uint64
}

// Set makes an empty one. Documents may be added before the index knows them.
func (x *Index) Set() *Set { return &Set{x: x} }

// Add puts documents into the set.
func (s *Set) Add(documents ...int64) {
	s.x.mu.Lock()
	defer s.x.mu.Unlock()
	for _, d := range documents {
		n := s.x.docs.of(d)
		for len(s.bits) <= int(n/64) {
			s.bits = append(s.bits, 0)
		}
		s.bits[n/64] |= 1 << (n % 64)
	}
}

// holds says whether a document's number is in the set.
func (s *Set) holds(n uint32) bool {
	at := int(n / 64)
	return at < len(s.bits) && s.bits[at]&(1<<(n%64)) != 0
}

// AffectedOf finds what an advisory affects in the documents of a set: hits that
// stand in none of them are left out.
func (x *Index) AffectedOf(a *Advisory, s *Set) []Hit {
	all := x.affected(a, func(list []uint32) (out []int64) {
		for _, n := range list {
			if s.holds(n) && !x.docs.gone[n] {
				out = append(out, x.docs.ids[n])
			}
		}
		return out
	})
	some := all[:0]
	for _, h := range all {
		if len(h.Documents) > 0 {
			some = append(some, h)
		}
	}
	return some
}
