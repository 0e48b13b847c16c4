package api

import (
	"net/http"

	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/registry/integrity"
)

// repairRoutes are the routes about damaged blobs.
func (a *API) repairRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/registry/damage", Summary: "Damaged blobs that wait for repair, and the repositories that need them", Action: identity.ActOperate,
			Out: client.List[client.Damage]{}, Status: 200, handle: a.damage},
		{Method: "POST", Path: "/api/v1/registry/repair", Summary: "Repair damaged blobs out of what the site knows: the upstream of a gateway's repository, replicas", Action: identity.ActOperate,
			In: client.RepairRequest{}, Out: client.List[client.Repair]{}, Status: 200, handle: a.repair},
		{Method: "PUT", Path: "/api/v1/registry/repair/{digest}", Summary: "Repair a damaged blob with these bytes, which must have its digest", Action: identity.ActOperate,
			Query: []Param{{"source", "where they are from, for the record"}}, In: RawBytes{"application/octet-stream"}, Out: client.Repair{}, Status: 200, handle: a.repairWith},
	}
}

// maxRepairs is how many digests one request may name.
const maxRepairs = 1000

func (a *API) damage(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActOperate, identity.ResourceConfig, "")
	var list []integrity.Damage
	if err == nil {
		list, err = a.o.Integrity.Damages(r.Context())
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.Damage]{Items: []client.Damage{}}
	for _, d := range list {
		out.Items = append(out.Items, client.Damage{
			Digest: d.Digest, Found: d.Found, FoundAt: d.FoundAt, Manifest: d.Manifest, Size: d.Size, Repositories: d.Repositories,
		})
	}
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) repair(w http.ResponseWriter, r *http.Request) {
	out, err := func() (*client.List[client.Repair], error) {
		if err := a.allow(r, identity.ActOperate, identity.ResourceConfig, ""); err != nil {
			return nil, err
		}
		var q client.RepairRequest
		if err := readStrict(w, r, &q); err != nil {
			return nil, err
		}
		if q.All == (len(q.Digests) > 0) || len(q.Digests) > maxRepairs {
			return nil, fault.Newf(fault.Invalid, "want digests, at most %d, or all", maxRepairs)
		}
		for _, d := range q.Digests {
			if err := d.Validate(); err != nil {
				return nil, err
			}
		}
		unhurried(w, r)
		if q.All {
			known, err := a.o.Integrity.Damaged(r.Context())
			if err != nil {
				return nil, err
			}
			for _, f := range known {
				q.Digests = append(q.Digests, f.Digest)
			}
		}
		out := &client.List[client.Repair]{Items: []client.Repair{}}
		for _, d := range q.Digests {
			m, err := a.o.Integrity.Mend(r.Context(), d, a.actor(r))
			if err != nil {
				return nil, err
			}
			out.Items = append(out.Items, repairOf(m))
		}
		return out, nil
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}

func repairOf(m *integrity.Mending) client.Repair {
	out := client.Repair{Digest: m.Digest, State: m.State, Source: m.Source}
	for _, t := range m.Tried {
		out.Tried = append(out.Tried, client.RepairTry{Source: t.Source, Error: t.Err.Error()})
	}
	return out
}

func (a *API) repairWith(w http.ResponseWriter, r *http.Request) {
	out, err := func() (*client.Repair, error) {
		if err := a.allow(r, identity.ActOperate, identity.ResourceConfig, ""); err != nil {
			return nil, err
		}
		if err := wantMedia(r, "application/octet-stream"); err != nil {
			return nil, err
		}
		d, err := artifact.ParseDigest(r.PathValue("digest"))
		if err != nil {
			return nil, err
		}
		body, _ := unhurried(w, r)
		found, err := a.o.Integrity.Check(r.Context(), d)
		if err != nil {
			return nil, err
		}
		if found == nil {
			return &client.Repair{Digest: d, State: integrity.Whole}, nil
		}
		by := integrity.By{Actor: a.actor(r), Source: r.URL.Query().Get("source")}
		if by.Source == "" {
			by.Source = "an upload"
		}
		if err := a.o.Integrity.Repair(r.Context(), d, by, body); err != nil {
			return nil, err
		}
		return &client.Repair{Digest: d, State: integrity.Repaired, Source: by.Source}, nil
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) actor(r *http.Request) string { return identity.FromContext(r.Context()).Actor() }
