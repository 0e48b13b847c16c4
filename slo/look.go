package slo

import (
	"context"
	"fmt"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/store"
)

const (
	lookEvery  = 15 * time.Second
	signedIn   = 15 * time.Minute // until a pushed artifact must be signed
	leaseFor   = 2 * time.Minute
	partsEvery = 5 // minutes between looks that count for the parts too
	slow       = time.Minute
)

// Run looks at the site until ctx ends: this process's counters every 15 s, and,
// in one process of the site, what runs every minute.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := s.Look(ctx); err != nil && ctx.Err() == nil {
			s.o.Logger.WarnContext(ctx, "the site's indicators could not be looked at", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Look looks once.
func (s *Store) Look(ctx context.Context) error {
	if err := s.lookAtProcess(ctx); err != nil {
		return fmt.Errorf("look at the process: %w", err)
	}
	held, _, err := s.o.DB.Lease(ctx, "slo", s.o.Holder, leaseFor)
	if err != nil || !held {
		return err
	}
	now := s.now()
	fresh := false
	if err := s.o.DB.Update(ctx, func(tx *store.Tx) error {
		fresh = false
		var at int64
		at, err := mark(ctx, tx, "minute", now.Unix()/minute)
		fresh = at < now.Unix()/minute
		if err != nil || !fresh {
			return err
		}
		return s.tally(ctx, tx)
	}); err != nil || !fresh {
		return err
	}
	if err := s.lookAtPushes(ctx, now); err != nil {
		return fmt.Errorf("look at pushes: %w", err)
	}
	if err := s.lookAtRunning(ctx, now); err != nil {
		return fmt.Errorf("look at what runs: %w", err)
	}
	if now.Unix()/minute%60 == 0 {
		return s.prune(ctx, now)
	}
	return nil
}

// mark sets a mark to a number, if that is higher, and gives what it was.
func mark(ctx context.Context, tx *store.Tx, name string, to int64) (was int64, err error) {
	if err := tx.QueryRow(ctx, `SELECT COALESCE(MAX(at), -1) FROM slo_mark WHERE name = ?`, name).Scan(&was); err != nil || was >= to {
		return was, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO slo_mark (name, at) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET at = excluded.at`, name, to)
	return was, err
}

// tally counts pulls that were served since the last look.
func (s *Store) tally(ctx context.Context, tx *store.Tx) error {
	at, err := mark(ctx, tx, "pulls", -1)
	if err != nil {
		return err
	}
	found, to, err := event.TallyAfter(ctx, tx, event.ArtifactPulled, at)
	if err != nil {
		return err
	}
	var samples []Sample
	for _, t := range found {
		samples = append(samples, Sample{Indicator: UnauthorizedPulls, At: t.Minute, Place: Place{Team: t.Team, Service: t.Service, Environment: t.Env, Cluster: t.Cluster}, Good: t.Count})
	}
	if err := s.Add(ctx, tx, samples, true); err != nil {
		return err
	}
	_, err = mark(ctx, tx, "pulls", to)
	return err
}

// lookAtProcess counts what this process answered, and failed to, since the last
// look.
func (s *Store) lookAtProcess(ctx context.Context) error {
	if s.o.Health == nil {
		return nil
	}
	h, err := s.o.Health(ctx)
	if err != nil {
		return err
	}
	last := s.last
	now := s.now()
	decided, quick, open := h.Decisions-last.Decisions, h.Quick-last.Quick, h.Undecided-last.Undecided
	var samples []Sample
	if decided > 0 {
		samples = append(samples, Sample{Indicator: DecisionLatency, At: now, Good: min(quick, decided), Bad: max(0, decided-quick)})
	}
	if open > 0 {
		samples = append(samples, Sample{Indicator: FailedVerifications, At: now, Bad: open, Extra: map[string]string{"cause": CauseInfrastructure}})
	}
	if scans := h.Scans - last.Scans; scans > 0 {
		// Sums are kept in thousandths: a scan that took less did not cost nothing.
		samples = append(samples, Sample{Indicator: ScanCost, At: now, Good: scans, Sum: max(h.ScanCPU-last.ScanCPU, time.Millisecond).Seconds()})
	}
	if len(samples) > 0 {
		if err := s.o.DB.Update(ctx, func(tx *store.Tx) error { return s.Add(ctx, tx, samples, true) }); err != nil {
			return err
		}
	}
	s.last = h
	return nil
}

// lookAtPushes judges the pushes whose signature has had its time.
func (s *Store) lookAtPushes(ctx context.Context, now time.Time) error {
	if s.o.Signed == nil {
		return nil
	}
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, `SELECT digest, repository, pushed, event FROM slo_waiting WHERE pushed <= ? ORDER BY pushed LIMIT 2000`, store.Micros(now.Add(-signedIn)))
		if err != nil {
			return err
		}
		type push struct {
			digest           artifact.Digest
			repository, from string
			at               time.Time
		}
		var all []push
		for rows.Next() {
			var p push
			var at int64
			if err := rows.Scan(&p.digest, &p.repository, &at, &p.from); err != nil {
				rows.Close()
				return err
			}
			p.at = store.Time(at)
			all = append(all, p)
		}
		rows.Close()
		if err := rows.Err(); err != nil {
			return err
		}
		var samples []Sample
		for _, p := range all {
			v, err := s.o.Signed(ctx, tx, p.digest, p.repository)
			if err != nil {
				return err
			}
			e := &event.Event{ID: p.from, Kind: event.ArtifactPushed, Digest: p.digest, Time: p.at, Body: map[string]string{"repository": p.repository}}
			place, err := s.locate(ctx, tx, e)
			if err != nil {
				return err
			}
			x := Sample{Indicator: SignedPushes, At: p.at, Place: place}
			v.count(&x)
			samples = append(samples, x)
			if v != Yes {
				why := "not signed by an approved identity in " + signedIn.String()
				if v == Unknown {
					why = "signed, and nothing was decided about it: no policy says who signs there"
				}
				if err := s.note(ctx, tx, e, place, SignedPushes, v == Unknown, why); err != nil {
					return err
				}
			}
			if _, err := tx.Exec(ctx, `DELETE FROM slo_waiting WHERE digest = ? AND repository = ?`, string(p.digest), p.repository); err != nil {
				return err
			}
		}
		return s.Add(ctx, tx, samples, true)
	})
}

func (v Verdict) count(x *Sample) {
	switch v {
	case Yes:
		x.Good++
	case No:
		x.Bad++
	default:
		x.Unknown++
	}
}

// and is what both are: No goes before Unknown.
func (v Verdict) and(others ...Verdict) Verdict {
	for _, o := range others {
		if v == No || o == No {
			v = No
		} else if o == Unknown {
			v = Unknown
		}
	}
	return v
}

// lookAtRunning counts what runs, and how the log and the feeds are.
func (s *Store) lookAtRunning(ctx context.Context, now time.Time) error {
	var samples []Sample
	var items []Item
	if s.o.Running != nil {
		var all []Running
		if err := s.o.DB.View(ctx, func(tx *store.Tx) (err error) {
			all, err = s.o.Running(ctx, tx)
			return err
		}); err != nil {
			return err
		}
		for i := range all {
			more, why := all[i].samples(now)
			samples, items = append(samples, more...), append(items, why...)
		}
	}
	if s.o.Health != nil {
		samples = append(samples, s.healthSamples(now)...)
	}
	parts := now.Unix()/minute%partsEvery == 0
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		if err := s.Add(ctx, tx, samples, parts); err != nil {
			return err
		}
		return s.replaceItems(ctx, tx, items, now)
	})
}

func (s *Store) healthSamples(now time.Time) (out []Sample) {
	h := s.last
	x := Sample{Indicator: LogHealth, At: now}
	if h.Backlog > slow || h.CommitsLost > s.lost {
		x.Bad = 1
	} else {
		x.Good = 1
	}
	s.lost = h.CommitsLost
	out = append(out, x)
	for _, f := range h.Feeds {
		x := Sample{Indicator: FeedFreshness, At: now, Extra: map[string]string{"feed": f.Name}}
		if f.Fresh {
			x.Good = 1
		} else {
			x.Bad = 1
		}
		out = append(out, x)
	}
	return out
}

// samples are what one running digest counts for, and why not as good.
func (r *Running) samples(now time.Time) (out []Sample, items []Item) {
	if r.Digest == "" || r.Silent {
		// What nobody can tell is unknown, whatever was known of it.
		r.Provenance, r.SBOM, r.Signature, r.VEX, r.Tests, r.Approved, r.Scanned = Unknown, Unknown, Unknown, Unknown, Unknown, Unknown, Unknown
	}
	item := func(id ID, v Verdict, why string) {
		if v != Yes {
			items = append(items, Item{Indicator: id, Digest: r.Digest, Place: r.Place, Reason: why, Unknown: v == Unknown})
		}
	}
	add := func(id ID, v Verdict, why string) {
		x := Sample{Indicator: id, At: now, Place: r.Place}
		v.count(&x)
		out = append(out, x)
		item(id, v, why)
	}
	add(AttestationCoverage, r.Provenance.and(r.SBOM, r.Signature), missing(r))
	for name, v := range map[string]Verdict{"provenance": r.Provenance, "sbom": r.SBOM, "signature": r.Signature, "vex": r.VEX, "tests": r.Tests} {
		x := Sample{Indicator: AttestationCoverage, At: now, Only: true, Extra: map[string]string{"type": name}}
		v.count(&x)
		out = append(out, x)
	}
	add(SignedRunning, r.Approved, "no allowed decision over verified evidence")
	add(SBOMAvailability, r.SBOM, "no signed bill of materials that could be read")
	add(ScanCoverage, r.Scanned, "not matched against the feeds")
	q := Sample{Indicator: SBOMQuality, At: now, Place: r.Place}
	if r.SBOM == Yes {
		q.Good, q.Sum = 1, float64(r.Quality)
	} else {
		q.Unknown = 1
	}
	v := Sample{Indicator: VulnerableDependencies, At: now, Place: r.Place, Sum: float64(r.Direct + r.Transitive)}
	switch {
	case r.Scanned != Yes:
		v.Unknown, v.Sum = 1, 0
	case r.Direct+r.Transitive > 0:
		v.Bad = 1
		why := fmt.Sprintf("%d direct and %d transitive components are affected", r.Direct, r.Transitive)
		if !r.Exposed.IsZero() {
			why += fmt.Sprintf(", exposed for %.1f days", now.Sub(r.Exposed).Hours()/24)
		}
		item(VulnerableDependencies, No, why)
	default:
		v.Good = 1
	}
	out = append(out, q, v)
	for depth, n := range map[string]int{DepthDirect: r.Direct, DepthTransitive: r.Transitive} {
		out = append(out, Sample{Indicator: VulnerableDependencies, At: now, Only: true, Good: 1, Sum: float64(n), Extra: map[string]string{"depth": depth}})
	}
	return out, items
}

func missing(r *Running) string {
	why := "without verified"
	for _, x := range []struct {
		name string
		v    Verdict
	}{{"provenance", r.Provenance}, {"SBOM", r.SBOM}, {"signature", r.Signature}} {
		if x.v != Yes {
			why += " " + x.name
		}
	}
	return why
}

// replaceItems keeps the artifacts behind the states' numbers: those of now, since
// when they were first seen so.
func (s *Store) replaceItems(ctx context.Context, tx *store.Tx, items []Item, now time.Time) error {
	kept := map[ID]int{}
	for _, x := range items {
		if kept[x.Indicator]++; kept[x.Indicator] > MaxItems {
			continue
		}
		x.Since, x.Seen = now, now
		if err := s.noteItem(ctx, tx, x, x.Place.Service+"/"+x.Place.Environment+"/"+x.Place.Cluster); err != nil {
			return err
		}
	}
	for i := range definitions {
		if d := &definitions[i]; d.State {
			if _, err := tx.Exec(ctx, `DELETE FROM slo_item WHERE sli = ? AND seen < ?`, string(d.ID), store.Micros(now)); err != nil {
				return err
			}
		}
	}
	return nil
}

// prune takes away what is older than is kept.
func (s *Store) prune(ctx context.Context, now time.Time) error {
	r := &s.o.Retention
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		for _, x := range []struct {
			q    string
			args []any
		}{
			{`DELETE FROM slo_rollup WHERE step = 60 AND start < ?`, []any{now.Add(-r.Minutes).Unix()}},
			{`DELETE FROM slo_rollup WHERE step = 60 AND start < ? AND series IN (SELECT id FROM slo_series WHERE dimension <> '')`, []any{now.Add(-r.MinutesParts).Unix()}},
			{`DELETE FROM slo_rollup WHERE step = 3600 AND start < ?`, []any{now.Add(-r.Hours).Unix()}},
			{`DELETE FROM slo_series WHERE NOT EXISTS (SELECT 1 FROM slo_rollup WHERE series = slo_series.id)`, nil},
			{`DELETE FROM slo_origin WHERE since < ?`, []any{store.Micros(now.Add(-r.Minutes))}},
			{`DELETE FROM slo_item WHERE seen < ?`, []any{store.Micros(now.Add(-r.Minutes))}},
		} {
			if _, err := tx.Exec(ctx, x.q, x.args...); err != nil {
				return err
			}
		}
		for i := range definitions {
			id := string(definitions[i].ID)
			if _, err := tx.Exec(ctx, `DELETE FROM slo_item WHERE sli = ? AND seen < (SELECT COALESCE(MIN(seen), 0) FROM (SELECT seen FROM slo_item WHERE sli = ? ORDER BY seen DESC LIMIT ?) x)`, id, id, MaxItems); err != nil {
				return err
			}
		}
		return nil
	})
}

// Verified says how many verifications came to an answer in a time up to now, and
// how many failed because nothing could answer.
func (s *Store) Verified(ctx context.Context, window time.Duration) (answered, failed int64, err error) {
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		now := s.now()
		all, err := s.window(ctx, tx, seriesKey{FailedVerifications, "", ""}, now, window)
		if err != nil {
			return err
		}
		infra, err := s.window(ctx, tx, seriesKey{FailedVerifications, "cause", CauseInfrastructure}, now, window)
		failed, answered = infra.bad, all.good+all.bad-infra.bad
		return err
	})
	return answered, failed, err
}
