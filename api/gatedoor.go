package api

import (
	"net/http"

	"assay/artifact"
	"assay/client"
	"assay/gate"
	"assay/identity"
	"assay/internal/fault"
)

// gateDoorRoutes are the routes for those who move software on.
func (a *API) gateDoorRoutes() []Route {
	return []Route{
		{Method: "POST", Path: "/api/v1/gate/canary", Summary: "May this canary go on? By verification, error budget and new findings, after a least duration and share of the traffic; for Argo Rollouts and people", Action: identity.ActVerify,
			In: client.CanaryQuestion{}, Out: client.CanaryAnswer{}, Status: 200, handle: a.gateCanary},
		{Method: "POST", Path: flaggerPath + "{hook}", Summary: "The same for Flagger's webhooks: 200 opens the gate, 409 keeps it shut; of hook rollback 200 rolls back", Action: identity.ActVerify,
			In: RawBytes{"application/json"}, Out: RawBytes{"text/plain"}, Status: 200, handle: a.gateFlagger},
		{Method: "POST", Path: "/api/v1/gate/check", Summary: "May what a build made run at a place, or else in a restricted namespace? For pipelines", Action: identity.ActVerify,
			In: client.CheckQuestion{}, Out: client.CheckAnswer{}, Status: 200, handle: a.gateCheck},
		{Method: "POST", Path: "/api/v1/gate/function", Summary: "May this package of a function be activated? It wants an allow, a bill of materials and a scan", Action: identity.ActVerify,
			In: client.FunctionQuestion{}, Out: client.FunctionAnswer{}, Status: 200, handle: a.gateFunction},
	}
}

func (a *API) gateCheck(w http.ResponseWriter, r *http.Request) {
	answer, err := func() (*client.CheckAnswer, error) {
		if err := a.somewhere(r, identity.ActVerify); err != nil {
			return nil, err
		}
		var q client.CheckQuestion
		if err := request(w, r, &q); err != nil {
			return nil, err
		}
		refs, err := gate.CheckImages(&q)
		if err == nil {
			err = a.mayAsk(r, refs)
		}
		if err != nil {
			return nil, err
		}
		return a.o.Doors.Check(r.Context(), identity.FromContext(r.Context()).Actor(), &q, refs)
	}()
	a.answer(w, r, http.StatusOK, answer, err)
}

func (a *API) gateFunction(w http.ResponseWriter, r *http.Request) {
	answer, err := func() (*client.FunctionAnswer, error) {
		if err := a.somewhere(r, identity.ActVerify); err != nil {
			return nil, err
		}
		var q client.FunctionQuestion
		if err := request(w, r, &q); err != nil {
			return nil, err
		}
		ref, err := gate.FunctionImage(&q)
		if err == nil {
			err = a.mayAsk(r, []artifact.Reference{ref})
		}
		if err != nil {
			return nil, err
		}
		return a.o.Doors.Function(r.Context(), identity.FromContext(r.Context()).Actor(), &q, ref)
	}()
	a.answer(w, r, http.StatusOK, answer, err)
}

// flaggerPath begins the routes that Flagger calls.
const flaggerPath = "/api/v1/gate/flagger/"

func (a *API) gateCanary(w http.ResponseWriter, r *http.Request) {
	answer, err := func() (*client.CanaryAnswer, error) {
		if err := a.somewhere(r, identity.ActVerify); err != nil {
			return nil, err
		}
		var q client.CanaryQuestion
		if err := request(w, r, &q); err != nil {
			return nil, err
		}
		return a.judgeCanary(r, &q)
	}()
	a.answer(w, r, http.StatusOK, answer, err)
}

// somewhere says whether the caller may do something at all, before its question is
// read.
func (a *API) somewhere(r *http.Request, act identity.Action) error {
	return a.o.Access.Somewhere(identity.FromContext(r.Context()), act)
}

func (a *API) judgeCanary(r *http.Request, q *client.CanaryQuestion) (*client.CanaryAnswer, error) {
	ctx := r.Context()
	refs, err := a.o.Doors.Images(ctx, q)
	if err == nil {
		if err = a.mayAsk(r, refs); err != nil && len(q.Images) == 0 {
			err = gate.NotSeen(q) // what others run is not told by refusing to
		}
	}
	if err != nil {
		return nil, err
	}
	asks := gate.Asker{Actor: identity.FromContext(ctx).Actor(), ReadsAll: a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "") == nil}
	return a.o.Doors.Canary(ctx, asks, q, refs)
}

// mayAsk says whether the caller may ask about images. Those of other registries
// are for who may ask about everything.
func (a *API) mayAsk(r *http.Request, refs []artifact.Reference) error {
	for _, ref := range refs {
		repository := ref.Repository
		if ref.Host != a.o.Host() {
			repository = ""
		}
		if err := a.allow(r, identity.ActVerify, identity.ResourceDecision, repository); err != nil {
			return err
		}
	}
	return nil
}

// gateFlagger answers in text, which Flagger writes into the canary's events.
func (a *API) gateFlagger(w http.ResponseWriter, r *http.Request) {
	var hook gate.Hook
	answer, err := func() (*client.CanaryAnswer, error) {
		if err := a.somewhere(r, identity.ActVerify); err != nil {
			return nil, err
		}
		var err error
		if hook, err = gate.ParseHook(r.PathValue("hook")); err != nil {
			return nil, err
		}
		if err := wantMedia(r, "application/json"); err != nil {
			return nil, err
		}
		b, err := body(w, r, 64<<10)
		if err != nil {
			return nil, err
		}
		q, err := gate.ParseFlagger(b)
		if err != nil {
			return nil, err
		}
		return a.judgeCanary(r, q)
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	text := answer.Verdict + ": " + answer.Why(2000)
	if v := answer.Advice; v != nil && v.Image != "" {
		text += "; go back to " + v.Image
	}
	if !hook.Opens(answer) {
		a.problem(w, r, http.StatusConflict, fault.Newf(fault.Conflict, "%s", text))
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(text + "\n")) // the client may be gone
}

// basicToken gives the token of a request whose client can send an address with
// user and password only: Flagger's webhooks have no headers.
func basicToken(r *http.Request) (string, error) {
	_, token, ok := r.BasicAuth()
	if !ok || token == "" {
		return "", fault.Newf(fault.Unauthenticated, "Authorization: want Basic with a token as the password")
	}
	return token, nil
}
