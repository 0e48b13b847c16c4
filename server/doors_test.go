package server

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/config"
	"assay/identity"
	"assay/internal/fault"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
)

// TestDoors: every door answers at its path, with nosniff whatever it answers,
// and none takes a request for a page.
func TestDoors(t *testing.T) {
	s := newSite(t, true, nil)
	for _, tt := range []struct {
		method, path string
		status       int
		sandbox      bool
	}{
		{"GET", "/", 200, false},
		{"GET", "/nowhere", 404, false},
		{"GET", "/v2", 301, false},
		{"GET", "/v2/", 401, true},
		{"GET", "/v2/team/app/manifests/v1", 401, true},
		{"GET", "/token", 0, true},
		{"GET", "/fulcio/api/v2/trustBundle", 200, false},
		{"GET", "/fulcio/nowhere", 404, false},
		{"GET", "/rekor/api/v2/checkpoint", 200, false},
		{"POST", "/rekor/api/v2/log/entries", 400, false},
		{"GET", "/ct/checkpoint", 200, false},
		{"GET", "/tsa/api/v1/timestamp/certchain", 200, false},
		{"POST", "/tsa", 400, false},
		{"GET", "/tuf/timestamp.json", 200, false},
		{"GET", "/tuf/1.root.json", 200, false},
		{"GET", "/tuf/../keys/log.pem", 0, false},
		{"GET", "/tuf/%2e%2e/keys/log.pem", 404, false},
		{"GET", "/oidc/.well-known/openid-configuration", 200, false},
		{"GET", "/api/v1/status", 200, true},
		{"GET", "/api/v1/nowhere", 404, true},
		{"POST", "/api/v1/apply", 401, true},
		{"POST", "/v1/token", 404, false}, // the admin socket's, and only there
		{"GET", "/metrics", 200, false},
		{"GET", "/healthz", 200, false},
		{"GET", "/readyz", 200, false},
		{"POST", "/readyz", 405, false},
	} {
		status, h, body := s.do(tt.method, tt.path, nil, nil)
		if tt.status != 0 && status != tt.status {
			t.Errorf("%s %s: %d, want %d (%.200s)", tt.method, tt.path, status, tt.status, body)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" && status != http.StatusMovedPermanently && status != http.StatusTemporaryRedirect {
			t.Errorf("%s %s (%d): no nosniff", tt.method, tt.path, status)
		}
		if strings.Contains(body, "PRIVATE KEY") {
			t.Errorf("%s %s gives a private key", tt.method, tt.path)
		}
		if strings.HasPrefix(h.Get("Content-Type"), "text/html") && status == 200 {
			t.Errorf("%s %s is a page", tt.method, tt.path)
		}
		if tt.sandbox && !strings.Contains(h.Get("Content-Security-Policy"), "sandbox") {
			t.Errorf("%s %s: Content-Security-Policy %q, want sandbox", tt.method, tt.path, h.Get("Content-Security-Policy"))
		}
	}
}

// TestPrivateLog: who signed is for those with a role; that the log is whole is
// for everybody.
func TestPrivateLog(t *testing.T) {
	s := newSite(t, false, nil)
	s.sign("signer@example.com", "content")
	size := s.tlog.Head().Size
	entries, hashes := fmt.Sprintf("/rekor/api/v2/tile/entries/000.p/%d", size), fmt.Sprintf("/rekor/api/v2/tile/0/000.p/%d", size)
	ctEntries := fmt.Sprintf("/ct/tile/data/000.p/%d", s.ct.Log().Head().Size)
	raw := s.token("me@example.com", identity.AudienceAPI)
	get := func(path, token string) int {
		h := map[string]string{}
		if token != "" {
			h["Authorization"] = "Bearer " + token
		}
		status, _, body := s.do("GET", path, h, nil)
		if status != 200 && strings.Contains(body, "signer@example.com") {
			t.Errorf("%s: a refusal names the signer", path)
		}
		return status
	}
	check := func(when string, path, token string, want int) {
		t.Helper()
		if got := get(path, token); got != want {
			t.Errorf("%s, %s: %d, want %d", when, path, got, want)
		}
	}
	for _, path := range []string{"/rekor/api/v2/checkpoint", hashes, "/ct/checkpoint"} {
		check("anonymous", path, "", 200)
	}
	for _, path := range []string{entries, ctEntries, "/api/v1/log/entries/0"} {
		check("anonymous", path, "", 401)
		check("without a role", path, raw, 403)
		check("with a token that does not hold", path, raw+"x", 401)
		check("with a token for the registry", path, s.token("me@example.com", identity.AudienceRegistry), 401)
	}
	s.apply(s.grantDoc("narrow", "me@example.com", "viewer", "team/**"), false)
	for _, path := range []string{entries, ctEntries, "/api/v1/log/entries/0"} {
		check("viewer of one team", path, raw, 403)
	}
	s.apply(s.grantDoc("wide", "me@example.com", "auditor", "**"), false)
	for _, path := range []string{entries, ctEntries, "/api/v1/log/entries/0"} {
		check("auditor of the site", path, raw, 200)
	}
	resp, err := s.admin.HTTP.Get("http://admin" + entries)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("over the admin socket: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	open := newSite(t, false, func(c *config.Config) { c.Tlog.Public = true })
	open.sign("me@example.com", "content")
	if status, _, _ := open.do("GET", fmt.Sprintf("/rekor/api/v2/tile/entries/000.p/%d", open.tlog.Head().Size), nil, nil); status != 200 {
		t.Errorf("a public log answers %d, want 200", status)
	}
}

// TestThreat_MetricsLogs_LabelValues: whatever is sent, the sets of labels stay
// those of the program (CVE-2026-49835).
func TestThreat_MetricsLogs_LabelValues(t *testing.T) {
	s := newSite(t, true, nil)
	hostile := func() {
		for i := range 200 {
			method := fmt.Sprintf("X%d", i)
			for _, path := range []string{fmt.Sprintf("/v2/r%d/manifests/t%d", i, i), fmt.Sprintf("/api/v1/x%d", i), fmt.Sprintf("/rekor/%d", i), fmt.Sprintf("/%d", i), "/token?service=" + method} {
				m := "GET"
				if i%2 == 0 {
					m = method
				}
				s.do(m, path, map[string]string{"Traceparent": method, "User-Agent": method, "Authorization": "Bearer " + method, "Host": method}, nil)
			}
		}
	}
	hostile()
	known := map[string]map[string]bool{
		"service": set("registry", "token", "fulcio", "rekor", "ct", "oidc", "tuf", "tsa", "api", "admin", "operations", "other"),
		"method":  set("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"),
		"tier":    set("1", "2", "3", "4"),
		"window":  set("5m", "30m", "1h", "2h", "6h", "1d", "3d"),
		"code":    set("1xx", "2xx", "3xx", "4xx", "5xx"),
	}
	count := func() int {
		t.Helper()
		families, err := s.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range families {
			for _, m := range f.GetMetric() {
				n++
				checkLabels(t, f, m, known)
			}
		}
		return n
	}
	before := count()
	hostile()
	if after := count(); after != before {
		t.Errorf("%d series after more hostile requests, %d before", after, before)
	}
	problems, err := testutil.GatherAndLint(s.reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func set(names ...string) map[string]bool {
	m := map[string]bool{}
	for _, n := range names {
		m[n] = true
	}
	return m
}

func checkLabels(t *testing.T, f *dto.MetricFamily, m *dto.Metric, known map[string]map[string]bool) {
	t.Helper()
	for _, l := range m.GetLabel() {
		if values := known[l.GetName()]; strings.HasPrefix(f.GetName(), "assay_http_") && !values[l.GetValue()] {
			t.Errorf("%s has %s=%q", f.GetName(), l.GetName(), l.GetValue())
		}
		if strings.ContainsAny(l.GetValue(), "0123456789") && !known[l.GetName()][l.GetValue()] && !strings.HasSuffix(l.GetValue(), "xx") && strings.HasPrefix(f.GetName(), "assay_") {
			t.Errorf("%s has %s=%q, which looks like something that was sent", f.GetName(), l.GetName(), l.GetValue())
		}
	}
}

func TestAdminSocketIsStrict(t *testing.T) {
	s := newSite(t, true, nil)
	for body, want := range map[string]int{
		`{"subject":"me@example.com","audience":"sigstore","ttl_seconds":600}`:                     200,
		`{"subject":"me@example.com","audience":"sigstore"}`:                                       200,
		`{"subject":"me@example.com","audience":"sigstore","ttl_seconds":601}`:                     400,
		`{"subject":"me@example.com","audience":"sigstore","ttl_seconds":-1}`:                      400,
		`{"subject":"me@example.com","audience":"sigstore","ttl_seconds":9223372036854775807}`:     400,
		`{"subject":"me@example.com","audience":"everything"}`:                                     400,
		`{"subject":"me@example.com"}`:                                                             200, // for the registry
		`{"subject":"","audience":"sigstore"}`:                                                     400,
		`{"subject":"a@example.com","subject":"b@example.com","audience":"sigstore"}`:              400,
		`{"subject":"a@example.com","Subject":"b@example.com","audience":"sigstore"}`:              400,
		`{"subject":"me@example.com","audience":"sigstore","claims":{"groups":["admins"]}}`:        400,
		`{"subject":"me@example.com","audience":"sigstore"} {}`:                                    400,
		`{"subject":"` + strings.Repeat("a", 1<<20) + `@example.com","audience":"assay-registry"}`: 413,
		"": 400,
	} {
		resp, err := s.admin.HTTP.Post("http://admin/v1/token", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%.90s: %d, want %d", body, resp.StatusCode, want)
		}
	}
}

func TestOperationsListener(t *testing.T) {
	s := newSite(t, true, func(c *config.Config) { c.Server.Operations = "127.0.0.1:0" })
	ops := "http://" + s.operations.Addr().String()
	for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
		if status, _, _ := s.do("GET", path, nil, nil); status != 404 {
			t.Errorf("%s on the main listener: %d, want 404", path, status)
		}
		resp, err := http.Get(ops + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s on the operations listener: %d", path, resp.StatusCode)
		}
	}
	for _, path := range []string{"/v2/", "/api/v1/status", "/rekor/api/v2/checkpoint"} {
		resp, err := http.Get(ops + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 404 {
			t.Errorf("%s on the operations listener: %d, want 404", path, resp.StatusCode)
		}
	}
	s.ready.Store(false)
	resp, err := http.Get(ops + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 503 {
		t.Errorf("/readyz of a server that is not ready: %d, want 503", resp.StatusCode)
	}
	s.ready.Store(true)
}

// TestGracefulShutdown: a request that is under way when the end comes is
// answered; the next finds a closed door.
func TestGracefulShutdown(t *testing.T) {
	s := newSite(t, true, nil)
	addr, raw := s.main.Addr().String(), s.token("me@example.com", identity.AudienceRegistry)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const sha = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" // of "x"
	fmt.Fprintf(conn, "POST /v2/team/app/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/octet-stream\r\nContent-Length: 1\r\n\r\n", sha, addr, raw)
	deadline := time.Now().Add(5 * time.Second)
	for s.uploadsActive() == 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.stop() }()
	for {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			break // the door is closed
		}
		_ = c.Close()
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("the request under way was cut: %v", err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Errorf("the request under way got %d, want 201", resp.StatusCode)
	}
	if err := <-ended; err != nil {
		t.Errorf("the server ended with %v", err)
	}
	// What was acknowledged is there, for its uploader under the same name.
	s.cfg.Server.Listen = addr
	s.start()
	if status, _, _ := s.do("GET", "/v2/team/app/blobs/"+sha, map[string]string{"Authorization": "Bearer " + s.token("me@example.com", identity.AudienceRegistry)}, nil); status != 200 {
		t.Errorf("the blob after the restart: %d, want 200", status)
	}
}

func (s *testSite) uploadsActive() float64 {
	families, err := s.reg.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "assay_registry_uploads_active" {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return 0
}

// TestShutdownEnds: one who never finishes cannot hold the server.
func TestShutdownEnds(t *testing.T) {
	s := newSite(t, true, func(c *config.Config) { c.Server.ShutdownGrace = 200 * time.Millisecond })
	conn, err := net.Dial("tcp", s.main.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v2/team/app/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 10\r\n\r\nx", s.token("me@example.com", identity.AudienceRegistry))
	time.Sleep(50 * time.Millisecond)
	began := time.Now()
	_ = s.stop() // says that requests were under way, or not
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the end took %s", took)
	}
	s.stop = func() error { return nil }
}

// certificate writes a self-made certificate for 127.0.0.1 and gives its pool.
func certificate(t *testing.T, dir, name string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, b := range map[string][]byte{
		"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk}),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	pool := certificate(t, dir, "first")
	s := newSite(t, false, func(c *config.Config) {
		c.Server.Listen, c.Server.PublicURL = "0.0.0.0:0", "https://localhost:8443"
		c.Server.TLS = config.TLS{Certificate: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	})
	addr := fmt.Sprintf("127.0.0.1:%d", s.main.Addr().(*net.TCPAddr).Port)
	name := func(pool *x509.CertPool, version uint16) (string, error) {
		c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, MaxVersion: version})
		if err != nil {
			return "", err
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
	}
	if got, err := name(pool, 0); err != nil || got != "first" {
		t.Errorf("certificate %q, %v", got, err)
	}
	if _, err := name(pool, tls.VersionTLS11); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	resp, err := c.Get("https://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 404 {
		t.Errorf("/metrics off loopback: %d, want 404", resp.StatusCode)
	}
	if resp, err := http.Get("http://" + addr + "/"); err != nil || resp.StatusCode != 400 {
		t.Errorf("in the clear: %v, %v, want a refusal", resp, err)
	}
}

// TestCertificateIsRenewed: a new certificate is served without a restart; half
// a renewal leaves the old one.
func TestCertificateIsRenewed(t *testing.T) {
	dir := t.TempDir()
	certificate(t, dir, "first")
	c := &certificates{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), log: slog.New(slog.DiscardHandler)}
	name := func() string {
		c.looked = time.Time{}
		got, err := c.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(got.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.Subject.CommonName
	}
	later := func(d time.Duration) {
		for _, f := range []string{"cert.pem", "key.pem"} {
			at := time.Now().Add(d)
			if err := os.Chtimes(filepath.Join(dir, f), at, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := name(); got != "first" {
		t.Errorf("certificate %s", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	later(time.Minute)
	if got := name(); got != "first" {
		t.Errorf("in the middle of a renewal: %s", got)
	}
	certificate(t, dir, "second")
	later(2 * time.Minute)
	if got := name(); got != "second" {
		t.Errorf("after the renewal: %s", got)
	}
	if _, err := newTLS("/nonexistent", "/nonexistent", nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("no certificate: %v", err)
	}
}

// TestDoor: a crash is an answer, a slow client has an end, and a trace that a
// client names is taken only when it is one.
func TestDoor(t *testing.T) {
	logs := &logBuffer{}
	m := newHTTPMetrics(prometheus.NewRegistry())
	log := slog.New(slog.NewJSONHandler(logs, nil))
	mux := http.NewServeMux()
	mux.HandleFunc("/crash", func(http.ResponseWriter, *http.Request) { panic("a bug") })
	mux.HandleFunc("/read", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			http.Error(w, "slow", http.StatusRequestTimeout)
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: m.door("other", mux, log, 200*time.Millisecond), ReadHeaderTimeout: time.Second}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	base := "http://" + l.Addr().String()

	req, _ := http.NewRequestWithContext(context.Background(), "GET", base+"/crash", nil)
	const trace = "0af7651916cd43dd8448eb211c80319c"
	req.Header.Set("Traceparent", "00-"+trace+"-b7ad6b7169203331-01")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != 500 || strings.Contains(string(body), "a bug") || !strings.Contains(string(body), trace) || resp.Header.Get("X-Request-Id") != trace {
		t.Errorf("a crash answers %d %q under %q", resp.StatusCode, body, resp.Header.Get("X-Request-Id"))
	}
	if !strings.Contains(logs.String(), "a bug") || !strings.Contains(logs.String(), trace) {
		t.Errorf("the log lacks the crash: %s", logs)
	}
	if got := testutil.ToFloat64(m.requests.WithLabelValues("other", "GET", "5xx")); got != 1 {
		t.Errorf("%v crashes counted, want 1", got)
	}

	began := time.Now()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nslow")
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.ReadAll(conn)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("a slow body held the door for %s", took)
	}
	for _, h := range []string{"", "x", "00-" + strings.Repeat("0", 32) + "-b7ad6b7169203331-01", "00-\x1b[31m", strings.Repeat("a", 1<<10)} {
		if id := traceID(h); len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" || id == strings.Repeat("0", 32) {
			t.Errorf("traceparent %.40q gives %q", h, id)
		}
	}
}
