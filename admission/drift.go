package admission

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"assay/event"
	"assay/inventory"
	"assay/store"
)

// Cause says in which way what runs is not what was admitted.
type Cause string

// The causes.
const (
	CauseDigest    Cause = "digest"    // another digest runs than the one that was pinned
	CauseUndecided Cause = "undecided" // it runs without a Decision
	CauseRevoked   Cause = "revoked"   // it runs since before it was revoked or put under quarantine, or though it is
	CauseDenied    Cause = "denied"    // a Decision denies it
)

// undecidedFor is how long what runs may be unknown before that is told: a Pod that
// begins, or a registry that is begun again, is no news.
const undecidedFor = 10 * time.Minute

// telling is what was last told of a workload that runs an image.
type telling struct {
	state State
	at    time.Time
}

type toldOf map[runningKey]map[inventory.Key]telling

// change is what a round does about an image that runs.
type change struct {
	*subject
	found
	was  State
	tell []inventory.Key // of these an event
	drop []inventory.Key // of these nothing is told any more: it is allowed again, or ended
}

// tellings finds out what must be told. Each workload is told of once for as long as
// it runs in a state; one whose instances all began since then has ended in between,
// and whoever was told so is told again.
func (c *change) tellings(have map[inventory.Key]telling, before standing, now time.Time) {
	for key, w := range c.workloads {
		t, is := have[key]
		switch {
		case c.state == Allowed:
			if is {
				c.drop = append(c.drop, key)
			}
			if is || before.state == Denied || before.state == Drifted {
				c.tell = append(c.tell, key)
			}
		case is && t.state == c.state && !w.since.After(t.at):
		case c.state == Unknown && (before.state != Unknown || now.Sub(before.since) < undecidedFor):
		default:
			c.tell = append(c.tell, key)
		}
	}
	for key := range have {
		if c.workloads[key] == nil {
			c.drop = append(c.drop, key)
		}
	}
	slices.SortFunc(c.tell, func(a, b inventory.Key) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Container, b.Container))
	})
}

// events gives an event for each workload that is to be told of.
func (c *change) events() (out []event.Event) {
	kind := map[State]event.Kind{Denied: event.WorkloadDenied, Drifted: event.WorkloadDrifted, Unknown: event.WorkloadUndecided, Allowed: event.WorkloadAllowed}[c.state]
	for _, key := range c.tell {
		w := c.workloads[key]
		body := map[string]any{
			"namespace": key.Namespace, "kind": key.Kind, "name": key.Name, "container": key.Container, "image": c.key.image,
			"instances": w.instances, "since": w.since.UTC().Format(time.RFC3339),
		}
		for name, value := range map[string]string{"reason": c.reason, "cause": string(c.cause), "decision": c.decision, "was": string(c.was)} {
			if value != "" {
				body[name] = value
			}
		}
		out = append(out, event.Event{Kind: kind, Digest: c.key.digest, Actor: "system:admission", Team: w.Team, Service: w.Service, Env: w.Environment, Cluster: c.key.cluster, Body: body})
	}
	return out
}

func readTold(ctx context.Context, tx *store.Tx) (toldOf, error) {
	rows, err := tx.Query(ctx, `SELECT cluster, namespace, image, digest, kind, name, container, state, told FROM admission_told`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := toldOf{}
	for rows.Next() {
		var k runningKey
		var w inventory.Key
		var t telling
		var at int64
		if err := rows.Scan(&k.cluster, &k.namespace, &k.image, &k.digest, &w.Kind, &w.Name, &w.Container, &t.state, &at); err != nil {
			return nil, err
		}
		w.Namespace, t.at = k.namespace, store.Time(at)
		if out[k] == nil {
			out[k] = map[inventory.Key]telling{}
		}
		out[k][w] = t
	}
	return out, rows.Err()
}

const (
	imageIs  = `cluster = ? AND namespace = ? AND image = ? AND digest = ?`
	toldRows = 100 // of one statement
)

func (k *runningKey) args() []any { return []any{k.cluster, k.namespace, k.image, string(k.digest)} }

// writeTold keeps of whom was told, within the transaction of the events.
func writeTold(ctx context.Context, tx *store.Tx, c *change) error {
	for _, w := range c.drop {
		if _, err := tx.Exec(ctx, `DELETE FROM admission_told WHERE `+imageIs+` AND kind = ? AND name = ? AND container = ?`, append(c.key.args(), w.Kind, w.Name, w.Container)...); err != nil {
			return err
		}
	}
	if c.state == Allowed {
		return nil
	}
	for part := range slices.Chunk(c.tell, toldRows) {
		args := make([]any, 0, 9*len(part))
		for _, w := range part {
			args = append(append(args, c.key.args()...), w.Kind, w.Name, w.Container, string(c.state), store.Micros(tx.Now()))
		}
		if _, err := tx.Exec(ctx, `INSERT INTO admission_told (cluster, namespace, image, digest, kind, name, container, state, told) VALUES `+
			strings.TrimSuffix(strings.Repeat("(?, ?, ?, ?, ?, ?, ?, ?, ?), ", len(part)), ", ")+
			` ON CONFLICT (cluster, namespace, image, digest, kind, name, container) DO UPDATE SET state = excluded.state, told = excluded.told`, args...); err != nil {
			return err
		}
	}
	return nil
}

// Lapses tells of clusters that fell silent and of those that are heard of again, as
// it finds them: nothing that is told of a silent one is known to be true any more.
func Lapses(ctx context.Context, db *store.DB, silent map[string]time.Time) error {
	was := map[string]bool{}
	if err := db.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, `SELECT cluster FROM admission_silent`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				return err
			}
			was[name] = true
		}
		return rows.Err()
	}); err != nil {
		return err
	}
	tell := func(name, q string, e event.Event) error {
		e.Cluster, e.Actor = name, "system:admission"
		return db.Update(ctx, func(tx *store.Tx) error {
			if n, err := tx.Exec(ctx, q, name); err != nil || n == 0 {
				return err
			}
			return event.Append(ctx, tx, e)
		})
	}
	for name, heard := range silent {
		if was[name] {
			delete(was, name)
			continue
		}
		if err := tell(name, `INSERT INTO admission_silent (cluster) VALUES (?) ON CONFLICT DO NOTHING`,
			event.Event{Kind: event.ClusterSilent, Body: map[string]string{"heard": heard.UTC().Format(time.RFC3339)}}); err != nil {
			return err
		}
	}
	for name := range was {
		if err := tell(name, `DELETE FROM admission_silent WHERE cluster = ?`, event.Event{Kind: event.ClusterHeard, Body: map[string]string{}}); err != nil {
			return err
		}
	}
	return nil
}
