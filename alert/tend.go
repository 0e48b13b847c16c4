package alert

import (
	"context"
	"fmt"
	"strings"
	"time"

	"assay/event"
	"assay/slo"
	"assay/store"
)

const (
	tendEvery     = 15 * time.Second
	outageWindow  = time.Minute
	outageAtLeast = 5 // questions without an answer, and none with one
	maxEscalated  = 3
)

// Run follows events, sends notices and tends what is open, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	done := make(chan error, 2)
	go func() { done <- s.Follow(ctx) }()
	go func() { done <- s.Send(ctx) }()
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		held, _, err := s.o.DB.Lease(ctx, "alert", s.o.Holder, 2*time.Minute)
		if err == nil && held {
			err = s.Tend(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.o.Logger.WarnContext(ctx, "open alerts could not be tended", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	if err := <-done; err != nil {
		return err
	}
	return <-done
}

// Tend looks once at what no event tells: objectives, an outage, pages that
// nobody acknowledged, silences that ended.
func (s *Store) Tend(ctx context.Context) error {
	if err := s.tendOutage(ctx); err != nil {
		return fmt.Errorf("look for an outage: %w", err)
	}
	if err := s.tendObjectives(ctx); err != nil {
		return fmt.Errorf("look at objectives: %w", err)
	}
	if err := s.escalate(ctx); err != nil {
		return fmt.Errorf("escalate: %w", err)
	}
	if err := s.unsilenced(ctx); err != nil {
		return fmt.Errorf("look at silences: %w", err)
	}
	if err := s.tendSilences(ctx); err != nil {
		return fmt.Errorf("look at silences of pages: %w", err)
	}
	return s.measure(ctx)
}

// tendSilences tells of silences that may keep pages back, while they are in force:
// who made one is not the only one who knows.
func (s *Store) tendSilences(ctx context.Context) error {
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		now := tx.Now()
		held, err := s.silences(ctx, tx, now, false)
		if err != nil {
			return err
		}
		inForce := map[string]bool{}
		for i := range held {
			x := &held[i]
			if !x.mayHoldPages() || x.Expires.Sub(x.Made) > longestPages {
				continue
			}
			inForce[x.ID] = true
			what := strings.Join(strings.Fields(strings.Join([]string{x.Rule, x.Service, x.Team, x.Cluster, string(x.Artifact)}, " ")), " ")
			if err := s.judged(ctx, tx, RuleSilenced, x.ID, fmt.Sprintf("%s, by %s, until %s: %s", what, x.Owner, x.Expires.UTC().Format(time.RFC3339), x.Reason), true, false); err != nil {
				return err
			}
		}
		open, err := s.list(ctx, tx, &Filter{Rule: RuleSilenced, Limit: 1000})
		if err != nil {
			return err
		}
		for i := range open {
			if !inForce[open[i].About] {
				if err := s.resolve(ctx, tx, &open[i], "system:alert"); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// judged opens the alert of a rule and what it is about, or resolves it. One whose
// severity the budget policy has changed since is closed and opened anew: as a
// ticket it told nobody who is on call.
func (s *Store) judged(ctx context.Context, tx *store.Tx, rule, about, summary string, wrong, page bool) error {
	r := ruleOf(rule)
	f := found{about: about, summary: summary, anywhere: true}
	fp := fingerprint(r, f, "")
	rows, err := tx.Query(ctx, `SELECT `+alertColumns+` FROM alert WHERE open = 1 AND fingerprint = ?`, fp)
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
	o := &occurrence{rule: r, found: f, page: page, at: tx.Now()}
	if wrong && len(open) > 0 && r.severity != nil && open[0].Severity != r.severity(o) {
		if err := s.resolve(ctx, tx, &open[0], "system:alert"); err != nil {
			return err
		}
		open = nil
	}
	switch {
	case wrong && len(open) == 0:
		return s.fire(ctx, tx, o)
	case wrong:
		_, err := tx.Exec(ctx, `UPDATE alert SET last = ?, summary = ? WHERE id = ?`, tx.Now(), summary, open[0].ID)
		return err
	case len(open) > 0:
		return s.resolve(ctx, tx, &open[0], "system:alert")
	}
	return nil
}

// tendOutage pages when questions come and none is answered. It takes several, so
// that a flake does not; it is over when one is answered again.
func (s *Store) tendOutage(ctx context.Context) error {
	if s.o.Outage == nil {
		return nil
	}
	answered, failed, err := s.o.Outage(ctx, outageWindow)
	if err != nil {
		return err
	}
	if answered == 0 && failed > 0 && failed < outageAtLeast || answered == 0 && failed == 0 {
		return nil // nothing is known of it
	}
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		return s.judged(ctx, tx, RuleOutage, "verification", fmt.Sprintf("%d questions in the last minute, none of them answered", failed), answered == 0 && failed >= outageAtLeast, false)
	})
}

func (s *Store) tendObjectives(ctx context.Context) error {
	if s.o.Objectives == nil {
		return nil
	}
	all, err := s.o.Objectives(ctx)
	if err != nil {
		return err
	}
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		for i := range all {
			o := &all[i]
			about := string(o.Indicator.ID)
			if about == "" {
				about = string(o.Definition.ID)
			}
			fast, slowly := false, false
			for _, b := range o.BurnRates {
				fast, slowly = fast || b.Alerting && b.Page, slowly || b.Alerting && !b.Page
			}
			summary := o.Definition.Name + ": " + o.Reason
			for rule, wrong := range map[string]bool{RuleFastBurn: fast, RuleSlowBurn: slowly && !fast, RuleMissed: o.State == slo.Exhausted && !fast} {
				if err := s.judged(ctx, tx, rule, about, summary, wrong, o.PageWhenSpent); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// escalate tells again, and further up, of pages that nobody acknowledged in
// time: three times at most, each after twice as long.
func (s *Store) escalate(ctx context.Context) error {
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		now := tx.Now()
		silences, err := s.silences(ctx, tx, now, false)
		if err != nil {
			return err
		}
		// Those that wait longest: a flood of new ones keeps nobody from them.
		all, err := s.list(ctx, tx, &Filter{State: Firing, Severity: Page, Limit: 1000, overdue: now.Add(-s.o.AckWithin)})
		if err != nil {
			return err
		}
		type waiting struct {
			times, alerts int
			since         time.Time
			team, service string
		}
		groups := map[string]*waiting{}
		for i := range all {
			a := &all[i]
			if silencedBy(a, silences) != "" {
				continue
			}
			w := groups[a.Group]
			if w == nil {
				w = &waiting{since: a.Since, team: a.Team, service: a.Service}
				groups[a.Group] = w
			}
			w.alerts++
			w.times = max(w.times, a.Escalated)
			if a.Since.Before(w.since) {
				w.since = a.Since
			}
		}
		for id, w := range groups {
			if w.times >= maxEscalated || now.Sub(w.since) < s.o.AckWithin<<w.times {
				continue
			}
			if _, err := tx.Exec(ctx, `UPDATE alert SET escalated = ? WHERE grp = ? AND open = 1 AND acked = 0`, w.times+1, id); err != nil {
				return err
			}
			if err := s.queue(ctx, tx, id, fmt.Sprintf("%s:%d", OccasionEscalated, w.times+1), 0); err != nil {
				return err
			}
			if err := event.Append(ctx, tx, event.Event{Kind: event.AlertEscalated, Actor: "system:alert", Team: w.team, Service: w.service, Body: map[string]any{"group": id, "times": w.times + 1, "alerts": w.alerts}}); err != nil {
				return err
			}
			tx.OnCommit(s.metrics.escalated.Inc)
		}
		return nil
	})
}

// unsilenced tells of alerts whose silence ended while they were open.
func (s *Store) unsilenced(ctx context.Context) error {
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		ids, err := store.Values[string](ctx, tx, `SELECT MIN(id) FROM alert a WHERE open = 1 AND NOT EXISTS (SELECT 1 FROM alert_told t WHERE t.grp = a.grp AND t.rule = a.rule) GROUP BY grp, rule`)
		if err != nil {
			return err
		}
		for _, id := range ids {
			a, err := s.get(ctx, tx, id)
			if err != nil {
				return err
			}
			if err := s.announce(ctx, tx, &a); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, `DELETE FROM alert_flake WHERE at < ?`, store.Micros(tx.Now().Add(-flakeWindow)))
		return err
	})
}

// measure renews the gauges, and takes away what is older than is kept.
func (s *Store) measure(ctx context.Context) error {
	n := map[[2]string]float64{}
	err := s.o.DB.Update(ctx, func(tx *store.Tx) error {
		clear(n)
		rows, err := tx.Query(ctx, `SELECT severity, CASE WHEN acked = 0 THEN 'firing' ELSE 'acknowledged' END, COUNT(*) FROM alert WHERE open = 1 GROUP BY 1, 2`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k [2]string
			var c int64
			if err := rows.Scan(&k[0], &k[1], &c); err != nil {
				return err
			}
			n[k] = float64(c)
		}
		return rows.Err()
	})
	if err != nil {
		return err
	}
	for _, sev := range []Severity{Page, Ticket} {
		for _, st := range []State{Firing, Acknowledged} {
			s.metrics.active.WithLabelValues(string(sev), string(st)).Set(n[[2]string{string(sev), string(st)}])
		}
	}
	if now := s.o.Clock(); now.Sub(s.pruned) > time.Hour {
		s.pruned = now
		return s.prune(ctx)
	}
	return nil
}

func (s *Store) prune(ctx context.Context) error {
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		old := store.Micros(tx.Now().Add(-keepResolved))
		for _, q := range []string{
			`DELETE FROM alert WHERE open = 0 AND resolved < ?`, `DELETE FROM alert_group WHERE open = 0 AND resolved < ?`,
			`DELETE FROM alert_delivery WHERE created < ? AND NOT EXISTS (SELECT 1 FROM alert_group g WHERE g.id = alert_delivery.grp)`, `DELETE FROM alert_silence WHERE expires < ?`,
			`DELETE FROM alert_told WHERE NOT EXISTS (SELECT 1 FROM alert_group g WHERE g.id = alert_told.grp)`,
		} {
			var args []any
			if strings.Contains(q, "?") {
				args = append(args, old)
			}
			if _, err := tx.Exec(ctx, q, args...); err != nil {
				return err
			}
		}
		return nil
	})
}
