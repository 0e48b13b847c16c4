package api

import (
	"net/http"
	"path"

	"assay/action"
	"assay/client"
	"assay/identity"
)

func (a *API) actionRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/actions", Summary: "What the site would do by itself to much of what runs, and waits for a person with; the newest first", Action: identity.ActReadEvidence,
			Query: []Param{{"after", "cursor"}, {"limit", "at most 1000"}, {"all", "true: also what was answered, and what was done without a question"}},
			Out:   client.List[action.Entry]{}, Status: 200, handle: a.listActions},
		{Method: "GET", Path: "/api/v1/actions/{id}", Summary: "One automatic action", Action: identity.ActReadEvidence, Out: action.Entry{}, Status: 200, handle: a.showAction},
		{Method: "POST", Path: "/api/v1/actions/{id}/approve", Summary: "Have an automatic action carried out that waits", Action: identity.ActApprove, In: client.Answer{}, Out: action.Entry{}, Status: 200, handle: a.decideAction},
		{Method: "POST", Path: "/api/v1/actions/{id}/refuse", Summary: "Let go of what an automatic action would have done", Action: identity.ActApprove, In: client.Answer{}, Out: action.Entry{}, Status: 200, handle: a.decideAction},
	}
}

func (a *API) listActions(w http.ResponseWriter, r *http.Request) {
	out, err := func() (out client.List[action.Entry], err error) {
		out.Items = []action.Entry{}
		if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
			return out, err
		}
		q := action.Query{}
		if q.Limit, err = limit(r); err != nil {
			return out, err
		}
		if q.All, err = flag(r, "all"); err != nil {
			return out, err
		}
		if q.Before, err = readCursor("act", r.URL.Query().Get("after")); err != nil {
			return out, err
		}
		all, err := a.o.Actions.List(r.Context(), q)
		for _, e := range all {
			out.Items = append(out.Items, *e)
		}
		if n := len(all); n == q.Limit && err == nil {
			out.Next = writeCursor("act", all[n-1].ID)
		}
		return out, err
	}()
	a.answer(w, r, http.StatusOK, out, err)
}

func (a *API) showAction(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "")
	var e *action.Entry
	if err == nil {
		e, err = a.o.Actions.Get(r.Context(), r.PathValue("id"))
	}
	a.answer(w, r, http.StatusOK, e, err)
}

// decideAction serves both answers.
func (a *API) decideAction(w http.ResponseWriter, r *http.Request) {
	var in client.Answer
	err := a.allow(r, identity.ActApprove, identity.ResourceConfig, "")
	var e *action.Entry
	if err == nil {
		_, err = a.o.Actions.Get(r.Context(), r.PathValue("id"))
	}
	if err == nil {
		err = request(w, r, &in)
	}
	if err == nil {
		who := whoAsks(r)
		e, err = a.o.Actions.Decide(r.Context(), r.PathValue("id"), action.Who{Actor: who.Actor, Person: who.Person}, path.Base(r.URL.Path) == "approve", in.Reason)
	}
	a.answer(w, r, http.StatusOK, e, err)
}
