package server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"slices"
	"time"

	"assay/event"
	"assay/evidence"
	"assay/policy"
	"assay/store"
	"assay/verify"
	"assay/vuln/exploit"
	"assay/vuln/vex"
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
// first, then those of an earlier trust epoch, then those that end soon, whose
// evidence or commit something was said about, or to which another policy applies.
// One replica of the site does it.
func (s *Server) redecide(ctx context.Context) error {
	holder := rand.Text()
	tried := map[decisionName]decidedAt{}
	defer func() { _ = s.db.Release(context.WithoutCancel(ctx), "redecide", holder) }()
	return s.every(redecideEvery, func(ctx context.Context) error {
		held, _, err := s.db.Lease(ctx, "redecide", holder, 10*time.Second)
		if err != nil || !held {
			return err
		}
		if err := s.stirPolicies(ctx); err != nil {
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
	var asks []verify.Ask
	var names []decisionName
	for i := range due {
		d := &due[i]
		name := decisionName{string(d.Subject.Digest), d.Scope.ID}
		if t, rests := tried[name]; rests && d.Stirred <= t.stirred {
			continue
		}
		tried[name] = decidedAt{epoch, now, d.Stirred}
		n++
		scope, err := d.Scope, d.Lost
		if err == nil {
			scope, err = s.placed(ctx, d.Subject, d.Scope)
		}
		if err != nil {
			s.notRedecided(name, err)
			continue
		}
		asks = append(asks, verify.Ask{Target: targetOf(&d.Subject), Scope: scope, Policy: s.desired.Load().Policies.For(d.Subject, scope)})
		names = append(names, name)
	}
	errs, err := s.engine.DecideMany(ctx, asks)
	if err != nil {
		for _, name := range names {
			delete(tried, name)
		}
		return 0, err
	}
	for i, err := range errs {
		if err != nil {
			s.notRedecided(names[i], err)
			continue
		}
		tried[names[i]] = decidedAt{epoch, now, 0} // what stirs it from here on is new
	}
	return n, nil
}

func (s *Server) notRedecided(name decisionName, err error) {
	s.log.Warn("a decision that is due could not be made again; it is tried later", "digest", name.digest, "scope", name.scope, "error", err)
}

// targetOf is the target that a subject of recorded facts was.
func targetOf(s *policy.Subject) verify.Target {
	return verify.Target{
		Digest: s.Digest, Kind: s.Kind, MediaType: s.MediaType, Registry: s.Registry, Repository: s.Repository, Tags: s.Tags,
	}
}

// stir follows what decisions rest on beside the evidence about the artifact
// itself: evidence about commits, by what was built from them, and what is known
// of vulnerabilities.
func (s *Server) stir(ctx context.Context) error {
	return s.events.Consume(ctx, "redecide", func(ctx context.Context, tx *store.Tx, batch []event.Event) error {
		for i := range batch {
			if err := s.stirBy(ctx, tx, &batch[i]); err != nil {
				return err
			}
		}
		return nil
	}, event.AttestationIngested, event.SBOMIndexed, event.SBOMOverlaid, event.SBOMScanned, event.FindingOpened, event.FindingResolved, event.FeedMatched, event.FeedImported, event.VEXStated, event.VEXWithdrawn)
}

func (s *Server) stirBy(ctx context.Context, tx *store.Tx, e *event.Event) error {
	switch e.Kind {
	case event.SBOMIndexed, event.SBOMOverlaid, event.SBOMScanned, event.FindingOpened, event.FindingResolved:
		return s.engine.StirDigest(ctx, tx, e.Digest)
	case event.VEXStated, event.VEXWithdrawn:
		return s.engine.StirFlaws(ctx, tx)
	case event.FeedMatched:
		return s.engine.StirUnknownFlaws(ctx, tx)
	case event.FeedImported:
		var list struct {
			Feed string `json:"feed"`
		}
		if err := e.Decode(&list); err != nil || list.Feed != exploit.KEV && list.Feed != exploit.EPSS {
			return err // advisories are matched first
		}
		return s.engine.StirFlaws(ctx, tx)
	}
	body, _ := e.Body.(json.RawMessage)
	id, err := evidence.Ingested(body)
	if err != nil {
		return err
	}
	var of struct {
		PredicateType string `json:"predicate_type"`
	}
	if err := e.Decode(&of); err != nil {
		return err
	}
	if slices.Contains(vex.Predicates, of.PredicateType) {
		if err := s.engine.StirHolders(ctx, tx, e.Digest); err != nil {
			return err
		}
	}
	return s.engine.Stir(ctx, tx, id)
}
