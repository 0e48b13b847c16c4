package api_test

import (
	"encoding/json"
	"time"

	"assay/attestation"
	"assay/builder/runner"
	"assay/client"

	"google.golang.org/protobuf/encoding/protojson"
)

// built brings the evidence of one build in: provenance, and of its machine.
func (s *site) built() {
	s.t.Helper()
	e := &runner.Evidence{Build: runner.Build{InvocationID: "bld_api", StartedOn: time.Now().UTC()}, Machine: runner.Machine{Kind: "vm"}, Use: runner.Use{Fresh: true}}
	own, err := e.JSON()
	if err != nil {
		s.t.Fatal(err)
	}
	for predicateType, predicate := range map[string]string{
		runner.PredicateType: string(own),
		attestation.PredicateProvenanceV1: `{"buildDefinition":{"buildType":"https://assay.dev/buildtypes/command/v1","externalParameters":{"command":["make"],"dir":"."}},
			"runDetails":{"builder":{"id":"https://ci.test"},"metadata":{"invocationId":"bld_api"}}}`,
	} {
		st := []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"app","digest":{"sha256":"` + s.digest.Hex() + `"}}],"predicateType":"` + predicateType + `","predicate":` + predicate + `}`)
		b, err := s.sig.Statement(s.t.Context(), attestation.PayloadType, st, attestation.PAE(attestation.PayloadType, st))
		if err != nil {
			s.t.Fatal(err)
		}
		raw, err := protojson.Marshal(b)
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := s.admin.Ingest(s.t.Context(), raw, "team/app"); err != nil {
			s.t.Fatal(err)
		}
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		page, err := s.admin.RunnerBuilds(s.t.Context(), client.RunnerFilter{Digest: s.digest})
		if err != nil {
			s.t.Fatal(err)
		}
		if len(page.Items) == 1 && page.Items[0].State == "first" {
			s.ids["/api/v1/runners/builds/{id}"] = page.Items[0].ID
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the build was not compared: %+v", page.Items)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *site) runnerRequest(method, path string) (query string, header map[string]string, body []byte, ok bool) {
	switch method + " " + path {
	case "POST /api/v1/runners/heartbeat":
		return "", jsonBody, []byte(`{"name":"one","load1":0.5,"processors":2,"memory_total":4,"memory_available":1,"disk_total":4,"disk_free":1,"age_seconds":5,"boot_age_seconds":6,"builds":0}`), true
	case "POST /api/v1/runners/accept":
		b, err := json.Marshal(client.RunnerAccept{ID: s.ids["/api/v1/runners/builds/{id}"], Reason: "looked at"})
		if err != nil {
			s.t.Fatal(err)
		}
		return "", jsonBody, b, true
	case "GET /api/v1/runners/builds":
		return "?digest=" + string(s.digest), nil, nil, true
	}
	return "", nil, nil, false
}
