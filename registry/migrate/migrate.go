// Package migrate brings the content of another registry over: every image with
// what refers to it, digests unchanged, and of Harbor the rules, as documents to
// be looked at. Nothing is applied, and what is not taken over is said.
package migrate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/internal/oci"
	"assay/registry"
)

// Item is one thing to copy: a tag, or where there is none a digest.
type Item struct {
	Repository string
	Tag        string
	Digest     artifact.Digest
}

func (i Item) key() string {
	if i.Tag != "" {
		return i.Repository + ":" + i.Tag
	}
	return i.Repository + "@" + string(i.Digest)
}

// Report is what a move did.
type Report struct {
	Repositories int      `json:"repositories"`
	Copied       int      `json:"copied"`         // tags and untagged images copied now
	Done         int      `json:"done"`           // that an earlier run had copied
	Bytes        int64    `json:"bytes"`          // written now
	Failed       []string `json:"failed"`         // what could not be copied, and why
	NotTaken     []string `json:"not_taken_over"` // what stays behind
	Documents    string   `json:"documents,omitempty"`
}

// Mover copies items.
type Mover struct {
	From, To *oci.Client
	Source   string // host
	Target   string // HOST or HOST/PREFIX
	// State is a file that remembers what is done; empty: nothing is.
	State string
	// Progress is told before each item; nil: nobody is.
	Progress func(i Item, n, of int)
	Step     func(oci.Step)
}

// Enumerate lists a registry's repositories that match, and their tags. Tags
// that carry evidence come with what they are about, and by themselves where
// that is gone.
func Enumerate(ctx context.Context, c *oci.Client, host string, patterns []glob.Glob) ([]Item, error) {
	names, err := c.Catalog(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("list repositories: %w", err)
	}
	var out []Item
	for _, name := range names {
		if !Match(patterns, name) {
			continue
		}
		tags, err := c.Tags(ctx, artifact.Reference{Host: host, Repository: name})
		if errors.Is(err, fault.NotFound) {
			continue // emptied; some catalogs go on to list it
		}
		if err != nil {
			return nil, err
		}
		for _, t := range tags {
			out = append(out, Item{Repository: name, Tag: t})
		}
	}
	// Images before evidence: what comes with them is skipped then.
	slices.SortStableFunc(out, func(a, b Item) int {
		if x, y := registry.IsCarrierTag(a.Tag), registry.IsCarrierTag(b.Tag); x != y && a.Repository == b.Repository {
			if x {
				return 1
			}
			return -1
		}
		return strings.Compare(a.Repository, b.Repository)
	})
	return out, nil
}

// Match says whether a name is of the patterns; without any, every name is.
func Match(patterns []glob.Glob, name string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(g glob.Glob) bool { return g.Match(name) })
}

// Move copies items, one after the other, going on after one that fails: that
// one is in the report and is tried by the next run. The error is for what ends
// the run.
func (m *Mover) Move(ctx context.Context, items []Item, r *Report) error {
	host, prefix, _ := strings.Cut(m.Target, "/")
	done, save, err := m.state()
	if err != nil {
		return err
	}
	defer save.Close()
	repositories := map[string]bool{}
	for n, i := range items {
		if err := ctx.Err(); err != nil {
			return err
		}
		repositories[i.Repository] = true
		if m.Progress != nil {
			m.Progress(i, n, len(items))
		}
		src := artifact.Reference{Host: m.Source, Repository: i.Repository, Tag: i.Tag, Digest: i.Digest}
		if was, ok := done[i.key()]; ok {
			now := was
			if i.Tag != "" { // it may have moved since
				src.Digest = ""
				if now, err = m.From.Head(ctx, src); err != nil {
					now = ""
				}
			}
			if now == was {
				r.Done++
				continue
			}
		}
		if i.Tag != "" {
			src.Digest = ""
		}
		dst := artifact.Reference{Host: host, Repository: strings.Trim(prefix+"/"+i.Repository, "/"), Tag: i.Tag}
		c := &oci.Copier{From: m.From, To: m.To, Progress: m.Step}
		got, err := c.Copy(ctx, src, dst)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fault.Unauthenticated):
			return err // of all that follow, too
		case err != nil:
			r.Failed = append(r.Failed, i.key()+": "+err.Error())
			continue
		}
		r.Copied++
		r.Bytes += got.Bytes
		if err := save.add(i.key(), got.Digest); err != nil {
			return err
		}
	}
	r.Repositories = len(repositories)
	return nil
}

type stateLine struct {
	Source string          `json:"source"`
	Target string          `json:"target"`
	Item   string          `json:"item"`
	Digest artifact.Digest `json:"digest"`
}

type stateFile struct {
	m *Mover
	f *os.File
}

// state reads what earlier runs did between the same two registries. A last line
// that was cut off by a crash is as if it had not been written.
func (m *Mover) state() (map[string]artifact.Digest, *stateFile, error) {
	done := map[string]artifact.Digest{}
	if m.State == "" {
		return done, &stateFile{m: m}, nil
	}
	b, err := os.ReadFile(m.State)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fault.Newf(fault.Invalid, "state file: %w", err)
	}
	whole := b[:bytes.LastIndexByte(b, '\n')+1]
	for n, text := range bytes.Split(bytes.TrimSuffix(whole, []byte("\n")), []byte("\n")) {
		if len(text) == 0 {
			continue
		}
		var l stateLine
		if err := json.Unmarshal(text, &l); err != nil {
			return nil, nil, fault.Newf(fault.Invalid, "state file %s, line %d: %w; it is of another program, or damaged: move it away", m.State, n+1, err)
		}
		if l.Source == m.Source && l.Target == m.Target {
			done[l.Item] = l.Digest
		}
	}
	f, err := os.OpenFile(m.State, os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		if err = f.Truncate(int64(len(whole))); err == nil {
			_, err = f.Seek(0, io.SeekEnd)
		}
	}
	if err != nil {
		return nil, nil, fault.Newf(fault.Invalid, "state file: %w", err)
	}
	return done, &stateFile{m, f}, nil
}

func (s *stateFile) add(item string, d artifact.Digest) error {
	if s.f == nil {
		return nil
	}
	b, err := json.Marshal(stateLine{s.m.Source, s.m.Target, item, d})
	if err != nil {
		return err
	}
	_, err = s.f.Write(append(b, '\n'))
	return err
}

// Close closes the file.
func (s *stateFile) Close() {
	if s.f != nil {
		_ = s.f.Close()
	}
}

// Rules are what a repository pattern's document is to say.
type Rules struct {
	Pattern       string
	AnonymousPull bool
	Immutable     []string
	Notes         []string // what has no document: for the reader
}

// WriteDocuments writes Repository and Retention documents for review, with what
// was not taken over as comments.
func WriteDocuments(path, source string, list []Rules, kept []Keep) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Made of the rules of %s. Read it, change it, then: assay apply -f %s\n", source, filepath.Base(path))
	used := map[string]int{}
	for _, r := range list {
		name := documentName(r.Pattern)
		if used[name]++; used[name] > 1 {
			name = fmt.Sprintf("%s-%d", name, used[name])
		}
		b.WriteString("---\n")
		for _, n := range r.Notes {
			b.WriteString("# " + strings.Map(printable, n) + "\n")
		}
		fmt.Fprintf(&b, "apiVersion: assay/v1\nkind: Repository\nmetadata: {name: %s}\nspec:\n  pattern: %s\n", name, quoted(r.Pattern))
		if r.AnonymousPull {
			b.WriteString("  anonymousPull: true\n")
		}
		if len(r.Immutable) > 0 {
			b.WriteString("  immutableTags:\n")
			for _, t := range slices.Sorted(maps.Keys(toSet(r.Immutable))) {
				b.WriteString("  - " + quoted(t) + "\n")
			}
		}
	}
	for i := range kept {
		kept[i].write(&b)
	}
	return os.WriteFile(path, b.Bytes(), 0o600)
}

func toSet(list []string) map[string]bool {
	out := map[string]bool{}
	for _, s := range list {
		out[s] = true
	}
	return out
}

// quoted is a JSON string, which is YAML too.
func quoted(s string) string {
	b, _ := json.Marshal(s) // text always marshals
	return string(b)
}

func printable(c rune) rune {
	if c < ' ' || c == 0x7f || c == 0x85 || c == 0x2028 || c == 0x2029 {
		return '?'
	}
	return c
}
