package cluster

import (
	"net/url"
	"regexp"
	"strings"
	"text/template"

	"assay/artifact"
	"assay/internal/fault"
)

// Agent is a deployment of "assay cluster watch" in a cluster.
type Agent struct {
	Cluster     string
	Image       string
	URL         string
	Environment string
	Namespace   string
}

var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// AgentManifest is the manifest of an agent. Errors are fault.Invalid.
func AgentManifest(a Agent) (string, error) {
	for what, s := range map[string]string{"cluster": a.Cluster, "namespace": a.Namespace} {
		if !nameRE.MatchString(s) {
			return "", fault.Newf(fault.Invalid, "%s %.80q: want lower-case letters, digits, - . and _, at most 63", what, s)
		}
	}
	if a.Environment != "" && !nameRE.MatchString(a.Environment) {
		return "", fault.Newf(fault.Invalid, "environment %.80q: want lower-case letters, digits, - . and _, at most 63", a.Environment)
	}
	if _, err := artifact.ParseReference(a.Image); err != nil {
		return "", err
	}
	if u, err := url.Parse(a.URL); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return "", fault.Newf(fault.Invalid, "URL %.200q: want https://HOST[:PORT]", a.URL)
	}
	var b strings.Builder
	err := agent.Execute(&b, a)
	return b.String(), err
}

var agent = template.Must(template.New("agent").Parse(`# The agent of cluster {{.Cluster}}: it reads Pods, webhook configurations and what
# meshes and SPIRE are told, and dials out. Its token: Secret assay-agent, member assay-api.
apiVersion: v1
kind: Namespace
metadata: {name: {{.Namespace}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: assay-agent, namespace: {{.Namespace}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: assay-agent}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [namespaces], verbs: [get, list]}
- {apiGroups: [security.istio.io], resources: [peerauthentications], verbs: [get, list]}
- {apiGroups: [policy.linkerd.io], resources: [servers, authorizationpolicies, serverauthorizations, meshtlsauthentications], verbs: [get, list]}
- {apiGroups: [spire.spiffe.io], resources: [clusterspiffeids], verbs: [get, list]}
- {apiGroups: [""], resources: [configmaps], resourceNames: [istio], verbs: [get]}
- {apiGroups: [admissionregistration.k8s.io], resources: [validatingwebhookconfigurations, mutatingwebhookconfigurations, validatingadmissionpolicies, validatingadmissionpolicybindings], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: assay-agent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: assay-agent}
subjects: [{kind: ServiceAccount, name: assay-agent, namespace: {{.Namespace}}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: assay-agent, namespace: {{.Namespace}}, labels: {app.kubernetes.io/name: assay-agent}}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app.kubernetes.io/name: assay-agent}}
  template:
    metadata: {labels: {app.kubernetes.io/name: assay-agent}}
    spec:
      serviceAccountName: assay-agent
      securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: agent
        image: {{printf "%q" .Image}}
        args: [cluster, watch, --cluster, {{printf "%q" .Cluster}}{{if .Environment}}, --environment, {{printf "%q" .Environment}}{{end}}, --server, {{printf "%q" .URL}}]
        env: [{name: ASSAY_TOKEN_DIR, value: /var/run/assay}, {name: HOME, value: /tmp}]
        securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
        resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {memory: 256Mi}}
        volumeMounts: [{name: token, mountPath: /var/run/assay, readOnly: true}, {name: tmp, mountPath: /tmp}]
      volumes:
      - name: token
        secret: {secretName: assay-agent}
      - name: tmp
        emptyDir: {}
`))
