package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"assay/client"
	"assay/inventory/supply"

	"github.com/spf13/cobra"
)

// handIn tells the server what a scan found, and what it says of that.
func handIn(ctx context.Context, s *session, f *inventoryFlags, got *supply.Inventory) (*client.SupplyScan, error) {
	b, err := json.Marshal(got)
	if err != nil {
		return nil, err
	}
	x, err := s.api().AddSupplyScan(ctx, b)
	if err != nil || !f.accept || f.baseline != "" {
		return x, err
	}
	done, err := s.api().AcceptSupply(ctx, client.SupplyAccept{ID: x.ID, Reason: f.reason})
	if err != nil {
		return nil, fmt.Errorf("the scan %s is handed in, and not accepted: %w", line(x.ID), err)
	}
	return done, nil
}

func tableOfDrift(w io.Writer, x *client.SupplyScan) {
	switch {
	case x.Baseline:
		fmt.Fprintf(w, "baseline\t%s\taccepted by %s\t%s\t\n", line(x.ID), line(x.AcceptedBy), line(x.Reason))
	case x.Drift.State == supply.StateFirst:
		fmt.Fprintf(w, "no baseline\t%s\tassay inventory accept makes it one\t\t\n", line(x.ID))
	default:
		fmt.Fprintf(w, "%s\t%s\tbaseline %s\t%d otherwise\t\n", line(x.Drift.State), line(x.ID), line(x.Drift.Baseline), x.Drift.Count)
	}
	for _, c := range x.Drift.Changes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s -> %s\n", line(c.What), line(c.Kind), line(c.Scope), dash(c.Name), dash(c.Before), dash(c.After))
	}
	for _, f := range x.Drift.Findings {
		fmt.Fprintf(w, "new finding\t%s\t%s\t%s\t%s\n", line(f.Rule), line(f.Scope), dash(f.Name), line(f.Text))
	}
	for _, u := range x.Drift.Lost {
		fmt.Fprintf(w, "lost\t%s\t%s\t%s\t\n", line(u.Part), line(u.Scope), line(u.Why))
	}
	if n := len(x.Drift.Changes) + len(x.Drift.Findings) + len(x.Drift.Lost); n < x.Drift.Count {
		fmt.Fprintf(w, "not listed\t%d more\t\t\t\n", x.Drift.Count-n)
	}
}

// driftExit is 1 when something is otherwise, 2 when that cannot be told.
func driftExit(states ...string) error {
	code := 0
	for _, s := range states {
		switch {
		case s == supply.StateDrifted:
			return &exitError{1}
		case s != supply.StateSame:
			code = 2
		}
	}
	if code != 0 {
		return &exitError{code}
	}
	return nil
}

func (a *app) inventoryListCommand() *cobra.Command {
	var f client.SupplyFilter
	var as string
	c := &cobra.Command{
		Use:     "scans",
		Aliases: []string{"list"},
		Short:   "List the scans that were handed in to the server, newest first",
		Example: "  assay inventory scans\n  assay inventory scans --latest -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			page, err := s.api().SupplyScans(cmd.Context(), f)
			if err != nil {
				return err
			}
			return a.print(page, func(w io.Writer) {
				fmt.Fprintln(w, "ID\tTAKEN\tSTATE\tFORGE\tTARGETS\tITEMS\tFINDINGS\tUNKNOWN\tBY\tACCEPTED")
				for _, x := range page.Items {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s %s\t%s\t%d\t%d\t%d\t%s\t%s\n", line(x.ID), stamp(x.TakenAt), line(x.Drift.State), line(x.Provider), line(x.URL),
						targetNames(x.Targets), x.Items, x.Findings, x.Unknown, line(x.Actor), dash(x.AcceptedBy))
				}
				if page.Next != "" {
					fmt.Fprintf(w, "more: --after %s\n", line(page.Next))
				}
			})
		},
	}
	c.Flags().StringVar(&f.Estate, "estate", "", "only of this one, estate_…")
	c.Flags().BoolVar(&f.Latest, "latest", false, "of each estate the newest only")
	c.Flags().StringVar(&f.After, "after", "", "continue after this cursor")
	c.Flags().IntVar(&f.Limit, "limit", 100, "at most so many")
	c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return c
}

func targetNames(all []string) string {
	if len(all) > 3 {
		return line(fmt.Sprintf("%s and %d more", strings.Join(all[:3], ", "), len(all)-3))
	}
	return line(strings.Join(all, ", "))
}

func (a *app) inventoryShowCommand() *cobra.Command {
	var as string
	c := &cobra.Command{
		Use:     "show SCAN",
		Short:   "Show one scan, and how it differs from its baseline; ends with 1 when it does, with 2 when that cannot be told",
		Example: "  assay inventory show inv_3f…",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			x, err := s.api().SupplyScan(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := a.print(x, func(w io.Writer) {
				fmt.Fprintf(w, "scan\t%s\nestate\t%s\nforge\t%s %s\ntargets\t%s\ntaken\t%s by %s\n", line(x.ID), line(x.Estate), line(x.Provider), line(x.URL), targetNames(x.Targets), stamp(x.TakenAt), line(x.Actor))
				fmt.Fprintf(w, "items\t%d\nfindings\t%d\nunknown\t%d\n", x.Items, x.Findings, x.Unknown)
				tableOfDrift(w, x)
			}); err != nil || x.Baseline {
				return err
			}
			return driftExit(x.Drift.State)
		},
	}
	c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return c
}

func (a *app) inventoryDriftCommand() *cobra.Command {
	var f client.SupplyFilter
	var as string
	c := &cobra.Command{
		Use:   "drift",
		Short: "Say which forges are not as they were accepted",
		Long: `Drift looks at the newest scan of each estate (a forge and what was asked for on
it). Ends with 0 when all are as their baselines, with 1 when something is otherwise,
with 2 when that cannot be told: no scan was handed in or accepted, or the newest one
does not know what the baseline knew.`,
		Example: "  assay inventory drift\n  assay inventory drift --estate estate_3f… -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			all := client.List[client.SupplyScan]{Items: []client.SupplyScan{}}
			for f.Latest, f.Limit = true, 1000; ; {
				page, err := s.api().SupplyScans(cmd.Context(), f)
				if err != nil {
					return err
				}
				all.Items = append(all.Items, page.Items...)
				if f.After = page.Next; f.After == "" {
					break
				}
			}
			var states []string
			if len(all.Items) == 0 {
				states = []string{supply.StateUnknown}
			}
			for _, x := range all.Items {
				if !x.Baseline {
					states = append(states, x.Drift.State)
				}
			}
			if err := a.print(all, func(w io.Writer) {
				if len(all.Items) == 0 {
					fmt.Fprintln(w, "no scan was handed in: assay inventory scan")
				}
				for n := range all.Items {
					x := &all.Items[n]
					fmt.Fprintf(w, "forge\t%s %s\t%s\t%s\t\n", line(x.Provider), line(x.URL), targetNames(x.Targets), stamp(x.TakenAt))
					tableOfDrift(w, x)
				}
			}); err != nil {
				return err
			}
			return driftExit(states...)
		},
	}
	c.Flags().StringVar(&f.Estate, "estate", "", "only of this one, estate_…")
	c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return c
}

func (a *app) inventoryAcceptCommand() *cobra.Command {
	var q client.SupplyAccept
	var as string
	c := &cobra.Command{
		Use:     "accept SCAN --reason TEXT",
		Short:   "Say that a scan is as its estate should be: later ones are held against it",
		Example: "  assay inventory accept inv_3f… --reason 'the new deploy key, change 812'",
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
			x, err := s.api().AcceptSupply(cmd.Context(), q)
			if err != nil {
				return err
			}
			return a.print(x, func(w io.Writer) { tableOfDrift(w, x) })
		},
	}
	c.Flags().StringVar(&q.Reason, "reason", "", "why; required")
	c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return c
}
