package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"assay/internal/fault"
	"assay/internal/glob"
)

// Tenant is an allow list: from which repositories the workloads of some
// namespaces may come, and whose signatures and statements count there. It holds
// beside the policy that applies and never in its place: a wider list never opens
// what a narrower one closes, and a list alone allows nothing.
//
// What is left out allows nothing: no repositories are no images, no signers
// nobody's word.
type Tenant struct {
	Name         string          `yaml:"name" json:"name"`                                     // of the tenant, mostly its team: for people, and in checks
	Repositories []string        `yaml:"repositories,omitempty" json:"repositories,omitempty"` // patterns over the image's repository, with the host where it is another registry's
	Identities   []IdentityMatch `yaml:"identities,omitempty" json:"identities,omitempty"`     // whose evidence counts
	Delegations  []string        `yaml:"delegations,omitempty" json:"delegations,omitempty"`   // whose counts as well: delegates whose chain comes through a delegation of one of these names
	Signers      string          `yaml:"signers,omitempty" json:"signers,omitempty"`           // "any", in place of both: who signed is left to the policy
}

// AnySigner, as signers of a tenant, leaves it to the policy who counts.
const AnySigner = "any"

// TenantListed, as a requirement, wants a tenant's list to hold where the artifact
// is to run.
const TenantListed = "listed"

const maxTenantEntries = 500

// tenantRule is a compiled Tenant.
type tenantRule struct {
	*Tenant
	repositories []glob.Glob
	ids          []*identity
}

// compile checks a list and the scope that it holds in. Errors are fault.Invalid.
func (t *Tenant) compile(scope *Selector, spec *Spec) (*tenantRule, error) {
	if t == nil {
		return nil, nil //nolint:nilnil // there is none
	}
	if !nameRE.MatchString(t.Name) {
		return nil, fault.Newf(fault.Invalid, "name %.80q; want lower-case letters, digits, - and ., at most 63", t.Name)
	}
	if spec.Requirements != nil || len(spec.Rego) > 0 || spec.Facts != nil || len(spec.Data) > 0 {
		return nil, fault.Newf(fault.Invalid, "an allow list stands in a policy of its own, without requirements, rego, facts and data: it holds beside the policy that applies")
	}
	if err := tenantScope(scope); err != nil {
		return nil, err
	}
	if len(t.Repositories)+len(t.Identities)+len(t.Delegations) > maxTenantEntries {
		return nil, fault.Newf(fault.TooLarge, "%d repositories, identities and delegations: at most %d", len(t.Repositories)+len(t.Identities)+len(t.Delegations), maxTenantEntries)
	}
	out := &tenantRule{Tenant: t}
	for _, p := range t.Repositories {
		g, err := glob.Parse(p)
		if err != nil {
			return nil, fmt.Errorf("repositories: %w", err)
		}
		out.repositories = append(out.repositories, g)
	}
	if t.Signers != "" && (t.Signers != AnySigner || len(t.Identities)+len(t.Delegations) > 0) {
		return nil, fault.Newf(fault.Invalid, "signers %.40q: want %q, without identities and delegations beside it", t.Signers, AnySigner)
	}
	if len(t.Identities) > 0 {
		var err error
		if out.ids, err = compileIdentities(t.Identities); err != nil {
			return nil, err
		}
	}
	for _, d := range t.Delegations {
		if d == "" || len(d) > 120 || strings.ContainsAny(d, "* \n\r\t") {
			return nil, fault.Newf(fault.Invalid, "delegations: %.80q; want the name of a delegation (assay trust delegations list), without patterns", d)
		}
	}
	return out, nil
}

// tenantScope refuses a scope through which an artifact could slip out of the list
// by what it is or where it lies: a list is about the place where it runs alone.
func tenantScope(s *Selector) error {
	const mend = "; want namespaces, clusters or environments alone"
	switch {
	case s == nil:
		return fault.Newf(fault.Invalid, "an allow list wants a scope, which says where the tenant's workloads run: namespaces, and clusters where they are not all")
	case len(s.Repositories) > 0:
		return fault.Newf(fault.Invalid, "scope.repositories beside an allow list: an image of another repository would not be asked%s, and the repositories under tenant", mend)
	case len(s.Teams)+len(s.Services)+len(s.Tiers) > 0:
		return fault.Newf(fault.Invalid, "scope.teams, services or tiers beside an allow list: they say whose the artifact is and not where it runs, so that another team's would not be asked%s", mend)
	case len(s.Kinds) > 0:
		return fault.Newf(fault.Invalid, "scope.kinds beside an allow list: what is of another kind would not be asked%s", mend)
	}
	return nil
}

func compileListed(s string) (bool, error) {
	if s != "" && s != TenantListed {
		return false, fault.Newf(fault.Invalid, "tenant %.40q: want %q", s, TenantListed)
	}
	return s != "", nil
}

// tenants adds the checks of the allow lists that hold beside the rules.
func (ev *evaluation) tenants(p *Policy) error {
	for _, u := range p.units {
		if u.tenant == nil {
			continue
		}
		ev.prefix = ""
		if ev.combined {
			ev.prefix = u.name + "/"
		}
		from := len(ev.checks)
		if err := u.tenant.evaluate(ev, p); err != nil {
			return err
		}
		ev.spans = append(ev.spans, span{u, from, len(ev.checks)})
	}
	return nil
}

// counts says whether evidence counts for the tenant.
func (r *tenantRule) counts(e *Evidence) bool {
	if r.Signers == AnySigner || matchAny(r.ids, e) {
		return true
	}
	return e.Delegation != nil && slices.ContainsFunc(e.Delegation.Chain, func(name string) bool { return slices.Contains(r.Delegations, name) })
}

// signersText is whose evidence counts, in words.
func (r *tenantRule) signersText() string {
	parts := make([]string, 0, 1+len(r.Delegations))
	if len(r.ids) > 0 {
		parts = append(parts, identitiesText(r.ids))
	}
	for _, d := range r.Delegations {
		parts = append(parts, "a delegate of "+clip(d, 80))
	}
	if len(parts) == 0 {
		return "nobody: the list names no signers"
	}
	return strings.Join(parts, " or ")
}

// SignersText is whose evidence counts, one entry for each, in words.
func (t *Tenant) SignersText() []string {
	out := []string{}
	if t.Signers == AnySigner {
		return append(out, AnySigner)
	}
	for _, id := range t.Identities {
		out = append(out, identityText(id))
	}
	for _, d := range t.Delegations {
		out = append(out, "a delegate of "+clip(d, 80))
	}
	return out
}

// evaluate adds the list's checks. Evidence of others is taken out of the facts,
// and what the policy then says more against the artifact stands under the
// tenant's name: so the policy's own checks and modes stay what they are.
func (r *tenantRule) evaluate(ev *evaluation, p *Policy) error {
	ev.add(r.repository(ev.facts))
	if r.Signers == AnySigner {
		return nil
	}
	c, others := r.signer(ev)
	ev.add(c)
	if others == 0 {
		return nil
	}
	inner := &evaluation{ctx: ev.ctx, facts: ev.facts.by(r.counts), now: ev.now, target: ev.target, budget: ev.budget, combined: ev.combined, stagesAt: ev.stagesAt}
	if err := inner.units(p); err != nil {
		return err
	}
	failed := map[string]bool{}
	for _, c := range ev.checks {
		failed[c.Name] = failed[c.Name] || c.Status == Fail
	}
	ev.level = min(ev.level, inner.level)
	result := inner.modes(p, 0)
	for _, c := range inner.checks {
		c.atMost = cmp.Or(c.Mode, result) // a rule that only warns does not refuse here either
		if c.Status != Fail || failed[c.Name] {
			continue
		}
		c.Name = "tenant/counts/" + c.Name
		c.Expected += ", by those who count in tenant " + r.Name
		ev.add(c)
	}
	ev.expire(inner.until)
	return nil
}

// repository is the check of where the image lies.
func (r *tenantRule) repository(f *Facts) Check {
	name := f.Subject.Repository
	if name != "" && f.Subject.Registry != "" {
		name = f.Subject.Registry + "/" + name
	}
	c := Check{Name: "tenant/repository", Status: Pass, Expected: "a repository of tenant " + r.Name + ": " + orNone(globsText(r.repositories)), Found: orNone(clip(name, 200))}
	if name == "" || !matchGlobs(r.repositories, name) {
		c.Status, c.Mend = Fail, "deploy it from a repository of the tenant, or have the list's owner add this one to spec.tenant.repositories"
	}
	return c
}

// signer is the check that anybody who counts has signed, and how much evidence is
// by others.
func (r *tenantRule) signer(ev *evaluation) (c Check, others int) {
	var t tally
	see := func(e *Evidence) {
		if r.counts(e) {
			t.count(e)
		} else {
			t.other(e)
			others++
		}
	}
	for i := range ev.facts.Signatures {
		see(&ev.facts.Signatures[i].Evidence)
	}
	for i := range ev.facts.Attestations {
		see(&ev.facts.Attestations[i].Evidence)
	}
	// Statements about flaws and commits make nobody a signer of the artifact.
	for i := range ev.facts.Sources {
		others += b2i(!ev.facts.Sources[i].Own && !r.counts(&ev.facts.Sources[i].Evidence))
	}
	if v := ev.facts.Vulnerabilities; v != nil {
		for i := range v.VEX {
			others += b2i(!r.counts(&v.VEX[i].Evidence))
		}
	}
	c = Check{Name: "tenant/signer", Status: Pass, Expected: "signed or attested by whom tenant " + r.Name + " counts: " + r.signersText(), Found: t.found(1, "signature or attestation") + ev.rejectedText(len(t.order) == 0)}
	if len(t.order) == 0 {
		c.Status, c.Mend = Fail, "assay sign "+ev.target+"  # as "+r.signersText()
	}
	for _, e := range t.evidence[:min(len(t.evidence), maxEvidence)] {
		c.Evidence = append(c.Evidence, e.ID)
		if c.LogIndex == nil {
			c.LogIndex = e.LogIndex
		}
	}
	return c, others
}

// by is what is known of the artifact by some signers alone. What the site knows
// by itself stays: its record of forges, its matches of components, its lists.
func (f *Facts) by(counts func(*Evidence) bool) *Facts {
	out := *f
	drop := map[string]bool{}
	out.Signatures = only(f.Signatures, func(s *Signature) bool { return counts(&s.Evidence) })
	out.Attestations = only(f.Attestations, func(a *Attestation) bool {
		if !counts(&a.Evidence) {
			drop[a.ID] = true
			return false
		}
		return true
	})
	// The same bundle may have been read from two places: what counts once, counts.
	for i := range out.Attestations {
		delete(drop, out.Attestations[i].ID)
	}
	out.Provenance = only(f.Provenance, func(p *Provenance) bool { return !drop[p.Attestation] })
	out.Traces = only(f.Traces, func(t *Trace) bool { return !drop[t.Attestation] })
	out.FailedBuilds = only(f.FailedBuilds, func(b *FailedBuild) bool { return !drop[b.Attestation] })
	out.Reports = only(f.Reports, func(r *Report) bool { return !drop[r.Attestation] })
	out.Runners = only(f.Runners, func(r *Runner) bool { return !drop[r.Attestation] })
	out.Rebuilds = only(f.Rebuilds, func(r *Rebuild) bool { return !drop[r.Attestation] })
	out.Sources = only(f.Sources, func(s *SourceFact) bool { return s.Own || counts(&s.Evidence) })
	if v := f.Vulnerabilities; v != nil {
		mine := *v
		mine.VEX = only(v.VEX, func(x *VEXFact) bool { return counts(&x.Evidence) })
		out.Vulnerabilities = &mine
	}
	return &out
}

func only[T any](in []T, keep func(*T) bool) []T {
	out := make([]T, 0, len(in))
	for i := range in {
		if keep(&in[i]) {
			out = append(out, in[i])
		}
	}
	return out
}

// evaluateTenantListed says whether a list holds where the artifact is to run. Of a
// question that names no such place there is nothing to say.
func (ev *evaluation) evaluateTenantListed(p *Policy) {
	c := Check{Name: "tenant", Status: Pass, Expected: "a tenant whose allow list holds here", Found: strings.Join(p.Tenants(), ", ")}
	switch sc := ev.facts.Scope; {
	case c.Found != "":
	case sc.Namespace == "" && sc.Cluster == "":
		c.Status, c.Found = Skip, "not asked for a cluster"
	default:
		c.Status, c.Found = Fail, "none"+scopeText(sc)
		c.Mend = "assay apply -f DIR  # with a policy that has spec.tenant and a scope that names the namespace"
	}
	ev.add(c)
}

// Tenants are the names of the tenants whose lists are part of the policy.
func (p *Policy) Tenants() (out []string) {
	for _, u := range p.units {
		if u.tenant != nil && !slices.Contains(out, u.tenant.Name) {
			out = append(out, u.tenant.Name)
		}
	}
	return out
}

// list says whether the policy is an allow list and nothing else, so that it holds
// beside others.
func (p *Policy) list() bool {
	return len(p.units) > 0 && !slices.ContainsFunc(p.units, func(u *unit) bool { return u.tenant == nil })
}
