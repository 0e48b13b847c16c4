package api_test

import (
	"encoding/json"
	"fmt"
)

const contractDoc = `apiVersion: assay/v1
kind: Contract
metadata: {name: release}
spec:
  version: 1
  repositories: ["team/**"]
  evidence: [{signature: true, identities: [{issuer: %q, subject: signer@example.com}]}]
`

// contracted gives the site a contract, and a build of the signer's.
func (s *site) contracted() {
	s.t.Helper()
	if _, err := s.admin.Apply(s.t.Context(), []byte(fmt.Sprintf(contractDoc, s.issuer)), false, false); err != nil {
		s.t.Fatal(err)
	}
	status, _, b := s.do("POST", "/api/v1/builds", s.tokens["signer"], jsonBody, []byte(`{"repository":"team/app"}`))
	var build struct{ ID, Contract string }
	if err := json.Unmarshal(b, &build); err != nil || status != 201 || build.Contract != "release" {
		s.t.Fatalf("%d %s, %v", status, b, err)
	}
	s.ids["/api/v1/builds/{id}/finish"] = build.ID + "/finish"
	// A workflow is what the token names.
	if status, _, b := s.do("POST", "/api/v1/builds", s.tokens["signer"], jsonBody, []byte(`{"repository":"team/app","workflow":"org/app/x.yml"}`)); status != 403 {
		s.t.Errorf("a workflow of the request's own words: %d %s", status, b)
	}
}

func (s *site) contractRequest(method, path string) (query string, header map[string]string, body []byte, ok bool) {
	switch method + " " + path {
	case "GET /api/v1/contracts/check":
		return "?digest=" + string(s.digest) + "&repository=team/app", nil, nil, true
	case "POST /api/v1/builds":
		return "", jsonBody, []byte(`{"repository":"team/app"}`), true
	case "POST /api/v1/builds/{id}/finish":
		return "", jsonBody, []byte(`{"outcome":"passed","products":[{"name":"app","digest":"` + string(s.digest) + `"}]}`), true
	}
	return "", nil, nil, false
}
