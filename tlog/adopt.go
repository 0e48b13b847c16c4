package tlog

import (
	"context"

	"assay/internal/fault"
	"assay/store"
)

// Adopt records a checkpoint of the folder in the place of the older one that
// the database of tx has. Who calls it has proven that the one extends the other
// or has an operator's word; the log must not be open.
func Adopt(ctx context.Context, tx *store.Tx, c Checkpoint) error {
	n, err := tx.Exec(ctx, `INSERT INTO tlog_checkpoint (origin, size, root, note, indexed, at) VALUES (?, ?, ?, ?, 0, ?)
		ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note, at = excluded.at
		WHERE tlog_checkpoint.size <= excluded.size`,
		c.Origin, int64(c.Size), c.Root[:], c.Note, tx.Now().UnixMicro())
	if err == nil && n != 1 {
		err = fault.Newf(fault.Conflict, "the database has recorded more than %d entries of %s", c.Size, c.Origin)
	}
	return err
}
