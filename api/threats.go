package api

import (
	"context"
	"net/http"

	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/inventory/threat"
)

// Threats takes in what sensors report.
type Threats interface {
	Take(ctx context.Context, reporter string, list []threat.Report) (threat.Taken, error)
	List(ctx context.Context, digest artifact.Digest, cluster string, limit int) ([]threat.Seen, error)
	// DigestOf gives the digest of a container's image; "" unknown.
	DigestOf(ctx context.Context, cluster, namespace, pod, container string) (artifact.Digest, error)
	// FilesOf gives what can be executed of an image.
	FilesOf(ctx context.Context, d artifact.Digest) (threat.Files, error)
	// Runs says whether an image runs in a cluster.
	Runs(ctx context.Context, cluster string, d artifact.Digest) (bool, error)
}

func (a *API) threatRoutes() []Route {
	of := []Param{{"cluster", "whose sensor it is"}}
	return []Route{
		{Method: "POST", Path: "/api/v1/runtime/falco", Summary: "Hand in events of Falco, as its http_output and Falcosidekick's webhook write them", Action: identity.ActObserve, Query: of,
			In: RawBytes{"application/json"}, Out: client.RuntimeTaken{}, Status: 200, handle: a.ingestRuntime(threat.Falco)},
		{Method: "POST", Path: "/api/v1/runtime/tetragon", Summary: "Hand in events of Tetragon's JSON export, one for each line", Action: identity.ActObserve, Query: of,
			In: RawBytes{"application/json"}, Out: client.RuntimeTaken{}, Status: 200, handle: a.ingestRuntime(threat.Tetragon)},
		{Method: "POST", Path: "/api/v1/runtime/agent", Summary: "Say what was executed on a host that its images do not hold", Action: identity.ActObserve,
			In: client.RuntimeReport{}, Out: client.RuntimeTaken{}, Status: 200, handle: a.reportRuntime},
		{Method: "GET", Path: "/api/v1/runtime/files", Summary: "What can be executed of an image that runs in a cluster", Action: identity.ActObserve,
			Query: []Param{{"cluster", "where it runs"}, {"digest", "sha256:…; or its container:"}, {"namespace", "of the container"}, {"pod", "of the container"}, {"container", "its name"}}, Out: client.ImageFiles{}, Status: 200, handle: a.imageFiles},
		{Method: "GET", Path: "/api/v1/runtime", Summary: "What sensors reported, latest first", Action: identity.ActReadEvidence,
			Query: []Param{{"digest", "sha256:…, of the image"}, {"cluster", "by whose grants it is read too"}, {"limit", "at most 1000"}}, Out: client.List[client.RuntimeSeen]{}, Status: 200, handle: a.runtimeSeen},
	}
}

// observes says whether the caller may tell what sensors of a cluster saw.
func (a *API) observes(r *http.Request, cluster string) error {
	if !clusterNameRE.MatchString(cluster) {
		return fault.Newf(fault.Invalid, "cluster %.80q: want lower-case letters, digits, - . and _, at most 63", cluster)
	}
	return a.allow(r, identity.ActObserve, identity.ResourceCluster, clusterResource(cluster))
}

func (a *API) taken(w http.ResponseWriter, r *http.Request, t threat.Taken, err error) {
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, client.RuntimeTaken(t))
}

func (a *API) ingestRuntime(source threat.Source) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		t, err := func() (t threat.Taken, err error) {
			cluster := r.URL.Query().Get("cluster")
			if err := a.observes(r, cluster); err != nil {
				return t, err
			}
			b, err := body(w, r, threat.MaxBytes)
			if err != nil {
				return t, err
			}
			list, skipped, err := threat.Read(source, cluster, b)
			if err != nil {
				return t, err
			}
			t, err = a.o.Threats.Take(r.Context(), identity.FromContext(r.Context()).Actor(), list)
			t.Skipped = skipped
			return t, err
		}()
		a.taken(w, r, t, err)
	}
}

func (a *API) reportRuntime(w http.ResponseWriter, r *http.Request) {
	t, err := func() (t threat.Taken, err error) {
		p := identity.FromContext(r.Context())
		if err := a.o.Access.Somewhere(p, identity.ActObserve); err != nil {
			return t, err
		}
		b, err := body(w, r, threat.MaxBytes)
		if err != nil {
			return t, err
		}
		var q client.RuntimeReport
		if err := strictjson.Unmarshal(b, &q, strictjson.RejectUnknown(), strictjson.WithMaxBytes(threat.MaxBytes)); err != nil {
			return t, fault.Newf(fault.Invalid, "request: %w", err)
		}
		if err := a.observes(r, q.Cluster); err != nil {
			return t, err
		}
		var list []threat.Report
		for _, x := range q.Executions {
			switch x.Rule {
			case threat.RuleForeign, threat.RuleChanged, threat.RuleUnknown, threat.RuleUnwatched:
			default:
				return t, fault.Newf(fault.Invalid, "rule %.40q: want foreign, changed, unknown or unwatched", x.Rule)
			}
			list = append(list, threat.Report{
				Source: threat.Agent, Rule: x.Rule, Claimed: x.Time, Cluster: q.Cluster, Node: q.Node, Namespace: x.Namespace, Pod: x.Pod, Container: x.Container, ContainerID: x.ContainerID,
				Image: x.Image, Digest: x.Digest, Process: x.Process, Path: x.Path, FileDigest: x.File, Message: x.Message,
			})
		}
		return a.o.Threats.Take(r.Context(), p.Actor(), list)
	}()
	a.taken(w, r, t, err)
}

func (a *API) imageFiles(w http.ResponseWriter, r *http.Request) {
	out, err := func() (out client.ImageFiles, err error) {
		cluster := r.URL.Query().Get("cluster")
		if err := a.observes(r, cluster); err != nil {
			return out, err
		}
		q := r.URL.Query()
		if pod := q.Get("pod"); pod != "" {
			if out.Digest, err = a.o.Threats.DigestOf(r.Context(), cluster, q.Get("namespace"), pod, q.Get("container")); err != nil {
				return out, err
			}
		}
		if text := q.Get("digest"); out.Digest == "" && (text != "" || q.Get("pod") == "") {
			if out.Digest, err = artifact.ParseDigest(text); err != nil {
				return out, err
			}
		}
		if out.Digest == "" {
			return out, fault.Newf(fault.NotFound, "the inventory of cluster %s knows no container %.80q of Pod %.80q in namespace %.80q, or not what it runs", cluster, q.Get("container"), q.Get("pod"), q.Get("namespace"))
		}
		// An agent is told of what runs where it is, not of every image of the site.
		runs, err := a.o.Threats.Runs(r.Context(), cluster, out.Digest)
		if err != nil {
			return out, err
		}
		if !runs {
			return out, fault.Newf(fault.NotFound, "no workload of cluster %s is known to run %s", cluster, out.Digest)
		}
		files, err := a.o.Threats.FilesOf(r.Context(), out.Digest)
		out.Files = files
		return out, err
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) runtimeSeen(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	out, err := func() (out client.List[client.RuntimeSeen], err error) {
		out.Items = []client.RuntimeSeen{}
		if err := a.allow(r, identity.ActReadEvidence, identity.ResourceCluster, clusterResource(q.Get("cluster"))); err != nil {
			return out, err
		}
		var d artifact.Digest
		if text := q.Get("digest"); text != "" {
			if d, err = artifact.ParseDigest(text); err != nil {
				return out, err
			}
		}
		most, err := limit(r)
		if err != nil {
			return out, err
		}
		list, err := a.o.Threats.List(r.Context(), d, q.Get("cluster"), most)
		for _, x := range list {
			out.Items = append(out.Items, client.RuntimeSeen{
				Source: string(x.Source), Rule: x.Rule, Priority: x.Priority, Cluster: x.Cluster, Namespace: x.Namespace, Kind: x.Kind, Name: x.Name, Container: x.Container,
				Path: x.Path, Digest: x.Digest, First: x.First, Last: x.Last, Times: x.Times,
			})
		}
		return out, err
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}
