package finding

import (
	"context"
	"strconv"
	"time"

	"assay/artifact"
	"assay/store"
)

// Waits gives the documents in force about a subject that are not looked up yet,
// and since when the oldest of them is there; zero: none waits.
func Waits(ctx context.Context, tx *store.Tx, subject artifact.Digest) (documents []int64, since time.Time, err error) {
	rows, err := tx.Query(ctx, `SELECT d.id, d.ingested FROM sbom_document d WHERE d.subject = ? AND d.state = 1 AND NOT EXISTS (SELECT 1 FROM finding_scan s WHERE s.document = d.id) ORDER BY d.ingested, d.id LIMIT 64`, string(subject))
	if err != nil {
		return nil, since, err
	}
	defer rows.Close()
	for rows.Next() {
		var id, at int64
		if err := rows.Scan(&id, &at); err != nil {
			return nil, since, err
		}
		if len(documents) == 0 {
			since = store.Time(at)
		}
		documents = append(documents, id)
	}
	return documents, since, rows.Err()
}

// Hasten has documents looked up before what is less critical.
func Hasten(ctx context.Context, tx *store.Tx, documents []int64, tier int) error {
	for _, id := range documents {
		if err := noted(ctx, tx, aDocument, strconv.FormatInt(id, 10), tier); err != nil {
			return err
		}
	}
	return nil
}
