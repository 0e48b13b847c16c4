package verify

import (
	"context"

	"assay/policy"
)

// WorkloadSource knows what clusters say of the workloads that run artifacts.
type WorkloadSource interface {
	// Workload says it of those that run an artifact in a scope's cluster and
	// namespace. What is not known is said so, and is no error.
	Workload(ctx context.Context, subject policy.Subject, scope policy.Scope) (*policy.WorkloadFact, *policy.MeshFact, error)
}

// enterWorkload enters it, where the policy looks at it.
func (g *gathering) enterWorkload(ctx context.Context, src WorkloadSource) (err error) {
	if src == nil || !g.policy.WantsWorkload() {
		return nil
	}
	g.facts.Workload, g.facts.Mesh, err = src.Workload(ctx, g.facts.Subject, g.facts.Scope)
	return err
}
