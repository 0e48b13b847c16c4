package admission

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"text/template"

	"assay/internal/fault"
)

// ManifestOptions say what is installed in a cluster. CA, and one of URL and
// Service, are required.
type ManifestOptions struct {
	CA []byte // PEM of the webhook's authority
	// URL is https://HOST:PORT of the webhook. Static manifests need it: API servers
	// look no Services up for them.
	URL string
	// Service and Namespace name a Service of port 443 in front of it.
	Service, Namespace string
	// Never are namespaces in which nothing is refused, besides kube-system and
	// Namespace.
	Never []string
	// Workloads are further resources with pod templates that are warned of, as
	// RESOURCE.GROUP: rollouts.argoproj.io.
	Workloads []string
	// Audit makes the webhook's absence harmless: failurePolicy Ignore.
	Audit bool
	// NoPin leaves the mutating webhook and the policy of digests out.
	NoPin bool
	// Static makes the API server's own manifests, which nobody can delete through it.
	Static bool
	// Gatekeeper makes a Provider, a ConstraintTemplate and a Constraint for
	// Gatekeeper in place of all else.
	Gatekeeper bool
}

// Manifest is one file.
type Manifest struct {
	Name string // "validating/assay.yaml"
	YAML []byte
}

type workload struct{ Group, Resource string }

func (o *ManifestOptions) validate() error {
	switch {
	case len(o.CA) == 0 || !bytes.Contains(o.CA, []byte("BEGIN CERTIFICATE")):
		return fault.Newf(fault.Invalid, "manifests: want the certificate of the webhook's authority, PEM: ca/admission.pem of the data folder")
	case (o.URL == "") == (o.Service == ""):
		return fault.Newf(fault.Invalid, "manifests: want one of a URL and a Service")
	case o.Service != "" && o.Namespace == "":
		return fault.Newf(fault.Invalid, "manifests: want the namespace of Service %.80q", o.Service)
	case o.Static && o.Gatekeeper:
		return fault.Newf(fault.Invalid, "manifests: Gatekeeper's are objects of its own: want one of static and gatekeeper")
	case o.Static && o.URL == "":
		return fault.Newf(fault.Invalid, "manifests: API servers look up no Services for static manifests: want a URL")
	}
	if o.URL != "" {
		u, err := url.Parse(o.URL)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" {
			return fault.Newf(fault.Invalid, "manifests: URL %.200q: want https://HOST[:PORT]", o.URL)
		}
		o.URL = strings.TrimSuffix(o.URL, "/")
	}
	for _, n := range append(slices.Clone(o.Never), o.Service, o.Namespace) {
		if n != "" && !label(n) {
			return fault.Newf(fault.Invalid, "manifests: %.80q is no name of a namespace or Service", n)
		}
	}
	for _, w := range o.Workloads {
		for _, part := range strings.Split(w, ".") {
			if !label(part) {
				return fault.Newf(fault.Invalid, "manifests: workload %.100q: want RESOURCE.GROUP, such as rollouts.argoproj.io", w)
			}
		}
	}
	return nil
}

// label is a DNS label.
func label(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// Manifests writes what is installed: the webhook configurations, the policy that
// only digests may run, rights, and the disruption budget. Static ones go into
// folders of the API servers' hosts.
func Manifests(o ManifestOptions) ([]Manifest, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	exempt := []string{"kube-system"}
	for _, n := range append([]string{o.Namespace}, o.Never...) {
		if n != "" && !slices.Contains(exempt, n) {
			exempt = append(exempt, n)
		}
	}
	data := map[string]any{"O": o, "CA": base64.StdEncoding.EncodeToString(o.CA), "Exempt": exempt, "Suffix": "", "Fail": "Fail"}
	if o.Audit {
		data["Fail"] = "Ignore"
	}
	if o.Static {
		data["Suffix"] = ".static.k8s.io"
	}
	var more []workload
	for _, w := range o.Workloads {
		resource, group, _ := strings.Cut(w, ".")
		more = append(more, workload{group, resource})
	}
	data["More"] = more
	if o.Gatekeeper {
		return gatekeeperManifests(&o, exempt)
	}
	var out []Manifest
	add := func(name, text string) error {
		var b bytes.Buffer
		t, err := template.New(name).Funcs(template.FuncMap{"client": o.client}).Parse(text + rules)
		if err == nil {
			err = t.Execute(&b, data)
		}
		out = append(out, Manifest{name, append(bytes.TrimSpace(b.Bytes()), '\n')})
		return err
	}
	if !o.NoPin {
		if err := add("mutating/assay.yaml", mutating); err != nil {
			return nil, err
		}
	}
	if err := add("validating/assay.yaml", validating); err != nil {
		return nil, err
	}
	if !o.NoPin && !o.Audit {
		if err := add("policies/assay.yaml", digestsOnly); err != nil {
			return nil, err
		}
	}
	if o.Static {
		return out, add("admission.yaml", staticConfig)
	}
	if err := add("rbac.yaml", rbac); err != nil {
		return nil, err
	}
	if o.Namespace != "" {
		return out, add("disruption.yaml", disruption)
	}
	return out, nil
}

func (o *ManifestOptions) client(path string) string {
	if o.URL != "" {
		return fmt.Sprintf("{url: %q, caBundle: %s}", o.URL+path, base64.StdEncoding.EncodeToString(o.CA))
	}
	return fmt.Sprintf("{service: {name: %s, namespace: %s, path: %s, port: 443}, caBundle: %s}", o.Service, o.Namespace, path, base64.StdEncoding.EncodeToString(o.CA))
}

// The label kubernetes.io/metadata.name is written by the API server alone: no
// owner of a namespace can have it say another name.
const rules = `
{{- define "pods"}}
  rules:
  - {apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [pods, pods/ephemeralcontainers], scope: Namespaced}
  matchPolicy: Equivalent
  sideEffects: NoneOnDryRun
  admissionReviewVersions: [v1]
  timeoutSeconds: 5
{{- end}}
{{- define "elsewhere"}}
  namespaceSelector:
    matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [{{range $i, $n := .Exempt}}{{if $i}}, {{end}}{{$n}}{{end}}]}]
{{- end}}`

const mutating = `apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: assay{{.Suffix}}}
webhooks:
- name: pods.assay.dev
  clientConfig: {{client "/mutate"}}
  failurePolicy: {{.Fail}}
  reinvocationPolicy: IfNeeded
{{- template "pods" .}}
{{- template "elsewhere" .}}
`

const validating = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: assay{{.Suffix}}}
webhooks:
- name: pods.assay.dev
  clientConfig: {{client "/validate"}}
  failurePolicy: {{.Fail}}
{{- template "pods" .}}
{{- template "elsewhere" .}}
# Namespaces that a cluster is repaired from: decided, recorded and warned of,
# never refused, and not held up by a webhook that does not answer.
- name: system.assay.dev
  clientConfig: {{client "/validate"}}
  failurePolicy: Ignore
{{- template "pods" .}}
  namespaceSelector:
    matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [{{range $i, $n := .Exempt}}{{if $i}}, {{end}}{{$n}}{{end}}]}]
# Whatever makes Pods: warned of at once, refused at the Pod.
- name: workloads.assay.dev
  clientConfig: {{client "/warn"}}
  failurePolicy: Ignore
  rules:
  - {apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [replicationcontrollers, podtemplates], scope: Namespaced}
  - {apiGroups: [apps], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: [deployments, statefulsets, daemonsets, replicasets], scope: Namespaced}
  - {apiGroups: [batch], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: [jobs, cronjobs], scope: Namespaced}
{{- range .More}}
  - {apiGroups: ["{{.Group}}"], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: [{{.Resource}}], scope: "*"}
{{- end}}
  matchPolicy: Equivalent
  sideEffects: NoneOnDryRun
  admissionReviewVersions: [v1]
  timeoutSeconds: 3
{{- template "elsewhere" .}}
`

// digestsOnly holds without the webhook: it needs nobody's answer. What a Pod had
// before is left alone, so that an older one can still be changed and deleted.
const digestsOnly = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: assay-digests-only{{.Suffix}}}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [pods, pods/ephemeralcontainers], scope: Namespaced}
{{- if .O.Static}}
    namespaceSelector:
      matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [{{range $i, $n := .Exempt}}{{if $i}}, {{end}}{{$n}}{{end}}]}]
{{- end}}
  variables:
  - name: images
    expression: >-
      object.spec.containers.map(c, has(c.image) ? c.image : "")
      + (has(object.spec.initContainers) ? object.spec.initContainers.map(c, has(c.image) ? c.image : "") : [])
      + (has(object.spec.ephemeralContainers) ? object.spec.ephemeralContainers.map(c, has(c.image) ? c.image : "") : [])
      + (has(object.spec.volumes) ? object.spec.volumes.filter(v, has(v.image)).map(v, has(v.image.reference) ? v.image.reference : "") : [])
  - name: before
    expression: >-
      oldObject == null ? [] : oldObject.spec.containers.map(c, has(c.image) ? c.image : "")
      + (has(oldObject.spec.initContainers) ? oldObject.spec.initContainers.map(c, has(c.image) ? c.image : "") : [])
      + (has(oldObject.spec.ephemeralContainers) ? oldObject.spec.ephemeralContainers.map(c, has(c.image) ? c.image : "") : [])
      + (has(oldObject.spec.volumes) ? oldObject.spec.volumes.filter(v, has(v.image)).map(v, has(v.image.reference) ? v.image.reference : "") : [])
  - name: loose
    expression: >-
      variables.images.filter(i, !i.matches("@sha256:[0-9a-f]{64}$|@sha512:[0-9a-f]{128}$") && !(i in variables.before))
  validations:
  - expression: size(variables.loose) == 0
    messageExpression: >-
      "assay: images want a digest, which Assay's mutating webhook writes; it did not see " + variables.loose.join(", ")
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: assay-digests-only{{.Suffix}}}
spec:
  policyName: assay-digests-only{{.Suffix}}
  validationActions: [Deny]
  matchResources:
    namespaceSelector:
      matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [{{range $i, $n := .Exempt}}{{if $i}}, {{end}}{{$n}}{{end}}]}]
`

const staticConfig = `# kube-apiserver --admission-control-config-file=/etc/kubernetes/assay/admission.yaml
# with the three folders beside it on every host of an API server (Kubernetes 1.37).
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
{{- if not .O.NoPin}}
- name: MutatingAdmissionWebhook
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: WebhookAdmissionConfiguration
    staticManifestsDir: /etc/kubernetes/assay/mutating
{{- end}}
- name: ValidatingAdmissionWebhook
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: WebhookAdmissionConfiguration
    staticManifestsDir: /etc/kubernetes/assay/validating
{{- if and (not .O.NoPin) (not .O.Audit)}}
- name: ValidatingAdmissionPolicy
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ValidatingAdmissionPolicyConfiguration
    staticManifestsDir: /etc/kubernetes/assay/policies
{{- end}}
`

const rbac = `# What Assay reads of the cluster: what runs, and whether its webhooks are in
# place. It writes nothing.
apiVersion: v1
kind: ServiceAccount
metadata: {name: assay, namespace: {{if .O.Namespace}}{{.O.Namespace}}{{else}}kube-system{{end}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: assay-reader}
rules:
- {apiGroups: [""], resources: [pods, nodes, namespaces], verbs: [get, list, watch]}
- {apiGroups: [security.istio.io], resources: [peerauthentications], verbs: [get, list]}
- {apiGroups: [policy.linkerd.io], resources: [servers, authorizationpolicies, serverauthorizations, meshtlsauthentications], verbs: [get, list]}
- {apiGroups: [spire.spiffe.io], resources: [clusterspiffeids], verbs: [get, list]}
- {apiGroups: [""], resources: [configmaps], resourceNames: [istio], verbs: [get]}
- {apiGroups: [admissionregistration.k8s.io], resources: [validatingwebhookconfigurations, mutatingwebhookconfigurations, validatingadmissionpolicies, validatingadmissionpolicybindings], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: assay-reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: assay-reader}
subjects: [{kind: ServiceAccount, name: assay, namespace: {{if .O.Namespace}}{{.O.Namespace}}{{else}}kube-system{{end}}}]
`

const disruption = `apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: {{or .O.Service "assay"}}, namespace: {{.O.Namespace}}}
spec:
  minAvailable: 1
  selector: {matchLabels: {app.kubernetes.io/name: assay}}
`
