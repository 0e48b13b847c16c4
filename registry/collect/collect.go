// Package collect takes away what nothing needs any longer: blobs, evidence
// whose subject was deleted, parts of deleted indexes, and what abandoned uploads
// left.
//
// A blob that no row needs is marked. When it has been marked for the grace and
// still nothing needs it, its bytes go, in the steps of package blob/sweep: a
// push that goes on meanwhile either keeps the blob or is told that it has to
// send it again, and is never accepted without it. One process of a site
// collects, by a lease; what a killed one began the next one ends.
package collect

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/artifact"
	"assay/blob"
	"assay/blob/sweep"
	"assay/event"
	"assay/identity"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/registry"
	"assay/store"
)

// Root says what one domain needs: it calls keep with those of the digests that
// its rows name, in tx. It must look them up by index: it is asked about every
// stored blob.
type Root func(ctx context.Context, tx *store.Tx, digests []artifact.Digest, keep func(artifact.Digest)) error

// Options of a [Collector]. DB, Blobs and Registry are required.
type Options struct {
	DB       *store.DB
	Blobs    blob.Store // bare
	Registry *registry.Registry
	// Roots are the needs of all other domains. One that is left out loses its
	// blobs.
	Roots []Root
	// Forget are told, in the transaction after it, of blobs whose bytes are gone.
	Forget []func(ctx context.Context, tx *store.Tx, gone []artifact.Digest) error

	Every time.Duration // from one collection to the next; 0: 6h; below 0: only when asked
	Grace time.Duration // how long what nothing needs is kept; 0: 24h
	Rate  int           // blobs deleted in a second; 0: 500

	Clock      clock.Clock           // nil: clock.System
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
}

// Collector collects. It is safe for concurrent use: one collection runs at a
// time.
type Collector struct {
	o      Options
	holder string
	met    *metrics
	actor  identity.Principal
}

// Migrations is the table of the collector: when the last collection ended.
var Migrations = store.Migrations{Name: "collect", Steps: []string{`
CREATE TABLE collect_mark (
	name  TEXT NOT NULL PRIMARY KEY,
	value TEXT NOT NULL
);
`}}

const (
	leaseName = "collect"
	leaseFor  = time.Minute
	batch     = 100 // blobs in one transaction, and in one event
	listed    = 100 // blobs that a report names
)

// New makes a collector over a database with [Migrations] and sweep.Migrations.
func New(o Options) (*Collector, error) {
	if o.DB == nil || o.Blobs == nil || o.Registry == nil {
		return nil, fault.Newf(fault.Invalid, "collect: Options.DB, Blobs and Registry are required")
	}
	if o.Every == 0 {
		o.Every = 6 * time.Hour
	}
	if o.Grace <= 0 {
		o.Grace = 24 * time.Hour
	}
	if o.Rate <= 0 {
		o.Rate = 500
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	met, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	return &Collector{o: o, holder: rand.Text(), met: met, actor: identity.System("collector")}, nil
}

// Request is what one collection is to do.
type Request struct {
	DryRun bool           // tell and do nothing
	Grace  *time.Duration // instead of the configured one; 0 collects at once, and pushes that go on have to send content again
	Wait   time.Duration  // for a collection that runs already to end
}

// Blob is a blob in a report.
type Blob struct {
	Digest artifact.Digest
	Size   int64
}

// Report is what a collection did, or with DryRun would do now.
type Report struct {
	DryRun    bool
	Grace     time.Duration
	Seen      int64 // blobs looked at
	Manifests int64 // evidence and parts of indexes that went with what they belonged to
	Uploads   int64 // rows of uploads that no manifest named
	Sessions  int64 // abandoned upload sessions
	Marked    int64 // blobs that nothing needs, first seen so now
	Waiting   int64 // blobs that nothing needs, in their grace
	WaitBytes int64
	Deleted   int64
	Freed     int64  // bytes
	Locked    int64  // blobs that the object store keeps: Object Lock
	Pinned    string // why nothing was deleted; empty: nothing kept it
	Blobs     []Blob // deleted, the first hundred
}

// run is one collection.
type run struct {
	c       *Collector
	Report  *Report
	grace   time.Duration
	now     time.Time
	epoch   int64
	renewed time.Time
	tokens  time.Time // when the next deletion may be
}

// Collect collects once. fault.Conflict: another collection runs.
func (c *Collector) Collect(ctx context.Context, q Request) (*Report, error) {
	r := &run{c: c, grace: c.o.Grace, now: c.o.Clock(), Report: &Report{DryRun: q.DryRun}}
	if q.Grace != nil {
		if *q.Grace < 0 {
			return nil, fault.Newf(fault.Invalid, "grace %s: want 0s or more", *q.Grace)
		}
		r.grace = *q.Grace
	}
	r.Report.Grace = r.grace
	if q.DryRun {
		err := r.look(ctx)
		return r.Report, err
	}
	holder := c.holder + "/" + rand.Text() // two callers of one process are two
	held, epoch, err := c.o.DB.Lease(ctx, leaseName, holder, leaseFor)
	for began := time.Now(); err == nil && !held && time.Since(began) < q.Wait; {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		held, epoch, err = c.o.DB.Lease(ctx, leaseName, holder, leaseFor)
	}
	if err != nil {
		return nil, err
	}
	if !held {
		return nil, fault.Newf(fault.Conflict, "a collection is running already; wait for its end")
	}
	r.epoch, r.renewed = epoch, time.Now()
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = c.o.DB.Release(end, leaseName, holder) // it ends by itself otherwise
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	renewals := make(chan struct{})
	go func() {
		defer close(renewals)
		r.keepLease(ctx, holder, cancel)
	}()
	err = r.all(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	cancel(nil)
	<-renewals
	c.met.done(r.Report, err)
	return r.Report, err
}

// keepLease renews the lease until ctx ends, and ends ctx when it is lost.
func (r *run) keepLease(ctx context.Context, holder string, lost context.CancelCauseFunc) {
	tick := time.NewTicker(leaseFor / 4)
	defer tick.Stop()
	since := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		begun := time.Now()
		held, _, err := r.c.o.DB.Lease(ctx, leaseName, holder, leaseFor)
		if err == nil && held {
			since = begun
		}
		// What deletes bytes cannot be fenced, and so it stops well before
		// another could have begun.
		if err == nil && !held || time.Since(since) > leaseFor/2 {
			lost(fault.Newf(fault.Conflict, "the collection lost its lease, and goes on another time"))
			return
		}
	}
}

func (r *run) all(ctx context.Context) error {
	for _, step := range []func(context.Context) error{r.finish, r.follow, r.uploads, r.mark, r.sweep} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// finish ends what a killed collector had begun to delete: its marks keep
// pushers out.
func (r *run) finish(ctx context.Context) error {
	for {
		list, err := r.marks(ctx, `deleting > 0 ORDER BY digest LIMIT ?`, batch)
		if err != nil || len(list) == 0 {
			return err
		}
		if err := r.delete(ctx, list); err != nil {
			return err
		}
	}
}

// follow takes along what belonged to what was deleted.
func (r *run) follow(ctx context.Context) error {
	for {
		var list []registry.Removed
		err := r.c.o.DB.View(ctx, func(tx *store.Tx) (err error) {
			list, err = registry.RemovedBefore(ctx, tx, r.now.Add(-r.grace), batch)
			return err
		})
		if err != nil || len(list) == 0 {
			return err
		}
		for _, rm := range list {
			if err := r.followOne(ctx, rm); err != nil {
				return err
			}
		}
	}
}

func (r *run) followOne(ctx context.Context, rm registry.Removed) error {
	for more := true; more; {
		var deleted []artifact.Digest
		err := r.c.o.DB.Update(ctx, func(tx *store.Tx) (err error) {
			if err := tx.Fence(ctx, leaseName, r.epoch); err != nil {
				return err
			}
			deleted, more, err = r.c.o.Registry.Follow(ctx, tx, rm, r.c.actor)
			return err
		})
		if err != nil {
			return err
		}
		r.Report.Manifests += int64(len(deleted))
	}
	return nil
}

// uploads drops rows of uploads that are of no use any longer, and sessions that
// nobody goes on with.
func (r *run) uploads(ctx context.Context) error {
	before := r.now.Add(-max(r.grace, r.c.o.Registry.UploadYoung()))
	for {
		var n int64
		err := r.c.o.DB.Update(ctx, func(tx *store.Tx) (err error) {
			if err := tx.Fence(ctx, leaseName, r.epoch); err != nil {
				return err
			}
			n, err = registry.PruneUploads(ctx, tx, before)
			return err
		})
		if err != nil {
			return err
		}
		if r.Report.Uploads += n; n == 0 {
			break
		}
	}
	if e, ok := r.c.o.Blobs.(interface {
		Expire(ctx context.Context) (int, error)
	}); ok {
		n, err := e.Expire(ctx)
		r.Report.Sessions += int64(n)
		return err
	}
	return nil
}

// needs gives those of the digests that some row needs.
func (r *run) needs(ctx context.Context, tx *store.Tx, digests []artifact.Digest) (map[artifact.Digest]bool, error) {
	needed := map[artifact.Digest]bool{}
	keep := func(d artifact.Digest) { needed[d] = true }
	if err := registry.Needs(ctx, tx, r.now.Add(-r.grace), digests, keep); err != nil {
		return nil, err
	}
	for _, root := range r.c.o.Roots {
		if err := root(ctx, tx, digests, keep); err != nil {
			return nil, err
		}
	}
	return needed, nil
}

type marked struct {
	digest artifact.Digest
	size   int64
	since  time.Time
}

func (r *run) marks(ctx context.Context, where string, args ...any) (out []marked, err error) {
	err = r.c.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT digest, size, since FROM blob_sweep WHERE `+where, args...)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var m marked
			var since int64
			if err := rows.Scan(&m.digest, &m.size, &since); err != nil {
				return err
			}
			m.since = store.Time(since)
			out = append(out, m)
		}
		return rows.Err()
	})
	return out, err
}

// eachOld calls fn with the stored blobs that are older than the grace, some at
// a time.
func (r *run) eachOld(ctx context.Context, fn func(list []blob.Info) error) error {
	list, limit := make([]blob.Info, 0, batch), r.now.Add(-r.grace)
	err := r.c.o.Blobs.Walk(ctx, func(i blob.Info) error {
		r.Report.Seen++
		if i.ModTime.After(limit) {
			return nil
		}
		if list = append(list, i); len(list) < batch {
			return nil
		}
		err := fn(list)
		list = list[:0]
		return err
	})
	if err != nil || len(list) == 0 {
		return err
	}
	return fn(list)
}

func digestsOf(list []blob.Info) []artifact.Digest {
	out := make([]artifact.Digest, len(list))
	for i := range list {
		out[i] = list[i].Digest
	}
	return out
}

// mark marks every stored blob that no row needs.
func (r *run) mark(ctx context.Context) error {
	return r.eachOld(ctx, func(list []blob.Info) error {
		var fresh []blob.Info
		err := r.c.o.DB.View(ctx, func(tx *store.Tx) error {
			fresh = fresh[:0]
			needed, err := r.needs(ctx, tx, digestsOf(list))
			if err != nil {
				return err
			}
			for _, i := range list {
				if needed[i.Digest] {
					continue
				}
				var one int64
				err := tx.QueryRow(ctx, `SELECT 1 FROM blob_sweep WHERE digest = ?`, string(i.Digest)).Scan(&one)
				if errors.Is(err, fault.NotFound) {
					fresh = append(fresh, i)
				} else if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(fresh) == 0 {
			return err
		}
		r.Report.Marked += int64(len(fresh))
		return r.c.o.DB.Update(ctx, func(tx *store.Tx) error {
			if err := tx.Fence(ctx, leaseName, r.epoch); err != nil {
				return err
			}
			for _, i := range fresh {
				if _, err := tx.Exec(ctx, `INSERT INTO blob_sweep (digest, size, since, deleting) VALUES (?, ?, ?, 0) ON CONFLICT (digest) DO NOTHING`,
					string(i.Digest), i.Size, r.now); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// sweep deletes what has been marked for the grace, and forgets the marks of
// what is needed again.
func (r *run) sweep(ctx context.Context) error {
	for after := (marked{}); ; {
		list, err := r.marks(ctx, `deleting = 0 AND (since, digest) > (?, ?) ORDER BY since, digest LIMIT ?`, store.Micros(after.since), string(after.digest), batch)
		if err != nil || len(list) == 0 {
			return err
		}
		after = list[len(list)-1]
		due, err := r.claim(ctx, list)
		if err != nil {
			return err
		}
		if err := r.delete(ctx, due); err != nil {
			return err
		}
	}
}

// claim says of those that may go that they are being deleted, in the
// transaction that looks once more whether anything needs them.
func (r *run) claim(ctx context.Context, list []marked) (due []marked, err error) {
	var pinned string
	var waiting, bytes int64
	err = r.c.o.DB.Update(ctx, func(tx *store.Tx) error {
		due, waiting, bytes = nil, 0, 0
		if err := tx.Fence(ctx, leaseName, r.epoch); err != nil {
			return err
		}
		digests := make([]artifact.Digest, len(list))
		for i := range list {
			digests[i] = list[i].digest
		}
		needed, err := r.needs(ctx, tx, digests)
		if err != nil {
			return err
		}
		if pinned, err = sweep.Pinned(ctx, tx); err != nil {
			return err
		}
		var gone []artifact.Digest
		for _, m := range list {
			switch {
			case needed[m.digest]:
				if _, err := tx.Exec(ctx, `DELETE FROM blob_sweep WHERE digest = ?`, string(m.digest)); err != nil {
					return err
				}
			case pinned != "" || m.since.After(r.now.Add(-r.grace)):
				waiting++
				bytes += m.size
			default:
				due, gone = append(due, m), append(gone, m.digest)
				if _, err := tx.Exec(ctx, `UPDATE blob_sweep SET deleting = ? WHERE digest = ?`, r.epoch, string(m.digest)); err != nil {
					return err
				}
			}
		}
		return registry.Forget(ctx, tx, gone)
	})
	if err != nil {
		return nil, err
	}
	if r.Report.Waiting += waiting; pinned != "" {
		r.Report.Pinned = pinned
	}
	r.Report.WaitBytes += bytes
	return due, nil
}

type collectedBody struct {
	Blobs   int64             `json:"blobs"`
	Bytes   int64             `json:"bytes"`
	Digests []artifact.Digest `json:"digests"`
}

// delete takes the bytes of claimed blobs away, and their marks.
func (r *run) delete(ctx context.Context, list []marked) error {
	var gone []marked
	var locked []marked
	var failed error
	for _, m := range list {
		if failed = r.pace(ctx); failed != nil {
			break
		}
		err := r.c.o.Blobs.Delete(ctx, m.digest)
		switch {
		case err == nil, errors.Is(err, fault.NotFound):
			gone = append(gone, m)
		case errors.Is(err, fault.Denied):
			locked = append(locked, m)
		default:
			failed = err // the marks stay, and the next collection goes on
		}
		if failed != nil {
			break
		}
	}
	if len(gone)+len(locked) == 0 {
		return failed
	}
	body := collectedBody{Blobs: int64(len(gone))}
	for _, m := range gone {
		body.Bytes += m.size
		body.Digests = append(body.Digests, m.digest)
		if len(r.Report.Blobs) < listed {
			r.Report.Blobs = append(r.Report.Blobs, Blob{m.digest, m.size})
		}
	}
	err := r.c.o.DB.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		if err := tx.Fence(ctx, leaseName, r.epoch); err != nil {
			return err
		}
		for _, m := range gone {
			if _, err := tx.Exec(ctx, `DELETE FROM blob_sweep WHERE digest = ?`, string(m.digest)); err != nil {
				return err
			}
		}
		for _, m := range locked { // asked again after another grace
			if _, err := tx.Exec(ctx, `UPDATE blob_sweep SET deleting = 0, since = ? WHERE digest = ?`, tx.Now(), string(m.digest)); err != nil {
				return err
			}
		}
		if len(gone) == 0 {
			return nil
		}
		for _, forget := range r.c.o.Forget {
			if err := forget(ctx, tx, body.Digests); err != nil {
				return err
			}
		}
		return event.Append(ctx, tx, event.Event{Kind: event.BlobsCollected, Actor: r.c.actor.Actor(), Body: body})
	})
	if err == nil {
		r.Report.Deleted += body.Blobs
		r.Report.Freed += body.Bytes
		r.Report.Locked += int64(len(locked))
	}
	return errors.Join(failed, err)
}

// pace waits so that no more than Rate blobs a second are deleted.
func (r *run) pace(ctx context.Context) error {
	now := time.Now()
	if r.tokens.Before(now.Add(-100 * time.Millisecond)) {
		r.tokens = now.Add(-100 * time.Millisecond)
	}
	r.tokens = r.tokens.Add(time.Second / time.Duration(r.c.o.Rate))
	wait := r.tokens.Sub(now)
	if wait <= 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// look is the dry run: what a collection would find now.
func (r *run) look(ctx context.Context) error {
	err := r.c.o.DB.View(ctx, func(tx *store.Tx) (err error) {
		if r.Report.Pinned, err = sweep.Pinned(ctx, tx); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT COUNT(*) FROM registry_upload WHERE uploaded_at <= ?`, r.now.Add(-max(r.grace, r.c.o.Registry.UploadYoung()))).Scan(&r.Report.Uploads)
	})
	if err != nil {
		return err
	}
	return r.eachOld(ctx, func(list []blob.Info) error {
		return r.c.o.DB.View(ctx, func(tx *store.Tx) error {
			needed, err := r.needs(ctx, tx, digestsOf(list))
			if err != nil {
				return err
			}
			for _, i := range list {
				if needed[i.Digest] {
					continue
				}
				since := r.now
				var at int64
				switch err := tx.QueryRow(ctx, `SELECT since FROM blob_sweep WHERE digest = ?`, string(i.Digest)).Scan(&at); {
				case err == nil:
					since = store.Time(at)
				case errors.Is(err, fault.NotFound):
					r.Report.Marked++
				default:
					return err
				}
				if since.After(r.now.Add(-r.grace)) {
					r.Report.Waiting++
					r.Report.WaitBytes += i.Size
					continue
				}
				r.Report.Deleted++
				r.Report.Freed += i.Size
				if len(r.Report.Blobs) < listed {
					r.Report.Blobs = append(r.Report.Blobs, Blob{i.Digest, i.Size})
				}
			}
			return nil
		})
	})
}
