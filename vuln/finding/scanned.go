package finding

import (
	"context"

	"assay/store"
)

// Scanned says whether a document's components are all looked up, or the document
// is not in force any more.
func (m *Matcher) Scanned(ctx context.Context, document int64) (done bool, err error) {
	err = m.db.View(ctx, func(tx *store.Tx) error {
		var waiting int
		err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM sbom_document d WHERE d.id = ? AND d.state = 1 AND NOT EXISTS (SELECT 1 FROM finding_scan s WHERE s.document = d.id)`, document).Scan(&waiting)
		done = waiting == 0
		return err
	})
	return done, err
}
