package gate

import (
	"context"

	"assay/artifact"
	"assay/event"
	"assay/store"
)

// sourceIntegrity marks the quarantines that damaged bytes make.
const sourceIntegrity = "integrity"

const actorIntegrity = "system:integrity"

// QuarantineDamaged quarantines what cannot be served whole, in the transaction
// that notes why. [Gate.ReleaseRepaired] ends it and leaves any other.
func (g *Gate) QuarantineDamaged(ctx context.Context, tx *store.Tx, d artifact.Digest, reason string) error {
	_, err := g.blockTx(ctx, tx, Block{Digest: d, State: Quarantined, Reason: reason, Source: sourceIntegrity, Actor: actorIntegrity})
	return err
}

// ReleaseRepaired ends the quarantine that damaged bytes made, and no other.
func (g *Gate) ReleaseRepaired(ctx context.Context, tx *store.Tx, d artifact.Digest, reason string) error {
	n, err := tx.Exec(ctx, `DELETE FROM gate_block WHERE cause = ? AND kind = ? AND source = ?`, string(d), string(Quarantined), sourceIntegrity)
	if err != nil || n == 0 {
		return err
	}
	if err := g.blocks.changed(ctx, tx, g.now); err != nil {
		return err
	}
	tx.OnCommit(func() { g.met.changes.WithLabelValues("released").Inc() })
	return event.Append(ctx, tx, event.Event{Kind: event.ArtifactReleased, Digest: d, Actor: actorIntegrity, Body: map[string]any{"reason": reason}})
}
