package main

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/client"
	"assay/internal/fault"
	"assay/internal/keyring"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
)

// predicateSign is what cosign v3 states about an image that it signs.
const predicateSign = "https://sigstore.dev/cosign/sign/v1"

// signFlags are shared by what signs: sign, attest, run.
type signFlags struct {
	key, passphrase string
	token, subject  string
	bundle          string
	upload          bool
	aside           bool // what was signed is told on stderr: stdout has something else
}

func (f *signFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.key, "key", "", "sign with this private key instead of keyless: a PEM file, cosign.key, pkcs11:…, or a KMS key (awskms://…, NAME://… by sigstore-kms-NAME)")
	cmd.Flags().StringVar(&f.passphrase, "key-passphrase-file", "", "file with the passphrase of an encrypted key: cosign's, PKCS #8 or our own (COSIGN_PASSWORD)")
	cmd.Flags().StringVar(&f.token, "identity-token", "", "OIDC token of audience sigstore, or a file that holds one (SIGSTORE_ID_TOKEN)")
	cmd.Flags().StringVar(&f.subject, "subject", "", "with --data: the local identity to sign as, for example me@example.com (ASSAY_SUBJECT)")
	cmd.Flags().StringVar(&f.bundle, "bundle", "", "also write the Sigstore bundle to this file")
	cmd.Flags().BoolVar(&f.upload, "upload", true, "store the bundle: beside the image, or with the server for files and digests")
}

// openKey opens what --key names.
func (f *signFlags) openKey(ctx context.Context) (crypto.Signer, error) {
	if keyring.IsKeyURI(f.key) {
		key, err := keyring.OpenURI(ctx, f.key, nil)
		if err != nil {
			return nil, fmt.Errorf("--key: %w", err)
		}
		return key, nil
	}
	passphrase, err := passphraseFile("--key-passphrase-file", f.passphrase)
	if err != nil {
		return nil, err
	}
	key, err := keyring.OpenURI(ctx, f.key, passphrase)
	if err != nil {
		return nil, usagef("--key: %w", err)
	}
	return key, nil
}

// passphraseFile reads a key's passphrase from a file, or from the variable
// that cosign reads.
func passphraseFile(flag, path string) ([]byte, error) {
	if path == "" {
		return []byte(os.Getenv("COSIGN_PASSWORD")), nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, usagef("%s: %w", flag, err)
	}
	passphrase := []byte(strings.TrimRight(string(b), "\r\n"))
	if len(passphrase) == 0 {
		return nil, usagef("%s %s is empty", flag, path)
	}
	return passphrase, nil
}

// signing makes a signer from the flags.
func (s *session) signing(ctx context.Context, f *signFlags) (*client.Signing, error) {
	sig := &client.Signing{HTTP: s.http}
	if s.status != nil {
		sig.Fulcio, sig.Rekor, sig.TSA = s.status.Services.Fulcio, s.status.Services.Rekor, s.status.Services.TSA
	}
	if f.key != "" {
		var err error
		sig.Key, err = f.openKey(ctx)
		return sig, err
	}
	if s.status == nil {
		return nil, usagef("keyless signing needs a server: give --server URL or --data DIR; or sign with --key FILE")
	}
	sig.Token = func(ctx context.Context) (string, error) {
		t, err := s.tokenFor(ctx, "sigstore")
		if err == nil && t == "" {
			err = fault.Newf(fault.Unauthenticated, "no identity to sign with: give --identity-token, set SIGSTORE_ID_TOKEN, or use --data DIR --subject NAME on the server's machine")
		}
		return t, err
	}
	return sig, nil
}

func (a *app) signCommand() *cobra.Command {
	var f signFlags
	cmd := &cobra.Command{
		Use:   "sign TARGET",
		Short: "Sign an image, a file or a digest",
		Long: `Sign an image, a file or a digest, keyless by default: a fresh key, a
certificate for your identity, a timestamp and a log entry, in one Sigstore
bundle. An image's bundle is stored beside it, where cosign verify finds it; a
file's is stored with the server and, with --bundle, in a file.`,
		Example: `  # keyless, on the server's own machine
  assay sign --data ./data --subject me@example.com 127.0.0.1:8484/team/app:v1

  # keyless in CI, with the job's own token
  assay sign --server https://assay.example --bundle app.sigstore.json ./app

  # with a key, no server at all
  assay sign --key key.pem --upload=false --bundle app.sigstore.json ./app

  # with a key that never leaves its KMS
  assay sign --key hashivault://release --data ./data 127.0.0.1:8484/team/app:v1`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
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
			var b *bundlepb.Bundle
			if t.image != nil {
				statement, err := statementOf([]subject{{Digest: t.digest.Set()}}, predicateSign, []byte("{}"))
				if err != nil {
					return err
				}
				b, err = signStatement(ctx, signer, statement)
				if err != nil {
					return err
				}
			} else if b, err = signer.Blob(ctx, t.digest); err != nil {
				return err
			}
			return s.keep(ctx, &f, t, b, predicateSign)
		},
	}
	f.register(cmd)
	return cmd
}

// subject is a Statement's subject.
type subject struct {
	Name   string             `json:"name,omitempty"`
	Digest artifact.DigestSet `json:"digest"`
}

// statementOf writes a Statement v1; its predicate must be strict JSON.
func statementOf(subjects []subject, predicateType string, predicate []byte) ([]byte, error) {
	b, err := json.Marshal(map[string]any{
		"_type":         attestation.StatementV1,
		"subject":       subjects,
		"predicateType": predicateType,
		"predicate":     json.RawMessage(predicate),
	})
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "predicate: %w", err)
	}
	// What we sign must be what we would read.
	if _, err := attestation.ParseStatement(b, attestation.DefaultLimits()); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	return b, nil
}

func signStatement(ctx context.Context, s *client.Signing, statement []byte) (*bundlepb.Bundle, error) {
	return s.Statement(ctx, attestation.PayloadType, statement, attestation.PAE(attestation.PayloadType, statement))
}

// keep writes, uploads and reports a bundle.
func (s *session) keep(ctx context.Context, f *signFlags, t *target, b *bundlepb.Bundle, predicateType string) error {
	doc, err := protojson.Marshal(b)
	if err != nil {
		return err
	}
	if f.bundle != "" {
		if err := writeFile(f.bundle, doc); err != nil {
			return err
		}
	}
	out := signed{Target: t.text, Digest: t.digest, PredicateType: predicateType, Bundle: f.bundle}
	if e := b.GetVerificationMaterial().GetTlogEntries(); len(e) > 0 {
		out.LogIndex = &e[0].LogIndex
	}
	switch {
	case !f.upload && f.bundle == "":
		return usagef("--upload=false without --bundle would throw the signature away")
	case !f.upload:
	case t.image != nil:
		d, err := s.registry().PushReferrer(ctx, *t.image, b.MediaType, doc, map[string]string{
			"dev.sigstore.bundle.content":       contentOf(b),
			"dev.sigstore.bundle.predicateType": predicateType,
			"org.opencontainers.image.created":  time.Now().UTC().Format(time.RFC3339),
		})
		if err != nil {
			return err
		}
		out.Stored = t.image.Host + "/" + t.image.Repository + "@" + string(d)
	case s.status != nil:
		ev, err := s.api().Ingest(ctx, doc, "")
		if err != nil && f.bundle != "" {
			return fmt.Errorf("signed, and the bundle is in %s, but it is not stored with the server (--upload=false asks for that): %w", f.bundle, err)
		}
		if err != nil {
			return err
		}
		if len(ev) > 0 {
			out.Stored = ev[0].ID
		}
	case f.bundle == "":
		return usagef("no server to store the bundle with: give --bundle FILE")
	}
	to := s.app.stdout
	if f.aside {
		to = s.app.stderr
	}
	return s.app.printTo(to, out, func(w io.Writer) {
		fmt.Fprintf(w, "signed\t%s\n", line(out.Target))
		fmt.Fprintf(w, "digest\t%s\n", out.Digest)
		if out.LogIndex != nil {
			fmt.Fprintf(w, "log index\t%d\n", *out.LogIndex)
		}
		if out.Stored != "" {
			fmt.Fprintf(w, "stored\t%s\n", line(out.Stored))
		}
		if out.Bundle != "" {
			fmt.Fprintf(w, "bundle\t%s\n", line(out.Bundle))
		}
	})
}

// signed is what sign and attest report.
type signed struct {
	Target        string          `json:"target"`
	Digest        artifact.Digest `json:"digest"`
	PredicateType string          `json:"predicate_type"`
	LogIndex      *int64          `json:"log_index,omitempty"`
	Stored        string          `json:"stored,omitempty"`
	Bundle        string          `json:"bundle,omitempty"`
}

func contentOf(b *bundlepb.Bundle) string {
	if b.GetDsseEnvelope() != nil {
		return "dsse-envelope"
	}
	return "message-signature"
}

// readInput reads a file, or standard input for "-", up to max bytes.
func (a *app) readInput(path string, max int64) ([]byte, error) {
	r := a.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usagef("%w", err)
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	if int64(len(b)) > max {
		return nil, fault.Newf(fault.TooLarge, "%s: larger than %d bytes", path, max)
	}
	if len(b) == 0 {
		return nil, usagef("%s is empty", path)
	}
	return b, nil
}

// The short names that cosign's users know, and those of in-toto's predicates.
var predicateNames = []struct{ name, uri string }{
	{"slsaprovenance1", "https://slsa.dev/provenance/v1"},
	{"slsaprovenance02", "https://slsa.dev/provenance/v0.2"},
	{"slsaprovenance", "https://slsa.dev/provenance/v0.2"}, // as in cosign
	{"spdx", "https://spdx.dev/Document"},
	{"spdxjson", "https://spdx.dev/Document"},
	{"cyclonedx", "https://cyclonedx.org/bom"},
	{"openvex", "https://openvex.dev/ns"},
	{"vuln", "https://cosign.sigstore.dev/attestation/vuln/v1"}, // as in cosign
	{"vulns", "https://in-toto.io/attestation/vulns/v0.2"},
	{"link", "https://in-toto.io/attestation/link/v0.3"},
	{"test-result", "https://in-toto.io/attestation/test-result/v0.1"},
	{"scai", "https://in-toto.io/attestation/scai/v0.3"},
	{"runtime-trace", "https://in-toto.io/attestation/runtime-trace/v0.1"},
	{"vsa", "https://slsa.dev/verification_summary/v1"},
}

func shortTypes() []string {
	var out []string
	for _, p := range predicateNames {
		out = append(out, p.name)
	}
	return out
}

func predicateURI(t string) (string, error) {
	for _, p := range predicateNames {
		if p.name == t {
			return p.uri, nil
		}
	}
	if strings.Contains(t, "://") {
		return t, nil
	}
	return "", usagef("--type %q: want a URI or one of %s", clean(t), strings.Join(shortTypes(), ", "))
}
