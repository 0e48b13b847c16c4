package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) clusterListCommand() *cobra.Command {
	var as string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Clusters of which something was heard, when, and by whom",
		Long: `List the clusters of the inventory. One that was not heard of for 15 minutes is
silent: what ran there counts as running, and whether it does is not known. Ends with
2 when one is silent.`,
		Example: "  assay cluster list\n  assay cluster list --data ./data -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			list, err := s.api().Clusters(cmd.Context())
			if err != nil {
				return err
			}
			silent := false
			for _, c := range list.Items {
				silent = silent || c.Silent
			}
			if err := a.print(list, func(w io.Writer) {
				for _, c := range list.Items {
					state := "heard"
					if c.Silent {
						state = "silent"
					}
					fmt.Fprintf(w, "%-6s %s %s %s %s\n", state, line(c.Name), line(c.Environment), c.Seen.UTC().Format(time.RFC3339), line(c.Reporter))
				}
			}); err != nil {
				return err
			}
			if silent {
				return &exitError{2}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return cmd
}
