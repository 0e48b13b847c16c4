package revocation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Memory is where a client keeps the newest list that it has seen of each trust
// domain: a folder of its own. Two sites of one name, such as two on localhost,
// are told apart by their keys: one site's lists share some, when others were
// rotated.
type Memory struct{ Dir string }

// remembered is what is kept of a list: all that the next one is held against.
type remembered struct {
	Domain  string   `json:"domain"`
	Parties []string `json:"parties"` // keys and logs that ever stood for it, sorted
	Version int64    `json:"version"`
	Issued  Time     `json:"issued"`
	Expires Time     `json:"expires"`
	Use     Use      `json:"use"`
	Entries []Entry  `json:"entries"`
}

// Accept holds a list that was opened against the newest one seen, and remembers
// it, durably, before it returns. A list that may not follow is refused as by
// [Follow].
func (m Memory) Accept(ctx context.Context, s *Signed) error {
	if err := durable.MkdirAll(m.Dir, 0o700); err != nil {
		return err
	}
	lock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = lock() }()
	before, path, err := m.find(s)
	if err != nil {
		return err
	}
	parties := s.parties
	if before != nil {
		if err := Follow(before, s); err != nil {
			return err
		}
		if parties = union(before.parties, s.parties); before.List.Version == s.List.Version && len(parties) == len(before.parties) {
			return nil
		}
	}
	l := s.List
	b, err := strictjson.Canonical(remembered{Domain: l.Domain, Parties: parties, Version: l.Version, Issued: l.Issued, Expires: l.Expires, Use: l.Use, Entries: l.Entries})
	if err != nil {
		return err
	}
	return durable.WriteFile(path, b, 0o600)
}

// find gives what was seen of the list's site, nil for nothing, and the file
// that is its place.
func (m Memory) find(s *Signed) (*Signed, string, error) {
	sum := sha256.Sum256([]byte(s.List.Domain))
	for n := 0; ; n++ {
		path := filepath.Join(m.Dir, hex.EncodeToString(sum[:16])+"-"+strconv.Itoa(n)+".json")
		seen, err := read(path, s.List.Domain)
		if err != nil || seen == nil || intersect(seen.parties, s.parties) {
			return seen, path, err
		}
	}
}

func intersect(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

func union(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

// read gives what a file remembers, nil where there is none. What is damaged is
// an error: as nothing it would let an old list in.
func read(path, domain string) (*Signed, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r remembered
	if err := strictjson.Unmarshal(b, &r, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxSigned)); err != nil || r.Domain != domain || len(r.Parties) == 0 {
		return nil, fault.Newf(fault.Tampered, "%s, which remembers the newest revocation list of %.80q, is damaged (%w): if you know that nobody altered it, delete it and fetch the list anew", path, domain, err)
	}
	l := &List{Schema: Schema, Domain: r.Domain, Version: r.Version, Use: r.Use, Issued: r.Issued, Expires: r.Expires, Entries: r.Entries}
	if err := l.Validate(); err != nil {
		return nil, fault.Newf(fault.Tampered, "%s: %w", path, err)
	}
	return &Signed{List: l, entries: l.EntriesDigest(), index: -1, parties: r.Parties}, nil
}

// lock waits for another process.
func (m Memory) lock(ctx context.Context) (func() error, error) {
	for {
		l, err := durable.Lock(filepath.Join(m.Dir, "lock"))
		if err == nil {
			return l.Close, nil
		}
		if !errors.Is(err, fault.Conflict) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
