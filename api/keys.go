package api

import (
	"net/http"

	"assay/client"
	"assay/identity"
)

// keys answers GET /api/v1/keys.
func (a *API) keys(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadAudit, identity.ResourceAudit, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, client.List[client.Key]{Items: a.o.Keys()})
}
