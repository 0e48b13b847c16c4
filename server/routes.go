package server

import (
	"context"
	"net"
	"net/http"

	"assay/config"
	"assay/identity"
	"assay/source/forge"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// routes is the main listener: every door under its prefix.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mount := func(name, prefix string, h http.Handler) {
		within := shortRequest
		if name == "registry" {
			within = noLimit
		}
		mux.Handle(prefix, s.http.door(name, h, s.log, within))
	}
	below := func(name, prefix string, h http.Handler) {
		mount(name, prefix+"/", http.StripPrefix(prefix, h))
	}
	// What another process of a split site does is answered with where it is.
	of := func(role, name string, prefixes ...string) bool {
		if s.has(role) {
			return true
		}
		for _, p := range prefixes {
			mount(name, p, s.elsewhere(role))
		}
		return false
	}
	if of(config.RoleRegistry, "registry", "/v2/", "/v2", "/token") {
		mount("registry", "/v2/", s.registry)
		mount("registry", "/v2", http.RedirectHandler("/v2/", http.StatusMovedPermanently))
		mount("token", "/token", s.registry)
		mount("notices", "/hooks/registry/", s.gateway.Notices("/hooks/registry/"))
	}
	if of(config.RoleSigner, "fulcio", "/fulcio/", "/oidc/", "/tsa", "/tsa/") {
		below("fulcio", "/fulcio", s.ca.Handler())
		below("oidc", "/oidc", s.issuer.Handler())
		mount("tsa", "/tsa", http.StripPrefix("/tsa", s.tsa.Handler()))
		below("tsa", "/tsa", s.tsa.Handler())
	}
	if of(config.RoleLog, "rekor", "/rekor/", "/ct/") {
		below("rekor", "/rekor", s.leaderOnly(s.rekor))
		below("ct", "/ct", s.ct.Handler(s.readLog))
		if s.peers != nil {
			mount("internal", "/internal/v1/", s.peerHandler())
		}
	}
	if of(config.RoleAPI, "api", "/api/v1/", "/tuf/") {
		below("tuf", "/tuf", s.tuf.Handler())
		mount("api", "/api/v1/", s.api)
		mount("ui", "/ui/", s.ui)
		mount("api", "/v1/logs", http.HandlerFunc(s.api.ServeOTLP))
		for _, provider := range []string{forge.GitHub, forge.GitLab, forge.Gitea} {
			mount("forges", "/hooks/"+provider, s.forges.Hooks("/hooks/"))
		}
		mux.Handle("/download/", s.http.door("download", newDownloads().handler(), s.log, longDownload))
	}
	if s.operations == nil {
		// Metrics tell much of a site: off loopback they want a listener of
		// their own (server.operations).
		if loopback(s.main.Addr()) {
			mount("operations", "/metrics", s.operationsHandler())
		}
		mount("operations", "/healthz", s.operationsHandler())
		mount("operations", "/readyz", s.operationsHandler())
	}
	mount("other", "/", http.HandlerFunc(s.front))
	return mux
}

func loopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

// front answers the bare address: what this is, in one line.
func (s *Server) front(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	if toUI(r) && s.ui != nil {
		http.Redirect(w, r, "/ui/", http.StatusSeeOther)
		return
	}
	if r.URL.Path != "/" {
		http.Error(w, "no such page", http.StatusNotFound)
		return
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("Assay " + s.opts.Version + "\n\npages     /ui/\nregistry  /v2/\nAPI       /api/v1/openapi.json\nTUF       /tuf/\nprogram   /download/\nhealth    /healthz /readyz /metrics\n"))
}

// operationsHandler serves metrics and health. /healthz says that the process
// lives, /readyz that it can answer: the database reads and the log is open.
func (s *Server) operationsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.reg, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.check(r.Context()); err != nil {
			s.log.Warn("not ready", "error", err)
			http.Error(w, "not ready: see the server's log", http.StatusServiceUnavailable)
			return
		}
		answer := "ready\n"
		if s.split() {
			answer += "roles " + s.roleNames() + "\n"
		}
		_, _ = w.Write([]byte(answer))
	})
	return mux
}

// readLog lets those read entries of the log who may see identities; with
// tlog.public that is everybody.
func (s *Server) readLog(r *http.Request) error {
	if s.cfg.Tlog.Public {
		return nil
	}
	p := identity.FromContext(r.Context()) // the admin socket's owner, else anonymous
	if p.IsAnonymous() {
		var err error
		if p, err = s.api.Principal(r); err != nil {
			return err
		}
	}
	return s.access.Allow(r.Context(), p, identity.ActReadLog, identity.Resource{Kind: identity.ResourceLog})
}

func (s *Server) check(ctx context.Context) error {
	if !s.ready.Load() {
		return errNotReady
	}
	if err := s.db.View(ctx, pingTx); err != nil {
		return err
	}
	return s.checkBlobs(ctx)
}
