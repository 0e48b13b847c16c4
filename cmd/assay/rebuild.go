package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"assay/artifact"
	"assay/attestation"
	"assay/builder/rebuild"
	"assay/evidence"
	"assay/internal/fault"
	"assay/policy"
	"assay/trust"
	"assay/trust/revocation"
	"assay/verify"

	"github.com/spf13/cobra"
)

// rebuildFlags are those of assay rebuild. Whose provenance is followed is said
// as for verify.
type rebuildFlags struct {
	sign      signFlags
	whose     verifyFlags
	of        string
	repo      string
	pass      []string
	originals []string
	keep      string
	yes       bool
}

func (a *app) rebuildCommand() *cobra.Command {
	var f rebuildFlags
	var key string
	cmd := &cobra.Command{
		Use:   "rebuild TARGET",
		Short: "Build an artifact again from its provenance, and compare",
		Long: `Rebuild takes provenance that the named signer made, checks its source out at
exactly that commit, runs the same command in a clean folder with the recorded
variables and nothing else, compares what comes out, and signs what came of it.

It executes the command that stands in the provenance: without --yes it only
shows what it would do. Provenance whose steps are not known, or whose source
had changes that were not committed, is refused.

Exit codes: 0 the same came out, 1 something else did, 2 it could not be found
out, 64 usage.`,
		Example: `  assay rebuild --certificate-identity ci@example.com --certificate-oidc-issuer https://issuer.example \
    registry.example/team/app:v1          # what would be done
  assay rebuild --yes --data ./data --subject rebuilder@example.com \
    --certificate-identity ci@example.com --certificate-oidc-issuer http://127.0.0.1:8484/oidc bin/app

  # offline: source, evidence and root at hand, kept as a file
  assay rebuild --yes --repo . --provenance app.sigstore.json --trusted-root trusted_root.json --key me.key --upload=false --bundle rebuild.json \
    --certificate-identity ci@example.com --certificate-oidc-issuer https://issuer.example bin/app`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.whose.key, f.whose.subject = key, f.sign.subject
			f.whose.minimum = minimum{sct: 1, log: 1}
			return a.rebuild(cmd.Context(), &f, args[0])
		},
	}
	f.sign.register(cmd)
	fl := cmd.Flags()
	fl.StringArrayVar(&f.whose.bundles, "provenance", nil, "Sigstore bundle with the provenance; default: from the registry or the server")
	fl.StringArrayVar(&f.whose.roots, "trusted-root", nil, "Sigstore trusted_root.json to verify it under; default: the server's")
	fl.StringVar(&f.whose.identity, "certificate-identity", "", "whose provenance is followed, exactly")
	fl.StringVar(&f.whose.identityRegexp, "certificate-identity-regexp", "", "the same, RE2 anchored at both ends")
	fl.StringVar(&f.whose.issuer, "certificate-oidc-issuer", "", "the OIDC issuer that vouched for them, exactly")
	fl.StringVar(&f.whose.issuerRegexp, "certificate-oidc-issuer-regexp", "", "the same, RE2 anchored at both ends")
	fl.StringVar(&key, "provenance-key", "", "instead of an identity: the public key (PEM file) that signed it")
	fl.StringVar(&f.of, "attestation", "", "which provenance, att_…, when there are several")
	fl.StringVar(&f.repo, "repo", "", "clone this repository instead of the source's address")
	fl.StringSliceVar(&f.pass, "pass-env", nil, "variables of this machine that the build needs, by name, such as GOPROXY; they are named in the attestation")
	fl.StringArrayVar(&f.originals, "original", nil, "a file of the first build, to tell what differs; TARGET, when it is a file, is one")
	fl.StringVar(&f.keep, "keep", "", "leave source and products in this new folder")
	fl.BoolVar(&f.yes, "yes", false, "run the command")
	return cmd
}

// rebuilt is what rebuild reports.
type rebuilt struct {
	Identical bool             `json:"identical"`
	Rebuild   *rebuild.Rebuild `json:"rebuild"`
	LogIndex  *int64           `json:"log_index,omitempty"`
}

func (a *app) rebuild(ctx context.Context, f *rebuildFlags, text string) error {
	pol, keys, err := f.whose.provenancePolicy(a)
	if err != nil {
		return err
	}
	s, err := a.connect(ctx, f.sign.subject, f.sign.token, false)
	if err != nil {
		return err
	}
	plan, t, err := s.rebuildPlan(ctx, f, text, pol, keys)
	if err != nil {
		return err
	}
	if !f.yes {
		a.notef("assay: this would be run; give --yes to do it:\n%s\n", clean(strings.Join(plan.Lines(), "\n")))
		return usagef("want --yes: a rebuild executes the command that the provenance names")
	}
	signer, err := s.signing(ctx, &f.sign)
	if err != nil {
		return err
	}
	if t.file != "" {
		f.originals = append(f.originals, t.file)
	}
	var find func(artifact.Digest) string
	if t.image != nil {
		var done func()
		find, done = s.originalIn(ctx, t.image.WithDigest(t.digest))
		defer done()
	}
	r, err := rebuild.Run(ctx, rebuild.Options{
		Plan: plan, Repo: f.repo, Pass: f.pass, Originals: f.originals, Find: find, Stdout: a.stderr, Stderr: a.stderr, Keep: f.keep,
	})
	if err != nil {
		return undecided(err)
	}
	predicate, err := r.JSON()
	if err != nil {
		return err
	}
	var subjects []subject
	for i := range r.Products {
		subjects = append(subjects, subject{Name: r.Products[i].Name, Digest: r.Products[i].Expected.Set()})
	}
	st, err := statementOf(subjects, rebuild.PredicateType, predicate)
	if err != nil {
		return err
	}
	b, err := signStatement(ctx, signer, st)
	if err != nil {
		return err
	}
	out := rebuilt{Identical: r.Identical(), Rebuild: r}
	if e := b.GetVerificationMaterial().GetTlogEntries(); len(e) > 0 {
		out.LogIndex = &e[0].LogIndex
	}
	if err := a.print(out, func(w io.Writer) { showRebuild(w, r) }); err != nil {
		return err
	}
	if a.output != "table" { // one document on standard output
		a.stdout = io.Discard
	}
	if err := s.keep(ctx, &f.sign, t, b, rebuild.PredicateType); err != nil {
		return err
	}
	if !r.Identical() {
		return &exitError{1}
	}
	return nil
}

// provenancePolicy wants provenance by whom the flags name.
func (f *verifyFlags) provenancePolicy(a *app) (*policy.Policy, []trust.Key, error) {
	// The flags' own rules are those of verify; what they come to is asked again.
	p, keys, err := f.policy(a)
	if err != nil {
		return nil, nil, err
	}
	if p == nil {
		return nil, nil, usagef("whose provenance is to be followed? give --certificate-identity and --certificate-oidc-issuer, or --provenance-key: its command will be executed")
	}
	who := policy.IdentityMatch{Subject: f.identity, SubjectRegexp: f.identityRegexp, Issuer: f.issuer, IssuerRegexp: f.issuerRegexp}
	if len(keys) > 0 {
		fp, err := trust.KeyFingerprint(keys[0].Public)
		if err != nil {
			return nil, nil, err
		}
		who = policy.IdentityMatch{Key: fp}
	}
	p, err = policy.Compile(&policy.Document{
		APIVersion: policy.APIVersion, Kind: policy.KindPolicy, Metadata: policy.Metadata{Name: "rebuild"},
		Spec: policy.Spec{Requirements: &policy.Requirements{Attestations: []policy.AttestationRequirement{
			{Name: "provenance", PredicateType: attestation.PredicateProvenanceV1, Identities: []policy.IdentityMatch{who}},
		}}},
	})
	return p, keys, err
}

// rebuildPlan verifies the provenance and reads what it says.
func (s *session) rebuildPlan(ctx context.Context, f *rebuildFlags, text string, pol *policy.Policy, keys []trust.Key) (*rebuild.Plan, *target, error) {
	vt, t, err := s.verifyTarget(ctx, text)
	if err != nil {
		return nil, nil, undecided(err)
	}
	o := verify.VerifierOptions{Keys: keys, Lists: map[string]*revocation.Signed{}}
	if err := s.trustHere(ctx, &f.whose, &o, &vt); err != nil {
		return nil, nil, err
	}
	verifier, err := verify.NewVerifier(o)
	if err != nil {
		return nil, nil, err
	}
	src, err := s.sources(ctx, &f.whose, t)
	if err != nil {
		return nil, nil, undecided(err)
	}
	items, _, err := src.Evidence(ctx, vt.Digest)
	if err != nil {
		return nil, nil, undecided(err)
	}
	report, err := verify.Offline(ctx, vt, verify.Items(items), verify.OfflineOptions{Verifier: verifier, Policy: pol})
	if err != nil {
		return nil, nil, undecided(err)
	}
	var good []string
	for _, c := range report.Checks {
		if c.Name == "attestations/provenance" && c.Status == policy.Pass {
			good = append(good, c.Evidence...)
		}
	}
	if !report.Allowed() || len(good) == 0 {
		for _, c := range report.Checks {
			if c.Status == policy.Fail {
				a := s.app
				a.notef("assay: %s: want %s, found %s\n", clean(c.Name), clean(c.Expected), clean(c.Found))
			}
		}
		return nil, nil, fault.Newf(fault.Denied, "no provenance of %s by whom you named: nothing is run", line(t.text))
	}
	switch {
	case f.of != "" && !slices.Contains(good, f.of):
		return nil, nil, fault.Newf(fault.NotFound, "--attestation %s is not among the provenance by whom you named: %s", line(f.of), strings.Join(good, ", "))
	case f.of != "":
		good = []string{f.of}
	case len(good) > 1:
		s.app.notef("assay: %d builds made this; following %s (choose with --attestation)\n", len(good), good[0])
	}
	signer := ""
	for _, e := range report.Evidence {
		if e.ID == good[0] {
			signer = e.Signer
		}
	}
	for i := range items {
		if evidence.ID(items[i].Bundle) != good[0] {
			continue
		}
		st, err := provenanceIn(items[i].Bundle)
		if err != nil {
			return nil, nil, err
		}
		plan, err := rebuild.NewPlan(st, rebuild.Of{Attestation: good[0], Signer: signer})
		return plan, t, err
	}
	return nil, nil, fault.Newf(fault.Internal, "evidence %s was verified and is gone", good[0])
}

// provenanceIn reads the statement of a bundle that was verified.
func provenanceIn(bundle []byte) (*attestation.Statement, error) {
	b, err := attestation.ParseBundle(bundle, attestation.DefaultLimits())
	if err != nil {
		return nil, err
	}
	env := b.Envelope()
	if env == nil {
		return nil, fault.Newf(fault.Invalid, "the bundle holds no statement")
	}
	return attestation.ParseStatement(env.Payload, attestation.DefaultLimits())
}

func showRebuild(w io.Writer, r *rebuild.Rebuild) {
	fmt.Fprintf(w, "rebuild\t%s\n", line(r.InvocationID))
	fmt.Fprintf(w, "of\t%s\t%s\n", line(r.Of.Attestation), line(r.Of.Signer))
	fmt.Fprintf(w, "commit\t%s\n", line(r.Source.Commit))
	for _, t := range r.Tools {
		if t.Expected != "" && t.Got != t.Expected {
			fmt.Fprintf(w, "tool\t%s\twas %s, is %s\n", line(t.Name), t.Expected, dash(string(t.Got)))
		}
	}
	for i := range r.Products {
		p := &r.Products[i]
		if p.Identical() {
			fmt.Fprintf(w, "identical\t%s\t%s\n", line(p.Name), p.Expected)
			continue
		}
		fmt.Fprintf(w, "differs\t%s\twas %s, is %s\n", line(p.Name), p.Expected, dash(string(p.Got)))
		for i, d := range p.Differences {
			if i == 20 {
				fmt.Fprintf(w, "\t%d more: -o json shows them\n", len(p.Differences)-i)
				break
			}
			fmt.Fprintf(w, "\t%s %s\twas %s, is %s\n", line(d.What), line(d.Name), dash(d.Expected), dash(d.Got))
		}
	}
}
