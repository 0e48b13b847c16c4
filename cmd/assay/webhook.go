package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// webhookCommand looks after what is sent to other systems. Hooks themselves are
// documents: see assay apply.
func (a *app) webhookCommand() *cobra.Command {
	var as string
	list := &cobra.Command{
		Use:     "deliveries [HOOK]",
		Short:   "What webhooks have not taken yet, and what was given up",
		Example: "  assay webhook deliveries\n  assay webhook deliveries ci -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			got, err := s.api().Deliveries(cmd.Context(), optional(args))
			if err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) {
				fmt.Fprintln(w, "HOOK\tEVENT\tKIND\tATTEMPTS\tNEXT\tPROBLEM")
				for _, d := range got {
					next := d.DueAt.Local().Format("2006-01-02 15:04:05")
					if d.GivenUp {
						next = "given up"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", line(d.Hook), line(d.Event), line(d.Kind), d.Attempts, next, line(d.Problem))
				}
			})
		},
	}
	again := &cobra.Command{
		Use:     "redeliver [HOOK]",
		Short:   "Send what was given up again, to one hook or all",
		Example: "  assay webhook redeliver ci",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			got, err := s.api().Redeliver(cmd.Context(), optional(args))
			if err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) { fmt.Fprintf(w, "sent again\t%d\n", got.Count) })
		},
	}
	for _, c := range []*cobra.Command{list, again} {
		c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	}
	return group("webhook", "Events on their way to other systems", list, again)
}

func optional(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
