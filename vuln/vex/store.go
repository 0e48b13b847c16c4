package vex

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/store"
)

// Migrations are the tables of this package: one row for each document that the
// site stands by, with the bundle in which it signed it. Rows are never deleted:
// what was withdrawn is shown as such.
var Migrations = store.Migrations{Name: "vuln/vex", Steps: []string{`
CREATE TABLE vex_document (
	id        TEXT   NOT NULL PRIMARY KEY, -- vex_<sha256 of the bundle>
	source    TEXT   NOT NULL,             -- triage or import
	author    TEXT   NOT NULL,             -- of an imported one, by its own word
	actor     TEXT   NOT NULL,             -- who had the site state it
	reason    TEXT   NOT NULL,
	statements TEXT  NOT NULL,             -- as they were read, JSON
	bundle    BYTES  NOT NULL,
	created   BIGINT NOT NULL,
	until     BIGINT NOT NULL,             -- 0: no end
	withdrawn BIGINT NOT NULL,             -- 0: it stands
	withdrawn_by     TEXT NOT NULL,
	withdrawn_reason TEXT NOT NULL,
	changed   BIGINT NOT NULL
);
CREATE INDEX vex_document_changed ON vex_document (changed);`, proposals}}

// The sources of a document.
const (
	Triage = "triage" // decided here
	Import = "import" // another's document, taken over
)

// Entry is a document that the site stands by.
type Entry struct {
	ID              string      `json:"id"`                    // vex_...
	Source          string      `json:"source"`                // triage, import
	Author          string      `json:"author,omitempty"`      // of an imported one, by its own word
	Actor           string      `json:"actor"`                 // who had the site state it
	ApprovedBy      string      `json:"approved_by,omitempty"` // the second person, where two are wanted
	Proposed        bool        `json:"proposed,omitzero"`     // it waits for another person, and counts for nothing; the id is the proposal's
	Reason          string      `json:"reason"`
	Statements      []Statement `json:"statements"`
	Created         time.Time   `json:"created"`
	Until           time.Time   `json:"until,omitzero"`
	Withdrawn       time.Time   `json:"withdrawn,omitzero"`
	WithdrawnBy     string      `json:"withdrawn_by,omitempty"`
	WithdrawnReason string      `json:"withdrawn_reason,omitempty"`
}

// InForce says whether it counts at an instant.
func (e *Entry) InForce(now time.Time) bool {
	return e.Withdrawn.IsZero() && (e.Until.IsZero() || now.Before(e.Until))
}

// Options of a [Store].
type Options struct {
	DB *store.DB
	// Sign signs a statement with a key of the site, logged and timestamped, and
	// gives the bundle.
	Sign func(ctx context.Context, st *attestation.Statement) ([]byte, error)
	Site string // public URL, the author of the site's documents
	// SecondPerson has what takes findings away wait for another person.
	SecondPerson bool
}

// Store keeps what the site states. It is safe for concurrent use.
type Store struct {
	o    Options
	host string // of the site

	mu    sync.Mutex
	book  *Book
	state [2]int64
}

// NewStore makes a store over a database that was migrated with [Migrations] and
// event.Migrations.
func NewStore(o Options) *Store {
	s := &Store{o: o}
	if u, err := url.Parse(o.Site); err == nil {
		s.host = strings.ToLower(u.Host)
	}
	return s
}

// Request has the site state something.
type Request struct {
	Source     string
	Author     string // of an imported document
	Statements []Statement
	Actor      string
	Reason     string    // 3 to 1,000 bytes
	Until      time.Time // zero: no end
	Person     string    // who the actor is, for the rule of two persons; "": nobody
}

// check says what is wrong with a request.
func (s *Store) check(q Request) error {
	now := s.o.DB.Now()
	if n := len(strings.TrimSpace(q.Reason)); n < 3 || n > 1000 {
		return fault.Newf(fault.Invalid, "reason: want 3 to 1,000 bytes")
	}
	if !q.Until.IsZero() && !q.Until.After(now) {
		return fault.Newf(fault.Invalid, "until %s is over already", q.Until.UTC().Format(time.RFC3339))
	}
	if len(q.Statements) == 0 || len(q.Statements) > maxStatements {
		return fault.Newf(fault.Invalid, "%d statements: want 1 to %d", len(q.Statements), maxStatements)
	}
	for i := range q.Statements {
		if err := q.Statements[i].Check(); err != nil {
			return err
		}
	}
	return nil
}

// State signs the statements as the site's and puts them in force. Where two
// persons are wanted for them it is fault.Denied: see [Store.Propose].
func (s *Store) State(ctx context.Context, q Request) (*Entry, error) {
	if s.NeedsSecond(q.Statements) {
		return nil, fault.Newf(fault.Denied, "two persons are wanted for what takes a finding away (vuln.second_person): it is proposed, and another approves")
	}
	return s.put(ctx, q, "", func(*store.Tx, string) error { return nil })
}

// put puts statements in force; also does what belongs to it in the same
// transaction.
func (s *Store) put(ctx context.Context, q Request, approvedBy string, also func(tx *store.Tx, id string) error) (*Entry, error) {
	if err := s.check(q); err != nil {
		return nil, err
	}
	now := s.o.DB.Now()
	q.Statements = slices.Clone(q.Statements)
	for i := range q.Statements { // what is signed ends when the entry does
		q.Statements[i].Until = q.Statements[i].Ends(q.Until)
	}
	doc := OpenVEX(s.o.Site+"/vex/"+strings.ToLower(rand.Text()), s.o.Site, now, q.Statements)
	b, err := strictjson.Canonical(doc)
	if err != nil {
		return nil, err
	}
	// A statement is about products by pattern, and in-toto's is about digests: its
	// subject is the document itself.
	st, err := attestation.NewStatement(PredicateOpenVEX, json.RawMessage(b), attestation.Subject{Name: doc.ID, Digest: artifact.SHA256Of(b).Set()})
	if err != nil {
		return nil, err
	}
	bundle, err := s.o.Sign(ctx, st)
	if err != nil {
		return nil, fmt.Errorf("sign the statement: %w", err)
	}
	text, err := json.Marshal(q.Statements)
	if err != nil {
		return nil, err
	}
	e := &Entry{
		ID: "vex_" + strings.TrimPrefix(string(artifact.SHA256Of(bundle)), "sha256:"), Source: q.Source, Author: excerpt.Line(q.Author, 200, '?'), Actor: q.Actor, Reason: excerpt.Text(q.Reason, 1000),
		Statements: q.Statements, Created: now, Until: q.Until, ApprovedBy: approvedBy,
	}
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		if err := also(tx, e.ID); err != nil {
			return err
		}
		until := int64(0)
		if !e.Until.IsZero() {
			until = store.Micros(e.Until)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO vex_document (id, source, author, actor, reason, statements, bundle, created, until, withdrawn, withdrawn_by, withdrawn_reason, changed, approved_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, '', '', ?, ?)`,
			e.ID, e.Source, e.Author, e.Actor, e.Reason, string(text), bundle, store.Micros(now), until, store.Micros(tx.Now()), e.ApprovedBy); err != nil {
			return err
		}
		body := map[string]any{"id": e.ID, "source": e.Source, "author": e.Author, "reason": e.Reason, "statements": len(e.Statements), "vulnerability": e.Statements[0].Vulnerabilities[0], "status": e.Statements[0].Status}
		if until != 0 {
			body["until"] = e.Until.UTC().Format(time.RFC3339)
		}
		if e.ApprovedBy != "" {
			body["approved_by"] = e.ApprovedBy
		}
		return event.Append(ctx, tx, event.Event{Kind: event.VEXStated, Actor: e.Actor, TraceID: event.TraceFrom(ctx), Body: body})
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Withdraw takes a document back; it stays on record. Where two persons are wanted for
// it it is fault.Denied: see [Store.ProposeWithdraw].
func (s *Store) Withdraw(ctx context.Context, id, actor, reason string) (*Entry, error) {
	e, err := s.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if s.NeedsSecondToWithdraw(e) {
		return nil, fault.Newf(fault.Denied, "two persons are wanted to take back what says that a flaw counts (vuln.second_person): it is proposed, and another approves")
	}
	return s.withdraw(ctx, id, actor, reason, func(*store.Tx) error { return nil })
}

// withdraw takes a document back, and does what belongs to it in the same transaction.
func (s *Store) withdraw(ctx context.Context, id, actor, reason string, also func(tx *store.Tx) error) (*Entry, error) {
	if n := len(strings.TrimSpace(reason)); n < 3 || n > 1000 {
		return nil, fault.Newf(fault.Invalid, "reason: want 3 to 1,000 bytes")
	}
	err := s.o.DB.Update(ctx, func(tx *store.Tx) error {
		if err := also(tx); err != nil {
			return err
		}
		now := store.Micros(tx.Now())
		n, err := tx.Exec(ctx, `UPDATE vex_document SET withdrawn = ?, withdrawn_by = ?, withdrawn_reason = ?, changed = ? WHERE id = ? AND withdrawn = 0`, now, actor, excerpt.Text(reason, 1000), now, id)
		if err != nil {
			return err
		}
		if n == 0 {
			return fault.Newf(fault.NotFound, "statement %.80q: not here, or withdrawn already", id)
		}
		return event.Append(ctx, tx, event.Event{Kind: event.VEXWithdrawn, Actor: actor, TraceID: event.TraceFrom(ctx), Body: map[string]any{"id": id, "reason": excerpt.Text(reason, 1000)}})
	})
	if err != nil {
		return nil, err
	}
	return s.Get(ctx, id)
}

const columns = `id, source, author, actor, reason, statements, created, until, withdrawn, withdrawn_by, withdrawn_reason, approved_by`

func scan(row func(...any) error) (*Entry, error) {
	var e Entry
	var text string
	var created, until, withdrawn int64
	if err := row(&e.ID, &e.Source, &e.Author, &e.Actor, &e.Reason, &text, &created, &until, &withdrawn, &e.WithdrawnBy, &e.WithdrawnReason, &e.ApprovedBy); err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(text), &e.Statements); err != nil {
		return nil, fault.Newf(fault.Tampered, "statement %s does not parse: %w", e.ID, err)
	}
	e.Created = store.Time(created)
	if until != 0 {
		e.Until = store.Time(until)
	}
	if withdrawn != 0 {
		e.Withdrawn = store.Time(withdrawn)
	}
	return &e, nil
}

// Get gives a document by its id.
func (s *Store) Get(ctx context.Context, id string) (e *Entry, err error) {
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		e, err = scan(tx.QueryRow(ctx, `SELECT `+columns+` FROM vex_document WHERE id = ?`, id).Scan)
		return err
	})
	if errors.Is(err, fault.NotFound) {
		return nil, fault.Newf(fault.NotFound, "statement %.80q: not here", id)
	}
	return e, err
}

// Bundle is what the site signed.
func (s *Store) Bundle(ctx context.Context, id string) (b []byte, err error) {
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT bundle FROM vex_document WHERE id = ?`, id).Scan(&b)
	})
	if errors.Is(err, fault.NotFound) {
		return nil, fault.Newf(fault.NotFound, "statement %.80q: not here", id)
	}
	return b, err
}

// List gives documents beyond an id, at most limit; with ended also those that do
// not count any more.
func (s *Store) List(ctx context.Context, after string, limit int, ended bool) (out []*Entry, err error) {
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		out = []*Entry{}
		rows, err := tx.Query(ctx, `SELECT `+columns+` FROM vex_document WHERE id > ? AND (? = 1 OR withdrawn = 0 AND (until = 0 OR until > ?)) ORDER BY id LIMIT ?`, after, number(ended), store.Micros(tx.Now()), limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			e, err := scan(rows.Scan)
			if err != nil {
				return err
			}
			out = append(out, e)
		}
		return rows.Err()
	})
	return out, err
}

func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// Book is what counts of the site's statements; it is read again when one has
// changed. Rows come, and are withdrawn, and change in no other way: they are
// counted, since the clocks of several processes do not tell which was last.
func (s *Store) Book(ctx context.Context) (*Book, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var state [2]int64
	var book *Book
	err := s.o.DB.View(ctx, func(tx *store.Tx) error {
		if err := tx.QueryRow(ctx, `SELECT COUNT(*), COALESCE(SUM(CASE WHEN withdrawn = 0 THEN 0 ELSE 1 END), 0) FROM vex_document`).Scan(&state[0], &state[1]); err != nil {
			return err
		}
		if s.book != nil && state == s.state {
			book = s.book
			return nil
		}
		book = &Book{by: map[string][]*said{}, host: s.host}
		rows, err := tx.Query(ctx, `SELECT `+columns+` FROM vex_document WHERE withdrawn = 0 ORDER BY id`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			e, err := scan(rows.Scan)
			if err != nil {
				return err
			}
			book.add(e)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	s.book, s.state = book, state
	return book, nil
}

// Book finds statements by flaw. It does not change.
type Book struct {
	by   map[string][]*said // by a flaw's names, in lower case
	host string             // of the own registry
}

type said struct {
	e  *Entry
	st *Statement
}

func (b *Book) add(e *Entry) {
	for i := range e.Statements {
		one := &said{e, &e.Statements[i]}
		for _, v := range one.st.Vulnerabilities {
			b.by[strings.ToLower(v)] = append(b.by[strings.ToLower(v)], one)
		}
	}
}

// Stated is the statement that counts about a finding.
type Stated struct {
	ID            string
	Author        string // whose word it is
	Status        Status
	Justification string
	Impact        string
	Until         time.Time // zero: no end
}

// Of gives what counts about a flaw of a component of an artifact; nil: nothing is
// said. What was decided here goes before what was taken over; of several
// decisions the newest; of several authors' documents the newest of each, and of
// those the most cautious.
func (b *Book) Of(sub Subject, f Flaw, now time.Time) *Stated {
	if b == nil || len(b.by) == 0 {
		return nil
	}
	if sub.Host == "" {
		sub.Host = b.host
	}
	newest := map[string]*said{} // by author; "" is the site
	for _, name := range f.Names {
		for _, one := range b.by[strings.ToLower(name)] {
			if end := one.st.Ends(one.e.Until); !one.e.InForce(now) || !end.IsZero() && !now.Before(end) || !one.st.About(sub, f) {
				continue
			}
			author := ""
			if one.e.Source != Triage {
				author = "by " + one.e.Author
			}
			if was := newest[author]; was == nil || later(one, was) {
				newest[author] = one
			}
		}
	}
	best := newest[""]
	if best == nil {
		for _, one := range newest {
			if best == nil || cmp.Or(cmp.Compare(one.st.Status.Caution(), best.st.Status.Caution()), strings.Compare(best.e.ID, one.e.ID)) > 0 {
				best = one
			}
		}
	}
	if best == nil {
		return nil
	}
	author := best.e.Actor
	if best.e.ApprovedBy != "" {
		author += ", approved by " + best.e.ApprovedBy
	}
	if best.e.Source != Triage && best.e.Author != "" {
		author = best.e.Author + ", taken over by " + author
	}
	return &Stated{best.e.ID, author, best.st.Status, best.st.Justification, best.st.Impact, best.st.Ends(best.e.Until)}
}

// later says whether one was stated after another; of one document the more
// cautious statement counts.
func later(a, b *said) bool {
	return cmp.Or(a.e.Created.Compare(b.e.Created), strings.Compare(a.e.ID, b.e.ID), cmp.Compare(a.st.Status.Caution(), b.st.Status.Caution())) > 0
}

// Now is the time that the store goes by.
func (s *Store) Now() time.Time { return s.o.DB.Now() }

// Names are those of all flaws that something is stated about.
func (b *Book) Names() []string {
	seen := map[string]bool{}
	for _, all := range b.by {
		for _, one := range all {
			for _, v := range one.st.Vulnerabilities {
				seen[v] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}
