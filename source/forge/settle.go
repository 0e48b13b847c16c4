package forge

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/event"
	"assay/evidence"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/source"
	"assay/store"
)

// The types of the statements that a recorder makes, beside
// attestation.PredicateVSA.
const (
	// PredicateReview is in-toto's "VCS code reviews", one approval.
	PredicateReview = "https://in-toto.io/attestation/human-review/vcs/v0.1"
	// PredicateRecord is what is known of how a commit came to a protected branch;
	// docs/source.md describes it.
	PredicateRecord = "https://assay.dev/attestations/source/v1"
)

// Record is the body of a statement of type PredicateRecord.
type Record struct {
	Repository string           `json:"repository"`
	Ref        string           `json:"ref"`
	Before     string           `json:"before"` // commit that the branch was at; 40 zeros: the branch is new
	Pusher     string           `json:"pusher,omitempty"`
	PushedAt   time.Time        `json:"pushedAt"`
	Forced     string           `json:"forced"`              // "yes", "no" or "unknown"
	Removed    bool             `json:"removed,omitzero"`    // the commit was taken off the branch by a force push
	Revision   int              `json:"revision,omitzero"`   // of this push's records: the highest of a signer counts
	Reviewed   bool             `json:"reviewed"`            // enough approvals of what was merged, by others than its author
	Approvals  []Approval       `json:"approvals,omitempty"` // the last word of each who approved
	Change     *ChangeRecord    `json:"change,omitempty"`    // that brought it; absent: pushed past all review
	Workflows  []string         `json:"workflows,omitempty"` // files of pipelines that changed
	FilesKnown bool             `json:"filesKnown"`          // the forge told of all changed files
	Protection *source.Controls `json:"protection,omitempty"`
}

// Approval is one reviewer's approval.
type Approval struct {
	Reviewer string    `json:"reviewer"`
	ID       string    `json:"id"` // the forge's immutable one
	Commit   string    `json:"commit"`
	At       time.Time `json:"at"`
	Stale    bool      `json:"stale,omitzero"`  // of an older head than was merged
	Own      bool      `json:"own,omitzero"`    // by the author
	Pushed   bool      `json:"pushed,omitzero"` // by somebody who moved the change's head, so one of its authors
}

// ChangeRecord is the pull or merge request.
type ChangeRecord struct {
	Number   int64     `json:"number"`
	Head     string    `json:"head"`
	Author   string    `json:"author,omitempty"`
	OpenedAt time.Time `json:"openedAt,omitzero"`
	MergedAt time.Time `json:"mergedAt,omitzero"`
	Link     string    `json:"link,omitempty"`
}

// reviewStatement states one approval of a commit.
func reviewStatement(s *Source, c *change, v *review) (*attestation.Statement, error) {
	b, err := json.Marshal(map[string]any{
		"reviewers": []map[string]any{{"name": v.Name, "uri": "urn:" + s.Provider + ":" + s.host + ":" + v.Reviewer}}, "reviewLink": v.Link, "reviewTime": v.At.UTC().Format(time.RFC3339),
		"annotations": map[string]any{"change": c.Number, "head": c.Head, "stale": v.Commit != c.Head, "own": v.Reviewer == c.Author},
	})
	if err != nil {
		return nil, err
	}
	return attestation.NewStatement(PredicateReview, json.RawMessage(b), subject(s, v.Commit, ""))
}

func subject(s *Source, commit, ref string) attestation.Subject {
	out := attestation.Subject{URI: s.URI(), Digest: artifact.DigestSet{"gitCommit": commit}}
	if ref != "" {
		out.Annotations = map[string]any{"source_refs": []string{ref}}
	}
	return out
}

// settle judges pushes whose time has come.
func (r *Recorder) settle(ctx context.Context) error {
	var due []pushRow
	if err := r.o.DB.Update(ctx, func(tx *store.Tx) (err error) {
		due, err = duePushes(ctx, tx, 50)
		return err
	}); err != nil {
		return err
	}
	var errs []error
	for i := range due {
		s := r.source(due[i].source)
		if s == nil {
			continue // its document is gone; should it come back, the push is judged
		}
		errs = append(errs, r.judge(ctx, s, &due[i]))
	}
	return errors.Join(errs...)
}

func (r *Recorder) source(name string) *Source {
	for _, s := range r.o.Sources() {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// patience is how long a forge that does not answer is asked again before a push
// is judged by what its notices told.
const patience = 15 * time.Minute

func (r *Recorder) judge(ctx context.Context, s *Source, p *pushRow) error {
	var asked *answers
	if s.Token != "" {
		var err error
		if asked, err = r.ask(ctx, s, p); err != nil && (p.reviewed >= 0 || r.o.Clock().Sub(p.at) < patience) {
			return err // what was judged once is judged again by all that is known, or not at all
		}
	}
	return r.o.DB.Update(ctx, func(tx *store.Tx) error {
		rec, c, reviews, err := r.weigh(ctx, tx, s, p, asked)
		if err != nil {
			return err
		}
		why := withdrawn(rec, reviews)
		rec.Revision = p.revision
		switch {
		case p.reviewed < 0:
			err = r.tell(ctx, tx, s, p, rec)
		case flag(rec.Reviewed) == int64(p.reviewed), !rec.Reviewed && why == "": // nothing is new
			_, err := tx.Exec(ctx, `UPDATE source_push SET due = 0 WHERE source = ? AND delivery = ?`, p.source, p.delivery)
			return err
		default:
			if rec.Revision++; !rec.Reviewed {
				err = r.tellOf(ctx, tx, s, p, event.SourceReviewWithdrawn, map[string]any{"reason": why, "approvals": len(rec.Approvals)})
			}
		}
		if err != nil {
			return err
		}
		if err := r.enqueueRecord(ctx, tx, s, p, rec); err != nil {
			return err
		}
		number := int64(0)
		if c != nil {
			number = c.Number
		}
		_, err = tx.Exec(ctx, `UPDATE source_push SET due = 0, reviewed = ?, revision = ?, change = ?, forced = ? WHERE source = ? AND delivery = ?`, flag(rec.Reviewed), rec.Revision, number, p.forced, p.source, p.delivery)
		if p.reviewed < 0 {
			tx.OnCommit(func() { r.met.settled(rec) })
		}
		return err
	})
}

// weigh puts together what is known of a push.
func (r *Recorder) weigh(ctx context.Context, tx *store.Tx, s *Source, p *pushRow, asked *answers) (*Record, *change, []review, error) {
	if asked != nil && p.forced < 0 && asked.forced != nil {
		p.forced = int(flag(*asked.forced))
	}
	rec := &Record{
		Repository: s.URI(), Ref: p.ref, Before: p.before, Pusher: p.pusher, PushedAt: p.at, Workflows: p.workflows, FilesKnown: p.whole,
		Forced: map[int]string{1: "yes", 0: "no", -1: "unknown"}[p.forced],
	}
	c, err := findChange(ctx, tx, s.Name, s.Branch, p.after)
	if err != nil {
		return nil, nil, nil, err
	}
	var reviews []review
	switch {
	case c != nil:
		if reviews, err = findReviews(ctx, tx, s.Name, c.Number); err != nil {
			return nil, nil, nil, err
		}
	case asked != nil && asked.change != nil:
		c = asked.change
	}
	if asked != nil && asked.change != nil && c.Number == asked.change.Number {
		reviews = append(reviews, asked.reviews...)
	}
	if c != nil {
		rec.Change = &ChangeRecord{Number: c.Number, Head: c.Head, Author: c.Author, OpenedAt: c.Opened, MergedAt: c.MergedAt, Link: clip(c.Link)}
		pushed, err := findContributors(ctx, tx, s.Name, c.Number)
		if err != nil {
			return nil, nil, nil, err
		}
		rec.Approvals = approvals(c, reviews, pushed)
		fresh := 0
		for _, a := range rec.Approvals {
			if !a.Stale && !a.Own && !a.Pushed {
				fresh++
			}
		}
		rec.Reviewed = fresh >= s.Reviews
	}
	rec.Protection, err = protection(ctx, tx, s)
	return rec, c, reviews, err
}

// approvals takes each reviewer's last word on the change. A comment is none,
// and a request for changes or a dismissal takes an approval back.
func approvals(c *change, reviews []review, pushed map[string]bool) (out []Approval) {
	reviews = taken(reviews)
	slices.SortStableFunc(reviews, func(a, b review) int {
		// Of one time, the dismissal is the later one.
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(flag(a.State == "dismissed"), flag(b.State == "dismissed")))
	})
	last := map[string]review{}
	var order []string
	for _, v := range reviews {
		if v.State == "commented" || v.State != "dismissed" && !c.MergedAt.IsZero() && v.At.After(c.MergedAt) {
			continue // said after the merge it reviewed nothing that was merged
		}
		if _, there := last[v.Reviewer]; !there {
			order = append(order, v.Reviewer)
		}
		last[v.Reviewer] = v
	}
	for _, id := range order {
		if v := last[id]; v.State == "approved" && len(out) < 50 {
			out = append(out, Approval{Reviewer: v.Name, ID: v.Reviewer, Commit: v.Commit, At: v.At, Stale: v.Commit != c.Head, Own: v.Reviewer == c.Author || c.Author == "", Pushed: pushed[v.Reviewer]})
		}
	}
	return out
}

// tell raises the events of a push.
func (r *Recorder) tell(ctx context.Context, tx *store.Tx, s *Source, p *pushRow, rec *Record) error {
	add := func(kind event.Kind, body map[string]any) error { return r.tellOf(ctx, tx, s, p, kind, body) }
	var errs []error
	if p.forced == 1 {
		errs = append(errs, add(event.SourceForcePushed, map[string]any{"reason": "the branch's history was rewritten"}))
	}
	if !rec.Reviewed {
		why := "no merged change is known that brought it"
		if rec.Change != nil {
			why = "fewer fresh approvals by others than its author than are wanted"
		}
		errs = append(errs, add(event.SourceUnreviewed, map[string]any{"reason": why, "approvals": len(rec.Approvals)}))
	}
	if len(rec.Workflows) > 0 || !rec.FilesKnown {
		errs = append(errs, add(event.SourceWorkflowChanged, map[string]any{"files": rec.Workflows, "known": rec.FilesKnown, "reviewed": rec.Reviewed}))
	}
	return errors.Join(errs...)
}

// tellOf raises an event about a push.
func (r *Recorder) tellOf(ctx context.Context, tx *store.Tx, s *Source, p *pushRow, kind event.Kind, body map[string]any) error {
	for k, v := range map[string]any{"source": s.Name, "repository": s.URL, "ref": p.ref, "before": p.before, "after": p.after} {
		body[k] = v
	}
	return event.Append(ctx, tx, event.Event{Kind: kind, Digest: evidence.CommitKey(p.after), Actor: actor(s, p.pusher), Body: body})
}

// enqueueRecord files the statements about a push: the record, the summary with
// its level, and of a rewritten branch what was taken off it.
func (r *Recorder) enqueueRecord(ctx context.Context, tx *store.Tx, s *Source, p *pushRow, rec *Record) error {
	state := func(commit, ref string, rec *Record) error {
		b, err := json.Marshal(rec)
		if err != nil {
			return err
		}
		st, err := attestation.NewStatement(PredicateRecord, json.RawMessage(b), subject(s, commit, ref))
		if err != nil {
			return err
		}
		return enqueue(ctx, tx, s.Name, st)
	}
	if err := state(p.after, p.ref, rec); err != nil {
		return err
	}
	if p.forced == 1 && !zeroID(p.before) {
		gone := *rec
		gone.Removed, gone.Reviewed, gone.Approvals, gone.Change = true, false, nil, nil
		if err := state(p.before, "", &gone); err != nil {
			return err
		}
	}
	level, next := source.Level(rec.Protection, p.pusher != "", p.at, p.ref)
	spec, err := strictjson.Canonical(map[string]any{"url": s.URL, "branch": s.Branch, "reviews": s.Reviews})
	if err != nil {
		return err
	}
	sum := source.Summary{
		Verifier: r.o.URL, Repository: s.URI(), Ref: p.ref, Commit: p.after, Passed: p.forced != 1, Level: level, Next: next, At: r.o.Clock(),
		Policy: attestation.ResourceDescriptor{URI: "urn:assay:source:" + s.Name, Digest: artifact.SHA256Of(spec).Set()},
	}
	st, err := sum.Statement()
	if err != nil {
		return err
	}
	return enqueue(ctx, tx, s.Name, st)
}

// protection is how the branch is protected, as it was last found.
func protection(ctx context.Context, tx *store.Tx, s *Source) (*source.Controls, error) {
	var body []byte
	var since int64
	err := tx.QueryRow(ctx, `SELECT body, since FROM source_protection WHERE source = ? AND ref = ?`, s.Name, s.Ref()).Scan(&body, &since)
	if errors.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var c source.Controls
	if err := strictjson.Unmarshal(body, &c, strictjson.RejectUnknown()); err != nil {
		return nil, fault.Newf(fault.Tampered, "protection of %s: %w", s.Name, err)
	}
	c.Since = store.Time(since)
	return &c, nil
}

// look asks forges how the branches are protected, where that is due.
func (r *Recorder) look(ctx context.Context) error {
	var errs []error
	for _, s := range r.o.Sources() {
		if s.Token == "" {
			continue
		}
		due := false
		err := r.o.DB.Update(ctx, func(tx *store.Tx) error {
			due = false
			var looked int64
			err := tx.QueryRow(ctx, `SELECT looked FROM source_protection WHERE source = ? AND ref = ?`, s.Name, s.Ref()).Scan(&looked)
			if err != nil && !errors.Is(err, fault.NotFound) {
				return err
			}
			if due = err != nil || tx.Now().Sub(store.Time(looked)) >= r.o.Every; due && err == nil {
				_, err = tx.Exec(ctx, `UPDATE source_protection SET looked = ? WHERE source = ? AND ref = ?`, store.Micros(tx.Now()), s.Name, s.Ref())
				return err
			}
			return nil
		})
		if err == nil && due {
			err = r.lookAt(ctx, s)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (r *Recorder) lookAt(ctx context.Context, s *Source) error {
	found, err := r.controls(ctx, s)
	if err != nil {
		return err
	}
	body, err := strictjson.Canonical(found)
	if err != nil {
		return err
	}
	return r.o.DB.Update(ctx, func(tx *store.Tx) error {
		was, err := protection(ctx, tx, s)
		if err != nil {
			return err
		}
		now := store.Micros(tx.Now())
		if was != nil {
			before := *was
			before.Since = time.Time{}
			old, err := strictjson.Canonical(before)
			if err != nil {
				return err
			}
			if string(old) == string(body) {
				_, err := tx.Exec(ctx, `UPDATE source_protection SET looked = ? WHERE source = ? AND ref = ?`, now, s.Name, s.Ref())
				return err
			}
		}
		if _, err := tx.Exec(ctx, `INSERT INTO source_protection (source, ref, body, since, looked) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (source, ref) DO UPDATE SET body = excluded.body, since = excluded.since, looked = excluded.looked`, s.Name, s.Ref(), body, now, now); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.SourceProtectionChanged, Actor: "system:source", Body: map[string]any{
			"source": s.Name, "repository": s.URL, "ref": s.Ref(), "from": was, "to": found,
		}})
	})
}
