package evidence

import (
	"context"
	"time"

	"assay/artifact"
	"assay/store"
)

// Old is a bundle that may be too old.
type Old struct {
	ID            string
	PredicateType string
	Subjects      []artifact.Digest
	IngestedAt    time.Time
}

// OldBundles lists bundles that were taken in before a time, after one of them
// (the zero Old: from the first), the oldest first.
func OldBundles(ctx context.Context, tx *store.Tx, before time.Time, after Old, limit int) (out []Old, err error) {
	rows, err := tx.Query(ctx, `SELECT id, predicate_type, ingested_at FROM evidence_bundle
		WHERE ingested_at < ? AND (ingested_at, id) > (?, ?) ORDER BY ingested_at, id LIMIT ?`, before, store.Micros(after.IngestedAt), after.ID, limit)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var o Old
		var at int64
		if err := rows.Scan(&o.ID, &o.PredicateType, &at); err != nil {
			_ = rows.Close()
			return nil, err
		}
		o.IngestedAt = store.Time(at)
		out = append(out, o)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	_ = rows.Close()
	for i := range out {
		if out[i].Subjects, err = subjectsOf(ctx, tx, out[i].ID); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func subjectsOf(ctx context.Context, tx *store.Tx, id string) (out []artifact.Digest, err error) {
	return store.Values[artifact.Digest](ctx, tx, `SELECT subject FROM evidence_subject WHERE id = ?`, id)
}

// Drop takes a bundle out of the store. Its entry in the transparency log stays,
// as all do; a large one's bytes go with garbage collection.
func Drop(ctx context.Context, tx *store.Tx, id string) error {
	for _, q := range []string{
		`DELETE FROM evidence_subject WHERE id = ?`, `DELETE FROM evidence_origin WHERE id = ?`,
		`DELETE FROM evidence_signed WHERE id = ?`, `DELETE FROM evidence_bundle WHERE id = ?`,
	} {
		if _, err := tx.Exec(ctx, q, id); err != nil {
			return err
		}
	}
	return nil
}
