package rbac

import (
	"bytes"
	"fmt"
	"slices"

	"assay/internal/fault"
	"assay/internal/strictyaml"

	"go.yaml.in/yaml/v3"
)

// Expected is one entry of an allow list.
type Expected struct {
	Kind      string   `yaml:"kind" json:"kind"`
	Namespace string   `yaml:"namespace,omitempty" json:"namespace,omitempty"`
	Name      string   `yaml:"name" json:"name"`
	Powers    []string `yaml:"powers,flow" json:"powers"` // "*": all of them
}

// Expectation is an allow list as it stands in a file.
type Expectation struct {
	APIVersion string `yaml:"apiVersion" json:"apiVersion"`
	Kind       string `yaml:"kind" json:"kind"`
	Spec       struct {
		Subjects []Expected `yaml:"subjects" json:"subjects"`
	} `yaml:"spec" json:"spec"`
}

const (
	expectVersion = "assay/v1"
	expectKind    = "RBACExpectation"
	maxExpect     = 4 << 20
)

// ParseExpectation reads an allow list. Errors are fault.Invalid.
func ParseExpectation(b []byte) (*Expectation, error) {
	if len(b) > maxExpect {
		return nil, fault.Newf(fault.Invalid, "an allow list has at most %d bytes", maxExpect)
	}
	var e Expectation
	if err := strictyaml.Unmarshal(b, &e); err != nil {
		return nil, err
	}
	if e.APIVersion != expectVersion || e.Kind != expectKind {
		return nil, fault.Newf(fault.Invalid, "allow list: %.80q %.80q: want apiVersion: %s, kind: %s", e.APIVersion, e.Kind, expectVersion, expectKind)
	}
	for i, s := range e.Spec.Subjects {
		at := fmt.Sprintf("allow list: spec.subjects[%d]", i)
		switch {
		case !slices.Contains([]string{"User", "Group", "ServiceAccount", "Grant"}, s.Kind):
			return nil, fault.Newf(fault.Invalid, "%s.kind: %.80q: want User, Group, ServiceAccount or Grant", at, s.Kind)
		case s.Name == "":
			return nil, fault.Newf(fault.Invalid, "%s: want a name", at)
		case (s.Kind == "ServiceAccount") != (s.Namespace != ""):
			return nil, fault.Newf(fault.Invalid, "%s: want a namespace for a ServiceAccount, and for nobody else", at)
		case len(s.Powers) == 0:
			return nil, fault.Newf(fault.Invalid, "%s.powers: want some of %v, or \"*\"", at, Powers)
		}
		for _, p := range s.Powers {
			if p != "*" && !slices.Contains(Powers, Power(p)) {
				return nil, fault.Newf(fault.Invalid, "%s.powers: %.80q: want some of %v, or \"*\"", at, p, Powers)
			}
		}
	}
	return &e, nil
}

// Judge marks what nobody expected, and gives the entries of the list that nobody
// needs. Without a list only what Kubernetes itself is made of is expected.
func Judge(all []Holder, e *Expectation) (unexpected int, unused []Expected) {
	allowed := map[Subject][]string{}
	if e != nil {
		for _, s := range e.Spec.Subjects {
			key := Subject{s.Kind, s.Name, s.Namespace}
			allowed[key] = append(allowed[key], s.Powers...)
		}
	}
	here := map[Subject]bool{}
	for i := range all {
		h := &all[i]
		here[h.Subject] = true
		h.Unexpected = []Power{}
		for _, p := range h.Powers {
			if !h.Standard && !has(allowed[h.Subject], string(p)) {
				h.Unexpected = append(h.Unexpected, p)
			}
		}
		if len(h.Unexpected) > 0 {
			unexpected++
		}
	}
	if e != nil {
		for _, s := range e.Spec.Subjects {
			if !here[Subject{s.Kind, s.Name, s.Namespace}] {
				unused = append(unused, s)
			}
		}
	}
	return unexpected, unused
}

// Allow writes the allow list that expects what there is now, for somebody to read
// and to shorten.
func Allow(all []Holder) ([]byte, error) {
	e := Expectation{APIVersion: expectVersion, Kind: expectKind}
	for _, h := range all {
		if h.Standard {
			continue
		}
		x := Expected{Kind: h.Subject.Kind, Namespace: h.Subject.Namespace, Name: h.Subject.Name}
		for _, p := range h.Powers {
			x.Powers = append(x.Powers, string(p))
		}
		e.Spec.Subjects = append(e.Spec.Subjects, x)
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(e); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// controllers are the service accounts in kube-system that Kubernetes' own
// controllers act as. They are known by name, not by what a binding says of itself:
// names in kube-system are Kubernetes' own, and who may write there is listed.
var controllers = []string{
	"attachdetach-controller", "clusterrole-aggregation-controller", "cronjob-controller", "daemon-set-controller", "deployment-controller",
	"disruption-controller", "endpoint-controller", "endpointslice-controller", "endpointslicemirroring-controller", "ephemeral-volume-controller",
	"expand-controller", "generic-garbage-collector", "horizontal-pod-autoscaler", "job-controller", "legacy-service-account-token-cleaner",
	"namespace-controller", "node-controller", "persistent-volume-binder", "pod-garbage-collector", "pv-protection-controller",
	"pvc-protection-controller", "replicaset-controller", "replication-controller", "resource-claim-controller", "resourcequota-controller",
	"root-ca-cert-publisher", "route-controller", "selinux-warning-controller", "service-account-controller", "service-cidrs-controller",
	"service-controller", "statefulset-controller", "storage-version-migrator-controller", "storageversionmigrator-controller", "ttl-after-finished-controller", "ttl-controller",
	"validatingadmissionpolicy-status-controller", "volumeattributesclass-protection-controller", "device-taint-eviction-controller", "podcertificaterequestcleaner-controller",
	"kube-controller-manager", "bootstrap-signer", "token-cleaner", "certificate-controller",
}

// standard is what Kubernetes itself is made of.
func standard(s Subject) bool {
	switch s.Kind {
	case "Group":
		return s.Name == "system:masters"
	case "User":
		return s.Name == "system:kube-controller-manager" || s.Name == "system:kube-scheduler" || s.Name == "system:apiserver"
	case "ServiceAccount":
		return s.Namespace == "kube-system" && slices.Contains(controllers, s.Name)
	}
	return false
}
