package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"assay/client"
	"assay/internal/clock"
	"assay/vuln/vex"

	"github.com/spf13/cobra"
)

func (a *app) vexCommand() *cobra.Command {
	cmd := group("vex", "Statements about whether flaws concern artifacts",
		a.vexListCommand(), a.vexShowCommand(), a.vexAttestCommand(), a.vexImportCommand(), a.vexExportCommand(), a.vexWithdrawCommand(), a.vexProposalsCommand(), a.vexApproveCommand(), a.vexRefuseCommand())
	cmd.Example = "  assay vex list\n  assay vex import vendor.openvex.json --reason 'vendor advisory 2024-17'\n  assay vex export > site.openvex.json"
	return cmd
}

func vexTable(w io.Writer, all []vex.Entry) {
	fmt.Fprintln(w, "ID\tFLAW\tSTATUS\tPRODUCTS\tCOMPONENTS\tBY\tSINCE\tUNTIL")
	for _, e := range all {
		until := "no end"
		if !e.Until.IsZero() {
			until = stamp(e.Until)
		}
		if !e.Withdrawn.IsZero() {
			until = "withdrawn " + stamp(e.Withdrawn)
		}
		id := e.ID[:min(len(e.ID), 16)]
		if e.Proposed {
			id, until = e.ID, "waits for another person: assay vex approve"
		}
		for i, s := range e.Statements {
			if i == 20 {
				fmt.Fprintf(w, "\tand %d more\n", len(e.Statements)-i)
				break
			}
			what := string(s.Status)
			if s.Justification != "" {
				what += ": " + s.Justification
			}
			components := strings.Join(s.Components, " ")
			if s.Versions != "" {
				components += " " + s.Versions
			}
			by := e.Actor
			if e.Source == vex.Import {
				by += " for " + dash(e.Author)
			}
			if e.ApprovedBy != "" {
				by += ", approved by " + e.ApprovedBy
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", line(id), line(s.Vulnerabilities[0]), line(what), line(strings.Join(s.Products, " ")), line(dash(components)), line(by), stamp(e.Created), until)
		}
	}
	if len(all) == 0 {
		fmt.Fprintln(w, "nothing is stated")
	}
}

func (a *app) vexListCommand() *cobra.Command {
	var ended bool
	cmd := &cobra.Command{
		Use: "list", Short: "What the site states about flaws", Args: cobra.NoArgs,
		Example: "  assay vex list\n  assay vex list --ended -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			all := client.List[vex.Entry]{Items: []vex.Entry{}}
			if err := s.eachStatement(cmd.Context(), ended, func(e vex.Entry) { all.Items = append(all.Items, e) }); err != nil {
				return err
			}
			return a.print(all, func(w io.Writer) { vexTable(w, all.Items) })
		},
	}
	cmd.Flags().BoolVar(&ended, "ended", false, "also what was withdrawn, or is over")
	return cmd
}

// eachStatement gives all that the site states.
func (s *session) eachStatement(ctx context.Context, ended bool, fn func(vex.Entry)) error {
	for after := ""; ; {
		var page client.List[vex.Entry]
		if err := s.api().VEXStatements(ctx, after, 1000, ended, &page); err != nil {
			return err
		}
		for _, e := range page.Items {
			fn(e)
		}
		if after = page.Next; after == "" {
			return nil
		}
	}
}

// statementID makes a whole ID of the beginning that the table shows.
func (s *session) statementID(ctx context.Context, text string) (string, error) {
	if len(text) < len("vex_")+8 || len(text) >= fullStatementID {
		return text, nil
	}
	var is []string
	if err := s.eachStatement(ctx, true, func(e vex.Entry) {
		if strings.HasPrefix(e.ID, text) {
			is = append(is, e.ID)
		}
	}); err != nil {
		return "", err
	}
	switch len(is) {
	case 0:
		return text, nil // the server says that it is not here
	case 1:
		return is[0], nil
	}
	return "", usagef("%q begins %d statements: give more of the ID (assay vex list -o json)", clean(text), len(is))
}

// fullStatementID is how long the whole ID of a statement is: vex_ and SHA-256.
const fullStatementID = len("vex_") + 64

func (a *app) vexShowCommand() *cobra.Command {
	var bundle bool
	cmd := &cobra.Command{
		Use: "show ID", Short: "One statement, or the bundle in which the site signed it", Args: cobra.ExactArgs(1),
		Example: "  assay vex show vex_3f… -o json\n  assay vex show vex_3f… --bundle > statement.sigstore.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			id, err := s.statementID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if bundle {
				b, err := s.api().VEXBundle(cmd.Context(), id)
				if err == nil {
					_, err = fmt.Fprintf(a.stdout, "%s\n", b)
				}
				return err
			}
			var e vex.Entry
			if err := s.api().VEXStatement(cmd.Context(), id, &e); err != nil {
				return err
			}
			return a.print(e, func(w io.Writer) { vexTable(w, []vex.Entry{e}) })
		},
	}
	cmd.Flags().BoolVar(&bundle, "bundle", false, "write the Sigstore bundle")
	return cmd
}

func (a *app) vexImportCommand() *cobra.Command {
	var reason, until string
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Take over another's VEX document: OpenVEX, CSAF or CycloneDX",
		Long: `Import reads a VEX document, and has the site state what it states: signed,
logged, on record under who imports it. It wants the role approver. What a
document says counts for the products that it names: digests, package URLs of
components, or of images with their repository_url.`,
		Example: "  assay vex import vendor.openvex.json --reason 'vendor advisory 2024-17' --until 2027-01-01",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := a.readInput(args[0], vex.MaxBytes)
			if err != nil {
				return err
			}
			if _, err := vex.Read(b); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			end, err := untilOf(until)
			if err != nil {
				return err
			}
			if reason == "" {
				return usagef("want --reason: it is on record with the statement")
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			var e vex.Entry
			if err := s.api().ImportVEX(cmd.Context(), b, reason, end, &e); err != nil {
				return err
			}
			return a.print(e, func(w io.Writer) { vexTable(w, []vex.Entry{e}) })
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, on record (required)")
	cmd.Flags().StringVar(&until, "until", "", "when it ends: 2027-01-31, RFC 3339, or from now on, such as 90d")
	return cmd
}

func (a *app) vexExportCommand() *cobra.Command {
	return &cobra.Command{
		Use: "export", Short: "All that the site states now, as one OpenVEX document", Args: cobra.NoArgs,
		Long:    "Export writes OpenVEX 0.2.0. The bundle that the site signed for each statement is\nwritten by assay vex show ID --bundle.",
		Example: "  assay vex export > site.openvex.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			b, err := s.api().ExportVEX(cmd.Context())
			if err == nil {
				_, err = fmt.Fprintf(a.stdout, "%s\n", b)
			}
			return err
		},
	}
}

func (a *app) vexWithdrawCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "withdraw ID", Short: "Take a statement of the site back; it stays on record", Args: cobra.ExactArgs(1),
		Example: "  assay vex withdraw vex_3f… --reason 'the code is called after all'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usagef("want --reason: it is on record")
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			id, err := s.statementID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var e vex.Entry
			if err := s.api().WithdrawVEX(cmd.Context(), id, reason, &e); err != nil {
				return err
			}
			return a.print(e, func(w io.Writer) { vexTable(w, []vex.Entry{e}) })
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, on record (required)")
	return cmd
}

func (a *app) vulnTriageCommand() *cobra.Command {
	q := client.TriageRequest{}
	var until string
	cmd := &cobra.Command{
		Use:   "triage VULNERABILITY",
		Short: "State whether a flaw concerns artifacts: signed, logged and on record",
		Long: `Triage has the site state, as OpenVEX, whether a flaw concerns artifacts. One
decision holds over all later versions that it covers: all artifacts of the
products, all versions of the components, unless it says otherwise. It holds
under all names that the feeds give the flaw. It wants the role approver.

A finding that is not affected, or fixed, denies no more; the trail names the
statement and who made it. Malicious packages are not stated away.`,
		Example: `  assay vuln triage CVE-2024-3094 --product 'team/**' --component pkg:deb/debian/xz-utils \
      --status not_affected --justification vulnerable_code_not_in_execute_path \
      --reason 'sshd is not built with liblzma' --until 90d
  assay vuln triage CVE-2024-1 --product sha256:3f… --status under_investigation --reason 'ticket 4711'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Vulnerability = args[0]
			var err error
			if q.Until, err = untilOf(until); err != nil {
				return err
			}
			st := vex.Statement{Vulnerabilities: args, Products: q.Products, Components: q.Components, Versions: q.Versions, Status: vex.Status(q.Status), Justification: q.Justification, Impact: q.Reason}
			if err := st.Check(); err != nil {
				return usagef("%w", err)
			}
			if q.Reason == "" {
				return usagef("want --reason: it is on record with the statement")
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			var e vex.Entry
			if err := s.api().Triage(cmd.Context(), q, &e); err != nil {
				return err
			}
			return a.print(e, func(w io.Writer) { vexTable(w, []vex.Entry{e}) })
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&q.Products, "product", nil, `a digest, a package URL, or a pattern of repositories such as team/**; "**" is all; can be repeated`)
	f.StringArrayVar(&q.Components, "component", nil, "a package URL, with or without a version; can be repeated (default any)")
	f.StringVar(&q.Versions, "versions", "", "of the components, such as vers:npm/>=1.0.0|<2.0.0 (default all)")
	f.StringVar(&q.Status, "status", "", "not_affected, affected, fixed or under_investigation")
	f.StringVar(&q.Justification, "justification", "", "of not_affected, a word of OpenVEX")
	f.StringVar(&q.Reason, "reason", "", "why, on record (required)")
	f.StringVar(&until, "until", "", "when it ends: 2027-01-31, RFC 3339, or from now on, such as 90d")
	complete(cmd, "status", "not_affected", "affected", "fixed", "under_investigation")
	complete(cmd, "justification", vex.Justifications...)
	return cmd
}

// untilOf reads the end of something: a day, a time, or how long from now; "" is
// none.
func untilOf(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		t, err = time.Parse(time.RFC3339, text)
	}
	if in := days(0); err != nil && in.Set(text) == nil && in > 0 { // 90d
		t, err = clock.System().Add(time.Duration(in)).Truncate(time.Second), nil
	}
	if err != nil {
		return t, usagef("--until %q: want a day such as 2027-01-31, a time of RFC 3339, or how long from now such as 90d", line(text))
	}
	return t, nil
}
