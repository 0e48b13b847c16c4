package api

import (
	"net/http"

	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/vuln/canary"
)

func (a *API) canaryRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/canaries", Summary: "Canaries: what is known to be vulnerable, and must be found", Action: identity.ActReadEvidence,
			Query: []Param{{"check", "true: also what the feeds in force say of them now"}}, Out: client.List[client.Canary]{}, Status: 200, handle: a.canaries},
		{Method: "PUT", Path: "/api/v1/canaries", Summary: "Add a canary", Action: identity.ActOperate, In: client.Canary{}, Out: client.Canary{}, Status: 200, handle: a.addCanary},
		{Method: "DELETE", Path: "/api/v1/canaries", Summary: "Remove a canary", Action: identity.ActAdmin, Query: []Param{{"name", "of the canary"}}, Out: struct{}{}, Status: 200, handle: a.removeCanary},
	}
}

func (a *API) canaries(w http.ResponseWriter, r *http.Request) {
	check, err := flag(r, "check")
	if aerr := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); aerr != nil {
		err = aerr
	}
	var all []canary.Report
	if err == nil {
		all, err = a.o.Vulnerabilities.Canaries.Reports(r.Context(), check)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.Canary]{Items: []client.Canary{}}
	for _, one := range all {
		wire := wireCanary(one.Canary)
		wire.Uncovered, wire.Failed = one.Uncovered, one.Failed
		for _, x := range one.Results {
			wire.Results = append(wire.Results, client.CanaryResult{Component: x.Component, Advisory: x.Advisory, Feed: x.Feed, Ecosystem: x.Ecosystem, Found: x.Found, Must: x.Must})
		}
		out.Items = append(out.Items, wire)
	}
	WriteJSON(w, http.StatusOK, out)
}

func wireCanary(c canary.Canary) client.Canary {
	out := client.Canary{Name: c.Name, Feed: c.Feed, Builtin: c.Builtin, Expect: []client.CanaryExpect{}}
	for _, x := range c.Expect {
		out.Expect = append(out.Expect, client.CanaryExpect(x))
	}
	return out
}

func (a *API) addCanary(w http.ResponseWriter, r *http.Request) {
	var in client.Canary
	err := a.asked(w, r, identity.ActOperate, &in)
	c := canary.Canary{Name: in.Name, Feed: in.Feed, Document: in.Document}
	for _, x := range in.Expect {
		c.Expect = append(c.Expect, canary.Expectation(x))
	}
	if err == nil && (in.Builtin || in.Results != nil || in.Uncovered || in.Failed) {
		err = fault.Newf(fault.Invalid, "builtin, results, uncovered and failed are the server's own to say")
	}
	if err == nil {
		err = a.o.Vulnerabilities.Canaries.Add(r.Context(), c, identity.FromContext(r.Context()).Actor())
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, wireCanary(c))
}

func (a *API) removeCanary(w http.ResponseWriter, r *http.Request) {
	err := a.asked(w, r, identity.ActAdmin, nil)
	if err == nil {
		err = a.o.Vulnerabilities.Canaries.Remove(r.Context(), r.URL.Query().Get("name"), identity.FromContext(r.Context()).Actor())
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, struct{}{})
}
