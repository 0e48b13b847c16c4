package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"assay/client"
	"assay/policy"
	"assay/policy/exception"

	"github.com/spf13/cobra"
)

func (a *app) exceptionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "exception", Aliases: []string{"exceptions"}, Short: "What may run although checks fail: asked for by one person, approved by another, for a while",
		Long: `An exception turns failed checks of one digest into warnings, until it ends. One person
asks for it and another approves; the site signs it, and the transparency log has it.
What is revoked, a malicious package, stale trust and evidence that was not read whole
stay denied. Of kind break-glass it excuses every other check, and is short.`,
	}
	cmd.AddCommand(a.exceptionListCommand(), a.exceptionRequestCommand(), a.exceptionShowCommand(),
		a.exceptionAnswerCommand("approve", "Put a request in force, as another person than who asked", "  assay exception approve exc_4k2q… --reason 'looked at it with the team'", false),
		a.exceptionAnswerCommand("reject", "Answer a request with no; it stays on record", "  assay exception reject exc_4k2q… --reason 'sign it instead'", true),
		a.exceptionAnswerCommand("withdraw", "End one that is in force: what it allowed is judged again now", "  assay exception withdraw exc_4k2q… --reason 'the signed build is out'", true))
	return cmd
}

func exceptionTable(w io.Writer, all []exception.Entry) {
	fmt.Fprintln(w, "ID\tKIND\tSTATE\tDIGEST\tCHECKS\tUNTIL\tASKED BY\tDECIDED BY\tREASON")
	for i := range all {
		e := &all[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", line(e.ID), line(e.Kind), line(e.State), line(string(e.Digest))[:min(19, len(e.Digest))], line(checksOf(e)), stamp(e.Until), line(e.RequestedBy), line(cmp.Or(e.DecidedBy, "-")), line(e.Reason))
	}
	if len(all) == 0 {
		fmt.Fprintln(w, "none")
	}
}

func checksOf(e *exception.Entry) string {
	if len(e.Checks) == 0 {
		return "all"
	}
	return strings.Join(e.Checks, ", ")
}

func (a *app) exceptionListCommand() *cobra.Command {
	var ended bool
	var about string
	cmd := &cobra.Command{
		Use: "list", Short: "Exceptions in force, and requests that wait", Args: cobra.NoArgs,
		Example: "  assay exception list\n  assay exception list --artifact registry.example/team/app:1.2 --ended -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			digest := ""
			if about != "" {
				t, err := s.resolve(cmd.Context(), about)
				if err != nil {
					return err
				}
				digest = string(t.digest)
			}
			all := client.List[exception.Entry]{Items: []exception.Entry{}}
			for after := ""; ; {
				var page client.List[exception.Entry]
				if err := s.api().Exceptions(cmd.Context(), digest, ended, after, 1000, &page); err != nil {
					return err
				}
				all.Items = append(all.Items, page.Items...)
				if after = page.Next; after == "" {
					break
				}
			}
			return a.print(all, func(w io.Writer) { exceptionTable(w, all.Items) })
		},
	}
	cmd.Flags().BoolVar(&ended, "ended", false, "also what excuses nothing any more, or never did")
	cmd.Flags().StringVar(&about, "artifact", "", "about this image, file or digest")
	return cmd
}

func (a *app) exceptionRequestCommand() *cobra.Command {
	var t exception.Terms
	var scope policy.Selector
	var until string
	var glass bool
	cmd := &cobra.Command{
		Use: "request TARGET --check NAME --until TIME --reason TEXT", Short: "Ask for an exception; another person approves it", Args: cobra.ExactArgs(1),
		Example: `  assay exception request registry.example/team/app:1.2 --check signatures/release --until 48h --reason 'the signer is down, INC-42'
  assay exception request sha256:9f86… --check 'reports/*' --namespace shop --until 14d --reason 'coverage comes with 1.3'
  assay exception request registry.example/team/app:1.2 --break-glass --until 2h --reason 'checkout is down, INC-43'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if t.Reason == "" || until == "" {
				return usagef("want --reason and --until: both are on record")
			}
			t.Kind = policy.ExceptionOrdinary
			if glass {
				t.Kind = policy.ExceptionBreakGlass
			}
			end, err := untilOf(until)
			if err != nil {
				return err
			}
			t.Until = end
			if n := len(scope.Repositories) + len(scope.Environments) + len(scope.Clusters) + len(scope.Namespaces) + len(scope.Teams) + len(scope.Services); n > 0 {
				t.Scope = &scope
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			target, err := s.resolve(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			t.Digest = target.digest
			repository := ""
			if target.image != nil && s.status != nil && target.image.Host == s.status.Services.Registry {
				repository = target.image.Repository
			}
			var e exception.Entry
			if err := s.api().RequestException(cmd.Context(), repository, t, &e); err != nil {
				return err
			}
			return a.print(e, func(w io.Writer) { exceptionTable(w, []exception.Entry{e}) })
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&t.Checks, "check", nil, "a check to excuse, as assay verify names it, or all below one: 'reports/*' (repeat)")
	f.BoolVar(&glass, "break-glass", false, "an emergency: every check, for hours")
	f.StringVar(&until, "until", "", "when it ends: 2027-01-31, RFC 3339, or from now on, such as 48h (required)")
	f.StringVar(&t.Reason, "reason", "", "why, on record (required)")
	f.StringVar(&t.Ticket, "ticket", "", "where it is followed up")
	for _, l := range []struct {
		name string
		list *[]string
	}{{"repository", &scope.Repositories}, {"environment", &scope.Environments}, {"cluster", &scope.Clusters}, {"namespace", &scope.Namespaces}, {"team", &scope.Teams}, {"service", &scope.Services}} {
		f.StringSliceVar(l.list, l.name, nil, "only there, a pattern (repeat)")
	}
	return cmd
}

func (a *app) exceptionShowCommand() *cobra.Command {
	var bundle bool
	cmd := &cobra.Command{
		Use: "show ID", Short: "One exception; with --bundle, what the site signed", Args: cobra.ExactArgs(1),
		Example: "  assay exception show exc_4k2q…\n  assay exception show exc_4k2q… --bundle > exception.sigstore.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			if bundle {
				b, err := s.api().ExceptionBundle(cmd.Context(), args[0])
				if err == nil {
					_, err = a.stdout.Write(append(b, '\n'))
				}
				return err
			}
			var e exception.Entry
			if err := s.api().Exception(cmd.Context(), args[0], &e); err != nil {
				return err
			}
			return a.print(e, func(w io.Writer) { exceptionDetail(w, &e) })
		},
	}
	cmd.Flags().BoolVar(&bundle, "bundle", false, "the signed and logged attestation")
	return cmd
}

func exceptionDetail(w io.Writer, e *exception.Entry) {
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s:\t%s\n", name, line(value))
		}
	}
	row("Exception", e.ID)
	row("Kind", e.Kind)
	row("State", e.State)
	row("Artifact", string(e.Digest))
	row("Checks", checksOf(e))
	if s := e.Scope; s != nil {
		for _, l := range []struct {
			name string
			list []string
		}{{"Repositories", s.Repositories}, {"Environments", s.Environments}, {"Clusters", s.Clusters}, {"Namespaces", s.Namespaces}, {"Teams", s.Teams}, {"Services", s.Services}} {
			row(l.name, strings.Join(l.list, ", "))
		}
	}
	row("Reason", e.Reason)
	row("Ticket", e.Ticket)
	row("Until", stamp(e.Until))
	row("Asked by", e.RequestedBy+" at "+stamp(e.RequestedAt))
	if e.DecidedBy != "" {
		row("Decided by", e.DecidedBy+" at "+stamp(e.DecidedAt))
		row("Answer", e.Answer)
	}
	if e.EndedBy != "" {
		row("Ended by", e.EndedBy+" at "+stamp(e.EndedAt))
		row("Because", e.EndReason)
	}
	row("Attestation", e.Attestation)
}

func (a *app) exceptionAnswerCommand(verb, short, example string, why bool) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1), Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			if why && reason == "" {
				return usagef("want --reason: it is on record")
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			var e exception.Entry
			if err := s.api().AnswerException(cmd.Context(), args[0], verb, reason, &e); err != nil {
				return err
			}
			return a.print(e, func(w io.Writer) { exceptionTable(w, []exception.Entry{e}) })
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, on record")
	return cmd
}
