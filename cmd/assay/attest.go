package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"assay/artifact"
	"assay/attestation/report"
	"assay/sbom"

	"github.com/spf13/cobra"
)

// attestInput says what is attested: a predicate that is ready, or a report that
// one is made of.
type attestInput struct {
	predicate, report, kind string
	name, url               string
	log, build              string
	configuration           []string
}

func (a *app) attestCommand() *cobra.Command {
	var f signFlags
	var in attestInput
	cmd := &cobra.Command{
		Use:   "attest --type TYPE (--predicate FILE | --report FILE) TARGET",
		Short: "State something about an artifact, signed",
		Long: `Attest makes an in-toto Statement about TARGET and signs it.

With --predicate, FILE is the predicate as it is, and TYPE a predicate type URI
or one of the short names: ` + strings.Join(shortTypes(), ", ") + `.

With --report, FILE is what a tool wrote, of which the predicate is made: TYPE is
` + strings.Join(reportKinds(), ", ") + `. The report is read under caps and counted; its digest is
stated, and a report of nothing (no test ran, no line was measured) is refused.
A failed run is attested as failed: what that means is for a policy to say.`,
		Example: `  assay attest --data ./data --subject ci@example.com \
    --type spdx --predicate app.spdx.json 127.0.0.1:8484/team/app:v1

  go test -json ./... > test.json
  assay attest --server https://assay.example --type gotest --report test.json --name unit ./app

  assay attest --type sarif --report gosec.sarif registry.example/team/app:v1`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if (in.log == "") != (in.build == "") {
				return usagef("--build-log FILE and --build ID belong together")
			}
			uri, body, err := in.read(a)
			if err != nil {
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
			signer, err := s.signing(ctx, &f)
			if err != nil {
				return err
			}
			statement, err := statementOf([]subject{{Name: t.name(), Digest: t.digest.Set()}}, uri, body)
			if err != nil {
				return err
			}
			b, err := signStatement(ctx, signer, statement)
			if err != nil {
				return err
			}
			if err := s.keep(ctx, &f, t, b, uri); err != nil || in.log == "" {
				return err
			}
			return s.uploadFile(ctx, in.build, repositoryOf(t), []artifact.Digest{t.digest}, in.log)
		},
	}
	f.register(cmd)
	fl := cmd.Flags()
	fl.StringVar(&in.predicate, "predicate", "", "the predicate, a JSON file; - is standard input")
	fl.StringVar(&in.report, "report", "", "a tool's report, of which the predicate is made; - is standard input")
	fl.StringVar(&in.kind, "type", "", "the predicate's type, or the report's")
	fl.StringVar(&in.log, "build-log", "", "also upload this file as the log of the build (assay build-log)")
	fl.StringVar(&in.build, "build", "", "with --build-log: the build's ID, as its provenance names it")
	fl.StringVar(&in.name, "name", "", "of a report: its suite or step, where there are several of one type")
	fl.StringVar(&in.url, "url", "", "of a report: where the run can be seen")
	fl.StringArrayVar(&in.configuration, "configuration", nil, "of a test report: a file that configured the run; can be repeated")
	complete(cmd, "type", append(reportKinds(), shortTypes()...)...)
	return cmd
}

// read gives the predicate's type and the predicate.
func (in *attestInput) read(a *app) (uri string, predicate []byte, err error) {
	kind := report.Kind(in.kind)
	isReport := kind.PredicateType() != ""
	switch {
	case in.kind == "" || (in.predicate == "") == (in.report == ""):
		return "", nil, usagef("want --predicate FILE and --type TYPE, or --report FILE and --type TYPE")
	case isReport && in.report == "":
		return "", nil, usagef("--type %s is made of a report: give --report FILE", in.kind)
	case !isReport && in.report != "":
		return "", nil, usagef("--type %q: a report is of type %s", clean(in.kind), strings.Join(reportKinds(), ", "))
	case !isReport && (in.name != "" || in.url != "" || len(in.configuration) > 0):
		return "", nil, usagef("--name, --url and --configuration are for reports")
	}
	if !isReport {
		if uri, err = predicateURI(in.kind); err != nil {
			return "", nil, err
		}
		if predicate, err = a.readInput(in.predicate, 16<<20); err == nil {
			err = in.check(uri, predicate)
		}
		return uri, predicate, err
	}
	o := report.Options{Name: in.name, URL: in.url, File: filepath.Base(in.report)}
	for _, path := range in.configuration {
		b, err := a.readInput(path, 16<<20)
		if err != nil {
			return "", nil, err
		}
		o.Configuration = append(o.Configuration, report.Describe(filepath.ToSlash(path), "", b))
	}
	doc, err := a.readInput(in.report, report.MaxDocument)
	if err != nil {
		return "", nil, err
	}
	r, err := report.Read(kind, doc, o)
	if err != nil {
		return "", nil, err
	}
	return r.PredicateType, r.Predicate, nil
}

// check reads a predicate that is a bill of materials: one that nobody can read
// would be signed for good, and found out when somebody asks what it holds.
func (in *attestInput) check(uri string, predicate []byte) error {
	want := map[string]string{"https://cyclonedx.org/bom": "CycloneDX", "https://spdx.dev/Document": "SPDX"}[uri]
	if want == "" {
		return nil
	}
	if !json.Valid(predicate) {
		return usagef("%s is no JSON, which a predicate has to be; assay sbom convert --to cyclonedx-json %s makes it one", line(in.predicate), line(in.predicate))
	}
	d, err := sbom.Parse(predicate)
	if err != nil {
		return fmt.Errorf("%s is no %s document: %w", line(in.predicate), want, err)
	}
	if got := string(d.Format); !strings.HasPrefix(strings.ToLower(got), strings.ToLower(want)) {
		return usagef("%s is %s, and --type says %s", line(in.predicate), got, want)
	}
	return nil
}

func reportKinds() []string {
	var out []string
	for _, k := range report.Kinds() {
		out = append(out, string(k))
	}
	return out
}
