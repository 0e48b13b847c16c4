package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"assay/attestation"
	"assay/client"
	"assay/internal/fault"
	"assay/trust"
	"assay/trust/revocation"

	"github.com/spf13/cobra"
)

func (a *app) revocationsCommand() *cobra.Command {
	list := &cobra.Command{
		Use:     "list",
		Short:   "What is trusted no more, and since when",
		Example: "  assay revocations list --data ./data",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withRevocations(cmd.Context(), a.printEntries)
		},
	}
	show := &cobra.Command{
		Use:     "show",
		Short:   "The list itself: version, age, place in the log",
		Example: "  assay revocations show --data ./data",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withRevocations(cmd.Context(), a.printList)
		},
	}
	return group("revocations", "The signed list of what is trusted no more", list, show,
		a.revocationsVerify(), a.revocationsExport(), a.revocationsDraft(), a.revocationsSign(), a.revocationsImport())
}

func (a *app) withRevocations(ctx context.Context, do func(*client.RevocationList) error) error {
	s, err := a.connect(ctx, "", "", true)
	if err != nil {
		return err
	}
	l, err := s.api().Revocations(ctx)
	if err != nil {
		return err
	}
	return do(l)
}

func (a *app) printEntries(l *client.RevocationList) error {
	return a.print(l.Entries, func(w io.Writer) {
		fmt.Fprintln(w, "NO\tKIND\tTARGET\tSINCE\tREASON\tBY")
		for i := range l.Entries {
			e := &l.Entries[i]
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", i+1, line(e.Kind), line(targetText(e)), stamp(e.InvalidSince), line(e.Reason), dash(e.Requester))
		}
	})
}

func targetText(e *client.Revocation) string {
	switch e.Kind {
	case "key":
		return e.Key
	case "identity":
		return e.Subject + " (issuer " + e.Issuer + ")"
	case "certificate":
		return e.Serial + " of " + e.Issuer
	case "builder":
		return e.Builder
	case "artifact":
		return string(e.Digest)
	}
	to := ""
	if e.To != nil {
		to = fmt.Sprint(*e.To)
	}
	from := int64(0)
	if e.From != nil {
		from = *e.From
	}
	return fmt.Sprintf("%s:%d-%s", e.LogID, from, to)
}

func (a *app) printList(l *client.RevocationList) error {
	return a.print(l, func(w io.Writer) {
		index := "-"
		if l.LogIndex != nil {
			index = fmt.Sprint(*l.LogIndex)
		}
		fmt.Fprintf(w, "domain\t%s\nversion\t%d\nstate\t%s\nissued\t%s\nexpires\t%s\nlog index\t%s\nentries\t%d\n",
			line(l.Domain), l.Version, line(l.State), stamp(l.Issued), stamp(l.Expires), index, len(l.Entries))
	})
}

func (a *app) revocationsVerify() *cobra.Command {
	var f listFlags
	var trusted string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Is this a list of the site's, logged, current and no older than one seen?",
		Long: `Verify a signed list without any network: who signed it (--tuf-root), that the
log holds it (--trusted-root), its age, and that it follows the newest list of
the same site that was seen on this machine.

Exit codes: 0 it holds, 1 it is refused or stale, 64 usage.`,
		Example: "  assay revocations verify revocations.json --tuf-root root.json --trusted-root trusted_root.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if trusted == "" {
				return usagef("want --trusted-root: whose log holds the list")
			}
			root, err := readRoot(trusted)
			if err != nil {
				return err
			}
			f.file = args[0]
			signed, err := a.readRevocations(cmd.Context(), &f, []*trust.Root{root})
			if err != nil {
				return err
			}
			one := signed[root.Name()]
			l := one.List
			state := one.Status(time.Now())
			out := &client.RevocationList{Domain: l.Domain, Version: l.Version, State: string(state), Issued: l.Issued.Time, Expires: l.Expires.Time, LogIndex: one.LogIndex(), Entries: []client.Revocation{}}
			for i := range l.Entries {
				out.Entries = append(out.Entries, wireRevocation(&l.Entries[i]))
			}
			if err := a.printList(out); err != nil {
				return err
			}
			if state != revocation.Current {
				return fault.Newf(fault.Unverified, "the list is %s: it holds from %s to %s; get a newer one", state, stamp(l.Issued.Time), stamp(l.Expires.Time))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&trusted, "trusted-root", "", "Sigstore trusted_root.json of the site")
	f.register(cmd)
	return cmd
}

func wireRevocation(e *revocation.Entry) client.Revocation {
	created := e.Created.Time
	return client.Revocation{
		Kind: string(e.Kind), Key: e.Key, Match: e.Match, Issuer: e.Issuer, Subject: e.Subject, Serial: e.Serial, Builder: e.Builder,
		LogID: e.LogID, From: e.From, To: e.To, Digest: e.Digest, InvalidSince: e.InvalidSince.Time, Reason: e.Reason, Requester: e.Requester, Created: &created,
	}
}

func (a *app) revocationsExport() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "export [--out FILE]",
		Short: "Write the signed list for a place without a network; it holds for 30 days",
		Example: `  assay revocations export --data ./data --out revocations.json
  assay trust root --data ./data --out root.json
  assay verify --revocations revocations.json --tuf-root root.json --trusted-root trusted_root.json …`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			b, err := s.api().SignedRevocations(cmd.Context(), true)
			if err != nil {
				return err
			}
			return a.writeOut(out, b)
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "the file; default is standard output")
	return cmd
}

func (a *app) revocationsDraft() *cobra.Command {
	var out string
	var remove []int
	cmd := &cobra.Command{
		Use:   "draft --remove NO --out FILE",
		Short: "Write the list without some entries, for the offline root to sign",
		Long: `Write the next version of the list without the entries that are named by their
number in assay revocations list. It takes force when as many root keys as the
TUF root wants have signed it (assay revocations sign), and it was handed in
(assay revocations import), before anything else is revoked.`,
		Example: `  assay revocations list --data ./data
  assay revocations draft --data ./data --remove 2 --out draft.json
  assay revocations sign draft.json --key alice.key --key-passphrase file:passphrase
  assay revocations import --data ./data draft.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(remove) == 0 || out == "" {
				return usagef("want --remove NO, as assay revocations list numbers them, and --out FILE")
			}
			return a.withRevocations(cmd.Context(), func(l *client.RevocationList) error {
				b, err := draft(l, remove, time.Now())
				if err != nil {
					return err
				}
				return a.writeOut(out, b)
			})
		},
	}
	cmd.Flags().IntSliceVar(&remove, "remove", nil, "number of an entry; can be repeated")
	cmd.Flags().StringVar(&out, "out", "", "the file")
	return cmd
}

// draftLife is how long the signers have; the server signs the list anew with
// its online key once it is in force.
const draftLife = 14 * 24 * time.Hour

// draft is an envelope without signatures, as wire form.
func draft(l *client.RevocationList, remove []int, now time.Time) ([]byte, error) {
	gone := map[int]bool{}
	for _, n := range remove {
		if n < 1 || n > len(l.Entries) {
			return nil, usagef("--remove %d: the list has %d entries", n, len(l.Entries))
		}
		gone[n-1] = true
	}
	next := &revocation.List{
		Schema: revocation.Schema, Domain: l.Domain, Version: l.Version + 1, Use: revocation.Online,
		Issued: revocation.At(now), Expires: revocation.At(now.Add(draftLife)), Entries: []revocation.Entry{},
	}
	for i := range l.Entries {
		e := &l.Entries[i]
		if gone[i] {
			continue
		}
		if e.Created == nil || e.Requester == "" {
			return nil, usagef("the server does not tell who asked for its entries: use --data, or a token of audience assay-api")
		}
		next.Entries = append(next.Entries, revocation.Entry{
			Kind: revocation.Kind(e.Kind), Key: e.Key, Match: e.Match, Issuer: e.Issuer, Subject: e.Subject, Serial: e.Serial, Builder: e.Builder,
			LogID: e.LogID, From: e.From, To: e.To, Digest: e.Digest, InvalidSince: revocation.At(e.InvalidSince), Reason: e.Reason,
			Requester: e.Requester, Created: revocation.At(*e.Created),
		})
	}
	return next.Bytes()
}

func (a *app) revocationsSign() *cobra.Command {
	var f keyFlags
	var keys []string
	cmd := &cobra.Command{
		Use:     "sign FILE --key KEY",
		Short:   "Show a draft and add the signature of a root key",
		Example: `  assay revocations sign draft.json --key alice.key --key-passphrase file:passphrase`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := a.readInput(args[0], 16<<20)
			if err != nil {
				return err
			}
			if len(keys) == 0 {
				return usagef("want --key KEY: the root key that signs")
			}
			env := &attestation.Envelope{PayloadType: revocation.PayloadType, Payload: b}
			l, err := revocation.ParseList(b)
			if err != nil {
				if env, err = attestation.ParseEnvelope(b, attestation.DefaultLimits()); err != nil || env.PayloadType != revocation.PayloadType {
					return usagef("%s is neither a draft nor a signed one: assay revocations draft makes one", line(args[0]))
				}
				if l, err = revocation.ParseList(env.Payload); err != nil {
					return usagef("%s: %w", line(args[0]), err)
				}
			}
			for _, text := range keys {
				_, s, err := f.open(cmd.Context(), text, false)
				if err != nil {
					return err
				}
				if s == nil {
					return usagef("%s is a public key: signing wants the private one", line(text))
				}
				one, err := attestation.SignDSSE(cmd.Context(), s, revocation.PayloadType, env.Payload)
				if err != nil {
					return err
				}
				env.Signatures = append(env.Signatures, one.Signatures...)
			}
			out, err := env.MarshalJSON()
			if err != nil {
				return err
			}
			a.notef("list %d of %s, %d entries, %d signatures\n", l.Version, line(l.Domain), len(l.Entries), len(env.Signatures))
			return writeFile(args[0], out)
		},
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "the key that signs: file or key URI; can be repeated")
	f.register(cmd)
	return cmd
}

func (a *app) revocationsImport() *cobra.Command {
	return &cobra.Command{
		Use:     "import FILE",
		Short:   "Put a list in force that the offline root signed",
		Example: "  assay revocations import --data ./data draft.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := a.readInput(args[0], 12<<20)
			if err != nil {
				return err
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			answer, err := s.api().ReplaceRevocations(cmd.Context(), b)
			if err != nil {
				return err
			}
			return a.print(answer, func(w io.Writer) { fmt.Fprintf(w, "list %d is in force\n", answer.Version) })
		},
	}
}
