package alert

import (
	"context"
	"time"

	"assay/event"
	"assay/store"
)

// queue enters a notice of a group for each of its receivers. One that was
// entered before stays as it is.
func (s *Store) queue(ctx context.Context, tx *store.Tx, group, occasion string, wait time.Duration) error {
	g, err := groupOf(ctx, tx, group)
	if err != nil {
		return err
	}
	to := s.receivers(&g, occasion)
	if len(to) == 0 {
		s.o.Logger.WarnContext(ctx, "an alert has no receiver: nobody is told", "group", group, "severity", g.Severity, "team", g.Team)
		return event.Append(ctx, tx, event.Event{Kind: event.AlertUndelivered, Actor: "system:alert", Team: g.Team, Service: g.Service, Body: map[string]any{
			"group": g.ID, "receiver": "", "attempts": 0, "reason": "no document of kind Receiver takes " + string(g.Severity) + "s of this team, and none is the default",
		}})
	}
	for _, r := range to {
		if err := s.enter(ctx, tx, group, occasion, r.Name, "", wait); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) enter(ctx context.Context, tx *store.Tx, group, occasion, receiver, body string, wait time.Duration) error {
	now := tx.Now()
	if _, err := tx.Exec(ctx, `INSERT INTO alert_delivery (id, grp, occasion, receiver, body, created, due, attempts, taken, given_up, problem, ref) VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, '', '') ON CONFLICT (id) DO NOTHING`,
		group+"/"+occasion+"/"+receiver, group, occasion, receiver, body, now, store.Micros(now.Add(wait))); err != nil {
		return err
	}
	tx.OnCommit(s.nudge)
	return nil
}

// queueResolved tells those who were told of a group that it is over. A notice
// that nobody has tried to send yet is not sent any more, nor is its end.
func (s *Store) queueResolved(ctx context.Context, tx *store.Tx, group string) error {
	if _, err := tx.Exec(ctx, `DELETE FROM alert_delivery WHERE grp = ? AND taken = 0 AND given_up = 0 AND attempts = 0`, group); err != nil {
		return err
	}
	told, err := store.Values[string](ctx, tx, `SELECT DISTINCT receiver FROM alert_delivery WHERE grp = ? AND occasion <> ?`, group, OccasionResolved)
	if err != nil {
		return err
	}
	for _, name := range told {
		if r := s.receiver(name); r == nil || r.Quiet && !r.issues() {
			continue
		}
		if err := s.enter(ctx, tx, group, OccasionResolved, name, "", 0); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) receiver(name string) *Receiver {
	if s.o.Receivers == nil {
		return nil
	}
	for _, r := range s.o.Receivers() {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// receivers are those of a group: by the routes of its service, then its team.
func (s *Store) receivers(g *Group, occasion string) []*Receiver {
	if s.o.Receivers == nil {
		return nil
	}
	var named []string
	further := len(occasion) >= len(OccasionEscalated) && occasion[:len(OccasionEscalated)] == OccasionEscalated
	if s.o.Catalogue != nil && s.o.Catalogue() != nil {
		c := s.o.Catalogue()
		keys := []string{string(g.Severity)}
		if further {
			keys = []string{"escalation", string(g.Severity)}
		}
		team, _ := c.Team(g.Team)
		for _, k := range keys {
			if v := c.Service(g.Service); v != nil && v.Routes[k] != "" {
				named = append(named, v.Routes[k])
			} else if team.Routes[k] != "" {
				named = append(named, team.Routes[k])
			}
		}
	}
	return route(s.o.Receivers(), g.Severity, g.Team, named, further)
}

func groupOf(ctx context.Context, tx *store.Tx, id string) (Group, error) {
	return scanGroup(tx.QueryRow(ctx, `SELECT `+groupColumns+` FROM alert_group WHERE id = ?`, id).Scan)
}
