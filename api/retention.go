package api

import (
	"context"
	"net/http"

	"assay/identity"
	"assay/internal/fault"
	"assay/registry/retention"
)

func (a *API) retentionRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/retention", Summary: "What the retention rules would delete now, and what keeps the rest", Action: identity.ActOperate,
			Out: retention.Outcome{}, Status: 200, handle: a.retention((*retention.Keeper).Plan)},
		{Method: "POST", Path: "/api/v1/retention", Summary: "Carry the retention rules out now", Action: identity.ActOperate,
			Out: retention.Outcome{}, Status: 200, handle: a.retention((*retention.Keeper).Run)},
	}
}

func (a *API) retention(do func(*retention.Keeper, context.Context) (*retention.Outcome, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out, err := func() (*retention.Outcome, error) {
			if err := a.allow(r, identity.ActOperate, identity.ResourceConfig, ""); err != nil {
				return nil, err
			}
			if a.o.Retention == nil {
				return nil, fault.Newf(fault.Unavailable, "this process has no registry: ask the one with role registry")
			}
			return do(a.o.Retention, r.Context())
		}()
		if err != nil {
			a.fail(w, r, err)
			return
		}
		WriteJSON(w, http.StatusOK, out)
	}
}
