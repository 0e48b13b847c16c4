package contract

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/policy"
	"assay/store"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
)

// Facts is what is known, now, of an artifact in a repository.
type Facts struct {
	Facts *policy.Facts
	SBOM  func(attestation string) (SBOM, bool)
}

// Options of a [Ledger]. DB, Events, Contracts and Facts are required.
type Options struct {
	DB        *store.DB
	Events    *event.Log
	Contracts func() *Set // what is in force
	// Facts verifies the evidence about an artifact. An error is that nothing was
	// found out; it is asked again.
	Facts      func(ctx context.Context, digest artifact.Digest, repository string) (*Facts, error)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Ledger keeps what is expected. It is safe for concurrent use, and so are many
// of them over one database: each change is made once.
type Ledger struct {
	o    Options
	met  *metrics
	wake chan struct{}
}

// New makes a ledger over a database that was migrated with [Migrations] and
// event.Migrations.
func New(o Options) (*Ledger, error) {
	if o.DB == nil || o.Events == nil || o.Contracts == nil || o.Facts == nil {
		return nil, fault.Newf(fault.Invalid, "contract: Options.DB, Events, Contracts and Facts are required")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	met, err := newMetrics(o.Registerer)
	return &Ledger{o: o, met: met, wake: make(chan struct{}, 1)}, err
}

// Run follows pushes and evidence, and looks at what is due, until ctx ends.
func (l *Ledger) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() {
		done <- l.o.Events.Consume(ctx, "contract", l.follow, event.ArtifactPushed, event.AttestationIngested, event.RevocationAffects, event.ArtifactDeleted)
	}()
	holder := rand.Text()
	measured := time.Time{}
	for ctx.Err() == nil {
		// The lease spares work; that each change is made once is the rows' doing.
		held, _, err := l.o.DB.Lease(ctx, "contract", holder, 10*time.Second)
		n := 0
		if err == nil && held {
			n, err = l.Look(ctx)
		}
		if err == nil && time.Since(measured) > 15*time.Second {
			err = l.measure(ctx)
			measured = time.Now()
		}
		if err != nil && ctx.Err() == nil {
			l.o.Logger.ErrorContext(ctx, "expected evidence could not be looked for, and is again", "error", err)
		}
		if n > 0 {
			continue
		}
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-time.After(time.Second):
		}
	}
	return <-done
}

// Start enters the start of a build: what its contract expects is owed from its
// push on. The build's id is new; workflow and names are of the caller's
// identity, and not of its words.
func (l *Ledger) Start(ctx context.Context, actor, repository string, by Starter) (*Build, *Contract, error) {
	if !artifact.ValidRepository(repository) {
		return nil, nil, fault.Newf(fault.Invalid, "repository %.80q: want the name that the product will be pushed to, such as team/app", repository)
	}
	if len(by.Workflow) > 1024 {
		return nil, nil, fault.Newf(fault.Invalid, "workflow of %d bytes: at most 1024", len(by.Workflow))
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, nil, fault.Wrap(fault.Internal, err)
	}
	c := l.o.Contracts().For(repository, &by)
	b := &Build{ID: "bld_" + id.String(), Repository: repository, Workflow: by.Workflow, Actor: actor}
	if c != nil {
		b.Contract, b.Version, b.hash = c.Name, c.Spec.Version, c.hash
	}
	err = l.o.DB.Update(ctx, func(tx *store.Tx) error {
		b.Started = tx.Now()
		if c != nil {
			if err := putText(ctx, tx, c); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, `INSERT INTO contract_build (id, repository, workflow, hash, actor, invocation, started, finished, outcome) VALUES (?, ?, ?, ?, ?, '', ?, 0, '')`,
			b.ID, repository, by.Workflow, b.hash, actor, store.Micros(b.Started)); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.BuildStarted, Actor: actor, TraceID: event.TraceFrom(ctx), Body: map[string]any{
			"build": b.ID, "repository": repository, "workflow": by.Workflow, "contract": b.Contract, "version": b.Version,
		}})
	})
	return b, c, err
}

// Product is what a build says that it made.
type Product struct {
	Name   string          `json:"name,omitempty"`
	Digest artifact.Digest `json:"digest"`
}

// MaxProducts bounds what one build may say that it made.
const MaxProducts = 256

// Finish enters the end of a build. Only who began it may say so. A build that
// is over is over: a second end is fault.Conflict, unless it says the same.
func (l *Ledger) Finish(ctx context.Context, actor, id, outcome, invocation string, products []Product) (*Build, error) {
	if outcome != "passed" && outcome != "failed" {
		return nil, fault.Newf(fault.Invalid, "outcome %.40q: want passed or failed", outcome)
	}
	if len(products) > MaxProducts || len(invocation) > 512 || outcome == "failed" && len(products) > 0 {
		return nil, fault.Newf(fault.Invalid, "%d products: want at most %d, and none of a build that failed", len(products), MaxProducts)
	}
	for _, p := range products {
		if err := p.Digest.Validate(); err != nil {
			return nil, err
		}
		if len(p.Name) > 512 {
			return nil, fault.Newf(fault.Invalid, "a product's name of %d bytes: at most 512", len(p.Name))
		}
	}
	var b *Build
	err := l.o.DB.Update(ctx, func(tx *store.Tx) (err error) {
		if b, err = getBuild(ctx, tx, id); err != nil {
			return err
		}
		if b.Actor != actor {
			return fault.Newf(fault.Denied, "build %s was begun by somebody else", id)
		}
		if b.Outcome != "" {
			if b.Outcome == outcome && b.Invocation == invocation {
				return nil
			}
			return fault.Newf(fault.Conflict, "build %s is over: %s", id, b.Outcome)
		}
		b.Finished, b.Outcome, b.Invocation = tx.Now(), outcome, invocation
		if _, err := tx.Exec(ctx, `UPDATE contract_build SET finished = ?, outcome = ?, invocation = ? WHERE id = ?`, store.Micros(b.Finished), outcome, invocation, id); err != nil {
			return err
		}
		for _, p := range products {
			if err := l.made(ctx, tx, b, p); err != nil {
				return err
			}
		}
		return event.Append(ctx, tx, event.Event{Kind: event.BuildFinished, Actor: actor, TraceID: event.TraceFrom(ctx), Body: map[string]any{
			"build": b.ID, "repository": b.Repository, "outcome": outcome, "products": len(products), "seconds": int(b.Finished.Sub(b.Started).Seconds()),
		}})
	})
	if err == nil {
		l.poke()
	}
	return b, err
}

// made notes a product, and binds its push anew where that came first.
func (l *Ledger) made(ctx context.Context, tx *store.Tx, b *Build, p Product) error {
	if _, err := tx.Exec(ctx, `INSERT INTO contract_product (build, digest, name) VALUES (?, ?, ?) ON CONFLICT (build, digest) DO UPDATE SET name = excluded.name`, b.ID, string(p.Digest), p.Name); err != nil {
		return err
	}
	was, err := findPush(ctx, tx, p.Digest, b.Repository)
	if err != nil || was == nil || b.hash == "" || !sameActor(b.Actor, was.pusher) || was.pushed < store.Micros(b.Started) {
		return err
	}
	return l.rebind(ctx, tx, was, b, p.Name)
}

func (l *Ledger) rebind(ctx context.Context, tx *store.Tx, was *push, b *Build, product string) error {
	c, err := getText(ctx, tx, b.hash)
	if err != nil {
		return err
	}
	now := *was
	now.hash, now.build, now.product, now.state = b.hash, b.ID, product, statePending
	now.due = was.pushed + c.Within().Microseconds()
	now.again = store.Micros(tx.Now())
	return bind(ctx, tx, &now, c)
}

func getBuild(ctx context.Context, tx *store.Tx, id string) (*Build, error) {
	b, err := scanBuild(tx.QueryRow(ctx, `SELECT `+buildColumns+` FROM contract_build b WHERE b.id = ?`, id))
	if errors.Is(err, fault.NotFound) {
		return nil, fault.Newf(fault.NotFound, "build %.80q: not here; want the bld_… that assay build start printed", id)
	}
	return b, err
}

// follow enters pushes, and has those looked at again whose evidence changed.
func (l *Ledger) follow(ctx context.Context, tx *store.Tx, batch []event.Event) error {
	for i := range batch {
		e := &batch[i]
		var err error
		switch e.Kind {
		case event.ArtifactPushed:
			err = l.pushed(ctx, tx, e)
		case event.AttestationIngested:
			_, err = tx.Exec(ctx, `UPDATE contract_push SET again = ?, touched = ? WHERE digest = ?`, store.Micros(tx.Now()), store.Micros(e.Time), string(e.Digest))
			tx.OnCommit(l.poke)
		case event.RevocationAffects:
			_, err = tx.Exec(ctx, `UPDATE contract_push SET again = ? WHERE digest = ?`, store.Micros(tx.Now()), string(e.Digest))
			tx.OnCommit(l.poke)
		case event.ArtifactDeleted:
			err = l.deleted(ctx, tx, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pushed binds a push. What carries evidence owes none, nor does what is of
// profile dev, nor a manifest that is pushed without a tag and that no build
// names: children of an index come so, and the index owes for them.
func (l *Ledger) pushed(ctx context.Context, tx *store.Tx, e *event.Event) error {
	var body struct {
		Repository   string `json:"repository"`
		Tag          string `json:"tag"`
		ArtifactType string `json:"artifact_type"`
		Subject      string `json:"subject"`
		Profile      string `json:"profile"`
	}
	if err := e.Decode(&body); err != nil {
		return err
	}
	if body.Subject != "" || body.Profile == "dev" || carrier(body.Tag) || e.Digest == "" {
		return nil
	}
	was, err := findPush(ctx, tx, e.Digest, body.Repository)
	if err != nil || was != nil {
		return err // pushed again: what it owed, it owes
	}
	at := store.Micros(e.Time)
	b, product, err := builder(ctx, tx, e.Digest, body.Repository, e.Actor, at)
	if err != nil {
		return err
	}
	if b == nil && body.Tag == "" {
		return nil
	}
	p := &push{digest: e.Digest, repository: body.Repository, pusher: e.Actor, pushed: at, state: statePending, product: product}
	c := l.o.Contracts().For(body.Repository, nil)
	if b != nil && b.hash != "" {
		if c, err = getText(ctx, tx, b.hash); err != nil {
			return err
		}
		p.build = b.ID
	}
	if c == nil {
		return nil
	}
	p.hash, p.due = c.hash, at+c.Within().Microseconds()
	p.again = store.Micros(tx.Now()) // evidence may have been there before the push
	return bind(ctx, tx, p, c)
}

// carrier says whether a tag is one by which evidence is found.
func carrier(tag string) bool {
	return len(tag) >= len("sha256-")+64 && tag[:len("sha256-")] == "sha256-"
}

// deleted forgets what is deleted: it is not there, and owes nothing.
func (l *Ledger) deleted(ctx context.Context, tx *store.Tx, e *event.Event) error {
	var body struct {
		Repository string `json:"repository"`
		What       string `json:"what"`
	}
	if err := e.Decode(&body); err != nil || body.What == "blob" {
		return err
	}
	for _, table := range []string{"contract_push", "contract_item"} {
		if _, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE digest = ? AND repository = ?`, string(e.Digest), body.Repository); err != nil {
			return err
		}
	}
	return nil
}

func (l *Ledger) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
