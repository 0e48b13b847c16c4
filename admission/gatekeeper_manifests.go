package admission

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"strings"
	"text/template"
)

// gatekeeperRego is the ConstraintTemplate's policy. It fails closed: see there.
//
//go:embed gatekeeper.rego
var gatekeeperRego string

// gatekeeperManifests are what Gatekeeper asks by: a Provider, a
// ConstraintTemplate, and a Constraint of its kind.
func gatekeeperManifests(o *ManifestOptions, exempt []string) ([]Manifest, error) {
	url := o.URL
	if url == "" {
		url = "https://" + o.Service + "." + o.Namespace + ".svc:443"
	}
	data := map[string]any{
		"URL": url + PathGatekeeper, "CA": base64.StdEncoding.EncodeToString(o.CA), "Exempt": exempt, "Action": "deny",
		"Rego": "          " + strings.ReplaceAll(strings.TrimSpace(gatekeeperRego), "\n", "\n          "),
	}
	if o.Audit {
		data["Action"] = "warn"
	}
	var out []Manifest
	for _, m := range []struct{ name, text string }{
		{"gatekeeper/provider.yaml", gatekeeperProvider}, {"gatekeeper/template.yaml", gatekeeperTemplate}, {"gatekeeper/constraint.yaml", gatekeeperConstraint},
	} {
		var b bytes.Buffer
		t, err := template.New(m.name).Parse(m.text)
		if err == nil {
			err = t.Execute(&b, data)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, Manifest{m.name, b.Bytes()})
	}
	return out, nil
}

const gatekeeperProvider = `apiVersion: externaldata.gatekeeper.sh/v1beta1
kind: Provider
metadata: {name: assay}
spec:
  url: {{.URL}}
  timeout: 3
  caBundle: {{.CA}}
`

// Rego v1 in a ConstraintTemplate is of Gatekeeper 3.19.
const gatekeeperTemplate = `apiVersion: templates.gatekeeper.sh/v1
kind: ConstraintTemplate
metadata:
  name: assayimages
  annotations:
    metadata.gatekeeper.sh/title: Images that Assay allows
    description: Every image of a Pod is allowed by Assay and named by the digest that was decided about.
spec:
  crd:
    spec:
      names: {kind: AssayImages}
      validation:
        openAPIV3Schema:
          type: object
          properties:
            provider: {type: string, description: "name of the Provider; default assay"}
            tags: {type: boolean, description: "let images be named by tags, which can move after the answer"}
  targets:
  - target: admission.k8s.gatekeeper.sh
    code:
    - engine: Rego
      source:
        version: v1
        rego: |
{{.Rego}}
`

const gatekeeperConstraint = `# After the template: its kind is there once Gatekeeper has taken that in.
apiVersion: constraints.gatekeeper.sh/v1beta1
kind: AssayImages
metadata: {name: assay}
spec:
  enforcementAction: {{.Action}}
  match:
    kinds: [{apiGroups: [""], kinds: [Pod]}]
    excludedNamespaces: [{{range $i, $n := .Exempt}}{{if $i}}, {{end}}{{$n}}{{end}}]
  parameters: {provider: assay}
`
