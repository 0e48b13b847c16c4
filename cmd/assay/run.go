package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/builder"
	"assay/builder/runner"
	"assay/internal/fault"
	"assay/policy"

	"github.com/spf13/cobra"
)

// runFlags are those of assay run.
type runFlags struct {
	sign             signFlags
	build            builder.Options
	image, push      string
	certs            string
	base             *builder.Base
	builderID, step  string
	without, caches  []string
	heartbeat        time.Duration
	log              bool
	bundles          string
	imageRef, fileTo artifact.Reference
	cacheSpecs       []runner.CacheSpec
}

// optionalEvidence is what a run states beside its provenance.
var optionalEvidence = []string{"link", "sbom", "runner"}

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:                   "run [--products FILE|GLOB …] [--materials PATH|GLOB …] [--trace] [--image REF] [--push REF] [flags] -- COMMAND [ARG …]",
		DisableFlagsInUseLine: true,
		Short:                 "Wrap a build and attest what it made",
		Long: `Run a build command, record what went in and what came out, and sign what is
to be said about each product: SLSA provenance, an in-toto link, a bill of
materials, evidence about the machine and, with --trace, which files the build
opened, which programs it ran and which addresses it connected to.

Standard input, output and error are the build's, untouched; Assay's own lines
go to standard error. With -o json or yaml the report is standard output, and
the build's standard output goes to standard error. The build's exit code is
kept. A build that fails is recorded as failed, and nothing it made is attested
as good.

Without --products they are found: the files that are new or changed in the build's
folder, less what git tracks and what compilers leave for their next run (*.o,
node_modules and the like), at most 64. Name them where more is known: a product
that is named and not made is a failed build.

With --image the products become an OCI image, with --push an OCI artifact of
files; both are pushed and attested by referrers.

Keyless signing takes the token of the CI system: GitHub Actions by itself,
GitLab by id_tokens named SIGSTORE_ID_TOKEN, Kubernetes by projected tokens
(ASSAY_TOKEN_DIR). The build itself does not get these.`,
		Example: `  assay run -- make

  assay run --data ./data --subject ci@example.com \
    --materials main.go --products bin/app --image 127.0.0.1:8484/team/app:v1 \
    -- go build -o bin/app .

  # what did the build really read, run and connect to?
  assay run --trace --materials 'src/**' --products 'dist/*.tar.gz' -- make dist

  # in GitHub Actions, with the job's own identity, as an artifact of files
  assay run --server https://assay.example --products 'dist/*' \
    --push assay.example/team/app:v1 -- make dist`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.settle(); err != nil {
				return err
			}
			f.build.Command = args
			return a.run(cmd.Context(), &f)
		},
	}
	f.sign.register(cmd)
	cmd.Flag("bundle").Usage = "also write the provenance's Sigstore bundle to this file"
	fl := cmd.Flags()
	fl.StringVarP(&f.build.Dir, "dir", "C", "", "run the build in this folder")
	fl.StringSliceVar(&f.build.Materials, "materials", nil, "files, folders or patterns (*, **) that the build reads")
	fl.StringSliceVar(&f.build.Products, "products", nil, "files or patterns that the build makes, relative to its folder (default: files that it makes there and git does not track)")
	fl.StringSliceVar(&f.build.Env, "env", nil, "environment variables to record by name; never a secret")
	fl.StringSliceVar(&f.build.Tools, "tool", nil, "programs to record with version and digest, beside those that the command and the folder name")
	fl.BoolVar(&f.build.Trace, "trace", false, "watch what the build opens, runs and connects to (Linux, no root)")
	fl.StringSliceVar(&f.build.Toolchain, "toolchain", nil, "with --trace: patterns of files of the machine, which need no declaration; in place of /usr/** and the like")
	fl.StringVar(&f.image, "image", "", "push the products as an image to HOST/REPOSITORY[:TAG]")
	fl.StringVar(&f.certs, "image-certs", "", "with --image: put these authorities' certificates (PEM), a user nonroot and /tmp into the image as well")
	fl.StringVar(&f.push, "push", "", "push the products as an OCI artifact of files to HOST/REPOSITORY[:TAG]")
	fl.StringVar(&f.builderID, "builder-id", "https://assay.dev/builders/local", "the builder's URI in the provenance (its level is for verifiers to configure)")
	fl.StringVar(&f.step, "step", "build", "the step's name in the link")
	fl.StringSliceVar(&f.without, "without", nil, "leave out some of: "+strings.Join(optionalEvidence, ", "))
	fl.DurationVar(&f.heartbeat, "heartbeat", time.Minute, "tell the server of this machine's health at this interval while it builds; 0: never")
	fl.BoolVar(&f.log, "log", false, "send the build's output to the server, to be shown at the artifact; known secrets are taken out (assay build-log)")
	fl.StringSliceVar(&f.caches, "cache", nil, "KEY=PATH of what outlives builds, for the evidence about the machine")
	fl.StringVar(&f.bundles, "bundle-dir", "", "also write every Sigstore bundle to this folder")
	complete(cmd, "without", optionalEvidence...)
	return cmd
}

// settle reads the flags that can be wrong.
func (f *runFlags) settle() (err error) {
	if len(f.build.Toolchain) > 0 && !f.build.Trace {
		return usagef("--toolchain is for --trace")
	}
	for _, w := range f.without {
		if !slices.Contains(optionalEvidence, w) {
			return usagef("--without %q: want some of %s", clean(w), strings.Join(optionalEvidence, ", "))
		}
	}
	for _, c := range f.caches {
		spec, err := runner.ParseCache(c)
		if err != nil {
			return usagef("--cache: %w", err)
		}
		f.cacheSpecs = append(f.cacheSpecs, spec)
	}
	if f.imageRef, err = newTag("--image", f.image); err != nil {
		return err
	}
	if f.certs != "" {
		if err := f.readCerts(); err != nil {
			return err
		}
	}
	f.fileTo, err = newTag("--push", f.push)
	return err
}

// readCerts reads what the image is to have besides the products. It is a material
// of the build, since the image depends on it.
func (f *runFlags) readCerts() error {
	if f.image == "" {
		return usagef("--image-certs is for --image")
	}
	path, err := filepath.Abs(f.certs)
	if err != nil {
		return usagef("--image-certs: %w", err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return usagef("--image-certs: %w", err)
	}
	f.base = &builder.Base{Certificates: b}
	f.build.Materials = append(f.build.Materials, path)
	return nil
}

// newTag reads where something is to be pushed.
func newTag(flag, text string) (artifact.Reference, error) {
	if text == "" {
		return artifact.Reference{}, nil
	}
	ref, err := artifact.ParseReference(text)
	if err != nil {
		return ref, usagef("%s: %w", flag, err)
	}
	if ref.Digest != "" {
		return ref, usagef("%s %s: what is yet to be built has no digest", flag, clean(text))
	}
	if ref.Tag == "" {
		ref.Tag = "latest"
	}
	return ref, nil
}

// run wraps the build.
func (a *app) run(ctx context.Context, f *runFlags) error {
	s, err := a.connect(ctx, f.sign.subject, f.sign.token, false)
	if err != nil {
		return err
	}
	signer, err := s.signing(ctx, &f.sign)
	if err != nil {
		return err
	}
	// A build may take an hour: who signs is settled before it.
	if signer.Token != nil && s.admin != nil && s.token == "" {
		if _, err := s.localSubject("sigstore"); err != nil {
			return err
		}
	}
	w := &wrapped{session: s, f: f, signer: signer}
	f.build.ID = builder.NewID()
	if err := w.lookAtMachine(ctx); err != nil {
		return err
	}
	report := a.stderr
	f.build.Stdin, f.build.Stdout, f.build.Stderr = a.stdin, a.stdout, a.stderr
	if a.output != "table" {
		report, f.build.Stdout = a.stdout, a.stderr
	}
	if err := w.capture(); err != nil {
		return err
	}
	told := s.tellStarts(ctx, f.imageRef, f.fileTo)
	end := w.beat(ctx)
	w.run, err = builder.Build(ctx, f.build)
	end()
	if w.run == nil {
		told.finish(ctx, a, f.build.ID, false)
		return err
	}
	w.saySecrets()
	w.sayTrace()
	if err == nil {
		err = w.attest(ctx)
	}
	w.uploadOutput(ctx)
	told.finish(ctx, a, w.run.ID, err == nil && w.run.Failure == nil, w.imageAt, w.artifactAt)
	if w.run.Failure != nil {
		err = w.failed(ctx, err)
	}
	if err != nil && w.run.Failure == nil {
		return err
	}
	if perr := a.printTo(report, w.report(), w.table); perr != nil {
		return perr
	}
	return err
}

// failed records the build as failed, and gives its exit code.
func (w *wrapped) failed(ctx context.Context, err error) error {
	w.app.notef("assay: %s\n", clean(err.Error()))
	// Also when the build was interrupted: that is when it is wanted.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if rerr := w.attestFailure(ctx); rerr != nil {
		w.app.notef("assay: the failure could not be recorded: %s\n", clean(rerr.Error()))
	}
	if w.run.ExitCode > 0 {
		return &exitError{w.run.ExitCode}
	}
	return &exitError{fault.ExitCode(fault.Denied)}
}

// saySecrets names what of the environment looks like a secret: a policy with
// noSecrets denies what was built with it.
func (w *wrapped) saySecrets() {
	if names := w.run.Secrets; len(names) > 0 {
		w.app.notef("assay: the build could read what looks like a secret: %s; the name is attested, the value is not; run it without: env -u %s assay run …\n",
			clean(strings.Join(names, ", ")), clean(strings.Join(names, " -u ")))
	}
}

// sayTrace says at once when a trace was asked for and there is none.
func (w *wrapped) sayTrace() {
	switch t := w.run.Trace; {
	case t == nil:
	case !t.Traced:
		w.app.notef("assay: the build was not traced: %s; the attestation says so\n", clean(t.Reason))
	case !t.Log.Complete:
		why := strings.Join(t.Log.Gaps, "; ")
		if t.Log.Truncated {
			why = strings.TrimPrefix(why+"; more was seen than is recorded", "; ")
		}
		w.app.notef("assay: the trace is not complete: %s\n", clean(why))
	}
}

// built is what run reports.
type built struct {
	ID       string           `json:"id"`
	ExitCode int              `json:"exit_code"`
	Failed   string           `json:"failed,omitempty"` // a fixed word of builder's
	Detail   string           `json:"detail,omitempty"`
	Products []builder.File   `json:"products"`
	Image    string           `json:"image,omitempty"`
	Artifact string           `json:"artifact,omitempty"`
	Evidence []signedEvidence `json:"evidence"`
	Trace    *tracedBuild     `json:"trace,omitempty"`
}

// tracedBuild is the trace in short.
type tracedBuild struct {
	Traced      bool     `json:"traced"`
	Reason      string   `json:"reason,omitempty"`
	Complete    bool     `json:"complete"`
	Truncated   bool     `json:"truncated"`
	Files       int      `json:"files"`
	Programs    int      `json:"programs"`
	Connections []string `json:"connections"`
	Undeclared  []string `json:"undeclared"`
	Changed     []string `json:"changed"`
}

// signedEvidence is one statement that was signed.
type signedEvidence struct {
	PredicateType string   `json:"predicate_type"`
	Subjects      int      `json:"subjects"`
	LogIndex      *int64   `json:"log_index,omitempty"`
	Stored        []string `json:"stored,omitempty"`
	Bundle        string   `json:"bundle,omitempty"`
}

func (w *wrapped) report() built {
	r := w.run
	out := built{ID: r.ID, ExitCode: r.ExitCode, Products: r.Products, Image: w.imageAt, Artifact: w.artifactAt, Evidence: w.evidence}
	if out.Products == nil {
		out.Products = []builder.File{}
	}
	if out.Evidence == nil {
		out.Evidence = []signedEvidence{}
	}
	if r.Failure != nil {
		out.Failed, out.Detail = r.Failure.Reason, r.Failure.Detail
	}
	if t := r.Trace; t != nil {
		out.Trace = &tracedBuild{
			Traced: t.Traced, Reason: t.Reason, Complete: t.Log.Complete, Truncated: t.Log.Truncated, Files: len(t.Log.Files), Programs: len(t.Log.Programs),
			Connections: []string{}, Undeclared: t.Undeclared, Changed: t.Changed,
		}
		for _, c := range t.Log.Connections {
			out.Trace.Connections = append(out.Trace.Connections, policy.AddressText(c.Protocol, c.Address, c.Port))
		}
	}
	return out
}

func (w *wrapped) table(out io.Writer) {
	b := w.report()
	fmt.Fprintf(out, "build\t%s\n", b.ID)
	if b.Failed != "" {
		fmt.Fprintf(out, "failed\t%s\n", b.Failed)
	}
	for _, p := range b.Products {
		fmt.Fprintf(out, "product\t%s\t%s\n", line(p.Name), p.Digest)
	}
	if b.Image != "" {
		fmt.Fprintf(out, "image\t%s\n", b.Image)
	}
	if b.Artifact != "" {
		fmt.Fprintf(out, "artifact\t%s\n", b.Artifact)
	}
	if t := b.Trace; t != nil && t.Traced {
		fmt.Fprintf(out, "trace\t%d files, %d programs, %d addresses\n", t.Files, t.Programs, len(t.Connections))
		few(out, "address", t.Connections)
		few(out, "undeclared", t.Undeclared)
		few(out, "changed", t.Changed)
	}
	for _, e := range b.Evidence {
		index := ""
		if e.LogIndex != nil {
			index = fmt.Sprintf("log index %d", *e.LogIndex)
		}
		fmt.Fprintf(out, "evidence\t%s\t%s\n", line(e.PredicateType), index)
	}
}

// few prints the first of a list.
func few(w io.Writer, what string, list []string) {
	const most = 8
	for _, s := range list[:min(len(list), most)] {
		fmt.Fprintf(w, "%s\t%s\n", what, line(s))
	}
	if n := len(list) - most; n > 0 {
		fmt.Fprintf(w, "%s\t%d more\n", what, n)
	}
}

// unauthenticated adds to an error of a registry what to do about it.
func unauthenticated(err error, host string) error {
	if errors.Is(err, fault.Unauthenticated) {
		return fmt.Errorf("%w; docker login %s, or give --data DIR --subject NAME", err, host)
	}
	return err
}
