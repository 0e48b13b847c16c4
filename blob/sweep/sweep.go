// Package sweep is what those who take blobs away and those who store them tell
// each other, in the database that says what blobs are needed.
//
// Bytes and rows are in two places, so that no transaction holds both. The
// collector therefore goes in steps, each a transaction of its own:
//
//  1. A blob that no row needs is marked, with the time.
//  2. When it has been marked for the grace and still no row needs it, the mark
//     says that it is being deleted.
//  3. The bytes go, and the mark with them.
//
// Whoever writes a row that needs a blob asks [Deleting] in the same
// transaction, and, where the blob may have been there before, looks for the
// bytes once more when the row is committed. Then either step 2 sees the row and
// leaves the blob alone, or the writer sees the mark, or the writer sees that
// the bytes are gone: a row never needs what was taken away without its writer
// knowing. A mark of step 1 alone is no obstacle to anybody.
package sweep

import (
	"context"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// Migrations are the tables.
//
//   - blob_sweep: blobs that no row needed at a time. deleting is the fencing
//     epoch of the collector that takes it away now; 0: only marked.
//   - blob_pin: who needs that no blob goes, until when: a backup.
var Migrations = store.Migrations{Name: "sweep", Steps: []string{`
CREATE TABLE blob_sweep (
	digest   TEXT   NOT NULL PRIMARY KEY,
	size     BIGINT NOT NULL,
	since    BIGINT NOT NULL,
	deleting BIGINT NOT NULL
);
CREATE INDEX blob_sweep_since ON blob_sweep (since, digest);
CREATE INDEX blob_sweep_deleting ON blob_sweep (digest) WHERE deleting > 0;
CREATE TABLE blob_pin (
	holder TEXT   NOT NULL PRIMARY KEY,
	why    TEXT   NOT NULL,
	until  BIGINT NOT NULL
);
`}}

// chunk is how many digests one statement asks for: a fixed number, so that the
// store's cache of translated texts stays small.
const chunk = 16

var deletingText = `SELECT digest FROM blob_sweep WHERE deleting > 0 AND digest IN (` + strings.Repeat("?, ", chunk-1) + `?)`

// Deleting gives those of the digests whose bytes are being taken away. A row
// that needs one of them must not be written: store the bytes again, once the
// mark is gone.
func Deleting(ctx context.Context, tx *store.Tx, digests ...artifact.Digest) (out []artifact.Digest, err error) {
	for len(digests) > 0 {
		n := min(chunk, len(digests))
		args := make([]any, chunk)
		for i := range args {
			args[i] = string(digests[min(i, n-1)])
		}
		digests = digests[n:]
		rows, err := tx.Query(ctx, deletingText, args...)
		if err != nil {
			return nil, err
		}
		for rows.Next() {
			var d artifact.Digest
			if err := rows.Scan(&d); err != nil {
				_ = rows.Close()
				return nil, err
			}
			out = append(out, d)
		}
		if err := rows.Err(); err != nil {
			return nil, err
		}
		_ = rows.Close()
	}
	return out, nil
}

// Clear waits until none of the digests is being taken away, at most some
// seconds: who is about to store bytes begins then. Errors: fault.Unavailable.
func Clear(ctx context.Context, db *store.DB, digests ...artifact.Digest) error {
	const pause, most = 20 * time.Millisecond, 500
	for try := 0; ; try++ {
		var gone []artifact.Digest
		err := db.View(ctx, func(tx *store.Tx) (err error) {
			gone, err = Deleting(ctx, tx, digests...)
			return err
		})
		if err != nil || len(gone) == 0 {
			return err
		}
		if try == most {
			return Taken(gone[0])
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ErrTaken says that bytes are being taken away, or were, while they were
// stored again.
var ErrTaken = fault.Newf(fault.Unavailable, "its bytes were unused for long and are being deleted right now; send it once more")

// Taken is [ErrTaken] of a blob.
func Taken(d artifact.Digest) error { return fault.Newf(fault.Unavailable, "blob %s: %w", d, ErrTaken) }

// Pin keeps every blob until a time, or the next call of the same holder;
// nothing that is not being deleted yet goes meanwhile.
func Pin(ctx context.Context, tx *store.Tx, holder, why string, until time.Time) error {
	if _, err := tx.Exec(ctx, `DELETE FROM blob_pin WHERE until < ?`, tx.Now()); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `INSERT INTO blob_pin (holder, why, until) VALUES (?, ?, ?)
		ON CONFLICT (holder) DO UPDATE SET why = excluded.why, until = excluded.until`, holder, why, until)
	return err
}

// Unpin ends a pin.
func Unpin(ctx context.Context, tx *store.Tx, holder string) error {
	_, err := tx.Exec(ctx, `DELETE FROM blob_pin WHERE holder = ?`, holder)
	return err
}

// Pinned says why blobs must stay now; empty: they need not.
func Pinned(ctx context.Context, tx *store.Tx) (why string, err error) {
	rows, err := tx.Query(ctx, `SELECT why FROM blob_pin WHERE until >= ? ORDER BY until DESC LIMIT 1`, tx.Now())
	if err != nil {
		return "", err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := rows.Scan(&why); err != nil {
			return "", err
		}
	}
	return why, rows.Err()
}
