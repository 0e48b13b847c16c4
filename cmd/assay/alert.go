package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"assay/alert"
	"assay/client"
	"assay/internal/fault"

	"github.com/spf13/cobra"
)

func (a *app) alertCommand() *cobra.Command {
	var as string
	// ask makes a command that asks the server.
	ask := func(use, short, example string, args cobra.PositionalArgs, run func(cmd *cobra.Command, c *client.Client, args []string) error) *cobra.Command {
		cmd := &cobra.Command{Use: use, Short: short, Example: example, Args: args}
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			return run(cmd, s.named(), args)
		}
		cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
		return cmd
	}
	note, all := "", false
	ack := ask("ack ALERT", "Say that you deal with an alert and the others of its group", "  assay alert ack alr_… --note \"looking\"", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		got, err := c.Acknowledge(cmd.Context(), args[0], client.AlertNote{Note: note})
		return a.oneAlert(got, err)
	})
	ack.Flags().StringVar(&note, "note", "", "for the others")
	resolve := ask("resolve ALERT", "Say that an alert is over", "  assay alert resolve alr_…", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		got, err := c.ResolveAlert(cmd.Context(), args[0])
		return a.oneAlert(got, err)
	})
	show := ask("show ALERT", "Show an alert, with its runbook and the command that acts", "  assay alert show alr_…", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		got, err := c.Alert(cmd.Context(), args[0])
		return a.oneAlert(got, err)
	})
	silences := ask("silences", "Silences in force", "  assay alert silences --all", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		got, err := c.Silences(cmd.Context(), all)
		if err != nil {
			return err
		}
		return a.print(got, func(w io.Writer) {
			if len(got) == 0 {
				fmt.Fprintln(w, "no silences")
				return
			}
			fmt.Fprintln(w, "SILENCE\tMATCHES\tOWNER\tEXPIRES\tREASON")
			for _, s := range got {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", line(s.ID), line(matches(&s)), line(s.Owner), s.Expires.Local().Format("2006-01-02 15:04"), line(s.Reason))
			}
		})
	})
	silences.Flags().BoolVar(&all, "all", false, "also those that ended within 30 days")
	unsilence := ask("unsilence SILENCE", "End a silence before its time", "  assay alert unsilence sil_…", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		got, err := c.EndSilence(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return a.print(got, func(w io.Writer) { fmt.Fprintf(w, "%s\tended\n", line(got.ID)) })
	})
	rules := ask("rules", "When alerts are opened", "  assay alert rules", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		got, err := c.AlertRules(cmd.Context())
		if err != nil {
			return err
		}
		return a.print(got, func(w io.Writer) {
			fmt.Fprintln(w, "RULE\tSEVERITY\tWHAT\tWHY")
			for _, r := range got {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.ID, r.Severity, r.Title, r.Why)
			}
		})
	})
	receivers := ask("receivers", "Who is told of alerts", "  assay alert receivers", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		got, err := c.Receivers(cmd.Context())
		if err != nil {
			return err
		}
		return a.print(got, func(w io.Writer) {
			if len(got) == 0 {
				fmt.Fprintln(w, "no receivers: nobody is told of alerts; apply a document of kind Receiver")
				return
			}
			fmt.Fprintln(w, "RECEIVER\tTYPE\tSEVERITIES\tTEAMS\tDEFAULT\tESCALATION")
			for _, r := range got {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%t\t%t\n", line(r.Name), r.Type, strings.Join(r.Severities, ","), dash(strings.Join(r.Teams, ",")), r.Default, r.Escalation)
			}
		})
	})
	deliveries := ask("deliveries [GROUP]", "What receivers were told, the newest first", "  assay alert deliveries", cobra.MaximumNArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		got, err := c.Notices(cmd.Context(), optional(args))
		if err != nil {
			return err
		}
		return a.print(got, func(w io.Writer) { notices(w, got) })
	})
	test := ask("test RECEIVER", "Send a test to a receiver, and say how it went", "  assay alert test oncall", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Client, args []string) error {
		got, err := c.TestReceiver(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if err := a.print(got, func(w io.Writer) { notices(w, []client.Notice{*got}) }); err != nil {
			return err
		}
		if got.Taken == nil {
			return &exitError{1}
		}
		return nil
	})
	return group("alert", "What is wrong, and who is told", a.alertListCommand(ask), a.alertGroupsCommand(ask), show, ack, resolve, a.silenceCommand(ask), silences, unsilence, rules, receivers, deliveries, test)
}

// alertGroupsCommand lists what a person deals with at once.
func (a *app) alertGroupsCommand(ask asking) *cobra.Command {
	all, limit := false, 0
	cmd := ask("groups", "List what is wrong by service and release, pages first; ends with 1 when there is something", "  assay alert groups", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		got, err := c.AlertGroups(cmd.Context(), all, limit)
		if err != nil {
			return err
		}
		open := false
		if err := a.print(got, func(w io.Writer) {
			if len(got) == 0 {
				fmt.Fprintln(w, "no alerts")
				return
			}
			fmt.Fprintln(w, "GROUP\tSEVERITY\tSERVICE\tRELEASE\tTEAM\tOPENED\tALERTS\tOPEN\tWAITING\tNEWEST")
			for i := range got {
				g := &got[i]
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", line(g.ID), g.Severity, dash(line(g.Service)), dash(line(g.Release)), dash(line(g.Team)), g.Opened.Local().Format("2006-01-02 15:04"), g.Total, g.Open, g.Waiting, line(g.Newest.Title))
			}
		}); err != nil {
			return err
		}
		for i := range got {
			open = open || got[i].Open > 0
		}
		if open {
			return &exitError{1}
		}
		return nil
	})
	cmd.Flags().BoolVar(&all, "all", false, "also those that are over")
	cmd.Flags().IntVar(&limit, "limit", 0, "at most so many; default 100")
	return cmd
}

type asking func(use, short, example string, args cobra.PositionalArgs, run func(*cobra.Command, *client.Client, []string) error) *cobra.Command

func (a *app) alertListCommand(ask asking) *cobra.Command {
	var q client.AlertQuery
	cmd := ask("list", "List what is wrong, the newest first; ends with 1 when there is something", "  assay alert list\n  assay alert list --severity page --team payments", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		got, err := c.Alerts(cmd.Context(), q)
		if err != nil {
			return err
		}
		open := false
		if err := a.print(got, func(w io.Writer) {
			if len(got) == 0 {
				fmt.Fprintln(w, "no alerts")
				return
			}
			fmt.Fprintln(w, "ALERT\tSEVERITY\tSTATE\tRULE\tSERVICE\tTEAM\tSINCE\tCOUNT\tWHAT")
			for _, x := range got {
				state, team := x.State, dash(x.Team)
				if x.Silence != "" {
					state += " (silenced)"
				}
				if !x.Owned {
					team += " (unowned)"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", x.ID, x.Severity, state, x.Rule, dash(x.Service), line(team), x.Since.Local().Format("2006-01-02 15:04"), x.Count, line(x.Title+": "+x.Summary))
			}
		}); err != nil {
			return err
		}
		for _, x := range got {
			open = open || x.Resolved == nil
		}
		if open {
			return &exitError{1}
		}
		return nil
	})
	f := cmd.Flags()
	f.StringVar(&q.State, "state", "", "firing, acknowledged or resolved")
	f.StringVar(&q.Severity, "severity", "", "page or ticket")
	f.StringVar(&q.Rule, "rule", "", "of this rule")
	f.StringVar(&q.Service, "service", "", "of this service")
	f.StringVar(&q.Team, "team", "", "of this team")
	f.StringVar(&q.Group, "group", "", "of this group")
	f.StringVar(&q.Digest, "digest", "", "about this artifact")
	f.BoolVar(&q.Unowned, "unowned", false, "of nobody's alone")
	f.BoolVar(&q.All, "all", false, "also those that are over")
	f.IntVar(&q.Limit, "limit", 100, "at most so many")
	completeSeverity(cmd)
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{"firing", "acknowledged", "resolved"}, cobra.ShellCompDirectiveNoFileComp)) // fails for flags that do not exist
	return cmd
}

func completeSeverity(cmd *cobra.Command) {
	_ = cmd.RegisterFlagCompletionFunc("severity", cobra.FixedCompletions([]string{"page", "ticket"}, cobra.ShellCompDirectiveNoFileComp)) // fails for flags that do not exist
	_ = cmd.RegisterFlagCompletionFunc("rule", func(*cobra.Command, []string, string) (out []string, _ cobra.ShellCompDirective) {
		for _, r := range alert.Rules() {
			out = append(out, r.ID)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	})
}

func (a *app) silenceCommand(ask asking) *cobra.Command {
	var s client.Silence
	var life time.Duration
	cmd := ask("silence", "Keep notices back for a time; you own the silence", "  assay alert silence --rule finding --service checkout --for 24h --reason \"upgrade on Monday\"", cobra.NoArgs, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		if life <= 0 || s.Reason == "" {
			return fault.Newf(fault.Invalid, "want --for, for how long, and --reason, why")
		}
		s.Expires = time.Now().Add(life).UTC().Truncate(time.Second)
		got, err := c.Silence(cmd.Context(), s)
		if err != nil {
			return err
		}
		return a.print(got, func(w io.Writer) {
			fmt.Fprintf(w, "%s\tuntil %s\t%s\n", got.ID, got.Expires.Local().Format("2006-01-02 15:04"), line(matches(got)))
		})
	})
	f := cmd.Flags()
	f.StringVar(&s.Rule, "rule", "", "alerts of this rule")
	f.StringVar(&s.Severity, "severity", "", "page or ticket; without, a silence that may keep pages back lasts 24 h at most")
	f.StringVar(&s.Service, "service", "", "of this service")
	f.StringVar(&s.Team, "team", "", "of this team")
	f.StringVar(&s.Cluster, "cluster", "", "of this cluster")
	f.StringVar(&s.Artifact, "digest", "", "about this artifact")
	f.DurationVar(&life, "for", 0, "how long")
	f.StringVar(&s.Reason, "reason", "", "why")
	completeSeverity(cmd)
	return cmd
}

func matches(s *client.Silence) string {
	var out []string
	for _, m := range [][2]string{{"rule", s.Rule}, {"severity", s.Severity}, {"service", s.Service}, {"team", s.Team}, {"cluster", s.Cluster}, {"artifact", s.Artifact}} {
		if m[1] != "" {
			out = append(out, m[0]+"="+m[1])
		}
	}
	return strings.Join(out, " ")
}

func notices(w io.Writer, all []client.Notice) {
	fmt.Fprintln(w, "RECEIVER\tOCCASION\tGROUP\tSTATE\tATTEMPTS\tPROBLEM")
	for _, n := range all {
		state := "waits until " + n.Due.Local().Format("2006-01-02 15:04:05")
		switch {
		case n.Taken != nil:
			state = "taken " + n.Taken.Local().Format("2006-01-02 15:04:05")
		case n.GivenUp:
			state = "given up"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", line(n.Receiver), line(n.Occasion), line(n.Group), state, n.Attempts, dash(n.Problem))
	}
}

func (a *app) oneAlert(x *client.Alert, err error) error {
	if err != nil {
		return err
	}
	return a.print(x, func(w io.Writer) {
		row := func(name, value string) {
			if value != "" {
				fmt.Fprintf(w, "%s\t%s\n", name, line(value))
			}
		}
		row("alert", x.ID)
		row("what", x.Title)
		row("summary", x.Summary)
		row("state", x.State)
		row("severity", x.Severity)
		row("rule", x.Rule)
		row("artifact", x.Artifact)
		row("about", x.About)
		row("service", x.Service)
		row("release", x.Release)
		row("team", x.Team)
		row("since", x.Since.Local().Format(time.RFC3339))
		row("count", fmt.Sprint(x.Count))
		row("acknowledged by", x.AcknowledgedBy)
		row("note", x.Note)
		row("silence", x.Silence)
		row("runbook", "docs/"+x.Runbook)
		row("command", x.Command)
		for _, e := range x.Evidence {
			row("evidence", e)
		}
	})
}
