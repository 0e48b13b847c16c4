package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/vectors"
)

const (
	conformanceIdentity = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main"
	conformanceIssuer   = "https://token.actions.githubusercontent.com"
)

// conformanceCases is how many cases the suite has; a folder that went missing
// must not pass as success.
const conformanceCases = 70

// conformanceCase is one folder of bundle-verify with its defaults filled in.
type conformanceCase struct {
	name             string
	bundle, root     []byte
	artifact         []byte
	identity, issuer string
	key              []byte // PEM; nil: keyless
}

func readConformance(t testing.TB) []conformanceCase {
	t.Helper()
	dir := vectors.Dir(t, "sigstore-conformance")
	entries, err := os.ReadDir(filepath.Join(dir, "bundle-verify"))
	if err != nil {
		t.Fatal(err)
	}
	var out []conformanceCase
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		folder := filepath.Join(dir, "bundle-verify", e.Name())
		read := func(name, fallback string) []byte {
			b, err := os.ReadFile(filepath.Join(folder, name))
			if errors.Is(err, os.ErrNotExist) && fallback != "" {
				b, err = os.ReadFile(fallback)
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			return b
		}
		c := conformanceCase{
			name: e.Name(), identity: conformanceIdentity, issuer: conformanceIssuer,
			bundle:   read("bundle.sigstore.json", ""),
			root:     read("trusted_root.json", filepath.Join(dir, "trusted-root-public-good.json")),
			artifact: read("artifact", filepath.Join(dir, "bundle-verify", "a.txt")),
			key:      read("key.pub", ""),
		}
		if b := read("identity", ""); b != nil {
			c.identity = strings.TrimSpace(string(b))
		}
		if b := read("issuer", ""); b != nil {
			c.issuer = strings.TrimSpace(string(b))
		}
		out = append(out, c)
	}
	return out
}

func (c *conformanceCase) options() (VerifyOptions, error) {
	o := VerifyOptions{ArtifactReader: bytes.NewReader(c.artifact)}
	if c.key != nil {
		pub, err := ParsePublicKey(c.key)
		o.Keys = []Key{{Public: pub}}
		return o, err
	}
	o.Identity = []IdentityMatch{{Issuer: c.issuer, Subject: c.identity}}
	return o, nil
}

func (c *conformanceCase) verify(t testing.TB) (*Verified, error) {
	o, err := c.options()
	if err != nil {
		return nil, err
	}
	root, err := ParseTrustedRoot(c.root, WithName("conformance"))
	if err != nil {
		return nil, err
	}
	b, err := attestation.ParseBundle(c.bundle, attestation.Limits{})
	if err != nil {
		return nil, err
	}
	return root.VerifyBundle(t.Context(), b, o)
}

// conformanceCodes says what refuses each case, so that a case is not refused
// for a reason that it is not about. "" stands for a bundle that attestation
// does not even parse; what hides behind that is in TestConformanceUnhidden.
var conformanceCodes = map[string]string{
	"bundle-empty-certificate-chain_fail":                       "",
	"bundle-from-wrong-instance_fail":                           CodeTLogUnknown,
	"bundle-invalid-base64-signature_fail":                      "",
	"bundle-malformed-json_fail":                                "",
	"bundle-negative-log-index_fail":                            "",
	"bundle-unknown-version_fail":                               "",
	"bundle-with-root-cert_fail":                                "",
	"checkpoint-bad-keyhint_fail":                               CodeTLogCheckpoint,
	"checkpoint-wrong-roothash_fail":                            CodeTLogCheckpoint,
	"dsse-invalid-sig_fail":                                     CodeTLogMismatch,
	"dsse-mismatch-envelope_fail":                               CodeTLogMismatch,
	"dsse-mismatch-sig_fail":                                    CodeTLogMismatch,
	"inclusion-proof-corrupted-hash_fail":                       CodeTLogInclusion,
	"incorrect-public-key_fail":                                 CodeTLogMismatch,
	"integrated-time-in-future_fail":                            CodeCertOutside,
	"intoto-expired-certificate_fail":                           CodeCertOutside,
	"intoto-log-entry-mismatch_fail":                            CodeTLogMismatch,
	"intoto-missing-inclusion-proof_fail":                       "",
	"intoto-set-outside-signing-cert-validity_fail":             CodeCertOutside,
	"intoto-tsa-timestamp-outside-cert-validity_fail":           CodeCertOutside,
	"invalid-checkpoint-signature_fail":                         CodeTLogCheckpoint,
	"invalid-ct-key_fail":                                       CodeSCTMissing,
	"invalid-inclusion-proof_fail":                              "",
	"managed-key-no-key_fail":                                   CodeKeyMissing,
	"managed-key-wrong-key_fail":                                CodeKeyUnsupported,
	"message-digest-mismatch_fail":                              CodeTLogMismatch,
	"rekor2-checkpoint-missing-log-signature_fail":              CodeTLogCheckpoint,
	"rekor2-checkpoint-missing-origin_fail":                     CodeTLogCheckpoint,
	"rekor2-checkpoint-missing-root-hash_fail":                  CodeTLogCheckpoint,
	"rekor2-checkpoint-missing-size_fail":                       CodeTLogCheckpoint,
	"rekor2-checkpoint-no-matching-signature_fail":              CodeTLogCheckpoint,
	"rekor2-dsse-invalid-sig_fail":                              CodeTLogMismatch,
	"rekor2-dsse-mismatch-envelope_fail":                        CodeTLogMismatch,
	"rekor2-dsse-mismatch-sig_fail":                             CodeTLogMismatch,
	"rekor2-no-inclusion-proof_fail":                            "",
	"rekor2-no-timestamp_fail":                                  CodeTimeMissing,
	"rekor2-timestamp-outside-trust-root-tsa-validity_fail":     CodeTSAOutside,
	"rekor2-timestamp-outside-tsa-cert-validity_fail":           CodeTSAOutside,
	"rekor2-timestamp-payload-mismatch_fail":                    CodeTSAMismatch,
	"rekor2-timestamp-untrusted-tsa-with-embedded-cert_fail":    CodeTSAUnknown,
	"rekor2-timestamp-untrusted-tsa-without-embedded-cert_fail": CodeTSAUnknown,
	"rekor2-timestamp-with-incorrect-time_fail":                 "",
	"set-invalid-signature_fail":                                CodeTLogPromise,
	"signature-mismatch_fail":                                   CodeTLogMismatch,
	"trust-root-tlog-missing-validity-start_fail":               CodeRootMalformed,
	"wrong-hashedrekord-artifact_fail":                          CodeTLogMismatch,
	"wrong-hashedrekord-cert-and-sig_fail":                      CodeTLogMismatch,
	"wrong-hashedrekord-entry_fail":                             CodeTLogMismatch,
	"wrong-material_fail":                                       CodeArtifact,
}

// TestSigstoreConformance runs all of sigstore-conformance's bundle-verify.
func TestSigstoreConformance(t *testing.T) {
	cases := readConformance(t)
	agree := 0
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			reject := strings.HasSuffix(c.name, "_fail")
			v, err := c.verify(t)
			switch {
			case reject && err == nil:
				t.Fatal("accepted, want a refusal")
			case !reject && err != nil:
				t.Fatalf("refused with %q, want acceptance: %v", Code(err), err)
			case reject:
				if !errors.Is(err, fault.Unverified) && !errors.Is(err, fault.Invalid) {
					t.Errorf("error is of kind %v, want unverified or invalid: %v", fault.KindOf(err), err)
				}
				if want, ok := conformanceCodes[c.name]; !ok || want != Code(err) {
					t.Errorf("code %q, want %q: %v", Code(err), want, err)
				}
			default:
				checkVerified(t, &c, v)
			}
			if !t.Failed() {
				agree++
			}
		})
	}
	if len(cases) != conformanceCases || agree != conformanceCases {
		t.Errorf("sigstore-conformance: %d of %d cases agree, want %d of %d", agree, len(cases), conformanceCases, conformanceCases)
	}
}

// checkVerified checks what every accepted case must have proved.
func checkVerified(t *testing.T, c *conformanceCase, v *Verified) {
	t.Helper()
	if v.TrustedTime.IsZero() || len(v.Logs) == 0 || v.LogIndex < 0 || !strings.HasPrefix(v.KeyFingerprint, "sha256:") {
		t.Errorf("result lacks time, log or key: %+v", v)
	}
	if c.key == nil && (v.Identity.Subject != c.identity || v.Identity.Issuer != c.issuer || v.SCTs < 1) {
		t.Errorf("identity %+v with %d SCTs, want %s by %s", v.Identity, v.SCTs, c.identity, c.issuer)
	}
	want := artifact.SHA256Of(c.artifact).Set()
	found := false
	for _, s := range v.Subjects {
		found = found || s.Digest.Match(want)
	}
	if !found {
		t.Errorf("subjects %v do not name the artifact", v.Subjects)
	}
}

// TestConformanceUnhidden gives the cases that attestation refuses for their
// form a good form, so that what they are about is refused for itself.
func TestConformanceUnhidden(t *testing.T) {
	cases := map[string]conformanceCase{}
	for _, c := range readConformance(t) {
		cases[c.name] = c
	}
	// Line breaks in base64, which is all that attestation has against it.
	c := cases["rekor2-timestamp-with-incorrect-time_fail"]
	c.bundle = bytes.ReplaceAll(c.bundle, []byte(`\n"`), []byte(`"`))
	c.bundle = regexp.MustCompile(`([A-Za-z0-9+/])\\n([A-Za-z0-9+/=])`).ReplaceAll(c.bundle, []byte("$1$2"))
	// The checkpoint's own line breaks are meant: put the good bundle's back.
	var good, bad struct {
		VerificationMaterial struct{ TlogEntries []json.RawMessage }
	}
	for _, d := range []struct {
		b []byte
		v any
	}{{cases["rekor2-happy-path"].bundle, &good}, {c.bundle, &bad}} {
		if err := json.Unmarshal(d.b, d.v); err != nil {
			t.Fatal(err)
		}
	}
	c.bundle = bytes.Replace(c.bundle, bad.VerificationMaterial.TlogEntries[0], good.VerificationMaterial.TlogEntries[0], 1)
	if _, err := c.verify(t); Code(err) != CodeCertOutside {
		t.Errorf("%s: code %q, want %s: %v", c.name, Code(err), CodeCertOutside, err)
	}
}
