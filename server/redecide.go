package server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"time"

	"assay/event"
	"assay/evidence"
	"assay/policy"
	"assay/store"
	"assay/verify"
)

const (
	redecideEvery = 250 * time.Millisecond
	redecideBatch = 64
	// redecideAhead is how long before its end a decision is made again, so that
	// no door finds it ended.
	redecideAhead = 10 * time.Minute
	// redecideRest is how long a decision rests that was just made again and is
	// due still: it could not be made, or could not be made to last.
	redecideRest = 2 * time.Minute
)

type decisionName struct{ digest, scope string }

type decidedAt struct {
	epoch   int64
	at      time.Time
	stirred int64 // by what it was due
}

// redecide makes decisions again that are due: those that a revocation concerns
// first, then those of an earlier trust epoch, then those that end soon, or whose
// commit something was said about. One replica of the site does it.
func (s *Server) redecide(ctx context.Context) error {
	holder := rand.Text()
	tried := map[decisionName]decidedAt{}
	return s.every(redecideEvery, func(ctx context.Context) error {
		held, _, err := s.db.Lease(ctx, "redecide", holder, 10*time.Second)
		if err != nil || !held {
			return err
		}
		for ctx.Err() == nil {
			n, err := s.redecideSome(ctx, tried)
			if err != nil || n == 0 {
				return err
			}
			if _, _, err := s.db.Lease(ctx, "redecide", holder, 10*time.Second); err != nil {
				return err
			}
		}
		return nil
	})(ctx)
}

// redecideSome decides some of what is due, and says how many.
func (s *Server) redecideSome(ctx context.Context, tried map[decisionName]decidedAt) (n int, err error) {
	now, epoch := s.clock(), s.trust().epoch
	for name, t := range tried {
		if t.epoch != epoch || now.Sub(t.at) >= redecideRest || now.Before(t.at) {
			delete(tried, name)
		}
	}
	// Those that rest stand among what is due, perhaps all at its front.
	due, err := s.engine.Due(ctx, now.Add(redecideAhead), redecideBatch+len(tried))
	if err != nil {
		return 0, err
	}
	for i := range due {
		d := &due[i]
		name := decisionName{string(d.Subject.Digest), d.Scope.ID}
		if t, rests := tried[name]; rests && d.Stirred <= t.stirred {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		tried[name] = decidedAt{epoch, now, d.Stirred}
		n++
		if _, err := s.engine.Decide(ctx, targetOf(&d.Subject), d.Scope, s.desired.Load().Policies.For(d.Subject, d.Scope)); err != nil {
			s.log.Warn("a decision that is due could not be made again; it is tried later", "digest", d.Subject.Digest, "scope", d.Scope.ID, "error", err)
			continue
		}
		tried[name] = decidedAt{epoch, now, 0} // what stirs it from here on is new
	}
	return n, nil //nolint:nilerr // told above, and tried later
}

// targetOf is the target that a subject of recorded facts was.
func targetOf(s *policy.Subject) verify.Target {
	return verify.Target{
		Digest: s.Digest, Kind: s.Kind, MediaType: s.MediaType, Registry: s.Registry, Repository: s.Repository, Tags: s.Tags,
	}
}

// stir follows evidence about commits: what was built from them is decided
// again.
func (s *Server) stir(ctx context.Context) error {
	return s.events.Consume(ctx, "redecide", func(ctx context.Context, tx *store.Tx, batch []event.Event) error {
		for i := range batch {
			body, _ := batch[i].Body.(json.RawMessage)
			id, err := evidence.Ingested(body)
			if err == nil {
				err = s.engine.Stir(ctx, tx, id)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}, event.AttestationIngested)
}
