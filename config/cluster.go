package config

import (
	"regexp"
	"strings"

	"assay/internal/fault"
)

// KubeCluster is a Kubernetes cluster that is followed by its API server.
type KubeCluster struct {
	// Name is the cluster's in policies, decisions and the inventory.
	Name string `yaml:"name"`
	// Kubeconfig is a file whose user may list and watch Pods, and read webhook
	// configurations; "in-cluster": the own service account.
	Kubeconfig string `yaml:"kubeconfig"`
	// Context is one of the file's; empty: its current one.
	Context string `yaml:"context"`
	// Environment is the cluster's, for what no service claims.
	Environment string `yaml:"environment"`
	// Mesh is what the cluster does not tell of SPIRE and its mesh by itself.
	Mesh KubeMesh `yaml:"mesh"`
}

// KubeMesh is what a cluster's objects do not say of SPIRE and its mesh.
type KubeMesh struct {
	// TrustDomain is that of SPIRE and of the mesh; empty: Istio's, as its
	// configuration says, and identities of SPIRE that name it are unknown.
	TrustDomain string `yaml:"trustDomain"`
	// ClusterName and ClusterDomain are what SPIRE's controller is told of the
	// cluster, for identities that name them.
	ClusterName   string `yaml:"clusterName"`
	ClusterDomain string `yaml:"clusterDomain"`
	// RootNamespace is Istio's; empty: as its configuration says.
	RootNamespace string `yaml:"rootNamespace"`
}

var clusterName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

var meshWord = regexp.MustCompile(`^[a-z0-9._-]{0,253}$`)

func (i *Inventory) validate() error {
	seen := map[string]bool{}
	for _, c := range i.Clusters {
		switch {
		case !clusterName.MatchString(c.Name):
			return fault.Newf(fault.Invalid, "inventory.clusters: name %.80q: want lower-case letters, digits, - . and _, at most 63", c.Name)
		case seen[c.Name]:
			return fault.Newf(fault.Invalid, "inventory.clusters: %s stands twice", c.Name)
		case c.Kubeconfig == "":
			return fault.Newf(fault.Invalid, "inventory.clusters: %s has no kubeconfig: want a file, or in-cluster", c.Name)
		case strings.ContainsAny(c.Environment, "/@ \t\n") || len(c.Environment) > 63:
			return fault.Newf(fault.Invalid, "inventory.clusters: environment %.80q of %s: want letters, digits, . _ and -, at most 63", c.Environment, c.Name)
		case !meshWord.MatchString(c.Mesh.TrustDomain) || !meshWord.MatchString(c.Mesh.ClusterName) || !meshWord.MatchString(c.Mesh.ClusterDomain) || !meshWord.MatchString(c.Mesh.RootNamespace):
			return fault.Newf(fault.Invalid, "inventory.clusters: mesh of %s: want lower-case letters, digits, - . and _", c.Name)
		}
		seen[c.Name] = true
	}
	return nil
}
