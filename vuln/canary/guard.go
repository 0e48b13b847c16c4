package canary

import (
	"context"
	"fmt"
	"strings"

	"assay/event"
	"assay/internal/excerpt"
	"assay/store"
	"assay/vuln/feed"
	"assay/vuln/finding"
)

// Result is whether a feed finds what a canary expects.
type Result struct {
	Expectation
	Feed, Ecosystem string
	Found           bool
	Must            bool // it found it before, or the canary names it
}

// finds says whether the feed of an operation, as it stands with that in force,
// finds an expectation.
func (c *Canaries) finds(ctx context.Context, p *feed.Preview, op feed.Operation, l *looked) (bool, error) {
	for _, cand := range l.candidates {
		records, err := p.ByPackage(ctx, cand.Package)
		if err != nil {
			return false, err
		}
		for _, r := range records {
			if r.Name == op.Name && r.Ecosystem == op.Ecosystem && finding.Affects(r, cand) && names(r, l.Advisory) {
				return true, nil
			}
		}
	}
	return false, nil
}

func names(r feed.Record, advisory string) bool {
	for _, n := range append(r.Names(), r.Upstream...) {
		if n == advisory {
			return true
		}
	}
	return false
}

// known is what was seen of a feed before: by canary, component and advisory.
type known map[[3]string]int64

func (c *Canaries) known(ctx context.Context, name, ecosystem string) (out known, err error) {
	err = c.db.View(ctx, func(tx *store.Tx) error {
		out = known{}
		rows, err := tx.Query(ctx, `SELECT canary, component, advisory, found FROM canary_result WHERE feed = ? AND ecosystem = ?`, name, ecosystem)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k [3]string
			var found int64
			if err := rows.Scan(&k[0], &k[1], &k[2], &found); err != nil {
				return err
			}
			out[k] = found
		}
		return rows.Err()
	})
	return out, err
}

// judged is a canary's result.
type judged struct {
	canary string
	Result
}

// judge looks at all canaries with an operation in force.
func (c *Canaries) judge(ctx context.Context, op feed.Operation) (out []judged, err error) {
	all, err := c.List(ctx)
	if err != nil {
		return nil, err
	}
	before, err := c.known(ctx, op.Name, op.Ecosystem)
	if err != nil {
		return nil, err
	}
	p := c.feeds.Preview(op)
	for _, one := range all {
		if one.Feed != "" && one.Feed != op.Name {
			continue
		}
		want, err := one.compile()
		if err != nil {
			return nil, err
		}
		for i := range want {
			l := &want[i]
			if !l.of(op.Ecosystem) {
				continue
			}
			found, seen := before[[3]string{one.Name, l.Component, l.Advisory}]
			r := Result{Expectation: l.Expectation, Feed: op.Name, Ecosystem: op.Ecosystem, Must: found == 1 || one.Feed != "" && !seen}
			if r.Found, err = c.finds(ctx, p, op, l); err != nil {
				return nil, err
			}
			out = append(out, judged{one.Name, r})
		}
	}
	return out, nil
}

// note keeps what is found, so that it must be from now on; all: also what is
// not, so that it need not.
func (c *Canaries) note(ctx context.Context, op feed.Operation, list []judged, all bool) error {
	return c.db.Update(ctx, func(tx *store.Tx) error {
		for _, j := range list {
			if !j.Found && !all {
				continue
			}
			found := 0
			if j.Found {
				found = 1
			}
			if _, err := tx.Exec(ctx, `INSERT INTO canary_result (canary, component, advisory, feed, ecosystem, found, operation) VALUES (?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT (canary, component, advisory, feed, ecosystem) DO UPDATE SET found = excluded.found, operation = excluded.operation`,
				j.canary, j.Component, j.Advisory, op.Name, op.Ecosystem, found, op.ID); err != nil {
				return err
			}
		}
		return nil
	})
}

// Guard is for [feed.Store.Before]: it holds an operation back with which a
// canary comes out clean, or the feed finds less than half of what it found.
func (c *Canaries) Guard(ctx context.Context, op feed.Operation) error {
	list, err := c.judge(ctx, op)
	if err != nil {
		return err
	}
	failed := clean(list)
	if len(failed) > 0 {
		return c.hold(ctx, op, failed)
	}
	why, err := c.thinned(ctx, op)
	if err != nil {
		return err
	}
	if why != "" {
		if err := c.tell(ctx, op, "density", nil, why); err != nil {
			return err
		}
		return &feed.BlockError{Operation: op.ID, Reason: why}
	}
	return c.note(ctx, op, list, false)
}

// clean are those that must be found and are not.
func clean(list []judged) (out []judged) {
	for _, j := range list {
		if j.Must && !j.Found {
			out = append(out, j)
		}
	}
	return out
}

func reason(failed []judged) string {
	var what []string
	for i, j := range failed {
		if i == 5 {
			what = append(what, fmt.Sprintf("%d more", len(failed)-i))
			break
		}
		what = append(what, fmt.Sprintf("%s (%s no longer affects %s)", j.canary, j.Advisory, j.Component))
	}
	return "canaries come out clean: " + strings.Join(what, ", ")
}

func (c *Canaries) hold(ctx context.Context, op feed.Operation, failed []judged) error {
	why := reason(failed)
	byName := map[string][]string{}
	var order []string
	for _, j := range failed {
		if byName[j.canary] == nil {
			order = append(order, j.canary)
		}
		byName[j.canary] = append(byName[j.canary], j.Advisory+" in "+j.Component)
	}
	for _, name := range order {
		if err := c.tell(ctx, op, name, byName[name], why); err != nil {
			return err
		}
	}
	return &feed.BlockError{Operation: op.ID, Reason: why}
}

// tell writes the event; once for an operation that is held back already.
func (c *Canaries) tell(ctx context.Context, op feed.Operation, canary string, missing []string, why string) error {
	if op.State == feed.Blocked {
		return nil
	}
	return c.db.Update(ctx, func(tx *store.Tx) error {
		return event.Append(ctx, tx, event.Event{Kind: event.CanaryFailed, Actor: "system:vuln", Body: map[string]any{
			"canary": canary, "feed": op.Name, "ecosystem": op.Ecosystem, "operation": op.ID, "missing": missing[:min(len(missing), 20)], "matcher": c.matcher, "reason": excerpt.Text(why, 1000),
		}})
	})
}

// Accept brings an operation into force that was held back, or has what is in
// force believed again. What it does not find need not be found by its feed any
// longer, and how much it finds is compared with what it finds from now on.
func (c *Canaries) Accept(ctx context.Context, id int64, actor, why string) (feed.Operation, error) {
	op, err := c.feeds.Accept(ctx, id, actor, why)
	if err != nil {
		return op, err
	}
	list, err := c.judge(ctx, op)
	if err == nil {
		err = c.note(ctx, op, list, true)
	}
	if err == nil {
		err = c.db.Update(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(ctx, `DELETE FROM canary_density WHERE feed = ? AND ecosystem = ?`, op.Name, op.Ecosystem)
			return err
		})
	}
	return op, err
}

// Report is a canary and what the feeds say of it.
type Report struct {
	Canary
	Results   []Result // one for each expectation and feed; with an empty feed: none finds it
	Uncovered bool     // an expectation is found by no feed
	Failed    bool     // a feed does not find what it must
}

// Reports lists the canaries; with check, as the feeds in force find them.
func (c *Canaries) Reports(ctx context.Context, check bool) (out []Report, err error) {
	all, err := c.List(ctx)
	if err != nil {
		return nil, err
	}
	at := map[string]int{}
	for _, one := range all {
		at[one.Name] = len(out)
		out = append(out, Report{Canary: one})
	}
	if !check {
		return out, nil
	}
	sources, err := c.feeds.Sources(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range sources {
		if s.Operation == 0 {
			continue
		}
		op, err := c.feeds.Operation(ctx, s.Operation)
		if err != nil {
			return nil, err
		}
		list, err := c.judge(ctx, op)
		if err != nil {
			return nil, err
		}
		for _, j := range list {
			if r := &out[at[j.canary]]; j.Found || j.Must {
				r.Results = append(r.Results, j.Result)
				r.Failed = r.Failed || j.Must && !j.Found
			}
		}
	}
	for i := range out {
		for _, x := range out[i].Expect {
			covered := false
			for _, r := range out[i].Results {
				covered = covered || r.Expectation == x
			}
			if !covered {
				out[i].Uncovered = true
				out[i].Results = append(out[i].Results, Result{Expectation: x})
			}
		}
	}
	return out, nil
}
