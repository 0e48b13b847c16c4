package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/config"
	"assay/internal/fault"
	"assay/internal/strictjson"

	"github.com/spf13/cobra"
)

// inventoryApplyCommand is assay apply for one kind alone, so that a file of
// services cannot bring a grant along.
func (a *app) inventoryApplyCommand() *cobra.Command {
	var dryRun, prune bool
	cmd := &cobra.Command{
		Use:   "apply FILE…",
		Short: "Bring the catalogue of services to what files say",
		Long: `Apply reads documents of kind Services, shows how the server's catalogue differs,
and changes it: all or none, without a restart. What runs is assigned anew.

With --dry-run nothing changes, and the exit code is 1 when something would.`,
		Example: "  assay inventory apply services.yaml\n  assay inventory apply services.yaml --dry-run",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			docs, err := a.readAll(args)
			if err != nil {
				return err
			}
			parsed, err := config.ParseDocuments(docs)
			if err != nil {
				return err
			}
			for _, d := range parsed {
				if d.Kind != config.KindServices {
					return fault.Newf(fault.Invalid, "%s/%s is no document of kind %s; assay apply takes all kinds", d.Kind, d.Name, config.KindServices)
				}
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			answer, err := s.api().Apply(cmd.Context(), docs, dryRun, prune)
			if err != nil {
				return err
			}
			changes := false
			if err := a.print(answer, func(w io.Writer) {
				for _, c := range answer.Changes {
					if c.Kind == config.KindServices {
						fmt.Fprintf(w, "%s\t%s/%s\n%s", line(c.Action), line(strings.ToLower(c.Kind)), line(c.Name), clean(c.Diff))
					}
				}
			}); err != nil {
				return err
			}
			for _, c := range answer.Changes {
				changes = changes || c.Action != "unchanged" && c.Action != "unmanaged"
			}
			if dryRun && changes {
				return &exitError{1}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would change, change nothing")
	cmd.Flags().BoolVar(&prune, "prune", false, "delete catalogues that the server has and the files do not")
	return cmd
}

func (a *app) inventoryServicesCommand() *cobra.Command {
	var as string
	list := &cobra.Command{
		Use:     "list",
		Short:   "List services: how much hangs on each, and whose it is",
		Example: "  assay inventory services list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			got, err := s.api().Services(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) {
				if len(got.Items) == 0 {
					fmt.Fprintln(w, "no services are known; assay inventory apply services.yaml")
					return
				}
				fmt.Fprintln(w, "SERVICE\tTIER\tTEAM\tENVIRONMENT\tEXPOSURE\tRUNNING")
				for _, v := range got.Items {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\n", line(v.Name), tierText(v), dash(v.Team), dash(v.Environment), line(v.Exposure), v.Running)
				}
			})
		},
	}
	show := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show one service",
		Example: "  assay inventory services show checkout",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			v, err := s.api().Service(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) { showService(w, v) })
		},
	}
	c := &cobra.Command{Use: "services", Short: "The site's services", Example: "  assay inventory services list\n  assay inventory services show checkout"}
	for _, sub := range []*cobra.Command{list, show} {
		sub.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
		c.AddCommand(sub)
	}
	return c
}

func tierText(v client.Service) string {
	if !v.Classified {
		return fmt.Sprintf("%d (not classified)", v.Tier)
	}
	return fmt.Sprint(v.Tier)
}

func showService(w io.Writer, v *client.Service) {
	fmt.Fprintf(w, "service\t%s\ntier\t%s\nteam\t%s\nenvironment\t%s\nexposure\t%s\nrunning\t%d\n", line(v.Name), tierText(*v), dash(v.Team), dash(v.Environment), line(v.Exposure), v.Running)
	if v.Description != "" {
		fmt.Fprintf(w, "description\t%s\n", line(v.Description))
	}
	for _, c := range v.Contacts {
		fmt.Fprintf(w, "contact\t%s\n", line(c))
	}
	for _, k := range slices.Sorted(maps.Keys(v.Routes)) {
		fmt.Fprintf(w, "route\t%s: %s\n", line(k), line(v.Routes[k]))
	}
	for _, k := range slices.Sorted(maps.Keys(v.Labels)) {
		fmt.Fprintf(w, "label\t%s: %s\n", line(k), line(v.Labels[k]))
	}
	for _, r := range v.Repositories {
		fmt.Fprintf(w, "repository\t%s\n", line(r))
	}
	for _, d := range v.Digests {
		fmt.Fprintf(w, "artifact\t%s\n", line(string(d)))
	}
	for _, x := range v.Selectors {
		fmt.Fprintf(w, "workload\t%s/%s/%s/%s\n", dash(x.Cluster), dash(x.Namespace), dash(x.Kind), dash(x.Name))
	}
}

func (a *app) inventoryWorkloadsCommand() *cobra.Command {
	var q client.WorkloadQuery
	var as, at, digest string
	cmd := &cobra.Command{
		Use:   "workloads",
		Short: "List what runs where, or ran at a time",
		Long: `List containers that run now, or with --at those that ran at a time. A cluster that
was not heard of for 15 minutes is silent: what ran there counts as running.`,
		Example: `  assay inventory workloads --service checkout
  assay inventory workloads --at 2026-03-03T12:00:00Z --digest sha256:3f…`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if at != "" {
				if q.At, err = parseTime(at); err != nil {
					return err
				}
			}
			if digest != "" {
				if q.Digest, err = artifact.ParseDigest(digest); err != nil {
					return err
				}
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			most := q.Limit
			all := client.List[client.Workload]{Items: []client.Workload{}}
			for {
				q.Limit = min(1000, most-len(all.Items))
				page, err := s.api().Workloads(cmd.Context(), q)
				if err != nil {
					return err
				}
				all.Items, all.Next = append(all.Items, page.Items...), page.Next
				if q.After = page.Next; page.Next == "" || len(all.Items) >= most {
					break
				}
			}
			return a.print(all, func(w io.Writer) { tableOfWorkloads(w, all) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	f.StringVar(&at, "at", "", "what ran then: 2026-03-03, or 2026-03-03T12:00:00Z")
	f.StringVar(&digest, "digest", "", "what runs: sha256:…")
	f.StringVar(&q.Cluster, "cluster", "", "in this cluster")
	f.StringVar(&q.Namespace, "namespace", "", "in this namespace")
	f.StringVar(&q.Service, "service", "", "of this service")
	f.StringVar(&q.Team, "team", "", "of this team's services")
	f.BoolVar(&q.Unowned, "unowned", false, "of no service")
	f.IntVar(&q.Limit, "limit", 1000, "at most so many")
	return cmd
}

// parseTime reads a day, of which the end is meant, or a time.
func parseTime(s string) (time.Time, error) {
	if day, err := time.Parse(time.DateOnly, s); err == nil {
		return day.Add(24*time.Hour - time.Microsecond), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, usagef("--at %.40q: want a day, 2026-03-03 (its end is meant), or a time of RFC 3339, 2026-03-03T12:00:00Z", s)
	}
	return t, nil
}

func tableOfWorkloads(w io.Writer, all client.List[client.Workload]) {
	if len(all.Items) == 0 {
		fmt.Fprintln(w, "nothing is known to run")
		return
	}
	fmt.Fprintln(w, "WORKLOAD\tDIGEST\tIMAGE\tNODE\tSERVICE\tTEAM\tENVIRONMENT\tFIRST SEEN\tLAST SEEN")
	for _, v := range all.Items {
		name := strings.Join([]string{v.Cluster, dash(v.Namespace), v.Kind, v.Name}, "/")
		for _, more := range []string{v.Instance, v.Container} {
			if more != "" {
				name += "/" + more
			}
		}
		last := v.LastSeen.Format("2006-01-02 15:04")
		switch {
		case v.Ended != nil:
			last = "ended " + last
		case v.Silent:
			last += " (silent)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", line(name), dash(string(v.Digest)), dash(v.Image), dash(v.Node), dash(v.Service), dash(v.Team), dash(v.Environment), v.FirstSeen.Format("2006-01-02 15:04"), last)
	}
	if all.Next != "" {
		fmt.Fprintln(w, "there is more; --limit")
	}
}

func (a *app) inventoryReportCommand() *cobra.Command {
	var r client.WorkloadReport
	var as string
	cmd := &cobra.Command{
		Use:   "report --cluster NAME FILE",
		Short: "Say what runs on machines without Kubernetes",
		Long: `Report sends a JSON list of what runs, each {"digest": "sha256:…"} with, as far as
known, name, image, node, instance, container, namespace and kind. FILE may also
be an object with cluster, environment, complete, workloads and ended.

It needs the action deploy (role deployer) on clusters/NAME. With --complete what
is not in the list runs no more; without, it stays as it was.`,
		Example: `  echo '[{"name": "web", "image": "registry.example/shop/web:v1", "digest": "sha256:3f…", "node": "host-1"}]' |
    assay inventory report --cluster edge --complete -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := a.readInput(args[0], 128<<20)
			if err != nil {
				return err
			}
			if err := readReport(b, &r); err != nil {
				return err
			}
			if r.Cluster == "" {
				return usagef("want --cluster NAME: of which cluster, or group of hosts, this is all or a part")
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			done, err := s.api().ReportWorkloads(cmd.Context(), r)
			if err != nil {
				return err
			}
			return a.print(done, func(w io.Writer) {
				fmt.Fprintf(w, "%s: %d began, %d ended, %d go on\n", line(r.Cluster), done.Started, done.Stopped, done.Kept)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&as, "subject", "", "with --data: the local identity to report as")
	f.StringVar(&r.Cluster, "cluster", "", "name of the cluster, or of the group of hosts")
	f.StringVar(&r.Environment, "environment", "", "production, staging, …; the catalogue's word goes before")
	f.BoolVar(&r.Complete, "complete", false, "the list is all that runs there")
	return cmd
}

// readReport reads a list of what runs, or a whole report; flags go before what
// the file says.
func readReport(b []byte, r *client.WorkloadReport) error {
	if json.Valid(b) && strings.HasPrefix(strings.TrimSpace(string(b)), "[") {
		if err := strictjson.Unmarshal(b, &r.Workloads, strictjson.RejectUnknown(), strictjson.WithMaxBytes(int64(len(b)))); err != nil {
			return fault.Newf(fault.Invalid, "the list: %w", err)
		}
		return nil
	}
	flags := *r
	if err := strictjson.Unmarshal(b, r, strictjson.RejectUnknown(), strictjson.WithMaxBytes(int64(len(b))+1)); err != nil {
		return fault.Newf(fault.Invalid, "want a JSON list of what runs, or an object with cluster and workloads: %w", err)
	}
	if flags.Cluster != "" && r.Cluster != "" && flags.Cluster != r.Cluster {
		return usagef("the file is about cluster %.80q, --cluster says %.80q", r.Cluster, flags.Cluster)
	}
	r.Cluster, r.Environment, r.Complete = cmp.Or(flags.Cluster, r.Cluster), cmp.Or(flags.Environment, r.Environment), flags.Complete || r.Complete
	return nil
}
