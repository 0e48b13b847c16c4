package api_test

import (
	"time"

	"assay/attestation"
	"assay/client"

	"google.golang.org/protobuf/encoding/protojson"
)

const servicesDoc = `apiVersion: assay/v1
kind: Services
metadata: {name: shop}
spec:
  teams: {payments: {contacts: ["#payments"], groups: [{issuer: "https://id.example", group: payments}], routes: {page: somebody}}}
  services: {checkout: {tier: 1, team: payments, environment: production, exposure: internet, labels: {a: b}, repositories: ["team/**"], workloads: [{namespace: shop}]}}
`

// serviced gives the site a service and something that runs.
func (s *site) serviced() {
	s.t.Helper()
	ctx := s.t.Context()
	if _, err := s.admin.Apply(ctx, []byte(servicesDoc), false, false); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.admin.ReportWorkloads(ctx, client.WorkloadReport{Cluster: "prod", Workloads: []client.ReportedWorkload{{Namespace: "shop", Kind: "Deployment", Name: "checkout", Digest: s.digest}}}); err != nil {
		s.t.Fatal(err)
	}
	s.ids["/api/v1/inventory/services/{name}"] = "checkout"
	// A bill of materials in which an advisory affects something.
	st := []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"app","digest":{"sha256":"` + s.digest.Hex() + `"}}],"predicateType":"https://cyclonedx.org/bom","predicate":
		{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[{"type":"library","bom-ref":"a","name":"left-pad","version":"1.0.0","purl":"pkg:npm/left-pad@1.0.0"}]}}`)
	b, err := s.sig.Statement(ctx, attestation.PayloadType, st, attestation.PAE(attestation.PayloadType, st))
	if err != nil {
		s.t.Fatal(err)
	}
	raw, err := protojson.Marshal(b)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.admin.Ingest(ctx, raw, "team/app"); err != nil {
		s.t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err = s.admin.RiskOfArtifact(ctx, s.digest, ""); err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatal(err)
		}
	}
}

func (s *site) inventoryRequest(method, path string) (query string, header map[string]string, body []byte, ok bool) {
	switch method + " " + path {
	case "GET /api/v1/inventory/workloads":
		return "?digest=" + string(s.digest), nil, nil, true
	case "GET /api/v1/risk/artifact":
		return "?digest=" + string(s.digest), nil, nil, true
	case "GET /api/v1/runtime/files":
		return "?cluster=prod&digest=" + string(s.digest), nil, nil, true
	case "POST /api/v1/runtime/falco":
		return "?cluster=edge", jsonBody, []byte(`{"output":"a shell","priority":"Notice","rule":"Terminal shell in container","time":"2026-03-03T12:00:00Z","output_fields":{"container.id":"0123456789ab"}}`), true
	case "POST /api/v1/runtime/tetragon":
		return "?cluster=edge", jsonBody, []byte(`{"process_kprobe":{"process":{"binary":"/bin/cat"},"function_name":"fd_install","policy_name":"files"},"node_name":"n1","time":"2026-03-03T12:00:00Z"}`), true
	case "POST /api/v1/runtime/agent":
		return "", jsonBody, []byte(`{"cluster":"edge","node":"n1","executions":[{"rule":"foreign","path":"/tmp/x"}]}`), true
	case "POST /api/v1/inventory/report":
		return "", jsonBody, []byte(`{"cluster":"edge","workloads":[{"digest":"` + string(s.digest) + `"}]}`), true
	}
	return "", nil, nil, false
}

// ticketed waits for the ticket of what gated put under quarantine.
func (s *site) ticketed() {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got, err := s.admin.Tickets(s.t.Context(), client.TicketQuery{})
		if err != nil {
			s.t.Fatal(err)
		}
		if len(got.Items) > 0 {
			s.ids["/api/v1/tickets/{id}"] = got.Items[0].ID
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatal("what is under quarantine has no ticket")
		}
	}
}
