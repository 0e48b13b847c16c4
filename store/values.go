package store

import "context"

// Values collects what a query gives that asks for one column: nil when that is
// nothing. The query bounds how many there are.
func Values[T any](ctx context.Context, tx *Tx, q string, args ...any) (all []T, err error) {
	rows, err := tx.Query(ctx, q, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var one T
		if err := rows.Scan(&one); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}
