package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/client"
	"assay/gate"
	"assay/internal/fault"
	"assay/internal/oci"
	"assay/sbom"
	"assay/sbom/scan"

	"github.com/spf13/cobra"
)

// maxFunction is what a package of a function holds at most: platforms take 50 to
// 250 MB.
const maxFunction = 512 << 20

func (a *app) gatePublishCommand() *cobra.Command {
	var sign signFlags
	var environment string
	var unsigned bool
	wait := time.Minute
	cmd := &cobra.Command{
		Use:   "publish [FUNCTION.zip] REF",
		Short: "May this function be activated? Push its package with a bill of materials, and ask",
		Long: `With FUNCTION.zip: make its bill of materials, push it as an OCI artifact of type
` + gate.FunctionType + `, sign it, attest the bill of materials, and
ask whether it may be activated. With REF alone, as a platform's publish step:
ask only.

A function may be activated when the decision about it is an allow, it has a bill
of materials from verified evidence, and that was matched against advisories that
are in force and fresh; nothing of this depends on the policy. What is not matched
yet is asked again for --wait.

Exit codes: 0 allowed, 1 denied, 2 could not decide, 64 usage.`,
		Example: `  assay gate publish --environment production function.zip registry.example/shop/resize:v3

  # in the platform's publish step: nothing is pushed or signed here
  assay gate publish --environment production registry.example/shop/resize@sha256:…`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			text := args[len(args)-1]
			ref, err := artifact.ParseReference(text)
			if err != nil {
				return usagef("%w", err)
			}
			s, err := a.connect(ctx, sign.subject, "", true)
			if err != nil {
				return undecided(err)
			}
			if len(args) == 2 {
				if ref.Digest != "" || ref.Tag == "" {
					return usagef("%q: want HOST/REPOSITORY:TAG to push to", clean(text))
				}
				sign.aside = true
				if ref, err = s.publishFunction(ctx, &sign, args[0], ref, !unsigned); err != nil {
					return err
				}
			}
			got, err := s.mayActivate(ctx, client.FunctionQuestion{Image: ref.String(), Environment: environment}, wait, len(args) == 2)
			if err != nil {
				return undecided(err)
			}
			if err := a.print(got, func(w io.Writer) { a.writeFunction(w, got) }); err != nil {
				return err
			}
			return codeOf(map[string]int{gate.Allow: 0, gate.Deny: 1}, got.Verdict)
		},
	}
	sign.register(cmd)
	fl := cmd.Flags()
	fl.StringVar(&environment, "environment", "", "where it is to be activated, for policies that select on it")
	fl.DurationVar(&wait, "wait", wait, "ask again for so long while it is not matched against the advisories")
	fl.BoolVar(&unsigned, "no-sign", false, "do not sign the package itself: another step does")
	return cmd
}

// publishFunction pushes a package with what is known of it.
func (s *session) publishFunction(ctx context.Context, f *signFlags, path string, ref artifact.Reference, signIt bool) (artifact.Reference, error) {
	b, err := readZip(path)
	if err != nil {
		return ref, err
	}
	now, err := sourceDate()
	if err != nil {
		return ref, err
	}
	d, err := scan.Path(ctx, path, scan.Options{Tool: "assay " + version(), Now: now, NoDocuments: true})
	if err != nil {
		return ref, fmt.Errorf("bill of materials of %s: %w", line(path), err)
	}
	d.Name = filepath.Base(path)
	var doc bytes.Buffer
	if err := sbom.Write(&doc, d, sbom.CycloneDXJSON, ""); err != nil {
		return ref, err
	}
	signer, err := s.signing(ctx, f)
	if err != nil {
		return ref, err
	}
	digest, err := s.registry().PushArtifact(ctx, ref, gate.FunctionType, []oci.Document{{MediaType: gate.ZipType, Bytes: b, Title: filepath.Base(path)}}, nil)
	if err != nil {
		return ref, unauthenticated(err, ref.Host)
	}
	pinned := ref.WithDigest(digest)
	t := &target{text: ref.String(), digest: digest, image: &pinned, media: "application/vnd.oci.image.manifest.v1+json"}
	statement, err := statementOf([]subject{{Name: t.name(), Digest: t.digest.Set()}}, attestation.PredicateCycloneDX, doc.Bytes())
	if err != nil {
		return ref, err
	}
	bundle, err := signStatement(ctx, signer, statement)
	if err != nil {
		return ref, err
	}
	if err := s.keep(ctx, f, t, bundle, attestation.PredicateCycloneDX); err != nil || !signIt {
		return pinned, err
	}
	if bundle, err = signer.Blob(ctx, digest); err != nil {
		return ref, err
	}
	return pinned, s.keep(ctx, f, t, bundle, "")
}

// readZip reads a package and says whether it is a zip file at all.
func readZip(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usagef("%w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFunction+1))
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err)
	}
	if len(b) > maxFunction {
		return nil, fault.Newf(fault.TooLarge, "%s is larger than %d MiB", line(path), maxFunction>>20)
	}
	if !bytes.HasPrefix(b, []byte("PK\x03\x04")) {
		return nil, usagef("%s is no zip file with something in it: want the package that the platform runs", line(path))
	}
	return b, nil
}

// mayActivate asks until there is an answer, or for so long. Of what was pushed just
// now the bill of materials may not be read yet.
func (s *session) mayActivate(ctx context.Context, q client.FunctionQuestion, wait time.Duration, fresh bool) (*client.FunctionAnswer, error) {
	deadline := time.Now().Add(wait)
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		got, err := s.api().Function(ctx, q)
		if err != nil {
			return nil, err
		}
		if got.Verdict != gate.Undecided && (got.Verdict != gate.Deny || got.SBOM || !fresh) || time.Now().Add(pause).After(deadline) {
			return &got, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

func (a *app) writeFunction(w io.Writer, got *client.FunctionAnswer) {
	word := line(got.Verdict)
	switch got.Verdict {
	case gate.Allow:
		word = a.paint(word, green)
	case gate.Deny:
		word = a.paint(word, red)
	}
	fmt.Fprintln(w, word)
	writeChecked(w, &got.Package)
	fmt.Fprintf(w, "  digest\t%s\t%s\n", dash(string(got.Package.Digest)), dash(got.ArtifactType))
	fmt.Fprintf(w, "  known\t%d components\t%d findings, matched: %t\n", got.Components, got.Findings, got.Scanned)
}
