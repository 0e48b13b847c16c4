package agent

import (
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"assay/artifact"
	"assay/internal/fault"
)

// Manifest is a DaemonSet of agents, one on each Linux node of a cluster.
type Manifest struct {
	Cluster   string
	Image     string
	URL       string
	Namespace string
	Runtime   string // containerd, k3s, crio or docker: where it keeps what it runs
	Metrics   int    // port of metrics on each Pod's address; 0: it listens on nothing
}

// runtimes are the folders in which container runtimes write which Pod a container is
// of.
var runtimes = map[string]string{"containerd": "/run/containerd", "k3s": "/run/k3s/containerd", "crio": "/run/containers", "docker": "/run/containerd"}

// Runtimes are the names of container runtimes that are known.
func Runtimes() []string { return slices.Sorted(maps.Keys(runtimes)) }

var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// Write gives the manifest. Errors are fault.Invalid.
func (m Manifest) Write() (string, error) {
	for what, s := range map[string]string{"cluster": m.Cluster, "namespace": m.Namespace} {
		if !nameRE.MatchString(s) {
			return "", fault.Newf(fault.Invalid, "%s %.80q: want lower-case letters, digits, - . and _, at most 63", what, s)
		}
	}
	folder, ok := runtimes[m.Runtime]
	if !ok {
		return "", fault.Newf(fault.Invalid, "runtime %.40q: want %s", m.Runtime, strings.Join(Runtimes(), ", "))
	}
	if _, err := artifact.ParseReference(m.Image); err != nil {
		return "", err
	}
	if u, err := url.Parse(m.URL); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return "", fault.Newf(fault.Invalid, "URL %.200q: want https://HOST[:PORT]", m.URL)
	}
	if m.Metrics != 0 && (m.Metrics < 1024 || m.Metrics > 65535) {
		return "", fault.Newf(fault.Invalid, "port %d for metrics: want 1024 to 65535, or 0 for none", m.Metrics)
	}
	var b strings.Builder
	err := daemonSet.Execute(&b, struct {
		Manifest
		Folder string
	}{m, folder})
	return b.String(), err
}

var daemonSet = template.Must(template.New("daemonset").Parse(`# Agents of the hosts of cluster {{.Cluster}}: each looks at what is executed in the containers
# of its node, and dials out. Their token: Secret assay-host-agent, member assay-api.
#
# It is not privileged. What it has, and why:
# - hostPID: it sees the processes of containers, and nothing of them but what the
#   capabilities below allow.
# - SYS_ADMIN: the kernel gives fanotify on file systems to nobody else. With
#   args --sweep it can be left out: programs that end between two looks at /proc are
#   not seen then.
# - SYS_PTRACE: it reads which program a process runs, and its container's root.
# - DAC_READ_SEARCH: it reads programs that belong to others. It can write none of them.
# Host folders are read-only, but for its own, in which waits what the server does not
# have yet.
apiVersion: v1
kind: Namespace
metadata:
  name: {{.Namespace}}
  labels: {pod-security.kubernetes.io/enforce: privileged}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: assay-host-agent, namespace: {{.Namespace}}}
automountServiceAccountToken: false
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: assay-host-agent, namespace: {{.Namespace}}, labels: {app.kubernetes.io/name: assay-host-agent}}
spec:
  selector: {matchLabels: {app.kubernetes.io/name: assay-host-agent}}
  updateStrategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 10%}}
  template:
    metadata:
      labels: {app.kubernetes.io/name: assay-host-agent}
{{- if .Metrics}}
      annotations: {prometheus.io/scrape: "true", prometheus.io/port: "{{.Metrics}}"}
{{- end}}
    spec:
      serviceAccountName: assay-host-agent
      automountServiceAccountToken: false
      enableServiceLinks: false
      hostPID: true
      nodeSelector: {kubernetes.io/os: linux}
      tolerations: [{operator: Exists}]
      terminationGracePeriodSeconds: 10
      securityContext: {runAsUser: 0, seccompProfile: {type: RuntimeDefault}, appArmorProfile: {type: Unconfined}}
      containers:
      - name: agent
        image: {{printf "%q" .Image}}
        args: [agent, --server, {{printf "%q" .URL}}, --cluster, {{printf "%q" .Cluster}}, --node, $(NODE_NAME), --dir, /var/lib/assay-agent, --run, /host/run{{if .Metrics}}, --metrics, ":{{.Metrics}}"{{end}}]
        env:
        - {name: ASSAY_TOKEN_DIR, value: /var/run/assay}
        - {name: HOME, value: /tmp}
        - name: NODE_NAME
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- if .Metrics}}
        ports: [{name: metrics, containerPort: {{.Metrics}}}]
{{- end}}
        securityContext:
          privileged: false
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {drop: [ALL], add: [SYS_ADMIN, SYS_PTRACE, DAC_READ_SEARCH]}
        resources: {requests: {cpu: 20m, memory: 64Mi}, limits: {memory: 256Mi}}
        volumeMounts:
        - {name: token, mountPath: /var/run/assay, readOnly: true}
        - {name: runtime, mountPath: /host{{.Folder}}, readOnly: true, mountPropagation: HostToContainer}
        - {name: waiting, mountPath: /var/lib/assay-agent}
        - {name: tmp, mountPath: /tmp}
      volumes:
      - name: token
        secret: {secretName: assay-host-agent, defaultMode: 0400}
      - name: runtime
        hostPath: {path: {{.Folder}}, type: Directory}
      - name: waiting
        hostPath: {path: /var/lib/assay-agent, type: DirectoryOrCreate}
      - name: tmp
        emptyDir: {sizeLimit: 16Mi}
`))
