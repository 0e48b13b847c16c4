package api

import (
	"net/http"

	"assay/client"
	"assay/identity"
	"assay/internal/strictjson"
)

// keys answers GET /api/v1/keys.
func (a *API) keys(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadAudit, identity.ResourceAudit, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, client.List[client.Key]{Items: a.o.Keys()})
}

// rotateKey answers POST /api/v1/keys/{role}/rotate.
func (a *API) rotateKey(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActAdmin, identity.ResourceConfig, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	var q client.RotateKeyRequest
	if err := wantMedia(r, "application/json"); err != nil {
		a.fail(w, r, err)
		return
	}
	b, err := body(w, r, 64<<10)
	if err == nil {
		err = strictjson.Unmarshal(b, &q, strictjson.RejectUnknown())
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	key, err := a.o.Rotate(r.Context(), r.PathValue("role"), q)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, key)
}
