package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"assay/identity"
	"assay/identity/credential"
	"assay/internal/fault"
	"assay/internal/netguard"
	"assay/internal/oidcflow"
	"assay/store"
	"assay/tlog"
	"assay/ui"
)

// openUI makes the pages, which ask the API.
func (s *Server) openUI() (*ui.UI, error) {
	changes := &lastChange{s: s}
	return ui.New(ui.Options{
		DB: s.db, API: s.api.ServeAs, Verify: s.loginToken, Check: s.credentials.Check, Access: s.access, Logins: s.logins,
		Serving: s.ready.Load, Changes: changes.get, Checkpoint: s.checkHead, Policies: s.policies, Links: s.cfg.Telemetry.Links, Watch: ui.NewWatch(s.watch.slo), OwnRoot: func() string { return s.trust().root.Name() },
		PublicURL: s.public, Host: s.host(), Version: s.opts.Version, Clock: s.clock, Logger: s.log,
	})
}

// loginToken says who holds a token of the API's audience.
func (s *Server) loginToken(ctx context.Context, raw string) (identity.Principal, error) {
	if credential.IsSecret(raw) {
		return s.credentials.Verify(ctx, raw, identity.AudienceAPI)
	}
	p, _, err := s.verifier.Verify(ctx, raw, identity.AudienceAPI)
	return p, err
}

// logins are the issuers where people log in for the API.
func (s *Server) logins() (out []ui.Login) {
	for _, cfg := range s.verifier.Issuers() {
		id, ok := s.verifier.AudienceClaim(cfg.URL, identity.AudienceAPI)
		if !cfg.Login || !ok {
			continue
		}
		out = append(out, ui.Login{Issuer: cfg.URL, Client: &oidcflow.Client{Issuer: cfg.URL, ID: id, HTTP: issuerClient(cfg), Now: s.clock}})
	}
	return out
}

// issuerClient reaches an issuer, and no address that its configuration does not
// allow: a name of the discovery document's may lead elsewhere than the issuer's.
func issuerClient(cfg identity.IssuerConfig) *http.Client {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CABundle != "" {
		conf.RootCAs = x509.NewCertPool()
		// One that does not read leaves an empty pool: then nobody is believed.
		if pem, err := os.ReadFile(cfg.CABundle); err == nil {
			conf.RootCAs.AppendCertsFromPEM(pem)
		}
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second, Control: netguard.Control(cfg.AllowPrivate)}
	return &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: conf, TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: 10 * time.Second,
		MaxResponseHeaderBytes: 32 << 10, DisableKeepAlives: true, ForceAttemptHTTP2: true,
	}}
}

// policies are those in force, as far as everybody may know who may ask for
// decisions.
func (s *Server) policies() (out []ui.Policy) {
	for _, p := range s.desired.Load().Policies.Policies() {
		out = append(out, ui.Policy{Name: p.Name(), Hash: p.Hash(), Mode: p.Mode(), Scope: p.ScopeText()})
	}
	return out
}

// checkHead checks a head of the log by those keys of the trusted root that count
// now.
func (s *Server) checkHead(signed []byte) (tlog.Checkpoint, error) {
	err := fault.Newf(fault.Undecided, "the trusted root knows no log of this site whose key holds today")
	for _, l := range s.trust().root.Parts().Logs {
		u, uerr := url.Parse(l.URL)
		if uerr != nil || u.Hostname() != s.data.site.Host || !l.Window.Contains(s.clock()) {
			continue
		}
		v, verr := tlog.NewVerifier(s.data.site.Host, l.Key)
		if verr != nil {
			err = verr
			continue
		}
		cp, perr := tlog.ParseCheckpoint(signed, v)
		if perr == nil {
			return cp, nil
		}
		err = perr
	}
	return tlog.Checkpoint{}, err
}

// lastChange is the number of the last event that a page could show. However many
// browsers listen, it is read once a second; pulls alone renew no page.
type lastChange struct {
	s    *Server
	mu   sync.Mutex
	read time.Time
	seq  int64
	err  error
}

func (l *lastChange) get(ctx context.Context) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.read) >= 900*time.Millisecond {
		l.read = now
		l.err = l.s.db.View(ctx, func(tx *store.Tx) error {
			return tx.QueryRow(ctx, `SELECT COALESCE(MAX(seq), 0) FROM (SELECT seq, kind FROM event ORDER BY seq DESC LIMIT 200) e
				WHERE kind NOT IN ('artifact.pulled', 'blob.read', 'log.head.published', 'certificate.issued', 'token.issued')`).Scan(&l.seq)
		})
	}
	return l.seq, l.err
}

// toUI sends a browser that asks for the bare address to the pages.
func toUI(r *http.Request) bool {
	return r.Method == http.MethodGet && r.URL.Path == "/" && strings.Contains(r.Header.Get("Accept"), "text/html")
}
