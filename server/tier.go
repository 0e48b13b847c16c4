package server

import (
	"context"
	"strconv"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/inventory"
	"assay/policy"
	"assay/store"
	"assay/verify"
	"assay/vuln/tier"
)

// openTiers makes what says how critical artifacts are.
func (s *Server) openTiers() (err error) {
	s.tiers, err = tier.New(tier.Options{DB: s.db, Inventory: s.inventory, Stored: storedPlaces, Rules: s.cfg.Vuln.Tiers, Clock: s.clock, Registerer: s.reg})
	if err != nil {
		return err
	}
	return s.vulnerabilities.Findings.Register(s.reg)
}

// storedPlaces says in which repositories a digest lies, and which indexes name
// it.
func storedPlaces(ctx context.Context, tx *store.Tx, digest artifact.Digest) (repositories []string, indexes []artifact.Digest, err error) {
	if err := pairs(ctx, tx, func(repository, _ string) { repositories = append(repositories, repository) },
		`SELECT repository, digest FROM registry_manifest WHERE digest = ? ORDER BY repository`, string(digest)); err != nil {
		return nil, nil, err
	}
	err = pairs(ctx, tx, func(index, _ string) { indexes = append(indexes, artifact.Digest(index)) },
		`SELECT DISTINCT manifest, child FROM registry_reference WHERE kind = 1 AND child = ? ORDER BY manifest LIMIT 1000`, string(digest))
	return repositories, indexes, err
}

// awaitMatch has what waits about a digest matched now, where its tier wants that,
// and waits for it.
func (s *Server) awaitMatch(ctx context.Context, repository string, digest artifact.Digest) error {
	_, err := s.tiers.Await(ctx, s.sboms, digest, repository)
	return err
}

// serviceFacts gives the decision engine whose artifacts are.
type serviceFacts struct{ s *Server }

// Service is what the catalogue and the inventory say of an artifact.
func (f serviceFacts) Service(ctx context.Context, subject policy.Subject) (out *verify.Service, within time.Duration, err error) {
	repository := subject.Repository
	if subject.Registry != "" {
		repository = "" // of another registry: what lies here by that name is somebody else
	}
	err = f.s.db.View(ctx, func(tx *store.Tx) error {
		st, err := f.s.tiers.Of(ctx, tx, subject.Digest, repository)
		if err != nil {
			return err
		}
		out = &verify.Service{Fact: policy.ServiceFact{
			Tier: st.Tier, TierSource: st.Source, Catalogue: st.Catalogue, Names: st.Services, Team: st.Team, Owned: st.Owned, Env: st.Environment, Exposure: st.Exposure,
			Production: st.Production, Reported: st.Known, Match: "wait",
		}}
		within = 0
		if rules := f.s.tiers.Rules(); !rules.Gated(st.Tier) {
			out.Fact.Match, within = "background", rules.Within
		}
		p, err := f.s.tiers.Pending(ctx, tx, f.s.sboms, subject.Digest)
		if err != nil {
			return err
		}
		for _, w := range p.Unread {
			out.Waiting = append(out.Waiting, w.Attestation)
		}
		out.Since = p.Since
		return nil
	})
	return out, within, err
}

// placed enters into a scope whose an artifact is now, where policies select by
// that: its team, the most critical of its services, and its tier.
func (s *Server) placed(ctx context.Context, subject policy.Subject, scope policy.Scope) (out policy.Scope, err error) {
	if d := s.desired.Load(); d == nil || !d.Policies.ByService() {
		scope.Team, scope.Service, scope.Tier = "", "", ""
		return scope, nil
	}
	err = s.db.View(ctx, func(tx *store.Tx) (err error) {
		out, err = s.placedIn(ctx, tx, subject, scope)
		return err
	})
	return out, err
}

func (s *Server) placedIn(ctx context.Context, tx *store.Tx, subject policy.Subject, scope policy.Scope) (policy.Scope, error) {
	scope.Team, scope.Service, scope.Tier = "", "", "" // what was, when it was decided before
	d := s.desired.Load()
	if d == nil || s.tiers == nil || !d.Policies.ByService() {
		return scope, nil
	}
	repository := subject.Repository
	if subject.Registry != "" {
		repository = ""
	}
	st, err := s.tiers.Of(ctx, tx, subject.Digest, repository)
	if err != nil {
		return scope, err
	}
	scope.Team, scope.Tier = st.Team, strconv.Itoa(st.Tier)
	if len(st.Services) > 0 {
		scope.Service = st.Services[0]
	}
	return scope, nil
}

// followTiers has decisions made again whose artifacts became more or less
// critical: when the catalogue changed, and when something began or ceased to run
// in production.
func (s *Server) followTiers(ctx context.Context) error {
	done := make(chan error, 1)
	go func() {
		done <- s.events.Consume(ctx, "tiers", s.runsOtherwise, event.WorkloadStarted, event.WorkloadStopped)
	}()
	err := s.atOnceAndEvery(inventoryPoll, s.stirServices)(ctx)
	if more := <-done; err == nil {
		err = more
	}
	return err
}

// stirServices has all decisions made again that rest on services, once for each
// change of what the catalogue says.
func (s *Server) stirServices(ctx context.Context) error {
	book := s.catalogue()
	if book == nil {
		return nil // the documents are not loaded yet
	}
	now := book.Fingerprint()
	return s.db.Update(ctx, func(tx *store.Tx) error {
		changed, err := tier.Mark(ctx, tx, tier.MarkCatalogue, now)
		if err != nil || !changed {
			return err
		}
		if s.desired.Load().Policies.ByService() {
			return s.engine.StirAll(ctx, tx) // another policy may apply
		}
		return s.engine.StirServices(ctx, tx)
	})
}

// runsOtherwise stirs the decisions about what lies where an image came from that
// began to run, or ceased to.
func (s *Server) runsOtherwise(ctx context.Context, tx *store.Tx, batch []event.Event) error {
	// Each artifact and repository once: thousands of workloads may begin at a time.
	digests, places := map[artifact.Digest]bool{}, map[inventory.Place]bool{}
	for i := range batch {
		e := &batch[i]
		var body struct {
			Image string `json:"image"`
		}
		if err := e.Decode(&body); err != nil {
			return err
		}
		if !digests[e.Digest] {
			digests[e.Digest] = true
			if err := s.engine.StirDigest(ctx, tx, e.Digest); err != nil {
				return err
			}
		}
		if at := s.inventory.PlaceOf(body.Image); at.Host == "" && at.Repository != "" {
			places[at] = true
		}
	}
	if len(places) == 0 {
		return nil
	}
	produced, err := s.inventory.ProducedFrom(ctx, tx)
	if err != nil {
		return err
	}
	for at := range places {
		// Only when the repository's standing changed by it: instances come and go.
		word := "no"
		if produced[at] {
			word = "yes"
		}
		changed, err := tier.Mark(ctx, tx, tier.MarkProduction+at.Repository, word)
		if err != nil {
			return err
		}
		if changed {
			if err := s.engine.StirThese(ctx, tx, `SELECT digest FROM registry_manifest WHERE repository = ?`, at.Repository); err != nil {
				return err
			}
		}
	}
	return nil
}
