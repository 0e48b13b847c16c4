package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"assay/client"
	"assay/trust"
	"assay/trust/foreign"

	"github.com/spf13/cobra"
)

// importFlags describe a foreign root.
type importFlags struct {
	name, kind          string
	namespaces          []string
	notBefore, notAfter string
	minSCT, minLog      int
	minTSA, document    int
	tsa, stores         []string
	policy, reason      string
	dryRun              bool
}

func (a *app) trustImport() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "import --name NAME --namespace PATTERN [FILE...]",
		Short: "Trust a foreign root: Sigstore, GitHub, keys, X.509 authorities, Notation",
		Long: `Import a root of trust of others, so that what they signed counts here without
being signed anew: for the repositories of its namespaces, within its windows,
under its own thresholds. FILE is

  trusted_root.json        of public-good, private or GitHub's Sigstore
  public keys (PEM)        with --not-before and --not-after, when they may have signed
  CA certificates (PEM)    X.509 authorities without Fulcio's extensions, with --tsa
  no file                  with --trust-store and --trust-policy: Notation

The identities of an X.509 or Notation root have the issuer x509:NAME. Importing
again under the same name replaces the root.`,
		Example: `  # public-good Sigstore, for images that came from ghcr.io/sigstore
  assay trust import --data ./data --name public-good --namespace 'mirror/sigstore/**' trusted_root.json

  # GitHub's own: no log, no certificate log, a timestamp
  assay trust import --data ./data --name github --namespace 'org/**' --min-sct 0 --min-log 0 --min-tsa 1 github_root.json

  # Notation
  assay trust import --data ./data --name acme --namespace 'acme/**' \
    --trust-store ca:acme=root.pem --trust-store tsa:acme=tsa.pem --trust-policy trustpolicy.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := f.read(a, cmd, args)
			if err != nil {
				return err
			}
			body, err := d.JSON()
			if err != nil {
				return err
			}
			if _, err := foreign.Draft(body); err != nil {
				return usagef("%w", err)
			}
			if f.dryRun {
				return a.writeOut("", append(body, '\n'))
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			r, err := s.api().ImportRoot(cmd.Context(), body)
			if err != nil {
				return err
			}
			return a.printRoots([]client.ForeignRoot{*r})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.name, "name", "", "the root's name, as facts, decisions and policies show it")
	fl.StringVar(&f.kind, "type", "", "sigstore, keys, x509 or notation; default: by what the files are")
	fl.StringArrayVar(&f.namespaces, "namespace", nil, "repositories for whose artifacts it counts, a pattern; ** is everything; can be repeated")
	fl.StringVar(&f.notBefore, "not-before", "", "nothing that it dated earlier counts (RFC 3339)")
	fl.StringVar(&f.notAfter, "not-after", "", "nothing that it dated later counts (RFC 3339)")
	fl.IntVar(&f.minSCT, "min-sct", 1, "certificate logs that must have promised a certificate")
	fl.IntVar(&f.minLog, "min-log", 1, "transparency logs that must hold a signature")
	fl.IntVar(&f.minTSA, "min-tsa", 0, "timestamp authorities that must have stamped it")
	fl.IntVar(&f.document, "document", 0, "of a file with one trusted root on each line, which line")
	fl.StringArrayVar(&f.tsa, "tsa", nil, "certificates (PEM) of the timestamp authorities of X.509 authorities; can be repeated")
	fl.StringArrayVar(&f.stores, "trust-store", nil, "a Notation trust store, TYPE:NAME=FILE or =DIR; TYPE is ca, signingAuthority or tsa; can be repeated")
	fl.StringVar(&f.policy, "trust-policy", "", "Notation's trustpolicy.json")
	fl.StringVar(&f.reason, "reason", "", "why, for people")
	fl.BoolVar(&f.dryRun, "dry-run", false, "write the document instead, and change nothing")
	complete(cmd, "type", "sigstore", "keys", "x509", "notation")
	return cmd
}

func (f *importFlags) read(a *app, cmd *cobra.Command, args []string) (*foreign.Document, error) {
	if f.name == "" || len(f.namespaces) == 0 {
		return nil, usagef("want --name and --namespace: a root counts for the repositories that are named, ** for all of them")
	}
	d := &foreign.Document{Name: f.name, Version: 1, Type: foreign.Type(f.kind), Namespaces: f.namespaces, Reason: f.reason}
	var err error
	if d.NotBefore, err = instant("--not-before", f.notBefore, time.Time{}); err != nil {
		return nil, err
	}
	if d.NotAfter, err = instant("--not-after", f.notAfter, time.Time{}); err != nil {
		return nil, err
	}
	if fl := cmd.Flags(); fl.Changed("min-sct") || fl.Changed("min-log") || fl.Changed("min-tsa") {
		d.Thresholds = &foreign.Thresholds{SCT: f.minSCT, Log: f.minLog, TSA: f.minTSA, Time: max(f.minTSA, min(1, f.minSCT+f.minLog))}
	}
	if f.policy != "" || len(f.stores) > 0 {
		if d.Type == "" {
			d.Type = foreign.Notation
		}
		return d, f.readNotation(a, d, args)
	}
	if len(args) == 0 {
		return nil, usagef("want a FILE: a trusted_root.json, public keys or CA certificates (PEM)")
	}
	for _, path := range args {
		b, err := a.readInput(path, 4<<20)
		if err != nil {
			return nil, err
		}
		if err := f.add(d, path, b); err != nil {
			return nil, err
		}
	}
	for _, path := range f.tsa {
		b, err := a.readInput(path, 4<<20)
		if err != nil {
			return nil, err
		}
		d.TSA = append(d.TSA, string(b))
	}
	return d, nil
}

// add takes one file by what it is.
func (f *importFlags) add(d *foreign.Document, path string, b []byte) error {
	kind := foreign.Sigstore
	if block, _ := pem.Decode(b); block != nil {
		if kind = foreign.Keys; block.Type == "CERTIFICATE" {
			kind = foreign.X509
		}
	}
	if d.Type == "" {
		d.Type = kind
	}
	if d.Type != kind {
		return usagef("%s looks like %s, and the root is %s; import the two under two names", path, kind, d.Type)
	}
	switch kind {
	case foreign.Keys:
		d.PublicKeys = append(d.PublicKeys, string(b))
	case foreign.X509:
		d.Certificates = append(d.Certificates, string(b))
	default:
		if len(d.TrustedRoot) > 0 {
			return usagef("two trusted roots: import each under a name of its own")
		}
		var err error
		if d.TrustedRoot, err = f.oneRoot(path, b); err != nil {
			return err
		}
		if _, err := trust.ParseTrustedRoot(d.TrustedRoot); err != nil {
			return usagef("%s: %w", path, err)
		}
	}
	return nil
}

// oneRoot picks the trusted root of a file with one on each line, as gh
// attestation trusted-root writes it.
func (f *importFlags) oneRoot(path string, b []byte) ([]byte, error) {
	var lines [][]byte
	if json.Valid(b) {
		lines = [][]byte{b}
	} else {
		for l := range bytes.Lines(b) {
			if l = bytes.TrimSpace(l); len(l) > 0 {
				lines = append(lines, l)
			}
		}
	}
	switch {
	case f.document == 0 && len(lines) == 1:
		return lines[0], nil
	case f.document == 0:
		return nil, usagef("%s has %d lines, each a trusted root of its own: say which with --document, and import each under a name of its own", path, len(lines))
	case f.document < 0 || f.document > len(lines):
		return nil, usagef("--document %d: %s has %d", f.document, path, len(lines))
	}
	return lines[f.document-1], nil
}

func (f *importFlags) readNotation(a *app, d *foreign.Document, args []string) error {
	if f.policy == "" || len(f.stores) == 0 || len(args) > 0 {
		return usagef("Notation wants --trust-store and --trust-policy, and no FILE")
	}
	var err error
	if d.TrustPolicy, err = a.readInput(f.policy, 1<<20); err != nil {
		return err
	}
	for _, text := range f.stores {
		store, path, ok := strings.Cut(text, "=")
		kind, name, ok2 := strings.Cut(store, ":")
		if !ok || !ok2 || path == "" {
			return usagef("--trust-store %q: want TYPE:NAME=FILE, for example ca:acme=root.pem", clean(text))
		}
		paths := []string{path}
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			files, err := os.ReadDir(path)
			if err != nil {
				return usagef("%w", err)
			}
			paths = nil
			for _, file := range files {
				if !file.IsDir() && slices.Contains([]string{".pem", ".crt", ".cer", ".cert"}, filepath.Ext(file.Name())) {
					paths = append(paths, filepath.Join(path, file.Name()))
				}
			}
		}
		i := slices.IndexFunc(d.TrustStores, func(s foreign.TrustStore) bool { return s.Type == kind && s.Name == name })
		if i < 0 {
			d.TrustStores = append(d.TrustStores, foreign.TrustStore{Type: kind, Name: name})
			i = len(d.TrustStores) - 1
		}
		for _, p := range paths {
			b, err := a.readInput(p, 1<<20)
			if err != nil {
				return err
			}
			if block, _ := pem.Decode(b); block == nil { // notation stores DER as well
				b = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b})
			}
			d.TrustStores[i].Certificates = append(d.TrustStores[i].Certificates, string(b))
		}
	}
	return nil
}

// instant reads a time, or a length of time from now where from is given.
func instant(flag, text string, from time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t.UTC(), nil
	}
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		return t.UTC(), nil
	}
	if !from.IsZero() {
		var days int
		if n, err := fmt.Sscanf(text, "%dd", &days); n == 1 && err == nil && text == fmt.Sprintf("%dd", days) && days > 0 && days < 36500 {
			return from.AddDate(0, 0, days).UTC().Truncate(time.Second), nil
		}
		if d, err := time.ParseDuration(text); err == nil && d > 0 {
			return from.Add(d).UTC().Truncate(time.Second), nil
		}
		return time.Time{}, usagef("%s %q: want a time (2027-01-31T00:00:00Z), a date, or a length of time (90d, 12h)", flag, clean(text))
	}
	return time.Time{}, usagef("%s %q: want a time such as 2027-01-31T00:00:00Z, or a date", flag, clean(text))
}

func (a *app) trustRoots() *cobra.Command {
	list := &cobra.Command{
		Use:     "list",
		Short:   "List the imported roots of trust",
		Example: "  assay trust roots list --data ./data",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			l, err := s.api().ForeignRoots(cmd.Context())
			if err != nil {
				return err
			}
			return a.printRoots(l.Items)
		},
	}
	show := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show one imported root, whole",
		Example: "  assay trust roots show github --data ./data",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			b, err := s.api().ForeignRoot(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var d foreign.Document
			if err := json.Unmarshal(b, &d); err != nil {
				return err
			}
			return a.print(&d, func(w io.Writer) {
				fmt.Fprintf(w, "name\t%s\ntype\t%s\nversion\t%d\nnamespaces\t%s\n", line(d.Name), line(string(d.Type)), d.Version, line(strings.Join(d.Namespaces, " ")))
				fmt.Fprintf(w, "window\t%s\n", window(client.KeyWindow{Start: d.NotBefore, End: d.NotAfter}))
				if t := d.Thresholds; t != nil {
					fmt.Fprintf(w, "thresholds\t%d SCT, %d logs, %d timestamps, %d times\n", t.SCT, t.Log, t.TSA, t.Time)
				}
				fmt.Fprintf(w, "revocation\tnot_configured\n")
				if d.Reason != "" {
					fmt.Fprintf(w, "reason\t%s\n", line(d.Reason))
				}
			})
		},
	}
	remove := &cobra.Command{
		Use:     "remove NAME",
		Short:   "End an imported root: what it vouched for counts no more",
		Example: "  assay trust roots remove github --data ./data",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			if err := s.api().RemoveRoot(cmd.Context(), args[0]); err != nil {
				return err
			}
			a.notef("removed root %s; decisions that stood on it are made anew\n", line(args[0]))
			return nil
		},
	}
	var out string
	export := &cobra.Command{
		Use:     "export [--out FILE]",
		Short:   "Write foreign_roots.json, for assay verify --foreign-roots",
		Example: "  assay trust roots export --data ./data --out foreign_roots.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			b, err := s.api().ForeignRootsExport(cmd.Context())
			if err != nil {
				return err
			}
			if _, _, err := foreign.ParsePublished(b); err != nil {
				return err
			}
			return a.writeOut(out, b)
		},
	}
	export.Flags().StringVar(&out, "out", "", "the file; default is standard output")
	return group("roots", "Imported roots of trust", list, show, remove, export)
}

func (a *app) printRoots(roots []client.ForeignRoot) error {
	return a.print(roots, func(w io.Writer) {
		fmt.Fprintln(w, "NAME\tTYPE\tVERSION\tNAMESPACES\tWINDOW\tSCT/LOG/TSA\tREVOCATION")
		for _, r := range roots {
			thresholds := "default"
			if r.SCT != nil && r.Log != nil && r.TSA != nil {
				thresholds = fmt.Sprintf("%d/%d/%d", *r.SCT, *r.Log, *r.TSA)
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", line(r.Name), line(r.Type), r.Version, line(strings.Join(r.Namespaces, " ")),
				window(client.KeyWindow{Start: r.NotBefore, End: r.NotAfter}), thresholds, line(r.Revocation))
		}
	})
}
