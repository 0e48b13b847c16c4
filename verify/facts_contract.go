package verify

import (
	"bytes"
	"context"

	"assay/artifact"
	"assay/evidence/contract"
	"assay/policy"
	"assay/sbom"
)

// Contracts says what artifacts owe; contract.Ledger is one. nil, nil: nothing.
type Contracts interface {
	For(ctx context.Context, digest artifact.Digest, repository string) (*contract.Bound, error)
}

// enterContract enters what there is of what the artifact owes. It comes last,
// since all evidence must be there.
func (g *gathering) enterContract(ctx context.Context) error {
	s := g.facts.Subject
	if g.contracts == nil || s.Repository == "" || s.Registry != "" {
		return nil
	}
	b, err := g.contracts.For(ctx, g.target.Digest, s.Repository)
	if err != nil || b == nil {
		return err
	}
	g.facts.Contract = b.Fact(s.Repository, g.facts, g.sbom)
	return nil
}

// sbom reads the bill of materials of an attestation that counts.
func (g *gathering) sbom(id string) (contract.SBOM, bool) {
	if known, ok := g.boms[id]; ok {
		return known, true
	}
	predicate, ok := g.predicates[id]
	if !ok {
		return contract.SBOM{}, false
	}
	var out contract.SBOM
	doc, err := sbom.Read(bytes.NewReader(predicate), sbom.Limits{})
	if err != nil {
		out.Problem = clip(err.Error(), 200)
	} else {
		q := sbom.Judge(doc)
		out = contract.SBOM{Format: string(doc.Format), SpecVersion: doc.SpecVersion, Score: q.Score, Incomplete: len(q.Incomplete) > 0}
	}
	if g.boms == nil {
		g.boms = map[string]contract.SBOM{}
	}
	g.boms[id] = out
	return out, true
}

// keepSBOM keeps a bill of materials for a contract that may ask for it.
func (g *gathering) keepSBOM(id, predicateType string, predicate []byte) {
	if g.contracts == nil && !g.keeps || !sbom.IsPredicate(predicateType) {
		return
	}
	if g.predicates == nil {
		g.predicates = map[string][]byte{}
	}
	g.predicates[id] = predicate
}

// Known verifies what evidence there is about a target now, without a policy and
// without a decision: for the books of what is expected.
func (e *Engine) Known(ctx context.Context, t Target) (*contract.Facts, error) {
	t, err := e.question(t, policy.Scope{ID: "contract"}, noPolicy)
	if err != nil {
		return nil, err
	}
	state := e.o.Trust()
	if state.Verifier == nil {
		return nil, errNoRoot
	}
	g := &gathering{target: t, verifier: state.Verifier, builders: e.builders, policy: noPolicy, cache: e.verdicts, epoch: state.Epoch, never: e.keys.Load().own, keeps: true}
	if err := g.gather(ctx, e.o.Source, policy.Scope{ID: "contract"}, state.Stale, e.o.Clock().UTC()); err != nil {
		return nil, err
	}
	g.facts.Normalize()
	return &contract.Facts{Facts: g.facts, SBOM: g.sbom}, nil
}

// noPolicy names no members of predicates.
var noPolicy = &policy.Policy{}
