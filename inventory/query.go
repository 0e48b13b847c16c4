package inventory

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"assay/artifact"
	"assay/store"
)

// Filter says which rows are asked for. Empty members ask for all.
type Filter struct {
	At        time.Time // what ran then; zero: what runs now
	Digest    artifact.Digest
	Cluster   string
	Namespace string
	Service   string
	Team      string
	Unowned   bool   // those of no service
	After     string // cursor of the page before
	Limit     int    // 0: 100
}

const columns = `cluster, namespace, kind, name, instance, container, first_seen, digest, image, node, service, team, environment, ended`

// List gives what runs, or ran at a time, in the order of its keys; next is the
// cursor of the page behind, "" at the end.
func (s *Store) List(ctx context.Context, f Filter) (all []Running, next string, err error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	where, args, err := f.where()
	if err != nil {
		return nil, "", err
	}
	err = s.db.View(ctx, func(tx *store.Tx) error {
		all = nil
		clusters, err := s.clusters(ctx, tx)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT `+columns+` FROM inventory_workload WHERE `+where+
			` ORDER BY cluster, namespace, kind, name, instance, container, first_seen, digest LIMIT ?`, append(args, f.Limit+1)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			r, err := scan(rows, clusters)
			if err != nil {
				return err
			}
			all = append(all, r)
		}
		return rows.Err()
	})
	if err == nil && len(all) > f.Limit {
		all = all[:f.Limit]
		next = cursorOf(&all[f.Limit-1])
	}
	return all, next, err
}

func scan(rows interface{ Scan(...any) error }, clusters map[string]Reporting) (r Running, err error) {
	var first, ended int64
	if err := rows.Scan(&r.Cluster, &r.Namespace, &r.Kind, &r.Name, &r.Instance, &r.Container, &first, &r.Digest, &r.Image, &r.Node, &r.Service, &r.Team, &r.Environment, &ended); err != nil {
		return r, err
	}
	r.FirstSeen = store.Time(first)
	if ended != 0 {
		r.Ended = store.Time(ended)
		r.LastSeen = r.Ended
		return r, nil
	}
	c := clusters[r.Cluster]
	r.LastSeen, r.Silent = c.Seen, c.Silent
	return r, nil
}

func (f *Filter) where() (string, []any, error) {
	var conds []string
	var args []any
	if f.At.IsZero() {
		conds = append(conds, `ended = 0`)
	} else {
		at := store.Micros(f.At)
		conds = append(conds, `first_seen <= ? AND (ended = 0 OR ended > ?)`)
		args = append(args, at, at)
	}
	for _, c := range []struct{ column, value string }{
		{"digest", string(f.Digest)}, {"cluster", f.Cluster}, {"namespace", f.Namespace}, {"service", f.Service}, {"team", f.Team},
	} {
		if c.value != "" {
			conds = append(conds, c.column+` = ?`)
			args = append(args, c.value)
		}
	}
	if f.Unowned {
		conds = append(conds, `service = ''`)
	}
	if f.After != "" {
		var k [7]string
		var first int64
		b, err := base64.RawURLEncoding.DecodeString(f.After)
		if err == nil {
			err = json.Unmarshal(b, &struct {
				K *[7]string
				F *int64
			}{&k, &first})
		}
		if err != nil {
			return "", nil, errFilter(f.After)
		}
		place, at := `cluster, namespace, kind, name, instance, container, first_seen, digest`, []any{k[0], k[1], k[2], k[3], k[4], k[5], first, k[6]}
		if f.Cluster == k[0] { // what is equal must not stand in it, for the index to be entered at the place
			place, at = strings.TrimPrefix(place, "cluster, "), at[1:]
		}
		conds = append(conds, `(`+place+`) > (?`+strings.Repeat(", ?", len(at)-1)+`)`)
		args = append(args, at...)
	}
	return strings.Join(conds, " AND "), args, nil
}

func cursorOf(r *Running) string {
	b, _ := json.Marshal(struct {
		K [7]string
		F int64
	}{[7]string{r.Cluster, r.Namespace, r.Kind, r.Name, r.Instance, r.Container, string(r.Digest)}, store.Micros(r.FirstSeen)})
	return base64.RawURLEncoding.EncodeToString(b)
}

// Presence is where a digest runs, in short.
type Presence struct {
	Instances  int
	Production bool // one of them counts as production
	Silent     bool // one of them is in a cluster that was not heard of for long
	Services   []string
	Clusters   []string
	Since      time.Time // the first of them
}

// Runs says where a digest runs now; nil where it is not seen to run.
func (s *Store) Runs(ctx context.Context, tx *store.Tx, digest artifact.Digest) (*Presence, error) {
	all, err := s.presence(ctx, tx, ` AND digest = ?`, string(digest))
	return all[digest], err
}

// Presences says of every digest that runs where it does.
func (s *Store) Presences(ctx context.Context, tx *store.Tx) (map[artifact.Digest]*Presence, error) {
	return s.presence(ctx, tx, ``)
}

func (s *Store) presence(ctx context.Context, tx *store.Tx, and string, args ...any) (map[artifact.Digest]*Presence, error) {
	clusters, err := s.clusters(ctx, tx)
	if err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, `SELECT digest, cluster, service, environment, COUNT(*), MIN(first_seen) FROM inventory_workload WHERE ended = 0`+and+
		` GROUP BY digest, cluster, service, environment ORDER BY digest, cluster, service, environment`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[artifact.Digest]*Presence{}
	for rows.Next() {
		var d artifact.Digest
		var cluster, service, environment string
		var n int
		var first int64
		if err := rows.Scan(&d, &cluster, &service, &environment, &n, &first); err != nil {
			return nil, err
		}
		p := out[d]
		if p == nil {
			p = &Presence{Since: store.Time(first)}
			out[d] = p
		}
		p.Instances += n
		p.Production = p.Production || Production(environment)
		p.Silent = p.Silent || clusters[cluster].Silent
		p.Services, p.Clusters = note(p.Services, service), note(p.Clusters, cluster)
		if t := store.Time(first); t.Before(p.Since) {
			p.Since = t
		}
	}
	return out, rows.Err()
}

func note(all []string, s string) []string {
	for _, have := range all {
		if have == s {
			return all
		}
	}
	if s == "" {
		return all
	}
	return append(all, s)
}

// Count says how many containers run of each service; those of none are under "".
func (s *Store) Count(ctx context.Context) (out map[string]int, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		out = map[string]int{}
		rows, err := tx.Query(ctx, `SELECT service, COUNT(*) FROM inventory_workload WHERE ended = 0 GROUP BY service`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			var n int
			if err := rows.Scan(&name, &n); err != nil {
				return err
			}
			out[name] = n
		}
		return rows.Err()
	})
	return out, err
}

// Told says whether anybody ever told what runs. Without, that a digest is not
// seen to run says nothing.
func (s *Store) Told(ctx context.Context, tx *store.Tx) (bool, error) {
	n := 0
	err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM inventory_cluster`).Scan(&n)
	return n > 0, err
}
