package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"assay/client"
	"assay/config"
	"assay/internal/keyring"
	"assay/policy"
	"assay/trust"
	"assay/trust/foreign"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

func (a *app) vendorCommand() *cobra.Command {
	return group("vendor", "Images and binaries that others made: whose, what they must bring, what they lack",
		a.vendorAdd(), a.vendorList(), a.vendorCheck(), a.vendorRemove())
}

// vendorFlags describe a vendor.
type vendorFlags struct {
	spec                      config.VendorSpec
	issuer, identity, pattern string
	keys                      []string
	rootFile                  string
	mode                      string
	print                     bool
}

func (a *app) vendorAdd() *cobra.Command {
	var f vendorFlags
	cmd := &cobra.Command{
		Use:   "add NAME --repository PATTERN",
		Short: "Take up a vendor: its root of trust, its identities, what its artifacts must bring",
		Long: `Add imports the vendor's root of trust for its repositories (--key, or
--trusted-root of a Sigstore; or --root names one that is imported already), and
applies a document of kind Vendor. It comes to a policy vendor-NAME, by which the
gate, admission and assay verify decide about what lies in these repositories.

With --print the document is written, and nothing is changed.`,
		Example: `  assay vendor add acme --repository 'vendor/acme/**' --key acme.pub --sbom cyclonedx
  assay vendor add big --repository 'mirror/big/**' --trusted-root big_root.json --sbom spdx \
    --issuer https://token.actions.githubusercontent.com --identity-regexp 'https://github\.com/big/.*' \
    --attestation https://slsa.dev/provenance/v1`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := f.root(args[0])
			if err != nil {
				return err
			}
			f.spec.Mode = policy.Mode(f.mode)
			text, err := yaml.Marshal(map[string]any{"apiVersion": config.APIVersion, "kind": config.KindVendor, "metadata": map[string]string{"name": args[0]}, "spec": f.spec})
			if err != nil {
				return err
			}
			if _, err := config.ParseDocuments(text); err != nil {
				return usagef("%w", err)
			}
			if f.print {
				_, err := a.stdout.Write(text)
				return err
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			if root != nil {
				doc, err := root.JSON()
				if err != nil {
					return err
				}
				if _, err := s.api().ImportRoot(cmd.Context(), doc); err != nil {
					return err
				}
			}
			answer, err := s.api().Apply(cmd.Context(), text, false, false)
			if err != nil {
				return err
			}
			return a.print(answer, func(w io.Writer) {
				if root != nil {
					fmt.Fprintf(w, "imported\troot/%s\n", line(root.Name))
				}
				for _, c := range answer.Changes {
					if c.Action != "unmanaged" {
						fmt.Fprintf(w, "%s\t%s/%s\n", line(c.Action), line(strings.ToLower(c.Kind)), line(c.Name))
					}
				}
			})
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&f.spec.Repositories, "repository", nil, "where what it made lies, a pattern; can be repeated")
	fl.StringVar(&f.spec.Contact, "contact", "", "whom to ask, for people")
	fl.StringArrayVar(&f.keys, "key", nil, "public key (PEM) that the vendor signs with; can be repeated")
	fl.StringVar(&f.rootFile, "trusted-root", "", "trusted_root.json of the vendor's Sigstore")
	fl.StringVar(&f.spec.Root, "root", "", "a root of trust that is imported already")
	fl.StringVar(&f.issuer, "issuer", "", "OIDC issuer of the vendor's signers")
	fl.StringVar(&f.identity, "identity", "", "the signers' subject, exactly")
	fl.StringVar(&f.pattern, "identity-regexp", "", "or RE2, anchored at both ends")
	fl.StringVar(&f.spec.Require.SBOM, "sbom", "", "a bill of materials that the vendor signed: cyclonedx or spdx")
	fl.StringArrayVar(&f.spec.Require.Attestations, "attestation", nil, "a predicate type that the vendor signed; can be repeated")
	fl.BoolVar(&f.spec.Require.Unsigned, "unsigned", false, "want no signature over the artifact itself")
	fl.BoolVar(&f.spec.Require.Log, "require-log", false, "count only what a log holds")
	fl.StringVar(&f.mode, "mode", "", "what a lack does: audit, warn or enforce (default enforce)")
	fl.BoolVar(&f.print, "print", false, "write the document, change nothing")
	complete(cmd, "sbom", "cyclonedx", "spdx")
	complete(cmd, "mode", "audit", "warn", "enforce")
	return cmd
}

// root makes the vendor's root of trust, and fills in who signs; nil: none is to
// be imported.
func (f *vendorFlags) root(name string) (*foreign.Document, error) {
	s := &f.spec
	if len(s.Repositories) == 0 {
		return nil, usagef("want --repository PATTERN: where does what the vendor made lie?")
	}
	if f.identity+f.pattern+f.issuer != "" {
		s.Identities = append(s.Identities, policy.IdentityMatch{Issuer: f.issuer, Subject: f.identity, SubjectRegexp: f.pattern})
	}
	doc := &foreign.Document{Name: "vendor-" + name, Version: 1, Namespaces: s.Repositories, Reason: "vendor " + name}
	switch {
	case s.Root != "" && (len(f.keys) > 0 || f.rootFile != "") || len(f.keys) > 0 && f.rootFile != "":
		return nil, usagef("give one of --key, --trusted-root and --root")
	case len(f.keys) > 0:
		doc.Type = foreign.Keys
		for _, path := range f.keys {
			b, err := os.ReadFile(path)
			if err != nil {
				return nil, usagef("--key: %w", err)
			}
			pub, err := keyring.ParsePublic(b)
			if err != nil {
				return nil, usagef("--key %s: %w", line(path), err)
			}
			fp, err := trust.KeyFingerprint(pub)
			if err != nil {
				return nil, err
			}
			doc.PublicKeys = append(doc.PublicKeys, string(bytes.TrimSpace(b))+"\n")
			s.Identities = append(s.Identities, policy.IdentityMatch{Key: fp})
		}
		if !s.Require.Log {
			doc.Thresholds = &foreign.Thresholds{} // a key of a vendor's need not be in a log of ours
		}
	case f.rootFile != "":
		b, err := os.ReadFile(f.rootFile)
		if err != nil {
			return nil, usagef("--trusted-root: %w", err)
		}
		doc.Type, doc.TrustedRoot = foreign.Sigstore, b
	}
	if len(s.Identities) == 0 {
		return nil, usagef("who signs for the vendor? Give --key FILE, or --issuer with --identity or --identity-regexp")
	}
	if doc.Type == "" {
		return nil, nil
	}
	s.Root = doc.Name
	body, err := doc.JSON()
	if err != nil {
		return nil, err
	}
	if _, err := foreign.Draft(body); err != nil {
		return nil, usagef("%w", err)
	}
	return doc, nil
}

func (a *app) vendorList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List vendors, and how complete is what they bring",
		Example: "  assay vendor list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			out, err := s.api().Vendors(cmd.Context(), "")
			if err != nil {
				return err
			}
			return a.print(out.Items, func(w io.Writer) { printVendors(w, out.Items) })
		},
	}
}

func printVendors(w io.Writer, list []client.Vendor) {
	if len(list) == 0 {
		fmt.Fprintln(w, "none")
		return
	}
	fmt.Fprintln(w, "VENDOR\tCOMPLETE\tOF\tMODE\tREPOSITORIES\tREQUIRES\tROOT")
	for _, v := range list {
		root := dash(line(v.Root))
		if v.RootMissing {
			root += " (not imported)"
		}
		of := fmt.Sprint(v.Artifacts)
		if v.More {
			of += "+"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", line(v.Name), v.Complete, of, line(v.Mode), line(strings.Join(v.Repositories, ", ")), line(strings.Join(v.Requires, ", ")), root)
	}
}

func (a *app) vendorCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check NAME",
		Short: "Show what each artifact of a vendor lacks",
		Long: `Check judges the vendor's artifacts, the last 200 pushed of each pattern, by the
evidence that there is now. Exit code 1 when one lacks something, 2 when of one
nobody can say.`,
		Example: "  assay vendor check acme",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			out, err := s.api().Vendors(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			v := out.Items[0]
			if err := a.print(v, func(w io.Writer) {
				printVendors(w, out.Items)
				if len(v.Items) > 0 {
					fmt.Fprintln(w, "\nARTIFACT\tTAGS\tCOMPLETE\tLACKS")
				}
				for _, it := range v.Items {
					var lacks []string
					for _, m := range it.Missing {
						lacks = append(lacks, m.Requirement+": "+m.Found)
					}
					if it.Unknown != "" {
						lacks = []string{"unknown: " + it.Unknown}
					}
					fmt.Fprintf(w, "%s@%s\t%s\t%t\t%s\n", line(it.Repository), it.Digest.Short(), dash(line(strings.Join(it.Tags, ", "))), it.Complete, dash(line(strings.Join(lacks, "; "))))
				}
			}); err != nil {
				return err
			}
			for _, it := range v.Items {
				if it.Unknown != "" {
					return &exitError{2}
				}
			}
			if v.Complete < v.Artifacts || v.RootMissing {
				return &exitError{1}
			}
			return nil
		},
	}
}

func (a *app) vendorRemove() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Give a vendor up: its policy, and the root of trust that vendor add imported",
		Long: `Remove takes the vendor's document and policy away, and the root vendor-NAME:
what lies in its repositories is then decided about by other policies, or denied.`,
		Example: "  assay vendor remove acme",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			s, err := a.connect(ctx, "", "", true)
			if err != nil {
				return err
			}
			out, err := s.api().Vendors(ctx, args[0])
			if err != nil {
				return err
			}
			v := out.Items[0]
			answer, err := s.api().DeleteDocument(ctx, config.KindVendor, args[0], false)
			if err != nil {
				return err
			}
			if root := "vendor-" + args[0]; v.Root == root && !v.RootMissing && !keep {
				if err := s.api().RemoveRoot(ctx, root); err != nil {
					return fmt.Errorf("the vendor is given up, and its root %s still counts: %w", root, err)
				}
			}
			return a.print(answer, func(w io.Writer) { fmt.Fprintf(w, "deleted\tvendor/%s\n", line(args[0])) })
		},
	}
	cmd.Flags().BoolVar(&keep, "keep-root", false, "leave its root of trust")
	return cmd
}
