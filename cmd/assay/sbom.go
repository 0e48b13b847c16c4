package main

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"assay/artifact"
	"assay/client"
	"assay/internal/fault"
	"assay/sbom"

	"github.com/spf13/cobra"
)

// sbomCommand is what is done with bills of materials.
func (a *app) sbomCommand() *cobra.Command {
	return a.sbomTargetCommand(
		a.sbomConvertCommand(), a.sbomShowCommand(), a.sbomDiffCommand(), a.sbomListCommand(), a.sbomSearchCommand(), a.sbomEnrichCommand(), a.sbomEnrichedCommand())
}

// maxSBOM is how large a file the command line reads.
const maxSBOM = 2 << 30

// sbomFile opens a document to be read more than once; what comes by standard
// input is kept in a file that has no name. The caller calls done.
func (a *app) sbomFile(path string) (in io.ReadSeeker, done func(), err error) {
	// What lasts of a large document is letters, which cost a collection nothing:
	// collecting often keeps what a machine must have small.
	debug.SetGCPercent(30)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, nil, usagef("%w", err)
		}
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			return f, func() { f.Close() }, nil
		}
		defer f.Close() // a pipe
		return keptFile(f)
	}
	return keptFile(a.stdin)
}

func keptFile(r io.Reader) (io.ReadSeeker, func(), error) {
	f, err := os.CreateTemp("", "assay-sbom-")
	if err != nil {
		return nil, nil, fmt.Errorf("keep what is read: %w", err)
	}
	// Its name goes at once where a file may be removed that is open.
	_ = os.Remove(f.Name())
	done := func() { f.Close(); os.Remove(f.Name()) }
	n, err := io.Copy(f, io.LimitReader(r, maxSBOM+1))
	if err == nil && n > maxSBOM {
		err = fault.Newf(fault.TooLarge, "the document has more than %d bytes", int64(maxSBOM))
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return f, done, nil
}

// readList reads the output of a package manager.
func (a *app) readList(path, kind, distro string) (*sbom.Document, error) {
	in := a.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usagef("%w", err)
		}
		defer f.Close()
		in = f
	}
	return sbom.ReadList(in, sbom.ListKind(kind), sbom.ListOptions{Distro: distro, Limits: sbom.Limits{Bytes: maxSBOM}})
}

// convertSBOM writes a document, or a list, in a format.
func (a *app) convertSBOM(path, kind, distro string, format sbom.Format, version string) ([]string, error) {
	if kind != "" {
		d, err := a.readList(path, kind, distro)
		if err != nil {
			return nil, err
		}
		return d.Problems, sbom.Write(a.stdout, d, format, version)
	}
	in, done, err := a.sbomFile(path)
	if err != nil {
		return nil, err
	}
	defer done()
	head, err := sbom.Convert(a.stdout, in, sbom.Limits{Bytes: maxSBOM}, format, version)
	return head.Problems, err
}

func listKinds() []string {
	out := make([]string, len(sbom.ListKinds))
	for i, k := range sbom.ListKinds {
		out[i] = string(k)
	}
	return out
}

func fixed(values ...string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) sbomConvertCommand() *cobra.Command {
	var to, kind, distro string
	c := &cobra.Command{
		Use:   "convert FILE",
		Short: "Write a document in another format, or a package list as a document",
		Long: `Reads CycloneDX 1.2 to 1.7 (JSON, XML), SPDX 2.2 and 2.3 (JSON, tag-value) and
SPDX 3.0.1, and writes CycloneDX 1.6 or 1.7, SPDX 2.3 or SPDX 3.0.1. With --list it
reads the output of a package manager, for systems that no scanner runs on; name
their distribution with --distro, since advisories are by release.`,
		Example: `  assay sbom convert --to spdx-json app.cdx.json
  dpkg -l | assay sbom convert --list dpkg --distro debian-12 -
  npm ls --all --json | assay sbom convert --list npm --to cyclonedx-json@1.7 -`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			format, version, err := sbom.ParseFormat(to)
			if err != nil {
				return usagef("--to: %w", err)
			}
			problems, err := a.convertSBOM(args[0], kind, distro, format, version)
			for _, p := range problems {
				a.notef("note: %s\n", line(p))
			}
			return err
		},
	}
	c.Flags().StringVar(&to, "to", string(sbom.CycloneDXJSON), "format, with @VERSION where there are several")
	c.Flags().StringVar(&kind, "list", "", "FILE is the output of: "+strings.Join(listKinds(), ", "))
	c.Flags().StringVar(&distro, "distro", "", "with --list: the distribution and its release, for example debian-12")
	_ = c.RegisterFlagCompletionFunc("to", fixed("cyclonedx-json", "cyclonedx-json@1.7", "spdx-json", "spdx3-json"))
	_ = c.RegisterFlagCompletionFunc("list", fixed(listKinds()...))
	return c
}

func (a *app) sbomDiffCommand() *cobra.Command {
	quiet := false
	c := &cobra.Command{
		Use:     "diff BEFORE AFTER",
		Short:   "Compare the packages of two documents, of any formats; ends with 1 when they differ",
		Example: "  assay sbom diff v1.cdx.json v2.spdx.json\n  assay sbom diff -o json v1.cdx.json v2.cdx.json",
		Args:    cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			before, done, err := a.sbomFile(args[0])
			if err != nil {
				return err
			}
			defer done()
			after, done, err := a.sbomFile(args[1])
			if err != nil {
				return err
			}
			defer done()
			d, err := sbom.DiffFiles(before, after, sbom.Limits{Bytes: maxSBOM})
			if err != nil {
				return err
			}
			if !quiet {
				if err := a.print(d, func(w io.Writer) {
					for _, part := range []struct {
						mark string
						all  []sbom.Change
					}{{"+", d.Added}, {"-", d.Removed}, {"~", d.Changed}, {"licence", d.Licenses}} {
						for _, c := range part.all {
							fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", part.mark, line(c.Package), line(strings.Join(c.Before, " ")), line(strings.Join(c.After, " ")))
						}
					}
					fmt.Fprintf(w, "same\t%d\n", d.Same)
				}); err != nil {
					return err
				}
			}
			if !d.Empty() {
				return &exitError{1}
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing")
	return c
}

func (a *app) sbomListCommand() *cobra.Command {
	var subject string
	c := &cobra.Command{
		Use:     "list DIGEST",
		Short:   "Documents that the server holds about an artifact",
		Example: "  assay sbom list sha256:3f…",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := artifact.ParseDigest(args[0])
			if err != nil {
				return usagef("%w", err)
			}
			s, err := a.connect(cmd.Context(), subject, "", true)
			if err != nil {
				return err
			}
			got, err := s.api().SBOMs(cmd.Context(), d)
			if err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) {
				sbomRows(w, got)
			})
		},
	}
	c.Flags().StringVar(&subject, "subject", "", "with --data: the local identity to ask as")
	return c
}

// sbomRows is a table of stored documents.
func sbomRows(w io.Writer, all []client.SBOM) {
	fmt.Fprintln(w, "ATTESTATION\tFORMAT\tPACKAGES\tQUALITY\tSIGNER\tSTATE")
	for _, one := range all {
		state := "in force"
		if one.Problem != "" {
			state = "refused: " + one.Problem
		} else if len(one.Quality.Incomplete) > 0 {
			state = "in force, incomplete"
		}
		fmt.Fprintf(w, "%s\t%s %s\t%d\t%d\t%s\t%s\n", line(one.Attestation), line(one.Format), line(one.SpecVersion), one.Packages, one.Quality.Score, line(one.Identity), line(state))
	}
}

func (a *app) sbomSearchCommand() *cobra.Command {
	var q client.ComponentQuery
	var as string
	c := &cobra.Command{
		Use:   "search [PURL]",
		Short: "Find components in everything that is stored",
		Example: `  assay sbom search pkg:maven/org.apache.logging.log4j/log4j-core
  assay sbom search --name 'openssl*' --version 3.0.11
  assay sbom search --license AGPL-3.0-only -o json
  assay sbom search --owner team-a`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				q.PURL = args[0]
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			got, err := s.api().Components(cmd.Context(), q)
			if err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) {
				fmt.Fprintln(w, "COMPONENT\tLICENCE\tDEPENDENCY\tARTIFACT\tADDED")
				for _, one := range got.Items {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", line(one.Component), line(or(one.License, "-")), line(one.Dependency), line(string(one.Subject)), line(addedText(one.Added)))
				}
				if got.Next != "" {
					fmt.Fprintf(w, "more: --after %s\n", line(got.Next))
				}
			})
		},
	}
	f := c.Flags()
	f.StringVar(&q.Name, "name", "", "the component's whole name, or its beginning and *")
	f.StringVar(&q.Version, "version", "", "exactly this version")
	f.StringVar(&q.License, "license", "", "an SPDX identifier that the licence names, the document's or an overlay's")
	f.StringVar(&q.Owner, "owner", "", "the owner that an overlay names")
	f.StringVar(&q.Supplier, "supplier", "", "the supplier that an overlay names")
	f.StringVar(&q.Digest, "digest", "", "of the component, ALGORITHM:HEX")
	f.StringVar(&q.Subject, "in", "", "only in this artifact, sha256:…")
	f.StringVar(&q.After, "after", "", "continue after this cursor")
	f.IntVar(&q.Limit, "limit", 100, "at most so many")
	f.StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return c
}
