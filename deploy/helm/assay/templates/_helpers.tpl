{{- define "assay.image" -}}
{{- if not (regexMatch "^sha256:[0-9a-f]{64}$" .Values.image.digest) }}{{ fail "image.digest: want sha256: and 64 hex digits: the chart installs no tags" }}{{ end -}}
{{ required "image.repository: want HOST/REPOSITORY of Assay's image" .Values.image.repository }}@{{ .Values.image.digest }}
{{- end }}

{{- define "assay.pullSecrets" }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: [{{ range $i, $n := . }}{{ if $i }}, {{ end }}{name: {{ $n }}}{{ end }}]
{{- end }}
{{- end }}

{{- /* Namespaces in which nothing is refused: those that a cluster is repaired from. */ -}}
{{- define "assay.exempt" -}}
[{{ join ", " (uniq (concat (list "kube-system" .Release.Namespace) .Values.admission.never)) }}]
{{- end }}

{{- define "assay.client" -}}
{{- $ca := required "webhook.ca: want the certificate of the webhook's authority, PEM (--set-file webhook.ca=ca.pem)" .root.Values.webhook.ca | b64enc -}}
{{- if .root.Values.webhook.url -}}
{url: {{ printf "%s%s" (trimSuffix "/" .root.Values.webhook.url) .path | quote }}, caBundle: {{ $ca }}}
{{- else -}}
{service: {name: {{ .root.Values.admission.service }}, namespace: {{ .root.Release.Namespace }}, path: {{ .path }}, port: 443}, caBundle: {{ $ca }}}
{{- end -}}
{{- end }}

{{- define "assay.fail" -}}{{ ternary "Ignore" "Fail" .Values.admission.audit }}{{- end }}

{{- define "assay.pods" }}
  rules:
  - {apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [pods, pods/ephemeralcontainers], scope: Namespaced}
  matchPolicy: Equivalent
  sideEffects: NoneOnDryRun
  admissionReviewVersions: [v1]
  timeoutSeconds: 5
{{- end }}

{{- define "assay.elsewhere" }}
  namespaceSelector:
    matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: {{ include "assay.exempt" . }}}]
{{- end }}

{{- define "assay.podSecurity" }}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "assay.containerSecurity" -}}
{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, privileged: false, capabilities: {drop: [ALL]}}
{{- end }}
