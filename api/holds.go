package api

import (
	"net/http"

	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/registry"
	"assay/registry/retention"
)

func (a *API) holdRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/holds", Summary: "What is on legal hold", Action: identity.ActReadAudit,
			Query: []Param{{"ended", "true: also those whose time has come"}}, Out: client.List[retention.Hold]{}, Status: 200, handle: a.listHolds},
		{Method: "POST", Path: "/api/v1/holds", Summary: "Put something on legal hold: nobody can delete it", Action: identity.ActOperate,
			In: client.HoldRequest{}, Out: retention.Hold{}, Status: 201, handle: a.addHold},
		{Method: "DELETE", Path: "/api/v1/holds/{hold}", Summary: "End a legal hold", Action: identity.ActAdmin,
			Query: []Param{{"reason", "why, on record"}}, Out: retention.Hold{}, Status: 200, handle: a.removeHold},
	}
}

func (a *API) holds() (*retention.Holds, error) {
	if a.o.Holds == nil {
		return nil, fault.Newf(fault.Unavailable, "this process has no registry: ask the one with role registry")
	}
	return a.o.Holds, nil
}

func (a *API) listHolds(w http.ResponseWriter, r *http.Request) {
	out, err := func() (out client.List[retention.Hold], err error) {
		if err := a.allow(r, identity.ActReadAudit, identity.ResourceConfig, ""); err != nil {
			return out, err
		}
		ended, err := flagOf(r.URL.Query().Get("ended"))
		if err != nil {
			return out, err
		}
		h, err := a.holds()
		if err != nil {
			return out, err
		}
		out.Items, err = h.List(r.Context(), ended)
		return out, err
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) addHold(w http.ResponseWriter, r *http.Request) {
	hold, err := func() (*retention.Hold, error) {
		if err := a.allow(r, identity.ActOperate, identity.ResourceConfig, ""); err != nil {
			return nil, err
		}
		var q client.HoldRequest
		if err := readStrict(w, r, &q); err != nil {
			return nil, err
		}
		if q.Repository != "" && !registry.ValidName(q.Repository) {
			return nil, fault.Newf(fault.Invalid, "repository %.300q: want a name without the host", q.Repository)
		}
		h, err := a.holds()
		if err != nil {
			return nil, err
		}
		ask := retention.HoldRequest{Repository: q.Repository, Tag: q.Tag, Digest: q.Digest, Reason: q.Reason}
		if q.Until != nil {
			ask.Until = *q.Until
		}
		return h.Add(r.Context(), identity.FromContext(r.Context()).Actor(), ask)
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusCreated, hold)
}

func (a *API) removeHold(w http.ResponseWriter, r *http.Request) {
	hold, err := func() (*retention.Hold, error) {
		if err := a.allow(r, identity.ActAdmin, identity.ResourceConfig, ""); err != nil {
			return nil, err
		}
		h, err := a.holds()
		if err != nil {
			return nil, err
		}
		return h.Remove(r.Context(), r.PathValue("hold"), identity.FromContext(r.Context()).Actor(), r.URL.Query().Get("reason"))
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, hold)
}
