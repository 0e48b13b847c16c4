package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"assay/artifact"
	"assay/client"
	"assay/gate"
	"assay/internal/fault"
	"assay/policy"
	"assay/verify"

	"github.com/spf13/cobra"
)

// commitFlags say which commit is told of a check.
type commitFlags struct{ forge, url, project, commit, name string }

func (f *commitFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.forge, "comment", "", "tell the commit, by status and comment: github or gitlab")
	fl.StringVar(&f.url, "forge-url", "", "address of the forge's API (GITHUB_API_URL, CI_API_V4_URL)")
	fl.StringVar(&f.project, "project", "", "OWNER/NAME (GITHUB_REPOSITORY, CI_PROJECT_PATH)")
	fl.StringVar(&f.commit, "commit", "", "the commit's id (GITHUB_SHA, CI_COMMIT_SHA)")
	fl.StringVar(&f.name, "check-name", "assay/gate", "what the status is called")
	complete(cmd, "comment", gate.GitHub, gate.GitLab)
}

// open fills what the CI's environment says; nil without --comment.
func (f *commitFlags) open(a *app) (*gate.Commit, error) {
	if f.forge == "" {
		return nil, nil
	}
	c := &gate.Commit{Forge: f.forge, URL: f.url, Project: f.project, SHA: f.commit, Token: os.Getenv("ASSAY_FORGE_TOKEN")}
	switch f.forge {
	case gate.GitHub:
		c.URL = cmp.Or(c.URL, os.Getenv("GITHUB_API_URL"), "https://api.github.com")
		c.Project, c.SHA, c.Token = cmp.Or(c.Project, os.Getenv("GITHUB_REPOSITORY")), cmp.Or(c.SHA, os.Getenv("GITHUB_SHA")), cmp.Or(c.Token, os.Getenv("GITHUB_TOKEN"))
	case gate.GitLab:
		c.URL = cmp.Or(c.URL, os.Getenv("CI_API_V4_URL"), "https://gitlab.com/api/v4")
		c.Project, c.SHA, c.Token = cmp.Or(c.Project, os.Getenv("CI_PROJECT_PATH")), cmp.Or(c.SHA, os.Getenv("CI_COMMIT_SHA")), cmp.Or(c.Token, os.Getenv("GITLAB_TOKEN"))
	}
	var err error
	if c.HTTP, err = a.httpClient(); err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, usagef("--comment: %w", err)
	}
	return c, nil
}

func (a *app) gateCheckCommand() *cobra.Command {
	var at places
	var on commitFlags
	var as, lane string
	cmd := &cobra.Command{
		Use:   "check TARGET...",
		Short: "May what this build made run? For pipelines: tells the commit, and knows a slow lane",
		Long: `Ask the server about each artifact of a build, for the place where it is to run, and
tell the commit by a status and one comment.

With --slow-lane NAMESPACE, images that are denied are judged again for that
namespace, by the policies of its scope. Where those allow them the check passes
and says so: deploy to the namespace that the answer names (.namespace), not to
the other, whose admission still refuses. What is revoked has no slow lane.

The forge's token is read from ASSAY_FORGE_TOKEN, GITHUB_TOKEN or GITLAB_TOKEN.

Exit codes: 0 allowed, there or in the slow lane, 1 denied, 2 could not decide or
could not tell the commit, 64 usage.`,
		Example: `  assay gate check --environment production --namespace shop registry.example/shop/app@sha256:…

  # in GitHub Actions (permissions: statuses: write, contents: write)
  assay gate check --comment github --namespace shop --slow-lane shop-restricted "$IMAGE" -o json > check.json
  kubectl -n "$(jq -r .namespace check.json)" set image deployment/app app="$IMAGE"`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			commit, err := on.open(a)
			if err != nil {
				return err
			}
			s, err := a.connect(ctx, as, "", true)
			if err != nil {
				return undecided(err)
			}
			got, err := s.check(ctx, &at, lane, args)
			if err != nil {
				if commit != nil {
					why := &client.CheckAnswer{Verdict: gate.Undecided}
					_ = commit.Post(ctx, statusOf(on.name, why)) // the error that led here is told
				}
				return undecided(err)
			}
			if err := a.print(got, func(w io.Writer) { a.writeCheck(w, got, lane) }); err != nil {
				return err
			}
			if commit != nil {
				if err := commit.Post(ctx, statusOf(on.name, got)); err != nil {
					if got.Verdict == gate.Deny {
						a.notef("assay: %s\n", clean(err.Error()))
						return &exitError{1}
					}
					return undecided(err)
				}
			}
			return codeOf(map[string]int{gate.Allow: 0, gate.SlowLane: 0, gate.Deny: 1}, got.Verdict)
		},
	}
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	cmd.Flags().StringVar(&lane, "slow-lane", "", "a restricted namespace for what is denied")
	at.register(cmd)
	on.register(cmd)
	return cmd
}

// check asks about images by their place, and about files by their digest.
func (s *session) check(ctx context.Context, at *places, lane string, args []string) (*client.CheckAnswer, error) {
	q := client.CheckQuestion{Environment: at.environment, Cluster: at.cluster, Namespace: at.namespace, SlowLane: lane}
	var files []client.CheckedImage
	for _, arg := range args {
		if _, err := os.Stat(arg); err != nil {
			if _, err := artifact.ParseReference(arg); err != nil {
				return nil, usagef("%q is neither a file nor an image (HOST/REPOSITORY[:TAG][@DIGEST])", clean(arg))
			}
			q.Images = append(q.Images, arg)
			continue
		}
		one, err := s.checkFile(ctx, at, arg)
		if err != nil {
			return nil, err
		}
		files = append(files, one)
	}
	got := client.CheckAnswer{Verdict: gate.Allow, Namespace: at.namespace}
	if len(q.Images) > 0 {
		var err error
		if got, err = s.api().Check(ctx, q); err != nil {
			return nil, err
		}
	}
	for _, one := range files {
		got.Images = append(got.Images, one)
		if one.Verdict == gate.Deny { // a file runs in no namespace, so it has no slow lane
			got.Verdict, got.Namespace = gate.Deny, at.namespace
		}
	}
	return &got, nil
}

func (s *session) checkFile(ctx context.Context, at *places, path string) (client.CheckedImage, error) {
	t, err := s.resolve(ctx, path)
	if err != nil {
		return client.CheckedImage{}, err
	}
	var r verify.Report
	if err := s.api().Verify(ctx, client.VerifyRequest{Digest: t.digest, Environment: at.environment}, &r); err != nil {
		return client.CheckedImage{}, err
	}
	if r.Digest != t.digest || r.Verdict != policy.Allow && r.Verdict != policy.Deny {
		return client.CheckedImage{}, fault.Newf(fault.Unavailable, "the server answered about %q with verdict %q", line(string(r.Digest)), line(string(r.Verdict)))
	}
	one := client.CheckedImage{Image: path, Digest: r.Digest, Verdict: string(r.Verdict), Decision: r.DecisionID, Policy: r.Policy, Reasons: []client.CheckReason{}}
	for _, c := range r.Checks {
		if c.Status == policy.Fail {
			one.Reasons = append(one.Reasons, client.CheckReason{Check: c.Name, Expected: c.Expected, Found: c.Found, Mend: c.Mend})
		}
	}
	if r.Verdict == policy.Deny && r.Mode != policy.Enforce {
		one.Verdict, one.Warned = gate.Allow, true
	}
	return one, nil
}

func (a *app) writeCheck(w io.Writer, got *client.CheckAnswer, lane string) {
	word := got.Verdict
	switch got.Verdict {
	case gate.Allow:
		word = a.paint(word, green)
	case gate.Deny:
		word = a.paint(word, red)
	case gate.SlowLane:
		word = fmt.Sprintf("slow lane: denied where it was to run, allowed in namespace %s: deploy there", line(got.Namespace))
	}
	fmt.Fprintln(w, word)
	for _, one := range got.Images {
		writeChecked(w, &one)
	}
	if len(got.Lane) > 0 && got.Verdict != gate.SlowLane {
		fmt.Fprintf(w, "in the slow lane %s:\n", line(lane))
		for _, one := range got.Lane {
			writeChecked(w, &one)
		}
	}
}

func writeChecked(w io.Writer, one *client.CheckedImage) {
	word := one.Verdict
	if one.Warned {
		word += " (warned)"
	}
	fmt.Fprintf(w, "  %s\t%s\t%s\n", line(word), line(one.Image), dash(one.Decision))
	for _, r := range one.Reasons {
		fmt.Fprintf(w, "  \t%s\t%s\n", line(r.Check), line(r.Found))
		if r.Mend != "" {
			fmt.Fprintf(w, "  \t\tmend: %s\n", line(r.Mend))
		}
	}
}

// statusOf is what the commit is told. What others wrote stands in code, where
// neither Markdown nor a mention is read.
func statusOf(name string, got *client.CheckAnswer) *gate.Status {
	st := &gate.Status{Verdict: got.Verdict, Name: name}
	denied := 0
	var b strings.Builder
	code := func(s string) string {
		return "`" + strings.ReplaceAll(strings.ReplaceAll(line(s), "`", "'"), "|", "/") + "`"
	}
	for _, one := range got.Images {
		if one.Verdict != gate.Allow {
			denied++
		}
		fmt.Fprintf(&b, "\n| %s | %s | %s |", code(one.Image), one.Verdict, code(cmp.Or(one.Decision, "-")))
		for _, r := range one.Reasons {
			fmt.Fprintf(&b, "\n| | %s | %s |", code(r.Check), code(r.Found))
			if r.Mend != "" {
				fmt.Fprintf(&b, "\n| | mend | %s |", code(r.Mend))
			}
		}
	}
	switch got.Verdict {
	case gate.Allow:
		st.Title = fmt.Sprintf("%d artifacts are allowed", len(got.Images))
	case gate.SlowLane:
		st.Title = fmt.Sprintf("slow lane: %d of %d denied, allowed in namespace %s alone", denied, len(got.Images), got.Namespace)
	case gate.Deny:
		st.Title = fmt.Sprintf("%d of %d artifacts are denied", denied, len(got.Images))
	default:
		st.Title = "could not be decided"
	}
	st.Body = "**Assay: " + line(st.Title) + "**"
	if b.Len() > 0 {
		st.Body += "\n\n| artifact | verdict | decision |\n|---|---|---|" + b.String()
	}
	return st
}
