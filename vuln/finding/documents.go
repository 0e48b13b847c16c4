package finding

import (
	"context"

	"assay/artifact"
	"assay/store"
)

// Documents gives the attestations whose bills of materials an artifact's
// findings rest on, at most 16, in the order of their ids.
func (m *Matcher) Documents(ctx context.Context, subject artifact.Digest) (ids []string, err error) {
	err = m.db.View(ctx, func(tx *store.Tx) error {
		ids = nil
		var err error
		ids, err = store.Values[string](ctx, tx, `SELECT DISTINCT attestation FROM sbom_document WHERE subject = ? AND state = 1 ORDER BY attestation LIMIT 16`, string(subject))
		return err
	})
	return ids, err
}
