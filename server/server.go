// Package server wires Assay together: configuration in, listeners and workers
// out. Nothing but this package knows all the others.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"assay/api"
	"assay/authority"
	"assay/client"
	"assay/config"
	"assay/internal/clock"
	"assay/store"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Options are what the process gives a server besides its configuration.
type Options struct {
	Version string
	Clock   clock.Clock
	Logger  *slog.Logger
	// Local makes the identities of the embedded issuer publishers everywhere:
	// whoever can open the admin socket owns the data folder anyway. It is what
	// `assay up` does and `assay serve` does not.
	Local bool
	// Prompt asks for the passphrase of the keys on the terminal; nil when there
	// is none.
	Prompt func() ([]byte, error)
}

// Server is one running Assay. Make it with New, run it with Run.
type Server struct {
	cfg     config.Config
	opts    Options
	clock   clock.Clock
	log     *slog.Logger
	reg     *prometheus.Registry
	http    *httpMetrics
	started time.Time

	public string // the public URL
	data   *dataFolder
	db     *store.DB
	issuer *authority.Issuer
	api    *api.API
	parts
	telling telling

	main, admin, operations net.Listener
	tls                     *tls.Config // of the main listener; nil: none
	closers                 []closer    // in the order of opening
}

type closer struct {
	name  string
	close func() error
}

// onClose notes what Close undoes, in reverse order.
func (s *Server) onClose(name string, fn func() error) {
	s.closers = append(s.closers, closer{name, fn})
}

// New opens everything and listens, but serves nothing yet. On an error all
// that was opened is closed.
func New(ctx context.Context, cfg config.Config, o Options) (_ *Server, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, opts: o, clock: o.Clock, log: o.Logger, reg: prometheus.NewRegistry(), started: o.Clock().UTC()}
	s.http = newHTTPMetrics(s.reg)
	if s.http.proxies, err = cfg.Server.Proxies(); err != nil {
		return nil, err
	}
	s.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.openTelemetry(ctx); err != nil {
		return nil, err
	}
	s.http.telling = s.telling
	// What can be wrong with the doors is found out before anything is created.
	if t := cfg.Server.TLS; t.Certificate != "" {
		if s.tls, err = newTLS(t.Certificate, t.Key, s.log); err != nil {
			return nil, err
		}
	}
	if s.main, err = net.Listen("tcp", cfg.Server.Listen); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", cfg.Server.Listen, err)
	}
	s.onClose("listener", func() error { return ignoreClosed(s.main.Close()) })
	s.public = cfg.Server.PublicURL
	if s.public == "" {
		scheme := "http"
		if cfg.Server.TLS.Certificate != "" {
			scheme = "https"
		}
		s.public = scheme + "://" + s.main.Addr().String()
	}
	if s.data, err = openData(cfg.Data, s.public); err != nil {
		return nil, err
	}
	s.onClose("data folder", s.data.Close)
	if err := s.openPeers(); err != nil {
		return nil, err
	}
	if err := s.notLost(); err != nil {
		return nil, err
	}
	if err := s.open(s.traced(ctx)); err != nil {
		return nil, err
	}
	if s.data.held != "" {
		s.log.Warn("the logs take no entries", "reason", s.data.held)
	}
	if err := s.data.complete(); err != nil {
		return nil, err
	}
	if s.admin, err = listenAdmin(s.data.join("run", "admin.sock")); err != nil {
		return nil, err
	}
	s.onClose("admin socket", func() error { return ignoreClosed(s.admin.Close()) })
	if cfg.Server.Operations != "" {
		if s.operations, err = net.Listen("tcp", cfg.Server.Operations); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", cfg.Server.Operations, err)
		}
		s.onClose("operations listener", func() error { return ignoreClosed(s.operations.Close()) })
	}
	return s, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Close closes what New opened, last first.
func (s *Server) Close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		if err := s.closers[i].close(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", s.closers[i].name, err))
		}
	}
	s.closers = nil
	return errors.Join(errs...)
}

// Status says what the server is, for the ready line and the API.
func (s *Server) Status(ctx context.Context) client.Status {
	return s.status(ctx)
}

// Run serves until ctx ends, then lets requests finish within the grace, and
// closes everything. ready is called once all doors are open.
func (s *Server) Run(ctx context.Context, ready func(client.Status)) error {
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	workers := s.startWorkers(s.traced(work))
	servers := s.listenAll(ctx)
	if err := s.record(work, started); err != nil {
		s.log.Error("the start could not be recorded", "error", err)
	}
	s.ready.Store(true)
	s.log.Info("ready", "public_url", s.public, "version", s.opts.Version)
	if ready != nil {
		ready(s.Status(ctx))
	}
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-servers.failed:
	}
	s.ready.Store(false)
	s.log.Info("stopping", "grace", s.cfg.Server.ShutdownGrace.String())
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Server.ShutdownGrace)
	defer cancel()
	err := servers.shutdown(grace)
	if rerr := s.record(work, stopped); rerr != nil {
		s.log.Warn("the stop could not be recorded", "error", rerr)
	}
	s.finish(grace)
	stopWork()
	workers.Wait()
	return errors.Join(failed, err, s.Close())
}

// listeners are the HTTP servers of one run.
type listeners struct {
	servers []*http.Server
	failed  chan error
}

func (l *listeners) serve(srv *http.Server, serve func() error) {
	l.servers = append(l.servers, srv)
	go func() {
		if err := serve(); err != nil && !errors.Is(err, http.ErrServerClosed) {
			l.failed <- err
		}
	}()
}

func (l *listeners) shutdown(ctx context.Context) error {
	var errs []error
	for _, srv := range l.servers {
		if err := srv.Shutdown(ctx); err != nil {
			errs = append(errs, fmt.Errorf("requests were still under way: %w", err), srv.Close())
		}
	}
	return errors.Join(errs...)
}

func (s *Server) listenAll(ctx context.Context) *listeners {
	l := &listeners{failed: make(chan error, 3)}
	// A request is not cut off by the signal that ends the server: it has the
	// grace of shutdown.
	serve := func(on net.Listener, h http.Handler, tlsConfig *tls.Config) {
		srv := &http.Server{
			Handler: h, TLSConfig: tlsConfig, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
			BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
			ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, peerKey{}, c) },
			// What is slow to ask, or silent, gives its place free.
			ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		}
		l.serve(srv, func() error {
			if tlsConfig != nil {
				return srv.ServeTLS(on, "", "")
			}
			return srv.Serve(on)
		})
	}
	serve(s.main, s.routes(), s.tls)
	serve(s.admin, s.adminHandler(), nil)
	if s.operations != nil {
		serve(s.operations, s.operationsHandler(), nil)
	}
	if s.admission.listener != nil {
		serve(s.admission.listener, s.http.door("admission", s.admission.handler, s.log, admissionRequest), s.admission.authority.TLS())
	}
	return l
}
