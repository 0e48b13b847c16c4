package feed

import (
	"context"
	"database/sql"
	"time"

	"assay/store"
)

// Received is when a record of a feed first came into force here, before an
// operation: this site's own time, whatever the record says of itself. Zero: it
// was not here.
func (s *Store) Received(ctx context.Context, name, ecosystem, id string, before int64) (time.Time, error) {
	return s.firstTime(ctx, `SELECT MIN(o.finished) FROM feed_record r JOIN feed_operation o ON o.id = r.operation
		WHERE r.name = ? AND r.ecosystem = ? AND r.id = ? AND r.operation < ? AND o.state IN (?, ?)`, name, ecosystem, id, before, inForce, superseded)
}

// Since is when a feed first came into force here, before an operation; zero: it
// was not here.
func (s *Store) Since(ctx context.Context, name, ecosystem string, before int64) (time.Time, error) {
	return s.firstTime(ctx, `SELECT MIN(finished) FROM feed_operation WHERE name = ? AND ecosystem = ? AND id < ? AND state IN (?, ?)`, name, ecosystem, before, inForce, superseded)
}

func (s *Store) firstTime(ctx context.Context, q string, args ...any) (at time.Time, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		var us sql.NullInt64
		at = time.Time{}
		if err := tx.QueryRow(ctx, q, args...).Scan(&us); err != nil || !us.Valid || us.Int64 == 0 {
			return err
		}
		at = store.Time(us.Int64)
		return nil
	})
	return at, err
}
