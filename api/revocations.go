package api

import (
	"context"
	"net/http"

	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Revocations is what the API asks of the site's list.
type Revocations interface {
	List(ctx context.Context) (*client.RevocationList, error)
	Signed(ctx context.Context, export bool) ([]byte, error)
	Revoke(ctx context.Context, q client.RevokeRequest) (*client.RevokeAnswer, error)
	Replace(ctx context.Context, envelope []byte) (*client.RevokeAnswer, error)
}

const (
	envelopeType      = "application/vnd.dsse.envelope.v1+json"
	maxRevokeRequest  = 4 << 20
	maxSignedRevoking = 12 << 20
)

func (a *API) revocationRoutes() []Route {
	return []Route{
		// The list itself is public: TUF publishes it.
		{Method: "GET", Path: "/api/v1/trust/revocations", Summary: "What is trusted no more, and since when", Out: client.RevocationList{}, Status: 200, handle: a.revocations},
		{Method: "GET", Path: "/api/v1/trust/revocations/signed", Summary: "The signed list, for a verifier elsewhere",
			Query: []Param{{"export", "true: one that holds for 30 days"}}, Out: RawBytes{"application/json"}, Status: 200, handle: a.signedRevocations},
		{Method: "POST", Path: "/api/v1/trust/revocations", Summary: "Revoke, or with plan say what that would take", Action: identity.ActRevoke,
			In: client.RevokeRequest{}, Out: client.RevokeAnswer{}, Status: 200, handle: a.revoke},
		{Method: "PUT", Path: "/api/v1/trust/revocations", Summary: "Replace the list by one that the offline root signed, which may take entries back", Action: identity.ActAdmin,
			In: RawBytes{envelopeType}, Out: client.RevokeAnswer{}, Status: 200, handle: a.replaceRevocations},
	}
}

func (a *API) revocations(w http.ResponseWriter, r *http.Request) {
	l, err := a.o.Revocations.List(r.Context())
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if identity.FromContext(r.Context()).IsAnonymous() {
		for i := range l.Entries {
			l.Entries[i].Requester = "" // for those who are known here
		}
	}
	WriteJSON(w, http.StatusOK, l)
}

func (a *API) signedRevocations(w http.ResponseWriter, r *http.Request) {
	export, err := flag(r, "export")
	if err == nil && export {
		// Each is signed and logged: not for everybody.
		err = a.allow(r, identity.ActVerify, identity.ResourceConfig, "")
	}
	var b []byte
	if err == nil {
		b, err = a.o.Revocations.Signed(r.Context(), export)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

func (a *API) revoke(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActRevoke, identity.ResourceConfig, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	answer, err := func() (*client.RevokeAnswer, error) {
		if err := wantMedia(r, "application/json"); err != nil {
			return nil, err
		}
		b, err := body(w, r, maxRevokeRequest)
		if err != nil {
			return nil, err
		}
		var q client.RevokeRequest
		if err := strictjson.Unmarshal(b, &q, strictjson.RejectUnknown()); err != nil {
			return nil, fault.Newf(fault.Invalid, "request: %w", err)
		}
		return a.o.Revocations.Revoke(r.Context(), q)
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, answer)
}

func (a *API) replaceRevocations(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActAdmin, identity.ResourceConfig, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	if err := wantMedia(r, envelopeType); err != nil {
		a.fail(w, r, err)
		return
	}
	b, err := body(w, r, maxSignedRevoking)
	var answer *client.RevokeAnswer
	if err == nil {
		answer, err = a.o.Revocations.Replace(r.Context(), b)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, answer)
}
