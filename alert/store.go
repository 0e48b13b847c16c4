package alert

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"assay/event"
	"assay/internal/clock"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/inventory"
	"assay/slo"
	"assay/store"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	keepSilences = 30 * 24 * time.Hour // ended ones
	keepResolved = 400 * 24 * time.Hour
	longestHush  = 30 * 24 * time.Hour
	longestPages = 24 * time.Hour // of a silence that may keep back pages
)

// Options of a [Store]. DB is required.
type Options struct {
	DB     *store.DB
	Events *event.Log
	Clock  clock.Clock
	Logger *slog.Logger
	// Receivers are those in force.
	Receivers func() []*Receiver
	// Catalogue says whose services are, and who is on call.
	Catalogue func() *inventory.Catalogue
	// Locate says whose an event's subject is, and where.
	Locate func(ctx context.Context, tx *store.Tx, e *event.Event) (slo.Place, error)
	// Objectives are how the site's objectives stand; nil: they raise nothing.
	Objectives func(ctx context.Context) ([]slo.Status, error)
	// Outage says how many verifications came to an answer in a time up to now, and
	// how many failed for want of one; nil: not looked at.
	Outage func(ctx context.Context, window time.Duration) (answered, failed int64, err error)
	// Secret reads the secret at "file:PATH" or "credential:NAME".
	Secret func(place string) ([]byte, error)
	// Site is the public URL, for links.
	Site       string
	Registerer prometheus.Registerer
	// Holder names this process, for the lease of looking at objectives.
	Holder string
	// AckWithin is how long a page may go without acknowledgement before it is told
	// again, further up. Zero: 15 minutes.
	AckWithin time.Duration
	// FirstWait is the time before the second attempt of a delivery; it doubles.
	// Zero: 5 s.
	FirstWait time.Duration
}

// Store opens, groups and tells alerts. It is safe for many goroutines.
type Store struct {
	o       Options
	wake    chan struct{}
	metrics *metrics
	conns   connections
	pruned  time.Time // by Tend
}

// New makes a store over a database that was migrated with [Migrations].
func New(o Options) *Store {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.AckWithin, o.FirstWait = cmp.Or(o.AckWithin, 15*time.Minute), cmp.Or(o.FirstWait, 5*time.Second)
	o.Holder = cmp.Or(o.Holder, "one")
	s := &Store{o: o, wake: make(chan struct{}, 1), metrics: newMetrics()}
	if o.Registerer != nil {
		s.metrics.register(o.Registerer)
	}
	return s
}

func (s *Store) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func newID(prefix string) string { return prefix + uuid.Must(uuid.NewV7()).String() }

func (s *Store) get(ctx context.Context, tx *store.Tx, id string) (a Alert, err error) {
	if !strings.HasPrefix(id, "alr_") || len(id) < 8 {
		return a, fault.Newf(fault.Invalid, "%.80q is no alert: want alr_..., see assay alert list", id)
	}
	rows, err := tx.Query(ctx, `SELECT `+alertColumns+` FROM alert WHERE id >= ? AND id < ? ORDER BY id LIMIT 2`, id, id+"~")
	if err != nil {
		return a, err
	}
	var found []Alert
	for rows.Next() {
		one, err := scanAlert(rows.Scan)
		if err != nil {
			rows.Close()
			return a, err
		}
		found = append(found, one)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return a, err
	}
	switch len(found) {
	case 0:
		return a, fault.Newf(fault.NotFound, "no alert is %.80s: see assay alert list --all", id)
	case 2:
		return a, fault.Newf(fault.Conflict, "more than one alert begins with %.80s: give more of its ID", id)
	}
	silences, err := s.silences(ctx, tx, tx.Now(), false)
	found[0].Silenced = silencedBy(&found[0], silences)
	return found[0], err
}

// Acknowledge notes that somebody deals with an alert and the others of its group
// that fire: it is not escalated any more. One that is acknowledged stays as it
// was.
func (s *Store) Acknowledge(ctx context.Context, id, by, note string) (a Alert, err error) {
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		if a, err = s.get(ctx, tx, id); err != nil {
			return err
		}
		if a.State == Resolved {
			return fault.Newf(fault.Conflict, "alert %s is resolved since %s: there is nothing to acknowledge", a.ID, a.Resolved.Format(time.RFC3339))
		}
		if a.State == Acknowledged {
			return nil
		}
		if _, err := tx.Exec(ctx, `UPDATE alert SET acked = ?, acked_by = ?, note = ? WHERE grp = ? AND open = 1 AND acked = 0`, tx.Now(), by, excerpt.Text(note, 500), a.Group); err != nil {
			return err
		}
		if err := event.Append(ctx, tx, event.Event{Kind: event.AlertAcknowledged, Actor: by, Digest: a.Artifact, Team: a.Team, Service: a.Service, Body: map[string]any{
			"id": a.ID, "rule": a.Rule, "group": a.Group, "seconds": int64(tx.Now().Sub(a.Since).Seconds()), "note": excerpt.Text(note, 500),
		}}); err != nil {
			return err
		}
		a, err = s.get(ctx, tx, a.ID)
		return err
	})
	return a, err
}

// Hush makes a silence: its owner, reason and end are required. One that may keep
// pages back lasts a day at most, any other thirty.
func (s *Store) Hush(ctx context.Context, x Silence) (Silence, error) {
	err := s.o.DB.Update(ctx, func(tx *store.Tx) error {
		x.ID, x.Made, x.Ended, x.EndedBy = newID("sil_"), tx.Now(), time.Time{}, ""
		if err := x.validate(); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO alert_silence (id, rule, severity, service, team, cluster, digest, owner, reason, made, expires, ended, ended_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, '')`,
			x.ID, x.Rule, string(x.Severity), x.Service, x.Team, x.Cluster, string(x.Artifact), x.Owner, x.Reason, x.Made, store.Micros(x.Expires)); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.AlertSilenced, Actor: x.Owner, Digest: x.Artifact, Team: x.Team, Service: x.Service, Body: map[string]any{
			"id": x.ID, "rule": x.Rule, "severity": string(x.Severity), "cluster": x.Cluster, "reason": x.Reason, "expires": x.Expires.UTC().Format(time.RFC3339),
		}})
	})
	return x, err
}

func (s *Silence) validate() error {
	s.Reason = excerpt.Text(strings.TrimSpace(s.Reason), 500)
	long := s.Expires.Sub(s.Made)
	switch {
	case s.Owner == "" || s.Reason == "":
		return fault.Newf(fault.Invalid, "a silence wants an owner and a reason")
	case s.Rule == "" && s.Service == "" && s.Team == "" && s.Cluster == "" && s.Artifact == "":
		return fault.Newf(fault.Invalid, "a silence over everything is none: give a rule, a service, a team, a cluster or an artifact")
	case s.Severity != "" && s.Severity != Page && s.Severity != Ticket:
		return fault.Newf(fault.Invalid, "severity %.40q: want page or ticket", s.Severity)
	case s.Rule == RuleSilenced:
		return fault.Newf(fault.Invalid, "the rule %s cannot be silenced: it tells of silences", RuleSilenced)
	case s.Rule != "" && ruleOf(s.Rule) == nil:
		return fault.Newf(fault.Invalid, "no rule is %.60q: see assay alert rules", s.Rule)
	case long <= 0:
		return fault.Newf(fault.Invalid, "the silence would have ended %s: want an end to come", s.Expires.Format(time.RFC3339))
	case long > longestHush:
		return fault.Newf(fault.Invalid, "a silence of %s: want at most 30 days; what is wrong for longer wants mending, or another rule", long.Round(time.Hour))
	case s.mayHoldPages() && long > longestPages:
		return fault.Newf(fault.Invalid, "a silence of %s that may keep pages back: want at most 24 h, or severity ticket", long.Round(time.Minute))
	}
	if s.Artifact != "" {
		return s.Artifact.Validate()
	}
	return nil
}

func (s *Silence) mayHoldPages() bool {
	if r := ruleOf(s.Rule); r != nil && !r.mayPage() {
		return false
	}
	return s.Severity != Ticket
}

// Unhush ends a silence before its time; fault.NotFound where none is in force,
// fault.Denied where it is not within reach.
func (s *Store) Unhush(ctx context.Context, id, by string, reach *Reach) (out Silence, err error) {
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		now := tx.Now()
		all, err := s.silences(ctx, tx, now, false)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(x Silence) bool { return x.ID == id })
		if i < 0 {
			return fault.Newf(fault.NotFound, "no silence in force is %.80q: see assay alert silences", id)
		}
		if err := reach.Check("silence "+id, all[i].Service); err != nil {
			return err
		}
		out = all[i]
		out.Ended, out.EndedBy = now, by
		if _, err := tx.Exec(ctx, `UPDATE alert_silence SET ended = ?, ended_by = ? WHERE id = ?`, now, by, id); err != nil {
			return err
		}
		tx.OnCommit(s.nudge)
		return event.Append(ctx, tx, event.Event{Kind: event.AlertSilenceEnded, Actor: by, Body: map[string]any{"id": id}})
	})
	return out, err
}

// Receivers are those in force.
func (s *Store) Receivers() []*Receiver {
	if s.o.Receivers == nil {
		return nil
	}
	return s.o.Receivers()
}
