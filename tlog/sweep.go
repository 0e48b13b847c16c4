package tlog

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
)

// sweeper removes partial tiles and bundles that newer ones have replaced. A
// bundle that grows one entry at a time leaves 255 versions of itself, some
// 100 MB of keyless signatures, of which only the last is needed: the tile
// handler cuts older ones from it, and so does [Dir]. A few are kept for
// readers of the bare files. Only the sequencer calls it, and nothing that it
// fails at matters.
type sweeper struct {
	disk    *disk
	folder  string
	last    map[int]resource // by level, bundles as -1: the newest partial version
	retired []resource       // oldest first
}

// keepPartials is how many replaced versions stay.
const keepPartials = 32

func newSweeper(d *disk, folder string) *sweeper {
	return &sweeper{disk: d, folder: folder, last: make(map[int]resource)}
}

func (r resource) kind() int {
	if r.entries {
		return -1
	}
	return r.level
}

// committed is told what a commit wrote.
func (s *sweeper) committed(written []resource) error {
	var errs []error
	for _, r := range written {
		old, had := s.last[r.kind()]
		if r.width == tileWidth {
			errs = append(errs, s.disk.removeAll(r.path(s.folder)+".p"))
			if had && old.n == r.n {
				delete(s.last, r.kind())
			}
			continue
		}
		if had && old.n == r.n && old.width != r.width {
			s.retired = append(s.retired, old)
		}
		s.last[r.kind()] = r
	}
	for ; len(s.retired) > keepPartials; s.retired = s.retired[1:] {
		errs = append(errs, s.disk.remove(s.retired[0].path(s.folder)))
	}
	return errors.Join(errs...)
}

// opened clears what earlier processes left around the edge of a tree.
func (s *sweeper) opened(t *Tree) error {
	clear(s.last)
	s.retired = nil
	errs := []error{s.edge(resource{entries: true}, t.size)}
	for level := range t.edge {
		errs = append(errs, s.edge(resource{level: level}, t.size>>(tileHeight*level)))
	}
	return errors.Join(errs...)
}

// edge clears the other versions of the last tile of a kind, of which there are
// have hashes, and all of the tile before it, which is full.
func (s *sweeper) edge(r resource, have uint64) error {
	r.n, r.width = have/tileWidth, int(have%tileWidth)
	var errs []error
	if r.width > 0 {
		s.last[r.kind()] = r
		dir := filepath.Dir(s.disk.abs(r.path(s.folder)))
		names, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, n := range names {
			if n.Name() != strconv.Itoa(r.width) {
				errs = append(errs, os.Remove(filepath.Join(dir, n.Name())))
			}
		}
	}
	if r.n > 0 {
		r.n, r.width = r.n-1, tileWidth
		errs = append(errs, s.disk.removeAll(r.path(s.folder)+".p"))
	}
	return errors.Join(errs...)
}
