package main

import (
	"fmt"
	"io"

	"assay/client"

	"github.com/spf13/cobra"
)

func (a *app) ticketCommand() *cobra.Command {
	var q client.TicketQuery
	var as, target string
	list := &cobra.Command{
		Use:   "list",
		Short: "List what owners are told of artifacts that the gate holds back",
		Long: `List open tickets, the newest first: one for each artifact and cause, for the team
of its service. What nobody owns goes to the platform's team; --unowned lists that.

Ends with 1 when there are open ones.`,
		Example: "  assay ticket list\n  assay ticket list --team payments --closed",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			if target != "" {
				t, err := s.resolve(cmd.Context(), target)
				if err != nil {
					return err
				}
				q.Digest = t.digest
			}
			got, err := s.api().Tickets(cmd.Context(), q)
			if err != nil {
				return err
			}
			open := false
			for _, t := range got.Items {
				open = open || t.Closed == nil
			}
			if err := a.print(got, func(w io.Writer) {
				if len(got.Items) == 0 {
					fmt.Fprintln(w, "no tickets")
					return
				}
				fmt.Fprintln(w, "TICKET\tSTATE\tTEAM\tSERVICE\tARTIFACT\tCAUSE\tREASON\tUPGRADE")
				for _, t := range got.Items {
					state, team, upgrade := "open", dash(t.Team), "-"
					if t.Closed != nil {
						state = "closed " + t.Closed.Format("2006-01-02 15:04")
					}
					if !t.Owned {
						team += " (unowned)"
					}
					if len(t.Upgrades) > 0 {
						upgrade = t.Upgrades[0].Component + " to " + t.Upgrades[0].To
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", line(t.ID), state, line(team), dash(t.Service), line(string(t.Digest)), line(t.Cause), line(t.Reason), line(upgrade))
				}
			}); err != nil {
				return err
			}
			if open {
				return &exitError{1}
			}
			return nil
		},
	}
	f := list.Flags()
	f.StringVar(&q.Team, "team", "", "of this team")
	f.StringVar(&q.Service, "service", "", "of this service")
	f.StringVar(&target, "artifact", "", "about this artifact")
	f.BoolVar(&q.Unowned, "unowned", false, "of nobody's alone")
	f.BoolVar(&q.Closed, "closed", false, "also those that are closed")
	f.IntVar(&q.Limit, "limit", 100, "at most so many")
	show := &cobra.Command{
		Use:     "show ID",
		Short:   "Show a ticket, with what mends it",
		Example: "  assay ticket show tkt_…",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			t, err := s.api().Ticket(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(t, func(w io.Writer) { showTicket(w, t) })
		},
	}
	c := &cobra.Command{Use: "ticket", Short: "What owners are told of artifacts that the gate holds back", Example: "  assay ticket list\n  assay ticket show tkt_…"}
	for _, sub := range []*cobra.Command{list, show} {
		sub.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
		c.AddCommand(sub)
	}
	return c
}

func showTicket(w io.Writer, t *client.Ticket) {
	fmt.Fprintf(w, "ticket\t%s\nartifact\t%s\nrepository\t%s\ncause\t%s\nreason\t%s\nservice\t%s\nteam\t%s\n", line(t.ID), line(string(t.Digest)), dash(t.Repository), line(t.Cause), line(t.Reason), dash(t.Service), dash(t.Team))
	if !t.Owned {
		fmt.Fprintln(w, "owner\tnobody: it went to the platform's team")
	}
	for _, c := range t.Contacts {
		fmt.Fprintf(w, "contact\t%s\n", line(c))
	}
	for _, u := range t.Upgrades {
		fmt.Fprintf(w, "upgrade\t%s to %s, mends %s, leaves %s\n", line(u.Component), line(u.To), someOf(u.Flaws), someOf(u.Left))
	}
	for _, m := range t.Mend {
		fmt.Fprintf(w, "mend\t%s\n", line(m))
	}
	fmt.Fprintf(w, "opened\t%s\n", t.Opened.Format("2006-01-02 15:04:05"))
	if t.Closed != nil {
		fmt.Fprintf(w, "closed\t%s: %s\n", t.Closed.Format("2006-01-02 15:04:05"), line(t.Why))
	}
}
