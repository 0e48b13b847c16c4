package tlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"assay/internal/fault"
	"assay/telemetry"
)

// pending is an entry that waits for a commit.
type pending struct {
	leaf  []byte                                              // nil when build makes it
	build func(index uint64) (record, leaf []byte, err error) // for entries that know their index
	keys  *keyset                                             // no entry, but a change of keys
	done  chan outcome
}

// outcome is what became of an entry.
type outcome struct {
	index uint64
	head  head
	dup   bool
	err   error
}

// Add puts an entry into the log and returns once it is in the tree of a
// checkpoint that is signed, recorded and durable. At most [MaxLeaf] bytes
// ([fault.TooLarge]); too many waiting entries are [fault.TooMany]; a full disk
// is [fault.NoSpace], another failure to write [fault.Unavailable]: after an
// error the entry may yet be in the log, never the other way round. The end of
// ctx ends the wait, not the entry.
func (l *Log) Add(ctx context.Context, leaf []byte) (Entry, error) {
	if len(leaf) > MaxLeaf {
		return Entry{}, fault.Newf(fault.TooLarge, "an entry of %d bytes: at most %d", len(leaf), MaxLeaf)
	}
	return l.add(ctx, &pending{leaf: leaf})
}

// AddFunc adds an entry that depends on its own index, as those of CT do.
// build gives the record as the [Codec] stores it and its Merkle leaf. It may
// run more than once, always in the log's one sequencer, so it must be quick.
// Such entries are not deduplicated.
func (l *Log) AddFunc(ctx context.Context, build func(index uint64) (record, leaf []byte, err error)) (Entry, error) {
	return l.add(ctx, &pending{build: build})
}

func (l *Log) add(ctx context.Context, p *pending) (Entry, error) {
	ctx, span := telemetry.Start(ctx, "log.append")
	entry, err := l.append(ctx, p)
	if err == nil {
		span.Int(telemetry.LogIndex, int64(entry.Index))
	}
	span.End(err)
	return entry, err
}

func (l *Log) append(ctx context.Context, p *pending) (Entry, error) {
	p.done = make(chan outcome, 1)
	if err := l.enqueue(p); err != nil {
		return Entry{}, err
	}
	began := time.Now()
	select {
	case out := <-p.done:
		if out.err != nil {
			return Entry{}, out.err
		}
		telemetry.Observe(ctx, l.metrics.latency, time.Since(began).Seconds())
		return l.prove(ctx, out)
	case <-ctx.Done():
		return Entry{}, fault.Wrap(fault.Unavailable, ctx.Err())
	}
}

func (l *Log) enqueue(p *pending) error {
	if l.opts.ReadOnly {
		return fault.Newf(fault.Denied, "the log %s is frozen: it takes no entries", l.opts.Origin)
	}
	if l.opts.Held != "" {
		return fault.Newf(fault.Unavailable, "the log %s takes no entries: %s", l.opts.Origin, l.opts.Held)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	if len(l.queue) >= l.opts.MaxPending {
		l.metrics.refused.Inc()
		return fault.Newf(fault.TooMany, "%d entries wait for the log: try again later", len(l.queue))
	}
	l.queue = append(l.queue, p)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

var errClosed = fault.Newf(fault.Unavailable, "the log is closed")

func (l *Log) prove(ctx context.Context, out outcome) (Entry, error) {
	cp := out.head.cp
	path, err := out.head.tree.InclusionProof(ctx, out.index, cp.Size)
	if err != nil {
		return Entry{}, fmt.Errorf("prove entry %d: %w", out.index, err)
	}
	return Entry{Index: out.index, TreeSize: cp.Size, Root: cp.Root, Proof: path, Checkpoint: cp.Note, KeyID: out.head.id, Duplicate: out.dup}, nil
}

// retry is how long a failed commit rests when nobody asks for another.
const retry = time.Second

// sequence is the log's one writer.
func (l *Log) sequence(ctx context.Context) {
	for {
		var again <-chan time.Time
		if l.attempt != nil || l.unpublished {
			again = time.After(retry)
		} else if l.lacking {
			again = time.After(witnessRetry)
		}
		select {
		case <-ctx.Done():
			for batch := l.take(); len(batch) > 0; batch = l.take() {
				l.refuse(batch, errClosed)
			}
			return
		case <-l.wake:
		case <-again:
			if l.lacking && !l.unpublished && l.attempt == nil {
				h := l.current()
				l.next, l.unpublished = &h, true
			}
		}
		for {
			batch := l.take()
			if len(batch) == 0 && l.attempt == nil && !l.unpublished {
				break
			}
			began := time.Now()
			if len(batch) == 1 && batch[0].keys != nil {
				batch[0].answer(outcome{err: l.rekey(ctx, batch[0].keys)})
				continue
			}
			if err := l.batch(ctx, batch); err != nil {
				l.metrics.failures.Inc()
				l.logger.Error("log commit failed", "error", err, "entries", len(batch))
				l.refuse(batch, err)
				break
			}
			l.metrics.commit.Observe(time.Since(began).Seconds())
		}
	}
}

// take gives the entries of the next commit.
func (l *Log) take() []*pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.queue), l.opts.MaxBatch)
	// A change of keys goes by itself, in its turn.
	if i := slices.IndexFunc(l.queue[:n], func(p *pending) bool { return p.keys != nil }); i >= 0 {
		n = max(i, 1)
	}
	batch := l.queue[:n:n]
	l.queue = l.queue[n:]
	if len(l.queue) == 0 {
		l.queue = nil
	} else {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	return batch
}

func (l *Log) refuse(batch []*pending, err error) {
	if k := fault.KindOf(err); k == fault.Internal {
		err = fault.Wrap(fault.Unavailable, err)
	} else {
		err = fault.Wrap(k, err)
	}
	for _, p := range batch {
		p.answer(outcome{err: err})
	}
}

// answer is heard once.
func (p *pending) answer(o outcome) {
	select {
	case p.done <- o:
	default:
	}
}

// work is a batch on its way.
type work struct {
	fresh  []*pending // entries that are appended, in order
	leaves []Hash
	files  []file
	wrote  []resource         // what files are
	bundle []byte             // the new last bundle
	twins  map[int][]*pending // by place in fresh: the same entry again
}

// batch commits entries: everything before answer may fail and leaves the log
// as it was, or in one of the two states that settle resolves.
func (l *Log) batch(ctx context.Context, batch []*pending) error {
	if err := l.settle(ctx); err != nil {
		return err
	}
	w, err := l.prepare(ctx, batch)
	if err != nil {
		return err
	}
	if len(w.fresh) == 0 {
		return nil
	}
	base := l.current()
	tree, tiles := base.tree.extend(w.leaves)
	for _, t := range tiles {
		w.write(l.codec, t.res, t.tile.bytes())
	}
	if err := l.disk.commit(w.files); err != nil {
		return err
	}
	next, err := l.sign(tree.size, tree.root)
	if err != nil {
		return err
	}
	if err := l.swap(ctx, base.cp, next, w.leaves); err != nil {
		return err
	}
	tree.adopt(tiles)
	l.bundle = w.bundle
	if err := l.advance(head{next, tree, l.keyset().id}); err != nil {
		return err
	}
	now := l.current()
	l.metrics.entries.Add(float64(len(w.fresh)))
	for i, p := range w.fresh {
		out := outcome{index: base.cp.Size + uint64(i), head: now}
		p.answer(out)
		out.dup = true
		for _, twin := range w.twins[i] {
			twin.answer(out)
		}
	}
	if err := l.sweeper.committed(w.wrote); err != nil {
		l.logger.Warn("old partial tiles stay", "error", err)
	}
	return nil
}

// swap records next. An error that may hide a commit leaves it to settle.
func (l *Log) swap(ctx context.Context, old, next Checkpoint, added []Hash) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), swapTimeout)
	defer cancel()
	err := l.ledger.swap(ctx, old, next, added)
	if err == nil {
		return nil
	}
	l.attempt = &next
	return fmt.Errorf("record the checkpoint of %d entries: %w", next.Size, err)
}

// settle brings the log out of what an earlier failure left.
func (l *Log) settle(ctx context.Context) error {
	if l.attempt != nil {
		// The swap failed or seemed to. Until the record says which, no tile
		// may be written over, since a recorded checkpoint needs its own.
		signed, _, err := l.ledger.last(ctx)
		if err != nil {
			return fmt.Errorf("read the recorded checkpoint: %w", err)
		}
		rec, err := l.keyset().parse(signed)
		if err != nil {
			return err
		}
		cur := l.current()
		switch {
		case rec.Size == cur.cp.Size && rec.Root == cur.cp.Root:
		case rec.Size == l.attempt.Size && rec.Root == l.attempt.Root:
			tree, err := LoadTree(ctx, l.dir, l.codec, rec)
			if err != nil {
				return err
			}
			if l.bundle, err = l.loadBundle(ctx, tree); err != nil {
				return err
			}
			if err := l.advance(head{rec, tree, cur.id}); err != nil {
				l.attempt = nil
				return err
			}
		default:
			return fault.Newf(fault.Tampered, "the database has recorded a checkpoint of %s with %d entries that this process did not sign: another one writes with the same key. Stop one of them", rec.Origin, rec.Size)
		}
		l.attempt = nil
	}
	if l.unpublished {
		return l.publish()
	}
	return nil
}

// advance publishes a recorded checkpoint and makes it the head.
func (l *Log) advance(h head) error {
	l.next = &h
	return l.publish()
}

// tip is the newest checkpoint that was recorded, published or not.
func (l *Log) tip() head {
	if l.next != nil {
		return *l.next
	}
	return l.current()
}

// publish has the witnesses cosign, writes the checkpoint file, makes it the
// head and wakes the followers. What failed is tried again by settle; nothing is
// answered or served under a checkpoint that is not published.
func (l *Log) publish() error {
	h := l.tip()
	l.unpublished = true
	ctx := l.run
	if ctx == nil { // while it opens
		ctx = context.Background()
	}
	signed, err := l.cosign(ctx, h)
	if err != nil {
		return err
	}
	h.cp.Note = signed
	if err := l.disk.commit([]file{{"checkpoint", h.cp.Note}}); err != nil {
		return fmt.Errorf("publish the checkpoint of %d entries: %w", h.cp.Size, err)
	}
	l.unpublished, l.next = false, nil
	l.metrics.size.Set(float64(h.cp.Size))
	l.mu.Lock()
	l.head = h
	close(l.grown)
	l.grown = make(chan struct{})
	l.mu.Unlock()
	return nil
}

// prepare answers the entries that the log has already and lays out the rest.
func (l *Log) prepare(ctx context.Context, batch []*pending) (*work, error) {
	hashes := make([]Hash, len(batch))
	var known map[Hash]uint64
	if l.opts.Deduplicate {
		var ask []Hash
		for i, p := range batch {
			if p.build == nil {
				hashes[i] = LeafHash(p.leaf)
				ask = append(ask, hashes[i])
			}
		}
		var err error
		if known, err = l.ledger.lookup(ctx, ask); err != nil {
			return nil, fmt.Errorf("look for entries: %w", err)
		}
	}
	base := l.current()
	w := &work{bundle: append([]byte(nil), l.bundle...), twins: make(map[int][]*pending)}
	first := make(map[Hash]int)
	for i, p := range batch {
		if l.opts.Deduplicate && p.build == nil {
			if index, ok := known[hashes[i]]; ok && index < base.cp.Size {
				p.answer(outcome{index: index, head: base, dup: true})
				continue
			}
			if j, ok := first[hashes[i]]; ok {
				w.twins[j] = append(w.twins[j], p)
				continue
			}
			first[hashes[i]] = len(w.fresh)
		}
		if err := l.lay(w, base.cp.Size, p); err != nil {
			p.answer(outcome{err: err})
		}
	}
	if size := base.cp.Size + uint64(len(w.fresh)); len(w.fresh) > 0 && size%tileWidth > 0 {
		r := resource{entries: true, n: size / tileWidth, width: int(size % tileWidth)}
		w.write(l.codec, r, w.bundle)
	}
	return w, nil
}

func (w *work) write(c Codec, r resource, data []byte) {
	w.files = append(w.files, file{r.path(c.Folder()), data})
	w.wrote = append(w.wrote, r)
}

// lay puts one entry behind the others of the batch.
func (l *Log) lay(w *work, size uint64, p *pending) error {
	index := size + uint64(len(w.fresh))
	record, leaf := []byte(nil), p.leaf
	if p.build != nil {
		var err error
		if record, leaf, err = p.build(index); err != nil {
			return err
		}
		// A record that its codec does not read back would spoil its bundle.
		if raw, got, err := l.codec.Split(record); err != nil || len(raw) != len(record) || string(got) != string(leaf) {
			return fault.Newf(fault.Internal, "the record of entry %d does not read back: %w", index, errors.Join(err, errShort))
		}
	} else {
		record = plainRecord(leaf)
	}
	w.fresh = append(w.fresh, p)
	w.leaves = append(w.leaves, LeafHash(leaf))
	w.bundle = append(w.bundle, record...)
	if (index+1)%tileWidth == 0 {
		w.write(l.codec, resource{entries: true, n: index / tileWidth, width: tileWidth}, w.bundle)
		w.bundle = nil
	}
	return nil
}
