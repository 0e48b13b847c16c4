package canary

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"assay/event"
	"assay/internal/fault"
	"assay/store"
)

// Follower judges the canaries again when the matcher is another one, and notes
// how much each feed finds.
type Follower struct {
	Canaries *Canaries
	Events   *event.Log
	Logger   *slog.Logger
}

const (
	leaseName = "vuln/canary"
	leaseTTL  = time.Minute
	daily     = 24 * time.Hour
)

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) error {
	if f.Logger == nil {
		f.Logger = slog.New(slog.DiscardHandler)
	}
	done := make(chan error, 1)
	matched := make(chan struct{}, 1)
	go func() {
		done <- f.Events.Consume(ctx, "vuln/canary", func(_ context.Context, tx *store.Tx, _ []event.Event) error {
			tx.OnCommit(func() {
				select {
				case matched <- struct{}{}:
				default:
				}
			})
			return nil
		}, event.FeedMatched)
	}()
	holder := rand.Text()
	sampled := time.Time{}
	for ctx.Err() == nil {
		held, _, err := f.Canaries.db.Lease(ctx, leaseName, holder, leaseTTL)
		if err == nil && held {
			err = f.Canaries.Rejudge(ctx)
		}
		if now := f.Canaries.db.Now(); err == nil && held && now.Sub(sampled) >= daily {
			if err = f.Canaries.sampleAll(ctx); err == nil {
				sampled = now
			}
		}
		if err != nil && ctx.Err() == nil {
			f.Logger.WarnContext(ctx, "judging the canaries failed, and is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-matched:
			sampled = time.Time{}
		case <-time.After(leaseTTL / 2):
		}
	}
	return <-done
}

func (c *Canaries) sampleAll(ctx context.Context) error {
	sources, err := c.feeds.Sources(ctx)
	for _, s := range sources {
		if err == nil && s.Operation != 0 {
			err = c.Sample(ctx, s.Name, s.Ecosystem)
		}
	}
	return err
}

// Rejudge looks at all feeds in force when the matcher is another one than the
// last that did so: what comes out clean now puts its feed in doubt, so that it
// counts as stale until a person accepts it, or another operation is found good.
func (c *Canaries) Rejudge(ctx context.Context) error {
	var last string
	err := c.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT version FROM canary_matcher WHERE id = 1`).Scan(&last)
	})
	if err != nil && !errors.Is(err, fault.NotFound) {
		return err
	}
	if last == c.matcher {
		return nil
	}
	sources, err := c.feeds.Sources(ctx)
	if err != nil {
		return err
	}
	for _, s := range sources {
		if s.Operation == 0 {
			continue
		}
		op, err := c.feeds.Operation(ctx, s.Operation)
		if err != nil {
			return err
		}
		list, err := c.judge(ctx, op)
		if err != nil {
			return err
		}
		if failed := clean(list); len(failed) > 0 {
			why := reason(failed)
			if s.Blocked != why {
				_ = c.hold(ctx, op, failed) // its error is the block; what must be written is tried again with the version
				if err := c.feeds.Doubt(ctx, s.Name, s.Ecosystem, why); err != nil {
					return err
				}
			}
			continue
		}
		if s.Blocked != "" {
			if err := c.feeds.Doubt(ctx, s.Name, s.Ecosystem, ""); err != nil {
				return err
			}
		}
		if err := c.note(ctx, op, list, false); err != nil {
			return err
		}
	}
	return c.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO canary_matcher (id, version) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET version = excluded.version`, c.matcher)
		return err
	})
}
