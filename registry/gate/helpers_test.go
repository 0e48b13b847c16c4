package gate_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/blob"
	"assay/blob/sweep"
	"assay/config"
	"assay/event"
	"assay/evidence"
	"assay/identity"
	"assay/policy"
	"assay/registry"
	"assay/registry/gate"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
	"assay/trust/trusttest"
	"assay/verify"
)

const (
	issuer = "https://issuer.example"
	signer = "ci@example.com"
)

// signed wants a signature by signer.
const signed = `apiVersion: assay/v1
kind: Policy
metadata: {name: signed}
spec:
  requirements:
    signatures: [{name: ci, identities: [{issuer: "https://issuer.example", subject: ci@example.com}]}]
`

// site is a registry with its gate, a real engine over a real evidence store,
// and a private Sigstore that signs.
type site struct {
	*registrytest.Server
	t      testing.TB
	gate   *gate.Gate
	engine *verify.Engine
	store  *evidence.Store
	world  *trusttest.World
	stale  atomic.Bool
	events *event.Log
	*hand

	known [][]byte // what the last fleet pushed
}

// hand is a clock that tests move on.
type hand struct{ offset atomic.Int64 }

func (h *hand) clock() time.Time { return time.Now().Add(time.Duration(h.offset.Load())) }

func (h *hand) pass(d time.Duration) { h.offset.Add(int64(d)) }

func specs(t testing.TB, list ...config.RepositorySpec) *config.Repositories {
	t.Helper()
	r, err := config.NewRepositories(list...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func policies(t testing.TB, texts ...string) *policy.Set {
	t.Helper()
	var list []*policy.Policy
	for _, text := range texts {
		p, err := policy.ParseRequirements([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	set, err := policy.NewSet(list...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// start runs a site over db. The blobs are in dir.
func start(t testing.TB, db *store.DB, h *hand, dir string, list ...config.RepositorySpec) *site {
	t.Helper()
	s := &site{t: t, world: trusttest.New(t), hand: h}
	if err := db.Migrate(t.Context(), event.Migrations, sweep.Migrations, trust.Migrations, evidence.Migrations, registry.Migrations, gate.Migrations, verify.Migrations); err != nil {
		t.Fatal(err)
	}
	fatal := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	blobs, err := blob.NewDir(dir, blob.Options{})
	fatal(err)
	t.Cleanup(func() { _ = blobs.Close() })
	verifier, err := verify.NewVerifier(verify.VerifierOptions{Roots: []*trust.Root{s.world.Root(t, trust.WithName("test"))}, Clock: s.clock})
	fatal(err)
	ev, err := evidence.New(evidence.Options{DB: db, Blobs: blobs, Verifier: verifier, Clock: s.clock})
	fatal(err)
	t.Cleanup(func() { _ = ev.Close() })
	s.store = ev
	s.events = event.NewLog(db, event.LogOptions{})
	key := trusttest.NewKey(t)
	s.engine, err = verify.New(verify.Options{
		DB: db, Source: ev, Key: key, VerifierID: "https://assay.test", Clock: s.clock, CacheAge: time.Nanosecond,
		Trust: func() verify.TrustState {
			return verify.TrustState{Verifier: verifier, Epoch: 1 << 30, Stale: s.stale.Load()}
		},
		Profile: func(r string) string { return s.gate.Profile(r) },
	})
	fatal(err)
	s.Server = registrytest.StartIn(t, db, dir, func(o *registry.Options) {
		s.gate, err = gate.New(gate.Options{DB: db, Access: o.Access, Judge: s.engine, Evidence: ev, Events: s.events, Clock: s.clock})
		fatal(err)
		o.Gate, o.Visibility, o.Evidence = s.gate, s.gate, s.gate.Ingester(ev)
	})
	s.gate.Set(gate.Rules{Repositories: specs(t, list...), Policies: policies(t, signed)})
	s.work()
	s.Grant(t, "owner", identity.RolePublisher, "**")
	s.Grant(t, "reader", identity.RoleViewer, "**")
	return s
}

// each runs a test on both databases, whose clock is the site's.
func each(t *testing.T, f func(t *testing.T, s *site), list ...config.RepositorySpec) {
	h := &hand{}
	storetest.Each(t, func(t *testing.T, db *store.DB) { f(t, start(t, db, h, t.TempDir(), list...)) }, store.WithClock(h.clock))
}

func one(t testing.TB, list ...config.RepositorySpec) *site {
	h := &hand{}
	return start(t, storetest.Open(t, store.SQLite, store.WithClock(h.clock)), h, t.TempDir(), list...)
}

// work is one turn of the worker.
func (s *site) work() {
	s.t.Helper()
	if err := s.gate.Work(s.t.Context(), true); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) as(who string) *registrytest.Client { return s.Client(s.t, who) }

// anonymousToken is the token that anybody gets.
func (s *site) anonymousToken(repository string) string {
	s.t.Helper()
	r := s.as("").Do("GET", "/token?scope=repository:"+repository+":pull", "")
	want(s.t, "a token for anybody", r, http.StatusOK, "")
	var a struct{ Token string }
	if err := json.Unmarshal(r.Body, &a); err != nil {
		s.t.Fatal(err)
	}
	return a.Token
}

// runnable is an image that a container could be started from.
func (s *site) runnable(c *registrytest.Client, repository, layer string) []byte {
	s.t.Helper()
	conf := `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`
	m, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": registrytest.ImageType,
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": c.PushBlob(repository, conf), "size": len(conf)},
		"layers": []any{map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": c.PushBlob(repository, layer), "size": len(layer)}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

func index(t testing.TB, children ...[]byte) []byte {
	var list []any
	for _, c := range children {
		list = append(list, map[string]any{"mediaType": registrytest.ImageType, "digest": artifact.SHA256Of(c), "size": len(c)})
	}
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": registrytest.IndexType, "manifests": list})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// bundle is a signature over a manifest.
func (s *site) bundle(who string, manifest []byte) string {
	return string(s.world.Sign(s.t, trusttest.Request{Artifact: manifest, Leaf: trusttest.Leaf{Issuer: issuer, Subject: who}}).Bytes())
}

const bundleType = attestation.MediaTypeBundle

// sign pushes a signature over a manifest as a referrer, as cosign does.
func (s *site) sign(c *registrytest.Client, repository, who string, manifest []byte) artifact.Digest {
	s.t.Helper()
	b := s.bundle(who, manifest)
	conf := c.PushBlob(repository, "{}")
	m, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": registrytest.ImageType, "artifactType": bundleType,
		"config":  map[string]any{"mediaType": "application/vnd.oci.empty.v1+json", "digest": conf, "size": 2},
		"layers":  []any{map[string]any{"mediaType": bundleType, "digest": c.PushBlob(repository, b), "size": len(b)}},
		"subject": map[string]any{"mediaType": registrytest.ImageType, "digest": artifact.SHA256Of(manifest), "size": len(manifest)},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	d := artifact.SHA256Of(m)
	want(s.t, "push the signature", c.PutManifest(repository, string(d), m), http.StatusCreated, "")
	return d
}

func want(t testing.TB, what string, r *registrytest.Response, status int, words string) {
	t.Helper()
	if r.StatusCode != status || !strings.Contains(string(r.Body)+r.Header.Get("Warning"), words) {
		t.Fatalf("%s: %s %.600s (Warning %q), want %d and %q", what, r.Status, r.Body, r.Header.Get("Warning"), status, words)
	}
}

func get(t testing.TB, what string, c *registrytest.Client, repository, reference string, status int, words string) *registrytest.Response {
	t.Helper()
	r := c.Do("GET", "/v2/"+repository+"/manifests/"+reference, "")
	want(t, what, r, status, words)
	return r
}

func digest(m []byte) string { return string(artifact.SHA256Of(m)) }

func contextFor(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

func artifactOf(m []byte) artifact.Digest { return artifact.SHA256Of(m) }
