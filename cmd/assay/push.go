package main

import (
	"fmt"
	"io"
	"path/filepath"

	"assay/artifact"
	"assay/builder"

	"github.com/spf13/cobra"
)

func (a *app) pushCommand() *cobra.Command {
	var subject string
	var products []string
	cmd := &cobra.Command{
		Use:   "push --product FILE REF",
		Short: "Make an image of files and push it, with no word about where they come from",
		Long: `Push makes the image that "assay run --image" makes, of files that are there
already, and pushes it. Nothing is signed or attested: prefer "assay run".`,
		Example: `  assay push --data ./data --subject me@example.com --product ./app 127.0.0.1:8484/team/app:v1`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			ref, err := artifact.ParseReference(args[0])
			if err != nil || ref.Digest != "" {
				return usagef("%q: want HOST/REPOSITORY[:TAG]", clean(args[0]))
			}
			if ref.Tag == "" {
				ref.Tag = "latest"
			}
			if len(products) == 0 {
				return usagef("want --product FILE")
			}
			run := &builder.Run{}
			for _, p := range products {
				abs, err := filepath.Abs(p)
				if err != nil {
					return err
				}
				f, err := builder.HashFile("/", abs[1:])
				if err != nil {
					return usagef("%w", err)
				}
				run.Products = append(run.Products, f)
			}
			s, err := a.connect(ctx, subject, "", false)
			if err != nil {
				return err
			}
			t, err := s.pushImage(ctx, run, "/", nil, ref)
			if err != nil {
				return err
			}
			return a.print(map[string]string{"image": t.image.String(), "digest": string(t.digest)}, func(w io.Writer) {
				fmt.Fprintf(w, "pushed\t%s\n", t.image)
			})
		},
	}
	cmd.Flags().StringVar(&subject, "subject", "", "with --data: the local identity to push as")
	cmd.Flags().StringSliceVar(&products, "product", nil, "a file for the image; the first is its entrypoint")
	return cmd
}
