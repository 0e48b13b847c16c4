package retention

import (
	"context"
	"time"

	"assay/event"
	"assay/store"
)

// Sweep ends the holds whose time has come: each end is on record once, and the
// object store gives free what no other hold covers. What it did not give free
// before is tried again.
func (s *Holds) Sweep(ctx context.Context) error {
	var due []Hold
	if err := s.db.View(ctx, func(tx *store.Tx) (err error) {
		due, err = selectHolds(ctx, tx, `ends > 0 AND ends <= ? AND (ended = 0 OR locked > 0 OR ended = 2) ORDER BY ends, id LIMIT 1000`, tx.Now())
		return err
	}); err != nil {
		return err
	}
	for i := range due {
		if err := s.end(ctx, &due[i]); err != nil {
			return err
		}
		s.free(ctx, &due[i])
	}
	return nil
}

// end puts on record that the time of a hold has come, if it is not yet.
func (s *Holds) end(ctx context.Context, h *Hold) error {
	return s.db.Update(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(ctx, `UPDATE retention_hold SET ended = 1 WHERE id = ? AND ended = 0`, h.ID)
		if err != nil || n == 0 {
			return err
		}
		reason := "its time has come"
		if h.Until != nil {
			reason += ": " + h.Until.UTC().Format(time.RFC3339)
		}
		return event.Append(ctx, tx, event.Event{Kind: event.HoldRemoved, Digest: h.Digest, Actor: actor.Actor(),
			Body: holdBody{ID: h.ID, Repository: h.Repository, Tag: h.Tag, Reason: reason}})
	})
}

// free has the object store give the objects of an ended hold free, and notes
// that it did.
func (s *Holds) free(ctx context.Context, h *Hold) {
	if err := s.unlock(ctx, h); err != nil {
		s.log.WarnContext(ctx, "objects of a hold that ended stay locked in the bucket; it is tried again", "hold", h.ID, "error", err)
		return
	}
	if err := s.db.Update(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM retention_hold WHERE id = ? AND ended = 2`, h.ID); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE retention_hold SET locked = 0 WHERE id = ?`, h.ID)
		return err
	}); err != nil {
		s.log.WarnContext(ctx, "that the objects of a hold are free could not be noted", "hold", h.ID, "error", err)
	}
}
