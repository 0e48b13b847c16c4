package evidence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
)

// List gives records that the filter matches, the newest first. A full page
// may have a next one: ask again with After = the last record's Cursor. What
// is ingested meanwhile does not disturb the pages.
func (s *Store) List(ctx context.Context, f Filter) (records []Record, err error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	f.Limit = min(f.Limit, s.limits.MaxPage)
	if f.Subject != "" {
		if err := f.Subject.Validate(); err != nil {
			return nil, err
		}
	}
	var c *cursor
	if f.After != "" {
		at, err := parseCursor(f.After)
		if err != nil {
			return nil, err
		}
		c = &at
	}
	err = s.db.View(ctx, func(tx *store.Tx) error {
		records, err = list(ctx, tx, f, c)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list evidence: %w", err)
	}
	return records, nil
}

// Get gives the records of one bundle, one for each subject digest, by digest;
// fault.NotFound when there is none.
func (s *Store) Get(ctx context.Context, id string) (records []Record, err error) {
	if err := validID(id); err != nil {
		return nil, err
	}
	err = s.db.View(ctx, func(tx *store.Tx) error {
		records, err = findRecords(ctx, tx, id)
		return err
	})
	if err == nil && len(records) == 0 {
		err = unknown(id)
	}
	return records, err
}

func unknown(id string) error {
	return fault.Newf(fault.NotFound, "evidence %s: not here; list what is with: assay evidence list", id)
}

// Bundle gives the bytes as they were ingested. They are hashed again on the
// way: when they changed, the error is fault.Tampered and no byte is given.
func (s *Store) Bundle(ctx context.Context, id string) ([]byte, error) {
	item, err := s.Item(ctx, id)
	return item.Bundle, err
}

// Item gives one bundle with what belongs to it, checked as [Store.Bundle] does.
func (s *Store) Item(ctx context.Context, id string) (Item, error) {
	if err := validID(id); err != nil {
		return Item{}, err
	}
	var c stored
	err := s.db.View(ctx, func(tx *store.Tx) (err error) {
		c, err = findStored(ctx, tx, id)
		return err
	})
	if errors.Is(err, fault.NotFound) {
		return Item{}, unknown(id)
	}
	if err != nil {
		return Item{}, err
	}
	return s.load(ctx, c)
}

// Evidence gives the bundles about a subject, at most Limits.MaxEvidence of them
// and Limits.EvidenceBytes in all; truncated says that there are more. The
// signers take turns: the newest bundle of each stands first, then the second
// newest of each, so that one signer's many do not displace another's. A bundle whose bytes changed fails the whole answer with
// fault.Tampered: evidence must not vanish because somebody damaged it.
func (s *Store) Evidence(ctx context.Context, subject artifact.Digest) (items []Item, truncated bool, err error) {
	if err := subject.Validate(); err != nil {
		return nil, false, err
	}
	var rows []stored
	err = s.db.View(ctx, func(tx *store.Tx) error {
		rows, err = newestStored(ctx, tx, subject, s.limits.MaxEvidence+1)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("evidence of %s: %w", subject, err)
	}
	total := int64(0)
	for i, c := range rows {
		if i == s.limits.MaxEvidence {
			return items, true, nil
		}
		if total+c.size > s.limits.EvidenceBytes {
			truncated = true // a smaller one of another signer may still have room
			continue
		}
		total += c.size
		item, err := s.load(ctx, c)
		if err != nil {
			return nil, false, fmt.Errorf("evidence of %s: %w", subject, err)
		}
		items = append(items, item)
	}
	return items, truncated, nil
}

// Commit gives the bundles about a git commit, as [Store.Evidence] those about
// content.
func (s *Store) Commit(ctx context.Context, id string) (items []Item, truncated bool, err error) {
	return s.Evidence(ctx, CommitKey(id))
}

// load brings a bundle's bytes together and checks them against its name.
func (s *Store) load(ctx context.Context, c stored) (Item, error) {
	c.Source = "evidence"
	want := bundleDigest(c.ID)
	c.Bundle = c.content
	if c.content == nil {
		b, err := s.readBlob(ctx, want, c.size)
		switch {
		case errors.Is(err, fault.NotFound):
			return Item{}, s.tampered(ctx, c.ID, fmt.Errorf("the bundle of %d bytes is gone from the blob store", c.size))
		case errors.Is(err, fault.Tampered):
			return Item{}, s.tampered(ctx, c.ID, err)
		case err != nil:
			return Item{}, err
		}
		c.Bundle = b
	}
	if got := artifact.SHA256Of(c.Bundle); got != want {
		return Item{}, s.tampered(ctx, c.ID, fmt.Errorf("expected bytes with digest %s, found %s", want, got))
	}
	if c.Payload != nil {
		// The bundle names what it signs.
		b, err := attestation.ParseBundle(c.Bundle, s.limits.Attestation)
		if err != nil {
			return Item{}, fmt.Errorf("evidence %s: %w", c.ID, err)
		}
		if m := b.MessageSignature(); m == nil || m.Digest != artifact.SHA256Of(c.Payload) {
			return Item{}, s.tampered(ctx, c.ID, errors.New("the signed document beside it is not the one that the bundle signs"))
		}
	}
	return c.Item, nil
}

// readBlob reads a blob of at most max bytes and checks its digest.
func (s *Store) readBlob(ctx context.Context, d artifact.Digest, max int64) ([]byte, error) {
	f, err := s.blobs.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Size() > max {
		return nil, fault.Newf(fault.TooLarge, "%s has %d bytes, want at most %d", d, f.Size(), max)
	}
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "read %s: %w", d, err)
	}
	h := d.Hash()
	h.Write(b)
	if got := artifact.NewDigest(d.Algorithm(), h.Sum(nil)); got != d {
		return nil, fault.Newf(fault.Tampered, "expected content with digest %s, found %s", d, got)
	}
	return b, nil
}

// tampered tells that a stored bundle changed, and makes the error.
func (s *Store) tampered(ctx context.Context, id string, why error) error {
	err := fault.Newf(fault.Tampered, "evidence %s was altered in the store: %w; restore the store from a backup", id, why)
	s.met.tampered.Inc()
	s.log.Error("stored evidence was altered", "id", id, "error", err)
	if !s.told.first(id) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	uerr := s.db.Update(ctx, func(tx *store.Tx) error {
		return event.Append(ctx, tx, event.Event{Kind: event.StoreTampered, Actor: "system:evidence", Body: map[string]string{
			"what": "database", "name": id, "expected": string(bundleDigest(id)), "found": printable(why.Error(), 400),
		}})
	})
	if uerr != nil {
		s.log.Error("note altered evidence", "id", id, "error", uerr)
	}
	return err
}

// once remembers what an alert was raised for, so that each read of a damaged
// row does not raise another. It forgets all when it is full.
type once struct {
	mu   sync.Mutex
	seen map[string]bool
}

func (o *once) first(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.seen[id] {
		return false
	}
	if o.seen == nil || len(o.seen) >= 1024 {
		o.seen = map[string]bool{}
	}
	o.seen[id] = true
	return true
}

// References calls fn with the digest of each blob that evidence needs, until
// fn errs, which it returns. Garbage collection of the blob store must keep
// them.
func (s *Store) References(ctx context.Context, fn func(artifact.Digest) error) error {
	after := ""
	for {
		var ids []string
		err := s.db.View(ctx, func(tx *store.Tx) error {
			ids = ids[:0]
			var err error
			ids, err = store.Values[string](ctx, tx, `SELECT id FROM evidence_bundle WHERE content IS NULL AND id > ? ORDER BY id LIMIT 1000`, after)
			return err
		})
		if err != nil {
			return fmt.Errorf("blobs of evidence: %w", err)
		}
		for _, id := range ids {
			if err := fn(bundleDigest(id)); err != nil {
				return err
			}
			after = id
		}
		if len(ids) < 1000 {
			return nil
		}
	}
}
