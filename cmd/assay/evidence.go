package main

import (
	"fmt"
	"io"

	"assay/client"

	"github.com/spf13/cobra"
)

func (a *app) evidenceCommand() *cobra.Command {
	var f client.EvidenceFilter
	var subject string
	list := &cobra.Command{
		Use:   "list [TARGET]",
		Short: "List verified signatures and attestations",
		Example: `  assay evidence list 127.0.0.1:8484/team/app:v1
  assay evidence list --type https://slsa.dev/provenance/v1 -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			s, err := a.connect(ctx, subject, "", true)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				t, err := s.resolve(ctx, args[0])
				if err != nil {
					return err
				}
				f.Digest = t.digest
			}
			page, err := s.api().Evidence(ctx, f)
			if err != nil {
				return err
			}
			return a.print(page, func(w io.Writer) {
				fmt.Fprintln(w, "ID\tSUBJECT\tTYPE\tSIGNER\tTIME\tLOG INDEX")
				for _, e := range page.Items {
					signer, index, kind := e.Identity, "-", e.PredicateType
					if signer == "" {
						signer = e.Key
					}
					if e.LogIndex != nil {
						index = fmt.Sprint(*e.LogIndex)
					}
					if kind == "" {
						kind = "(signature)"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", line(e.ID), line(e.Subject.Short()), line(kind), dash(signer), stamp(e.TrustedTime), index)
				}
				if page.Next != "" {
					fmt.Fprintf(w, "more: --after %s\n", line(page.Next))
				}
			})
		},
	}
	list.Flags().StringVar(&f.PredicateType, "type", "", "only this predicate type (a URI)")
	complete(list, "type", predicateTypes()...)
	list.Flags().StringVar(&f.Issuer, "issuer", "", "only signers of this OIDC issuer")
	list.Flags().StringVar(&f.Identity, "identity", "", "only this signer")
	list.Flags().StringVar(&f.After, "after", "", "continue after this cursor")
	list.Flags().IntVar(&f.Limit, "limit", 100, "at most so many")
	list.Flags().StringVar(&subject, "subject", "", "with --data: the local identity to read the registry as")
	get := &cobra.Command{
		Use:     "get ID",
		Short:   "Print a stored Sigstore bundle, byte for byte",
		Example: "  assay evidence get att_3f… > bundle.sigstore.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			b, err := s.api().Bundle(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(b)
			return err
		},
	}
	var repository string
	add := &cobra.Command{
		Use:     "add BUNDLE",
		Short:   "Hand a Sigstore bundle to the server, which verifies it first",
		Example: "  assay evidence add app.sigstore.json\n  assay evidence add --repository team/app provenance.sigstore.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := a.readInput(args[0], 24<<20)
			if err != nil {
				return err
			}
			s, err := a.connect(cmd.Context(), subject, "", true)
			if err != nil {
				return err
			}
			got, err := s.api().Ingest(cmd.Context(), b, repository)
			if err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) {
				for _, e := range got {
					fmt.Fprintf(w, "stored\t%s\tabout %s\n", line(e.ID), line(string(e.Subject)))
				}
			})
		},
	}
	add.Flags().StringVar(&repository, "repository", "", "whose evidence it is; without one a role of scope ** is needed")
	return group("evidence", "What is known of an artifact", list, get, add, a.coverageCommand())
}

// predicateTypes are the types that --type is likely to be.
func predicateTypes() []string {
	var out []string
	for _, p := range predicateNames {
		out = append(out, p.uri)
	}
	return out
}
