package main

import (
	"fmt"
	"io"

	"assay/artifact"

	"github.com/spf13/cobra"
)

func (a *app) registryScrub() *cobra.Command {
	var as string
	c := &cobra.Command{
		Use:   "scrub [DIGEST]",
		Short: "Hash stored blobs now; ends with 1 when one is damaged",
		Long: `Scrub hashes one blob, or all of them, without waiting for the next round. What
is damaged is quarantined in every repository. What was damaged and is right
again, since its file was put back from a backup, is released.`,
		Example: "  assay registry scrub\n  assay registry scrub sha256:3f… -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d artifact.Digest
			if len(args) == 1 {
				var err error
				if d, err = artifact.ParseDigest(args[0]); err != nil {
					return usagef("%w", err)
				}
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			got, err := s.api().Scrub(cmd.Context(), d)
			if err != nil {
				return err
			}
			if err := a.print(got, func(w io.Writer) {
				fmt.Fprintf(w, "checked\t%d blobs\n", got.Blobs)
				for _, f := range got.Findings {
					fmt.Fprintf(w, "damaged\t%s\tfound %s\n", line(string(f.Digest)), line(f.Found))
				}
			}); err != nil {
				return err
			}
			if len(got.Findings) > 0 {
				return &exitError{1}
			}
			return nil
		},
	}
	c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return c
}
