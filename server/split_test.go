package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"assay/artifact"
	"assay/authority/rotation"
	"assay/client"
	"assay/config"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
)

// splitSite is a site of three processes on one PostgreSQL, behind a proxy that
// knows paths alone.
type splitSite struct {
	signer, log, front *testSite
	public             string
}

// free is an address that was free a moment ago.
func free(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// splitConfig is the configuration of one process.
func splitConfig(t *testing.T, dir, dsn, public, listen string, peers config.Peers, roles ...string) config.Config {
	cfg := config.Default()
	cfg.Data, cfg.Store.DSN = filepath.Join(dir, strings.Join(roles, "-")), dsn
	cfg.Server.Listen, cfg.Server.PublicURL, cfg.Server.Roles, cfg.Server.Peers = listen, public, roles, peers
	return cfg
}

func newSplitSite(t *testing.T) *splitSite {
	t.Helper()
	dir, err := os.MkdirTemp("", "assay-split-") //nolint:usetesting // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("s", 44)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := map[string]string{config.RoleSigner: free(t), config.RoleLog: free(t), config.RoleAPI: free(t)}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		role := config.RoleAPI
		switch p := r.URL.Path; {
		case strings.HasPrefix(p, "/fulcio/"), strings.HasPrefix(p, "/tsa"), strings.HasPrefix(p, "/oidc/"):
			role = config.RoleSigner
		case strings.HasPrefix(p, "/rekor/"), strings.HasPrefix(p, "/ct/"):
			role = config.RoleLog
		}
		httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: at[role]}).ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	peers := config.Peers{Signer: "http://" + at[config.RoleSigner], Log: "http://" + at[config.RoleLog], API: "http://" + at[config.RoleAPI], Secret: "file:" + secret}
	dsn := storetest.DSN(t, store.PostgreSQL)
	s := &splitSite{public: proxy.URL}
	process := func(at string, roles ...string) *testSite {
		p := &testSite{t: t, cfg: splitConfig(t, dir, dsn, proxy.URL, at, peers, roles...), logs: &logBuffer{}}
		p.opts = Options{Version: "test", Logger: slog.New(slog.NewJSONHandler(p.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))}
		p.start()
		return p
	}
	s.signer = process(at[config.RoleSigner], config.RoleSigner)
	s.log = process(at[config.RoleLog], config.RoleLog)
	s.front = process(at[config.RoleAPI], config.RoleRegistry, config.RoleAPI, config.RoleUI)
	return s
}

// keyFiles are the keys and certificates that a process's folder holds.
func keyFiles(t *testing.T, s *testSite) (out []string) {
	t.Helper()
	for _, sub := range []string{"keys", "ca"} {
		files, err := os.ReadDir(filepath.Join(s.cfg.Data, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if strings.HasSuffix(f.Name(), ".pem") {
				out = append(out, sub+"/"+f.Name())
			}
		}
	}
	slices.Sort(out)
	return out
}

func TestSplitSite(t *testing.T) {
	s := newSplitSite(t)
	ctx := t.Context()

	t.Run("each folder holds the keys of its roles", func(t *testing.T) {
		for _, tt := range []struct {
			of   *testSite
			want []string
		}{
			{s.signer, []string{"ca/ca.pem", "ca/tsa.pem", "keys/ca-intermediate.pem", "keys/ca-root.pem", "keys/oidc.pem", "keys/tsa-root.pem", "keys/tsa.pem"}},
			{s.log, []string{"keys/audit.pem", "keys/ct.pem", "keys/log.pem"}},
			{s.front, []string{"keys/decision.pem", "keys/delegation.pem", "keys/registry.pem", "keys/tuf-online.pem", "keys/tuf-root.pem"}},
		} {
			if d := cmp.Diff(tt.want, keyFiles(t, tt.of)); d != "" {
				t.Errorf("%v (-want +got):\n%s", tt.of.cfg.Server.Roles, d)
			}
		}
	})

	t.Run("signed by one, logged by another, decided by the third", func(t *testing.T) {
		s.signer.public = s.public
		s.front.local = s.signer.local
		s.front.apply(fmt.Sprintf("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: signed}\nspec:\n  requirements:\n    signatures:\n      - name: who\n        identities: [{issuer: %q, subject: me@example.com}]\n---\n", s.public+"/oidc"), false)
		bundle := s.signer.sign("me@example.com", "content")
		ev, err := s.front.admin.Ingest(ctx, bundle, "")
		if err != nil || len(ev) != 1 || ev[0].Identity != "me@example.com" {
			t.Fatalf("ingest: %+v, %v", ev, err)
		}
		var r map[string]any
		if err := s.front.admin.Verify(ctx, client.VerifyRequest{Digest: artifact.SHA256Of([]byte("content"))}, &r); err != nil {
			t.Fatal(err)
		}
		if r["verdict"] != "allow" {
			t.Errorf("verdict %v: %v", r["verdict"], r)
		}
		// The API reads the log's entries from the process that has them.
		if _, _, err := s.front.logSnapshot(ctx); err != nil {
			t.Error(err)
		}
		code, _, body := s.front.do("GET", "/api/v1/log/entries/0", map[string]string{"Authorization": "Bearer nonsense"}, nil)
		if code != http.StatusUnauthorized {
			t.Errorf("an entry with a token of nobody: %d %s", code, body)
		}
	})

	t.Run("a process answers for its roles alone", func(t *testing.T) {
		for _, tt := range []struct {
			of   *testSite
			path string
			want int
			hint string
		}{
			{s.signer, "/v2/", 404, "role registry"},
			{s.signer, "/rekor/api/v2/checkpoint", 404, s.log.cfg.Server.Peers.Log},
			{s.signer, "/oidc/.well-known/openid-configuration", 200, ""},
			{s.log, "/rekor/api/v2/checkpoint", 200, ""},
			{s.log, "/fulcio/api/v2/configuration", 404, s.log.cfg.Server.Peers.Signer},
			{s.log, "/api/v1/status", 404, "role api"},
			{s.front, "/tuf/timestamp.json", 200, ""},
			{s.front, "/tsa/api/v1/timestamp", 404, "role signer"},
			{s.front, "/readyz", 200, "roles registry,api,ui"},
			{s.front, "/", 200, "Assay"},
		} {
			req, err := http.NewRequestWithContext(ctx, "GET", "http://"+tt.of.cfg.Server.Listen+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			rec := httptest.NewRecorder()
			tt.of.routes().ServeHTTP(rec, req)
			if rec.Code != tt.want || !strings.Contains(rec.Body.String(), tt.hint) {
				t.Errorf("%v %s: %d %q, want %d with %q", tt.of.cfg.Server.Roles, tt.path, rec.Code, rec.Body, tt.want, tt.hint)
			}
		}
		if _, err := s.log.admin.Mint(ctx, client.TokenRequest{Subject: "x", Audience: string(identity.AudienceAPI)}); !errors.Is(err, fault.NotFound) {
			t.Errorf("a token of a process without the issuer: %v", err)
		}
	})

	t.Run("a process without a registry knows of no profile", func(t *testing.T) {
		s.front.apply("apiVersion: assay/v1\nkind: Repository\nmetadata: {name: dev}\nspec: {pattern: dev/**, profile: dev}\n", false)
		for p, want := range map[*testSite]string{s.signer: "", s.log: "", s.front: "dev"} {
			if got := p.profile("dev/app"); got != want {
				t.Errorf("%v: profile %q, want %q", p.cfg.Server.Roles, got, want)
			}
		}
	})

	t.Run("a second log is refused", func(t *testing.T) {
		if held, _, err := s.front.db.Lease(ctx, leaseLog, "another", leaderTTL); err != nil || held {
			t.Errorf("the lease of the log was free: %t, %v", held, err)
		}
		s.log.leading.Store(false)
		rec := httptest.NewRecorder()
		s.log.routes().ServeHTTP(rec, httptest.NewRequest("POST", "/rekor/api/v2/log/entries", strings.NewReader("{}")))
		if rec.Code != http.StatusServiceUnavailable {
			t.Errorf("an entry to a log that lost its lease: %d", rec.Code)
		}
		s.log.leading.Store(true)
	})
}

func TestThreat_Split_PeersAreAuthenticated(t *testing.T) {
	s := newSplitSite(t)
	ctx := t.Context()
	ask := func(header string) int {
		req := httptest.NewRequest("POST", pathPreCert, strings.NewReader(`{"tbs":"AAAA","issuer_key_hash":"AAAA"}`))
		if header != "" {
			req.Header.Set("Authorization", header)
		}
		rec := httptest.NewRecorder()
		s.log.routes().ServeHTTP(rec, req)
		return rec.Code
	}
	for _, header := range []string{"", "Assay-Peer ", "Assay-Peer " + strings.Repeat("0", 64), "Bearer " + s.log.peers.token} {
		if code := ask(header); code != http.StatusUnauthorized {
			t.Errorf("Authorization %q: %d, want 401", header, code)
		}
	}
	if code := ask("Assay-Peer " + s.log.peers.token); code != http.StatusBadRequest {
		t.Errorf("a peer's malformed request: %d, want 400", code)
	}
	// Who writes the database cannot make a CA the site's.
	rows, err := s.front.own.keeper.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	forged := *rotation.ActiveOf(rows, rotation.CA)
	mine := rotation.ActiveOf(rows, rotation.Decision)
	forged.Public, forged.Fingerprint = mine.Public, mine.Fingerprint
	if err := s.front.ours(ctx, []rotation.Key{forged}); !errors.Is(err, fault.Tampered) {
		t.Errorf("a row that the signer did not vouch for: %v, want tampered", err)
	}
	forged.Name = "ca.2"
	if err := s.front.ours(ctx, []rotation.Key{forged}); !errors.Is(err, fault.Unavailable) {
		t.Errorf("a row that nobody vouched for: %v, want unavailable", err)
	}
	// A process with another secret believes nothing.
	other, err := newPeerKeys([]byte(strings.Repeat("o", 32)), s.front.data.site.Host)
	if err != nil {
		t.Fatal(err)
	}
	was := s.front.peers
	s.front.peers = other
	err = s.front.takeLog(ctx)
	s.front.peers = was
	if !errors.Is(err, fault.Tampered) {
		t.Errorf("with another secret: %v, want tampered", err)
	}
	ca := remoteCT{base: s.signer.cfg.Server.Peers.Log, http: &http.Client{Transport: peerTransport{token: other.token, next: http.DefaultTransport}}}
	if _, err := ca.AddPreCert(ctx, []byte{1}, [32]byte{}); !errors.Is(err, fault.Unavailable) {
		t.Errorf("a promise to one with another secret: %v", err)
	}
}

func TestEveryKeyHasAHolder(t *testing.T) {
	for _, r := range rotation.Roles() {
		if !slices.Contains(config.Roles(), holders[r]) {
			t.Errorf("no process holds keys of role %s", r)
		}
	}
}

func TestSplitConfig(t *testing.T) {
	good := func() config.Config {
		c := splitConfig(t, t.TempDir(), "postgres:///assay", "http://127.0.0.1:9", "127.0.0.1:0",
			config.Peers{Log: "http://127.0.0.1:8", Secret: "file:/x"}, config.RoleSigner)
		return c
	}
	c := good()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*config.Config){
		"nobody stamps for the api":      func(c *config.Config) { c.Server.Roles = []string{"registry", "api"} },
		"no such role":                   func(c *config.Config) { c.Server.Roles = []string{"root"} },
		"a role twice":                   func(c *config.Config) { c.Server.Roles = []string{"signer", "signer"} },
		"no public URL":                  func(c *config.Config) { c.Server.PublicURL = "" },
		"SQLite":                         func(c *config.Config) { c.Store.DSN = "" },
		"no secret":                      func(c *config.Config) { c.Server.Peers.Secret = "" },
		"nobody has the log":             func(c *config.Config) { c.Server.Peers.Log = "" },
		"a peer in the clear":            func(c *config.Config) { c.Server.Peers.Log = "http://log.example" },
		"a peer with a path":             func(c *config.Config) { c.Server.Peers.Log = "https://log.example/x" },
		"registry without api":           func(c *config.Config) { c.Server.Roles = []string{"registry"} },
		"api without the registry's too": func(c *config.Config) { c.Server.Roles = []string{"api", "log"} },
	} {
		c := good()
		change(&c)
		if err := c.Validate(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}

// A process that starts before its peers waits for them.
func TestSplitWaits(t *testing.T) {
	s := newSplitSite(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.signer.awaitKeys(ctx, "nobody"); err == nil {
		t.Error("a key that no process makes was found")
	}
}

// A key that one process rotates is taken over by the others.
func TestSplitRotation(t *testing.T) {
	s := newSplitSite(t)
	ctx := t.Context()
	if _, err := s.front.own.keeper.Rotate(ctx, rotation.Request{Role: rotation.CA, Now: true, Actor: "test"}); !errors.Is(err, fault.NotFound) {
		t.Fatalf("the CA's key rotated by a process that has it not: %v", err)
	}
	for _, r := range []struct {
		by   *testSite
		role rotation.Role
	}{{s.signer, rotation.CA}, {s.signer, rotation.OIDC}, {s.log, rotation.Log}} {
		if _, err := r.by.own.keeper.Rotate(ctx, rotation.Request{Role: r.role, Now: true, Actor: "test"}); err != nil {
			t.Fatalf("%s: %v", r.role, err)
		}
	}
	for _, p := range []*testSite{s.signer, s.log, s.front} {
		if err := p.followTrust(ctx); err != nil {
			t.Fatal(err)
		}
	}
	s.signer.public = s.public
	if ev, err := s.front.admin.Ingest(ctx, s.signer.sign("me@example.com", "content"), ""); err != nil || len(ev) != 1 {
		t.Errorf("evidence under the new keys: %v, %v", ev, err)
	}
}
