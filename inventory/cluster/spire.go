package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"assay/internal/kube"
	"assay/inventory"
)

// shape is a ClusterSPIFFEID of spire.spiffe.io/v1alpha1: which Pods get which
// identity.
type shape struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		Template   string    `json:"spiffeIDTemplate"`
		Namespaces *selector `json:"namespaceSelector"`
		Pods       *selector `json:"podSelector"`
		Fallback   bool      `json:"fallback"`
	} `json:"spec"`
}

func (m *meshState) readSPIRE(ctx context.Context, c *kube.Client) (err error) {
	m.spire, err = each(ctx, c, []string{"/apis/spire.spiffe.io/v1alpha1/clusterspiffeids"}, func(b json.RawMessage) error {
		var s shape
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		m.shapes = append(m.shapes, s)
		return nil
	})
	slices.SortFunc(m.shapes, func(a, b shape) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
	return err
}

// registered are the identities that SPIRE's controller registers for a Pod. known is
// false where that cannot be told: what was not read, a template that is not
// understood, a trust domain that nobody told.
func (m *meshState) registered(p *member) (ids []string, known bool) {
	if m.spire == forbidden {
		return nil, false
	}
	for _, fallback := range []bool{false, true} {
		for i := range m.shapes {
			s := &m.shapes[i]
			if s.Spec.Fallback != fallback {
				continue
			}
			ns, ok := m.namespaces[p.Namespace]
			if s.Spec.Namespaces != nil && !ok {
				return nil, false
			}
			inNamespace, a := s.Spec.Namespaces.matches(ns.Labels)
			inPod, b := s.Spec.Pods.matches(p.Labels)
			if !a || !b {
				return nil, false
			}
			if !inNamespace || !inPod {
				continue
			}
			id, ok := m.render(s.Spec.Template, p)
			if !ok || inventory.CheckSPIFFEID(id) != nil {
				return nil, false
			}
			ids = append(ids, id)
		}
		if len(ids) > 0 {
			break // a fallback is for Pods that nothing else selects
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	return ids, len(ids) <= inventory.MaxSPIFFEIDs
}

var (
	actionRE = regexp.MustCompile(`\{\{-?\s*([^{}]*?)\s*-?\}\}`)
	indexRE  = regexp.MustCompile(`^index \.PodMeta\.(Labels) "([^"\\]+)"$`)
)

// render fills in a template in the members that name an identity. Templates are
// programs; this is no interpreter of them, and what it does not know is unknown.
func (m *meshState) render(template string, p *member) (string, bool) {
	if len(template) > 4096 {
		return "", false
	}
	ok := true
	out := actionRE.ReplaceAllStringFunc(template, func(a string) string {
		v, found := m.value(actionRE.FindStringSubmatch(a)[1], p)
		ok = ok && found
		return v
	})
	return out, ok && !strings.Contains(out, "{{")
}

func (m *meshState) value(action string, p *member) (v string, ok bool) {
	switch action {
	case ".TrustDomain":
		v = m.o.TrustDomain
	case ".ClusterName":
		v = m.o.ClusterName
	case ".ClusterDomain":
		v = m.o.ClusterDomain
	case ".PodMeta.Name":
		v = p.Name
	case ".PodMeta.Namespace":
		v = p.Namespace
	case ".PodMeta.UID":
		v = p.UID
	case ".PodSpec.ServiceAccountName":
		v = cmp.Or(p.account, "default")
	case ".PodSpec.NodeName", ".NodeMeta.Name":
		v = p.node
	default:
		switch parts := indexRE.FindStringSubmatch(action); {
		case parts != nil:
			v = p.Labels[parts[2]]
		case parts == nil && strings.HasPrefix(action, ".PodMeta.Labels."):
			v = p.Labels[strings.TrimPrefix(action, ".PodMeta.Labels.")]
		}
	}
	return v, v != ""
}
