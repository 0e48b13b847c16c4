package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"assay/client"
	"assay/config"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/strictyaml"
	"assay/policy"
	"assay/verify"
	"assay/verify/replay"

	"github.com/spf13/cobra"
)

func (a *app) policyCommand() *cobra.Command {
	return group("policy", "Write, test, try and enforce policies",
		a.policyTestCommand(),
		a.policyLintCommand(),
		a.policyExplainCommand(),
		a.policyTenantsCommand(),
		a.policyDiffCommand(),
		a.policyFactsCommand(),
		a.policyReplayCommand(),
		a.policyModeCommand(policy.Enforce),
		a.policyModeCommand(policy.Warn),
		a.policyModeCommand(policy.Audit),
		a.policyBundleCommand(),
		a.policyImportCommand(),
	)
}

// policyDocuments reads the policies of files and folders, strictly.
func (a *app) policyDocuments(paths []string) (docs []*policy.Document, text []byte, err error) {
	for _, p := range paths {
		b, err := a.readDocuments(p)
		if err != nil {
			return nil, nil, err
		}
		parts, err := strictyaml.Split(b)
		if err != nil {
			return nil, nil, err
		}
		all, err := config.ParseDocuments(b)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", p, err)
		}
		for i, d := range all {
			if d.Policy == nil {
				continue
			}
			doc, err := policy.ParseDocument(parts[i].Text())
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", p, err)
			}
			docs = append(docs, doc)
			text = append(append(text, "---\n"...), parts[i].Text()...)
		}
	}
	if len(docs) == 0 {
		return nil, nil, fault.Newf(fault.Invalid, "no document of kind Policy in %s", strings.Join(paths, ", "))
	}
	return docs, text, nil
}

func (a *app) policyLintCommand() *cobra.Command {
	var strict bool
	cmd := &cobra.Command{
		Use:   "lint PATH...",
		Short: "Find what weakens a policy without an error",
		Long: `Lint reads policies as the server would, and then looks for what is allowed
and seldom meant: identities that match everybody, dots that are not escaped,
evidence of any content, rules that refuse nobody.

Exit code 64 is a policy that does not compile; 1, with --strict, a finding.`,
		Example: "  assay policy lint site/\n  assay policy lint --strict release.yaml -o json",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			docs, _, err := a.policyDocuments(args)
			if err != nil {
				return err
			}
			found := []policy.Finding{}
			for _, d := range docs {
				found = append(found, policy.Lint(d)...)
			}
			found = append(found, policy.LintTenants(docs)...)
			if err := a.print(found, func(w io.Writer) {
				for _, f := range found {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", line(f.Policy), line(f.Field), line(f.Says), line(f.Mend))
				}
				if len(found) == 0 {
					fmt.Fprintf(w, "%d policies, nothing found\n", len(docs))
				}
			}); err != nil {
				return err
			}
			if strict && len(found) > 0 {
				return &exitError{1}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "end in 1 when there is a finding")
	return cmd
}

func (a *app) policyExplainCommand() *cobra.Command {
	var facts, repository, environment string
	cmd := &cobra.Command{
		Use:   "explain PATH",
		Short: "Say in words what a policy wants, or how it judges recorded facts",
		Example: `  assay policy explain release.yaml
  assay policy explain release.yaml --facts facts.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			docs, _, err := a.policyDocuments(args)
			if err != nil {
				return err
			}
			type explained struct {
				Policy  string                     `json:"policy"`
				Scope   bool                       `json:"concerns"` // its scope matches
				Mode    policy.Mode                `json:"mode"`
				Verdict policy.Verdict             `json:"verdict,omitempty"`
				Effect  policy.Mode                `json:"effect,omitempty"` // what a denial does
				Rollout []string                   `json:"rollout,omitempty"`
				Modes   map[string]policy.RuleMode `json:"modes,omitempty"` // by check, where a roll-out has a word
				Checks  []policy.Check             `json:"checks"`
			}
			var out []explained
			for _, d := range docs {
				p, err := policy.Compile(d)
				if err != nil {
					return err
				}
				e := explained{Policy: p.Name(), Mode: p.Mode(), Rollout: policy.RolloutTexts(d), Modes: map[string]policy.RuleMode{}}
				if facts == "" {
					sub, sc := policy.Subject{Repository: repository, Kind: policy.Image}, policy.Scope{Environment: environment}
					e.Scope = p.Concerns(sub, sc)
					if e.Checks, err = p.Explain(sub, sc); err != nil {
						return err
					}
					for _, c := range e.Checks {
						if m := p.ModeOf(c.Name, sub, sc, clock.System()); repository != "" && (m.Mode != p.Mode() || !m.Until.IsZero()) {
							e.Modes[c.Name] = m
						}
					}
				} else {
					b, err := a.readInput(facts, policy.MaxFacts)
					if err != nil {
						return err
					}
					f, err := policy.ParseFacts(b)
					if err != nil {
						return err
					}
					res, err := p.Evaluate(cmd.Context(), f, clock.System())
					if err != nil {
						return err
					}
					e.Scope, e.Verdict, e.Checks = p.Concerns(f.Subject, f.Scope), res.Verdict, res.Checks
					if res.Verdict != policy.Allow {
						e.Effect = res.Mode
					}
				}
				out = append(out, e)
			}
			return a.print(out, func(w io.Writer) {
				for _, e := range out {
					fmt.Fprintf(w, "%s, mode %s", line(e.Policy), e.Mode)
					if e.Verdict != "" {
						fmt.Fprintf(w, ": %s", e.Verdict)
					}
					if e.Effect != "" {
						fmt.Fprintf(w, ", and the denial is in mode %s", e.Effect)
					}
					fmt.Fprintln(w)
					for _, text := range e.Rollout {
						fmt.Fprintf(w, "  rollout: %s\n", line(text))
					}
					if !e.Scope && (facts != "" || repository+environment != "") {
						fmt.Fprintln(w, "  its scope does not match: it does not decide here")
					}
					for _, c := range e.Checks {
						if e.Verdict == "" {
							mode := ""
							if m, ok := e.Modes[c.Name]; ok {
								mode = "\t" + modeText(m)
							}
							fmt.Fprintf(w, "  %s\t%s%s\n", line(c.Name), line(c.Expected), mode)
							continue
						}
						status := string(c.Status)
						if c.Mode != "" {
							status += " (" + string(c.Mode) + ")"
						}
						fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", status, line(c.Name), line(c.Expected), line(c.Found))
					}
				}
			})
		},
	}
	cmd.Flags().StringVar(&facts, "facts", "", "facts as `assay policy facts` writes them: judge them")
	cmd.Flags().StringVar(&repository, "repository", "", "say whether the scope matches this repository")
	cmd.Flags().StringVar(&environment, "environment", "", "and this environment")
	return cmd
}

func (a *app) policyDiffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Tell two policies apart by what they do",
		Long: `Diff compares what two policies want, check by check, not how they are
written. Exit code 1 when they differ.

What would flip is for "assay policy replay" to say.`,
		Example: "  assay policy diff release.yaml release-next.yaml",
		Args:    cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			var docs [2]*policy.Document
			for i, p := range args {
				all, _, err := a.policyDocuments([]string{p})
				if err != nil {
					return err
				}
				if len(all) != 1 {
					return usagef("%s holds %d policies, want one", p, len(all))
				}
				docs[i] = all[0]
			}
			changes, err := policy.Diff(docs[0], docs[1])
			if err != nil {
				return err
			}
			if changes == nil {
				changes = []policy.Change{}
			}
			if err := a.print(changes, func(w io.Writer) {
				for _, c := range changes {
					fmt.Fprintf(w, "%s\n  - %s\n  + %s\n", line(c.What), line(cmp.Or(c.Was, "(not there)")), line(cmp.Or(c.Is, "(not there)")))
				}
				if len(changes) == 0 {
					fmt.Fprintln(w, "both decide alike")
				}
			}); err != nil || len(changes) == 0 {
				return err
			}
			return &exitError{1}
		},
	}
}

func (a *app) policyFactsCommand() *cobra.Command {
	var q client.VerifyRequest
	cmd := &cobra.Command{
		Use:   "facts TARGET|DECISION",
		Short: "Write the facts that a decision rests on, for tests of policies",
		Long: `Facts writes what was known of an artifact when it was decided about, as
canonical JSON. A target is decided about now; a decision is named by its id.`,
		Example: `  assay policy facts app.txt > policies/facts/signed.json
  assay policy facts dec_3f… > policies/facts/then.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			s, err := a.connect(ctx, "", "", true)
			if err != nil {
				return err
			}
			id := args[0]
			if !strings.HasPrefix(id, "dec_") {
				t, err := s.resolve(ctx, id)
				if err != nil {
					return err
				}
				if q.Digest = t.digest; t.image != nil {
					q.Repository, q.Reference = t.image.Repository, t.image.String()
				}
				var r verify.Report
				if err := s.api().Verify(ctx, q, &r); err != nil {
					return undecided(err)
				}
				id = r.DecisionID
			}
			b, err := s.api().DecisionFacts(ctx, id)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.stdout, "%s\n", b)
			return err
		},
	}
	cmd.Flags().StringVar(&q.Environment, "environment", "", "of a target: where it is to run")
	return cmd
}

func (a *app) policyReplayCommand() *cobra.Command {
	var from []string
	var at string
	var days int
	var alone bool
	cmd := &cobra.Command{
		Use:   "replay -f PATH",
		Short: "Show which recorded decisions other policies would flip",
		Long: `Replay judges the recorded facts of past decisions, and of all that stand,
by the policies in force with those of the files added, or put in the place of
those of the same name. Each distinct set of facts is judged once, at the
instant of its last decision. Nothing is decided and nothing is kept.

Exit code 1 when something would be refused that is not now, 2 when of some
decisions nobody can say what they would be.`,
		Example: "  assay policy replay -f release-next.yaml\n  assay policy replay -f site/ --alone --days 90 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(from) == 0 {
				return usagef("want -f PATH: a file, a folder, or - for standard input")
			}
			_, text, err := a.policyDocuments(from)
			if err != nil {
				return err
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			var stages time.Time
			if at != "" {
				if stages, err = time.Parse(time.RFC3339, at); err != nil {
					return usagef("--at %q: want RFC 3339, such as 2026-12-01T00:00:00Z", at)
				}
			}
			var r replay.Comparison
			if err := s.api().PolicyReplay(cmd.Context(), text, days, alone, stages, &r); err != nil {
				return err
			}
			if err := a.print(r, func(w io.Writer) { printReplay(w, &r) }); err != nil {
				return err
			}
			for _, g := range r.Groups {
				if g.To == replay.Refused {
					return &exitError{1}
				}
			}
			if r.Unknowns > 0 {
				return &exitError{2}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVarP(&from, "filename", "f", nil, "a YAML file, a folder of them, or - for standard input; can be repeated")
	cmd.Flags().IntVar(&days, "days", 30, "how far back")
	cmd.Flags().StringVar(&at, "at", "", "an instant to come: roll-outs are in the stage that they are in then")
	cmd.Flags().BoolVar(&alone, "alone", false, "judge by the policies of the files and no other")
	return cmd
}

func printReplay(w io.Writer, r *replay.Comparison) {
	fmt.Fprintf(w, "%d decisions upon %d distinct facts since %s: %d as they were, %d stricter, %d milder, %d unknown\n",
		r.Decisions, r.Facts, stamp(r.Since), r.Same, r.Stricter, r.Milder, r.Unknowns)
	if len(r.Groups) > 0 {
		fmt.Fprintln(w, "\nFROM\tTO\tFLIPS\tSTAND\tCAUSE\tOWNERS\tMEND")
	}
	for _, g := range r.Groups {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\n", g.From, g.To, g.Flips, g.Standing, line(g.Cause), line(strings.Join(g.Owners, ", ")), line(dash(g.Mend)))
	}
	if len(r.Flips) > 0 {
		fmt.Fprintln(w, "\nARTIFACT\tSCOPE\tFROM\tTO\tFOUND")
	}
	for i, f := range r.Flips {
		if i == 20 {
			fmt.Fprintf(w, "and %d more: -o json lists up to 1,000\n", r.Stricter+r.Milder-i)
			break
		}
		name := f.Digest.Short()
		if f.Repository != "" {
			name = f.Repository + "@" + name
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", line(name), line(f.Scope), f.From, f.To, line(f.Causes[0].Found))
	}
	for i, u := range r.Unknown {
		if i == 0 {
			fmt.Fprintln(w, "\nUNKNOWN\tSCOPE\tWHY")
		}
		if i == 10 {
			fmt.Fprintf(w, "and %d more\n", r.Unknowns-i)
			break
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", line(u.Digest.Short()), line(u.Scope), line(u.Reason))
	}
}
