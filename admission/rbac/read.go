package rbac

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"assay/internal/fault"
	"assay/internal/kube"
)

// Rule is what a role allows, as Kubernetes writes it.
type Rule struct {
	Verbs         []string `json:"verbs"`
	Groups        []string `json:"apiGroups,omitempty"`
	Resources     []string `json:"resources,omitempty"`
	ResourceNames []string `json:"resourceNames,omitempty"`

	from string // the ClusterRole that it is aggregated from
}

// Subject is a user, a group or a service account.
type Subject struct {
	Kind      string `json:"kind"` // User, Group, ServiceAccount
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"` // of a service account
}

func (s Subject) String() string {
	if s.Kind == "ServiceAccount" {
		return s.Kind + " " + s.Namespace + "/" + s.Name
	}
	return s.Kind + " " + s.Name
}

// Meta is what is read of an object's metadata.
type Meta struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels"`
}

// Role is a Role, or a ClusterRole where Metadata.Namespace is "".
type Role struct {
	Metadata    Meta         `json:"metadata"`
	Rules       []Rule       `json:"rules"`
	Aggregation *Aggregation `json:"aggregationRule"`
}

// Aggregation selects the ClusterRoles whose rules a ClusterRole has as well.
type Aggregation struct {
	Selectors []Selector `json:"clusterRoleSelectors"`
}

// Selector is Kubernetes' LabelSelector: all of its parts must hold.
type Selector struct {
	Labels      map[string]string `json:"matchLabels"`
	Expressions []struct {
		Key      string   `json:"key"`
		Operator string   `json:"operator"`
		Values   []string `json:"values"`
	} `json:"matchExpressions"`
}

// matches is true too where an operator is one that Kubernetes does not have: an
// audit would rather say too much.
func (s *Selector) matches(labels map[string]string) bool {
	for k, v := range s.Labels {
		if got, has := labels[k]; !has || got != v {
			return false
		}
	}
	for _, e := range s.Expressions {
		v, has := labels[e.Key]
		ok := true
		switch e.Operator {
		case "In":
			ok = has && slices.Contains(e.Values, v)
		case "NotIn":
			ok = !has || !slices.Contains(e.Values, v)
		case "Exists":
			ok = has
		case "DoesNotExist":
			ok = !has
		}
		if !ok {
			return false
		}
	}
	return true
}

// Binding is a RoleBinding, or a ClusterRoleBinding where Metadata.Namespace is "".
type Binding struct {
	Metadata Meta `json:"metadata"`
	Role     struct {
		Kind string `json:"kind"`
		Name string `json:"name"`
	} `json:"roleRef"`
	Subjects []Subject `json:"subjects"`
}

// Cluster is the RBAC of a cluster.
type Cluster struct {
	Roles    []Role
	Bindings []Binding
}

// maxObjects bounds what is read of each kind.
const maxObjects = 200_000

type collector[T any] struct{ items []T }

func (c *collector[T]) add(raw json.RawMessage) error {
	if len(c.items) == maxObjects {
		return fault.Newf(fault.TooLarge, "the cluster has over %d objects of one kind of RBAC", maxObjects)
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return fault.Newf(fault.Unavailable, "the API server's answer: %w", err)
	}
	c.items = append(c.items, v)
	return nil
}

// Read reads the RBAC of a cluster: all of it or an error, since half of it would
// say "nobody" of what was not seen.
func Read(ctx context.Context, k *kube.Client) (*Cluster, error) {
	const base = "/apis/rbac.authorization.k8s.io/v1/"
	var roles collector[Role]
	var bindings collector[Binding]
	sinks := map[string]func(json.RawMessage) error{
		"clusterroles": roles.add, "roles": roles.add, "clusterrolebindings": bindings.add, "rolebindings": bindings.add,
	}
	for _, resource := range slices.Sorted(maps.Keys(sinks)) {
		if err := k.List(ctx, base+resource, sinks[resource]); err != nil {
			return nil, fault.Newf(fault.Unavailable, "read %s, which wants the verb list on the group rbac.authorization.k8s.io in all namespaces: %w", resource, err)
		}
	}
	return &Cluster{Roles: roles.items, Bindings: bindings.items}, nil
}
