package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/internal/fault"

	"github.com/spf13/cobra"
)

func (a *app) contractCommand() *cobra.Command {
	list := &cobra.Command{
		Use:     "list",
		Short:   "List contracts: what evidence is owed of what is pushed",
		Example: "  assay contract list\n  assay contract list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cs, err := a.contracts(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(client.List[client.Contract]{Items: cs}, func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tVERSION\tREPOSITORIES\tWITHIN\tEVIDENCE")
				for _, c := range cs {
					fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", line(c.Name), c.Version, line(strings.Join(c.Repositories, ", ")), time.Duration(c.WithinSeconds)*time.Second, line(owedNames(c.Evidence)))
				}
			})
		},
	}
	show := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show one contract",
		Example: "  assay contract show release",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cs, err := a.contracts(cmd.Context())
			if err != nil {
				return err
			}
			for _, c := range cs {
				if c.Name != args[0] {
					continue
				}
				return a.print(c, func(w io.Writer) {
					fmt.Fprintf(w, "contract\t%s\nversion\t%d\nhash\t%s\n", line(c.Name), c.Version, c.Hash)
					fmt.Fprintf(w, "repositories\t%s\n", line(strings.Join(c.Repositories, ", ")))
					if len(c.Workflows) > 0 {
						fmt.Fprintf(w, "workflows\t%s\n", line(strings.Join(c.Workflows, ", ")))
					}
					fmt.Fprintf(w, "within\t%s\n", time.Duration(c.WithinSeconds)*time.Second)
					for _, e := range c.Evidence {
						fmt.Fprintf(w, "evidence\t%s\t%s\n", line(e.Name), line(e.PredicateType))
					}
				})
			}
			return fault.Newf(fault.NotFound, "contract %q: not here; assay contract list", clean(args[0]))
		},
	}
	var subject, repository string
	check := &cobra.Command{
		Use:   "check TARGET",
		Short: "Say what there is, now, of what an artifact owes",
		Long: `Check verifies the evidence about an artifact now, and holds it against the
contract that binds it. The exit code is 0 when all is there, 1 when something is
missing, and 2 when nothing could be found out or no contract binds it.`,
		Example: "  assay contract check 127.0.0.1:8484/team/app:v1\n  assay contract check --repository team/app sha256:…",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			s, err := a.connect(ctx, subject, "", true)
			if err != nil {
				return err
			}
			t, err := s.resolve(ctx, args[0])
			if err != nil {
				return err
			}
			if repository == "" && t.image != nil {
				repository = t.image.Repository
			}
			if repository == "" {
				return usagef("%s names no repository: give --repository", clean(args[0]))
			}
			got, err := s.api().CheckContract(ctx, t.digest, repository)
			if err != nil {
				return err
			}
			if err := a.print(got, func(w io.Writer) { printContractStatus(w, got) }); err != nil {
				return err
			}
			if !got.Complete {
				return &exitError{1}
			}
			return nil
		},
	}
	check.Flags().StringVar(&repository, "repository", "", "where it was pushed, for a target that does not say")
	check.Flags().StringVar(&subject, "subject", "", "with --data: the local identity to read the registry as")
	return group("contract", "What evidence is owed, and what there is of it", list, show, check)
}

func (a *app) contracts(ctx context.Context) ([]client.Contract, error) {
	s, err := a.connect(ctx, "", "", true)
	if err != nil {
		return nil, err
	}
	return s.api().Contracts(ctx)
}

func owedNames(in []client.ContractEvidence) string {
	var out []string
	for _, e := range in {
		out = append(out, e.Name)
	}
	return strings.Join(out, ", ")
}

func printContractStatus(w io.Writer, s *client.ContractStatus) {
	word := "COMPLETE"
	if !s.Complete {
		word = "INCOMPLETE"
	}
	fmt.Fprintf(w, "%s\t%s@%s\n", word, line(s.Repository), s.Digest)
	fmt.Fprintf(w, "contract\t%s version %d\n", line(s.Contract), s.Version)
	if s.Build != "" {
		fmt.Fprintf(w, "build\t%s\n", line(s.Build))
	}
	if s.Due != nil {
		fmt.Fprintf(w, "due\t%s\t%s\n", stamp(*s.Due), line(s.State))
	}
	for _, i := range s.Items {
		state := "present"
		switch {
		case i.Late:
			state = "late"
		case !i.Present:
			state = "missing"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", state, line(i.Name), line(i.Reason))
	}
}

// coverageCommand stands below evidence.
func (a *app) coverageCommand() *cobra.Command {
	var repository, since string
	cmd := &cobra.Command{
		Use:   "coverage",
		Short: "Count owed evidence: expected, in time, late, missing",
		Long: `Coverage counts, by repository and type, the evidence that contracts expect of
what was pushed: what came in its time, what came late, what is missing, and what
may still come.`,
		Example: "  assay evidence coverage\n  assay evidence coverage --repository team/app --since 168h -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var from time.Time
			if since != "" {
				d, err := time.ParseDuration(since)
				if err != nil || d <= 0 {
					return usagef("--since %q: want a duration such as 168h", clean(since))
				}
				from = time.Now().Add(-d)
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			rows, err := s.api().EvidenceCoverage(cmd.Context(), repository, from)
			if err != nil {
				return err
			}
			return a.print(client.List[client.EvidenceCoverage]{Items: rows}, func(w io.Writer) {
				fmt.Fprintln(w, "REPOSITORY\tTYPE\tEXPECTED\tPRESENT\tLATE\tMISSING\tPENDING")
				for _, c := range rows {
					fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\n", line(c.Repository), line(c.PredicateType), c.Expected, c.Present, c.Late, c.Missing, c.Pending)
				}
			})
		},
	}
	cmd.Flags().StringVar(&repository, "repository", "", "only this one")
	cmd.Flags().StringVar(&since, "since", "", "only what was pushed so long ago at most; default 720h")
	return cmd
}

func (a *app) buildCommand() *cobra.Command {
	var workflow string
	start := &cobra.Command{
		Use:   "start REPOSITORY",
		Short: "Tell of the start of a build, so that it is known what it owes",
		Long: `Start tells the server that a build began whose product will be pushed to
REPOSITORY. What the contract for it and its workflow expects is owed from the push
on. It prints the build's id, for assay build finish. assay run does both by itself.

The workflow is what the identity token names. Only over --data, where any token
could be made, may --workflow say it.`,
		Example: "  build=$(assay build start team/app)\n  make && docker push registry.example/team/app:v1\n  assay build finish \"$build\" --product app=sha256:…",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			b, err := s.api().StartBuild(cmd.Context(), client.BuildStart{Repository: args[0], Workflow: workflow})
			if err != nil {
				return err
			}
			if a.output != "table" {
				return a.print(b, nil)
			}
			if b.Contract == "" {
				a.notef("no contract expects anything of %s\n", clean(b.Repository))
			} else {
				a.notef("contract %s version %d expects %s\n", clean(b.Contract), b.Version, clean(owedNames(b.Expects)))
			}
			_, err = fmt.Fprintln(a.stdout, clean(b.ID))
			return err
		},
	}
	start.Flags().StringVar(&workflow, "workflow", "", "with --data: the workflow to start as")
	var failed bool
	var products []string
	var invocation string
	finish := &cobra.Command{
		Use:     "finish ID",
		Short:   "Tell of the end of a build, and of what it made",
		Example: "  assay build finish bld_… --product app=sha256:…\n  assay build finish bld_… --failed",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := client.BuildFinish{Outcome: "passed", Invocation: invocation}
			if failed {
				in.Outcome = "failed"
			}
			for _, p := range products {
				name, digest, ok := strings.Cut(p, "=")
				if !ok {
					name, digest = "", p
				}
				d, err := artifact.ParseDigest(digest)
				if err != nil {
					return usagef("--product %q: want NAME=sha256:… or sha256:…", clean(p))
				}
				in.Products = append(in.Products, client.BuildProduct{Name: name, Digest: d})
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			b, err := s.api().FinishBuild(cmd.Context(), args[0], in)
			if err != nil {
				return err
			}
			return a.print(b, func(w io.Writer) { fmt.Fprintf(w, "build\t%s\t%s\n", line(b.ID), line(b.Outcome)) })
		},
	}
	finish.Flags().BoolVar(&failed, "failed", false, "it failed, and made nothing")
	finish.Flags().StringArrayVar(&products, "product", nil, "NAME=DIGEST of what it made; can be repeated")
	finish.Flags().StringVar(&invocation, "invocation", "", "the provenance's invocationId")
	return group("build", "Tell the server of builds that assay run does not wrap", start, finish)
}

// toldBuilds are builds that the server was told of, by repository.
type toldBuilds struct {
	api *client.Client
	ids map[string]string
}

// tellStarts tells the server of a build that will push to repositories of its
// own. That it cannot does not stop the build: a push is seen all the same, and
// owes what its repository's contract expects.
func (s *session) tellStarts(ctx context.Context, refs ...artifact.Reference) *toldBuilds {
	t := &toldBuilds{ids: map[string]string{}}
	for _, ref := range refs {
		if s.status == nil || ref.Repository == "" || ref.Host != s.status.Services.Registry || t.ids[ref.Repository] != "" {
			continue
		}
		t.api = s.api()
		b, err := t.api.StartBuild(ctx, client.BuildStart{Repository: ref.Repository})
		if err != nil {
			s.app.notef("assay: the server could not be told of the build: %s\n", clean(err.Error()))
			continue
		}
		if b.Contract != "" {
			s.app.notef("contract %s version %d expects %s\n", clean(b.Contract), b.Version, clean(owedNames(b.Expects)))
		}
		t.ids[ref.Repository] = b.ID
	}
	return t
}

// finish tells of the end, and of the references that were pushed; the build is
// over whatever the answer, also when it was interrupted.
func (t *toldBuilds) finish(ctx context.Context, a *app, invocation string, passed bool, pushed ...string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	for repository, id := range t.ids {
		f := client.BuildFinish{Outcome: "failed", Invocation: invocation}
		if passed {
			f.Outcome = "passed"
			for _, text := range pushed {
				if ref, err := artifact.ParseReference(text); err == nil && ref.Repository == repository && ref.Digest != "" {
					f.Products = append(f.Products, client.BuildProduct{Name: repository, Digest: ref.Digest})
				}
			}
		}
		if _, err := t.api.FinishBuild(ctx, id, f); err != nil {
			a.notef("assay: the server could not be told of the build's end: %s\n", clean(err.Error()))
		}
	}
}
