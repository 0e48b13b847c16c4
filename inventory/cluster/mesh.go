package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"

	"assay/internal/fault"
	"assay/internal/kube"
	"assay/inventory"
)

// MeshOptions are what a cluster's objects do not always tell. Empty members are
// read out of the cluster.
type MeshOptions struct {
	// TrustDomain is that of SPIRE and of Istio. Empty: Istio's is read out of its
	// ConfigMap; SPIRE's is in no object that others may read, so that identities whose
	// template names it stay unknown.
	TrustDomain string
	// ClusterName and ClusterDomain are what SPIRE's controller is told of the cluster.
	ClusterName, ClusterDomain string
	// RootNamespace is Istio's, where policies for the whole mesh stand; empty: as its
	// ConfigMap says.
	RootNamespace string
}

// reading says whether a resource could be read.
type reading int

const (
	absent    reading = iota // the cluster has no such resource
	forbidden                // it may not be read
	present
)

// meshState is what a cluster's API server says of its meshes and of SPIRE. It is
// immutable.
type meshState struct {
	o          MeshOptions
	namespaces map[string]meta
	spaces     reading

	istio  istioState
	link   linkerdState
	spire  reading
	shapes []shape // ClusterSPIFFEIDs, by name
}

// meta is what is looked at of an object's metadata.
type meta struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	UID         string            `json:"uid"`
	Created     string            `json:"creationTimestamp"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// readMesh reads it all. An error is that a cluster does not answer, so that what
// was known stands; what may not be read is not an error, and unknown.
func readMesh(ctx context.Context, c *kube.Client, o MeshOptions) (*meshState, error) {
	m := &meshState{o: o, namespaces: map[string]meta{}}
	var err error
	if m.spaces, err = each(ctx, c, []string{"/api/v1/namespaces"}, func(b json.RawMessage) error {
		var n struct {
			Metadata meta `json:"metadata"`
		}
		err := json.Unmarshal(b, &n)
		n.Metadata.Annotations = keepPrefixed(n.Metadata.Annotations)
		m.namespaces[n.Metadata.Name] = n.Metadata
		return err
	}); err != nil {
		return nil, err
	}
	if err := m.readIstio(ctx, c); err != nil {
		return nil, err
	}
	if err := m.readLinkerd(ctx, c); err != nil {
		return nil, err
	}
	return m, m.readSPIRE(ctx, c)
}

// maxMeshObjects bounds what one list may hold.
const maxMeshObjects = 100_000

// each calls f with every object of the first of these paths that is served.
func each(ctx context.Context, c *kube.Client, paths []string, f func(json.RawMessage) error) (reading, error) {
	for _, path := range paths {
		q := url.Values{"limit": {"500"}}
		for n := 0; ; {
			var page struct {
				Metadata struct {
					Continue string `json:"continue"`
				} `json:"metadata"`
				Items []json.RawMessage `json:"items"`
			}
			err := c.Do(ctx, "GET", path, q, nil, &page)
			if errors.Is(err, fault.NotFound) {
				break // another version may be served
			}
			if errors.Is(err, fault.Denied) {
				return forbidden, nil
			}
			if err != nil {
				return absent, err
			}
			if n += len(page.Items); n > maxMeshObjects {
				return absent, fault.Newf(fault.TooLarge, "%s: over %d objects", path, maxMeshObjects)
			}
			for _, it := range page.Items {
				if err := f(it); err != nil {
					return absent, fault.Newf(fault.Unavailable, "read %s: %w", path, err)
				}
			}
			if page.Metadata.Continue == "" {
				return present, nil
			}
			q.Set("continue", page.Metadata.Continue)
		}
	}
	return absent, nil
}

// The annotations that are looked at; all others are let go at once, since they may
// be large.
var annotationsRead = []string{
	"config.linkerd.io/default-inbound-policy", "config.linkerd.io/skip-inbound-ports", "linkerd.io/inject",
	"traffic.sidecar.istio.io/excludeInboundPorts", "traffic.sidecar.istio.io/includeInboundPorts", "sidecar.istio.io/interceptionMode",
	"ambient.istio.io/redirection", "spiffe.io/spiffe-id",
}

func keepPrefixed(in map[string]string) map[string]string {
	var out map[string]string
	for _, k := range annotationsRead {
		if v, ok := in[k]; ok {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}

// member is a Pod as meshes look at it.
type member struct {
	meta
	account, node string
	hostNetwork   bool
	istioProxy    bool
	linkerdProxy  bool
	linkerdPolicy string // as its proxy was told when it was injected
}

// identity is what the API server says of one Pod.
func (m *meshState) identity(p *member) inventory.Identity {
	id := inventory.Identity{Namespace: p.Namespace}
	id.Mesh, id.MTLS = m.mtls(p)
	id.SPIFFEIDs, id.Source = m.spiffe(p, id.Mesh)
	return id
}

func (m *meshState) mtls(p *member) (mesh string, mode inventory.MTLS) {
	switch {
	case p.hostNetwork:
		return "", inventory.MTLSNone // its traffic passes no proxy
	case m.inIstio(p):
		return "istio", m.istioMode(p)
	case p.linkerdProxy:
		return "linkerd", m.linkerdMode(p)
	}
	return "", inventory.MTLSNone
}

// ofNamespace is what comes to be in a namespace gets, whatever its labels.
func (m *meshState) ofNamespace(n meta) inventory.Identity {
	id := inventory.Identity{Namespace: n.Name, Kind: inventory.KindNamespace, Name: n.Name, Source: inventory.NoIdentity, MTLS: inventory.MTLSNone}
	switch {
	case n.Labels["istio-injection"] == "enabled" || n.Labels["istio.io/rev"] != "" && n.Labels["istio-injection"] == "" || n.Labels["istio.io/dataplane-mode"] == "ambient":
		id.Mesh, id.MTLS = "istio", m.istioNamespace(n.Name)
	case n.Annotations["linkerd.io/inject"] == "enabled" || n.Annotations["linkerd.io/inject"] == "ingress":
		id.Mesh, id.MTLS = "linkerd", m.linkerdNamespace(n)
	}
	return id
}

// spiffe says which SPIFFE identities a Pod has, and by whose word. What SPIRE's
// controller registers goes before Istio's convention: Istio takes SPIRE's where
// both are.
func (m *meshState) spiffe(p *member, mesh string) ([]string, inventory.IdentitySource) {
	ids, known := m.registered(p)
	switch {
	case !known:
		return nil, inventory.Unread
	case len(ids) > 0:
		return ids, inventory.BySPIRE
	case mesh == "istio":
		domain := m.istioDomain()
		id := "spiffe://" + domain + "/ns/" + p.Namespace + "/sa/" + p.account
		if domain == "" || inventory.CheckSPIFFEID(id) != nil {
			return nil, inventory.Unread
		}
		return []string{id}, inventory.ByIstio
	}
	// SPIRE's older registrar takes an annotation for it, which whoever makes the Pod
	// writes.
	if claim := p.Annotations["spiffe.io/spiffe-id"]; claim != "" {
		if !strings.HasPrefix(claim, "spiffe://") && m.o.TrustDomain != "" {
			claim = "spiffe://" + m.o.TrustDomain + "/" + strings.TrimPrefix(claim, "/")
		}
		if inventory.CheckSPIFFEID(claim) == nil {
			return []string{claim}, inventory.ByClaim
		}
		return nil, inventory.Unread
	}
	return nil, inventory.NoIdentity
}

// join makes one of what two instances of a workload are.
func join(a, b inventory.Identity) inventory.Identity {
	a.MTLS, a.Source = inventory.WeakestMTLS(a.MTLS, b.MTLS), inventory.SurestLeast(a.Source, b.Source)
	if b.Mesh != a.Mesh {
		a.Mesh = "" // one of them is in none, or in another
	}
	a.SPIFFEIDs = slices.Concat(a.SPIFFEIDs, b.SPIFFEIDs)
	slices.Sort(a.SPIFFEIDs)
	a.SPIFFEIDs = slices.Compact(a.SPIFFEIDs)
	if len(a.SPIFFEIDs) > inventory.MaxSPIFFEIDs { // each instance has its own: that is no identity of the workload
		a.SPIFFEIDs, a.Source = nil, inventory.Unread
	}
	return a
}
