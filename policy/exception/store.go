package exception

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/event"
	"assay/evidence"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/policy"
	"assay/store"
)

// Migrations of the table. A row is never deleted.
var Migrations = store.Migrations{Name: "exception", Steps: []string{`
CREATE TABLE policy_exception (
	id           TEXT   NOT NULL PRIMARY KEY, -- exc_...
	digest       TEXT   NOT NULL,
	kind         TEXT   NOT NULL,
	state        TEXT   NOT NULL,             -- requested, approved, rejected, withdrawn; that it is over is told by until
	terms        TEXT   NOT NULL,             -- JSON
	until        BIGINT NOT NULL,
	requested_by TEXT   NOT NULL,
	person       TEXT   NOT NULL,
	requested    BIGINT NOT NULL,
	decided_by   TEXT   NOT NULL,
	decided      BIGINT NOT NULL,
	answer       TEXT   NOT NULL,
	ended_by     TEXT   NOT NULL,
	ended        BIGINT NOT NULL,
	end_reason   TEXT   NOT NULL,
	bundle       BYTES,                        -- what the site signed
	told         BIGINT NOT NULL              -- 1: that it is over was told
);
CREATE INDEX policy_exception_digest ON policy_exception (digest, state);
CREATE INDEX policy_exception_over ON policy_exception (told, until);`}}

// Options of a [Store].
type Options struct {
	DB *store.DB
	// Sign signs a statement with a key of the site, logged and timestamped.
	Sign func(ctx context.Context, st *attestation.Statement) ([]byte, error)
	// Verify gives the statement of a bundle that Sign made, of this site.
	Verify func(ctx context.Context, bundle []byte, digest artifact.Digest) (*attestation.Statement, error)
	// Judge has the decisions about a digest made again: now, when what allowed it is
	// gone.
	Judge  func(ctx context.Context, tx *store.Tx, digest artifact.Digest, gone bool) error
	Limits Limits
	Logger *slog.Logger
}

// Store keeps exceptions. It is safe for concurrent use.
type Store struct {
	o Options

	mu       sync.Mutex
	verified map[string]error // by id and digest of the bundle
}

// New makes a store over a database that was migrated with [Migrations] and
// event.Migrations.
func New(o Options) *Store {
	if o.Limits.Ordinary <= 0 {
		o.Limits.Ordinary = 30 * 24 * time.Hour
	}
	if o.Limits.BreakGlass <= 0 {
		o.Limits.BreakGlass = 8 * time.Hour
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Store{o: o, verified: map[string]error{}}
}

// Who is somebody who asks or answers. Person is empty for machines, and for
// identities that nobody verified.
type Who struct{ Actor, Person string }

var errNoPerson = fault.Newf(fault.Denied, "an exception wants two persons, and your sign-in names none: machines and identities of the local issuer do not count; sign in with an issuer that verifies your address")

// Request asks for an exception. It excuses nothing until another person approves.
func (s *Store) Request(ctx context.Context, t Terms, who Who) (*Entry, error) {
	if who.Person == "" {
		return nil, errNoPerson
	}
	t.Until = t.Until.UTC().Truncate(time.Second)
	t.Reason, t.Ticket = excerpt.Text(t.Reason, 1000), excerpt.Line(t.Ticket, 200, '?')
	if err := t.check(s.o.DB.Now(), s.o.Limits); err != nil {
		return nil, err
	}
	text, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	var e *Entry
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		now := tx.Now().UTC().Truncate(time.Microsecond)
		e = &Entry{ID: "exc_" + strings.ToLower(rand.Text()), Terms: t, State: Requested, RequestedBy: who.Actor, RequestedAt: now, person: who.Person}
		if _, err := tx.Exec(ctx, `INSERT INTO policy_exception (id, digest, kind, state, terms, until, requested_by, person, requested, decided_by, decided, answer, ended_by, ended, end_reason, bundle, told)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '', 0, '', '', 0, '', NULL, 0)`, e.ID, string(t.Digest), t.Kind, Requested, string(text), store.Micros(t.Until), who.Actor, who.Person, store.Micros(now)); err != nil {
			return err
		}
		return s.tell(ctx, tx, event.ExceptionRequested, e, who.Actor, t.Reason)
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

func (s *Store) tell(ctx context.Context, tx *store.Tx, kind event.Kind, e *Entry, actor, reason string) error {
	body := map[string]any{"id": e.ID, "kind": e.Kind, "checks": e.Checks, "until": e.Until.UTC().Format(time.RFC3339), "reason": reason, "requested_by": e.RequestedBy}
	if e.DecidedBy != "" {
		body["decided_by"] = e.DecidedBy
	}
	if e.Ticket != "" {
		body["ticket"] = e.Ticket
	}
	return event.Append(ctx, tx, event.Event{Kind: kind, Digest: e.Digest, Actor: actor, TraceID: event.TraceFrom(ctx), Body: body})
}

// Approve puts a request in force, signed and logged.
func (s *Store) Approve(ctx context.Context, id string, who Who, answer string) (*Entry, error) {
	e, err := s.waiting(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case who.Person == "":
		return nil, errNoPerson
	case who.Person == e.person || who.Actor == e.RequestedBy:
		return nil, fault.Newf(fault.Denied, "%s asked for it: another person approves", e.RequestedBy)
	}
	if err := e.check(s.o.DB.Now(), s.o.Limits); err != nil {
		return nil, err
	}
	e.DecidedBy, e.Answer = who.Actor, excerpt.Text(answer, 1000)
	st, err := e.statement()
	if err != nil {
		return nil, err
	}
	if e.bundle, err = s.o.Sign(ctx, st); err != nil {
		return nil, fmt.Errorf("sign the exception: %w", err)
	}
	return s.decide(ctx, e, Approved, event.ExceptionApproved)
}

// Reject answers a request with no. Who asked may take it back so.
func (s *Store) Reject(ctx context.Context, id string, who Who, answer string) (*Entry, error) {
	e, err := s.waiting(ctx, id)
	if err != nil {
		return nil, err
	}
	if n := len(strings.TrimSpace(answer)); n < 3 || n > 1000 {
		return nil, fault.Newf(fault.Invalid, "reason: want 3 to 1,000 bytes")
	}
	e.DecidedBy, e.Answer = who.Actor, excerpt.Text(answer, 1000)
	return s.decide(ctx, e, Rejected, event.ExceptionRejected)
}

func (s *Store) decide(ctx context.Context, e *Entry, state string, kind event.Kind) (*Entry, error) {
	err := s.o.DB.Update(ctx, func(tx *store.Tx) error {
		now, told := tx.Now(), 0
		if state == Rejected {
			told = 1 // there is nothing that could end
		}
		n, err := tx.Exec(ctx, `UPDATE policy_exception SET state = ?, decided_by = ?, decided = ?, answer = ?, bundle = ?, told = ? WHERE id = ? AND state = ?`,
			state, e.DecidedBy, store.Micros(now), e.Answer, e.bundle, told, e.ID, Requested)
		if err == nil && n == 0 {
			err = fault.Newf(fault.Conflict, "exception %.80q was decided meanwhile", e.ID)
		}
		if err != nil {
			return err
		}
		e.State, e.DecidedAt = state, now
		if err := s.tell(ctx, tx, kind, e, e.DecidedBy, e.Reason); err != nil || state != Approved {
			return err
		}
		return s.o.Judge(ctx, tx, e.Digest, false)
	})
	if err != nil {
		return nil, err
	}
	return s.Get(ctx, e.ID)
}

// Withdraw ends an exception that is in force.
func (s *Store) Withdraw(ctx context.Context, id string, who Who, reason string) (*Entry, error) {
	e, err := s.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if e.State != Approved {
		return nil, fault.Newf(fault.Conflict, "exception %.80q is %s: only what is in force is withdrawn", id, e.State)
	}
	if n := len(strings.TrimSpace(reason)); n < 3 || n > 1000 {
		return nil, fault.Newf(fault.Invalid, "reason: want 3 to 1,000 bytes")
	}
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(ctx, `UPDATE policy_exception SET state = ?, ended_by = ?, ended = ?, end_reason = ?, told = 1 WHERE id = ? AND state = ?`, Withdrawn, who.Actor, store.Micros(tx.Now()), excerpt.Text(reason, 1000), id, Approved)
		if err == nil && n == 0 {
			err = fault.Newf(fault.Conflict, "exception %.80q ended meanwhile", id)
		}
		if err != nil {
			return err
		}
		if err := s.tell(ctx, tx, event.ExceptionWithdrawn, e, who.Actor, excerpt.Text(reason, 1000)); err != nil {
			return err
		}
		return s.o.Judge(ctx, tx, e.Digest, true)
	})
	if err != nil {
		return nil, err
	}
	return s.Get(ctx, id)
}

// Expire tells of exceptions that are over, and has what they allowed judged again.
func (s *Store) Expire(ctx context.Context) error {
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		now := tx.Now()
		ids, err := store.Values[string](ctx, tx, `SELECT id FROM policy_exception WHERE told = 0 AND (until <= ? OR state = ? AND requested <= ?) ORDER BY id LIMIT 100`, store.Micros(now), Requested, store.Micros(now.Add(-requestAge)))
		if err != nil {
			return err
		}
		for _, id := range ids {
			e, err := find(ctx, tx, id)
			if err != nil {
				return err
			}
			was := e.State
			e.settle(now)
			if _, err := tx.Exec(ctx, `UPDATE policy_exception SET told = 1 WHERE id = ?`, id); err != nil {
				return err
			}
			if err := s.tell(ctx, tx, event.ExceptionExpired, e, "system:exceptions", e.Reason); err != nil {
				return err
			}
			if was == Approved {
				if err := s.o.Judge(ctx, tx, e.Digest, true); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Facts gives the exceptions for a digest that decisions are to know, verified.
// One that does not verify is left out and told in the log.
func (s *Store) Facts(ctx context.Context, digest artifact.Digest, subject policy.Subject, scope policy.Scope) (out []policy.ExceptionFact, err error) {
	var rows []*Entry
	if err := s.o.DB.View(ctx, func(tx *store.Tx) error {
		rows, err = list(ctx, tx, `digest = ? AND state = ? AND until > ? ORDER BY until DESC, id LIMIT 32`, string(digest), Approved, store.Micros(tx.Now().Add(-shownFor)))
		return err
	}); err != nil {
		return nil, err
	}
	for _, e := range rows {
		if e.Scope != nil {
			if covers, err := e.Scope.Covers(subject, scope); err != nil || !covers {
				continue
			}
		}
		if err := s.verify(ctx, e); err != nil {
			if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
				return nil, err
			}
			s.o.Logger.ErrorContext(ctx, "an exception does not verify and excuses nothing", "exception", e.ID, "digest", e.Digest, "error", err)
			continue
		}
		out = append(out, e.fact())
	}
	return out, nil
}

// verify holds a row against what was signed. The outcome is remembered: keys that
// verified a signature once are the site's own.
func (s *Store) verify(ctx context.Context, e *Entry) error {
	text, err := json.Marshal(e.grant())
	if err != nil {
		return err
	}
	key := string(artifact.SHA256Of(append(text, e.bundle...)))
	s.mu.Lock()
	err, known := s.verified[key]
	s.mu.Unlock()
	if known {
		return err
	}
	st, err := s.o.Verify(ctx, e.bundle, e.Digest)
	if err == nil {
		err = e.matches(st)
	}
	if err != nil {
		return err // asked again: a key may be loaded later
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.verified) >= 10_000 {
		clear(s.verified)
	}
	s.verified[key] = nil
	return nil
}

func (s *Store) waiting(ctx context.Context, id string) (*Entry, error) {
	e, err := s.Get(ctx, id)
	if err == nil && e.State != Requested {
		return nil, fault.Newf(fault.Conflict, "exception %.80q is %s already", id, e.State)
	}
	return e, err
}

// Get gives one.
func (s *Store) Get(ctx context.Context, id string) (e *Entry, err error) {
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		e, err = find(ctx, tx, id)
		return err
	})
	if errors.Is(err, fault.NotFound) {
		return nil, fault.Newf(fault.NotFound, "exception %.80q: not here; assay exception list names them", id)
	}
	if err == nil {
		e.settle(s.o.DB.Now())
	}
	return e, err
}

// Bundle gives what the site signed for one.
func (s *Store) Bundle(ctx context.Context, id string) ([]byte, error) {
	e, err := s.Get(ctx, id)
	if err == nil && len(e.bundle) == 0 {
		err = fault.Newf(fault.NotFound, "exception %.80q was not approved: nothing is signed", id)
	}
	if err != nil {
		return nil, err
	}
	return e.bundle, nil
}

// Query selects what is listed.
type Query struct {
	Digest artifact.Digest
	Ended  bool   // also what excuses nothing any more, or never did
	Before string // cursor: id of the last one that was seen
	Limit  int
}

// List gives exceptions, the newest first.
func (s *Store) List(ctx context.Context, q Query) (out []*Entry, err error) {
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		now := tx.Now()
		where, args := `1 = 1`, []any{}
		if q.Digest != "" {
			where, args = `digest = ?`, []any{string(q.Digest)}
		}
		if !q.Ended {
			where += ` AND until > ? AND (state = ? OR state = ? AND requested > ?)`
			args = append(args, store.Micros(now), Approved, Requested, store.Micros(now.Add(-requestAge)))
		}
		if q.Before != "" {
			last, err := find(ctx, tx, q.Before)
			if err != nil {
				return err
			}
			where += ` AND (requested < ? OR requested = ? AND id > ?)`
			args = append(args, store.Micros(last.RequestedAt), store.Micros(last.RequestedAt), last.ID)
		}
		out, err = list(ctx, tx, where+` ORDER BY requested DESC, id LIMIT ?`, append(args, q.Limit)...)
		for _, e := range out {
			e.settle(now)
		}
		return err
	})
	return out, err
}

// Count counts by kind and state what excuses or waits.
func (s *Store) Count(ctx context.Context) (out map[[2]string]int, err error) {
	all, err := s.List(ctx, Query{Limit: 10_000})
	out = map[[2]string]int{}
	for _, e := range all {
		out[[2]string{e.Kind, e.State}]++
	}
	return out, err
}

const columns = `id, terms, state, requested_by, person, requested, decided_by, decided, answer, ended_by, ended, end_reason, bundle`

func find(ctx context.Context, tx *store.Tx, id string) (*Entry, error) {
	return scan(tx.QueryRow(ctx, `SELECT `+columns+` FROM policy_exception WHERE id = ?`, id).Scan)
}

func list(ctx context.Context, tx *store.Tx, where string, args ...any) (out []*Entry, err error) {
	rows, err := tx.Query(ctx, `SELECT `+columns+` FROM policy_exception WHERE `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		e, err := scan(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, rows.Err()
}

func scan(row func(...any) error) (*Entry, error) {
	var e Entry
	var terms string
	var requested, decided, ended int64
	if err := row(&e.ID, &terms, &e.State, &e.RequestedBy, &e.person, &requested, &e.DecidedBy, &decided, &e.Answer, &e.EndedBy, &ended, &e.EndReason, &e.bundle); err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(terms), &e.Terms); err != nil {
		return nil, fault.Newf(fault.Tampered, "exception %s does not parse: %w", e.ID, err)
	}
	e.RequestedAt = store.Time(requested)
	if decided != 0 {
		e.DecidedAt = store.Time(decided)
	}
	if ended != 0 {
		e.EndedAt = store.Time(ended)
	}
	if len(e.bundle) > 0 {
		e.Attestation = evidence.ID(e.bundle)
	}
	return &e, nil
}
