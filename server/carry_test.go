package server

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/config"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
	"assay/transfer"
	"assay/verify"
)

// put pushes as me@example.com.
func (s *testSite) put(path, contentType, body string) {
	s.t.Helper()
	method := http.MethodPost
	if strings.Contains(path, "/manifests/") {
		method = http.MethodPut
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.public+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.SetBasicAuth("me", s.token("me@example.com", identity.AudienceRegistry))
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		s.t.Fatalf("%s: %s", path, resp.Status)
	}
}

// image pushes a small image, and gives its manifest and digest.
func (s *testSite) image(repository, tag, layer string) (string, artifact.Digest) {
	s.t.Helper()
	empty, l := artifact.SHA256Of([]byte("{}")), artifact.SHA256Of([]byte(layer))
	s.put("/v2/"+repository+"/blobs/uploads/?digest="+string(empty), "application/octet-stream", "{}")
	s.put("/v2/"+repository+"/blobs/uploads/?digest="+string(l), "application/octet-stream", layer)
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`, empty, l, len(layer))
	s.put("/v2/"+repository+"/manifests/"+tag, "application/vnd.oci.image.manifest.v1+json", manifest)
	return manifest, artifact.SHA256Of([]byte(manifest))
}

func (s *testSite) signImage(repository, manifest string) {
	s.t.Helper()
	if _, err := s.admin.Ingest(s.t.Context(), s.sign("me@example.com", manifest), repository); err != nil {
		s.t.Fatal(err)
	}
}

// airGapped is a site of another host name.
func airGapped(t *testing.T, change func(*config.Config)) *testSite {
	return newSite(t, true, func(c *config.Config) {
		c.Server.Listen = free(t)
		_, port, err := net.SplitHostPort(c.Server.Listen)
		if err != nil {
			t.Fatal(err)
		}
		c.Server.PublicURL = "http://localhost:" + port
		if change != nil {
			change(c)
		}
	})
}

// carries makes a bundle for plant-7 and reads it whole.
func (s *testSite) carries(q client.BundleExport) []byte {
	s.t.Helper()
	q.Target = "plant-7"
	if q.Repositories == nil {
		q.Repositories = []string{"team/**"}
	}
	b, err := s.admin.MakeBundle(s.t.Context(), q)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.again(b.Sequence, b.Bytes)
}

func (s *testSite) again(sequence, size int64) []byte {
	s.t.Helper()
	r, n, err := s.admin.BundleContent(s.t.Context(), "plant-7", sequence)
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Close()
	file, err := io.ReadAll(r)
	if err != nil || int64(len(file)) != n || size != 0 && n != size {
		s.t.Fatalf("%d bytes of %d (%d announced), %v", len(file), n, size, err)
	}
	return file
}

func (s *testSite) pinned() artifact.Digest {
	s.t.Helper()
	b, err := s.firstRoot()
	if err != nil {
		s.t.Fatal(err)
	}
	return artifact.SHA256Of(b)
}

func (s *testSite) imports(file []byte, q client.BundleImport) (*client.BundleImported, error) {
	return s.admin.ImportBundle(s.t.Context(), bytes.NewReader(file), q)
}

func (s *testSite) mustImport(file []byte, q client.BundleImport) *client.BundleImported {
	s.t.Helper()
	got, err := s.imports(file, q)
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

func (s *testSite) asks(repository string, d artifact.Digest) *verify.Report {
	s.t.Helper()
	var r verify.Report
	if err := s.admin.Verify(s.t.Context(), client.VerifyRequest{Digest: d, Repository: repository}, &r); err != nil {
		s.t.Fatal(err)
	}
	return &r
}

// shows is the status of a manifest's GET.
func (s *testSite) shows(repository, reference string) int {
	s.t.Helper()
	status, _, _ := s.do(http.MethodGet, "/v2/"+repository+"/manifests/"+reference, map[string]string{"Authorization": "Bearer " + s.token("me@example.com", identity.AudienceRegistry)}, nil)
	return status
}

// TestCarry carries images with their evidence and trust to a site of another
// name, then what is new, then a revocation, on both databases.
func TestCarry(t *testing.T) {
	for _, dialect := range []store.Dialect{store.SQLite, store.PostgreSQL} {
		t.Run(string(dialect), func(t *testing.T) {
			a := newSite(t, true, nil)
			b := airGapped(t, func(c *config.Config) {
				if dialect == store.PostgreSQL {
					c.Store.DSN = storetest.DSN(t, dialect)
				}
			})
			testCarry(t, a, b)
		})
	}
}

func testCarry(t *testing.T, a, b *testSite) {
	a.apply(a.policyDoc("me@example.com"), false)
	manifest, d := a.image("team/app", "v1", strings.Repeat("layer ", 1000))
	a.signImage("team/app", manifest)
	a.image("other/app", "v1", "not carried")

	full := a.carries(client.BundleExport{Policies: true})
	got := b.mustImport(full, client.BundleImport{Root: a.pinned(), ApplyPolicies: true})
	if got.Manifests != 1 || got.Evidence != 1 || len(got.Refused) != 0 || !got.Full || got.Sequence != 1 || got.Origin != "127.0.0.1" || len(got.Changes) != 1 {
		t.Fatalf("imported: %+v", got)
	}
	if r := b.asks("team/app", d); !r.Allowed() {
		t.Fatalf("at the other site: %+v %+v", r.Checks, r.Rejected)
	}
	if s := b.shows("team/app", "v1"); s != http.StatusOK {
		t.Errorf("the tag: %d", s)
	}
	if b.shows("other/app", "v1") == http.StatusOK {
		t.Error("a repository came that was not selected")
	}
	if len(b.eventsOf(event.BundleImported)) != 1 || len(a.eventsOf(event.BundleExported)) != 1 {
		t.Error("no events")
	}

	// What is new alone: the old layer is not sent again, the moved tag is.
	next, e := a.image("team/app", "v2", "another layer")
	a.signImage("team/app", next)
	a.put("/v2/team/app/manifests/latest", "application/vnd.oci.image.manifest.v1+json", manifest) // an old image under a new tag
	second := a.carries(client.BundleExport{})
	if bytes.Contains(second, []byte("layer layer")) || !bytes.Contains(second, []byte("another layer")) {
		t.Error("the increment has the old layer, or lacks the new one")
	}
	if again := a.again(2, 0); !bytes.Equal(second, again) {
		t.Error("the same bundle has other bytes the second time")
	}
	if got = b.mustImport(second, client.BundleImport{}); got.Sequence != 2 || got.Full || got.Evidence != 1 {
		t.Errorf("the increment: %+v", got)
	}
	if r := b.asks("team/app", e); !r.Allowed() {
		t.Errorf("the new image: %+v", r.Checks)
	}
	if s := b.shows("team/app", "latest"); s != http.StatusOK {
		t.Errorf("the moved tag: %d", s)
	}

	// A revocation there is a denial here.
	if _, err := a.admin.Revoke(t.Context(), client.RevokeRequest{Entries: []client.Revocation{{
		Kind: "identity", Match: "exact", Issuer: a.issuer.URL(), Subject: "me@example.com", InvalidSince: time.Unix(0, 0), Reason: "laptop stolen",
	}}}); err != nil {
		t.Fatal(err)
	}
	third := a.carries(client.BundleExport{})
	b.mustImport(third, client.BundleImport{})
	if r := b.asks("team/app", d); r.Allowed() || len(r.Rejected) != 1 || r.Rejected[0].Code != "revoked" {
		t.Errorf("after the revocation: %+v", r)
	}
	// It survives a restart, and so does the place in the sequence.
	b.restart()
	if r := b.asks("team/app", e); r.Allowed() {
		t.Error("the revocation is forgotten after a restart")
	}
	if _, err := b.imports(third, client.BundleImport{}); err == nil || !strings.Contains(err.Error(), "imported already") {
		t.Errorf("a replay: %v", err)
	}
	// A full one takes up anywhere ahead, also where it was lost in between.
	a.carries(client.BundleExport{})
	if got = b.mustImport(a.carries(client.BundleExport{Full: true}), client.BundleImport{}); got.Sequence != 5 {
		t.Errorf("the full one: %+v", got)
	}
	l, err := b.admin.Bundles(t.Context())
	if err != nil || len(l.Origins) != 1 || l.Origins[0].Sequence != 5 || l.Origins[0].Revocations != "current" || l.Origins[0].Namespaces[0] != "team/**" {
		t.Errorf("list: %+v, %v", l, err)
	}
}

// TestCarryFeed carries a tree of files.
func TestCarryFeed(t *testing.T) {
	a, b := newSite(t, true, nil), airGapped(t, nil)
	var in bytes.Buffer
	w := tar.NewWriter(&in)
	for _, f := range [][2]string{{"2026/CVE-1.json", `{"id":"CVE-1"}`}, {"index.json", `[]`}} {
		_ = w.WriteHeader(&tar.Header{Name: f[0], Size: int64(len(f[1])), Mode: 0o644, Typeflag: tar.TypeReg})
		_, _ = w.Write([]byte(f[1]))
	}
	_ = w.Close()
	feed, err := a.admin.UploadFeed(t.Context(), "osv", bytes.NewReader(in.Bytes()))
	if err != nil || feed.Files != 2 {
		t.Fatalf("%+v, %v", feed, err)
	}
	got := b.mustImport(a.carries(client.BundleExport{Feeds: []client.BundleFeed{*feed}}), client.BundleImport{Root: a.pinned()})
	if got.Feeds != 1 {
		t.Errorf("%+v", got)
	}
	err = b.db.View(t.Context(), func(tx *store.Tx) error {
		feeds, err := transfer.Feeds(t.Context(), tx, "127.0.0.1")
		if err != nil || len(feeds) != 1 || feeds[0].Name != "osv" || len(feeds[0].Files) != 2 || feeds[0].Files[0].Path != "2026/CVE-1.json" {
			t.Errorf("%+v, %v", feeds, err)
			return err
		}
		text, err := b.readSmallBlob(t.Context(), feeds[0].Files[0].Digest, 1<<20)
		if string(text) != `{"id":"CVE-1"}` {
			t.Errorf("%s", text)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	var hostile bytes.Buffer
	w = tar.NewWriter(&hostile)
	_ = w.WriteHeader(&tar.Header{Name: "../../etc/passwd", Size: 0, Mode: 0o644, Typeflag: tar.TypeReg})
	_ = w.Close()
	if _, err := a.admin.UploadFeed(t.Context(), "osv", &hostile); !errors.Is(err, fault.Invalid) {
		t.Errorf("a file outside of the feed: %v", err)
	}
}

// nothing says whether a site shows nothing of another one.
func nothing(t *testing.T, b *testSite) {
	t.Helper()
	if s := b.shows("team/app", "v1"); s != http.StatusNotFound {
		t.Errorf("the image is there: %d", s)
	}
	l, err := b.admin.Bundles(t.Context())
	if err != nil || len(l.Origins) != 0 || len(b.trust().foreign) != 0 || len(b.trust().domains) != 0 {
		t.Errorf("the origin is trusted: %+v, %v", l, err)
	}
}

// Whatever is wrong with a file, it is refused with its reason, and nothing of
// it can be seen.
func TestThreat_Archive_RefusedWhole(t *testing.T) {
	a, b := newSite(t, true, nil), airGapped(t, nil)
	manifest, _ := a.image("team/app", "v1", strings.Repeat("layer ", 1000))
	a.signImage("team/app", manifest)
	file := a.carries(client.BundleExport{})
	pin := a.pinned()
	bit := bytes.Clone(file)
	bit[bytes.Index(bit, []byte("layer layer"))] ^= 1
	signed := bytes.Clone(file)
	signed[bytes.Index(signed, []byte(`"payload":"`))+400] ^= 2
	appended := func(h tar.Header, content string) []byte {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		r := tar.NewReader(bytes.NewReader(file))
		for {
			e, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			_ = w.WriteHeader(e)
			_, _ = io.Copy(w, r)
		}
		h.Size = int64(len(content))
		_ = w.WriteHeader(&h)
		_, _ = io.WriteString(w, content)
		_ = w.Close()
		return buf.Bytes()
	}
	for name, tt := range map[string]struct {
		file []byte
		q    client.BundleImport
		want string
	}{
		"no root":       {file, client.BundleImport{}, "give its root.json"},
		"wrong root":    {file, client.BundleImport{Root: b.pinned()}, "do not include the pinned one"},
		"altered":       {bit, client.BundleImport{Root: pin}, "was altered"},
		"altered list":  {signed, client.BundleImport{Root: pin}, ""},
		"cut":           {file[:len(file)*2/3], client.BundleImport{Root: pin}, "cut short"},
		"undeclared":    {appended(tar.Header{Name: "blobs/sha256/../../x", Mode: 0o644, Typeflag: tar.TypeReg}, "x"), client.BundleImport{Root: pin}, "does not name"},
		"a symlink":     {appended(tar.Header{Name: "x", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink}, ""), client.BundleImport{Root: pin}, "does not name"},
		"trailing":      {append(bytes.Clone(file), "more"...), client.BundleImport{Root: pin}, "follows the end"},
		"no bundle":     {[]byte("text"), client.BundleImport{Root: pin}, "cut short"},
		"another scope": {file, client.BundleImport{Root: pin, Namespaces: []string{"vendor/**"}}, "trusted for vendor/** alone"},
	} {
		_, err := b.imports(tt.file, tt.q)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	nothing(t, b)
	await(t, func() bool { return len(b.eventsOf(event.BundleRefused)) == 10 })
	// The same file, whole, is taken: nothing was burnt.
	b.mustImport(file, client.BundleImport{Root: pin})
}

// A file that is late, comes twice, or comes before another one is refused, and
// the refusal names what is missing.
func TestThreat_Archive_Sequence(t *testing.T) {
	a := newSite(t, true, nil)
	ahead := daysAgo(0)
	b := newSiteWith(t, true, func(c *config.Config) {
		c.Server.Listen = free(t)
		_, port, _ := net.SplitHostPort(c.Server.Listen)
		c.Server.PublicURL = "http://localhost:" + port
	}, func(o *Options) { o.Clock = ahead.now })
	pin := a.pinned()
	a.image("team/app", "v1", "one")
	one := a.carries(client.BundleExport{})
	a.image("team/app", "v1", "two")
	two := a.carries(client.BundleExport{})
	a.image("team/app", "v1", "three")
	three := a.carries(client.BundleExport{})
	refused := func(name string, file []byte, q client.BundleImport, want string) {
		t.Helper()
		if _, err := b.imports(file, q); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	refused("an increment first", two, client.BundleImport{Root: pin}, "never imported here")
	b.mustImport(one, client.BundleImport{Root: pin})
	refused("a gap", three, client.BundleImport{}, "--again 2")
	refused("another root", two, client.BundleImport{Root: b.pinned()}, "whose root is remembered")
	b.mustImport(two, client.BundleImport{})
	refused("a replay", two, client.BundleImport{}, "imported already")
	refused("an older one", one, client.BundleImport{}, "is older than")
	ahead.pass(31 * 24 * time.Hour)
	refused("too late", three, client.BundleImport{}, "could be imported until")
	ahead.pass(-31 * 24 * time.Hour)
	b.mustImport(three, client.BundleImport{})
	if s := b.shows("team/app", "v1"); s != http.StatusOK {
		t.Errorf("the tag: %d", s)
	}
}

// A site says nothing about repositories that it is not trusted for, and content
// that is here already is not shown because another site names it.
func TestThreat_Archive_OtherTenants(t *testing.T) {
	a, b := newSite(t, true, nil), airGapped(t, nil)
	a.image("team/app", "v1", "theirs")
	b.mustImport(a.carries(client.BundleExport{}), client.BundleImport{Root: a.pinned()})
	a.image("prod/app", "v1", "more than was agreed")
	more := a.carries(client.BundleExport{Repositories: []string{"**"}})
	if _, err := b.imports(more, client.BundleImport{}); err == nil || !strings.Contains(err.Error(), "--namespace prod/app") {
		t.Errorf("a wider bundle: %v", err)
	}
	// Who may operate may go on, and not widen.
	b.apply(b.grantDoc("ops", "ops@example.com", "operator", "**")+b.grantDoc("ops-push", "ops@example.com", "publisher", "**"), false)
	ops := &client.Client{Base: b.public, Token: func(context.Context) (string, error) { return b.token("ops@example.com", identity.AudienceAPI), nil }}
	if _, err := ops.ImportBundle(t.Context(), bytes.NewReader(more), client.BundleImport{Namespaces: []string{"prod/app"}}); !errors.Is(err, fault.Denied) {
		t.Errorf("an operator widens: %v", err)
	}
	b.mustImport(more, client.BundleImport{Namespaces: []string{"prod/app"}})
	if s := b.shows("prod/app", "v1"); s != http.StatusOK {
		t.Errorf("after an administrator agreed: %d", s)
	}
}
