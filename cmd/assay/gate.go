package main

import (
	"fmt"
	"io"
	"strings"

	"assay/client"
	"assay/gate"

	"github.com/spf13/cobra"
)

func (a *app) gateCommand() *cobra.Command {
	return group("gate", "Doors for what moves software on: canaries, pipelines, functions", a.gateCanaryCommand(), a.gateCheckCommand(), a.gatePublishCommand())
}

// places are the flags that say where something is to run.
type places struct{ environment, cluster, namespace string }

func (p *places) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&p.environment, "environment", "", "where it is to run, for policies that select on it")
	fl.StringVar(&p.cluster, "cluster", "", "the cluster's name, as its webhook and inventory have it")
	fl.StringVar(&p.namespace, "namespace", "", "the namespace")
}

func (a *app) gateCanaryCommand() *cobra.Command {
	var q client.CanaryQuestion
	var at places
	var as string
	cmd := &cobra.Command{
		Use:   "canary [IMAGE...]",
		Short: "May this canary go on? By verification, error budget and new findings",
		Long: `Ask the server whether a canary may get more traffic: by the decision about each of
its images, the error budget of its service, and the findings that it has and
what runs beside it has not; and not before it has run for the least time, with
the least share of the traffic. How long it runs is the server's own record.

Without IMAGE it is about what --workload runs in --namespace. Argo Rollouts and
Flagger ask the same by HTTP: see docs/gate-doors.md.

Exit codes: 0 proceed, 1 roll back, 2 wait, 64 usage.`,
		Example: `  assay gate canary --service checkout --environment production --share 20 registry.example/shop/app:v2

  # what to go back to
  assay gate canary --service checkout --namespace shop --workload app --controller argo -o json | jq -r '.advice.commands[]'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.Service == "" {
				return usagef("want --service NAME, as in the catalogue (assay inventory services)")
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return undecided(err)
			}
			q.Images, q.Environment, q.Cluster, q.Namespace = args, at.environment, at.cluster, at.namespace
			got, err := s.api().Canary(cmd.Context(), q)
			if err != nil {
				return undecided(err)
			}
			if err := a.print(got, func(w io.Writer) { a.writeCanary(w, &got) }); err != nil {
				return err
			}
			return codeOf(map[string]int{gate.Proceed: 0, gate.Rollback: 1}, got.Verdict)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	fl.StringVar(&q.Service, "service", "", "the service whose canary it is")
	fl.StringVar(&q.Workload, "workload", "", "the workload that runs it, for its images and for advice")
	fl.StringVar(&q.Controller, "controller", "", "whose commands the advice names: argo or flagger")
	fl.StringVar(&q.Share, "share", "", "percent of the traffic that it has; without: by how many instances run")
	fl.StringVar(&q.LeastShare, "least-share", "", "want at least this share, beyond the site's rule")
	fl.StringVar(&q.LeastDuration, "least-duration", "", "want it to have run at least so long, beyond the site's rule")
	at.register(cmd)
	_ = cmd.RegisterFlagCompletionFunc("controller", cobra.FixedCompletions([]string{gate.ControllerArgo, gate.ControllerFlagger}, cobra.ShellCompDirectiveNoFileComp)) // fails for flags that do not exist
	return cmd
}

// codeOf is the exit code of a verdict; those that are not named are 2.
func codeOf(codes map[string]int, verdict string) error {
	code, known := codes[verdict]
	if !known {
		code = 2
	}
	if code == 0 {
		return nil
	}
	return &exitError{code}
}

func (a *app) writeCanary(w io.Writer, got *client.CanaryAnswer) {
	colour := map[string]string{gate.Proceed: green, gate.Rollback: red}
	shown := func(v string) string {
		if c := colour[v]; c != "" {
			return a.paint(line(v), c)
		}
		return line(v)
	}
	fmt.Fprintf(w, "%s\n", shown(got.Verdict))
	for _, r := range got.Reasons {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", shown(r.Verdict), line(r.Check), line(r.Text))
	}
	for _, f := range got.Findings {
		var more []string
		if f.Exploited {
			more = append(more, "exploited")
		}
		if f.Malicious {
			more = append(more, "malicious")
		}
		if f.Fixed != "" {
			more = append(more, "fixed in "+line(f.Fixed))
		}
		fmt.Fprintf(w, "  new\t%s\t%s %s, %s %s\n", line(f.Name), line(f.Component), line(f.Version), line(f.Severity), strings.Join(more, ", "))
	}
	if v := got.Advice; v != nil {
		if v.Image == "" {
			fmt.Fprintf(w, "  go back\t-\t%s\n", line(v.Text))
			return
		}
		state := "last ran " + stamp(v.Last)
		if v.Running {
			state = "still runs"
		}
		fmt.Fprintf(w, "  go back to\t%s\t%s, decision %s\n", line(v.Image), state, line(v.Decision))
		for _, c := range v.Commands {
			fmt.Fprintf(w, "  \t\t%s\n", line(c))
		}
	}
}
