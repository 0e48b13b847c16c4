package sbom

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"sort"
)

// DiffFiles is [Diff] of two documents that are read as they are compared. Of
// each package some forty bytes are kept; those that differ are read again.
func DiffFiles(before, after io.ReadSeeker, lim Limits) (Difference, error) {
	a, err := readKeys(before, lim)
	if err != nil {
		return Difference{}, fmt.Errorf("before: %w", err)
	}
	b, err := readKeys(after, lim)
	if err != nil {
		return Difference{}, fmt.Errorf("after: %w", err)
	}
	differ, same := compareKeys(a.keys, b.keys)
	if len(differ) == 0 {
		return Difference{Same: same}, nil
	}
	was, err := a.versions(differ)
	if err != nil {
		return Difference{}, fmt.Errorf("before: %w", err)
	}
	is, err := b.versions(differ)
	if err != nil {
		return Difference{}, fmt.Errorf("after: %w", err)
	}
	out := diff(was, is)
	out.Same += same
	return out, nil
}

// packageKey stands for a package of a document: hashes of what it is and of its
// version and licences, and of its ref.
type packageKey struct {
	name, rest [16]byte
	ref        [8]byte
	published  bool
}

func hashOf(parts ...string) (out [32]byte) {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	h.Sum(out[:0])
	return out
}

// keyedDocument is a document by its packages' keys, in order.
type keyedDocument struct {
	*reread
	keys []packageKey
}

func readKeys(in io.ReadSeeker, lim Limits) (*keyedDocument, error) {
	s := &reread{in: in, lim: lim.withDefaults(), refs: newRefTable()}
	d := &keyedDocument{reread: s}
	first := &stream{lim: s.lim, refs: s.refs, again: s.start, visit: Visitor{Component: func(c Component) error {
		s.count++
		if !c.IsPackage() {
			return nil
		}
		all := append(slices.Clone(c.Licenses), c.Concluded...)
		sort.Strings(all)
		name, rest, ref := hashOf(packageName(&c)), hashOf(append([]string{c.Version}, slices.Compact(all)...)...), hashOf(c.Ref)
		d.keys = append(d.keys, packageKey{name: [16]byte(name[:16]), rest: [16]byte(rest[:16]), ref: [8]byte(ref[:8]), published: c.published()})
		return nil
	}}}
	r, err := s.start()
	if err != nil {
		return nil, err
	}
	if s.head, err = first.run(r); err != nil {
		return nil, err
	}
	if s.graph = first.graph; s.graph == nil {
		s.refs = nil // made again when it is read again
	}
	roots := map[[8]byte]bool{}
	for _, ref := range s.head.Roots {
		h := hashOf(ref)
		roots[[8]byte(h[:8])] = true
	}
	d.keys = slices.DeleteFunc(d.keys, func(k packageKey) bool { return roots[k.ref] && (len(s.head.Roots) < 2 || !k.published) })
	slices.SortFunc(d.keys, func(x, y packageKey) int {
		return cmp.Or(bytes.Compare(x.name[:], y.name[:]), bytes.Compare(x.rest[:], y.rest[:]))
	})
	return d, nil
}

// versions is what [versions] gives, of these packages alone.
func (d *keyedDocument) versions(of map[[16]byte]bool) (map[string]map[string]map[string]bool, error) {
	out := map[string]map[string]map[string]bool{}
	if d.refs == nil {
		d.refs = newRefTable()
		defer func() { d.refs = nil }()
	}
	err := d.components(func(c *Component) error {
		if !c.IsPackage() || slices.Contains(d.head.Roots, c.Ref) && d.head.stands(c) {
			return nil
		}
		if name := hashOf(packageName(c)); of[[16]byte(name[:16])] {
			addVersion(out, c)
		}
		return nil
	})
	return out, err
}

// compareKeys gives the packages in which two documents differ, and how many
// they have in common.
func compareKeys(a, b []packageKey) (differ map[[16]byte]bool, same int) {
	differ = map[[16]byte]bool{}
	// next parts the keys of one package from the others.
	next := func(keys []packageKey) (one, rest []packageKey) {
		n := 1
		for n < len(keys) && keys[n].name == keys[0].name {
			n++
		}
		return keys[:n], keys[n:]
	}
	var one, other []packageKey
	for len(a) > 0 || len(b) > 0 {
		order := 0
		switch {
		case len(a) == 0:
			order = 1
		case len(b) == 0:
			order = -1
		default:
			order = bytes.Compare(a[0].name[:], b[0].name[:])
		}
		switch {
		case order < 0:
			differ[a[0].name] = true
			_, a = next(a)
		case order > 0:
			differ[b[0].name] = true
			_, b = next(b)
		default:
			one, a = next(a)
			other, b = next(b)
			if slices.EqualFunc(distinctRest(one), distinctRest(other), func(x, y packageKey) bool { return x.rest == y.rest }) {
				same++
			} else {
				differ[one[0].name] = true
			}
		}
	}
	return differ, same
}

// distinctRest leaves out packages that are there twice; keys are sorted.
func distinctRest(keys []packageKey) []packageKey {
	return slices.CompactFunc(keys, func(x, y packageKey) bool { return x.rest == y.rest })
}
