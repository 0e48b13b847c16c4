package policy

import (
	"context"
	"slices"
	"time"

	"assay/artifact"

	"github.com/open-policy-agent/opa/v1/ast"
)

// TestCapabilities is what tests of a module may call: what a module itself may,
// and print. So a test that passes does not lean on a built-in that the policy
// would not have.
func TestCapabilities() *ast.Capabilities {
	allowed := slices.Concat(plainBuiltins, sortedKeys(guardedBuiltins), []string{ast.Print.Name, ast.InternalPrint.Name, ast.InternalTestCase.Name})
	caps := ast.CapabilitiesForThisVersion()
	caps.Builtins = slices.DeleteFunc(caps.Builtins, func(b *ast.Builtin) bool { return !slices.Contains(allowed, b.Name) })
	caps.Features = []string{ast.FeatureRegoV1, ast.FeatureRefHeadStringPrefixes, ast.FeatureRefHeads}
	caps.AllowNet = []string{}
	return caps
}

// Explain gives the checks that a policy makes, in words: what it expects, and
// the command that brings what is missing. It is the trail of an artifact of
// which nothing is known.
func (p *Policy) Explain(sub Subject, sc Scope) ([]Check, error) {
	if sub.Digest == "" {
		sub.Digest = artifact.SHA256Of(nil)
	}
	if sub.Kind == "" {
		sub.Kind = Image
	}
	res, err := p.WithRegoTime(time.Second).Evaluate(context.Background(), &Facts{Schema: FactsSchema, Subject: sub, Scope: sc}, time.Unix(0, 0))
	return res.Checks, err
}
