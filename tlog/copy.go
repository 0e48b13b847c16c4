package tlog

import (
	"context"

	"assay/internal/fault"
	"assay/store"
)

// Files reads a whole tree and gives each of its files, checked against the
// tree's root: bundles of entries, then tiles of hashes level by level. path is
// below the log's folder, "/" between its parts; data is exactly what the tree
// needs, also where the source has a wider version by now. The checkpoint is not
// among them. The error of fn ends it.
func (t *Tree) Files(ctx context.Context, fn func(path string, data []byte) error) error {
	if err := t.bundles(ctx, fn); err != nil {
		return err
	}
	folder := bundleFolder(t.codec.Folder())
	for level := range t.edge {
		full := t.size >> (tileHeight * (level + 1))
		for n := range full {
			c, err := t.tile(ctx, level, n)
			if err != nil {
				return err
			}
			if err := fn(resource{level: level, n: n, width: tileWidth}.path(folder), c.bytes()); err != nil {
				return err
			}
		}
		if e := &t.edge[level]; e.n > 0 {
			if err := fn(resource{level: level, n: full, width: e.n}.path(folder), e.bytes()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *Tree) bundles(ctx context.Context, fn func(path string, data []byte) error) error {
	folder := bundleFolder(t.codec.Folder())
	for from := uint64(0); from < t.size; from += tileWidth {
		if err := ctx.Err(); err != nil {
			return err
		}
		rs, err := t.Records(ctx, from, t.size)
		if err != nil {
			return err
		}
		var data []byte
		for _, r := range rs {
			data = append(data, r.Raw...)
		}
		if err := fn(resource{entries: true, n: from / tileWidth, width: len(rs)}.path(folder), data); err != nil {
			return err
		}
	}
	return nil
}

// Extends proves that the tree is a later state of the checkpoint's: what does
// not is [fault.Tampered], a checkpoint of more entries [fault.Conflict].
func (t *Tree) Extends(ctx context.Context, older Checkpoint) error {
	if older.Size > t.size {
		return fault.Newf(fault.Conflict, "the checkpoint has %d entries, the tree %d", older.Size, t.size)
	}
	root, err := t.rootAt(ctx, older.Size)
	if err != nil {
		return err
	}
	if root != older.Root {
		return fault.Newf(fault.Tampered, "the first %d entries here have root %x, the checkpoint says %x: these are two logs", older.Size, root, older.Root)
	}
	return nil
}

// Recorded gives the last checkpoint of a log that the database of tx recorded,
// as a signed note; none is [fault.NotFound].
func Recorded(ctx context.Context, tx *store.Tx, origin string) (note []byte, err error) {
	err = tx.QueryRow(ctx, `SELECT note FROM tlog_checkpoint WHERE origin = ?`, origin).Scan(&note)
	return note, err
}
