package integrity

import (
	"context"
	"errors"
	"strconv"
	"time"

	"assay/artifact"
	"assay/blob"
	"assay/internal/fault"
	"assay/store"
)

const (
	leaseName  = "scrub"
	leaseFor   = time.Minute
	look       = 10 * time.Second // how often a round is looked for
	markCursor = "cursor"         // the last blob of the running round that was hashed
	markBegun  = "begun"          // when the running or last round began, microseconds
	markEnded  = "ended"          // which round ended: its markBegun
)

// Report is what a round found.
type Report struct {
	Blobs    int64     `json:"blobs"`
	Bytes    int64     `json:"bytes"`
	Findings []Finding `json:"findings"`
}

// Run makes rounds until ctx ends. One process of a site does, by a lease; the
// next goes on where it stopped.
func (c *Checker) Run(ctx context.Context) error {
	if c.o.Every < 0 {
		<-ctx.Done()
		return nil
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = c.o.DB.Release(end, leaseName, c.holder) // it ends by itself otherwise
	}()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		if err := c.turn(ctx); err != nil && ctx.Err() == nil {
			c.o.Logger.Warn("scrub stopped, and goes on later", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// turn goes on with a round, or begins one that is due.
func (c *Checker) turn(ctx context.Context) error {
	held, _, err := c.o.DB.Lease(ctx, leaseName, c.holder, leaseFor)
	if err != nil || !held {
		return err
	}
	var cursor string
	var due bool
	now := store.Micros(c.o.Clock())
	err = c.o.DB.Update(ctx, func(tx *store.Tx) error {
		begun, err := mark(ctx, tx, markBegun)
		if err != nil {
			return err
		}
		ended, err := mark(ctx, tx, markEnded)
		if err != nil {
			return err
		}
		if cursor, err = mark(ctx, tx, markCursor); err != nil {
			return err
		}
		at, _ := strconv.ParseInt(begun, 10, 64) // "" is 0: long ago
		if due = begun != ended; due {
			return nil
		}
		if due = begun == "" || now-at >= c.o.Every.Microseconds(); !due {
			return nil
		}
		cursor = ""
		if err := setMark(ctx, tx, markCursor, ""); err != nil {
			return err
		}
		return setMark(ctx, tx, markBegun, strconv.FormatInt(now, 10))
	})
	if err != nil || !due {
		return err
	}
	if _, err := c.round(ctx, artifact.Digest(cursor), true); err != nil {
		return err
	}
	return c.o.DB.Update(ctx, func(tx *store.Tx) error {
		begun, err := mark(ctx, tx, markBegun)
		if err != nil {
			return err
		}
		return setMark(ctx, tx, markEnded, begun)
	})
}

// All hashes every blob now, as fast as it goes, and looks for what is gone.
func (c *Checker) All(ctx context.Context) (*Report, error) { return c.round(ctx, "", false) }

// round hashes the blobs after a digest. A background round keeps to the rate,
// renews its lease and notes how far it is.
func (c *Checker) round(ctx context.Context, after artifact.Digest, background bool) (*Report, error) {
	r := &Report{Findings: []Finding{}}
	p := &pace{c: c, noted: c.o.Clock(), at: after}
	step := func(n int) error {
		r.Bytes += int64(n)
		if !background {
			return nil
		}
		return p.step(ctx, n)
	}
	known, err := c.Damaged(ctx)
	if err != nil {
		return nil, err
	}
	damaged := make(map[artifact.Digest]bool, len(known))
	for _, k := range known {
		damaged[k.Digest] = true
	}
	err = c.o.Blobs.Walk(ctx, func(i blob.Info) error {
		if i.Digest <= after {
			return nil
		}
		f, err := c.o.Blobs.Open(ctx, i.Digest)
		if errors.Is(err, fault.NotFound) {
			return nil // deleted meanwhile; what is needed and gone comes below
		}
		if err != nil {
			return err
		}
		found, err := c.hash(ctx, i.Digest, f, step)
		_ = f.Close()
		if err == nil && found == nil && damaged[i.Digest] {
			err = c.mended(ctx, i.Digest)
		}
		if err != nil {
			return err
		}
		r.Blobs++
		if found != nil {
			r.Findings = append(r.Findings, *found)
		}
		p.at = i.Digest
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, c.gone(ctx, r, p, background)
}

// gone looks for blobs that the tables name and the store does not have.
func (c *Checker) gone(ctx context.Context, r *Report, p *pace, background bool) error {
	for after := artifact.Digest(""); ; {
		var page []artifact.Digest
		if err := c.o.DB.View(ctx, func(tx *store.Tx) (err error) {
			page, err = needed(ctx, tx, after)
			return err
		}); err != nil || len(page) == 0 {
			return err
		}
		for _, d := range page {
			after = d
			if background {
				if err := p.step(ctx, 0); err != nil {
					return err
				}
			}
			_, err := c.o.Blobs.Stat(ctx, d)
			if err == nil {
				continue
			}
			if !errors.Is(err, fault.NotFound) {
				return err
			}
			is, err := c.missing(ctx, d)
			if err != nil {
				return err
			}
			if is {
				r.Findings = append(r.Findings, Finding{d, absent})
			}
		}
	}
}

// pace keeps a background round to its rate.
type pace struct {
	c     *Checker
	at    artifact.Digest // hashed last
	noted time.Time
	ahead int64 // bytes since the last pause
}

func (p *pace) step(ctx context.Context, n int) error {
	if p.ahead += int64(n); p.ahead >= p.c.o.Rate/8+1 {
		wait := time.Duration(float64(p.ahead) / float64(p.c.o.Rate) * float64(time.Second))
		p.ahead = 0
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
	now := p.c.o.Clock()
	if now.Sub(p.noted) < leaseFor/6 {
		return nil
	}
	p.noted = now
	held, _, err := p.c.o.DB.Lease(ctx, leaseName, p.c.holder, leaseFor)
	if err != nil {
		return err
	}
	if !held {
		return fault.Newf(fault.Conflict, "another process goes on with the round")
	}
	return p.c.o.DB.Update(ctx, func(tx *store.Tx) error { return setMark(ctx, tx, markCursor, string(p.at)) })
}
