package webhook

import (
	"context"
	"time"

	"assay/event"
	"assay/store"
)

// Migrations are the tables of deliveries: one row for each event and hook until
// it was taken (then it is gone) or given up (given_up is 1, kept for [keepDead]).
var Migrations = store.Migrations{Name: "webhook", Steps: []string{`
CREATE TABLE webhook_delivery (
	id       TEXT   NOT NULL PRIMARY KEY, -- event and hook
	hook     TEXT   NOT NULL,
	event    TEXT   NOT NULL,
	kind     TEXT   NOT NULL,
	body     BYTES  NOT NULL,
	type     TEXT   NOT NULL,
	created  BIGINT NOT NULL,
	due      BIGINT NOT NULL,
	attempts BIGINT NOT NULL,
	given_up BIGINT NOT NULL,
	problem  TEXT   NOT NULL
);
CREATE INDEX webhook_delivery_due ON webhook_delivery (given_up, due);
CREATE INDEX webhook_delivery_hook ON webhook_delivery (hook, given_up, created);`}}

// Delivery is one event on its way to one hook.
type Delivery struct {
	ID       string // the same for every attempt: the idempotency key
	Hook     string
	Event    string // evt_…
	Kind     event.Kind
	Created  time.Time
	Due      time.Time // of the next attempt
	Attempts int
	GivenUp  bool
	Problem  string // of the last attempt
	body     []byte
	ctype    string
}

const deliveryColumns = `id, hook, event, kind, type, created, due, attempts, given_up, problem`

func scanDelivery(scan func(...any) error, more ...any) (d Delivery, err error) {
	var created, due, dead int64
	var kind string
	err = scan(append([]any{&d.ID, &d.Hook, &d.Event, &kind, &d.ctype, &created, &due, &d.Attempts, &dead, &d.Problem}, more...)...)
	d.Kind, d.Created, d.Due, d.GivenUp = event.Kind(kind), store.Time(created), store.Time(due), dead != 0
	return d, err
}

// Deliveries lists what is on its way to a hook, or was given up; "" is any
// hook. The oldest come first, at most limit.
func (s *Sender) Deliveries(ctx context.Context, hook string, limit int) (out []Delivery, err error) {
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT `+deliveryColumns+` FROM webhook_delivery WHERE (? = '' OR hook = ?) ORDER BY created, id LIMIT ?`, hook, hook, limit)
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

// Redeliver sends what was given up again, for one hook or ("") all, and says
// how much that is.
func (s *Sender) Redeliver(ctx context.Context, hook string) (n int64, err error) {
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		now := store.Micros(tx.Now())
		n, err = tx.Exec(ctx, `UPDATE webhook_delivery SET given_up = 0, due = ?, attempts = 0, created = ? WHERE given_up = 1 AND (? = '' OR hook = ?)`, now, now, hook, hook)
		tx.OnCommit(s.nudge)
		return err
	})
	return n, err
}
