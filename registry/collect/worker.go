package collect

import (
	"context"
	"errors"
	"strconv"
	"time"

	"assay/internal/fault"
	"assay/store"
)

const (
	lookEvery = 30 * time.Second
	lastRun   = "last" // when the last collection ended, microseconds
)

// Run collects every now and then, until ctx ends. Of several processes one
// does.
func (c *Collector) Run(ctx context.Context) error {
	if err := c.resume(ctx); err != nil && ctx.Err() == nil {
		c.o.Logger.Warn("what a collection had begun is not ended yet", "error", err)
	}
	if c.o.Every < 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(min(lookEvery, c.o.Every))
	defer tick.Stop()
	for {
		if err := c.turn(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, fault.Conflict) {
			c.o.Logger.Warn("collection stopped, and goes on later", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// resume ends what a killed process had begun to delete, whether a collection is
// due or not: until then nobody can push those blobs.
func (c *Collector) resume(ctx context.Context) error {
	var n int64
	err := c.o.DB.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT COUNT(*) FROM blob_sweep WHERE deleting > 0`).Scan(&n)
	})
	if err != nil || n == 0 {
		return err
	}
	_, err = c.Collect(ctx, Request{})
	return err
}

func (c *Collector) turn(ctx context.Context) error {
	due := false
	err := c.o.DB.View(ctx, func(tx *store.Tx) error {
		var value string
		err := tx.QueryRow(ctx, `SELECT value FROM collect_mark WHERE name = ?`, lastRun).Scan(&value)
		if err != nil && !errors.Is(err, fault.NotFound) {
			return err
		}
		at, _ := strconv.ParseInt(value, 10, 64) // none: long ago
		due = c.o.Clock().Sub(store.Time(at)) >= c.o.Every
		if due {
			return nil
		}
		var n int64
		err = tx.QueryRow(ctx, `SELECT COUNT(*) FROM blob_sweep WHERE deleting > 0`).Scan(&n)
		due = n > 0 // a collector was killed meanwhile
		return err
	})
	if err != nil || !due {
		return err
	}
	report, err := c.Collect(ctx, Request{})
	if err != nil {
		return err
	}
	if report.Deleted+report.Manifests+report.Marked > 0 {
		c.o.Logger.Info("collected", "blobs", report.Deleted, "bytes", report.Freed, "manifests", report.Manifests, "marked", report.Marked)
	}
	return c.o.DB.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO collect_mark (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`,
			lastRun, strconv.FormatInt(store.Micros(c.o.Clock()), 10))
		return err
	})
}
