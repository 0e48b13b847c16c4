package sbom

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/event"
	"assay/evidence"
	"assay/internal/fault"
	"assay/store"
	"assay/store/lane"
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
	// Lanes say what is read first; nil: what came first.
	Lanes lane.Lanes
	// Readers is how many documents are read at once, besides one that somebody
	// waits for; 0: 1.
	Readers int

	wake chan struct{}
	busy sync.Map // attestations that are being read here
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
	if f.Lanes == nil {
		f.Lanes = lane.One{}
	}
	f.Readers = max(f.Readers, 1)
	f.wake = make(chan struct{}, f.Readers+1)
	done := make(chan error, 2)
	go func() { done <- f.Events.Consume(ctx, "sbom", f.note(IsPredicate), event.AttestationIngested) }()
	// A cursor of their own: overlays came later than documents, and a site that
	// has some reads them from the first on.
	go func() { done <- f.Events.Consume(ctx, "sbom-overlay", f.note(isOverlay), event.AttestationIngested) }()
	var wg sync.WaitGroup
	for i := range f.Readers + 1 {
		wg.Go(func() { f.work(ctx, i == 0) })
	}
	wg.Wait()
	return errors.Join(<-done, <-done)
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
			tier, err := f.Lanes.Tier(ctx, tx, e.Digest)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `INSERT INTO sbom_pending (attestation, asked, tries, tier) VALUES (?, ?, 0, ?) ON CONFLICT (attestation) DO NOTHING`, body.ID, store.Micros(tx.Now()), tier); err != nil {
				return err
			}
			tx.OnCommit(f.rouse)
		}
		return nil
	}
}

func isOverlay(predicateType string) bool { return predicateType == attestation.PredicateSBOMOverlay }

// rouse wakes all who read.
func (f *Follower) rouse() {
	for range f.Readers + 1 {
		select {
		case f.wake <- struct{}{}:
		default:
			return
		}
	}
}

func (f *Follower) work(ctx context.Context, urgentAlone bool) {
	for turn := 0; ctx.Err() == nil; turn++ {
		id, tier, err := f.next(ctx, lane.Next(f.Lanes, turn, urgentAlone))
		switch {
		case err == nil && id != "":
			f.one(ctx, id, tier)
			continue
		case err != nil && ctx.Err() == nil:
			f.Logger.ErrorContext(ctx, "the queue of SBOMs could not be read", "error", err)
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

// one reads what was taken. A document that takes longer than its first wait is
// not read twice at once.
func (f *Follower) one(ctx context.Context, id string, tier int) {
	if _, taken := f.busy.LoadOrStore(id, true); taken {
		return
	}
	defer f.busy.Delete(id)
	done := lane.Measure()
	err := f.read(ctx, id)
	cost := done()
	f.Lanes.Spent(tier, cost.CPU)
	if err == nil {
		err = f.Store.took(ctx, id, cost)
	}
	if err != nil && ctx.Err() == nil {
		f.Logger.ErrorContext(ctx, "an SBOM could not be read and is tried again", "attestation", id, "error", err)
	}
}

// next takes one that is due, of the tiers whose turn it is: one that failed waits
// longer each time, so that it never keeps others from being read.
func (f *Follower) next(ctx context.Context, turn lane.Turn) (id string, tier int, err error) {
	err = f.Store.db.Update(ctx, func(tx *store.Tx) error {
		id = ""
		var tries int64
		now := store.Micros(tx.Now())
		where, args, order := turn.SQL("asked")
		err := tx.QueryRow(ctx, `SELECT attestation, tries, tier FROM sbom_pending WHERE `+where+` AND asked <= ? ORDER BY `+order+`, attestation LIMIT 1`, append(args, now)...).Scan(&id, &tries, &tier)
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
	return id, tier, err
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
