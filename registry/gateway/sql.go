package gateway

import (
	"context"
	"errors"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/registry"
	"assay/store"
)

// check is what is known of a question to an upstream.
type check struct {
	checked, due time.Time
}

func (g *Gateway) check(ctx context.Context, repository, reference string) (c check, known bool, err error) {
	err = g.o.DB.View(ctx, func(tx *store.Tx) error {
		var checked, due int64
		err := tx.QueryRow(ctx, `SELECT checked_at, due_at FROM gateway_check WHERE repository = ? AND reference = ?`, repository, reference).Scan(&checked, &due)
		if errors.Is(err, fault.NotFound) {
			return nil
		}
		c, known = check{store.Time(checked), store.Time(due)}, err == nil
		return err
	})
	return c, known, err
}

// note keeps when an upstream was asked, and when to ask again. A question that
// failed about what was never here leaves nothing.
func (g *Gateway) note(ctx context.Context, repository, reference string, d artifact.Digest, pause time.Duration, failed, client bool) error {
	if failed && d == "" {
		return nil
	}
	return g.o.DB.Update(ctx, func(tx *store.Tx) error {
		now := tx.Now()
		checked, asked := store.Micros(now), store.Micros(now)
		if failed {
			checked = 0
		}
		if !client {
			asked = 0
		}
		_, err := tx.Exec(ctx, `INSERT INTO gateway_check (repository, reference, digest, checked_at, due_at, asked_at) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (repository, reference) DO UPDATE SET digest = excluded.digest, due_at = excluded.due_at,
				checked_at = CASE WHEN excluded.checked_at > 0 THEN excluded.checked_at ELSE gateway_check.checked_at END,
				asked_at = CASE WHEN excluded.asked_at > 0 THEN excluded.asked_at ELSE gateway_check.asked_at END`,
			repository, reference, string(d), checked, store.Micros(now.Add(pause)), asked)
		return err
	})
}

// pollEvery is how often due questions are looked for.
const pollEvery = 10 * time.Second

// Run asks upstreams again about what clients have pulled in the last week, when
// that is due, until ctx ends.
func (g *Gateway) Run(ctx context.Context, in registry.Intake) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	daily := time.NewTicker(24 * time.Hour)
	defer daily.Stop()
	for {
		select {
		case p := <-g.noticed:
			g.heed(ctx, in, p)
		case <-tick.C:
			if err := g.Poll(ctx, in); err != nil && ctx.Err() == nil {
				g.o.Logger.WarnContext(ctx, "what upstreams have could not be looked through", "error", err)
			}
		case <-daily.C:
			if err := g.forgetTags(ctx); err != nil && ctx.Err() == nil {
				g.o.Logger.WarnContext(ctx, "old lists of tags were not dropped", "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Poll asks upstreams about what is due.
func (g *Gateway) Poll(ctx context.Context, in registry.Intake) error {
	type question struct{ repository, reference string }
	var list []question
	err := g.o.DB.View(ctx, func(tx *store.Tx) error {
		list = nil
		now := tx.Now()
		rows, err := tx.Query(ctx, `SELECT repository, reference FROM gateway_check WHERE due_at <= ? AND asked_at >= ? ORDER BY due_at LIMIT 256`,
			store.Micros(now), store.Micros(now.Add(-askedWithin)))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var q question
			if err := rows.Scan(&q.repository, &q.reference); err != nil {
				return err
			}
			list = append(list, q)
		}
		return rows.Err()
	})
	if err != nil {
		return err
	}
	for _, q := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		host, ok := g.Of(q.repository)
		if !ok {
			err = g.drop(ctx, q.repository) // no gateway's any more
		} else if !g.remembers(g.down, host, g.o.Clock()) {
			g.again(ctx, in, q.repository, q.reference)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (g *Gateway) again(ctx context.Context, in registry.Intake, repository, reference string) {
	tag, d := reference, artifact.Digest("")
	have, _, err := in.Points(ctx, repository, reference)
	if parsed, perr := artifact.ParseDigest(reference); perr == nil {
		tag, d, have = "", parsed, parsed
		var here bool
		if here, err = in.Has(ctx, repository, d); !here {
			have = ""
		}
	}
	if err == nil {
		err = g.ask(ctx, in, repository, tag, d, have, bringTimeout, false)
	}
	if err != nil {
		g.o.Logger.DebugContext(ctx, "an upstream was asked again in vain", "repository", repository, "reference", reference, "error", err)
	}
}

func (g *Gateway) drop(ctx context.Context, repository string) error {
	return g.o.DB.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM gateway_check WHERE repository = ?`, repository)
		if err == nil {
			_, err = tx.Exec(ctx, `DELETE FROM gateway_tags WHERE repository = ?`, repository)
		}
		return err
	})
}
