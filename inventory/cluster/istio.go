package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"assay/internal/fault"
	"assay/internal/kube"
	"assay/inventory"
)

const istioDefaultRoot = "istio-system"

// istioState is what Istio's objects say: PeerAuthentication of security.istio.io/v1
// and v1beta1, and the mesh's configuration.
type istioState struct {
	policies reading
	config   reading
	domain   string
	root     string
	// By namespace, the oldest first, as Istio takes them: of several that would
	// count the oldest does.
	wide     map[string][]peerAuthentication // without selector
	selected map[string][]peerAuthentication
}

type peerAuthentication struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		Selector *struct {
			Labels map[string]string `json:"matchLabels"`
		} `json:"selector"`
		MTLS struct {
			Mode string `json:"mode"`
		} `json:"mtls"`
		Ports map[string]struct {
			Mode string `json:"mode"`
		} `json:"portLevelMtls"`
	} `json:"spec"`
}

func (m *meshState) readIstio(ctx context.Context, c *kube.Client) (err error) {
	s := &m.istio
	s.wide, s.selected = map[string][]peerAuthentication{}, map[string][]peerAuthentication{}
	s.policies, err = each(ctx, c, []string{"/apis/security.istio.io/v1/peerauthentications", "/apis/security.istio.io/v1beta1/peerauthentications"}, func(b json.RawMessage) error {
		var p peerAuthentication
		if err := json.Unmarshal(b, &p); err != nil {
			return err
		}
		to := s.wide
		if p.Spec.Selector != nil && len(p.Spec.Selector.Labels) > 0 {
			to = s.selected
		}
		to[p.Metadata.Namespace] = append(to[p.Metadata.Namespace], p)
		return nil
	})
	if err != nil {
		return err
	}
	for _, all := range []map[string][]peerAuthentication{s.wide, s.selected} {
		for _, list := range all {
			slices.SortFunc(list, func(a, b peerAuthentication) int {
				return cmp.Or(strings.Compare(a.Metadata.Created, b.Metadata.Created), strings.Compare(a.Metadata.Name, b.Metadata.Name))
			})
		}
	}
	var config struct {
		Data map[string]string `json:"data"`
	}
	err = c.Do(ctx, "GET", "/api/v1/namespaces/"+cmp.Or(m.o.RootNamespace, istioDefaultRoot)+"/configmaps/istio", nil, nil, &config)
	switch {
	case err == nil:
		s.config = present
		// Istio's own defaults where it does not say (MeshConfig).
		s.domain, s.root = cmp.Or(topLevel(config.Data["mesh"], "trustDomain"), "cluster.local"), cmp.Or(topLevel(config.Data["mesh"], "rootNamespace"), istioDefaultRoot)
	case errors.Is(err, fault.Denied):
		s.config = forbidden
	case !errors.Is(err, fault.NotFound):
		return err
	}
	return nil
}

// topLevel is a plain member of a YAML mapping, by its line: what is written
// otherwise is not found, and so unknown.
func topLevel(doc, name string) string {
	for line := range strings.Lines(doc) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			v, _, _ = strings.Cut(v, " #")
			return strings.Trim(strings.TrimSpace(v), `"'`)
		}
	}
	return ""
}

func (m *meshState) istioDomain() string { return cmp.Or(m.o.TrustDomain, m.istio.domain) }

// istioRoot is where policies of the whole mesh stand; "": nobody says.
func (m *meshState) istioRoot() string { return cmp.Or(m.o.RootNamespace, m.istio.root) }

// inIstio says whether a Pod is in Istio's mesh: by the sidecar in it, or, in ambient
// mode, by the labels and what Istio's node agent wrote when it took the Pod in.
func (m *meshState) inIstio(p *member) bool {
	if p.istioProxy {
		return p.Annotations["sidecar.istio.io/interceptionMode"] != "NONE"
	}
	mode := cmp.Or(p.Labels["istio.io/dataplane-mode"], m.namespaces[p.Namespace].Labels["istio.io/dataplane-mode"])
	return mode == "ambient" && p.Annotations["ambient.istio.io/redirection"] == "enabled"
}

// istioMode is the mode that counts for a Pod: the oldest policy that selects it, of
// its namespace, of the mesh, in this order; UNSET is handed on. Ports of their own
// count in a policy with a selector alone. Where nobody says anything it is
// PERMISSIVE.
func (m *meshState) istioMode(p *member) inventory.MTLS {
	base, known := m.istioBase(p.Namespace)
	if m.istio.policies == forbidden {
		return inventory.MTLSUnknown
	}
	var ports []string
	if p.Namespace != m.istioRoot() { // there, those with a selector are not looked at
		for i := range m.istio.selected[p.Namespace] {
			one := &m.istio.selected[p.Namespace][i]
			if !hasLabels(p.Labels, one.Spec.Selector.Labels) {
				continue
			}
			if set(one.Spec.MTLS.Mode) {
				base, known = one.Spec.MTLS.Mode, true
			}
			for _, port := range one.Spec.Ports {
				if set(port.Mode) {
					ports = append(ports, port.Mode)
				}
			}
			break
		}
	}
	mode := istioMode(base, ports, known)
	if bypassesIstio(p) {
		mode = inventory.WeakestMTLS(mode, inventory.MTLSPermissive)
	}
	return mode
}

// istioBase is the mode of a namespace's workloads.
func (m *meshState) istioBase(namespace string) (mode string, known bool) {
	root := m.istioRoot()
	for _, ns := range []string{namespace, root} {
		if list := m.istio.wide[ns]; len(list) > 0 && set(list[0].Spec.MTLS.Mode) {
			return list[0].Spec.MTLS.Mode, true
		}
	}
	// Without a root namespace it is not known what the mesh says.
	return "PERMISSIVE", root != ""
}

// istioNamespace is the weakest mode that a Pod of a namespace can get.
func (m *meshState) istioNamespace(namespace string) inventory.MTLS {
	if m.istio.policies == forbidden {
		return inventory.MTLSUnknown
	}
	base, known := m.istioBase(namespace)
	mode := istioMode(base, nil, known)
	for i := range m.istio.selected[namespace] {
		one := &m.istio.selected[namespace][i]
		b, k := base, known
		if set(one.Spec.MTLS.Mode) {
			b, k = one.Spec.MTLS.Mode, true
		}
		var ports []string
		for _, port := range one.Spec.Ports {
			if set(port.Mode) {
				ports = append(ports, port.Mode)
			}
		}
		mode = inventory.WeakestMTLS(mode, istioMode(b, ports, k))
	}
	return mode
}

func set(mode string) bool { return mode != "" && mode != "UNSET" }

// istioMode is what a mode and those of ports come to. A word that is not known is
// unknown.
func istioMode(base string, ports []string, known bool) inventory.MTLS {
	if !known {
		return inventory.MTLSUnknown
	}
	word := func(s string) inventory.MTLS {
		switch s {
		case "STRICT":
			return inventory.MTLSStrict
		case "PERMISSIVE":
			return inventory.MTLSPermissive
		case "DISABLE":
			return inventory.MTLSDisabled
		}
		return inventory.MTLSUnknown
	}
	mode := word(base)
	for _, p := range ports {
		one := word(p)
		if one == inventory.MTLSDisabled {
			one = inventory.MTLSPermissive // of the workload a part: not all of it is open
		}
		mode = inventory.WeakestMTLS(mode, one)
	}
	return mode
}

// bypassesIstio says whether some of a Pod's ports are reached past its proxy.
func bypassesIstio(p *member) bool {
	include, has := p.Annotations["traffic.sidecar.istio.io/includeInboundPorts"]
	return p.Annotations["traffic.sidecar.istio.io/excludeInboundPorts"] != "" || has && include != "*"
}

// hasLabels says whether labels are among others.
func hasLabels(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}
