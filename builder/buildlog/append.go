package buildlog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"strings"
	"time"

	"assay/artifact"
	"assay/blob"
	"assay/blob/sweep"
	"assay/internal/fault"
	"assay/internal/secret"
	"assay/store"
)

// errMoved says that another process changed the log meanwhile.
var errMoved = fault.Newf(fault.Conflict, "the build log was changed meanwhile")

// stored is a line as it stands in a blob: one JSON object each.
type stored struct {
	T int64  `json:"t,omitempty"` // Unix nanoseconds
	S string `json:"s,omitempty"`
	M string `json:"m"`
}

// Append adds lines to the log of a build, which it makes if there is none. What
// is over the bound of a log is dropped and counted. When it returns, the lines
// are durable.
func (s *Store) Append(ctx context.Context, t Target, lines []Line) (l Log, err error) {
	if err := t.validate(); err != nil {
		return l, err
	}
	id := t.ID()
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	turn := &s.turns[h.Sum32()%uint32(len(s.turns))]
	turn.Lock()
	defer turn.Unlock()
	clean, redacted := redact(lines)
	for range 8 {
		l, err = s.append(ctx, &t, id, clean, redacted)
		if !errors.Is(err, errMoved) && !errors.Is(err, sweep.ErrTaken) {
			break
		}
	}
	return l, err
}

// redact takes the secrets out of lines, and bounds each: a secret that is cut
// would not be known any more, so that comes after.
func redact(lines []Line) (out []stored, n int64) {
	r := secret.NewRedactor(nil)
	out = make([]stored, 0, len(lines))
	for _, l := range lines {
		n += int64(strings.Count(l.Text, secret.Redacted)) // by who sent it
		x := stored{S: clip(l.Stream, 16), M: clip(r.Line(clip(l.Text, 4*MaxLine)), MaxLine)}
		if !l.Time.IsZero() && l.Time.Year() > 1700 && l.Time.Year() < 2250 { // what fits into nanoseconds
			x.T = l.Time.UnixNano()
		}
		out = append(out, x)
	}
	return out, n + int64(r.Count)
}

func (s *Store) append(ctx context.Context, t *Target, id string, lines []stored, redacted int64) (Log, error) {
	var l Log
	var version int64
	var last []chunk
	err := s.o.DB.View(ctx, func(tx *store.Tx) (err error) {
		if l, version, err = find(ctx, tx, id); err != nil || l.Chunks == 0 {
			return err
		}
		last, err = chunks(ctx, tx, id, l.Chunks-1, 1)
		return err
	})
	if errors.Is(err, fault.NotFound) {
		now := s.o.Clock()
		l, version, err = Log{ID: id, Build: t.Build, Repository: t.Repository, Issuer: t.Issuer, Subject: t.Subject, Actor: t.Actor, Source: t.Source, Digests: t.Digests, Created: now, Changed: now}, 0, nil
	}
	if err != nil {
		return l, err
	}
	var p packer
	p.n, p.first = l.Chunks, l.Lines+1
	if len(last) == 1 && last[0].bytes < smallChunk {
		b, err := s.content(ctx, last[0].blob)
		if err != nil {
			return l, err
		}
		p = packer{n: last[0].n, first: last[0].first, lines: last[0].lines, buf: b}
		l.Chunks--
	}
	had := l.Lines
	for _, x := range lines {
		n := int64(len(x.M)) + 1
		if l.Bytes+n > s.o.Max {
			l.Dropped++
			continue
		}
		l.Bytes += n
		l.Lines++
		if err := p.add(x); err != nil {
			return l, err
		}
	}
	p.flush()
	l.Chunks += int64(len(p.done))
	l.Redacted += redacted
	if err := s.keep(ctx, p.done); err != nil {
		return l, err
	}
	fresh := make([]chunk, 0, len(p.done))
	names := make([]artifact.Digest, 0, len(p.done))
	for i := range p.done {
		fresh, names = append(fresh, p.done[i].chunk), append(names, p.done[i].blob)
	}
	if err := s.o.DB.Update(ctx, func(tx *store.Tx) error {
		if gone, err := sweep.Deleting(ctx, tx, names...); err != nil || len(gone) > 0 {
			return errors.Join(err, sweep.ErrTaken)
		}
		return s.write(ctx, tx, t, &l, version, fresh)
	}); err != nil {
		return l, err
	}
	s.lines.WithLabelValues("stored").Add(float64(l.Lines - had))
	s.lines.WithLabelValues("dropped").Add(float64(int64(len(lines)) - (l.Lines - had)))
	return l, s.keep(ctx, p.done) // where they were there before, they may have gone just then
}

// packer cuts lines into chunks.
type packer struct {
	n, first, lines int64
	buf             []byte
	done            []packed
}

type packed struct {
	chunk
	content []byte
}

func (p *packer) add(x stored) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	if len(p.buf) > 0 && len(p.buf)+len(b) >= maxChunk {
		p.flush()
	}
	p.buf = append(append(p.buf, b...), '\n')
	p.lines++
	return nil
}

func (p *packer) flush() {
	if p.lines == 0 {
		return
	}
	p.done = append(p.done, packed{chunk: chunk{n: p.n, first: p.first, lines: p.lines, bytes: int64(len(p.buf))}, content: p.buf})
	*p = packer{n: p.n + 1, first: p.first + p.lines, done: p.done}
}

// keep stores the blobs of chunks, compressed.
func (s *Store) keep(ctx context.Context, all []packed) error {
	for i := range all {
		b := s.enc.EncodeAll(all[i].content, nil)
		all[i].blob = artifact.SHA256Of(b)
		if err := sweep.Clear(ctx, s.o.DB, all[i].blob); err != nil {
			return err
		}
		if err := blob.PutAs(ctx, s.o.Blobs, b, all[i].blob); err != nil {
			return err
		}
	}
	return nil
}

// content reads a chunk's lines.
func (s *Store) content(ctx context.Context, d artifact.Digest) ([]byte, error) {
	f, err := s.o.Blobs.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var b bytes.Buffer
	if _, err := b.ReadFrom(f); err != nil {
		return nil, err
	}
	if artifact.SHA256Of(b.Bytes()) != d {
		return nil, fault.Newf(fault.Tampered, "blob %s of a build log is not what was stored", d)
	}
	out, err := s.dec.DecodeAll(b.Bytes(), nil)
	if err != nil {
		return nil, fault.Newf(fault.Tampered, "blob %s of a build log: %w", d, err)
	}
	return out, nil
}

// Split cuts a text into lines, of any kind of line end; escape sequences of
// terminals are taken out.
func Split(text []byte, stream string) []Line {
	var out []Line
	for len(text) > 0 {
		line := text
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = nil
		}
		line = bytes.TrimSuffix(line, []byte("\r"))
		if i := bytes.LastIndexByte(line, '\r'); i >= 0 {
			line = line[i+1:] // a progress bar, as it stood in the end
		}
		out = append(out, Line{Stream: stream, Text: plain(string(line))})
	}
	return out
}

// Work deletes what is over the time that it is kept, until ctx ends.
func (s *Store) Work(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Minute)
	defer tick.Stop()
	for {
		if n, err := s.Expire(ctx); err != nil && ctx.Err() == nil {
			s.o.Logger.WarnContext(ctx, "old build logs could not be deleted; it is tried again", "error", err)
		} else if n > 0 {
			s.o.Logger.InfoContext(ctx, "old build logs were deleted", "logs", n)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Expire deletes logs that changed longer ago than they are kept, unless they
// are held, and says how many.
func (s *Store) Expire(ctx context.Context) (n int, err error) {
	after := int64(0)
	for {
		var ids []string
		done := 0
		err := s.o.DB.Update(ctx, func(tx *store.Tx) (err error) {
			done = 0
			before := store.Micros(tx.Now().Add(-s.o.Keep))
			if ids, err = store.Values[string](ctx, tx, `SELECT id FROM build_log WHERE changed < ? AND changed > ? ORDER BY changed, id LIMIT 50`, before, after); err != nil {
				return err
			}
			for _, id := range ids {
				l, _, err := find(ctx, tx, id)
				if err != nil {
					return err
				}
				held := false
				if s.o.Held != nil {
					if held, err = s.o.Held(ctx, tx, l.Repository, l.Digests); err != nil {
						return err
					}
				}
				if held {
					after = max(after, store.Micros(l.Changed))
					continue
				}
				done++
				if err := drop(ctx, tx, &l, "system:retention", "older than "+s.o.Keep.String()); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return n, err
		}
		n += done
		if len(ids) < 50 {
			return n, nil
		}
	}
}
