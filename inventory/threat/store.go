package threat

import (
	"context"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
)

// Migrations are the tables of what sensors reported.
//
//   - threat_seen: each thing once: when first, when last, how often, and when an
//     event last told of it. digest is the image's.
//   - threat_files: what can be executed of an image (files: gzip over JSON), or
//     why that is not known.
var Migrations = store.Migrations{Name: "threat", Steps: []string{`
CREATE TABLE threat_seen (
	id        TEXT   NOT NULL PRIMARY KEY,
	cluster   TEXT   NOT NULL,
	digest    TEXT   NOT NULL,
	source    TEXT   NOT NULL,
	rule      TEXT   NOT NULL,
	priority  TEXT   NOT NULL,
	namespace TEXT   NOT NULL,
	kind      TEXT   NOT NULL,
	name      TEXT   NOT NULL,
	container TEXT   NOT NULL,
	path      TEXT   NOT NULL,
	first     BIGINT NOT NULL,
	last      BIGINT NOT NULL,
	told      BIGINT NOT NULL,
	times     BIGINT NOT NULL
);
CREATE INDEX threat_seen_digest ON threat_seen (digest, last);
CREATE INDEX threat_seen_cluster ON threat_seen (cluster, last);
CREATE TABLE threat_files (
	digest TEXT   NOT NULL PRIMARY KEY,
	made   BIGINT NOT NULL,
	files  BYTES  NOT NULL
);`}}

const (
	again     = time.Hour // an event tells of the same thing at most this often
	keep      = 30 * 24 * time.Hour
	maxSeen   = 20_000 // of a cluster
	pruneEach = 256
)

// Judged says of an image that runs whether it may: a state of admission and the
// decision's ID.
type Judged func(ctx context.Context, tx *store.Tx, cluster, namespace string, d artifact.Digest) (state, decision string, err error)

// Store takes reports. It is safe for many goroutines and processes.
type Store struct {
	db     *store.DB
	judged Judged
}

// New makes a store over a database that was migrated with [Migrations],
// inventory's and event's. judged may be nil.
func New(db *store.DB, judged Judged) *Store { return &Store{db, judged} }

// Taken says what became of a hand-in.
type Taken struct {
	Told    int // events
	Again   int // of the same thing as an event of the last hour
	Joined  int // to a workload of the inventory
	Skipped int // reported nothing
}

// Take takes reports in, all or none.
func (s *Store) Take(ctx context.Context, reporter string, list []Report) (t Taken, err error) {
	if len(list) > MaxBatch {
		return t, fault.Newf(fault.TooLarge, "%d reports at once: want at most %d", len(list), MaxBatch)
	}
	for i := range list {
		list[i].clean()
		if err := list[i].validate(); err != nil {
			return t, err
		}
	}
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		t = Taken{}
		clusters := map[string]bool{}
		for i := range list {
			clusters[list[i].Cluster] = true
			if err := s.take(ctx, tx, reporter, list[i], &t); err != nil {
				return err
			}
		}
		for c := range clusters {
			if err := prune(ctx, tx, c); err != nil {
				return err
			}
		}
		return nil
	})
	return t, err
}

// workload is what the inventory knows of a container.
type workload struct {
	kind, name, image, service, team, environment string
	digest                                        artifact.Digest
}

func find(ctx context.Context, tx *store.Tx, r *Report) (*workload, error) {
	if r.Pod == "" {
		return nil, nil
	}
	// One that ended goes on to be known: reports come late. Its latest run counts.
	rows, err := tx.Query(ctx, `SELECT kind, name, image, digest, service, team, environment, container, ended FROM inventory_workload
		WHERE cluster = ? AND namespace = ? AND instance = ? AND (? = '' OR container = ?) ORDER BY CASE WHEN ended = 0 THEN 0 ELSE 1 END, first_seen DESC LIMIT 2`,
		r.Cluster, r.Namespace, r.Pod, r.Container, r.Container)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out *workload
	var of string
	for rows.Next() {
		var w workload
		var container string
		var ended int64
		if err := rows.Scan(&w.kind, &w.name, &w.image, &w.digest, &w.service, &w.team, &w.environment, &container, &ended); err != nil {
			return nil, err
		}
		if out != nil && container != of {
			return nil, rows.Err() // which of a Pod's containers is not known
		}
		if out == nil {
			out, of = &w, container
		}
	}
	return out, rows.Err()
}

// DigestOf gives the digest of a container's image as the inventory has it; "": it
// knows no such container, or not what it runs.
func (s *Store) DigestOf(ctx context.Context, cluster, namespace, pod, container string) (d artifact.Digest, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		w, err := find(ctx, tx, &Report{Cluster: cluster, Namespace: namespace, Pod: pod, Container: container})
		if err == nil && w != nil {
			d = w.digest
		}
		return err
	})
	return d, err
}

func (s *Store) take(ctx context.Context, tx *store.Tx, reporter string, r Report, t *Taken) error {
	w, err := find(ctx, tx, &r)
	if err != nil {
		return err
	}
	said := r.Digest
	var kind, name string
	e := event.Event{Kind: kindOf(&r), Actor: reporter, Cluster: r.Cluster, Digest: r.Digest}
	if w != nil {
		t.Joined++
		kind, name = w.kind, w.name
		e.Team, e.Service, e.Env = w.team, w.service, w.environment
		if w.digest != "" {
			e.Digest, r.Digest = w.digest, w.digest // the cluster's word goes before the sensor's
		}
		if r.Image == "" {
			r.Image = w.image
		}
	}
	tell, times, err := s.note(ctx, tx, &r, kind, name)
	if err != nil {
		return err
	}
	if !tell {
		t.Again++
		return nil
	}
	t.Told++
	b := map[string]any{"source": r.Source, "rule": r.Rule, "joined": w != nil, "times": times}
	for k, v := range map[string]string{
		"priority": r.Priority, "node": r.Node, "namespace": r.Namespace, "kind": kind, "name": name, "instance": r.Pod, "container": r.Container, "container_id": r.ContainerID,
		"image": r.Image, "process": r.Process, "path": r.Path, "file": string(r.FileDigest), "message": r.Message,
	} {
		if v != "" {
			b[k] = v
		}
	}
	if said != "" && said != r.Digest {
		b["reported_digest"] = said
	}
	if !r.Claimed.IsZero() {
		b["claimed"] = r.Claimed.UTC().Format(time.RFC3339Nano)
	}
	if s.judged != nil && r.Digest != "" {
		state, decision, err := s.judged(ctx, tx, r.Cluster, r.Namespace, r.Digest)
		if err != nil {
			return err
		}
		if state != "" {
			b["state"] = state
		}
		if decision != "" {
			b["decision"] = decision
		}
	}
	e.Body = b
	return event.Append(ctx, tx, e)
}

func kindOf(r *Report) event.Kind {
	if r.Source != Agent {
		return event.RuntimeReported
	}
	if r.Rule == RuleForeign || r.Rule == RuleChanged {
		return event.RuntimeExecuted
	}
	return event.RuntimeUnwatched
}

// note counts a report, and says whether an event is due.
func (s *Store) note(ctx context.Context, tx *store.Tx, r *Report, kind, name string) (tell bool, times int64, err error) {
	id, now := r.identityOf(kind, name), store.Micros(tx.Now())
	var told int64
	if _, err := tx.Exec(ctx, `INSERT INTO threat_seen (id, cluster, digest, source, rule, priority, namespace, kind, name, container, path, first, last, told, times)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 1)
		ON CONFLICT (id) DO UPDATE SET last = excluded.last, times = threat_seen.times + 1, priority = excluded.priority`,
		id, r.Cluster, string(r.Digest), string(r.Source), r.Rule, r.Priority, r.Namespace, kind, name, r.Container, r.Path, now, now); err != nil {
		return false, 0, err
	}
	if err := tx.QueryRow(ctx, `SELECT told, times FROM threat_seen WHERE id = ?`, id).Scan(&told, &times); err != nil {
		return false, 0, err
	}
	if told != 0 && now-told < again.Microseconds() {
		return false, times, nil
	}
	_, err = tx.Exec(ctx, `UPDATE threat_seen SET told = ? WHERE id = ?`, now, id)
	return true, times, err
}

// prune forgets what is old, and the oldest of a cluster that reports too much.
func prune(ctx context.Context, tx *store.Tx, cluster string) error {
	if _, err := tx.Exec(ctx, `DELETE FROM threat_seen WHERE cluster = ? AND last < ?`, cluster, store.Micros(tx.Now().Add(-keep))); err != nil {
		return err
	}
	n := 0
	if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM threat_seen WHERE cluster = ?`, cluster).Scan(&n); err != nil || n <= maxSeen {
		return err
	}
	_, err := tx.Exec(ctx, `DELETE FROM threat_seen WHERE id IN (SELECT id FROM threat_seen WHERE cluster = ? ORDER BY last, id LIMIT ?)`, cluster, n-maxSeen+pruneEach)
	return err
}

// Seen is one thing that sensors reported.
type Seen struct {
	Source                                                          Source
	Rule, Priority, Cluster, Namespace, Kind, Name, Container, Path string
	Digest                                                          artifact.Digest
	First, Last                                                     time.Time
	Times                                                           int64
}

// List gives what was reported of a digest or a cluster ("": of all), latest first.
func (s *Store) List(ctx context.Context, digest artifact.Digest, cluster string, limit int) (out []Seen, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT source, rule, priority, cluster, namespace, kind, name, container, path, digest, first, last, times FROM threat_seen
			WHERE (? = '' OR digest = ?) AND (? = '' OR cluster = ?) ORDER BY last DESC, id LIMIT ?`, string(digest), string(digest), cluster, cluster, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var x Seen
			var first, last int64
			if err := rows.Scan(&x.Source, &x.Rule, &x.Priority, &x.Cluster, &x.Namespace, &x.Kind, &x.Name, &x.Container, &x.Path, &x.Digest, &first, &last, &x.Times); err != nil {
				return err
			}
			x.First, x.Last = store.Time(first), store.Time(last)
			out = append(out, x)
		}
		return rows.Err()
	})
	return out, err
}
