package gate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"assay/artifact"
	"assay/client"
	"assay/slo"
	"assay/vuln/finding"
)

const (
	maxImages   = 20
	maxFindings = 100 // that an answer names
)

var severities = []string{"low", "medium", "high", "critical"}

// Severities are those a rule may name, the lightest first.
func Severities() []string { return slices.Clone(severities) }

// weight orders severities; one that nobody rates weighs as high.
func weight(severity string) int {
	switch i := slices.Index(severities, severity); {
	case i >= 0:
		return i
	case severity == "none":
		return -1
	}
	return slices.Index(severities, "high")
}

// findings compares what the canary has with what runs beside it.
func (c *canary) findings(ctx context.Context) {
	all, unknown, err := c.known(ctx, c.mine(), c.g.o.Flaws)
	if err != nil {
		c.g.o.Logger.WarnContext(ctx, "a canary's findings cannot be read", "error", err)
		c.say(CheckFindings, Wait, "its findings could not be read")
		return
	}
	if unknown != "" {
		verdict := Wait
		if c.rules.WithoutScan {
			verdict = Proceed
		}
		c.say(CheckFindings, verdict, "%s", unknown)
	}
	stable := c.stable()
	before, _, err := c.known(ctx, stable, c.g.o.Flaws)
	if err != nil {
		c.g.o.Logger.WarnContext(ctx, "the findings of what runs beside a canary cannot be read", "error", err)
		c.say(CheckFindings, Wait, "the findings of what runs beside it could not be read")
		return
	}
	had := map[string]bool{}
	for i := range before {
		had[before[i].Name] = true
		for _, n := range before[i].Names {
			had[n] = true
		}
	}
	bad := c.compare(all, had)
	beside := fmt.Sprintf("beside what %d other digests have", len(stable))
	if len(stable) == 0 {
		beside = "and nothing else of the service is seen to run, so that all count as new"
	}
	switch {
	case len(bad) > 0:
		c.say(CheckFindings, Rollback, "%d new findings of severity %s or worse, exploited or malicious (%s), %s", len(bad), c.rules.Severity, strings.Join(bad[:min(5, len(bad))], ", "), beside)
	case unknown == "":
		c.say(CheckFindings, Proceed, "no new finding of severity %s or worse, %s", c.rules.Severity, beside)
	}
}

// compare enters new findings into the answer, and names those that roll it back.
func (c *canary) compare(all []finding.Finding, had map[string]bool) (bad []string) {
	limit := weight(c.rules.Severity)
	for i := range all {
		f := &all[i]
		if f.Settled() || f.Status == "unknown" && !f.Malicious || slices.ContainsFunc(append([]string{f.Name}, f.Names...), func(n string) bool { return had[n] }) {
			continue
		}
		c.answer.New++
		if len(c.answer.Findings) < maxFindings {
			c.answer.Findings = append(c.answer.Findings, client.CanaryFinding{Name: f.Name, Component: f.Component, Version: f.Version, Severity: f.Severity, Fixed: f.Fixed, Exploited: f.KEV != "", Malicious: f.Malicious})
		}
		if (weight(f.Severity) >= limit || f.KEV != "" || f.Malicious) && !slices.Contains(bad, f.Name) {
			bad = append(bad, f.Name)
		}
	}
	return bad
}

// subject is an artifact and the repository in which it is asked about.
type subject struct {
	digest     artifact.Digest
	repository string
}

func (c *canary) mine() (out []subject) {
	for i, one := range c.answer.Images {
		if one.Digest != "" {
			out = append(out, subject{one.Digest, c.repository(c.refs[i])})
		}
	}
	return out
}

// repository is an own image's; other registries' are none of this site's.
func (c *canary) repository(r artifact.Reference) string {
	if r.Host == c.g.o.Host() {
		return r.Repository
	}
	return ""
}

// stable are the digests beside the canary: those that the question names, else
// those that run.
func (c *canary) stable() (out []subject) {
	add := func(r artifact.Reference, d artifact.Digest) {
		if d == "" || c.hold[d] {
			return
		}
		if s := (subject{d, c.repository(r)}); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	for _, r := range c.ran {
		if r.Instances > 0 {
			ref, _ := artifact.ParseReference(r.Image) // a name that cannot be read is of no repository
			add(ref, r.Digest)
		}
	}
	return out
}

// known gives what artifacts are affected by, and in words what of them is not
// known. An index of which nothing is known is known by its parts.
func (c *canary) known(ctx context.Context, all []subject, ask Flaws) (out []finding.Finding, unknown string, err error) {
	for _, s := range all {
		found, st, err := ask(ctx, s.digest, s.repository)
		if err != nil {
			return nil, "", err
		}
		if !st.Scanned || !st.SBOM {
			parts, err := c.g.o.Parts(ctx, s.digest)
			if err != nil {
				return nil, "", err
			}
			for i, p := range parts {
				more, part, err := ask(ctx, p, s.repository)
				if err != nil {
					return nil, "", err
				}
				found = append(found, more...)
				if i == 0 || !part.Scanned || !part.SBOM {
					st = part
				}
				if !part.Scanned || !part.SBOM {
					break
				}
			}
		}
		out = append(out, found...)
		if why := notKnown(&st); why != "" && unknown == "" {
			unknown = string(s.digest) + ": " + why
		}
	}
	return out, unknown, nil
}

func notKnown(st *finding.State) string {
	switch {
	case !st.SBOM:
		return "no bill of materials is in force, so what it holds is not known"
	case !st.Scanned:
		return "its bill of materials was not matched against the advisories yet"
	case len(st.FeedsMissing) > 0:
		return "no advisory feed is in force for " + strings.Join(st.FeedsMissing, ", ")
	case len(st.FeedsStale) > 0:
		return "the advisory feeds are stale for " + strings.Join(st.FeedsStale, ", ")
	}
	return ""
}

// budget asks how the service's objectives stand, and how they stood when the
// canary began: what was spent before is not its doing.
func (c *canary) budget(ctx context.Context) {
	now, err := c.g.o.Objectives(ctx, c.q.Service, c.g.o.Clock())
	var before []slo.Status
	if err == nil && !c.since.IsZero() {
		before, err = c.g.o.Objectives(ctx, c.q.Service, c.since)
	}
	if err != nil {
		c.g.o.Logger.WarnContext(ctx, "the objectives of a canary's service cannot be read", "error", err)
		c.say(CheckBudget, Wait, "the service's error budget could not be read")
		return
	}
	was := map[slo.ID]bool{}
	for i := range before {
		was[before[i].Definition.ID] = spent(&before[i])
	}
	counted, bad := 0, 0
	for i := range now {
		s := &now[i]
		if s.State == slo.NoData {
			continue
		}
		counted++
		if !spent(s) {
			continue
		}
		bad++
		switch {
		case !c.since.IsZero() && !was[s.Definition.ID]:
			c.say(CheckBudget, Rollback, "objective %s of service %s was kept when the canary began, and is %s now: %s", s.Definition.ID, c.q.Service, s.State, s.Reason)
		case c.rules.PassSpent:
			c.say(CheckBudget, Proceed, "objective %s of service %s is %s, and was before: %s", s.Definition.ID, c.q.Service, s.State, s.Reason)
		default:
			c.say(CheckBudget, Wait, "objective %s of service %s is %s: %s", s.Definition.ID, c.q.Service, s.State, s.Reason)
		}
	}
	switch {
	case counted == 0:
		c.say(CheckBudget, Proceed, "nothing was counted against the service's budgets yet")
	case bad == 0:
		c.say(CheckBudget, Proceed, "%d objectives of service %s have budget left", counted, c.q.Service)
	}
}

func spent(s *slo.Status) bool { return s.Missed() || s.State == slo.Fast }
