package admission

import (
	"context"
	"slices"

	"assay/event"
	"assay/store"
)

// Guard is an object that guards a cluster, as it was seen there; without a
// fingerprint it is not there.
type Guard struct{ Kind, Name, Fingerprint string }

// noGuard is what a first look finds missing where it finds nothing at all: every
// install writes it.
var noGuard = Guard{Kind: "validatingwebhookconfigurations", Name: "assay"}

// SeeGuards compares what guards a cluster with what was seen before, and tells of
// what is gone or says something else. The first look keeps what it sees, and tells
// only that there is nothing.
func SeeGuards(ctx context.Context, db *store.DB, cluster string, seen []Guard) error {
	return db.Update(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, `SELECT kind, name, fingerprint FROM admission_guard WHERE cluster = ? ORDER BY kind, name`, cluster)
		if err != nil {
			return err
		}
		var before []Guard
		for rows.Next() {
			var g Guard
			if err := rows.Scan(&g.Kind, &g.Name, &g.Fingerprint); err != nil {
				return err
			}
			before = append(before, g)
		}
		if err := rows.Close(); err != nil {
			return err
		}
		if len(before)+len(seen) == 0 {
			seen = []Guard{noGuard}
		}
		change := func(g Guard, from string) error {
			if _, err := tx.Exec(ctx, `INSERT INTO admission_guard (cluster, kind, name, fingerprint, since) VALUES (?, ?, ?, ?, ?)
				ON CONFLICT (cluster, kind, name) DO UPDATE SET fingerprint = excluded.fingerprint, since = excluded.since`,
				cluster, g.Kind, g.Name, g.Fingerprint, store.Micros(tx.Now())); err != nil || from == g.Fingerprint && g.Fingerprint != "" {
				return err
			}
			what := "changed"
			switch {
			case g.Fingerprint == "":
				what = "missing"
			case from == "":
				what = "back"
			}
			return event.Append(ctx, tx, event.Event{Kind: event.ClusterGuardChanged, Actor: "system:admission", Cluster: cluster, Body: map[string]string{"kind": g.Kind, "name": g.Name, "what": what}})
		}
		for _, b := range before {
			i := slices.IndexFunc(seen, func(g Guard) bool { return g.Kind == b.Kind && g.Name == b.Name })
			now := Guard{Kind: b.Kind, Name: b.Name}
			if i >= 0 {
				now = seen[i]
			}
			if now.Fingerprint == b.Fingerprint {
				continue
			}
			if err := change(now, b.Fingerprint); err != nil {
				return err
			}
		}
		for _, g := range seen {
			if !slices.ContainsFunc(before, func(b Guard) bool { return b.Kind == g.Kind && b.Name == g.Name }) {
				if err := change(g, g.Fingerprint); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
