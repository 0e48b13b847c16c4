package gate

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/trust"
)

// Block says that a digest is served to nobody.
type Block struct {
	Digest artifact.Digest `json:"digest"`
	Cause  artifact.Digest `json:"cause"` // what was blocked: the digest, or an index that it is part of
	State  State           `json:"state"` // quarantined or revoked
	Reason string          `json:"reason"`
	Source string          `json:"source"` // registry, or trust: the site's revocation list
	Actor  string          `json:"actor"`
	Since  time.Time       `json:"since"`
}

const blockColumns = `digest, cause, kind, reason, source, actor, since`

func scanBlock(scan func(...any) error) (b Block, err error) {
	var since int64
	err = scan(&b.Digest, &b.Cause, &b.State, &b.Reason, &b.Source, &b.Actor, &since)
	b.Since = store.Time(since)
	return b, err
}

func selectBlocks(ctx context.Context, tx *store.Tx, where string, args ...any) ([]Block, error) {
	rows, err := tx.Query(ctx, `SELECT `+blockColumns+` FROM gate_block `+where, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out []Block
	for rows.Next() {
		b, err := scanBlock(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, rows.Err()
}

// blockedIn reads whether a digest is blocked, a revocation before a
// quarantine; nil: it is not.
func blockedIn(ctx context.Context, tx *store.Tx, d artifact.Digest) (*Block, error) {
	b, err := scanBlock(tx.QueryRow(ctx, `SELECT `+blockColumns+` FROM gate_block WHERE digest = ? ORDER BY kind DESC, since LIMIT 1`, string(d)).Scan)
	if errors.Is(err, fault.NotFound) {
		return nil, nil //nolint:nilnil // none is an answer
	}
	return &b, err
}

func blockedError(err error, d artifact.Digest, b *Block) error {
	if err != nil {
		return err
	}
	part := ""
	if b.Cause != d {
		part = ", as part of " + string(b.Cause)
	}
	return fault.Newf(fault.Denied, "%s is %s since %s%s: %s", d, b.State, b.Since.UTC().Format(time.RFC3339), part, b.Reason)
}

// blocks are the blocked digests, all of them, in memory: few, and asked for at
// every read. Every change raises a generation in the database, which is looked
// at again when the last look is older than maxBlockAge; so a change by another
// replica is seen within that time, and never later, however idle this one was.
// A look is as old as its transaction: one that goes on for long, such as that of
// a list of many tags, sees what was, and must not tell others that it still is.
type blocks struct {
	looked atomic.Int64 // microseconds: as of when set is right
	change atomic.Int64 // microseconds: of the last change by this process
	set    atomic.Pointer[blockSet]
	mu     sync.Mutex
}

type blockSet struct {
	generation string
	digests    map[artifact.Digest]bool // of those that only wait for a person: false
}

const maxBlockAge = 300 * time.Millisecond

const markBlocks = "blocks"

// fresh says whether the set is right, as far as can be known without a look.
func (b *blocks) fresh(now time.Time) bool {
	looked := b.looked.Load()
	age := store.Micros(now) - looked
	return age >= 0 && age < maxBlockAge.Microseconds() && looked > b.change.Load()
}

// A digest whose quarantine waits for a person is served: has is about those that
// are not, and any about both.
func (b *blocks) has(ctx context.Context, tx *store.Tx, now time.Time, d artifact.Digest) (bool, error) {
	_, withheld, err := b.of(ctx, tx, now, d)
	return withheld, err
}

func (b *blocks) any(ctx context.Context, tx *store.Tx, now time.Time, d artifact.Digest) (bool, error) {
	known, _, err := b.of(ctx, tx, now, d)
	return known, err
}

func (b *blocks) of(ctx context.Context, tx *store.Tx, now time.Time, d artifact.Digest) (known, withheld bool, err error) {
	if !tx.ReadOnly() {
		return ofRow(blockedIn(ctx, tx, d))
	}
	set := b.set.Load()
	if set != nil && b.fresh(now) {
		withheld, known = set.digests[d]
		return known, withheld, nil
	}
	if set, err = b.look(ctx, tx, now); err != nil {
		return false, false, err
	}
	if set != nil {
		withheld, known = set.digests[d]
		return known, withheld, nil
	}
	// The transaction is older than what is remembered may be. It answers for
	// itself, and goes by what is known to be newer as well.
	if set = b.set.Load(); set != nil && set.digests[d] {
		return true, true, nil
	}
	return ofRow(blockedIn(ctx, tx, d))
}

func ofRow(b *Block, err error) (known, withheld bool, _ error) {
	return b != nil, b != nil && !b.Waits(), err
}

// look reads the set again where its generation has changed. Those who come
// while one looks wait for it: nobody goes by a set that is too old. nil: the
// transaction began too long ago, or before the last change, to tell.
func (b *blocks) look(ctx context.Context, tx *store.Tx, now time.Time) (*blockSet, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	set := b.set.Load()
	if set != nil && b.fresh(now) {
		return set, nil
	}
	at := store.Micros(now.Add(-tx.Age()))
	if at <= b.change.Load() || at < b.looked.Load() || tx.Age() >= maxBlockAge {
		return nil, nil //nolint:nilnil // that it cannot tell is an answer
	}
	generation, err := mark(ctx, tx, markBlocks)
	if err != nil {
		return nil, err
	}
	if set == nil || set.generation != generation {
		set = &blockSet{generation, map[artifact.Digest]bool{}}
		for _, waits := range []bool{true, false} { // who is both is withheld
			list, err := store.Values[artifact.Digest](ctx, tx, `SELECT DISTINCT digest FROM gate_block WHERE kind `+map[bool]string{true: "=", false: "<>"}[waits]+` ?`, string(Waiting))
			if err != nil {
				return nil, err
			}
			for _, d := range list {
				set.digests[d] = !waits
			}
		}
		b.set.Store(set)
	}
	b.looked.Store(at)
	return set, nil
}

// changed raises the generation, in the transaction of the change.
func (b *blocks) changed(ctx context.Context, tx *store.Tx, now func() time.Time) error {
	was, err := mark(ctx, tx, markBlocks)
	if err != nil {
		return err
	}
	n, _ := strconv.ParseInt(was, 10, 64) // "" is 0
	tx.OnCommit(func() { b.change.Store(store.Micros(now())) })
	return setMark(ctx, tx, markBlocks, strconv.FormatInt(n+1, 10))
}

// Blocking is what a quarantine or a revocation did.
type Blocking struct {
	Digest   artifact.Digest `json:"digest"`
	State    State           `json:"state"`
	Parts    int             `json:"parts"`  // manifests of the index that share it
	Places   []string        `json:"places"` // repositories that hold the digest, at most 1,000
	Already  bool            `json:"already,omitempty"`
	Released int             `json:"released,omitempty"` // digests that are served again
}

type blockedBody struct {
	Reason   string `json:"reason"`
	Source   string `json:"source"`
	Children int    `json:"children"`
}

// Quarantine has a digest served to nobody, in all repositories, with the
// manifests that it is made of, until it is released. It takes effect for every
// pull that begins after it, here at once, elsewhere within a second.
func (g *Gate) Quarantine(ctx context.Context, d artifact.Digest, actor, reason string) (*Blocking, error) {
	return g.block(ctx, Block{Digest: d, State: Quarantined, Reason: reason, Source: sourceRegistry, Actor: actor})
}

// Revoke is Quarantine for good.
func (g *Gate) Revoke(ctx context.Context, d artifact.Digest, actor, reason string) (*Blocking, error) {
	return g.block(ctx, Block{Digest: d, State: Revoked, Reason: reason, Source: sourceRegistry, Actor: actor})
}

func (g *Gate) block(ctx context.Context, b Block) (*Blocking, error) {
	if err := b.Digest.Validate(); err != nil {
		return nil, err
	}
	if err := wantReason(b.Reason); err != nil {
		return nil, err
	}
	var out *Blocking
	err := g.db.Update(ctx, func(tx *store.Tx) (err error) {
		out, err = g.blockTx(ctx, tx, b)
		return err
	})
	return out, err
}

func (g *Gate) blockTx(ctx context.Context, tx *store.Tx, b Block) (*Blocking, error) {
	out := &Blocking{Digest: b.Digest, State: b.State}
	members, err := partsAnywhere(ctx, tx, b.Digest)
	if err != nil {
		return nil, err
	}
	out.Parts = len(members)
	inserted := int64(0)
	for _, d := range append([]artifact.Digest{b.Digest}, members...) {
		n, err := tx.Exec(ctx, `INSERT INTO gate_block (`+blockColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest, cause, kind, source) DO NOTHING`,
			string(d), string(b.Digest), string(b.State), b.Reason, b.Source, b.Actor, tx.Now())
		if err != nil {
			return nil, err
		}
		inserted += n
	}
	if out.Places, err = places(ctx, tx, b.Digest); err != nil {
		return nil, err
	}
	if inserted == 0 {
		out.Already = true
		return out, nil
	}
	if err := g.blocks.changed(ctx, tx, g.now); err != nil {
		return nil, err
	}
	kind := event.ArtifactQuarantined
	switch b.State {
	case Revoked:
		kind = event.ArtifactRevoked
	case Waiting: // the action tells of it
		tx.OnCommit(func() { g.met.changes.WithLabelValues(string(b.State)).Inc() })
		return out, nil
	}
	tx.OnCommit(func() { g.met.changes.WithLabelValues(string(b.State)).Inc() })
	return out, event.Append(ctx, tx, event.Event{
		Kind: kind, Digest: b.Digest, Actor: b.Actor, Body: blockedBody{b.Reason, b.Source, len(members)},
	})
}

func places(ctx context.Context, tx *store.Tx, d artifact.Digest) ([]string, error) {
	rows, err := tx.Query(ctx, `SELECT repository FROM registry_manifest WHERE digest = ? ORDER BY repository LIMIT 1000`, string(d))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	out := []string{}
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

// Release lifts a quarantine. What is revoked stays so: fault.Denied. What is
// under no quarantine is fault.NotFound.
func (g *Gate) Release(ctx context.Context, d artifact.Digest, actor, reason string) (*Blocking, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	if err := wantReason(reason); err != nil {
		return nil, err
	}
	out := &Blocking{Digest: d, State: Active}
	err := g.db.Update(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(ctx, `DELETE FROM gate_block WHERE cause = ? AND kind = ?`, string(d), string(Quarantined))
		if err != nil {
			return err
		}
		b, err := blockedIn(ctx, tx, d)
		switch {
		case err != nil:
			return err
		case n == 0 && b != nil && b.State == Revoked:
			return fault.Newf(fault.Denied, "%w; a revocation is for good", blockedError(nil, d, b))
		case n == 0 && b != nil && b.Waits():
			return fault.Newf(fault.Conflict, "%w; it is no quarantine yet: assay action list, and assay action refuse ID lets it go", blockedError(nil, d, b))
		case n == 0 && b != nil:
			return fault.Newf(fault.Conflict, "%w; release that one", blockedError(nil, d, b))
		case n == 0:
			return fault.Newf(fault.NotFound, "%s is not under quarantine", d)
		case b != nil:
			out.State = b.State
		}
		out.Released, out.Parts = int(n), int(n)-1
		if out.Places, err = places(ctx, tx, d); err != nil {
			return err
		}
		if err := g.blocks.changed(ctx, tx, g.now); err != nil {
			return err
		}
		tx.OnCommit(func() { g.met.changes.WithLabelValues("released").Inc() })
		return event.Append(ctx, tx, event.Event{Kind: event.ArtifactReleased, Digest: d, Actor: actor, Body: map[string]any{"reason": reason}})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Blocks lists what is blocked, by digest, after a digest.
func (g *Gate) Blocks(ctx context.Context, after string, limit int) (out []Block, err error) {
	err = g.db.View(ctx, func(tx *store.Tx) error {
		out, err = selectBlocks(ctx, tx, `WHERE digest > ? ORDER BY digest, cause, kind LIMIT ?`, after, limit)
		return err
	})
	return out, err
}

// followRevocations blocks what the site's trust revokes, with the parts that
// are known by now, and lifts what it no longer does. A revocation that begins
// later is taken when it does. Every replica does so by itself, whenever the
// trust epoch has risen: nobody waits for the one that holds the lease.
func (g *Gate) followRevocations(ctx context.Context) error {
	if g.o.Revocations == nil {
		return nil
	}
	var now int64
	if err := g.db.View(ctx, func(tx *store.Tx) (err error) {
		now, err = trust.Epoch(ctx, tx)
		return err
	}); err != nil {
		return err
	}
	f := &g.followed
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done && f.epoch >= now && (f.next.IsZero() || g.now().Before(f.next)) {
		return nil
	}
	list, epoch, err := g.o.Revocations(ctx)
	if err != nil {
		return err
	}
	keep := map[artifact.Digest]bool{}
	var next time.Time
	for _, r := range list {
		if r.Since.After(g.now()) {
			if next.IsZero() || r.Since.Before(next) {
				next = r.Since
			}
			continue
		}
		keep[r.Digest] = true
		reason := r.Reason
		if len(reason) < 3 {
			reason = "revoked by the site's revocation list"
		}
		if _, err := g.block(ctx, Block{Digest: r.Digest, State: Revoked, Reason: clip(reason, maxReason), Source: sourceTrust, Actor: "system:trust"}); err != nil {
			return fmt.Errorf("revocation of %s: %w", r.Digest, err)
		}
	}
	if err := g.liftRevocations(ctx, keep); err != nil {
		return err
	}
	f.done, f.epoch, f.next = true, epoch, next
	return nil
}

const (
	sourceRegistry = "registry"
	sourceTrust    = "trust"
)

// followed is how far the site's revocations were taken over.
type followed struct {
	mu    sync.Mutex
	done  bool
	epoch int64
	next  time.Time // when one begins; zero: none
}

// liftRevocations takes back what the site's trust revoked and, by its offline
// root, no longer does.
func (g *Gate) liftRevocations(ctx context.Context, keep map[artifact.Digest]bool) error {
	return g.db.Update(ctx, func(tx *store.Tx) error {
		have, err := store.Values[artifact.Digest](ctx, tx, `SELECT DISTINCT cause FROM gate_block WHERE source = ?`, sourceTrust)
		if err != nil {
			return err
		}
		for _, d := range have {
			if keep[d] {
				continue
			}
			if _, err := tx.Exec(ctx, `DELETE FROM gate_block WHERE cause = ? AND source = ?`, string(d), sourceTrust); err != nil {
				return err
			}
			if err := g.blocks.changed(ctx, tx, g.now); err != nil {
				return err
			}
			if err := event.Append(ctx, tx, event.Event{Kind: event.ArtifactReleased, Digest: d, Actor: "system:trust",
				Body: map[string]any{"reason": "the site's revocation list no longer names it"}}); err != nil {
				return err
			}
		}
		return nil
	})
}
