package tlog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"assay/internal/fault"
)

// recover finds the state that the log goes on from, out of its two records:
// the folder's checkpoint and the one in the database. The order of a commit is
// tiles, database, checkpoint file, answer; so after a crash the database may be
// ahead by one commit whose tiles are all there, and nothing else differs.
func (l *Log) recover(ctx context.Context) (indexed uint64, err error) {
	published, err := l.readPublished(ctx)
	if err != nil {
		return 0, err
	}
	recorded, indexed, err := l.readRecorded(ctx)
	if err != nil {
		return 0, err
	}
	switch {
	case published == nil && recorded == nil:
		err = l.create(ctx)
	case published == nil:
		err = l.resume(ctx, *recorded, Checkpoint{Size: 0, Root: emptyRoot()})
	case l.opts.NeedRecord && (recorded == nil && published.Size > 0 || recorded != nil && recorded.Size < published.Size):
		size := uint64(0)
		if recorded != nil {
			size = recorded.Size
		}
		return 0, fault.Newf(fault.Tampered, "the database is older than the log: it recorded %d entries of %s, the folder has %d. Was it restored alone, or lost? Rows and events that the log speaks of are gone, and heads of events would be signed twice. Restore folder and database from one backup, or take the loss: assay restore reconcile --accept-loss", size, l.opts.Origin, published.Size)
	case recorded == nil:
		l.logger.Warn("the database knows no checkpoint of this log and takes the folder's: an older copy of the folder would not be noticed", "size", published.Size)
		err = l.catchUp(ctx, *published, Checkpoint{})
	case recorded.Size == published.Size && recorded.Root != published.Root:
		return 0, fault.Newf(fault.Tampered, "two signed checkpoints of %d entries differ: %s says root %x, the database %x. The log was forked: stop, keep both, and find the second writer", recorded.Size, l.opts.Dir, published.Root, recorded.Root)
	case recorded.Size >= published.Size:
		err = l.resume(ctx, *recorded, *published)
	default:
		l.logger.Warn("the database is older than the log's folder", "recorded", recorded.Size, "folder", published.Size)
		err = l.catchUp(ctx, *published, *recorded)
	}
	if err != nil {
		return 0, err
	}
	if err := l.resign(ctx); err != nil {
		return 0, err
	}
	if err := l.republish(ctx, published); err != nil {
		return 0, err
	}
	return l.checkIndex(ctx, indexed)
}

// republish publishes the head, unless the folder's checkpoint is that head with
// its cosignatures. One that lacks its quorum and may not be published without
// is left to the sequencer; until then the log shows what was published before.
func (l *Log) republish(ctx context.Context, published *Checkpoint) error {
	same := published != nil && published.Size == l.head.cp.Size && published.Root == l.head.cp.Root
	if same && l.keyset().complete(*published) && l.witnessed(published.Note) {
		l.head.cp = *published
		return nil
	}
	recorded := l.head
	err := l.advance(recorded)
	if err == nil || fault.KindOf(err) != fault.Unavailable || len(l.witnesses) == 0 || published == nil {
		return err
	}
	l.logger.Error("the log opens at the checkpoint that was published last", "size", published.Size, "recorded", recorded.cp.Size, "error", err)
	tree, terr := LoadTree(ctx, l.dir, l.codec, *published)
	if terr != nil {
		return terr
	}
	l.head = head{*published, tree, recorded.id}
	return nil
}

// readPublished reads the folder's checkpoint, nil when there is none.
func (l *Log) readPublished(ctx context.Context) (*Checkpoint, error) {
	b, err := l.dir.Checkpoint(ctx)
	if errors.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c, err := l.keyset().parse(b)
	if err != nil {
		return nil, fault.Newf(fault.Tampered, "%s is not a checkpoint that this log's key signed (%w): use the key and the origin that the log was made with, or restore the folder from a backup", filepath.Join(l.opts.Dir, "checkpoint"), err)
	}
	return &c, nil
}

func (l *Log) readRecorded(ctx context.Context) (*Checkpoint, uint64, error) {
	b, indexed, err := l.ledger.last(ctx)
	if errors.Is(err, fault.NotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	c, err := l.keyset().parse(b)
	if err != nil {
		return nil, 0, fault.Newf(fault.Tampered, "the checkpoint in the database is not one that this log's key signed (%w): use the key and the origin that the log was made with, or restore the database from a backup", err)
	}
	return &c, indexed, nil
}

// create makes a new log: its first checkpoint is that of no entries, so that
// from now on both records exist.
func (l *Log) create(ctx context.Context) error {
	switch _, err := os.Lstat(filepath.Join(l.opts.Dir, "tile")); {
	case err == nil:
		return fault.Newf(fault.Tampered, "%s has tiles, yet neither it nor the database has a checkpoint: restore both from one backup, or take an empty folder for a new log", l.opts.Dir)
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	c, err := l.sign(0, emptyRoot())
	if err != nil {
		return err
	}
	if err := l.ledger.swap(ctx, Checkpoint{}, c, nil); err != nil {
		return err
	}
	return l.install(ctx, c)
}

// resume goes on from the recorded checkpoint, which the folder must reach.
func (l *Log) resume(ctx context.Context, recorded, published Checkpoint) error {
	if err := l.install(ctx, recorded); err != nil {
		if errors.Is(err, fault.Tampered) {
			return fault.Newf(fault.Tampered, "%s does not hold the log of %d entries that the database recorded; its own checkpoint has %d. Restored from an older backup? To sign on it would fork the log. Restore the folder as new as the database, or start a new log with a new origin and key: %w", l.opts.Dir, recorded.Size, published.Size, err)
		}
		return err
	}
	return l.extends(ctx, recorded, published)
}

// catchUp takes the folder's checkpoint, which must extend the recorded one.
func (l *Log) catchUp(ctx context.Context, published, recorded Checkpoint) error {
	if err := l.install(ctx, published); err != nil {
		return err
	}
	if recorded.Note != nil {
		if err := l.extends(ctx, published, recorded); err != nil {
			return err
		}
	}
	return l.ledger.swap(ctx, recorded, published, nil)
}

// extends proves that the newer checkpoint extends the older.
func (l *Log) extends(ctx context.Context, newer, older Checkpoint) error {
	if older.Size == 0 {
		return nil // the empty tree is everyone's beginning
	}
	path, err := l.head.tree.ConsistencyProof(ctx, older.Size, newer.Size)
	if err == nil {
		err = VerifyConsistency(older.Size, newer.Size, path, older.Root[:], newer.Root[:])
	}
	if err != nil {
		return fault.Newf(fault.Tampered, "the signed checkpoint of %d entries does not extend the one of %d: the log was forked. Stop, keep the folder and the database, and find the second writer: %w", newer.Size, older.Size, err)
	}
	return nil
}

// resign brings the newest checkpoint under the keys that sign now, when the log
// was open last under others.
func (l *Log) resign(ctx context.Context) error {
	keys := l.keyset()
	if keys.complete(l.head.cp) {
		return nil
	}
	signed, err := l.sign(l.head.cp.Size, l.head.cp.Root)
	if err != nil {
		return err
	}
	if err := l.ledger.swap(ctx, l.head.cp, signed, nil); err != nil {
		return err
	}
	l.head.cp = signed
	return nil
}

// install makes a checkpoint the head, after its tiles and last bundle have
// been checked. It is not published: should it contradict another one, both
// must stay for whoever looks into it.
func (l *Log) install(ctx context.Context, c Checkpoint) error {
	tree, err := LoadTree(ctx, l.dir, l.codec, c)
	if err != nil {
		return err
	}
	if l.bundle, err = l.loadBundle(ctx, tree); err != nil {
		return err
	}
	l.head = head{c, tree, l.keyset().id}
	return nil
}

// loadBundle reads the entries of the last bundle when it is not full.
func (l *Log) loadBundle(ctx context.Context, t *Tree) ([]byte, error) {
	if t.size%tileWidth == 0 {
		return nil, nil
	}
	rs, err := t.Records(ctx, t.size/tileWidth*tileWidth, t.size)
	if err != nil {
		return nil, err
	}
	var b []byte
	for _, r := range rs {
		b = append(b, r.Raw...)
	}
	return b, nil
}

// checkIndex says how far the leaf index can be believed: to where it says, if
// the last entry that it should know is in it.
func (l *Log) checkIndex(ctx context.Context, indexed uint64) (uint64, error) {
	size := l.tip().cp.Size
	if !l.opts.Deduplicate || indexed == 0 {
		return indexed, nil
	}
	if indexed > size {
		return 0, fault.Newf(fault.Tampered, "the leaf index claims %d entries, the log has %d", indexed, size)
	}
	h, err := l.tip().tree.node(ctx, 0, indexed-1)
	if err != nil {
		return 0, err
	}
	found, err := l.ledger.lookup(ctx, []Hash{h})
	if err != nil {
		return 0, err
	}
	if _, ok := found[h]; ok {
		return indexed, nil
	}
	l.logger.Warn("the leaf index is damaged and is made again", "entries", size)
	return 0, l.ledger.reset(ctx)
}

// reindex makes the leaf index from the tiles, from an index on, beside the
// sequencer, which records its own entries itself.
func (l *Log) reindex(ctx context.Context, from uint64) {
	for {
		h := l.current()
		if from >= h.cp.Size {
			return
		}
		end := min(h.cp.Size, (from/tileWidth+1)*tileWidth)
		hashes, err := l.hashes(ctx, h.tree, from, end)
		if err == nil {
			err = l.ledger.index(ctx, from, hashes)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.logger.Error("leaf index: a later start goes on with it", "from", from, "error", fmt.Errorf("index [%d, %d): %w", from, end, err))
			return
		}
		from = end
	}
}

func (l *Log) hashes(ctx context.Context, t *Tree, from, end uint64) ([]Hash, error) {
	out := make([]Hash, 0, end-from)
	for i := from; i < end; i++ {
		h, err := t.node(ctx, 0, i)
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}
