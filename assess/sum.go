package assess

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"assay/artifact"
)

// report sums up what was found.
func (r *Run) report(ctx context.Context) *Report {
	out := &Report{
		Schema: Schema, At: r.began.UTC(), Seconds: float64(int(r.o.Clock().Sub(r.began).Seconds()*10)) / 10,
		Sources: r.sources, Policy: r.o.Judged, Trust: Trust{Roots: []string{}}, Advisories: Lists{Feeds: []string{}},
		Digests: []Digest{}, Moved: []Tag{},
	}
	if out.Sources == nil {
		out.Sources = []Source{}
	}
	if r.o.Verifier != nil {
		out.Trust.Roots, out.Trust.Keys, out.Trust.NoLog = r.o.Verifier.RootNames(), r.o.Keys, r.o.NoLog
	}
	r.advisories(ctx, out)
	all := make([]*Digest, 0, len(r.list))
	for _, s := range r.list {
		if s.out == nil {
			s.out = s.blank()
			s.out.Problem, s.out.problems = errCut.Error(), true
		}
		all = append(all, s.out)
	}
	slices.SortStableFunc(all, func(a, b *Digest) int {
		return cmp.Or(-cmp.Compare(worst[a.Verdict], worst[b.Verdict]), -cmp.Compare(a.Containers, b.Containers), strings.Compare(first(a.Images), first(b.Images)), strings.Compare(string(a.Digest), string(b.Digest)))
	})
	cut := 0
	for _, d := range all {
		out.Summary.count(d)
		if d.Problem == errCut.Error() {
			cut++
		}
	}
	r.moved(out)
	out.Signers, out.Claims, out.Dangers = signers(all), named(all), dangers(all)
	out.Causes, out.Fixes = causes(all), fixes(all)
	for _, d := range all {
		out.Digests = append(out.Digests, *d)
	}
	var why []string
	if cut > 0 {
		why = append(why, fmt.Sprintf("it was ended with %d of %d digests not looked at", cut, len(all)))
	}
	if r.leftOut > 0 {
		why = append(why, fmt.Sprintf("%d references are beyond its limit of %d digests", r.leftOut, r.o.Limit))
	}
	for _, s := range r.sources {
		switch {
		case s.Problem != "":
			why = append(why, s.Kind+" "+s.Name+": "+s.Problem)
		case s.LeftOut > 0 && r.leftOut == 0:
			why = append(why, fmt.Sprintf("%s %s: %d older tags are left out", s.Kind, s.Name, s.LeftOut))
		}
		if s.Unread > 0 {
			why = append(why, fmt.Sprintf("%s %s: %d could not be read", s.Kind, s.Name, s.Unread))
		}
	}
	out.Incomplete = strings.Join(why, "; ")
	return out
}

// worst orders verdicts for people.
var worst = map[string]int{"deny": 2, "unknown": 1}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

func (s *Summary) count(d *Digest) {
	s.Digests++
	s.Containers += d.Containers
	switch {
	case d.problems:
		s.Unreachable++
	case d.Digest == "" || d.Problem != "":
		s.Unidentified++
	}
	for _, t := range []struct {
		t *Tally
		a Answer
	}{{&s.Signed, d.Signed}, {&s.Provenance, d.Provenance}, {&s.SBOM, d.SBOM}, {&s.Malicious, d.Malicious}, {&s.Exploited, d.Exploited}} {
		t.t.add(t.a)
	}
	switch d.Verdict {
	case "allow":
		s.Allowed++
	case "deny":
		s.Denied++
	default:
		s.Undecided++
	}
}

// advisories says what there was to look up in.
func (r *Run) advisories(ctx context.Context, out *Report) {
	if r.o.Feeds == nil {
		return
	}
	out.Advisories.Given, out.Advisories.From = true, text(r.o.From, 200)
	out.Advisories.KEV, out.Advisories.EPSS = r.lists()
	list, err := r.o.Feeds.Sources(context.WithoutCancel(ctx))
	if err != nil {
		out.Advisories.Feeds = []string{"not known: " + text(err.Error(), 200)}
		return
	}
	for _, f := range list {
		out.Advisories.Feeds = append(out.Advisories.Feeds, text(fmt.Sprintf("%s %s: %d records, looked at %s", f.Name, f.Ecosystem, f.Records, f.Checked.UTC().Format("2006-01-02 15:04")), 200))
	}
}

// moved tells of the tags that point elsewhere than what runs by them.
func (r *Run) moved(out *Report) {
	out.Summary.Tags = len(r.tags)
	for _, key := range slices.Sorted(maps.Keys(r.tags)) {
		t := r.tags[key]
		if t.state == "" {
			t.state, t.reason = "unknown", errCut.Error()
		}
		is := map[string]bool{}
		for _, d := range slices.SortedFunc(maps.Keys(t.running), func(a, b artifact.Digest) int { return strings.Compare(string(a), string(b)) }) {
			one := Tag{Image: key, Running: d, Now: t.now, State: t.state, Reason: t.reason, Where: t.running[d]}
			if t.state == "there" {
				if t.is(d) {
					continue
				}
				one.State = "moved"
			}
			is[one.State] = true
			out.Moved = append(out.Moved, one)
		}
		switch {
		case is["moved"]:
			out.Summary.TagsMoved++
		case is["gone"]:
			out.Summary.TagsGone++
		case is["unknown"]:
			out.Summary.TagsUnknown++
		}
	}
}

// signers counts who signed what, of signatures that verified.
func signers(all []*Digest) []Signer {
	by := map[[3]string]*Signer{}
	for _, d := range all {
		for _, s := range d.signers {
			key := [3]string{s.Identity, s.Issuer, s.Root}
			one := by[key]
			if one == nil {
				one = &Signer{Identity: s.Identity, Issuer: s.Issuer, Root: s.Root}
				by[key] = one
			}
			switch s.kind {
			case signature:
				one.Signed++
			case provenance:
				one.Provenance++
			case bom:
				one.SBOM++
			}
		}
	}
	out := []Signer{}
	for _, s := range by {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Signer) int {
		return cmp.Or(-cmp.Compare(a.Signed+a.Provenance+a.SBOM, b.Signed+b.Provenance+b.SBOM), strings.Compare(a.Identity, b.Identity), strings.Compare(a.Issuer, b.Issuer), strings.Compare(a.Root, b.Root))
	})
	return out
}

// named counts whom signatures name that nobody verified.
func named(all []*Digest) []Claim {
	by := map[Claim]int{}
	for _, d := range all {
		seen := map[Claim]bool{}
		for i := range d.claims {
			c := &d.claims[i]
			k := Claim{Identity: c.identity, Issuer: c.issuer, Reason: c.why()}
			if !seen[k] {
				seen[k] = true
				by[k]++
			}
		}
	}
	out := []Claim{}
	for k, n := range by {
		k.Digests = n
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b Claim) int {
		return cmp.Or(-cmp.Compare(a.Digests, b.Digests), strings.Compare(a.Identity, b.Identity), strings.Compare(a.Issuer, b.Issuer), strings.Compare(a.Reason, b.Reason))
	})
	return out
}

// dangers counts components over all artifacts, the worst first.
func dangers(all []*Digest) []Danger {
	by := map[[2]string]*Danger{}
	for _, d := range all {
		for i := range d.dangers {
			one := d.dangers[i]
			key := [2]string{one.Component, one.Flaw}
			if by[key] == nil {
				by[key] = &one
			}
			sum := by[key]
			sum.Digests++
			for _, b := range one.By {
				sum.By = note(slices.Clone(sum.By), b, 3)
			}
			if len(d.Images) > 0 {
				sum.Images = note(sum.Images, d.Images[0], 10)
			}
		}
	}
	out := []Danger{}
	for _, d := range by {
		slices.Sort(d.By)
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b Danger) int {
		if a.Malicious != b.Malicious {
			if a.Malicious {
				return -1
			}
			return 1
		}
		return cmp.Or(-cmp.Compare(a.Digests, b.Digests), strings.Compare(a.Component, b.Component), strings.Compare(a.Flaw, b.Flaw))
	})
	return out
}
