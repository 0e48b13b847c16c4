package main

import (
	"fmt"
	"io"
	"strings"

	"assay/client"
	"assay/vuln/vex"

	"github.com/spf13/cobra"
)

func proposalTable(w io.Writer, all []vex.Proposal) {
	fmt.Fprintln(w, "ID\tFLAW\tSTATUS\tPRODUCTS\tBY\tSINCE\tREASON\tOUTCOME")
	for _, p := range all {
		outcome := "waits"
		if p.Outcome != "" {
			outcome = p.Outcome + " by " + p.DecidedBy
		}
		what := ""
		if p.Withdraws != "" {
			what = "taking back: "
		}
		for i, s := range p.Statements {
			if i == 20 {
				fmt.Fprintf(w, "\tand %d more\n", len(p.Statements)-i)
				break
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", line(p.ID[:min(len(p.ID), 17)]), line(s.Vulnerabilities[0]), line(what+string(s.Status)), line(strings.Join(s.Products, " ")), line(p.Actor), stamp(p.Created), line(p.Reason), line(outcome))
		}
	}
	if len(all) == 0 {
		fmt.Fprintln(w, "nothing waits")
	}
}

func (a *app) vexProposalsCommand() *cobra.Command {
	var ended bool
	cmd := &cobra.Command{
		Use: "proposals", Short: "Statements that wait for another person", Args: cobra.NoArgs,
		Long: `Where the site wants two persons (vuln.second_person), what takes findings away is
proposed by one and approved by another. A proposal waits for 30 days.`,
		Example: "  assay vex proposals\n  assay vex proposals --ended -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			all := client.List[vex.Proposal]{Items: []vex.Proposal{}}
			for after := ""; ; {
				var page client.List[vex.Proposal]
				if err := s.api().VEXProposals(cmd.Context(), after, 1000, ended, &page); err != nil {
					return err
				}
				all.Items = append(all.Items, page.Items...)
				if after = page.Next; after == "" {
					break
				}
			}
			return a.print(all, func(w io.Writer) { proposalTable(w, all.Items) })
		},
	}
	cmd.Flags().BoolVar(&ended, "ended", false, "also what was decided, or is too old")
	return cmd
}

func (a *app) vexApproveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "approve ID", Short: "Have the site state what another person proposed", Args: cobra.ExactArgs(1),
		Example: "  assay vex approve vexp_3f…",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			var e vex.Entry
			if err := s.api().ApproveVEX(cmd.Context(), args[0], &e); err != nil {
				return err
			}
			return a.print(e, func(w io.Writer) { vexTable(w, []vex.Entry{e}) })
		},
	}
}

func (a *app) vexRefuseCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "refuse ID", Short: "Refuse a proposed statement; it stays on record", Args: cobra.ExactArgs(1),
		Example: "  assay vex refuse vexp_3f… --reason 'the code is called'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usagef("want --reason: it is on record")
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			var p vex.Proposal
			if err := s.api().RefuseVEX(cmd.Context(), args[0], reason, &p); err != nil {
				return err
			}
			return a.print(p, func(w io.Writer) { proposalTable(w, []vex.Proposal{p}) })
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, on record (required)")
	return cmd
}
