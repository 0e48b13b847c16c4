package api_test

import (
	"encoding/base64"
	"fmt"
	"net/http"

	"assay/artifact"
	"assay/client"
)

const gatedDocs = `apiVersion: assay/v1
kind: Repository
metadata: {name: gated}
spec: {pattern: "gated/**", mode: staged}
---
apiVersion: assay/v1
kind: Grant
metadata: {name: pusher}
spec: {issuer: %q, subject: pusher@example.com, role: publisher, scope: "gated/**"}
---
apiVersion: assay/v1
kind: Grant
metadata: {name: approver}
spec: {issuer: %q, subject: approver@example.com, role: approver, scope: "**"}
`

var (
	gatedImage = []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`)
	released   = artifact.SHA256Of([]byte("to be released"))
)

// gated gives the site a repository with a gate, an image that waits in it, and
// a quarantine.
func (s *site) gated() {
	s.t.Helper()
	ctx := s.t.Context()
	if _, err := s.admin.Apply(ctx, fmt.Appendf(nil, gatedDocs, s.issuer, s.issuer), false, false); err != nil {
		s.t.Fatal(err)
	}
	a, err := s.admin.Mint(ctx, client.TokenRequest{Subject: "approver@example.com", Audience: "assay-api", TTL: 300})
	if err != nil {
		s.t.Fatal(err)
	}
	s.tokens["approver"] = a.Token
	if a, err = s.admin.Mint(ctx, client.TokenRequest{Subject: "pusher@example.com", Audience: "assay-registry", TTL: 300}); err != nil {
		s.t.Fatal(err)
	}
	basic := map[string]string{"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte("x:"+a.Token)), "Content-Type": "application/vnd.oci.image.manifest.v1+json"}
	for _, r := range []struct {
		method, path string
		body         []byte
	}{
		{"POST", "/v2/gated/app/blobs/uploads/?digest=" + string(artifact.SHA256Of([]byte("{}"))), []byte("{}")},
		{"PUT", "/v2/gated/app/manifests/v1", gatedImage},
	} {
		if status, _, b := s.do(r.method, r.path, "", basic, r.body); status != http.StatusCreated {
			s.t.Fatalf("%s %s: %d %s", r.method, r.path, status, b)
		}
	}
	var hold struct {
		ID string `json:"id"`
	}
	if err := s.admin.AddHold(ctx, client.HoldRequest{Digest: artifact.SHA256Of([]byte("held")), Reason: "for the test"}, &hold); err != nil {
		s.t.Fatal(err)
	}
	s.ids["/api/v1/holds/{hold}"] = hold.ID
	if err := s.admin.RegistryBlock(ctx, "quarantine", client.BlockRequest{Digest: released, Reason: "for the test"}, &struct{}{}); err != nil {
		s.t.Fatal(err)
	}
}

// gateRequest is a request about the gate that succeeds, for those who may.
func (s *site) gateRequest(method, path string) (query string, header map[string]string, body []byte, ok bool) {
	blocking := func(d artifact.Digest) (string, map[string]string, []byte, bool) {
		return "", jsonBody, fmt.Appendf(nil, `{"digest": %q, "reason": "for the test"}`, d), true
	}
	switch method + " " + path {
	case "GET /api/v1/registry/status":
		return "?repository=gated/app&reference=v1", nil, nil, true
	case "GET /api/v1/registry/tags":
		return "?repository=team/app", nil, nil, true
	case "GET /api/v1/registry/places", "GET /api/v1/decision-history":
		return "?digest=" + string(s.digest), nil, nil, true
	case "GET /api/v1/registry/history":
		return "?repository=gated/app&tag=v1&proofs=true", nil, nil, true
	case "GET /api/v1/registry/pulls":
		return "?digest=" + string(released), nil, nil, true
	case "POST /api/v1/registry/repair":
		return "", jsonBody, []byte(`{"all": true}`), true
	case "PUT /api/v1/registry/repair/{digest}":
		return "?source=a+test", map[string]string{"Content-Type": "application/octet-stream"}, []byte("{}"), true
	case "POST /api/v1/registry/promote":
		return "", jsonBody, fmt.Appendf(nil, `{"repository": "gated/app", "digest": %q, "reason": "for the test", "seconds": 3600}`, artifact.SHA256Of(gatedImage)), true
	case "POST /api/v1/holds":
		return blocking(artifact.SHA256Of([]byte("to be held")))
	case "DELETE /api/v1/holds/{hold}":
		return "?reason=for+the+test", nil, nil, true
	case "POST /api/v1/registry/quarantine":
		return blocking(artifact.SHA256Of([]byte("to be quarantined")))
	case "POST /api/v1/registry/release":
		return blocking(released)
	case "POST /api/v1/registry/revoke":
		return blocking(artifact.SHA256Of([]byte("to be revoked")))
	}
	return "", nil, nil, false
}
