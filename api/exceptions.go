package api

import (
	"net/http"
	"path"

	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/policy/exception"
)

func (a *API) exceptionRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/exceptions", Summary: "What may run although checks fail, and requests that wait for another person; the newest first", Action: identity.ActReadEvidence,
			Query: []Param{{"digest", "about this artifact"}, {"after", "cursor"}, {"limit", "at most 1000"}, {"ended", "true: also what excuses nothing any more, or never did"}},
			Out:   client.List[exception.Entry]{}, Status: 200, handle: a.listExceptions},
		{Method: "POST", Path: "/api/v1/exceptions", Summary: "Ask for an exception: it excuses nothing until another person approves it", Action: identity.ActVerify,
			Query: []Param{{"repository", "by whose grants it is asked"}}, In: exception.Terms{}, Out: exception.Entry{}, Status: 201, handle: a.requestException},
		{Method: "GET", Path: "/api/v1/exceptions/{id}", Summary: "One exception", Action: identity.ActReadEvidence, Out: exception.Entry{}, Status: 200, handle: a.showException},
		{Method: "GET", Path: "/api/v1/exceptions/{id}/bundle", Summary: "What the site signed for an exception", Action: identity.ActReadEvidence, Out: RawBytes{bundleTypes[0]}, Status: 200, handle: a.exceptionBundle},
		{Method: "POST", Path: "/api/v1/exceptions/{id}/approve", Summary: "Put an exception in force, as another person than who asked", Action: identity.ActApprove, In: client.Answer{}, Out: exception.Entry{}, Status: 200, handle: a.decideException},
		{Method: "POST", Path: "/api/v1/exceptions/{id}/reject", Summary: "Answer a request for an exception with no", Action: identity.ActApprove, In: client.Answer{}, Out: exception.Entry{}, Status: 200, handle: a.decideException},
		{Method: "POST", Path: "/api/v1/exceptions/{id}/withdraw", Summary: "End an exception before its time: what it allowed is judged again now", Action: identity.ActApprove, In: client.Answer{}, Out: exception.Entry{}, Status: 200, handle: a.decideException},
	}
}

func (a *API) listExceptions(w http.ResponseWriter, r *http.Request) {
	out, err := func() (out client.List[exception.Entry], err error) {
		out.Items = []exception.Entry{}
		if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, ""); err != nil {
			return out, err
		}
		q := exception.Query{}
		if q.Limit, err = limit(r); err != nil {
			return out, err
		}
		if q.Ended, err = flag(r, "ended"); err != nil {
			return out, err
		}
		if text := r.URL.Query().Get("digest"); text != "" {
			if q.Digest, err = artifact.ParseDigest(text); err != nil {
				return out, err
			}
		}
		if q.Before, err = readCursor("exc", r.URL.Query().Get("after")); err != nil {
			return out, err
		}
		all, err := a.o.Exceptions.List(r.Context(), q)
		for _, e := range all {
			out.Items = append(out.Items, *e)
		}
		if n := len(all); n == q.Limit && err == nil {
			out.Next = writeCursor("exc", all[n-1].ID)
		}
		return out, err
	}()
	a.answer(w, r, http.StatusOK, out, err)
}

func (a *API) requestException(w http.ResponseWriter, r *http.Request) {
	var in exception.Terms
	err := a.allow(r, identity.ActVerify, identity.ResourceEvidence, r.URL.Query().Get("repository"))
	if err == nil {
		err = request(w, r, &in)
	}
	var e *exception.Entry
	if err == nil {
		e, err = a.o.Exceptions.Request(r.Context(), in, whoAsks(r))
	}
	a.answer(w, r, http.StatusCreated, e, err)
}

func whoAsks(r *http.Request) exception.Who {
	p := identity.FromContext(r.Context())
	return exception.Who{Actor: p.Actor(), Person: p.Person}
}

func (a *API) showException(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "")
	var e *exception.Entry
	if err == nil {
		e, err = a.o.Exceptions.Get(r.Context(), r.PathValue("id"))
	}
	a.answer(w, r, http.StatusOK, e, err)
}

func (a *API) exceptionBundle(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "")
	var b []byte
	if err == nil {
		b, err = a.o.Exceptions.Bundle(r.Context(), r.PathValue("id"))
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", bundleTypes[0])
	_, _ = w.Write(b)
}

// decideException serves the answers to a request, and the end of what was granted.
func (a *API) decideException(w http.ResponseWriter, r *http.Request) {
	var in client.Answer
	err := a.allow(r, identity.ActApprove, identity.ResourceConfig, "")
	var e *exception.Entry
	if err == nil {
		_, err = a.o.Exceptions.Get(r.Context(), r.PathValue("id"))
	}
	if err == nil {
		err = request(w, r, &in)
	}
	if err == nil {
		do := a.o.Exceptions.Approve
		switch path.Base(r.URL.Path) {
		case "reject":
			do = a.o.Exceptions.Reject
		case "withdraw":
			do = a.o.Exceptions.Withdraw
		}
		e, err = do(r.Context(), r.PathValue("id"), whoAsks(r), in.Reason)
	}
	a.answer(w, r, http.StatusOK, e, err)
}
