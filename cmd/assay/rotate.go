package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"assay/authority/rotation"
	"assay/client"

	"github.com/spf13/cobra"
)

// nextStep says what comes next for a key, and when.
func nextStep(k client.Key) string {
	switch {
	case k.Waits != "" && k.State == "pending":
		return "waits: " + line(k.Waits)
	case !k.TakesOver.IsZero():
		return "takes over " + stamp(k.TakesOver)
	case !k.Rotates.IsZero():
		return "followed from " + stamp(k.Rotates)
	case k.State == "active" && !k.Expires.IsZero():
		return "expires " + stamp(k.Expires)
	}
	return "-"
}

type rotateFlags struct {
	all, now      bool
	reason, since string
	place         string
}

func (a *app) keysRotate() *cobra.Command {
	var f rotateFlags
	cmd := &cobra.Command{
		Use:   "rotate ROLE | --all",
		Short: "Have a key followed by a new one, without a verification that fails",
		Long: `Make the key that follows the present one of a role, and publish it. It signs
nothing until every client could have learnt of it: keys.rotation.overlap, 8 days
by default. Then it takes over, the window of the old one ends, and what that one
signed in its time goes on to verify. Nothing is restarted.

With --now it takes over as soon as it is published: clients that have not asked
since then meet signatures of a key that they do not know, until they ask.

With --reason compromised the window of the old key ends at once, or at --since:
what it signed later is not believed any more. To find what that concerns, and to
refuse what a thief signed with an earlier date, see assay revoke.

Roles: ` + roleNames() + `.`,
		Example: `  assay keys rotate log
  assay keys rotate --all
  assay keys rotate ca --reason compromised --since 2026-03-01T08:00:00Z
  assay keys rotate log --place hashivault://assay-log-2`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.FixedCompletions(completeRoles(), cobra.ShellCompDirectiveNoFileComp),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.rotate(cmd, args, f) },
	}
	fl := cmd.Flags()
	fl.BoolVar(&f.all, "all", false, "every role, one after the other")
	fl.BoolVar(&f.now, "now", false, "do not wait for the overlap")
	fl.StringVar(&f.reason, "reason", "", "compromised: the old key's window ends at once")
	fl.StringVar(&f.since, "since", "", "with --reason compromised: from when on the old key is not believed, RFC 3339")
	fl.StringVar(&f.place, "place", "", "where the new key is made or lies: the URI of a KMS key or of a key of a token")
	_ = cmd.RegisterFlagCompletionFunc("reason", cobra.FixedCompletions([]cobra.Completion{rotation.ReasonCompromised}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func roleNames() string {
	var names []string
	for _, r := range rotation.Roles() {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}

func completeRoles() (out []cobra.Completion) {
	for _, r := range rotation.Roles() {
		out = append(out, cobra.Completion(r))
	}
	return out
}

// request reads the flags.
func (f rotateFlags) request(args []string) (roles []string, q client.RotateKeyRequest, err error) {
	switch {
	case f.all == (len(args) == 1):
		return nil, q, usagef("want one ROLE, or --all; roles are %s", roleNames())
	case f.all && f.place != "":
		return nil, q, usagef("--place is for one role: two keys cannot lie at one place")
	case f.reason != "" && f.reason != rotation.ReasonCompromised:
		return nil, q, usagef("--reason %q: want %s", line(f.reason), rotation.ReasonCompromised)
	case f.since != "" && f.reason == "":
		return nil, q, usagef("--since is the time from which a key is not believed: it wants --reason %s", rotation.ReasonCompromised)
	}
	q = client.RotateKeyRequest{Now: f.now, Reason: f.reason, Place: f.place}
	if f.since != "" {
		if q.Since, err = time.Parse(time.RFC3339, f.since); err != nil {
			return nil, q, usagef("--since %q: want RFC 3339, for example 2026-03-01T08:00:00Z", line(f.since))
		}
	}
	if f.all {
		for _, r := range rotation.Roles() {
			roles = append(roles, string(r))
		}
		return roles, q, nil
	}
	if !rotation.Role(args[0]).Valid() {
		return nil, q, usagef("%q is no role: want one of %s", line(args[0]), roleNames())
	}
	return args, q, nil
}

func (a *app) rotate(cmd *cobra.Command, args []string, f rotateFlags) error {
	roles, q, err := f.request(args)
	if err != nil {
		return err
	}
	s, err := a.connect(cmd.Context(), "", "", true)
	if err != nil {
		return err
	}
	if f.all {
		// Keys that another ceremony changes, or that are not here, have no row.
		have, err := s.api().Keys(cmd.Context())
		if err != nil {
			return err
		}
		roles = slices.DeleteFunc(roles, func(role string) bool {
			return !slices.ContainsFunc(have.Items, func(k client.Key) bool { return k.Role == role && k.State == "active" })
		})
	}
	var keys []client.Key
	var failed []error
	for _, role := range roles {
		k, err := s.api().RotateKey(cmd.Context(), role, q)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", role, err))
			continue
		}
		keys = append(keys, *k)
	}
	if len(keys) > 0 {
		if err := a.print(keys, func(w io.Writer) {
			fmt.Fprintln(w, "ROLE\tKEY\tFINGERPRINT\tSTATE\tNEXT")
			for _, k := range keys {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", line(k.Role), line(k.Name), line(k.Fingerprint), line(k.State), nextStep(k))
			}
		}); err != nil {
			failed = append(failed, err)
		}
	}
	if q.Reason != "" && len(keys) > 0 {
		a.notef("The old key's window has ended. What it signed with an earlier date still counts: assay revoke --plan shows what a revocation would take.\n")
	}
	return errors.Join(failed...)
}
