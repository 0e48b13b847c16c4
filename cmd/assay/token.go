package main

import (
	"fmt"
	"io"
	"time"

	"assay/client"

	"github.com/spf13/cobra"
)

func (a *app) tokenCommand() *cobra.Command {
	var subject, audience string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "token --data DIR --subject SUBJECT",
		Short: "Ask the running server for a short-lived identity token",
		Long: `Ask the running server, over its admin socket, for a token of the local
issuer. It lives at most ten minutes, is for one audience, and is audited.
Tokens of the local issuer are for this machine: no protected profile trusts
them.`,
		Example: `  # log in with docker, crane, oras or cosign
  assay token --data ./data --subject me@example.com | crane auth login 127.0.0.1:8484 -u assay --password-stdin

  # sign keyless with cosign
  cosign sign --identity-token "$(assay token --data ./data --subject me@example.com --audience sigstore)" IMAGE`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.data == "" || subject == "" {
				return usagef("want --data DIR (ASSAY_DATA) and --subject SUBJECT")
			}
			switch audience {
			case "sigstore", "assay-registry", "assay-api":
			default:
				return usagef("--audience %q: want sigstore, assay-registry or assay-api", clean(audience))
			}
			if ttl < time.Second || ttl > 10*time.Minute {
				return usagef("--ttl %s: want from 1s to 10m", ttl)
			}
			s, err := a.connect(cmd.Context(), subject, "", true)
			if err != nil {
				return err
			}
			t, err := s.admin.Mint(cmd.Context(), client.TokenRequest{Subject: subject, Audience: audience, TTL: int(ttl.Seconds())})
			if err != nil {
				return err
			}
			return a.print(t, func(w io.Writer) { fmt.Fprintln(w, t.Token) })
		},
	}
	cmd.Flags().StringVar(&subject, "subject", "", "who the token is for, for example me@example.com")
	cmd.Flags().StringVar(&audience, "audience", "assay-registry", "what it is for: sigstore, assay-registry or assay-api")
	complete(cmd, "audience", "assay-registry", "sigstore", "assay-api")
	cmd.Flags().DurationVar(&ttl, "ttl", 5*time.Minute, "how long it lives, at most 10m")
	return cmd
}
