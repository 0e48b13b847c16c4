package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"assay/client"

	"github.com/spf13/cobra"
)

func (a *app) vulnCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "vuln",
		Short:   "What advisories affect, by the stored bills of materials",
		Example: "  assay vuln list 127.0.0.1:8484/team/app:v1\n  assay vuln where CVE-2021-44228",
	}
	cmd.AddCommand(a.vulnListCommand(), a.vulnShowCommand(), a.vulnWhereCommand(), a.vulnDiffCommand(), a.vulnRiskCommand(), a.fixFirstCommand(), a.vulnTriageCommand(), a.vulnCostCommand())
	return cmd
}

func (a *app) vulnListCommand() *cobra.Command {
	var as, order, service, since, cause string
	var missed bool
	var most int
	cmd := &cobra.Command{
		Use:   "list TARGET",
		Short: "List the flaws of an artifact's components, and what is not known",
		Long: `List what the advisories in force say about the components of an artifact, as
its signed bills of materials name them. What is not known stands apart: no bill
of materials, components that no feed knows, feeds that are missing or stale.

Ends with 0 when nothing is found and nothing is left to know, with 1 when there
are findings, with 2 when there are none but something is unknown. Findings that
a statement takes away (assay vuln triage) are listed and count for nothing.

With --missed it lists what scans that came out clean should have found, with 1 when
there is something.

With --sort risk findings come by their risk, each in its parts; and without TARGET
all artifacts do, or those of a --service.`,
		Example: `  assay vuln list 127.0.0.1:8484/team/app:v1
  assay vuln list sha256:3f… -o json
  assay vuln list --sort risk --service checkout
  assay vuln list --missed --since 30d`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case missed && (len(args) > 0 || order != "" || service != ""):
				return usagef("--missed lists what scans of all artifacts missed: without TARGET, --sort and --service")
			case missed:
				return a.listMissed(cmd, as, since, cause, most)
			case since != "" || cause != "":
				return usagef("--since and --cause: want --missed")
			case order == "risk":
				return a.listByRisk(cmd, as, service, most, args)
			case order != "" && order != "severity":
				return usagef("--sort %.40q: want severity or risk", order)
			case len(args) == 0 || service != "":
				return usagef("want a TARGET; or --sort risk, which ranks all artifacts, or those of a --service")
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			t, err := s.resolve(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			repository := ""
			if t.image != nil {
				repository = t.image.Repository
			}
			got, err := s.api().Findings(cmd.Context(), t.digest, repository)
			if err != nil {
				return err
			}
			if err := a.print(got, func(w io.Writer) { tableOfFindings(w, got, nil) }); err != nil {
				return err
			}
			switch {
			case slices.ContainsFunc(got.Items, func(f client.Finding) bool { return !f.Settled() }):
				return &exitError{1}
			case !got.Coverage.Complete():
				return &exitError{2}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	list := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return unjudged(list(cmd, args)) }
	cmd.Flags().StringVar(&order, "sort", "", "severity (the default) or risk")
	cmd.Flags().StringVar(&service, "service", "", "with --sort risk: of this service alone")
	cmd.Flags().IntVar(&most, "limit", 20, "with --sort risk, --missed: at most so many rows")
	cmd.Flags().BoolVar(&missed, "missed", false, "what scans that came out clean should have found")
	cmd.Flags().StringVar(&since, "since", "", "with --missed: found not before a time, a date, or how long ago (24h, 7d)")
	cmd.Flags().StringVar(&cause, "cause", "", "with --missed: record, matcher or feed")
	_ = cmd.RegisterFlagCompletionFunc("cause", cobra.FixedCompletions([]string{"record", "matcher", "feed"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions([]string{"severity", "risk"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func tableOfFindings(w io.Writer, got *client.Findings, fails func(client.Finding) bool) {
	if len(got.Items) > 0 {
		if fails != nil {
			fmt.Fprint(w, "GATE\t")
		}
		fmt.Fprintln(w, "FLAW\tSEVERITY\tSTATUS\tCOMPONENT\tFIXED\tDEPENDENCY\tSINCE\tRECORDS")
	}
	for _, f := range got.Items {
		var records []string
		for _, r := range f.Records {
			records = append(records, r.ID)
		}
		severity := f.Severity
		if f.Score > 0 {
			severity = fmt.Sprintf("%s %.1f", f.Severity, f.Score)
		}
		if f.KEV != "" {
			severity += ", exploited"
		}
		if f.EPSS > 0 {
			severity += fmt.Sprintf(", EPSS %.2f", f.EPSS)
		}
		if f.Malicious {
			severity = "malicious"
		}
		status := f.Status
		if f.Reason != "" {
			status += ": " + f.Reason
		}
		if f.Reachability != "" {
			status += ", " + f.Reachability
		}
		if s := f.Statement; s != nil {
			status += ", by " + s.Author
			if s.Justification != "" {
				status += ": " + s.Justification
			}
		}
		switch {
		case fails == nil:
		case fails(f):
			fmt.Fprint(w, "fails\t")
		default:
			fmt.Fprint(w, "passes\t")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", line(f.Name), line(severity), line(status), line(f.Component), dash(f.Fixed), line(pathOf(&f)), fmt.Sprintf("%s (%dd)", f.FirstSeen.Format("2006-01-02"), f.Exposed), line(strings.Join(records, " ")))
	}
	c := got.Coverage
	if len(got.Items) == 0 && c.Complete() {
		fmt.Fprintf(w, "no advisory in force affects any of the %d components\n", c.Components)
	}
	for _, u := range unknowns(c) {
		fmt.Fprintf(w, "unknown: %s\n", line(u))
	}
}

// unknowns are the sentences about what is not known.
func unknowns(c client.FindingCoverage) (all []string) {
	for _, u := range []struct {
		is   bool
		text string
	}{
		{!c.SBOM, "no bill of materials is in force: nothing is known of its components"},
		{c.SBOM && !c.Scanned, "its components are still being looked up; ask again in a moment"},
		{c.Unmatched > 0, fmt.Sprintf("%d of %d components are of a kind that no feed knows", c.Unmatched, c.Components)},
		{c.ReleaseMissing > 0, fmt.Sprintf("%d of %d components do not say of which release of their distribution they are", c.ReleaseMissing, c.Components)},
		{len(c.FeedsMissing) > 0, "no feed is in force for " + strings.Join(c.FeedsMissing, ", ")},
		{len(c.FeedsStale) > 0, "the feeds are stale for " + strings.Join(c.FeedsStale, ", ")},
	} {
		if u.is {
			all = append(all, u.text)
		}
	}
	if n := len(c.Unnamed); n > 0 {
		more := ""
		if left := c.Unmatched + c.ReleaseMissing - n; left > 0 {
			more = fmt.Sprintf(", and %d more", left)
		}
		all = append(all, "not looked up: "+strings.Join(c.Unnamed, ", ")+more)
	}
	for i, why := range c.Incomplete {
		if i == 10 {
			all = append(all, fmt.Sprintf("the bill of materials is incomplete for %d more reasons", len(c.Incomplete)-i))
			break
		}
		all = append(all, "the bill of materials is incomplete: "+why)
	}
	return all
}

func (a *app) vulnWhereCommand() *cobra.Command {
	var as string
	var most int
	cmd := &cobra.Command{
		Use:   "where ADVISORY",
		Short: "List the artifacts that hold what an advisory affects, by any of its names",
		Example: `  assay vuln where CVE-2021-44228
  assay vuln where GHSA-jfh8-c2jp-5v3q -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			got, err := s.api().Affected(cmd.Context(), args[0], most)
			if err != nil {
				return err
			}
			if err := a.print(got, func(w io.Writer) {
				if len(got.Items) == 0 {
					fmt.Fprintln(w, "nothing that is stored holds what it affects")
					return
				}
				fmt.Fprintln(w, "ARTIFACT\tNAME\tCOMPONENT\tSTATUS\tFIXED\tDEPENDENCY\tRECORD")
				for _, f := range got.Items {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", line(string(f.Subject)), dash(f.Name), line(f.Component), line(f.Status), dash(f.Fixed), line(f.Direct), line(f.Record))
				}
			}); err != nil {
				return err
			}
			if len(got.Items) > 0 {
				return &exitError{1}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	cmd.Flags().IntVar(&most, "limit", 100, "at most so many")
	return cmd
}
