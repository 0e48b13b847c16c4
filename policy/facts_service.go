package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/internal/fault"
)

// ServiceFact is whose the artifact is and how much hangs on it: by the site's own
// catalogue of services and by what its clusters report. Nobody who signs or
// pushes has a word in it.
type ServiceFact struct {
	Tier       int      `json:"tier"`                  // that counts: 1 the most critical, 4 the least; what nobody classified is 1
	TierSource string   `json:"tier_source"`           // catalogue (what it says), workloads (raised, since it runs in production), or unclassified
	Catalogue  int      `json:"catalogue,omitzero"`    // tier that the catalogue says, the most critical of all services; absent: none
	Names      []string `json:"names"`                 // services to which it belongs, the most critical first, at most 16 (source: catalogue and workloads)
	Team       string   `json:"team,omitempty"`        // of the first; the platform's where nobody owns it (source: catalogue)
	Owned      bool     `json:"owned"`                 // a team owns the first service (source: catalogue)
	Env        string   `json:"environment,omitempty"` // of the first service; absent: it does not say, which counts as production (source: catalogue)
	Exposure   string   `json:"exposure"`              // internet, internal or isolated, the worst of all services (source: catalogue)
	Production bool     `json:"production"`            // it runs in production, or something does that lies in its repository (source: workloads)
	Reported   bool     `json:"reported"`              // somebody reports what runs; without, that nothing runs says nothing
	Match      string   `json:"match"`                 // wait (what its flaws are is found out before it may pass) or background (source: configuration)
	MatchUntil string   `json:"match_until,omitempty"` // until when what is not matched yet may pass, RFC 3339; absent: it may not
}

// matchesLater says whether a bill of materials that is not matched yet may be let
// pass now, and until when.
func (f *ServiceFact) matchesLater(now time.Time) (until time.Time, ok bool) {
	if f == nil || f.MatchUntil == "" {
		return time.Time{}, false
	}
	until, err := time.Parse(time.RFC3339, f.MatchUntil)
	return until, err == nil && now.Before(until)
}

// ServiceRequirement wants the artifact to belong to a service that the site
// knows.
type ServiceRequirement struct {
	Classified   bool     `yaml:"classified,omitempty" json:"classified,omitzero"`      // all services to which it belongs have a tier
	Owned        bool     `yaml:"owned,omitempty" json:"owned,omitzero"`                // a team owns it
	Tiers        []int    `yaml:"tiers,omitempty" json:"tiers,omitempty"`               // its tier is one of these, 1 to 4
	Environments []string `yaml:"environments,omitempty" json:"environments,omitempty"` // the service's environment is one of these
	Exposures    []string `yaml:"exposures,omitempty" json:"exposures,omitempty"`       // its exposure is one of these: internet, internal, isolated
}

func (r *ServiceRequirement) validate() error {
	if !r.Classified && !r.Owned && len(r.Tiers)+len(r.Environments)+len(r.Exposures) == 0 {
		return fault.Newf(fault.Invalid, "wants nothing: want classified, owned, tiers, environments or exposures")
	}
	for _, n := range r.Tiers {
		if n < 1 || n > 4 {
			return fault.Newf(fault.Invalid, "tiers: %d; want 1 (the most critical) to 4", n)
		}
	}
	for _, e := range r.Exposures {
		if !slices.Contains([]string{"internet", "internal", "isolated"}, e) {
			return fault.Newf(fault.Invalid, "exposures: %.40q; want internet, internal or isolated", e)
		}
	}
	for _, e := range r.Environments {
		if e == "" || len(e) > 63 {
			return fault.Newf(fault.Invalid, "environments: %.80q; want a name of 1 to 63 letters", e)
		}
	}
	return nil
}

// evaluate adds one check for each thing that is wanted.
func (r *ServiceRequirement) evaluate(ev *evaluation) {
	f := ev.facts.Service
	add := func(name string, ok bool, expected, found, mend string) {
		c := Check{Name: "service/" + name, Status: Pass, Expected: expected, Found: found}
		if f == nil {
			ok, c.Found, mend = false, "nothing is known here of the service", "assay verify "+ev.target+"  # on a server that has the catalogue"
		}
		if !ok {
			c.Status, c.Mend = Fail, mend
		}
		ev.add(c)
	}
	var known ServiceFact
	if f != nil {
		known = *f
	}
	whose := "service " + clip(orNone(strings.Join(known.Names, ", ")), 200)
	const catalogue = "assay inventory apply services.yaml  # with its repository under a service"
	if r.Classified {
		add("classified", known.TierSource != "unclassified", "services that have a tier", whose+", tier "+strconv.Itoa(known.Tier)+" ("+known.TierSource+")", catalogue+" that has a tier")
	}
	if r.Owned {
		add("owned", known.Owned, "a service that a team owns", whose+", team "+orNone(clip(known.Team, 80)), catalogue+" that has a team")
	}
	if len(r.Tiers) > 0 {
		var want []string
		for _, n := range r.Tiers {
			want = append(want, strconv.Itoa(n))
		}
		add("tier", slices.Contains(r.Tiers, known.Tier), "tier "+strings.Join(want, " or "), fmt.Sprintf("tier %d (%s)", known.Tier, known.TierSource), catalogue+" of such a tier")
	}
	if len(r.Environments) > 0 {
		add("environment", slices.Contains(r.Environments, known.Env), "a service of environment "+strings.Join(r.Environments, " or "), whose+", environment "+orNone(clip(known.Env, 80)), catalogue+" of such an environment")
	}
	if len(r.Exposures) > 0 {
		add("exposure", slices.Contains(r.Exposures, known.Exposure), "exposure "+strings.Join(r.Exposures, " or "), orNone(known.Exposure), catalogue+" of such an exposure")
	}
}

// WantsService says whether the policy looks at whose the artifact is, so that
// facts hold it: to find out about flaws the tier counts as well.
func (p *Policy) WantsService() bool {
	return p.WantsVulnerabilities() || slices.ContainsFunc(p.units, func(u *unit) bool {
		return u.reqs != nil && u.reqs.service != nil || slices.ContainsFunc(u.rego, func(m *regoModule) bool { return m.service })
	})
}
