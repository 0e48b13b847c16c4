package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/client"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/policy"
	"assay/trust"
	"assay/trust/revocation"
	"assay/verify"

	"github.com/spf13/cobra"
)

// verifyFlags are cosign's names where cosign has one.
type verifyFlags struct {
	policyFile, scope string
	environment       string
	bundles           []string
	roots             []string
	identity          string
	identityRegexp    string
	issuer            string
	issuerRegexp      string
	key               string
	ignoreTlog        bool
	content           bool
	subject           string
	foreignRoots      string
	delegations       string
	minimum           minimum
	lists             listFlags
}

func (a *app) verifyCommand() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify TARGET",
		Short: "May this artifact run here, and how do we know?",
		Long: `Verify an image, a file or a digest, and show the trail: each check, what was
expected, what was found, where the evidence stands in the log, and how to mend
what failed.

With neither a policy nor an identity the server decides by its own policies
and signs the decision. With --policy, or with cosign's identity flags, the
check is made here: the evidence comes from --bundle, or from the image's own
registry; trust comes from --trusted-root, from a TUF repository, or from the
server. Revocations come with the last two, or from --revocations: a list that is
older than one seen before is refused, and with one that is past its time
everything is denied.

Exit codes: 0 allowed, 1 denied, 2 could not decide, 64 usage.`,
		Example: `  # the server's own policies (with --server: a token in ASSAY_API_TOKEN, and
  # ASSAY_REGISTRY_TOKEN or docker login for the image)
  assay verify --data ./data --subject me@example.com 127.0.0.1:8484/team/app:v1

  # as cosign would: who signed it
  assay verify --certificate-identity ci@example.com --certificate-oidc-issuer https://issuer.example \
    --trusted-root trusted_root.json registry.example/team/app@sha256:…

  # a file, no server, no network
  assay verify --bundle app.sigstore.json --trusted-root trusted_root.json \
    --certificate-identity ci@example.com --certificate-oidc-issuer https://issuer.example ./app

  # the same, with what was revoked; or with trust from a TUF repository
  assay verify --bundle app.sigstore.json --trusted-root trusted_root.json --revocations revocations.json --tuf-root root.json \
    --certificate-identity ci@example.com --certificate-oidc-issuer https://issuer.example ./app
  assay verify --bundle app.sigstore.json --tuf-mirror https://assay.example/tuf --tuf-root root.json --offline \
    --certificate-identity ci@example.com --certificate-oidc-issuer https://issuer.example ./app

  # a file signed with a key
  assay verify --key cosign.pub --bundle app.sigstore.json --trusted-root trusted_root.json ./app`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" {
				return usagef("TARGET is empty")
			}
			pol, keys, err := f.policy(a)
			if err != nil {
				return err
			}
			if err := f.minimum.settle(a, cmd); err != nil {
				return err
			}
			ctx := cmd.Context()
			if pol == nil {
				if len(f.bundles) > 0 || len(f.roots) > 0 || f.foreignRoots+f.delegations != "" || f.minimum.given || f.lists != (listFlags{}) {
					return usagef("--bundle, --trusted-root, --foreign-roots, --delegations, --revocations, --tuf-root and --min-… are for checks made here: say what must hold with --policy, --certificate-identity and --certificate-oidc-issuer, or --key")
				}
				return a.verifyByServer(ctx, &f, args[0])
			}
			return a.verifyHere(ctx, &f, args[0], pol, keys)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.policyFile, "policy", "", "a policy document to judge by, instead of the server's")
	fl.StringVar(&f.scope, "scope", "", "with a server: the scope to decide for")
	fl.StringVar(&f.environment, "environment", "", "where it is to run, for policies that select on it")
	fl.StringArrayVar(&f.bundles, "bundle", nil, "Sigstore bundle, DSSE envelope or attestation file to verify; can be repeated")
	fl.StringArrayVar(&f.roots, "trusted-root", nil, "Sigstore trusted_root.json to verify under; can be repeated")
	fl.StringVar(&f.identity, "certificate-identity", "", "the signer's identity, exactly")
	fl.StringVar(&f.identityRegexp, "certificate-identity-regexp", "", "the signer's identity, RE2 anchored at both ends")
	fl.StringVar(&f.issuer, "certificate-oidc-issuer", "", "the OIDC issuer that vouched for the signer, exactly")
	fl.StringVar(&f.issuerRegexp, "certificate-oidc-issuer-regexp", "", "the OIDC issuer, RE2 anchored at both ends")
	fl.StringVar(&f.key, "key", "", "the signer's public key (PEM file)")
	fl.BoolVar(&f.ignoreTlog, "insecure-ignore-tlog", false, "with --key: accept a signature without log entry and timestamp")
	fl.StringVar(&f.foreignRoots, "foreign-roots", "", "foreign_roots.json: imported roots, each for its namespaces (assay trust roots export)")
	fl.StringVar(&f.delegations, "delegations", "", "delegations.json: what was handed to teams and vendors (assay trust delegations export)")
	f.minimum.register(cmd)
	fl.BoolVar(&f.content, "content", false, "of an image, also fetch every blob and hash it")
	fl.StringVar(&f.lists.file, "revocations", "", "a signed list of revocations (assay revocations export); with --tuf-root")
	f.lists.register(cmd)
	fl.StringVar(&f.lists.mirror, "tuf-mirror", "", "with --tuf-root: get trusted root and revocations from this TUF repository")
	fl.BoolVar(&f.lists.offline, "offline", false, "with --tuf-mirror: use what was fetched before, within its time, and ask nobody")
	fl.StringVar(&f.subject, "subject", "", "with --data: the local identity to read the registry as")
	cmd.AddCommand(a.verifyLayoutCommand())
	return cmd
}

// policy makes the policy that the flags ask for; nil leaves it to the server.
func (f *verifyFlags) policy(a *app) (*policy.Policy, []trust.Key, error) {
	var keys []trust.Key
	var wanted []policy.IdentityMatch
	if f.key != "" {
		b, err := os.ReadFile(f.key)
		if err != nil {
			return nil, nil, usagef("--key: %w", err)
		}
		pub, err := keyring.ParsePublic(b)
		if err != nil {
			return nil, nil, usagef("--key %s: %w", f.key, err)
		}
		fp, err := trust.KeyFingerprint(pub)
		if err != nil {
			return nil, nil, err
		}
		keys = append(keys, trust.Key{Public: pub})
		wanted = append(wanted, policy.IdentityMatch{Key: fp})
	}
	keyless := f.identity != "" || f.identityRegexp != "" || f.issuer != "" || f.issuerRegexp != ""
	switch {
	case f.policyFile != "" && keyless:
		return nil, nil, usagef("give --policy or identity flags, not both")
	case f.key != "" && keyless:
		return nil, nil, usagef("give --key or identity flags, not both")
	case f.policyFile != "":
		b, err := a.readInput(f.policyFile, 1<<20)
		if err != nil {
			return nil, nil, err
		}
		p, err := policy.ParseRequirements(b)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", f.policyFile, err)
		}
		if err := verify.CheckLayouts(p); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", f.policyFile, err)
		}
		return p, keys, nil
	case keyless:
		if (f.identity == "") == (f.identityRegexp == "") || (f.issuer == "") == (f.issuerRegexp == "") {
			return nil, nil, usagef("want the signer's identity and its issuer, each exactly or by -regexp: --certificate-identity and --certificate-oidc-issuer")
		}
		wanted = append(wanted, policy.IdentityMatch{Subject: f.identity, SubjectRegexp: f.identityRegexp, Issuer: f.issuer, IssuerRegexp: f.issuerRegexp})
	case len(wanted) == 0:
		return nil, nil, nil
	}
	name := "certificate-identity"
	if f.key != "" {
		name = "key"
	}
	p, err := policy.DefaultIdentities(name, wanted...)
	if err != nil {
		return nil, nil, usagef("%w", err)
	}
	return p, keys, nil
}

// verifyByServer asks the server for a decision.
func (a *app) verifyByServer(ctx context.Context, f *verifyFlags, text string) error {
	s, err := a.connect(ctx, f.subject, "", true)
	if err != nil {
		return err
	}
	t, err := s.resolve(ctx, text)
	if err != nil {
		return undecided(err)
	}
	q := client.VerifyRequest{Digest: t.digest, Scope: f.scope, Environment: f.environment}
	if t.image != nil {
		if t.image.Host != s.status.Services.Registry {
			return usagef("%s is in another registry than the server's (%s): say what must hold with --policy, or with --certificate-identity and --certificate-oidc-issuer, and it is checked here", clean(text), s.status.Services.Registry)
		}
		q.Repository, q.Reference = t.image.Repository, t.image.String()
	}
	var r verify.Report
	if err := s.api().Verify(ctx, q, &r); err != nil {
		return undecided(err)
	}
	if r.Digest != t.digest || r.Verdict != policy.Allow && r.Verdict != policy.Deny {
		return undecided(fault.Newf(fault.Unavailable, "the server answered about %q with verdict %q, asked was about %s", line(string(r.Digest)), line(string(r.Verdict)), t.digest))
	}
	return a.verdict(ctx, s, f, t, &r)
}

// verifyHere gathers evidence and judges it in this process.
func (a *app) verifyHere(ctx context.Context, f *verifyFlags, text string, p *policy.Policy, keys []trust.Key) error {
	s := &session{app: a, subject: f.subject}
	var err error
	// A file with its bundle and root needs no server; then none is asked.
	if len(f.roots) == 0 && f.lists.mirror == "" && !(f.ignoreTlog && len(keys) > 0) || len(f.bundles) == 0 {
		if s, err = a.connect(ctx, f.subject, "", false); err != nil {
			return undecided(err)
		}
	} else if s.http, err = a.httpClient(); err != nil {
		return err
	}
	vt, t, err := s.verifyTarget(ctx, text)
	if err != nil {
		return undecided(err)
	}
	o := verify.VerifierOptions{Keys: keys, Lists: map[string]*revocation.Signed{}}
	if err := s.trustHere(ctx, f, &o, &vt); err != nil {
		return err
	}
	verifier, err := verify.NewVerifier(o)
	if err != nil {
		return err
	}
	src, err := s.sources(ctx, f, t)
	if err != nil {
		return undecided(err)
	}
	// A policy that does not hold for the target allows nothing, as on a server.
	set, err := policy.NewSet(p)
	if err != nil {
		return err
	}
	scope := policy.Scope{ID: "here", Environment: f.environment}
	r, err := verify.Offline(ctx, vt, src, verify.OfflineOptions{Verifier: verifier, Policy: set.For(vt.Subject(), scope), Scope: scope})
	if err != nil {
		return undecided(err)
	}
	return a.verdict(ctx, s, f, t, r)
}

// verifyTarget is the target as verify sees it; of a file all strong digests.
func (s *session) verifyTarget(ctx context.Context, text string) (verify.Target, *target, error) {
	t, err := s.resolve(ctx, text)
	if err != nil {
		return verify.Target{}, nil, err
	}
	switch {
	case t.image != nil:
		return verify.ReferenceTarget(*t.image, t.media, s.status != nil && t.image.Host == s.status.Services.Registry), t, nil
	case t.file != "":
		vt, err := verify.FileTarget(t.file)
		return vt, t, err
	}
	return verify.Target{Digest: t.digest, Name: text}, t, nil
}

// sources says where evidence comes from: the bundles that were named, else
// the image's registry, and else what the server holds about the digest.
func (s *session) sources(ctx context.Context, f *verifyFlags, t *target) (verify.EvidenceSource, error) {
	if len(f.bundles) > 0 {
		var items verify.Items
		for _, path := range f.bundles {
			b, err := s.app.readInput(path, 64<<20)
			if err != nil {
				return nil, err
			}
			got, err := verify.ParseEvidence(b, path, attestation.Limits{})
			if err != nil {
				return nil, err
			}
			items = append(items, got...)
		}
		return items, nil
	}
	if t.image != nil {
		return verify.Registry{Client: s.registry(), Repository: *t.image}, nil
	}
	if s.status == nil {
		return nil, usagef("no evidence: give --bundle FILE, or a server that holds it")
	}
	page, err := s.api().Evidence(ctx, client.EvidenceFilter{Digest: t.digest, Limit: verify.MaxEvidence + 1})
	if err != nil {
		return nil, err
	}
	items := pageOfEvidence{truncated: len(page.Items) > verify.MaxEvidence || page.Next != ""}
	for _, e := range page.Items {
		b, err := s.api().Bundle(ctx, e.ID)
		if err != nil {
			return nil, err
		}
		items.items = append(items.items, verify.Item{Source: "server", Repository: e.Repository, Bundle: b})
	}
	return items, nil
}

// pageOfEvidence is what a server gave, and whether it had more: what was not
// read may be what forbids.
type pageOfEvidence struct {
	items     verify.Items
	truncated bool
}

func (p pageOfEvidence) Evidence(context.Context, artifact.Digest) ([]verify.Item, bool, error) {
	return p.items, p.truncated, nil
}

// undecided keeps refusals of what was asked for, and marks all else as "could
// not decide": an error is never an allow, and seldom a deny.
func undecided(err error) error {
	for _, k := range []*fault.Kind{fault.Invalid, fault.TooLarge, fault.Unverified, fault.Tampered} {
		if errors.Is(err, k) {
			return err
		}
	}
	if errors.Is(err, errUsage) {
		return err
	}
	return fault.Newf(fault.Undecided, "could not decide: %w", err)
}

// verdict prints the trail, checks the content when that was asked for, and
// gives the exit code.
func (a *app) verdict(ctx context.Context, s *session, f *verifyFlags, t *target, r *verify.Report) error {
	if f.content {
		if t.image == nil {
			return usagef("--content is for images: a file was hashed already")
		}
		check := policy.Check{Name: "content", Status: policy.Pass, Expected: "every blob has the digest that names it", Found: "every blob has"}
		if err := s.registry().VerifyContent(ctx, *t.image); err != nil {
			if !errors.Is(err, fault.Tampered) {
				return undecided(err)
			}
			check.Status, check.Found = policy.Fail, err.Error()
			check.Mend = "push the image again from a copy that you trust: crane copy COPY " + t.image.String()
			// The server's decision, if there was one, knew nothing of this.
			r.Verdict, r.DecisionID, r.ValidUntil = policy.Deny, "", time.Time{}
		}
		r.Checks = append(r.Checks, check)
	}
	if a.output == "table" {
		if err := r.WriteText(a.stdout, func(status, word string) string {
			switch status {
			case string(policy.Allow), string(policy.Pass):
				return a.paint(word, green)
			case string(policy.Deny), string(policy.Fail):
				return a.paint(word, red)
			}
			return a.paint(word, dim)
		}); err != nil {
			return err
		}
	} else if err := a.print(r, func(io.Writer) {}); err != nil {
		return err
	}
	if !r.Allowed() {
		return &exitError{1}
	}
	if !r.ValidUntil.IsZero() && r.ValidUntil.Before(time.Now()) {
		a.notef("assay: the decision ended at %s and was not made anew\n", stamp(r.ValidUntil))
		return &exitError{2}
	}
	return nil
}
