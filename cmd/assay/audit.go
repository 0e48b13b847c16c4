package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"assay/artifact"
	"assay/audit"
	"assay/client"
	"assay/event"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/trust"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"
)

func (a *app) auditCommand() *cobra.Command {
	return group("audit", "Who did or tried what, and proof that nobody changed it",
		a.auditQueryCommand(), a.auditExportCommand(), a.auditVerifyCommand(), a.auditUnauthorizedCommand())
}

// auditFlags choose records.
type auditFlags struct {
	f                    client.AuditFilter
	digest, since, until string
}

func (f *auditFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.f.Identity, "identity", "", "whose: a name, or ISSUER#NAME")
	fl.StringVar(&f.f.Repository, "repository", "", "about this repository")
	fl.StringVar(&f.digest, "digest", "", "about this digest, sha256:…")
	fl.StringVar(&f.f.Kind, "kind", "", "of this kind, for example artifact.pulled; docs/events.md lists them")
	f.times(cmd)
	complete(cmd, "kind", auditKinds()...)
}

func (f *auditFlags) times(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.since, "since", "", "not before: a time, a date, or how long ago (24h, 7d)")
	cmd.Flags().StringVar(&f.until, "until", "", "before: a time, a date, or how long ago")
}

func (f *auditFlags) filter() (client.AuditFilter, error) {
	out := f.f
	var err error
	if f.digest != "" {
		if out.Digest, err = artifact.ParseDigest(f.digest); err != nil {
			return out, usagef("--digest: %w", err)
		}
	}
	if out.Since, err = when("since", f.since); err != nil {
		return out, err
	}
	out.Until, err = when("until", f.until)
	return out, err
}

// auditKinds are the kinds of the audit trail.
func auditKinds() []string {
	var out []string
	for _, k := range event.Kinds() {
		if k.Class != event.Domain {
			out = append(out, string(k.Kind))
		}
	}
	return out
}

func (a *app) auditQueryCommand() *cobra.Command {
	var f auditFlags
	var oldest bool
	cmd := &cobra.Command{
		Use:   "query",
		Short: "Show records of the audit trail, newest first",
		Example: `  # who pulled it, and when
  assay audit query --kind artifact.pulled --digest sha256:3f…

  # what somebody did yesterday, and what she was refused
  assay audit query --identity ann@example.com --since 24h
  assay audit query --identity ann@example.com --kind artifact.denied -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.filter()
			if err != nil {
				return err
			}
			q.Newest = !oldest
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			page, err := s.api().Audit(cmd.Context(), q)
			if err != nil {
				return err
			}
			return a.print(page, func(w io.Writer) {
				fmt.Fprintln(w, "TIME\tKIND\tWHO\tWHAT\tFROM\tDETAIL")
				for _, e := range page.Items {
					auditRow(w, e)
				}
				if page.Next != "" {
					fmt.Fprintf(w, "more: --after %s\n", line(page.Next))
				}
			})
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&oldest, "oldest-first", false, "the other way round")
	cmd.Flags().StringVar(&f.f.After, "after", "", "continue after this cursor")
	cmd.Flags().IntVar(&f.f.Limit, "limit", 100, "at most so many")
	return cmd
}

// auditBody is what bodies of the trail have in common.
type auditBody struct {
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	Address    string `json:"address"`
	Action     string `json:"action"`
	Reason     string `json:"reason"`
	Subject    string `json:"subject"`
	Robot      string `json:"robot"`
	Credential string `json:"credential"`
	UserAgent  string `json:"user_agent"`
}

func auditRow(w io.Writer, e client.AuditRecord) {
	var b auditBody
	_ = json.Unmarshal(e.Body, &b) // other kinds have other members
	what := b.Repository
	if b.Tag != "" {
		what += ":" + b.Tag
	}
	if e.Digest != "" {
		what += "@" + e.Digest.Short()
	}
	if what == "" {
		what = b.Robot
	}
	var detail []string
	for _, d := range []string{b.Action, b.Reason, b.Credential, b.UserAgent} {
		if d != "" {
			detail = append(detail, d)
		}
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", stamp(e.Time), line(e.Kind), dash(e.Actor), dash(what), dash(b.Address), line(strings.Join(detail, "; ")))
}

// exported reads an export page by page and hands on its lines.
func (s *session) exported(ctx context.Context, f client.AuditFilter, each func(line []byte) error) error {
	for {
		page, err := s.api().AuditExport(ctx, f)
		if err != nil {
			return err
		}
		for _, l := range page.Items {
			var b bytes.Buffer
			if err := json.Compact(&b, l); err != nil {
				return fault.Newf(fault.Unavailable, "the export does not read: %w", err)
			}
			if err := each(append(b.Bytes(), '\n')); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		f.After = page.Next
	}
}

func (a *app) auditExportCommand() *cobra.Command {
	var f auditFlags
	var out string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the audit trail with its proofs, as JSON Lines",
		Long: `Write the audit trail as JSON Lines, each event with the proof that its batch
holds it, the batches' heads, and the proofs that heads stand in the
transparency log. assay audit verify --file checks such a file anywhere, without
the server. Without filters an export holds every event of its time, and then a
missing one is found too.`,
		Example: `  assay audit export --since 2026-05-01 --until 2026-06-01 --out may.jsonl
  assay audit verify --file may.jsonl --trusted-root trusted_root.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.filter()
			if err != nil {
				return err
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			return a.writeExport(cmd.Context(), s, q, out)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&out, "out", "", "write into this file; without one, on standard output")
	return cmd
}

// writeExport writes into a file that has another name until it is whole.
func (a *app) writeExport(ctx context.Context, s *session, q client.AuditFilter, out string) error {
	if out == "" {
		w := bufio.NewWriter(a.stdout)
		if err := s.exported(ctx, q, func(l []byte) error { _, err := w.Write(l); return err }); err != nil {
			return err
		}
		return w.Flush()
	}
	tmp := out + ".part"
	file, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	w := bufio.NewWriter(file)
	err = s.exported(ctx, q, func(l []byte) error { _, err := w.Write(l); return err })
	err = errors.Join(err, w.Flush(), file.Sync(), file.Close())
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, out)
}

func (a *app) auditVerifyCommand() *cobra.Command {
	var f auditFlags
	var file, root, key string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove that no record was changed, removed or added",
		Long: `Prove that no record of the audit trail was changed, removed or added since it
was sealed: every event is in its batch, the batches are one chain, and the
chain's heads stand in the transparency log under a key that the trusted root
pins. The checks are made here, on an export that comes from the server or from
--file; the server's word counts for nothing.

Ends in 0 when all holds, 1 when something was tampered with, 2 when it cannot be
told.`,
		Example: `  assay audit verify --since 7d --trusted-root trusted_root.json
  assay audit verify --file may.jsonl --trusted-root trusted_root.json --audit-key audit.pub`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.filter()
			if err != nil {
				return err
			}
			rep, err := a.verifyAudit(cmd.Context(), q, file, root, key)
			if err != nil {
				return err
			}
			return a.print(rep, func(w io.Writer) { auditReport(w, rep) })
		},
	}
	f.times(cmd)
	cmd.Flags().StringVar(&file, "file", "", "an export (assay audit export); - is standard input")
	cmd.Flags().StringVar(&root, "trusted-root", "", "trusted root that pins the log's key; with --data the local server's")
	cmd.Flags().StringVar(&key, "audit-key", "", "PEM file of the key that must have signed the heads")
	return cmd
}

func auditReport(w io.Writer, rep *audit.Report) {
	what := "records of a filter: each is genuine; that none is missing is not said"
	switch {
	case rep.Gap != nil:
		what = "all records of the time but for those of the gap: none was changed, removed or added"
	case rep.Header.Complete:
		what = "all records of the time: none was changed, removed or added"
	}
	fmt.Fprintf(w, "ok\t%d events in %d batches\n", rep.Events, rep.Heads)
	fmt.Fprintf(w, "\t%s\n", what)
	fmt.Fprintf(w, "logged\t%d heads in the log %s, up to event %d\n", rep.Logged, line(rep.Header.Origin), rep.Covered)
	for _, k := range rep.Keys {
		fmt.Fprintf(w, "signed\tby audit key %s\n", line(k))
	}
	if g := rep.Gap; g != nil {
		fmt.Fprintf(w, "gap\t%d events, %d to %d, sealed from %s to %s, are not here: retention dropped them on %s, as event %d says\n",
			g.Events, g.First, g.Last, stamp(g.From), stamp(g.Until), stamp(g.Dropped), g.Account)
		fmt.Fprintf(w, "\tthe heads of their %d batches are, and hold the chain together; what they said is known from earlier exports alone\n", g.Batches)
	}
	if !rep.OldestUncovered.IsZero() {
		fmt.Fprintf(w, "note\tevents %d to %d are not in the log yet\n", rep.Covered+1, rep.LastSeq)
	}
}

// verifyAudit reads an export from a file, or from the server, and checks it.
func (a *app) verifyAudit(ctx context.Context, q client.AuditFilter, file, rootFile, keyFile string) (*audit.Report, error) {
	var key crypto.PublicKey
	if keyFile != "" {
		b, err := a.readInput(keyFile, 64<<10)
		if err != nil {
			return nil, err
		}
		if key, err = keyring.ParsePublic(b); err != nil {
			return nil, usagef("--audit-key %s: %w", keyFile, err)
		}
	}
	s, err := a.connect(ctx, "", "", file == "")
	if err != nil {
		return nil, err
	}
	if rootFile == "" && s.admin == nil {
		return nil, usagef("want --trusted-root FILE to pin the log's key (assay trust export writes one on the server's machine)")
	}
	root, err := s.root(ctx, rootFile)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(publishing); ; {
		rep, err := a.verifyOnce(ctx, s, q, root, key, file)
		if err != nil || rep.OldestUncovered.IsZero() {
			return rep, err
		}
		if file == "" && rep.Logged == 0 && time.Now().Before(end) {
			// A young site: its first head is on its way into the log. Later ones follow
			// every ten seconds, and what they do not cover yet is said.
			select {
			case <-time.After(time.Second):
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if rep.Logged == 0 || rep.Header.Created.Sub(rep.OldestUncovered) > time.Minute {
			return nil, fault.Newf(fault.Undecided, "events %d to %d are in no head that stands in the log: a site publishes heads within seconds; export again, and ask the site if that stays", rep.Covered+1, rep.LastSeq)
		}
		return rep, nil
	}
}

// publishing is how long verify waits for what happened just now to be logged.
const publishing = 20 * time.Second

func (a *app) verifyOnce(ctx context.Context, s *session, q client.AuditFilter, root *trust.Root, key crypto.PublicKey, file string) (*audit.Report, error) {
	in, err := a.openExport(ctx, s, q, file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	r := bufio.NewReader(in)
	origin, err := exportOrigin(r)
	if err != nil {
		return nil, err
	}
	logs, err := originVerifiers(root, origin)
	if err != nil {
		return nil, err
	}
	return audit.Verify(r, audit.Options{Logs: logs, Key: key, UpToNow: file == "" && q.Until.IsZero()})
}

// exportOrigin reads, of the first line, which log the export speaks of, without
// taking anything away. The name chooses among the root's keys and proves
// nothing.
func exportOrigin(r *bufio.Reader) (string, error) {
	var b []byte
	for n := 512; n <= 4096; n *= 2 {
		var err error
		if b, err = r.Peek(n); err != nil || bytes.IndexByte(b, '\n') >= 0 {
			break // what could not be read is missing below
		}
	}
	first, _, found := bytes.Cut(b, []byte("\n"))
	var l struct {
		Export audit.Header `json:"export"`
	}
	if !found || json.Unmarshal(first, &l) != nil || l.Export.Format != audit.Format {
		return "", fault.Newf(fault.Invalid, "this is no audit export: want a first line that says %q", audit.Format)
	}
	return l.Export.Origin, nil
}

// originVerifiers are the root's keys of a log, past ones included: what was
// logged under them is in the tree all the same.
func originVerifiers(root *trust.Root, origin string) ([]note.Verifier, error) {
	keys, err := logVerifiers(root, (&url.URL{Scheme: "https", Host: origin}).String(), time.Now())
	if err != nil {
		return nil, err
	}
	return append(keys.current, keys.past...), nil
}

func (a *app) openExport(ctx context.Context, s *session, q client.AuditFilter, file string) (io.ReadCloser, error) {
	switch {
	case file == "-":
		return io.NopCloser(a.stdin), nil
	case file != "":
		f, err := os.Open(file)
		if err != nil {
			return nil, usagef("--file: %w", err)
		}
		return f, nil
	}
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(s.exported(ctx, q, func(l []byte) error { _, err := w.Write(l); return err }))
	}()
	return r, nil
}

func (a *app) auditUnauthorizedCommand() *cobra.Command {
	var f auditFlags
	var denied bool
	cmd := &cobra.Command{
		Use:   "unauthorized",
		Short: "List served pulls whose right proved invalid later",
		Long: `List pulls that were served, and whose right proved invalid later: by a
credential that was revoked with --since before the pull, or of a digest that
the site revoked since before it. Refused attempts are another matter: --denied
shows those.

Ends in 0 when there is none, in 1 when there are.`,
		Example: `  assay audit unauthorized --since 30d
  assay audit unauthorized --denied -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.filter()
			if err != nil {
				return err
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			page, err := s.api().Unauthorized(cmd.Context(), q, denied)
			if err != nil {
				return err
			}
			if err := a.print(page, func(w io.Writer) {
				fmt.Fprintln(w, "TIME\tWHO\tWHAT\tFROM\tREVOCATION\tREASON")
				for _, u := range page.Items {
					var b auditBody
					_ = json.Unmarshal(u.Pull.Body, &b)
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", stamp(u.Pull.Time), dash(u.Pull.Actor), dash(pulled(b.Repository, u.Pull.Digest)), dash(b.Address), line(u.Revocation), line(u.Reason))
				}
				if page.Next != "" {
					fmt.Fprintf(w, "more: --after %s\n", line(page.Next))
				}
			}); err != nil {
				return err
			}
			if len(page.Items) > 0 && !denied {
				return &exitError{1}
			}
			return nil
		},
	}
	f.times(cmd)
	cmd.Flags().BoolVar(&denied, "denied", false, "refused attempts of revoked credentials and digests instead")
	cmd.Flags().StringVar(&f.f.After, "after", "", "continue after this cursor")
	cmd.Flags().IntVar(&f.f.Limit, "limit", 100, "at most so many")
	return cmd
}

// pulled names a manifest of a record; empty for a login, which names none.
func pulled(repository string, d artifact.Digest) string {
	if repository == "" && d == "" {
		return ""
	}
	return repository + "@" + d.Short()
}
