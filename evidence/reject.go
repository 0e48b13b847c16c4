package evidence

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/trust"
)

// refusalError is a refusal by this package, which has one of trust's codes or of
// its own.
type refusalError struct {
	code string
	err  error
}

func (e *refusalError) Error() string { return e.err.Error() }
func (e *refusalError) Unwrap() error { return e.err }

func refusal(code, format string, args ...any) error {
	return &refusalError{code, fault.Newf(fault.Unverified, format, args...)}
}

// Code is the stable machine code of a refusal by Ingest: one of trust's or of
// this package's. "" when err is none, and so says nothing about the bundle.
func Code(err error) string {
	var own *refusalError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &own):
		return own.code
	case trust.Code(err) != "":
		return trust.Code(err)
	case errors.Is(err, fault.TooLarge):
		return CodeTooLarge
	case errors.Is(err, fault.Invalid), errors.Is(err, fault.Unverified):
		return trust.CodeBundleMalformed
	}
	return ""
}

// refused notes that a bundle was refused and gives err back. An error that is
// no refusal is not held against anybody.
func (s *Store) refused(ctx context.Context, id string, sub submission, from Origin, err error) error {
	code := Code(err)
	if code == "" {
		s.met.ingested.WithLabelValues(resultError).Inc()
		return err
	}
	s.reject(ctx, Rejection{ID: id, Subject: sub.about, Code: code, Reason: printable(err.Error(), 200), Repository: from.Repository, Source: from.Source}, from.Actor)
	return fmt.Errorf("ingest attestation: %w", err)
}

// reject notes a refusal: a row for its subject, if it has one, and an event,
// unless one of this sort was just told. That this fails is logged: the bundle
// is refused all the same.
func (s *Store) reject(ctx context.Context, r Rejection, actor string) {
	s.met.ingested.WithLabelValues(resultRejected).Inc()
	tell := s.rejected.note(r, actor)
	if r.Subject == "" && !tell {
		return
	}
	// The caller may have hung up, which must not be a way to leave no trace.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := s.db.Update(ctx, func(tx *store.Tx) error {
		if r.Subject != "" && r.ID != "" {
			if err := insertRejection(ctx, tx, r); err != nil {
				return err
			}
		}
		if !tell {
			return nil
		}
		return appendRejected(ctx, tx, told{Rejection: r, actor: actor, count: 1})
	})
	if err != nil {
		s.log.Error("note a rejected attestation", "code", r.Code, "repository", r.Repository, "error", err)
	}
}

// rejectedBody is the body of attestation.rejected.
type rejectedBody struct {
	ID         string `json:"id,omitempty"`
	Code       string `json:"code"`
	Reason     string `json:"reason"`
	Source     string `json:"source,omitempty"`
	Repository string `json:"repository,omitempty"`
	Count      int    `json:"count"` // refusals that this event stands for
}

func appendRejected(ctx context.Context, tx *store.Tx, t told) error {
	return event.Append(ctx, tx, event.Event{
		Kind: event.AttestationRejected, Digest: t.Subject, Actor: t.actor,
		Body: rejectedBody{t.ID, t.Code, t.Reason, t.Source, t.Repository, t.count},
	})
}

// writeRejections tells what was counted and not told.
func (s *Store) writeRejections(all []told) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := s.db.Update(ctx, func(tx *store.Tx) error {
		for _, t := range all {
			if err := appendRejected(ctx, tx, t); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.log.Error("note rejected attestations", "sorts", len(all), "error", err)
	}
}

// maxSorts bounds how many sorts of refusal are told apart within one window,
// and with it the events that anybody can cause in it, to twice that.
const maxSorts = 64

// rejections bounds the events that refusals cause. The first of a sort is told
// at once; those that follow within the window are counted, and told as one
// when it ends.
type rejections struct {
	window time.Duration
	write  func([]told)

	mu     sync.Mutex
	sorts  map[alike]*told
	timer  *time.Timer
	closed bool
	wg     sync.WaitGroup
}

// alike is what refusals of one sort have in common. Repository and actor were authorised
// before, so an attacker cannot make up many.
type alike struct{ code, repository, source, actor string }

// told is a refusal and how many like it are not told yet.
type told struct {
	Rejection
	actor string
	count int
}

func newRejections(window time.Duration, write func([]told)) *rejections {
	return &rejections{window: window, write: write, sorts: map[alike]*told{}}
}

// note counts a refusal and says whether it is to be told by itself.
func (j *rejections) note(r Rejection, actor string) (tell bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	k := alike{r.Code, r.Repository, r.Source, actor}
	t := j.sorts[k]
	if t == nil && len(j.sorts) >= maxSorts {
		k = alike{code: CodeOtherwise}
		r = Rejection{Code: CodeOtherwise, Reason: "refusals of more sorts than are told apart", Source: r.Source}
		actor = ""
		if t = j.sorts[k]; t == nil {
			t = &told{}
			j.sorts[k] = t
		}
	}
	if t != nil {
		t.Rejection, t.actor = r, actor
		t.count++
		return false
	}
	j.sorts[k] = &told{}
	if j.timer == nil && !j.closed {
		j.wg.Add(1)
		j.timer = time.AfterFunc(j.window, j.end)
	}
	return true
}

// end is the end of a window: what was counted is told, and its sorts stay
// under count for another; the others are forgotten.
func (j *rejections) end() {
	defer j.wg.Done()
	j.mu.Lock()
	due := j.take()
	j.timer = nil
	if len(j.sorts) > 0 && !j.closed {
		j.wg.Add(1)
		j.timer = time.AfterFunc(j.window, j.end)
	}
	j.mu.Unlock()
	if len(due) > 0 {
		j.write(due)
	}
}

// take gives what is due; the lock is held.
func (j *rejections) take() (due []told) {
	for k, t := range j.sorts {
		if t.count == 0 {
			delete(j.sorts, k)
			continue
		}
		due = append(due, *t)
		t.count = 0
	}
	return due
}

func (j *rejections) close() {
	j.mu.Lock()
	j.closed = true
	if j.timer != nil && j.timer.Stop() {
		j.timer = nil
		j.wg.Done()
	}
	due := j.take()
	j.mu.Unlock()
	j.wg.Wait()
	if len(due) > 0 {
		j.write(due)
	}
}

// Rejected gives the newest refusals of what was brought for a subject, at most
// sixteen. Refusals of bundles that came by no manifest have no subject: what
// they claim to be about was not proved.
func (s *Store) Rejected(ctx context.Context, subject artifact.Digest) (out []Rejection, err error) {
	if err := subject.Validate(); err != nil {
		return nil, err
	}
	err = s.db.View(ctx, func(tx *store.Tx) error {
		out, err = findRejections(ctx, tx, subject)
		return err
	})
	return out, err
}
