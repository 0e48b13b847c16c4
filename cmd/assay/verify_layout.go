package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"assay/artifact"
	"assay/attestation"
	"assay/client"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/trust"
	"assay/verify/layout"

	"github.com/spf13/cobra"
)

const (
	maxLinks     = 1000
	maxLinkDepth = 4
)

type layoutFlags struct {
	keys     []string
	links    string
	targets  []string
	params   []string
	skip     bool
	subject  string
	products []string
}

func (a *app) verifyLayoutCommand() *cobra.Command {
	var f layoutFlags
	cmd := &cobra.Command{
		Use:   "layout LAYOUT --key KEY… [--links DIR] [--evidence TARGET]",
		Short: "Was an in-toto layout followed?",
		Long: `Layout verifies an in-toto layout, as metadata block or in a DSSE envelope: its
owners' signatures, its expiry, and for each step that enough distinct
functionaries signed links which keep to its artifact rules. Links come from a
folder, from the attestations that are stored about an artifact, or from both.
Without links of a server nothing but files is read.

Nothing is executed. A layout with inspections, which are commands for the
verifier to run, is refused; with --skip-inspections all else is checked, and the
exit code is 2, since a part of what its owner demands was not looked at.

The exit code is 0 when the layout was followed, and 1 when it was not.`,
		Example: `  assay verify layout root.layout --key owner.pub --links ./links --product app

  # links that assay run signed with the functionary's key and stored
  assay verify layout root.layout --key owner.pub --evidence registry.example/team/app:v1`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.verifyLayout(cmd.Context(), args[0], &f)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&f.keys, "key", nil, "public key of an owner of the layout (PEM file); can be repeated, and each must have signed")
	fl.StringVar(&f.links, "links", "", "folder with signed links; those of a sublayout in its folder STEP.KEYID")
	fl.StringArrayVar(&f.targets, "evidence", nil, "also take the link attestations that the server has about this artifact; can be repeated, once for what each step made")
	fl.StringArrayVar(&f.params, "param", nil, "NAME=VALUE for {NAME} in rules and commands; can be repeated")
	fl.StringArrayVar(&f.products, "product", nil, "a file, or a digest, that must be a product of the last step; can be repeated")
	fl.BoolVar(&f.skip, "skip-inspections", false, "check all but the inspections; never ends in 0")
	fl.StringVar(&f.subject, "subject", "", "with --data and --evidence: the local identity to read the registry as")
	return cmd
}

// layoutReport is what verify layout says.
type layoutReport struct {
	Layout   string `json:"layout"`
	Followed bool   `json:"followed"`
	Reason   string `json:"reason,omitempty"`
	*layout.Outcome
}

func (a *app) verifyLayout(ctx context.Context, path string, f *layoutFlags) error {
	in, err := a.layoutInput(ctx, path, f)
	if err != nil {
		return err
	}
	out, err := layout.Verify(*in)
	if err == nil {
		err = a.hasProducts(out, f.products)
	}
	report := layoutReport{Layout: path, Followed: err == nil && out.Verified, Outcome: out}
	switch {
	case err != nil && !errors.Is(err, fault.Unverified):
		return err
	case err != nil:
		report.Reason, report.Outcome = err.Error(), nil
	case !out.Verified:
		report.Reason = fmt.Sprintf("%d inspections were skipped: not decided", out.Inspections)
	}
	if err := a.print(report, func(w io.Writer) { printLayout(w, &report) }); err != nil {
		return err
	}
	switch {
	case err != nil:
		return &exitError{1}
	case !out.Verified:
		return &exitError{2}
	}
	return nil
}

func printLayout(w io.Writer, r *layoutReport) {
	word := "NOT FOLLOWED"
	if r.Followed {
		word = "FOLLOWED"
	} else if r.Outcome != nil {
		word = "UNDECIDED"
	}
	fmt.Fprintf(w, "%s\t%s\n", word, line(r.Layout))
	if r.Reason != "" {
		fmt.Fprintf(w, "reason\t%s\n", line(r.Reason))
	}
	if r.Outcome == nil {
		return
	}
	for _, s := range r.Steps {
		fmt.Fprintf(w, "step %s\t%d of %d functionaries, %d materials, %d products\n", line(s.Name), len(s.Functionaries), s.Threshold, s.Materials, s.Products)
	}
	for _, m := range r.Warnings {
		fmt.Fprintf(w, "warning\t%s\n", line(m))
	}
}

func (a *app) layoutInput(ctx context.Context, path string, f *layoutFlags) (*layout.Input, error) {
	in := &layout.Input{Links: map[string][]layout.Document{}, Parameters: map[string]string{}, Now: clock.System(), SkipInspections: f.skip}
	if len(f.keys) == 0 {
		return nil, usagef("want --key FILE: the public key of the layout's owner")
	}
	if f.links == "" && len(f.targets) == 0 {
		return nil, usagef("want links: --links DIR, or --evidence TARGET")
	}
	b, err := a.readInput(path, layout.MaxDocument)
	if err != nil {
		return nil, err
	}
	if in.Layout, err = layout.Parse(b); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, file := range f.keys {
		b, err := a.readInput(file, 64<<10)
		if err != nil {
			return nil, err
		}
		var pub crypto.PublicKey
		if pub, err = trust.ParsePublicKey(b); err != nil {
			return nil, fmt.Errorf("--key %s: %w", file, err)
		}
		in.Owners = append(in.Owners, pub)
	}
	for _, p := range f.params {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, usagef("--param %q: want NAME=VALUE", clean(p))
		}
		in.Parameters[name] = value
	}
	if f.links != "" {
		if err := readLinks(f.links, in.Links); err != nil {
			return nil, err
		}
	}
	if len(f.targets) > 0 {
		err = a.storedLinks(ctx, f, in)
	}
	return in, err
}

// readLinks reads the files of a folder and of the folders of sublayouts in it.
// Symbolic links are not followed.
func readLinks(dir string, into map[string][]layout.Document) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return usagef("--links: %w", err)
	}
	defer root.Close()
	n := 0
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fault.Wrap(fault.Invalid, err)
		case d.IsDir() && strings.Count(name, "/") >= maxLinkDepth:
			return fault.Newf(fault.TooLarge, "--links %s: folders are read %d deep", dir, maxLinkDepth)
		case !d.Type().IsRegular() || !strings.HasSuffix(name, ".link") && !strings.HasSuffix(name, ".json") && !strings.HasSuffix(name, ".layout"):
			return nil
		}
		if n++; n > maxLinks {
			return fault.Newf(fault.TooLarge, "--links %s: more than %d links", dir, maxLinks)
		}
		file, err := root.Open(filepath.FromSlash(name))
		if err != nil {
			return fault.Wrap(fault.Invalid, err)
		}
		defer file.Close()
		b, err := io.ReadAll(io.LimitReader(file, layout.MaxDocument+1))
		if err != nil {
			return fault.Wrap(fault.Invalid, err)
		}
		in := filepath.ToSlash(filepath.Dir(name))
		if in == "." {
			in = ""
		}
		into[in] = append(into[in], layout.Document{Name: name, Body: envelopeOf(b)})
		return nil
	})
}

// envelopeOf is the DSSE envelope that a Sigstore bundle holds; what is no bundle
// is given as it is. Who signed is for the layout's keys to tell.
func envelopeOf(b []byte) []byte {
	bundle, err := attestation.ParseBundle(b, attestation.DefaultLimits())
	if err != nil || bundle.Envelope() == nil {
		return b
	}
	env, err := bundle.Envelope().MarshalJSON()
	if err != nil {
		return b
	}
	return env
}

// storedLinks takes the link attestations about artifacts from the server.
func (a *app) storedLinks(ctx context.Context, f *layoutFlags, in *layout.Input) error {
	s, err := a.connect(ctx, f.subject, "", true)
	if err != nil {
		return err
	}
	for _, text := range f.targets {
		t, err := s.resolve(ctx, text)
		if err != nil {
			return err
		}
		for _, predicateType := range layout.LinkTypes() {
			if err := s.linksAbout(ctx, t.digest, predicateType, in); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *session) linksAbout(ctx context.Context, d artifact.Digest, predicateType string, in *layout.Input) error {
	page, err := s.api().Evidence(ctx, client.EvidenceFilter{Digest: d, PredicateType: predicateType, Limit: maxLinks})
	if err != nil {
		return err
	}
	if page.Next != "" {
		return fault.Newf(fault.Undecided, "more than %d links are stored about %s", maxLinks, d)
	}
	for _, e := range page.Items {
		b, err := s.api().Bundle(ctx, e.ID)
		if err != nil {
			return err
		}
		in.Links[""] = append(in.Links[""], layout.Document{Name: e.ID, Body: envelopeOf(b)})
	}
	return nil
}

// hasProducts holds files and digests against what the last step made.
func (a *app) hasProducts(out *layout.Outcome, products []string) error {
	for _, p := range products {
		d, err := artifact.ParseDigest(p)
		if err != nil {
			file, err := os.Open(p)
			if err != nil {
				return usagef("--product: %w", err)
			}
			d, _, err = artifact.SHA256Reader(file)
			_ = file.Close()
			if err != nil {
				return fault.Wrap(fault.Invalid, err)
			}
		}
		if !out.Has(d.Set()) {
			return fault.Newf(fault.Unverified, "%s is no product of the last step", clean(p))
		}
	}
	return nil
}
