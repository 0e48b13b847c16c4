package server

import (
	"context"
	"strings"

	"assay/admission"
	"assay/artifact"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
)

// maxStandingScopes bounds the scopes of one digest that are looked through.
const maxStandingScopes = 1000

// standing lists the scopes that begin with prefix in which a decision about a
// digest stands.
func (s *Server) standing(ctx context.Context, d artifact.Digest, prefix string) (out []string, err error) {
	list, err := s.engine.ListAfter(ctx, d, prefix, maxStandingScopes)
	for _, x := range list {
		if strings.HasPrefix(x.ScopeID, prefix) {
			out = append(out, x.ScopeID)
		}
	}
	return out, err
}

// JudgeNode answers a node, and records what it was told: what cannot be recorded
// is not said.
func (a *admissionSite) JudgeNode(ctx context.Context, q admission.NodeQuestion) *admission.Reply {
	// A node says of which environment it is; where the site knows, that counts.
	if known := a.s.placeOf(q.Place.Cluster, q.Place.Namespace); known.Environment != "" {
		q.Place.Environment = known.Environment
	}
	ans, err := a.s.admission.judge.JudgeNode(ctx, q, running{a.s})
	e := admission.NodeVerdictOf(q, ans, err).Event
	e.Actor = identity.FromContext(ctx).Actor()
	if failed := a.s.db.Update(ctx, func(tx *store.Tx) error { return event.AppendAll(ctx, tx, []event.Event{e}) }); failed != nil {
		return admission.ReplyOf(nil, fault.Newf(fault.Undecided, "the answer cannot be recorded, so it is none: %w", failed))
	}
	return admission.ReplyOf(ans, err)
}
