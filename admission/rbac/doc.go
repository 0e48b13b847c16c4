// Package rbac says who in a Kubernetes cluster could open the door that admission
// holds shut: users, groups and service accounts who may change webhooks and
// policies, exempt namespaces, write where Assay runs, or give themselves the right
// to. Each answer has its path: binding, role, rule.
//
// It reads RBAC alone. What other authorizers of an API server allow (ABAC, a
// webhook, the node authorizer) and who is in a group, nobody can read from a
// cluster.
package rbac
