package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"assay/artifact"
	"assay/source"

	"github.com/spf13/cobra"
)

func (a *app) sourceCompareCommand() *cobra.Command {
	var f sourceFlags
	q := source.CompareRequest{}
	cmd := &cobra.Command{
		Use:   "compare ARCHIVE TAG",
		Short: "Show where a release tarball departs from its tag",
		Long: `Compares the files of ARCHIVE (tar, gzip, bzip2, xz, zstd, zip) with what git
archive makes of TAG: files that were added, are missing, or have other content
or another mode. Files that export-ignore keeps out, and those that export-subst
fills in, are understood. Nothing is unpacked.

What autotools generate is shown as added and said to be so; --allow accepts
files that were looked at. Ends with 1 when something departs that is not
allowed.`,
		Example: `  assay source compare xz-5.6.1.tar.gz v5.6.1
  assay source compare app-1.0.tar.xz v1.0 --repo ~/src/app --allow configure --allow 'build-aux/**'
  assay source compare app-1.0.tar.gz v1.0 --attest --data ./data --subject ci@example.com`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Tag = args[1]
			return a.sourceCompare(cmd.Context(), &f, args[0], q)
		},
	}
	f.register(cmd)
	cmd.Flags().StringArrayVar(&q.Allow, "allow", nil, "files that may be added, as a pattern (* within a folder, ** for folders); can be repeated")
	cmd.Flags().Int64Var(&q.MaxBytes, "max-bytes", source.DefaultArchiveBytes, "bytes that the archive may unpack to")
	return cmd
}

func (a *app) sourceCompare(ctx context.Context, f *sourceFlags, name string, q source.CompareRequest) error {
	file, err := os.Open(name)
	if err != nil {
		return usagef("%w", err)
	}
	defer file.Close()
	if q.Digest, q.Size, err = artifact.SHA256Reader(file); err != nil {
		return undecided(err)
	}
	q.Name, q.Archive = filepath.Base(name), file
	r, err := source.OpenRepository(ctx, f.repo)
	if err != nil {
		return err
	}
	defer r.Close()
	c, err := source.Compare(ctx, r, q)
	if err != nil {
		return undecided(err)
	}
	if err := a.print(c, func(w io.Writer) { compareTable(w, c) }); err != nil {
		return err
	}
	if f.attest {
		if err := a.attestComparison(ctx, f, r, c); err != nil {
			return err
		}
	}
	if c.Differs {
		return &exitError{1}
	}
	return nil
}

func compareTable(w io.Writer, c *source.Comparison) {
	for _, d := range c.Departures {
		what := d.What
		if d.Allowed {
			what += " (allowed)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", what, dash(d.Path), line(d.Note))
	}
	if c.More > 0 {
		fmt.Fprintf(w, "and %d more\n", c.More)
	}
	verdict := "same"
	if c.Differs {
		verdict = "differs"
	}
	fmt.Fprintf(w, "tag\t%s (%s)\narchive\t%s\nsame files\t%d\nverdict\t%s\n", line(c.Tag), c.Commit, line(c.Archive), c.Same, verdict)
}

// attestComparison states the outcome about the archive; what was said already
// is not said again on standard output.
func (a *app) attestComparison(ctx context.Context, f *sourceFlags, r *source.Repository, c *source.Comparison) error {
	uri := f.uri
	if uri == "" {
		uri = r.URI(ctx)
	}
	st, err := c.Statement(uri, time.Now())
	if err != nil {
		return err
	}
	s, err := a.connect(ctx, f.sign.subject, f.sign.token, false)
	if err != nil {
		return err
	}
	quiet := *a
	quiet.stdout = a.stderr
	s.app = &quiet
	return s.stateSource(ctx, &f.sign, c.Archive, c.Digest, st)
}
