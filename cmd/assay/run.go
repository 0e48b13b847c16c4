package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"assay/artifact"
	"assay/builder"
	"assay/internal/fault"

	"github.com/spf13/cobra"
)

func (a *app) runCommand() *cobra.Command {
	var f signFlags
	var o builder.Options
	var image, builderID string
	cmd := &cobra.Command{
		Use:                   "run --products FILE … [--materials PATH …] [--image REF] [flags] -- COMMAND [ARG …]",
		DisableFlagsInUseLine: true,
		Short:                 "Wrap a build and attest what it made",
		Long: `Run a build command, record what went in and what came out, and sign SLSA
provenance about each product. The build's own output goes through untouched
and its exit code is kept. A failed build is never attested.

With --image the products become an OCI image, which is pushed and attested.`,
		Example: `  assay run --data ./data --subject ci@example.com \
    --materials main.go --products bin/app --image 127.0.0.1:8484/team/app:v1 \
    -- go build -o bin/app .`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if len(o.Products) == 0 {
				return usagef("want --products FILE: what does the build make?")
			}
			s, err := a.connect(ctx, f.subject, f.token, false)
			if err != nil {
				return err
			}
			signer, err := s.signing(ctx, &f)
			if err != nil {
				return err
			}
			// A build may take an hour: who signs is settled before it.
			if signer.Token != nil && s.admin != nil && s.token == "" {
				if _, err := s.localSubject("sigstore"); err != nil {
					return err
				}
			}
			var ref artifact.Reference
			if image != "" {
				if ref, err = artifact.ParseReference(image); err != nil {
					return usagef("--image: %w", err)
				}
				if ref.Digest != "" {
					return usagef("--image %s: an image that is yet to be built has no digest", image)
				}
				if ref.Tag == "" {
					ref.Tag = "latest"
				}
			}
			// The build's output belongs to the reader of the terminal; with -o json
			// standard output is ours.
			o.Command, o.Stdin, o.Stdout, o.Stderr = args, a.stdin, a.stderr, a.stderr
			run, err := builder.Build(ctx, o)
			if err != nil {
				a.notef("assay: %s\n", clean(err.Error()))
				if run != nil && run.ExitCode > 0 {
					return &exitError{run.ExitCode}
				}
				return &exitError{fault.ExitCode(err)}
			}
			out := built{ID: run.ID, Products: run.Products}
			subjects := make([]subject, 0, len(run.Products)+1)
			for _, p := range run.Products {
				subjects = append(subjects, subject{Name: p.Name, Digest: p.Digest.Set()})
			}
			t := &target{text: run.Products[0].Name, digest: run.Products[0].Digest, file: run.Products[0].Name}
			if image != "" {
				if t, err = s.pushImage(ctx, run, o.Dir, ref); err != nil {
					return err
				}
				out.Image = t.image.String()
				subjects = append([]subject{{Name: t.name(), Digest: t.digest.Set()}}, subjects...)
			}
			if builderID == "" {
				builderID = "https://assay.dev/builders/local"
			}
			predicate, err := run.Provenance(builderID, version())
			if err != nil {
				return err
			}
			statement, err := statementOf(subjects, "https://slsa.dev/provenance/v1", predicate)
			if err != nil {
				return err
			}
			b, err := signStatement(ctx, signer, statement)
			if err != nil {
				return err
			}
			if err := a.print(out, func(w io.Writer) {
				fmt.Fprintf(w, "build\t%s\n", out.ID)
				for _, p := range out.Products {
					fmt.Fprintf(w, "product\t%s\t%s\n", line(p.Name), p.Digest)
				}
				if out.Image != "" {
					fmt.Fprintf(w, "image\t%s\n", out.Image)
				}
			}); err != nil {
				return err
			}
			if a.output != "table" { // one document on standard output
				a.stdout = io.Discard
			}
			return s.keep(ctx, &f, t, b, "https://slsa.dev/provenance/v1")
		},
	}
	f.register(cmd)
	fl := cmd.Flags()
	fl.StringVarP(&o.Dir, "dir", "C", "", "run the build in this folder")
	fl.StringSliceVar(&o.Materials, "materials", nil, "files or folders that the build reads")
	fl.StringSliceVar(&o.Products, "products", nil, "files that the build makes, relative to its folder")
	fl.StringSliceVar(&o.Env, "env", nil, "environment variables to record by name; never a secret")
	fl.StringVar(&image, "image", "", "push the products as an image to HOST/REPOSITORY[:TAG]")
	fl.StringVar(&builderID, "builder-id", "", "the builder's URI in the provenance (its level is for verifiers to configure)")
	return cmd
}

// built is what run reports.
type built struct {
	ID       string         `json:"id"`
	Products []builder.File `json:"products"`
	Image    string         `json:"image,omitempty"`
}

func (s *session) pushImage(ctx context.Context, run *builder.Run, dir string, ref artifact.Reference) (*target, error) {
	img, err := run.Image(dir)
	if err != nil {
		return nil, err
	}
	d, err := s.registry().PushImage(ctx, ref, img)
	if err != nil {
		if errors.Is(err, fault.Unauthenticated) {
			return nil, fmt.Errorf("%w; docker login %s, or give --data DIR --subject NAME", err, ref.Host)
		}
		return nil, err
	}
	pinned := ref.WithDigest(d)
	return &target{text: strings.TrimSpace(ref.String()), digest: d, image: &pinned, media: "application/vnd.oci.image.manifest.v1+json"}, nil
}
