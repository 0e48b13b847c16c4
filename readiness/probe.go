package readiness

import (
	"context"
	"regexp"
	"strings"
	"time"

	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/store"
)

// Migrations of the table: what was probed or rehearsed last, by name.
var Migrations = store.Migrations{Name: "readiness", Steps: []string{`
CREATE TABLE readiness_probe (
	name   TEXT   NOT NULL PRIMARY KEY,
	status TEXT   NOT NULL, -- pass, fail
	found  TEXT   NOT NULL,
	at     BIGINT NOT NULL,
	actor  TEXT   NOT NULL
);`}}

// Probe is what was tried, or rehearsed.
type Probe struct {
	Name   string    `json:"name"`   // unsigned-push, unsigned-pod, restore, game-day, policy-review, revocation-drill, or another
	Status Status    `json:"status"` // pass or fail
	Found  string    `json:"found"`  // what happened
	At     time.Time `json:"at,omitzero"`
	Actor  string    `json:"actor,omitempty"`
}

var probeRE = regexp.MustCompile(`^[a-z][a-z0-9-]{1,62}$`)

// mostProbes bounds the names that are kept.
const mostProbes = 200

// Record keeps the outcome of a probe or an exercise. The last of each name counts;
// the event trail has all.
func Record(ctx context.Context, db *store.DB, p Probe, actor string) (Probe, error) {
	if !probeRE.MatchString(p.Name) {
		return p, fault.Newf(fault.Invalid, "name %.80q: want lower-case letters, digits and -, such as restore or game-day", p.Name)
	}
	if p.Status != Pass && p.Status != Fail {
		return p, fault.Newf(fault.Invalid, "status %.20q: want pass or fail", p.Status)
	}
	if n := len(strings.TrimSpace(p.Found)); n < 3 || n > 1000 {
		return p, fault.Newf(fault.Invalid, "found: want 3 to 1,000 bytes about what happened")
	}
	p.Found, p.Actor = excerpt.Text(p.Found, 1000), actor
	err := db.Update(ctx, func(tx *store.Tx) error {
		p.At = tx.Now()
		var n int
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM readiness_probe WHERE name <> ?`, p.Name).Scan(&n); err != nil {
			return err
		}
		if n >= mostProbes {
			return fault.Newf(fault.TooLarge, "%d names of probes are kept already: use one of them", n)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO readiness_probe (name, status, found, at, actor) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET status = excluded.status, found = excluded.found, at = excluded.at, actor = excluded.actor`, p.Name, string(p.Status), p.Found, store.Micros(p.At), actor); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.ReadinessProbed, Actor: actor, TraceID: event.TraceFrom(ctx), Body: map[string]any{"name": p.Name, "status": p.Status, "found": p.Found}})
	})
	return p, err
}

// Probes lists what was probed last.
func Probes(ctx context.Context, db *store.DB) (all []Probe, err error) {
	err = db.View(ctx, func(tx *store.Tx) error {
		all = []Probe{}
		rows, err := tx.Query(ctx, `SELECT name, status, found, at, actor FROM readiness_probe ORDER BY name`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var p Probe
			var at int64
			if err := rows.Scan(&p.Name, &p.Status, &p.Found, &at, &p.Actor); err != nil {
				return err
			}
			p.At = store.Time(at)
			all = append(all, p)
		}
		return rows.Err()
	})
	return all, err
}
