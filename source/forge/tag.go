package forge

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"assay/attestation"
	"assay/event"
	"assay/evidence"
	"assay/internal/fault"
	"assay/store"
)

// PredicateTag is what is known of a tag and the commit that it names, or named.
const PredicateTag = "https://assay.dev/attestations/source-tag/v1"

const tagPrefix = "refs/tags/"

// Tag is the body of a statement of type PredicateTag, about a commit.
type Tag struct {
	Repository string    `json:"repository"`
	Ref        string    `json:"ref"`
	Moved      bool      `json:"moved"`            // the tag named another commit before, or names another now
	Before     string    `json:"before,omitempty"` // of a moved tag: what it named
	After      string    `json:"after"`            // what it names
	Pusher     string    `json:"pusher,omitempty"`
	PushedAt   time.Time `json:"pushedAt"`
}

// recordTag records that a tag was made, or moved. That it was deleted says
// nothing yet: the commit is what it was. One that is made again elsewhere has
// moved, which is why the row stays.
func (r *Recorder) recordTag(ctx context.Context, tx *store.Tx, s *Source, p *push) error {
	if zeroID(p.After) {
		return nil
	}
	commit := p.Commit
	if commit == "" {
		commit = p.After
	}
	var before string
	var moved int64
	err := tx.QueryRow(ctx, `SELECT commit_id, moved FROM source_tag WHERE source = ? AND ref = ?`, s.Name, p.Ref).Scan(&before, &moved)
	switch {
	case errors.Is(err, fault.NotFound):
		if !zeroID(p.Before) { // it was there before anybody told of it
			before = p.Before
		}
	case err != nil:
		return err
	}
	now := before != "" && before != commit
	if now {
		moved = 1
	}
	if _, err := tx.Exec(ctx, `INSERT INTO source_tag (source, ref, commit_id, moved, at) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (source, ref) DO UPDATE SET commit_id = excluded.commit_id, moved = excluded.moved, at = excluded.at`,
		s.Name, p.Ref, commit, moved, store.Micros(tx.Now())); err != nil {
		return err
	}
	t := Tag{Repository: s.URI(), Ref: p.Ref, Moved: moved != 0, After: commit, Pusher: clip(p.Pusher), PushedAt: tx.Now().UTC()}
	if now {
		t.Before = before
	}
	if err := enqueueTag(ctx, tx, s, commit, &t); err != nil || !now {
		return err
	}
	if err := enqueueTag(ctx, tx, s, before, &t); err != nil {
		return err
	}
	return event.Append(ctx, tx, event.Event{Kind: event.SourceTagMoved, Digest: evidence.CommitKey(commit), Actor: actor(s, p.Pusher), Body: map[string]any{
		"source": s.Name, "repository": s.URL, "ref": p.Ref, "before": before, "after": commit,
	}})
}

func enqueueTag(ctx context.Context, tx *store.Tx, s *Source, commit string, t *Tag) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	st, err := attestation.NewStatement(PredicateTag, json.RawMessage(b), subject(s, commit, ""))
	if err != nil {
		return err
	}
	return enqueue(ctx, tx, s.Name, st)
}
