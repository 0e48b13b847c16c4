package rbac

import (
	"slices"
	"strings"
)

// Power is one way to open the door.
type Power string

// The powers, from the nearest to the door.
const (
	Webhooks   Power = "webhooks"   // change or delete webhook configurations
	Policies   Power = "policies"   // change or delete admission policies and their bindings
	Namespaces Power = "namespaces" // label a namespace, or take it away
	Exempt     Power = "exempt"     // run something where nothing is refused
	Assay      Power = "assay"      // write in Assay's namespace
	Secrets    Power = "secrets"    // read the secrets there
	Escalate   Power = "escalate"   // give oneself or take on the rights of others
	Assume     Power = "assume"     // act as a service account that is listed
	Exceptions Power = "exceptions" // have Assay's server except something, or change its policies
)

// Powers lists all of them.
var Powers = []Power{Webhooks, Policies, Namespaces, Exempt, Assay, Secrets, Escalate, Assume, Exceptions}

// Words says what each power is, for people.
var Words = map[Power]string{
	Webhooks: "changes or deletes webhook configurations", Policies: "changes or deletes admission policies and their bindings",
	Namespaces: "labels namespaces or takes them away", Exempt: "runs what it likes where nothing is refused", Assay: "writes in Assay's namespace",
	Secrets: "reads the secrets of Assay's namespace", Escalate: "gives itself, or takes on, the rights of others", Assume: "acts as a service account that is listed",
	Exceptions: "excepts from, or changes, Assay's policies",
}

// need is one thing that gives a power: one of the verbs on one of the resources.
type need struct {
	group     string
	resources []string
	verbs     []string
	// names are those of the objects that matter, where not all of them do: a rule
	// with resourceNames counts when it has one of them.
	names []string
}

var (
	writes   = []string{"create", "update", "patch", "delete", "deletecollection"}
	changes  = []string{"update", "patch"}
	makes    = []string{"create", "update", "patch"}
	ourNames = []string{"assay", "assay-digests-only"}
)

// anywhere are the powers that no namespace bounds.
var anywhere = map[Power][]need{
	Webhooks: {{group: "admissionregistration.k8s.io", resources: []string{"validatingwebhookconfigurations", "mutatingwebhookconfigurations"}, verbs: writes, names: ourNames}},
	Policies: {{group: "admissionregistration.k8s.io", resources: []string{"validatingadmissionpolicies", "validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings"}, verbs: writes, names: ourNames}},
	Escalate: {
		{group: "rbac.authorization.k8s.io", resources: []string{"clusterroles", "roles"}, verbs: []string{"bind", "escalate"}},
		{group: "", resources: []string{"users", "groups", "serviceaccounts"}, verbs: []string{"impersonate"}},
		{group: "authentication.k8s.io", resources: []string{"userextras", "uids", "users", "groups", "serviceaccounts"}, verbs: []string{"impersonate", "impersonate:user-info", "impersonate:serviceaccount", "impersonate:associated-node", "impersonate:arbitrary-node"}},
		{group: "certificates.k8s.io", resources: []string{"signers"}, verbs: []string{"approve", "sign"}, names: []string{"kubernetes.io/kube-apiserver-client", "kubernetes.io/*"}},
		{group: "", resources: []string{"nodes/proxy"}, verbs: []string{"create", "get"}},
	},
}

// labels are written with a namespace, by each of its ways in. A RoleBinding in a
// namespace reaches the namespace itself.
var labels = need{group: "", resources: []string{"namespaces", "namespaces/status", "namespaces/finalize"}, verbs: []string{"update", "patch", "delete"}}

// runs are the ways to have something run in a namespace.
var runs = []need{
	{group: "", resources: []string{"pods", "replicationcontrollers", "pods/ephemeralcontainers"}, verbs: makes},
	{group: "", resources: []string{"pods/exec", "pods/attach"}, verbs: []string{"create", "get"}},
	{group: "apps", resources: []string{"deployments", "statefulsets", "daemonsets", "replicasets"}, verbs: makes},
	{group: "batch", resources: []string{"jobs", "cronjobs"}, verbs: makes},
}

// inAssay is what is written in Assay's namespace: whatever decides what its Pods
// are, read or are reached by.
var inAssay = append(slices.Clone(runs),
	need{group: "", resources: []string{"secrets", "configmaps", "serviceaccounts", "services", "endpoints", "persistentvolumeclaims"}, verbs: writes},
	need{group: "", resources: []string{"pods", "replicationcontrollers", "pods/eviction"}, verbs: []string{"create", "delete", "deletecollection"}},
	need{group: "apps", resources: []string{"deployments", "statefulsets", "daemonsets", "replicasets", "deployments/scale", "statefulsets/scale"}, verbs: append([]string{"delete", "deletecollection"}, changes...)},
	need{group: "discovery.k8s.io", resources: []string{"endpointslices"}, verbs: writes},
	need{group: "networking.k8s.io", resources: []string{"networkpolicies"}, verbs: writes},
	need{group: "policy", resources: []string{"poddisruptionbudgets"}, verbs: writes},
)

var readsSecrets = []need{{group: "", resources: []string{"secrets"}, verbs: []string{"get", "list", "watch"}}}

// assumes are the ways to act as a namespace's service accounts.
var assumes = append(slices.Clone(runs),
	need{group: "", resources: []string{"serviceaccounts/token"}, verbs: []string{"create"}},
	need{group: "", resources: []string{"serviceaccounts"}, verbs: []string{"impersonate"}},
	need{group: "authentication.k8s.io", resources: []string{"serviceaccounts"}, verbs: []string{"impersonate", "impersonate:serviceaccount"}},
)

func has(list []string, one string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, one)
}

// covers says whether a rule names a resource, as Kubernetes matches it: "*" is
// every resource and subresource, "*/scale" a subresource of any.
func (r *Rule) covers(resource string) bool {
	if has(r.Resources, resource) {
		return true
	}
	_, sub, ok := strings.Cut(resource, "/")
	return ok && slices.Contains(r.Resources, "*/"+sub)
}

// gives says which verb on which resource a rule allows of a need; "" if none.
func (r *Rule) gives(n *need) (verb, resource string) {
	if !has(r.Groups, n.group) {
		return "", ""
	}
	if len(r.ResourceNames) > 0 && len(n.names) > 0 && !slices.ContainsFunc(n.names, func(s string) bool { return slices.Contains(r.ResourceNames, s) }) {
		return "", ""
	}
	for _, res := range n.resources {
		if !r.covers(res) {
			continue
		}
		for _, v := range n.verbs {
			// Names bound nothing that has no name yet: such a rule allows no create.
			if len(r.ResourceNames) > 0 && (v == "create" && !strings.Contains(res, "/") || v == "deletecollection") {
				continue
			}
			if has(r.Verbs, v) {
				return v, res
			}
		}
	}
	return "", ""
}
