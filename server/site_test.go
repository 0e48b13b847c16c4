package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/config"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"

	"google.golang.org/protobuf/encoding/protojson"
)

// testSite is a server in a folder of its own, which outlives it.
type testSite struct {
	*Server
	t     *testing.T
	cfg   config.Config
	opts  Options
	admin *client.Client
	logs  *logBuffer
	stop  func() error // once
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newSite runs a server with change applied to its configuration. It is `assay
// serve`, where nobody may do anything, unless local.
func newSite(t *testing.T, local bool, change func(*config.Config)) *testSite {
	t.Helper()
	return newSiteWith(t, local, change, nil)
}

// newSiteWith is newSite with other options.
func newSiteWith(t *testing.T, local bool, change func(*config.Config), options func(*Options)) *testSite {
	t.Helper()
	dir, err := os.MkdirTemp("", "assay-site-") //nolint:usetesting // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := config.Default()
	cfg.Data, cfg.Server.Listen = filepath.Join(dir, "data"), "127.0.0.1:0"
	if change != nil {
		change(&cfg)
	}
	s := &testSite{t: t, cfg: cfg, logs: &logBuffer{}}
	s.opts = Options{Version: "test", Local: local, Logger: slog.New(slog.NewJSONHandler(s.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if options != nil {
		options(&s.opts)
	}
	s.start()
	return s
}

func (s *testSite) start() {
	s.t.Helper()
	srv, err := New(s.t.Context(), s.cfg, s.opts)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- srv.Run(ctx, func(client.Status) { close(ready) }) }()
	s.Server = srv
	s.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	s.t.Cleanup(func() {
		if err := s.stop(); err != nil {
			s.t.Errorf("the server ended with %v", err)
		}
	})
	<-ready
	s.admin = client.Socket(filepath.Join(s.cfg.Data, "run", "admin.sock"))
}

// restart stops the server and starts another on the same folder.
func (s *testSite) restart() {
	s.t.Helper()
	if err := s.stop(); err != nil {
		s.t.Fatal(err)
	}
	s.start()
}

func (s *testSite) token(subject string, aud identity.Audience) string {
	s.t.Helper()
	a, err := s.admin.Mint(s.t.Context(), client.TokenRequest{Subject: subject, Audience: string(aud), TTL: 60})
	if err != nil {
		s.t.Fatal(err)
	}
	return a.Token
}

// do sends one request and gives status, header and body.
func (s *testSite) do(method, path string, header map[string]string, body io.Reader) (int, http.Header, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.public+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// sign makes a keyless bundle about content, of the local issuer's subject.
func (s *testSite) sign(subject, content string) []byte {
	s.t.Helper()
	st := s.Status(s.t.Context())
	sig := &client.Signing{
		Fulcio: st.Services.Fulcio, Rekor: st.Services.Rekor, TSA: st.Services.TSA,
		Token: func(context.Context) (string, error) { return s.token(subject, identity.AudienceSigstore), nil },
	}
	b, err := sig.Blob(s.t.Context(), artifact.SHA256Of([]byte(content)))
	if err != nil {
		s.t.Fatal(err)
	}
	doc, err := protojson.Marshal(b)
	if err != nil {
		s.t.Fatal(err)
	}
	return doc
}

func (s *testSite) apply(docs string, prune bool) {
	s.t.Helper()
	if _, err := s.admin.Apply(s.t.Context(), []byte(docs), false, prune); err != nil {
		s.t.Fatal(err)
	}
}

func (s *testSite) grantDoc(name, subject, role, scope string) string {
	return fmt.Sprintf("apiVersion: assay/v1\nkind: Grant\nmetadata: {name: %s}\nspec: {issuer: %q, subject: %q, role: %s, scope: %q}\n---\n", name, s.issuer.URL(), subject, role, scope)
}

func (s *testSite) policyDoc(subject string) string {
	return fmt.Sprintf("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: signed}\nspec:\n  requirements:\n    signatures:\n      - name: who\n        identities: [{issuer: %q, subject: %q}]\n---\n", s.issuer.URL(), subject)
}

// TestLifeOfASite signs, stores, decides and restarts on both databases: what
// was issued, logged and decided is the same after.
func TestLifeOfASite(t *testing.T) {
	for _, dialect := range []store.Dialect{store.SQLite, store.PostgreSQL} {
		t.Run(fmt.Sprint(dialect), func(t *testing.T) {
			s := newSite(t, false, func(c *config.Config) {
				if dialect == store.PostgreSQL {
					c.Store.DSN = storetest.DSN(t, dialect)
				}
			})
			ctx := t.Context()
			s.apply(s.policyDoc("me@example.com"), false)
			ev, err := s.admin.Ingest(ctx, s.sign("me@example.com", "content"), "")
			if err != nil || len(ev) != 1 || ev[0].Identity != "me@example.com" {
				t.Fatalf("ingest: %+v, %v", ev, err)
			}
			ask := func() (report struct {
				Verdict, DecisionID string
			}) {
				t.Helper()
				var r map[string]any
				if err := s.admin.Verify(ctx, client.VerifyRequest{Digest: artifact.SHA256Of([]byte("content"))}, &r); err != nil {
					t.Fatal(err)
				}
				report.Verdict, report.DecisionID = fmt.Sprint(r["verdict"]), fmt.Sprint(r["decision_id"])
				return report
			}
			before := ask()
			if before.Verdict != "allow" {
				t.Fatalf("verdict %s, want allow\n%s", before.Verdict, s.logs)
			}
			_, _, keys := s.do("GET", "/oidc/keys", nil, nil)
			_, _, root := s.do("GET", "/api/v1/trust/export", nil, nil)
			size := s.tlog.Head().Size
			if size < 1 {
				t.Fatalf("log of %d entries", size)
			}
			raw := s.token("me@example.com", identity.AudienceAPI)
			port := s.main.Addr().String()
			s.cfg.Server.Listen = port // the same name as before, so that nothing signed changes
			s.restart()
			if _, _, now := s.do("GET", "/oidc/keys", nil, nil); now != keys {
				t.Errorf("the issuer's keys changed: %s, was %s", now, keys)
			}
			if _, _, now := s.do("GET", "/api/v1/trust/export", nil, nil); now != root {
				t.Errorf("the trusted root changed: %s, was %s", now, root)
			}
			if now := s.tlog.Head().Size; now < size {
				t.Errorf("log of %d entries, had %d", now, size)
			}
			if p, _, err := s.verifier.Verify(ctx, raw, identity.AudienceAPI); err != nil || p.Name != "me@example.com" {
				t.Errorf("a token from before: %+v, %v", p, err)
			}
			if after := ask(); after != before {
				t.Errorf("decision %+v, was %+v", after, before)
			}
			list, err := s.admin.Evidence(ctx, client.EvidenceFilter{})
			if err != nil || len(list.Items) != 1 || list.Items[0].ID != ev[0].ID {
				t.Errorf("evidence after the restart: %+v, %v", list, err)
			}
			if _, err := s.admin.Bundle(ctx, ev[0].ID); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestHeadsReachTheLog: what happened is committed to in the transparency log,
// and the gauge says when it is not.
func TestHeadsReachTheLog(t *testing.T) {
	s := newSite(t, true, nil)
	deadline := time.Now().Add(25 * time.Second)
	for {
		head, index, err := s.events.Logged(t.Context(), 1)
		if err == nil {
			if index < 0 || head.Validate() != nil {
				t.Errorf("head %+v at %d", head, index)
			}
			break
		}
		if !errors.Is(err, fault.NotFound) || time.Now().After(deadline) {
			t.Fatalf("no head in the log: %v\n%s", err, s.logs)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err := s.events.VerifyChain(t.Context(), 1, 0); err != nil {
		t.Error(err)
	}
	if _, _, text := s.do("GET", "/metrics", nil, nil); !strings.Contains(text, "\nassay_event_heads_backlog_seconds 0\n") {
		t.Error("the gauge of the backlog is not there, or not at 0")
	}
}

func upload(s *testSite, token string) int {
	s.t.Helper()
	h := map[string]string{}
	if token != "" {
		h["Authorization"] = "Bearer " + token
	}
	status, _, _ := s.do("POST", "/v2/team/app/blobs/uploads/", h, nil)
	return status
}

// TestReload: a grant counts from the answer of the apply that brought it, and
// no longer after the one that took it.
func TestReload(t *testing.T) {
	s := newSite(t, false, nil)
	raw := s.token("me@example.com", identity.AudienceRegistry)
	for turn := range 3 {
		if got := upload(s, raw); got != http.StatusForbidden {
			t.Fatalf("turn %d, without a grant: %d, want 403", turn, got)
		}
		s.apply(s.grantDoc("me", "me@example.com", "publisher", "team/**"), true)
		if got := upload(s, raw); got != http.StatusAccepted {
			t.Fatalf("turn %d, with the grant: %d, want 202\n%s", turn, got, s.logs)
		}
		s.apply(s.grantDoc("me", "me@example.com", "publisher", "other/**"), true)
	}
	s.apply(s.grantDoc("me", "me@example.com", "publisher", "team/**"), true)
	s.apply(s.grantDoc("other", "other@example.com", "viewer", "**"), true) // prune takes the first
	if got := upload(s, raw); got != http.StatusForbidden {
		t.Errorf("after prune: %d, want 403", got)
	}
}

// Documents that could not be put in force are not stored either: the next
// start would fail on them.
func TestApplyOfWhatCannotBe(t *testing.T) {
	s := newSite(t, false, nil)
	for name, doc := range map[string]string{
		"a key file that is not there": "apiVersion: assay/v1\nkind: Issuer\nmetadata: {name: ci}\nspec: {url: \"https://ci.example.com\", type: email, client_id: x, jwks_file: /nonexistent/keys.json}\n",
		"the embedded issuer's URL":    "apiVersion: assay/v1\nkind: Issuer\nmetadata: {name: ci}\nspec: {url: \"" + s.issuer.URL() + "\", type: email, client_id: x, allow_private: true}\n",
	} {
		_, err := s.admin.Apply(t.Context(), []byte(doc), false, false)
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
		_, err = s.admin.Apply(t.Context(), []byte(doc), true, false)
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("%s, dry run: %v, want invalid", name, err)
		}
	}
	s.restart()
}

// Two applies at once end as one after the other, also in memory.
func TestApplyAtOnce(t *testing.T) {
	s := newSite(t, false, nil)
	raw := s.token("me@example.com", identity.AudienceRegistry)
	for range 5 {
		var wg sync.WaitGroup
		for _, scope := range []string{"team/**", "other/**", "team/app", "x"} {
			wg.Go(func() {
				if _, err := s.admin.Apply(t.Context(), []byte(s.grantDoc("me", "me@example.com", "publisher", scope)), false, false); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		var docs []config.Document
		if err := s.db.View(t.Context(), func(tx *store.Tx) (err error) {
			docs, err = config.Stored(t.Context(), tx)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		want := http.StatusForbidden
		if strings.HasPrefix(docs[0].Grant.Scope, "team") {
			want = http.StatusAccepted
		}
		if got := upload(s, raw); got != want {
			t.Fatalf("stored is scope %s, and an upload answers %d, want %d", docs[0].Grant.Scope, got, want)
		}
	}
}

func TestDataFolder(t *testing.T) {
	s := newSite(t, true, nil)
	// A second server on the folder.
	if second, err := New(t.Context(), s.cfg, s.opts); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "another process holds it") {
		t.Errorf("second server: %v, %v, want a conflict that says why", second, err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	open := func(change func(c *config.Config)) error {
		c := s.cfg
		change(&c)
		srv, err := New(t.Context(), c, s.opts)
		if err == nil {
			err = srv.Close()
		}
		return err
	}
	if err := open(func(c *config.Config) { c.Server.PublicURL = "https://other.example" }); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "belongs to host 127.0.0.1") {
		t.Errorf("another host name: %v, want a conflict that names the old one", err)
	}
	if err := open(func(c *config.Config) { c.Server.PublicURL = "https://127.0.0.1:9999" }); err != nil {
		t.Errorf("another port: %v", err)
	}
	for _, sub := range []string{".", "keys", "run", "log", "blobs", "keys/log.pem"} {
		path := filepath.Join(s.cfg.Data, sub)
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, st.Mode().Perm()|0o040); err != nil {
			t.Fatal(err)
		}
		if err := open(func(*config.Config) {}); !errors.Is(err, fault.Denied) || !strings.Contains(err.Error(), "chmod go= ") {
			t.Errorf("%s readable by the group: %v, want denied and what to do", sub, err)
		}
		if err := os.Chmod(path, st.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	// All that is there is private.
	if err := filepath.Walk(s.cfg.Data, func(p string, st os.FileInfo, err error) error {
		if err == nil && st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", p, st.Mode())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	site := filepath.Join(s.cfg.Data, "site.json")
	for text, kind := range map[string]*fault.Kind{`{"version":2,"host":"127.0.0.1"}`: fault.Conflict, `{`: fault.Tampered, `{"version":1,"version":1,"host":"x"}`: fault.Tampered} {
		if err := os.WriteFile(site, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := open(func(*config.Config) {}); !errors.Is(err, kind) {
			t.Errorf("site.json %s: %v, want %v", text, err, kind)
		}
	}
}

// An empty passphrase must not leave keys in the clear, and the right one opens
// what it sealed.
func TestSealedKeys(t *testing.T) {
	dir := t.TempDir()
	pass := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "file:" + p
	}
	s := newSite(t, false, func(c *config.Config) { c.Keys.Passphrase = pass("good", "correct horse\n") })
	s.restart()
	files, err := filepath.Glob(filepath.Join(s.cfg.Data, "keys", "*.pem"))
	if err != nil || len(files) < 8 {
		t.Fatalf("keys %v, %v", files, err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err != nil || bytes.Contains(b, []byte("BEGIN PRIVATE KEY")) {
			t.Errorf("%s lies in the clear (%v)", f, err)
		}
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"wrong": "incorrect horse", "empty": "\n"} {
		c := s.cfg
		c.Keys.Passphrase = pass(name, text)
		if _, err := New(t.Context(), c, s.opts); err == nil {
			t.Errorf("%s passphrase: no error", name)
		}
	}
}

// Secrets of the site never stand in its log, however talkative.
func TestThreat_MetricsLogs_NoSecretsInLogs(t *testing.T) {
	s := newSite(t, true, nil)
	tokens := []string{s.token("me@example.com", identity.AudienceAPI), s.token("me@example.com", identity.AudienceRegistry), s.token("me@example.com", identity.AudienceSigstore)}
	for _, raw := range tokens {
		for _, path := range []string{"/v2/", "/api/v1/events", "/rekor/api/v2/tile/entries/000", "/token?service=x", "/fulcio/api/v2/signingCert", "/nowhere"} {
			s.do("GET", path, map[string]string{"Authorization": "Bearer " + raw}, nil)
			s.do("POST", path, map[string]string{"Authorization": "Bearer " + raw + "x", "Content-Type": "application/json"}, strings.NewReader(`{"x":1}`))
		}
	}
	s.sign("me@example.com", "content")
	log := s.logs.String()
	for _, raw := range tokens {
		sig := raw[strings.LastIndexByte(raw, '.')+1:]
		if strings.Contains(log, sig) {
			t.Errorf("a token's signature stands in the log")
		}
	}
	files, err := filepath.Glob(filepath.Join(s.cfg.Data, "keys", "*.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-----") && len(line) > 20 && strings.Contains(log, line) {
				t.Errorf("key material of %s stands in the log", f)
			}
		}
	}
}
