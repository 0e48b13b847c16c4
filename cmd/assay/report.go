package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"assay/report"

	"github.com/spf13/cobra"
)

func (a *app) reportCommand() *cobra.Command {
	var asOf, format string
	cmd := &cobra.Command{
		Use: "report weekly|monthly|quarterly", Short: "What is looked at every week, month and quarter",
		Long: `Report makes one document of what the site answers: failed verifications, high
findings, indicators, alerts and exceptions; every month also keys and credentials with
their rotation; every quarter also exercises, policies for review, readiness and maturity.
-o html is one file that loads nothing and prints as it stands.`,
		Args:      cobra.ExactArgs(1),
		ValidArgs: []string{string(report.Weekly), string(report.Monthly), string(report.Quarterly)},
		Example:   "  assay report weekly -o html > weekly.html\n  assay report quarterly --as-of 2026-10-01 -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(report.Periods(), report.Period(args[0])) {
				return usagef("%q: want weekly, monthly or quarterly", line(args[0]))
			}
			if a.output = format; format == "html" {
				a.output = ""
			}
			to := time.Now()
			if asOf != "" {
				var err error
				if to, err = when("as-of", asOf); err != nil {
					return err
				}
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			r, err := report.Make(cmd.Context(), s.api().Ask, report.Period(args[0]), s.status.PublicURL, to, time.Now())
			if err != nil {
				return err
			}
			if format == "html" {
				b, err := r.HTML()
				if err == nil {
					_, err = a.stdout.Write(b)
				}
				return err
			}
			return a.print(r, func(w io.Writer) { reportTable(w, r) })
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "", "table, json, yaml or html (default table)")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml", "html"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().StringVar(&asOf, "as-of", "", "the end of the time that is looked at: a day, or RFC 3339 (default now)")
	return cmd
}

func reportTable(w io.Writer, r *report.Report) {
	for i := range r.Sections {
		s := &r.Sections[i]
		fmt.Fprintf(w, "%s: %s\n", s.Title, line(s.Summary))
		if s.Problem != "" {
			fmt.Fprintf(w, "  not all is known: %s\n", line(s.Problem))
		}
		for _, row := range s.Rows[:min(5, len(s.Rows))] {
			cells := make([]string, len(row))
			for k, c := range row {
				cells[k] = line(c)
			}
			fmt.Fprintf(w, "  %s\n", strings.Join(cells, "\t"))
		}
	}
}
