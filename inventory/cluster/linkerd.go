package cluster

import (
	"cmp"
	"context"
	"encoding/json"

	"assay/internal/kube"
	"assay/inventory"
)

// linkerdState is what Linkerd's objects of policy.linkerd.io say: Servers select the
// ports of Pods and take them out of the Pod's own default; AuthorizationPolicies and
// ServerAuthorizations let clients in.
type linkerdState struct {
	reading    reading
	servers    map[string][]linkerdServer // by namespace
	open       map[string]bool            // namespaces in which something lets in whom mutual TLS does not show
	openServer map[[2]string]bool         // by namespace and name
}

type linkerdServer struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		Access string    `json:"accessPolicy"` // v1beta3; before it was always deny
		Pods   *selector `json:"podSelector"`
	} `json:"spec"`
}

type authorizationPolicy struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		Target   reference   `json:"targetRef"`
		Required []reference `json:"requiredAuthenticationRefs"`
	} `json:"spec"`
}

type serverAuthorization struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		Server struct {
			Name     string    `json:"name"`
			Selector *selector `json:"selector"`
		} `json:"server"`
		Client struct {
			Unauthenticated bool `json:"unauthenticated"`
			MeshTLS         *struct {
				Unauthenticated bool `json:"unauthenticatedTLS"`
			} `json:"meshTLS"`
		} `json:"client"`
	} `json:"spec"`
}

func (m *meshState) readLinkerd(ctx context.Context, c *kube.Client) error {
	const group = "/apis/policy.linkerd.io/"
	l := &m.link
	l.servers, l.open, l.openServer = map[string][]linkerdServer{}, map[string]bool{}, map[[2]string]bool{}
	readings := []reading{}
	read := func(paths []string, f func(json.RawMessage) error) error {
		r, err := each(ctx, c, paths, f)
		readings = append(readings, r)
		return err
	}
	if err := read([]string{group + "v1beta3/servers", group + "v1beta2/servers", group + "v1beta1/servers"}, func(b json.RawMessage) error {
		var s linkerdServer
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		if s.Spec.Pods != nil { // else it is for machines outside of the cluster
			l.servers[s.Metadata.Namespace] = append(l.servers[s.Metadata.Namespace], s)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := read([]string{group + "v1alpha1/authorizationpolicies"}, func(b json.RawMessage) error {
		var p authorizationPolicy
		if err := json.Unmarshal(b, &p); err != nil {
			return err
		}
		if !p.wantsTLS() {
			l.opens(p.Metadata.Namespace, p.Spec.Target)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := read([]string{group + "v1beta1/serverauthorizations", group + "v1alpha1/serverauthorizations"}, func(b json.RawMessage) error {
		var a serverAuthorization
		if err := json.Unmarshal(b, &a); err != nil {
			return err
		}
		if a.Spec.Client.Unauthenticated || a.Spec.Client.MeshTLS == nil || a.Spec.Client.MeshTLS.Unauthenticated {
			l.opens(a.Metadata.Namespace, reference{Kind: "Server", Name: a.Spec.Server.Name}) // without a name: of all that it may select
		}
		return nil
	}); err != nil {
		return err
	}
	l.reading = absent
	for _, r := range readings {
		l.reading = max(l.reading, r)
	}
	for _, r := range readings {
		if r == forbidden {
			l.reading = forbidden
		}
	}
	return nil
}

// wantsTLS says whether a client must show by mutual TLS who it is: one of what is
// required has to be about that, since all of it is required.
func (p *authorizationPolicy) wantsTLS() bool {
	for _, r := range p.Spec.Required {
		if r.Kind == "MeshTLSAuthentication" && r.Group == "policy.linkerd.io" || r.Kind == "ServiceAccount" && (r.Group == "" || r.Group == "core") {
			return true
		}
	}
	return false
}

// opens notes what lets in whom mutual TLS does not show. What is about a route, or a
// namespace, counts for all of the namespace.
func (l *linkerdState) opens(namespace string, target reference) {
	if target.Kind == "Server" && target.Name != "" {
		l.openServer[[2]string{namespace, target.Name}] = true
		return
	}
	l.open[namespace] = true
}

// byPolicy is what one of Linkerd's default policies comes to. audit and
// all-unauthenticated let everybody in, deny lets nobody.
func byPolicy(name string) inventory.MTLS {
	switch name {
	case "all-authenticated", "cluster-authenticated", "deny":
		return inventory.MTLSStrict
	case "all-unauthenticated", "cluster-unauthenticated", "audit", "all-mtls-unauthenticated":
		return inventory.MTLSPermissive
	}
	return inventory.MTLSUnknown
}

// linkerdMode is the mode that counts for a Pod: its default, for the ports that no
// Server selects, and each Server's.
func (m *meshState) linkerdMode(p *member) inventory.MTLS {
	if m.link.reading == forbidden {
		return inventory.MTLSUnknown
	}
	// The namespace's annotation is copied to a Pod when it is injected, and counts for
	// no Pod that was there before.
	mode := byPolicy(cmp.Or(p.Annotations["config.linkerd.io/default-inbound-policy"], p.linkerdPolicy))
	for i := range m.link.servers[p.Namespace] {
		s := &m.link.servers[p.Namespace][i]
		yes, known := s.Spec.Pods.matches(p.Labels)
		switch {
		case !known:
			mode = inventory.WeakestMTLS(mode, inventory.MTLSUnknown)
		case yes:
			mode = inventory.WeakestMTLS(mode, m.serverMode(s))
		}
	}
	if p.Annotations["config.linkerd.io/skip-inbound-ports"] != "" {
		mode = inventory.WeakestMTLS(mode, inventory.MTLSPermissive) // they are reached past the proxy
	}
	return mode
}

func (m *meshState) serverMode(s *linkerdServer) inventory.MTLS {
	mode := byPolicy(cmp.Or(s.Spec.Access, "deny"))
	if m.link.open[s.Metadata.Namespace] || m.link.openServer[[2]string{s.Metadata.Namespace, s.Metadata.Name}] {
		mode = inventory.WeakestMTLS(mode, inventory.MTLSPermissive)
	}
	return mode
}

// linkerdNamespace is the weakest mode that a Pod of a namespace can get. What the
// control plane was installed with stands in no object that others may read.
func (m *meshState) linkerdNamespace(n meta) inventory.MTLS {
	if m.link.reading == forbidden {
		return inventory.MTLSUnknown
	}
	mode := byPolicy(n.Annotations["config.linkerd.io/default-inbound-policy"])
	for i := range m.link.servers[n.Name] {
		mode = inventory.WeakestMTLS(mode, m.serverMode(&m.link.servers[n.Name][i]))
	}
	return mode
}
