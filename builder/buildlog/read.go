package buildlog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// Numbered is a line with its number, from 1.
type Numbered struct {
	Number int64
	Line
}

func notFound(err error, id string) error {
	if errors.Is(err, fault.NotFound) {
		return fault.Newf(fault.NotFound, "no build log has the id %.60q", id)
	}
	return err
}

// Lines gives lines of a log from a number on; more says whether there are more.
func (s *Store) Lines(ctx context.Context, id string, from int64, limit int) (out []Numbered, more bool, err error) {
	if from < 1 {
		from = 1
	}
	if limit <= 0 || limit > 5000 {
		limit = 1000
	}
	l, err := s.Get(ctx, id)
	if err != nil {
		return nil, false, err
	}
	var list []chunk
	if err := s.o.DB.View(ctx, func(tx *store.Tx) error {
		list, err = chunks(ctx, tx, id, 0, int(l.Chunks)+1)
		return err
	}); err != nil {
		return nil, false, err
	}
	for _, c := range list {
		if c.first+c.lines <= from {
			continue
		}
		if len(out) >= limit {
			return out, true, nil
		}
		if err := s.each(ctx, c, func(n Numbered) bool {
			if n.Number >= from {
				if len(out) == limit {
					more = true
					return false
				}
				out = append(out, n)
			}
			return true
		}); err != nil {
			return nil, false, err
		}
	}
	return out, more, nil
}

// each gives the lines of a chunk until fn says that it is enough.
func (s *Store) each(ctx context.Context, c chunk, fn func(Numbered) bool) error {
	b, err := s.content(ctx, c.blob)
	if err != nil {
		return err
	}
	for n := c.first; len(b) > 0; n++ {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			return fault.Newf(fault.Tampered, "blob %s of a build log ends within a line", c.blob)
		}
		var x stored
		if err := json.Unmarshal(b[:i], &x); err != nil {
			return fault.Newf(fault.Tampered, "blob %s of a build log: %w", c.blob, err)
		}
		b = b[i+1:]
		line := Numbered{n, Line{Stream: x.S, Text: x.M}}
		if x.T != 0 {
			line.Time = time.Unix(0, x.T).UTC()
		}
		if !fn(line) {
			return nil
		}
	}
	return nil
}

// Query is a search.
type Query struct {
	Text   string // without regard to case
	Digest artifact.Digest
	Builds []string
	Log    string
	// May says whether the caller may read a log; nil: all.
	May   func(*Log) bool
	After string // cursor
	Limit int    // hits
	Bytes int64  // how much is read at most; 0: 64 MiB
}

// Hit is a line that was found.
type Hit struct {
	Log   string
	Build string
	Numbered
}

// Found is what a search gave.
type Found struct {
	Hits []Hit
	// Next continues, after a limit was reached: of hits, or of what is read in one
	// search. "": all was searched.
	Next string
	// Searched is how many bytes were read.
	Searched int64
}

// Search reads the logs of the digest and the builds, or all, those that changed
// last first. It reads at most so much, and says where it stopped.
func (s *Store) Search(ctx context.Context, q Query) (out Found, err error) {
	text := strings.ToLower(strings.TrimSpace(q.Text))
	if len(text) < 2 || len(text) > 200 {
		return out, fault.Newf(fault.Invalid, "search text %.40q: want from 2 to 200 bytes", q.Text)
	}
	if q.Limit <= 0 || q.Limit > 1000 {
		q.Limit = 100
	}
	if q.Bytes <= 0 {
		q.Bytes = 64 << 20
	}
	f := Filter{Digest: q.Digest, Builds: q.Builds, Limit: 100}
	w := walk{s: s, q: q, text: text}
	if q.After != "" {
		if f.After, w.log, w.line, err = parseStop(q.After); err != nil {
			return out, err
		}
	}
	if q.Log != "" {
		l, err := s.Get(ctx, q.Log)
		if err != nil {
			return out, err
		}
		_, err = w.search(ctx, &l, "")
		return w.out, err
	}
	for {
		logs, next, err := s.List(ctx, f)
		if err != nil {
			return out, err
		}
		for i := range logs {
			if stop, err := w.search(ctx, &logs[i], f.After); err != nil || stop {
				return w.out, err
			}
		}
		if f.After = next; next == "" {
			return w.out, nil
		}
	}
}

// walk is a search under way. It begins in log at line, where it continues one.
type walk struct {
	s    *Store
	q    Query
	text string
	log  string
	line int64
	out  Found
}

// stop is where a search goes on: the page of logs, the log in it, and the line.
func stop(page, log string, line int64) string { return fmt.Sprintf("%s/%s/%d", page, log, line) }

func parseStop(text string) (page, log string, line int64, err error) {
	parts := strings.Split(text, "/")
	if len(parts) != 3 {
		return "", "", 0, fault.Newf(fault.Invalid, "cursor %.60q is none of a search", text)
	}
	if _, err := fmt.Sscanf(parts[2], "%d", &line); err != nil || !strings.HasPrefix(parts[1], "log_") {
		return "", "", 0, fault.Newf(fault.Invalid, "cursor %.60q is none of a search", text)
	}
	return parts[0], parts[1], line, nil
}

func (w *walk) search(ctx context.Context, l *Log, page string) (done bool, err error) {
	from := int64(1)
	if w.log != "" {
		if w.log != l.ID {
			return false, nil // of this page, and searched before
		}
		from, w.log = w.line, ""
	}
	if w.q.May != nil && !w.q.May(l) {
		return false, nil
	}
	var list []chunk
	if err := w.s.o.DB.View(ctx, func(tx *store.Tx) (err error) {
		list, err = chunks(ctx, tx, l.ID, 0, int(l.Chunks)+1)
		return err
	}); err != nil {
		return false, err
	}
	for _, c := range list {
		if c.first+c.lines <= from {
			continue
		}
		if w.out.Searched+c.bytes > w.q.Bytes && w.out.Searched > 0 {
			w.out.Next = stop(page, l.ID, max(c.first, from))
			return true, nil
		}
		w.out.Searched += c.bytes
		if err := w.s.each(ctx, c, func(n Numbered) bool {
			if n.Number < from || !strings.Contains(strings.ToLower(n.Text), w.text) {
				return true
			}
			if len(w.out.Hits) == w.q.Limit {
				w.out.Next, done = stop(page, l.ID, n.Number), true
				return false
			}
			w.out.Hits = append(w.out.Hits, Hit{l.ID, l.Build, n})
			return true
		}); err != nil || done {
			return done, err
		}
	}
	return false, nil
}

// escapes are what terminals take for orders (ECMA-48: CSI, OSC and the short
// ones).
var escapes = regexp.MustCompile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?|[@-Z\\\\-_])")

func plain(s string) string {
	if strings.IndexByte(s, 0x1b) < 0 {
		return s
	}
	return escapes.ReplaceAllString(s, "")
}
