package main

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"assay/admission"
	"assay/client"
	"assay/config"
	"assay/event"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/keyring"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
)

// replica is one webhook as a process of its own.
type replica struct {
	c         config.Admission
	dir       string
	authority string // file: what bundles are signed under
	as        string
	seed      string // folder with the authority of the cluster's webhooks
}

func (a *app) admissionServeCommand() *cobra.Command {
	var r replica
	cmd := &cobra.Command{
		Use:   "serve --cluster NAME --listen ADDR --dir DIR --authority FILE",
		Short: "Run the webhook as a process of its own",
		Long: `Answer a cluster's API servers, and ask the server what may run. Several replicas
may run side by side, each near its cluster.

While the server does not answer, what was decided goes on being decided: from the
last bundle, which the server signs and which is fetched every 10 s. Its allows hold
until they end; what is not in it, and tags, are refused with the reason. --authority
is the certificate that bundles are signed under: ca/admission.pem of the server's
data folder. A bundle that is older than one that was seen is refused.

--dir keeps the last bundle, and the authority of this webhook's own certificates,
which replicas of a cluster share: ca.pem, for "assay admission manifests --ca", and
its key. /healthz and /readyz are on the same listener, and /metrics.

It needs the role deployer on clusters/NAME at the server.`,
		Example: `  assay admission serve --server https://assay.example --cluster prod-eu --environment production \
    --listen :8443 --name assay.assay-system.svc --never assay-system --dir /var/lib/assay-admission --authority server-admission.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.c.Listen == "" || r.dir == "" || r.authority == "" || r.c.Cluster == "" {
				return usagef("want --cluster, --listen, --dir and --authority")
			}
			return a.serveReplica(cmd.Context(), &r)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.c.Listen, "listen", "", "address to listen on, HOST:PORT")
	f.StringSliceVar(&r.c.Names, "name", nil, "names under which API servers call it, besides the listener's address")
	f.StringVar(&r.c.Cluster, "cluster", "", "the cluster's name in policies and decisions")
	f.StringVar(&r.c.Environment, "environment", "", "the cluster's environment")
	f.StringToStringVar(&r.c.Environments, "environments", nil, "environments of namespaces where they are others, PATTERN=ENVIRONMENT")
	f.StringSliceVar(&r.c.Never, "never", nil, "namespaces in which nothing is refused, besides kube-system")
	f.BoolVar(&r.c.Audit, "audit", false, "refuse nothing: decide, record and warn")
	f.BoolVar(&r.c.NoPin, "no-pin", false, "leave tags in Pods as they are")
	f.BoolVar(&r.c.NoTelemetry, "no-telemetry", false, "leave OTEL_RESOURCE_ATTRIBUTES as it is")
	f.StringVar(&r.c.GatekeeperCA, "gatekeeper-ca", "", "answer Gatekeeper too, which shows a certificate that this authority signed, PEM")
	f.StringVar(&r.dir, "dir", "", "folder for the authority and the last bundle, mode 0700")
	f.StringVar(&r.seed, "seed", "", "where --dir has no authority yet, take it from this folder, as \"assay admission authority\" makes it (a mounted Secret)")
	f.StringVar(&r.authority, "authority", "", "certificate that the server's bundles are signed under, PEM")
	f.StringVar(&r.as, "subject", "", "with --data: the local identity to ask as")
	return cmd
}

// admissionAPI is admission.Server by the API. The server need not answer when
// the webhook starts: it is reached when it does.
type admissionAPI struct {
	cluster string
	connect func(ctx context.Context) (*client.Client, error)

	mu  sync.Mutex
	api *client.Client
}

func (s *admissionAPI) reach(ctx context.Context) (*client.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.api == nil {
		c, err := s.connect(ctx)
		if err != nil {
			return nil, err
		}
		s.api = c
	}
	return s.api, nil
}

func (s *admissionAPI) Judge(ctx context.Context, q admission.Question) (*admission.Reply, error) {
	c, err := s.reach(ctx)
	if err != nil {
		return nil, err
	}
	var r admission.Reply
	return &r, c.JudgeAdmission(ctx, client.AdmissionQuestion{
		Reference: q.Reference.String(), Cluster: q.Place.Cluster, Namespace: q.Place.Namespace, Environment: q.Place.Environment, Standing: q.Standing, ServiceAccount: q.Pull.ServiceAccount, PullSecrets: q.Pull.Secrets,
	}, &r)
}

func (s *admissionAPI) Bundle(ctx context.Context, version int64) ([]byte, error) {
	c, err := s.reach(ctx)
	if err != nil {
		return nil, err
	}
	raw, err := c.AdmissionBundle(ctx, s.cluster, version)
	if len(raw) == 0 {
		raw = nil
	}
	return raw, err
}

func (s *admissionAPI) Record(ctx context.Context, list []event.Event) error {
	r := client.AdmissionRecords{Cluster: s.cluster}
	for _, e := range list {
		b, err := json.Marshal(e.Body)
		if err != nil {
			return err
		}
		r.Records = append(r.Records, client.AdmissionRecord{Kind: string(e.Kind), Digest: string(e.Digest), Actor: e.Actor, Environment: e.Env, Body: b})
	}
	c, err := s.reach(ctx)
	if err != nil {
		return err
	}
	return c.RecordAdmission(ctx, r)
}

// replicaMemory is what the collector keeps a webhook of its own below where it can:
// 100,000 decisions take some 15 MB, three times that while newer ones come.
const replicaMemory = 64 << 20

func (a *app) serveReplica(ctx context.Context, r *replica) error {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(replicaMemory)
	}
	log := slog.New(slog.NewJSONHandler(a.stderr, nil))
	if err := durable.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	if r.seed != "" {
		if err := plantAuthority(r.seed, r.dir); err != nil {
			return err
		}
	}
	pem, err := os.ReadFile(r.authority)
	if err != nil {
		return usagef("--authority: %w", err)
	}
	if a.server == "" && a.data == "" {
		return usagef("no server: give --server URL (ASSAY_SERVER), or --data DIR of a local one (ASSAY_DATA)")
	}
	api := &admissionAPI{cluster: r.c.Cluster, connect: func(ctx context.Context) (*client.Client, error) {
		s, err := a.connect(ctx, r.as, "", true)
		if err != nil {
			return nil, err
		}
		return s.api(), nil
	}}
	kept := filepath.Join(r.dir, "bundle")
	remote, err := admission.NewRemote(admission.RemoteOptions{
		Server: api, Authority: pem, Cluster: r.c.Cluster, Logger: log,
		Load: func() ([]byte, error) {
			b, err := os.ReadFile(kept)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil
			}
			return b, err
		},
		Save: func(b []byte) error { return durable.WriteFile(kept, b, 0o600) },
	})
	if err != nil {
		return err
	}
	key, err := authorityKey(ctx, r.dir)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", r.c.Listen)
	if err != nil {
		return fault.Newf(fault.Invalid, "listen: %w", err)
	}
	defer l.Close()
	names := r.c.Names
	if host, _, err := net.SplitHostPort(l.Addr().String()); err == nil && !net.ParseIP(host).IsUnspecified() {
		names = append(names, host)
	}
	ca, err := admission.OpenAuthority(filepath.Join(r.dir, "ca.pem"), key, names, nil)
	if err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	hook, err := admission.NewWebhook(admission.Options{
		Judge: remote, Record: remote, Cluster: r.c.Cluster, Environment: r.c.EnvironmentOf, Never: append([]string{"kube-system"}, r.c.Never...),
		Audit: r.c.Audit, NoPin: r.c.NoPin, NoTelemetry: r.c.NoTelemetry, Logger: log, Registerer: reg,
	})
	if err != nil {
		return err
	}
	handler := http.Handler(hook)
	if r.c.GatekeeperCA != "" {
		callers, err := admission.OpenClientCA(r.c.GatekeeperCA, nil)
		if err != nil {
			return err
		}
		handler = admission.NewGatekeeper(hook, callers).With(hook)
	}
	return a.replicaDoors(ctx, l, ca, handler, remote, reg, log)
}

// authorityKey is the key of the webhook's own authority, in DIR/keys.
func authorityKey(ctx context.Context, dir string) (crypto.Signer, error) {
	keys, err := keyring.OpenFolder(ctx, keyring.Options{Dir: filepath.Join(dir, "keys"), Index: filepath.Join(dir, "keys.json")})
	if err != nil {
		return nil, err
	}
	return keys.LoadOrCreate(ctx, "admission")
}

func (a *app) replicaDoors(ctx context.Context, l net.Listener, ca *admission.Authority, hook http.Handler, remote *admission.Remote, reg *prometheus.Registry, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("/", hook)
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := remote.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ready\n"))
	})
	srv := &http.Server{
		Handler: mux, TLSConfig: ca.TLS(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	done, failed := make(chan struct{}), make(chan error, 1)
	go func() { remote.Run(ctx); close(done) }()
	go func() { failed <- srv.ServeTLS(l, "", "") }()
	log.Info("ready", "listen", l.Addr().String())
	if strings.EqualFold(a.output, "json") {
		a.printf("{\"ready\": true, \"listen\": %q}\n", l.Addr().String())
	}
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = srv.Shutdown(grace)
		<-done
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
