package api

import (
	"net/http"

	"assay/artifact"
	"assay/builder/runner/baseline"
	"assay/client"
	"assay/identity"
)

func (a *API) runnerRoutes() []Route {
	filter := []Param{
		{"digest", "of what the build made"}, {"source", "src_… or a repository's URI"}, {"build", "run_… or invocation id"},
		{"after", "cursor"}, {"limit", "at most 1000"},
	}
	return []Route{
		{Method: "GET", Path: "/api/v1/runners", Summary: "Machines that build and tell of their health, the latest first", Action: identity.ActReadEvidence,
			Out: client.List[client.RunnerHost]{}, Status: 200, handle: a.runners},
		{Method: "POST", Path: "/api/v1/runners/heartbeat", Summary: "Tell of the health of the machine that builds", Action: identity.ActWriteEvidence,
			In: client.RunnerBeat{}, Out: client.RunnerHost{}, Status: 200, handle: a.heartbeat},
		{Method: "GET", Path: "/api/v1/runners/builds", Summary: "Builds, and what is known of their machines, newest first", Action: identity.ActReadEvidence,
			Query: filter, Out: client.List[client.RunnerBuild]{}, Status: 200, handle: a.runnerBuilds},
		{Method: "GET", Path: "/api/v1/runners/builds/{id}", Summary: "A build with its anomalies", Action: identity.ActReadEvidence,
			Out: client.RunnerBuildDetail{}, Status: 200, handle: a.runnerBuild},
		{Method: "GET", Path: "/api/v1/runners/anomalies", Summary: "What was new in builds, newest first", Action: identity.ActReadEvidence,
			Query: append([]Param{{"open", "true: only what nobody accepted"}}, filter...), Out: client.List[client.RunnerAnomaly]{}, Status: 200, handle: a.runnerAnomalies},
		{Method: "POST", Path: "/api/v1/runners/accept", Summary: "Take an anomaly, or the first build of a source, into what is usual", Action: identity.ActApprove,
			In: client.RunnerAccept{}, Out: client.List[client.RunnerAnomaly]{}, Status: 200, handle: a.acceptRunner},
	}
}

func (a *API) runners(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	found, err := a.o.Runners.Hosts(r.Context())
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.RunnerHost]{Items: []client.RunnerHost{}}
	for _, h := range found {
		out.Items = append(out.Items, wireHost(h))
	}
	WriteJSON(w, http.StatusOK, out)
}

func wireHost(h *baseline.Host) client.RunnerHost {
	return client.RunnerHost{ID: h.ID, Issuer: h.Issuer, Identity: h.Identity, SeenAt: h.Seen, Stale: h.Stale, Beat: client.RunnerBeat(h.Beat)}
}

func (a *API) heartbeat(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActWriteEvidence, identity.ResourceEvidence, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	var b client.RunnerBeat
	if err := readStrict(w, r, &b); err != nil {
		a.fail(w, r, err)
		return
	}
	p := identity.FromContext(r.Context())
	h, err := a.o.Runners.Heartbeat(r.Context(), p.Issuer, p.Subject, baseline.Beat(b))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, wireHost(h))
}

func runnerFilter(r *http.Request) (f baseline.Filter, err error) {
	q := r.URL.Query()
	f = baseline.Filter{Source: q.Get("source"), Build: q.Get("build"), After: q.Get("after")}
	if d := q.Get("digest"); d != "" {
		if f.Digest, err = artifact.ParseDigest(d); err != nil {
			return f, err
		}
	}
	f.Limit, err = limit(r)
	return f, err
}

func (a *API) runnerBuilds(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	f, err := runnerFilter(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	found, next, err := a.o.Runners.Builds(r.Context(), f)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.RunnerBuild]{Items: []client.RunnerBuild{}, Next: next}
	for _, b := range found {
		out.Items = append(out.Items, wireBuild(b))
	}
	WriteJSON(w, http.StatusOK, out)
}

func wireBuild(b *baseline.Build) client.RunnerBuild {
	return client.RunnerBuild{
		ID: b.ID, InvocationID: b.InvocationID, Source: b.Source, Issuer: b.Issuer, Identity: b.Identity, Ref: b.Ref, RefVerified: b.RefVerified,
		Trigger: b.Trigger, Trust: []string{"foreign", "branch", "protected"}[b.Rank], Command: b.Command, Machine: b.Machine, Instance: b.Instance, Kind: b.Kind,
		Fresh: b.Fresh, Used: b.Used, Uses: b.Uses, AgeSeconds: b.Age, Image: b.Image, State: string(b.State), Open: b.Open, Time: b.Time,
		Evidence: b.Evidence, Provenance: b.Provenance, Trace: b.Trace, Artifacts: append([]artifact.Digest{}, b.Subjects...),
	}
}

func (a *API) runnerBuild(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	b, src, anomalies, err := a.o.Runners.Build(r.Context(), r.PathValue("id"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, client.RunnerBuildDetail{
		Build: wireBuild(b), Repository: src.Repository, Workflow: src.Workflow, Verified: src.Verified, Builds: src.Builds, Anomalies: wireAnomalies(anomalies),
	})
}

func wireAnomalies(all []*baseline.Anomaly) []client.RunnerAnomaly {
	out := []client.RunnerAnomaly{}
	for _, x := range all {
		wire := client.RunnerAnomaly{
			ID: x.ID, Build: x.Build, Source: x.Source, Kind: x.Kind, Name: x.Name, Before: x.Before, After: x.After, Time: x.Time,
			Artifacts: append([]artifact.Digest{}, x.Subjects...),
		}
		if x.Accepted != nil {
			wire.AcceptedBy, wire.AcceptedAt, wire.Reason = x.Accepted.By, &x.Accepted.Time, x.Accepted.Reason
		}
		out = append(out, wire)
	}
	return out
}

func (a *API) runnerAnomalies(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	f, err := runnerFilter(r)
	if err == nil {
		f.Open, err = flag(r, "open")
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	found, next, err := a.o.Runners.Anomalies(r.Context(), f)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, client.List[client.RunnerAnomaly]{Items: wireAnomalies(found), Next: next})
}

// acceptRunner changes what is usual for a source, whichever repositories its
// artifacts lie in: it takes an approver of all.
func (a *API) acceptRunner(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActApprove, identity.ResourceRepository, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	var q client.RunnerAccept
	if err := readStrict(w, r, &q); err != nil {
		a.fail(w, r, err)
		return
	}
	found, err := a.o.Runners.Accept(r.Context(), baseline.Accept{ID: q.ID, Pattern: q.Pattern, Reason: q.Reason, All: q.All, By: identity.FromContext(r.Context()).Actor()})
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, client.List[client.RunnerAnomaly]{Items: wireAnomalies(found)})
}
