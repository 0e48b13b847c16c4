package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"assay/client"
	"assay/slo"

	"github.com/spf13/cobra"
)

func (a *app) sloCommand() *cobra.Command {
	var as string
	status := &cobra.Command{
		Use:   "status",
		Short: "How each objective stands: what is left of its budget, and how fast that burns",
		Long: `Show how each objective stands. Objectives are documents of kind Objectives: see
assay apply; what they do not say is as in docs/slo.md.

Ends with 1 when an objective is missed or its budget burns, with 2 when of one
nothing was counted.`,
		Example: "  assay slo status\n  assay slo status -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			got, err := s.api().Objectives(cmd.Context())
			if err != nil {
				return err
			}
			code := 0
			for _, o := range got {
				switch o.State {
				case string(slo.OK):
				case string(slo.NoData):
					if code == 0 {
						code = 2
					}
				default:
					code = 1
				}
			}
			if err := a.print(got, func(w io.Writer) {
				fmt.Fprintln(w, "INDICATOR\tSTATE\tNOW\tOF\tUNKNOWN\tWANT\tBUDGET LEFT\tBURNS 1H 6H 1D 3D\tSPENT IN\tREASON")
				for i := range got {
					o := &got[i]
					budget := "-"
					if o.Unit == string(slo.Ratio) && o.Now.Known {
						budget = fmt.Sprintf("%.0f %%", 100*o.Budget)
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", o.Indicator, o.State, numberOf(&o.Now), many(o.Now.Denominator), many(o.Now.Unknown), o.Want, budget, burnsOf(o), lastsOf(o), dash(o.Reason))
				}
			}); err != nil || code == 0 {
				return err
			}
			return &exitError{code}
		},
	}
	cmd := group("slo", "Indicators of the site, and the objectives that they are held against", status, a.sloListCommand(&as), a.sloItemsCommand(&as), sloRulesCommand(a), sloDashboardsCommand(a))
	for _, c := range cmd.Commands() {
		if c.Name() != "rules" && c.Name() != "dashboards" {
			c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
		}
	}
	return cmd
}

// burnsOf are the rates at which a budget burns, the shortest window first.
func burnsOf(o *client.Objective) string {
	var rates []string
	for _, b := range o.Burns {
		rates = append(rates, fmt.Sprintf("%.1f", b.Rate))
	}
	return dash(strings.Join(rates, " "))
}

// lastsOf says when a budget is spent, at the rate of the last day.
func lastsOf(o *client.Objective) string {
	switch {
	case len(o.Burns) > 0 && o.Budget <= 0:
		return "spent"
	case o.LastsDays <= 0:
		return "-"
	case o.LastsDays < 2:
		return fmt.Sprintf("%.0f h", 24*o.LastsDays)
	}
	return fmt.Sprintf("%.0f d", o.LastsDays)
}

// many is how many there were; of what is looked at again and again that is a mean.
func many(n float64) string { return strconv.FormatFloat(math.Round(10*n)/10, 'f', -1, 64) }

// numberOf is an indicator's value for people.
func numberOf(i *client.Indicator) string {
	if !i.Known {
		return "unknown"
	}
	switch slo.Unit(i.Unit) {
	case slo.Ratio:
		return fmt.Sprintf("%.2f %%", 100*i.Value)
	case slo.Seconds:
		d := time.Duration(i.Value * float64(time.Second))
		if d < 10*time.Second {
			return d.Round(time.Millisecond).String()
		}
		return d.Round(time.Second).String()
	}
	return strconv.FormatFloat(i.Value, 'f', 1, 64)
}

func (a *app) sloListCommand(as *string) *cobra.Command {
	q := client.IndicatorQuery{Window: slo.DefaultWindow}
	cmd := &cobra.Command{
		Use:     "list [INDICATOR]",
		Short:   "The site's indicators in a window, with their denominators",
		Example: "  assay slo list\n  assay slo list attestation-coverage --by service --window 24h",
		Args:    cobra.MaximumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) (out []string, _ cobra.ShellCompDirective) {
			for _, d := range slo.Definitions() {
				out = append(out, string(d.ID))
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), *as, "", true)
			if err != nil {
				return err
			}
			q.ID = optional(args)
			got, err := s.api().Indicators(cmd.Context(), q)
			if err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) {
				fmt.Fprintln(w, "INDICATOR\tMETRIC\tVALUE\tCOUNTED\tOF\tUNKNOWN\tWHAT")
				for _, i := range got {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", i.ID, dash(i.Metric), numberOf(&i), many(i.Numerator), many(i.Denominator), many(i.Unknown), line(i.Counts))
					for _, p := range i.By {
						part := client.Indicator{Unit: i.Unit, Known: p.Known, Value: p.Number}
						fmt.Fprintf(w, "  %s\t\t%s\t%s\t%s\t%s\t%s\n", line(p.Of), numberOf(&part), many(p.Numerator), many(p.Denominator), many(p.Unknown), line(p.Dimension))
					}
				}
			})
		},
	}
	cmd.Flags().DurationVar(&q.Window, "window", q.Window, "up to now")
	cmd.Flags().StringVar(&q.By, "by", "", "part by: "+strings.Join(slo.Dimensions(), ", ")+", type, cause, depth or feed")
	_ = cmd.RegisterFlagCompletionFunc("by", cobra.FixedCompletions(append(slo.Dimensions(), "type", "cause", "depth", "feed"), cobra.ShellCompDirectiveNoFileComp)) // fails for flags that do not exist
	return cmd
}

func (a *app) sloItemsCommand(as *string) *cobra.Command {
	most := 100
	cmd := &cobra.Command{
		Use:     "items INDICATOR",
		Short:   "The artifacts behind an indicator's number",
		Example: "  assay slo items attestation-coverage",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), *as, "", true)
			if err != nil {
				return err
			}
			got, err := s.api().IndicatorItems(cmd.Context(), args[0], most)
			if err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) {
				fmt.Fprintln(w, "ARTIFACT\tSTATE\tSERVICE\tSINCE\tREASON")
				for _, x := range got {
					state := "bad"
					if x.Unknown {
						state = "unknown"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", dash(x.Digest), state, dash(x.Service), x.Since.Format("2006-01-02 15:04"), line(x.Reason))
				}
			})
		},
	}
	cmd.Flags().IntVar(&most, "limit", most, "at most so many")
	return cmd
}

// sloRulesCommand writes rules for Prometheus. They need no server.
func sloRulesCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "rules",
		Short:   "Recording and alerting rules for Prometheus",
		Example: "  assay slo rules > assay.rules.yml",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b, err := slo.PrometheusRules(slo.Defaults())
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(b)
			return err
		},
	}
}

func sloDashboardsCommand(a *app) *cobra.Command {
	dir := ""
	cmd := &cobra.Command{
		Use:     "dashboards",
		Short:   "Dashboards for Grafana, as JSON",
		Long:    "Write the dashboards for Grafana: one file each into --dir, or the names of them.",
		Example: "  assay slo dashboards --dir dashboards",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			all, err := slo.Dashboards()
			if err != nil {
				return err
			}
			if dir != "" {
				if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // dashboards hold no secret
					return err
				}
				root, err := os.OpenRoot(dir)
				if err != nil {
					return err
				}
				defer root.Close()
				for _, d := range all {
					if err := root.WriteFile(d.Name+".json", d.JSON, 0o644); err != nil {
						return err
					}
				}
			}
			for _, d := range all {
				fmt.Fprintf(a.stdout, "%s.json\t%s\n", d.Name, d.Title)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder to write into")
	return cmd
}
