package cluster

import (
	"context"
	"maps"
	"time"

	"assay/inventory"
)

// placed is a Pod that runs, with the workload that it is of.
type placed struct {
	kind, name string
	member     member
	id         inventory.Identity
	of         *meshState // that id was found by
}

// member is the Pod as meshes look at it.
func (p *pod) member() member {
	m := member{
		meta:    meta{Name: p.Metadata.Name, Namespace: p.Metadata.Namespace, UID: p.Metadata.UID, Labels: p.Metadata.Labels, Annotations: keepPrefixed(p.Metadata.Annotations)},
		account: p.Spec.Account, node: p.Spec.NodeName, hostNetwork: p.Spec.HostNetwork,
	}
	if m.account == "" {
		m.account = "default"
	}
	for _, list := range [][]container{p.Spec.Containers, p.Spec.Init} {
		for _, c := range list {
			switch c.Name {
			case "istio-proxy":
				m.istioProxy = true
			case "linkerd-proxy":
				m.linkerdProxy = true
				for _, e := range c.Env {
					if e.Name == "LINKERD2_PROXY_INBOUND_DEFAULT_POLICY" {
						m.linkerdPolicy = e.Value
					}
				}
			}
		}
	}
	return m
}

// followMesh looks at what the API server says of meshes, until ctx ends. While it
// does not answer, what was known stands.
func (f *Follower) followMesh(ctx context.Context) {
	for ctx.Err() == nil {
		m, err := readMesh(ctx, f.o.Client, f.o.Mesh)
		if err == nil {
			f.mu.Lock()
			f.mesh = m
			f.note("")
			f.mu.Unlock()
		} else if ctx.Err() == nil {
			f.o.Logger.Warn("a cluster's meshes could not be read", "cluster", f.o.Cluster, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(f.o.MeshEvery):
		}
	}
}

// who names a workload, or a namespace.
type who struct{ namespace, kind, name string }

// identities are of all workloads that run, and of namespaces; f.mu is held.
func (f *Follower) identities() map[who]inventory.Identity {
	if f.mesh == nil {
		return nil
	}
	out := make(map[who]inventory.Identity, len(f.toldIDs))
	for _, p := range f.members {
		if p.of != f.mesh {
			p.id, p.of = f.mesh.identity(&p.member), f.mesh
			p.id.Kind, p.id.Name = p.kind, p.name
		}
		w := who{p.member.Namespace, p.kind, p.name}
		if have, ok := out[w]; ok {
			out[w] = join(have, p.id)
		} else {
			out[w] = p.id
		}
	}
	for _, n := range f.mesh.namespaces {
		out[who{n.Name, inventory.KindNamespace, n.Name}] = f.mesh.ofNamespace(n)
	}
	return out
}

// addIdentities enters into a snapshot what changed of identities, or all of them;
// f.mu is held.
func (f *Follower) addIdentities(s *inventory.Snapshot) (all map[who]inventory.Identity) {
	all = f.identities()
	for w, id := range all {
		was, told := f.toldIDs[w]
		if f.whole || !told || !was.Same(&id) {
			s.Identities = append(s.Identities, id)
		}
	}
	if all == nil {
		return maps.Clone(f.toldIDs)
	}
	return all
}
