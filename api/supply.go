package api

import (
	"net/http"

	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/inventory/supply"
)

func (a *API) supplyRoutes() []Route {
	return []Route{
		{Method: "POST", Path: "/api/v1/supply/scans", Summary: "Hand in what assay inventory scan found; it is held against the baseline of its estate", Action: identity.ActWriteEvidence,
			In: RawBytes{"application/json"}, Out: client.SupplyScan{}, Status: 201, handle: a.addSupply},
		{Method: "GET", Path: "/api/v1/supply/scans", Summary: "Scans of forges, newest first", Action: identity.ActReadEvidence,
			Query: []Param{{"estate", "only of this one, estate_…"}, {"latest", "true: of each estate the newest"}, {"after", "cursor"}, {"limit", "at most 1000"}},
			Out:   client.List[client.SupplyScan]{}, Status: 200, handle: a.supplyScans},
		{Method: "GET", Path: "/api/v1/supply/scans/{id}", Summary: "One scan, and how it differs from its baseline", Action: identity.ActReadEvidence, Out: client.SupplyScan{}, Status: 200, handle: a.supplyScan},
		{Method: "GET", Path: "/api/v1/supply/scans/{id}/inventory", Summary: "What a scan found, whole", Action: identity.ActReadEvidence, Out: RawBytes{"application/json"}, Status: 200, handle: a.supplyInventory},
		{Method: "POST", Path: "/api/v1/supply/accept", Summary: "Say that a scan is as its estate should be: later ones are held against it", Action: identity.ActApprove,
			In: client.SupplyAccept{}, Out: client.SupplyScan{}, Status: 200, handle: a.acceptSupply},
	}
}

// maxInventory is of the document of a scan, in bytes.
const maxInventory = 32 << 20

func (a *API) addSupply(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActWriteEvidence, identity.ResourceEvidence, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	if err := wantMedia(r, "application/json"); err != nil {
		a.fail(w, r, err)
		return
	}
	b, err := body(w, r, maxInventory)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	i, err := supply.Read(b)
	if err != nil {
		a.fail(w, r, fault.Newf(fault.KindOf(err), "inventory: %w", err))
		return
	}
	x, err := a.o.Supply.Add(r.Context(), identity.FromContext(r.Context()).Actor(), i)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusCreated, wireSupply(x))
}

func (a *API) supplyScans(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	latest, err := flag(r, "latest")
	if err != nil {
		a.fail(w, r, err)
		return
	}
	n, err := limit(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	q := r.URL.Query()
	found, err := a.o.Supply.Runs(r.Context(), supply.Filter{Estate: q.Get("estate"), Latest: latest, After: q.Get("after"), Limit: n})
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.SupplyScan]{Items: []client.SupplyScan{}}
	for _, x := range found {
		out.Items = append(out.Items, wireSupply(x))
	}
	if len(found) == n {
		out.Next = found[n-1].ID
	}
	WriteJSON(w, http.StatusOK, out)
}

// findSupply finds what a request names, for one who may read it.
func (a *API) findSupply(r *http.Request) (*supply.Run, *supply.Inventory, error) {
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
		return nil, nil, err
	}
	return a.o.Supply.Run(r.Context(), r.PathValue("id"))
}

func (a *API) supplyScan(w http.ResponseWriter, r *http.Request) {
	x, _, err := a.findSupply(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, wireSupply(x))
}

func (a *API) supplyInventory(w http.ResponseWriter, r *http.Request) {
	_, i, err := a.findSupply(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, i)
}

func (a *API) acceptSupply(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActApprove, identity.ResourceEvidence, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	var q client.SupplyAccept
	if err := readStrict(w, r, &q); err != nil {
		a.fail(w, r, err)
		return
	}
	x, err := a.o.Supply.Accept(r.Context(), identity.FromContext(r.Context()).Actor(), q.ID, q.Reason)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, wireSupply(x))
}

func wireSupply(x *supply.Run) client.SupplyScan {
	out := client.SupplyScan{
		ID: x.ID, Estate: x.Estate, Provider: string(x.Provider), URL: x.URL, Targets: x.Targets, Actor: x.Actor, ClaimedAt: x.Claimed, TakenAt: x.Taken,
		Items: x.Items, Findings: x.Findings, Unknown: x.Unknown, Baseline: x.Current, AcceptedBy: x.AcceptedBy, Reason: x.Reason,
		Drift: client.SupplyDrift{State: x.Drift.State, Baseline: x.Drift.Baseline, Count: x.Drift.Count,
			Changes: []client.SupplyChange{}, Findings: []client.SupplyFinding{}, Lost: []client.SupplyUnknown{}},
	}
	if !x.Accepted.IsZero() {
		out.AcceptedAt = &x.Accepted
	}
	for _, c := range x.Drift.Changes {
		out.Drift.Changes = append(out.Drift.Changes, client.SupplyChange(c))
	}
	for _, f := range x.Drift.Findings {
		out.Drift.Findings = append(out.Drift.Findings, client.SupplyFinding(f))
	}
	for _, u := range x.Drift.Lost {
		out.Drift.Lost = append(out.Drift.Lost, client.SupplyUnknown(u))
	}
	return out
}
