package server

import (
	"context"
	"crypto/rand"
	"log/slog"
	"slices"
	"time"

	"assay/artifact"
	"assay/blob/sweep"
	"assay/builder/buildlog"
	"assay/config"
	"assay/evidence"
	"assay/registry/collect"
	"assay/registry/gate"
	"assay/registry/retention"
	"assay/store"
	"assay/transfer"
)

// openCollector makes what takes blobs away. Every domain that keeps content in
// the blob store has its root here, beside registry's own: what is not named
// here is deleted (TestCollectorKnowsAllRoots).
func (s *Server) openCollector() (err error) {
	c := s.cfg.Registry.GC
	if c.Off {
		c.Every = -1
	}
	s.collector, err = collect.New(collect.Options{
		DB: s.db, Blobs: s.blobs, Registry: s.registry, Every: c.Every, Grace: c.Grace, Rate: c.Rate,
		Roots:  []collect.Root{evidence.Needs, transfer.Needs, s.legal.Needs, buildlog.Needs},
		Forget: []func(context.Context, *store.Tx, []artifact.Digest) error{s.integrity.Forget, s.legal.Forget},
		Clock:  s.clock, Logger: s.log, Registerer: s.reg,
	})
	if err != nil {
		return err
	}
	s.retention, err = retention.New(retention.Options{
		DB: s.db, Registry: s.registry, Holds: s.legal, Events: s.events, Blocked: gate.Blocked,
		Rules: func() ([]config.RetentionRule, *config.Repositories) {
			d := s.desired.Load()
			if d == nil { // not loaded yet: no rules
				return nil, nil
			}
			return d.Retention, d.Repositories
		},
		Clock: s.clock, Logger: s.log,
	})
	return err
}

// openHolds makes what nobody may delete. A bucket locks the objects, too.
func (s *Server) openHolds() {
	locker, _ := s.blobs.(retention.Locker)
	s.legal = retention.NewHolds(s.db, locker, s.log)
}

// pinFor is how long a pin holds by itself, when its holder was killed.
const pinFor = 10 * time.Minute

// pinBlobs keeps every blob until it is released: whoever reads many of them, or
// relies on some before rows name them, calls it first. A database without the
// table has no collector.
func pinBlobs(ctx context.Context, db *store.DB, why string, log *slog.Logger) (release func(), err error) {
	var tables []store.Table
	if err := db.View(ctx, func(tx *store.Tx) (err error) { tables, err = tx.Tables(ctx); return err }); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(tables, func(t store.Table) bool { return t.Name == "blob_pin" }) {
		return func() {}, nil
	}
	holder := rand.Text()
	pin := func(ctx context.Context) error {
		return db.Update(ctx, func(tx *store.Tx) error { return sweep.Pin(ctx, tx, holder, why, tx.Now().Add(pinFor)) })
	}
	if err := pin(ctx); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(pinFor / 5)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := pin(ctx); err != nil && ctx.Err() == nil {
				log.Warn("blobs could not be pinned again; it is tried once more", "why", why, "error", err)
			}
		}
	}()
	return func() {
		stop()
		<-done
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := db.Update(end, func(tx *store.Tx) error { return sweep.Unpin(end, tx, holder) }); err != nil {
			log.Warn("blobs stay pinned for some minutes", "why", why, "error", err)
		}
	}, nil
}
