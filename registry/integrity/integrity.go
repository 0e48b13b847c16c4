// Package integrity makes sure that stored blobs are what they were: it hashes
// all of them again in the background ([Checker.Run]), and small ones before
// they are read ([Checker.Store]). What is damaged is served to nobody, the
// manifests that need it are quarantined, and a person is told.
package integrity

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/artifact"
	"assay/blob"
	"assay/event"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/store"
)

// Gate quarantines what cannot be served whole, in the transaction that notes
// the damage. Its quarantine is apart from those that persons make.
type Gate interface {
	QuarantineDamaged(ctx context.Context, tx *store.Tx, d artifact.Digest, reason string) error
	ReleaseRepaired(ctx context.Context, tx *store.Tx, d artifact.Digest, reason string) error
}

// Options of a [Checker]. DB, Blobs and Gate are required.
type Options struct {
	DB    *store.DB
	Blobs blob.Store // bare, not [Checker.Store]
	Gate  Gate
	// Sources are asked, in this order, for what is damaged here.
	Sources []Source

	Every     time.Duration // from the beginning of a round to that of the next; 0: 7 days; below 0: no rounds
	Rate      int64         // bytes hashed in a second by rounds; 0: 32 MiB
	ReadLimit int64         // blobs up to this size are hashed before they are read; 0: 1 MiB; below 0: none
	Fresh     time.Duration // how long a blob that was hashed counts as checked when it is read; 0: 10 min; below 0: not at all

	Clock      clock.Clock           // nil: clock.System
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
}

// Checker finds damaged blobs.
type Checker struct {
	o      Options
	holder string
	met    *metrics

	replacing sync.Mutex

	mu      sync.Mutex
	checked map[artifact.Digest]stamp
	damaged map[artifact.Digest]bool // as of looked
	looked  time.Time
}

// stamp says when a blob's file, of a size and an age, was hashed.
type stamp struct {
	size    int64
	changed time.Time
	at      time.Time
}

// changed is when a blob's bytes last changed: as the file system notes it, where
// the store knows that, since a file's age can be set back.
func changed(f blob.File) time.Time {
	if c, ok := f.(interface{ Changed() time.Time }); ok {
		return c.Changed()
	}
	return f.ModTime()
}

const (
	maxChecked = 1 << 16
	damagedAge = time.Second // how old the set of damaged blobs may be
)

// New makes a checker. The database must have been migrated with [Migrations].
func New(o Options) (*Checker, error) {
	if o.DB == nil || o.Blobs == nil || o.Gate == nil {
		return nil, fault.Newf(fault.Invalid, "integrity: Options.DB, Blobs and Gate are required")
	}
	if o.Every == 0 {
		o.Every = 7 * 24 * time.Hour
	}
	if o.Rate <= 0 {
		o.Rate = 32 << 20
	}
	if o.ReadLimit == 0 {
		o.ReadLimit = 1 << 20
	}
	if o.Fresh == 0 {
		o.Fresh = 10 * time.Minute
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	met, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	return &Checker{o: o, holder: rand.Text(), met: met, checked: map[artifact.Digest]stamp{}}, nil
}

// Finding is a damaged blob.
type Finding struct {
	Digest artifact.Digest `json:"digest"`
	Found  string          `json:"found"` // the digest of the stored bytes, or absent
}

// Check hashes a blob now, whatever its size. nil: it is what it was. Absent is
// a finding where a manifest needs it, otherwise fault.NotFound.
func (c *Checker) Check(ctx context.Context, d artifact.Digest) (*Finding, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	f, err := c.o.Blobs.Open(ctx, d)
	if errors.Is(err, fault.NotFound) {
		is, missErr := c.missing(ctx, d)
		if missErr != nil || !is {
			return nil, errors.Join(err, missErr)
		}
		return &Finding{d, absent}, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	found, err := c.hash(ctx, d, f, nil)
	if err == nil && found == nil {
		err = c.mended(ctx, d)
	}
	return found, err
}

// mended lifts what a damage brought, once the stored bytes are right again:
// somebody has put the file back.
func (c *Checker) mended(ctx context.Context, d artifact.Digest) error {
	c.forget()
	bad, err := c.isDamaged(ctx, d)
	if err != nil || !bad {
		return err
	}
	return c.repaired(ctx, d, By{Source: sourceInPlace}, -1)
}

const absent = "absent"

// hash reads f to its end. pace is told of each piece that was read.
func (c *Checker) hash(ctx context.Context, d artifact.Digest, f blob.File, pace func(n int) error) (*Finding, error) {
	h := d.Hash()
	buf := make([]byte, min(max(f.Size(), 1), 256<<10))
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if pace != nil && n > 0 {
			if err := pace(n); err != nil {
				return nil, err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fault.Newf(fault.Unavailable, "read blob %s: %w", d, err)
		}
	}
	if got := artifact.NewDigest(d.Algorithm(), h.Sum(nil)); got != d {
		c.met.checked.WithLabelValues("damaged").Inc()
		return &Finding{d, string(got)}, c.record(ctx, d, string(got))
	}
	c.met.checked.WithLabelValues("whole").Inc()
	c.remember(d, f)
	return nil, nil //nolint:nilnil // no finding is an answer
}

func (c *Checker) remember(d artifact.Digest, f blob.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.checked) >= maxChecked {
		for k := range c.checked { // any: what is read often comes back at once
			delete(c.checked, k)
			break
		}
	}
	c.checked[d] = stamp{f.Size(), changed(f), c.o.Clock()}
}

func (c *Checker) fresh(d artifact.Digest, f blob.File) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.checked[d]
	age := c.o.Clock().Sub(s.at)
	return ok && s.size == f.Size() && s.changed.Equal(changed(f)) && age >= 0 && age < c.o.Fresh
}

// missing records that a blob is gone, if a manifest needs it.
func (c *Checker) missing(ctx context.Context, d artifact.Digest) (bool, error) {
	var list []artifact.Digest
	err := c.o.DB.View(ctx, func(tx *store.Tx) (err error) {
		list, err = needers(ctx, tx, d)
		return err
	})
	if err != nil || len(list) == 0 {
		return false, err
	}
	// It may have come between the two looks: bytes are there before rows.
	if _, err := c.o.Blobs.Stat(ctx, d); !errors.Is(err, fault.NotFound) {
		return false, err
	}
	c.met.checked.WithLabelValues("missing").Inc()
	return true, c.record(ctx, d, absent)
}

type tamperedBody struct {
	What     string `json:"what"`
	Name     string `json:"name"`
	Expected string `json:"expected"`
	Found    string `json:"found"`
}

// record notes a damage, quarantines what needs the blob, and tells: once until
// it is repaired.
func (c *Checker) record(ctx context.Context, d artifact.Digest, found string) error {
	// What was found stands, whether the client that asked waits or not.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	c.o.Logger.ErrorContext(ctx, "a stored blob is damaged; it is served to nobody", "digest", string(d), "found", found)
	err := c.o.DB.Update(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(ctx, `INSERT INTO integrity_damage (digest, found, found_at) VALUES (?, ?, ?) ON CONFLICT (digest) DO NOTHING`,
			string(d), found, tx.Now())
		if err != nil {
			return err
		}
		list, err := needers(ctx, tx, d)
		if err != nil {
			return err
		}
		// Also for a damage that is known: what was pushed since needs it too.
		for _, m := range list {
			if err := c.o.Gate.QuarantineDamaged(ctx, tx, m, "stored bytes of "+string(d)+" are damaged"); err != nil {
				return err
			}
		}
		tx.OnCommit(c.forget)
		if n == 0 {
			return nil
		}
		return event.Append(ctx, tx, event.Event{
			Kind: event.StoreTampered, Digest: d, Actor: "system:integrity",
			Body: tamperedBody{What: "blob", Name: string(d), Expected: string(d), Found: found},
		})
	})
	if err != nil {
		return fmt.Errorf("note damage of %s: %w", d, err)
	}
	return nil
}

func (c *Checker) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.damaged = nil
}

// Damaged lists the blobs that wait for repair.
func (c *Checker) Damaged(ctx context.Context) (out []Finding, err error) {
	err = c.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT digest, found FROM integrity_damage ORDER BY digest`)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var f Finding
			if err := rows.Scan(&f.Digest, &f.Found); err != nil {
				return err
			}
			out = append(out, f)
		}
		return rows.Err()
	})
	return out, err
}

// isDamaged asks a set that is at most damagedAge old.
func (c *Checker) isDamaged(ctx context.Context, d artifact.Digest) (bool, error) {
	now := c.o.Clock()
	c.mu.Lock()
	set, age := c.damaged, now.Sub(c.looked)
	c.mu.Unlock()
	if set == nil || age < 0 || age >= damagedAge {
		list, err := c.Damaged(ctx)
		if err != nil {
			return false, err
		}
		set = make(map[artifact.Digest]bool, len(list))
		for _, f := range list {
			set[f.Digest] = true
		}
		c.mu.Lock()
		c.damaged, c.looked = set, now
		c.mu.Unlock()
	}
	return set[d], nil
}
