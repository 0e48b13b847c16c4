package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"assay/client"
	"assay/source"

	"github.com/spf13/cobra"
)

func (a *app) sourceMetricsCommand() *cobra.Command {
	days := 30
	cmd := &cobra.Command{
		Use:     "metrics",
		Short:   "Review coverage, time to merge and protection of the branches whose forges tell of them",
		Example: "  assay source metrics\n  assay source metrics --days 90 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			got, err := s.api().SourceBranches(cmd.Context(), days)
			if err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) {
				fmt.Fprintln(w, "SOURCE\tREF\tPUSHES\tREVIEWED\tFORCED\tMERGES\tMEDIAN TO MERGE\tPROTECTED SINCE")
				for _, b := range got {
					reviewed, since := "-", "-"
					if b.Pushes > 0 {
						reviewed = fmt.Sprintf("%.0f %%", 100*b.Coverage)
					}
					if b.Protection != nil && b.Protection.NoForcePush {
						since = stamp(b.Protection.Since)
					}
					fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\t%d\t%s\t%s\n", line(b.Source), line(b.Ref), b.Pushes, reviewed, b.Forced, b.Merges,
						(time.Duration(b.MedianSeconds) * time.Second).String(), since)
				}
			})
		},
	}
	cmd.Flags().IntVar(&days, "days", days, "days that the figures are of")
	return cmd
}

// sourceControls asks the server how a branch is protected; nil: it does not
// know.
func (s *session) sourceControls(ctx context.Context, uri, ref string) (*source.Controls, error) {
	got, err := s.api().SourceBranches(ctx, 30)
	if err != nil {
		return nil, err
	}
	for _, b := range got {
		if p := b.Protection; p != nil && b.Repository == uri && b.Ref == ref {
			return controlsOf(p), nil
		}
	}
	return nil, nil
}

func controlsOf(p *client.SourceControls) *source.Controls {
	return &source.Controls{
		Source: "server", Since: p.Since, NoForcePush: p.NoForcePush, NoDeletion: p.NoDeletion, SignedCommits: p.SignedCommits, Reviews: p.Reviews,
		DismissStale: p.DismissStale, StatusChecks: p.StatusChecks, Administrators: p.Administrators,
	}
}
