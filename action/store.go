package action

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/store"

	"github.com/prometheus/client_golang/prometheus"
)

// Migrations of the table. A row is never deleted, but those of what was carried
// out without a question, when they count no more.
var Migrations = store.Migrations{Name: "action", Steps: []string{`
CREATE TABLE site_action (
	id         TEXT   NOT NULL PRIMARY KEY, -- act_...
	kind       TEXT   NOT NULL,
	key        TEXT   NOT NULL,
	state      TEXT   NOT NULL,             -- held, approved, done, refused
	digest     TEXT   NOT NULL,
	reason     TEXT   NOT NULL,
	actor      TEXT   NOT NULL,
	whose      TEXT   NOT NULL,             -- JSON list
	touched    BIGINT NOT NULL,
	earlier    BIGINT NOT NULL,
	running    BIGINT NOT NULL,
	most       BIGINT NOT NULL,             -- percent
	proposed   BIGINT NOT NULL,
	due        BIGINT NOT NULL,
	told       BIGINT NOT NULL,             -- how often it was told that nobody answered
	decided_by TEXT   NOT NULL,
	decided    BIGINT NOT NULL,
	answer     TEXT   NOT NULL,
	done       BIGINT NOT NULL,
	UNIQUE (kind, key)
);
CREATE INDEX site_action_state ON site_action (state, due);
CREATE INDEX site_action_done ON site_action (done);`}}

// Options of a [Store].
type Options struct {
	DB     *store.DB
	Limits Limits
	// Carry does what was approved, in the transaction of the answer, or lets go of
	// what was refused. done is false where somebody else carries it out later, who
	// asks [Store.Propose] again and says so by [Store.Finish].
	Carry      func(ctx context.Context, tx *store.Tx, e *Entry, approved bool) (done bool, err error)
	Registerer prometheus.Registerer // nil: none
}

// Store keeps what waits. It is safe for concurrent use, also by several replicas.
type Store struct {
	o        Options
	outcomes *prometheus.CounterVec
}

// New makes a store over a database that was migrated with [Migrations] and
// event.Migrations.
func New(o Options) (*Store, error) {
	o.Limits = o.Limits.filled()
	s := &Store{o: o, outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_actions_total", Help: "What the site would do by itself to what runs, by what came of it.",
	}, []string{"kind", "outcome"})}
	for _, k := range Kinds() {
		for _, outcome := range States() {
			s.outcomes.WithLabelValues(string(k), outcome)
		}
	}
	if o.Registerer == nil {
		return s, nil
	}
	for _, c := range []prometheus.Collector{s.outcomes, &waiting{s, prometheus.NewDesc("assay_actions", "Automatic actions that wait for a person.", []string{"kind", "state"}, nil)}} {
		if err := o.Registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Limits are those in force.
func (s *Store) Limits() Limits { return s.o.Limits }

// Propose says whether an action may be carried out now, in the transaction that
// would do it. reach counts what it touches; it is asked once for each key. Where
// the answer is no, the entry says why: it waits, or was refused. Nil is the entry
// of an action that touches nothing that runs.
func (s *Store) Propose(ctx context.Context, tx *store.Tx, p Proposal, reach func() (Reach, error)) (may bool, e *Entry, err error) {
	if err := p.check(); err != nil {
		return false, nil, err
	}
	e, err = one(ctx, tx, `kind = ? AND key = ?`, string(p.Kind), p.Key)
	if err == nil {
		return e.State == Approved || e.State == Done, e, nil
	}
	if !errors.Is(err, fault.NotFound) {
		return false, nil, err
	}
	r, err := reach()
	if err != nil || r.Touched == 0 {
		return err == nil, nil, err
	}
	now, lim := tx.Now(), s.o.Limits
	earlier, most, err := lately(ctx, tx, now.Add(-lim.Window))
	if err != nil {
		return false, nil, err
	}
	// What was taken down runs no more, and is of the whole all the same.
	r.Running = max(r.Running, most, r.Touched)
	e = &Entry{
		ID: "act_" + strings.ToLower(rand.Text()), Kind: p.Kind, State: Done, Digest: p.Digest, Reason: p.Reason, Actor: p.Actor, By: p.By,
		Touched: r.Touched, Earlier: earlier, Running: r.Running, Share: share(r.Touched+earlier, r.Running), Limit: lim.Share, At: now, DoneAt: now, key: p.Key,
	}
	if lim.over(r.Touched+earlier, r.Running) {
		e.State, e.DoneAt, e.Due = Held, time.Time{}, now.Add(lim.Answer)
	}
	if err := insert(ctx, tx, e); err != nil {
		return false, nil, err
	}
	tx.OnCommit(func() { s.outcomes.WithLabelValues(string(e.Kind), e.State).Inc() })
	if e.State == Done {
		return true, e, nil
	}
	return false, e, s.tell(ctx, tx, event.ActionHeld, e, p.Actor)
}

// Known gives the action of a key; fault.NotFound: it was not proposed.
func (s *Store) Known(ctx context.Context, kind Kind, key string) (e *Entry, err error) {
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		e, err = one(ctx, tx, `kind = ? AND key = ?`, string(kind), keyOf(key))
		return err
	})
	return e, err
}

// Supersede ends what waits of a kind, or was approved and not carried out, whose
// keys begin with prefix, but for one: it is moot. The same proposal is asked about
// anew when it comes again.
func (s *Store) Supersede(ctx context.Context, tx *store.Tx, kind Kind, prefix, except, actor, why string) error {
	all, err := list(ctx, tx, `kind = ? AND (state = ? OR state = ?) AND substr(key, 1, ?) = ? AND key <> ? ORDER BY id`, string(kind), Held, Approved, len(prefix), prefix, except)
	if err != nil {
		return err
	}
	for _, e := range all {
		if e.DecidedBy == "" {
			e.DecidedBy, e.DecidedAt = actor, tx.Now()
		}
		e.State, e.Answer = Superseded, excerpt.Text(why, 1000)
		if err := s.keep(ctx, tx, e); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE site_action SET key = ? WHERE id = ?`, e.key+" "+e.ID, e.ID); err != nil {
			return err
		}
		tx.OnCommit(func() { s.outcomes.WithLabelValues(string(e.Kind), Superseded).Inc() })
		if err := s.tell(ctx, tx, event.ActionSuperseded, e, actor); err != nil {
			return err
		}
	}
	return nil
}

// Finish says that what was approved was carried out.
func (s *Store) Finish(ctx context.Context, tx *store.Tx, e *Entry) error {
	if e == nil || e.State != Approved {
		return nil
	}
	_, err := tx.Exec(ctx, `UPDATE site_action SET state = ?, done = ? WHERE id = ? AND state = ?`, Done, tx.Now(), e.ID, Approved)
	return err
}

// Waits says whether an action of a kind about a digest waits.
func Waits(ctx context.Context, tx *store.Tx, kind Kind, digest string) (bool, error) {
	_, err := one(ctx, tx, `kind = ? AND digest = ? AND state = ?`, string(kind), digest, Held)
	if errors.Is(err, fault.NotFound) {
		return false, nil
	}
	return err == nil, err
}

var errNoPerson = fault.Newf(fault.Denied, "an automatic action that waits wants a person's answer, and your sign-in names none: machines and identities of the local issuer do not count; sign in with an issuer that verifies your address")

// Decide answers what waits: yes has it carried out, no lets go of it.
func (s *Store) Decide(ctx context.Context, id string, who Who, yes bool, answer string) (e *Entry, err error) {
	if who.Person == "" {
		return nil, errNoPerson
	}
	answer = excerpt.Text(answer, 1000)
	if !yes && len(strings.TrimSpace(answer)) < 3 {
		return nil, fault.Newf(fault.Invalid, "reason: want 3 to 1,000 bytes; it is on record why this is not done")
	}
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		if e, err = one(ctx, tx, `id = ?`, id); err != nil {
			return notHere(err, id)
		}
		switch {
		case e.State != Held:
			return fault.Newf(fault.Conflict, "action %.80q is %s already, by %s", id, e.State, orSite(e.DecidedBy))
		case e.by(who):
			return fault.Newf(fault.Denied, "by your word the site would do this: another person answers")
		}
		e.DecidedBy, e.DecidedAt, e.Answer, e.State, e.Due, e.Overdue = who.Actor, tx.Now(), answer, Refused, time.Time{}, false
		kind, outcome := event.ActionRefused, Refused
		if yes {
			kind, outcome, e.State = event.ActionApproved, Approved, Approved
		}
		// The row first: what is carried out looks at what else waits.
		if err := s.keep(ctx, tx, e); err != nil {
			return err
		}
		done, err := s.o.Carry(ctx, tx, e, yes)
		if err != nil {
			return err
		}
		if done && yes {
			e.State, e.DoneAt = Done, tx.Now()
			if err := s.keep(ctx, tx, e); err != nil {
				return err
			}
		}
		tx.OnCommit(func() { s.outcomes.WithLabelValues(string(e.Kind), outcome).Inc() })
		return s.tell(ctx, tx, kind, e, who.Actor)
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

func orSite(s string) string {
	if s == "" {
		return "the site"
	}
	return s
}

// by says whether somebody is one of those whose word made the action.
func (e *Entry) by(who Who) bool {
	mail := strings.TrimPrefix(who.Person, "mailto:")
	return who.Actor == e.Actor || slices.ContainsFunc(e.By, func(b string) bool {
		return b != "" && (strings.EqualFold(b, who.Person) || strings.EqualFold(b, mail) || b == who.Actor)
	})
}

func (s *Store) keep(ctx context.Context, tx *store.Tx, e *Entry) error {
	done := int64(0)
	if !e.DoneAt.IsZero() {
		done = store.Micros(e.DoneAt)
	}
	_, err := tx.Exec(ctx, `UPDATE site_action SET state = ?, decided_by = ?, decided = ?, answer = ?, done = ?, due = 0 WHERE id = ?`,
		e.State, e.DecidedBy, store.Micros(e.DecidedAt), e.Answer, done, e.ID)
	return err
}

func (s *Store) tell(ctx context.Context, tx *store.Tx, kind event.Kind, e *Entry, actor string) error {
	body := map[string]any{"id": e.ID, "kind": e.Kind, "reason": e.Reason, "touched": e.Touched, "earlier": e.Earlier, "running": e.Running, "share": e.Share, "limit": e.Limit}
	if e.DecidedBy != "" {
		body["decided_by"], body["answer"] = e.DecidedBy, e.Answer
	}
	return event.Append(ctx, tx, event.Event{Kind: kind, Digest: e.Digest, Actor: actor, TraceID: event.TraceFrom(ctx), Body: body})
}

// Remind tells again of what nobody answered in time, and drops what counts no
// more. Who calls it twice tells once.
func (s *Store) Remind(ctx context.Context) error {
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		now := tx.Now()
		late, err := list(ctx, tx, `state = ? AND due <= ? ORDER BY due, id LIMIT 100`, Held, store.Micros(now))
		if err != nil {
			return err
		}
		for _, e := range late {
			if _, err := tx.Exec(ctx, `UPDATE site_action SET told = told + 1, due = ? WHERE id = ?`, store.Micros(now.Add(s.o.Limits.Answer)), e.ID); err != nil {
				return err
			}
			if err := s.tell(ctx, tx, event.ActionOverdue, e, "system:actions"); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, `DELETE FROM site_action WHERE state = ? AND decided_by = '' AND kind = ? AND done < ?`, Done, string(Quarantine), store.Micros(now.Add(-keepDone)))
		return err
	})
}

// keepDone is how long it is remembered what was carried out without a question.
const keepDone = 90 * 24 * time.Hour

// lately is what automatic actions touched without a question since an instant, and
// the most that ran when they did. What a person approved is that person's.
func lately(ctx context.Context, tx *store.Tx, since time.Time) (touched, running int, err error) {
	err = tx.QueryRow(ctx, `SELECT COALESCE(SUM(touched), 0), COALESCE(MAX(running), 0) FROM site_action WHERE done > ? AND decided_by = ''`, store.Micros(since)).Scan(&touched, &running)
	return touched, running, err
}

// Query selects what is listed.
type Query struct {
	All    bool   // also what does not wait any more
	Before string // cursor: id of the last one that was seen
	Limit  int
}

// List gives actions, the newest first.
func (s *Store) List(ctx context.Context, q Query) (out []*Entry, err error) {
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		where, args := `(state = ? OR state = ?)`, []any{Held, Approved}
		if q.All {
			where, args = `1 = 1`, []any{}
		}
		if q.Before != "" {
			last, err := one(ctx, tx, `id = ?`, q.Before)
			if err != nil {
				return notHere(err, q.Before)
			}
			where += ` AND (proposed < ? OR proposed = ? AND id > ?)`
			args = append(args, store.Micros(last.At), store.Micros(last.At), last.ID)
		}
		out, err = list(ctx, tx, where+` ORDER BY proposed DESC, id LIMIT ?`, append(args, q.Limit)...)
		return err
	})
	return out, err
}

// Get gives one.
func (s *Store) Get(ctx context.Context, id string) (e *Entry, err error) {
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		e, err = one(ctx, tx, `id = ?`, id)
		return notHere(err, id)
	})
	return e, err
}

func notHere(err error, id string) error {
	if errors.Is(err, fault.NotFound) {
		return fault.Newf(fault.NotFound, "action %.80q: not here; assay action list names them", id)
	}
	return err
}

const columns = `id, kind, key, state, digest, reason, actor, whose, touched, earlier, running, most, proposed, due, told, decided_by, decided, answer, done`

func insert(ctx context.Context, tx *store.Tx, e *Entry) error {
	whose, err := json.Marshal(append([]string{}, e.By...))
	if err != nil {
		return err
	}
	done, due := int64(0), int64(0)
	if e.State == Done {
		done = store.Micros(e.DoneAt)
	} else {
		due = store.Micros(e.Due)
	}
	_, err = tx.Exec(ctx, `INSERT INTO site_action (`+columns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, '', 0, '', ?)`,
		e.ID, string(e.Kind), e.key, e.State, string(e.Digest), e.Reason, e.Actor, string(whose), e.Touched, e.Earlier, e.Running, e.Limit, store.Micros(e.At), due, done)
	return err
}

func one(ctx context.Context, tx *store.Tx, where string, args ...any) (*Entry, error) {
	all, err := list(ctx, tx, where+` ORDER BY proposed, id LIMIT 1`, args...)
	if err == nil && len(all) == 0 {
		return nil, fault.Newf(fault.NotFound, "no such action")
	}
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

func list(ctx context.Context, tx *store.Tx, where string, args ...any) (out []*Entry, err error) {
	rows, err := tx.Query(ctx, `SELECT `+columns+` FROM site_action WHERE `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		e := &Entry{}
		var whose string
		var at, due, told, decided, done int64
		if err := rows.Scan(&e.ID, &e.Kind, &e.key, &e.State, &e.Digest, &e.Reason, &e.Actor, &whose, &e.Touched, &e.Earlier, &e.Running, &e.Limit, &at, &due, &told, &e.DecidedBy, &decided, &e.Answer, &done); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(whose), &e.By); err != nil {
			return nil, fault.Newf(fault.Tampered, "action %s: %w", e.ID, err)
		}
		e.At, e.Share, e.Overdue = store.Time(at), share(e.Touched+e.Earlier, e.Running), told > 0 && e.State == Held
		for _, t := range []struct {
			to   *time.Time
			from int64
		}{{&e.Due, due}, {&e.DecidedAt, decided}, {&e.DoneAt, done}} {
			if t.from != 0 {
				*t.to = store.Time(t.from)
			}
		}
		out = append(out, e)
	}
	return out, rows.Err()
}

// Key is what the proposal named it.
func (e *Entry) Key() string { return e.key }

// waiting counts what waits.
type waiting struct {
	s    *Store
	desc *prometheus.Desc
}

// Describe implements [prometheus.Collector].
func (c *waiting) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements [prometheus.Collector].
func (c *waiting) Collect(ch chan<- prometheus.Metric) {
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Second)
	defer stop()
	all, err := c.s.List(ctx, Query{Limit: 10_000})
	if err != nil {
		return // a site whose database does not answer has other alerts
	}
	n := map[[2]string]int{}
	for _, e := range all {
		state := e.State
		if e.Overdue {
			state = "overdue"
		}
		n[[2]string{string(e.Kind), state}]++
	}
	for _, k := range Kinds() {
		for _, state := range []string{Held, "overdue", Approved} {
			ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(n[[2]string{string(k), state}]), string(k), state)
		}
	}
}
