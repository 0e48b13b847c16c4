package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) registryGC() *cobra.Command {
	var as, grace string
	var dry bool
	c := &cobra.Command{
		Use:   "gc",
		Short: "Collect now what nothing needs: blobs, evidence of deleted images, abandoned uploads",
		Long: `The server collects by itself (registry.gc in its configuration). This does it
now. What nothing needs is marked first, and deleted by a collection after the
grace; a push that goes on meanwhile keeps what it needs.`,
		Example: "  assay registry gc --dry-run\n  assay registry gc -o json\n  assay registry gc --grace 0s   # the disk is full: do not wait for the grace",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			wait := time.Duration(-1)
			if grace != "" {
				var err error
				if wait, err = time.ParseDuration(grace); err != nil || wait < 0 {
					return usagef("--grace %q: want a time such as 24h, 90m or 0s", grace)
				}
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			got, err := s.api().GC(cmd.Context(), dry, wait)
			if err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) {
				deleted, freed := "deleted", "freed"
				if got.DryRun {
					deleted, freed = "would be deleted", "would be freed"
				}
				fmt.Fprintf(w, "looked at\t%d blobs\n", got.Seen)
				fmt.Fprintf(w, "%s\t%d blobs\n%s\t%d bytes\n", deleted, got.Deleted, freed, got.FreedBytes)
				fmt.Fprintf(w, "in their grace of %s\t%d blobs, %d bytes\n", got.Grace, got.Waiting, got.WaitingBytes)
				if !got.DryRun {
					fmt.Fprintf(w, "gone with what they belonged to\t%d manifests\n", got.Manifests)
				}
				if got.Locked > 0 {
					fmt.Fprintf(w, "kept by the object store\t%d blobs\n", got.Locked)
				}
				if got.Pinned != "" {
					fmt.Fprintf(w, "nothing deleted\t%s\n", line(got.Pinned))
				}
				for _, b := range got.Blobs {
					fmt.Fprintf(w, "%s\t%d\n", line(string(b.Digest)), b.Size)
				}
			})
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "tell what would be deleted, and delete nothing")
	c.Flags().StringVar(&grace, "grace", "", "how long what nothing needs is kept, instead of registry.gc.grace")
	c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return c
}
