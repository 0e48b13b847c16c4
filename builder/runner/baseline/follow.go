package baseline

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/builder/runner"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
)

// Follower compares every build whose evidence comes in.
type Follower struct {
	Store  *Store
	Events *event.Log
	Logger *slog.Logger
	wake   chan struct{}
}

// Run follows until ctx ends. What is to be compared is first noted, durably, and
// then compared outside of the events' own transactions, which stay short.
func (f *Follower) Run(ctx context.Context) error {
	if f.Logger == nil {
		f.Logger = slog.New(slog.DiscardHandler)
	}
	f.wake = make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() { done <- f.Events.Consume(ctx, "runner", f.note, event.AttestationIngested) }()
	for ctx.Err() == nil {
		worked, err := f.Store.compareNext(ctx)
		if err != nil && ctx.Err() == nil {
			f.Logger.ErrorContext(ctx, "a build could not be compared with earlier ones, and is tried again", "error", err)
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
	return <-done
}

func (f *Follower) note(ctx context.Context, tx *store.Tx, batch []event.Event) error {
	for _, e := range batch {
		if e.Kind != event.AttestationIngested {
			continue
		}
		var body struct {
			ID            string `json:"id"`
			PredicateType string `json:"predicate_type"`
		}
		if err := e.Decode(&body); err != nil {
			return err
		}
		switch t := body.PredicateType; {
		case t == runner.PredicateType, t == attestation.PredicateRuntimeTrace, attestation.IsProvenance(t):
		default:
			continue
		}
		if _, err := tx.Exec(ctx, `INSERT INTO runner_pending (attestation, asked, tries) VALUES (?, ?, 0) ON CONFLICT (attestation) DO NOTHING`, body.ID, store.Micros(tx.Now())); err != nil {
			return err
		}
		tx.OnCommit(func() {
			select {
			case f.wake <- struct{}{}:
			default:
			}
		})
	}
	return nil
}

// compareNext takes the oldest that is due. One that fails waits longer each
// time, so that it never keeps others.
func (s *Store) compareNext(ctx context.Context) (worked bool, err error) {
	var id string
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		id = ""
		var tries int64
		now := store.Micros(tx.Now())
		err := tx.QueryRow(ctx, `SELECT attestation, tries FROM runner_pending WHERE asked <= ? ORDER BY asked, attestation LIMIT 1`, now).Scan(&id, &tries)
		if errors.Is(err, fault.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		wait := min(30*time.Second<<min(tries, 10), time.Hour)
		_, err = tx.Exec(ctx, `UPDATE runner_pending SET tries = tries + 1, asked = ? WHERE attestation = ?`, now+wait.Microseconds(), id)
		return err
	})
	if err != nil || id == "" {
		return false, err
	}
	records, err := s.evidence.Get(ctx, id)
	if err != nil && !errors.Is(err, fault.NotFound) {
		return true, err
	}
	var seen []artifact.Digest
	for i := range records {
		if len(seen) == maxSubjects {
			break
		}
		seen = append(seen, records[i].Subject)
		if err := s.Compare(ctx, records[i].Subject); err != nil {
			return true, err
		}
	}
	return true, s.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM runner_pending WHERE attestation = ?`, id)
		return err
	})
}
