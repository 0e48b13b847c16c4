package forge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/artifact"
	"assay/attestation"
	"assay/event"
	"assay/evidence"
	"assay/internal/clock"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/store"
)

// Options are what a Recorder needs of its site.
type Options struct {
	DB      *store.DB
	Sources func() []*Source                                                     // in force
	Secret  func(place string) ([]byte, error)                                   // reads file:… and credential:…
	Sign    func(ctx context.Context, st *attestation.Statement) ([]byte, error) // by the site's own key, timestamped and logged
	Ingest  func(ctx context.Context, bundle []byte) error                       // stores a bundle as evidence; idempotent
	URL     string                                                               // of the site, for who reads its statements
	Clock   clock.Clock
	Logger  *slog.Logger
	// Registerer takes the metrics; nil: none.
	Registerer prometheus.Registerer
	// Every is how often protection is looked at; 0: ten minutes. Grace is how long
	// a push waits for the notices of the change that it merges; 0: 30 seconds.
	Every, Grace time.Duration
}

// Recorder records what forges tell and states it about the commits.
type Recorder struct {
	o     Options
	met   *metrics
	mu    sync.Mutex
	conns map[bool]*http.Client
	wake  chan struct{}
}

// New makes a recorder.
func New(o Options) (*Recorder, error) {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Every <= 0 {
		o.Every = 10 * time.Minute
	}
	if o.Grace <= 0 {
		o.Grace = grace
	}
	r := &Recorder{o: o, conns: map[bool]*http.Client{}, wake: make(chan struct{}, 1), met: newMetrics()}
	return r, r.met.register(o.Registerer)
}

// Hooks takes POST requests at prefix and a provider's name. It answers 202 once
// what the notice says is stored; a notice that was taken before changes nothing.
func (r *Recorder) Hooks(prefix string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		text, err := r.take(q, strings.TrimPrefix(q.URL.Path, prefix))
		if err != nil {
			http.Error(w, err.Error(), fault.HTTPStatus(err))
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, text+"\n")
	})
}

const minSecret = 16

func (r *Recorder) take(q *http.Request, provider string) (string, error) {
	if provider != GitHub && provider != GitLab && provider != Gitea || q.Method != http.MethodPost {
		return "", fault.Newf(fault.NotFound, "want POST /hooks/github, gitlab or gitea")
	}
	body, err := io.ReadAll(io.LimitReader(q.Body, maxBody+1))
	if err != nil {
		return "", fault.Newf(fault.Invalid, "the notice ended early")
	}
	if len(body) > maxBody {
		return "", fault.Newf(fault.TooLarge, "a notice of more than %d bytes", maxBody)
	}
	var proved []*Source
	for _, s := range r.o.Sources() {
		if s.Provider != provider {
			continue
		}
		secret, err := r.o.Secret(s.Secret)
		if err != nil || len(secret) < minSecret {
			r.o.Logger.ErrorContext(q.Context(), "notices are refused: the secret cannot be read, or is shorter than 16 bytes", "source", s.Name, "error", err)
			continue
		}
		if proves(provider, q.Header, body, secret) {
			proved = append(proved, s)
		}
	}
	if len(proved) == 0 {
		return "", fault.Newf(fault.Unauthenticated, "no source of %s has this secret", provider)
	}
	name := eventName(provider, q.Header)
	n, err := parse(provider, name, body)
	if err != nil {
		return "", err
	}
	if n == nil {
		return "nothing here is about that", nil
	}
	// GitHub's header is outside of what is signed, so that the body alone, with
	// the event's name, says whether it was here before.
	sum := sha256.Sum256(append([]byte(provider+" "+name+"\x00"), body...))
	delivery, taken := hex.EncodeToString(sum[:]), 0
	for _, s := range proved {
		if !s.is(n.repository) {
			continue
		}
		taken++
		if err := r.record(q.Context(), s, delivery, n); err != nil {
			return "", err
		}
	}
	if taken == 0 {
		return "nothing here is about that", nil
	}
	r.nudge()
	return "taken", nil
}

func (r *Recorder) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// record stores a notice with its events, once.
func (r *Recorder) record(ctx context.Context, s *Source, delivery string, n *notice) error {
	return r.o.DB.Update(ctx, func(tx *store.Tx) error {
		k, err := tx.Exec(ctx, `INSERT INTO source_delivery (source, digest, at) VALUES (?, ?, ?) ON CONFLICT (source, digest) DO NOTHING`, s.Name, delivery, store.Micros(tx.Now()))
		if err != nil || k == 0 {
			return err
		}
		if n.rules {
			// Looked at anew, by the worker that asks the forge.
			_, err := tx.Exec(ctx, `UPDATE source_protection SET looked = 0 WHERE source = ?`, s.Name)
			return err
		}
		if p := n.push; p != nil && p.Ref == s.Ref() {
			return r.recordPush(ctx, tx, s, delivery, p)
		}
		if p := n.push; p != nil && strings.HasPrefix(p.Ref, tagPrefix) {
			return r.recordTag(ctx, tx, s, p)
		}
		if n.change == nil {
			return nil
		}
		if err := upsertChange(ctx, tx, s.Name, n.change); err != nil {
			return err
		}
		if err := recordContributor(ctx, tx, s.Name, n.change); err != nil {
			return err
		}
		if n.review != nil {
			if err := r.recordReview(ctx, tx, s, delivery, n); err != nil {
				return err
			}
		}
		return again(ctx, tx, s.Name, n.change.Number)
	})
}

func (r *Recorder) recordPush(ctx context.Context, tx *store.Tx, s *Source, delivery string, p *push) error {
	if zeroID(p.After) {
		return event.Append(ctx, tx, event.Event{Kind: event.SourceForcePushed, Digest: evidence.CommitKey(p.Before), Actor: actor(s, p.Pusher), Body: map[string]any{
			"source": s.Name, "repository": s.URL, "ref": p.Ref, "before": p.Before, "after": "", "reason": "the branch was deleted",
		}})
	}
	var workflows []string
	for _, f := range p.Files {
		if s.workflow(f) && len(workflows) < 50 && len(f) < 500 && !strings.ContainsAny(f, "\n\x00") {
			workflows = append(workflows, f)
		}
	}
	if err := insertPush(ctx, tx, s.Name, delivery, p, workflows, tx.Now().Add(r.o.Grace)); err != nil {
		return err
	}
	return event.Append(ctx, tx, event.Event{Kind: event.SourcePushed, Digest: evidence.CommitKey(p.After), Actor: actor(s, p.Pusher), Body: map[string]any{
		"source": s.Name, "repository": s.URL, "ref": p.Ref, "before": p.Before, "after": p.After,
	}})
}

func (r *Recorder) recordReview(ctx context.Context, tx *store.Tx, s *Source, delivery string, n *notice) error {
	v := n.review
	if err := insertReview(ctx, tx, s.Name, delivery, n.change.Number, v); err != nil {
		return err
	}
	if v.State == "approved" {
		st, err := reviewStatement(s, n.change, v)
		if err != nil {
			return err
		}
		if err := enqueue(ctx, tx, s.Name, st); err != nil {
			return err
		}
	}
	return event.Append(ctx, tx, event.Event{Kind: event.SourceReviewed, Digest: evidence.CommitKey(v.Commit), Actor: actor(s, v.Name), Body: map[string]any{
		"source": s.Name, "repository": s.URL, "change": n.change.Number, "commit": v.Commit, "state": clip(v.State), "stale": v.Commit != n.change.Head, "own": v.Reviewer == n.change.Author,
	}})
}

func actor(s *Source, name string) string { return s.Provider + ":" + clip(name) }

func clip(s string) string { return excerpt.Text(s, 200) }

// enqueue files a statement to be signed. Its id is its content's, so that the
// same one is not signed twice while it waits.
func enqueue(ctx context.Context, tx *store.Tx, source string, st *attestation.Statement) error {
	b, err := st.Bytes()
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO source_statement (id, source, body, due, tries) VALUES (?, ?, ?, ?, 0) ON CONFLICT (id) DO NOTHING`,
		artifact.SHA256Of(b).Hex(), source, b, store.Micros(tx.Now()))
	return err
}

// Run judges pushes, signs what is to be stated, and looks at protection, until
// ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := r.Step(ctx); err != nil && ctx.Err() == nil {
			r.o.Logger.WarnContext(ctx, "what forges told is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-r.wake:
		}
	}
}

// Step does what is due.
func (r *Recorder) Step(ctx context.Context) error {
	if len(r.o.Sources()) == 0 {
		return nil
	}
	return errors.Join(r.look(ctx), r.settle(ctx), r.state(ctx))
}

// state signs and stores statements that wait, each until it is stored.
func (r *Recorder) state(ctx context.Context) error {
	type row struct {
		id   string
		body []byte
	}
	var due []row
	err := r.o.DB.Update(ctx, func(tx *store.Tx) error {
		due = nil
		rows, err := tx.Query(ctx, `SELECT id, body FROM source_statement WHERE due <= ? ORDER BY due LIMIT 20`, store.Micros(tx.Now()))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var one row
			if err := rows.Scan(&one.id, &one.body); err != nil {
				return err
			}
			due = append(due, one)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		rows.Close()
		for _, one := range due {
			if _, err := tx.Exec(ctx, `UPDATE source_statement SET due = ?, tries = tries + 1 WHERE id = ?`, store.Micros(tx.Now().Add(claim)), one.id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, one := range due {
		st, err := attestation.ParseStatement(one.body, attestation.DefaultLimits())
		if err == nil {
			var bundle []byte
			if bundle, err = r.o.Sign(ctx, st); err == nil {
				err = r.o.Ingest(ctx, bundle)
			}
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, r.o.DB.Update(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(ctx, `DELETE FROM source_statement WHERE id = ?`, one.id)
			return err
		}))
	}
	return errors.Join(errs...)
}
