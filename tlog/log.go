package tlog

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"assay/internal/clock"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/store"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"
)

// Options open a log. Dir, Origin and Signer must be set, DB as well unless
// the log is read only.
type Options struct {
	Dir    string        // folder of the log, made when absent; one process owns it
	Origin string        // first line of its checkpoints; Rekor clients expect the host name alone
	Signer crypto.Signer // P-256 or Ed25519
	// Cosigners and Past are the log's other keys, when one follows another: see
	// [Keys].
	Cosigners []crypto.Signer
	Past      []crypto.PublicKey
	DB        *store.DB // holds the last signed checkpoint and the leaf index; [Migrations] are applied

	// Codec is how entries are stored; nil is [Plain].
	Codec Codec
	// CT signs checkpoints as C2SP static-ct-api has them (RFC 6962 heads).
	CT bool
	// Deduplicate gives an entry that is in the log already its first index
	// instead of a second one.
	Deduplicate bool
	// Held is why the log takes no entries for now: Add is [fault.Unavailable] with
	// it. "" when it does.
	Held string
	// NeedRecord refuses a database that is older than the folder, or knows
	// nothing of its log, instead of taking over the folder's checkpoint: by the
	// order of a commit only a restored or lost database can be.
	NeedRecord bool
	// ReadOnly neither locks nor writes: Add is [fault.Denied].
	ReadOnly bool

	// Witnesses cosign each checkpoint before it is published.
	Witnesses Witnesses

	MaxBatch   int // entries in one commit, 0: 2,048
	MaxPending int // entries that wait for a commit, 0: 8,192; beyond them Add is [fault.TooMany]

	Clock      clock.Clock           // nil: the machine's
	Logger     *slog.Logger          // nil: silent
	Registerer prometheus.Registerer // nil: no metrics
	Name       string                // of the log in metrics and messages, "log" or "ct"; "" is "log"
}

// Entry is what [Log.Add] gives: where the entry stands, and the proof.
type Entry struct {
	Index      uint64
	TreeSize   uint64   // of the checkpoint
	Root       Hash     // of the checkpoint
	Proof      [][]byte // inclusion in the checkpoint's tree, 32 bytes each
	Checkpoint []byte   // signed note, durable
	KeyID      Hash     // log id of the key that the answer is given under
	Duplicate  bool     // the entry was in the log before
}

// Log is an append-only log. Its methods may be called at once.
type Log struct {
	opts    Options
	codec   Codec
	dir     Dir
	ledger  ledger
	disk    *disk
	sweeper *sweeper
	logger  *slog.Logger
	metrics *metrics
	lock    io.Closer
	now     clock.Clock

	mu      sync.Mutex
	keys    *keyset
	head    head          // what is signed, recorded and published
	grown   chan struct{} // closed when head moves
	queue   []*pending
	closed  bool
	wake    chan struct{}
	stop    context.CancelFunc
	stopped sync.WaitGroup

	// What only the sequencer touches.
	bundle      []byte      // the last entry bundle, which is not full
	attempt     *Checkpoint // swap into the ledger of unknown end
	unpublished bool        // the checkpoint file is older than next
	next        *head       // recorded, and not published yet
	witnesses   []*witness
	lacking     bool // what is published lacks its quorum of witnesses
	reached     bool // whether the quorum was there when it was told last
	told        bool
	run         context.Context // ends with the log
}

// head is the newest checkpoint and its tree.
type head struct {
	cp   Checkpoint
	tree *Tree
	id   Hash // log id of the key that answers
}

// Open opens the log in a folder, or makes it. It takes the folder's lock
// ([fault.Conflict] when another process has it) and compares the folder with
// the checkpoint that the database recorded last. A folder that is older than
// the record, or differs from it, is [fault.Tampered]: signing on it would fork
// the log. A record that is older than the folder is brought up to date when
// the folder's tree extends it.
func Open(ctx context.Context, o Options) (*Log, error) {
	l, err := newLog(o)
	if err != nil {
		return nil, err
	}
	if l.opts.ReadOnly {
		l.head, err = l.loadPublished(ctx)
		return l, err
	}
	if err := durable.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	if l.lock, err = durable.Lock(filepath.Join(o.Dir, "lock")); err != nil {
		return nil, fmt.Errorf("the log %s: %w", o.Origin, err)
	}
	if err := l.start(ctx); err != nil {
		return nil, errors.Join(err, l.lock.Close())
	}
	return l, nil
}

func newLog(o Options) (*Log, error) {
	if err := checkOrigin(o.Origin); err != nil {
		return nil, err
	}
	if o.Signer == nil || o.Dir == "" || (o.DB == nil && !o.ReadOnly) {
		return nil, fault.Newf(fault.Invalid, "a log needs a folder, a signer and a database")
	}
	if o.MaxBatch <= 0 {
		o.MaxBatch = 2048
	}
	if o.MaxPending <= 0 {
		o.MaxPending = 8192
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Name == "" {
		o.Name = "log"
	}
	if o.Codec == nil {
		o.Codec = Plain{}
	}
	l := &Log{
		opts: o, codec: o.Codec, now: o.Clock,
		dir:    Dir{Path: o.Dir, Folder: o.Codec.Folder()},
		logger: o.Logger.With("log", o.Name),
		grown:  make(chan struct{}), wake: make(chan struct{}, 1),
		disk:   newDisk(o.Dir),
		ledger: &sqlLedger{db: o.DB, origin: o.Origin, dedup: o.Deduplicate},
	}
	l.sweeper = newSweeper(l.disk, l.codec.Folder())
	var err error
	if l.keys, err = l.newKeyset(Keys{o.Signer, o.Cosigners, o.Past}); err != nil {
		return nil, err
	}
	if l.witnesses, err = newWitnesses(o.Witnesses); err != nil {
		return nil, err
	}
	l.metrics, err = newMetrics(o.Registerer, o.Name)
	return l, err
}

func (l *Log) start(ctx context.Context) error {
	began := time.Now()
	if err := l.disk.clean(); err != nil {
		return err
	}
	indexed, err := l.recover(ctx)
	if err != nil {
		return fmt.Errorf("open the log %s: %w", l.opts.Origin, err)
	}
	if err := l.sweeper.opened(l.tip().tree); err != nil {
		l.logger.Warn("old partial tiles stay", "error", err)
	}
	size := l.head.cp.Size
	l.metrics.size.Set(float64(size))
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.stop, l.run = cancel, run
	l.stopped.Go(func() { l.sequence(run) })
	if l.opts.Deduplicate && indexed < size {
		l.stopped.Go(func() { l.reindex(run, indexed) })
	}
	l.logger.Info("log open", "origin", l.opts.Origin, "size", size, "took", time.Since(began))
	return nil
}

// Close stops the log: what waits is answered with [fault.Unavailable], what
// was acknowledged is on disk already.
func (l *Log) Close() error {
	if l.lock == nil {
		return nil
	}
	l.mu.Lock()
	already := l.closed
	l.closed = true
	l.mu.Unlock()
	if already {
		return nil
	}
	l.stop()
	l.stopped.Wait()
	return l.lock.Close()
}

// Origin is the first line of the log's checkpoints.
func (l *Log) Origin() string { return l.opts.Origin }

// KeyID is the log id of trusted roots and of log entries.
func (l *Log) KeyID() Hash { return l.keyset().id }

// Public is the log's key, that of [Log.KeyID].
func (l *Log) Public() crypto.PublicKey { return l.keyset().public }

// Verifier checks the log's checkpoints.
func (l *Log) Verifier() note.Verifier { return l.keyset().verifier }

func (l *Log) current() head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Checkpoint gives the newest signed note that is durable.
func (l *Log) Checkpoint(context.Context) ([]byte, error) { return l.current().cp.Note, nil }

// Head gives the newest checkpoint, parsed.
func (l *Log) Head() Checkpoint { return l.current().cp }

// Snapshot gives the newest checkpoint and its tree, of one moment.
func (l *Log) Snapshot() (Checkpoint, *Tree) {
	h := l.current()
	return h.cp, h.tree
}

// Tree gives the tree of the newest checkpoint.
func (l *Log) Tree() *Tree { return l.current().tree }

// Leaf gives entry i, checked against the tree. One that is not in the log is
// [fault.NotFound].
func (l *Log) Leaf(ctx context.Context, i uint64) ([]byte, error) {
	t := l.Tree()
	if i >= t.size {
		return nil, fault.Newf(fault.NotFound, "entry %d is not in the log: it has %d entries", i, t.size)
	}
	rs, err := t.Records(ctx, i, i+1)
	if err != nil {
		return nil, err
	}
	return rs[0].Leaf, nil
}

// InclusionProof proves entry i in the tree of the first size entries.
func (l *Log) InclusionProof(ctx context.Context, i, size uint64) ([][]byte, error) {
	return l.Tree().InclusionProof(ctx, i, size)
}

// ConsistencyProof proves that the tree of a entries is a prefix of that of b.
func (l *Log) ConsistencyProof(ctx context.Context, a, b uint64) ([][]byte, error) {
	return l.Tree().ConsistencyProof(ctx, a, b)
}

// Lookup finds the index of a leaf in the log that was opened with
// Deduplicate, [fault.NotFound] when it is not there.
func (l *Log) Lookup(ctx context.Context, leaf []byte) (uint64, error) {
	if !l.opts.Deduplicate || l.opts.DB == nil {
		return 0, fault.Newf(fault.Invalid, "the log was not opened with its leaf index")
	}
	h := LeafHash(leaf)
	found, err := l.ledger.lookup(ctx, []Hash{h})
	if err != nil {
		return 0, err
	}
	i, ok := found[h]
	if !ok {
		return 0, fault.Newf(fault.NotFound, "the entry is not in the log")
	}
	return i, nil
}

// Follow gives the entries from an index on, each checked against the tree, and
// waits for new ones until ctx ends. The first error ends it; the end of ctx is
// one.
func (l *Log) Follow(ctx context.Context, from uint64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for {
			l.mu.Lock()
			h, grown := l.head, l.grown
			l.mu.Unlock()
			for from < h.cp.Size {
				rs, err := h.tree.Records(ctx, from, h.cp.Size)
				if err != nil {
					yield(Record{}, err)
					return
				}
				for _, r := range rs {
					if !yield(r, nil) {
						return
					}
					from++
				}
			}
			select {
			case <-grown:
			case <-ctx.Done():
				yield(Record{}, ctx.Err())
				return
			}
		}
	}
}

// loadPublished reads the folder's checkpoint and its tree.
func (l *Log) loadPublished(ctx context.Context) (head, error) {
	b, err := l.dir.Checkpoint(ctx)
	if err != nil {
		return head{}, err
	}
	keys := l.keyset()
	c, err := keys.parse(b)
	if err != nil {
		return head{}, fmt.Errorf("the checkpoint in %s: %w", l.opts.Dir, err)
	}
	t, err := LoadTree(ctx, l.dir, l.codec, c)
	return head{c, t, keys.id}, err
}

// sign makes the checkpoint of a tree.
func (l *Log) sign(size uint64, root Hash) (Checkpoint, error) {
	return l.keyset().sign(Checkpoint{Origin: l.opts.Origin, Size: size, Root: root})
}
