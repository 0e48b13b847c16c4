package main

import (
	"fmt"
	"path"
	"slices"
	"time"

	"assay/artifact"
	"assay/internal/clock"
	"assay/internal/strictjson"
	"assay/vuln/vex"

	"github.com/spf13/cobra"
)

// vexInput is what is attested: a document that is ready, or one statement.
type vexInput struct {
	document  string
	statement vex.Statement
	status    string
	until     string
	author    string
}

func (a *app) vexAttestCommand() *cobra.Command {
	var f signFlags
	var in vexInput
	cmd := &cobra.Command{
		Use:   "attest TARGET (--document FILE | --vulnerability NAME --status STATUS)",
		Short: "Say whether flaws concern an artifact, signed by whoever says it",
		Long: `Attest signs an OpenVEX document about TARGET: an in-toto statement of type
https://openvex.dev/ns, as cosign and vexctl write and read it. It is its signer's
word, and counts where a policy names the signer (vulnerabilities.vex).

With --document, FILE is the document, of which some statement has to concern
TARGET. Without it one statement is made of the flags, whose product is TARGET by
its digest. What the site itself states, assay vuln triage does.`,
		Example: `  assay vex attest --subject security@vendor.example --document vendor.openvex.json registry.example/team/app:v1

  assay vex attest --vulnerability CVE-2024-3094 --status not_affected --component pkg:deb/debian/xz-utils \
    --justification vulnerable_code_not_in_execute_path --impact 'sshd is not built with liblzma' --until 90d registry.example/team/app:v1`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if err := in.check(); err != nil {
				return err
			}
			s, err := a.connect(ctx, f.subject, f.token, false)
			if err != nil {
				return err
			}
			t, err := s.resolve(ctx, args[0])
			if err != nil {
				return err
			}
			body, err := in.predicate(a, t)
			if err != nil {
				return err
			}
			signer, err := s.signing(ctx, &f)
			if err != nil {
				return err
			}
			kind := vex.Predicates[0]
			statement, err := statementOf([]subject{{Name: t.name(), Digest: t.digest.Set()}}, kind, body)
			if err != nil {
				return err
			}
			b, err := signStatement(ctx, signer, statement)
			if err != nil {
				return err
			}
			return s.keep(ctx, &f, t, b, kind)
		},
	}
	f.register(cmd)
	fl := cmd.Flags()
	fl.StringVar(&in.document, "document", "", "an OpenVEX document; - is standard input")
	fl.StringArrayVar(&in.statement.Vulnerabilities, "vulnerability", nil, "name of the flaw; again for its aliases")
	fl.StringVar(&in.status, "status", "", "not_affected, affected, fixed or under_investigation")
	fl.StringVar(&in.statement.Justification, "justification", "", "of not_affected, a word of OpenVEX")
	fl.StringVar(&in.statement.Impact, "impact", "", "why, in words")
	fl.StringArrayVar(&in.statement.Components, "component", nil, "a package URL within TARGET, with or without a version; can be repeated (default any)")
	fl.StringVar(&in.statement.Versions, "versions", "", "of the components, such as vers:npm/>=1.0.0|<2.0.0 (default all)")
	fl.StringVar(&in.until, "until", "", "when it ends: 2027-01-31, RFC 3339, or from now on, such as 90d")
	fl.StringVar(&in.author, "author", "", "author that the document names (default who signs is not named in it)")
	complete(cmd, "status", "not_affected", "affected", "fixed", "under_investigation")
	complete(cmd, "justification", vex.Justifications...)
	return cmd
}

// check finds out before anything is asked what can never be said.
func (in *vexInput) check() error {
	st := &in.statement
	given := len(st.Vulnerabilities)+len(st.Components) > 0 || in.status+st.Justification+st.Impact+st.Versions+in.until != ""
	switch {
	case in.document != "" && given:
		return usagef("--document has all that is said: leave out the other flags")
	case in.document != "":
		return nil
	case len(st.Vulnerabilities) == 0 || in.status == "":
		return usagef("want --document FILE, or --vulnerability NAME and --status STATUS")
	}
	until, err := untilOf(in.until)
	if err != nil {
		return err
	}
	st.Status, st.Until = vex.Status(in.status), until
	try := *st
	try.Products = []string{"**"}
	if err := try.Check(); err != nil {
		return usagef("%w", err)
	}
	return nil
}

// predicate is the document about a target.
func (in *vexInput) predicate(a *app, t *target) ([]byte, error) {
	about := vex.Subject{Digest: t.digest}
	if t.image != nil {
		about.Repository = t.image.Repository
	}
	if in.document != "" {
		b, err := a.readInput(in.document, vex.MaxBytes)
		if err != nil {
			return nil, err
		}
		d, err := vex.Read(b)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: %w", line(in.document), err)
		case d.Format != "openvex":
			return nil, usagef("%s is of form %s: an attestation holds OpenVEX", line(in.document), d.Format)
		case !slices.ContainsFunc(d.Statements, func(s vex.Statement) bool { return s.Concerns(about) }):
			return nil, usagef("%s says nothing of %s: it would count for nothing", line(in.document), clean(t.text))
		}
		return b, nil
	}
	st := in.statement
	st.Products = []string{string(t.digest)}
	if t.image != nil {
		// As scanners call an image.
		p, err := artifact.NewPURL("oci", "", path.Base(t.image.Repository), string(t.digest), map[string]string{"repository_url": t.image.Host + "/" + t.image.Repository}, "")
		if err != nil {
			return nil, err
		}
		st.Products = append(st.Products, p.String())
	}
	at := clock.System().UTC().Truncate(time.Second)
	author := in.author
	if author == "" {
		author = "whoever signed the attestation"
	}
	return strictjson.Marshal(vex.OpenVEX("urn:assay:vex:"+string(t.digest)+":"+at.Format(time.RFC3339), author, at, []vex.Statement{st}))
}
