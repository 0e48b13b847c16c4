// Package registrytest starts a whole registry on a loopback port for tests:
// real database, real blob folder, real token checks against an issuer of its
// own, and nothing faked.
package registrytest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"assay/artifact"
	"assay/blob"
	"assay/blob/sweep"
	"assay/event"
	"assay/identity"
	"assay/registry"
	"assay/store"
)

// Issuer is the iss claim of the tokens that [Server.Token] makes.
const Issuer = "https://issuer.test"

// User is the user name for Basic; the registry ignores it.
const User = "token"

// Server is a running registry.
type Server struct {
	*registry.Registry
	URL    string // http://127.0.0.1:port
	Host   string // 127.0.0.1:port
	DB     *store.DB
	Blobs  *blob.Dir
	Folder string // of Blobs
	Access *identity.Access

	signer jose.Signer
	http   *httptest.Server
}

// Option changes how the registry is made.
type Option func(*registry.Options)

// Start runs a registry over db with a blob folder of its own, until the test
// ends. Grants are none; see [Server.Grant].
func Start(t testing.TB, db *store.DB, opts ...Option) *Server {
	t.Helper()
	return StartIn(t, db, t.TempDir(), opts...)
}

// StartIn is Start on an existing blob folder, as after a restart.
func StartIn(t testing.TB, db *store.DB, dir string, opts ...Option) *Server {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, sweep.Migrations, registry.Migrations); err != nil {
		t.Fatal(err)
	}
	blobs, err := blob.NewDir(dir, blob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "test"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	keys := []jose.JSONWebKey{{Key: key.Public(), KeyID: "test", Algorithm: string(jose.ES256), Use: "sig"}}
	verifier, err := identity.NewVerifier(identity.VerifierOptions{
		Local: &identity.LocalIssuer{URL: Issuer, Keys: func() []jose.JSONWebKey { return keys }},
	})
	if err != nil {
		t.Fatal(err)
	}
	access, err := identity.NewAccess(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{DB: db, Blobs: blobs, Folder: dir, Access: access, signer: signer}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.ServeHTTP(w, r) }))
	s.Host = s.http.Listener.Addr().String()
	s.URL = "http://" + s.Host
	o := registry.Options{
		DB: db, Blobs: blobs, Access: access, Auth: registry.VerifierAuth{Verifier: verifier},
		PublicURL: s.URL, TokenKey: []byte(strings.Repeat("k", 32)),
	}
	for _, opt := range opts {
		opt(&o)
	}
	if s.Registry, err = registry.New(o); err != nil {
		t.Fatal(err)
	}
	s.http.Start()
	t.Cleanup(func() {
		s.http.Close()
		_ = s.Registry.Close(t.Context())
	})
	return s
}

// Grant adds grants of a role to a subject of the test's issuer, or, where
// subject is "", to everybody.
func (s *Server) Grant(t testing.TB, subject string, role identity.Role, scope string, only ...identity.Action) {
	t.Helper()
	g := identity.Grant{Role: role, Scope: scope, Actions: only}
	if subject == "" {
		g.Anonymous = true
	} else {
		g.Issuer, g.Subject = Issuer, subject
	}
	if err := s.Access.Set(append(s.Access.Grants(), g)); err != nil {
		t.Fatal(err)
	}
}

// Token makes a token of the test's issuer for one audience, good for ten
// minutes.
func (s *Server) Token(t testing.TB, subject string, aud identity.Audience) string {
	t.Helper()
	now := time.Now()
	claims, err := json.Marshal(map[string]any{
		"iss": Issuer, "sub": subject, "aud": string(aud),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	sig, err := s.signer.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := sig.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Events gives what was recorded of some kinds, oldest first, once everything
// appended so far is sealed.
func (s *Server) Events(t testing.TB, kinds ...event.Kind) []event.Event {
	t.Helper()
	if err := s.Registry.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- event.NewSealer(s.DB, event.SealerOptions{}).Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil && ctx.Err() == nil {
			t.Errorf("sealer: %v", err)
		}
	}()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var waiting int64
		err := s.DB.View(ctx, func(tx *store.Tx) error {
			return tx.QueryRow(ctx, `SELECT COUNT(*) FROM event_pending`).Scan(&waiting)
		})
		if err != nil {
			t.Fatal(err)
		}
		if waiting == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d events are not sealed after 30 s", waiting)
		}
	}
	events, err := event.NewLog(s.DB, event.LogOptions{}).Query(ctx, event.Filter{Kinds: kinds, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// Client sends requests of one subject, its token as Basic password.
type Client struct {
	t     testing.TB
	s     *Server
	token string // "": anonymous
}

// Client gives a client for a subject; "" is nobody.
func (s *Server) Client(t testing.TB, subject string) *Client {
	c := &Client{t: t, s: s}
	if subject != "" {
		c.token = s.Token(t, subject, identity.AudienceRegistry)
	}
	return c
}

// Response is an answer, read whole.
type Response struct {
	*http.Response
	Body []byte
}

// Code is the first OCI error code in the body, "" when there is none.
func (r *Response) Code() string {
	var b struct {
		Errors []struct{ Code string }
	}
	if json.Unmarshal(r.Body, &b) != nil || len(b.Errors) == 0 {
		return ""
	}
	return b.Errors[0].Code
}

// Do sends a request to a path of the server. Headers are given as pairs of
// name and value.
func (c *Client) Do(method, path, body string, headers ...string) *Response {
	c.t.Helper()
	r, err := c.Try(method, path, strings.NewReader(body), headers...)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// Try is Do for requests that may break off.
func (c *Client) Try(method, path string, body io.Reader, headers ...string) (*Response, error) {
	if !strings.HasPrefix(path, "http") {
		path = c.s.URL + path
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, path, body)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		req.SetBasicAuth(User, c.token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := *c.s.http.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return &Response{res, b}, err
}

// PushBlob pushes content in one request and gives its digest.
func (c *Client) PushBlob(repository, content string) artifact.Digest {
	c.t.Helper()
	d := artifact.SHA256Of([]byte(content))
	r := c.Do("POST", "/v2/"+repository+"/blobs/uploads/?digest="+string(d), content)
	if r.StatusCode == http.StatusAccepted { // another registry, in a benchmark, without the single POST
		at := r.Header.Get("Location")
		sep := "?"
		if strings.Contains(at, "?") {
			sep = "&"
		}
		r = c.Do("PUT", at+sep+"digest="+string(d), content)
	}
	if r.StatusCode != http.StatusCreated {
		c.t.Fatalf("push blob: %s %s", r.Status, r.Body)
	}
	return d
}

// Image is an OCI image manifest of one layer, for [Client.PushImage].
type Image struct {
	Layer        string // content; its blob is pushed too
	ArtifactType string
	Subject      artifact.Digest
	Annotations  map[string]string
}

// PushImage pushes an image with its blobs under a tag, or by digest when
// reference is "", and gives its digest.
func (c *Client) PushImage(repository, reference string, img Image) artifact.Digest {
	c.t.Helper()
	m := c.Manifest(repository, img)
	d := artifact.SHA256Of(m)
	if reference == "" {
		reference = string(d)
	}
	if r := c.PutManifest(repository, reference, m); r.StatusCode != http.StatusCreated {
		c.t.Fatalf("push manifest: %s %s", r.Status, r.Body)
	}
	return d
}

// Manifest pushes an image's blobs and gives the manifest, unpushed.
func (c *Client) Manifest(repository string, img Image) []byte {
	c.t.Helper()
	config := c.PushBlob(repository, "{}")
	layer := c.PushBlob(repository, img.Layer)
	m := map[string]any{
		"schemaVersion": 2, "mediaType": ImageType,
		"config": map[string]any{"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
		"layers": []any{map[string]any{"mediaType": "application/octet-stream", "digest": layer, "size": len(img.Layer)}},
	}
	if img.ArtifactType != "" {
		m["artifactType"] = img.ArtifactType
	}
	if img.Subject != "" {
		m["subject"] = map[string]any{"mediaType": ImageType, "digest": img.Subject, "size": 1}
	}
	if img.Annotations != nil {
		m["annotations"] = img.Annotations
	}
	b, err := json.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

// The media types of the manifests that tests push.
const (
	ImageType = "application/vnd.oci.image.manifest.v1+json"
	IndexType = "application/vnd.oci.image.index.v1+json"
)

// PutManifest sends a manifest with the media type that it names.
func (c *Client) PutManifest(repository, reference string, manifest []byte, headers ...string) *Response {
	c.t.Helper()
	var doc struct {
		MediaType string `json:"mediaType"`
	}
	_ = json.Unmarshal(manifest, &doc) // a hostile one goes as it is
	return c.Do("PUT", "/v2/"+repository+"/manifests/"+reference, string(manifest), append([]string{"Content-Type", doc.MediaType}, headers...)...)
}
