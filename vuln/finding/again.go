package finding

import (
	"context"
	"errors"
	"maps"
	"slices"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/vuln"
)

// matchers has how far what is stored was looked up by which matcher: a component is
// looked up once, when it is first seen, and so would keep for ever what an older
// matcher made of it.
const matchers = `
CREATE TABLE finding_matcher (
	id      BIGINT NOT NULL PRIMARY KEY, -- 1
	version TEXT   NOT NULL,             -- of the matcher
	done    BIGINT NOT NULL              -- components up to this one are; -1: all
);`

// againPage is how many components are looked up again at a time.
const againPage = 500

// Again looks some components up again that an older matcher looked up; worked says
// that there were such. Findings open and close as they do by a feed.
func (m *Matcher) Again(ctx context.Context) (worked bool, err error) {
	return m.again(ctx, vuln.MatcherVersion)
}

func (m *Matcher) again(ctx context.Context, matcher string) (worked bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var after int64
	var page []newComponent
	if err := m.db.View(ctx, func(tx *store.Tx) (err error) {
		if after, err = doneBy(ctx, tx, matcher); err != nil || after < 0 {
			return err
		}
		page, err = lookedUpAfter(ctx, tx, after)
		return err
	}); err != nil || after < 0 {
		return false, err
	}
	matches, ignored := map[int64][]match{}, 0
	for i := range page {
		c := &page[i]
		if matches[c.id], err = m.lookUp(ctx, c, &ignored); err != nil {
			return true, err
		}
	}
	done, changed := int64(-1), false
	if len(page) > 0 {
		done = page[len(page)-1].id
	}
	err = m.db.Update(ctx, func(tx *store.Tx) error {
		changed = false
		opened, closed := map[int64][]string{}, map[int64][]string{}
		for i := range page {
			c := &page[i]
			some, err := replace(ctx, tx, c, matches[c.id], opened, closed)
			if err != nil {
				return err
			}
			changed = changed || some
		}
		events, err := againEvents(ctx, tx, event.FindingOpened, opened)
		if err != nil {
			return err
		}
		more, err := againEvents(ctx, tx, event.FindingResolved, closed)
		if err != nil {
			return err
		}
		if events = append(events, more...); done < 0 && after > 0 {
			// Whoever acts upon a feed's findings looks at them again.
			all, err := m.feeds.SourcesIn(ctx, tx)
			if err != nil {
				return err
			}
			for _, f := range all {
				if f.Operation != 0 {
					events = append(events, event.Event{Kind: event.FeedMatched, Actor: actor, Body: map[string]any{
						"feed": f.Name, "ecosystem": f.Ecosystem, "operation": f.Operation, "advisories": 0, "opened": 0, "resolved": 0, "artifacts": 0, "cpu_us": 0, "wall_us": 0}})
				}
			}
		}
		if _, err := tx.Exec(ctx, `INSERT INTO finding_matcher (id, version, done) VALUES (1, ?, ?) ON CONFLICT (id) DO UPDATE SET version = excluded.version, done = excluded.done`, matcher, done); err != nil {
			return err
		}
		return event.AppendAll(ctx, tx, events)
	})
	if changed {
		m.loaded = false // the index has them by what the older one made of them
	}
	return done >= 0, err
}

// doneBy is up to which component the matcher has looked; -1: at all of them. Where
// nothing was ever looked up, nothing is to be looked at again.
func doneBy(ctx context.Context, tx *store.Tx, matcher string) (after int64, err error) {
	var version string
	err = tx.QueryRow(ctx, `SELECT version, done FROM finding_matcher WHERE id = 1`).Scan(&version, &after)
	switch {
	case errors.Is(err, fault.NotFound), err == nil && version != matcher:
		return 0, nil
	}
	return after, err
}

func lookedUpAfter(ctx context.Context, tx *store.Tx, after int64) (page []newComponent, err error) {
	rows, err := tx.Query(ctx, `SELECT c.id, c.key, c.version, c.source_name, c.source_version FROM sbom_component c
		WHERE c.id > ? AND EXISTS (SELECT 1 FROM finding_component f WHERE f.component = c.id) ORDER BY c.id LIMIT ?`, after, againPage)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c newComponent
		if err := rows.Scan(&c.id, &c.key, &c.version, &c.sourceName, &c.sourceVersion); err != nil {
			return nil, err
		}
		page = append(page, c)
	}
	return page, rows.Err()
}

// replace brings what is stored of a component to how it is looked up now, and notes
// what was affected by nobody's word before, or is no longer.
func replace(ctx context.Context, tx *store.Tx, c *newComponent, found []match, opened, closed map[int64][]string) (changed bool, err error) {
	if changed, err = rename(ctx, tx, c); err != nil {
		return false, err
	}
	now := store.Micros(tx.Now())
	was := map[[2]string]match{}
	rows, err := tx.Query(ctx, `SELECT advisory, feed, status, fixed, reason FROM finding_match WHERE component = ? AND closed = 0`, c.id)
	if err != nil {
		return false, err
	}
	for rows.Next() {
		var f match
		var status int64
		if err := rows.Scan(&f.advisory, &f.feed, &status, &f.Fixed, &f.Reason); err != nil {
			rows.Close()
			return false, err
		}
		f.Status = vuln.Status(status)
		was[[2]string{f.advisory, f.feed}] = f
	}
	if err := rows.Err(); err != nil {
		return false, err
	}
	for _, f := range found {
		key := [2]string{f.advisory, f.feed}
		old, is := was[key]
		if delete(was, key); is && old.Status == f.Status { // since when it is known stays
			if old != f {
				if _, err := tx.Exec(ctx, `UPDATE finding_match SET fixed = ?, reason = ? WHERE component = ? AND advisory = ? AND feed = ? AND closed = 0`, f.Fixed, f.Reason, c.id, f.advisory, f.feed); err != nil {
					return false, err
				}
			}
			continue
		}
		if is {
			if err := endMatch(ctx, tx, c.id, old, now); err != nil {
				return false, err
			}
		}
		if err := openMatch(ctx, tx, c.id, f, now+1, 0); err != nil {
			return false, err
		}
		if f.Status == vuln.IsAffected {
			opened[c.id] = append(opened[c.id], f.advisory)
		}
	}
	for _, old := range was {
		if err := endMatch(ctx, tx, c.id, old, now); err != nil {
			return false, err
		}
		if old.Status == vuln.IsAffected {
			closed[c.id] = append(closed[c.id], old.advisory)
		}
	}
	return changed, nil
}

func endMatch(ctx context.Context, tx *store.Tx, component int64, f match, now int64) error {
	_, err := tx.Exec(ctx, `UPDATE finding_match SET closed = ? WHERE component = ? AND advisory = ? AND feed = ? AND closed = 0`, now, component, f.advisory, f.feed)
	return err
}

// rename writes by which names a component is looked up, where they are others.
func rename(ctx context.Context, tx *store.Tx, c *newComponent) (changed bool, err error) {
	type row struct {
		vuln.Candidate
		state int64
	}
	var now []row
	for _, cand := range c.candidates {
		now = append(now, row{cand, lookedUp})
	}
	if len(now) == 0 {
		now = []row{{state: c.state}}
	}
	rows, err := tx.Query(ctx, `SELECT ecosystem, package, version, platform, state FROM finding_component WHERE component = ?`, c.id)
	if err != nil {
		return false, err
	}
	same := 0
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.Ecosystem, &r.Name, &r.Version, &r.Platform, &r.state); err != nil {
			rows.Close()
			return false, err
		}
		if same++; !slices.Contains(now, r) {
			changed = true
		}
	}
	if err := rows.Err(); err != nil || !changed && same == len(now) {
		return false, err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM finding_component WHERE component = ?`, c.id); err != nil {
		return false, err
	}
	for _, r := range now {
		if _, err := tx.Exec(ctx, `INSERT INTO finding_component (component, ecosystem, package, version, state, platform) VALUES (?, ?, ?, ?, ?, ?)`, c.id, r.Ecosystem, r.Name, r.Version, r.state, r.Platform); err != nil {
			return false, err
		}
	}
	return true, nil
}

// againEvents makes one event for each artifact that holds one of the components.
func againEvents(ctx context.Context, tx *store.Tx, kind event.Kind, of map[int64][]string) (out []event.Event, err error) {
	subjects := map[string][]string{}
	for _, id := range slices.Sorted(maps.Keys(of)) {
		holders, err := store.Values[string](ctx, tx, `SELECT DISTINCT s.subject FROM sbom_occurrence o JOIN finding_scan s ON s.document = o.document WHERE o.component = ?`, id)
		if err != nil {
			return nil, err
		}
		for _, s := range holders {
			subjects[s] = append(subjects[s], of[id]...)
		}
	}
	for _, s := range slices.Sorted(maps.Keys(subjects)) {
		list := slices.Compact(slices.Sorted(slices.Values(subjects[s])))
		out = append(out, event.Event{Kind: kind, Digest: artifact.Digest(s), Actor: actor, Body: map[string]any{
			"feed": "", "ecosystem": "", "operation": 0, "advisories": list[:min(len(list), maxNamed)], "count": len(list), "malicious": slices.ContainsFunc(list, isMalicious),
		}})
	}
	return out, nil
}
