package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"assay/artifact"
	"assay/attestation"
	"assay/client"
	"assay/sbom/overlay"

	"github.com/spf13/cobra"
)

func (a *app) sbomEnrichCommand() *cobra.Command {
	var f signFlags
	var file string
	c := &cobra.Command{
		Use:   "enrich TARGET --overlay FILE",
		Short: "Add to what is known of components, by a signed statement beside the document",
		Long: `Sign an overlay about TARGET: for components, by package URL with or without a
version, their owner, supplier, SPDX licence, end of life and day of publication,
each value with its source. Bills of materials are never changed by it; see
assay sbom enriched for what both say together.`,
		Example: `  assay sbom enrich --data ./data --subject ann@example.com --overlay owners.yaml 127.0.0.1:8484/team/app:v1`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if file == "" {
				return usagef("want --overlay FILE: what is to be added?")
			}
			in, err := os.Open(file)
			if err != nil {
				return usagef("--overlay: %w", err)
			}
			defer in.Close()
			b, err := io.ReadAll(io.LimitReader(in, overlay.MaxBytes+1))
			if err != nil {
				return err
			}
			o, err := overlay.Parse(b)
			if err != nil {
				return usagef("%s: %w", file, err)
			}
			predicate, err := o.Predicate()
			if err != nil {
				return err
			}
			s, err := a.connect(ctx, f.subject, f.token, false)
			if err != nil {
				return err
			}
			t, err := s.resolve(ctx, args[0])
			if err != nil {
				return err
			}
			signer, err := s.signing(ctx, &f)
			if err != nil {
				return err
			}
			statement, err := statementOf([]subject{{Name: t.name(), Digest: t.digest.Set()}}, attestation.PredicateSBOMOverlay, predicate)
			if err != nil {
				return err
			}
			bundle, err := signStatement(ctx, signer, statement)
			if err != nil {
				return err
			}
			return s.keep(ctx, &f, t, bundle, attestation.PredicateSBOMOverlay)
		},
	}
	f.register(c)
	c.Flags().StringVar(&file, "overlay", "", "YAML or JSON: components with purl, owner, supplier, license, endOfLife, published")
	return c
}

func (a *app) sbomEnrichedCommand() *cobra.Command {
	var as string
	var signers []string
	c := &cobra.Command{
		Use:   "enriched TARGET",
		Short: "What overlays add to an artifact's components, each value with its source and signer",
		Long: `Show what the overlays about TARGET that the server verified say of the
components in its stored bills of materials. Nothing wins: where overlays differ,
all values are shown and marked disputed. --signer leaves out what others signed.`,
		Example: `  assay sbom enriched 127.0.0.1:8484/team/app:v1
  assay sbom enriched --signer ann@example.com sha256:3f… -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			s, err := a.connect(ctx, as, "", true)
			if err != nil {
				return err
			}
			t, err := s.resolve(ctx, args[0])
			if err != nil {
				return err
			}
			facts, err := s.added(ctx, t.digest, signers)
			if err != nil {
				return err
			}
			return a.print(client.List[client.ComponentFact]{Items: facts}, func(w io.Writer) { addedRows(w, facts) })
		},
	}
	c.Flags().StringSliceVar(&signers, "signer", nil, "only overlays by this identity, or key fingerprint")
	c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return c
}

// added is all that overlays add to an artifact's components.
func (s *session) added(ctx context.Context, digest artifact.Digest, signers []string) ([]client.ComponentFact, error) {
	facts := []client.ComponentFact{}
	for after := ""; ; {
		page, err := s.api().Added(ctx, digest, signers, after)
		if err != nil {
			return nil, err
		}
		facts = append(facts, page.Items...)
		if after = page.Next; after == "" {
			return facts, nil
		}
	}
}

func addedRows(w io.Writer, facts []client.ComponentFact) {
	if len(facts) == 0 {
		fmt.Fprintln(w, "no overlay adds anything to its components")
		return
	}
	fmt.Fprintln(w, "COMPONENT\tFIELD\tVALUE\tSOURCE\tSIGNER")
	for _, f := range facts {
		value := f.Value
		if f.Disputed {
			value += " (disputed)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", line(f.Component), line(f.Field), line(value), line(f.Source), line(f.Signer))
	}
}

// addedText is what overlays add to one component, on one line.
func addedText(facts []client.ComponentFact) string {
	var out []string
	for _, f := range facts {
		text := f.Field + ": " + f.Value
		if f.Disputed {
			text += " (disputed)"
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}
