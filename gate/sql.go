package gate

import (
	"context"
	"errors"
	"strings"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
)

// Migrations are the tables of the gate.
//
//   - gate_canary: a canary of a service, from when it was first asked about; kept
//     for thirty days after it was last asked about.
var Migrations = store.Migrations{Name: "gate-doors", Steps: []string{`
CREATE TABLE gate_canary (
	service     TEXT   NOT NULL,
	environment TEXT   NOT NULL,
	cluster     TEXT   NOT NULL,
	namespace   TEXT   NOT NULL,
	images      TEXT   NOT NULL, -- digest over the sorted digests
	first_asked BIGINT NOT NULL,
	last_asked  BIGINT NOT NULL,
	verdict     TEXT   NOT NULL,
	PRIMARY KEY (service, environment, cluster, namespace, images)
);
CREATE INDEX gate_canary_last ON gate_canary (last_asked);`}}

const (
	// trialGap is how long nobody may have asked about a canary before the next
	// question begins another trial.
	trialGap  = time.Hour
	trialKept = 30 * 24 * time.Hour
)

// trial is what is known of a canary from earlier questions.
type trial struct {
	first   time.Time
	verdict string // the last; "" of a new trial
}

type trialKey struct {
	service, environment, cluster, namespace string
	images                                   artifact.Digest
}

func (c *canary) key() trialKey {
	var all []string
	for i, one := range c.answer.Images {
		if one.Digest != "" {
			all = append(all, string(one.Digest))
		} else {
			all = append(all, c.refs[i].String())
		}
	}
	return trialKey{c.q.Service, c.q.Environment, c.q.Cluster, c.q.Namespace, artifact.SHA256Of([]byte(strings.Join(sortedStrings(all), " ")))}
}

func (g *Gate) trialOf(ctx context.Context, k trialKey) (t trial, err error) {
	now := g.o.Clock()
	err = g.o.DB.View(ctx, func(tx *store.Tx) error { t, err = readTrial(ctx, tx, k, now); return err })
	return t, err
}

func readTrial(ctx context.Context, tx *store.Tx, k trialKey, now time.Time) (t trial, err error) {
	var first, last int64
	err = tx.QueryRow(ctx, `SELECT first_asked, last_asked, verdict FROM gate_canary WHERE service = ? AND environment = ? AND cluster = ? AND namespace = ? AND images = ?`,
		k.service, k.environment, k.cluster, k.namespace, string(k.images)).Scan(&first, &last, &t.verdict)
	switch {
	case errors.Is(err, fault.NotFound):
		return trial{first: now}, nil
	case err != nil:
		return t, err
	case now.Sub(store.Time(last)) > trialGap:
		return trial{first: now}, nil
	}
	t.first = store.Time(first)
	return t, nil
}

// record keeps when a canary was asked about, and tells when its verdict changed.
func (g *Gate) record(ctx context.Context, c *canary) error {
	k, now := c.key(), g.o.Clock()
	return g.o.DB.Update(ctx, func(tx *store.Tx) error {
		was, err := readTrial(ctx, tx, k, now)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO gate_canary (service, environment, cluster, namespace, images, first_asked, last_asked, verdict) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (service, environment, cluster, namespace, images) DO UPDATE SET first_asked = excluded.first_asked, last_asked = excluded.last_asked, verdict = excluded.verdict`,
			k.service, k.environment, k.cluster, k.namespace, string(k.images), store.Micros(was.first), store.Micros(now), c.answer.Verdict); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM gate_canary WHERE last_asked < ?`, store.Micros(now.Add(-trialKept))); err != nil {
			return err
		}
		if was.verdict == c.answer.Verdict {
			return nil
		}
		return event.Append(ctx, tx, c.event(was.verdict))
	})
}

func (c *canary) event(was string) event.Event {
	kind := event.RolloutJudged
	if c.answer.Verdict == Rollback {
		kind = event.RolloutRefused
	}
	body := map[string]string{"verdict": c.answer.Verdict, "was": was, "images": strings.Join(imagesOf(c.answer.Images), " "), "reason": c.answer.Why(1000), "namespace": c.q.Namespace, "workload": c.q.Workload}
	if a := c.answer.Advice; a != nil {
		body["advice"] = a.Image
	}
	e := event.Event{Kind: kind, Actor: c.actor, Service: c.q.Service, Env: c.q.Environment, Cluster: c.q.Cluster, Body: body}
	if c.stranger { // its team has nothing to do with it
		e.Service = ""
	}
	if len(c.answer.Images) > 0 {
		e.Digest = c.answer.Images[0].Digest
	}
	return e
}

func imagesOf(all []client.CanaryImage) (out []string) {
	for _, one := range all {
		out = append(out, one.Image)
	}
	return out
}
