package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"assay/client"
	"assay/internal/kube"
	"assay/inventory"
	"assay/inventory/cluster"

	"github.com/spf13/cobra"
)

func (a *app) clusterCommand() *cobra.Command {
	return group("cluster", "Kubernetes clusters: what runs there, and whether it may",
		a.clusterWatchCommand(), a.clusterStatusCommand(), a.clusterListCommand(), a.clusterAddCommand())
}

func (a *app) clusterWatchCommand() *cobra.Command {
	var kubeconfig, kubeContext, name, environment, as string
	var mesh cluster.MeshOptions
	cmd := &cobra.Command{
		Use:   "watch --cluster NAME",
		Short: "Follow a cluster's Pods and tell the server what runs",
		Long: `Follow the Pods of a cluster, by a list and a watch, and tell the server what
begins and ends to run; and whether the webhooks and policies that "assay admission
manifests" writes are in place; and the workloads' SPIFFE identities and their
meshes' mutual TLS (SPIRE, Istio, Linkerd). It dials out and listens on nothing, so that it can
run in a cluster that nobody reaches.

Without --kubeconfig it is the service account of the Pod that it runs in. It needs
the action deploy (role deployer) on clusters/NAME at the server, and at the cluster
the rights of ClusterRole assay-reader. It runs until it is stopped.`,
		Example: `  assay cluster watch --data ./data --cluster prod-eu --kubeconfig ~/.kube/config
  assay cluster watch --server https://assay.example --cluster prod-eu --environment production`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name == "" {
				return usagef("want --cluster NAME, as policies name the cluster")
			}
			k, err := kube.InCluster()
			if kubeconfig != "" {
				k, err = kube.FromFile(kubeconfig, kubeContext)
			}
			if err != nil {
				return err
			}
			api := func(ctx context.Context) (*client.Client, error) { // tokens end, so each time anew
				s, err := a.connect(ctx, as, "", true)
				if err != nil {
					return nil, err
				}
				return s.api(), nil
			}
			if _, err := api(cmd.Context()); err != nil {
				return err
			}
			return a.watchCluster(cmd.Context(), k, name, environment, mesh, api)
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "cluster", "", "the cluster's name in policies and in the inventory")
	f.StringVar(&environment, "environment", "", "the cluster's environment; the catalogue's word goes before")
	f.StringVar(&kubeconfig, "kubeconfig", "", "file of a user who may list and watch Pods (default the Pod's own service account)")
	f.StringVar(&kubeContext, "context", "", "one of the file's contexts (default its current one)")
	f.StringVar(&mesh.TrustDomain, "trust-domain", "", "trust domain of SPIRE and of the mesh (default Istio's, as its configuration says)")
	f.StringVar(&mesh.RootNamespace, "mesh-root-namespace", "", "Istio's root namespace (default as its configuration says)")
	f.StringVar(&as, "subject", "", "with --data: the local identity to report as")
	return cmd
}

const (
	guardsEvery  = 5 * time.Second
	clusterPause = 2 * time.Second // after a cluster or a server that does not answer
)

func (a *app) watchCluster(ctx context.Context, k *kube.Client, name, environment string, mesh cluster.MeshOptions, api func(context.Context) (*client.Client, error)) error {
	log := slog.New(slog.NewTextHandler(a.stderr, nil))
	f, err := cluster.NewFollower(cluster.Options{
		Client: k, Cluster: name, Environment: environment, Reporter: "agent", Logger: log, Mesh: mesh,
		Report: func(ctx context.Context, s inventory.Snapshot) error {
			c, err := api(ctx)
			if err != nil {
				return err
			}
			done, err := c.ReportWorkloads(ctx, wireSnapshot(&s))
			if err == nil && done.Started+done.Stopped > 0 {
				log.Info("told", "cluster", name, "began", done.Started, "ended", done.Stopped, "go_on", done.Kept)
			}
			return err
		},
	})
	if err != nil {
		return err
	}
	go func() {
		for ctx.Err() == nil {
			if err := tellGuards(ctx, k, name, api); err != nil && ctx.Err() == nil {
				log.Warn("what guards the cluster could not be told", "cluster", name, "error", err)
			}
			pause(ctx, guardsEvery)
		}
	}()
	log.Info("following", "cluster", name, "at", k.Server())
	for ctx.Err() == nil {
		if err := f.Run(ctx); err != nil && ctx.Err() == nil {
			log.Warn("the cluster could not be followed, and is tried again", "cluster", name, "error", err)
			pause(ctx, clusterPause)
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func tellGuards(ctx context.Context, k *kube.Client, name string, api func(context.Context) (*client.Client, error)) error {
	list, err := cluster.Guards(ctx, k)
	if err != nil {
		return err
	}
	r := client.GuardReport{Cluster: name, Guards: []client.ClusterGuard{}}
	for _, g := range list {
		r.Guards = append(r.Guards, client.ClusterGuard(g))
	}
	c, err := api(ctx)
	if err != nil {
		return err
	}
	return c.ReportGuards(ctx, r)
}

func wireSnapshot(s *inventory.Snapshot) client.WorkloadReport {
	r := client.WorkloadReport{Cluster: s.Cluster, Environment: s.Environment, Complete: s.Complete}
	wire := func(k inventory.Key) client.ReportedWorkload {
		return client.ReportedWorkload{Namespace: k.Namespace, Kind: k.Kind, Name: k.Name, Instance: k.Instance, Container: k.Container}
	}
	for _, w := range s.Workloads {
		x := wire(w.Key)
		x.Image, x.Digest, x.Node = w.Image, w.Digest, w.Node
		r.Workloads = append(r.Workloads, x)
	}
	for _, k := range s.Ended {
		r.Ended = append(r.Ended, wire(k))
	}
	for _, i := range s.Identities {
		r.Identities = append(r.Identities, client.ReportedIdentity{Namespace: i.Namespace, Kind: i.Kind, Name: i.Name, SPIFFEIDs: i.SPIFFEIDs, Source: string(i.Source), Mesh: i.Mesh, MTLS: string(i.MTLS)})
	}
	return r
}

func (a *app) clusterStatusCommand() *cobra.Command {
	var name, state, as string
	cmd := &cobra.Command{
		Use:   "status [--cluster NAME] [--state STATE]",
		Short: "Images that run, and whether they may",
		Long: `List the images that run, by cluster and namespace, with what the last round found:
allowed, denied, drifted (another digest runs than the one that was pinned) or
unknown, and the cause. Ends with 1 when one is denied or drifted, with 2 when the worst is that
one is unknown.`,
		Example: `  assay cluster status --data ./data
  assay cluster status --cluster prod-eu --state denied -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			list := &client.List[client.RunningImage]{Items: []client.RunningImage{}}
			for after := ""; ; {
				page, err := s.api().RunningImages(cmd.Context(), name, state, after, 0)
				if err != nil {
					return err
				}
				list.Items = append(list.Items, page.Items...)
				if after = page.Next; after == "" {
					break
				}
			}
			if err := a.print(list, func(w io.Writer) {
				for _, x := range list.Items {
					fmt.Fprintf(w, "%-8s %s %s %s\n", x.State, line(x.Cluster+"/"+x.Namespace), line(x.Image), line(strings.TrimPrefix(x.Digest, "sha256:")[:min(12, len(strings.TrimPrefix(x.Digest, "sha256:")))]))
					if x.Reason != "" {
						fmt.Fprintf(w, "         %s: %s\n", line(x.Cause), line(x.Reason))
					}
				}
			}); err != nil {
				return err
			}
			worst := 0
			for _, x := range list.Items {
				switch {
				case x.State == "denied" || x.State == "drifted":
					worst = 1
				case x.State == "unknown" && worst == 0:
					worst = 2
				}
			}
			if worst > 0 {
				return &exitError{worst}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "cluster", "", "of this cluster alone")
	f.StringVar(&state, "state", "", "allowed, denied, drifted or unknown")
	f.StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	complete(cmd, "state", "allowed", "denied", "drifted", "unknown")
	return cmd
}

func (a *app) clusterAddCommand() *cobra.Command {
	var image, url, environment, namespace string
	cmd := &cobra.Command{
		Use:   "add NAME --image IMAGE --url URL",
		Short: "Write the manifest of an agent that tells what runs in a cluster",
		Long: `Write one manifest: a namespace, a service account that may list and watch Pods,
and a Deployment of "assay cluster watch", which dials out to the server. The robot
token that it logs in with is read from Secret assay-agent, member assay-api:

  assay robot create agent-NAME --allow deployer=clusters/NAME --audience assay-api --expires 90d

It is not written into the manifest, which is kept in places where tokens must not be.`,
		Example: `  assay cluster add prod-eu --image registry.example/assay/assay@sha256:… --url https://assay.example | kubectl apply -f -
  assay robot create agent-prod-eu --allow deployer=clusters/prod-eu --audience assay-api --expires 90d |
    kubectl create secret generic assay-agent -n assay-agent --from-file=assay-api=/dev/stdin`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := cluster.AgentManifest(cluster.Agent{Cluster: args[0], Image: image, URL: url, Environment: environment, Namespace: namespace})
			if err != nil {
				return err
			}
			_, err = io.WriteString(a.stdout, text)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&image, "image", "", "the image of Assay, best by its digest")
	f.StringVar(&url, "url", "", "the server's address as the cluster reaches it, https://HOST")
	f.StringVar(&environment, "environment", "", "the cluster's environment")
	f.StringVar(&namespace, "namespace", "assay-agent", "where the agent runs")
	return cmd
}
