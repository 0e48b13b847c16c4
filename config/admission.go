package config

import (
	"net"
	"strings"

	"assay/internal/fault"
	"assay/internal/glob"
)

// Admission is the webhook for the API servers of Kubernetes clusters. Without
// Listen there is none.
type Admission struct {
	// Listen is the webhook's own listener, host:port, always TLS. Its certificate
	// is made by an authority of its own (admission/ca.pem in the data folder), and
	// renews itself.
	Listen string `yaml:"listen"`
	// Names are those under which API servers call it, DNS names and IP addresses,
	// besides the listener's own address.
	Names []string `yaml:"names"`
	// Cluster is the cluster's name in policies, decisions and events.
	Cluster string `yaml:"cluster"`
	// Environment is that of the cluster; Environments that of namespaces, by
	// pattern, where it is another.
	Environment  string            `yaml:"environment"`
	Environments map[string]string `yaml:"environments"`
	// Hosts are further names under which nodes know the registry.
	Hosts []string `yaml:"hosts"`
	// Never are namespaces in which nothing is refused, besides kube-system: the one
	// that Assay itself runs in.
	Never []string `yaml:"never"`
	// Audit refuses nothing: all is decided, recorded and warned of.
	Audit bool `yaml:"audit"`
	// NoPin leaves tags in Pods as they are.
	NoPin bool `yaml:"no_pin"`
	// NoTelemetry leaves OTEL_RESOURCE_ATTRIBUTES of containers as they are.
	NoTelemetry bool `yaml:"no_telemetry"`
	// GatekeeperCA is the file of the authority that signed Gatekeeper's certificate,
	// PEM; with it the listener answers Gatekeeper's external data requests too.
	GatekeeperCA string `yaml:"gatekeeper_ca"`
	// Registries are patterns of host and repository of images of other registries
	// that are decided about too, by the evidence that lies beside them.
	Registries []string `yaml:"registries"`
	// PullSecrets has their registries asked with the credentials of the Pod: of its
	// imagePullSecrets, else of its service account, which are read by the clusters'
	// kubeconfigs of inventory.clusters.
	PullSecrets bool `yaml:"pull_secrets"`
	// PrivateRegistries lets those registries be at addresses of private networks.
	PrivateRegistries bool `yaml:"private_registries"`
	// RegistriesCA is the file of their authorities, PEM, in place of the system's.
	RegistriesCA string `yaml:"registries_ca"`
}

func (a *Admission) validate() error {
	if a.Listen == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(a.Listen); err != nil {
		return fault.Newf(fault.Invalid, "admission.listen %.100q: want HOST:PORT: %w", a.Listen, err)
	}
	for name, s := range map[string]string{"cluster": a.Cluster, "environment": a.Environment} {
		if strings.ContainsAny(s, "/@ \t\n") || len(s) > 63 {
			return fault.Newf(fault.Invalid, "admission.%s %.80q: want letters, digits, . _ and -, at most 63", name, s)
		}
	}
	for pattern, env := range a.Environments {
		if _, err := glob.Parse(pattern); err != nil {
			return fault.Newf(fault.Invalid, "admission.environments: %w", err)
		}
		if env == "" || strings.ContainsAny(env, "/@ \t\n") || len(env) > 63 {
			return fault.Newf(fault.Invalid, "admission.environments.%s %.80q: want letters, digits, . _ and -, at most 63", pattern, env)
		}
	}
	return nil
}

// EnvironmentOf is the environment of a namespace: that of the most specific
// pattern that matches it, else the cluster's.
func (a *Admission) EnvironmentOf(namespace string) string {
	best, env := [3]int{-1}, a.Environment
	for pattern, e := range a.Environments {
		g, err := glob.Parse(pattern)
		if err != nil || !g.Match(namespace) {
			continue
		}
		r := g.Rank()
		for i := range r {
			if r[i] != best[i] {
				if r[i] > best[i] {
					best, env = r, e
				}
				break
			}
		}
	}
	return env
}
