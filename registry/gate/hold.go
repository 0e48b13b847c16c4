package gate

import (
	"context"

	"assay/artifact"
	"assay/store"
)

// Waiting is the state of a block that is a quarantine which waits for a person:
// nothing new may have the digest (no push, no promotion, no admission), and what
// runs goes on, so that it is served.
const Waiting State = "held"

// QuarantineTx is [Gate.Quarantine] within a transaction.
func (g *Gate) QuarantineTx(ctx context.Context, tx *store.Tx, d artifact.Digest, actor, reason string) error {
	return g.byTx(ctx, tx, Block{Digest: d, State: Quarantined, Reason: reason, Source: sourceRegistry, Actor: actor})
}

// WaitTx has a digest, with the manifests that it is made of, wait for a person.
func (g *Gate) WaitTx(ctx context.Context, tx *store.Tx, d artifact.Digest, actor, reason string) error {
	return g.byTx(ctx, tx, Block{Digest: d, State: Waiting, Reason: reason, Source: sourceRegistry, Actor: actor})
}

func (g *Gate) byTx(ctx context.Context, tx *store.Tx, b Block) error {
	if err := b.Digest.Validate(); err != nil {
		return err
	}
	b.Reason = clip(b.Reason, maxReason)
	if err := wantReason(b.Reason); err != nil {
		return err
	}
	_, err := g.blockTx(ctx, tx, b)
	return err
}

// GoOnTx ends the waiting of a digest: it is under quarantine by now, or let go.
func (g *Gate) GoOnTx(ctx context.Context, tx *store.Tx, d artifact.Digest) error {
	n, err := tx.Exec(ctx, `DELETE FROM gate_block WHERE cause = ? AND kind = ?`, string(d), string(Waiting))
	if err != nil || n == 0 {
		return err
	}
	return g.blocks.changed(ctx, tx, g.now)
}

// Reach lists the digests that a block of one concerns: itself, its parts, and the
// indexes that have it as a part. What reaches too far to be judged as one is
// itself alone.
func Reach(ctx context.Context, tx *store.Tx, d artifact.Digest) ([]artifact.Digest, error) {
	parts, err := Parts(ctx, tx, d)
	if err != nil {
		return nil, err
	}
	out := append([]artifact.Digest{d}, parts...)
	wholes, err := store.Values[artifact.Digest](ctx, tx, `SELECT DISTINCT manifest FROM registry_reference WHERE kind = 1 AND child = ? ORDER BY manifest LIMIT 1000`, string(d))
	if err != nil {
		return nil, err
	}
	return append(out, wholes...), nil
}

// Waits says whether a digest waits for a person.
func (b *Block) Waits() bool { return b.State == Waiting }
