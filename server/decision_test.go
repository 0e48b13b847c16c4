package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"assay/artifact"
	"assay/client"
	"assay/internal/fault"
)

// A decision names a place and is signed, so the place must be true: a digest
// that is not in the repository, another registry's reference, and fields that
// contradict each other get no decision at all.
func TestThreat_Tenancy_DecisionAboutAnotherPlace(t *testing.T) {
	s := newSite(t, true, nil)
	ctx := t.Context()
	token, err := s.admin.Mint(ctx, client.TokenRequest{Subject: "me@example.com", Audience: "assay-registry", TTL: 300})
	if err != nil {
		t.Fatal(err)
	}
	put := func(path, contentType, body string) {
		t.Helper()
		method := http.MethodPost
		if strings.Contains(path, "/manifests/") {
			method = http.MethodPut
		}
		req, err := http.NewRequestWithContext(ctx, method, s.public+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("me", token.Token)
		req.Header.Set("Content-Type", contentType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			t.Fatalf("%s: %s", path, resp.Status)
		}
	}
	empty := artifact.SHA256Of([]byte("{}"))
	put("/v2/team/app/blobs/uploads/?digest="+string(empty), "application/octet-stream", "{}")
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/vnd.example","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2}]}`, empty, empty)
	put("/v2/team/app/manifests/v1", "application/vnd.oci.image.manifest.v1+json", manifest)
	d := artifact.SHA256Of([]byte(manifest))
	other := artifact.SHA256Of([]byte("elsewhere"))
	host := s.host()
	ask := func(q client.VerifyRequest) (map[string]any, error) {
		var r map[string]any
		err := s.admin.Verify(context.WithoutCancel(ctx), q, &r)
		return r, err
	}
	for name, q := range map[string]client.VerifyRequest{
		"by tag":    {Reference: host + "/team/app:v1"},
		"by digest": {Digest: d, Repository: "team/app"},
		"by both":   {Digest: d, Repository: "team/app", Reference: host + "/team/app:v1@" + string(d)},
	} {
		r, err := ask(q)
		if err != nil || r["digest"] != string(d) || r["verdict"] != "deny" || r["scope"] != "default@team/app" {
			t.Errorf("%s: %v, %v; want the default denial of what no policy names", name, r, err)
		}
	}
	for name, tt := range map[string]struct {
		q    client.VerifyRequest
		kind *fault.Kind
	}{
		"a digest that is not there":      {client.VerifyRequest{Digest: other, Repository: "team/app"}, fault.NotFound},
		"a repository that is not there":  {client.VerifyRequest{Digest: d, Repository: "sandbox/none"}, fault.NotFound},
		"another registry":                {client.VerifyRequest{Reference: "registry.example/team/app:v1"}, fault.Invalid},
		"another registry's name":         {client.VerifyRequest{Digest: d, Repository: "team/app", Reference: "registry.example/team/app:v1"}, fault.Invalid},
		"another repository's name":       {client.VerifyRequest{Digest: d, Repository: "team/app", Reference: host + "/team/other:v1"}, fault.Invalid},
		"another digest's name":           {client.VerifyRequest{Digest: d, Repository: "team/app", Reference: host + "/team/app@" + string(other)}, fault.Invalid},
		"a scope that reaches for a name": {client.VerifyRequest{Digest: d, Repository: "team/app", Scope: "x@team/other"}, fault.Invalid},
		"an environment with a slash":     {client.VerifyRequest{Digest: d, Repository: "team/app", Environment: "dev/../prod"}, fault.Invalid},
	} {
		if r, err := ask(tt.q); !errors.Is(err, tt.kind) {
			t.Errorf("%s: %v, %v; want %v", name, r, err, tt.kind)
		}
	}
	// Environments are decided apart: one never stands for the other.
	dev, err := ask(client.VerifyRequest{Digest: d, Repository: "team/app", Environment: "dev"})
	if err != nil || dev["scope"] != "default/dev@team/app" {
		t.Errorf("in dev: %v, %v", dev, err)
	}
}
