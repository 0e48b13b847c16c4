package sbom

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/event"
	"assay/evidence"
	"assay/internal/fault"
	"assay/store"
)

// Evidence gives verified bundles; evidence.Store is one.
type Evidence interface {
	Get(ctx context.Context, id string) ([]evidence.Record, error)
	Bundle(ctx context.Context, id string) ([]byte, error)
}

// Follower reads every signed bill of materials that comes in as evidence.
type Follower struct {
	Store    *Store
	Events   *event.Log
	Evidence Evidence
	Logger   *slog.Logger
	wake     chan struct{}
}

// IsPredicate says whether statements of this type carry a bill of materials.
func IsPredicate(predicateType string) bool {
	switch predicateType {
	case attestation.PredicateCycloneDX, attestation.PredicateSPDX:
		return true
	}
	for _, family := range []string{attestation.PredicateCycloneDX + "/v", attestation.PredicateSPDX + "/v"} {
		if len(predicateType) < 120 && len(predicateType) > len(family) && predicateType[:len(family)] == family {
			return true
		}
	}
	return false
}

// Run follows until ctx ends. What is to be read is first noted, durably, and
// then read outside of the events' own transactions, which stay short.
func (f *Follower) Run(ctx context.Context) error {
	if f.Logger == nil {
		f.Logger = slog.New(slog.DiscardHandler)
	}
	f.wake = make(chan struct{}, 1)
	done := make(chan error, 2)
	go func() { done <- f.Events.Consume(ctx, "sbom", f.note(IsPredicate), event.AttestationIngested) }()
	// A cursor of their own: overlays came later than documents, and a site that
	// has some reads them from the first on.
	go func() { done <- f.Events.Consume(ctx, "sbom-overlay", f.note(isOverlay), event.AttestationIngested) }()
	err := f.work(ctx)
	return errors.Join(err, <-done, <-done)
}

// note puts new statements of wanted types into the queue.
func (f *Follower) note(wanted func(predicateType string) bool) func(context.Context, *store.Tx, []event.Event) error {
	return func(ctx context.Context, tx *store.Tx, batch []event.Event) error {
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
			if !wanted(body.PredicateType) {
				continue
			}
			if _, err := tx.Exec(ctx, `INSERT INTO sbom_pending (attestation, asked, tries) VALUES (?, ?, 0) ON CONFLICT (attestation) DO NOTHING`, body.ID, store.Micros(tx.Now())); err != nil {
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
}

func isOverlay(predicateType string) bool { return predicateType == attestation.PredicateSBOMOverlay }

func (f *Follower) work(ctx context.Context) error {
	for ctx.Err() == nil {
		id, err := f.next(ctx)
		switch {
		case err == nil && id != "":
			if err := f.read(ctx, id); err != nil && ctx.Err() == nil {
				f.Logger.ErrorContext(ctx, "an SBOM could not be read and is tried again", "attestation", id, "error", err)
			}
			continue
		case err != nil && ctx.Err() == nil:
			f.Logger.ErrorContext(ctx, "the queue of SBOMs could not be read", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-f.wake:
		case <-time.After(2 * time.Second):
		}
	}
	return nil
}

// next takes the oldest that is due: one that failed waits longer each time, so
// that it never keeps others from being read.
func (f *Follower) next(ctx context.Context) (id string, err error) {
	err = f.Store.db.Update(ctx, func(tx *store.Tx) error {
		id = ""
		var tries int64
		now := store.Micros(tx.Now())
		err := tx.QueryRow(ctx, `SELECT attestation, tries FROM sbom_pending WHERE asked <= ? ORDER BY asked, attestation LIMIT 1`, now).Scan(&id, &tries)
		if errors.Is(err, fault.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		wait := min(30*time.Second<<min(tries, 10), time.Hour)
		_, err = tx.Exec(ctx, `UPDATE sbom_pending SET tries = tries + 1, asked = ? WHERE attestation = ?`, now+wait.Microseconds(), id)
		return err
	})
	return id, err
}

func (f *Follower) read(ctx context.Context, id string) error {
	records, err := f.Evidence.Get(ctx, id)
	if errors.Is(err, fault.NotFound) {
		return f.Store.forget(ctx, id) // deleted meanwhile
	}
	if err != nil {
		return err
	}
	b, err := f.Evidence.Bundle(ctx, id)
	if err != nil {
		return err
	}
	predicate, err := predicateOf(b)
	if err != nil {
		return err
	}
	for _, r := range records {
		from := Source{Attestation: id, Subject: r.Subject, Issuer: r.Signer.Issuer, Identity: r.Signer.Subject}
		if from.Identity == "" {
			from.Identity = r.Signer.Key
		}
		if isOverlay(r.PredicateType) {
			err = f.Store.Overlay(ctx, from, predicate())
		} else {
			_, _, err = f.Store.Index(ctx, from, predicate())
		}
		if err != nil {
			return fmt.Errorf("subject %s: %w", r.Subject, err)
		}
	}
	return f.Store.forget(ctx, id)
}

// predicateOf gives a reader of a bundle's predicate, as often as wanted.
func predicateOf(bundle []byte) (func() io.Reader, error) {
	b, err := attestation.ParseBundle(bundle, attestation.DefaultLimits())
	if err != nil {
		return nil, err
	}
	env := b.Envelope()
	if env == nil {
		return nil, fault.Newf(fault.Invalid, "the bundle holds no statement")
	}
	st, err := attestation.ParseStatement(env.Payload, attestation.DefaultLimits())
	if err != nil {
		return nil, err
	}
	return func() io.Reader { return bytes.NewReader(st.Predicate) }, nil
}

func (s *Store) forget(ctx context.Context, attestation string) error {
	return s.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM sbom_pending WHERE attestation = ?`, attestation)
		return err
	})
}

// Pending is how many bills of materials wait to be read, and since when the
// oldest does.
func (s *Store) Pending(ctx context.Context) (n int, oldest time.Time, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		var at int64
		if err := tx.QueryRow(ctx, `SELECT COUNT(*), COALESCE(MIN(asked), 0) FROM sbom_pending`).Scan(&n, &at); err != nil {
			return err
		}
		oldest = time.Time{}
		if at != 0 {
			oldest = store.Time(at)
		}
		return nil
	})
	return n, oldest, err
}

// Known says whether a subject has a document in force.
func (s *Store) Known(ctx context.Context, subject artifact.Digest) (bool, error) {
	var n int
	err := s.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT COUNT(*) FROM sbom_document WHERE subject = ? AND state = ?`, string(subject), stateInForce).Scan(&n)
	})
	return n > 0, err
}
