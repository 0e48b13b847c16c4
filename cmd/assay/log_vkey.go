package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func (a *app) logVKey() *cobra.Command {
	return &cobra.Command{
		Use:   "vkey",
		Short: "Write the log's keys as witnesses want them",
		Long: `Write the verifier keys (C2SP signed-note) by which the operator of a witness
registers this log: one of type Ed25519, which every witness knows, once
tlog.witnesses are configured, and the log's own P-256 key.`,
		Example: "  assay log vkey --data ./data",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.socket()
			if err != nil {
				return err
			}
			keys, err := c.VKeys(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(keys, func(w io.Writer) {
				for _, k := range keys {
					fmt.Fprintf(w, "%s\t%s\n", line(k.Use), line(k.VKey))
				}
			})
		},
	}
}
