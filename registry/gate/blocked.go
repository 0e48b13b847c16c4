package gate

import (
	"context"

	"assay/artifact"
	"assay/store"
)

// Blocked says, in tx, what a digest is when it is quarantined or revoked, and
// why; empty: it is neither.
func Blocked(ctx context.Context, tx *store.Tx, d artifact.Digest) (string, error) {
	b, err := blockedIn(ctx, tx, d)
	if err != nil || b == nil {
		return "", err
	}
	return "it is " + string(b.State) + ": " + b.Reason, nil
}
