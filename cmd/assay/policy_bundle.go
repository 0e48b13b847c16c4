package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"assay/artifact"
	"assay/client"
	"assay/internal/fault"
	"assay/internal/oci"
	"assay/internal/strictjson"
	"assay/policy"
	"assay/policy/bundle"
	"assay/trust"
	"assay/trust/revocation"
	"assay/verify"
	"assay/verify/replay"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
)

func (a *app) policyBundleCommand() *cobra.Command {
	return group("bundle", "Versioned, signed bundles of policies: build, sign, give out, put in force",
		a.policyBundleBuild(), a.policyBundleInspect(), a.policyBundleSign(), a.policyBundleVerify(),
		a.policyBundlePush(), a.policyBundlePull(), a.policyBundleActivate(),
		a.policyBundleList(), a.policyBundleHistory(), a.policyBundleRemove(),
	)
}

const bundleFrom = `FROM is a folder, an archive (.tar.gz, its signatures beside it in
NAME.sigstore.json), oci://HOST/REPOSITORY:TAG, or git+URL@REVISION#FOLDER.`

// bundleFlags say which bundle is meant.
type bundleFlags struct {
	name    string
	version int64
	allowed string
}

func (f *bundleFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.name, "name", "", "the bundle's name, where its manifest does not say it")
	cmd.Flags().Int64Var(&f.version, "version", 0, "its version, where its manifest does not say it")
	cmd.Flags().StringVar(&f.allowed, "allowed-signers", "", "of git: the commit or tag must be signed by somebody in this file (ssh-keygen)")
}

// load reads a bundle from where it lies, and says which it is.
func (f *bundleFlags) load(ctx context.Context, a *app, s *session, from string) (*bundle.Loaded, bundle.Claim, error) {
	src := bundle.Source{From: from}
	if f.allowed != "" {
		var err error
		if src.AllowedSigners, err = os.ReadFile(f.allowed); err != nil {
			return nil, bundle.Claim{}, usagef("--allowed-signers: %w", err)
		}
	}
	var registry *oci.Client
	if strings.HasPrefix(from, "oci://") {
		if s == nil {
			var err error
			if s, err = a.connect(ctx, "", "", false); err != nil {
				return nil, bundle.Claim{}, err
			}
		}
		registry = s.registry()
	}
	b, err := bundle.Load(ctx, src, registry)
	if err != nil {
		return nil, bundle.Claim{}, err
	}
	c, err := b.Claim(bundle.Claim{Name: f.name, Version: f.version}, b.Signatures)
	return b, c, err
}

// bundled is what is told of a bundle.
type bundled struct {
	Name      string          `json:"name"`
	Version   int64           `json:"version"`
	Digest    artifact.Digest `json:"digest"` // of the listing, which is what is signed
	Revision  string          `json:"revision,omitempty"`
	Origin    string          `json:"origin,omitempty"`
	GitSigner string          `json:"git_signer,omitempty"`
	Policies  []string        `json:"policies"`
	Files     []string        `json:"files"`
	Signed    bool            `json:"has_signatures"` // whether they count is for verify to say
	Signers   []string        `json:"signers,omitempty"`
	Written   string          `json:"written,omitempty"`
}

func tell(b *bundle.Loaded, c bundle.Claim) (*bundled, error) {
	docs, err := b.Documents(c.Name)
	if err != nil {
		return nil, err
	}
	out := &bundled{Name: c.Name, Version: c.Version, Digest: b.Digest(), Revision: b.Manifest.Revision, Origin: b.Origin, GitSigner: b.GitSigner, Files: b.Files(), Signed: len(bytes.TrimSpace(b.Signatures)) > 0}
	for _, d := range docs {
		out.Policies = append(out.Policies, d.Metadata.Name)
	}
	return out, nil
}

func (a *app) printBundle(out *bundled) error {
	return a.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "bundle\t%s\nversion\t%d\ndigest\t%s\n", line(out.Name), out.Version, out.Digest)
		for _, kv := range [][2]string{{"origin", out.Origin}, {"git signer", out.GitSigner}, {"revision", out.Revision}, {"policies", strings.Join(out.Policies, ", ")}, {"signed by", strings.Join(out.Signers, ", ")}, {"written", out.Written}} {
			if kv[1] != "" {
				fmt.Fprintf(w, "%s\t%s\n", kv[0], line(kv[1]))
			}
		}
		if len(out.Signers) == 0 && out.Written == "" {
			fmt.Fprintf(w, "signatures\t%s\n", map[bool]string{true: "some, not verified here", false: "none"}[out.Signed])
		}
	})
}

func (a *app) policyBundleBuild() *cobra.Command {
	var f bundleFlags
	var to string
	cmd := &cobra.Command{
		Use:   "build FROM --to FILE",
		Short: "Pack policies as a bundle, after compiling all of them",
		Long: `Build packs Policy documents (.yaml), Rego v1 (.rego, package assay.policy, and
libraries of other packages) and data (data.json) as OPA does. Rego beside a
Policy document of the same name belongs to it; other Rego makes a policy of the
bundle's name. Nothing is packed that would not compile.

` + bundleFrom,
		Example: "  assay policy bundle build policies/ --name release --version 4 --to release-4.tar.gz",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return usagef("want --to FILE, such as release-4.tar.gz")
			}
			b, c, err := f.load(cmd.Context(), a, nil, args[0])
			if err != nil {
				return err
			}
			if b.Bundle, err = b.As(c); err != nil {
				return err
			}
			out, err := tell(b, c)
			if err != nil {
				return err
			}
			if err := writeBundle(to, b.Bundle, nil); err != nil {
				return err
			}
			out.Signed, out.Written = false, to
			return a.printBundle(out)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&to, "to", "", "the archive to write")
	return cmd
}

func writeBundle(to string, b *bundle.Bundle, signatures []byte) error {
	archive, err := b.Archive()
	if err != nil {
		return err
	}
	if err := writeFile(to, archive); err != nil {
		return err
	}
	if len(signatures) > 0 {
		return writeFile(bundle.SignaturesOf(to), signatures)
	}
	// Signatures of what was there before are of something else.
	if err := os.Remove(bundle.SignaturesOf(to)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

func (a *app) policyBundleInspect() *cobra.Command {
	var f bundleFlags
	var listing, documents bool
	cmd := &cobra.Command{
		Use:   "inspect FROM",
		Short: "Show what a bundle holds",
		Long:  "Inspect shows name, version, policies and files of a bundle, and verifies nothing.\n\n" + bundleFrom,
		Example: `  assay policy bundle inspect release-4.tar.gz
  assay policy bundle inspect release-4.tar.gz --documents | assay policy lint /dev/stdin
  assay policy bundle inspect policies/ --listing > listing.txt   # what is signed: cosign verify-blob-attestation listing.txt`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, c, err := f.load(cmd.Context(), a, nil, args[0])
			if err != nil {
				return err
			}
			if listing {
				_, err := a.stdout.Write(b.Listing())
				return err
			}
			if documents {
				docs, err := b.Documents(c.Name)
				if err != nil {
					return err
				}
				text, err := bundle.YAML(docs)
				if err != nil {
					return err
				}
				_, err = a.stdout.Write(text)
				return err
			}
			out, err := tell(b, c)
			if err != nil {
				return err
			}
			return a.printBundle(out)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&listing, "listing", false, "write the listing of the files, over which signatures are, and nothing else")
	cmd.Flags().BoolVar(&documents, "documents", false, "write the policies that it comes to as YAML, and nothing else")
	return cmd
}

func (a *app) policyBundleSign() *cobra.Command {
	var f bundleFlags
	var sf signFlags
	cmd := &cobra.Command{
		Use:   "sign FROM",
		Short: "Sign a bundle: its content, its name and its version",
		Long: `Sign states, in a DSSE envelope of a Sigstore bundle, that these files are the
bundle of this name and version. Keyless by default, as assay sign. The signature
is added beside the archive (NAME.sigstore.json) or, of a folder, inside of it
(` + bundle.SignatureFile + `); several signers sign one after the other.`,
		Example: `  assay policy bundle sign release-4.tar.gz --data ./data --subject me@example.com
  assay policy bundle sign policies/ --key release.pem --server https://assay.example`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if strings.Contains(args[0], "://") {
				return usagef("a folder or an archive is signed, then pushed: assay policy bundle pull first")
			}
			b, c, err := f.load(ctx, a, nil, args[0])
			if err != nil {
				return err
			}
			if _, err := b.Documents(c.Name); err != nil {
				return err // what is signed must be what can be put in force
			}
			s, err := a.connect(ctx, sf.subject, sf.token, false)
			if err != nil {
				return err
			}
			signer, err := s.signing(ctx, &sf)
			if err != nil {
				return err
			}
			statement, err := b.Statement(c)
			if err != nil {
				return err
			}
			sig, err := signStatement(ctx, signer, statement)
			if err != nil {
				return err
			}
			doc, err := protojson.Marshal(sig)
			if err != nil {
				return err
			}
			all, err := bundle.Joined(b.Signatures, doc)
			if err != nil {
				return err
			}
			to := bundle.SignaturesOf(args[0])
			if err := writeFile(to, all); err != nil {
				return err
			}
			out, err := tell(b, c)
			if err != nil {
				return err
			}
			out.Signed, out.Written = true, to
			return a.printBundle(out)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&sf.key, "key", "", "sign with this private key instead of keyless, as assay sign takes it")
	cmd.Flags().StringVar(&sf.passphrase, "key-passphrase-file", "", "file with the passphrase of an encrypted key (COSIGN_PASSWORD)")
	cmd.Flags().StringVar(&sf.token, "identity-token", "", "OIDC token of audience sigstore, or a file that holds one (SIGSTORE_ID_TOKEN)")
	cmd.Flags().StringVar(&sf.subject, "subject", "", "with --data: the local identity to sign as (ASSAY_SUBJECT)")
	return cmd
}

func (a *app) policyBundleVerify() *cobra.Command {
	var f bundleFlags
	var vf verifyFlags
	var threshold int
	cmd := &cobra.Command{
		Use:   "verify FROM",
		Short: "Hold a bundle to its signatures",
		Long: `Verify says whether those whom you name signed this very content as the bundle
of this name and version. Trust comes from --trusted-root, or from the server.
Exit codes: 0 signed, 1 not.

` + bundleFrom,
		Example: `  assay policy bundle verify release-4.tar.gz --data ./data \
    --certificate-identity me@example.com --certificate-oidc-issuer https://issuer.example
  assay policy bundle verify oci://registry.example/policies/release:4 --key release.pub --server https://assay.example`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			p, keys, err := vf.policy(a)
			if err != nil {
				return err
			}
			if p == nil {
				return usagef("who is to have signed it? Give --certificate-identity and --certificate-oidc-issuer, or --key")
			}
			if err := vf.minimum.settle(a, cmd); err != nil {
				return err
			}
			s := &session{app: a}
			if len(vf.roots) == 0 && !(vf.ignoreTlog && len(keys) > 0) {
				if s, err = a.connect(ctx, "", "", false); err != nil {
					return undecided(err)
				}
			} else if s.http, err = a.httpClient(); err != nil {
				return err
			}
			b, c, err := f.load(ctx, a, s, args[0])
			if err != nil {
				return err
			}
			o := verify.VerifierOptions{Keys: keys, Lists: map[string]*revocation.Signed{}}
			vt := verify.Target{Digest: b.Digest()}
			if err := s.trustHere(ctx, &vf, &o, &vt); err != nil {
				return err
			}
			v, err := verify.NewVerifier(o)
			if err != nil {
				return err
			}
			signed, err := bundle.Verify(ctx, v, bundle.Signers{Identities: vf.wanted(keys), Threshold: threshold}, b.Bundle, c, b.Signatures, nil)
			if err != nil {
				return err
			}
			out, err := tell(b, c)
			if err != nil {
				return err
			}
			out.Signers = signed.Signers
			return a.printBundle(out)
		},
	}
	f.register(cmd)
	fl := cmd.Flags()
	fl.StringArrayVar(&vf.roots, "trusted-root", nil, "Sigstore trusted_root.json to verify under; can be repeated")
	fl.StringVar(&vf.identity, "certificate-identity", "", "the signer's identity, exactly")
	fl.StringVar(&vf.identityRegexp, "certificate-identity-regexp", "", "the signer's identity, RE2 anchored at both ends")
	fl.StringVar(&vf.issuer, "certificate-oidc-issuer", "", "the OIDC issuer that vouched for the signer, exactly")
	fl.StringVar(&vf.issuerRegexp, "certificate-oidc-issuer-regexp", "", "the OIDC issuer, RE2 anchored at both ends")
	fl.StringVar(&vf.key, "key", "", "the signer's public key (PEM file)")
	fl.BoolVar(&vf.ignoreTlog, "insecure-ignore-tlog", false, "with --key: accept a signature without log entry and timestamp")
	fl.IntVar(&threshold, "threshold", 1, "how many distinct signers must have signed")
	vf.minimum.register(cmd)
	return cmd
}

func (a *app) policyBundlePush() *cobra.Command {
	var f bundleFlags
	cmd := &cobra.Command{
		Use:     "push FROM HOST/REPOSITORY:TAG",
		Short:   "Store a bundle with its signatures in a registry",
		Long:    "Push stores a bundle as an OCI artifact of type " + bundle.ArtifactType + ":\nthe archive as OPA pulls it, and each signature as a layer of its own.\n\n" + bundleFrom,
		Example: "  assay policy bundle push release-4.tar.gz registry.example/policies/release:4",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			s, err := a.connect(ctx, "", "", false)
			if err != nil {
				return err
			}
			ref, err := artifact.ParseReference(strings.TrimPrefix(args[1], "oci://"))
			if err != nil {
				return err
			}
			b, c, err := f.load(ctx, a, s, args[0])
			if err != nil {
				return err
			}
			out, err := tell(b, c)
			if err != nil {
				return err
			}
			d, err := bundle.Push(ctx, ref, b.Bundle, c, b.Signatures, s.registry())
			if err != nil {
				return err
			}
			out.Written = ref.Host + "/" + ref.Repository + "@" + string(d)
			return a.printBundle(out)
		},
	}
	f.register(cmd)
	return cmd
}

func (a *app) policyBundlePull() *cobra.Command {
	var f bundleFlags
	var to string
	cmd := &cobra.Command{
		Use:     "pull FROM --to FILE",
		Short:   "Fetch a bundle with its signatures",
		Long:    "Pull writes a bundle's archive, and its signatures beside it. It verifies nothing.\n\n" + bundleFrom,
		Example: "  assay policy bundle pull oci://registry.example/policies/release:4 --to release-4.tar.gz",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return usagef("want --to FILE, such as release-4.tar.gz")
			}
			b, c, err := f.load(cmd.Context(), a, nil, args[0])
			if err != nil {
				return err
			}
			out, err := tell(b, c)
			if err != nil {
				return err
			}
			if err := writeBundle(to, b.Bundle, b.Signatures); err != nil {
				return err
			}
			out.Written = to
			return a.printBundle(out)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&to, "to", "", "the archive to write")
	return cmd
}

func (a *app) policyBundleActivate() *cobra.Command {
	var f bundleFlags
	var q client.PolicyBundleActivate
	cmd := &cobra.Command{
		Use:   "activate FROM | --name NAME --version N",
		Short: "Put a bundle in force, all of it or nothing",
		Long: `Activate has the server verify a bundle, compare its version with those that were
in force, and put all of its policies in force in one transaction. Policies of
its last version that are in it no more go. What cannot be put in force changes
nothing. With name and version alone, what was in force before is put in force
again.

With --replay-days, recorded decisions are judged by the policies as they would
be first; with refusals that are new and not accepted nothing is changed, and the
exit code is 1. So it is with --dry-run when something would change.

` + bundleFrom,
		Example: `  assay policy bundle activate release-5.tar.gz --dry-run
  assay policy bundle activate oci://registry.example/policies/release:5 --replay-days 30
  assay policy bundle activate --name release --version 4 --rollback --reason "5 refused the nightly builds"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			s, err := a.connect(ctx, "", "", true)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				b, c, err := f.load(ctx, a, s, args[0])
				if err != nil {
					return err
				}
				if q.Archive, err = b.Archive(); err != nil {
					return err
				}
				q.Signatures, q.Name, q.Version = b.Signatures, c.Name, c.Version
				if strings.Contains(b.Origin, "://") {
					q.Origin = b.Origin
				}
			} else {
				if f.name == "" || f.version == 0 {
					return usagef("which bundle? Give FROM, or --name and --version of one that was in force before")
				}
				q.Name, q.Version = f.name, f.version
			}
			out, err := s.api().ActivatePolicyBundle(ctx, q)
			if err != nil {
				return err
			}
			return a.activated(&out)
		},
	}
	f.register(cmd)
	fl := cmd.Flags()
	fl.StringVar(&q.Reason, "reason", "", "why, on record")
	fl.BoolVar(&q.DryRun, "dry-run", false, "show what would change, change nothing")
	fl.BoolVar(&q.Rollback, "rollback", false, "go back to an older version than was in force")
	fl.BoolVar(&q.Unsigned, "allow-unsigned", false, "also without a signature, where the site allows that (trust.policies.unsigned)")
	fl.IntVar(&q.ReplayDays, "replay-days", 0, "judge the decisions of so many days again first")
	fl.StringArrayVar(&q.Accept, "accept", nil, `a cause of new refusals that is wanted, as the replay names it, or "unknown"; can be repeated`)
	return cmd
}

func (a *app) activated(out *client.PolicyBundleActivated) error {
	changed := 0
	if err := a.print(out, func(w io.Writer) {
		if len(out.Replay) > 0 {
			var r replay.Comparison
			if err := strictjson.Unmarshal(out.Replay, &r); err == nil {
				printReplay(w, &r)
				fmt.Fprintln(w)
			}
		}
		for _, c := range out.Changes {
			word := c.Action
			if out.DryRun && word != "unchanged" {
				word = "would be " + word
			}
			fmt.Fprintf(w, "%s\tpolicy/%s\n", line(word), line(c.Name))
		}
		for _, c := range out.Changes {
			if out.DryRun && c.Diff != "" {
				fmt.Fprintf(w, "\npolicy/%s\n%s", line(c.Name), clean(c.Diff))
			}
		}
		switch {
		case out.Why != "":
			fmt.Fprintf(w, "not changed: %s\n", line(out.Why))
		case out.Activated:
			fmt.Fprintf(w, "bundle %s, version %d, is in force (before: %s), signed by %s\n", line(out.Name), out.Version, orNone(out.From), dash(line(strings.Join(out.Signers, ", "))))
		case !out.DryRun:
			fmt.Fprintf(w, "bundle %s is in force no more\n", line(out.Name))
		}
	}); err != nil {
		return err
	}
	for _, c := range out.Changes {
		if c.Action != "unchanged" && c.Action != "unmanaged" {
			changed++
		}
	}
	if out.Why != "" || out.DryRun && changed > 0 {
		return &exitError{1}
	}
	return nil
}

func orNone(version int64) string {
	if version == 0 {
		return "none"
	}
	return fmt.Sprintf("version %d", version)
}

func (a *app) policyBundleList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the bundles in force, and what is wrong with those that are followed",
		Example: "  assay policy bundle list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			out, err := s.api().PolicyBundles(cmd.Context())
			if err != nil {
				return err
			}
			if err := a.print(out.Items, func(w io.Writer) { printBundles(w, out.Items) }); err != nil {
				return err
			}
			for _, b := range out.Items {
				if b.Problem != "" {
					return &exitError{1}
				}
			}
			return nil
		},
	}
}

func printBundles(w io.Writer, list []client.PolicyBundle) {
	if len(list) == 0 {
		fmt.Fprintln(w, "none")
		return
	}
	fmt.Fprintln(w, "NAME\tVERSION\tSINCE\tUNTIL\tPOLICIES\tSIGNERS\tBY\tORIGIN")
	for _, b := range list {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\t%s\t%s\t%s\n", line(b.Name), b.Version, stamp(b.ActivatedAt), stamp(b.ReplacedAt), len(b.Policies), dash(line(strings.Join(b.Signers, ", "))), line(b.Actor), dash(line(b.Origin)))
	}
	for _, b := range list {
		if b.Problem != "" {
			fmt.Fprintf(w, "\n%s: what lies at its place is not in force: %s\n", line(b.Name), line(b.Problem))
		}
	}
}

func (a *app) policyBundleHistory() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "history NAME",
		Short:   "Show when which version of a bundle was in force, and who saw to it",
		Example: "  assay policy bundle history release",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			out, err := s.api().PolicyBundleHistory(cmd.Context(), args[0], limit)
			if err != nil {
				return err
			}
			if len(out.Items) == 0 {
				return fault.Newf(fault.NotFound, "no bundle %s was ever in force here", line(args[0]))
			}
			return a.print(out.Items, func(w io.Writer) { printBundles(w, out.Items) })
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many")
	return cmd
}

func (a *app) policyBundleRemove() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:     "remove NAME",
		Short:   "Take a bundle and its policies out of force",
		Example: `  assay policy bundle remove trial --reason "replaced by release"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usagef("want --reason: it is on record with the change")
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			out, err := s.api().RemovePolicyBundle(cmd.Context(), args[0], reason)
			if err != nil {
				return err
			}
			return a.activated(&out)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, on record (required)")
	return cmd
}

// wanted are the identities that the flags name.
func (f *verifyFlags) wanted(keys []trust.Key) (out []policy.IdentityMatch) {
	for _, k := range keys {
		if fp, err := trust.KeyFingerprint(k.Public); err == nil {
			out = append(out, policy.IdentityMatch{Key: fp})
		}
	}
	if f.identity+f.identityRegexp != "" {
		out = append(out, policy.IdentityMatch{Subject: f.identity, SubjectRegexp: f.identityRegexp, Issuer: f.issuer, IssuerRegexp: f.issuerRegexp})
	}
	return out
}
