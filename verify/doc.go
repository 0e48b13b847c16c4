// Package verify turns a digest into a decision: it reads the evidence about
// the digest, verifies it under the site's roots, makes facts of it, has a
// policy judge them, and signs the outcome as a SLSA verification summary.
//
//	digest -> evidence -> verified bundles -> policy.Facts -> policy.Result -> Decision
//
// [Engine] does this for a server: decisions are stored with their trail, and
// [Engine.Current] looks them up within microseconds. [Offline] does the same
// for a command line, with nothing but files.
//
// A decision is f(facts, policy, scope). When evidence, a policy or trust
// changes, Decide is called again; facts that did not change only extend the
// decision that stands. Everything that cannot be found out is a refusal:
// evidence that was cut short, lists that are stale, a policy that ran out of
// its budget.
package verify
