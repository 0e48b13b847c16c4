package inventory

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
)

// Store holds what runs. It is safe for many goroutines and processes.
type Store struct {
	db *store.DB
	o  Options
}

// Options are what a store asks of the site.
type Options struct {
	// Catalogue is the one in force; nil: none.
	Catalogue func() *Catalogue
	// Own says whether a host is this site's registry.
	Own func(host string) bool
	// Silence is how long a cluster may say nothing before it is not known what
	// runs there; 0: 15 minutes.
	Silence time.Duration
	// Identified is told, in the transaction, which digests run in workloads whose
	// identity or mesh changed; nil: nobody is.
	Identified func(ctx context.Context, tx *store.Tx, digests []artifact.Digest) error
}

// New makes a store over a database that was migrated with [Migrations] and
// event's.
func New(db *store.DB, o Options) *Store {
	if o.Catalogue == nil {
		o.Catalogue = func() *Catalogue { return nil }
	}
	if o.Own == nil {
		o.Own = func(string) bool { return false }
	}
	if o.Silence == 0 {
		o.Silence = 15 * time.Minute
	}
	return &Store{db, o}
}

// Catalogue is the one in force.
func (s *Store) Catalogue() *Catalogue { return s.o.Catalogue() }

// PlaceOf is where an image lies, by the reference that was asked for. What
// cannot be read lies nowhere.
func (s *Store) PlaceOf(image string) Place {
	r, err := artifact.ParseReference(image)
	if err != nil {
		return Place{}
	}
	if s.o.Own(r.Host) {
		return Place{Repository: r.Repository}
	}
	return Place{Host: r.Host, Repository: r.Repository}
}

// row is one that runs, as it is stored.
type row struct {
	Workload
	first                      int64
	service, team, environment string
}

// group is what events are told of: a workload's container of one digest, however
// many instances there are.
type group struct {
	namespace, kind, name, container string
	digest                           artifact.Digest
}

func (r *row) group() group {
	return group{r.Namespace, r.Kind, r.Name, r.Container, r.Digest}
}

// counted is how many instances of a group there are, before and after.
type counted struct {
	before, after int
	sample        row
	nodes         []string
}

// Observe writes what a snapshot says, and the events of what began and what
// ended, in tx. It writes what changed alone: a snapshot of what is known costs
// one row. Two snapshots of one cluster at once are one after the other.
func (s *Store) Observe(ctx context.Context, tx *store.Tx, snap Snapshot) (done Changed, err error) {
	if err := snap.Validate(); err != nil {
		return done, err
	}
	now := store.Micros(tx.Now())
	complete := int64(0)
	if snap.Complete {
		complete = now
	}
	// The row of the cluster is written first: on PostgreSQL it orders the two.
	if _, err := tx.Exec(ctx, `INSERT INTO inventory_cluster (name, environment, reporter, first_seen, seen, complete) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET environment = excluded.environment, reporter = excluded.reporter, seen = excluded.seen,
		complete = CASE WHEN excluded.complete > 0 THEN excluded.complete ELSE inventory_cluster.complete END`,
		snap.Cluster, snap.Environment, snap.Reporter, now, now, complete); err != nil {
		return done, err
	}
	known, err := s.known(ctx, tx, &snap)
	if err != nil {
		return done, err
	}
	groups := map[group]*counted{}
	count := func(r *row, before, after int) {
		g := groups[r.group()]
		if g == nil {
			g = &counted{sample: *r}
			groups[r.group()] = g
		}
		g.before, g.after = g.before+before, g.after+after
		if after > 0 && before == 0 && len(g.nodes) < 16 && !slices.Contains(g.nodes, r.Node) && r.Node != "" {
			g.nodes = append(g.nodes, r.Node)
		}
	}
	var begin, end, move []row
	book := s.o.Catalogue()
	for i := range snap.Workloads {
		w := &snap.Workloads[i]
		was, is := known[w.Key]
		if is && was.Digest == w.Digest && was.Image == w.Image {
			done.Kept++
			count(&was, 1, 1)
			delete(known, w.Key)
			if was.Node != w.Node && w.Node != "" {
				was.Node = w.Node
				move = append(move, was)
			}
			continue
		}
		next := row{Workload: *w, first: now}
		next.assign(book, snap.Cluster, snap.Environment, s.PlaceOf(w.Image))
		begin = append(begin, next)
		count(&next, 0, 1)
		if is {
			end = append(end, was)
			count(&was, 1, 0)
			delete(known, w.Key)
		}
	}
	gone := map[Key]bool{}
	for _, k := range snap.Ended {
		gone[k] = true
	}
	for k, r := range known {
		if snap.Complete || gone[k] {
			end = append(end, r)
			count(&r, 1, 0)
		} else {
			count(&r, 1, 1)
		}
	}
	done.Started, done.Stopped = len(begin), len(end)
	if err := finish(ctx, tx, snap.Cluster, end, now); err != nil {
		return done, err
	}
	if err := start(ctx, tx, snap.Cluster, begin); err != nil {
		return done, err
	}
	if err := moved(ctx, tx, snap.Cluster, move); err != nil {
		return done, err
	}
	if err := tell(ctx, tx, &snap, groups); err != nil {
		return done, err
	}
	return done, s.identify(ctx, tx, &snap)
}

func (r *row) assign(book *Catalogue, cluster, reported string, place Place) {
	svc, environment := book.OfWorkload(cluster, &r.Workload, place, reported)
	r.service, r.team, r.environment = "", "", environment
	if svc != nil {
		r.service, r.team = svc.Name, svc.Team
	}
}

// known reads what runs of what a snapshot is about: all of the cluster, or the
// workloads that it names.
func (s *Store) known(ctx context.Context, tx *store.Tx, snap *Snapshot) (map[Key]row, error) {
	out := map[Key]row{}
	named := map[[3]string]bool{}
	for i := range snap.Workloads {
		named[[3]string{snap.Workloads[i].Namespace, snap.Workloads[i].Kind, snap.Workloads[i].Name}] = true
	}
	for _, k := range snap.Ended {
		named[[3]string{k.Namespace, k.Kind, k.Name}] = true
	}
	const few = 64
	if snap.Complete || len(named) > few {
		return out, s.running(ctx, tx, out, `cluster = ?`, snap.Cluster)
	}
	for n := range named {
		if err := s.running(ctx, tx, out, `cluster = ? AND namespace = ? AND kind = ? AND name = ?`, snap.Cluster, n[0], n[1], n[2]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *Store) running(ctx context.Context, tx *store.Tx, out map[Key]row, where string, args ...any) error {
	rows, err := tx.Query(ctx, `SELECT namespace, kind, name, instance, container, first_seen, digest, image, node, service, team, environment
		FROM inventory_workload WHERE ended = 0 AND `+where, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.Namespace, &r.Kind, &r.Name, &r.Instance, &r.Container, &r.first, &r.Digest, &r.Image, &r.Node, &r.service, &r.team, &r.environment); err != nil {
			return err
		}
		out[r.Key] = r
	}
	return rows.Err()
}

// batch is how many rows one statement writes.
const batch = 100

func start(ctx context.Context, tx *store.Tx, cluster string, all []row) error {
	for part := range slices.Chunk(all, batch) {
		args := make([]any, 0, 14*len(part))
		for i := range part {
			r := &part[i]
			args = append(args, cluster, r.Namespace, r.Kind, r.Name, r.Instance, r.Container, r.first, string(r.Digest), r.Image, r.Node, r.service, r.team, r.environment, 0)
		}
		q := `INSERT INTO inventory_workload (cluster, namespace, kind, name, instance, container, first_seen, digest, image, node, service, team, environment, ended) VALUES ` +
			strings.TrimSuffix(strings.Repeat("(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?), ", len(part)), ", ") +
			` ON CONFLICT (cluster, namespace, kind, name, instance, container, first_seen, digest) DO UPDATE SET ended = 0, image = excluded.image`
		if _, err := tx.Exec(ctx, q, args...); err != nil {
			return err
		}
	}
	return nil
}

const theRow = `cluster = ? AND namespace = ? AND kind = ? AND name = ? AND instance = ? AND container = ? AND first_seen = ? AND digest = ?`

func (r *row) at(cluster string) []any {
	return []any{cluster, r.Namespace, r.Kind, r.Name, r.Instance, r.Container, r.first, string(r.Digest)}
}

func finish(ctx context.Context, tx *store.Tx, cluster string, all []row, now int64) error {
	for i := range all {
		if _, err := tx.Exec(ctx, `UPDATE inventory_workload SET ended = ? WHERE `+theRow, append([]any{max(now, all[i].first+1)}, all[i].at(cluster)...)...); err != nil {
			return err
		}
	}
	return nil
}

func moved(ctx context.Context, tx *store.Tx, cluster string, all []row) error {
	for i := range all {
		if _, err := tx.Exec(ctx, `UPDATE inventory_workload SET node = ? WHERE `+theRow, append([]any{all[i].Node}, all[i].at(cluster)...)...); err != nil {
			return err
		}
	}
	return nil
}

// tell writes an event for each group of which the first instance began, or the
// last one ended.
func tell(ctx context.Context, tx *store.Tx, snap *Snapshot, groups map[group]*counted) error {
	var events []event.Event
	for g, c := range groups {
		kind := event.WorkloadStarted
		switch {
		case c.before == 0 && c.after > 0:
		case c.before > 0 && c.after == 0:
			kind = event.WorkloadStopped
		default:
			continue
		}
		body := map[string]any{"namespace": g.namespace, "kind": g.kind, "name": g.name, "container": g.container, "image": c.sample.Image}
		if kind == event.WorkloadStarted {
			body["instances"], body["nodes"] = c.after, c.nodes
		}
		events = append(events, event.Event{Kind: kind, Digest: g.digest, Actor: snap.Reporter, Team: c.sample.team, Service: c.sample.service, Env: c.sample.environment, Cluster: snap.Cluster, Body: body})
	}
	slices.SortFunc(events, func(a, b event.Event) int { // ended before begun: an update reads in order
		x, y := a.Body.(map[string]any), b.Body.(map[string]any)
		return cmp.Or(-strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(x["namespace"].(string)+x["name"].(string), y["namespace"].(string)+y["name"].(string)), strings.Compare(string(a.Digest), string(b.Digest)))
	})
	return event.AppendAll(ctx, tx, events)
}

// Reassign brings what runs to the catalogue in force, after it changed: history
// stays as it was. It says how many rows changed.
func (s *Store) Reassign(ctx context.Context, tx *store.Tx) (changed int, err error) {
	book := s.o.Catalogue()
	reported, err := s.clusters(ctx, tx)
	if err != nil {
		return 0, err
	}
	for name, c := range reported {
		all := map[Key]row{}
		if err := s.running(ctx, tx, all, `cluster = ?`, name); err != nil {
			return 0, err
		}
		for _, r := range all {
			was := [3]string{r.service, r.team, r.environment}
			r.assign(book, name, c.Environment, s.PlaceOf(r.Image))
			if was == [3]string{r.service, r.team, r.environment} {
				continue
			}
			changed++
			if _, err := tx.Exec(ctx, `UPDATE inventory_workload SET service = ?, team = ?, environment = ? WHERE `+theRow, append([]any{r.service, r.team, r.environment}, r.at(name)...)...); err != nil {
				return 0, err
			}
		}
	}
	return changed, nil
}

// Reporting is a cluster of which something was heard.
type Reporting struct {
	Name        string
	Environment string // by the reporter's word
	Reporter    string
	FirstSeen   time.Time
	Seen        time.Time
	Complete    time.Time // when all that runs was last told; zero: never
	Silent      bool      // not heard of for long
}

func (s *Store) clusters(ctx context.Context, tx *store.Tx) (map[string]Reporting, error) {
	rows, err := tx.Query(ctx, `SELECT name, environment, reporter, first_seen, seen, complete FROM inventory_cluster`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]Reporting{}
	for rows.Next() {
		var r Reporting
		var first, seen, complete int64
		if err := rows.Scan(&r.Name, &r.Environment, &r.Reporter, &first, &seen, &complete); err != nil {
			return nil, err
		}
		r.FirstSeen, r.Seen, r.Silent = store.Time(first), store.Time(seen), tx.Now().Sub(store.Time(seen)) > s.o.Silence
		if complete != 0 {
			r.Complete = store.Time(complete)
		}
		out[r.Name] = r
	}
	return out, rows.Err()
}

// Clusters are all of which something was heard, by name.
func (s *Store) Clusters(ctx context.Context) (all []Reporting, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		all = nil
		found, err := s.clusters(ctx, tx)
		for _, r := range found {
			all = append(all, r)
		}
		return err
	})
	slices.SortFunc(all, func(a, b Reporting) int { return strings.Compare(a.Name, b.Name) })
	return all, err
}

// errFilter is for a cursor that this store did not give.
func errFilter(cursor string) error {
	return fault.Newf(fault.Invalid, "cursor %.80q is none that was given", cursor)
}
