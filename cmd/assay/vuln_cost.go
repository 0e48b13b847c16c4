package main

import (
	"fmt"
	"io"
	"time"

	"assay/client"

	"github.com/spf13/cobra"
)

// vulnCostCommand is assay vuln cost.
func (a *app) vulnCostCommand() *cobra.Command {
	var as, since string
	var scans bool
	var most int
	cmd := &cobra.Command{
		Use:   "cost",
		Short: "What reading and matching bills of materials cost, by tier, and what waits",
		Long: `Add up what reading and matching bills of materials cost, by the tier that each
had in the queue, and what matching changes of feeds did. Only components that
were never seen before are looked up. docs/vulnerabilities.md says what tiers are.`,
		Example: `  assay vuln cost
  assay vuln cost --since 24h --scans
  assay vuln cost -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			from, err := when("since", since)
			if err != nil {
				return err
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			if !scans {
				most = 0
			}
			got, err := s.api().VulnCosts(cmd.Context(), from, most)
			if err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) { tableOfCosts(w, got) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	f.StringVar(&since, "since", "", "not before: a time, a date, or how long ago (24h, 7d)")
	f.BoolVar(&scans, "scans", false, "list the costliest, too")
	f.IntVar(&most, "limit", 20, "with --scans: how many of them")
	return cmd
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(10 * time.Microsecond).String()
}

func tableOfCosts(w io.Writer, got *client.VulnCosts) {
	fmt.Fprintln(w, "TIER\tMATCHED\tSCANS\tCOMPONENTS\tNEW\tADVISORIES\tREADING CPU\tMATCHING CPU\tTIME\tLONGEST WAIT\tTO READ\tTO MATCH")
	for n := 1; n <= len(got.Waiting); n++ {
		t := client.TierCosts{Tier: n}
		for _, x := range got.Tiers {
			if x.Tier == n {
				t = x
			}
		}
		p := got.Waiting[n-1]
		fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%d\t%d\n", n, line(got.Rules[n]), t.Scans, t.Components, t.New, t.Advisories, seconds(t.ReadCPU), seconds(t.CPU), seconds(t.ReadWall+t.Wall), seconds(t.Waited), p.Reading, p.Looking)
	}
	f := got.Feeds
	fmt.Fprintf(w, "feeds: %d operations, %d advisories that changed, %d matches opened, %d closed, CPU %s, time %s\n", f.Operations, f.Advisories, f.Opened, f.Resolved, seconds(f.CPU), seconds(f.Wall))
	if len(got.Scans) == 0 {
		return
	}
	fmt.Fprintln(w, "\nARTIFACT\tTIER\tWHEN\tCOMPONENTS\tNEW\tADVISORIES\tREADING CPU\tMATCHING CPU\tTIME\tWAITED")
	for _, x := range got.Scans {
		fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n", line(string(x.Digest)), x.Tier, x.At.Format("2006-01-02 15:04:05"), x.Components, x.New, x.Advisories, seconds(x.ReadCPU), seconds(x.CPU), seconds(x.ReadWall+x.Wall), seconds(x.Waited))
	}
}

// listMissed is assay vuln list --missed.
func (a *app) listMissed(cmd *cobra.Command, as, since, cause string, most int) error {
	from, err := when("since", since)
	if err != nil {
		return err
	}
	s, err := a.connect(cmd.Context(), as, "", true)
	if err != nil {
		return err
	}
	got, err := s.api().Missed(cmd.Context(), from, cause, most)
	if err != nil {
		return err
	}
	if err := a.print(got, func(w io.Writer) { tableOfMissed(w, got) }); err != nil {
		return err
	}
	if len(got.Items) > 0 {
		return &exitError{1}
	}
	return nil
}

func tableOfMissed(w io.Writer, got *client.MissedList) {
	fmt.Fprintf(w, "missed by scans: %d corrected records, %d by the matcher, %d that feeds brought late\n", got.Totals["record"], got.Totals["matcher"], got.Totals["feed"])
	if len(got.Items) == 0 {
		return
	}
	fmt.Fprintln(w, "ADVISORY\tCOMPONENT\tCAUSE\tRECEIVED\tPUBLISHED (CLAIMED)\tFOUND\tARTIFACTS\tFEED")
	day := func(t *time.Time) string {
		if t == nil {
			return "-"
		}
		return t.UTC().Format("2006-01-02 15:04")
	}
	for _, x := range got.Items {
		feed := x.Feed
		if x.Ecosystem != "" {
			feed += "/" + x.Ecosystem
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", line(x.Advisory), line(x.Component), line(x.Cause), day(x.Received), day(x.Published), day(&x.Found), x.Artifacts, line(feed))
	}
}
