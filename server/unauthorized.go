package server

import (
	"context"
	"fmt"
	"time"

	"assay/event"
	"assay/registry/gate"
	"assay/store"
	"assay/trust/revocation"
)

// flushRecords brings the records of pulls that wait in the journal into the
// database, where they are counted.
func (s *Server) flushRecords(ctx context.Context) error {
	if s.journal == nil {
		return nil
	}
	return s.journal.Flush(ctx)
}

// tellServed tells of pulls that were served although their digest was, as is
// known only now, not right any more then.
func tellServed(ctx context.Context, tx *store.Tx, by string, version int64, added []revocation.Entry) error {
	for _, e := range added {
		if e.Digest == "" || !e.InvalidSince.Before(tx.Now()) {
			continue
		}
		parts, err := gate.Parts(ctx, tx, e.Digest) // a part may be pulled by itself
		if err != nil {
			return err
		}
		var n int64
		for _, d := range append(parts, e.Digest) {
			some, err := event.CountSince(ctx, tx, event.ArtifactPulled, e.InvalidSince.Time, "", "", d)
			if err != nil {
				return err
			}
			n += some
		}
		if n == 0 {
			continue
		}
		if err := event.Append(ctx, tx, event.Event{Kind: event.PullUnauthorized, Digest: e.Digest, Actor: by, Body: map[string]any{
			"revocation": fmt.Sprintf("list version %d", version), "count": n, "since": e.InvalidSince.UTC().Format(time.RFC3339), "reason": e.Reason,
		}}); err != nil {
			return err
		}
	}
	return nil
}
