package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"assay/artifact"
	"assay/client"
	"assay/sbom"

	"github.com/spf13/cobra"
)

// sbomView is what is shown of a document.
type sbomView struct {
	Format      string             `json:"format"`
	SpecVersion string             `json:"spec_version"`
	Name        string             `json:"name,omitempty"`
	Packages    int                `json:"packages"`
	Quality     client.SBOMQuality `json:"quality"`
	Problems    []string           `json:"problems,omitempty"`
}

func (a *app) sbomShowCommand() *cobra.Command {
	var least int
	var stored bool
	var as string
	c := &cobra.Command{
		Use:   "show FILE|TARGET",
		Short: "Judge a document, or all that the server holds about an artifact: how good, why, and what was added to it",
		Long: `Judge a bill of materials in FILE: what it holds, how good it is and why.

Of an artifact (an image or a digest, or with --stored a file that is no document)
the server's documents are shown, who signed each, how good it is, and beside them
what overlays add to their components: owner, supplier, licence, end of life, day
of publication, each value with its source and its signer.`,
		Example: `  assay sbom show app.cdx.json
  assay sbom show --min-quality 80 app.spdx.json || echo not good enough
  assay sbom show 127.0.0.1:8484/team/app:v1
  assay sbom show --stored ./app`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if stored || isArtifact(args[0]) {
				return a.sbomShowStored(cmd.Context(), args[0], as, least)
			}
			in, done, err := a.sbomFile(args[0])
			if err != nil {
				return err
			}
			defer done()
			d, q, err := sbom.Examine(in, sbom.Limits{Bytes: maxSBOM})
			if err != nil {
				return err
			}
			v := sbomView{
				Format: string(d.Format), SpecVersion: d.SpecVersion, Name: d.Name, Packages: q.Packages(), Problems: d.Problems,
				Quality: client.SBOMQuality{Score: q.Score, Incomplete: q.Incomplete},
			}
			for _, p := range q.Parts {
				v.Quality.Parts = append(v.Quality.Parts, client.SBOMQualityPart(p))
			}
			if err := a.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "format\t%s %s\nname\t%s\npackages\t%d\nquality\t%d of 100\n", v.Format, line(v.SpecVersion), line(v.Name), v.Packages, q.Score)
				for _, p := range v.Quality.Parts {
					fmt.Fprintf(w, "  %s\t%d of %d\t%s\n", p.Name, p.Have, p.Of, line(p.Reason))
				}
				for _, why := range q.Incomplete {
					fmt.Fprintf(w, "incomplete\t%s\n", line(why))
				}
				for _, p := range v.Problems {
					fmt.Fprintf(w, "problem\t%s\n", line(p))
				}
			}); err != nil {
				return err
			}
			if q.Score < least {
				a.notef("assay: quality %d is below %d\n", q.Score, least)
				return &exitError{1}
			}
			return nil
		},
	}
	c.Flags().IntVar(&least, "min-quality", 0, "end with 1 when the score is lower, or that of every document that is in force, 0 to 100")
	c.Flags().BoolVar(&stored, "stored", false, "FILE is an artifact: show what the server holds about it")
	c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return c
}

// isArtifact says whether a text is a digest or an image rather than a file: no
// document's name has a colon and is not there.
func isArtifact(text string) bool {
	if _, err := os.Stat(text); err == nil || text == "-" {
		return false
	}
	_, err := artifact.ParseReference(text)
	return err == nil || strings.Contains(text, ":")
}

// sbomStoredView is what the server holds about an artifact.
type sbomStoredView struct {
	Digest    artifact.Digest        `json:"digest"`
	Documents []client.SBOM          `json:"documents"`
	Added     []client.ComponentFact `json:"added"` // by overlays
}

func (a *app) sbomShowStored(ctx context.Context, target, as string, least int) error {
	s, err := a.connect(ctx, as, "", true)
	if err != nil {
		return err
	}
	t, err := s.resolve(ctx, target)
	if err != nil {
		return err
	}
	v := sbomStoredView{Digest: t.digest}
	if v.Documents, err = s.api().SBOMs(ctx, t.digest); err != nil {
		return err
	}
	if v.Added, err = s.added(ctx, t.digest, nil); err != nil {
		return err
	}
	best := -1
	for _, d := range v.Documents {
		if d.Problem == "" {
			best = max(best, d.Quality.Score)
		}
	}
	if err := a.print(v, func(w io.Writer) {
		if len(v.Documents) == 0 {
			fmt.Fprintf(w, "no bill of materials about %s is stored\n", v.Digest)
			return
		}
		sbomRows(w, v.Documents)
		for _, d := range v.Documents {
			for _, p := range d.Quality.Parts {
				if p.Reason != "" && d.Problem == "" {
					fmt.Fprintf(w, "%s\t%s\t%d of %d\t%s\n", line(d.Attestation), p.Name, p.Have, p.Of, line(p.Reason))
				}
			}
			for _, why := range d.Quality.Incomplete {
				fmt.Fprintf(w, "%s\tincomplete\t\t%s\n", line(d.Attestation), line(why))
			}
		}
		fmt.Fprintln(w)
		addedRows(w, v.Added)
	}); err != nil {
		return err
	}
	if least > 0 && best < least {
		if best < 0 {
			a.notef("assay: no bill of materials about it is in force\n")
		} else {
			a.notef("assay: quality %d is below %d\n", best, least)
		}
		return &exitError{1}
	}
	return nil
}
