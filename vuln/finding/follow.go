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
)

// Follower has every new bill of materials and every operation of a feed matched,
// in the order in which they came. What is to be done is noted durably first, so
// that it survives whatever ends the process.
type Follower struct {
	Matcher *Matcher
	Events  *event.Log
	Logger  *slog.Logger
	wake    chan struct{}
}

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) error {
	if f.Logger == nil {
		f.Logger = slog.New(slog.DiscardHandler)
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
			rows, err := ids(ctx, tx, `SELECT id FROM sbom_document WHERE attestation = ? AND subject = ?`, body.Attestation, string(e.Digest))
			if err != nil {
				return err
			}
			for _, id := range rows {
				if err := noted(ctx, tx, aDocument, strconv.FormatInt(id, 10)); err != nil {
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
			if err := noted(ctx, tx, kind, id); err != nil {
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

func noted(ctx context.Context, tx *store.Tx, kind, id string) error {
	_, err := tx.Exec(ctx, `INSERT INTO finding_pending (kind, id, asked, tries) VALUES (?, ?, ?, 0) ON CONFLICT (kind, id) DO NOTHING`, kind, id, store.Micros(tx.Now()))
	return err
}

func ids(ctx context.Context, tx *store.Tx, q string, args ...any) (all []int64, err error) {
	rows, err := tx.Query(ctx, q, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		all = append(all, id)
	}
	return all, rows.Err()
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
	for ctx.Err() == nil {
		var err error
		worked := false
		if time.Now().After(renew) {
			was, before := held, epoch
			if held, epoch, err = f.Matcher.db.Lease(ctx, matchLease, holder, matchTTL); held && (!was || epoch != before) {
				f.Matcher.Forget()
			}
			renew = time.Now().Add(matchTTL / 3)
		}
		if err == nil && held {
			worked, err = f.next(ctx)
		}
		if err != nil && ctx.Err() == nil {
			f.Logger.ErrorContext(ctx, "matching failed and is tried again", "error", err)
		}
		if worked {
			continue
		}
		select {
		case <-ctx.Done():
		case <-f.wake:
		case <-time.After(2 * time.Second):
		}
	}
}

// next does the oldest piece of work that is due; one that failed waits longer
// each time and keeps no other from being done.
func (f *Follower) next(ctx context.Context) (worked bool, err error) {
	var kind, id string
	err = f.Matcher.db.Update(ctx, func(tx *store.Tx) error {
		kind, id = "", ""
		var tries int64
		now := store.Micros(tx.Now())
		err := tx.QueryRow(ctx, `SELECT kind, id, tries FROM finding_pending WHERE asked <= ? ORDER BY asked, kind, id LIMIT 1`, now).Scan(&kind, &id, &tries)
		if errors.Is(err, fault.NotFound) {
			kind = ""
			return nil
		}
		if err != nil {
			return err
		}
		wait := min(10*time.Second<<min(tries, 10), time.Hour)
		_, err = tx.Exec(ctx, `UPDATE finding_pending SET tries = tries + 1, asked = ? WHERE kind = ? AND id = ?`, now+wait.Microseconds(), kind, id)
		return err
	})
	if err != nil || kind == "" {
		return false, err
	}
	number, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return true, fault.Wrap(fault.Tampered, err)
	}
	if kind == aDocument {
		err = f.Matcher.Scan(ctx, number)
	} else {
		err = f.operation(ctx, number)
	}
	if err != nil {
		return true, err
	}
	return true, f.Matcher.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM finding_pending WHERE kind = ? AND id = ?`, kind, id)
		return err
	})
}

func (f *Follower) operation(ctx context.Context, id int64) error {
	op, err := f.Matcher.feeds.Operation(ctx, id)
	if err != nil {
		return err
	}
	return f.Matcher.Apply(ctx, op)
}
