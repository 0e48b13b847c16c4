package verify

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"
	"time"

	"assay/policy"
	"assay/sbom"
	"assay/vuln/finding"
	"assay/vuln/vex"
)

// Bounds of what the facts hold of an artifact's flaws. What is beyond is
// counted, by all that a policy decides by.
const (
	maxVulnerabilities = 100
	maxRecords         = 4
	maxReasons         = 8
	maxGroups          = 64
	// unknownFlaws is how long a decision holds that rests on a feed that is
	// missing or stale.
	unknownFlaws = 30 * time.Minute
)

// Flaws is what is known of an artifact's vulnerabilities, with the statements
// that count about them.
type Flaws struct {
	Findings  []finding.Finding
	State     finding.State
	Documents []string // attestations of the bills of materials
}

// FlawSource knows the flaws of artifacts.
type FlawSource interface {
	Flaws(ctx context.Context, subject policy.Subject) (*Flaws, error)
}

// enterVulnerabilities enters what the site knows of the artifact's flaws.
func (g *gathering) enterVulnerabilities(ctx context.Context, src FlawSource, now time.Time) error {
	if src == nil || !g.policy.WantsVulnerabilities() {
		return nil
	}
	got, by, err := g.flawsBy(ctx, src)
	if err != nil {
		return err
	}
	st := got.State
	f := &policy.Vulnerabilities{
		SBOMsBy: by, Scan: "done", SBOMs: got.Documents, Components: st.Components, Unmatched: st.Unmatched, ReleaseUnknown: st.ReleaseMissing,
		FeedsMissing: st.FeedsMissing, FeedsStale: st.FeedsStale, KEV: st.KEV, EPSS: st.EPSS, Findings: []policy.Vulnerability{},
	}
	switch {
	case !st.SBOM:
		f.Scan = "no_sbom"
	case !st.Scanned:
		f.Scan = "pending"
	}
	for _, r := range st.Incomplete[:min(len(st.Incomplete), maxReasons)] {
		f.Incomplete = append(f.Incomplete, clip(r, 200))
	}
	all := make([]policy.Vulnerability, len(got.Findings))
	for i := range got.Findings {
		all[i] = vulnerability(&got.Findings[i])
		if s := got.Findings[i].Stated; s != nil {
			all[i].Statement = &policy.VulnStatement{ID: s.ID, Author: clip(s.Author, 200), Justification: s.Justification}
			if !s.Until.IsZero() {
				all[i].Statement.Until = s.Until.UTC().Format(time.RFC3339)
			}
			if s.Status == vex.NotAffected && vex.Uncalled(s.Justification) {
				all[i].Reachable = "no"
			}
			if s.Status != vex.Affected {
				all[i].State = string(s.Status)
			}
		}
	}
	if err := g.enterVEX(ctx, src, f, got.Findings, all, now); err != nil {
		return err
	}
	slices.SortStableFunc(all, worse)
	f.Findings = append(f.Findings, all[:min(len(all), maxVulnerabilities)]...)
	f.More = grouped(all[len(f.Findings):])
	g.facts.Vulnerabilities = f
	switch {
	case len(st.FeedsMissing)+len(st.FeedsStale) > 0 || !st.KEV || !st.EPSS:
		// Whoever brings the feed does not wait a day for the decision.
		g.expires = earliest(g.expires, now.Add(unknownFlaws))
	default:
		g.expires = earliest(g.expires, st.FreshUntil)
	}
	return nil
}

// flawsBySource is a FlawSource that tells flaws by some bills of materials alone.
type flawsBySource interface {
	FlawsBy(ctx context.Context, subject policy.Subject, attestations []string) (*Flaws, error)
}

// flawsBy asks for the flaws by those bills of materials whose signers the policy
// names, where it names any for all that it asks: what a stranger attests about an
// artifact then neither allows nor denies it. by stands for them.
func (g *gathering) flawsBy(ctx context.Context, src FlawSource) (f *Flaws, by string, err error) {
	by = g.policy.SBOMsBy()
	from, ok := src.(flawsBySource)
	if by == "" || !ok {
		f, err = src.Flaws(ctx, g.facts.Subject)
		return f, "", err
	}
	attestations := []string{}
	for i := range g.facts.Attestations {
		if a := &g.facts.Attestations[i]; sbom.IsPredicate(a.PredicateType) && g.policy.CountsSBOM(&a.Evidence) {
			attestations = append(attestations, a.ID)
		}
	}
	f, err = from.FlawsBy(ctx, g.facts.Subject, attestations)
	return f, by, err
}

func vulnerability(f *finding.Finding) policy.Vulnerability {
	v := policy.Vulnerability{
		ID: clip(f.Name, 80), Component: clip(f.Component, 240), State: f.Status, Reason: clip(f.Reason, 120), Severity: f.Severity, KEV: clip(f.KEV, 30),
		EPSS: twoFigures(f.EPSS), Malicious: f.Malicious, Relation: f.Direct, Via: clip(f.Via, 200), Fixed: clip(f.Fixed, 80),
		FirstSeen: f.FirstSeen.UTC().Truncate(time.Second).Format(time.RFC3339),
	}
	if !f.Known.IsZero() {
		v.Known = f.Known.UTC().Truncate(time.Second).Format(time.RFC3339)
	}
	for _, r := range f.Records[:min(len(f.Records), maxRecords)] {
		v.Records = append(v.Records, clip(r.ID, 80))
	}
	slices.Sort(v.Records)
	return v
}

// twoFigures keeps facts the same while a score moves a little: it is given anew
// every day. It rounds up, so that what is over a bound of two figures stays so, be it
// in thousandths.
func twoFigures(p float64) float64 {
	if !(p > 0) {
		return 0
	}
	unit := math.Pow(10, math.Floor(math.Log10(p))-1)
	up := math.Ceil(p/unit-1e-9) * unit
	out, err := strconv.ParseFloat(strconv.FormatFloat(up, 'g', 2, 64), 64) // without what the multiplication added
	if err != nil {
		return p
	}
	return min(out, 1)
}

var severityRank = map[string]int{"critical": 5, "high": 4, "unknown": 3, "medium": 2, "low": 1, "none": 0}

// worse orders findings so that what is cut off decides least: what is settled by
// a statement comes last.
func worse(a, b policy.Vulnerability) int {
	return cmp.Or(
		-cmp.Compare(open(&a), open(&b)), -cmp.Compare(urgent(&a), urgent(&b)), -cmp.Compare(severityRank[a.Severity], severityRank[b.Severity]),
		-cmp.Compare(a.EPSS, b.EPSS), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Component, b.Component),
	)
}

func open(v *policy.Vulnerability) int {
	if !v.Malicious && (v.State == "not_affected" || v.State == "fixed") {
		return 0
	}
	if len(v.Attested) > 0 {
		return 1 // settled for a rule that names the signer
	}
	return 2
}

func urgent(v *policy.Vulnerability) int {
	switch {
	case v.Malicious:
		return 2
	case v.KEV != "":
		return 1
	}
	return 0
}

// grouped counts findings by what policies decide by. Malicious and known
// exploited ones come first in the facts; should there be more of them than the
// facts hold, they deny whatever the policy says of such.
func grouped(rest []policy.Vulnerability) (out []policy.FindingGroup) {
	for i := range rest {
		v := &rest[i]
		g := policy.FindingGroup{Severity: v.Severity, State: v.State, Fixable: v.Fixed != "", Count: 1, EPSS: v.EPSS, Seen: since(v), Attested: attestedOfGroup(v.Attested)}
		if urgent(v) > 0 && open(v) > 0 {
			g.Urgent = true
		}
		if len(out) >= maxGroups {
			g.Attested = nil // counts as stated by nobody
		}
		at := slices.IndexFunc(out, func(o policy.FindingGroup) bool { return alike(&o, &g) })
		if at < 0 {
			out = append(out, g)
			continue
		}
		out[at].Count++
		out[at].EPSS = max(out[at].EPSS, g.EPSS)
		out[at].Seen = min(out[at].Seen, g.Seen)
	}
	return out
}

// since is what grace is counted from.
func since(v *policy.Vulnerability) string {
	if v.Known != "" {
		return min(v.Known, v.FirstSeen)
	}
	return v.FirstSeen
}

func alike(a, b *policy.FindingGroup) bool {
	return a.Severity == b.Severity && a.State == b.State && a.Fixable == b.Fixable && a.Urgent == b.Urgent && slices.Equal(a.Attested, b.Attested)
}

// shortenVulnerabilities moves half of the findings that the facts hold to those
// that are counted; false: there is nothing to move.
func shortenVulnerabilities(f *policy.Facts) bool {
	v := f.Vulnerabilities
	if v == nil || len(v.Findings) < 2 {
		return false
	}
	keep := len(v.Findings) / 2
	rest := grouped(v.Findings[keep:])
	v.Findings = v.Findings[:keep]
	for _, g := range rest {
		if len(v.More) >= maxGroups {
			g.Attested = nil
		}
		at := slices.IndexFunc(v.More, func(o policy.FindingGroup) bool { return alike(&o, &g) })
		if at < 0 {
			v.More = append(v.More, g)
			continue
		}
		v.More[at].Count += g.Count
		v.More[at].EPSS = max(v.More[at].EPSS, g.EPSS)
		v.More[at].Seen = min(v.More[at].Seen, g.Seen)
	}
	return true
}
