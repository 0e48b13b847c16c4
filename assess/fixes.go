package assess

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"assay/artifact"
	"assay/policy"
	"assay/trust"
	"assay/vuln"
)

// need is something that keeps the policy from allowing an artifact.
type need struct {
	cause string // why, for people
	fix   string // what would mend it
	// decided says that it denies for certain; else it is open, for something that was
	// not given to this look.
	decided bool
	// opens says that mending it may bring to light what denies again.
	opens bool
}

// conclude says what the policy makes of an artifact, and why.
func (r *Run) conclude(ctx context.Context, f *policy.Facts, res policy.Result, out *Digest) error {
	var needs []need
	for _, c := range res.Checks {
		if c.Status != policy.Fail {
			continue
		}
		out.Checks = append(out.Checks, policy.Check{Name: text(c.Name, 120), Status: c.Status, Expected: text(c.Expected, 300), Found: text(c.Found, 400), Mend: text(c.Mend, 300)})
		if c.Name == "vulnerabilities" && f.Vulnerabilities != nil {
			more, err := r.upgrades(ctx, f)
			if err != nil {
				return err
			}
			needs = append(needs, more...)
			continue
		}
		needs = append(needs, r.needOf(&c, f, out))
	}
	slices.SortFunc(needs, func(a, b need) int {
		return cmp.Or(strings.Compare(a.cause, b.cause), strings.Compare(a.fix, b.fix))
	})
	out.needs = slices.Compact(needs)
	for _, n := range out.needs {
		out.Causes = note(out.Causes, n.cause, 40)
	}
	switch {
	case res.Verdict == policy.Allow:
		out.Verdict = "allow"
	case slices.ContainsFunc(out.needs, func(n need) bool { return n.decided }):
		out.Verdict = "deny"
	case len(out.needs) > 0:
		out.Verdict = "unknown"
	default:
		out.Verdict = "deny" // by default: no rule allowed it
		out.needs = []need{{cause: "no rule of the policy allows it", fix: "look at the policy", decided: true}}
		out.Causes = []string{out.needs[0].cause}
	}
	return nil
}

// words of the three things that are signed.
var words = map[kind]struct{ what, lacks, others, fix string }{
	signature:  {"signature", "not signed", "signed by others than who counts", "have the pipeline sign what it builds"},
	provenance: {"provenance", "no provenance", "provenance of others than who counts, or without a builder", "have the pipeline attest provenance (assay run)"},
	bom:        {"bill of materials", "no bill of materials", "a bill of materials of others than who counts", "have the pipeline attest a bill of materials (assay sbom --attest)"},
}

// needOf says what a failed check wants.
func (r *Run) needOf(c *policy.Check, f *policy.Facts, out *Digest) need {
	family, _, _ := strings.Cut(c.Name, "/")
	switch {
	case family == "signatures":
		return r.lack(signature, out.Signed, c, out)
	case strings.HasPrefix(c.Name, "attestations/provenance"), family == "provenance":
		return r.lack(provenance, out.Provenance, c, out)
	case c.Name == "vulnerabilities/sbom", family == "sbom", strings.HasPrefix(c.Name, "attestations/sbom"):
		return r.lack(bom, out.SBOM, c, out)
	case c.Name == "vulnerabilities/known" && r.o.Feeds == nil:
		return need{cause: "its flaws are not known: no advisories were given to this look", fix: "look again with advisories (--feeds)", opens: true}
	case c.Name == "vulnerabilities/known" && (f.Vulnerabilities == nil || f.Vulnerabilities.Scan == "no_sbom"):
		return r.lack(bom, out.SBOM, c, out)
	case c.Name == "vulnerabilities/known":
		return r.unknownFlaws(f.Vulnerabilities)
	}
	return need{cause: text(c.Name, 80) + ": " + text(c.Expected, 120), fix: "mend check " + text(c.Name, 80), decided: true, opens: true}
}

// lack is that something signed is not there, is by others, or could not be verified.
func (r *Run) lack(k kind, there Answer, c *policy.Check, out *Digest) need {
	w := words[k]
	unlogged := there == Claimed && !slices.ContainsFunc(out.claims, func(c claim) bool { return c.kind == k && c.code != trust.CodeTLogMissing }) ||
		there == Yes && strings.Contains(c.Found, "not logged")
	open := slices.ContainsFunc(out.claims, func(c claim) bool { return c.kind == k && c.open() })
	switch {
	case there == Unknown && out.unread():
		return need{cause: "evidence that cannot be read, or is about something else", fix: "sign and attest again what has evidence that cannot be read, and look after that registry", decided: true, opens: true}
	case there == Unknown:
		return need{cause: "more evidence than is read", fix: "take away evidence that nobody needs", decided: true, opens: true}
	case there == Claimed && open:
		return need{cause: w.what + " claimed, by a root or key that was not given", fix: "give this look the signers' roots of trust and keys, or sign by your own", opens: true}
	case unlogged:
		return need{cause: w.what + " in no transparency log, so that nothing proves when it was made", fix: "sign with a transparency log and a timestamp", decided: true, opens: k == bom}
	case there == Claimed && !slices.ContainsFunc(out.claims, func(c claim) bool { return c.kind == k && c.code != codeUnsigned }):
		return need{cause: w.what + " that nobody signed", fix: w.fix, decided: true, opens: k == bom}
	case there == Claimed:
		return need{cause: w.what + " that does not verify", fix: w.fix, decided: true, opens: k == bom}
	case there == Yes:
		return need{cause: w.others, fix: w.fix, decided: true, opens: k == bom}
	}
	return need{cause: w.lacks, fix: w.fix, decided: true, opens: k == bom}
}

func (r *Run) unknownFlaws(v *policy.Vulnerabilities) need {
	switch {
	case len(v.FeedsMissing)+len(v.FeedsStale) > 0:
		return need{cause: "its flaws are not known: advisories for its ecosystems are missing or old", fix: "bring fresh feeds for all ecosystems (assay feed sync)", opens: true}
	case !v.KEV:
		return need{cause: "whether its flaws are exploited is not known: no catalogue, or an old one", fix: "bring the catalogue of exploited flaws (assay feed import)", opens: true}
	case len(v.Incomplete) > 0:
		return need{cause: "its bill of materials is incomplete", fix: "attest bills of materials that hold everything", decided: true, opens: true}
	case v.Unmatched > 0:
		return need{cause: "components of a kind that no feed knows", fix: "accept, in the policy, components that no feed knows (accept: [component])", decided: true}
	}
	return need{cause: "its flaws are not, or not wholly, known", fix: "give components the package URLs and releases that feeds go by", decided: true, opens: true}
}

// upgrades are the components whose flaws deny, found by asking the policy about each
// flaw by itself.
func (r *Run) upgrades(ctx context.Context, f *policy.Facts) (out []need, err error) {
	by := map[string][]policy.Vulnerability{}
	for i := range f.Vulnerabilities.Findings {
		denies, err := r.denies(ctx, f, []policy.Vulnerability{f.Vulnerabilities.Findings[i]}, nil)
		if err != nil {
			return nil, err
		}
		if denies {
			v := f.Vulnerabilities.Findings[i]
			by[v.Component] = append(by[v.Component], v)
		}
	}
	if len(f.Vulnerabilities.More) > 0 {
		denies, err := r.denies(ctx, f, nil, f.Vulnerabilities.More)
		if err != nil {
			return nil, err
		}
		if denies {
			out = append(out, need{cause: "over a hundred flaws", fix: "build on a base with fewer components", decided: true, opens: true})
		}
	}
	for _, component := range slices.Sorted(maps.Keys(by)) {
		out = append(out, needOfComponent(component, by[component]))
	}
	return out, nil
}

// denies asks the policy about some flaws alone.
func (r *Run) denies(ctx context.Context, f *policy.Facts, some []policy.Vulnerability, more []policy.FindingGroup) (bool, error) {
	one, v := *f, *f.Vulnerabilities
	v.Findings, v.More = some, more
	one.Vulnerabilities = &v
	res, err := r.o.Policy.Evaluate(ctx, &one, r.o.Clock().UTC())
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(res.Checks, func(c policy.Check) bool { return c.Name == "vulnerabilities" && c.Status == policy.Fail }), nil
}

func needOfComponent(component string, flaws []policy.Vulnerability) need {
	n := need{cause: "a flaw that the policy forbids", decided: true}
	to, mended := "", true
	for i := range flaws {
		v := &flaws[i]
		switch {
		case v.Malicious:
			n.cause, mended = "a malicious component", false
		case v.KEV != "" && n.cause != "a malicious component":
			n.cause = "a flaw that is known to be exploited"
		}
		if v.Fixed == "" {
			mended = false
		} else if later, known := vuln.Later(ecosystem(component), to, v.Fixed); to == "" || known && later {
			to = v.Fixed
		}
	}
	component = text(component, 200)
	switch {
	case n.cause == "a malicious component":
		n.fix = "take out " + component + ", and look at what it did"
	case mended:
		n.fix = "upgrade " + component + " to " + text(to, 60) + " or later"
	default:
		n.fix = "take out " + component + ", or state why its flaws do not concern you (assay vuln triage)"
	}
	return n
}

// ecosystem is whose rules say which of two versions of a component is later.
func ecosystem(component string) string {
	p, err := artifact.ParsePURL(component)
	if err != nil {
		return ""
	}
	all, _ := vuln.Lookups(p, p.Version, "", "")
	if len(all) == 0 {
		return ""
	}
	return all[0].Ecosystem
}

// maxFixes is how many fixes are told.
const maxFixes = 25

// fixes orders what would turn denials: at each step that which turns most, and where
// none turns any by itself, that which brings most of them nearest.
func fixes(all []*Digest) []Fix {
	out := []Fix{}
	open := map[*Digest]map[string]bool{}
	opens := map[string]bool{}
	image := map[string][]string{}
	count := map[string]int{}
	sum, doubt := 0, false
	for _, d := range all {
		if d.Verdict != "deny" {
			continue
		}
		open[d] = map[string]bool{}
		for _, n := range d.needs {
			if !n.decided {
				doubt = true // what was not given to this look mends nothing there
				continue
			}
			if !open[d][n.fix] && len(d.Images) > 0 {
				image[n.fix] = note(image[n.fix], d.Images[0], 10)
			}
			if !open[d][n.fix] {
				count[n.fix]++
			}
			open[d][n.fix] = true
			opens[n.fix] = opens[n.fix] || n.opens
		}
	}
	for len(count) > 0 && len(out) < maxFixes {
		turns, near := map[string]int{}, map[string]float64{}
		for _, left := range open {
			for fix := range left {
				near[fix] += 1 / float64(len(left))
				if len(left) == 1 {
					turns[fix]++
				}
			}
		}
		if len(near) == 0 {
			break
		}
		best := slices.SortedFunc(maps.Keys(near), func(a, b string) int {
			return cmp.Or(-cmp.Compare(turns[a], turns[b]), -cmp.Compare(near[a], near[b]), strings.Compare(a, b))
		})[0]
		sum += turns[best]
		doubt = doubt || opens[best]
		out = append(out, Fix{Fix: best, Digests: count[best], Turns: turns[best], Sum: sum, AtMost: doubt, Images: image[best]})
		for d, left := range open {
			if delete(left, best); len(left) == 0 {
				delete(open, d)
			}
		}
		delete(count, best)
	}
	return out
}

// causes counts why artifacts are denied, or undecided.
func causes(all []*Digest) []Cause {
	by := map[string]*Cause{}
	for _, d := range all {
		seen := map[string]bool{}
		for _, n := range d.needs {
			if seen[n.cause] {
				continue
			}
			seen[n.cause] = true
			c := by[n.cause]
			if c == nil {
				c = &Cause{Cause: n.cause, Decided: n.decided}
				by[n.cause] = c
			}
			c.Digests++
			if len(d.Causes) == 1 {
				c.Alone++
			}
		}
	}
	out := []Cause{}
	for _, c := range by {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Cause) int {
		return cmp.Or(-cmp.Compare(a.Digests, b.Digests), strings.Compare(a.Cause, b.Cause))
	})
	return out
}
