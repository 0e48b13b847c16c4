package tuf_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sigroot "github.com/sigstore/sigstore-go/pkg/root"
	sigtuf "github.com/sigstore/sigstore-go/pkg/tuf"

	"assay/internal/clock"
	"assay/internal/fault"
	"assay/trust"
	"assay/trust/trusttest"
	"assay/trust/tuf"
)

// fixture is a repository behind an HTTP server with a clock that moves.
type fixture struct {
	t     *testing.T
	dir   string
	roles tuf.Roles
	repo  *tuf.Repository
	world *trusttest.World

	mu  sync.Mutex
	now time.Time
	// override answers a path before the repository does.
	override map[string][]byte
	url      string
}

func newRoles(t *testing.T, roots int) tuf.Roles {
	r := tuf.Roles{Targets: trusttest.NewKey(t), Snapshot: trusttest.NewKey(t), Timestamp: trusttest.NewKey(t)}
	for range roots {
		r.Root = append(r.Root, trusttest.NewKey(t))
	}
	return r
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir(), roles: newRoles(t, 1), world: trusttest.New(t), now: time.Now().UTC(), override: map[string][]byte{}}
	f.open()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		name := strings.TrimPrefix(req.URL.Path, "/tuf/")
		f.mu.Lock()
		b, ok := f.override[name]
		repo := f.repo
		f.mu.Unlock()
		switch {
		case ok && b == nil:
			http.NotFound(w, req)
		case ok:
			_, _ = w.Write(b)
		default:
			http.StripPrefix("/tuf", repo.Handler()).ServeHTTP(w, req)
		}
	}))
	t.Cleanup(srv.Close)
	f.url = srv.URL + "/tuf/"
	f.publish()
	return f
}

func (f *fixture) clock() time.Time { f.mu.Lock(); defer f.mu.Unlock(); return f.now }
func (f *fixture) move(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

func (f *fixture) set(name string, b []byte) { f.mu.Lock(); defer f.mu.Unlock(); f.override[name] = b }

func (f *fixture) open() {
	f.t.Helper()
	repo, err := tuf.NewRepository(f.t.Context(), tuf.Options{Dir: f.dir, Roles: f.roles, Clock: f.clock})
	if err != nil {
		f.t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.repo = repo
}

func (f *fixture) config() tuf.SigningConfig {
	w := trust.Window{Start: f.world.Start}
	return tuf.SigningConfig{
		CA:   []tuf.Service{{URL: "https://assay.test/fulcio", Operator: "assay.test", Window: w}},
		OIDC: []tuf.Service{{URL: "https://assay.test/oidc", Operator: "assay.test", Window: w}},
		Log:  []tuf.Service{{URL: "https://assay.test/rekor", Operator: "assay.test", Window: w}},
		TSA:  []tuf.Service{{URL: "https://assay.test/tsa/api/v1/timestamp", Operator: "assay.test", Window: w}},
	}
}

func (f *fixture) publish() {
	f.t.Helper()
	if _, err := f.repo.PublishTrust(f.t.Context(), f.world.Root(f.t), f.config()); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) read(name string) []byte {
	f.t.Helper()
	b, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		f.t.Fatal(err)
	}
	return b
}

// client fetches as an Assay client does, with its own memory.
func (f *fixture) client(cache string, root []byte) (*trust.Root, error) {
	return tuf.LoadFromTUF(f.t.Context(), tuf.ClientOptions{URL: f.url, Root: root, CacheDir: cache, Now: f.clock})
}

// TestSigstoreGoClient reads the repository with the client that cosign uses.
func TestSigstoreGoClient(t *testing.T) {
	f := newFixture(t)
	fetch := func() (*sigroot.TrustedRoot, *sigroot.SigningConfig) {
		t.Helper()
		c, err := sigtuf.New(&sigtuf.Options{Root: f.repo.Root(), RepositoryBaseURL: strings.TrimSuffix(f.url, "/"), CachePath: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		tr, err := sigroot.GetTrustedRoot(c)
		if err != nil {
			t.Fatal(err)
		}
		sc, err := sigroot.GetSigningConfig(c)
		if err != nil {
			t.Fatal(err)
		}
		return tr, sc
	}
	tr, sc := fetch()
	if len(tr.RekorLogs()) != 1 || len(tr.CTLogs()) != 1 || len(tr.FulcioCertificateAuthorities()) != 1 || len(tr.TimestampingAuthorities()) != 1 {
		t.Errorf("trusted root arrived incomplete: %+v", tr)
	}
	now := time.Now()
	for _, s := range []struct {
		what     string
		services []sigroot.Service
		api      uint32
		url      string
	}{
		{"CA", sc.FulcioCertificateAuthorityURLs(), 1, "https://assay.test/fulcio"},
		{"OIDC", sc.OIDCProviderURLs(), 1, "https://assay.test/oidc"},
		{"log", sc.RekorLogURLs(), 2, "https://assay.test/rekor"},
		{"TSA", sc.TimestampAuthorityURLs(), 1, "https://assay.test/tsa/api/v1/timestamp"},
	} {
		got, err := sigroot.SelectService(s.services, []uint32{s.api}, now)
		if err != nil || got.URL != s.url || got.Operator != "assay.test" {
			t.Errorf("%s: service %+v, %v; want %s", s.what, got, err, s.url)
		}
	}
}

func TestRepositoryLife(t *testing.T) {
	f := newFixture(t)
	ctx, first := t.Context(), f.repo.Root()
	cache := t.TempDir()
	load := func() *trust.Root {
		t.Helper()
		r, err := f.client(cache, first)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	want := f.world.Root(t).Digest()
	if got := load().Digest(); got != want {
		t.Fatalf("client got trusted root %s, want %s", got, want)
	}

	// Publishing the same again writes nothing.
	before := f.read("timestamp.json")
	if changed, err := f.repo.PublishTrust(ctx, f.world.Root(t), f.config()); changed || err != nil || !bytes.Equal(before, f.read("timestamp.json")) {
		t.Errorf("publishing the same: changed %v, %v", changed, err)
	}
	// Refreshing too early writes nothing; past half of the timestamp's life it does.
	for _, step := range []struct {
		after time.Duration
		file  string
	}{{24 * time.Hour, ""}, {3 * 24 * time.Hour, "timestamp.json"}} {
		f.move(step.after)
		before := f.read("timestamp.json")
		if err := f.repo.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		if changed := !bytes.Equal(before, f.read("timestamp.json")); changed != (step.file != "") {
			t.Errorf("after %v: timestamp renewed %v", step.after, changed)
		}
	}
	// A restart loads what is there; a long rest is mended by one refresh, and
	// the client follows to the renewed root.
	f.move(300 * 24 * time.Hour)
	f.open()
	if _, err := f.client(cache, first); !errors.Is(err, fault.Unverified) {
		t.Errorf("expired repository: %v, want unverified", err)
	}
	if err := f.repo.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if load().Digest() != want || bytes.Equal(first, f.repo.Root()) {
		t.Error("the root was not renewed, or the client got something else")
	}
	if left := f.repo.Expires().Sub(f.clock()); left < 3*24*time.Hour {
		t.Errorf("after a refresh %v are left", left)
	}

	// New trust: a client sees it.
	f.world.CTKey = trusttest.NewKey(t)
	f.publish()
	if got, want := load().Digest(), f.world.Root(t).Digest(); got != want {
		t.Errorf("after publishing: %s, want %s", got, want)
	}

	// Rotation of every key, and a client that knows only the first root.
	next := newRoles(t, 3)
	next.RootThreshold = 2
	if err := f.repo.Rotate(ctx, next); err != nil {
		t.Fatal(err)
	}
	if _, err := f.client(t.TempDir(), first); err != nil {
		t.Errorf("after rotation, from the first root: %v", err)
	}
	load()
	// The old keys open it no more, the new ones do.
	if _, err := tuf.NewRepository(ctx, tuf.Options{Dir: f.dir, Roles: f.roles, Clock: f.clock}); !errors.Is(err, fault.Conflict) {
		t.Errorf("opening with rotated-out keys: %v, want conflict", err)
	}
	f.roles = next
	f.roles.Root = nil // offline from here on
	f.open()
	f.move(4 * 24 * time.Hour)
	if err := f.repo.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	load()
}

// TestRotationCutShort loses the power between the new root and what it signs.
func TestRotationCutShort(t *testing.T) {
	f := newFixture(t)
	keep := map[string][]byte{}
	for _, name := range []string{"timestamp.json"} {
		keep[name] = f.read(name)
	}
	next := newRoles(t, 1)
	if err := f.repo.Rotate(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	for name, b := range keep {
		if err := os.WriteFile(filepath.Join(f.dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first := f.read("1.root.json")
	if _, err := f.client(t.TempDir(), first); !errors.Is(err, fault.Unverified) {
		t.Errorf("client in the gap: %v, want unverified", err)
	}
	f.roles = next
	f.open()
	if err := f.repo.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.client(t.TempDir(), first); err != nil {
		t.Errorf("client after the refresh: %v", err)
	}
}

// TestRestoredBackup restores an old folder: clients that saw newer metadata
// must be able to go on.
func TestRestoredBackup(t *testing.T) {
	f := newFixture(t)
	root, cache, backup := f.repo.Root(), t.TempDir(), t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(f.dir)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f.move(time.Minute)
		f.world.CTKey = trusttest.NewKey(t)
		f.publish()
		if _, err := f.client(cache, root); err != nil {
			t.Fatal(err)
		}
	}
	f.move(time.Minute)
	f.dir = backup
	f.open()
	f.world.CTKey = trusttest.NewKey(t)
	f.publish()
	got, err := f.client(cache, root)
	if err != nil || got.Digest() != f.world.Root(t).Digest() {
		t.Errorf("client after a restore: %v, want the newest trusted root", err)
	}
}

func TestThreat_TUF_Rollback(t *testing.T) {
	f := newFixture(t)
	root, cache := f.repo.Root(), t.TempDir()
	old := f.read("timestamp.json")
	f.move(time.Minute)
	f.world.CTKey = trusttest.NewKey(t)
	f.publish()
	if _, err := f.client(cache, root); err != nil {
		t.Fatal(err)
	}
	f.set("timestamp.json", old)
	// go-tuf keeps the newer timestamp and refuses the older; it must in no case
	// yield the older trusted root.
	r, err := f.client(cache, root)
	if err == nil && r.Digest() != f.world.Root(t).Digest() {
		t.Error("rolled back to an older trusted root")
	}
	if err != nil && !errors.Is(err, fault.Unverified) {
		t.Errorf("rollback: %v, want unverified", err)
	}
}

func TestThreat_TUF_FreezeAndExpired(t *testing.T) {
	f := newFixture(t)
	root, cache := f.repo.Root(), t.TempDir()
	if _, err := f.client(cache, root); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"timestamp.json"} { // the server goes on serving what it had
		f.set(name, f.read(name))
	}
	f.move(8 * 24 * time.Hour)
	if err := f.repo.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{cache, t.TempDir()} {
		if _, err := f.client(c, root); !errors.Is(err, fault.Unverified) {
			t.Errorf("frozen timestamp: %v, want unverified", err)
		}
	}
	f.set("timestamp.json", f.read("timestamp.json"))
	if _, err := f.client(cache, root); err != nil {
		t.Errorf("thawed: %v", err)
	}
}

// TestThreat_TUF_HiddenRoot serves an old root to a client that saw a newer one.
func TestThreat_TUF_HiddenRoot(t *testing.T) {
	f := newFixture(t)
	root, cache := f.repo.Root(), t.TempDir()
	old := map[string][]byte{"2.root.json": nil}
	snap := filepath.Base(glob(t, f.dir, "*.snapshot.json"))
	tgts := filepath.Base(glob(t, f.dir, "*.targets.json"))
	for _, n := range []string{"timestamp.json", snap, tgts} {
		old[n] = f.read(n)
	}
	f.move(time.Minute)
	if err := f.repo.Rotate(t.Context(), newRoles(t, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.client(cache, root); err != nil {
		t.Fatal(err)
	}
	for n, b := range old {
		f.set(n, b)
	}
	if _, err := f.client(cache, root); !errors.Is(err, fault.Unverified) {
		t.Errorf("repository from before a rotation that the client has seen: %v, want unverified", err)
	}
}

func glob(t *testing.T, dir, pattern string) string {
	t.Helper()
	m, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(m) == 0 {
		t.Fatal(pattern, err)
	}
	return m[len(m)-1]
}

func TestThreat_TUF_BadThresholdAndMalformed(t *testing.T) {
	other := newFixture(t)
	for _, c := range []struct {
		name string
		edit func(f *fixture)
	}{
		{"timestamp of another repository", func(f *fixture) { f.set("timestamp.json", other.read("timestamp.json")) }},
		{"second root not signed by the first", func(f *fixture) {
			f.set("2.root.json", bytes.Replace(other.repo.Root(), []byte(`"version":1`), []byte(`"version":2`), 1))
		}},
		{"signature given twice", func(f *fixture) {
			b := f.read("timestamp.json")
			i := bytes.Index(b, []byte(`"signatures":[`))
			j := bytes.LastIndex(b, []byte(`]`))
			sig := b[i+len(`"signatures":[`) : j]
			f.set("timestamp.json", []byte(strings.Replace(string(b), string(sig), string(sig)+","+string(sig), 1)))
		}},
		{"edited timestamp", func(f *fixture) {
			f.set("timestamp.json", bytes.Replace(f.read("timestamp.json"), []byte(`"version":1`), []byte(`"version":9`), 1))
		}},
		{"no JSON", func(f *fixture) { f.set("timestamp.json", []byte("\x00")) }},
		{"endless", func(f *fixture) { f.set("timestamp.json", bytes.Repeat([]byte(" "), 1<<20)) }},
		{"null", func(f *fixture) { f.set("timestamp.json", []byte("null")) }},
		{"empty signed", func(f *fixture) { f.set("timestamp.json", []byte(`{"signed":{},"signatures":[]}`)) }},
		{"other target bytes", func(f *fixture) {
			name := glob(f.t, f.dir, "targets/*.trusted_root.json")
			b, err := os.ReadFile(name)
			if err != nil {
				f.t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			f.set("targets/"+filepath.Base(name), b)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			c.edit(f)
			if _, err := f.client(t.TempDir(), f.read("1.root.json")); !errors.Is(err, fault.Unverified) {
				t.Errorf("%v, want unverified", err)
			}
		})
	}
}

func TestClientOfflineAndUnreachable(t *testing.T) {
	f := newFixture(t)
	cache := t.TempDir()
	o := tuf.ClientOptions{URL: f.url, Root: f.repo.Root(), CacheDir: cache, Now: f.clock}
	if _, err := tuf.LoadFromTUF(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	o.URL, o.Offline = "http://127.0.0.1:1/tuf/", true
	if _, err := tuf.LoadFromTUF(t.Context(), o); err != nil {
		t.Errorf("offline from the cache: %v", err)
	}
	o.Now = clock.Fixed(f.clock().Add(30 * 24 * time.Hour))
	if _, err := tuf.LoadFromTUF(t.Context(), o); !errors.Is(err, fault.Unverified) {
		t.Errorf("offline, cache expired: %v, want unverified", err)
	}
	o.Offline, o.Now = false, f.clock
	if _, err := tuf.LoadFromTUF(t.Context(), o); !errors.Is(err, fault.Unavailable) {
		t.Errorf("nobody there: %v, want unavailable", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o.URL = f.url
	if _, err := tuf.LoadFromTUF(ctx, o); err == nil {
		t.Error("cancelled: no error")
	}
}

func TestHandlerServesFilesOnly(t *testing.T) {
	f := newFixture(t)
	if err := os.WriteFile(filepath.Join(f.dir, "secret"), []byte("key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(f.dir, "7.root.json")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"timestamp.json": 200, "1.root.json": 200, "root.json": 200, "9.root.json": 404, "": 404, "targets/": 404, "targets": 404,
		"secret": 404, "../tuf.go": 404, "targets/../secret": 404, ".timestamp.json.123": 404, "%2e%2e/secret": 404, "7.root.json": 503,
	} {
		res, err := http.Get(f.url + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != want || bytes.Contains(body, []byte("key\n")) {
			t.Errorf("GET %s: %d, want %d", path, res.StatusCode, want)
		}
	}
	res, err := http.Post(f.url+"timestamp.json", "text/plain", nil)
	if err != nil || res.StatusCode != 405 {
		t.Errorf("POST: %v %v", res, err)
	}
}

func TestNewRepositoryRefuses(t *testing.T) {
	ctx := t.Context()
	k := trusttest.NewKey(t)
	for name, c := range map[string]struct {
		roles tuf.Roles
		want  error
	}{
		"no root key for a new one": {tuf.Roles{Targets: k, Snapshot: k, Timestamp: k}, fault.Invalid},
		"no targets key":            {tuf.Roles{Root: []crypto.Signer{k}, Snapshot: k, Timestamp: k}, fault.Invalid},
		"one key twice":             {tuf.Roles{Root: []crypto.Signer{k, k}, Targets: k, Snapshot: k, Timestamp: k}, fault.Invalid},
		"threshold over the keys":   {tuf.Roles{Root: []crypto.Signer{k}, RootThreshold: 2, Targets: k, Snapshot: k, Timestamp: k}, fault.Invalid},
	} {
		if _, err := tuf.NewRepository(ctx, tuf.Options{Dir: t.TempDir(), Roles: c.roles}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	f := newFixture(t)
	for _, name := range []string{"timestamp.json", "1.root.json", filepath.Base(glob(t, f.dir, "*.snapshot.json"))} {
		b := f.read(name)
		bad := bytes.Replace(b, []byte(`"version":`), []byte(`"version":1`), 1)
		if err := os.WriteFile(filepath.Join(f.dir, name), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := tuf.NewRepository(ctx, tuf.Options{Dir: f.dir, Roles: f.roles}); !errors.Is(err, fault.Tampered) {
			t.Errorf("%s edited: %v, want tampered", name, err)
		}
		if err := os.WriteFile(filepath.Join(f.dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// What go-tuf panics at is damage like any other.
	for name, bad := range map[string]string{
		"1.root.json": `{"signed":{"_type":"root","version":1,"keys":{"k":null},"roles":{"root":{"keyids":["k"],"threshold":1}}},"signatures":[]}`,
		filepath.Base(glob(t, f.dir, "*.targets.json")): `{"signed":{"_type":"targets","targets":{"x":null}},"signatures":[]}`,
	} {
		b := f.read(name)
		if err := os.WriteFile(filepath.Join(f.dir, name), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := tuf.NewRepository(ctx, tuf.Options{Dir: f.dir, Roles: f.roles}); !errors.Is(err, fault.Tampered) {
			t.Errorf("%s replaced: %v, want tampered", name, err)
		}
		if err := os.WriteFile(filepath.Join(f.dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Names cannot leave the folder.
	for _, name := range []string{"../x", "a/b", "", ".hidden", "a\x00b"} {
		if _, err := f.repo.Publish(ctx, map[string][]byte{name: []byte("x")}); !errors.Is(err, fault.Invalid) {
			t.Errorf("target %q: %v, want invalid", name, err)
		}
	}
}

func TestSigningConfigJSON(t *testing.T) {
	f := newFixture(t)
	a, err := f.config().JSON()
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.config().JSON()
	if diff := cmp.Diff(string(a), string(b)); diff != "" || err != nil {
		t.Errorf("not deterministic: %s %v", diff, err)
	}
	if _, err := (tuf.SigningConfig{}).JSON(); !errors.Is(err, fault.Invalid) {
		t.Errorf("empty: %v", err)
	}
}
