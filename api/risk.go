package api

import (
	"cmp"
	"context"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"

	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/vuln/risk"
)

func (a *API) riskRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/risk", Summary: "Artifacts by how much hangs on their findings, all or a service's", Action: identity.ActReadEvidence,
			Query: []Param{{"service", "whose artifacts; with it come the upgrades that take most away"}, {"limit", "at most 1000"}}, Out: client.RiskList{}, Status: 200, handle: a.risk},
		{Method: "GET", Path: "/api/v1/risk/artifact", Summary: "An artifact's risk, finding by finding, each in its parts", Action: identity.ActReadEvidence,
			Query: []Param{{"digest", "sha256:…"}, {"repository", "by whose grants it is read"}}, Out: client.RiskDetail{}, Status: 200, handle: a.riskOfArtifact},
		{Method: "GET", Path: "/api/v1/risk/services", Summary: "What the artifacts of each service add up to", Action: identity.ActReadEvidence, Out: client.List[client.ServiceRisk]{}, Status: 200, handle: a.riskOfServices},
		{Method: "GET", Path: "/api/v1/risk/upgrades", Summary: "Upgrades of components, by how much risk each takes away", Action: identity.ActReadEvidence,
			Query: []Param{{"service", "whose artifacts"}, {"digest", "of one artifact"}, {"limit", "at most 1000"}}, Out: client.List[client.Upgrade]{}, Status: 200, handle: a.upgrades},
	}
}

// tenth keeps what a person reads of a score.
func tenth(f float64) float64 { return math.Round(f*10) / 10 }

func (a *API) risk(w http.ResponseWriter, r *http.Request) {
	out, err := func() (out client.RiskList, err error) {
		if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
			return out, err
		}
		most, err := limit(r)
		if err != nil {
			return out, err
		}
		out.Service = r.URL.Query().Get("service")
		var got *risk.Answer
		if out.Service != "" {
			got, err = a.o.Risk.Service(r.Context(), out.Service, most)
		} else {
			got, err = a.o.Risk.Artifacts(r.Context(), "", most)
		}
		if err != nil {
			return out, err
		}
		out.Risk, out.Count, out.Findings, out.Production, out.Items, out.AsOf = tenth(got.Risk), got.Count, got.Findings, got.Production, []client.ArtifactRisk{}, got.At
		for i := range got.Artifacts {
			x := wireRisk(&got.Artifacts[i])
			if err := a.cover(r.Context(), &x); err != nil {
				return out, err
			}
			out.Items = append(out.Items, x)
		}
		for i := range got.Upgrades {
			out.Upgrades = append(out.Upgrades, WireUpgrade(&got.Upgrades[i]))
		}
		return out, nil
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}

// cover enters what is not known of an artifact whose risk is told.
func (a *API) cover(ctx context.Context, x *client.ArtifactRisk) error {
	st, err := a.o.Vulnerabilities.Findings.Coverage(ctx, x.Digest, a.o.Vulnerabilities.MaxAge)
	x.Coverage = wireCoverage(st)
	return err
}

func wireRisk(x *risk.Artifact) client.ArtifactRisk {
	p := &x.Place
	return client.ArtifactRisk{Digest: x.Digest, Risk: tenth(x.Risk), Worst: tenth(x.Worst), Findings: x.Findings, Services: p.Services, Team: p.Team, Unowned: p.Unowned, Tier: p.Tier, Classified: p.Classified,
		Exposure: p.Exposure, Running: p.Running != nil, Production: p.Running != nil && p.Running.Production, Parts: wireParts(p.Parts())}
}

func wireParts(all []risk.Part) []client.RiskPart {
	out := []client.RiskPart{}
	for _, p := range all {
		out = append(out, client.RiskPart{Name: p.Name, Factor: math.Round(p.Factor*1000) / 1000, Why: p.Why})
	}
	return out
}

// WireUpgrade is an upgrade as it is told.
func WireUpgrade(u *risk.Upgrade) client.Upgrade {
	return client.Upgrade{Component: u.Component, From: u.From, To: u.To, Risk: tenth(u.Risk), Flaws: append([]string{}, u.Flaws...), Left: u.Left, Artifacts: u.Artifacts, Direct: u.Direct, Services: u.Services}
}

func (a *API) riskOfArtifact(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	out, err := func() (out client.RiskDetail, err error) {
		if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, q.Get("repository")); err != nil {
			return out, err
		}
		digest, err := artifact.ParseDigest(q.Get("digest"))
		if err == nil {
			err = a.readable(r, q.Get("repository"), digest)
		}
		if err != nil {
			return out, err
		}
		x, all, err := a.o.Risk.Subject(r.Context(), digest)
		if err != nil {
			return out, err
		}
		out = client.RiskDetail{Artifact: wireRisk(&x), Items: []client.FindingRisk{}}
		if err := a.cover(r.Context(), &out.Artifact); err != nil {
			return out, err
		}
		for i := range all {
			f := &all[i]
			out.Items = append(out.Items, client.FindingRisk{Name: f.Name, Component: f.Component, Status: f.Status, Severity: f.Severity, Fixed: f.Fixed, Direct: f.Direct, Risk: tenth(f.Risk), Parts: wireParts(f.Parts)})
		}
		return out, nil
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) riskOfServices(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "")
	var all map[string]*risk.Answer
	if err == nil {
		all, err = a.o.Risk.Services(r.Context())
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.ServiceRisk]{Items: []client.ServiceRisk{}}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		x := all[name]
		out.Items = append(out.Items, client.ServiceRisk{Service: name, Risk: tenth(x.Risk), Artifacts: x.Count, Findings: x.Findings})
	}
	slices.SortStableFunc(out.Items, func(x, y client.ServiceRisk) int {
		return cmp.Or(cmp.Compare(y.Risk, x.Risk), strings.Compare(x.Service, y.Service))
	})
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) upgrades(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	out, err := func() (out client.List[client.Upgrade], err error) {
		out.Items = []client.Upgrade{}
		if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
			return out, err
		}
		most, err := limit(r)
		if err != nil {
			return out, err
		}
		var digest artifact.Digest
		if d := q.Get("digest"); d != "" {
			if digest, err = artifact.ParseDigest(d); err != nil {
				return out, err
			}
		}
		got, err := a.o.Risk.FixFirst(r.Context(), q.Get("service"), digest, most)
		if err != nil {
			return out, err
		}
		for i := range got.Upgrades {
			out.Items = append(out.Items, WireUpgrade(&got.Upgrades[i]))
		}
		return out, nil
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}
