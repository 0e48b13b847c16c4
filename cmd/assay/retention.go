package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"assay/client"
	"assay/registry/retention"

	"github.com/spf13/cobra"
)

func (a *app) retentionCommand() *cobra.Command {
	return group("retention", "What is kept for how long",
		a.retentionDo("plan", "Tell what the rules would delete now, and what keeps the rest", (*client.Client).RetentionPlan),
		a.retentionDo("run", "Carry the rules out now, not at the next turn", (*client.Client).RetentionRun))
}

func (a *app) retentionDo(name, short string, do func(*client.Client, context.Context, any) error) *cobra.Command {
	var as string
	c := &cobra.Command{
		Use: name, Short: short, Args: cobra.NoArgs,
		Long: short + `.

Rules are documents of kind Retention (assay apply). What no rule covers is kept,
and so is what any rule keeps, what is on hold, and what is quarantined.`,
		Example: "  assay retention " + name + " -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			var r retention.Outcome
			if err := do(s.api(), cmd.Context(), &r); err != nil {
				return err
			}
			return a.print(r, func(w io.Writer) { printRetention(w, &r) })
		},
	}
	c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return c
}

func printRetention(w io.Writer, r *retention.Outcome) {
	gone := "deleted"
	if r.DryRun {
		gone = "delete"
	}
	fmt.Fprintln(w, "WHAT\tCLASS\tNAME\tTAGS\tSINCE\tWHY")
	for _, i := range r.Items {
		what, name := "keep", i.ID
		if i.Deleted {
			what = gone
		}
		if i.Repository != "" {
			name = i.Repository + "@" + i.Digest.Short()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", what, line(i.Class), line(name), line(dash(strings.Join(i.Tags, ","))), stamp(i.Time), line(i.Why))
	}
	if r.More {
		fmt.Fprintln(w, "and more")
	}
	for _, n := range r.Notes {
		fmt.Fprintln(w, line(n))
	}
	if len(r.Rules) == 0 {
		fmt.Fprintln(w, "there are no rules: everything is kept")
	}
	fmt.Fprintf(w, "%s %d, kept %d (%d by a hold alone), audit events %d\n", gone, r.Deleted, r.Kept, r.Held, r.Events)
	if r.Locked > 0 {
		fmt.Fprintf(w, "objects locked in the bucket: %d\n", r.Locked)
	}
	if r.Through > 0 {
		fmt.Fprintf(w, "audit events up to %d are dropped; the chain is verified across the gap\n", r.Through)
	}
}
