package assess

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/event"
	"assay/evidence"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/kube"
	"assay/internal/oci"
	"assay/inventory/cluster"
	"assay/policy"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
	"assay/trust/trusttest"
	"assay/verify"
	"assay/vuln/exploit"
	"assay/vuln/feed"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
)

const (
	issuer = "https://issuer.example"
	ci     = "ci@example.org"
)

// place is a real registry, with what is signed under a real, if private, Sigstore.
type place struct {
	testing.TB
	s     *registrytest.Server
	push  *registrytest.Client
	write *oci.Client
	world *trusttest.World

	mu   sync.Mutex
	sent []string // methods that reached the network
}

func newPlace(t testing.TB) *place {
	p := &place{TB: t, s: registrytest.Start(t, storetest.Open(t, store.SQLite)), world: trusttest.New(t)}
	p.s.Grant(t, "pusher", identity.RoleAdmin, "**")
	p.push = p.s.Client(t, "pusher")
	p.write = oci.New(oci.Options{Keychain: p.keychain()})
	return p
}

func (p *place) keychain() authn.Keychain {
	k, err := oci.HostKeychain(p.s.Host, []byte(registrytest.User+":"+p.s.Token(p, "pusher", identity.AudienceRegistry)))
	if err != nil {
		p.Fatal(err)
	}
	return k
}

// RoundTrip notes what is sent.
func (p *place) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	p.sent = append(p.sent, r.Method)
	p.mu.Unlock()
	return http.DefaultTransport.RoundTrip(r)
}

// reader is the client that an assessment has.
func (p *place) reader() *oci.Client {
	return oci.New(oci.Options{Keychain: p.keychain(), Transport: ReadOnly(p)})
}

// image pushes one of its own content.
func (p *place) image(repository, tag, content string) artifact.Reference {
	d := p.push.PushImage(repository, tag, registrytest.Image{Layer: content})
	return artifact.Reference{Host: p.s.Host, Repository: repository, Tag: tag, Digest: d}
}

func (p *place) attach(ref artifact.Reference, bundle []byte) {
	p.Helper()
	ref.Tag = ""
	if _, err := p.write.PushReferrer(p.Context(), ref, attestation.MediaTypeBundle, bundle, nil); err != nil {
		p.Fatal(err)
	}
}

func statement(t testing.TB, of artifact.Digest, predicateType string, predicate any) []byte {
	t.Helper()
	raw, err := json.Marshal(predicate)
	if err != nil {
		t.Fatal(err)
	}
	s, err := attestation.NewStatement(predicateType, json.RawMessage(raw), attestation.Subject{Name: "image", Digest: of.Set()})
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// attest signs a statement as somebody of a world.
func (p *place) attest(w *trusttest.World, who string, ref artifact.Reference, predicateType string, predicate any) {
	p.Helper()
	p.attach(ref, w.Sign(p, trusttest.Request{Statement: statement(p, ref.Digest, predicateType, predicate), Leaf: trusttest.Leaf{Issuer: issuer, Subject: who}}).Bytes())
}

func (p *place) sign(w *trusttest.World, who string, ref artifact.Reference) {
	p.Helper()
	p.attest(w, who, ref, attestation.PredicateCosignSign, map[string]any{})
}

var provenanceDoc = map[string]any{
	"buildDefinition": map[string]any{"buildType": "https://type.example/v1", "externalParameters": map[string]any{}},
	"runDetails":      map[string]any{"builder": map[string]any{"id": "https://builder.example"}},
}

func bomOf(purls ...string) map[string]any {
	list := []any{}
	for _, u := range purls {
		pu, _ := artifact.ParsePURL(u)
		list = append(list, map[string]any{"type": "library", "name": pu.Name, "version": pu.Version, "purl": u})
	}
	return map[string]any{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": list}
}

// whole signs, and attests provenance and a bill of materials.
func (p *place) whole(w *trusttest.World, who string, ref artifact.Reference, purls ...string) {
	p.sign(w, who, ref)
	p.attest(w, who, ref, attestation.PredicateProvenanceV1, provenanceDoc)
	p.attest(w, who, ref, attestation.PredicateCycloneDX, bomOf(purls...))
}

func (p *place) verifier() *verify.Verifier {
	v, err := verify.NewVerifier(verify.VerifierOptions{Roots: []*trust.Root{p.world.Root(p, trust.WithName("site"))}})
	if err != nil {
		p.Fatal(err)
	}
	return v
}

// feeds are advisories in a database, as an archive brings them.
func feeds(t testing.TB) (*feed.Store, *exploit.Book) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"GHSA-1.json": `{"id": "GHSA-1", "modified": "2024-01-01T00:00:00Z", "aliases": ["CVE-2024-1001"], "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H"}], "affected": [{"package": {"ecosystem": "npm", "name": "left-pad"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": "1.1.0"}]}]}]}`,
		"MAL-1.json":  `{"id": "MAL-2024-1", "modified": "2024-01-01T00:00:00Z", "affected": [{"package": {"ecosystem": "npm", "name": "evil"}, "versions": ["1.0.0"]}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db := storetest.Open(t, store.SQLite)
	if err := db.Migrate(t.Context(), event.Migrations, feed.Migrations, exploit.Migrations); err != nil {
		t.Fatal(err)
	}
	fs, err := feed.NewStore(db, feed.DefaultLimits(), nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := feed.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := fs.Import(t.Context(), a, feed.Options{Name: "test", Ecosystem: "npm", Actor: "test"}); err != nil {
		t.Fatal(err)
	}
	es := exploit.NewStore(db)
	if _, err := es.Import(t.Context(), strings.NewReader(`{"catalogVersion": "2024.01.01", "dateReleased": "2024-01-01T00:00:00Z", "vulnerabilities": [{"cveID": "CVE-2024-1001", "dateAdded": "2024-01-01"}]}`), "test", ""); err != nil {
		t.Fatal(err)
	}
	b, err := es.Book(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return fs, b
}

func (p *place) options(who ...policy.IdentityMatch) Options {
	p.Helper()
	pol, j, err := ProfilePolicy(who, nil)
	if err != nil {
		p.Fatal(err)
	}
	return Options{Client: p.reader(), Policy: pol, Judged: j}
}

var ours = policy.IdentityMatch{Issuer: issuer, Subject: ci}

func newRun(t testing.TB, o Options) *Run {
	t.Helper()
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestLook: every sort of image, in a registry of our own and by real bundles; who
// signed under a root that is not given is claimed, and counts as no signer.
func TestLook(t *testing.T) {
	p := newPlace(t)
	stranger := trusttest.New(t) // a Sigstore whose root nobody gave
	refs := map[string]artifact.Reference{}
	for _, name := range []string{"good", "none", "wrong", "claimed", "exploited", "malicious", "unverified", "nobom"} {
		refs[name] = p.image("team/"+name, "v1", "content of "+name)
	}
	p.whole(p.world, ci, refs["good"], "pkg:npm/left-pad@1.1.0")
	p.whole(p.world, "mallory@example.org", refs["wrong"], "pkg:npm/left-pad@1.1.0")
	p.whole(stranger, ci, refs["claimed"], "pkg:npm/left-pad@1.1.0")
	p.whole(p.world, ci, refs["exploited"], "pkg:npm/left-pad@1.0.0")
	p.whole(p.world, ci, refs["malicious"], "pkg:npm/evil@1.0.0")
	p.sign(p.world, ci, refs["unverified"])
	p.attest(stranger, ci, refs["unverified"], attestation.PredicateCycloneDX, bomOf("pkg:npm/evil@1.0.0"))
	p.sign(p.world, ci, refs["nobom"])
	p.attest(p.world, ci, refs["nobom"], attestation.PredicateProvenanceV1, provenanceDoc)

	o := p.options(ours)
	o.Verifier = p.verifier()
	o.Feeds, o.Exploits = feeds(t)
	r := newRun(t, o)
	var list []string
	for _, ref := range refs {
		list = append(list, ref.String())
	}
	list = append(list, p.s.Host+"/team/absent:v1", "no reference at all")
	slices.Sort(list)
	r.Images(t.Context(), "list", "test", list)
	got := r.Look(t.Context())

	want := map[string]string{ // signed, provenance, SBOM, malicious, exploited, verdict
		"good": "yes yes yes no no allow", "none": "no no no unknown unknown deny", "wrong": "yes yes yes no no deny",
		"claimed": "claimed claimed claimed unknown unknown unknown", "exploited": "yes yes yes no yes deny", "malicious": "yes yes yes yes no deny",
		"unverified": "yes no claimed claimed unknown deny", "nobom": "yes yes no unknown unknown deny",
		"absent": "unknown unknown unknown unknown unknown unknown", "at all": "unknown unknown unknown unknown unknown unknown",
	}
	seen := map[string]string{}
	for i := range got.Digests {
		d := &got.Digests[i]
		for name := range want {
			if strings.Contains(d.Images[0], "/"+name+":") || strings.HasSuffix(d.Images[0], name) {
				seen[name] = fmt.Sprintln(d.Signed, d.Provenance, d.SBOM, d.Malicious, d.Exploited, d.Verdict)
				seen[name] = strings.TrimSpace(seen[name])
			}
		}
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
	s := got.Summary
	if s.Digests != 10 || s.Allowed != 1 || s.Denied != 6 || s.Undecided != 3 || s.Unreachable != 2 {
		t.Errorf("%+v", s)
	}
	for _, row := range s.Rows() {
		if sum := row.T.Yes + row.T.Claimed + row.T.No + row.T.Unknown; sum != s.Digests {
			t.Errorf("%s: %d of %d digests are counted", row.Name, sum, s.Digests)
		}
	}
	wantSigners := []Signer{{ci, issuer, "site", 5, 4, 3}, {"mallory@example.org", issuer, "site", 1, 1, 1}}
	if diff := cmp.Diff(wantSigners, got.Signers); diff != "" {
		t.Error(diff)
	}
	if len(got.Claims) != 1 || got.Claims[0].Digests != 2 || got.Claims[0].Identity != ci || !strings.Contains(got.Claims[0].Reason, "root of trust was not given") {
		t.Errorf("%+v", got.Claims)
	}
	if len(got.Dangers) != 2 || !got.Dangers[0].Malicious || got.Dangers[0].Digests != 2 || got.Dangers[1].KEV == "" {
		t.Errorf("%+v", got.Dangers)
	}
	if len(got.Fixes) == 0 || got.Fixes[len(got.Fixes)-1].Sum != 6 {
		t.Errorf("fixes: %+v", got.Fixes)
	}
	for _, m := range p.sent {
		if m != http.MethodGet && m != http.MethodHead {
			t.Fatalf("it sent a %s", m)
		}
	}
	if len(p.sent) < 30 {
		t.Errorf("only %d requests were sent", len(p.sent))
	}
}

// TestNothingGiven: without a root, names are claims and nothing counts as signed;
// without advisories nothing counts as clean.
func TestNothingGiven(t *testing.T) {
	p := newPlace(t)
	ref := p.image("team/app", "v1", "app")
	p.whole(p.world, ci, ref, "pkg:npm/left-pad@1.1.0")
	unsigned := p.image("team/bare", "v1", "bare")
	r := newRun(t, p.options())
	r.Images(t.Context(), "list", "test", []string{ref.String(), unsigned.String()})
	got := r.Look(t.Context())
	s := got.Summary
	if s.Signed != (Tally{Claimed: 1, No: 1}) || s.Provenance != s.Signed || s.SBOM != s.Signed || len(got.Signers) != 0 {
		t.Errorf("%+v, signers %+v", s, got.Signers)
	}
	if s.Malicious != (Tally{Unknown: 2}) || s.Exploited != s.Malicious || s.Allowed != 0 || s.Denied != 1 || s.Undecided != 1 {
		t.Errorf("%+v", s)
	}
	if !got.Policy.Anybody || got.Advisories.Given || len(got.Trust.Roots) != 0 || len(got.Claims) != 1 || got.Claims[0].Reason != "no root of trust was given" {
		t.Errorf("%+v %+v", got.Policy, got.Claims)
	}
}

// api is an API server that knows Pods, and notes what it is asked.
func api(t *testing.T, pods ...string) (*kube.Client, *[]string) {
	var mu sync.Mutex
	var asked []string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.Method+" "+r.URL.Path)
		mu.Unlock()
		// Two pages, so that both are read.
		if r.URL.Query().Get("continue") == "" {
			fmt.Fprintf(w, `{"metadata":{"continue":"more"},"items":[%s]}`, strings.Join(pods[:1], ","))
			return
		}
		fmt.Fprintf(w, `{"metadata":{},"items":[%s]}`, strings.Join(pods[1:], ","))
	}))
	t.Cleanup(srv.Close)
	c, err := kube.New(kube.Options{Server: srv.URL, CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})})
	if err != nil {
		t.Fatal(err)
	}
	return c, &asked
}

func podOf(name, image, imageID string) string {
	return fmt.Sprintf(`{"metadata":{"name":%q,"namespace":"shop"},"spec":{"containers":[{"name":"c","image":%q}]},"status":{"phase":"Running","containerStatuses":[{"name":"c","imageID":%q,"state":{"running":{}}}]}}`, name, image, imageID)
}

// TestCluster: what nodes report against what tags point to now; what nobody reports is
// unknown; Kubernetes is only read.
func TestCluster(t *testing.T) {
	p := newPlace(t)
	same, old := p.image("shop/same", "v1", "same"), p.image("shop/moved", "v1", "old")
	now := p.image("shop/moved", "v1", "new")
	gone := p.image("shop/gone", "", "gone")
	child := p.image("shop/multi", "", "of one platform")
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":"amd64"}}]}`, registrytest.IndexType, registrytest.ImageType, child.Digest, len(p.push.Manifest("shop/multi", registrytest.Image{Layer: "of one platform"})))
	if r := p.push.Do("PUT", "/v2/shop/multi/manifests/v1", index, "Content-Type", registrytest.IndexType); r.StatusCode != http.StatusCreated {
		t.Fatalf("%s: %s", r.Status, r.Body)
	}
	at := p.s.Host + "/shop/"
	id := func(ref artifact.Reference) string {
		return ref.Host + "/" + ref.Repository + "@" + string(ref.Digest)
	}
	c, asked := api(t,
		podOf("same", at+"same:v1", id(same)), podOf("moved", at+"moved:v1", id(old)), podOf("gone", at+"gone:v1", id(gone)),
		podOf("multi", at+"multi:v1", id(child)), podOf("local", at+"local:v1", "sha256:"+strings.Repeat("1", 64)), podOf("pinned", at+"same@"+string(same.Digest), id(same)),
		`{"metadata":{}}`)
	all, unread, err := cluster.List(t.Context(), c.ReadOnly())
	if err != nil || len(all) != 6 || unread != 1 {
		t.Fatalf("%d containers, %d unread, %v", len(all), unread, err)
	}
	r := newRun(t, p.options(ours))
	r.Cluster("prod", all, unread, nil)
	got := r.Look(t.Context())
	states := map[string]string{}
	for _, m := range got.Moved {
		states[strings.TrimPrefix(m.Image, at)] = m.State + " " + string(m.Running) + " " + string(m.Now)
	}
	want := map[string]string{"moved:v1": "moved " + string(old.Digest) + " " + string(now.Digest), "gone:v1": "gone " + string(gone.Digest) + " "}
	if diff := cmp.Diff(want, states); diff != "" {
		t.Error(diff)
	}
	s := got.Summary
	if s.Digests != 5 || s.Containers != 6 || s.Unidentified != 1 || s.Tags != 4 || s.TagsMoved != 1 || s.TagsGone != 1 || s.TagsUnknown != 0 {
		t.Errorf("%+v", s)
	}
	if !strings.Contains(got.Incomplete, "1 could not be read") {
		t.Errorf("incomplete: %q", got.Incomplete)
	}
	for _, a := range *asked {
		if a != "GET /api/v1/pods" {
			t.Errorf("Kubernetes was asked %s", a)
		}
	}
	if err := c.ReadOnly().Do(t.Context(), http.MethodDelete, "/api/v1/namespaces/x/pods/y", nil, nil, nil); err == nil || len(*asked) != 2 {
		t.Errorf("a DELETE was sent: %v, %v", err, *asked)
	}
}

// TestRegistry: a registry's tags, without those that hold signatures.
func TestRegistry(t *testing.T) {
	p := newPlace(t)
	for i := range maxTags + 3 {
		p.image("team/app", fmt.Sprintf("v%d", i), fmt.Sprint(i))
	}
	ref := p.image("team/other", "v1", "other")
	p.image("team/other", oci.FallbackTag(ref.Digest)+".sig", "beside")
	r := newRun(t, p.options(ours))
	r.Registry(t.Context(), p.s.Host)
	got := r.Look(t.Context())
	if s := got.Summary; s.Digests != maxTags+1 || s.Denied != maxTags+1 || !strings.Contains(got.Incomplete, "3 older tags are left out") {
		t.Errorf("%+v, %s: %+v", s, got.Incomplete, got.Sources)
	}
}

// TestReadOnlyTransport: what would change something is not sent.
func TestReadOnlyTransport(t *testing.T) {
	p := newPlace(t)
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "CONNECT"} {
		req, err := http.NewRequestWithContext(t.Context(), method, p.s.URL+"/v2/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := ReadOnly(p).RoundTrip(req)
		if err == nil {
			resp.Body.Close()
		}
		if !errors.Is(err, fault.Denied) {
			t.Errorf("%s: %v", method, err)
		}
	}
	if len(p.sent) != 0 {
		t.Errorf("sent: %v", p.sent)
	}
	ref := p.image("team/app", "v1", "app")
	if _, err := p.reader().PushReferrer(t.Context(), ref, "text/plain", []byte("x"), nil); err == nil {
		t.Error("the client that looks can push")
	}
}

// TestSilentRegistry: one that is not there, or does not answer, is unknown, and is not
// asked for each of its images.
func TestSilentRegistry(t *testing.T) {
	var asked atomic.Int64
	hang := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-r.Context().Done()
	}))
	defer hang.Close()
	p := newPlace(t)
	good := p.image("team/app", "v1", "app")
	o := p.options(ours)
	o.Each, o.PerHost = 100*time.Millisecond, 2
	r := newRun(t, o)
	var list []string
	for i := range 200 {
		list = append(list, fmt.Sprintf("%s/team/app@sha256:%064d", strings.TrimPrefix(hang.URL, "http://"), i))
	}
	r.Images(t.Context(), "list", "test", append(list, good.String()))
	began := time.Now()
	got := r.Look(t.Context())
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	if s := got.Summary; s.Digests != 201 || s.Unreachable != 200 || s.Signed != (Tally{No: 1, Unknown: 200}) || s.Undecided != 200 {
		t.Errorf("%+v", s)
	}
	if n := asked.Load(); n == 0 || n > mostSilent+4 {
		t.Errorf("it was asked %d times", n)
	}
}

// TestEndedEarly: what is known when it ends is there, and the rest is unknown.
func TestEndedEarly(t *testing.T) {
	p := newPlace(t)
	var list []string
	for i := range 20 {
		list = append(list, p.image("team/app", fmt.Sprintf("v%d", i), fmt.Sprint(i)).String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	o := p.options(ours)
	o.Parallel = 1
	o.Progress = func(done, of int) {
		if done == 5 && of == 20 {
			cancel()
		}
	}
	r := newRun(t, o)
	r.Images(ctx, "list", "test", list)
	got := r.Look(ctx)
	s := got.Summary
	if s.Digests != 20 || s.Denied == 0 || s.Undecided == 0 || s.Denied+s.Undecided != 20 || !strings.Contains(got.Incomplete, "of 20 digests not looked at") {
		t.Errorf("%+v: %s", s, got.Incomplete)
	}
	if _, err := got.HTML(); err != nil {
		t.Error(err)
	}
}

// TestLimit: what is beyond it is told.
func TestLimit(t *testing.T) {
	p := newPlace(t)
	o := p.options(ours)
	o.Limit = 2
	r := newRun(t, o)
	r.Images(t.Context(), "list", "test", []string{p.image("a/a", "v1", "1").String(), p.image("a/a", "v2", "2").String(), p.image("a/a", "v3", "3").String()})
	if got := r.Look(t.Context()); got.Summary.Digests != 2 || !strings.Contains(got.Incomplete, "1 references are beyond its limit of 2 digests") {
		t.Errorf("%+v: %s", got.Summary, got.Incomplete)
	}
}

// TestKey: who signed with a key is that key where it was given, and nobody where not.
func TestKey(t *testing.T) {
	p := newPlace(t)
	key := trusttest.NewKey(t)
	ref := p.image("team/app", "v1", "app")
	p.attach(ref, p.world.Sign(t, trusttest.Request{Statement: statement(t, ref.Digest, attestation.PredicateCosignSign, map[string]any{}), Key: key}).Bytes())
	fp, err := trust.KeyFingerprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for given, want := range map[bool]string{true: "yes key " + fp, false: "claimed its key was not given"} {
		pol, j, err := ProfilePolicy(nil, []string{fp})
		if err != nil {
			t.Fatal(err)
		}
		v := verify.VerifierOptions{Roots: []*trust.Root{p.world.Root(t, trust.WithName("site"))}}
		if given {
			v.Keys = []trust.Key{{Public: key.Public()}}
		}
		o := Options{Client: p.reader(), Policy: pol, Judged: j}
		if o.Verifier, err = verify.NewVerifier(v); err != nil {
			t.Fatal(err)
		}
		r := newRun(t, o)
		r.Images(t.Context(), "list", "test", []string{ref.String()})
		got := r.Look(t.Context())
		is := string(got.Digests[0].Signed)
		for _, s := range got.Signers {
			is += " " + s.Identity
		}
		for _, c := range got.Claims {
			is += " " + c.Reason
		}
		if is != want {
			t.Errorf("given %v: %s, want %s", given, is, want)
		}
	}
}

// TestUnsignedStatements: what BuildKit puts into an index is claimed, and is looked up;
// it clears nothing.
func TestUnsignedStatements(t *testing.T) {
	p := newPlace(t)
	child := p.image("team/built", "", "one platform")
	doc := string(statement(t, child.Digest, attestation.PredicateSPDX, map[string]any{
		"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": "x", "documentNamespace": "https://x.example/1",
		"packages": []any{map[string]any{"SPDXID": "SPDXRef-evil", "name": "evil", "versionInfo": "1.0.0", "downloadLocation": "NOASSERTION", "externalRefs": []any{map[string]any{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": "pkg:npm/evil@1.0.0"}}}},
	}))
	layer := p.push.PushBlob("team/built", doc)
	config := p.push.PushBlob("team/built", "{}")
	inner := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[{"mediaType":%q,"digest":%q,"size":%d,"annotations":{%q:%q}}]}`,
		registrytest.ImageType, config, statementType, layer, len(doc), predicateAnno, attestation.PredicateSPDX)
	if r := p.push.PutManifest("team/built", string(artifact.SHA256Of([]byte(inner))), []byte(inner)); r.StatusCode != http.StatusCreated {
		t.Fatalf("%s: %s", r.Status, r.Body)
	}
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d},{"mediaType":%q,"digest":%q,"size":%d,"annotations":{%q:%q}}]}`,
		registrytest.IndexType, registrytest.ImageType, child.Digest, len(p.push.Manifest("team/built", registrytest.Image{Layer: "one platform"})), registrytest.ImageType, artifact.SHA256Of([]byte(inner)), len(inner), referenceType, attestationType)
	if r := p.push.PutManifest("team/built", "v1", []byte(index)); r.StatusCode != http.StatusCreated {
		t.Fatalf("%s: %s", r.Status, r.Body)
	}
	o := p.options(ours)
	o.Verifier = p.verifier()
	o.Feeds, o.Exploits = feeds(t)
	r := newRun(t, o)
	r.Images(t.Context(), "list", "test", []string{p.s.Host + "/team/built:v1"})
	got := r.Look(t.Context())
	d := got.Digests[0]
	if d.Signed != No || d.SBOM != Claimed || d.Malicious != Claimed || d.Exploited != Unknown || d.Verdict != "deny" || len(got.Claims) != 1 || got.Claims[0].Reason != "it is not signed" {
		t.Errorf("%+v %+v", d, got.Claims)
	}
}

// TestUnread: evidence that is listed and cannot be had makes unknown, never "no".
func TestUnread(t *testing.T) {
	of := artifact.SHA256Of([]byte("x"))
	d := &Digest{}
	f := &policy.Facts{Rejected: []policy.Rejected{{ID: evidence.ID(nil), Code: trust.CodeBundleMalformed, Reason: "want a JSON object"}}}
	sift(f, read([]verify.Item{{Source: "oci:r.example"}, {Source: "oci:r.example"}}, of), d)
	d.answers(false)
	if d.Signed != Unknown || d.Provenance != Unknown || d.SBOM != Unknown || len(d.claims) != 1 || d.claims[0].open() {
		t.Errorf("%+v", d)
	}
	n := (&Run{}).lack(signature, d.Signed, &policy.Check{}, d)
	if !n.decided || !strings.Contains(n.cause, "cannot be read") {
		t.Errorf("%+v", n)
	}
	if c := named([]*Digest{d}); len(c) != 1 || c[0].Reason != "the registry lists it and gives other bytes, none, too many, or what is about something else" {
		t.Errorf("%+v", c)
	}
}

// TestWhyClaimed: each way not to count has its own cause, and none is told as another.
func TestWhyClaimed(t *testing.T) {
	for want, codes := range map[string][]string{
		"signature that does not verify":                                            {trust.CodeSignature, trust.CodeTLogMissing},
		"signature in no transparency log, so that nothing proves when it was made": {trust.CodeTLogMissing, trust.CodeTLogMissing},
		"signature that nobody signed":                                              {codeUnsigned},
		"signature claimed, by a root or key that was not given":                    {trust.CodeSignature, trust.CodeCertUnknown},
	} {
		d := &Digest{}
		for _, c := range codes {
			d.claims = append(d.claims, claim{kind: signature, code: c}, claim{kind: bom, code: trust.CodeKeyMissing})
		}
		if n := (&Run{}).lack(signature, Yes, &policy.Check{Found: "0 of 1; 1 not logged"}, d); !strings.Contains(n.cause, "in no transparency log") {
			t.Errorf("verified, and not logged: %q", n.cause)
		}
		if n := (&Run{}).lack(signature, Claimed, &policy.Check{Found: "0 of 1; 1 not logged"}, d); n.cause != want {
			t.Errorf("%v: %q, want %q", codes, n.cause, want)
		}
	}
}
