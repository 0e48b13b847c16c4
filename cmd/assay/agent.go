package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/internal/fault"
	"assay/inventory/agent"
	"assay/inventory/threat"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
)

func (a *app) agentCommand() *cobra.Command {
	var o agent.Options
	var cluster, node, as, metrics string
	var containers map[string]string
	var once bool
	cmd := &cobra.Command{
		Use:   "agent --cluster NAME --dir DIR",
		Short: "Watch what is executed in this host's containers, and tell what their images do not hold",
		Long: `Hash each program that is executed in a container of this host, and compare it with
the files of the container's image, which the server reads from its registry. What
the image does not hold (foreign), or not with this content (changed), is told to the
server, which writes an event and alerts. What cannot be compared is unknown.

The kernel tells of executions (fanotify; it needs CAP_SYS_ADMIN and CAP_SYS_PTRACE
in the host's PID namespace); and /proc is looked through every --interval, which is
all there is where fanotify is not permitted: short programs are not seen then.

With --once it looks one time and ends: with 1 when an image does not hold what runs,
with 2 when the worst is that something cannot be told.

It dials out, and listens on nothing but --metrics. What was seen is kept in --dir until the server
has it. It needs the action observe (role agent) on clusters/NAME at the server.`,
		Example: `  assay agent --server https://assay.example --cluster prod-eu --dir /var/lib/assay-agent
  assay agent --data ./data --cluster edge --dir ./agent --container 4f0c1e=sha256:…`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cluster == "" || o.Dir == "" {
				return usagef("want --cluster NAME and --dir DIR")
			}
			if node == "" {
				name, err := os.Hostname()
				if err != nil {
					return err
				}
				node = name
			}
			o.Containers = map[string]artifact.Digest{}
			for id, text := range containers {
				d, err := artifact.ParseDigest(text)
				if err != nil {
					return usagef("--container %s: %v", id, err)
				}
				o.Containers[id] = d
			}
			o.Logger = slog.New(slog.NewTextHandler(a.stderr, nil))
			o.Server = &agentServer{cluster: cluster, node: node, connect: func(ctx context.Context) (*client.Client, error) { // tokens end, so each time anew
				s, err := a.connect(ctx, as, "", true)
				if err != nil {
					return nil, err
				}
				return s.api(), nil
			}}
			reg := prometheus.NewRegistry()
			o.Registerer = reg
			x, err := agent.New(o)
			if err != nil {
				return err
			}
			stop, err := serveMetrics(cmd.Context(), metrics, reg, o.Logger)
			if err != nil {
				return err
			}
			defer stop()
			if once {
				return a.agentOnce(cmd.Context(), x)
			}
			return x.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&cluster, "cluster", "", "the cluster that this host is of, as the inventory names it")
	f.StringVar(&node, "node", "", "this host's name (default its own)")
	f.StringVar(&o.Dir, "dir", "", "folder for what the server does not have yet, mode 0700")
	f.DurationVar(&o.Interval, "interval", 2*time.Second, "how often /proc is looked through")
	f.BoolVar(&once, "once", false, "look through /proc one time, tell what was seen, and end")
	f.BoolVar(&o.Sweep, "sweep", false, "look through /proc alone")
	f.StringVar(&o.Proc, "proc", "/proc", "where the host's /proc is")
	f.StringVar(&o.Run, "run", "/run", "where the host's /run is, for what container runtimes write there")
	f.StringToStringVar(&containers, "container", nil, "image of a container by the beginning of its ID, ID=DIGEST")
	f.StringVar(&as, "subject", "", "with --data: the local identity to report as")
	f.StringVar(&metrics, "metrics", "", "address for /metrics, HOST:PORT (default none: it listens on nothing)")
	cmd.AddCommand(a.agentManifestCommand())
	return cmd
}

func (a *app) agentOnce(ctx context.Context, x *agent.Agent) error {
	s, err := x.Once(ctx)
	if err != nil {
		return err
	}
	out := struct {
		Image   int `json:"image"`   // programs that the images hold
		Foreign int `json:"foreign"` // that they do not, or not with this content
		Unknown int `json:"unknown"`
	}(s)
	if err := a.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "%d programs of their images, %d not, %d cannot be told\n", s.Image, s.Foreign, s.Unknown)
	}); err != nil {
		return err
	}
	switch {
	case s.Foreign > 0:
		return &exitError{1}
	case s.Unknown > 0:
		return &exitError{2}
	}
	return nil
}

func (a *app) agentManifestCommand() *cobra.Command {
	m := agent.Manifest{}
	cmd := &cobra.Command{
		Use:   "manifest --cluster NAME --image IMAGE --url URL",
		Short: "Write a DaemonSet of agents, one on each node of a cluster",
		Long: `Write a namespace, a service account without rights, and a DaemonSet of "assay agent".
It is not privileged: it has the host's PID namespace and the capabilities SYS_ADMIN
(fanotify), SYS_PTRACE and DAC_READ_SEARCH, and mounts the runtime's folder read-only.
The manifest says what each is for.

The robot token that it logs in with is read from Secret assay-host-agent, member
assay-api; it is not written into the manifest, which is kept in places where tokens
must not be.`,
		Example: `  assay agent manifest --cluster prod-eu --image registry.example/assay/assay@sha256:… --url https://assay.example | kubectl apply -f -
  assay robot create hosts-prod-eu --allow agent=clusters/prod-eu --audience assay-api --expires 90d |
    kubectl create secret generic assay-host-agent -n assay-agent --from-file=assay-api=/dev/stdin`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			text, err := m.Write()
			if err != nil {
				return err
			}
			_, err = io.WriteString(a.stdout, text)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&m.Cluster, "cluster", "", "the cluster, as the inventory names it")
	f.StringVar(&m.Image, "image", "", "the image of Assay, best by its digest")
	f.StringVar(&m.URL, "url", "", "the server's address as the nodes reach it, https://HOST")
	f.StringVar(&m.Namespace, "namespace", "assay-agent", "where the agents run")
	f.StringVar(&m.Runtime, "runtime", "containerd", "container runtime of the nodes: "+strings.Join(agent.Runtimes(), ", "))
	f.IntVar(&m.Metrics, "metrics-port", 0, "port of /metrics on each Pod's address (default none)")
	complete(cmd, "runtime", agent.Runtimes()...)
	return cmd
}

// serveMetrics answers /metrics at an address; without one it listens on nothing.
func serveMetrics(ctx context.Context, at string, reg *prometheus.Registry, log *slog.Logger) (stop func(), err error) {
	if at == "" {
		return func() {}, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "listen for /metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	log.Info("metrics", "at", "http://"+l.Addr().String()+"/metrics")
	go func() { _ = srv.Serve(l) }()
	return func() { _ = srv.Close() }, nil
}

type agentServer struct {
	cluster, node string
	connect       func(context.Context) (*client.Client, error)
}

func (s *agentServer) reach(ctx context.Context) (*client.Client, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "%w", errors.New(err.Error())) // whatever it is, it is tried again
	}
	return c, nil
}

func (s *agentServer) Files(ctx context.Context, c *agent.Container) (artifact.Digest, threat.Files, error) {
	api, err := s.reach(ctx)
	if err != nil {
		return "", nil, err
	}
	got, err := api.ImageFiles(ctx, client.ImageFilesQuery{Cluster: s.cluster, Namespace: c.Namespace, Pod: c.Pod, Container: c.Name, Digest: c.Digest})
	if err != nil {
		return "", nil, err
	}
	return got.Digest, got.Files, nil
}

func (s *agentServer) Tell(ctx context.Context, f *agent.Finding) error {
	api, err := s.reach(ctx)
	if err != nil {
		return err
	}
	c := &f.Container
	_, err = api.ReportRuntime(ctx, client.RuntimeReport{Cluster: s.cluster, Node: s.node, Executions: []client.RuntimeExecution{{
		Rule: f.Rule, Time: f.Time, Namespace: c.Namespace, Pod: c.Pod, Container: c.Name, ContainerID: c.ID, Image: c.Image, Digest: c.Digest,
		Process: f.Process, Path: f.Path, File: f.File, Message: f.Message,
	}}})
	return err
}
