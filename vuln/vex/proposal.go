package vex

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/store"
)

// Where two persons are wanted, what takes a finding away is first proposed, and
// stated when another person approves. A row is never deleted.
const proposals = `
CREATE TABLE vex_proposal (
	id         TEXT   NOT NULL PRIMARY KEY, -- vexp_<sha256>
	content    TEXT   NOT NULL,             -- digest of what is proposed, whoever does
	source     TEXT   NOT NULL,
	author     TEXT   NOT NULL,
	actor      TEXT   NOT NULL,
	person     TEXT   NOT NULL,
	reason     TEXT   NOT NULL,
	statements TEXT   NOT NULL,
	created    BIGINT NOT NULL,
	until      BIGINT NOT NULL,             -- 0: no end
	decided    BIGINT NOT NULL,             -- 0: it waits
	decided_by TEXT   NOT NULL,
	outcome    TEXT   NOT NULL,             -- approved or refused
	entry      TEXT   NOT NULL              -- vex_... that it became
);
CREATE INDEX vex_proposal_waiting ON vex_proposal (decided, id);
ALTER TABLE vex_document ADD COLUMN approved_by TEXT NOT NULL DEFAULT '';`

// proposalAge is how long a proposal may be approved.
const proposalAge = 30 * 24 * time.Hour

// Proposal is a document that waits for another person, or did.
type Proposal struct {
	ID         string      `json:"id"` // vexp_...
	Source     string      `json:"source"`
	Author     string      `json:"author,omitempty"`
	Actor      string      `json:"actor"` // who proposes it
	Reason     string      `json:"reason"`
	Statements []Statement `json:"statements"`
	Created    time.Time   `json:"created"`
	Until      time.Time   `json:"until,omitzero"`
	Decided    time.Time   `json:"decided,omitzero"`
	DecidedBy  string      `json:"decided_by,omitempty"`
	Outcome    string      `json:"outcome,omitempty"`   // approved, refused; absent: it waits
	Entry      string      `json:"entry,omitempty"`     // vex_... that it became
	Withdraws  string      `json:"withdraws,omitempty"` // vex_... that is to be taken back; its statements stand here

	person string
}

// NeedsSecond says whether statements are only proposed: two persons are wanted, and
// they take findings away.
func (s *Store) NeedsSecond(statements []Statement) bool {
	return s.o.SecondPerson && slices.ContainsFunc(statements, func(st Statement) bool { return st.Status == NotAffected || st.Status == Fixed })
}

// NeedsSecondToWithdraw says whether a document is taken back by two persons only:
// they are wanted, and it says of flaws that they count, so that what was said before
// would count again.
func (s *Store) NeedsSecondToWithdraw(e *Entry) bool {
	return s.o.SecondPerson && e.InForce(s.o.DB.Now()) && slices.ContainsFunc(e.Statements, func(st Statement) bool { return st.Status == Affected || st.Status == Investigating })
}

// ProposeWithdraw has the end of a document wait for another person.
func (s *Store) ProposeWithdraw(ctx context.Context, e *Entry, actor, person, reason string) (*Proposal, error) {
	return s.propose(ctx, Request{Source: withdrawal, Author: e.Author, Statements: e.Statements, Actor: actor, Person: person, Reason: reason}, e.ID)
}

// withdrawal is the source of a proposal to take a document back.
const withdrawal = "withdraw"

// errNoPerson: machines, and identities of the local issuer, are no persons.
var errNoPerson = fault.Newf(fault.Denied, "two persons are wanted here (vuln.second_person), and your sign-in names none: machines and identities of the local issuer do not count; sign in with an issuer that verifies your address")

// Propose has statements wait for another person. The same, by whomever, is proposed
// once.
func (s *Store) Propose(ctx context.Context, q Request) (*Proposal, error) {
	return s.propose(ctx, q, "")
}

// propose is Propose; withdraws is the document that is to be taken back.
func (s *Store) propose(ctx context.Context, q Request, withdraws string) (*Proposal, error) {
	if q.Person == "" {
		return nil, errNoPerson
	}
	if err := s.check(q); err != nil {
		return nil, err
	}
	until := "" // what ends on another day is another proposal
	if !q.Until.IsZero() {
		until = q.Until.UTC().Format(time.DateOnly)
	}
	content, err := strictjson.Canonical(map[string]any{"source": q.Source, "author": q.Author, "statements": q.Statements, "until": until, "withdraws": withdraws})
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(q.Statements)
	if err != nil {
		return nil, err
	}
	var p *Proposal
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		sum := string(artifact.SHA256Of(content))
		p, err = scanProposal(tx.QueryRow(ctx, `SELECT `+proposalColumns+` FROM vex_proposal WHERE content = ? AND decided = 0 AND created > ?`, sum, store.Micros(tx.Now().Add(-proposalAge))).Scan)
		if !errors.Is(err, fault.NotFound) {
			return err
		}
		now := tx.Now()
		id := "vexp_" + strings.TrimPrefix(string(artifact.SHA256Of([]byte(sum+now.UTC().Format(time.RFC3339Nano)+q.Actor))), "sha256:")
		p = &Proposal{ID: id, Source: q.Source, Author: excerpt.Line(q.Author, 200, '?'), Actor: q.Actor, Reason: excerpt.Text(q.Reason, 1000), Statements: q.Statements, Created: now, Until: q.Until, Withdraws: withdraws, person: q.Person}
		until := int64(0)
		if !q.Until.IsZero() {
			until = store.Micros(q.Until)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO vex_proposal (id, content, source, author, actor, person, reason, statements, created, until, decided, decided_by, outcome, entry) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, '', '', ?)`,
			id, sum, p.Source, p.Author, p.Actor, p.person, p.Reason, string(text), store.Micros(now), until, withdraws); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.VEXProposed, Actor: q.Actor, TraceID: event.TraceFrom(ctx), Body: map[string]any{
			"id": id, "source": p.Source, "author": p.Author, "reason": p.Reason, "statements": len(p.Statements), "vulnerability": p.Statements[0].Vulnerabilities[0], "status": p.Statements[0].Status}})
	})
	return p, err
}

// Approve states what another person proposed.
func (s *Store) Approve(ctx context.Context, id, actor, person string) (*Entry, error) {
	p, err := s.waiting(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case person == "":
		return nil, errNoPerson
	case person == p.person || actor == p.Actor:
		return nil, fault.Newf(fault.Denied, "%s proposed it: another person approves", p.Actor)
	case s.o.DB.Now().After(p.Created.Add(proposalAge)):
		return nil, fault.Newf(fault.Invalid, "it was proposed more than %d days ago: propose it again", int(proposalAge.Hours()/24))
	}
	if p.Source == withdrawal {
		return s.withdraw(ctx, p.Withdraws, p.Actor+", approved by "+actor, p.Reason, func(tx *store.Tx) error { return decide(ctx, tx, id, actor, "approved", p.Withdraws) })
	}
	return s.put(ctx, Request{Source: p.Source, Author: p.Author, Statements: p.Statements, Actor: p.Actor, Reason: p.Reason, Until: p.Until}, actor, func(tx *store.Tx, entry string) error {
		return decide(ctx, tx, id, actor, "approved", entry)
	})
}

// Refuse takes a proposal off the list; it stays on record. Who proposed it may.
func (s *Store) Refuse(ctx context.Context, id, actor, reason string) (*Proposal, error) {
	if _, err := s.waiting(ctx, id); err != nil {
		return nil, err
	}
	if n := len(strings.TrimSpace(reason)); n < 3 || n > 1000 {
		return nil, fault.Newf(fault.Invalid, "reason: want 3 to 1,000 bytes")
	}
	var p *Proposal
	err := s.o.DB.Update(ctx, func(tx *store.Tx) (err error) {
		if p, err = findProposal(ctx, tx, id); err != nil {
			return err
		}
		if err := decide(ctx, tx, id, actor, "refused", p.Withdraws); err != nil {
			return err
		}
		if p, err = findProposal(ctx, tx, id); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.VEXRefused, Actor: actor, TraceID: event.TraceFrom(ctx), Body: map[string]any{"id": id, "reason": excerpt.Text(reason, 1000)}})
	})
	return p, err
}

func decide(ctx context.Context, tx *store.Tx, id, actor, outcome, entry string) error {
	n, err := tx.Exec(ctx, `UPDATE vex_proposal SET decided = ?, decided_by = ?, outcome = ?, entry = ? WHERE id = ? AND decided = 0`, store.Micros(tx.Now()), actor, outcome, entry, id)
	if err == nil && n == 0 {
		err = fault.Newf(fault.Conflict, "proposal %.80q was decided meanwhile", id)
	}
	return err
}

func (s *Store) waiting(ctx context.Context, id string) (p *Proposal, err error) {
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		p, err = findProposal(ctx, tx, id)
		return err
	})
	switch {
	case errors.Is(err, fault.NotFound):
		return nil, fault.Newf(fault.NotFound, "proposal %.80q: not here", id)
	case err == nil && p.Outcome != "":
		return nil, fault.Newf(fault.Conflict, "proposal %.80q is %s already, by %s", id, p.Outcome, p.DecidedBy)
	}
	return p, err
}

// Proposals gives those beyond an id, at most limit; with ended also those that
// were decided, or are too old.
func (s *Store) Proposals(ctx context.Context, after string, limit int, ended bool) (out []*Proposal, err error) {
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		out = []*Proposal{}
		rows, err := tx.Query(ctx, `SELECT `+proposalColumns+` FROM vex_proposal WHERE id > ? AND (? = 1 OR decided = 0 AND created > ?) ORDER BY id LIMIT ?`,
			after, number(ended), store.Micros(tx.Now().Add(-proposalAge)), limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			p, err := scanProposal(rows.Scan)
			if err != nil {
				return err
			}
			out = append(out, p)
		}
		return rows.Err()
	})
	return out, err
}

const proposalColumns = `id, source, author, actor, person, reason, statements, created, until, decided, decided_by, outcome, entry`

func findProposal(ctx context.Context, tx *store.Tx, id string) (*Proposal, error) {
	return scanProposal(tx.QueryRow(ctx, `SELECT `+proposalColumns+` FROM vex_proposal WHERE id = ?`, id).Scan)
}

func scanProposal(row func(...any) error) (*Proposal, error) {
	var p Proposal
	var text string
	var created, until, decided int64
	if err := row(&p.ID, &p.Source, &p.Author, &p.Actor, &p.person, &p.Reason, &text, &created, &until, &decided, &p.DecidedBy, &p.Outcome, &p.Entry); err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(text), &p.Statements); err != nil {
		return nil, fault.Newf(fault.Tampered, "proposal %s does not parse: %w", p.ID, err)
	}
	p.Created = store.Time(created)
	if until != 0 {
		p.Until = store.Time(until)
	}
	if decided != 0 {
		p.Decided = store.Time(decided)
	}
	if p.Source == withdrawal {
		p.Withdraws, p.Entry = p.Entry, ""
	}
	return &p, nil
}
