package api

import (
	"net/http"

	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/registry/integrity"
)

func (a *API) integrityRoutes() []Route {
	return []Route{
		{Method: "POST", Path: "/api/v1/registry/scrub", Summary: "Hash stored blobs now; what is damaged is quarantined, what is right again is released", Action: identity.ActOperate,
			Query: []Param{{"digest", "only this blob; default: all, which takes as long as reading them"}}, Out: client.Scrubbed{}, Status: 200, handle: a.scrub},
	}
}

func (a *API) scrub(w http.ResponseWriter, r *http.Request) {
	report, err := func() (*integrity.Report, error) {
		if err := a.allow(r, identity.ActOperate, identity.ResourceConfig, ""); err != nil {
			return nil, err
		}
		only := r.URL.Query().Get("digest")
		if only == "" {
			return a.o.Integrity.All(r.Context())
		}
		d, err := artifact.ParseDigest(only)
		if err != nil {
			return nil, err
		}
		found, err := a.o.Integrity.Check(r.Context(), d)
		if err != nil {
			return nil, err
		}
		out := &integrity.Report{Blobs: 1, Findings: []integrity.Finding{}}
		if found != nil {
			out.Findings = append(out.Findings, *found)
		}
		return out, nil
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.Scrubbed{Blobs: report.Blobs, Bytes: report.Bytes, Findings: []client.Damaged{}}
	for _, f := range report.Findings {
		out.Findings = append(out.Findings, client.Damaged(f))
	}
	WriteJSON(w, http.StatusOK, out)
}
