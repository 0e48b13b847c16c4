package api_test

import (
	"archive/zip"
	"assay/vuln/vex"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/api"
	"assay/artifact"
	"assay/client"
	"assay/config"
	"assay/identity"
	"assay/internal/fault"
	"assay/server"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
)

var update = flag.Bool("update", false, "write openapi.json anew")

// site is a running server, with something of everything in it.
type site struct {
	t      *testing.T
	url    string
	data   string // folder
	issuer string
	admin  *client.Client
	doc    document
	bundle []byte
	sig    *client.Signing // as signer@example.com
	digest artifact.Digest
	ids    map[string]string // of path parameters
	tokens map[string]string // by role
}

// document is the OpenAPI description, as far as the tests read it.
type document struct {
	Paths map[string]map[string]struct {
		OperationID string           `json:"operationId"`
		Security    []map[string]any `json:"security"`
		Responses   map[string]struct {
			Content map[string]struct {
				Schema map[string]any `json:"schema"`
			} `json:"content"`
		} `json:"responses"`
		RequestBody *struct {
			Content map[string]any `json:"content"`
		} `json:"requestBody"`
	} `json:"paths"`
	Components struct {
		Schemas map[string]map[string]any `json:"schemas"`
	} `json:"components"`
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "assay-api-") //nolint:usetesting // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := config.Default()
	cfg.Data, cfg.Server.Listen = filepath.Join(dir, "data"), "127.0.0.1:0"
	cfg.Trust.Policies.Unsigned = true
	srv, err := server.New(t.Context(), cfg, server.Options{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ready, ended := make(chan client.Status, 1), make(chan error, 1)
	go func() { ended <- srv.Run(ctx, func(st client.Status) { ready <- st }) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	st := <-ready
	s := &site{t: t, url: st.PublicURL, data: cfg.Data, issuer: st.Services.OIDC, admin: client.Socket(filepath.Join(cfg.Data, "run", "admin.sock")), tokens: map[string]string{}, ids: map[string]string{}}
	s.fill(st)
	return s
}

// fill gives the site evidence, a decision, events and grants.
func (s *site) fill(st client.Status) {
	s.t.Helper()
	ctx := s.t.Context()
	sig := &client.Signing{Fulcio: st.Services.Fulcio, Rekor: st.Services.Rekor, TSA: st.Services.TSA, Token: func(ctx context.Context) (string, error) {
		a, err := s.admin.Mint(ctx, client.TokenRequest{Subject: "signer@example.com", Audience: "sigstore", TTL: 60})
		return a.Token, err
	}}
	s.sig = sig
	s.digest = artifact.SHA256Of([]byte("content"))
	b, err := sig.Blob(ctx, s.digest)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.bundle, err = protojson.Marshal(b); err != nil {
		s.t.Fatal(err)
	}
	ev, err := s.admin.Ingest(ctx, s.bundle, "team/app")
	if err != nil {
		s.t.Fatal(err)
	}
	var docs strings.Builder
	for name, g := range map[string]string{
		"other": "role: admin, scope: \"other/**\"", "viewer": "role: viewer, scope: \"**\"", "signer": "role: signer, scope: \"**\"", "deployer": "role: deployer, scope: \"**\"", "agent": "role: agent, scope: \"**\"",
		"auditor": "role: auditor, scope: \"**\"", "operator": "role: operator, scope: \"**\"", "admin": "role: admin, scope: \"**\"", "team": "role: viewer, scope: \"team/**\"",
	} {
		fmt.Fprintf(&docs, "apiVersion: assay/v1\nkind: Grant\nmetadata: {name: %s}\nspec: {issuer: %q, subject: %s@example.com, %s}\n---\n", name, s.issuer, name, g)
		a, err := s.admin.Mint(ctx, client.TokenRequest{Subject: name + "@example.com", Audience: "assay-api", TTL: 300})
		if err != nil {
			s.t.Fatal(err)
		}
		s.tokens[name] = a.Token
	}
	a, err := s.admin.Mint(ctx, client.TokenRequest{Subject: "nobody@example.com", Audience: "assay-api", TTL: 300})
	if err != nil {
		s.t.Fatal(err)
	}
	s.tokens["nobody"] = a.Token
	if _, err := s.admin.Apply(ctx, []byte(docs.String()+fmt.Sprintf(policyDoc, s.issuer)), false, false); err != nil {
		s.t.Fatal(err)
	}
	var report struct {
		DecisionID string `json:"decision_id"`
	}
	if err := s.admin.Verify(ctx, client.VerifyRequest{Digest: s.digest}, &report); err != nil {
		s.t.Fatal(err)
	}
	s.ids["/api/v1/evidence/{id}"], s.ids["/api/v1/decisions/{id}"], s.ids["/api/v1/log/entries/{index}"] = ev[0].ID, report.DecisionID, "0"
	for _, name := range []string{"rotated", "deleted"} {
		if _, err := s.admin.CreateRobot(ctx, client.RobotRequest{
			Name: name, Rights: []client.Right{{Role: "pull", Scope: "team/**"}}, Audiences: []string{"assay-registry"}, TTL: 3600,
		}); err != nil {
			s.t.Fatal(err)
		}
	}
	s.ids["/api/v1/robots/{name}/rotate"], s.ids["/api/v1/robots/{name}"], s.ids["/api/v1/documents/{kind}/{name}"] = "rotated/rotate", "deleted", "Grant/team"
	if _, err := s.admin.ImportFeed(ctx, "osv", "npm", "", bytes.NewReader(s.feed())); err != nil {
		s.t.Fatal(err)
	}
	s.guarded()
	_, header, put := s.request("PUT", "/api/v1/bom")
	var uploaded client.BOMToken
	if status, _, b := s.do("PUT", "/api/v1/bom", s.tokens["signer"], header, put); status != 200 || json.Unmarshal(b, &uploaded) != nil || uploaded.Token == "" {
		s.t.Fatalf("upload: %d %s", status, b)
	}
	s.ids["/api/v1/bom/token/{token}"] = uploaded.Token
	s.ids["/api/v1/vulnerabilities/{id}/artifacts"] = "GHSA-jfh8-c2jp-5v3q/artifacts"
	s.ids["/api/v1/advisories/{id}"] = "GHSA-jfh8-c2jp-5v3q"
	s.ids["/api/v1/keys/{role}/rotate"] = "audit/rotate"
	for _, build := range []string{"bld_read", "bld_deleted"} {
		l, err := s.admin.UploadBuildLog(ctx, client.BuildLogUpload{Build: build, Repository: "team/app", Artifacts: []artifact.Digest{s.digest}}, []byte("compiled\n"))
		if err != nil {
			s.t.Fatal(err)
		}
		s.ids["/api/v1/build-logs"], s.ids["/api/v1/build-logs/{id}"] = s.ids["/api/v1/build-logs/{id}"], l.ID
		s.ids["/api/v1/build-logs/{id}/lines"] = l.ID + "/lines"
	}
	var stated []vex.Entry
	for range 2 {
		var e vex.Entry
		if err := s.admin.Triage(ctx, client.TriageRequest{Vulnerability: "CVE-2024-1", Products: []string{"**"}, Status: "fixed", Reason: "a test"}, &e); err != nil {
			s.t.Fatal(err)
		}
		stated = append(stated, e)
	}
	s.ids["/api/v1/vex/statements/{id}"], s.ids["/api/v1/vex/statements/{id}/bundle"] = stated[0].ID, stated[1].ID+"/bundle"
	s.ids["/api/v1/gate/flagger/{hook}"] = "rollback"
	for _, route := range []string{"", "/bundle", "/approve", "/reject", "/withdraw"} {
		s.ids["/api/v1/exceptions/{id}"+route] = "exc_" + strings.Repeat("1", 26) + route
	}
	for _, route := range []string{"", "/approve", "/refuse"} {
		s.ids["/api/v1/actions/{id}"+route] = "act_" + strings.Repeat("1", 26) + route
	}
	s.ids["/api/v1/vex/proposals/{id}"] = "vexp_" + strings.Repeat("1", 64)
	s.holdBundle()
	s.ids["/api/v1/decisions/{id}/facts"], s.ids["/api/v1/policies/{name}/mode"] = report.DecisionID+"/facts", "signed/mode"
	s.ids["/api/v1/registry/repair/{digest}"] = string(artifact.SHA256Of([]byte("{}")))
	s.serviced()
	s.gated()
	s.ticketed()
	s.built()
	s.contracted()
	s.stocked()
	s.watched()
	_, _, doc := s.do("GET", "/api/v1/openapi.json", "", nil, nil)
	if err := json.Unmarshal(doc, &s.doc); err != nil {
		s.t.Fatal(err)
	}
}

const uploadDoc = `{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [{"type": "library", "bom-ref": "a", "name": "left-pad", "version": "1.0.0", "purl": "pkg:npm/left-pad@1.0.0"}]}`

var jsonBody = map[string]string{"Content-Type": "application/json"}

const policyDoc = `apiVersion: assay/v1
kind: Policy
metadata: {name: signed}
spec:
  requirements:
    signatures:
      - {name: who, identities: [{issuer: %q, subject: signer@example.com}]}
`

func (s *site) do(method, path, token string, header map[string]string, body []byte) (int, http.Header, []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, b
}

// request is a request that a route answers with success, for those who may.
func (s *site) request(method, path string) (query string, header map[string]string, body []byte) {
	switch method + " " + path {
	case "POST /api/v1/verify":
		return "", map[string]string{"Content-Type": "application/json"}, []byte(`{"digest":"` + string(s.digest) + `"}`)
	case "GET /api/v1/decisions":
		return "?digest=" + string(s.digest), nil, nil
	case "PUT /api/v1/bom":
		return "", jsonBody, []byte(`{"projectName": "team/app", "projectVersion": "1", "autoCreate": true, "bom": "` + base64.StdEncoding.EncodeToString([]byte(uploadDoc)) + `"}`)
	case "POST /api/v1/bom":
		return "", map[string]string{"Content-Type": "multipart/form-data; boundary=xx"},
			[]byte("--xx\r\nContent-Disposition: form-data; name=\"projectName\"\r\n\r\nteam/app\r\n--xx\r\nContent-Disposition: form-data; name=\"bom\"; filename=\"bom.json\"\r\n\r\n" + uploadDoc + "\r\n--xx--\r\n")
	case "GET /api/v1/sboms", "GET /api/v1/components/added":
		return "?digest=" + string(s.digest), nil, nil
	case "POST /api/v1/build-logs":
		return "?build=bld_1&repository=team/app&digests=" + string(s.digest), map[string]string{"Content-Type": "text/plain"}, []byte("compiled\n")
	case "GET /api/v1/build-log-lines":
		return "?text=compiled", nil, nil
	case "DELETE /api/v1/build-logs":
		return "?reason=a+test&log=" + s.ids["/api/v1/build-logs"], nil, nil
	case "GET /api/v1/components":
		return "?name=openssl", nil, nil
	case "POST /api/v1/evidence":
		return "", map[string]string{"Content-Type": "application/vnd.dev.sigstore.bundle.v0.3+json"}, s.bundle
	case "POST /api/v1/keys/{role}/rotate":
		return "", map[string]string{"Content-Type": "application/json"}, []byte(`{}`)
	case "POST /api/v1/apply":
		return "?dry_run=true", map[string]string{"Content-Type": "application/yaml"}, []byte(fmt.Sprintf(policyDoc, s.issuer))
	case "POST /api/v1/vex/statements":
		return "?reason=a+test", jsonBody, []byte(`{"@context": "https://openvex.dev/ns/v0.2.0", "statements": [{"vulnerability": {"name": "CVE-2024-1"}, "products": [{"@id": "pkg:npm/a"}], "status": "fixed"}]}`)
	case "POST /api/v1/vex/triage":
		return "", jsonBody, []byte(`{"vulnerability": "CVE-2024-1", "products": ["**"], "status": "fixed", "reason": "a test"}`)
	case "POST /api/v1/readiness/probes":
		return "", jsonBody, []byte(`{"name": "game-day", "status": "pass", "found": "a test"}`)
	case "POST /api/v1/exceptions":
		return "", jsonBody, fmt.Appendf(nil, `{"kind": "break-glass", "digest": %q, "reason": "a test", "until": %q}`, artifact.SHA256Of([]byte("x")), time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	case "POST /api/v1/exceptions/{id}/approve", "POST /api/v1/exceptions/{id}/reject", "POST /api/v1/exceptions/{id}/withdraw", "POST /api/v1/actions/{id}/approve", "POST /api/v1/actions/{id}/refuse":
		return "", jsonBody, []byte(`{"reason": "a test"}`)
	case "DELETE /api/v1/vex/statements/{id}", "DELETE /api/v1/vex/proposals/{id}":
		return "?reason=a+test", nil, nil
	case "POST /api/v1/gate/canary":
		return "", jsonBody, []byte(`{"service": "shop", "images": ["registry.example/team/app:v1"]}`)
	case "POST /api/v1/gate/check":
		return "", jsonBody, []byte(`{"images": ["registry.example/team/app:v1"]}`)
	case "POST /api/v1/gate/function":
		return "", jsonBody, []byte(`{"image": "registry.example/team/app:v1"}`)
	case "POST /api/v1/gate/flagger/{hook}":
		return "", jsonBody, []byte(`{"name": "shop", "namespace": "shop", "phase": "Progressing", "metadata": {"image": "registry.example/team/app:v1"}}`)
	case "POST /api/v1/admission/judge":
		return "", jsonBody, []byte(`{"reference": "registry.example/team/app:v1", "cluster": "edge", "namespace": "shop"}`)
	case "POST /api/v1/admission/node":
		return "", jsonBody, []byte(`{"reference": "registry.example/team/app@sha256:0000000000000000000000000000000000000000000000000000000000000000", "cluster": "edge", "namespace": "kube-system", "node": "n1"}`)
	case "GET /api/v1/admission/bundle":
		return "?cluster=edge", nil, nil
	case "POST /api/v1/admission/records":
		return "", jsonBody, []byte(`{"cluster": "edge", "records": []}`)
	case "POST /api/v1/inventory/guards":
		return "", jsonBody, []byte(`{"cluster": "edge", "guards": []}`)
	case "POST /api/v1/policies/replay":
		return "?days=7", map[string]string{"Content-Type": "application/yaml"}, []byte(fmt.Sprintf(policyDoc, s.issuer))
	case "POST /api/v1/policy-bundles":
		return "", jsonBody, []byte(`{"name": "held", "version": 1, "unsigned": true, "dry_run": true}`)
	case "DELETE /api/v1/policy-bundles/{name}":
		return "?reason=a+test", nil, nil
	case "POST /api/v1/policies/{name}/mode":
		return "", jsonBody, []byte(`{"mode": "enforce", "reason": "a test"}`)
	case "POST /api/v1/trust/revocations":
		return "", map[string]string{"Content-Type": "application/json"},
			[]byte(`{"entries":[{"kind":"artifact","digest":"` + string(s.digest) + `","invalid_since":"1970-01-01T00:00:00Z","reason":"a test"}],"plan":true}`)
	case "PUT /api/v1/trust/revocations":
		return "", map[string]string{"Content-Type": "application/vnd.dsse.envelope.v1+json"},
			[]byte(`{"payloadType":"application/vnd.assay.revocations.v1+json","payload":"e30=","signatures":[{"sig":"AA=="}]}`)
	case "POST /api/v1/robots":
		return "", jsonBody, []byte(`{"name": "made", "rights": [{"role": "push", "scope": "team/**"}], "audiences": ["assay-registry"], "ttl_seconds": 3600}`)
	case "POST /api/v1/robots/{name}/rotate":
		return "", jsonBody, []byte(`{"ttl_seconds": 3600, "keep_seconds": 0}`)
	case "POST /api/v1/revocations":
		return "", jsonBody, []byte(`{"credential": "jwt:00", "reason": "printed into a log"}`)
	case "DELETE /api/v1/documents/{kind}/{name}":
		return "?dry_run=true", nil, nil
	}
	if query, header, body, ok := s.feedRequest(method, path); ok {
		return query, header, body
	}
	if query, header, body, ok := s.inventoryRequest(method, path); ok {
		return query, header, body
	}
	if query, header, body, ok := s.supplyRequest(method, path); ok {
		return query, header, body
	}
	if query, header, body, ok := s.runnerRequest(method, path); ok {
		return query, header, body
	}
	if query, header, body, ok := s.contractRequest(method, path); ok {
		return query, header, body
	}
	if query, header, body, ok := s.gateRequest(method, path); ok {
		return query, header, body
	}
	if query, header, body, ok := s.watchRequest(method, path); ok {
		return query, header, body
	}
	if query, header, body, ok := s.bundleRequest(method, path); ok {
		return query, header, body
	}
	return s.trustRequest(method, path)
}

// TestDocument: the description in the repository is what the server gives, and
// every schema in it is whole.
func TestDocument(t *testing.T) {
	got := api.OpenAPI(api.New(api.Options{}).Routes())
	if *update {
		if err := os.WriteFile("openapi.json", got, 0o644); err != nil { //nolint:gosec // a public document
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("openapi.json is not of this code; go test ./api -update (-want +got):\n%s", d)
	}
	var doc document
	if err := json.Unmarshal(got, &doc); err != nil {
		t.Fatal(err)
	}
	for name, schema := range doc.Components.Schemas {
		if schema == nil {
			t.Errorf("schema %s is empty", name)
		}
	}
	ids := map[string]string{}
	for path, ops := range doc.Paths {
		for method, op := range ops {
			if other := ids[op.OperationID]; other != "" {
				t.Errorf("operation %s stands at %s and at %s %s", op.OperationID, other, method, path)
			}
			ids[op.OperationID] = method + " " + path
		}
	}
}

// TestRoutesKeepTheirWord: every route of the description answers as described,
// to those who may, and refuses those who may not.
func TestRoutesKeepTheirWord(t *testing.T) {
	s := newSite(t)
	// Who may: the least role that does. What needs no role is for all.
	needs := map[string]string{
		"post /api/v1/verify": "viewer", "get /api/v1/decisions": "viewer", "get /api/v1/decisions/{id}": "viewer",
		"get /api/v1/vex/statements": "viewer", "get /api/v1/vex/export": "viewer", "get /api/v1/vex/statements/{id}": "viewer", "get /api/v1/vex/statements/{id}/bundle": "viewer",
		"post /api/v1/vex/statements": "approver", "post /api/v1/vex/triage": "approver", "delete /api/v1/vex/statements/{id}": "approver",
		"get /api/v1/vex/proposals": "viewer", "post /api/v1/vex/proposals/{id}": "approver", "delete /api/v1/vex/proposals/{id}": "approver",
		"get /api/v1/decisions/{id}/facts": "viewer", "post /api/v1/policies/replay": "auditor", "post /api/v1/policies/{name}/mode": "admin",
		"get /api/v1/vendors": "auditor", "get /api/v1/policy-bundles": "auditor", "post /api/v1/policy-bundles": "admin", "get /api/v1/policy-bundles/{name}/history": "auditor", "delete /api/v1/policy-bundles/{name}": "admin",
		"put /api/v1/bom": "signer", "post /api/v1/bom": "signer", "get /api/v1/bom/token/{token}": "viewer",
		"post /api/v1/evidence": "signer", "get /api/v1/evidence": "viewer", "get /api/v1/evidence/{id}": "team",
		"get /api/v1/contracts": "viewer", "get /api/v1/contracts/check": "viewer", "get /api/v1/coverage": "viewer",
		"get /api/v1/builds": "viewer", "post /api/v1/builds": "signer", "post /api/v1/builds/{id}/finish": "signer",
		"get /api/v1/sboms": "viewer", "get /api/v1/source/branches": "viewer", "get /api/v1/webhooks/deliveries": "auditor", "post /api/v1/webhooks/redeliver": "operator", "get /api/v1/components": "viewer", "get /api/v1/components/added": "viewer",
		"post /api/v1/apply": "admin", "get /api/v1/log/entries/{index}": "viewer", "get /api/v1/events": "auditor", "get /api/v1/keys": "auditor", "get /api/v1/heads": "auditor",
		"get /api/v1/robots": "admin", "post /api/v1/robots": "admin", "post /api/v1/robots/{name}/rotate": "admin", "delete /api/v1/robots/{name}": "admin",
		"get /api/v1/audit": "auditor", "get /api/v1/audit/export": "auditor", "get /api/v1/audit/unauthorized": "auditor",
		"get /api/v1/revocations": "auditor", "post /api/v1/revocations": "operator", "get /api/v1/documents": "admin", "delete /api/v1/documents/{kind}/{name}": "admin",
		"post /api/v1/trust/revocations": "operator", "put /api/v1/trust/revocations": "admin",
		"post /api/v1/keys/{role}/rotate": "admin",
		"get /api/v1/registry/artifacts":  "viewer", "get /api/v1/registry/repositories": "viewer", "get /api/v1/registry/tags": "viewer", "get /api/v1/registry/places": "viewer", "get /api/v1/decision-history": "viewer",
		"get /api/v1/registry/status": "viewer", "get /api/v1/registry/history": "viewer", "post /api/v1/registry/promote": "approver",
		"get /api/v1/registry/damage": "operator", "post /api/v1/registry/repair": "operator", "put /api/v1/registry/repair/{digest}": "operator",
		"post /api/v1/registry/scrub": "operator", "get /api/v1/feeds": "viewer", "get /api/v1/feeds/upstreams": "viewer", "put /api/v1/feeds/upstreams": "admin", "delete /api/v1/feeds/upstreams": "admin",
		"post /api/v1/feeds/upstreams/sync": "operator", "post /api/v1/feeds/accept": "admin", "get /api/v1/canaries": "viewer", "put /api/v1/canaries": "operator", "delete /api/v1/canaries": "admin",
		"get /api/v1/feeds/operations": "viewer", "post /api/v1/feeds": "operator", "get /api/v1/findings": "viewer", "post /api/v1/scan": "viewer", "get /api/v1/exploits": "viewer", "post /api/v1/exploits": "operator",
		"get /api/v1/advisories/{id}":                "viewer",
		"get /api/v1/vulnerabilities/{id}/artifacts": "viewer", "post /api/v1/registry/gc": "operator",
		"get /api/v1/retention": "operator", "post /api/v1/retention": "operator",
		"get /api/v1/holds": "auditor", "post /api/v1/holds": "operator", "delete /api/v1/holds/{hold}": "admin", "post /api/v1/registry/quarantine": "operator", "post /api/v1/registry/release": "operator", "post /api/v1/registry/revoke": "operator",
		"post /api/v1/bundles": "operator", "get /api/v1/bundles": "operator", "get /api/v1/bundles/{target}/{sequence}": "operator",
		"post /api/v1/bundles/feeds": "operator", "post /api/v1/bundles/import": "operator",
		"get /api/v1/registry/blocks": "operator", "get /api/v1/registry/pulls": "auditor",
		"get /api/v1/runners": "viewer", "post /api/v1/runners/heartbeat": "signer", "get /api/v1/runners/builds": "viewer", "get /api/v1/runners/builds/{id}": "viewer",
		"get /api/v1/runners/anomalies": "viewer", "post /api/v1/runners/accept": "approver",
		"post /api/v1/build-logs": "signer", "get /api/v1/build-logs": "viewer", "get /api/v1/build-logs/{id}": "viewer", "delete /api/v1/build-logs": "operator",
		"get /api/v1/build-logs/{id}/lines": "viewer", "get /api/v1/build-log-lines": "viewer", "get /api/v1/links": "viewer",
		"get /api/v1/supply/scans": "viewer", "post /api/v1/supply/scans": "signer", "get /api/v1/supply/scans/{id}": "viewer", "get /api/v1/supply/scans/{id}/inventory": "viewer", "post /api/v1/supply/accept": "approver",
		"post /api/v1/trust/roots": "admin", "delete /api/v1/trust/roots/{name}": "admin", "post /api/v1/trust/delegations": "admin",
		"get /api/v1/slo/indicators": "viewer", "get /api/v1/slo/series": "viewer", "get /api/v1/slo/items": "viewer", "get /api/v1/slo/status": "viewer",
		"get /api/v1/alerts": "viewer", "get /api/v1/alert-groups": "viewer", "get /api/v1/alert-rules": "viewer", "get /api/v1/alerts/{id}": "viewer", "get /api/v1/notices": "auditor", "post /api/v1/alerts/{id}/ack": "operator", "post /api/v1/alerts/{id}/resolve": "operator",
		"get /api/v1/silences": "viewer", "post /api/v1/silences": "operator", "delete /api/v1/silences/{id}": "operator", "get /api/v1/receivers": "auditor", "post /api/v1/receivers/test": "operator",
		"get /api/v1/tickets": "viewer", "get /api/v1/tickets/{id}": "viewer", "get /api/v1/risk": "viewer", "get /api/v1/vulnerabilities/cost": "viewer", "get /api/v1/vulnerabilities/missed": "viewer", "get /api/v1/risk/artifact": "viewer", "get /api/v1/risk/services": "viewer", "get /api/v1/risk/upgrades": "viewer", "get /api/v1/inventory/services": "viewer", "get /api/v1/inventory/services/{name}": "viewer", "get /api/v1/inventory/clusters": "viewer", "get /api/v1/inventory/workloads": "viewer", "get /api/v1/inventory/identities": "viewer", "post /api/v1/inventory/report": "deployer",
		"post /api/v1/gate/canary": "viewer", "post /api/v1/gate/check": "viewer", "post /api/v1/gate/function": "viewer", "post /api/v1/gate/flagger/{hook}": "viewer",
		"post /api/v1/admission/judge": "deployer", "post /api/v1/admission/node": "deployer", "get /api/v1/admission/bundle": "deployer", "post /api/v1/admission/records": "deployer",
		"post /api/v1/runtime/falco": "agent", "post /api/v1/runtime/tetragon": "agent", "post /api/v1/runtime/agent": "agent", "get /api/v1/runtime/files": "agent", "get /api/v1/runtime": "viewer",
		"post /api/v1/inventory/guards": "deployer", "get /api/v1/inventory/running": "viewer", "get /api/v1/readiness/probes": "viewer", "post /api/v1/readiness/probes": "operator", "get /api/v1/actions": "viewer", "get /api/v1/actions/{id}": "viewer", "post /api/v1/actions/{id}/approve": "approver", "post /api/v1/actions/{id}/refuse": "approver", "get /api/v1/exceptions": "viewer", "post /api/v1/exceptions": "viewer", "get /api/v1/exceptions/{id}": "viewer", "get /api/v1/exceptions/{id}/bundle": "viewer", "post /api/v1/exceptions/{id}/approve": "approver", "post /api/v1/exceptions/{id}/reject": "approver", "post /api/v1/exceptions/{id}/withdraw": "approver", "get /api/v1/inventory/running/summary": "viewer",
		"post /api/v1/trust/delegations/signed": "signer", "delete /api/v1/trust/delegations": "admin",
	}
	public := map[string]bool{
		"get /api/v1/openapi.json": true, "get /api/v1/status": true, "get /api/v1/trust/export": true, "get /api/v1/trust/tuf-root": true,
		"get /api/v1/trust/revocations": true, "get /api/v1/trust/revocations/signed": true,
		"get /api/v1/login":       true,
		"get /api/v1/trust/roots": true, "get /api/v1/trust/roots/{name}": true, "get /api/v1/trust/foreign-roots": true,
		"get /api/v1/trust/delegations": true, "get /api/v1/trust/delegations/export": true,
	}
	for path, ops := range s.doc.Paths {
		for method, op := range ops {
			route := method + " " + path
			t.Run(route, func(t *testing.T) {
				role, known := needs[route]
				if known == public[route] {
					t.Fatal("a new route: say here who may")
				}
				if (len(op.Security) > 0) != known {
					t.Errorf("security %v in the description", op.Security)
				}
				verb := strings.ToUpper(method)
				query, header, body := s.request(verb, path)
				at := path
				if i := strings.IndexByte(path, '{'); i >= 0 {
					at = path[:i] + s.ids[path]
				}
				ask := func(token string) (int, http.Header, []byte) { return s.do(verb, at+query, token, header, body) }

				status, h, b := ask(s.tokens[role])
				s.holds(t, route, status, h, b)
				// Only the offline root makes what this one takes: see server's tests.
				unsigned := route == "put /api/v1/trust/revocations" && bytes.Contains(b, []byte("signed by 0 keys of the offline root"))
				// And only another site makes what this one takes: see there too.
				unsigned = unsigned || route == "post /api/v1/bundles/import" && bytes.Contains(b, []byte("it was cut short"))
				// No identity of the local issuer is a person who could propose: see vuln/vex.
				unsigned = unsigned || path == "/api/v1/vex/proposals/{id}" && status == 404
				unsigned = unsigned || strings.HasPrefix(path, "/api/v1/actions/{id}") && status == 404 // see action
				unsigned = unsigned || strings.HasPrefix(path, "/api/v1/exceptions/{id}") && status == 404 || route == "post /api/v1/exceptions" && bytes.Contains(b, []byte("wants two persons"))
				// The site's image is a manifest without its layers: see inventory/threat.
				unsigned = unsigned || route == "get /api/v1/runtime/files" && bytes.Contains(b, []byte("it is not stored here"))
				if status/100 != 2 && !unsigned {
					t.Errorf("with role %q: %d %s", role, status, b)
				}
				if h.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(h.Get("Content-Security-Policy"), "sandbox") || h.Get("Cache-Control") != "no-store" {
					t.Errorf("headers %v", h)
				}
				if !known {
					status, h, b = ask("not.a.token")
					s.holds(t, route, status, h, b)
					if status != 401 {
						t.Errorf("with a token that does not hold: %d, want 401", status)
					}
					return
				}
				for name, token := range map[string]string{"nobody": "", "not.a.token": "not.a.token"} {
					status, h, b := ask(token)
					s.holds(t, route, status, h, b)
					if status != 401 || !strings.HasPrefix(h.Get("WWW-Authenticate"), "Bearer ") {
						t.Errorf("%s: %d (%s), want 401 and how to authenticate", name, status, h.Get("WWW-Authenticate"))
					}
				}
				for _, name := range []string{"nobody", "other"} {
					status, h, b := ask(s.tokens[name])
					s.holds(t, route, status, h, b)
					leaks := bytes.Contains(b, []byte("signer@example.com")) || bytes.Contains(b, []byte(s.ids["/api/v1/evidence/{id}"]))
					// A list without what may not be seen; "other" administers a part of the site.
					empty := (route == "get /api/v1/decisions" || route == "get /api/v1/robots" && name == "other" && !bytes.Contains(b, []byte("team/"))) && status == 200
					shelf := slices.Contains([]string{"get /api/v1/registry/artifacts", "get /api/v1/registry/repositories", "get /api/v1/registry/places", "get /api/v1/decision-history"}, route)
					empty = empty || shelf && name == "other" && status == 200 && bytes.HasPrefix(b, []byte(`{"items":[]`))
					if status != 403 && !empty || leaks {
						t.Errorf("%s: %d %.300s, want 403", name, status, b)
					}
				}
				// What is not there looks to a stranger like what is.
				if strings.Contains(path, "{id}") {
					gone := path[:strings.IndexByte(path, '{')] + strings.Replace(s.ids[path], s.ids[path][8:16], "00000000", 1)
					if status, _, _ := s.do(verb, gone, s.tokens["other"], nil, nil); status != 403 {
						t.Errorf("what is not there, asked by a stranger: %d, want 403 as for what is", status)
					}
					asks := "viewer"
					if role == "signer" || role == "approver" || role == "operator" { // who only reads may not write what is there, either
						asks = role
					}
					if status, _, _ := s.do(verb, gone, s.tokens[asks], nil, nil); status != 404 {
						t.Errorf("what is not there: %d, want 404", status)
					}
				}
				// Other methods, unknown parameters.
				if status, h, _ := s.do("PATCH", at, s.tokens["admin"], nil, nil); status != 405 || !strings.Contains(h.Get("Allow"), verb) {
					t.Errorf("PATCH: %d with Allow %q, want 405", status, h.Get("Allow"))
				}
				for _, q := range []string{"?nosuch=1", "?Digest=x", "?%zz"} {
					if status, _, b := s.do(verb, at+q, s.tokens["admin"], header, body); status != 400 {
						t.Errorf("query %s: %d %s, want 400", q, status, b)
					}
				}
			})
		}
	}
}

// holds checks an answer against the schema that the description gives for it.
func (s *site) holds(t *testing.T, route string, status int, h http.Header, b []byte) {
	t.Helper()
	method, path, _ := strings.Cut(route, " ")
	responses := s.doc.Paths[path][method].Responses
	described, ok := responses[fmt.Sprint(status)]
	if !ok {
		if status/100 == 2 {
			t.Errorf("status %d is not described", status)
		}
		described = responses["default"]
	}
	media, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	content, ok := described.Content[media]
	if !ok {
		t.Errorf("status %d: content type %q is not among the described %v", status, media, described.Content)
		return
	}
	if content.Schema == nil {
		return
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Errorf("status %d: no JSON: %v", status, err)
		return
	}
	for _, problem := range s.validate("$", content.Schema, v) {
		t.Errorf("status %d: %s\n%s", status, problem, b)
	}
	if status/100 != 2 {
		var p client.Problem
		if err := json.Unmarshal(b, &p); err != nil || p.Status != status || p.Detail == "" || p.Trace == "" || p.Trace != h.Get("X-Request-Id") {
			t.Errorf("problem %+v of status %d under %s, %v", p, status, h.Get("X-Request-Id"), err)
		}
	}
}

// validate is JSON Schema, as much of it as the description uses.
func (s *site) validate(at string, schema map[string]any, v any) []string {
	if ref, ok := schema["$ref"].(string); ok {
		name := ref[strings.LastIndexByte(ref, '/')+1:]
		target, ok := s.doc.Components.Schemas[name]
		if !ok {
			return []string{at + ": no schema " + name}
		}
		return s.validate(at, target, v)
	}
	var out []string
	bad := func(format string, args ...any) { out = append(out, at+": "+fmt.Sprintf(format, args...)) }
	switch schema["type"] {
	case nil:
	case "object":
		m, ok := v.(map[string]any)
		if !ok {
			bad("%T, want an object", v)
			return out
		}
		props, _ := schema["properties"].(map[string]any)
		required, _ := schema["required"].([]any)
		for _, r := range required {
			if _, there := m[r.(string)]; !there {
				bad("lacks %s", r)
			}
		}
		for k, value := range m {
			p, ok := props[k].(map[string]any)
			if !ok {
				p, ok = schema["additionalProperties"].(map[string]any)
			}
			if !ok {
				bad("member %s is not described", k)
				continue
			}
			out = append(out, s.validate(at+"."+k, p, value)...)
		}
	case "array":
		list, ok := v.([]any)
		if !ok {
			bad("%T, want an array", v)
			return out
		}
		for i, item := range list {
			out = append(out, s.validate(fmt.Sprintf("%s[%d]", at, i), schema["items"].(map[string]any), item)...)
		}
	case "string":
		text, ok := v.(string)
		if !ok {
			bad("%T, want a string", v)
		} else if schema["format"] == "date-time" {
			if _, err := time.Parse(time.RFC3339Nano, text); err != nil {
				bad("%v", err)
			}
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			bad("%T, want true or false", v)
		}
	case "integer":
		if n, ok := v.(float64); !ok || n != float64(int64(n)) {
			bad("%v, want an integer", v)
		}
	case "number":
		if _, ok := v.(float64); !ok {
			bad("%T, want a number", v)
		}
	default:
		bad("the test does not know type %v", schema["type"])
	}
	return out
}

// altered is the site's bundle with another log entry.
func (s *site) altered(change func(entry map[string]any)) []byte {
	s.t.Helper()
	var m map[string]any
	if err := json.Unmarshal(s.bundle, &m); err != nil {
		s.t.Fatal(err)
	}
	change(m["verificationMaterial"].(map[string]any)["tlogEntries"].([]any)[0].(map[string]any))
	b, err := json.Marshal(m)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func TestHostileBodies(t *testing.T) {
	s := newSite(t)
	deep := func(n int) []byte { return []byte(strings.Repeat(`{"digest":`, n) + "1" + strings.Repeat("}", n)) }
	digest := string(s.digest)
	for _, tt := range []struct {
		name, path, media string
		body              []byte
		want              int
	}{
		{"nothing", "/api/v1/verify", "application/json", nil, 400},
		{"another content type", "/api/v1/verify", "text/plain", []byte(`{"digest":"` + digest + `"}`), 400},
		{"a form", "/api/v1/verify", "application/x-www-form-urlencoded", []byte(`digest=` + digest), 400},
		{"no content type", "/api/v1/verify", "", []byte(`{"digest":"` + digest + `"}`), 400},
		{"an unknown field", "/api/v1/verify", "application/json", []byte(`{"digest":"` + digest + `","force":true}`), 400},
		{"a field twice", "/api/v1/verify", "application/json", []byte(`{"digest":"` + digest + `","digest":"` + digest + `"}`), 400},
		{"a field in two cases", "/api/v1/verify", "application/json", []byte(`{"digest":"` + digest + `","Digest":"` + digest + `"}`), 400},
		{"more after the end", "/api/v1/verify", "application/json", []byte(`{"digest":"` + digest + `"}{}`), 400},
		{"bad UTF-8", "/api/v1/verify", "application/json", []byte("{\"reference\":\"\xff\"}"), 400},
		{"null", "/api/v1/verify", "application/json", []byte(`null`), 400},
		{"a list", "/api/v1/verify", "application/json", []byte(`[]`), 400},
		{"deep", "/api/v1/verify", "application/json", deep(50000), 400},
		{"large", "/api/v1/verify", "application/json", append([]byte(`{"digest":"`), bytes.Repeat([]byte("a"), 2<<20)...), 413},
		{"no digest", "/api/v1/verify", "application/json", []byte(`{}`), 400},
		{"a weak digest", "/api/v1/verify", "application/json", []byte(`{"digest":"md5:d41d8cd98f00b204e9800998ecf8427e"}`), 400},
		{"a scope with a repository in it", "/api/v1/verify", "application/json", []byte(`{"digest":"` + digest + `","scope":"x@team/app"}`), 400},
		{"a scope with an escape", "/api/v1/verify", "application/json", []byte(`{"digest":"` + digest + `","scope":"\u001b[31m"}`), 400},
		{"a repository that is a path", "/api/v1/verify", "application/json", []byte(`{"digest":"` + digest + `","repository":"../team"}`), 400},
		{"a reference of another registry", "/api/v1/verify", "application/json", []byte(`{"reference":"evil.example/team/app:v1"}`), 400},
		{"no bundle", "/api/v1/evidence", "application/json", []byte(`{}`), 400},
		{"a large bundle", "/api/v1/evidence", "application/json", bytes.Repeat([]byte("a"), 25<<20), 413},
		{"a deep bundle", "/api/v1/evidence", "application/json", deep(50000), 413},
		{"a bundle as a form", "/api/v1/evidence", "multipart/form-data; boundary=x", s.bundle, 400},
		{"a bundle with another log index", "/api/v1/evidence", "application/json", s.altered(func(e map[string]any) { e["logIndex"] = "77" }), 403},
		{"a bundle with another place in the tree", "/api/v1/evidence", "application/json", s.altered(func(e map[string]any) { e["inclusionProof"].(map[string]any)["logIndex"] = "77" }), 400},
		{"a bundle without proof", "/api/v1/evidence", "application/json", s.altered(func(e map[string]any) { delete(e, "inclusionProof") }), 400},
		{"no documents", "/api/v1/apply?dry_run=true", "application/yaml", []byte("# nothing\n"), 400},
		{"large documents", "/api/v1/apply?dry_run=true", "application/yaml", bytes.Repeat([]byte("#"), 5<<20), 413},
		{"an alias bomb", "/api/v1/apply?dry_run=true", "application/yaml", []byte("a: &a [x]\nb: [*a]\n"), 400},
		{"documents as a form", "/api/v1/apply?dry_run=true", "application/x-www-form-urlencoded", []byte("kind: Grant"), 400},
		{"a dry run that is none", "/api/v1/apply?dry_run=1", "application/yaml", []byte(fmt.Sprintf(policyDoc, s.issuer)), 400},
		{"a dry run twice", "/api/v1/apply?dry_run=true&dry_run=false", "application/yaml", []byte(fmt.Sprintf(policyDoc, s.issuer)), 400},
		{"a misspelt dry run", "/api/v1/apply?dryrun=true", "application/yaml", []byte(fmt.Sprintf(policyDoc, s.issuer)), 400},
	} {
		h := map[string]string{}
		if tt.media != "" {
			h["Content-Type"] = tt.media
		}
		began := time.Now()
		status, header, b := s.do("POST", tt.path, s.tokens["admin"], h, tt.body)
		if status != tt.want || header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s %.300s, want %d", tt.name, status, header.Get("Content-Type"), b, tt.want)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("%s took %s", tt.name, took)
		}
		if len(b) > 4<<10 {
			t.Errorf("%s: an answer of %d bytes repeats what was sent", tt.name, len(b))
		}
	}
	// Queries.
	for path, want := range map[string]int{
		"/api/v1/decisions": 400, "/api/v1/decisions?digest=x": 400, "/api/v1/evidence?limit=0": 400, "/api/v1/evidence?limit=1001": 400, "/api/v1/evidence?limit=-1": 400,
		"/api/v1/evidence?limit=1000": 200, "/api/v1/evidence?digest=md5:x": 400, "/api/v1/evidence?after=nonsense": 400, "/api/v1/events?after=x": 400, "/api/v1/events?kind=nosuch": 400,
		"/api/v1/events?limit=1": 200, "/api/v1/log/entries/x": 400, "/api/v1/log/entries/-1": 400, "/api/v1/log/entries/99999999999999999999": 400, "/api/v1/log/entries/999999": 404,
		"/api/v1/evidence/nonsense": 400, "/api/v1/decisions/nonsense": 0, "/api/v1/nosuch": 404, "/api/v1/": 404,
	} {
		status, _, b := s.do("GET", path, s.tokens["admin"], nil, nil)
		if want == 0 {
			want = status
			if status != 400 && status != 404 {
				want = 404
			}
		}
		if status != want {
			t.Errorf("%s: %d %s, want %d", path, status, b, want)
		}
	}
	// A million dots for a token cost nothing (CVE-2025-66506); net/http itself
	// refuses the header.
	req, _ := http.NewRequest("GET", s.url+"/api/v1/events", nil)
	req.Header.Set("Authorization", "Bearer "+strings.Repeat(".", 60<<10))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 401 {
		t.Errorf("a token of dots: %d, want 401", resp.StatusCode)
	}
	req.Header = http.Header{"Authorization": {"Bearer " + s.tokens["viewer"], "Bearer " + s.tokens["admin"]}}
	if resp, err = http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 401 {
		t.Errorf("two tokens: %d, want 401", resp.StatusCode)
	}
	req.Header = http.Header{"Cookie": {"token=" + s.tokens["admin"]}}
	if resp, err = http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 401 {
		t.Errorf("a cookie: %d, want 401", resp.StatusCode)
	}
}

// TestThreat_MetricsLogs_ErrorsKeepSecrets: a stranger learns the kind of a
// failure inside and its trace, the owner of the machine all of it.
func TestThreat_MetricsLogs_ErrorsKeepSecrets(t *testing.T) {
	const secret = "/srv/assay/keys/log.pem: password=hunter2 at 10.0.0.7:5432"
	for _, tt := range []struct {
		err    error
		status int
		told   bool
	}{
		{errors.New(secret), 500, false},
		{fmt.Errorf("%w: %s", os.ErrPermission, secret), 500, false},
		{fault.Newf(fault.Internal, "%s", secret), 500, false},
		{fault.Newf(fault.Unavailable, "dial %s", secret), 503, false},
		{fault.Newf(fault.NoSpace, "write %s", secret), 507, false},
		{fault.Newf(fault.Tampered, "read %s", secret), 500, false},
		{fault.Newf(fault.Undecided, "read %s", secret), 503, false},
		{context.DeadlineExceeded, 503, false},
		{fault.Newf(fault.Invalid, "want a digest"), 400, true},
		{fault.Newf(fault.Denied, "needs the role viewer"), 403, true},
		{fault.Newf(fault.NotFound, "no such thing"), 404, true},
	} {
		for _, owner := range []bool{false, true} {
			r := httptest.NewRequest("GET", "/api/v1/x", nil)
			if owner {
				r = r.WithContext(identity.WithPrincipal(r.Context(), identity.System("uid:0")))
			}
			w := httptest.NewRecorder()
			api.WriteError(w, r, nil, tt.err)
			var p client.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
				t.Fatal(err)
			}
			if w.Code != tt.status || p.Status != tt.status || p.Type != "about:blank" || p.Title == "" || w.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("%v: %d %+v", tt.err, w.Code, p)
			}
			if whole := p.Detail == tt.err.Error(); whole != (owner || tt.told) || !owner && strings.Contains(w.Body.String(), "hunter2") {
				t.Errorf("%v, owner %v: detail %q", tt.err, owner, p.Detail)
			}
		}
	}
}

// feedRequest is how the routes about advisories are asked.
func (s *site) feedRequest(method, path string) (query string, header map[string]string, body []byte, ok bool) {
	switch method + " " + path {
	case "GET /api/v1/findings":
		return "?digest=" + string(s.digest), nil, nil, true
	case "GET /api/v1/feeds/operations":
		return "?name=osv&ecosystem=npm", nil, nil, true
	case "PUT /api/v1/feeds/upstreams":
		return "", jsonBody, []byte(`{"name": "mirror", "url": "file:///nowhere", "ecosystems": ["npm"]}`), true
	case "DELETE /api/v1/feeds/upstreams":
		return "?name=leaving", nil, nil, true
	case "POST /api/v1/feeds/upstreams/sync":
		return "?name=standing", jsonBody, []byte(`{}`), true
	case "POST /api/v1/feeds/accept":
		return "?operation=2", jsonBody, []byte(`{"reason": "a test"}`), true
	case "PUT /api/v1/canaries":
		return "", jsonBody, []byte(`{"name": "added", "document": ` + canaryDocument + `, "expect": [{"component": "pkg:npm/left-pad@1.0.0", "advisory": "X-1"}]}`), true
	case "DELETE /api/v1/canaries":
		return "?name=leaving", nil, nil, true
	case "POST /api/v1/exploits":
		return "", map[string]string{"Content-Type": "application/octet-stream"}, []byte(`{"catalogVersion": "2024.01.01", "vulnerabilities": [{"cveID": "CVE-2024-0001"}]}`), true
	case "POST /api/v1/scan":
		return "", jsonBody, []byte(`{"components": [{"purl": "pkg:npm/left-pad@1.0.0"}]}`), true
	case "POST /api/v1/feeds":
		return "?name=osv&ecosystem=npm", map[string]string{"Content-Type": "application/zip"}, s.feed(), true
	}
	return "", nil, nil, false
}

// feed is an archive of one record.
func (s *site) feed() []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create("GHSA-jfh8-c2jp-5v3q.json")
	if err != nil {
		s.t.Fatal(err)
	}
	_, _ = w.Write([]byte(`{"id": "GHSA-jfh8-c2jp-5v3q", "modified": "2024-01-01T00:00:00Z", "affected": [{"package": {"ecosystem": "npm", "name": "left-pad"}, "versions": ["1.0.0"]}]}`))
	if err := z.Close(); err != nil {
		s.t.Fatal(err)
	}
	return b.Bytes()
}

const canaryDocument = `{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [{"type": "library", "bom-ref": "a", "name": "left-pad", "version": "1.0.0", "purl": "pkg:npm/left-pad@1.0.0"}]}`

// guarded makes upstreams, and an operation that a canary holds back: the second.
func (s *site) guarded() {
	s.t.Helper()
	ctx := s.t.Context()
	for _, name := range []string{"standing", "leaving"} {
		if _, err := s.admin.AddUpstream(ctx, client.FeedUpstream{Name: name, URL: "file:///nowhere", Ecosystems: []string{"npm"}}); err != nil {
			s.t.Fatal(err)
		}
	}
	for name, feed := range map[string]string{"leaving": "", "guard": "guarded"} {
		if _, err := s.admin.AddCanary(ctx, client.Canary{Name: name, Feed: feed, Document: []byte(canaryDocument), Expect: []client.CanaryExpect{{Component: "pkg:npm/left-pad@1.0.0", Advisory: "X-1"}}}); err != nil {
			s.t.Fatal(err)
		}
	}
	if _, err := s.admin.ImportFeed(ctx, "guarded", "npm", "", bytes.NewReader(s.feed())); err == nil || !strings.Contains(err.Error(), "operation 2 is blocked") {
		s.t.Fatalf("the canary did not hold it back: %v", err)
	}
}
