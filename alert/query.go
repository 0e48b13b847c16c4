package alert

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// Filter says which alerts are asked for. Empty members ask for all.
type Filter struct {
	State    State // "": those that are not resolved
	All      bool  // resolved ones too
	Severity Severity
	Rule     string
	Service  string
	Team     string
	Services []string // any of these; nil: all, and what is of none
	Group    string
	Artifact artifact.Digest
	Unowned  bool
	Since    time.Time
	Limit    int // 0: 100

	overdue time.Time // those that began before it and can be escalated still, the oldest first
}

// validate refuses what would match nothing, and so look as if nothing were wrong;
// fault.Invalid.
func (f *Filter) validate() error {
	switch {
	case f.Severity != "" && f.Severity != Page && f.Severity != Ticket:
		return fault.Newf(fault.Invalid, "severity %.40q: want page or ticket", f.Severity)
	case f.State != "" && f.State != Firing && f.State != Acknowledged && f.State != Resolved:
		return fault.Newf(fault.Invalid, "state %.40q: want firing, acknowledged or resolved", f.State)
	case f.Rule != "" && ruleOf(f.Rule) == nil:
		return fault.Newf(fault.Invalid, "no rule is %.60q: see assay alert rules", f.Rule)
	case f.Artifact != "":
		return f.Artifact.Validate()
	}
	return nil
}

// List gives alerts, the newest first; fault.Invalid for a filter that nothing can
// match.
func (s *Store) List(ctx context.Context, f Filter) (out []Alert, err error) {
	if err := f.validate(); err != nil {
		return nil, err
	}
	err = s.o.DB.View(ctx, func(tx *store.Tx) (err error) {
		out, err = s.list(ctx, tx, &f)
		return err
	})
	return out, err
}

func (s *Store) list(ctx context.Context, tx *store.Tx, f *Filter) (out []Alert, err error) {
	conds, args := []string{"1 = 1"}, []any{}
	and := func(cond string, v ...any) { conds, args = append(conds, cond), append(args, v...) }
	switch {
	case f.State == Resolved:
		and("open = 0")
	case f.State == Acknowledged:
		and("open = 1 AND acked <> 0")
	case f.State == Firing:
		and("open = 1 AND acked = 0")
	case !f.All:
		and("open = 1")
	}
	for _, c := range []struct{ column, value string }{
		{"severity", string(f.Severity)}, {"rule", f.Rule}, {"service", f.Service}, {"team", f.Team}, {"grp", f.Group}, {"digest", string(f.Artifact)},
	} {
		if c.value != "" {
			and(c.column+" = ?", c.value)
		}
	}
	if f.Services != nil {
		if len(f.Services) == 0 {
			return nil, nil
		}
		and("service IN (?" + strings.Repeat(", ?", len(f.Services)-1) + ")")
		for _, t := range f.Services {
			args = append(args, t)
		}
	}
	if f.Unowned {
		and("owned = 0")
	}
	if !f.Since.IsZero() {
		and("since >= ?", store.Micros(f.Since))
	}
	order := `open DESC, since DESC, id DESC`
	if !f.overdue.IsZero() {
		and("since <= ? AND escalated < ?", store.Micros(f.overdue), maxEscalated)
		order = `since, id`
	}
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	rows, err := tx.Query(ctx, `SELECT `+alertColumns+` FROM alert WHERE `+strings.Join(conds, " AND ")+` ORDER BY `+order+` LIMIT ?`, append(args, limit)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		a, err := scanAlert(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	silences, err := s.silences(ctx, tx, tx.Now(), false)
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].Silenced = silencedBy(&out[i], silences)
	}
	return out, nil
}

func silencedBy(a *Alert, silences []Silence) string {
	if a.State == Resolved {
		return ""
	}
	i := slices.IndexFunc(silences, func(s Silence) bool { return s.Matches(a) })
	if i < 0 {
		return ""
	}
	return silences[i].ID
}

// Get gives one alert by its ID or by the start of it, if that names one alone;
// fault.NotFound, fault.Conflict.
func (s *Store) Get(ctx context.Context, id string) (a Alert, err error) {
	err = s.o.DB.View(ctx, func(tx *store.Tx) (err error) {
		a, err = s.get(ctx, tx, id)
		return err
	})
	return a, err
}

// GroupFilter says which groups are asked for. Empty members ask for all.
type GroupFilter struct {
	All      bool     // those that are over too
	Services []string // any of these; nil: all, and those of none
	Limit    int      // 0: 100
}

// Groups gives the groups that go on, pages first and then the newest first, each
// with the newest of its alerts. So a release with thousands of alerts hides no
// other.
func (s *Store) Groups(ctx context.Context, f GroupFilter) (out []Group, err error) {
	if f.Services != nil && len(f.Services) == 0 {
		return nil, nil
	}
	open, within, args := 1, "", []any{}
	if f.All {
		open = 0
	}
	args = append(args, open)
	if f.Services != nil {
		within = " AND service IN (?" + strings.Repeat(", ?", len(f.Services)-1) + ")"
		for _, v := range f.Services {
			args = append(args, v)
		}
	}
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT `+groupColumns+` FROM alert_group WHERE open >= ?`+within+` ORDER BY open DESC, severity, opened DESC, id LIMIT ?`, append(args, cmp.Or(max(f.Limit, 0), 100))...)
		if err != nil {
			return err
		}
		for rows.Next() {
			g, err := scanGroup(rows.Scan)
			if err != nil {
				rows.Close()
				return err
			}
			out = append(out, g)
		}
		rows.Close()
		if err := rows.Err(); err != nil {
			return err
		}
		for i := range out {
			if err := s.fill(ctx, tx, &out[i], 1); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

const groupColumns = `id, severity, service, release, team, owned, opened, resolved`

func scanGroup(scan func(...any) error) (g Group, err error) {
	var owned, opened, resolved int64
	err = scan(&g.ID, &g.Severity, &g.Service, &g.Release, &g.Team, &owned, &opened, &resolved)
	g.Owned, g.Opened = owned != 0, store.Time(opened)
	if resolved != 0 {
		g.Resolved = store.Time(resolved)
	}
	return g, err
}

// fill reads a group's newest alerts.
func (s *Store) fill(ctx context.Context, tx *store.Tx, g *Group, most int) (err error) {
	if g.Alerts, err = s.list(ctx, tx, &Filter{Group: g.ID, All: true, Limit: most}); err != nil {
		return err
	}
	return tx.QueryRow(ctx, `SELECT COUNT(*), COALESCE(SUM(open), 0), COALESCE(SUM(CASE WHEN open = 1 AND acked = 0 THEN 1 ELSE 0 END), 0) FROM alert WHERE grp = ?`, g.ID).Scan(&g.Total, &g.Firing, &g.Waiting)
}

// Silences gives those in force, or with all those that ended within 30 days too.
func (s *Store) Silences(ctx context.Context, all bool) (out []Silence, err error) {
	err = s.o.DB.View(ctx, func(tx *store.Tx) (err error) {
		out, err = s.silences(ctx, tx, tx.Now(), all)
		return err
	})
	return out, err
}

func (s *Store) silences(ctx context.Context, tx *store.Tx, now time.Time, all bool) (out []Silence, err error) {
	q, since := `SELECT id, rule, severity, service, team, cluster, digest, owner, reason, made, expires, ended, ended_by FROM alert_silence WHERE expires > ?`, now
	if all {
		since = now.Add(-keepSilences)
	} else {
		q += ` AND ended = 0`
	}
	rows, err := tx.Query(ctx, q+` ORDER BY made DESC, id`, store.Micros(since))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var x Silence
		var made, expires, ended int64
		if err := rows.Scan(&x.ID, &x.Rule, &x.Severity, &x.Service, &x.Team, &x.Cluster, &x.Artifact, &x.Owner, &x.Reason, &made, &expires, &ended, &x.EndedBy); err != nil {
			return nil, err
		}
		x.Made, x.Expires = store.Time(made), store.Time(expires)
		if ended != 0 {
			x.Ended = store.Time(ended)
		}
		out = append(out, x)
	}
	return out, rows.Err()
}

// Deliveries lists notices, the newest first: of a group, or ("") of all.
func (s *Store) Deliveries(ctx context.Context, group string, limit int) (out []Delivery, err error) {
	if limit <= 0 {
		limit = 100
	}
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT `+deliveryColumns+` FROM alert_delivery WHERE (? = '' OR grp = ?) ORDER BY created DESC, id LIMIT ?`, group, group, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			d, err := scanDelivery(rows.Scan)
			if err != nil {
				return err
			}
			out = append(out, d)
		}
		return rows.Err()
	})
	return out, err
}

const deliveryColumns = `id, grp, occasion, receiver, created, due, attempts, taken, given_up, problem, ref`

func scanDelivery(scan func(...any) error, more ...any) (d Delivery, err error) {
	var created, due, taken, dead int64
	err = scan(append([]any{&d.ID, &d.Group, &d.Occasion, &d.Receiver, &created, &due, &d.Attempts, &taken, &dead, &d.Problem, &d.Ref}, more...)...)
	d.Created, d.Due, d.GivenUp = store.Time(created), store.Time(due), dead != 0
	if taken != 0 {
		d.Taken = store.Time(taken)
	}
	return d, err
}
