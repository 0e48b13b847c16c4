package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"assay/attestation"
	"assay/client"
	"assay/internal/fault"
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
			all, err := s.overlays(ctx, t, signers)
			if err != nil {
				return err
			}
			var purls []string
			for q := (client.ComponentQuery{Subject: string(t.digest), Limit: 1000}); ; {
				page, err := s.api().Components(ctx, q)
				if err != nil {
					return err
				}
				for _, c := range page.Items {
					purls = append(purls, c.Component)
				}
				if q.After = page.Next; q.After == "" {
					break
				}
			}
			facts := overlay.Apply(purls, all)
			return a.print(client.List[overlay.Fact]{Items: append([]overlay.Fact{}, facts...)}, func(w io.Writer) {
				if len(facts) == 0 {
					fmt.Fprintf(w, "%d overlays add nothing to %d components\n", len(all), len(purls))
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
			})
		},
	}
	c.Flags().StringSliceVar(&signers, "signer", nil, "only overlays by this identity, or key fingerprint")
	c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return c
}

// maxOverlays is how many overlays about one artifact are read.
const maxOverlays = 100

// overlays reads those about an artifact that the server has verified.
func (s *session) overlays(ctx context.Context, t *target, signers []string) (all []overlay.Signed, err error) {
	page, err := s.api().Evidence(ctx, client.EvidenceFilter{Digest: t.digest, PredicateType: attestation.PredicateSBOMOverlay, Limit: maxOverlays})
	if err != nil {
		return nil, err
	}
	for _, e := range page.Items {
		signer := or(e.Identity, e.Key)
		if len(signers) > 0 && !slices.Contains(signers, signer) {
			continue
		}
		raw, err := s.api().Bundle(ctx, e.ID)
		if err != nil {
			return nil, err
		}
		b, err := attestation.ParseBundle(raw, attestation.DefaultLimits())
		if err != nil {
			return nil, err
		}
		env := b.Envelope()
		if env == nil {
			return nil, fault.Newf(fault.Invalid, "%s holds no statement", e.ID)
		}
		st, err := attestation.ParseStatement(env.Payload, attestation.DefaultLimits())
		if err != nil {
			return nil, err
		}
		o, err := overlay.ParsePredicate(st.Predicate)
		if err != nil {
			s.app.notef("assay: %s is left out: %s\n", e.ID, clean(err.Error()))
			continue
		}
		all = append(all, overlay.Signed{Overlay: o, Signer: signer, Attestation: e.ID})
	}
	return all, nil
}
