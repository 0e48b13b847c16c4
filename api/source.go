package api

import (
	"net/http"
	"strconv"
	"time"

	"assay/client"
	"assay/identity"
	"assay/internal/fault"
)

func (a *API) sourceRoutes() []Route {
	return []Route{{
		Method: "GET", Path: "/api/v1/source/branches", Summary: "Protected branches whose forges tell of them: protection as found, review coverage, time to merge", Action: identity.ActReadEvidence,
		Query: []Param{{"days", "that the figures are of, 1 to 365; default: 30"}}, Out: client.List[client.SourceBranch]{}, Status: 200, handle: a.sourceBranches,
	}}
}

func (a *API) sourceBranches(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	days := 30
	if text := r.URL.Query().Get("days"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 365 {
			a.fail(w, r, fault.Newf(fault.Invalid, "days %.20q: want 1 to 365", text))
			return
		}
		days = n
	}
	found, err := a.o.Forges.Metrics(r.Context(), a.o.Clock().Add(-time.Duration(days)*24*time.Hour))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.SourceBranch]{Items: []client.SourceBranch{}}
	for _, m := range found {
		b := client.SourceBranch{
			Source: m.Source, Repository: m.Repository, Ref: m.Ref, Pushes: m.Pushes, Reviewed: m.Reviewed, Forced: m.Forced, Merges: m.Merges, MedianSeconds: m.Median.Seconds(),
		}
		if m.Pushes > 0 {
			b.Coverage = float64(m.Reviewed) / float64(m.Pushes)
		}
		if p := m.Protection; p != nil {
			b.Protection = &client.SourceControls{
				Since: p.Since, NoForcePush: p.NoForcePush, NoDeletion: p.NoDeletion, SignedCommits: p.SignedCommits, Reviews: p.Reviews,
				DismissStale: p.DismissStale, StatusChecks: p.StatusChecks, Administrators: p.Administrators,
			}
		}
		out.Items = append(out.Items, b)
	}
	WriteJSON(w, http.StatusOK, out)
}
