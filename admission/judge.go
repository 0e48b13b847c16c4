package admission

import (
	"context"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/policy"
)

// Place is where something is to run. It comes from the API server and the
// webhook's own configuration, never from the object.
type Place struct {
	Cluster     string `json:"cluster"`
	Namespace   string `json:"namespace"`
	Environment string `json:"environment,omitempty"`
	// Claimed says that it is only the word of who asks, such as a pipeline. What is
	// decided there is decided by the same policies, and has a scope of its own: it
	// opens no door of a cluster.
	Claimed bool `json:"-"`
}

const (
	// scopePrefix begins the ids of all scopes of admission.
	scopePrefix = "admission/"
	// ClaimedScopes begins the ids of the scopes of claimed places.
	ClaimedScopes = "claimed/"
)

// ClusterScopes begins the ids of all scopes of a cluster.
func ClusterScopes(cluster string) string { return scopePrefix + cluster + "/" }

// ScopeID names the scope of decisions at a place about a repository, host
// included where it is another registry's.
func (p Place) ScopeID(repository string) string {
	id := scopePrefix
	if p.Claimed {
		id = ClaimedScopes
	}
	id += p.Cluster + "/" + p.Namespace
	if p.Environment != "" {
		id += "/" + p.Environment
	}
	return id + "@" + repository
}

// Scope is the place as policies know it.
func (p Place) Scope(repository string) policy.Scope {
	return policy.Scope{ID: p.ScopeID(repository), Environment: p.Environment, Cluster: p.Cluster, Namespace: p.Namespace}
}

// Question asks whether one image may run at a place.
type Question struct {
	Reference artifact.Reference `json:"reference"` // with a tag or a digest; a digest counts alone
	Place     Place              `json:"place"`
	// Standing asks for what stands: a deny is not made again because of the question.
	Standing bool `json:"standing,omitempty"`
	// Pull is what the Pod may show the image's registry, where that is not the site's.
	Pull Pull `json:"pull,omitzero"`
}

// Answer says of one image whether it may run. It is a deny unless Verdict is
// an allow.
type Answer struct {
	Digest     artifact.Digest `json:"digest"`
	Verdict    policy.Verdict  `json:"verdict"`
	Mode       policy.Mode     `json:"mode"` // what a deny does
	Decision   string          `json:"decision,omitempty"`
	Policy     string          `json:"policy,omitempty"`
	Failed     []policy.Check  `json:"failed,omitempty"` // checks that failed, the first ones
	ValidUntil time.Time       `json:"valid_until,omitzero"`
	// Blocked says why the digest, or a part of it, is revoked or under
	// quarantine: nothing excuses that.
	Blocked string `json:"blocked,omitempty"`
	// Soft says that the deny comes only from what time did: staleness, an expired
	// exception, a new finding. What runs already may then start again.
	Soft bool `json:"soft,omitempty"`
	// Runs says that the digest runs at that place already, where the judge knows.
	Runs bool `json:"runs,omitempty"`
	// Basis says how the answer was come by: decision, index (allowed as part of an
	// index), or bundle (offline).
	Basis string `json:"basis,omitempty"`
}

// The values of Answer.Basis.
const (
	BasisDecision = "decision"
	BasisIndex    = "index"
	BasisBundle   = "bundle"
)

// Allowed says whether the image may run by its evidence.
func (a *Answer) Allowed() bool { return a.Verdict == policy.Allow && a.Blocked == "" }

// Refuses says whether a door must refuse.
func (a *Answer) Refuses() bool {
	return !a.Allowed() && (a.Blocked != "" || a.Mode != policy.Audit && a.Mode != policy.Warn)
}

// Judge answers questions. It is safe for concurrent use, and answers within
// the context's deadline. An error says that there is no answer: who asked
// refuses.
type Judge interface {
	Judge(ctx context.Context, q Question) (*Answer, error)
}

// Running tells what runs. It need not be up to date by more than a minute:
// what it does not know counts as not running.
type Running interface {
	// Runs says whether a digest runs in a namespace, or ran there until a moment
	// ago, as an imageID reported by a node; by whom it claims to be owned does not
	// count.
	Runs(ctx context.Context, cluster, namespace string, digest artifact.Digest) (bool, error)
}

// staleWords begin what check vulnerabilities/known found where nothing but the age
// of what it knows is wrong. Other words, and words that change, are not soft.
var staleWords = []string{"feeds not looked at lately: ", "the catalog of known exploited vulnerabilities is missing or stale", "the scores of exploit prediction are missing or stale"}

// softCheck says whether a check fails by the passing of time alone: what was
// allowed may be denied by it without anybody having done anything.
func softCheck(name, found string) bool {
	switch name {
	case "trust/fresh", "vulnerabilities":
		return true
	case "vulnerabilities/known":
		for _, part := range strings.Split(found, "; ") {
			if !slices.ContainsFunc(staleWords, func(w string) bool { return strings.HasPrefix(part, w) }) {
				return false
			}
		}
		return true
	}
	return false
}

// soft says whether all that failed is what time does. A combined policy's checks
// begin with the name of the one that they are of.
func soft(checks []policy.Check, combined bool) bool {
	any := false
	for _, c := range checks {
		if c.Status != policy.Fail || c.Mode != "" { // what counts with a milder mode refuses nothing
			continue
		}
		any = true
		if c.Exception != "" { // it held by an exception, which is over
			continue
		}
		name := c.Name
		if _, rest, ok := strings.Cut(name, "/"); combined && ok && name != "trust/fresh" {
			name = rest
		}
		if !softCheck(name, c.Found) {
			return false
		}
	}
	return any
}

// maxFailed bounds the checks that an answer carries.
const maxFailed = 4

func failed(checks []policy.Check) (out []policy.Check) {
	for _, c := range policy.Failed(checks) {
		if len(out) < maxFailed && c.Mode != policy.Audit { // which is recorded, and told to nobody
			out = append(out, c)
		}
	}
	return out
}
