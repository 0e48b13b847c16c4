package cluster

import (
	"slices"
)

// selector is Kubernetes' LabelSelector: all of its parts must hold.
type selector struct {
	Labels      map[string]string `json:"matchLabels"`
	Expressions []struct {
		Key      string   `json:"key"`
		Operator string   `json:"operator"`
		Values   []string `json:"values"`
	} `json:"matchExpressions"`
}

// matches says whether labels are selected. known is false where an operator is one
// that Kubernetes does not have.
func (s *selector) matches(labels map[string]string) (yes, known bool) {
	if s == nil {
		return true, true
	}
	if !hasLabels(labels, s.Labels) {
		return false, true
	}
	for _, e := range s.Expressions {
		v, has := labels[e.Key]
		ok := false
		switch e.Operator {
		case "In":
			ok = has && slices.Contains(e.Values, v)
		case "NotIn":
			ok = !has || !slices.Contains(e.Values, v)
		case "Exists":
			ok = has
		case "DoesNotExist":
			ok = !has
		default:
			return false, false
		}
		if !ok {
			return false, true
		}
	}
	return true, true
}

// reference names another object.
type reference struct {
	Group     string `json:"group"`
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}
