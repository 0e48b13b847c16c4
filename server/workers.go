package server

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"assay/builder/runner/baseline"
	"assay/config"
	"assay/event"
	"assay/internal/fault"
	"assay/sbom"
	"assay/store"
	"assay/tlog/rekor"
	"assay/vuln/canary"
	"assay/vuln/finding"
	"assay/vuln/malware"
)

var errNotReady = errors.New("the server is starting or stopping")

func pingTx(tx *store.Tx) error {
	var one int64
	return tx.QueryRow(context.Background(), `SELECT 1`).Scan(&one)
}

// publishEvery is how often due heads are looked for: logged means within 5 s.
const publishEvery = 2 * time.Second

// startWorkers runs what goes on besides requests. All end with ctx.
func (s *Server) startWorkers(ctx context.Context) *sync.WaitGroup {
	var wg sync.WaitGroup
	sealer := event.NewSealer(s.db, event.SealerOptions{Logger: s.log, Registerer: s.reg, Journal: s.journal})
	work := map[string]func(context.Context) error{
		"sealer":      sealer.Run,
		"keys":        s.own.keeper.Run,
		"documents":   s.followDocuments,
		"credentials": s.credentials.Run,
		"trust":       s.every(trustPoll, s.followTrust),
	}
	if s.has(config.RoleLog) {
		work["heads"] = s.every(publishEvery, s.publishHeads)
		work["witnesses"] = s.every(witnessEvery, s.tellWitnessing)
		if s.split() {
			work["lease"] = s.every(leaderTTL/3, s.holdLog)
		}
	}
	if s.has(config.RoleRegistry) {
		work["gate"] = s.gate.Run
		work["gateway"] = func(ctx context.Context) error { return s.gateway.Run(ctx, s.registry.Intake()) }
		work["scrub"] = s.integrity.Run
		work["collector"] = s.collector.Run
		work["retention"] = s.retention.Work
		work["registry"] = s.registry.Run // evidence not handed on yet, uploads that were left
	}
	if s.has(config.RoleAPI) {
		work["TUF"] = s.tuf.Run
		work["root"] = s.atOnceAndEvery(time.Hour, s.watchRoot)
		work["revoked"] = s.every(revocationsPoll, s.renewRevocations)
		work["redecide"] = s.redecide
		work["tickets"] = s.tickets.Run
		work["risk"] = s.risk.Run
		work["actions"] = s.every(actionsPoll, s.actions.Remind)
		work["exceptions"] = s.every(exceptionsPoll, s.exceptions.Expire)
		work["inventory"] = s.atOnceAndEvery(inventoryPoll, s.reassign)
		work["stir"] = s.stir
		s.aheadWork(work)
		work["backfill"] = s.backfill
		work["contracts"] = s.ledger.Run
		work["siem"] = s.siem.Run
		work["build logs"] = s.buildLogs.Work
		work["webhooks"] = s.webhooks.Run
		work["forges"] = s.forges.Run
		s.watchWork(work)
		s.clusterWork(work)
		work["runners"] = (&baseline.Follower{Store: s.runners, Events: s.events, Logger: s.log}).Run
		work["findings"] = (&finding.Follower{Matcher: s.vulnerabilities.Findings, Events: s.events, Logger: s.log, Lanes: s.tiers}).Run
		work["bundles"] = s.followBundles
		work["feeds"] = s.vulnerabilities.Upstreams.Run
		work["canaries"] = (&canary.Follower{Canaries: s.vulnerabilities.Canaries, Events: s.events, Logger: s.log}).Run
		work["malware"] = (&malware.Follower{DB: s.db, Events: s.events, Quarantine: s.quarantine, HasSay: hasSay, Logger: s.log}).Run
		work["sboms"] = (&sbom.Follower{Store: s.sboms, Events: s.events, Evidence: s.evidence, Logger: s.log, Lanes: s.tiers, Readers: s.cfg.Vuln.Tiers.Readers}).Run
		work["tiers"] = s.followTiers
	}
	for name, run := range work {
		wg.Go(func() { s.keepRunning(ctx, name, run) })
	}
	return &wg
}

// keepRunning runs a worker until ctx ends. One that breaks is told of and
// begun again: it must not take the doors with it.
func (s *Server) keepRunning(ctx context.Context, name string, run func(context.Context) error) {
	once := func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fault.Newf(fault.Internal, "panic: %v\n%s", p, debug.Stack())
			}
		}()
		return run(ctx)
	}
	for ctx.Err() == nil {
		if err := once(); err != nil && ctx.Err() == nil {
			s.log.Error("a worker broke and is begun again", "worker", name, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// every runs fn at intervals; an error is told and the next turn tries again.
func (s *Server) every(d time.Duration, fn func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		tick := time.NewTicker(d)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			if err := fn(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("background work failed, and is tried again", "error", err, "in", d.String())
			}
		}
	}
}

// atOnceAndEvery is every, with a first turn now.
func (s *Server) atOnceAndEvery(d time.Duration, fn func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := fn(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("background work failed, and is tried again", "error", err, "in", d.String())
		}
		return s.every(d, fn)(ctx)
	}
}

// publishHeads writes due heads of the event log into the transparency log:
// each as a signature of the audit key over the head's text. It may do one
// twice after a crash; the log then has one entry, since signatures are kept.
func (s *Server) publishHeads(ctx context.Context) error {
	if s.data.held != "" {
		return nil // the log takes none; the marker says why, and the start has told
	}
	defer s.measureBacklog(ctx)
	heads, err := s.events.UnloggedHeads(ctx)
	if err != nil {
		return err
	}
	key := s.own.audit.Load()
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	for _, h := range heads {
		sum := sha256.Sum256(h.Text())
		sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil {
			return err
		}
		entry, err := s.rekor.Add(ctx, rekor.Request{Digest: sum[:], Signature: sig, PublicKey: pub})
		if err != nil {
			return err
		}
		if err := s.events.MarkLogged(ctx, h, entry.LogIndex); err != nil {
			return err
		}
		if err := s.db.Update(ctx, func(tx *store.Tx) error {
			return event.Append(ctx, tx, event.Event{Kind: event.LogHeadPublished, Actor: "system:server", Body: map[string]any{
				"batch": h.Batch, "hash": h.Hash.String(), "last_seq": h.LastSeq, "log_index": entry.LogIndex,
			}})
		}); err != nil {
			return err
		}
	}
	return nil
}

// measureBacklog keeps the gauge of how long a head has waited for the log. When
// that cannot be found out, the gauge says what it said: a site whose database
// does not answer has other alerts.
func (s *Server) measureBacklog(ctx context.Context) {
	if age, err := s.events.Backlog(ctx); err == nil {
		s.backlog.Set(age.Seconds())
	}
}

// followDocuments applies what another replica of this site applied.
func (s *Server) followDocuments(ctx context.Context) error {
	return s.every(5*time.Second, s.reloadIfChanged)(ctx)
}

const (
	started = event.ServerStarted
	stopped = event.ServerStopped
)

func (s *Server) record(ctx context.Context, kind event.Kind) error {
	return s.db.Update(ctx, func(tx *store.Tx) error {
		return event.Append(ctx, tx, event.Event{Kind: kind, Actor: "system:server", Body: map[string]string{"version": s.opts.Version}})
	})
}

// finish lets queued records reach the database before the workers end, and
// seals what is left.
func (s *Server) finish(ctx context.Context) {
	if s.registry != nil {
		if err := s.registry.Close(ctx); err != nil {
			s.log.Warn("audit records of the registry were still queued", "error", err)
		}
	}
	if s.rekor == nil {
		return
	}
	if err := s.publishHeads(ctx); err != nil && !errors.Is(err, fault.Unavailable) {
		s.log.Warn("the last heads were not published; the next start does it", "error", err)
	}
}
