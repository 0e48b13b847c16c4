package api

import (
	"encoding/json"
	"net/http"
	"strconv"

	"assay/client"
	"assay/identity"
	"assay/internal/fault"
)

// heads answers GET /api/v1/heads.
func (a *API) heads(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActReadAudit, identity.ResourceAudit, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	n, err := limit(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	var after int64
	if text := r.URL.Query().Get("after"); text != "" {
		if after, err = strconv.ParseInt(text, 10, 64); err != nil || after < 0 {
			a.fail(w, r, fault.Newf(fault.Invalid, "after %.40q: want a batch number", text))
			return
		}
	}
	heads, err := a.o.Events.Heads(r.Context(), after, n)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	page := client.List[json.RawMessage]{Items: []json.RawMessage{}}
	for _, h := range heads {
		b, err := json.Marshal(h)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		page.Items = append(page.Items, b)
	}
	if len(heads) == n {
		page.Next = strconv.FormatInt(heads[len(heads)-1].Batch, 10)
	}
	WriteJSON(w, http.StatusOK, page)
}
