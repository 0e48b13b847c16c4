package alert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/slo"
	"assay/store"
)

const (
	gatherPages   = 0                // pages are told at once
	gatherTickets = 30 * time.Second // tickets wait for others of their group
	underFire     = 15 * time.Minute
	fireCount     = 3
)

// occurrence is something that a rule found.
type occurrence struct {
	rule   *Rule
	found  found
	place  slo.Place
	digest artifact.Digest
	event  string     // evt_...
	kind   event.Kind // of it
	at     time.Time
	more   []string // further evidence
	page   bool     // the site's budget policy makes a page of it
}

// Follow opens and resolves alerts by what happens, until ctx ends.
func (s *Store) Follow(ctx context.Context) error {
	return s.o.Events.Consume(ctx, "alert", s.take, kinds...)
}

func (s *Store) take(ctx context.Context, tx *store.Tx, batch []event.Event) error {
	for i := range batch {
		e := &batch[i]
		b := bodyOf(e)
		for j := range rules {
			r := &rules[j]
			opens, ends := slices.Contains(r.kinds, e.Kind), slices.Contains(r.resolves, e.Kind)
			if !opens && !ends {
				continue
			}
			f, yes := r.match(e, b)
			var err error
			switch {
			case opens && yes:
				err = s.opened(ctx, tx, r, f, e)
			case ends:
				err = s.ended(ctx, tx, r, f, e)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) opened(ctx context.Context, tx *store.Tx, r *Rule, f found, e *event.Event) error {
	o := occurrence{rule: r, found: f, event: e.ID, kind: e.Kind, at: e.Time, place: slo.Place{Team: e.Team, Service: e.Service, Environment: e.Env, Cluster: e.Cluster}}
	if !f.anywhere {
		o.digest = e.Digest
	}
	if s.o.Locate != nil {
		p, err := s.o.Locate(ctx, tx, e)
		if err != nil {
			return err
		}
		o.place = p
	}
	if r.ID == "finding" {
		o.found.cause = bodyOf(e).words("feed", "ecosystem")
		o.found.about = ""
	}
	return s.fire(ctx, tx, &o)
}

// ended takes away what kept an alert open, and resolves it when that was all.
func (s *Store) ended(ctx context.Context, tx *store.Tx, r *Rule, f found, e *event.Event) error {
	digest := e.Digest
	if f.anywhere {
		digest = ""
	}
	cause := f.cause
	if r.ID == "finding" {
		cause = bodyOf(e).words("feed", "ecosystem")
	}
	rows, err := tx.Query(ctx, `SELECT `+alertColumns+` FROM alert WHERE open = 1 AND fingerprint = ?`, fingerprint(r, f, digest))
	if err != nil {
		return err
	}
	var open []Alert
	for rows.Next() {
		a, err := scanAlert(rows.Scan)
		if err != nil {
			rows.Close()
			return err
		}
		open = append(open, a)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return err
	}
	for i := range open {
		if _, err := tx.Exec(ctx, `DELETE FROM alert_cause WHERE alert = ? AND cause = ?`, open[i].ID, causeKey(cause)); err != nil {
			return err
		}
		left := 0
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM alert_cause WHERE alert = ?`, open[i].ID).Scan(&left); err != nil {
			return err
		}
		if left == 0 {
			if err := s.resolve(ctx, tx, &open[i], "system:alert"); err != nil {
				return err
			}
		}
	}
	return nil
}

func fingerprint(r *Rule, f found, digest artifact.Digest) string {
	return Fingerprint(r.ID, string(digest), f.about, f.key)
}

func causeKey(c string) string { return excerpt.Text(c, 500) }

// fire counts an occurrence on its open alert, or opens one, in its group, whose
// notice is queued.
func (s *Store) fire(ctx context.Context, tx *store.Tx, o *occurrence) error {
	fp := fingerprint(o.rule, o.found, o.digest)
	if enough, err := s.enough(ctx, tx, o, fp); err != nil || !enough {
		return err
	}
	var id, evidence string
	err := tx.QueryRow(ctx, `SELECT id, evidence FROM alert WHERE open = 1 AND fingerprint = ?`, fp).Scan(&id, &evidence)
	switch {
	case err == nil:
		var have []string
		if err := json.Unmarshal([]byte(evidence), &have); err != nil {
			return err
		}
		have = s.evidenceOf(o, have)
		b, err := json.Marshal(have)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE alert SET count = count + 1, last = ?, summary = ?, evidence = ? WHERE id = ?`, store.Micros(o.at), s.summary(o), string(b), id); err != nil {
			return err
		}
	case errors.Is(err, fault.NotFound):
		if id, err = s.open(ctx, tx, o, fp); err != nil {
			return err
		}
	default:
		return err
	}
	if o.found.cause != "" {
		_, err = tx.Exec(ctx, `INSERT INTO alert_cause (alert, cause) VALUES (?, ?) ON CONFLICT (alert, cause) DO NOTHING`, id, causeKey(o.found.cause))
	} else {
		err = nil
	}
	return err
}

// enough says whether a failure of infrastructure has come often enough.
func (s *Store) enough(ctx context.Context, tx *store.Tx, o *occurrence, fp string) (bool, error) {
	if o.rule.Several <= 1 {
		return true, nil
	}
	if _, err := tx.Exec(ctx, `INSERT INTO alert_flake (fingerprint, at, event) VALUES (?, ?, ?) ON CONFLICT (fingerprint, at, event) DO NOTHING`, fp, store.Micros(o.at), o.event); err != nil {
		return false, err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM alert_flake WHERE fingerprint = ? AND at < ?`, fp, store.Micros(o.at.Add(-flakeWindow))); err != nil {
		return false, err
	}
	n := 0
	err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM alert_flake WHERE fingerprint = ?`, fp).Scan(&n)
	return n >= o.rule.Several, err
}

func (s *Store) summary(o *occurrence) string { return excerpt.Line(o.found.summary, 500, ' ') }

// evidenceOf are links to what an alert rests on: the newest last, at most ten.
func (s *Store) evidenceOf(o *occurrence, have []string) []string {
	for _, e := range append([]string{o.event}, o.more...) {
		if e != "" && !slices.Contains(have, e) {
			have = append(have, e)
		}
	}
	return have[max(0, len(have)-10):]
}

// open makes an alert, and its group if there is none.
func (s *Store) open(ctx context.Context, tx *store.Tx, o *occurrence, fp string) (string, error) {
	a := Alert{
		ID: newID("alr_"), Rule: o.rule.ID, Severity: o.rule.Severity, Fingerprint: fp, Title: o.rule.Title, Summary: s.summary(o),
		Service: o.place.Service, Team: o.place.Team, Environment: o.place.Environment, Cluster: o.place.Cluster, Release: o.place.Release,
		Artifact: o.digest, About: excerpt.Line(o.found.about, 300, ' '), Since: o.at, Last: o.at, Count: 1, Runbook: o.rule.Runbook(), Evidence: s.evidenceOf(o, nil),
	}
	if o.rule.severity != nil {
		a.Severity = o.rule.severity(o)
	}
	a.Owned = a.Team != ""
	if !a.Owned {
		if c := s.o.Catalogue; c != nil && c() != nil {
			a.Team = c().Platform()
		}
		tx.OnCommit(s.metrics.unowned.Inc)
	}
	a.Command = command(o.rule.Command, &a)
	var err error
	if a.Group, err = s.group(ctx, tx, &a); err != nil {
		return "", err
	}
	evidence, err := json.Marshal(a.Evidence)
	if err != nil {
		return "", err
	}
	owned := 0
	if a.Owned {
		owned = 1
	}
	if _, err := tx.Exec(ctx, `INSERT INTO alert (id, fingerprint, grp, rule, severity, open, title, summary, service, team, owned, environment, cluster, release, digest, about,
		since, last, count, resolved, resolved_by, acked, acked_by, note, escalated, runbook, command, evidence) VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 0, '', 0, '', '', 0, ?, ?, ?)`,
		a.ID, fp, a.Group, a.Rule, string(a.Severity), a.Title, a.Summary, a.Service, a.Team, owned, a.Environment, a.Cluster, a.Release, string(a.Artifact), a.About,
		store.Micros(a.Since), store.Micros(a.Last), a.Runbook, a.Command, string(evidence)); err != nil {
		return "", err
	}
	if err := event.Append(ctx, tx, event.Event{Kind: event.AlertOpened, Actor: "system:alert", Digest: a.Artifact, Team: a.Team, Service: a.Service, Env: a.Environment, Cluster: a.Cluster, Body: map[string]any{
		"id": a.ID, "rule": a.Rule, "severity": string(a.Severity), "group": a.Group, "owned": a.Owned, "cause": o.event, "title": a.Title, "of": string(o.kind), "after_ms": max(0, tx.Now().Sub(o.at).Milliseconds()),
	}}); err != nil {
		return "", err
	}
	tx.OnCommit(s.metrics.opened.WithLabelValues(string(a.Severity)).Inc)
	if err := s.announce(ctx, tx, &a); err != nil {
		return "", err
	}
	return a.ID, s.underFire(ctx, tx, o, &a)
}

// command puts what an alert is about into its rule's command; a name that is not
// plain is left out, since people paste commands into shells.
func command(text string, a *Alert) string {
	plain := func(v, otherwise string) string {
		if v == "" || strings.IndexFunc(v, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._:/@-", r))
		}) >= 0 || strings.HasPrefix(v, "-") {
			return otherwise
		}
		return v
	}
	return strings.NewReplacer("{digest}", plain(string(a.Artifact), "DIGEST"), "{about}", plain(a.About, "NAME"), "{cluster}", plain(a.Cluster, "CLUSTER"), "{id}", a.ID).Replace(text)
}

const (
	// mostGroups is how many groups of one severity, service and team are open at
	// once; what comes further is told of together.
	mostGroups   = 20
	manyReleases = "(many releases)"
)

// group is the open group of an alert; a new one where there is none.
func (s *Store) group(ctx context.Context, tx *store.Tx, a *Alert) (id string, err error) {
	err = tx.QueryRow(ctx, `SELECT id FROM alert_group WHERE open = 1 AND severity = ? AND service = ? AND release = ? AND team = ?`, string(a.Severity), a.Service, a.Release, a.Team).Scan(&id)
	if !errors.Is(err, fault.NotFound) {
		return id, err
	}
	// Whoever may push names releases: a flood of them is one notice more.
	if a.Release != manyReleases {
		n := 0
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM alert_group WHERE open = 1 AND severity = ? AND service = ? AND team = ?`, string(a.Severity), a.Service, a.Team).Scan(&n); err != nil {
			return "", err
		}
		if n >= mostGroups {
			together := *a
			together.Release = manyReleases
			return s.group(ctx, tx, &together)
		}
	}
	id = newID("grp_")
	owned := 0
	if a.Owned {
		owned = 1
	}
	_, err = tx.Exec(ctx, `INSERT INTO alert_group (id, open, severity, service, release, team, owned, opened, resolved) VALUES (?, 1, ?, ?, ?, ?, ?, ?, 0)`,
		id, string(a.Severity), a.Service, a.Release, a.Team, owned, store.Micros(a.Since))
	return id, err
}

// announce queues the notice of a group when it begins, and when a rule joins it
// that it was not told of.
func (s *Store) announce(ctx context.Context, tx *store.Tx, a *Alert) error {
	silences, err := s.silences(ctx, tx, tx.Now(), false)
	if err != nil || silencedBy(a, silences) != "" {
		return err // when the silence ends, Tend tells of it
	}
	var told, this int
	if err := tx.QueryRow(ctx, `SELECT COUNT(*), COALESCE(SUM(CASE WHEN rule = ? THEN 1 ELSE 0 END), 0) FROM alert_told WHERE grp = ?`, a.Rule, a.Group).Scan(&told, &this); err != nil || this > 0 {
		return err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO alert_told (grp, rule) VALUES (?, ?)`, a.Group, a.Rule); err != nil {
		return err
	}
	occasion, wait := OccasionOpened, time.Duration(gatherPages)
	if told > 0 {
		occasion = OccasionJoined + ":" + a.Rule
	}
	if a.Severity == Ticket {
		wait = gatherTickets
	}
	return s.queue(ctx, tx, a.Group, occasion, wait)
}

// underFire raises a page when rules of high severity found enough of one
// service in a quarter of an hour. Several alerts of a rule and a release are one.
func (s *Store) underFire(ctx context.Context, tx *store.Tx, o *occurrence, a *Alert) error {
	if !o.rule.High || a.Service == "" {
		return nil
	}
	var high []any
	for i := range rules {
		if rules[i].High {
			high = append(high, rules[i].ID)
		}
	}
	n := 0
	if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM (SELECT DISTINCT rule, release, about FROM alert WHERE service = ? AND since > ? AND rule IN (?`+strings.Repeat(", ?", len(high)-1)+`)) x`,
		append([]any{a.Service, store.Micros(a.Since.Add(-underFire))}, high...)...).Scan(&n); err != nil || n < fireCount {
		return err
	}
	return s.fire(ctx, tx, &occurrence{rule: ruleOf(RuleUnderFire), found: found{about: a.Service, summary: fmt.Sprintf("%d within 15 minutes, the latest: %s", n, a.Title)}, place: slo.Place{Service: a.Service, Team: o.place.Team, Environment: a.Environment}, event: o.event, at: a.Since, more: []string{a.ID}})
}

// Resolve says that an alert is over, by hand.
func (s *Store) Resolve(ctx context.Context, id, by string) (a Alert, err error) {
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		if a, err = s.get(ctx, tx, id); err != nil || a.State == Resolved {
			return err
		}
		if err := s.resolve(ctx, tx, &a, by); err != nil {
			return err
		}
		a, err = s.get(ctx, tx, a.ID)
		return err
	})
	return a, err
}

// resolve ends an alert, and its group with the last of them.
func (s *Store) resolve(ctx context.Context, tx *store.Tx, a *Alert, by string) error {
	now := tx.Now()
	if _, err := tx.Exec(ctx, `UPDATE alert SET open = 0, resolved = ?, resolved_by = ? WHERE id = ? AND open = 1`, now, by, a.ID); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM alert_cause WHERE alert = ?`, a.ID); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM alert_flake WHERE fingerprint = ?`, a.Fingerprint); err != nil {
		return err
	}
	if err := event.Append(ctx, tx, event.Event{Kind: event.AlertResolved, Actor: by, Digest: a.Artifact, Team: a.Team, Service: a.Service, Body: map[string]any{
		"id": a.ID, "rule": a.Rule, "group": a.Group, "seconds": int64(now.Sub(a.Since).Seconds()),
	}}); err != nil {
		return err
	}
	open := 0
	if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM alert WHERE grp = ? AND open = 1`, a.Group).Scan(&open); err != nil || open > 0 {
		return err
	}
	if _, err := tx.Exec(ctx, `UPDATE alert_group SET open = 0, resolved = ? WHERE id = ?`, now, a.Group); err != nil {
		return err
	}
	return s.queueResolved(ctx, tx, a.Group)
}
