// Package ticket tells owners of what the gate holds back: one ticket for each
// artifact and cause, with the smallest upgrade that mends it, closed when the
// cause is gone. What nobody owns goes to the platform's team, and is counted.
//
// Tickets follow what is so, not what was told: an event only says which artifact
// to look at. Doing so twice changes nothing.
package ticket

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/inventory"
	"assay/store"
	"assay/verify"
	"assay/vuln/risk"

	"github.com/prometheus/client_golang/prometheus"
)

// Migrations are the tables of tickets.
//
//   - ticket: one for each artifact and cause that stood; open while closed is 0.
//   - ticket_pending: artifacts that are to be looked at, and when.
var Migrations = store.Migrations{Name: "ticket", Steps: []string{`
CREATE TABLE ticket (
	id         TEXT   NOT NULL PRIMARY KEY,
	digest     TEXT   NOT NULL,
	cause      TEXT   NOT NULL,
	repository TEXT   NOT NULL,
	service    TEXT   NOT NULL,
	team       TEXT   NOT NULL,
	owned      BIGINT NOT NULL,
	reason     TEXT   NOT NULL,
	decision   TEXT   NOT NULL,
	body       TEXT   NOT NULL,
	opened     BIGINT NOT NULL,
	closed     BIGINT NOT NULL,
	why        TEXT   NOT NULL
);
CREATE UNIQUE INDEX ticket_open ON ticket (digest, cause) WHERE closed = 0;
CREATE INDEX ticket_closed ON ticket (closed, opened, id);
CREATE TABLE ticket_pending (
	digest TEXT   NOT NULL PRIMARY KEY,
	due    BIGINT NOT NULL,
	tries  BIGINT NOT NULL
);
CREATE INDEX ticket_pending_due ON ticket_pending (due);`}}

// Ticket is one for an owner.
type Ticket struct {
	ID         string // tkt_…
	Digest     artifact.Digest
	Cause      string // gate:REPOSITORY, quarantined or revoked
	Repository string
	Service    string
	Team       string
	Owned      bool   // false: it went to the platform's team, since nobody owns it
	Reason     string // the first checks that failed, or why it is blocked
	Decision   string // dec_…, of the gate's
	Detail     Detail
	Opened     time.Time
	Closed     time.Time // zero: it is open
	Why        string    // it was closed
}

// Detail is what helps.
type Detail struct {
	Contacts []string  `json:"contacts,omitempty"` // of the team
	Mend     []string  `json:"mend,omitempty"`     // commands, as the checks name them
	Upgrades []Upgrade `json:"upgrades,omitempty"` // that take most risk away
}

// Upgrade is the smallest one that mends a component.
type Upgrade struct {
	Component string   `json:"component"`
	To        string   `json:"to"`
	Flaws     []string `json:"flaws,omitempty"`
	Left      []string `json:"left,omitempty"`
}

// Options are what the book of tickets asks of the site.
type Options struct {
	DB        *store.DB
	Events    *event.Log
	Engine    *verify.Engine
	Risk      *risk.Scorer
	Catalogue func() *inventory.Catalogue
	// After is how long a cause stands before its ticket is opened: evidence
	// mostly comes just after a push. 0: at once.
	After      time.Duration
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Book keeps tickets.
type Book struct {
	o    Options
	wake chan struct{}
	told *prometheus.CounterVec
}

// New makes a book over a database that was migrated with [Migrations], and those
// of registry, gate, verify and event.
func New(o Options) (*Book, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Book{o: o, wake: make(chan struct{}, 1), told: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_tickets_total", Help: "Tickets opened for owners of what the gate holds back: to the team that owns it, or to the platform's since nobody does; and closed.",
	}, []string{"what"})}
	for _, what := range []string{"owned", "unowned", "closed"} {
		b.told.WithLabelValues(what)
	}
	if o.Registerer != nil {
		return b, o.Registerer.Register(b.told)
	}
	return b, nil
}

// kinds are the events after which a gate may stand otherwise.
var kinds = []event.Kind{
	event.ArtifactPushed, event.DecisionMade, event.DecisionChanged, event.ArtifactPromoted, event.ArtifactRejected, event.ArtifactQuarantined, event.ArtifactReleased, event.ArtifactRevoked, event.ArtifactDeleted, event.TagHeld,
}

// Run follows until ctx ends.
func (b *Book) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- b.o.Events.Consume(ctx, "tickets", b.note, kinds...) }()
	holder := rand.Text()
	for ctx.Err() == nil {
		held, _, err := b.o.DB.Lease(ctx, "tickets", holder, 30*time.Second)
		for err == nil && held {
			var worked bool
			if err = b.pass(ctx); err == nil {
				worked, err = b.next(ctx)
			}
			if !worked {
				break
			}
		}
		if err != nil && ctx.Err() == nil {
			b.o.Logger.WarnContext(ctx, "a ticket could not be looked at, and is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-b.wake:
		case <-time.After(2 * time.Second):
		}
	}
	return <-done
}

func (b *Book) note(ctx context.Context, tx *store.Tx, batch []event.Event) error {
	for i := range batch {
		if batch[i].Digest == "" {
			continue
		}
		due := store.Micros(tx.Now())
		switch batch[i].Kind {
		case event.ArtifactPushed, event.DecisionMade, event.DecisionChanged, event.TagHeld:
			due += b.o.After.Microseconds()
		}
		// What is to be looked at already is not put off.
		if _, err := tx.Exec(ctx, `INSERT INTO ticket_pending (digest, due, tries) VALUES (?, ?, 0) ON CONFLICT (digest) DO UPDATE SET due = CASE WHEN excluded.due < ticket_pending.due THEN excluded.due ELSE ticket_pending.due END, tries = 0`, string(batch[i].Digest), due); err != nil {
			return err
		}
	}
	tx.OnCommit(func() {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	})
	return nil
}

// pass lets go of all that is due, of which nothing is held back and no ticket is
// open: nearly every push, in one transaction for many of them.
func (b *Book) pass(ctx context.Context) error {
	const many = 512
	for {
		var gone int64
		err := b.o.DB.Update(ctx, func(tx *store.Tx) (err error) {
			gone, err = tx.Exec(ctx, `DELETE FROM ticket_pending
				WHERE digest IN (SELECT digest FROM ticket_pending WHERE due <= ? ORDER BY due LIMIT ?)
				AND NOT EXISTS (SELECT 1 FROM gate_state g WHERE g.digest = ticket_pending.digest AND g.state IN ('staged', 'rejected'))
				AND NOT EXISTS (SELECT 1 FROM gate_block b WHERE b.digest = ticket_pending.digest)
				AND NOT EXISTS (SELECT 1 FROM ticket t WHERE t.digest = ticket_pending.digest AND t.closed = 0)`, store.Micros(tx.Now()), many)
			return err
		})
		if err != nil || gone < many {
			return err
		}
	}
}

// next looks at the artifact that is due first. One that failed is tried later,
// and keeps no other from being looked at.
func (b *Book) next(ctx context.Context) (worked bool, err error) {
	var digest string
	var tries int64
	err = b.o.DB.Update(ctx, func(tx *store.Tx) error {
		now := store.Micros(tx.Now())
		if err := tx.QueryRow(ctx, `SELECT digest, tries FROM ticket_pending WHERE due <= ? ORDER BY due LIMIT 1`, now).Scan(&digest, &tries); err != nil {
			return err
		}
		due := now + min(10*time.Second<<min(tries, 8), time.Hour).Microseconds()
		_, err := tx.Exec(ctx, `UPDATE ticket_pending SET due = ?, tries = tries + 1 WHERE digest = ?`, due, digest)
		return err
	})
	if errors.Is(err, fault.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := b.Look(ctx, artifact.Digest(digest)); err != nil {
		return true, err
	}
	return true, b.o.DB.Update(ctx, func(tx *store.Tx) error {
		// An event that came meanwhile began the count anew: it stays.
		_, err := tx.Exec(ctx, `DELETE FROM ticket_pending WHERE digest = ? AND tries = ?`, digest, tries+1)
		return err
	})
}

// cause is why an artifact is held back.
type cause struct{ name, repository, reason, decision string }

// Look brings the tickets of an artifact to what is so.
func (b *Book) Look(ctx context.Context, digest artifact.Digest) error {
	var stand []cause
	if err := b.o.DB.View(ctx, func(tx *store.Tx) (err error) {
		stand, err = causes(ctx, tx, digest)
		return err
	}); err != nil {
		return err
	}
	ready := map[string]*Ticket{}
	for _, c := range stand {
		t, err := b.draft(ctx, digest, c)
		if err != nil {
			return err
		}
		ready[c.name] = t
	}
	opened, unowned, closed := 0, 0, 0
	err := b.o.DB.Update(ctx, func(tx *store.Tx) error {
		opened, unowned, closed = 0, 0, 0
		// What stands now counts: the gate may have opened meanwhile.
		now, err := causes(ctx, tx, digest)
		if err != nil {
			return err
		}
		open, err := list(ctx, tx, `digest = ? AND closed = 0`, []any{string(digest)}, 1000)
		if err != nil {
			return err
		}
		for i := range open {
			if !slices.ContainsFunc(now, func(c cause) bool { return c.name == open[i].Cause }) {
				if err := shut(ctx, tx, &open[i]); err != nil {
					return err
				}
				closed++
			}
		}
		for _, c := range now {
			t := ready[c.name]
			if t == nil || slices.ContainsFunc(open, func(o Ticket) bool { return o.Cause == c.name }) {
				continue
			}
			if err := begin(ctx, tx, t); err != nil {
				return err
			}
			opened++
			if !t.Owned {
				unowned++
			}
		}
		return nil
	})
	if err == nil {
		b.told.WithLabelValues("owned").Add(float64(opened - unowned))
		b.told.WithLabelValues("unowned").Add(float64(unowned))
		b.told.WithLabelValues("closed").Add(float64(closed))
	}
	return err
}

// causes reads why an artifact is held back now: a gate denies it, or it is
// blocked. Evidence, and the parts of an index that is held back itself, have no
// ticket of their own.
func causes(ctx context.Context, tx *store.Tx, digest artifact.Digest) (all []cause, err error) {
	rows, err := tx.Query(ctx, `SELECT g.repository, g.state, g.reason, g.decision FROM gate_state g WHERE g.digest = ? AND g.carrier = 0 AND g.state IN ('staged', 'rejected')
		AND NOT EXISTS (SELECT 1 FROM registry_reference r JOIN gate_state w ON w.repository = r.repository AND w.digest = r.manifest AND w.state IN ('staged', 'rejected') WHERE r.repository = g.repository AND r.child = g.digest)
		ORDER BY g.repository`, string(digest))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c cause
		var state string
		if err := rows.Scan(&c.repository, &state, &c.reason, &c.decision); err != nil {
			return nil, err
		}
		c.name = "gate:" + c.repository
		all = append(all, c)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	rows.Close()
	blocks, err := tx.Query(ctx, `SELECT kind, reason, COALESCE((SELECT MIN(m.repository) FROM registry_manifest m WHERE m.digest = b.digest), '') FROM gate_block b WHERE b.digest = ? AND b.cause = b.digest ORDER BY kind`, string(digest))
	if err != nil {
		return nil, err
	}
	defer blocks.Close()
	for blocks.Next() {
		var c cause
		if err := blocks.Scan(&c.name, &c.reason, &c.repository); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(all, func(o cause) bool { return o.name == c.name }) {
			all = append(all, c)
		}
	}
	return all, blocks.Err()
}

// maxUpgrades is how many a ticket names.
const maxUpgrades = 5

// draft finds out whose an artifact is, and what would mend it.
func (b *Book) draft(ctx context.Context, digest artifact.Digest, c cause) (*Ticket, error) {
	t := &Ticket{Digest: digest, Cause: c.name, Repository: c.repository, Reason: c.reason, Decision: c.decision}
	book := b.o.Catalogue()
	var svc *inventory.Service
	if all := book.OfArtifact(digest, inventory.Place{Repository: c.repository}); len(all) > 0 {
		svc = all[0]
		t.Service = svc.Name
	}
	t.Team, t.Owned = book.Owner(svc)
	if team, is := book.Team(t.Team); is {
		t.Detail.Contacts = team.Contacts[:min(8, len(team.Contacts))]
	}
	if c.decision != "" && b.o.Engine != nil {
		d, err := b.o.Engine.Get(ctx, c.decision)
		if err != nil && !errors.Is(err, fault.NotFound) {
			return nil, err
		}
		if err == nil {
			t.Reason = failed(d, &t.Detail)
		}
	}
	if t.Reason == "" {
		t.Reason = "it waits for evidence"
	}
	if len(t.Detail.Mend) == 0 && c.repository != "" {
		t.Detail.Mend = []string{"assay registry status " + c.repository + "@" + string(digest) + "  # says what is missing"}
	}
	t.Reason = excerpt.Text(t.Reason, 1000)
	if !strings.HasPrefix(c.name, "gate:") {
		return t, nil // what is quarantined or revoked no upgrade of others mends
	}
	got, err := b.o.Risk.FixFirst(ctx, "", digest, maxUpgrades)
	if err != nil {
		return nil, err
	}
	for i := range got.Upgrades {
		u := &got.Upgrades[i]
		t.Detail.Upgrades = append(t.Detail.Upgrades, Upgrade{u.Component, u.To, u.Flaws[:min(20, len(u.Flaws))], u.Left[:min(20, len(u.Left))]})
	}
	return t, nil
}

// failed names the checks that failed, and the commands that would mend them.
func failed(d *verify.Decision, detail *Detail) string {
	var all []string
	for _, c := range d.Checks {
		if c.Status != "fail" {
			continue
		}
		all = append(all, c.Name+": want "+excerpt.Text(c.Expected, 120)+", found "+excerpt.Text(c.Found, 200))
		if c.Mend != "" && len(detail.Mend) < 8 {
			detail.Mend = append(detail.Mend, excerpt.Text(c.Mend, 300))
		}
	}
	return strings.Join(all[:min(4, len(all))], "; ")
}

func begin(ctx context.Context, tx *store.Tx, t *Ticket) error {
	body, err := json.Marshal(t.Detail)
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	t.ID, t.Opened = "tkt_"+strings.ToLower(rand.Text()), tx.Now()
	owned := 0
	if t.Owned {
		owned = 1
	}
	n, err := tx.Exec(ctx, `INSERT INTO ticket (id, digest, cause, repository, service, team, owned, reason, decision, body, opened, closed, why) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, '') ON CONFLICT DO NOTHING`,
		t.ID, string(t.Digest), t.Cause, t.Repository, t.Service, t.Team, owned, t.Reason, t.Decision, string(body), store.Micros(t.Opened))
	if err != nil || n == 0 {
		return err
	}
	return event.Append(ctx, tx, event.Event{Kind: event.TicketOpened, Digest: t.Digest, Actor: actor, Team: t.Team, Service: t.Service, Body: map[string]any{
		"ticket": t.ID, "cause": t.Cause, "repository": t.Repository, "owned": t.Owned, "reason": t.Reason, "decision": t.Decision, "contacts": t.Detail.Contacts, "mend": t.Detail.Mend, "upgrades": t.Detail.Upgrades,
	}})
}

const actor = "system:tickets"

func shut(ctx context.Context, tx *store.Tx, t *Ticket) error {
	why := "the gate lets it through, or it is gone"
	if !strings.HasPrefix(t.Cause, "gate:") {
		why = "it is blocked no more"
	}
	if _, err := tx.Exec(ctx, `UPDATE ticket SET closed = ?, why = ? WHERE id = ? AND closed = 0`, store.Micros(tx.Now()), why, t.ID); err != nil {
		return err
	}
	return event.Append(ctx, tx, event.Event{Kind: event.TicketClosed, Digest: t.Digest, Actor: actor, Team: t.Team, Service: t.Service, Body: map[string]any{
		"ticket": t.ID, "cause": t.Cause, "repository": t.Repository, "reason": why, "open_seconds": int64(tx.Now().Sub(t.Opened).Seconds()),
	}})
}

// Filter says which tickets are asked for. Empty members ask for all.
type Filter struct {
	Closed  bool // also those that are closed
	Team    string
	Service string
	Digest  artifact.Digest
	Unowned bool
	Limit   int // 0: 100
}

// List gives tickets, the newest first.
func (b *Book) List(ctx context.Context, f Filter) (all []Ticket, err error) {
	conds, args := []string{"1 = 1"}, []any{}
	if !f.Closed {
		conds = append(conds, "closed = 0")
	}
	if f.Unowned {
		conds = append(conds, "owned = 0")
	}
	for _, c := range []struct{ column, value string }{{"team", f.Team}, {"service", f.Service}, {"digest", string(f.Digest)}} {
		if c.value != "" {
			conds, args = append(conds, c.column+" = ?"), append(args, c.value)
		}
	}
	if f.Limit <= 0 {
		f.Limit = 100
	}
	err = b.o.DB.View(ctx, func(tx *store.Tx) (err error) {
		all, err = list(ctx, tx, strings.Join(conds, " AND "), args, f.Limit)
		return err
	})
	return all, err
}

// Get gives one ticket.
func (b *Book) Get(ctx context.Context, id string) (t Ticket, err error) {
	err = b.o.DB.View(ctx, func(tx *store.Tx) error {
		all, err := list(ctx, tx, `id = ?`, []any{id}, 1)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			return fault.Newf(fault.NotFound, "there is no ticket %.80q; assay ticket list", id)
		}
		t = all[0]
		return nil
	})
	return t, err
}

func list(ctx context.Context, tx *store.Tx, where string, args []any, most int) (all []Ticket, err error) {
	rows, err := tx.Query(ctx, `SELECT id, digest, cause, repository, service, team, owned, reason, decision, body, opened, closed, why FROM ticket WHERE `+where+` ORDER BY opened DESC, id LIMIT ?`, append(slices.Clone(args), most)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var t Ticket
		var owned, opened, closed int64
		var body string
		if err := rows.Scan(&t.ID, &t.Digest, &t.Cause, &t.Repository, &t.Service, &t.Team, &owned, &t.Reason, &t.Decision, &body, &opened, &closed, &t.Why); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(body), &t.Detail); err != nil {
			return nil, fault.Wrap(fault.Tampered, err)
		}
		t.Owned, t.Opened = owned == 1, store.Time(opened)
		if closed != 0 {
			t.Closed = store.Time(closed)
		}
		all = append(all, t)
	}
	return all, rows.Err()
}
