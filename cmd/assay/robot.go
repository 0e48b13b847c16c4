package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"assay/client"
	"assay/config"
	"assay/identity"

	"github.com/spf13/cobra"
)

func (a *app) robotCommand() *cobra.Command {
	return group("robot", "Machine accounts: tokens that expire and can be revoked",
		a.robotCreateCommand(), a.robotListCommand(), a.robotRotateCommand(), a.robotRevokeCommand(), a.robotDeleteCommand())
}

// days reads a duration that may be given in days, 90d.
type days time.Duration

func (d *days) String() string {
	v := time.Duration(*d)
	if v > 0 && v%(24*time.Hour) == 0 {
		return strconv.Itoa(int(v/(24*time.Hour))) + "d"
	}
	return v.String()
}

func (d *days) Set(s string) error {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		v, err := strconv.Atoi(n)
		if err != nil || v < 0 || v > 3660 {
			return fmt.Errorf("want a number of days, for example 30d")
		}
		*d = days(time.Duration(v) * 24 * time.Hour)
		return nil
	}
	v, err := time.ParseDuration(s)
	*d = days(v)
	return err
}

func (d *days) Type() string { return "duration" }

func (a *app) robotCreateCommand() *cobra.Command {
	var allow, audiences []string
	var description string
	var expires days
	cmd := &cobra.Command{
		Use:   "create NAME --allow ROLE=SCOPE --expires 30d",
		Short: "Make a robot and print its token, once",
		Long: `Make a robot and print its token. The server keeps a hash of it: the token is
shown here and never again. It begins with assay_robot_, so that scanners of
source code find it.`,
		Example: `  # a pipeline that pushes to one team's repositories and never moves a tag
  assay robot create team-ci --allow 'create-only=team/**' --expires 30d

  # log in with it
  assay robot create puller --allow pull=team/app --expires 90d | crane auth login HOST -u puller --password-stdin`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if expires == 0 {
				return usagef("want --expires, for example --expires 30d: no token lives for ever")
			}
			r := client.RobotRequest{Name: args[0], Description: description, Audiences: audiences, TTL: int64(time.Duration(expires).Seconds())}
			for _, text := range allow {
				role, scope, ok := strings.Cut(text, "=")
				if !ok || role == "" || scope == "" {
					return usagef("--allow %q: want ROLE=SCOPE, for example push=team/**", clean(text))
				}
				r.Rights = append(r.Rights, client.Right{Role: role, Scope: scope})
			}
			if len(r.Rights) == 0 {
				return usagef("want --allow ROLE=SCOPE, for example --allow 'push=team/**'")
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			t, err := s.api().CreateRobot(cmd.Context(), r)
			if err != nil {
				return err
			}
			return a.print(t, func(w io.Writer) { fmt.Fprintln(w, line(t.Secret)) })
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&allow, "allow", nil, "a role and the repositories that it is for, ROLE=SCOPE; can be repeated")
	f.StringSliceVar(&audiences, "audience", []string{string(identity.AudienceRegistry)}, "what it opens: assay-registry, assay-api")
	f.StringVar(&description, "description", "", "what it is for")
	f.Var(&expires, "expires", "when its token ends, for example 12h or 30d; the site bounds it (identity.robot_max_life)")
	complete(cmd, "audience", string(identity.AudienceRegistry), string(identity.AudienceAPI))
	_ = cmd.RegisterFlagCompletionFunc("allow", func(_ *cobra.Command, _ []string, have string) ([]string, cobra.ShellCompDirective) {
		var out []string
		for _, r := range identity.Roles() {
			if r != identity.RoleAdmin {
				out = append(out, string(r)+"=")
			}
		}
		return out, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

func (a *app) robotListCommand() *cobra.Command {
	var after string
	var limit int
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List robots, their rights and when their tokens end",
		Example: "  assay robot list\n  assay robot list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			page, err := s.api().Robots(cmd.Context(), after, limit)
			if err != nil {
				return err
			}
			return a.print(page, func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tRIGHTS\tTOKEN\tEXPIRES\tLAST USED\tSTATE")
				for _, r := range page.Items {
					var rights []string
					for _, right := range r.Rights {
						rights = append(rights, right.Role+"="+right.Scope)
					}
					for i, t := range r.Tokens {
						name, what, state := line(r.Name), line(strings.Join(rights, " ")), "live"
						if i > 0 {
							name, what = "", ""
						}
						switch {
						case !t.Revoked.IsZero():
							state = "revoked"
						case !t.Live:
							state = "expired"
						}
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", name, what, line(t.ID), stamp(t.Expires), stamp(t.LastUsed), state)
					}
				}
				if page.Next != "" {
					fmt.Fprintf(w, "more: --after %s\n", line(page.Next))
				}
			})
		},
	}
	cmd.Flags().StringVar(&after, "after", "", "continue after this cursor")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most so many")
	return cmd
}

func (a *app) robotRotateCommand() *cobra.Command {
	var expires, keep days
	cmd := &cobra.Command{
		Use:     "rotate NAME --expires 30d",
		Short:   "Give a robot another token; the old one ends, at once or after --keep",
		Example: "  assay robot rotate team-ci --expires 30d --keep 1h",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if expires == 0 {
				return usagef("want --expires, for example --expires 30d")
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			t, err := s.api().RotateRobot(cmd.Context(), args[0], client.RotateRequest{
				TTL: int64(time.Duration(expires).Seconds()), Keep: int64(time.Duration(keep).Seconds()),
			})
			if err != nil {
				return err
			}
			return a.print(t, func(w io.Writer) { fmt.Fprintln(w, line(t.Secret)) })
		},
	}
	cmd.Flags().Var(&expires, "expires", "when the new token ends, for example 30d")
	cmd.Flags().Var(&keep, "keep", "how long the tokens that it has still hold, at most 7d")
	return cmd
}

func (a *app) robotRevokeCommand() *cobra.Command {
	var q client.RevokeCredentialRequest
	var since string
	cmd := &cobra.Command{
		Use:   "revoke NAME --reason WHY",
		Short: "Revoke all tokens of a robot; what they bought ends too, within a second",
		Example: `  assay robot revoke team-ci --reason 'found in a public repository'
  assay robot revoke team-ci --since 2026-05-01T00:00:00Z --reason 'laptop stolen'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Robot = args[0]
			return a.revoke(cmd.Context(), q, since)
		},
	}
	cmd.Flags().StringVar(&q.Reason, "reason", "", "why; it goes into the audit trail")
	cmd.Flags().StringVar(&since, "since", "", "from when on its use was not right: a time, or how long ago (48h); pulls since then are told of")
	return cmd
}

func (a *app) robotDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME",
		Short:   "Take a robot away, with its tokens",
		Example: "  assay robot delete team-ci",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			if err := s.api().DeleteRobot(cmd.Context(), args[0]); err != nil {
				return err
			}
			return a.print(map[string]string{"deleted": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "deleted\t%s\n", line(args[0])) })
		},
	}
}

// when reads a time, RFC 3339, a date, or how long ago.
func when(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	var d days
	if err := d.Set(text); err != nil || d < 0 {
		return time.Time{}, usagef("--%s %q: want a time (2026-05-01T12:00:00Z), a date (2026-05-01) or how long ago (48h, 7d)", flag, clean(text))
	}
	return time.Now().Add(-time.Duration(d)), nil
}

func (a *app) revoke(ctx context.Context, q client.RevokeCredentialRequest, since string) error {
	if q.Reason == "" {
		return usagef("want --reason: it goes into the audit trail")
	}
	var err error
	if q.Since, err = when("since", since); err != nil {
		return err
	}
	s, err := a.connect(ctx, "", "", true)
	if err != nil {
		return err
	}
	rev, err := s.api().RevokeCredentials(ctx, q)
	if err != nil {
		return err
	}
	return a.print(rev, func(w io.Writer) {
		fmt.Fprintf(w, "revoked\t%s\tsince %s\n", line(rev.ID), stamp(rev.Since))
		if rev.Served > 0 {
			fmt.Fprintf(w, "%d pulls were served since then: assay audit unauthorized lists them\n", rev.Served)
		}
	})
}

func (a *app) accessCommand() *cobra.Command {
	var q client.RevokeCredentialRequest
	var since, after string
	var limit int
	revoke := &cobra.Command{
		Use:   "revoke (--credential ID | --issuer URL --identity NAME) --reason WHY",
		Short: "Revoke one credential, or all that an identity has obtained so far",
		Example: `  # a credential, by the name that the audit trail has for it
  assay access revoke --credential jwt:6083… --reason 'printed into a log'

  # all that somebody has; a new login counts again
  assay access revoke --issuer https://login.example.com --identity ann@example.com --since 48h --reason 'laptop stolen'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (q.Credential == "") == (q.Issuer == "" && q.Identity == "") || (q.Issuer == "") != (q.Identity == "") {
				return usagef("want --credential, or --issuer and --identity")
			}
			return a.revoke(cmd.Context(), q, since)
		},
	}
	f := revoke.Flags()
	f.StringVar(&q.Credential, "credential", "", "jwt:… or robot:…, as assay audit query shows it")
	f.StringVar(&q.Issuer, "issuer", "", "issuer of the identity")
	f.StringVar(&q.Identity, "identity", "", "identity, as grants name it")
	f.StringVar(&q.Reason, "reason", "", "why; it goes into the audit trail")
	f.StringVar(&since, "since", "", "from when on its use was not right: a time, or how long ago (48h)")
	list := &cobra.Command{
		Use:     "revocations",
		Short:   "List revoked credentials, oldest first",
		Example: "  assay access revocations -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			page, err := s.api().CredentialRevocations(cmd.Context(), after, limit)
			if err != nil {
				return err
			}
			return a.print(page, func(w io.Writer) {
				fmt.Fprintln(w, "ID\tAT\tSINCE\tWHAT\tBY\tREASON")
				for _, r := range page.Items {
					what := r.Credential
					switch {
					case r.Robot != "":
						what = "robot " + r.Robot
					case r.Identity != "":
						what = r.Issuer + "#" + r.Identity
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", line(r.ID), stamp(r.At), stamp(r.Since), line(what), line(r.Actor), line(r.Reason))
				}
				if page.Next != "" {
					fmt.Fprintf(w, "more: --after %s\n", line(page.Next))
				}
			})
		},
	}
	list.Flags().StringVar(&after, "after", "", "continue after this cursor")
	list.Flags().IntVar(&limit, "limit", 100, "at most so many")
	return group("access", "Credentials that are not believed any more", revoke, list)
}

func (a *app) breakGlassCommand() *cobra.Command {
	var reason, audience string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "break-glass --data DIR --reason WHY",
		Short: "Take an administrator's token over the admin socket; everybody sees it",
		Long: `Take a token with the role admin, from the admin socket of a server on this
machine: for when the issuer that people log in at is down. It lives at most ten
minutes. That it was taken, by whom and why, is an alert and stands in the
audit trail before the token is printed. It cannot be had over the network, and
a site can turn it off (identity.no_break_glass).`,
		Example: `  export ASSAY_API_TOKEN="$(assay break-glass --data /var/lib/assay --reason 'IdP down, INC-42')"
  assay apply --server https://assay.example -f grants.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.data == "" || reason == "" {
				return usagef("want --data DIR (ASSAY_DATA) and --reason WHY")
			}
			if ttl < time.Second || ttl > 10*time.Minute {
				return usagef("--ttl %s: want from 1s to 10m", ttl)
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			t, err := s.admin.BreakGlass(cmd.Context(), client.BreakGlassRequest{Reason: reason, Audience: audience, TTL: int(ttl.Seconds())})
			if err != nil {
				return err
			}
			return a.print(t, func(w io.Writer) { fmt.Fprintln(w, t.Token) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&reason, "reason", "", "why, at least eight characters; it goes into the alert and the audit trail")
	f.StringVar(&audience, "audience", string(identity.AudienceAPI), "what the token opens: assay-api or assay-registry")
	f.DurationVar(&ttl, "ttl", 5*time.Minute, "how long it lives, at most 10m")
	complete(cmd, "audience", string(identity.AudienceAPI), string(identity.AudienceRegistry))
	return cmd
}

// complete offers a flag's values to the shell.
func complete(cmd *cobra.Command, flag string, values ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

func (a *app) getCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get [KIND [NAME]]",
		Short: "Show the documents in force: grants, issuers, policies, repositories, teams",
		Example: `  assay get
  assay get Grant
  assay get Policy signed -o yaml`,
		Args: cobra.MaximumNArgs(2),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return config.Kinds(), cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			kind := ""
			if len(args) > 0 {
				var err error
				if kind, err = documentKind(args[0]); err != nil {
					return err
				}
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			docs, err := s.api().Documents(cmd.Context(), kind)
			if err != nil {
				return err
			}
			if len(args) == 2 {
				return a.oneDocument(docs, kind, args[1])
			}
			return a.print(docs, func(w io.Writer) {
				fmt.Fprintln(w, "KIND\tNAME")
				for _, d := range docs {
					fmt.Fprintf(w, "%s\t%s\n", line(d.Kind), line(d.Name))
				}
			})
		},
	}
	return cmd
}

func (a *app) oneDocument(docs []client.StoredDocument, kind, name string) error {
	for _, d := range docs {
		if d.Name != name {
			continue
		}
		if a.output == "json" {
			return a.print(d, nil)
		}
		_, err := io.WriteString(a.stdout, clean(d.Text))
		return err
	}
	return notFound(kind, name)
}

func (a *app) deleteCommand() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:     "delete KIND NAME",
		Short:   "Take an applied document away",
		Example: "  assay delete Grant ci\n  assay delete Policy signed --dry-run",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, err := documentKind(args[0])
			if err != nil {
				return err
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			answer, err := s.api().DeleteDocument(cmd.Context(), kind, args[1], dryRun)
			if err != nil {
				return err
			}
			return a.print(answer, func(w io.Writer) {
				word := "deleted"
				if dryRun {
					word = "would be deleted"
				}
				fmt.Fprintf(w, "%s\t%s/%s\n", word, line(strings.ToLower(kind)), line(args[1]))
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "find out whether the rest would hold, change nothing")
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return config.Kinds(), cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

// documentKind takes a kind in any case, also in the plural.
func documentKind(text string) (string, error) {
	for _, k := range config.Kinds() {
		low := strings.ToLower(k)
		plural := low + "s"
		if stem, ok := strings.CutSuffix(low, "y"); ok {
			plural = stem + "ies"
		}
		if t := strings.ToLower(text); t == low || t == plural {
			return k, nil
		}
	}
	return "", usagef("kind %q: want one of %s", clean(text), strings.Join(config.Kinds(), ", "))
}
