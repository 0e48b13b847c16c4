package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/source"
	"assay/trust"
	"assay/trust/revocation"
	"assay/verify"

	"github.com/spf13/cobra"
)

// sourceCommand is what is asked of commits.
func (a *app) sourceCommand() *cobra.Command {
	return group("source", "Commits: who signed them, who reviewed them, what a release leaves out of its tag",
		a.sourceVerifyCommand(), a.sourceCompareCommand(), a.sourceMetricsCommand(), a.sourceHookCommand())
}

// sourceFlags are shared by what reads a repository.
type sourceFlags struct {
	repo, branch string
	policy       string
	uri          string
	attest       bool
	sign         signFlags
	trust        verifyFlags
}

func (f *sourceFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.repo, "repo", ".", "the git repository, a work tree or a bare one")
	fl.BoolVar(&f.attest, "attest", false, "state the outcome about the commit, signed, and store it with the server")
	fl.StringVar(&f.uri, "uri", "", "with --attest: the repository's URI; by default its remote origin's")
	f.sign.register(cmd)
}

func (a *app) sourceVerifyCommand() *cobra.Command {
	var f sourceFlags
	cmd := &cobra.Command{
		Use:   "verify [RANGE]",
		Short: "Verify the signatures of commits and tags against the protected branch's policy",
		Long: `Verifies the signature of each commit of RANGE over the commit's raw bytes: SSH
(also by certificate), GPG, and X.509 with its log entry (gitsign). RANGE is
BASE..HEAD, a branch, a commit or a tag; by default what HEAD adds to the
protected branch. A tag is verified with the commit that it names.

Who may sign says .assay/source.yaml as the protected branch has it before the
range, never as the change has it. --policy FILE, or --policy REF whose file
counts, is for who stands outside of the repository.

Shows the SLSA source level and what keeps the next one away. Ends with 0 when
all holds, 1 when a signature or the wanted level is missing, 2 when that could
not be found out.`,
		Example: `  assay source verify
  assay source verify origin/main..HEAD -o json
  assay source verify v1.2.0 --trusted-root trusted_root.json
  assay source verify --attest --data ./data --subject ci@example.com`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := source.Request{Branch: f.branch}
			if len(args) == 1 {
				q.Range = args[0]
			}
			return a.sourceVerify(cmd.Context(), &f, q)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&f.branch, "branch", "", "the protected branch; by default origin's HEAD, else main or master")
	cmd.Flags().StringVar(&f.policy, "policy", "", "a policy file, or a ref whose policy counts, instead of the protected branch's")
	cmd.Flags().StringArrayVar(&f.trust.roots, "trusted-root", nil, "Sigstore trusted_root.json for X.509 signatures; can be repeated; by default the server's")
	return cmd
}

func (a *app) sourceVerify(ctx context.Context, f *sourceFlags, q source.Request) error {
	if f.policy != "" {
		if b, err := os.ReadFile(f.policy); err == nil {
			q.PolicyFile, q.PolicyName = b, f.policy
		} else if errors.Is(err, os.ErrNotExist) {
			q.PolicyRef = f.policy
		} else {
			return usagef("--policy: %w", err)
		}
	}
	r, err := source.OpenRepository(ctx, f.repo)
	if err != nil {
		return err
	}
	defer r.Close()
	q.Levels = f.attest
	if a.server != "" || a.data != "" {
		q.Controls = func(ctx context.Context, ref string) (*source.Controls, error) {
			s, err := a.connect(ctx, f.sign.subject, f.sign.token, true)
			if err != nil {
				return nil, err
			}
			uri := f.uri
			if uri == "" {
				uri = r.URI(ctx)
			}
			return s.sourceControls(ctx, strings.TrimSuffix(uri, ".git"), ref)
		}
	}
	report, err := source.Verify(ctx, r, a.sourceChecker(f), q)
	if err != nil {
		return undecided(err)
	}
	if f.attest {
		if err := a.attestSource(ctx, f, r, report); err != nil {
			return err
		}
	} else if err := a.print(report, func(w io.Writer) { sourceTable(w, report) }); err != nil {
		return err
	}
	switch report.Verdict {
	case source.Passed:
		return nil
	case source.NotDecided:
		return &exitError{2}
	}
	return &exitError{1}
}

// sourceChecker verifies X.509 signatures under the roots that were named, else
// under the server's, which is asked when the first such signature is met. With
// neither there are none.
func (a *app) sourceChecker(f *sourceFlags) source.Checker {
	if len(f.trust.roots) == 0 && a.server == "" && a.data == "" {
		return source.Checker{}
	}
	verifier := sync.OnceValues(func() (*verify.Verifier, error) { return a.sourceVerifier(context.Background(), f) })
	return source.Checker{Bundles: func(ctx context.Context, b *attestation.Bundle) (*trust.Verified, error) {
		v, err := verifier()
		if err != nil {
			return nil, undecided(err)
		}
		return v.Verify(ctx, b)
	}}
}

func (a *app) sourceVerifier(ctx context.Context, f *sourceFlags) (*verify.Verifier, error) {
	o := verify.VerifierOptions{Lists: map[string]*revocation.Signed{}}
	for _, path := range f.trust.roots {
		root, err := readRoot(path)
		if err != nil {
			return nil, err
		}
		o.Roots = append(o.Roots, root)
	}
	if len(o.Roots) == 0 {
		s, err := a.connect(ctx, f.sign.subject, f.sign.token, true)
		if err != nil {
			return nil, err
		}
		root, err := s.root(ctx, "")
		if err != nil {
			return nil, err
		}
		o.Roots = []*trust.Root{root}
		if err := s.serverLists(ctx, root, &o); err != nil {
			return nil, err
		}
	}
	return verify.NewVerifier(o)
}

// attestSource signs and stores the summary of a report.
func (a *app) attestSource(ctx context.Context, f *sourceFlags, r *source.Repository, report *source.Report) error {
	s, err := a.connect(ctx, f.sign.subject, f.sign.token, false)
	if err != nil {
		return err
	}
	uri := f.uri
	if uri == "" {
		if uri = r.URI(ctx); uri == "" {
			return usagef("--attest: the repository has no remote origin that others know: give --uri git+https://…")
		}
	}
	verifier := "urn:assay:cli"
	if s.status != nil {
		verifier = s.status.PublicURL
	}
	st, err := report.Summary(verifier, uri, time.Now()).Statement()
	if err != nil {
		return err
	}
	a.notef("%s: %s, level %d\n", report.Head, report.Verdict, report.Level)
	for _, x := range report.Findings {
		a.notef("  %s\n", line(x))
	}
	return s.stateSource(ctx, &f.sign, "commit "+report.Head, artifact.Digest("gitCommit:"+report.Head), st)
}

// stateSource signs a statement and keeps the bundle.
func (s *session) stateSource(ctx context.Context, f *signFlags, name string, about artifact.Digest, st *attestation.Statement) error {
	body, err := st.Bytes()
	if err != nil {
		return err
	}
	signer, err := s.signing(ctx, f)
	if err != nil {
		return err
	}
	b, err := signStatement(ctx, signer, body)
	if err != nil {
		return err
	}
	return s.keep(ctx, f, &target{text: name, digest: about}, b, st.PredicateType)
}

func sourceTable(w io.Writer, r *source.Report) {
	fmt.Fprintf(w, "branch\t%s\npolicy\t%s\n", line(r.Branch), line(r.Policy))
	for _, c := range r.Commits {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Commit[:12], c.Signature.Status, dash(signerText(c.Signature)), line(c.Title))
	}
	for _, m := range r.Merges {
		if m.State != source.MergeClean {
			more := strings.Join(m.Files, ", ")
			if m.More > 0 {
				more += fmt.Sprintf(", %d more", m.More)
			}
			fmt.Fprintf(w, "merge %s\t%s\t%s\t%s\n", m.Commit[:12], m.State, dash(more), line(m.Reason))
		}
	}
	if t := r.Tag; t != nil {
		fmt.Fprintf(w, "tag %s\t%s\t%s\n", line(t.Name), t.Signature.Status, dash(signerText(t.Signature)))
	}
	for _, f := range r.Findings {
		fmt.Fprintf(w, "finding\t%s\n", line(f))
	}
	fmt.Fprintf(w, "verdict\t%s\nlevel\t%d (wanted %d)\n", r.Verdict, r.Level, r.Wanted)
	if r.Next != nil {
		fmt.Fprintf(w, "level %d wants\t%s\n", r.Next.Level, line(strings.Join(r.Next.Missing, "; ")))
	}
}

func signerText(s source.Signature) string {
	switch {
	case s.Signer != "":
		return s.Signer + " (" + string(s.Format) + ")"
	case s.Subject != "":
		return s.Subject
	}
	return s.Key
}
