package verify

import (
	"context"
	"strings"
	"time"

	"assay/policy"
	"assay/store"
)

// maxServices bounds the names of services in facts.
const maxServices = 16

// Service is what a site knows of whose an artifact is.
type Service struct {
	Fact policy.ServiceFact
	// Waiting are attestations of bills of materials that are signed and not
	// matched yet, and Since is when the oldest of them came.
	Waiting []string
	Since   time.Time
}

// ServiceSource knows to which service an artifact belongs.
type ServiceSource interface {
	// Service says whose an artifact is where it lies. within is for how long what is
	// not matched yet may pass at the gate; 0: not at all.
	Service(ctx context.Context, subject policy.Subject) (s *Service, within time.Duration, err error)
}

// enterService enters whose the artifact is. It comes before what is known of
// flaws, and gives the attestations that are not matched yet.
func (g *gathering) enterService(ctx context.Context, src ServiceSource, now time.Time) (*Service, error) {
	if src == nil || !g.policy.WantsService() {
		return nil, nil //nolint:nilnil // nothing is asked
	}
	s, within, err := src.Service(ctx, g.facts.Subject)
	if err != nil {
		return nil, err
	}
	f := s.Fact
	if f.Names == nil {
		f.Names = []string{}
	}
	f.Names = f.Names[:min(len(f.Names), maxServices)]
	// Only the gate lets pass what is not matched yet: what is asked for a cluster or
	// by a person is answered by what is known.
	if within > 0 && !s.Since.IsZero() && atGate(g.facts.Scope) {
		if until := s.Since.Add(within); now.Before(until) {
			f.MatchUntil = until.UTC().Truncate(time.Second).Format(time.RFC3339)
			g.expires = earliest(g.expires, until.Truncate(time.Second))
		}
	}
	g.facts.Service = &f
	return s, nil
}

// atGate says whether a decision is the registry gate's.
func atGate(sc policy.Scope) bool {
	return sc.Cluster == "" && sc.Namespace == "" && (strings.HasPrefix(sc.ID, "gate@") || strings.HasPrefix(sc.ID, "gate/"))
}

// enterWaiting says of what is signed and not read yet that it is on its way,
// where the site would else not know of any bill of materials.
func (g *gathering) enterWaiting(s *Service) {
	v := g.facts.Vulnerabilities
	if v == nil || s == nil || len(s.Waiting) == 0 || v.Scan != "no_sbom" {
		return // what is known by another document stays known until this one is read
	}
	v.Scan = "pending"
	for _, id := range s.Waiting {
		known := false
		for i := range g.facts.Attestations {
			known = known || g.facts.Attestations[i].ID == id
		}
		if known { // verified just now, as all evidence that facts name
			v.SBOMs = append(v.SBOMs, id)
		}
	}
	if len(v.SBOMs) == 0 {
		v.Scan = "no_sbom"
	}
}

// StirServices has all decisions made again that looked at services: the catalogue
// changed.
func (e *Engine) StirServices(ctx context.Context, tx *store.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE current_decision SET stirred = stirred + 1 WHERE decision_id IN (
		SELECT d.id FROM decision d JOIN current_decision c ON c.decision_id = d.id WHERE d.checks LIKE '%vulnerabilities%' OR d.checks LIKE '%service%')`)
	return err
}

// StirAll has all decisions made again.
func (e *Engine) StirAll(ctx context.Context, tx *store.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE current_decision SET stirred = stirred + 1`)
	return err
}

// StirThese has the decisions about digests made again that a query gives: its
// text, of one column, is the caller's own.
func (e *Engine) StirThese(ctx context.Context, tx *store.Tx, query string, args ...any) error {
	_, err := tx.Exec(ctx, `UPDATE current_decision SET stirred = stirred + 1 WHERE digest IN (`+query+`)`, args...)
	return err
}
