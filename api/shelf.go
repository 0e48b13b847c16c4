package api

import (
	"net/http"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/registry"
	"assay/registry/gate"
	"assay/store"
	"assay/verify"
)

// shelfRoutes list what lies in the registry.
func (a *API) shelfRoutes() []Route {
	list := []Param{{"after", "cursor"}, {"limit", "at most 1000"}}
	return []Route{
		{Method: "GET", Path: "/api/v1/registry/artifacts", Summary: "Artifacts, the last pushed first; a page may be short of its limit and still have a next one", Action: identity.ActVerify,
			Query: append([]Param{{"repository", "its name, or how it begins, with * at the end"}, {"state", "of the gate"}}, list...),
			Out:   client.List[gate.Listed]{}, Status: 200, handle: a.artifacts},
		{Method: "GET", Path: "/api/v1/registry/repositories", Summary: "Repositories by name, and how much lies in them", Action: identity.ActVerify,
			Query: list, Out: client.List[gate.ListedRepository]{}, Status: 200, handle: a.repositories},
		{Method: "GET", Path: "/api/v1/registry/tags", Summary: "Tags of a repository by name", Action: identity.ActVerify,
			Query: append([]Param{{"repository", "name, without the host"}}, list...), Out: client.List[gate.ListedTag]{}, Status: 200, handle: a.tags},
		{Method: "GET", Path: "/api/v1/registry/places", Summary: "Repositories that hold a digest, and its tags there", Action: identity.ActVerify,
			Query: []Param{{"digest", "sha256:…"}}, Out: client.List[client.ArtifactPlace]{}, Status: 200, handle: a.places},
		{Method: "GET", Path: "/api/v1/decision-history", Summary: "Decisions about a digest that were ever made, the newest first", Action: identity.ActVerify,
			Query: append([]Param{{"digest", "sha256:…"}}, list...), Out: client.List[verify.Past]{}, Status: 200, handle: a.decisionHistory},
	}
}

// seesRepository remembers, for one request, which repositories the caller may
// ask about.
func (a *API) seesRepository(r *http.Request) func(string) bool {
	known := map[string]bool{}
	return func(name string) bool {
		may, asked := known[name]
		if !asked {
			may = a.allow(r, identity.ActVerify, identity.ResourceDecision, name) == nil
			known[name] = may
		}
		return may
	}
}

func (a *API) artifacts(w http.ResponseWriter, r *http.Request) {
	err := a.o.Access.Somewhere(identity.FromContext(r.Context()), identity.ActVerify)
	var n int
	if err == nil {
		n, err = limit(r)
	}
	q := r.URL.Query()
	if len(q.Get("repository")) > 300 && err == nil {
		err = fault.Newf(fault.Invalid, "repository: want at most 300 bytes")
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	list, next, err := a.o.Gate.List(r.Context(), gate.ListQuery{
		Repository: q.Get("repository"), State: gate.State(q.Get("state")), After: q.Get("after"), Limit: n, Sees: a.seesRepository(r),
	})
	a.answer(w, r, http.StatusOK, client.List[gate.Listed]{Items: append([]gate.Listed{}, list...), Next: next}, err)
}

func (a *API) repositories(w http.ResponseWriter, r *http.Request) {
	err := a.o.Access.Somewhere(identity.FromContext(r.Context()), identity.ActVerify)
	var n int
	if err == nil {
		n, err = limit(r)
	}
	var after string
	if err == nil {
		after, err = readCursor("repositories", r.URL.Query().Get("after"))
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	list, next, err := a.o.Gate.Repositories(r.Context(), after, n, a.seesRepository(r))
	if next != "" {
		next = writeCursor("repositories", next)
	}
	a.answer(w, r, http.StatusOK, client.List[gate.ListedRepository]{Items: append([]gate.ListedRepository{}, list...), Next: next}, err)
}

func (a *API) tags(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("repository")
	err := a.allow(r, identity.ActVerify, identity.ResourceDecision, name)
	if err == nil && !registry.ValidName(name) {
		err = fault.Newf(fault.Invalid, "repository %.300q: want a name without the host", name)
	}
	var n int
	if err == nil {
		n, err = limit(r)
	}
	var after string
	if err == nil {
		after, err = readCursor("tags", r.URL.Query().Get("after"))
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	list, err := a.o.Gate.Tags(r.Context(), name, after, n)
	page := client.List[gate.ListedTag]{Items: append([]gate.ListedTag{}, list...)}
	if len(list) == n {
		page.Next = writeCursor("tags", list[n-1].Tag)
	}
	a.answer(w, r, http.StatusOK, page, err)
}

func (a *API) places(w http.ResponseWriter, r *http.Request) {
	err := a.o.Access.Somewhere(identity.FromContext(r.Context()), identity.ActVerify)
	var d artifact.Digest
	if err == nil {
		d, err = artifact.ParseDigest(r.URL.Query().Get("digest"))
	}
	var list []registry.Place
	if err == nil {
		err = a.o.DB.View(r.Context(), func(tx *store.Tx) (err error) {
			list, err = registry.Places(r.Context(), tx, d)
			return err
		})
	}
	page := client.List[client.ArtifactPlace]{Items: []client.ArtifactPlace{}}
	sees := a.seesRepository(r)
	for _, p := range list {
		if sees(p.Repository) {
			page.Items = append(page.Items, client.ArtifactPlace{Repository: p.Repository, Tags: p.Tags})
		}
	}
	a.answer(w, r, http.StatusOK, page, err)
}

func (a *API) decisionHistory(w http.ResponseWriter, r *http.Request) {
	err := a.o.Access.Somewhere(identity.FromContext(r.Context()), identity.ActVerify)
	var d artifact.Digest
	if err == nil {
		d, err = artifact.ParseDigest(r.URL.Query().Get("digest"))
	}
	var n int
	if err == nil {
		n, err = limit(r)
	}
	var before time.Time
	if err == nil {
		var after string
		if after, err = readCursor("decisions", r.URL.Query().Get("after")); err == nil && after != "" {
			before, err = time.Parse(time.RFC3339Nano, after)
		}
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	list, err := a.o.Engine.History(r.Context(), d, before, n)
	page := client.List[verify.Past]{Items: []verify.Past{}}
	sees := a.seesRepository(r)
	for _, p := range list {
		if sees(repositoryOf(p.ScopeID)) {
			page.Items = append(page.Items, p)
		}
	}
	if len(list) == n {
		page.Next = writeCursor("decisions", list[n-1].DecidedAt.Format(time.RFC3339Nano))
	}
	a.answer(w, r, http.StatusOK, page, err)
}

// ServeAs serves one request of a part of this process that has authenticated
// the caller itself, as the UI does by its sessions. The caller's rights are
// asked for as at any other door.
func (a *API) ServeAs(w http.ResponseWriter, r *http.Request, p identity.Principal) {
	harden(w)
	a.mux.ServeHTTP(w, r.WithContext(identity.WithPrincipal(r.Context(), p)))
}
