package api

import (
	"net/http"

	"assay/client"
	"assay/identity"
	"assay/readiness"
)

func (a *API) readinessRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/readiness/probes", Summary: "Defences that were tried and exercises that were held: the last of each", Action: identity.ActReadEvidence, Out: client.List[readiness.Probe]{}, Status: 200, handle: a.probes},
		{Method: "POST", Path: "/api/v1/readiness/probes", Summary: "Record that a defence was tried, or an exercise held", Action: identity.ActOperate, In: readiness.Probe{}, Out: readiness.Probe{}, Status: 201, handle: a.recordProbe},
	}
}

func (a *API) probes(w http.ResponseWriter, r *http.Request) {
	var out client.List[readiness.Probe]
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "")
	if err == nil {
		out.Items, err = readiness.Probes(r.Context(), a.o.DB)
	}
	a.answer(w, r, http.StatusOK, out, err)
}

func (a *API) recordProbe(w http.ResponseWriter, r *http.Request) {
	var p readiness.Probe
	err := a.allow(r, identity.ActOperate, identity.ResourceConfig, "")
	if err == nil {
		err = request(w, r, &p)
	}
	if err == nil {
		p, err = readiness.Record(r.Context(), a.o.DB, p, identity.FromContext(r.Context()).Actor())
	}
	a.answer(w, r, http.StatusCreated, p, err)
}
