// Package gate is the registry's gate: what is pushed to a repository of mode
// staged or strict is seen by nobody but those who made it, until evidence
// allows it under the policy of the repository; what is quarantined or revoked
// is served to nobody at all.
//
// A manifest in such a repository has a state. It is judged when it is pushed,
// when evidence about it arrives, and again whenever policies, trust or time may
// have changed the answer; the last verdict stands until the next is there. A
// promotion is one transaction: the state, the tags that waited for it, and the
// events.
package gate

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/artifact"
	"assay/config"
	"assay/event"
	"assay/identity"
	"assay/internal/clock"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/policy"
	"assay/registry"
	"assay/store"
	"assay/verify"
)

// State is what a manifest in a repository is.
type State string

// The states.
const (
	Staged      State = "staged"      // waits for evidence
	Active      State = "active"      // for all who may pull
	Rejected    State = "rejected"    // was active and no longer is, or waited too long
	Quarantined State = "quarantined" // for nobody, until released
	Revoked     State = "revoked"     // for nobody, for good
	Open        State = "open"        // the repository has no gate
)

// What an active state rests on.
const (
	basisDecision = "decision" // the policy allows it
	basisWarn     = "warn"     // the policy denies it and does not enforce
	basisHand     = "hand"     // an approver said so
	basisDev      = "dev"      // the repository takes everything, for a time
	basisCarrier  = "carrier"  // evidence, seen with what it is about
	basisIndex    = "index "   // and the digest of the index that it is part of
)

// Judge makes decisions: a verify.Engine.
type Judge interface {
	Decide(ctx context.Context, t verify.Target, scope policy.Scope, p *policy.Policy) (*verify.Decision, error)
	Draft(ctx context.Context, t verify.Target, scope policy.Scope, p *policy.Policy) (*verify.Draft, error)
	Facts(ctx context.Context, id string) (*policy.Facts, error)
}

// Rules are what a gate works by: how repositories behave, and what must be so.
type Rules struct {
	Repositories *config.Repositories
	Policies     *policy.Set
}

// Revocation is a digest that the site's trust revokes.
type Revocation struct {
	Digest artifact.Digest
	Reason string
	Since  time.Time
}

// Options of a [Gate]. DB, Access and Judge are required.
type Options struct {
	DB     *store.DB
	Access *identity.Access
	Judge  Judge
	// Evidence says what is known of a digest: without any, no decision is made
	// at a push to a staged repository.
	Evidence verify.EvidenceSource
	// Events is where evidence that arrived by other doors is heard of; nil: by
	// no other.
	Events *event.Log
	// Revocations gives the digests that the site's trust revokes, and the trust
	// epoch at or after which that was read; nil: none. It is asked when the
	// epoch has risen.
	Revocations func(ctx context.Context) (list []Revocation, epoch int64, err error)

	// Await waits, for a bounded time, until what is known of a digest's flaws is
	// found out, where the gate is to wait for it; nil: it never does. It is asked
	// when evidence was pushed, and a policy looks at flaws.
	Await func(ctx context.Context, repository string, digest artifact.Digest) error

	// Placed enters into a scope whose an artifact is, where policies select by
	// that; nil: nothing is known of it.
	Placed func(ctx context.Context, tx *store.Tx, subject policy.Subject, scope policy.Scope) (policy.Scope, error)

	Clock      clock.Clock           // nil: clock.System
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
}

// Gate is a registry.Gate and a registry.Visibility. It is safe for concurrent
// use. Until [Gate.Set] every repository is open.
type Gate struct {
	o        Options
	db       *store.DB
	rules    atomic.Pointer[Rules]
	states   *states
	blocks   blocks
	followed followed
	met      *metrics
	holder   string
	poke     chan struct{}
}

// New makes a gate over a database that was migrated with [Migrations]. Errors
// are fault.Invalid.
func New(o Options) (*Gate, error) {
	if o.DB == nil || o.Access == nil || o.Judge == nil {
		return nil, fault.Newf(fault.Invalid, "gate: Options.DB, Access and Judge are required")
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	met, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	g := &Gate{o: o, db: o.DB, met: met, states: newStates(50_000, maxStateAge, o.Clock), holder: newHolder(), poke: make(chan struct{}, 1)}
	g.rules.Store(&Rules{})
	return g, nil
}

// Set exchanges the rules. What they change is judged again by Run.
func (g *Gate) Set(r Rules) {
	g.rules.Store(&r)
	g.wake()
}

func (g *Gate) wake() {
	select {
	case g.poke <- struct{}{}:
	default:
	}
}

// Repository says how a repository behaves.
func (g *Gate) Repository(name string) config.RepositorySpec {
	return g.rules.Load().Repositories.For(name)
}

// Profile is the profile of a repository: dev, or none.
func (g *Gate) Profile(repository string) string { return g.Repository(repository).Profile }

func gated(s *config.RepositorySpec) bool {
	return s.Mode == config.ModeStaged || s.Mode == config.ModeStrict
}

// scopeOf is the scope in which content of a repository is decided upon for its
// gate.
func scopeOf(repository string, s *config.RepositorySpec) policy.Scope {
	id := "gate"
	if s.Environment != "" {
		id += "/" + s.Environment
	}
	return policy.Scope{ID: id + "@" + repository, Environment: s.Environment}
}

// OwnScope says whether a scope is the one in which this gate decides about its
// repository. Others with such a name were made up by who asked.
func (g *Gate) OwnScope(id string) bool {
	_, repository, ok := strings.Cut(id, "@")
	s := g.Repository(repository)
	return ok && scopeOf(repository, &s).ID == id
}

// placed is scopeOf with whose the target is.
func (g *Gate) placed(ctx context.Context, tx *store.Tx, t verify.Target, s *config.RepositorySpec) (sc policy.Scope, err error) {
	sc = scopeOf(t.Repository, s)
	switch {
	case g.o.Placed == nil:
		return sc, nil
	case tx != nil:
		return g.o.Placed(ctx, tx, t.Subject(), sc)
	}
	base := sc
	err = g.db.View(ctx, func(tx *store.Tx) (err error) {
		sc, err = g.o.Placed(ctx, tx, t.Subject(), base)
		return err
	})
	return sc, err
}

// policyFor is the policy that applies, which is the denying one where none
// does.
func (g *Gate) policyFor(t verify.Target, sc policy.Scope) *policy.Policy {
	set := g.rules.Load().Policies
	if set == nil {
		return policy.NoPolicy()
	}
	return set.For(t.Subject(), sc)
}

func target(repository string, d artifact.Digest, mediaType, profile string) verify.Target {
	return verify.Target{Digest: d, Kind: policy.Image, MediaType: mediaType, Repository: repository, Profile: profile}
}

// allows says whether a decision lets content in, and what that rests on.
func allows(d *verify.Decision) (basis string, ok bool) {
	switch {
	case d.Allowed():
		return basisDecision, true
	case !d.Blocks():
		return basisWarn, true
	}
	return "", false
}

// trail is a decision in short, for a header and a message.
func trail(d *verify.Decision) string {
	if d.Policy == "none" {
		return "no policy applies to it, which denies: apply one whose scope matches"
	}
	return "policy " + d.Policy + ": " + d.Reason()
}

const maxReason = 1000 // bytes of a stored reason

func clip(s string, most int) string { return excerpt.Text(s, most) }

var (
	_ registry.Gate       = (*Gate)(nil)
	_ registry.Visibility = (*Gate)(nil)
	_ Judge               = (*verify.Engine)(nil)
)
