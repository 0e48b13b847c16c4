package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"assay/admission"
	"assay/internal/durable"
	"assay/internal/fault"

	"github.com/spf13/cobra"
)

// seeds are the files of a webhook's authority: their names flat, as a Secret has
// them, and in the folder of "assay admission serve --dir".
var seeds = [][2]string{{"admission.pem", "keys/admission.pem"}, {"keys.json", "keys.json"}, {"ca.pem", "ca.pem"}}

func (a *app) admissionAuthorityCommand() *cobra.Command {
	var dir string
	var show bool
	cmd := &cobra.Command{
		Use:   "authority --dir DIR",
		Short: "Make the authority of a cluster's webhooks before any of them runs",
		Long: `Make the long-lived authority whose certificates the webhooks of a cluster show:
ca.pem (for the webhook configurations), its key admission.pem, and keys.json. All
replicas share them: as a Secret, which "assay admission serve --seed" reads. What is
there already is left as it is.

With --print: the certificate alone, of --dir, or with --data the one under which a
server signs its bundles ("assay admission serve --authority").`,
		Example: `  assay admission authority --dir ./authority
  assay admission authority --print --data /var/lib/assay/data > server-admission.pem
  kubectl create secret generic assay-admission -n assay-system --from-file ./authority`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if show {
				return a.printAuthority(dir)
			}
			if dir == "" {
				return usagef("want --dir DIR, a folder for the three files")
			}
			if _, err := os.Stat(filepath.Join(dir, "ca.pem")); err == nil {
				a.notef("%s is there, and is left as it is\n", filepath.Join(dir, "ca.pem"))
				return nil
			}
			return a.makeAuthority(cmd.Context(), dir)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder for the files, mode 0700")
	cmd.Flags().BoolVar(&show, "print", false, "write the certificate to standard output, and make nothing")
	return cmd
}

func (a *app) printAuthority(dir string) error {
	path := filepath.Join(dir, "ca.pem")
	if dir == "" {
		if a.data == "" {
			return usagef("want --dir DIR, or --data DIR of a server")
		}
		path = filepath.Join(a.data, "ca", "admission.pem")
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return usagef("%s is not there: a server makes it once it has admission.listen", path)
	}
	if err != nil {
		return err
	}
	if block, rest := pem.Decode(b); block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return fault.Newf(fault.Invalid, "%s holds something else than one certificate", path)
	}
	_, err = a.stdout.Write(b)
	return err
}

func (a *app) makeAuthority(ctx context.Context, dir string) error {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(dir, ".authority-") // where it will be, so that keys never lie elsewhere
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	key, err := authorityKey(ctx, tmp)
	if err != nil {
		return err
	}
	if _, err := admission.OpenAuthority(filepath.Join(tmp, "ca.pem"), key, []string{"assay"}, nil); err != nil {
		return err
	}
	for _, f := range seeds { // the certificate last: it says that all is there
		b, err := os.ReadFile(filepath.Join(tmp, filepath.FromSlash(f[1])))
		if err != nil {
			return err
		}
		if err := durable.WriteFile(filepath.Join(dir, f[0]), b, 0o600); err != nil {
			return err
		}
		a.printf("%s\n", filepath.Join(dir, f[0]))
	}
	return nil
}

// plantAuthority copies an authority from a mounted Secret into a webhook's folder.
// One that is there already is left: certificates that API servers know stay.
func plantAuthority(seed, dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "ca.pem")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range seeds {
		b, err := os.ReadFile(filepath.Join(seed, f[0]))
		if err != nil {
			return usagef("--seed: %w; it is a folder as \"assay admission authority\" makes it", err)
		}
		path := filepath.Join(dir, filepath.FromSlash(f[1]))
		if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := durable.WriteFile(path, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}
