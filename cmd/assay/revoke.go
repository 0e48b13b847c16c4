package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/internal/keyring"
	"assay/trust"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// revokeFlags name what is revoked: one of them.
type revokeFlags struct {
	key, identity, certificate, builder, digest, logRange string
	issuer                                                string
	pattern                                               bool
	since, reason                                         string
	plan, yes                                             bool
}

func (a *app) revokeCommand() *cobra.Command {
	var f revokeFlags
	cmd := &cobra.Command{
		Use:   "revoke (--key | --identity | --certificate | --builder | --digest | --log-range) … --since TIME --reason TEXT",
		Short: "Trust something no more, from an instant on",
		Long: `Add an entry to the site's signed list of revocations. Evidence that it names
counts no more, unless a timestamp authority or a log proves that it existed
before --since: history before a theft stays good. An artifact (--digest) is
refused from --since on, whatever was signed.

First comes what would be lost; --plan stops there. Every door of every replica
refuses within a second. To take an entry back, the offline root has to sign:
see assay revocations draft.

--since takes a time (2026-01-02T15:04:05Z), a day, how long ago (2h, 7d), "now",
or "always".`,
		Example: `  # what would be denied?
  assay revoke --data ./data --identity ci@example.com --issuer https://issuer.example --since 2026-01-02 --reason "laptop stolen" --plan

  # everything by a team's workflows, from now on
  assay revoke --data ./data --identity "https://ci.example/team/**" --issuer https://ci.example --pattern --since now --reason "runner taken over" --yes

  # a key, a builder, an image
  assay revoke --data ./data --key cosign.pub --since 2026-01-02T15:04:05Z --reason "key leaked" --yes
  assay revoke --data ./data --builder https://builder.example/v1 --since always --reason "never was ours" --yes
  assay revoke --data ./data --digest sha256:… --since now --reason "backdoor" --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := f.entry(time.Now())
			if err != nil {
				return err
			}
			return a.revokeTrust(cmd.Context(), e, f.plan, f.yes)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.key, "key", "", "a signing key: PEM file of its public half, or its fingerprint sha256:…")
	fl.StringVar(&f.identity, "identity", "", "a signer's identity; with --issuer")
	fl.StringVar(&f.issuer, "issuer", "", "of --identity: the OIDC issuer; of --certificate: its issuer's distinguished name")
	fl.BoolVar(&f.pattern, "pattern", false, "read --identity and --issuer as patterns: * within a segment, ** for segments")
	fl.StringVar(&f.certificate, "certificate", "", "a signing certificate: PEM file, or its serial in hex with --issuer")
	fl.StringVar(&f.builder, "builder", "", "a builder.id of provenance")
	fl.StringVar(&f.digest, "digest", "", "an artifact, by digest")
	fl.StringVar(&f.logRange, "log-range", "", "a range of a transparency log: LOG-ID:FROM-TO, or LOG-ID:FROM- to its end")
	fl.StringVar(&f.since, "since", "", "from when on: RFC 3339, a day, how long ago (2h, 7d), now, or always")
	fl.StringVar(&f.reason, "reason", "", "why, for those who will ask")
	fl.BoolVar(&f.plan, "plan", false, "only show what would be denied")
	fl.BoolVar(&f.yes, "yes", false, "do not ask; needed where there is no terminal")
	_ = cmd.RegisterFlagCompletionFunc("since", cobra.FixedCompletions([]string{"now", "always"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// entry reads the flags.
func (f *revokeFlags) entry(now time.Time) (client.Revocation, error) {
	e := client.Revocation{Reason: f.reason}
	given := 0
	for _, v := range []string{f.key, f.identity, f.certificate, f.builder, f.digest, f.logRange} {
		if v != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return e, usagef("say what to revoke: one of --key, --identity, --certificate, --builder, --digest and --log-range")
	case f.since == "" || f.reason == "":
		return e, usagef("want --since and --reason: from when on, and why")
	case f.pattern && f.identity == "":
		return e, usagef("--pattern goes with --identity")
	case f.issuer != "" && f.identity == "" && f.certificate == "":
		return e, usagef("--issuer goes with --identity, or with --certificate")
	}
	var err error
	if e.InvalidSince, err = sinceTime(f.since, now); err != nil {
		return e, err
	}
	switch {
	case f.key != "":
		e.Kind, e.Key = "key", f.key
		if !strings.HasPrefix(f.key, "sha256:") {
			e.Key, err = fingerprintOf(f.key)
		}
	case f.identity != "":
		e.Kind, e.Match, e.Issuer, e.Subject = "identity", "exact", f.issuer, f.identity
		if f.pattern {
			e.Match = "pattern"
		}
		if f.issuer == "" {
			err = usagef("--identity wants its --issuer: another issuer's namesake is somebody else")
		}
	case f.certificate != "":
		e.Kind = "certificate"
		e.Serial, e.Issuer, err = certificateName(f.certificate, f.issuer)
	case f.builder != "":
		e.Kind, e.Builder = "builder", f.builder
	case f.digest != "":
		e.Kind = "artifact"
		if e.Digest, err = artifact.ParseDigest(f.digest); err != nil {
			err = usagef("--digest: %w", err)
		}
	default:
		e.Kind = "log"
		e.LogID, e.From, e.To, err = logRange(f.logRange)
	}
	return e, err
}

func sinceTime(text string, now time.Time) (time.Time, error) {
	switch text {
	case "now":
		return now.UTC().Truncate(time.Second), nil
	case "always":
		return time.Unix(0, 0).UTC(), nil
	}
	if ago := days(0); ago.Set(text) == nil && ago > 0 { // 2h, 7d
		return now.Add(-time.Duration(ago)).UTC().Truncate(time.Second), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil && t.Year() >= 1970 {
			return t.UTC(), nil
		}
	}
	return time.Time{}, usagef("--since %q: want a time such as 2026-01-02T15:04:05Z, a day such as 2026-01-02, how long ago such as 2h or 7d, now, or always", line(text))
}

func fingerprintOf(path string) (string, error) {
	b, err := readFileCapped(path, "--key")
	if err != nil {
		return "", err
	}
	pub, err := keyring.ParsePublic(b)
	if err != nil {
		return "", usagef("--key %s: %w", path, err)
	}
	return trust.KeyFingerprint(pub)
}

// certificateName reads a PEM file, or a serial beside the issuer's name.
func certificateName(text, issuer string) (serial, name string, err error) {
	if issuer != "" {
		return strings.ToLower(strings.TrimLeft(strings.ReplaceAll(text, ":", ""), "0")), issuer, nil
	}
	b, err := readFileCapped(text, "--certificate")
	if err != nil {
		return "", "", usagef("--certificate: neither a PEM file, nor a serial with --issuer: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", "", usagef("--certificate %s holds no certificate", line(text))
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", "", usagef("--certificate %s: %w", line(text), err)
	}
	return c.SerialNumber.Text(16), c.Issuer.String(), nil
}

func logRange(text string) (id string, from, to *int64, err error) {
	bad := usagef("--log-range %q: want LOG-ID:FROM-TO, or LOG-ID:FROM- for all from there on", line(text))
	id, span, ok := strings.Cut(text, ":")
	first, last, dashed := strings.Cut(span, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	if !ok || !dashed || err != nil || n < 0 {
		return "", nil, nil, bad
	}
	if last != "" {
		m, err := strconv.ParseInt(last, 10, 64)
		if err != nil || m < n {
			return "", nil, nil, bad
		}
		to = &m
	}
	return id, &n, to, nil
}

// revokeTrust shows what it takes, asks, and does it.
func (a *app) revokeTrust(ctx context.Context, e client.Revocation, plan, yes bool) error {
	s, err := a.connect(ctx, "", "", true)
	if err != nil {
		return err
	}
	q := client.RevokeRequest{Entries: []client.Revocation{e}, Plan: true}
	if !yes || plan {
		answer, err := s.api().Revoke(ctx, q)
		if err != nil {
			return err
		}
		if plan {
			return a.printRevoked(answer, true)
		}
		if err := a.askRevoke(answer); err != nil {
			return err
		}
	}
	q.Plan = false
	answer, err := s.api().Revoke(ctx, q)
	if err != nil {
		return err
	}
	return a.printRevoked(answer, false)
}

func (a *app) askRevoke(answer *client.RevokeAnswer) error {
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return usagef("%d artifacts would lose %d attestations: --plan lists them, --yes revokes without asking", answer.Artifacts, answer.Attestations)
	}
	a.notef("%d artifacts would lose %d attestations, %d of those listed are allowed somewhere now (--plan lists them).\nTaking this back needs the offline root. Revoke? [yes/NO] ", answer.Artifacts, answer.Attestations, answer.Allowed)
	text, err := bufio.NewReader(f).ReadString('\n')
	if err != nil || strings.TrimSpace(text) != "yes" {
		return &exitError{1}
	}
	return nil
}

func (a *app) printRevoked(r *client.RevokeAnswer, plan bool) error {
	return a.print(r, func(w io.Writer) {
		switch {
		case plan:
			fmt.Fprintf(w, "would revoke: %d new entries; %d artifacts lose %d attestations\n", r.Added, r.Artifacts, r.Attestations)
		case r.Added == 0:
			fmt.Fprintf(w, "revoked already: list %d says it\n", r.Version)
		default:
			fmt.Fprintf(w, "revoked: list %d; %d artifacts lose %d attestations\n", r.Version, r.Artifacts, r.Attestations)
		}
		if len(r.Items) == 0 || !plan {
			return
		}
		fmt.Fprintln(w, "\nDIGEST\tATTESTATIONS\tWHERE\tALLOWED IN")
		for _, it := range r.Items {
			var places []string
			for _, p := range it.Places {
				name := p.Repository
				if len(p.Tags) > 0 {
					name += ":" + strings.Join(p.Tags, ",")
				}
				places = append(places, name)
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", it.Digest, it.Attestations, dash(strings.Join(places, " ")), dash(strings.Join(it.AllowedIn, " ")))
		}
		if r.Truncated {
			fmt.Fprintf(w, "… and %d more\n", r.Artifacts-len(r.Items))
		}
	})
}
