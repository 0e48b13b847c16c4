package finding

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/vuln"
	"assay/vuln/feed"
)

// Why a scan that came out clean should not have.
const (
	// MissedByRecord: the advisory was in force here, said otherwise of the
	// component, and was corrected. The times are this site's.
	MissedByRecord = "record"
	// MissedByMatcher: the advisory was in force here and said so all the time; what
	// judged it then came to another answer than what judges it now.
	MissedByMatcher = "matcher"
	// MissedByFeed: by its own word, which is a claim, the advisory was published
	// before the scan; the feed was in force here, and brought it after.
	MissedByFeed = "feed"
)

// Causes lists them.
func Causes() []string { return []string{MissedByRecord, MissedByMatcher, MissedByFeed} }

// suspect is a changed record by which scans may turn out to have missed
// something.
type suspect struct {
	cause     string
	before    *vuln.Advisory
	received  time.Time // zero: it was not here
	published time.Time // claimed; zero: it does not say
	from      time.Time // scans before this are not concerned
	names     []string  // of the flaw
}

// suspect says whether what a change opens was missed before; nil: it was not.
func (a *applying) suspect(ctx context.Context, c feed.Change) (*suspect, error) {
	if c.After == nil || c.After.IsWithdrawn() || c.Before != nil && c.Before.IsWithdrawn() {
		return nil, nil //nolint:nilnil // none is an answer
	}
	s := &suspect{before: c.Before}
	now := a.m.db.Now()
	s.published, _ = c.After.PublishedAt(now)
	var err error
	if c.Before != nil {
		s.cause = MissedByRecord
		if s.received, err = a.m.feeds.Received(ctx, a.op.Name, a.op.Ecosystem, c.ID, a.op.ID); err != nil || s.received.IsZero() {
			return nil, err
		}
	} else {
		if s.published.IsZero() {
			return nil, nil //nolint:nilnil // it does not say when it was published
		}
		if a.since == nil {
			since, err := a.m.feeds.Since(ctx, a.op.Name, a.op.Ecosystem, a.op.ID)
			if err != nil {
				return nil, err
			}
			a.since = &since
		}
		if a.since.IsZero() {
			return nil, nil //nolint:nilnil // without the feed nothing came out clean
		}
		s.cause, s.from = MissedByFeed, s.published
		if a.since.After(s.from) {
			s.from = *a.since
		}
	}
	known := flaws{feeds: a.m.feeds, known: map[string]*flaw{}}
	f, err := known.read(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	s.names = append(f.names, c.ID)
	return s, nil
}

// miss notes, in tx, that scans of what holds a component missed what an advisory
// says: unless none did, or another record of the same flaw had told of it.
func (a *applying) miss(ctx context.Context, tx *store.Tx, s *suspect, advisory string, h vuln.Hit, opened int64) error {
	if s == nil || h.Status != vuln.IsAffected {
		return nil
	}
	rows, err := tx.Query(ctx, `SELECT advisory FROM finding_match WHERE component = ? AND closed = 0 AND status = 1 AND NOT (feed = ? AND advisory = ?)`, h.Component, a.feed, advisory)
	if err != nil {
		return err
	}
	told := false
	for rows.Next() {
		var other string
		if err := rows.Scan(&other); err != nil {
			rows.Close()
			return err
		}
		told = told || slices.Contains(s.names, other)
	}
	if err := rows.Err(); err != nil || told {
		rows.Close()
		return err
	}
	rows.Close()
	cause := s.cause
	if s.before != nil && Affects(feed.Record{Name: a.op.Name, Ecosystem: a.op.Ecosystem, Advisory: s.before}, vuln.Candidate{Package: h.Package, Version: h.Version}) {
		cause = MissedByMatcher
	}
	from := int64(0)
	if !s.from.IsZero() {
		from = store.Micros(s.from)
	}
	var artifacts int64
	if err := tx.QueryRow(ctx, `SELECT COUNT(DISTINCT s.subject) FROM sbom_occurrence o JOIN finding_scan s ON s.document = o.document WHERE o.component = ? AND s.scanned >= ? AND s.scanned < ?`,
		h.Component, from, opened).Scan(&artifacts); err != nil || artifacts == 0 {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO finding_missed (component, advisory, feed, opened, cause, operation, received, published, clean_from, artifacts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (component, advisory, feed, opened) DO NOTHING`, h.Component, advisory, a.feed, opened, cause, a.op.ID, microsOf(s.received), microsOf(s.published), from, artifacts)
	return err
}

func microsOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return store.Micros(t)
}

// missed makes one event for each artifact whose scans the operation shows to
// have missed something.
func (a *applying) missed(ctx context.Context) (out []event.Event, err error) {
	type one struct {
		advisories []string
		causes     map[string]int
	}
	subjects := map[string]*one{}
	causes := map[string]int{}
	err = a.m.db.View(ctx, func(tx *store.Tx) error {
		clear(subjects)
		clear(causes)
		rows, err := tx.Query(ctx, `SELECT DISTINCT s.subject, m.advisory, m.cause, m.component FROM finding_missed m JOIN sbom_occurrence o ON o.component = m.component
			JOIN finding_scan s ON s.document = o.document WHERE m.operation = ? AND s.scanned >= m.clean_from AND s.scanned < m.opened`, a.op.ID)
		if err != nil {
			return err
		}
		defer rows.Close()
		type match struct {
			advisory  string
			component int64
		}
		counted := map[match]bool{}
		for rows.Next() {
			var subject, cause string
			var m match
			if err := rows.Scan(&subject, &m.advisory, &cause, &m.component); err != nil {
				return err
			}
			if !counted[m] {
				counted[m] = true
				causes[cause]++
			}
			x := subjects[subject]
			if x == nil {
				x = &one{causes: map[string]int{}}
				subjects[subject] = x
			}
			x.causes[cause]++
			if !slices.Contains(x.advisories, m.advisory) {
				x.advisories = append(x.advisories, m.advisory)
			}
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	for cause, n := range causes {
		a.m.met.missed.WithLabelValues(cause).Add(float64(n))
	}
	for _, s := range slices.Sorted(maps.Keys(subjects)) {
		x := subjects[s]
		slices.Sort(x.advisories)
		out = append(out, event.Event{Kind: event.VulnMissed, Digest: artifact.Digest(s), Actor: actor, Body: map[string]any{
			"feed": a.op.Name, "ecosystem": a.op.Ecosystem, "operation": a.op.ID, "advisories": x.advisories[:min(len(x.advisories), maxNamed)], "count": len(x.advisories), "causes": x.causes,
		}})
	}
	return out, nil
}

// Missed is a match that scans should have found and did not.
type Missed struct {
	Advisory  string
	Component string // its key: canonical package URL
	Feed      string
	Ecosystem string // of the feed's records; "": several
	Cause     string
	Operation int64
	Received  time.Time // when the advisory came into force here; zero: with this operation
	Published time.Time // claimed; zero: it does not say
	Opened    time.Time // when it was found
	Artifacts int64     // whose scans had come out clean
}

// MissedSince lists what was missed and found since a time, of one cause or all,
// the newest first; total says how many there are by cause.
func (m *Matcher) MissedSince(ctx context.Context, since time.Time, cause string, limit int) (all []Missed, total map[string]int64, err error) {
	if limit < 1 || limit > 1000 {
		return nil, nil, fault.Newf(fault.Invalid, "limit %d: want 1 to 1000", limit)
	}
	if cause != "" && !slices.Contains(Causes(), cause) {
		return nil, nil, fault.Newf(fault.Invalid, "cause %.40q: want %v", cause, Causes())
	}
	err = m.db.View(ctx, func(tx *store.Tx) error {
		all, total = nil, map[string]int64{}
		for _, c := range Causes() {
			var n int64
			if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM finding_missed WHERE opened >= ? AND cause = ?`, store.Micros(since), c).Scan(&n); err != nil {
				return err
			}
			total[c] = n
		}
		where, args := `m.opened >= ?`, []any{store.Micros(since)}
		if cause != "" {
			where, args = where+` AND m.cause = ?`, append(args, cause)
		}
		rows, err := tx.Query(ctx, `SELECT m.advisory, c.key, m.feed, m.cause, m.operation, m.received, m.published, m.opened, m.artifacts
			FROM finding_missed m JOIN sbom_component c ON c.id = m.component WHERE `+where+` ORDER BY m.opened DESC, m.advisory, c.key LIMIT ?`, append(args, limit)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var x Missed
			var received, published, opened int64
			if err := rows.Scan(&x.Advisory, &x.Component, &x.Feed, &x.Cause, &x.Operation, &received, &published, &opened, &x.Artifacts); err != nil {
				return err
			}
			x.Feed, x.Ecosystem = splitFeed(x.Feed)
			x.Received, x.Published, x.Opened = timeOf(received), timeOf(published), store.Time(opened)
			all = append(all, x)
		}
		return rows.Err()
	})
	return all, total, err
}

func splitFeed(key string) (name, ecosystem string) {
	name, ecosystem, _ = strings.Cut(key, "/")
	return name, ecosystem
}

func timeOf(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return store.Time(us)
}
