package api

import (
	"context"
	"net/http"

	"assay/client"
	"assay/identity"
)

// ForeignTrust keeps the imported roots of trust. Errors are of the kinds
// Invalid, Conflict, TooLarge and NotFound, or say that the database failed.
// What returned without one is in force here and durable.
type ForeignTrust interface {
	Import(ctx context.Context, actor string, doc []byte) (client.ForeignRoot, error)
	Remove(ctx context.Context, actor, name string) error
	List() []client.ForeignRoot
	Document(name string) ([]byte, error)
	Export() []byte
}

// Delegations keeps what was handed to teams and vendors, on the same terms; a
// delegation that does not verify or widens is Denied.
type Delegations interface {
	Delegate(ctx context.Context, actor string, doc []byte) (client.Delegation, error)
	HandOn(ctx context.Context, actor string, bundle []byte) (client.Delegation, error)
	Remove(ctx context.Context, actor, name string) error
	List() []client.Delegation
	Export() []byte
}

// trustRoutes are the rows about foreign roots and delegations. Reading them
// wants no role: TUF publishes the same.
func (a *API) trustRoutes() []Route {
	raw := RawBytes{"application/json"}
	return []Route{
		{Method: "POST", Path: "/api/v1/trust/roots", Summary: "Import a foreign root of trust, or change one", Action: identity.ActAdmin, In: raw, Out: client.ForeignRoot{}, Status: 201, handle: a.importRoot},
		{Method: "GET", Path: "/api/v1/trust/roots", Summary: "The imported roots of trust", Out: client.List[client.ForeignRoot]{}, Status: 200, handle: a.listRoots},
		{Method: "GET", Path: "/api/v1/trust/roots/{name}", Summary: "One imported root, as it was imported", Out: raw, Status: 200, handle: a.showRoot},
		{Method: "DELETE", Path: "/api/v1/trust/roots/{name}", Summary: "End an imported root", Action: identity.ActAdmin, Out: struct{}{}, Status: 200, handle: a.removeRoot},
		{Method: "GET", Path: "/api/v1/trust/foreign-roots", Summary: "foreign_roots.json, for offline verifiers", Out: raw, Status: 200, handle: a.exported(func() []byte { return a.o.Foreign.Export() })},
		{Method: "POST", Path: "/api/v1/trust/delegations", Summary: "Hand a repository pattern and predicate types to identities or keys", Action: identity.ActAdmin, In: raw, Out: client.Delegation{}, Status: 201, handle: a.delegate},
		{Method: "POST", Path: "/api/v1/trust/delegations/signed", Summary: "Hand on what was delegated: a bundle that a delegate signed", Action: identity.ActWriteEvidence, In: raw, Out: client.Delegation{}, Status: 201, handle: a.handOn},
		{Method: "GET", Path: "/api/v1/trust/delegations", Summary: "All delegations", Out: client.List[client.Delegation]{}, Status: 200, handle: a.listDelegations},
		{Method: "DELETE", Path: "/api/v1/trust/delegations", Summary: "End a delegation", Action: identity.ActAdmin, Query: []Param{{"name", "of the delegation"}}, Out: struct{}{}, Status: 200, handle: a.removeDelegation},
		{Method: "GET", Path: "/api/v1/trust/delegations/export", Summary: "delegations.json, for offline verifiers", Out: raw, Status: 200, handle: a.exported(func() []byte { return a.o.Delegations.Export() })},
	}
}

// changeTrust asks for the right, reads the body and answers with what fn gives.
func (a *API) changeTrust(w http.ResponseWriter, r *http.Request, act identity.Action, kind string, status int, fn func(ctx context.Context, actor string, body []byte) (any, error)) {
	if err := a.allow(r, act, kind, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	var b []byte
	if r.Method == http.MethodPost {
		err := wantMedia(r, "application/json")
		if err == nil {
			b, err = body(w, r, maxDocuments)
		}
		if err != nil {
			a.fail(w, r, err)
			return
		}
	}
	out, err := fn(r.Context(), identity.FromContext(r.Context()).Actor(), b)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, status, out)
}

func (a *API) importRoot(w http.ResponseWriter, r *http.Request) {
	a.changeTrust(w, r, identity.ActAdmin, identity.ResourceConfig, http.StatusCreated, func(ctx context.Context, actor string, b []byte) (any, error) {
		return a.o.Foreign.Import(ctx, actor, b)
	})
}

func (a *API) listRoots(w http.ResponseWriter, _ *http.Request) {
	WriteJSON(w, http.StatusOK, client.List[client.ForeignRoot]{Items: a.o.Foreign.List()})
}

func (a *API) showRoot(w http.ResponseWriter, r *http.Request) {
	b, err := a.o.Foreign.Document(r.PathValue("name"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

func (a *API) removeRoot(w http.ResponseWriter, r *http.Request) {
	a.changeTrust(w, r, identity.ActAdmin, identity.ResourceConfig, http.StatusOK, func(ctx context.Context, actor string, _ []byte) (any, error) {
		return struct{}{}, a.o.Foreign.Remove(ctx, actor, r.PathValue("name"))
	})
}

func (a *API) exported(get func() []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(get())
	}
}

func (a *API) delegate(w http.ResponseWriter, r *http.Request) {
	a.changeTrust(w, r, identity.ActAdmin, identity.ResourceConfig, http.StatusCreated, func(ctx context.Context, actor string, b []byte) (any, error) {
		return a.o.Delegations.Delegate(ctx, actor, b)
	})
}

func (a *API) handOn(w http.ResponseWriter, r *http.Request) {
	a.changeTrust(w, r, identity.ActWriteEvidence, identity.ResourceEvidence, http.StatusCreated, func(ctx context.Context, actor string, b []byte) (any, error) {
		return a.o.Delegations.HandOn(ctx, actor, b)
	})
}

func (a *API) listDelegations(w http.ResponseWriter, _ *http.Request) {
	WriteJSON(w, http.StatusOK, client.List[client.Delegation]{Items: a.o.Delegations.List()})
}

func (a *API) removeDelegation(w http.ResponseWriter, r *http.Request) {
	a.changeTrust(w, r, identity.ActAdmin, identity.ResourceConfig, http.StatusOK, func(ctx context.Context, actor string, _ []byte) (any, error) {
		return struct{}{}, a.o.Delegations.Remove(ctx, actor, r.URL.Query().Get("name"))
	})
}
