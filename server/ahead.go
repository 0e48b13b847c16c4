package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"assay/admission"
	"assay/artifact"
	"assay/event"
	"assay/evidence"
	"assay/internal/fault"
	"assay/policy"
	"assay/store"
	"assay/verify"
	"assay/vuln/tier"
)

const (
	aheadEvery = 250 * time.Millisecond
	aheadBatch = 16 // digests at a time
	// aheadKnown is for how long the known namespaces are believed.
	aheadKnown  = 10 * time.Second
	aheadScopes = 20_000
	// aheadOld is the age of an event of which nothing is decided ahead: a cursor
	// that is new begins with all that is kept.
	aheadOld = time.Hour
	// markPolicies is the mark of the policies that all decisions were compared with.
	markPolicies = "policies"
)

// aheadWork adds what decides about what is pushed before anybody asks.
func (s *Server) aheadWork(work map[string]func(context.Context) error) {
	work["ahead"] = s.decideAhead
	work["ahead announced"] = func(ctx context.Context) error {
		return s.events.Consume(ctx, "admission.ahead", s.announce, event.ArtifactPushed, event.TagMoved, event.AttestationIngested)
	}
}

// announce notes what came to be there, and stirs what admission decided about the
// subjects of new evidence.
func (s *Server) announce(ctx context.Context, tx *store.Tx, batch []event.Event) error {
	var list []admission.Coming
	for i := range batch {
		e := &batch[i]
		if tx.Now().Sub(e.Time) > aheadOld {
			continue
		}
		if e.Kind == event.AttestationIngested {
			body, _ := e.Body.(json.RawMessage)
			id, err := evidence.Ingested(body)
			if err != nil {
				return err
			}
			for _, prefix := range []string{admission.Scopes, admission.ClaimedScopes} {
				if err := s.engine.StirEvidence(ctx, tx, id, prefix); err != nil {
					return err
				}
			}
			continue
		}
		var body struct {
			Repository string          `json:"repository"`
			Subject    artifact.Digest `json:"subject"`
		}
		if err := e.Decode(&body); err != nil {
			return err
		}
		c := admission.Coming{Digest: e.Digest, Repository: body.Repository}
		if body.Subject == "" && c.Repository != "" && c.Digest != "" && !slices.Contains(list, c) {
			list = append(list, c)
		}
	}
	return admission.Announce(ctx, tx, list)
}

// decideAhead decides about what was announced for the namespaces that may ask for
// it. One replica of the site does it.
func (s *Server) decideAhead(ctx context.Context) error {
	holder := rand.Text()
	var spots *admission.Spots
	var known time.Time
	defer func() { _ = s.db.Release(context.WithoutCancel(ctx), "ahead", holder) }()
	return s.every(aheadEvery, func(ctx context.Context) error {
		held, _, err := s.db.Lease(ctx, "ahead", holder, 10*time.Second)
		if err != nil || !held {
			return err
		}
		var due []admission.Coming
		if err := s.db.View(ctx, func(tx *store.Tx) (err error) { due, err = admission.Announced(ctx, tx, aheadBatch); return err }); err != nil || len(due) == 0 {
			return err
		}
		if now := s.clock(); spots == nil || now.Sub(known) >= aheadKnown || now.Before(known) {
			if spots, err = s.spots(ctx); err != nil {
				return err
			}
			known = now
		}
		if err := s.decideComing(ctx, spots, due); err != nil {
			return err
		}
		return s.db.Update(ctx, func(tx *store.Tx) error { return admission.Arrived(ctx, tx, due) })
	})(ctx)
}

// spots are the namespaces where something runs, or was asked about.
func (s *Server) spots(ctx context.Context) (*admission.Spots, error) {
	var out admission.Spots
	ids, err := s.engine.Scopes(ctx, admission.Scopes, aheadScopes)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		out.AddScope(id)
	}
	err = s.db.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, `SELECT DISTINCT cluster, namespace, image FROM inventory_workload WHERE ended = 0 LIMIT ?`, aheadScopes)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var at admission.Spot
			var image string
			if err := rows.Scan(&at.Cluster, &at.Namespace, &image); err != nil {
				return err
			}
			of := s.inventory.PlaceOf(image)
			if of.Host != "" {
				of.Repository = ""
			}
			out.Add(at, of.Repository)
		}
		return rows.Err()
	})
	return &out, err
}

// decideComing decides about digests where they may be asked for, unless the same
// was decided already.
func (s *Server) decideComing(ctx context.Context, spots *admission.Spots, due []admission.Coming) error {
	var asks []verify.Ask
	for _, c := range due {
		at := spots.For(c.Repository)
		if len(at) == 0 {
			continue
		}
		_, mediaType, err := s.admission.images.Resolve(ctx, c.Repository, string(c.Digest))
		if errors.Is(err, fault.NotFound) || errors.Is(err, fault.Denied) {
			continue // it went, or waits behind a gate
		}
		if err != nil {
			if ctx.Err() != nil || fault.KindOf(err) == fault.Unavailable {
				return err
			}
			// One that cannot be read must not hold up all that come after it.
			s.log.Warn("a decision cannot be made ahead; it is made when it is asked for", "digest", c.Digest, "repository", c.Repository, "error", err)
			continue
		}
		for _, spot := range at {
			ask, err := s.askOf(ctx, c, mediaType, spot)
			if err != nil {
				return err
			}
			if d, err := s.engine.Current(ctx, c.Digest, ask.Scope.ID); err == nil && d.PolicyHash == ask.Policy.Hash() {
				continue
			}
			asks = append(asks, ask)
		}
	}
	for part := range slices.Chunk(asks, redecideBatch) {
		errs, err := s.engine.DecideMany(ctx, part)
		if err != nil {
			return err
		}
		for i, err := range errs {
			if err != nil {
				s.log.Warn("a decision could not be made ahead; it is made when it is asked for", "digest", part[i].Target.Digest, "scope", part[i].Scope.ID, "error", err)
			}
		}
	}
	return nil
}

// askOf is the question that admission will ask.
func (s *Server) askOf(ctx context.Context, c admission.Coming, mediaType string, at admission.Spot) (verify.Ask, error) {
	t := verify.Target{Digest: c.Digest, Kind: policy.Image, MediaType: mediaType, Repository: c.Repository}
	scope, err := s.placed(ctx, t.Subject(), s.placeOf(at.Cluster, at.Namespace).Scope(c.Repository))
	return verify.Ask{Target: t, Scope: scope, Policy: s.desired.Load().Policies.For(t.Subject(), scope)}, err
}

// stirPolicies has all decisions made again that were made by another policy than
// the one that applies now, once for each change of the policies. It is for whoever
// makes decisions again: what it compares with must be what they are made by.
func (s *Server) stirPolicies(ctx context.Context) error {
	d := s.desired.Load()
	if d == nil || d.Policies == s.stirredBy.Load() {
		return nil
	}
	now, was := policiesMark(d.Policies), ""
	if err := s.db.View(ctx, func(tx *store.Tx) (err error) { was, err = tier.Marked(ctx, tx, markPolicies); return err }); err != nil {
		return err
	}
	if was != now {
		began := time.Now()
		mark := func(value string) error {
			return s.db.Update(ctx, func(tx *store.Tx) error { _, err := tier.Mark(ctx, tx, markPolicies, value); return err })
		}
		if err := mark("begun"); err != nil { // so that what breaks off is begun anew, whatever applies then
			return err
		}
		n, err := s.engine.StirPolicy(ctx, func(ctx context.Context, subject policy.Subject, scope policy.Scope) (string, error) {
			scope, err := s.placed(ctx, subject, scope)
			return d.Policies.For(subject, scope).Hash(), err
		})
		if err != nil {
			return err
		}
		if err := mark(now); err != nil {
			return err
		}
		s.log.Info("policies changed: decisions of others are made again", "count", n, "took", time.Since(began).String())
	}
	s.stirredBy.Store(d.Policies)
	return nil
}

// policiesMark is what the policies come to.
func policiesMark(set *policy.Set) string {
	h := sha256.New()
	for _, p := range set.Policies() {
		h.Write([]byte(p.Name() + "\x00" + p.Hash() + "\x00"))
	}
	return hex.EncodeToString(h.Sum(nil))
}
