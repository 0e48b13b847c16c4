package api

import (
	"net/http"

	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/inventory"
)

// identityRoutes are the routes about workloads' identities and meshes.
func (a *API) identityRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/inventory/identities", Summary: "SPIFFE identities of workloads, and their meshes' mutual TLS", Action: identity.ActReadEvidence,
			Query: []Param{{"cluster", "by whose grants it is read too"}, {"namespace", "in it"}, {"mtls", "strict, permissive, disabled, none or unknown"}, {"spiffe_id", "that have it"}, {"after", "cursor"}, {"limit", "at most 1000"}},
			Out:   client.List[client.WorkloadIdentity]{}, Status: 200, handle: a.identities},
	}
}

func (a *API) identities(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	out, err := func() (out client.List[client.WorkloadIdentity], err error) {
		out.Items = []client.WorkloadIdentity{}
		if err := a.allow(r, identity.ActReadEvidence, identity.ResourceCluster, clusterResource(q.Get("cluster"))); err != nil {
			return out, err
		}
		f := inventory.IdentityFilter{Cluster: q.Get("cluster"), Namespace: q.Get("namespace"), MTLS: inventory.MTLS(q.Get("mtls")), SPIFFEID: q.Get("spiffe_id"), After: q.Get("after")}
		switch f.MTLS {
		case "", inventory.MTLSStrict, inventory.MTLSPermissive, inventory.MTLSDisabled, inventory.MTLSNone, inventory.MTLSUnknown:
		default:
			return out, fault.Newf(fault.Invalid, "mtls %.40q: want strict, permissive, disabled, none or unknown", f.MTLS)
		}
		if f.Limit, err = limit(r); err != nil {
			return out, err
		}
		all, next, err := a.o.Inventory.Identities(r.Context(), f)
		for _, k := range all {
			out.Items = append(out.Items, client.WorkloadIdentity{
				Cluster: k.Cluster, Namespace: k.Namespace, Kind: k.Kind, Name: k.Name, SPIFFEIDs: k.SPIFFEIDs, Source: string(k.Source), Mesh: k.Mesh, MTLS: string(k.MTLS), Since: k.Since, Silent: k.Silent,
			})
		}
		out.Next = next
		return out, err
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}

// identitiesOf are those of a report, as the inventory takes them.
func identitiesOf(q *client.WorkloadReport) (out []inventory.Identity) {
	for _, i := range q.Identities {
		out = append(out, inventory.Identity{Namespace: i.Namespace, Kind: i.Kind, Name: i.Name, SPIFFEIDs: i.SPIFFEIDs, Source: inventory.IdentitySource(i.Source), Mesh: i.Mesh, MTLS: inventory.MTLS(i.MTLS)})
	}
	return out
}
