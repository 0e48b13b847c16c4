package api

import (
	"cmp"
	"maps"
	"net/http"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/inventory"
	"assay/store"
)

func (a *API) inventoryRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/inventory/services", Summary: "Services, how much hangs on them, and whose they are", Action: identity.ActReadEvidence, Out: client.List[client.Service]{}, Status: 200, handle: a.services},
		{Method: "GET", Path: "/api/v1/inventory/services/{name}", Summary: "One service", Action: identity.ActReadEvidence, Out: client.Service{}, Status: 200, handle: a.service},
		{Method: "GET", Path: "/api/v1/inventory/clusters", Summary: "Clusters of which something was heard, and when", Action: identity.ActReadEvidence, Out: client.List[client.ReportingCluster]{}, Status: 200, handle: a.clusters},
		{Method: "GET", Path: "/api/v1/inventory/workloads", Summary: "What runs where, or ran at a time", Action: identity.ActReadEvidence,
			Query: []Param{{"at", "RFC 3339; empty: now"}, {"digest", "what runs"}, {"cluster", "by whose grants it is read too"}, {"namespace", "in it"}, {"service", "to which it belongs"},
				{"team", "whose it is"}, {"unowned", "true: of no service"}, {"after", "cursor"}, {"limit", "at most 1000"}},
			Out: client.List[client.Workload]{}, Status: 200, handle: a.workloads},
		{Method: "POST", Path: "/api/v1/inventory/report", Summary: "Say what runs in a cluster", Action: identity.ActDeploy,
			In: client.WorkloadReport{}, Out: client.WorkloadChanges{}, Status: 200, handle: a.reportWorkloads},
	}
}

// clusterResource is what a reporter of a cluster, or one who reads it alone, is
// granted.
func clusterResource(name string) string {
	if name == "" {
		return ""
	}
	return "clusters/" + name
}

func (a *API) services(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "")
	var running map[string]int
	if err == nil {
		running, err = a.o.Inventory.Count(r.Context())
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.Service]{Items: []client.Service{}}
	book := a.o.Inventory.Catalogue()
	for _, s := range book.Services() {
		out.Items = append(out.Items, wireService(book, s, running[s.Name]))
	}
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) service(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "")
	book := a.o.Inventory.Catalogue()
	s := book.Service(r.PathValue("name"))
	if err == nil && s == nil {
		err = fault.Newf(fault.NotFound, "there is no service %.80q; assay inventory services lists them", r.PathValue("name"))
	}
	var running map[string]int
	if err == nil {
		running, err = a.o.Inventory.Count(r.Context())
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, wireService(book, s, running[s.Name]))
}

func wireService(book *inventory.Catalogue, s *inventory.Service, running int) client.Service {
	t, _ := book.Team(s.Team)
	out := client.Service{Name: s.Name, Description: s.Description, Tier: s.Criticality(), Classified: s.Classified(), Team: s.Team, Environment: s.Environment, Production: inventory.Production(s.Environment),
		Exposure: s.Reach(), Labels: s.Labels, Contacts: t.Contacts, Repositories: s.Repositories, Digests: s.Digests, Running: running}
	if len(t.Routes)+len(s.Routes) > 0 {
		out.Routes = map[string]string{}
		maps.Copy(out.Routes, t.Routes)
		maps.Copy(out.Routes, s.Routes)
	}
	for _, x := range s.Workloads {
		out.Selectors = append(out.Selectors, client.ServiceSelector(x))
	}
	return out
}

func (a *API) clusters(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActReadEvidence, identity.ResourceCluster, "")
	var all []inventory.Reporting
	if err == nil {
		all, err = a.o.Inventory.Clusters(r.Context())
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	out := client.List[client.ReportingCluster]{Items: []client.ReportingCluster{}}
	for _, c := range all {
		out.Items = append(out.Items, client.ReportingCluster{Name: c.Name, Environment: c.Environment, Reporter: c.Reporter, FirstSeen: c.FirstSeen, Seen: c.Seen, Complete: known(c.Complete), Silent: c.Silent})
	}
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) workloads(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	out, err := func() (out client.List[client.Workload], err error) {
		out.Items = []client.Workload{}
		if err := a.allow(r, identity.ActReadEvidence, identity.ResourceCluster, clusterResource(q.Get("cluster"))); err != nil {
			return out, err
		}
		f := inventory.Filter{Cluster: q.Get("cluster"), Namespace: q.Get("namespace"), Service: q.Get("service"), Team: q.Get("team"), After: q.Get("after")}
		if f.Unowned, err = flag(r, "unowned"); err != nil {
			return out, err
		}
		if f.Limit, err = limit(r); err != nil {
			return out, err
		}
		if d := q.Get("digest"); d != "" {
			if f.Digest, err = artifact.ParseDigest(d); err != nil {
				return out, err
			}
		}
		if at := q.Get("at"); at != "" {
			if f.At, err = time.Parse(time.RFC3339, at); err != nil {
				return out, fault.Newf(fault.Invalid, "at %.40q: want a time of RFC 3339, for example 2026-03-03T12:00:00Z", at)
			}
		}
		all, next, err := a.o.Inventory.List(r.Context(), f)
		for i := range all {
			out.Items = append(out.Items, wireWorkload(&all[i]))
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

func wireWorkload(r *inventory.Running) client.Workload {
	return client.Workload{Cluster: r.Cluster, Namespace: r.Namespace, Kind: r.Kind, Name: r.Name, Instance: r.Instance, Container: r.Container, Image: r.Image, Digest: r.Digest, Node: r.Node,
		Service: r.Service, Team: r.Team, Environment: r.Environment, Production: r.Production(), FirstSeen: r.FirstSeen, LastSeen: r.LastSeen, Ended: known(r.Ended), Silent: r.Silent}
}

// maxReport is the largest report in bytes: some 200,000 workloads.
const maxReport = 128 << 20

func (a *API) reportWorkloads(w http.ResponseWriter, r *http.Request) {
	out, err := func() (out client.WorkloadChanges, err error) {
		// Who may report of no cluster at all is refused before the body is read.
		p := identity.FromContext(r.Context())
		if err := a.o.Access.Somewhere(p, identity.ActDeploy); err != nil {
			return out, err
		}
		b, err := body(w, r, maxReport)
		if err != nil {
			return out, err
		}
		var q client.WorkloadReport
		if err := strictjson.Unmarshal(b, &q, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxReport)); err != nil {
			return out, fault.Newf(fault.Invalid, "request: %w", err)
		}
		snap := Snapshot(q, p.Actor())
		if err := snap.Validate(); err != nil {
			return out, err
		}
		if err := a.allow(r, identity.ActDeploy, identity.ResourceCluster, clusterResource(q.Cluster)); err != nil {
			return out, err
		}
		err = a.o.DB.Update(r.Context(), func(tx *store.Tx) error {
			done, err := a.o.Inventory.Observe(r.Context(), tx, snap)
			out = client.WorkloadChanges(done)
			return err
		})
		return out, err
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}

// Snapshot is a report as the inventory takes it.
func Snapshot(q client.WorkloadReport, reporter string) inventory.Snapshot {
	s := inventory.Snapshot{Cluster: q.Cluster, Environment: q.Environment, Reporter: reporter, Complete: q.Complete}
	for i := range q.Workloads {
		w := &q.Workloads[i]
		s.Workloads = append(s.Workloads, inventory.Workload{Key: keyOf(w), Image: w.Image, Digest: w.Digest, Node: w.Node})
	}
	for i := range q.Ended {
		s.Ended = append(s.Ended, keyOf(&q.Ended[i]))
	}
	s.Identities = identitiesOf(&q)
	return s
}

func keyOf(w *client.ReportedWorkload) inventory.Key {
	name := w.Name
	if name == "" && len(w.Digest) > 19 {
		name = string(w.Digest[:19])
	}
	return inventory.Key{Namespace: w.Namespace, Kind: cmp.Or(w.Kind, "Host"), Name: name, Instance: w.Instance, Container: w.Container}
}
