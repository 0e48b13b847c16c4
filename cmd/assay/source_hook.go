package main

import (
	"context"

	"assay/source"

	"github.com/spf13/cobra"
)

func (a *app) sourceHookCommand() *cobra.Command {
	return group("hook", "Hooks for plain git servers", a.sourcePreReceiveCommand())
}

func (a *app) sourcePreReceiveCommand() *cobra.Command {
	var f sourceFlags
	cmd := &cobra.Command{
		Use:   "pre-receive",
		Short: "Refuse pushes whose commits or tags are not signed by who may",
		Long: `For hooks/pre-receive of a bare repository: reads the refs of a push from standard
input, as git gives them, and judges the protected branch and tags by the policy
that the branch has before the push. Commits must be signed by an identity of the
policy; force pushes, deletion, and moved, deleted or unsigned tags are refused.
What cannot be judged is refused. Other branches pass.`,
		Example: `  printf '#!/bin/sh\nexec assay source hook pre-receive\n' > app.git/hooks/pre-receive
  chmod +x app.git/hooks/pre-receive`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.preReceive(cmd.Context(), &f)
		},
	}
	cmd.Flags().StringVar(&f.repo, "repo", ".", "the bare repository; git runs hooks inside of it")
	cmd.Flags().StringVar(&f.branch, "branch", "", "the protected branch; by default what HEAD names")
	cmd.Flags().StringArrayVar(&f.trust.roots, "trusted-root", nil, "Sigstore trusted_root.json for X.509 signatures; can be repeated; by default the server's")
	return cmd
}

func (a *app) preReceive(ctx context.Context, f *sourceFlags) error {
	updates, err := source.ParseUpdates(a.stdin)
	if err != nil {
		return err
	}
	// The environment that git gave names the quarantine; git's own commands go by
	// it (git-receive-pack(1), QUARANTINE ENVIRONMENT).
	r, err := source.OpenRepository(ctx, f.repo)
	if err != nil {
		return err
	}
	defer r.Close()
	refused, err := source.Receive(ctx, r, a.sourceChecker(f), f.branch, updates)
	if err != nil {
		return undecided(err)
	}
	if len(refused) == 0 {
		return nil
	}
	for _, one := range refused {
		a.notef("assay: %s is refused:\n", line(one.Ref))
		for _, why := range one.Reasons {
			a.notef("assay:   %s\n", line(why))
		}
	}
	a.notef("assay: who may sign stands in %s of the protected branch\n", source.PolicyPath)
	return &exitError{1}
}
