package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"assay/artifact"
	"assay/builder/runner"
	"assay/client"

	"github.com/spf13/cobra"
)

func (a *app) runnerCommand() *cobra.Command {
	return group("runner", "Machines that build, and what was new in their builds",
		a.runnerList(), a.runnerShow(), a.runnerAnomalies(), a.runnerAccept(), a.runnerHeartbeat(), a.runnerHealth(), a.runnerCollect())
}

// runnerFilter reads a target, if one is given: all else is flags.
func (s *session) runnerFilter(ctx context.Context, args []string, f *client.RunnerFilter) error {
	if len(args) == 0 {
		return nil
	}
	if d, err := artifact.ParseDigest(args[0]); err == nil {
		f.Digest = d
		return nil
	}
	t, err := s.resolve(ctx, args[0])
	if err != nil {
		return err
	}
	f.Digest = t.digest
	return nil
}

func filterFlags(c *cobra.Command, f *client.RunnerFilter, as *string) {
	c.Flags().StringVar(&f.Source, "source", "", "only builds of this source: its repository's URI, or src_…")
	c.Flags().StringVar(&f.After, "after", "", "continue after this cursor")
	c.Flags().IntVar(&f.Limit, "limit", 100, "at most so many")
	c.Flags().StringVar(as, "subject", "", "with --data: the local identity to ask as")
}

func (a *app) runnerList() *cobra.Command {
	var f client.RunnerFilter
	var as string
	c := &cobra.Command{
		Use:     "list [TARGET]",
		Short:   "List builds and what is known of their machines",
		Example: "  assay runner list\n  assay runner list 127.0.0.1:8484/team/app:v1\n  assay runner list --source https://github.com/org/app -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			s, err := a.connect(ctx, as, "", true)
			if err != nil {
				return err
			}
			if err := s.runnerFilter(ctx, args, &f); err != nil {
				return err
			}
			page, err := s.api().RunnerBuilds(ctx, f)
			if err != nil {
				return err
			}
			return a.print(page, func(w io.Writer) {
				fmt.Fprintln(w, "ID\tTIME\tSTATE\tANOMALIES\tMACHINE\tUSED\tTRUST\tIDENTITY")
				for _, b := range page.Items {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", line(b.ID), stamp(b.Time), line(b.State), b.Open, line(b.Kind), yesNo(b.Used), line(b.Trust), dash(b.Identity))
				}
				if page.Next != "" {
					fmt.Fprintf(w, "more: --after %s\n", line(page.Next))
				}
			})
		},
	}
	filterFlags(c, &f, &as)
	return c
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (a *app) runnerShow() *cobra.Command {
	var as string
	c := &cobra.Command{
		Use:     "show BUILD",
		Short:   "Show one build: its machine, its source and what was new; ends with 1 when something is that nobody accepted",
		Example: "  assay runner show run_3f…\n  assay runner show bld_0197… -o yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			b, err := s.api().RunnerBuild(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := a.print(b, func(w io.Writer) { showBuild(w, b) }); err != nil {
				return err
			}
			if b.Build.Open > 0 {
				return &exitError{1}
			}
			return nil
		},
	}
	c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return c
}

func showBuild(w io.Writer, d *client.RunnerBuildDetail) {
	b := d.Build
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, line(value))
		}
	}
	row("build", b.ID)
	row("invocation", b.InvocationID)
	row("identity", b.Identity)
	row("issuer", b.Issuer)
	row("repository", d.Repository+map[bool]string{false: " (as the provenance says)"}[d.Verified])
	row("workflow", d.Workflow)
	if b.Ref != "" {
		row("ref", b.Ref+map[bool]string{false: " (as the provenance says)"}[b.RefVerified])
	}
	row("trust", b.Trust)
	row("command", b.Command)
	row("machine", fmt.Sprintf("%s, %s old, used before: %s", b.Kind, time.Duration(b.AgeSeconds)*time.Second, yesNo(b.Used)))
	row("image", b.Image)
	row("state", b.State)
	for _, x := range b.Artifacts {
		row("artifact", string(x))
	}
	for _, x := range d.Anomalies {
		word := "new"
		if x.AcceptedBy != "" {
			word = "accepted"
		}
		fmt.Fprintf(w, "%s\t%s\t%s %s: %s\n", word, line(x.ID), line(x.Kind), line(x.Name), line(x.After))
		if x.Before != "" {
			fmt.Fprintf(w, "\t\tbefore: %s\n", line(x.Before))
		}
	}
}

func (a *app) runnerAnomalies() *cobra.Command {
	var f client.RunnerFilter
	var as string
	var all bool
	c := &cobra.Command{
		Use:     "anomalies [TARGET]",
		Short:   "List what was new in builds and nobody accepted; ends with 1 when there is any",
		Example: "  assay runner anomalies\n  assay runner anomalies --all --source https://github.com/org/app -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			s, err := a.connect(ctx, as, "", true)
			if err != nil {
				return err
			}
			if err := s.runnerFilter(ctx, args, &f); err != nil {
				return err
			}
			f.Open = !all
			page, err := s.api().RunnerAnomalies(ctx, f)
			if err != nil {
				return err
			}
			if err := a.print(page, func(w io.Writer) {
				fmt.Fprintln(w, "ID\tTIME\tWHAT\tNAME\tBEFORE\tAFTER\tACCEPTED")
				for _, x := range page.Items {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", line(x.ID), stamp(x.Time), line(x.Kind), line(x.Name), dash(x.Before), line(x.After), dash(x.AcceptedBy))
				}
				if page.Next != "" {
					fmt.Fprintf(w, "more: --after %s\n", line(page.Next))
				}
			}); err != nil {
				return err
			}
			for _, x := range page.Items {
				if x.AcceptedBy == "" {
					return &exitError{1}
				}
			}
			return nil
		},
	}
	filterFlags(c, &f, &as)
	c.Flags().BoolVar(&all, "all", false, "also what was accepted")
	return c
}

func (a *app) runnerAccept() *cobra.Command {
	var q client.RunnerAccept
	var as string
	c := &cobra.Command{
		Use:   "accept ID --reason TEXT",
		Short: "Take an anomaly, or the first build of a source, into what is usual",
		Long: `Accept takes what was new into what is usual for the source: later builds do not
tell of it again, and decisions about what the build made are made again. With
--pattern more than the one value is usual from now on. A run_… says that a
first build was looked at; its anomalies are accepted one by one, by ano_…, or with
--all together with the build. What is still open of the build is listed.
It takes the role approver.`,
		Example: "  assay runner accept ano_3f… --reason 'the new compiler, see change 812'\n  assay runner accept ano_3f… --pattern '198.51.*/24 443' --reason 'the mirror'\n  assay runner accept run_3f… --reason 'looked at the first build'\n  assay runner accept run_3f… --all --reason 'the new image of the builders, change 813'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(q.Reason) == "" {
				return usagef("want --reason TEXT: it stands in the audit trail")
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			q.ID = args[0]
			got, err := s.api().AcceptRunner(cmd.Context(), q)
			if err != nil {
				return err
			}
			if err := a.print(got, func(w io.Writer) {
				if len(got) == 0 {
					fmt.Fprintf(w, "accepted\t%s\n", line(q.ID))
				}
				for _, x := range got {
					fmt.Fprintf(w, "accepted\t%s\t%s %s: %s\n", line(x.ID), line(x.Kind), line(x.Name), line(x.After))
				}
			}); err != nil || strings.HasPrefix(q.ID, "ano_") {
				return err
			}
			return a.sayOpen(cmd.Context(), s, q.ID)
		},
	}
	c.Flags().BoolVar(&q.All, "all", false, "with a build, run_…: all that is open of it")
	c.Flags().StringVar(&q.Reason, "reason", "", "why; required")
	c.Flags().StringVar(&q.Pattern, "pattern", "", "a glob that the anomaly's value matches: all that does is usual")
	c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return c
}

// sayOpen tells what of a build nobody has accepted yet.
func (a *app) sayOpen(ctx context.Context, s *session, build string) error {
	d, err := s.api().RunnerBuild(ctx, build)
	if err != nil {
		return err
	}
	for _, x := range d.Anomalies {
		if x.AcceptedBy == "" {
			a.notef("open: %s %s %s: %s\n", clean(x.ID), clean(x.Kind), clean(x.Name), clean(x.After))
		}
	}
	if d.Build.Open > 0 {
		a.notef("assay: %d anomalies of this build are open: assay runner accept %s --all --reason TEXT\n", d.Build.Open, clean(d.Build.ID))
	}
	return nil
}

// beatOf is this machine's health now. It leaves no mark.
func beatOf(ctx context.Context, name, dir string) (client.RunnerBeat, error) {
	e, err := runner.Collect(ctx, runner.Options{InvocationID: "heartbeat", Dir: dir, Look: true})
	if err != nil {
		return client.RunnerBeat{}, err
	}
	b := client.RunnerBeat{Name: name, Processors: max(e.Machine.Processors, 1), MemTotal: e.Machine.Memory, Age: e.Machine.Age, BootAge: e.Machine.BootAge, Builds: e.Use.Builds}
	if l := e.Load; l != nil {
		b.Load1, b.MemFree, b.DiskFree, b.DiskTotal = l.Load1, l.MemFree, l.DiskFree, l.DiskTotal
	}
	return b, nil
}

func (a *app) runnerHeartbeat() *cobra.Command {
	var name, dir, as, token string
	var every time.Duration
	c := &cobra.Command{
		Use:   "heartbeat",
		Short: "Tell the server of this machine's load, memory, disk and age",
		Long: `Heartbeat tells once, or with --every again and again until it is stopped. The
machine is known by the identity that tells and its name together, so that
nobody speaks for another's.`,
		Example: "  assay runner heartbeat --data ./data --subject ci@example.com\n  assay runner heartbeat --every 1m --name builder-3",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if every != 0 && every < 10*time.Second {
				return usagef("--every %s: want at least 10s", every)
			}
			if name == "" {
				host, err := os.Hostname()
				if err != nil {
					return usagef("want --name: this machine has none (%w)", err)
				}
				name = host
			}
			s, err := a.connect(ctx, as, token, true)
			if err != nil {
				return err
			}
			for {
				b, err := beatOf(ctx, name, dir)
				if err != nil {
					return err
				}
				h, err := s.api().Heartbeat(ctx, b)
				if err != nil && every == 0 {
					return err
				}
				if err != nil {
					a.notef("assay: heartbeat: %s\n", clean(err.Error())) // the next may arrive
				} else if err := a.print(h, func(w io.Writer) { hostRow(w, h) }); err != nil {
					return err
				}
				if every == 0 {
					return nil
				}
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(every):
				}
			}
		},
	}
	c.Flags().StringVar(&name, "name", "", "the machine's name (default: its host name)")
	c.Flags().StringVar(&dir, "dir", ".", "the folder whose disk is looked at")
	c.Flags().DurationVar(&every, "every", 0, "tell again at this interval, at least 10s")
	c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to tell as")
	c.Flags().StringVar(&token, "identity-token", "", "OIDC token of audience assay-api, or - for standard input")
	return c
}

func hostRow(w io.Writer, h *client.RunnerHost) {
	state := "live"
	if h.Stale {
		state = "stale"
	}
	b := h.Beat
	fmt.Fprintf(w, "%s\t%s\t%s\t%.2f\t%s\t%s\t%s\t%s\n", line(b.Name), state, stamp(h.SeenAt), b.Load1/float64(max(b.Processors, 1)),
		percent(b.MemFree, b.MemTotal), percent(b.DiskFree, b.DiskTotal), time.Duration(b.Age)*time.Second, dash(h.Identity))
}

func percent(part, whole int64) string {
	if whole <= 0 {
		return "-"
	}
	return fmt.Sprintf("%d%%", part*100/whole)
}

func (a *app) runnerHealth() *cobra.Command {
	var as string
	c := &cobra.Command{
		Use:     "health",
		Short:   "List the machines that tell of their health; ends with 1 when one of them went silent",
		Example: "  assay runner health\n  assay runner health -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			all, err := s.api().Runners(cmd.Context())
			if err != nil {
				return err
			}
			stale := false
			for i := range all {
				stale = stale || all[i].Stale
			}
			if err := a.print(all, func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tSTATE\tSEEN\tLOAD\tMEMORY FREE\tDISK FREE\tAGE\tIDENTITY")
				for i := range all {
					hostRow(w, &all[i])
				}
			}); err != nil {
				return err
			}
			if stale {
				return &exitError{1}
			}
			return nil
		},
	}
	c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return c
}

func (a *app) runnerCollect() *cobra.Command {
	var id, dir string
	var caches []string
	c := &cobra.Command{
		Use:   "collect",
		Short: "Print what this machine shows of itself, as assay run would attest it",
		Long: `Collect prints the predicate of runner evidence and leaves no mark. It needs no
server.`,
		Example: "  assay runner collect\n  assay runner collect --cache go-build=.cache/go > runner.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := runner.Options{InvocationID: id, Dir: dir, Look: true}
			for _, text := range caches {
				one, err := runner.ParseCache(text)
				if err != nil {
					return usagef("--cache: %w", err)
				}
				o.Caches = append(o.Caches, one)
			}
			e, err := runner.Collect(cmd.Context(), o)
			if err != nil {
				return err
			}
			b, err := plainJSON(e, "  ")
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(b)
			return err
		},
	}
	c.Flags().StringVar(&id, "invocation-id", "none", "the build's invocation id")
	c.Flags().StringVarP(&dir, "dir", "C", ".", "the build's folder")
	c.Flags().StringSliceVar(&caches, "cache", nil, "KEY=PATH of what outlives builds")
	return c
}
