package verify

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/artifact"
	"assay/attestation"
	"assay/event"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/policy"
	"assay/store"
	"assay/telemetry"
	"assay/trust"
)

// TrustState is what evidence is verified with at an instant.
type TrustState struct {
	Verifier *Verifier
	// Epoch is the trust epoch (trust.Epoch) that Verifier was made at or after.
	// While the database's is higher, trust has changed and is not loaded yet:
	// nothing is decided.
	Epoch int64
	Stale bool // a root or list is older than its own limit: every decision is a deny
}

// Options of an [Engine]. DB, Source, Trust, Key and VerifierID are required.
type Options struct {
	DB     *store.DB
	Source EvidenceSource
	// Trust gives what evidence is verified with now. A change of roots or keys
	// gives another Verifier, and raises the trust epoch.
	Trust func() TrustState
	// Refresh is called when trust changed and Trust does not say so yet, so that
	// it says so at once; nil: it is waited for.
	Refresh func(ctx context.Context) error
	// Builders grant build levels; provenance by others has level 1.
	Builders []policy.Builder
	// Key signs decisions. It has this role alone; bundles by it are no evidence.
	Key        crypto.Signer
	VerifierID string // URI that stands for this verifier in summaries: the public URL
	// Host is the own registry's, with its port where that is not 443. It stands
	// in resource URIs and in the commands of a Report.
	Host string

	// Contracts say what evidence artifacts of the own registry owe; nil: nothing is
	// known of that.
	Contracts Contracts

	// Profile tells the profile of a repository of the own registry: dev, or
	// none; nil: all have none.
	Profile func(repository string) string

	// Runners knows what builds were compared with; nil: nothing was.
	Runners RunnerSource

	// Flaws knows the vulnerabilities of artifacts; nil: nothing is known of them.
	Flaws FlawSource

	// Components knows what artifacts are made of; nil: nothing is known of that.
	Components ComponentSource

	// Services knows whose artifacts are; nil: nothing is known of it.
	Services ServiceSource

	// Workloads knows what clusters say of what runs; nil: nothing is known of it.
	Workloads WorkloadSource

	// Exceptions knows what two persons agreed to let pass; nil: nothing.
	Exceptions ExceptionSource

	MaxValidity time.Duration // a decision holds at most this long; default 24 h
	Timeout     time.Duration // of one decision; default 60 s
	// CacheEntries bounds the decisions kept in memory (default 20,000), and
	// CacheAge how late a decision by another process is seen (default 1 s).
	CacheEntries int
	CacheAge     time.Duration

	// Epoch tells the trust epoch; nil: trust.Epoch.
	Epoch      func(ctx context.Context, tx *store.Tx) (int64, error)
	Clock      clock.Clock           // nil: clock.System
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
}

// Engine makes decisions and looks them up. It is safe for concurrent use.
type Engine struct {
	o        Options
	builders *builders
	keys     atomic.Pointer[decisionKeys]
	verdicts *verdicts
	cache    *decisions
	flights  flights
	met      *metrics
}

// New makes an engine over a database that was migrated with [Migrations],
// event.Migrations and trust.Migrations. Errors are fault.Invalid.
func New(o Options) (*Engine, error) {
	if o.DB == nil || o.Source == nil || o.Trust == nil || o.Key == nil {
		return nil, fault.Newf(fault.Invalid, "verify: Options.DB, Source, Trust and Key are required")
	}
	if u, err := url.Parse(o.VerifierID); err != nil || u.Scheme == "" {
		return nil, fault.Newf(fault.Invalid, "verify: VerifierID %.100q, want a URI such as the public URL", o.VerifierID)
	}
	def(&o.MaxValidity, 24*time.Hour)
	def(&o.Timeout, time.Minute)
	def(&o.CacheEntries, 20_000)
	def(&o.CacheAge, time.Second)
	if o.Epoch == nil {
		o.Epoch = trust.Epoch
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	b, err := compileBuilders(o.Builders)
	if err != nil {
		return nil, err
	}
	e := &Engine{o: o, builders: b, verdicts: newVerdicts(32 << 20), cache: newDecisions(o.CacheEntries, o.CacheAge)}
	if err := e.SetKey(o.Key); err != nil {
		return nil, err
	}
	e.met, err = newMetrics(o.Registerer)
	return e, err
}

func def[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Decide reads the evidence about the target, judges it, and stores the
// outcome as the decision that holds for (target.Digest, scope.ID), with its
// event, before it returns. Where the facts, the policy and the outcome are
// those of the decision that stands, that one is extended and given.
//
// scope.ID must name all that the facts depend on beside the digest: decisions
// about one digest in two repositories want two scopes.
//
// The error is that no answer was found (fault.Undecided, fault.Tampered, ...);
// then the decision that stands is left as it is. A deny is a Decision. Who
// calls while the same is being decided gets a decision that was begun after
// the call.
func (e *Engine) Decide(ctx context.Context, t Target, scope policy.Scope, p *policy.Policy) (*Decision, error) {
	t, err := e.question(t, scope, p)
	if err != nil {
		return nil, err
	}
	k := flightKey{decisionKey{t.Digest, scope.ID}, p.Hash(), fmt.Sprintf("%q", t.Subject()), t.uri(), scope}
	return e.flights.do(ctx, k, func(ctx context.Context) (*Decision, error) {
		ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
		defer cancel()
		start := time.Now()
		ctx, span := telemetry.Start(ctx, "verify.decide")
		span.Text(telemetry.ManifestDigest, string(t.Digest))
		span.Text(telemetry.Repository, t.Repository)
		span.Text(telemetry.Scope, scope.ID)
		span.Text(telemetry.Policy, p.Name())
		d, err := e.decide(ctx, t, scope, p)
		if d != nil {
			span.Text(telemetry.DecisionID, d.ID)
			span.Text(telemetry.Verdict, string(d.Verdict))
		}
		e.met.decided(ctx, d, err, time.Since(start))
		span.End(err)
		if err != nil {
			e.o.Logger.WarnContext(ctx, "no decision", "digest", t.Digest, "scope", scope.ID, "policy", p.Name(), "error", err, "trace_id", event.TraceFrom(ctx))
		}
		return d, err
	})
}

// question checks what is asked, and fills what the engine knows of it.
func (e *Engine) question(t Target, scope policy.Scope, p *policy.Policy) (Target, error) {
	if err := t.validate(); err != nil {
		return t, err
	}
	if scope.ID == "" || len(scope.ID) > 512 || p == nil {
		return t, fault.Newf(fault.Invalid, "decide: want a policy, and a scope with an ID of at most 512 bytes")
	}
	if e.o.Profile != nil && t.Repository != "" && t.Registry == "" {
		t.Profile = e.o.Profile(t.Repository)
	}
	return t, nil
}

func (e *Engine) decide(ctx context.Context, t Target, scope policy.Scope, p *policy.Policy) (*Decision, error) {
	return again(ctx, e, func() (*Decision, error) {
		f, err := e.draft(ctx, t, scope, p)
		if err != nil {
			return nil, err
		}
		if err := e.o.DB.Update(ctx, func(tx *store.Tx) error { return f.store(ctx, tx) }); err != nil {
			return nil, err
		}
		return f.d, nil
	})
}

// draft makes a decision. It gives errMoved when trust changed meanwhile.
func (e *Engine) draft(ctx context.Context, t Target, scope policy.Scope, p *policy.Policy) (*Draft, error) {
	state := e.o.Trust()
	if state.Verifier == nil {
		return nil, errNoRoot
	}
	var was *Decision
	var stirred int64
	err := e.o.DB.View(ctx, func(tx *store.Tx) (err error) {
		if err := e.unmoved(ctx, tx, state.Epoch); err != nil {
			return err
		}
		if was, stirred, err = standing(ctx, tx, t.Digest, scope.ID); errors.Is(err, fault.NotFound) {
			err = nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	g := e.gathering(t, state, p)
	now := e.o.Clock().UTC().Truncate(time.Microsecond)
	if err := g.gather(ctx, e.o.Source, scope, state.Stale, now); err != nil {
		return nil, err
	}
	facts, err := canonical(g.facts)
	if err != nil {
		return nil, err
	}
	now = e.o.Clock().UTC().Truncate(time.Microsecond)
	res, err := p.Evaluate(ctx, g.facts, now)
	if err != nil {
		return nil, err
	}
	until := earliest(now.Add(e.o.MaxValidity), earliest(res.ValidUntil, g.expires))
	if was != nil && was.FactsHash == policy.FactsID(facts) && was.PolicyHash == p.Hash() && sameOutcome(was, res) && e.signed(was) {
		d := *was
		d.TrustEpoch, d.ValidUntil = state.Epoch, until
		return &Draft{e: e, d: &d, standing: was, stirred: stirred, extends: true, facts: g.facts, bytes: facts}, nil
	}
	d, err := e.sign(ctx, t, g.facts, facts, p, res, now)
	if err != nil {
		return nil, err
	}
	d.TrustEpoch, d.ValidUntil = state.Epoch, until
	return &Draft{e: e, d: d, standing: was, stirred: stirred, facts: g.facts, bytes: facts}, nil
}

var errNoRoot = fault.Newf(fault.Undecided, "no trusted root is configured: see assay doctor")

// sameOutcome says whether an evaluation came to what the decision says. Time
// alone can change it: facts that were young enough are not for ever.
func sameOutcome(d *Decision, res policy.Result) bool {
	return d.Verdict == res.Verdict && d.Mode == res.Mode && slices.EqualFunc(d.Checks, res.Checks, func(a, b policy.Check) bool {
		return a.Name == b.Name && a.Status == b.Status && a.Mode == b.Mode && a.Stage == b.Stage
	})
}

// sign makes the decision and its summary, outside of any transaction: the key
// may be far away.
func (e *Engine) sign(ctx context.Context, t Target, f *policy.Facts, canonical []byte, p *policy.Policy, res policy.Result, now time.Time) (*Decision, error) {
	d := &Decision{
		Digest: t.Digest, ScopeID: f.Scope.ID, Verdict: res.Verdict, Mode: res.Mode, Policy: p.Name(), PolicyHash: p.Hash(),
		FactsHash: policy.FactsID(canonical), Checks: res.Checks, DecidedAt: now,
	}
	if t.URI == "" && t.Repository != "" {
		t.URI = "oci://" + e.place(t.Subject())
	}
	s, err := summary(e.o.VerifierID, t, f, d.FactsHash, p, res, now)
	if err != nil {
		return nil, fmt.Errorf("write the summary: %w", err)
	}
	env, err := attestation.SignStatement(ctx, e.keys.Load().signer, s)
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "sign the decision: %w", err)
	}
	d.ID = decisionID(env.Payload)
	if d.VSA, err = env.MarshalJSON(); err != nil {
		return nil, err
	}
	return d, nil
}

func (e *Engine) unmoved(ctx context.Context, tx *store.Tx, epoch int64) error {
	now, err := e.o.Epoch(ctx, tx)
	if err == nil && now > epoch {
		err = fault.Newf(fault.Undecided, "trust changed (epoch %d, loaded %d): %w", now, epoch, errMoved)
	}
	return err
}

const actor = "system:verify"

func (e *Engine) tell(ctx context.Context, tx *store.Tx, d, was *Decision, sc policy.Scope) error {
	ev := event.Event{
		Kind: event.DecisionMade, Digest: d.Digest, Actor: actor, Team: sc.Team, Service: sc.Service, Env: sc.Environment, Cluster: sc.Cluster,
		Body: map[string]string{
			"id": d.ID, "scope": d.ScopeID, "verdict": string(d.Verdict), "mode": string(d.Mode), "policy": d.PolicyHash,
			"facts": d.FactsHash, "valid_until": d.ValidUntil.UTC().Format(time.RFC3339),
		},
	}
	if err := event.Append(ctx, tx, ev); err != nil {
		return err
	}
	if err := tellExceptions(ctx, tx, d, was, ev); err != nil || was == nil || was.Verdict == d.Verdict && was.Blocks() == d.Blocks() {
		return err
	}
	ev.Kind = event.DecisionChanged
	ev.Body = map[string]string{
		"id": d.ID, "scope": d.ScopeID, "from": string(was.Verdict), "verdict": string(d.Verdict), "mode": string(d.Mode), "reason": clip(why(d, was), 1000),
	}
	return event.Append(ctx, tx, ev)
}

// why says what turned the verdict, or what a denial does.
func why(d, was *Decision) string {
	if d.Verdict != policy.Allow {
		return failures(d.Checks, 3)
	}
	return "now holds: " + failures(was.Checks, 3)
}

// Get gives a stored decision by ID, current or not; fault.NotFound when there
// is none.
func (e *Engine) Get(ctx context.Context, id string) (d *Decision, err error) {
	err = e.o.DB.View(ctx, func(tx *store.Tx) error { d, err = byID(ctx, tx, id); return err })
	if errors.Is(err, fault.NotFound) {
		return nil, fault.Newf(fault.NotFound, "decision %.80q: not here", id)
	}
	return d, err
}

// List gives the decisions that hold for a digest, by scope, at most 1,000.
func (e *Engine) List(ctx context.Context, digest artifact.Digest) (out []*Decision, err error) {
	return e.ListAfter(ctx, digest, "", 1000)
}

// ListAfter gives the decisions of a digest beyond a scope's id, in the order of
// those, at most limit.
func (e *Engine) ListAfter(ctx context.Context, digest artifact.Digest, scopeID string, limit int) (out []*Decision, err error) {
	if err := digest.Validate(); err != nil {
		return nil, err
	}
	err = e.o.DB.View(ctx, func(tx *store.Tx) error { out, err = list(ctx, tx, digest, scopeID, limit); return err })
	return out, err
}

// Facts gives recorded facts by their address. Facts that were altered in the
// store are fault.Tampered.
func (e *Engine) Facts(ctx context.Context, id string) (f *policy.Facts, err error) {
	err = e.o.DB.View(ctx, func(tx *store.Tx) error { f, err = readFacts(ctx, tx, id); return err })
	return f, err
}

// Due lists decisions that should be made again, at most limit: made under an
// earlier trust epoch, ending before the given time, or stirred since. Those that
// end first come first.
func (e *Engine) Due(ctx context.Context, before time.Time, limit int) (out []Due, err error) {
	err = e.o.DB.View(ctx, func(tx *store.Tx) error {
		epoch, err := e.o.Epoch(ctx, tx)
		if err != nil {
			return err
		}
		out, err = due(ctx, tx, epoch, before, limit)
		return err
	})
	return out, err
}

// Replay judges the recorded facts of a decision again, at the instant of that
// decision. The same policy gives the same result, byte for byte; another one
// shows what it would have said.
func (e *Engine) Replay(ctx context.Context, id string, p *policy.Policy) (policy.Result, error) {
	d, err := e.Get(ctx, id)
	if err != nil {
		return policy.Result{}, err
	}
	f, err := e.Facts(ctx, d.FactsHash)
	if err != nil {
		return policy.Result{}, err
	}
	return p.Evaluate(ctx, f, d.DecidedAt)
}

// Report is a decision with the evidence that its facts name.
func (e *Engine) Report(ctx context.Context, d *Decision) (*Report, error) {
	f, err := e.Facts(ctx, d.FactsHash)
	if err != nil {
		return nil, err
	}
	r := &Report{
		Target: e.place(f.Subject), Digest: d.Digest, Kind: f.Subject.Kind, Scope: d.ScopeID, Verdict: d.Verdict, Mode: d.Mode,
		Policy: d.Policy, PolicyHash: d.PolicyHash, FactsHash: d.FactsHash, DecisionID: d.ID, DecidedAt: d.DecidedAt,
		ValidUntil: d.ValidUntil, TrustEpoch: d.TrustEpoch, Checks: renamed(d.Checks, f.Subject.Target(), e.place(f.Subject)), Evidence: []ReportEvidence{}, Rejected: f.Rejected,
	}
	r.list(f)
	return r, nil
}

// place is the artifact's reference with the own registry's host.
func (e *Engine) place(s policy.Subject) string {
	if s.Repository != "" && s.Registry == "" {
		s.Registry = e.o.Host
	}
	return s.Target()
}
