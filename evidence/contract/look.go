package contract

import (
	"context"
	"strings"
	"time"

	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/store"
)

const (
	lookBatch = 32
	// lookRest is how long a push rests whose evidence could not be verified.
	lookRest = 5 * time.Second
)

const actor = "system:contract"

// Look judges what is due, or whose evidence changed, and says how many. It may
// run anywhere, at any time, by several at once: an event is written by the one
// whose change of the row it is.
func (l *Ledger) Look(ctx context.Context) (n int, err error) {
	var due []*push
	err = l.o.DB.View(ctx, func(tx *store.Tx) error {
		due = nil
		rows, err := tx.Query(ctx, `SELECT `+pushColumns+` FROM contract_push WHERE again > 0 AND again <= ? ORDER BY again, digest LIMIT ?`, store.Micros(tx.Now()), lookBatch)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			p, err := scanPush(rows)
			if err != nil {
				return err
			}
			due = append(due, p)
		}
		return rows.Err()
	})
	if err != nil {
		return 0, err
	}
	for _, p := range due {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		if err := l.look(ctx, p); err != nil {
			l.o.Logger.WarnContext(ctx, "evidence that a contract expects could not be judged, and is again", "digest", p.digest, "repository", p.repository, "error", err)
			if err := l.rest(ctx, p); err != nil {
				return n, err
			}
		}
		n++
	}
	return n, nil
}

func (l *Ledger) rest(ctx context.Context, p *push) error {
	return l.o.DB.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE contract_push SET again = ? WHERE digest = ? AND repository = ? AND again = ?`,
			store.Micros(tx.Now().Add(lookRest)), string(p.digest), p.repository, p.again)
		return err
	})
}

// look verifies outside of any transaction, and enters what came of it if the
// row is still as it was.
func (l *Ledger) look(ctx context.Context, p *push) error {
	c, err := l.text(ctx, p.hash)
	if err != nil {
		return err
	}
	f, err := l.o.Facts(ctx, p.digest, p.repository)
	if err != nil {
		return err
	}
	if f.Facts.Truncated {
		return fault.Newf(fault.Undecided, "there is more evidence about %s than is read", p.digest)
	}
	o := c.Judge(p.repository, p.product, f.Facts, f.SBOM)
	return l.o.DB.Update(ctx, func(tx *store.Tx) error { return l.enter(ctx, tx, p, c, o) })
}

func (l *Ledger) text(ctx context.Context, hash string) (c *Contract, err error) {
	for _, have := range l.o.Contracts().All() {
		if have.hash == hash {
			return have, nil
		}
	}
	err = l.o.DB.View(ctx, func(tx *store.Tx) error { c, err = getText(ctx, tx, hash); return err })
	return c, err
}

func (l *Ledger) enter(ctx context.Context, tx *store.Tx, p *push, c *Contract, o Outcome) error {
	now := store.Micros(tx.Now())
	state, again, told := statePending, p.due, p.told
	switch {
	case o.Complete() || len(o.Items) == 0:
		state, again, told = stateComplete, 0, false
	case now >= p.due:
		state, again, told = stateMissing, 0, true
	}
	toldN := int64(0)
	if told {
		toldN = 1
	}
	// again is what it was unless something came meanwhile, or another did this.
	n, err := tx.Exec(ctx, `UPDATE contract_push SET state = ?, again = ?, told = ? WHERE digest = ? AND repository = ? AND hash = ? AND again = ? AND state = ?`,
		state, again, toldN, string(p.digest), p.repository, p.hash, p.again, p.state)
	if err != nil || n == 0 {
		return err
	}
	// Evidence came with the latest event of it; without one since the push, it was
	// there before.
	came := p.touched
	if came == 0 {
		came = p.pushed
	}
	for _, i := range o.Items {
		// What is there keeps the time at which it came; what is there no longer
		// has none.
		q, args := `UPDATE contract_item SET arrived = 0, reason = ? WHERE digest = ? AND repository = ? AND item = ?`, []any{clip(i.Reason, 500)}
		if i.Present {
			q, args = `UPDATE contract_item SET arrived = ?, reason = '' WHERE digest = ? AND repository = ? AND item = ? AND arrived = 0`, []any{came}
		}
		if _, err := tx.Exec(ctx, q, append(args, string(p.digest), p.repository, i.Name)...); err != nil {
			return err
		}
	}
	body := map[string]any{"repository": p.repository, "contract": c.Name, "version": c.Spec.Version, "build": p.build}
	switch {
	case told && !p.told:
		var why []string
		for _, i := range o.Items {
			if !i.Present {
				why = append(why, i.Name+": "+i.Reason)
			}
		}
		body["missing"], body["reasons"], body["seconds"] = o.Missing(), clip(strings.Join(why, "; "), 4000), int(c.Within().Seconds())
		tx.OnCommit(l.met.missing.Inc)
		return event.Append(ctx, tx, event.Event{Kind: event.EvidenceMissing, Digest: p.digest, Actor: actor, Body: body})
	case p.told && state == stateComplete:
		body["late_seconds"] = max(0, int((now-p.due)/1_000_000))
		return event.Append(ctx, tx, event.Event{Kind: event.EvidenceCompleted, Digest: p.digest, Actor: actor, Body: body})
	}
	return nil
}

func clip(s string, n int) string { return excerpt.Text(s, n) }
