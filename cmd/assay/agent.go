package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/internal/fault"
	"assay/inventory/agent"
	"assay/inventory/threat"

	"github.com/spf13/cobra"
)

func (a *app) agentCommand() *cobra.Command {
	var o agent.Options
	var cluster, node, as string
	var containers map[string]string
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

It dials out and listens on nothing. What was seen is kept in --dir until the server
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
			x, err := agent.New(o)
			if err != nil {
				return err
			}
			return x.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&cluster, "cluster", "", "the cluster that this host is of, as the inventory names it")
	f.StringVar(&node, "node", "", "this host's name (default its own)")
	f.StringVar(&o.Dir, "dir", "", "folder for what the server does not have yet, mode 0700")
	f.DurationVar(&o.Interval, "interval", 2*time.Second, "how often /proc is looked through")
	f.BoolVar(&o.Sweep, "sweep", false, "look through /proc alone")
	f.StringVar(&o.Proc, "proc", "/proc", "where the host's /proc is")
	f.StringVar(&o.Run, "run", "/run", "where the host's /run is, for what container runtimes write there")
	f.StringToStringVar(&containers, "container", nil, "image of a container by the beginning of its ID, ID=DIGEST")
	f.StringVar(&as, "subject", "", "with --data: the local identity to report as")
	return cmd
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
