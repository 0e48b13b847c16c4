package api

import (
	"net/http"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/evidence/contract"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/policy"
)

func (a *API) contractRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/contracts", Summary: "Contracts: what evidence is owed of what is pushed", Action: identity.ActReadEvidence, Out: client.List[client.Contract]{}, Status: 200, handle: a.contracts},
		{Method: "GET", Path: "/api/v1/contracts/check", Summary: "What there is, now, of what an artifact owes", Action: identity.ActReadEvidence,
			Query: []Param{{"digest", "sha256:…"}, {"repository", "where it was pushed"}}, Out: client.ContractStatus{}, Status: 200, handle: a.checkContract},
		{Method: "GET", Path: "/api/v1/coverage", Summary: "Owed evidence by repository and type: expected, in time, late, missing, pending", Action: identity.ActReadEvidence,
			Query: []Param{{"repository", "only this one"}, {"since", "pushed at this time or later, RFC 3339; default: 30 days ago"}}, Out: client.List[client.EvidenceCoverage]{}, Status: 200, handle: a.coverage},
		{Method: "POST", Path: "/api/v1/builds", Summary: "Tell of the start of a build: what its contract expects is owed from its push on", Action: identity.ActWriteEvidence,
			In: client.BuildStart{}, Out: client.Build{}, Status: 201, handle: a.startBuild},
		{Method: "POST", Path: "/api/v1/builds/{id}/finish", Summary: "Tell of the end of a build, and of what it made", Action: identity.ActWriteEvidence,
			In: client.BuildFinish{}, Out: client.Build{}, Status: 200, handle: a.finishBuild},
		{Method: "GET", Path: "/api/v1/builds", Summary: "Builds that were told of, newest first", Action: identity.ActReadEvidence,
			Query: []Param{{"repository", "only of this one"}, {"after", "cursor"}, {"limit", "at most 1000"}}, Out: client.List[client.Build]{}, Status: 200, handle: a.builds},
	}
}

func (a *API) contracts(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.Contract]{Items: []client.Contract{}}
	for _, c := range a.o.Desired().Contracts.All() {
		out.Items = append(out.Items, wireContract(c))
	}
	WriteJSON(w, http.StatusOK, out)
}

func wireContract(c *contract.Contract) client.Contract {
	out := client.Contract{
		Name: c.Name, Version: c.Version(), Hash: c.Hash(), Repositories: c.Spec.Repositories, Workflows: c.Spec.Workflows,
		WithinSeconds: int(c.Within().Seconds()), Evidence: []client.ContractEvidence{},
	}
	for _, o := range c.All() {
		out.Evidence = append(out.Evidence, client.ContractEvidence{Name: o.Name, PredicateType: o.PredicateType})
	}
	return out
}

func (a *API) checkContract(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	repository := q.Get("repository")
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, repository); err != nil {
		a.fail(w, r, err)
		return
	}
	d, err := artifact.ParseDigest(q.Get("digest"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	s, err := a.o.Ledger.Check(r.Context(), d, repository)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.ContractStatus{
		Digest: d, Repository: repository, Contract: s.Contract.Name, Version: s.Contract.Version(), Build: s.Build, State: s.State,
		Complete: s.Outcome.Complete(), Items: []client.ContractItem{},
	}
	if !s.Pushed.IsZero() {
		out.Pushed, out.Due = &s.Pushed, &s.Due
	}
	for _, i := range s.Outcome.Items {
		out.Items = append(out.Items, client.ContractItem{
			Name: i.Name, PredicateType: i.PredicateType, Present: i.Present, Late: i.Present && s.Late[i.Name], Attestations: i.Attestations, Reason: i.Reason,
		})
	}
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) coverage(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, q.Get("repository")); err != nil {
		a.fail(w, r, err)
		return
	}
	since := a.o.Clock().Add(-30 * 24 * time.Hour)
	if text := q.Get("since"); text != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, text); err != nil {
			a.fail(w, r, fault.Newf(fault.Invalid, "since %.40q: want RFC 3339, such as 2026-01-02T15:04:05Z", text))
			return
		}
	}
	rows, err := a.o.Ledger.Coverage(r.Context(), since, q.Get("repository"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.EvidenceCoverage]{Items: []client.EvidenceCoverage{}}
	for _, c := range rows {
		out.Items = append(out.Items, client.EvidenceCoverage(c))
	}
	WriteJSON(w, http.StatusOK, out)
}

// workflowClaims name, in a CI's token, the workflow that runs.
var workflowClaims = []string{"job_workflow_ref", "workflow_ref", "ci_config_ref_uri"}

func (a *API) startBuild(w http.ResponseWriter, r *http.Request) {
	var in client.BuildStart
	if err := a.decode(w, r, &in); err != nil {
		a.fail(w, r, err)
		return
	}
	if err := a.allow(r, identity.ActWriteEvidence, identity.ResourceEvidence, in.Repository); err != nil {
		a.fail(w, r, err)
		return
	}
	p := identity.FromContext(r.Context())
	by := contract.Starter{Identity: policy.Identity{Issuer: p.Issuer, Subject: p.Name}, Names: []string{p.Subject}}
	for _, name := range workflowClaims {
		if by.Workflow == "" {
			by.Workflow = p.Claims[name]
		}
	}
	// A workflow is what the token says. The owner of the data folder, who could
	// mint any token, may say it.
	if in.Workflow != "" && in.Workflow != by.Workflow {
		if p.Kind != identity.KindSystem {
			a.fail(w, r, fault.Newf(fault.Denied, "workflow %.200q: your token names %.200q; it is not taken from the request", in.Workflow, by.Workflow))
			return
		}
		by.Workflow = in.Workflow
	}
	b, c, err := a.o.Ledger.Start(r.Context(), p.Actor(), in.Repository, by)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := wireOwingBuild(b)
	if c != nil {
		for _, o := range c.Owed(in.Repository, "") {
			out.Expects = append(out.Expects, client.ContractEvidence{Name: o.Name, PredicateType: o.PredicateType})
		}
	}
	WriteJSON(w, http.StatusCreated, out)
}

func (a *API) finishBuild(w http.ResponseWriter, r *http.Request) {
	b, err := a.o.Ledger.Build(r.Context(), r.PathValue("id"))
	if err != nil {
		// Who may nothing here does not learn which builds there are.
		if denied := a.allow(r, identity.ActWriteEvidence, identity.ResourceEvidence, ""); denied != nil {
			err = denied
		}
		a.fail(w, r, err)
		return
	}
	if err := a.allow(r, identity.ActWriteEvidence, identity.ResourceEvidence, b.Repository); err != nil {
		a.fail(w, r, err)
		return
	}
	var in client.BuildFinish
	if err := a.decode(w, r, &in); err != nil {
		a.fail(w, r, err)
		return
	}
	products := make([]contract.Product, 0, len(in.Products))
	for _, p := range in.Products {
		products = append(products, contract.Product(p))
	}
	b, err = a.o.Ledger.Finish(r.Context(), identity.FromContext(r.Context()).Actor(), b.ID, in.Outcome, in.Invocation, products)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, wireOwingBuild(b))
}

func wireOwingBuild(b *contract.Build) client.Build {
	out := client.Build{
		ID: b.ID, Repository: b.Repository, Workflow: b.Workflow, Contract: b.Contract, Version: b.Version, Actor: b.Actor,
		Invocation: b.Invocation, Started: b.Started, Outcome: b.Outcome,
	}
	if !b.Finished.IsZero() {
		out.Finished = &b.Finished
	}
	return out
}

func (a *API) builds(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, q.Get("repository")); err != nil {
		a.fail(w, r, err)
		return
	}
	n, err := limit(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	rows, err := a.o.Ledger.Builds(r.Context(), q.Get("repository"), q.Get("after"), n)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.Build]{Items: []client.Build{}}
	for i := range rows {
		out.Items = append(out.Items, wireOwingBuild(&rows[i]))
	}
	if len(rows) == n {
		out.Next = rows[n-1].ID
	}
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) decode(w http.ResponseWriter, r *http.Request, v any) error {
	if err := wantMedia(r, "application/json"); err != nil {
		return err
	}
	b, err := body(w, r, 1<<20)
	if err != nil {
		return err
	}
	return strictjson.Unmarshal(b, v, strictjson.RejectUnknown())
}
