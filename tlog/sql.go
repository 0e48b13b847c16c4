package tlog

import (
	"context"
	"errors"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/store"
)

// Migrations are the log's tables. tlog_checkpoint is the second place of the
// last signed checkpoint: the folder alone cannot tell that it was restored
// from an old backup. tlog_leaf finds the index of an entry that is in the log
// already; it is a copy of what the tiles say, made again when it is lost.
var Migrations = store.Migrations{Name: "tlog", Steps: []string{`
CREATE TABLE tlog_checkpoint (
	origin  TEXT   NOT NULL PRIMARY KEY,
	size    BIGINT NOT NULL,
	root    BYTES  NOT NULL,
	note    BYTES  NOT NULL,
	indexed BIGINT NOT NULL, -- entries that tlog_leaf knows
	at      BIGINT NOT NULL  -- microseconds
);
CREATE TABLE tlog_leaf (
	origin TEXT   NOT NULL,
	hash   BYTES  NOT NULL,
	idx    BIGINT NOT NULL,
	PRIMARY KEY (origin, hash)
);`}}

// ledger is the record of signed checkpoints that lies beside the folder.
type ledger interface {
	// last gives the newest recorded checkpoint and the number of entries
	// that lookup knows; none yet is [fault.NotFound].
	last(ctx context.Context) (note []byte, indexed uint64, err error)
	// swap records a checkpoint in the place of an older one, in one
	// transaction with the hashes of the entries that it adds. When the record
	// is not the older one any more, nothing is written: [fault.Conflict].
	// Any other error may hide a commit.
	swap(ctx context.Context, old, next Checkpoint, added []Hash) error
	// lookup finds entries by their leaf hash.
	lookup(ctx context.Context, hashes []Hash) (map[Hash]uint64, error)
	// index adds leaf hashes from an index on, below the recorded size.
	index(ctx context.Context, from uint64, hashes []Hash) error
	// reset declares the leaf index empty.
	reset(ctx context.Context) error
}

// rowsAtOnce bounds the parameters of a statement.
const rowsAtOnce = 256

type sqlLedger struct {
	db     *store.DB
	origin string
	dedup  bool
}

func (s *sqlLedger) last(ctx context.Context) (note []byte, indexed uint64, err error) {
	var n int64
	err = s.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT note, indexed FROM tlog_checkpoint WHERE origin = ?`, s.origin).Scan(&note, &n)
	})
	return note, uint64(n), err
}

func (s *sqlLedger) swap(ctx context.Context, old, next Checkpoint, added []Hash) error {
	return s.db.Update(ctx, func(tx *store.Tx) error {
		at := tx.Now().UnixMicro()
		var n int64
		var err error
		if old.Note == nil {
			n, err = tx.Exec(ctx, `INSERT INTO tlog_checkpoint (origin, size, root, note, indexed, at)
				VALUES (?, ?, ?, ?, 0, ?) ON CONFLICT (origin) DO NOTHING`,
				s.origin, int64(next.Size), next.Root[:], next.Note, at)
		} else {
			n, err = tx.Exec(ctx, `UPDATE tlog_checkpoint
				SET size = ?, root = ?, note = ?, at = ?, indexed = CASE WHEN indexed = ? THEN ? ELSE indexed END
				WHERE origin = ? AND size = ? AND root = ?`,
				int64(next.Size), next.Root[:], next.Note, at, int64(next.Size)-int64(len(added)), int64(next.Size),
				s.origin, int64(old.Size), old.Root[:])
		}
		if err != nil {
			return err
		}
		if n != 1 {
			return fault.Newf(fault.Conflict, "the recorded checkpoint of %s is not the one of %d entries any more", s.origin, old.Size)
		}
		return s.insert(ctx, tx, next.Size-uint64(len(added)), added)
	})
}

func (s *sqlLedger) insert(ctx context.Context, tx *store.Tx, from uint64, hashes []Hash) error {
	if !s.dedup {
		return nil
	}
	for len(hashes) > 0 {
		part := hashes[:min(len(hashes), rowsAtOnce)]
		hashes = hashes[len(part):]
		args := make([]any, 0, 3*len(part))
		for i := range part {
			args = append(args, s.origin, part[i][:], int64(from)+int64(i))
		}
		from += uint64(len(part))
		if _, err := tx.Exec(ctx, `INSERT INTO tlog_leaf (origin, hash, idx) VALUES `+
			strings.Repeat("(?, ?, ?), ", len(part)-1)+`(?, ?, ?) ON CONFLICT (origin, hash) DO NOTHING`, args...); err != nil {
			return err
		}
	}
	return nil
}

func (s *sqlLedger) lookup(ctx context.Context, hashes []Hash) (map[Hash]uint64, error) {
	if !s.dedup || len(hashes) == 0 {
		return nil, nil
	}
	found := make(map[Hash]uint64)
	err := s.db.View(ctx, func(tx *store.Tx) error {
		for rest := hashes; len(rest) > 0; {
			part := rest[:min(len(rest), rowsAtOnce)]
			rest = rest[len(part):]
			if err := s.lookupPart(ctx, tx, part, found); err != nil {
				return err
			}
		}
		return nil
	})
	return found, err
}

func (s *sqlLedger) lookupPart(ctx context.Context, tx *store.Tx, part []Hash, found map[Hash]uint64) error {
	args := []any{s.origin}
	for i := range part {
		args = append(args, part[i][:])
	}
	rows, err := tx.Query(ctx, `SELECT hash, idx FROM tlog_leaf WHERE origin = ? AND hash IN (`+
		strings.Repeat("?, ", len(part)-1)+`?)`, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var h []byte
		var idx int64
		if err := rows.Scan(&h, &idx); err != nil {
			return err
		}
		if len(h) == len(Hash{}) {
			found[Hash(h)] = uint64(idx)
		}
	}
	return rows.Err()
}

func (s *sqlLedger) index(ctx context.Context, from uint64, hashes []Hash) error {
	return s.db.Update(ctx, func(tx *store.Tx) error {
		if err := s.insert(ctx, tx, from, hashes); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE tlog_checkpoint SET indexed = ? WHERE origin = ? AND indexed = ?`,
			int64(from)+int64(len(hashes)), s.origin, int64(from))
		return err
	})
}

func (s *sqlLedger) reset(ctx context.Context) error {
	return s.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE tlog_checkpoint SET indexed = 0 WHERE origin = ?`, s.origin)
		return err
	})
}

// swapTimeout bounds a commit; one that takes longer has an unknown end.
const swapTimeout = 30 * time.Second

// RecordedSize is the number of entries in the last checkpoint that was
// recorded of a log; 0 when there is none.
func RecordedSize(ctx context.Context, tx *store.Tx, origin string) (int64, error) {
	var n int64
	err := tx.QueryRow(ctx, `SELECT size FROM tlog_checkpoint WHERE origin = ?`, origin).Scan(&n)
	if errors.Is(err, fault.NotFound) {
		return 0, nil
	}
	return n, err
}
