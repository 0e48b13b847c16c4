package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/internal/fault"
)

// VulnerabilityRequirement wants an artifact without the flaws that it names,
// and wants that to be known. What is unknown denies, unless it is accepted by
// name.
type VulnerabilityRequirement struct {
	Deny          []string        `yaml:"deny" json:"deny"`                                      // the least severity (critical, high, medium, low, none), kev, epss>0.5; malicious packages always deny
	IgnoreUnfixed bool            `yaml:"ignoreUnfixed,omitempty" json:"ignoreUnfixed,omitzero"` // what no version mends does not deny; known exploited ones do
	Grace         Duration        `yaml:"grace,omitempty" json:"grace,omitempty"`                // what is known here for a shorter time does not deny yet; known exploited ones do
	Accept        []string        `yaml:"accept,omitempty" json:"accept,omitempty"`              // what may be unknown; see Unknowns
	Identities    []IdentityMatch `yaml:"identities,omitempty" json:"identities,omitempty"`      // whose bill of materials counts; absent: any that verified
	Signers       string          `yaml:"signers,omitempty" json:"signers,omitempty"`            // "delegated", in place of identities
	VEX           *VEXRequirement `yaml:"vex,omitempty" json:"vex,omitempty"`                    // whose attested statements about flaws count; absent: nobody's
}

// Unknowns are the names of what may not be known about an artifact's flaws.
func Unknowns() []string {
	return []string{"sbom-incomplete", "component", "release", "feed-missing", "feed-stale", "kev", "epss", "version", "severity"}
}

type vulnRule struct {
	least         string // severity; "": none denies by itself
	kev           bool
	epss          *float64
	ignoreUnfixed bool
	grace         time.Duration
	accept        []string
	ids           []*identity
	vex           *vexRule // nil: nobody's
}

var severities = []string{"none", "low", "medium", "high", "critical"}

func (r *VulnerabilityRequirement) compile() (*vulnRule, error) {
	out := &vulnRule{ignoreUnfixed: r.IgnoreUnfixed, grace: time.Duration(r.Grace), accept: r.Accept}
	if len(r.Deny) == 0 {
		return nil, fault.Newf(fault.Invalid, "deny names nothing: want the least severity, kev, or epss>0.5")
	}
	for _, w := range r.Deny {
		number, is := strings.CutPrefix(w, "epss>")
		switch {
		case is:
			p, err := strconv.ParseFloat(number, 64)
			switch {
			case err != nil || !(p >= 0 && p < 1): // NaN is neither, and nothing is over it
				return nil, fault.Newf(fault.Invalid, "deny %.40q: want a probability from 0 to less than 1, such as epss>0.5", w)
			case out.epss != nil:
				return nil, fault.Newf(fault.Invalid, "deny names two probabilities, the second %.40q: name the least", w)
			}
			out.epss = &p
		case w == "kev":
			out.kev = true
		case !slices.Contains(severities, w):
			return nil, fault.Newf(fault.Invalid, "deny %.40q: want critical, high, medium, low, none, kev, or epss>NUMBER", w)
		case out.least != "":
			return nil, fault.Newf(fault.Invalid, "deny names two severities, %s and %s: name the least", out.least, w)
		default:
			out.least = w
		}
	}
	for _, a := range r.Accept {
		if !slices.Contains(Unknowns(), a) {
			return nil, fault.Newf(fault.Invalid, "accept %.40q: want %s", a, strings.Join(Unknowns(), ", "))
		}
	}
	if r.VEX != nil {
		var err error
		if out.vex, err = r.VEX.compile(); err != nil {
			return nil, err
		}
	}
	if r.Identities != nil || r.Signers != "" {
		var err error
		if out.ids, _, err = compileSigners(r.Identities, r.Signers, nil); err != nil {
			return nil, fmt.Errorf("whose bill of materials counts: %w", err)
		}
	}
	return out, nil
}

func (r *vulnRule) text() string {
	var words []string
	if r.least != "" {
		word := "of severity " + r.least + " or worse"
		if !slices.Contains(r.accept, "severity") {
			word += " or rated by nobody"
		}
		words = append(words, word)
	}
	if r.kev {
		words = append(words, "known to be exploited")
	}
	if r.epss != nil {
		words = append(words, "exploited soon with a probability over "+strconv.FormatFloat(*r.epss, 'g', -1, 64))
	}
	s := "no flaw " + strings.Join(words, ", or ") + ", and no malicious package"
	if r.ignoreUnfixed {
		s += "; what no version mends is let pass"
	}
	if r.grace > 0 {
		s += "; for " + r.grace.String() + " after it is known"
	}
	if r.vex != nil {
		s += "; statements by " + identitiesText(r.vex.ids) + " count"
	}
	return s
}

func (r *vulnRule) evaluate(ev *evaluation, q *quality) {
	f := ev.facts.Vulnerabilities
	known := Check{Name: "vulnerabilities/known", Status: Pass, Expected: "a bill of materials whose components are all looked up in fresh feeds"}
	if len(r.accept) > 0 {
		known.Expected += "; accepted as unknown: " + strings.Join(r.accept, ", ")
	}
	if f == nil {
		known.Status, known.Found, known.Mend = Fail, "nothing is known of its flaws here", "assay verify "+ev.target+"  # on a server that holds its bill of materials"
		ev.add(known)
		return
	}
	if f.SBOMsBy != "" && r.ids == nil {
		known.Status, known.Found, known.Mend = Fail, "these facts were gathered for a policy that names whose bills of materials count", "ask again: assay verify "+ev.target
		ev.add(known)
		return
	}
	if r.ids != nil {
		r.evaluateSBOM(ev, f, q)
	}
	until, later := ev.facts.Service.matchesLater(ev.now)
	missing, mend := r.missing(f, later)
	known.Found = fmt.Sprintf("%d components of %d documents", f.Components, len(f.SBOMs))
	if later && f.Scan == "pending" {
		known.Found += fmt.Sprintf("; tier %d: matched in the background, until %s at the latest", ev.facts.Service.Tier, until.UTC().Format(time.RFC3339))
		ev.expire(until)
	}
	known.Evidence = f.SBOMs[:min(len(f.SBOMs), 16)]
	if len(missing) > 0 {
		known.Status, known.Found, known.Mend = Fail, strings.Join(missing, "; "), mend
	}
	ev.add(known)
	if f.Scan == "no_sbom" {
		return // nothing was looked up
	}
	ev.add(r.findings(ev, f, q))
}

// missing says what is not known and was not accepted, and how the first of it
// is brought in.
func (r *vulnRule) missing(f *Vulnerabilities, later bool) (out []string, mend string) {
	add := func(is bool, word, found, how string) {
		if is && !slices.Contains(r.accept, word) {
			out = append(out, found)
			if mend == "" {
				mend = how
			}
		}
	}
	add(f.Scan == "no_sbom", "", "no bill of materials", "assay sbom TARGET --attest  # or have the build attest one")
	add(f.Scan == "pending" && !later, "", "a bill of materials is not looked up yet", "ask again in a moment")
	add(len(f.Incomplete) > 0, "sbom-incomplete", "the bill of materials is incomplete: "+clip(strings.Join(f.Incomplete, ", "), 200), "attest one that holds everything, or accept sbom-incomplete")
	add(f.Unmatched > 0, "component", fmt.Sprintf("%d components are of a kind that no feed knows", f.Unmatched), "accept component")
	add(f.ReleaseUnknown > 0, "release", fmt.Sprintf("%d components of a distribution whose release is not known", f.ReleaseUnknown), "give the package URLs their distro")
	add(len(f.FeedsMissing) > 0, "feed-missing", "no feed for "+clip(strings.Join(f.FeedsMissing, ", "), 200), "assay feed import PATH")
	add(len(f.FeedsStale) > 0, "feed-stale", "feeds not looked at lately: "+clip(strings.Join(f.FeedsStale, ", "), 200), "assay feed sync")
	add(r.kev && !f.KEV, "kev", "the catalog of known exploited vulnerabilities is missing or stale", "assay feed import known_exploited_vulnerabilities.json")
	add(r.epss != nil && !f.EPSS, "epss", "the scores of exploit prediction are missing or stale", "assay feed import epss_scores-current.csv.gz")
	return out, mend
}

// denies says why one finding denies; "" when it does not. until is when one that
// is let pass for now will.
func (r *vulnRule) denies(v *Vulnerability, now time.Time) (why string, until time.Time) {
	if v.Malicious { // that is not stated away
		return "a malicious package", time.Time{}
	}
	switch v.State {
	case "not_affected", "fixed":
		return "", time.Time{} // by a statement that counts: the facts hold no other
	}
	if r.kev && v.KEV != "" {
		return "known to be exploited", time.Time{}
	}
	if r.ignoreUnfixed && v.Fixed == "" {
		return "", time.Time{}
	}
	rated := r.least != "" && slices.Index(severities, v.Severity) >= slices.Index(severities, r.least)
	unrated := r.least != "" && v.Severity == "unknown" && !slices.Contains(r.accept, "severity")
	likely := r.epss != nil && v.EPSS > *r.epss
	switch {
	case !rated && !unrated && !likely:
		return "", time.Time{}
	case v.State == "unknown" && slices.Contains(r.accept, "version"):
		return "", time.Time{}
	case v.State == "unknown":
		why = "nobody knows whether its version is affected"
	case likely:
		why = fmt.Sprintf("exploited soon with probability %g", v.EPSS)
	case unrated:
		why = "nobody rates it"
	default:
		why = v.Severity
	}
	if r.grace > 0 {
		// Who builds again has another artifact, and the flaw is no newer.
		at, err := time.Parse(time.RFC3339, v.FirstSeen)
		if known, kerr := time.Parse(time.RFC3339, v.Known); v.Known != "" && (kerr != nil || known.Before(at)) {
			at = known
		}
		if err == nil && now.Before(at.Add(r.grace)) {
			return "", at.Add(r.grace)
		}
	}
	return why, time.Time{}
}

func (r *vulnRule) findings(ev *evaluation, f *Vulnerabilities, q *quality) Check {
	c := Check{Name: "vulnerabilities", Status: Pass, Expected: r.text()}
	vex := r.vex.counted(f, q, ev.now)
	var bad, settled []string
	n, away := 0, 0
	for i := range f.Findings {
		v := f.Findings[i]
		if v.Statement != nil {
			if at, err := time.Parse(time.RFC3339, v.Statement.Until); err == nil {
				ev.expire(at)
			}
		}
		said, ends := vex.settle(&v, ev.now)
		ev.expire(ends)
		why, until := r.denies(&v, ev.now)
		ev.expire(until)
		if why == "" {
			if said != nil && v.State == said.Status {
				if away++; len(settled) < 3 {
					settled = append(settled, vex.whose(&v, said))
				}
				c.Evidence = appendNew(c.Evidence, said.Attestation)
			}
			continue
		}
		switch {
		case v.Malicious:
			c.grave = unexcusable
		case v.KEV != "":
			c.grave = max(c.grave, emergency)
		}
		if n++; len(bad) < 5 {
			bad = append(bad, clip(v.ID, 40)+" in "+clip(v.Component, 120)+" ("+why+fixedIn(&v)+")")
		}
		if c.Mend == "" {
			c.Mend = mendOf(&v)
		}
	}
	more, k := r.groups(ev, f, vex)
	if k > 0 && slices.ContainsFunc(f.More, func(g FindingGroup) bool { return g.Urgent }) {
		c.grave = unexcusable // malicious, perhaps
	}
	bad, n = append(bad, more...), n+k
	if n == 0 {
		c.Found = fmt.Sprintf("none of %d findings", len(f.Findings)+countOf(f.More)) + settledText(settled, away)
		return c
	}
	c.Status, c.Found = Fail, fmt.Sprintf("%d: %s", n, strings.Join(bad, "; "))
	if shown := len(bad); shown < n && len(f.More) == 0 {
		c.Found += fmt.Sprintf("; %d more", n-shown)
	}
	c.Found += settledText(settled, away)
	return c
}

// groups judges the findings that are only counted, and says how many deny.
func (r *vulnRule) groups(ev *evaluation, f *Vulnerabilities, vex counted) (bad []string, n int) {
	for _, g := range f.More {
		v := Vulnerability{State: g.State, Severity: g.Severity, EPSS: g.EPSS, FirstSeen: g.Seen, Attested: g.Attested}
		if g.Fixable {
			v.Fixed = "some version"
		}
		said, ends := vex.settle(&v, ev.now)
		ev.expire(ends)
		why, until := r.denies(&v, ev.now)
		ev.expire(until)
		// That its author looks into it is said of a flaw, and settles nothing.
		settled := said != nil && (said.Status == "not_affected" || said.Status == "fixed")
		if g.Urgent && (!settled || why != "") {
			why = "malicious, or known to be exploited"
		}
		if why != "" {
			n += g.Count
			bad = append(bad, fmt.Sprintf("%d more (%s)", g.Count, why))
		}
	}
	return bad, n
}

// appendNew adds an id that is not there yet, while a check may list more.
func appendNew(ids []string, id string) []string {
	if len(ids) < maxEvidence && !slices.Contains(ids, id) {
		ids = append(ids, id)
	}
	return ids
}

func countOf(groups []FindingGroup) (n int) {
	for _, g := range groups {
		n += g.Count
	}
	return n
}

func fixedIn(v *Vulnerability) string {
	if v.Fixed == "" {
		return ", no version mends it"
	}
	return ", mended in " + clip(v.Fixed, 60)
}

func mendOf(v *Vulnerability) string {
	what := v.Component
	if v.Via != "" {
		what += ", which " + v.Via + " brings"
	}
	if v.Fixed != "" && !v.Malicious {
		return clip("upgrade "+what, 300) + " to " + clip(v.Fixed, 60) + " or later, and build again"
	}
	if v.Malicious {
		return clip("take out "+what, 300) + ", and build again elsewhere: the package is itself the attack, and no statement takes that away"
	}
	return clip("take out "+what, 300) + ", or state why it does not concern the artifact: assay vuln triage " + clip(v.ID, 40)
}

// evaluateSBOM wants one of the documents to be by whom the requirement names.
func (r *vulnRule) evaluateSBOM(ev *evaluation, f *Vulnerabilities, q *quality) {
	var t tally
	for _, id := range f.SBOMs {
		a := ev.attestation(id)
		switch {
		case a == nil:
		case !matchAny(r.ids, &a.Evidence):
			t.other(&a.Evidence)
		default:
			if why := q.unusable(&a.Evidence, ev.now); why != "" {
				t.refuse(why)
			} else {
				t.count(&a.Evidence)
			}
		}
	}
	c := Check{Name: "vulnerabilities/sbom", Expected: "a bill of materials by " + identitiesText(r.ids) + q.text(), Found: t.found(1, "bill of materials") + ev.rejectedText(len(t.order) < 1)}
	ev.conclude(c, &t, 1, q, func() string { return "assay attest --type cyclonedx --predicate sbom.json " + ev.target })
}

// SBOMsBy stands for the signers whose bills of materials the policy's rules count; "":
// anybody's, for one of them at least.
func (p *Policy) SBOMsBy() string {
	var all []string
	for _, u := range p.units {
		if u.reqs != nil && u.reqs.vuln != nil {
			if u.reqs.vuln.ids == nil {
				return ""
			}
			for _, id := range u.reqs.vuln.ids {
				all = append(all, id.text)
			}
		}
		if slices.ContainsFunc(u.rego, func(m *regoModule) bool { return m.flaws }) {
			return ""
		}
	}
	if len(all) == 0 {
		return ""
	}
	slices.Sort(all)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(all), "\n")))
	return "sby_" + hex.EncodeToString(sum[:])
}

// CountsSBOM says whether a rule of the policy names who signed evidence as one whose
// bill of materials counts.
func (p *Policy) CountsSBOM(e *Evidence) bool {
	return slices.ContainsFunc(p.units, func(u *unit) bool { return u.reqs != nil && u.reqs.vuln != nil && matchAny(u.reqs.vuln.ids, e) })
}

// WantsVulnerabilities says whether the policy looks at what is known of an
// artifact's flaws, so that facts hold it.
func (p *Policy) WantsVulnerabilities() bool {
	return slices.ContainsFunc(p.units, func(u *unit) bool {
		return u.reqs != nil && u.reqs.vuln != nil || slices.ContainsFunc(u.rego, func(m *regoModule) bool { return m.flaws })
	})
}
