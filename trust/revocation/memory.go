package revocation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"time"

	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Memory is where a client keeps the newest list that it has seen of each trust
// domain: a folder of its own.
type Memory struct{ Dir string }

// remembered is what is kept of a list: all that the next one is held against.
type remembered struct {
	Domain  string  `json:"domain"`
	Version int64   `json:"version"`
	Issued  Time    `json:"issued"`
	Expires Time    `json:"expires"`
	Use     Use     `json:"use"`
	Entries []Entry `json:"entries"`
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
	before, err := m.read(s.List.Domain)
	if err != nil {
		return err
	}
	if err := Follow(before, s); err != nil {
		return err
	}
	if before != nil && before.List.Version == s.List.Version {
		return nil
	}
	l := s.List
	b, err := strictjson.Canonical(remembered{Domain: l.Domain, Version: l.Version, Issued: l.Issued, Expires: l.Expires, Use: l.Use, Entries: l.Entries})
	if err != nil {
		return err
	}
	return durable.WriteFile(m.path(l.Domain), b, 0o600)
}

func (m Memory) path(domain string) string {
	sum := sha256.Sum256([]byte(domain))
	return filepath.Join(m.Dir, hex.EncodeToString(sum[:16])+".json")
}

// read gives what was seen, nil for nothing. What is damaged is an error: as
// nothing it would let an old list in.
func (m Memory) read(domain string) (*Signed, error) {
	b, err := os.ReadFile(m.path(domain))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r remembered
	if err := strictjson.Unmarshal(b, &r, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxSigned)); err != nil || r.Domain != domain {
		return nil, fault.Newf(fault.Tampered, "%s, which remembers the newest revocation list of %.80q, is damaged (%w): if you know that nobody altered it, delete it and fetch the list anew", m.path(domain), domain, err)
	}
	l := &List{Schema: Schema, Domain: r.Domain, Version: r.Version, Use: r.Use, Issued: r.Issued, Expires: r.Expires, Entries: r.Entries}
	if err := l.Validate(); err != nil {
		return nil, fault.Newf(fault.Tampered, "%s: %w", m.path(domain), err)
	}
	return &Signed{List: l, entries: l.EntriesDigest(), index: -1}, nil
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
