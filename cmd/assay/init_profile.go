package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"assay/internal/keyring"
	"assay/profile"
	"assay/trust"

	"github.com/spf13/cobra"
)

func (a *app) initProfileCommand() *cobra.Command {
	var o profile.Options
	var dir, key string
	var force, list bool
	cmd := &cobra.Command{
		Use:   "profile NAME",
		Short: "Write a whole site for a way to work: configuration, access, policies, trust, objectives",
		Long: func() string {
			s := "Write the files of a site into a folder, with a README that says what to do with\nthem. Profiles:\n"
			for _, p := range profile.All() {
				s += fmt.Sprintf("\n  %-17s %s", p.Name, p.Title)
			}
			return s
		}(),
		Example: `  assay init profile --list
  assay init profile gate-enforced --dir site --issuer https://issuer.example --ci ci@example.com --release lead@example.com
  assay init profile federated --issuer https://issuer.example --teams payments,search --domain example.com`,
		ValidArgs: profile.Names(),
		Args:      cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if list {
				return a.print(profile.All(), func(w io.Writer) {
					for _, p := range profile.All() {
						fmt.Fprintf(w, "%s\t%s\n", p.Name, p.Title)
					}
				})
			}
			if len(args) == 0 {
				return usagef("which profile? Want one of %s", profile.Names())
			}
			if dir == "" {
				dir = args[0]
			}
			root, err := filepath.Abs(dir)
			if err != nil {
				return usagef("--dir: %w", err)
			}
			if o.Bundle = filepath.Join(root, "policies"); a.data != "" {
				o.Data = a.data
			} else {
				o.Data = filepath.Join(root, "data")
			}
			if key != "" {
				if err := policyKey(&o, key); err != nil {
					return err
				}
			}
			got, err := profile.Write(args[0], o)
			if err != nil {
				return usagef("%w", err)
			}
			var names []string
			for name := range got {
				names = append(names, name)
			}
			slices.Sort(names)
			if !force { // all or none
				for _, name := range names {
					if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
						return usagef("%s is there: give another --dir, or --force", filepath.Join(dir, name))
					}
				}
			}
			written := []string{}
			for _, name := range names {
				p := filepath.Join(dir, filepath.FromSlash(name))
				if err := create(p, got[name], force); err != nil {
					return err
				}
				written = append(written, p)
			}
			return a.print(written, func(w io.Writer) {
				for _, p := range written {
					fmt.Fprintln(w, line(p))
				}
				fmt.Fprintf(w, "\nnext: look at them, then %s says what to do\n", line(filepath.Join(dir, "README.md")))
			})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&dir, "dir", "", "folder to write to (default: the profile's name)")
	fl.StringVar(&o.Issuer, "issuer", "https://issuer.example", "OIDC issuer of your pipelines and people")
	fl.StringVar(&o.CI, "ci", "ci@example.com", "subject that your pipeline signs and pushes as")
	fl.StringVar(&o.Release, "release", "release@example.com", "subject who releases, and signs policies")
	fl.StringSliceVar(&o.Teams, "teams", []string{"team-a", "team-b"}, "of profile federated: the teams, each with repositories TEAM/**")
	fl.StringVar(&o.Domain, "domain", "example.com", "of profile federated: the teams sign as ci@TEAM.DOMAIN")
	fl.StringVar(&o.Listen, "listen", "127.0.0.1:8484", "the server's address")
	fl.StringVar(&o.PublicURL, "public-url", "", "the address that clients use, when it is another")
	fl.StringVar(&key, "policy-key", "", "of profile declarative: public key (PEM) that signs policies, in place of --release")
	fl.BoolVar(&force, "force", false, "replace files that are there")
	fl.BoolVar(&list, "list", false, "list the profiles")
	return cmd
}

func policyKey(o *profile.Options, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return usagef("--policy-key: %w", err)
	}
	pub, err := keyring.ParsePublic(b)
	if err != nil {
		return usagef("--policy-key %s: %w", line(path), err)
	}
	if o.PolicyKey, err = trust.KeyFingerprint(pub); err != nil {
		return err
	}
	o.PolicyKeyFile, err = filepath.Abs(path)
	return err
}
