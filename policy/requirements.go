package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
)

// requirements is the compiled form of Requirements.
type requirements struct {
	signatures   []*signatureRule
	attestations []*attestationRule
	provenance   *provenanceRule
	build        *buildRule
	source       *sourceRule
	reports      []*reportRule
	contract     string
	service      *ServiceRequirement
	mesh         *MeshRequirement
	workload     *workloadRule
	runner       *runnerRule
	builders     *buildersRule
	vuln         *vulnRule
	components   *Components
	layouts      []*Layout
	quality      quality
	sbom         bool // a bill of materials by who signed the provenance
	listed       bool // a tenant's allow list holds there
}

// quality is what a bundle must be, beside being verified, to count at all.
type quality struct {
	maxAge       time.Duration
	log, stamped bool
	witnesses    int
}

type signatureRule struct {
	name      string
	threshold int
	ids       []*identity
	anyType   bool
}

type attestationRule struct {
	name          string
	predicateType string
	threshold     int
	ids           []*identity
	fields        []*fieldRule
}

func (r *Requirements) compile() (*requirements, error) {
	out := &requirements{quality: quality{time.Duration(r.MaxAge), r.RequireLog, r.RequireTimestamp, r.RequireWitnesses}}
	if r.RequireWitnesses < 0 || r.RequireWitnesses > 16 {
		return nil, fault.Newf(fault.Invalid, "requireWitnesses %d: want 0 to 16", r.RequireWitnesses)
	}
	var err error
	if out.reports, err = r.ReportRequirements.compile(); err != nil {
		return nil, err
	}
	if out.contract, err = compileContract(r.Contract); err != nil {
		return nil, err
	}
	if out.listed, err = compileListed(r.Tenant); err != nil {
		return nil, err
	}
	if r.Runner != nil {
		if out.runner, err = r.Runner.compile(); err != nil {
			return nil, fmt.Errorf("runner: %w", err)
		}
	}
	if r.Service != nil {
		if err := r.Service.validate(); err != nil {
			return nil, fmt.Errorf("service: %w", err)
		}
		out.service = r.Service
	}
	if r.Mesh != nil {
		if err := r.Mesh.validate(); err != nil {
			return nil, fmt.Errorf("mesh: %w", err)
		}
		out.mesh = r.Mesh
	}
	if r.Workload != nil {
		if out.workload, err = r.Workload.compile(); err != nil {
			return nil, fmt.Errorf("workload: %w", err)
		}
	}
	if r.SBOM != nil {
		if err := r.SBOM.compile(r.Provenance); err != nil {
			return nil, fmt.Errorf("sbom: %w", err)
		}
		out.sbom = true
	}
	if r.Vulnerabilities != nil {
		if out.vuln, err = r.Vulnerabilities.compile(); err != nil {
			return nil, fmt.Errorf("vulnerabilities: %w", err)
		}
	}
	if r.Components != nil {
		if out.components, err = r.Components.compile(out.quality); err != nil {
			return nil, fmt.Errorf("components: %w", err)
		}
	}
	if r.Builders != nil {
		if out.builders, err = r.Builders.compile(); err != nil {
			return nil, fmt.Errorf("builders: %w", err)
		}
	}
	if out.layouts, err = compileLayouts(r.Layouts, out.quality); err != nil {
		return nil, err
	}
	if len(r.Signatures)+len(r.Attestations)+len(out.reports)+len(out.layouts) == 0 && r.Provenance == nil && r.Build == nil && r.Source == nil && r.Contract == "" && r.Runner == nil && r.Builders == nil && r.Vulnerabilities == nil && r.Components == nil && r.Service == nil && r.Mesh == nil && r.Workload == nil && r.SBOM == nil {
		return nil, fault.Newf(fault.Invalid, "requirements name nothing that must be there: want signatures, attestations, provenance, build, source, contract, service, mesh, workload, vulnerabilities, components or reports such as tests")
	}
	names := map[string]bool{}
	for i, s := range r.Signatures {
		name, err := ruleName("signatures", s.Name, i, len(r.Signatures), names)
		if err != nil {
			return nil, err
		}
		rule := &signatureRule{name: name, anyType: s.IncludeAttestations}
		if rule.ids, rule.threshold, err = compileSigners(s.Identities, s.Signers, s.Threshold); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out.signatures = append(out.signatures, rule)
	}
	for i, a := range r.Attestations {
		short := a.Name
		if short == "" {
			short = shortType(a.PredicateType)
		}
		name, err := ruleName("attestations", short, i, len(r.Attestations), names)
		if err != nil {
			return nil, err
		}
		rule, err := a.compile(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out.attestations = append(out.attestations, rule)
	}
	if r.Provenance != nil {
		p, err := r.Provenance.compile()
		if err != nil {
			return nil, fmt.Errorf("provenance: %w", err)
		}
		out.provenance = p
	}
	if r.Build != nil {
		b, err := r.Build.compile()
		if err != nil {
			return nil, fmt.Errorf("build: %w", err)
		}
		out.build = b
	}
	if r.Source != nil {
		if out.source, err = r.Source.compile(r.Provenance != nil); err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
	}
	return out, nil
}

func (a AttestationRequirement) compile(name string) (*attestationRule, error) {
	if strings.TrimSpace(a.PredicateType) == "" {
		return nil, fault.Newf(fault.Invalid, "predicateType is wanted")
	}
	// Matched exactly, so that what is no URI would never match and deny all.
	if !strings.Contains(a.PredicateType, ":") {
		return nil, fault.Newf(fault.Invalid, "predicateType %.80q: want the type's whole URI, for example https://slsa.dev/provenance/v1; short names are for assay attest", a.PredicateType)
	}
	rule := &attestationRule{name: name, predicateType: a.PredicateType}
	var err error
	if rule.ids, rule.threshold, err = compileSigners(a.Identities, a.Signers, a.Threshold); err != nil {
		return nil, err
	}
	for i, f := range a.Fields {
		c, err := f.compile()
		if err != nil {
			return nil, fmt.Errorf("fields[%d]: %w", i, err)
		}
		rule.fields = append(rule.fields, c)
	}
	return rule, nil
}

// Delegated, as signers, stands for everybody whom a delegation covers.
const Delegated = "delegated"

func compileSigners(in []IdentityMatch, signers string, threshold *int) ([]*identity, int, error) {
	var ids []*identity
	var err error
	switch {
	case signers == Delegated && len(in) == 0:
		ids = []*identity{{delegated: true, text: "a delegate of the organisation for this repository and type"}}
	case signers != "":
		return nil, 0, fault.Newf(fault.Invalid, "signers %.40q: want %q, without identities beside it", signers, Delegated)
	default:
		if ids, err = compileIdentities(in); err != nil {
			return nil, 0, err
		}
	}
	k := 1
	if threshold != nil {
		k = *threshold
	}
	if k < 1 {
		return nil, 0, fault.Newf(fault.Invalid, "threshold %d: at least 1 is wanted", k)
	}
	if k > len(ids) && !slices.ContainsFunc(ids, func(id *identity) bool { return !id.exact() }) {
		return nil, 0, fault.Newf(fault.Invalid, "threshold %d can never be met: only %d identities are named", k, len(ids))
	}
	return ids, k, nil
}

// ruleName is "signatures/name"; without a name the place in the list.
func ruleName(group, name string, i, n int, seen map[string]bool) (string, error) {
	full := group + "/" + name
	if name == "" {
		full = group
		if n > 1 {
			full = fmt.Sprintf("%s/%d", group, i+1)
		}
	}
	if len(name) > 120 || strings.ContainsAny(name, "\n\r\t") {
		return "", fault.Newf(fault.Invalid, "%s[%d]: name %.40q is over 120 bytes or has a control character", group, i, name)
	}
	for base, k := full, 2; seen[full]; k++ {
		full = fmt.Sprintf("%s#%d", base, k)
	}
	seen[full] = true
	return full, nil
}

// shortType is the last words of a predicate type: "provenance/v1".
func shortType(t string) string {
	t = strings.TrimRight(t, "/")
	if i := strings.LastIndexByte(t, '/'); i >= 0 {
		if j := strings.LastIndexByte(t[:i], '/'); j >= 0 {
			return clip(t[j+1:], 100)
		}
	}
	return clip(t, 100)
}

// unusable says why verified evidence does not count, or "".
func (q *quality) unusable(e *Evidence, now time.Time) string {
	if q.log && e.LogIndex == nil {
		return "not logged"
	}
	if len(e.Witnesses) < q.witnesses {
		return fmt.Sprintf("cosigned by %d of %d witnesses", len(e.Witnesses), q.witnesses)
	}
	if q.stamped && e.TimeSource != "tsa" {
		return "without timestamp"
	}
	if q.maxAge > 0 {
		at, ok := e.At()
		if !ok {
			return "without trusted time"
		}
		if now.Sub(at) >= q.maxAge {
			return "older than " + q.maxAge.String()
		}
	}
	return ""
}

func (q *quality) text() string {
	var s string
	if q.log {
		s += ", logged"
	}
	if q.witnesses > 0 {
		s += fmt.Sprintf(", cosigned by %d witnesses", q.witnesses)
	}
	if q.stamped {
		s += ", timestamped"
	}
	if q.maxAge > 0 {
		s += ", not older than " + q.maxAge.String()
	}
	return s
}

// tally counts distinct signers, and remembers why others did not count.
type tally struct {
	signers  map[string]*Evidence // newest per signer
	order    []string
	others   []string       // signers that are not wanted
	reasons  map[string]int // why evidence of wanted signers did not count
	evidence []*Evidence
}

func (t *tally) count(e *Evidence) {
	if t.signers == nil {
		t.signers = map[string]*Evidence{}
	}
	s := e.Party()
	if old := t.signers[s]; old == nil {
		t.order = append(t.order, s)
		t.signers[s] = e
	} else if e.TrustedTime > old.TrustedTime {
		t.signers[s] = e
	}
	t.evidence = append(t.evidence, e)
}

func (t *tally) refuse(why string) {
	if t.reasons == nil {
		t.reasons = map[string]int{}
	}
	t.reasons[why]++
}

func (t *tally) other(e *Evidence) {
	if s := e.SignerText(); !slices.Contains(t.others, s) {
		t.others = append(t.others, s)
	}
}

// expiry is when the k-th newest signer grows too old; zero when nothing ages.
func (t *tally) expiry(k int, maxAge time.Duration) time.Time {
	if maxAge == 0 || k > len(t.order) {
		return time.Time{}
	}
	var at []time.Time
	for _, e := range t.signers {
		when, _ := e.At()
		at = append(at, when)
	}
	slices.SortFunc(at, func(a, b time.Time) int { return b.Compare(a) })
	return at[k-1].Add(maxAge)
}

// found is the tally in words: "1 of 2: alice (issuer …); 1 by others: …".
func (t *tally) found(k int, what string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d", len(t.order), k)
	for i, s := range t.order {
		if i == 3 {
			fmt.Fprintf(&b, ", %d more", len(t.order)-i)
			break
		}
		b.WriteString([]string{": ", ", "}[min(i, 1)])
		b.WriteString(t.signers[s].SignerText())
	}
	if len(t.order) == 0 && len(t.others) == 0 && len(t.reasons) == 0 {
		b.WriteString(": no " + what)
	}
	if n := len(t.others); n > 0 && len(t.order) < k {
		fmt.Fprintf(&b, "; signed by others: %s", strings.Join(t.others[:min(n, 3)], ", "))
		if n > 3 {
			fmt.Fprintf(&b, ", %d more", n-3)
		}
	}
	if len(t.order) < k {
		for _, why := range sortedKeys(t.reasons) {
			fmt.Fprintf(&b, "; %d %s", t.reasons[why], why)
		}
	}
	return b.String()
}

func (r *requirements) evaluate(ev *evaluation) {
	for _, s := range r.signatures {
		s.evaluate(ev, &r.quality)
	}
	for _, a := range r.attestations {
		a.evaluate(ev, &r.quality)
	}
	if r.provenance != nil {
		r.provenance.evaluate(ev, &r.quality)
	}
	if r.source != nil {
		r.source.evaluate(ev, r.provenance, &r.quality)
	}
	if r.build != nil {
		r.build.evaluate(ev, &r.quality)
	}
	if r.runner != nil {
		r.runner.evaluate(ev, &r.quality)
	}
	if r.builders != nil {
		r.builders.evaluate(ev, &r.quality)
	}
	for _, l := range r.layouts {
		l.evaluate(ev)
	}
	for _, p := range r.reports {
		p.evaluate(ev, &r.quality)
	}
	if r.sbom {
		r.evaluateSBOM(ev)
	}
	if r.service != nil {
		r.service.evaluate(ev)
	}
	if r.mesh != nil {
		r.mesh.evaluate(ev)
	}
	if r.workload != nil {
		r.workload.evaluate(ev)
	}
	if r.contract != "" {
		r.evaluateContract(ev)
	}
	if r.vuln != nil {
		r.vuln.evaluate(ev, &r.quality)
	}
	if r.components != nil {
		r.components.evaluate(ev)
	}
}

func (r *signatureRule) evaluate(ev *evaluation, q *quality) {
	var t tally
	see := func(e *Evidence) {
		if !matchAny(r.ids, e) {
			t.other(e)
		} else if why := q.unusable(e, ev.now); why != "" {
			t.refuse(why)
		} else {
			t.count(e)
		}
	}
	for i := range ev.facts.Signatures {
		see(&ev.facts.Signatures[i].Evidence)
	}
	what := "signature"
	if r.anyType {
		what = "signature or attestation"
		for i := range ev.facts.Attestations {
			see(&ev.facts.Attestations[i].Evidence)
		}
	}
	c := Check{
		Name:     r.name,
		Expected: fmt.Sprintf("%d %s%s by %s%s", r.threshold, what, distinct(r.threshold), identitiesText(r.ids), q.text()),
		Found:    t.found(r.threshold, what) + ev.rejectedText(len(t.order) < r.threshold),
	}
	ev.conclude(c, &t, r.threshold, q, func() string {
		return "assay sign " + ev.target + "  # as " + identitiesText(r.ids)
	})
}

func distinct(k int) string {
	if k > 1 {
		return "s by distinct signers,"
	}
	return ""
}

func (r *attestationRule) evaluate(ev *evaluation, q *quality) {
	var t tally
	best, bestHeld := -1, -1
	for i := range ev.facts.Attestations {
		a := &ev.facts.Attestations[i]
		if a.PredicateType != r.predicateType {
			continue
		}
		if !matchAny(r.ids, &a.Evidence) {
			t.other(&a.Evidence)
			continue
		}
		if why := q.unusable(&a.Evidence, ev.now); why != "" {
			t.refuse(why)
			continue
		}
		held := 0
		for _, f := range r.fields {
			if ok, _ := f.holds(a); ok {
				held++
			}
		}
		if held == len(r.fields) {
			t.count(&a.Evidence)
		} else {
			t.refuse("with a field that does not hold")
		}
		if held > bestHeld {
			best, bestHeld = i, held
		}
	}
	c := Check{
		Name:     r.name,
		Expected: fmt.Sprintf("%d attestation%s of type %s by %s%s", r.threshold, distinct(r.threshold), r.predicateType, identitiesText(r.ids), q.text()),
		Found:    t.found(r.threshold, "attestation of this type") + ev.rejectedText(len(t.order) < r.threshold),
	}
	mend := func() string {
		if r.predicateType == cosignSign {
			return "ask for it under signatures in the policy, instead of attestations: what cosign sign and assay sign write counts there"
		}
		return "assay attest --type " + r.predicateType + " --predicate FILE " + ev.target + "  # as " + identitiesText(r.ids)
	}
	ev.conclude(c, &t, r.threshold, q, mend)
	for _, f := range r.fields {
		c := Check{Name: r.name + "/" + f.path.String(), Expected: f.text, Status: Skip, Found: "no attestation to look into"}
		if best >= 0 {
			a := &ev.facts.Attestations[best]
			var ok bool
			ok, c.Found = f.holds(a)
			c.Status, c.Evidence, c.LogIndex = Fail, []string{a.ID}, a.LogIndex
			if ok {
				c.Status = Pass
			} else {
				c.Mend = mend() + "; with " + f.text
			}
		}
		ev.add(c)
	}
}

// conclude adds the check of a threshold.
func (ev *evaluation) conclude(c Check, t *tally, k int, q *quality, mend func() string) {
	c.Status = Fail
	if len(t.order) >= k {
		c.Status = Pass
		ev.expire(t.expiry(k, q.maxAge))
	} else {
		c.Mend = mend()
	}
	for _, e := range t.evidence[:min(len(t.evidence), maxEvidence)] {
		c.Evidence = append(c.Evidence, e.ID)
		if c.LogIndex == nil {
			c.LogIndex = e.LogIndex
		}
	}
	ev.add(c)
}

// maxEvidence bounds the evidence that one check lists.
const maxEvidence = 16

// cosignSign is the type of the statement by which cosign signs. It is a
// [Signature], and no attestation.
const cosignSign = "https://sigstore.dev/cosign/sign/v1"
