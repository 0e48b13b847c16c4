package finding

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/lane"
)

// Follower has every new bill of materials and every operation of a feed matched,
// in the order in which they came. What is to be done is noted durably first, so
// that it survives whatever ends the process.
type Follower struct {
	Matcher *Matcher
	Events  *event.Log
	Logger  *slog.Logger
	// Lanes say what is matched first; nil: what came first. Operations of feeds are
	// of tier 1: what they change is matched against everything, whatever its tier.
	Lanes lane.Lanes
	wake  chan struct{}
}

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) error {
	if f.Logger == nil {
		f.Logger = slog.New(slog.DiscardHandler)
	}
	if f.Lanes == nil {
		f.Lanes = lane.One{}
	}
	f.wake = make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() { done <- f.Events.Consume(ctx, "vuln", f.note, event.SBOMIndexed, event.FeedImported) }()
	f.work(ctx)
	return <-done
}

// The kinds of work.
const (
	aDocument   = "document"
	anOperation = "operation"
)

func (f *Follower) note(ctx context.Context, tx *store.Tx, batch []event.Event) error {
	for _, e := range batch {
		kind, id := "", ""
		switch e.Kind {
		case event.SBOMIndexed:
			// The event names the attestation; its documents are found from there.
			var body struct {
				Attestation string `json:"attestation"`
			}
			if err := e.Decode(&body); err != nil {
				return err
			}
			rows, err := store.Values[int64](ctx, tx, `SELECT id FROM sbom_document WHERE attestation = ? AND subject = ?`, body.Attestation, string(e.Digest))
			if err != nil {
				return err
			}
			tier, err := f.Lanes.Tier(ctx, tx, e.Digest)
			if err != nil {
				return err
			}
			for _, id := range rows {
				if err := noted(ctx, tx, aDocument, strconv.FormatInt(id, 10), tier); err != nil {
					return err
				}
			}
		case event.FeedImported:
			var body struct {
				Operation int64 `json:"operation"`
			}
			if err := e.Decode(&body); err != nil {
				return err
			}
			kind, id = anOperation, strconv.FormatInt(body.Operation, 10)
		}
		if kind != "" {
			if err := noted(ctx, tx, kind, id, 1); err != nil {
				return err
			}
		}
	}
	tx.OnCommit(func() {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	})
	return nil
}

// noted puts a piece of work into the queue. One that is there already becomes as
// urgent as it is now.
func noted(ctx context.Context, tx *store.Tx, kind, id string, tier int) error {
	_, err := tx.Exec(ctx, `INSERT INTO finding_pending (kind, id, asked, tries, tier) VALUES (?, ?, ?, 0, ?)
		ON CONFLICT (kind, id) DO UPDATE SET tier = CASE WHEN finding_pending.tier > excluded.tier THEN excluded.tier ELSE finding_pending.tier END`,
		kind, id, store.Micros(tx.Now()), tier)
	return err
}

// One process matches: its index is the one that is up to date.
const (
	matchLease = "vuln/matcher"
	matchTTL   = 15 * time.Second
)

func (f *Follower) work(ctx context.Context) {
	holder, held, epoch, renew := rand.Text(), false, int64(0), time.Time{}
	defer func() {
		if held {
			_ = f.Matcher.db.Release(context.WithoutCancel(ctx), matchLease, holder) // it ends by itself
		}
	}()
	again := false // there may be what an older matcher looked up
	for turn := 0; ctx.Err() == nil; turn++ {
		var err error
		worked := false
		if time.Now().After(renew) {
			was, before := held, epoch
			if held, epoch, err = f.Matcher.db.Lease(ctx, matchLease, holder, matchTTL); held && (!was || epoch != before) {
				f.Matcher.Forget()
				again = true
			}
			renew = time.Now().Add(matchTTL / 3)
		}
		if err == nil && held && again {
			// What an older matcher looked up, a page for each turn; other work goes on.
			again, err = f.Matcher.Again(ctx)
			again = again || err != nil
		}
		if err == nil && held {
			worked, err = f.next(ctx, lane.Next(f.Lanes, turn, false))
		}
		if err != nil && ctx.Err() == nil {
			f.Logger.ErrorContext(ctx, "matching failed and is tried again", "error", err)
		}
		if worked || again && err == nil && held {
			continue
		}
		select {
		case <-ctx.Done():
		case <-f.wake:
		case <-time.After(f.idle()):
		}
	}
}

// idle is how long until it is looked again: sooner where something waits for its
// budget.
func (f *Follower) idle() time.Duration {
	if len(f.Lanes.Ready()) < lane.Tiers {
		return 200 * time.Millisecond
	}
	return 2 * time.Second
}

// work is a piece of it.
type work struct {
	kind, id string
	tier     int
	since    time.Time // when it was first asked for, of one that was not tried before
}

// next does a piece of work that is due, of the tiers whose turn it is; one that
// failed waits longer each time and keeps no other from being done.
func (f *Follower) next(ctx context.Context, turn lane.Turn) (worked bool, err error) {
	w, err := f.take(ctx, turn)
	if err != nil || w.kind == "" {
		return false, err
	}
	number, err := strconv.ParseInt(w.id, 10, 64)
	if err != nil {
		return true, fault.Wrap(fault.Tampered, err)
	}
	done := lane.Measure()
	if w.kind == aDocument {
		err = f.Matcher.scan(ctx, number, &w)
	} else {
		err = f.operation(ctx, number)
	}
	cost := done()
	if w.kind == aDocument {
		f.Lanes.Spent(w.tier, cost.CPU)
	}
	if err != nil {
		return true, err
	}
	return true, f.Matcher.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM finding_pending WHERE kind = ? AND id = ?`, w.kind, w.id)
		return err
	})
}

func (f *Follower) take(ctx context.Context, turn lane.Turn) (w work, err error) {
	err = f.Matcher.db.Update(ctx, func(tx *store.Tx) error {
		w = work{}
		var tries, asked int64
		now := store.Micros(tx.Now())
		where, args, order := turn.SQL("asked")
		err := tx.QueryRow(ctx, `SELECT kind, id, tier, tries, asked FROM finding_pending WHERE `+where+` AND asked <= ? ORDER BY `+order+`, kind, id LIMIT 1`, append(args, now)...).Scan(&w.kind, &w.id, &w.tier, &tries, &asked)
		if errors.Is(err, fault.NotFound) {
			w.kind = ""
			return nil
		}
		if err != nil {
			return err
		}
		if tries == 0 {
			w.since = store.Time(asked)
		}
		wait := min(10*time.Second<<min(tries, 10), time.Hour)
		_, err = tx.Exec(ctx, `UPDATE finding_pending SET tries = tries + 1, asked = ? WHERE kind = ? AND id = ?`, now+wait.Microseconds(), w.kind, w.id)
		return err
	})
	return w, err
}

func (f *Follower) operation(ctx context.Context, id int64) error {
	op, err := f.Matcher.feeds.Operation(ctx, id)
	if err != nil {
		return err
	}
	return f.Matcher.Apply(ctx, op)
}
