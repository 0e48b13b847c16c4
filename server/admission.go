package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"assay/admission"
	"assay/artifact"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/policy"
	"assay/registry/gate"
	"assay/store"

	"github.com/prometheus/client_golang/prometheus"
)

// admissionDoor is the webhook for API servers; empty without a listener.
type admissionDoor struct {
	listener  net.Listener
	authority *admission.Authority
	webhook   *admission.Webhook
	handler   http.Handler // the webhook, and Gatekeeper's door where there is one
	judge     *admission.Local
	images    *admissionImages
	rounds    *admission.Rounds
	connected *prometheus.GaugeVec
	events    *admission.Events
}

const (
	keyAdmission     = "admission"
	admissionRequest = 10 * time.Second
)

// openAdmission opens the webhook, where the configuration has a listener for it.
func (s *Server) openAdmission(ctx context.Context, keys *keyring.Folder) (err error) {
	d, c := &s.admission, &s.cfg.Admission
	d.images = &admissionImages{s: s, parts: map[artifact.Digest][]artifact.Digest{}}
	others, err := s.externalImages()
	if err != nil {
		return err
	}
	d.judge = admission.NewLocal(admission.LocalOptions{
		Engine: s.engine, Registry: d.images, Policies: func() *policy.Set { return s.desired.Load().Policies }, Placed: s.placed, Standing: s.standing,
		Host: s.host, Hosts: c.Hosts, External: others, Clock: s.clock,
	})
	if err := s.openRounds(); err != nil {
		return err
	}
	if c.Listen == "" {
		return nil
	}
	key, err := keys.LoadOrCreate(ctx, keyAdmission)
	if err != nil {
		return err
	}
	if d.listener, err = net.Listen("tcp", c.Listen); err != nil {
		return fmt.Errorf("admission: listen on %s: %w", c.Listen, err)
	}
	s.onClose("admission listener", func() error { return ignoreClosed(d.listener.Close()) })
	names := slices.Clone(c.Names)
	if host, _, err := net.SplitHostPort(d.listener.Addr().String()); err == nil && !net.ParseIP(host).IsUnspecified() {
		names = append(names, host)
	}
	if len(names) == 0 {
		return fault.Newf(fault.Invalid, "admission.listen %s is of all addresses: set admission.names to those under which the API servers call it, such as assay.assay-system.svc", c.Listen)
	}
	if d.authority, err = admission.OpenAuthority(s.data.join("ca", "admission.pem"), key, names, s.clock); err != nil {
		return err
	}
	d.events = admission.NewEvents(s.db, s.log)
	s.onClose("events of admission", d.events.Close)
	d.webhook, err = admission.NewWebhook(admission.Options{
		Judge: d.judge, Running: running{s}, Record: d.events, Cluster: c.Cluster, Environment: c.EnvironmentOf, Never: append([]string{"kube-system"}, c.Never...),
		Audit: c.Audit, NoPin: c.NoPin, NoTelemetry: c.NoTelemetry, Clock: s.clock, Logger: s.log.With("service", "admission"), Registerer: s.reg,
	})
	if err != nil {
		return err
	}
	d.handler = d.webhook
	if c.GatekeeperCA != "" {
		callers, err := admission.OpenClientCA(c.GatekeeperCA, s.clock)
		if err != nil {
			return fmt.Errorf("admission.gatekeeper_ca: %w", err)
		}
		d.handler = admission.NewGatekeeper(d.webhook, callers).With(d.webhook)
	}
	return nil
}

// admissionImages answers what admission asks about images.
type admissionImages struct {
	s *Server

	mu    sync.Mutex
	parts map[artifact.Digest][]artifact.Digest // of indexes; never changes, since a digest is its content
}

const maxPartsKept = 50_000

func (a *admissionImages) Resolve(ctx context.Context, repository, reference string) (artifact.Digest, string, error) {
	d, err := a.s.registry.Resolve(ctx, identity.System("admission"), repository, reference)
	return d.Digest, d.MediaType, err
}

func (a *admissionImages) Blocked(ctx context.Context, d artifact.Digest) (string, error) {
	parts, err := a.partsOf(ctx, d)
	if err != nil {
		return "", err
	}
	return a.s.gate.BlockedText(ctx, d, parts)
}

// partsOf lists the manifests of an index.
func (a *admissionImages) partsOf(ctx context.Context, d artifact.Digest) (parts []artifact.Digest, err error) {
	a.mu.Lock()
	parts, have := a.parts[d]
	a.mu.Unlock()
	if have {
		return parts, nil
	}
	if err := a.s.db.View(ctx, func(tx *store.Tx) (err error) { parts, err = gate.Parts(ctx, tx, d); return err }); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.parts) >= maxPartsKept {
		clear(a.parts)
	}
	a.parts[d] = parts
	return parts, nil
}

func (a *admissionImages) Wholes(ctx context.Context, repository string, d artifact.Digest) ([]artifact.Digest, error) {
	return a.s.gate.Wholes(ctx, repository, d)
}
