package policy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/telemetry"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Verdict is the outcome of an evaluation.
type Verdict string

// The verdicts. What is not an allow is a deny.
const (
	Allow Verdict = "allow"
	Deny  Verdict = "deny"
)

// Status is the outcome of one check.
type Status string

// The statuses. Fail makes the verdict a deny; Warn and Skip do not change it.
const (
	Pass   Status = "pass"
	Fail   Status = "fail"
	Warned Status = "warn"
	Skip   Status = "skip" // there was nothing to look into; another check failed
)

// Check is one line of a decision's trail.
type Check struct {
	Name     string   `json:"name"`                // "signatures/release-signers"
	Status   Status   `json:"status"`              // pass, fail, warn, skip
	Expected string   `json:"expected"`            // what was wanted, in words
	Found    string   `json:"found"`               // what was there, in words
	Evidence []string `json:"evidence,omitempty"`  // ids of the bundles, at most 16
	LogIndex *int64   `json:"log_index,omitempty"` // of the first of them that is logged
	Mend     string   `json:"mend,omitempty"`      // the command that would mend a failed check
	// Exception is the id of the exception for which a failed check only warns; of a
	// check that fails, of one that is over.
	Exception string `json:"exception,omitempty"`
	// Mode is that of a failed check which counts with a milder one than the result.
	Mode   Mode   `json:"mode,omitempty"`
	Stage  string `json:"stage,omitempty"` // of a failed check: the stage of the roll-out that it is in, in words
	grave  grave
	atMost Mode // with which it counts, for what the rule is that it repeats; none: no bound
}

// grave says what excuses a failed check.
type grave uint8

const (
	emergency   grave = iota + 1 // only break-glass: a flaw that is known to be exploited
	unexcusable                  // nothing: a malicious package
)

// Result is what a policy says of facts at an instant.
type Result struct {
	Verdict    Verdict   `json:"verdict"`
	Checks     []Check   `json:"checks"`
	ValidUntil time.Time `json:"valid_until,omitzero"` // when a check that passed by age would fail; zero: no such
	Mode       Mode      `json:"mode,omitempty"`       // the strictest with which a failed check counts: what a denial does
	Level      int       `json:"level,omitzero"`       // SLSA build level that a provenance requirement verified; 0: none asked
}

// Policy is a compiled policy. It is immutable and safe for concurrent use.
type Policy struct {
	name    string
	mode    Mode
	scope   *selector
	hash    string
	units   []*unit // all must hold
	paths   map[string][]Path
	layouts []*Layout
	time    time.Duration // budget of one Rego module; 0: RegoTime
	// stagesAt is the instant that roll-outs are asked for; zero: that of the evaluation.
	stagesAt time.Time
}

// unit is what one document compiles to.
type unit struct {
	name     string
	mode     Mode
	rollouts []rollout
	reqs     *requirements
	rego     []*regoModule
	tenant   *tenantRule
}

// Compile checks and compiles a document. Errors are fault.Invalid and name the
// field.
func Compile(d *Document) (*Policy, error) {
	if d.APIVersion != APIVersion || d.Kind != KindPolicy {
		return nil, fault.Newf(fault.Invalid, "policy: apiVersion %.40q, kind %.40q; want %s, %s", d.APIVersion, d.Kind, APIVersion, KindPolicy)
	}
	if !nameRE.MatchString(d.Metadata.Name) {
		return nil, fault.Newf(fault.Invalid, "policy: metadata.name %.80q; want lower-case letters, digits, - and ., at most 63", d.Metadata.Name)
	}
	p, err := compile(d)
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", d.Metadata.Name, err)
	}
	return p, nil
}

func compile(d *Document) (*Policy, error) {
	p := &Policy{name: d.Metadata.Name, mode: d.Spec.Mode, paths: map[string][]Path{}}
	if p.mode == "" {
		p.mode = Enforce
	}
	if p.mode.strictness() == 0 {
		return nil, fault.Newf(fault.Invalid, "spec.mode %.40q; want audit, warn or enforce", p.mode)
	}
	var err error
	if p.scope, err = d.Spec.Scope.compile(); err != nil {
		return nil, fmt.Errorf("spec.scope: %w", err)
	}
	u := &unit{name: d.Metadata.Name, mode: p.mode}
	if u.rollouts, err = compileRollouts(d.Spec.Rollout); err != nil {
		return nil, err
	}
	if d.Spec.Requirements != nil {
		if u.reqs, err = d.Spec.Requirements.compile(); err != nil {
			return nil, fmt.Errorf("spec.requirements: %w", err)
		}
		p.layouts = u.reqs.layouts
		for _, a := range u.reqs.attestations {
			for _, f := range a.fields {
				p.want(a.predicateType, f.path)
			}
		}
	}
	if u.rego, err = compileModules(d.Spec.Rego, d.Spec.Data, u.reqs != nil); err != nil {
		return nil, fmt.Errorf("spec.rego: %w", err)
	}
	if u.tenant, err = d.Spec.Tenant.compile(d.Spec.Scope, &d.Spec); err != nil {
		return nil, fmt.Errorf("spec.tenant: %w", err)
	}
	if u.reqs == nil && len(u.rego) == 0 && u.tenant == nil {
		return nil, fault.Newf(fault.Invalid, "spec has neither requirements nor rego: a policy without a rule would deny everything")
	}
	if d.Spec.Facts != nil {
		for i, s := range d.Spec.Facts.Fields {
			for _, text := range s.Paths {
				path, err := ParsePath(text)
				if err != nil || s.PredicateType == "" {
					return nil, fault.Newf(fault.Invalid, "spec.facts.fields[%d]: want a predicateType and paths: %w", i, err)
				}
				p.want(s.PredicateType, path)
			}
		}
	}
	p.units = []*unit{u}
	p.hash, err = hashOf(d, p.mode)
	return p, err
}

func (p *Policy) want(predicateType string, path Path) {
	if !slices.ContainsFunc(p.paths[predicateType], func(o Path) bool { return o.text == path.text }) {
		p.paths[predicateType] = append(p.paths[predicateType], path)
	}
}

// hashOf is SHA-256 over the canonical form of what is evaluated: the document
// with its defaults filled, without descriptions and labels.
func hashOf(d *Document, mode Mode) (string, error) {
	norm := *d
	norm.Metadata = Metadata{Name: d.Metadata.Name}
	norm.Spec.Mode = mode
	b, err := strictjson.Canonical(norm)
	if err != nil {
		return "", fault.Newf(fault.Invalid, "write policy: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// Name is metadata.name; of combined policies, the names joined by "+".
func (p *Policy) Name() string { return p.name }

// Mode says what a denial does, by the policy's own word; a roll-out may give some
// of its rules another, see [Result].Mode. Of combined policies it is the strictest.
func (p *Policy) Mode() Mode { return p.mode }

// Hash is 64 hex digits, SHA-256 of the canonical compiled form with the Rego
// text. Documents that differ in layout, comments or description have one hash.
func (p *Policy) Hash() string { return p.hash }

// WithRegoTime is the policy with another budget of time for each evaluation of
// each Rego module, in place of [RegoTime].
func (p *Policy) WithRegoTime(d time.Duration) *Policy {
	out := *p
	out.time = d
	return &out
}

// Paths gives the predicate members, by predicate type, that must be collected
// into Attestation.Fields for this policy. The caller must not change it.
func (p *Policy) Paths(predicateType string) []Path { return p.paths[predicateType] }

// Combine makes one policy of several: all must hold, and the checks of each count
// with its own mode. The order of the arguments does not matter. It panics without any.
func Combine(ps ...*Policy) *Policy {
	if len(ps) == 1 {
		return ps[0]
	}
	ps = slices.Clone(ps)
	slices.SortFunc(ps, func(a, b *Policy) int { return strings.Compare(a.name+"\x00"+a.hash, b.name+"\x00"+b.hash) })
	out := &Policy{mode: Audit, scope: ps[0].scope, paths: map[string][]Path{}}
	h := sha256.New()
	var names []string
	for _, p := range ps {
		fmt.Fprintf(h, "assay combined policy\n%s\n", p.hash)
		names = append(names, p.name)
		out.units = append(out.units, p.units...)
		for _, l := range p.layouts {
			if !slices.ContainsFunc(out.layouts, func(o *Layout) bool { return o.ID == l.ID }) {
				out.layouts = append(out.layouts, l)
			}
		}
		out.time = max(out.time, p.time)
		if p.mode.strictness() > out.mode.strictness() {
			out.mode = p.mode
		}
		for t, paths := range p.paths {
			for _, path := range paths {
				out.want(t, path)
			}
		}
	}
	out.name, out.hash = strings.Join(names, "+"), hex.EncodeToString(h.Sum(nil))
	return out
}

// evaluation is the state of one Evaluate.
type evaluation struct {
	ctx    context.Context
	facts  *Facts
	now    time.Time
	target string
	prefix string
	checks []Check
	until  time.Time
	level  int
	byID   map[string]*Attestation
	budget time.Duration
	input  ast.Value // the facts as Rego reads them, made once
	// combined says that the names of checks begin with their policy's.
	combined bool
	stagesAt time.Time // of roll-outs
	spans    []span    // which unit added which checks
}

func (ev *evaluation) add(c Check) {
	c.Name = ev.prefix + c.Name
	ev.checks = append(ev.checks, c)
}

// expire moves ValidUntil to an earlier instant; zero is none.
func (ev *evaluation) expire(at time.Time) {
	if !at.IsZero() && (ev.until.IsZero() || at.Before(ev.until)) {
		ev.until = at
	}
}

func (ev *evaluation) attestation(id string) *Attestation {
	if ev.byID == nil {
		ev.byID = make(map[string]*Attestation, len(ev.facts.Attestations))
		for i := range ev.facts.Attestations {
			ev.byID[ev.facts.Attestations[i].ID] = &ev.facts.Attestations[i]
		}
	}
	return ev.byID[id]
}

// rejectedText adds what did not verify to a check that failed for want of
// evidence: mostly that is the reason.
func (ev *evaluation) rejectedText(failed bool) string {
	n := len(ev.facts.Rejected)
	if !failed || n == 0 {
		return ""
	}
	r := ev.facts.Rejected[0]
	s := fmt.Sprintf("; %d rejected (%s: %s", n, clip(r.Code, 40), clip(r.Reason, 160))
	if n > 1 {
		s += ", and others"
	}
	return s + ")"
}

// Evaluate says whether the facts satisfy the policy at the instant now. The
// same facts, policy and instant give the same result, byte for byte.
//
// The error is fault.Undecided when the budget of a Rego module ran out or ctx
// ended, and fault.Invalid for facts of another schema; there is then no
// verdict, and callers must refuse.
func (p *Policy) Evaluate(ctx context.Context, f *Facts, now time.Time) (res Result, err error) {
	ctx, span := telemetry.Start(ctx, "policy.evaluate")
	if span.On() {
		span.Text(telemetry.Policy, p.name)
		if f != nil {
			span.Text(telemetry.ManifestDigest, string(f.Subject.Digest))
			for i := range f.Provenance {
				span.Text(telemetry.VCSRevision, f.Provenance[i].Source.Digest)
				span.Text(telemetry.VCSRepository, f.Provenance[i].Source.URI)
				span.Text(telemetry.PipelineRunID, f.Provenance[i].InvocationID)
			}
		}
		defer func() {
			span.Text(telemetry.Verdict, string(res.Verdict))
			span.End(err)
		}()
	}
	if f == nil || f.Schema != FactsSchema || f.Subject.Digest == "" {
		return Result{}, fault.Newf(fault.Invalid, "evaluate policy %s: want facts of schema %s with a subject digest", p.name, FactsSchema)
	}
	if ctx.Err() != nil {
		return Result{}, fault.Newf(fault.Undecided, "evaluate policy %s: %w", p.name, context.Cause(ctx))
	}
	ev := &evaluation{ctx: ctx, facts: f, now: now, target: f.Subject.Target(), checks: make([]Check, 0, 8), budget: p.time, combined: len(p.units) > 1, stagesAt: p.stagesAt}
	if ev.budget <= 0 {
		ev.budget = RegoTime
	}
	if ev.stagesAt.IsZero() {
		ev.stagesAt = now
	}
	ev.state()
	head := len(ev.checks)
	if err := ev.units(p); err != nil {
		return Result{}, fmt.Errorf("evaluate policy %s: %w", p.name, err)
	}
	if ev.prefix = ""; len(ev.checks) == head {
		c := Check{
			Name: "policy", Status: Fail, Expected: "a policy that applies to " + clip(ev.target, 200) + scopeText(f.Scope), Found: "none",
			Mend: "assay apply -f DIR  # with a policy whose scope matches, or one without scope",
		}
		if p.list() {
			c.Expected = "a policy beside the allow list, which allows nothing alone"
		}
		ev.add(c)
	}
	ruled := len(ev.checks)
	if err := ev.tenants(p); err != nil {
		return Result{}, fmt.Errorf("evaluate policy %s: %w", p.name, err)
	}
	passed := ev.excuse(head)
	mode := ev.modes(p, head)
	r := Result{Verdict: Deny, Mode: mode, Checks: ev.checks, ValidUntil: ev.until, Level: ev.level}
	for _, c := range ev.checks[head:ruled] {
		passed = passed || c.Status == Pass
	}
	if passed && !slices.ContainsFunc(ev.checks, func(c Check) bool { return c.Status == Fail }) {
		r.Verdict = Allow
	}
	return r, nil
}

// units adds the checks of a policy's rules.
func (ev *evaluation) units(p *Policy) error {
	for _, u := range p.units {
		if ev.combined {
			ev.prefix = u.name + "/"
		}
		from := len(ev.checks)
		if u.reqs != nil {
			u.reqs.evaluate(ev)
			if u.reqs.listed {
				ev.evaluateTenantListed(p)
			}
		}
		for _, m := range u.rego {
			if err := m.evaluate(ev); err != nil {
				return err
			}
		}
		ev.spans = append(ev.spans, span{u, from, len(ev.checks)})
	}
	return nil
}

// state adds the checks that every policy has: the evidence was read whole,
// with roots and lists that are fresh.
func (ev *evaluation) state() {
	c := Check{Name: "evidence/complete", Status: Pass, Expected: "all evidence read", Found: fmt.Sprintf("%d verified, %d rejected", len(ev.facts.Signatures)+len(ev.facts.Attestations), len(ev.facts.Rejected))}
	if ev.facts.Truncated {
		c.Status, c.Found = Fail, c.Found+", and more that was not read"
		c.Mend = "assay verify " + ev.target + " -o json  # lists the evidence; delete from the registry what is not needed"
	}
	ev.add(c)
	c = Check{Name: "trust/fresh", Status: Pass, Expected: "trust roots and revocation lists within their limits", Found: orNone(strings.Join(ev.facts.Trust.Roots, ", "))}
	if !slices.ContainsFunc(ev.facts.Trust.Revocations, func(r Revocations) bool { return r.State != "not_configured" }) {
		c.Found += "; no list of revocations was asked" // nothing unknown counts as clean
	}
	if ev.facts.Trust.Stale {
		c.Status, c.Found, c.Mend = Fail, c.Found+"; stale", "assay doctor"
	}
	ev.add(c)
	if r := ev.facts.Trust.Revoked; r != nil {
		ev.add(Check{Name: "trust/revoked", Status: Fail, Expected: "an artifact that is not revoked", Found: "revoked since " + clip(r.Since, 40) + ": " + clip(r.Reason, 300), Mend: "assay revocations list"})
	}
	ev.profile()
}

// developmentEnvironments are those that take content of profile dev.
var developmentEnvironments = []string{"dev", "development", "test", "testing", "ci", "sandbox", "local"}

// profile keeps content of a repository of profile dev out of every environment
// that is not known for one of development, whatever the policy says.
func (ev *evaluation) profile() {
	if ev.facts.Subject.Profile != "dev" {
		return
	}
	c := Check{
		Name: "repository/profile", Status: Pass, Expected: "content of profile dev stays in development",
		Found: "environment " + orNone(clip(ev.facts.Scope.Environment, 80)),
	}
	if env := ev.facts.Scope.Environment; env != "" && !slices.Contains(developmentEnvironments, env) {
		c.Status = Fail
		c.Mend = "build it for a repository without profile dev, and sign it there"
	}
	ev.add(c)
}
