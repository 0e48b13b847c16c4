package main

import (
	"cmp"
	"fmt"
	"io"

	"assay/action"
	"assay/client"

	"github.com/spf13/cobra"
)

func (a *app) actionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "action", Aliases: []string{"actions"}, Short: "What the site would do by itself to much of what runs, and waits for a person with",
		Long: `A quarantine for a malicious package, or a bundle of policies that is followed, is not
carried out by itself where it touches more of the running workloads than the
configuration allows (action.share). It waits until a person approves or refuses it.
While a quarantine waits nothing new may run the artifact; what runs goes on. While a
bundle waits the version before stays in force.`,
	}
	cmd.AddCommand(a.actionListCommand(), a.actionShowCommand(),
		a.actionAnswerCommand("approve", "Have it carried out", "  assay action approve act_4k2q… --reason 'the package is malicious, INC-44'", false),
		a.actionAnswerCommand("refuse", "Let go of it: it is not done, and what waited for it may run again", "  assay action refuse act_4k2q… --reason 'the feed names the wrong package'", true))
	return cmd
}

func actionTable(w io.Writer, all []action.Entry) {
	fmt.Fprintln(w, "ID\tKIND\tSTATE\tDIGEST\tTOUCHES\tSHARE\tSINCE\tDUE\tANSWERED BY\tREASON")
	for i := range all {
		e := &all[i]
		state := e.State
		if e.Overdue {
			state += ", overdue"
		}
		due := "-"
		if !e.Due.IsZero() {
			due = stamp(e.Due)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d of %d\t%d%%\t%s\t%s\t%s\t%s\n", line(e.ID), line(string(e.Kind)), line(state), line(string(e.Digest))[:min(19, len(e.Digest))], e.Touched, e.Running, e.Share, stamp(e.At), due, line(cmp.Or(e.DecidedBy, "-")), line(e.Reason))
	}
	if len(all) == 0 {
		fmt.Fprintln(w, "nothing waits")
	}
}

func (a *app) actionListCommand() *cobra.Command {
	var everything bool
	cmd := &cobra.Command{
		Use: "list", Short: "What waits; with --all, also what was answered or done without a question", Args: cobra.NoArgs,
		Example: "  assay action list\n  assay action list --all -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			all := client.List[action.Entry]{Items: []action.Entry{}}
			for after := ""; ; {
				var page client.List[action.Entry]
				if err := s.api().Actions(cmd.Context(), everything, after, 1000, &page); err != nil {
					return err
				}
				all.Items = append(all.Items, page.Items...)
				if after = page.Next; after == "" {
					break
				}
			}
			return a.print(all, func(w io.Writer) { actionTable(w, all.Items) })
		},
	}
	cmd.Flags().BoolVar(&everything, "all", false, "also what was answered, and what was done without a question")
	return cmd
}

func (a *app) actionShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show ID", Short: "One automatic action", Args: cobra.ExactArgs(1), Example: "  assay action show act_4k2q… -o yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			var e action.Entry
			if err := s.api().Action(cmd.Context(), args[0], &e); err != nil {
				return err
			}
			return a.print(e, func(w io.Writer) { actionTable(w, []action.Entry{e}) })
		},
		ValidArgsFunction: a.completeActions,
	}
	return cmd
}

func (a *app) actionAnswerCommand(verb, short, example string, why bool) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1), Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			if why && reason == "" {
				return usagef("want --reason: it is on record")
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			var e action.Entry
			if err := s.api().AnswerAction(cmd.Context(), args[0], verb, reason, &e); err != nil {
				return err
			}
			return a.print(e, func(w io.Writer) { actionTable(w, []action.Entry{e}) })
		},
		ValidArgsFunction: a.completeActions,
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, on record")
	return cmd
}

// completeActions offers what waits.
func (a *app) completeActions(cmd *cobra.Command, args []string, _ string) (out []string, _ cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	s, err := a.connect(cmd.Context(), "", "", true)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var page client.List[action.Entry]
	if err := s.api().Actions(cmd.Context(), false, "", 100, &page); err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for _, e := range page.Items {
		out = append(out, e.ID+"\t"+line(e.Reason))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
