package api

import (
	"net/http"

	"assay/client"
	"assay/identity"
)

func (a *API) webhookRoutes() []Route {
	hook := []Param{{"hook", "name of the document; default: all"}}
	return []Route{
		{Method: "GET", Path: "/api/v1/webhooks/deliveries", Summary: "What webhooks have not taken yet, or what was given up; oldest first", Action: identity.ActReadAudit,
			Query: hook, Out: client.List[client.Delivery]{}, Status: 200, handle: a.deliveries},
		{Method: "POST", Path: "/api/v1/webhooks/redeliver", Summary: "Send what was given up again", Action: identity.ActOperate,
			Query: hook, Out: client.Redelivered{}, Status: 200, handle: a.redeliver},
	}
}

func (a *API) deliveries(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadAudit, identity.ResourceAudit, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	found, err := a.o.Webhooks.Deliveries(r.Context(), r.URL.Query().Get("hook"), maxPage)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.Delivery]{Items: []client.Delivery{}}
	for _, d := range found {
		out.Items = append(out.Items, client.Delivery{
			ID: d.ID, Hook: d.Hook, Event: d.Event, Kind: string(d.Kind), CreatedAt: d.Created, DueAt: d.Due,
			Attempts: d.Attempts, GivenUp: d.GivenUp, Problem: d.Problem,
		})
	}
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) redeliver(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActOperate, identity.ResourceConfig, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	n, err := a.o.Webhooks.Redeliver(r.Context(), r.URL.Query().Get("hook"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, client.Redelivered{Count: n})
}
