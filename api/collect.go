package api

import (
	"net/http"
	"time"

	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/registry/collect"
)

func (a *API) collectRoutes() []Route {
	return []Route{
		{Method: "POST", Path: "/api/v1/registry/gc", Summary: "Collect now what nothing needs", Action: identity.ActOperate,
			Query: []Param{{"dry_run", "true: only tell"}, {"grace", "how long what nothing needs is kept, as 90m; default: the configured one. 0s collects at once; pushes that go on have to send content again"}},
			Out:   client.Collection{}, Status: 200, handle: a.collect},
	}
}

func (a *API) collect(w http.ResponseWriter, r *http.Request) {
	report, err := func() (*collect.Report, error) {
		if err := a.allow(r, identity.ActOperate, identity.ResourceConfig, ""); err != nil {
			return nil, err
		}
		q, ask := r.URL.Query(), collect.Request{Wait: 20 * time.Second}
		var err error
		if ask.DryRun, err = flagOf(q.Get("dry_run")); err != nil {
			return nil, err
		}
		if s := q.Get("grace"); s != "" {
			d, err := time.ParseDuration(s)
			if err != nil {
				return nil, fault.Newf(fault.Invalid, "grace %.40q: want a time such as 24h, 90m or 0s", s)
			}
			ask.Grace = &d
		}
		if a.o.Collector == nil {
			return nil, fault.Newf(fault.Unavailable, "this process has no registry: ask the one with role registry")
		}
		return a.o.Collector.Collect(r.Context(), ask)
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.Collection{
		DryRun: report.DryRun, Grace: report.Grace.String(), Seen: report.Seen, Manifests: report.Manifests, Uploads: report.Uploads,
		Sessions: report.Sessions, Marked: report.Marked, Waiting: report.Waiting, WaitingBytes: report.WaitBytes,
		Deleted: report.Deleted, FreedBytes: report.Freed, Locked: report.Locked, Pinned: report.Pinned, Blobs: []client.CollectedBlob{},
	}
	for _, b := range report.Blobs {
		out.Blobs = append(out.Blobs, client.CollectedBlob(b))
	}
	WriteJSON(w, http.StatusOK, out)
}

// flagOf reads a query parameter that is true or false; absent is false.
func flagOf(s string) (bool, error) {
	switch s {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, fault.Newf(fault.Invalid, "%.40q: want true or false", s)
}
