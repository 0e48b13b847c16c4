package feed

import (
	"context"
	"errors"
	"strings"

	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/vuln"
)

// Blocked is the state of an operation that is held back.
const Blocked = "blocked"

// BlockError holds an operation back that is sound in itself: what came of it
// cannot be right, by what was seen before. A person accepts it, or the feed
// gives something better.
type BlockError struct {
	Operation int64
	Reason    string
}

// Error says what to do.
func (e *BlockError) Error() string {
	return fault.Newf(fault.Conflict, "operation %d is blocked: %s; look into it, and if it is right: assay feed accept %d --reason WHY", e.Operation, e.Reason, e.Operation).Error()
}

// Unwrap gives the kind: fault.Conflict.
func (e *BlockError) Unwrap() error { return fault.Newf(fault.Conflict, "%s", e.Reason) }

// blockedAs finds the operation of these very bytes that is blocked.
func (s *Store) blockedAs(ctx context.Context, tx *store.Tx, op *Operation) (bool, error) {
	if op.Archive == "" {
		return false, nil
	}
	all, err := operations(ctx, tx, `WHERE name = ? AND ecosystem = ? AND state = ? AND archive = ? ORDER BY id DESC LIMIT 1`, op.Name, op.Ecosystem, blocked, op.Archive)
	if err != nil || len(all) == 0 {
		return false, err
	}
	*op = all[0]
	return true, nil
}

// write keeps an operation's state and counts.
func (op *Operation) write(ctx context.Context, tx *store.Tx, state int64) error {
	op.State, op.Finished = stateNames[state], tx.Now()
	_, err := tx.Exec(ctx, `UPDATE feed_operation SET state = ?, finished = ?, added = ?, changed = ?, withdrawn = ?, removed = ?, skipped = ?, problem = ?, reason = ? WHERE id = ?`,
		state, store.Micros(op.Finished), op.Added, op.Changed, op.Withdrawn, op.Removed, strings.Join(op.Skipped, "\n"), op.Problem, op.Reason, op.ID)
	return err
}

// block holds the operation back; again says that it was before.
func (in *importing) block(ctx context.Context, why *BlockError, again bool) error {
	why.Operation = in.op.ID
	in.op.Problem = clip(why.Reason, 1000)
	return in.s.db.Update(ctx, func(tx *store.Tx) error {
		if err := in.fence(ctx, tx); err != nil {
			return err
		}
		if err := in.op.write(ctx, tx, blocked); err != nil {
			return err
		}
		if err := fail(ctx, tx, in.o.Name, in.o.Ecosystem, clip(why.Error(), 1000)); err != nil || again {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.FeedRefused, Actor: in.o.Actor, Body: map[string]any{
			"feed": in.o.Name, "ecosystem": in.o.Ecosystem, "operation": in.op.ID, "reason": in.op.Problem, "archive": in.op.Archive, "blocked": true,
		}})
	})
}

// Accept brings a blocked operation into force, or has what is in force believed
// again; reason says why, and stands in the event. What is neither is
// fault.Conflict.
func (s *Store) Accept(ctx context.Context, id int64, actor, reason string) (Operation, error) {
	reason = clip(strings.TrimSpace(reason), maxReason)
	if reason == "" {
		return Operation{}, fault.Newf(fault.Invalid, "accept: want a reason (--reason)")
	}
	op, err := s.Operation(ctx, id)
	if err != nil {
		return op, err
	}
	o := Options{Name: op.Name, Ecosystem: op.Ecosystem, Actor: actor, Reason: reason}
	fence, release, err := s.lease(ctx, o)
	if err != nil {
		return op, err
	}
	defer release()
	var src Source
	if err := s.db.Update(ctx, func(tx *store.Tx) error {
		if err := fence(ctx, tx); err != nil {
			return err
		}
		if op, err = operation(ctx, tx, id); err != nil {
			return err
		}
		if src, err = source(ctx, tx, op.Name, op.Ecosystem); err != nil {
			return err
		}
		standing := src.Operation == id && src.Blocked != ""
		if op.State != Blocked && !standing {
			return fault.Newf(fault.Conflict, "operation %d is %s, and not blocked", id, op.State)
		}
		if standing {
			if _, err := tx.Exec(ctx, `UPDATE feed_source SET blocked = '', problem = '', failed = 0 WHERE name = ? AND ecosystem = ?`, op.Name, op.Ecosystem); err != nil {
				return err
			}
		}
		return event.Append(ctx, tx, event.Event{Kind: event.FeedAccepted, Actor: actor, Body: map[string]any{
			"feed": op.Name, "ecosystem": op.Ecosystem, "operation": id, "problem": clip(or(op.Problem, src.Blocked), 1000), "reason": reason,
		}})
	}); err != nil || op.State != Blocked {
		return op, err
	}
	in := &importing{s: s, op: &op, o: o, fence: fence, before: src.Records}
	return op, in.finish(ctx)
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// Doubt says that what is in force of a feed is not believed any longer: it
// counts as stale from now on. An empty reason takes that back.
func (s *Store) Doubt(ctx context.Context, name, ecosystem, reason string) error {
	return s.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE feed_source SET blocked = ? WHERE name = ? AND ecosystem = ?`, clip(reason, 1000), name, ecosystem)
		return err
	})
}

// Renew notes that an upstream was asked and has nothing else than what is in
// force.
func (s *Store) Renew(ctx context.Context, name, ecosystem, etag string) error {
	return s.db.Update(ctx, func(tx *store.Tx) error { return renew(ctx, tx, name, ecosystem, etag) })
}

func renew(ctx context.Context, tx *store.Tx, name, ecosystem, etag string) error {
	_, err := tx.Exec(ctx, `UPDATE feed_source SET checked = ?, etag = ?, problem = '', failed = 0, told = 0 WHERE name = ? AND ecosystem = ? AND operation <> 0`, store.Micros(tx.Now()), etag, name, ecosystem)
	return err
}

// Failed notes that a feed could not even be fetched, or, when refused, that what
// was fetched is none that can be imported. It is told when it begins.
func (s *Store) Failed(ctx context.Context, name, ecosystem string, why error, actor string) error {
	return s.db.Update(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO feed_source (name, ecosystem, operation, checked, changed, records, archive, etag, problem, failed)
			VALUES (?, ?, 0, 0, 0, 0, '', '', '', 0) ON CONFLICT (name, ecosystem) DO NOTHING`, name, ecosystem); err != nil {
			return err
		}
		src, err := source(ctx, tx, name, ecosystem)
		if err != nil {
			return err
		}
		reason := clip(why.Error(), 1000)
		if err := fail(ctx, tx, name, ecosystem, reason); err != nil {
			return err
		}
		body := map[string]any{"feed": name, "ecosystem": ecosystem, "reason": reason}
		switch {
		case isRefusal(why) && src.Problem != reason:
			body["operation"], body["archive"] = 0, ""
			return event.Append(ctx, tx, event.Event{Kind: event.FeedRefused, Actor: actor, Body: body})
		case src.Problem == "":
			return event.Append(ctx, tx, event.Event{Kind: event.FeedFailed, Actor: actor, Body: body})
		}
		return nil
	})
}

// Preview reads the records as they will stand when an operation that is not yet
// in force has come into it.
type Preview struct {
	s  *Store
	op Operation
}

// Preview looks at an operation; of one in force it sees what is in force.
func (s *Store) Preview(op Operation) *Preview { return &Preview{s, op} }

// ByPackage is as [Store.ByPackage].
func (p *Preview) ByPackage(ctx context.Context, pkg vuln.Package) ([]Record, error) {
	if p.op.State == stateNames[inForce] {
		return p.s.ByPackage(ctx, pkg)
	}
	now, err := p.s.ByPackage(ctx, pkg)
	if err != nil {
		return nil, err
	}
	out := now[:0]
	for _, r := range now {
		if r.Name == p.op.Name && r.Ecosystem == p.op.Ecosystem {
			_, touched, err := p.record(ctx, r.ID)
			if err != nil {
				return nil, err
			}
			if touched {
				continue
			}
		}
		out = append(out, r)
	}
	coming, err := p.s.read(ctx, `SELECT r.name, r.ecosystem, r.operation, r.body FROM feed_package p
		JOIN feed_record r ON r.name = ? AND r.ecosystem = ? AND r.id = p.id AND r.operation = p.operation
		WHERE p.ecosystem = ? AND p.package = ? AND p.operation = ? AND length(r.body) > 0`, p.op.Name, p.op.Ecosystem, pkg.Ecosystem, pkg.Name, p.op.ID)
	return append(out, coming...), err
}

// Record is the feed's record of a name as it will stand; nil: there is none.
func (p *Preview) Record(ctx context.Context, id string) (*vuln.Advisory, error) {
	if p.op.State != stateNames[inForce] {
		if a, touched, err := p.record(ctx, id); err != nil || touched {
			return a, err
		}
	}
	return p.s.InForce(ctx, p.op.Name, p.op.Ecosystem, id)
}

// record is what the operation says of a record; touched: it says something.
func (p *Preview) record(ctx context.Context, id string) (a *vuln.Advisory, touched bool, err error) {
	var body []byte
	err = p.s.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT body FROM feed_record WHERE name = ? AND ecosystem = ? AND id = ? AND operation = ?`, p.op.Name, p.op.Ecosystem, id, p.op.ID).Scan(&body)
	})
	switch {
	case errors.Is(err, fault.NotFound):
		return nil, false, nil
	case err != nil || len(body) == 0:
		return nil, err == nil, err
	}
	a, err = p.s.open(body)
	return a, err == nil, err
}
