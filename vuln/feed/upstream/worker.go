package upstream

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/store"
	"assay/telemetry"
)

const (
	leaseName = "vuln/upstreams"
	leaseTTL  = 30 * time.Second
	idlePoll  = 2 * time.Second
	atOnce    = 3 // upstreams that are asked at the same time
	firstWait = time.Minute
	actor     = "system:vuln"
)

// Run asks what is due until ctx ends: in one process of the site.
func (u *Upstreams) Run(ctx context.Context) error {
	holder := rand.Text()
	defer func() {
		_ = u.o.DB.Release(context.WithoutCancel(ctx), leaseName, holder) // it ends by itself
	}()
	for ctx.Err() == nil {
		held, _, err := u.o.DB.Lease(ctx, leaseName, holder, leaseTTL)
		if err == nil && held {
			err = u.lead(ctx, holder)
		}
		if err != nil && ctx.Err() == nil {
			u.o.Logger.WarnContext(ctx, "looking after advisory feeds failed, and is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-u.wake:
		case <-time.After(idlePoll):
		}
	}
	return nil
}

// lead does what is due, and keeps the lease meanwhile.
func (u *Upstreams) lead(ctx context.Context, holder string) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(leaseTTL / 3)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				if held, _, err := u.o.DB.Lease(ctx, leaseName, holder, leaseTTL); err == nil && !held {
					stop() // another one leads
				}
			}
		}
	})
	err := u.Turn(ctx)
	stop()
	wg.Wait()
	return err
}

// Turn does what is due, and tells what became stale.
func (u *Upstreams) Turn(ctx context.Context) error {
	if err := u.prepare(ctx); err != nil {
		return err
	}
	jobs, err := u.due(ctx)
	if err != nil {
		return err
	}
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for _, j := range jobs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := u.do(ctx, j); err != nil && ctx.Err() == nil {
				u.o.Logger.ErrorContext(ctx, "what became of a feed could not be noted", "feed", j.Name, "ecosystem", j.ecosystem, "error", err)
			}
		})
	}
	wg.Wait()
	if u.o.MaxAge > 0 {
		return u.o.Feeds.TellStale(ctx, u.o.MaxAge)
	}
	return nil
}

func (u *Upstreams) due(ctx context.Context) (jobs []job, err error) {
	err = u.o.DB.View(ctx, func(tx *store.Tx) error {
		jobs = nil
		all, err := u.list(ctx, tx)
		if err != nil {
			return err
		}
		specs := map[string]Spec{}
		for _, one := range all {
			specs[one.Name] = one.Spec
		}
		rows, err := tx.Query(ctx, `SELECT name, ecosystem, tag, whole, downgrade, actor FROM feed_sync WHERE due <= ? ORDER BY due, name, ecosystem LIMIT 200`, store.Micros(tx.Now()))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var j job
			var name string
			var whole int64
			if err := rows.Scan(&name, &j.ecosystem, &j.tag, &whole, &j.downgrade, &j.actor); err != nil {
				return err
			}
			j.Spec, j.whole = specs[name], moment(whole)
			if j.actor == "" {
				j.actor = actor
			}
			if j.Name != "" {
				jobs = append(jobs, j)
			}
		}
		return rows.Err()
	})
	return jobs, err
}

// do looks once, and notes what became of it.
func (u *Upstreams) do(ctx context.Context, j job) error {
	if j.Type == OSV && j.tag != "" {
		// The tag is of the archive in force alone: what was refused is asked for again.
		src, err := u.o.Feeds.Source(ctx, j.Name, j.ecosystem)
		if errors.Is(err, fault.NotFound) || err == nil && (src.Operation == 0 || src.ETag != j.tag) {
			j.tag = ""
		} else if err != nil {
			return err
		}
	}
	fetching, span := telemetry.Start(ctx, "feed.fetch")
	span.Text(telemetry.Feed, j.Name)
	out, err := u.f.run(fetching, j)
	span.End(err)
	if ctx.Err() != nil {
		return ctx.Err() // it is due as it was
	}
	if err != nil {
		return u.failed(ctx, j, err)
	}
	u.fetches.WithLabelValues(out.Did).Inc()
	wait := spread(j.Interval())
	return u.o.DB.Update(ctx, func(tx *store.Tx) error {
		now := store.Micros(tx.Now())
		whole := store.Micros(j.whole)
		if out.Whole || j.whole.IsZero() {
			whole = now
		}
		did := out.Did
		if out.Detail != "" {
			did += ": " + out.Detail
		}
		_, err := tx.Exec(ctx, `UPDATE feed_sync SET due = ?, tried = ?, succeeded = ?, failures = 0, problem = '', outcome = ?, tag = ?, whole = ?, downgrade = '', actor = '' WHERE name = ? AND ecosystem = ? AND url = ?`,
			now+wait.Microseconds(), now, now, excerpt.Text(did, 500), out.Tag, whole, j.Name, j.ecosystem, j.URL)
		return err
	})
}

// failed notes why, and waits longer each time.
func (u *Upstreams) failed(ctx context.Context, j job, why error) error {
	u.o.Logger.WarnContext(ctx, "a feed was not renewed", "feed", j.Name, "ecosystem", j.ecosystem, "error", why)
	kind := "failed"
	switch fault.KindOf(why) { //nolint:exhaustive // all others are failures
	case fault.Invalid, fault.TooLarge, fault.Conflict, fault.Unverified:
		kind = "refused"
	}
	u.fetches.WithLabelValues(kind).Inc()
	first := false
	if err := u.o.DB.Update(ctx, func(tx *store.Tx) error {
		var failures int64
		if err := tx.QueryRow(ctx, `SELECT failures FROM feed_sync WHERE name = ? AND ecosystem = ?`, j.Name, j.ecosystem).Scan(&failures); err != nil {
			return err
		}
		first = failures == 0
		now := tx.Now()
		wait := spread(min(firstWait<<min(failures, 12), max(j.Interval(), firstWait)))
		_, err := tx.Exec(ctx, `UPDATE feed_sync SET due = ?, tried = ?, failures = failures + 1, problem = ?, downgrade = '', actor = '' WHERE name = ? AND ecosystem = ?`,
			store.Micros(now.Add(wait)), store.Micros(now), excerpt.Text(why.Error(), 1000), j.Name, j.ecosystem)
		return err
	}); err != nil {
		return err
	}
	// A tree without names of ecosystems has no row of its own among the feeds:
	// those that are in it do, and say what is refused of them.
	tree := j.Type == OSV && len(j.Ecosystems) == 0
	if j.Type == OSV && !tree {
		return u.o.Feeds.Failed(ctx, j.Name, j.ecosystem, why, j.actor)
	}
	if !first || tree && kind == "refused" {
		return nil
	}
	return u.o.Lists.Failed(ctx, j.Name, why, j.actor)
}

// spread moves a wait by up to a tenth, so that sites do not ask all at once.
func spread(d time.Duration) time.Duration {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return d - d/10 + time.Duration(binary.LittleEndian.Uint64(b[:])%uint64(max(d/5, 1)))
}
