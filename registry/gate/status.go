package gate

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"assay/artifact"
	"assay/config"
	"assay/event"
	"assay/internal/fault"
	"assay/policy"
	"assay/registry"
	"assay/store"
	"assay/verify"
)

// ManifestStatus is what a manifest in a repository is, and why.
type ManifestStatus struct {
	Repository string          `json:"repository"`
	Tag        string          `json:"tag,omitempty"` // as it was asked for
	Digest     artifact.Digest `json:"digest"`
	Mode       config.Mode     `json:"mode"`
	Profile    string          `json:"profile,omitempty"`
	State      State           `json:"state"`
	Basis      string          `json:"basis,omitempty"`   // what active rests on: decision, warn, hand, dev, carrier, or the index
	Reason     string          `json:"reason,omitempty"`  // of the state
	Since      time.Time       `json:"since,omitzero"`    // in this state
	Expires    time.Time       `json:"expires,omitzero"`  // when it is given up, or the state ends
	JudgeAt    time.Time       `json:"judge_at,omitzero"` // when it is judged again
	Public     artifact.Digest `json:"public,omitempty"`  // what the tag names for everybody; empty: not set
	Held       []registry.Held `json:"held,omitempty"`    // tags that wait
	Immutable  string          `json:"immutable,omitempty"`
	Blocks     []Block         `json:"blocks,omitempty"`
	// Of the decision that counts; absent in a repository without a gate.
	Decision string         `json:"decision,omitempty"`
	Verdict  policy.Verdict `json:"verdict,omitempty"`
	Policy   string         `json:"policy,omitempty"`
	PolicyIn policy.Mode    `json:"policy_mode,omitempty"`
	Checks   []policy.Check `json:"checks,omitempty"`
	History  []TagMove      `json:"history,omitempty"` // of the tag, the newest first, at most 10
}

// resolve gives what a status is asked about: of a tag the newest push, whether
// everybody sees it or not.
func (g *Gate) resolve(ctx context.Context, repository, tag string, d artifact.Digest) (artifact.Digest, string, error) {
	mediaType := ""
	err := g.db.View(ctx, func(tx *store.Tx) error {
		if tag != "" {
			at, err := registry.Tag(ctx, tx, repository, tag)
			if err != nil {
				return err
			}
			d = at.Digest
			if len(at.Held) > 0 {
				d = at.Held[0].Digest
			}
			if d == "" {
				return fault.Newf(fault.NotFound, "tag %s is not in repository %s", tag, repository)
			}
		}
		err := tx.QueryRow(ctx, `SELECT media_type FROM registry_manifest WHERE repository = ? AND digest = ?`, repository, string(d)).Scan(&mediaType)
		if errors.Is(err, fault.NotFound) {
			err = fault.Newf(fault.NotFound, "manifest %s is not in repository %s", d, repository)
		}
		return err
	})
	return d, mediaType, err
}

// Status says what a manifest is, and decides about it where nothing was
// decided yet, so that there is a trail. It is named by a tag or a digest.
func (g *Gate) Status(ctx context.Context, repository, tag string, d artifact.Digest) (*ManifestStatus, error) {
	d, mediaType, err := g.resolve(ctx, repository, tag, d)
	if err != nil {
		return nil, err
	}
	s := g.Repository(repository)
	st := &ManifestStatus{Repository: repository, Tag: tag, Digest: d, Mode: s.Mode, Profile: s.Profile, State: Open}
	if tag != "" {
		st.Immutable, _ = s.ImmutableTag(tag)
	}
	var r *row
	if err := g.db.View(ctx, func(tx *store.Tx) (err error) {
		if r, err = find(ctx, tx, repository, d); err != nil {
			return err
		}
		if st.Blocks, err = selectBlocks(ctx, tx, `WHERE digest = ? ORDER BY kind DESC, since LIMIT 100`, string(d)); err != nil {
			return err
		}
		if st.Held, err = registry.HeldFor(ctx, tx, repository, d); err != nil || tag == "" {
			return err
		}
		at, err := registry.Tag(ctx, tx, repository, tag)
		st.Public = at.Digest
		return err
	}); err != nil {
		return nil, err
	}
	if r != nil {
		st.State, st.Basis, st.Reason, st.Since = r.state, r.basis, r.reason, r.changed
		st.Expires, st.JudgeAt = store.Time(r.expires), store.Time(r.due)
	} else if gated(&s) {
		st.State, st.Reason = Staged, "pushed before the repository had a gate, and not judged yet"
	}
	if gated(&s) && (r == nil || !r.carrier) {
		if err := g.trail(ctx, st, &s, mediaType); err != nil {
			return nil, err
		}
	}
	if len(st.Blocks) > 0 {
		st.State, st.Basis, st.Reason, st.Since = st.Blocks[0].State, "", st.Blocks[0].Reason, st.Blocks[0].Since
	}
	if tag != "" {
		if st.History, err = g.History(ctx, repository, tag, 0, 10, false); err != nil {
			return nil, err
		}
	}
	return st, nil
}

func (g *Gate) trail(ctx context.Context, st *ManifestStatus, s *config.RepositorySpec, mediaType string) error {
	t := target(st.Repository, st.Digest, mediaType, s.Profile)
	sc, err := g.placed(ctx, nil, t, s)
	if err != nil {
		return err
	}
	pol := g.policyFor(t, sc)
	var d *verify.Decision
	err = g.db.View(ctx, func(tx *store.Tx) (err error) {
		d, err = verify.Standing(ctx, tx, st.Digest, sc.ID)
		return err
	})
	if errors.Is(err, fault.NotFound) || err == nil && d.PolicyHash != pol.Hash() {
		d, err = g.o.Judge.Decide(ctx, t, sc, pol)
	}
	if errors.Is(err, fault.Undecided) {
		st.Reason = err.Error()
		return nil
	}
	if err != nil {
		return err
	}
	st.Decision, st.Verdict, st.Policy, st.PolicyIn, st.Checks = d.ID, d.Verdict, d.Policy, d.Mode, d.Checks
	return nil
}

// TagMove is one move of a tag, with where the event log and the
// transparency log have it.
type TagMove struct {
	Number   int64           `json:"number"` // of the push that it came from; rises with time
	From     artifact.Digest `json:"from,omitempty"`
	To       artifact.Digest `json:"to,omitempty"`     // empty: the tag was deleted
	Actor    string          `json:"actor"`            // who pushed or deleted
	Reason   string          `json:"reason,omitempty"` // how it came to be seen, where it waited
	Time     time.Time       `json:"time"`
	Event    string          `json:"event"`               // id of the record in the event log
	Seq      int64           `json:"seq,omitempty"`       // in the event log; absent: not sealed yet
	LogIndex *int64          `json:"log_index,omitempty"` // of the head that covers it, in the transparency log; absent: not logged yet
	// Proof shows that the event is under the head: with it and the log, no
	// word of this server needs to be believed.
	Proof *event.Inclusion `json:"proof,omitempty"`
}

// History lists the moves of a tag, the newest first, from below a number (0:
// the newest), at most limit; with the proofs on demand.
func (g *Gate) History(ctx context.Context, repository, tag string, below int64, limit int, proofs bool) ([]TagMove, error) {
	var list []registry.HistoryEntry
	if err := g.db.View(ctx, func(tx *store.Tx) (err error) {
		list, err = registry.History(ctx, tx, repository, tag, below, limit)
		return err
	}); err != nil {
		return nil, err
	}
	out := make([]TagMove, len(list))
	for i := range list {
		h := &list[i]
		out[i] = TagMove{Number: h.Number, From: h.From, To: h.To, Actor: h.Actor, Reason: h.Reason, Time: h.Time, Event: h.Event}
		if g.o.Events == nil {
			continue
		}
		e, err := g.o.Events.Get(ctx, list[i].Event)
		if errors.Is(err, fault.NotFound) {
			continue // not sealed yet, or dropped by retention, which keeps heads
		}
		if err != nil {
			return nil, err
		}
		out[i].Seq = e.Seq
		_, index, err := g.o.Events.Logged(ctx, e.Seq)
		if err == nil {
			out[i].LogIndex = &index
		} else if !errors.Is(err, fault.NotFound) {
			return nil, err
		}
		if proofs && err == nil {
			if out[i].Proof, err = g.o.Events.Prove(ctx, e.Seq); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// Pull is one time that a digest was handed out.
type Pull struct {
	Time       time.Time       `json:"time"`
	Digest     artifact.Digest `json:"digest"`
	Actor      string          `json:"actor"`
	Repository string          `json:"repository"`
	Tag        string          `json:"tag,omitempty"`
	Address    string          `json:"address,omitempty"`
	Event      string          `json:"event"`
}

// maxPulls bounds one answer of Pulls.
const maxPulls = 1000

// Pulls lists who pulled a digest or a part of it and when, the newest first,
// at most 1,000 for each manifest; more says that there were more.
func (g *Gate) Pulls(ctx context.Context, d artifact.Digest) (out []Pull, more bool, err error) {
	if err := d.Validate(); err != nil {
		return nil, false, err
	}
	if g.o.Events == nil {
		return nil, false, fault.Newf(fault.Unavailable, "there is no event log here")
	}
	var members []artifact.Digest
	if err := g.db.View(ctx, func(tx *store.Tx) (err error) {
		members, err = partsAnywhere(ctx, tx, d)
		return err
	}); err != nil {
		return nil, false, err
	}
	out = []Pull{}
	for _, one := range append([]artifact.Digest{d}, members...) {
		events, err := g.o.Events.Query(ctx, event.Filter{Kinds: []event.Kind{event.ArtifactPulled}, Digest: one, Newest: true, Limit: maxPulls})
		if err != nil {
			return nil, false, err
		}
		more = more || len(events) == maxPulls
		for _, e := range events {
			p := Pull{Time: e.Time, Digest: e.Digest, Actor: e.Actor, Event: e.ID}
			if b, ok := e.Body.(json.RawMessage); ok {
				var body struct{ Repository, Tag, Address string }
				if json.Unmarshal(b, &body) == nil {
					p.Repository, p.Tag, p.Address = body.Repository, body.Tag, body.Address
				}
			}
			out = append(out, p)
		}
		if len(out) > 10*maxPulls {
			more = true
			break
		}
	}
	slices.SortStableFunc(out, func(a, b Pull) int { return b.Time.Compare(a.Time) })
	return out, more, nil
}
