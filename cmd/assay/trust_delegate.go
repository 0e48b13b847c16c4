package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"assay/client"
	"assay/internal/keyring"
	"assay/trust"
	"assay/trust/delegation"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
)

// delegateFlags describe a delegation.
type delegateFlags struct {
	name               string
	patterns, types    []string
	issuer             string
	identities         []string
	regexps, keys      []string
	notBefore, expires string
	depth              int
	reason             string
	sign               signFlags
}

func (a *app) trustDelegate() *cobra.Command {
	var f delegateFlags
	cmd := &cobra.Command{
		Use:   "delegate --name NAME --pattern PATTERN --predicate-type TYPE --issuer URL --identity WHO --expires WHEN",
		Short: "Hand repositories and predicate types to a team or a vendor",
		Long: `Delegate states, signed and logged, that identities or keys of a team or a
vendor may sign these predicate types for these repositories, until then. What
they sign otherwise counts for nothing. Policies ask for it by "signers:
delegated".

NAME is given by the organisation's own key: payments. With --depth, delegates
may hand on a part of it below their name (payments/ci), signed as themselves
with --subject or --key-file. A link can only narrow what stands above it.
Delegating again under the same name replaces the delegation.

TYPE is a predicate type URI, a short name as for assay attest, "signature" for
signatures of the artifact, or "*".`,
		Example: `  assay trust delegate --data ./data --name payments --pattern 'payments/**' \
    --predicate-type signature --predicate-type slsaprovenance1 \
    --issuer https://issuer.example --identity ci@payments.example --expires 90d --depth 1

  # a vendor's key
  assay trust delegate --data ./data --name vendor --pattern 'vendor/**' --predicate-type '*' --key vendor.pub --expires 2027-06-30

  # handed on by a delegate, signed as himself
  assay trust delegate --data ./data --subject ci@payments.example --name payments/nightly --pattern 'payments/nightly-*' \
    --predicate-type signature --issuer https://issuer.example --identity nightly@payments.example --expires 30d`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := f.document()
			if err != nil {
				return err
			}
			s, err := a.connect(cmd.Context(), f.sign.subject, f.sign.token, true)
			if err != nil {
				return err
			}
			out, err := s.delegate(cmd.Context(), &f, d)
			if err != nil {
				return err
			}
			return a.printDelegations([]client.Delegation{*out})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.name, "name", "", "the delegation's name; below another one with that one's name and / before")
	fl.StringArrayVar(&f.patterns, "pattern", nil, "repositories; can be repeated")
	fl.StringArrayVar(&f.types, "predicate-type", nil, "what may be signed; can be repeated")
	fl.StringVar(&f.issuer, "issuer", "", "the OIDC issuer of the identities, exactly")
	fl.StringArrayVar(&f.identities, "identity", nil, "an identity, exactly; can be repeated")
	fl.StringArrayVar(&f.regexps, "identity-regexp", nil, "identities, RE2 anchored at both ends; can be repeated")
	fl.StringArrayVar(&f.keys, "key", nil, "a public key (PEM file); can be repeated")
	fl.StringVar(&f.notBefore, "not-before", "", "signatures of an earlier trusted time do not count; default: now, or as it was")
	fl.StringVar(&f.expires, "expires", "", "when it ends: a time, a date, or 90d")
	fl.IntVar(&f.depth, "depth", 0, "how many links delegates may add below")
	fl.StringVar(&f.reason, "reason", "", "why, for people")
	f.sign.registerHandOn(cmd)
	return cmd
}

// registerHandOn registers what a delegate signs with.
func (f *signFlags) registerHandOn(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.subject, "subject", "", "with --data: the delegate to sign as, below another delegation")
	cmd.Flags().StringVar(&f.token, "identity-token", "", "the delegate's OIDC token of audience sigstore, or a file that holds one")
	cmd.Flags().StringVar(&f.key, "key-file", "", "the delegate's private key (PEM file)")
	cmd.Flags().StringVar(&f.passphrase, "key-passphrase-file", "", "file with the passphrase of an encrypted key (COSIGN_PASSWORD)")
}

func (f *delegateFlags) document() (*delegation.Document, error) {
	if f.name == "" || f.expires == "" {
		return nil, usagef("want --name, and --expires: nothing is handed out for ever")
	}
	d := &delegation.Document{Name: f.name, Version: 1, Patterns: f.patterns, Depth: f.depth, Reason: f.reason}
	for _, t := range f.types {
		if t != delegation.Signatures && t != delegation.AnyType {
			uri, err := predicateURI(t)
			if err != nil && !strings.Contains(t, ":") {
				return nil, usagef("--predicate-type %q: want a URI, \"signature\", \"*\", or one of %s", clean(t), strings.Join(shortTypes(), ", "))
			}
			if err == nil {
				t = uri
			}
		}
		d.PredicateTypes = append(d.PredicateTypes, t)
	}
	for _, who := range f.identities {
		d.Delegates = append(d.Delegates, delegation.Delegate{Issuer: f.issuer, Subject: who})
	}
	for _, re := range f.regexps {
		d.Delegates = append(d.Delegates, delegation.Delegate{Issuer: f.issuer, SubjectRegexp: re})
	}
	for _, path := range f.keys {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, usagef("--key: %w", err)
		}
		pub, err := keyring.ParsePublic(b)
		if err != nil {
			return nil, usagef("--key %s: %w", path, err)
		}
		text, err := delegation.PEM(pub)
		if err != nil {
			return nil, usagef("--key %s: %w", path, err)
		}
		d.Delegates = append(d.Delegates, delegation.Delegate{Key: text})
	}
	var err error
	if d.NotBefore, err = instant("--not-before", f.notBefore, time.Time{}); err != nil {
		return nil, err
	}
	if d.Expires, err = instant("--expires", f.expires, time.Now()); err != nil {
		return nil, err
	}
	body, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	if _, err := delegation.Draft(body); err != nil {
		return nil, usagef("%w", err)
	}
	return d, nil
}

// delegate asks the server to sign, or signs as a delegate.
func (s *session) delegate(ctx context.Context, f *delegateFlags, d *delegation.Document) (*client.Delegation, error) {
	if d.Parent() == "" {
		body, err := json.Marshal(d)
		if err != nil {
			return nil, err
		}
		return s.api().Delegate(ctx, body)
	}
	all, err := s.api().Delegations(ctx)
	if err != nil {
		return nil, err
	}
	for _, have := range all.Items {
		if have.Name == d.Name {
			d.Version = have.Version + 1
			if d.NotBefore.IsZero() && !d.Removed {
				d.NotBefore = have.NotBefore
			}
		}
		if have.Name == d.Parent() && d.NotBefore.IsZero() && !d.Removed {
			d.NotBefore = have.NotBefore
		}
	}
	if d.NotBefore.IsZero() && !d.Removed {
		return nil, usagef("there is no delegation %s to stand below; assay trust delegations list", d.Parent())
	}
	st, err := d.Statement()
	if err != nil {
		return nil, usagef("%w", err)
	}
	body, err := st.Bytes()
	if err != nil {
		return nil, err
	}
	signer, err := s.signing(ctx, &f.sign)
	if err != nil {
		return nil, err
	}
	b, err := signStatement(ctx, signer, body)
	if err != nil {
		return nil, err
	}
	doc, err := protojson.Marshal(b)
	if err != nil {
		return nil, err
	}
	return s.api().HandOn(ctx, doc)
}

func (a *app) trustDelegations() *cobra.Command {
	list := &cobra.Command{
		Use:     "list",
		Short:   "List delegations: who may sign what, until when",
		Example: "  assay trust delegations list --data ./data",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			items, err := a.delegations(cmd.Context())
			if err != nil {
				return err
			}
			return a.printDelegations(items)
		},
	}
	show := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show one delegation with its chain",
		Example: "  assay trust delegations show payments/ci --data ./data",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			items, err := a.delegations(cmd.Context())
			if err != nil {
				return err
			}
			for _, d := range items {
				if d.Name == args[0] {
					return a.print(&d, func(w io.Writer) { showDelegation(w, &d) })
				}
			}
			return usagef("no delegation %q; assay trust delegations list", clean(args[0]))
		},
	}
	return group("delegations", "What was handed to teams and vendors", list, show, a.delegationsVerify(), a.delegationsRemove(), a.delegationsExport())
}

func (a *app) delegations(ctx context.Context) ([]client.Delegation, error) {
	s, err := a.connect(ctx, "", "", true)
	if err != nil {
		return nil, err
	}
	l, err := s.api().Delegations(ctx)
	if err != nil {
		return nil, err
	}
	return l.Items, nil
}

func (a *app) delegationsExport() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:     "export [--out FILE]",
		Short:   "Write delegations.json, for assay verify --delegations",
		Example: "  assay trust delegations export --data ./data --out delegations.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			b, err := s.api().DelegationsExport(cmd.Context())
			if err != nil {
				return err
			}
			if _, err := delegation.ParsePublished(b); err != nil {
				return err
			}
			return a.writeOut(out, b)
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "the file; default is standard output")
	return cmd
}

func (a *app) delegationsRemove() *cobra.Command {
	var f delegateFlags
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "End a delegation; what stands below it ends with it",
		Long: `End a delegation. One of the organisation is removed by its key; one that a
delegate handed on by him, signed with --subject, --identity-token or --key-file.
Its identities are strangers from then on, whom a policy may still name.`,
		Example: "  assay trust delegations remove vendor --data ./data\n  assay trust delegations remove payments/nightly --data ./data --subject ci@payments.example",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), f.sign.subject, f.sign.token, true)
			if err != nil {
				return err
			}
			d := &delegation.Document{Name: args[0], Version: 1, Removed: true}
			if d.Parent() == "" {
				err = s.api().RemoveDelegation(cmd.Context(), args[0])
			} else {
				_, err = s.delegate(cmd.Context(), &f, d)
			}
			if err != nil {
				return err
			}
			a.notef("removed delegation %s\n", line(args[0]))
			return nil
		},
	}
	f.sign.registerHandOn(cmd)
	return cmd
}

func (a *app) delegationsVerify() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "verify FILE --trusted-root FILE",
		Short: "Verify the chains of a delegations.json, offline",
		Long: `Verify every delegation of a file that assay trust delegations export or TUF
gave: signature, log entry, timestamp and chain, with no network. Exit code 1
when one does not hold.`,
		Example: "  assay trust delegations verify delegations.json --trusted-root trusted_root.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if root == "" {
				return usagef("want --trusted-root FILE (assay trust export writes one)")
			}
			r, err := readRoot(root)
			if err != nil {
				return err
			}
			set, _, err := a.readDelegations(cmd.Context(), args[0], r)
			if err != nil {
				return err
			}
			items, bad := []client.Delegation{}, false
			for _, l := range set.Links() {
				d := client.Delegation{Name: l.Document.Name, Version: l.Document.Version, Chain: l.Chain(), Patterns: l.Document.Patterns, PredicateTypes: l.Document.PredicateTypes,
					NotBefore: l.Document.NotBefore, Expires: l.Document.Expires, Depth: l.Document.Depth, SignedBy: l.SignedBy.String(), SignedAt: l.SignedAt, LogIndex: l.LogIndex, State: l.State(time.Now())}
				for _, g := range l.Delegates() {
					d.Delegates = append(d.Delegates, client.Delegate(g))
				}
				if l.Err != nil {
					d.Problem, bad = l.Err.Error(), true
				}
				items = append(items, d)
			}
			if err := a.printDelegations(items); err != nil {
				return err
			}
			if bad {
				return &exitError{1}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&root, "trusted-root", "", "the organisation's trusted_root.json")
	return cmd
}

// readDelegations reads a published set and verifies it under a root.
func (a *app) readDelegations(ctx context.Context, path string, root *trust.Root, checks ...trust.Check) (*delegation.Set, *delegation.Published, error) {
	b, err := a.readInput(path, 16<<20)
	if err != nil {
		return nil, nil, err
	}
	return compileDelegations(ctx, b, root, checks...)
}

func compileDelegations(ctx context.Context, b []byte, root *trust.Root, checks ...trust.Check) (*delegation.Set, *delegation.Published, error) {
	p, err := delegation.ParsePublished(b)
	if err != nil {
		return nil, nil, err
	}
	keys, err := p.PublicKeys()
	if err != nil {
		return nil, nil, err
	}
	bundles := make([][]byte, len(p.Bundles))
	for i, raw := range p.Bundles {
		bundles[i] = raw
	}
	set, err := delegation.Compile(ctx, trust.Roots{root}, keys, bundles, checks...)
	return set, p, err
}

func (a *app) printDelegations(items []client.Delegation) error {
	return a.print(items, func(w io.Writer) {
		fmt.Fprintln(w, "NAME\tSTATE\tVERSION\tPATTERNS\tTYPES\tDELEGATES\tEXPIRES")
		for _, d := range items {
			who := make([]string, len(d.Delegates))
			for i, g := range d.Delegates {
				who[i] = delegateText(g)
			}
			expires := "-"
			if !d.Expires.IsZero() {
				expires = stamp(d.Expires)
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", line(d.Name), line(d.State), d.Version, dash(line(strings.Join(d.Patterns, " "))),
				dash(line(strings.Join(d.PredicateTypes, " "))), dash(line(strings.Join(who, " "))), expires)
		}
	})
}

func delegateText(g client.Delegate) string {
	switch {
	case g.Key != "":
		return "key " + g.Key
	case g.SubjectRegexp != "":
		return "/" + g.SubjectRegexp + "/"
	}
	return g.Subject
}

func showDelegation(w io.Writer, d *client.Delegation) {
	fmt.Fprintf(w, "name\t%s\nstate\t%s\nversion\t%d\nchain\t%s\n", line(d.Name), line(d.State), d.Version, line(strings.Join(d.Chain, " > ")))
	if d.Problem != "" {
		fmt.Fprintf(w, "problem\t%s\n", line(d.Problem))
	}
	fmt.Fprintf(w, "patterns\t%s\ntypes\t%s\n", line(strings.Join(d.Patterns, " ")), line(strings.Join(d.PredicateTypes, " ")))
	for _, g := range d.Delegates {
		fmt.Fprintf(w, "delegate\t%s %s\n", line(delegateText(g)), line(g.Issuer))
	}
	fmt.Fprintf(w, "window\t%s\ndepth\t%d\nsigned by\t%s\nsigned at\t%s\nlog index\t%d\n", window(client.KeyWindow{Start: d.NotBefore, End: d.Expires}), d.Depth, line(d.SignedBy), stamp(d.SignedAt), d.LogIndex)
}
