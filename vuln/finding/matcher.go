package finding

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/sbom"
	"assay/store"
	"assay/store/lane"
	"assay/telemetry"
	"assay/vuln"
	"assay/vuln/exploit"
	"assay/vuln/feed"
)

// Matcher keeps findings up to date. One process at a time matches; any may read.
type Matcher struct {
	db       *store.DB
	feeds    *feed.Store
	exploits *exploit.Store
	index    *vuln.Index
	met      *metrics

	mu     sync.Mutex // one change at a time
	loaded bool
}

// New makes a matcher over a database that was migrated with [Migrations], and
// those of sbom, feed and event.
func New(db *store.DB, feeds *feed.Store, exploits *exploit.Store) *Matcher {
	return &Matcher{db: db, feeds: feeds, exploits: exploits, index: vuln.NewIndex(), met: newMetrics()}
}

// Index is what the matcher answers from.
func (m *Matcher) Index() *vuln.Index { return m.index }

// Load fills the index from the database. It is called once, before anything is
// matched.
func (m *Matcher) Load(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.load(ctx)
}

func (m *Matcher) load(ctx context.Context) error {
	if m.loaded {
		return nil
	}
	m.index = vuln.NewIndex()
	err := m.db.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, `SELECT component, ecosystem, package, version, platform FROM finding_component WHERE state = ?`, lookedUp)
		if err != nil {
			return err
		}
		defer rows.Close()
		batch := make([]vuln.Component, 0, 4096)
		for rows.Next() {
			var c vuln.Component
			if err := rows.Scan(&c.ID, &c.Ecosystem, &c.Name, &c.Version, &c.Platform); err != nil {
				return err
			}
			if batch = append(batch, c); len(batch) == cap(batch) {
				m.index.Add(batch...)
				batch = batch[:0]
			}
		}
		m.index.Add(batch...)
		if err := rows.Err(); err != nil {
			return err
		}
		rows.Close()
		// In the order of an index that covers both columns, a row for each
		// component: a million rows take a second, their numbers in a text far less.
		rows, err = tx.Query(ctx, `SELECT component, string_agg(CAST(document AS TEXT), ',') FROM sbom_occurrence WHERE component > 0 GROUP BY component`)
		if err != nil {
			return err
		}
		defer rows.Close()
		var text sql.RawBytes
		var docs []int64
		for rows.Next() {
			var component int64
			if err := rows.Scan(&component, &text); err != nil {
				return err
			}
			if docs, err = numbers(docs[:0], text); err != nil {
				return err
			}
			m.index.Load(component, docs)
		}
		return rows.Err()
	})
	m.loaded = err == nil
	return err
}

// Forget drops the index: another process may have matched meanwhile.
func (m *Matcher) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loaded = false
}

// newComponent is one that was never looked up.
type newComponent struct {
	id                        int64
	key, version              string
	sourceName, sourceVersion string
	candidates                []vuln.Candidate
	state                     int64
}

// maxMatches is how often advisories may be about what one document brings: some
// hundred times what the largest images have. A document of a few megabytes could name
// every version of a package with thousands of flaws; it is refused, and so nobody's
// bill of materials.
var maxMatches = 200_000

// Scan looks up what a document holds that was never looked up before, and puts
// the document into the index. A document that was scanned already is left as it
// is.
func (m *Matcher) Scan(ctx context.Context, document int64) error {
	return m.scan(ctx, document, &work{tier: 1})
}

func (m *Matcher) scan(ctx context.Context, document int64, w *work) (err error) {
	ctx, span := telemetry.Start(ctx, "scan.document")
	defer func() { span.End(err) }()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.load(ctx); err != nil {
		return err
	}
	took := costOfScan{work: w, measure: lane.Measure()}
	defer took.stop()
	subject, all, fresh, err := m.document(ctx, document)
	if err != nil || subject == "" {
		return err
	}
	span.Text(telemetry.ManifestDigest, subject)
	span.Int(telemetry.Items, int64(len(fresh)))
	took.fresh = len(fresh)
	found := 0
	for len(fresh) > 0 {
		n := min(len(fresh), 500)
		matches := map[int64][]match{}
		for i := range fresh[:n] {
			c := &fresh[i]
			if matches[c.id], err = m.lookUp(ctx, c, &took.advisories); err != nil {
				return err
			}
			if found += len(matches[c.id]); found > maxMatches {
				return sbom.NewStore(m.db, sbom.Limits{}).Refuse(ctx, document, fault.Newf(fault.TooLarge, "advisories are about its components more than %d times: no artifact holds that", maxMatches))
			}
		}
		if err := m.enter(ctx, fresh[:n], matches); err != nil {
			return err
		}
		for _, c := range fresh[:n] {
			for _, cand := range c.candidates {
				m.index.Add(vuln.Component{ID: c.id, Candidate: cand})
			}
		}
		fresh = fresh[n:]
	}
	done, err := m.scanned(ctx, document, subject, len(all), &took)
	if err == nil && done {
		m.index.Occur(document, all...)
	}
	return err
}

// document reads what is to be scanned; an empty subject says nothing is.
func (m *Matcher) document(ctx context.Context, document int64) (subject string, all []int64, fresh []newComponent, err error) {
	err = m.db.View(ctx, func(tx *store.Tx) error {
		subject, all, fresh = "", nil, nil
		var scanned int64
		err := tx.QueryRow(ctx, `SELECT d.subject, COALESCE((SELECT s.document FROM finding_scan s WHERE s.document = d.id), 0) FROM sbom_document d WHERE d.id = ? AND d.state = 1`, document).Scan(&subject, &scanned)
		if errors.Is(err, fault.NotFound) {
			subject = ""
			return nil
		}
		if err != nil {
			return err
		}
		if scanned != 0 {
			subject = ""
			return nil
		}
		rows, err := tx.Query(ctx, `SELECT c.id, c.key, c.version, c.source_name, c.source_version, COALESCE((SELECT 1 FROM finding_component f WHERE f.component = c.id LIMIT 1), 0)
			FROM sbom_occurrence o JOIN sbom_component c ON c.id = o.component WHERE o.document = ?`, document)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var c newComponent
			var known int64
			if err := rows.Scan(&c.id, &c.key, &c.version, &c.sourceName, &c.sourceVersion, &known); err != nil {
				return err
			}
			all = append(all, c.id)
			if known == 0 {
				fresh = append(fresh, c)
			}
		}
		return rows.Err()
	})
	return subject, all, fresh, err
}

// match is what an advisory says about a component.
type match struct {
	advisory, feed string
	vuln.Verdict
}

// lookUp finds how a component is named in advisories, and what those in force
// say about it.
func (m *Matcher) lookUp(ctx context.Context, c *newComponent, looked *int) ([]match, error) {
	p, err := artifact.ParsePURL(c.key)
	if err != nil { // "name:…": a component without a package URL
		c.state = kindUnknown
		return nil, nil //nolint:nilerr // that is an answer: its kind is unknown
	}
	missing := false
	if c.candidates, missing = vuln.Lookups(p, c.version, c.sourceName, c.sourceVersion); len(c.candidates) == 0 {
		c.state = kindUnknown
		if missing {
			c.state = releaseAbsent
		}
		return nil, nil
	}
	var out merged
	for _, cand := range c.candidates {
		records, err := m.feeds.ByPackage(ctx, cand.Package)
		if err != nil {
			return nil, err
		}
		*looked += len(records)
		for _, r := range records {
			out.add(judge(r, cand)...)
		}
	}
	return out.list, nil
}

// judge says what one record says about a candidate.
func judge(r feed.Record, c vuln.Candidate) (out []match) {
	if r.IsWithdrawn() {
		return nil
	}
	for i := range r.Affected {
		if f := &r.Affected[i]; f.Key() == c.Package && f.For(c.Platform) {
			if v := f.Affects(c.Version); v.Status != vuln.NotAffected {
				out = append(out, match{r.ID, feedKey(r.Name, r.Ecosystem), v})
			}
		}
	}
	return out
}

// merged are matches, one of each advisory: affected goes before unknown.
type merged struct {
	list []match
	at   map[[2]string]int
}

func (m *merged) add(more ...match) {
	for _, n := range more {
		key := [2]string{n.advisory, n.feed}
		i, is := m.at[key]
		switch {
		case !is:
			if m.at == nil {
				m.at = map[[2]string]int{}
			}
			m.at[key] = len(m.list)
			m.list = append(m.list, n)
		case m.list[i].Status == vuln.Unknown && n.Status == vuln.IsAffected:
			m.list[i] = n
		}
	}
}

func feedKey(name, ecosystem string) string { return name + "/" + ecosystem }

// enter writes components and their matches.
func (m *Matcher) enter(ctx context.Context, fresh []newComponent, matches map[int64][]match) error {
	return m.db.Update(ctx, func(tx *store.Tx) error {
		now := store.Micros(tx.Now())
		for _, c := range fresh {
			if len(c.candidates) == 0 {
				if _, err := tx.Exec(ctx, `INSERT INTO finding_component (component, ecosystem, package, version, state) VALUES (?, '', '', '', ?) ON CONFLICT (component, ecosystem, package) DO NOTHING`, c.id, c.state); err != nil {
					return err
				}
			}
			for _, cand := range c.candidates {
				if _, err := tx.Exec(ctx, `INSERT INTO finding_component (component, ecosystem, package, version, state, platform) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (component, ecosystem, package) DO NOTHING`,
					c.id, cand.Ecosystem, cand.Name, cand.Version, lookedUp, cand.Platform); err != nil {
					return err
				}
			}
			for _, f := range matches[c.id] {
				if err := openMatch(ctx, tx, c.id, f, now, 0); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func openMatch(ctx context.Context, tx *store.Tx, component int64, f match, now, operation int64) error {
	_, err := tx.Exec(ctx, `INSERT INTO finding_match (component, advisory, feed, opened, closed, status, fixed, reason, operation, ended) VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, 0) ON CONFLICT (component, advisory, feed, opened) DO NOTHING`,
		component, f.advisory, f.feed, now, int64(f.Status), f.Fixed, f.Reason, operation)
	return err
}

// scanned notes that a document is looked up, with what was found about its
// subject; a receipt also when that is nothing.
func (m *Matcher) scanned(ctx context.Context, document int64, subject string, components int, took *costOfScan) (done bool, err error) {
	took.stop()
	err = m.db.Update(ctx, func(tx *store.Tx) error {
		done = false
		waited := took.waited(tx.Now())
		n, err := tx.Exec(ctx, `INSERT INTO finding_scan (document, subject, scanned, components, tier, fresh, advisories, cpu, wall, waited) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (document) DO NOTHING`,
			document, subject, store.Micros(tx.Now()), components, took.tier, took.fresh, took.advisories, took.CPU.Microseconds(), took.Wall.Microseconds(), waited.Microseconds())
		if err != nil || n == 0 {
			return err
		}
		done = true
		var affected, unknown, unmatched int64
		if err := tx.QueryRow(ctx, `SELECT COALESCE(SUM(CASE WHEN f.status = 1 THEN 1 ELSE 0 END), 0), COALESCE(SUM(CASE WHEN f.status = 2 THEN 1 ELSE 0 END), 0)
			FROM sbom_occurrence o JOIN finding_match f ON f.component = o.component AND f.closed = 0 WHERE o.document = ?`, document).Scan(&affected, &unknown); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM sbom_occurrence o JOIN finding_component f ON f.component = o.component AND f.state <> ? WHERE o.document = ?`, lookedUp, document).Scan(&unmatched); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.SBOMScanned, Digest: artifact.Digest(subject), Actor: actor, Body: map[string]any{
			"document": document, "components": components, "affected": affected, "unknown": unknown, "unmatched": unmatched,
			"tier": took.tier, "new": took.fresh, "advisories": took.advisories, "cpu_us": took.CPU.Microseconds(), "wall_us": took.Wall.Microseconds(), "waited_us": waited.Microseconds(),
		}})
	})
	if err == nil && done {
		m.met.scanned(took)
	}
	return done, err
}

// Apply matches what an operation of a feed changed against everything stored:
// findings open and close, and a receipt says how many, also when none did.
func (m *Matcher) Apply(ctx context.Context, op feed.Operation) (err error) {
	ctx, span := telemetry.Start(ctx, "scan.feed_operation")
	span.Text(telemetry.Feed, op.Name)
	defer func() { span.End(err) }()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.load(ctx); err != nil {
		return err
	}
	key := feedKey(op.Name, op.Ecosystem)
	standing, err := m.standing(ctx, key)
	if err != nil {
		return err
	}
	a := applying{m: m, op: op, feed: key, measure: lane.Measure()}
	defer a.stop()
	err = m.feeds.Changed(ctx, op.ID, func(c feed.Change) error {
		a.advisories++
		if op.State == feed.Superseded {
			// Done late: what counts is what is in force by now.
			now, err := m.feeds.InForce(ctx, op.Name, op.Ecosystem, c.ID)
			if err != nil {
				return err
			}
			c.After = now
		}
		var hits []vuln.Hit
		if c.After != nil {
			hits = m.index.Affected(c.After, false)
		}
		if len(hits) == 0 && !standing[c.ID] {
			return nil
		}
		var s *suspect
		if len(hits) > 0 {
			var err error
			if s, err = a.suspect(ctx, c); err != nil {
				return err
			}
		}
		return a.change(ctx, c.ID, hits, s)
	})
	if err != nil {
		return err
	}
	return a.tell(ctx)
}

// standing are the advisories of a feed that have open matches.
func (m *Matcher) standing(ctx context.Context, key string) (map[string]bool, error) {
	out := map[string]bool{}
	err := m.db.View(ctx, func(tx *store.Tx) error {
		clear(out)
		rows, err := tx.Query(ctx, `SELECT DISTINCT advisory FROM finding_match WHERE feed = ? AND closed = 0`, key)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			out[id] = true
		}
		return rows.Err()
	})
	return out, err
}

// applying is an operation under way. What it changed is read back from the rows,
// so that one that a crash interrupted tells all of it when it is done again.
type applying struct {
	m          *Matcher
	op         feed.Operation
	feed       string
	advisories int
	since      *time.Time // when the feed first came into force, once it was asked

	measure func() lane.Cost
	cost    lane.Cost
}

// stop ends the measuring, once.
func (a *applying) stop() lane.Cost {
	if a.measure != nil {
		a.cost, a.measure = a.measure(), nil
	}
	return a.cost
}

// change brings the matches of one advisory to what the index says.
func (a *applying) change(ctx context.Context, advisory string, hits []vuln.Hit, s *suspect) error {
	return a.m.db.Update(ctx, func(tx *store.Tx) error {
		now := store.Micros(tx.Now())
		was := map[int64]match{}
		rows, err := tx.Query(ctx, `SELECT component, status, fixed, reason FROM finding_match WHERE feed = ? AND advisory = ? AND closed = 0`, a.feed, advisory)
		if err != nil {
			return err
		}
		for rows.Next() {
			var id, status int64
			f := match{advisory: advisory, feed: a.feed}
			if err := rows.Scan(&id, &status, &f.Fixed, &f.Reason); err != nil {
				rows.Close()
				return err
			}
			f.Status = vuln.Status(status)
			was[id] = f
		}
		if err := rows.Err(); err != nil {
			return err
		}
		for _, h := range hits {
			f := match{advisory, a.feed, h.Verdict}
			old, is := was[h.Component]
			delete(was, h.Component)
			if is && old.Status == f.Status {
				if old != f {
					if _, err := tx.Exec(ctx, `UPDATE finding_match SET fixed = ?, reason = ? WHERE feed = ? AND advisory = ? AND component = ? AND closed = 0`, f.Fixed, f.Reason, a.feed, advisory, h.Component); err != nil {
						return err
					}
				}
				continue
			}
			if is {
				if err := a.close(ctx, tx, advisory, h.Component, now); err != nil {
					return err
				}
				now++ // the key holds the time
			}
			if !is { // what was unknown did not come out clean
				if err := a.miss(ctx, tx, s, advisory, h, now); err != nil {
					return err
				}
			}
			if err := openMatch(ctx, tx, h.Component, f, now, a.op.ID); err != nil {
				return err
			}
		}
		for id := range was {
			if err := a.close(ctx, tx, advisory, id, now); err != nil {
				return err
			}
		}
		return nil
	})
}

func (a *applying) close(ctx context.Context, tx *store.Tx, advisory string, component, now int64) error {
	_, err := tx.Exec(ctx, `UPDATE finding_match SET closed = ?, ended = ? WHERE feed = ? AND advisory = ? AND component = ? AND closed = 0`, now, a.op.ID, a.feed, advisory, component)
	return err
}

// tell writes an event for each artifact whose findings changed, and the receipt.
func (a *applying) tell(ctx context.Context) error {
	events, opened, err := a.events(ctx, event.FindingOpened, "operation")
	if err != nil {
		return err
	}
	artifacts := len(events)
	more, closed, err := a.events(ctx, event.FindingResolved, "ended")
	if err != nil {
		return err
	}
	events = append(events, more...)
	if more, err = a.missed(ctx); err != nil {
		return err
	}
	events = append(events, more...)
	cost := a.stop()
	if err := a.record(ctx, opened, closed, cost); err != nil {
		return err
	}
	events = append(events, event.Event{Kind: event.FeedMatched, Actor: actor, Body: map[string]any{
		"feed": a.op.Name, "ecosystem": a.op.Ecosystem, "operation": a.op.ID, "advisories": a.advisories,
		"opened": opened, "resolved": closed, "artifacts": artifacts, "cpu_us": cost.CPU.Microseconds(), "wall_us": cost.Wall.Microseconds(),
	}})
	for len(events) > 0 {
		n := min(len(events), 500)
		if err := a.m.db.Update(ctx, func(tx *store.Tx) error {
			return event.AppendAll(ctx, tx, slices.Clone(events[:n]))
		}); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

func isMalicious(id string) bool { return strings.HasPrefix(id, "MAL-") }

const (
	actor = "system:vuln"
	// maxNamed is how many advisories one event names; the others are counted.
	maxNamed = 50
)

// events makes one event for each artifact whose matches the operation opened, or
// ended; matches is how many of those there are, whoever holds them.
func (a *applying) events(ctx context.Context, kind event.Kind, column string) (out []event.Event, matches int, err error) {
	subjects := map[string][]string{}
	err = a.m.db.View(ctx, func(tx *store.Tx) error {
		clear(subjects)
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM finding_match WHERE `+column+` = ? AND status = 1`, a.op.ID).Scan(&matches); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT DISTINCT s.subject, f.advisory FROM finding_match f JOIN sbom_occurrence o ON o.component = f.component
			JOIN finding_scan s ON s.document = o.document WHERE f.`+column+` = ? AND f.status = 1`, a.op.ID)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var s, advisory string
			if err := rows.Scan(&s, &advisory); err != nil {
				return err
			}
			subjects[s] = append(subjects[s], advisory)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, 0, err
	}
	for _, s := range slices.Sorted(maps.Keys(subjects)) {
		list := slices.Sorted(slices.Values(subjects[s]))
		malicious := slices.ContainsFunc(list, isMalicious)
		out = append(out, event.Event{Kind: kind, Digest: artifact.Digest(s), Actor: actor, Body: map[string]any{
			"feed": a.op.Name, "ecosystem": a.op.Ecosystem, "operation": a.op.ID, "advisories": list[:min(len(list), maxNamed)], "count": len(list), "malicious": malicious,
		}})
	}
	return out, matches, nil
}
