package backup

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"assay/event"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/store"
	"assay/tlog"
)

// Question is what an operator brings so that a log goes on.
type Question struct {
	Data string
	DB   *store.DB
	Logs []Log
	// Known are checkpoints that were seen outside: signed notes, or state files of
	// assay log monitor.
	Known [][]byte
	// From are copies of logs, newer ones, by the log's name.
	From map[string]tlog.Source
	// AcceptLoss lets logs go on of which nothing outside is known.
	AcceptLoss bool
	Reason     string
	By         string
	Now        func() time.Time
}

// Outcome is what became of one log.
type Outcome struct {
	Name     string `json:"name"`
	Origin   string `json:"origin"`
	Restored uint64 `json:"restored"` // entries before
	Size     uint64 `json:"size"`     // entries from which it goes on
	How      string `json:"how"`
}

// How a log goes on.
const (
	byKnowledge = "outside knowledge"
	byCopy      = "caught up"
	byLoss      = "loss accepted"
)

// Reconciliation decides whether restored logs may go on, and if so lets them. The
// server must not run.
//
// A log that goes on from an older state under its old key forks for whoever saw
// more of it. So for each log something must say that nobody did: a checkpoint
// from outside of at least the restored size that the restored log contains; or
// a newer copy, from which it catches up; or, where nothing is to be had, an
// operator, who says so with a reason. What is known to be longer than the log is
// never overruled. Nothing is changed unless all logs can go on.
func Reconciliation(ctx context.Context, q Question) ([]Outcome, error) {
	mark, err := ReadMarker(q.Data)
	if err != nil {
		return nil, err
	}
	if mark != nil && mark.State == Incomplete {
		return nil, fault.Newf(fault.Conflict, "the restore in %s broke off: remove the folder and restore again", q.Data)
	}
	if q.AcceptLoss && strings.TrimSpace(q.Reason) == "" {
		return nil, fault.Newf(fault.Invalid, "accepting loss wants a reason, which is kept in the event log")
	}
	notes, err := parseKnown(q.Known)
	if err != nil {
		return nil, err
	}
	var plans []plan
	for _, l := range q.Logs {
		p, err := q.plan(ctx, l, notes, mark)
		if err != nil {
			return nil, fmt.Errorf("log %s: %w", l.Name, err)
		}
		plans = append(plans, p)
	}
	for _, n := range notes {
		if !n.used {
			return nil, fault.Newf(fault.Invalid, "a checkpoint that was given is of none of this site's logs, or of none of their keys")
		}
	}
	return q.carryOut(ctx, plans, mark)
}

// known is a checkpoint from outside.
type known struct {
	note []byte
	used bool
}

func parseKnown(files [][]byte) ([]*known, error) {
	var all []*known
	for _, b := range files {
		if strings.HasPrefix(strings.TrimSpace(string(b)), "{") { // a monitor's state
			var st struct {
				Checkpoint string `json:"checkpoint"`
			}
			if err := strictjson.Unmarshal(b, &st); err != nil || st.Checkpoint == "" {
				return nil, fault.Newf(fault.Invalid, "a file that was given is neither a signed checkpoint nor the state of a monitor")
			}
			b = []byte(st.Checkpoint)
		}
		all = append(all, &known{note: b})
	}
	return all, nil
}

// plan is what is going to happen with a log.
type plan struct {
	log  Log
	out  Outcome
	head tlog.Checkpoint // that the log goes on from
	copy *tlog.Tree      // where it is copied from; nil: it is there
}

func (q Question) plan(ctx context.Context, l Log, notes []*known, mark *Marker) (plan, error) {
	tree, cp, err := l.whole(ctx, q.Data)
	if err != nil {
		return plan{}, err
	}
	p := plan{log: l, head: cp, out: Outcome{Name: l.Name, Origin: l.Origin, Restored: cp.Size, Size: cp.Size}}
	lostRows, err := q.olderDatabase(ctx, l, tree, mark)
	if err != nil {
		return plan{}, err
	}
	if src, ok := q.From[l.Name]; ok {
		if tree, p.head, err = l.newer(ctx, src, cp); err != nil {
			return plan{}, err
		}
		p.copy, p.out.Size, p.out.How = tree, p.head.Size, byCopy
	}
	for _, n := range notes {
		seen, err := l.parse(n.note)
		if errors.Is(err, fault.Unverified) {
			continue // of another log
		}
		if err != nil {
			return plan{}, err
		}
		n.used = true
		if err := tree.Extends(ctx, seen); err != nil {
			if errors.Is(err, fault.Conflict) {
				return plan{}, fault.Newf(fault.Conflict, "it was seen with %d entries and has %d here: to go on from here would contradict what others hold. Give a newer copy of the log to catch up from (--from-log), or end this log and give the site a new log key (assay keys rotate)", seen.Size, p.head.Size)
			}
			return plan{}, err
		}
		if seen.Size >= p.out.Restored && p.out.How == "" {
			p.out.How = byKnowledge
		}
	}
	if lostRows {
		p.out.How = "" // whatever the log knows, rows are gone, and only a person can take that
	}
	if p.out.How == "" {
		if !q.AcceptLoss {
			return plan{}, fault.Newf(fault.Undecided, "nothing says how far it had come: give a checkpoint of at least %d entries that a monitor, a witness or a client has seen since (--checkpoint), a newer copy (--from-log), or take the loss (--accept-loss --reason)", p.out.Restored)
		}
		p.out.How = byLoss
	}
	return p, nil
}

// olderDatabase says whether the database has recorded less than the folder,
// which means that it was restored alone.
func (q Question) olderDatabase(ctx context.Context, l Log, tree *tlog.Tree, mark *Marker) (bool, error) {
	var b []byte
	err := q.DB.View(ctx, func(tx *store.Tx) (err error) { b, err = tlog.Recorded(ctx, tx, l.Origin); return err })
	if errors.Is(err, fault.NotFound) {
		return tree.Size() > 0, nil
	}
	if err != nil {
		return false, err
	}
	rec, err := l.parse(b)
	if err != nil {
		return false, err
	}
	if rec.Size > tree.Size() {
		return false, fault.Newf(fault.Tampered, "the database has recorded %d entries, the folder has %d: restore the folder as new as the database", rec.Size, tree.Size())
	}
	return rec.Size < tree.Size() && (mark == nil || mark.State == Reconciled), tree.Extends(ctx, rec)
}

// newer reads a copy of the log that must extend what is here.
func (l Log) newer(ctx context.Context, src tlog.Source, here tlog.Checkpoint) (*tlog.Tree, tlog.Checkpoint, error) {
	b, err := src.Checkpoint(ctx)
	if err != nil {
		return nil, tlog.Checkpoint{}, fmt.Errorf("the copy's checkpoint: %w", err)
	}
	cp, err := l.parse(b)
	if err != nil {
		return nil, tlog.Checkpoint{}, fmt.Errorf("the copy's checkpoint: %w", err)
	}
	if cp.Size < here.Size {
		return nil, tlog.Checkpoint{}, fault.Newf(fault.Conflict, "the copy has %d entries, fewer than the %d here", cp.Size, here.Size)
	}
	tree, err := tlog.LoadTree(ctx, src, l.codec(), cp)
	if err == nil {
		err = tree.Extends(ctx, here)
	}
	return tree, cp, err
}

// carryOut copies tiles, then records the checkpoints with the event, then lets
// the logs go on: broken off anywhere, it can be done again.
func (q Question) carryOut(ctx context.Context, plans []plan, mark *Marker) ([]Outcome, error) {
	var outs []Outcome
	for _, p := range plans {
		if p.copy != nil {
			if err := p.fetch(ctx, q.Data); err != nil {
				return nil, fmt.Errorf("log %s: %w", p.log.Name, err)
			}
		}
		outs = append(outs, p.out)
	}
	how := byKnowledge
	for _, o := range outs {
		if o.How == byLoss || o.How == byCopy && how != byLoss {
			how = o.How
		}
	}
	if mark == nil {
		mark = &Marker{}
	}
	if err := q.DB.Update(ctx, func(tx *store.Tx) error {
		for _, p := range plans {
			if err := tlog.Adopt(ctx, tx, p.head); err != nil {
				return err
			}
		}
		return event.Append(ctx, tx, event.Event{Kind: event.RestoreReconciled, Actor: q.By, Body: map[string]any{
			"backup": mark.Backup, "how": how, "reason": q.Reason, "logs": outs,
		}})
	}); err != nil {
		return nil, err
	}
	mark.State, mark.Logs = Reconciled, []MarkedLog{}
	mark.Reconciled = &Reconcile{At: q.Now().UTC(), By: q.By, How: how, Reason: q.Reason}
	for _, n := range q.Known {
		mark.Reconciled.Evidence = append(mark.Reconciled.Evidence, string(n))
	}
	for _, p := range plans {
		ders, err := marshalKeys(p.log.Keys)
		if err != nil {
			return nil, err
		}
		mark.Logs = append(mark.Logs, MarkedLog{p.log.Name, p.log.Folder, p.log.Origin, p.log.CT, ders, p.head.Size, hex.EncodeToString(p.head.Root[:])})
	}
	return outs, mark.Write(q.Data)
}

// fetch writes the copy's files, then its checkpoint.
func (p plan) fetch(ctx context.Context, data string) error {
	dir := filepath.Join(data, p.log.Folder)
	write := func(name string, b []byte) error {
		full := filepath.Join(dir, filepath.FromSlash(name))
		if err := durable.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			return err
		}
		return durable.WriteFile(full, b, 0o600)
	}
	if err := p.copy.Files(ctx, write); err != nil {
		return err
	}
	return write("checkpoint", p.head.Note)
}
