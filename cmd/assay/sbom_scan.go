package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/sbom"
	"assay/sbom/scan"

	"github.com/spf13/cobra"
)

// scanFlags are those of assay sbom TARGET.
type scanFlags struct {
	sign     signFlags
	output   string
	file     string
	platform string
	name     string
	temp     string
	attest   bool
	complete bool
	quiet    bool
}

const tableOutput = "table"

// sbomTargetCommand makes a document of what it is shown; its children work on
// documents.
func (a *app) sbomTargetCommand(children ...*cobra.Command) *cobra.Command {
	var f scanFlags
	c := &cobra.Command{
		Use:   "sbom TARGET",
		Short: "Bills of materials: make, convert, judge, compare, search",
		Long: `Make a bill of materials of TARGET: an image in a registry, an OCI layout, an
archive (docker save, tar, tar.gz, tar.zst, zip), a folder (a root file system or a
source tree), a program, a lock file, or "-" for standard input. A document of any
format is passed on in the format that is asked for. No server is needed.

What exists as a file is that file; all else is an image reference. Layers are read
as streams: nothing is unpacked.

What cannot be known makes the document incomplete, with the reason: it is told on
standard error, and with --require-complete the command ends with 1. An incomplete
document never counts as clean.

With --attest the document is signed as well, about the digest that it describes;
see assay attest for who signs.`,
		Example: `  assay sbom registry.example/team/app:v1 > app.cdx.json
  assay sbom -o spdx-json --file app.spdx.json ./app
  assay sbom -o table --require-complete .
  docker save app:v1 | assay sbom --name app -
  assay sbom --attest --data ./data --subject ci@example.com 127.0.0.1:8484/team/app:v1`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return a.scanTarget(cmd.Context(), &f, args[0])
		},
	}
	f.sign.register(c)
	fl := c.Flags()
	fl.StringVarP(&f.output, "output", "o", string(sbom.CycloneDXJSON), "cyclonedx-json[@1.6|@1.7], spdx-json, spdx3-json, or table")
	fl.StringVar(&f.file, "file", "", "write the document to this file")
	fl.StringVar(&f.platform, "platform", "", "of an index: OS/ARCHITECTURE[/VARIANT] (default linux and this machine's)")
	fl.StringVar(&f.name, "name", "", "what the document describes, by name; of standard input: what it would be called as a file")
	fl.StringVar(&f.temp, "temp-dir", "", "folder for large files of compressed layers (default the system's)")
	fl.BoolVar(&f.attest, "attest", false, "sign the document about the digest of TARGET")
	fl.BoolVar(&f.complete, "require-complete", false, "end with 1 when the document is incomplete")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "do not tell what is incomplete")
	complete(c, "output", "cyclonedx-json", "cyclonedx-json@1.7", "spdx-json", "spdx3-json", tableOutput)
	complete(c, "platform", "linux/amd64", "linux/arm64", "linux/arm/v7", "windows/amd64")
	c.AddCommand(children...)
	return c
}

func (a *app) scanTarget(ctx context.Context, f *scanFlags, text string) error {
	var format sbom.Format
	var version string
	if f.output != tableOutput {
		var err error
		if format, version, err = sbom.ParseFormat(f.output); err != nil {
			return usagef("--output: %w, or %s", err, tableOutput)
		}
	} else if f.attest || f.file != "" {
		return usagef("--output table is for reading: --attest and --file want a document's format")
	}
	s, err := a.scanSession(ctx, f, text)
	if err != nil {
		return err
	}
	d, t, err := s.scan(ctx, f, text)
	if err != nil {
		return err
	}
	if err := a.writeScan(ctx, s, f, d, t, format, version); err != nil {
		return err
	}
	if len(d.Incomplete) == 0 {
		return nil
	}
	if !f.quiet {
		for _, why := range d.Incomplete[:min(len(d.Incomplete), 20)] {
			a.notef("incomplete: %s\n", line(why))
		}
		if more := len(d.Incomplete) - 20; more > 0 {
			a.notef("incomplete: for %d more reasons\n", more)
		}
	}
	if f.complete {
		return &exitError{1}
	}
	return nil
}

// scanSession connects where a server is of use: to sign, or to pull with its
// own tokens. One that does not answer keeps nobody from reading a file, or
// another registry.
func (a *app) scanSession(ctx context.Context, f *scanFlags, text string) (*session, error) {
	_, err := os.Stat(text)
	local := err == nil || text == "-"
	if !local || f.attest {
		s, err := a.connect(ctx, f.sign.subject, f.sign.token, false)
		if err == nil || f.attest {
			return s, err
		}
	}
	h, err := a.httpClient()
	return &session{app: a, http: h}, err
}

// scan reads TARGET. t is where an attestation about it belongs.
func (s *session) scan(ctx context.Context, f *scanFlags, text string) (*sbom.Document, *target, error) {
	now, err := sourceDate()
	if err != nil {
		return nil, nil, err
	}
	o := scan.Options{Platform: f.platform, Tool: "assay " + version(), Now: now, TempDir: f.temp, NoDocuments: f.attest}
	if terminal(s.app.stderr) && !f.quiet {
		o.Progress = func(what string) { s.app.notef("\r\x1b[Kreading %s", line(what)) }
		defer s.app.notef("\r\x1b[K")
	}
	var d *sbom.Document
	t := &target{text: text}
	if text == "-" {
		d, err = scan.Reader(ctx, s.app.stdin, or(f.name, "standard-input"), o)
	} else if _, statErr := os.Stat(text); statErr == nil {
		t.file = text
		d, err = scan.Path(ctx, text, o)
	} else {
		var ref artifact.Reference
		short := false // for an image of the server's registry, or a file's name that is wrong
		if ref, err = artifact.ParseReference(text); err != nil && s.status != nil && s.status.Services.Registry != "" {
			short = true
			ref, err = artifact.ParseReference(s.status.Services.Registry + "/" + text)
		}
		if err != nil {
			return nil, nil, usagef("%q is no file, no folder and no image reference (HOST/REPOSITORY[:TAG][@DIGEST])", clean(text))
		}
		if ref.Tag == "" && ref.Digest == "" {
			ref.Tag = "latest"
		}
		t.image = &ref
		if d, err = scan.Image(ctx, s.registry(), ref, o); err != nil && short {
			err = fmt.Errorf("%s is no file or folder here, and was looked for as an image: %w", line(text), err)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if f.name != "" {
		d.Name = f.name
		if c := d.Component("assay:subject"); c != nil {
			c.Name = f.name
		}
	}
	return d, t, nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// sourceDate is when a document is made: SOURCE_DATE_EPOCH, where a build is to
// be reproducible, else now.
func sourceDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Now().UTC().Truncate(time.Second), nil
	}
	var n int64
	if _, err := fmt.Sscanf(text, "%d", &n); err != nil || n < 0 || fmt.Sprint(n) != text {
		return time.Time{}, usagef("SOURCE_DATE_EPOCH %q: want seconds since 1970", clean(text))
	}
	return time.Unix(n, 0).UTC(), nil
}

func (a *app) writeScan(ctx context.Context, s *session, f *scanFlags, d *sbom.Document, t *target, format sbom.Format, version string) error {
	if f.output == tableOutput {
		a.output = "table"
		return a.print(nil, func(w io.Writer) {
			fmt.Fprintln(w, "PACKAGE\tVERSION\tTYPE\tLICENCE\tWHERE")
			for _, c := range d.Packages() {
				where := ""
				if len(c.Locations) > 0 {
					where = c.Locations[0]
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", line(c.FullName()), line(c.Version), line(c.PURL.Type), line(strings.Join(c.Licenses, ", ")), line(where))
			}
		})
	}
	if !f.attest {
		if f.file == "" {
			return sbom.Write(a.stdout, d, format, version)
		}
		return writeDocument(f.file, d, format, version)
	}
	var b bytes.Buffer
	if err := sbom.Write(&b, d, format, version); err != nil {
		return err
	}
	if f.file != "" {
		if err := writeFile(f.file, b.Bytes()); err != nil {
			return err
		}
	}
	return s.attestSBOM(ctx, f, d, t, format, b.Bytes())
}

// writeDocument streams a document to a file, which is whole or not there.
func writeDocument(path string, d *sbom.Document, format sbom.Format, version string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".assay-sbom-")
	if err != nil {
		return usagef("--file: %w", err)
	}
	defer os.Remove(tmp.Name())
	err = sbom.Write(tmp, d, format, version)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// attestSBOM signs a document about the digest that it describes.
func (s *session) attestSBOM(ctx context.Context, f *scanFlags, d *sbom.Document, t *target, format sbom.Format, doc []byte) error {
	if err := describedDigest(d, t); err != nil {
		return err
	}
	uri := attestation.PredicateCycloneDX
	if format != sbom.CycloneDXJSON {
		uri = attestation.PredicateSPDX
	}
	signer, err := s.signing(ctx, &f.sign)
	if err != nil {
		return err
	}
	statement, err := statementOf([]subject{{Name: t.name(), Digest: t.digest.Set()}}, uri, doc)
	if err != nil {
		return err
	}
	b, err := signStatement(ctx, signer, statement)
	if err != nil {
		return err
	}
	return s.keep(ctx, &f.sign, t, b, uri)
}
