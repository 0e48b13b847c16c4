package attestation

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/fault"
	"assay/internal/vectors"
)

// Every hostile input has this long and may allocate this much.
const (
	hostileTime  = 100 * time.Millisecond
	hostileBytes = 32 << 20
)

// The cases of sigstore-conformance whose fault lies in the form of the bundle
// itself; all others parse, and it is for trust to accept or reject them.
var malformedConformance = map[string]string{
	"bundle-empty-certificate-chain_fail":  "x509CertificateChain is empty",
	"bundle-invalid-base64-signature_fail": "invalid value for bytes field signature",
	"bundle-malformed-json_fail":           "unexpected EOF",
	"bundle-negative-log-index_fail":       "logIndex is -1",
	"bundle-unknown-version_fail":          "version=99.9",
	"intoto-missing-inclusion-proof_fail":  "inclusionProof is absent",
	"rekor2-no-inclusion-proof_fail":       "inclusionProof is absent",
	// These two have another fault too; this one shows first.
	"bundle-with-root-cert_fail":                "checkpoint is absent",
	"invalid-inclusion-proof_fail":              "checkpoint is absent",
	"rekor2-timestamp-with-incorrect-time_fail": "signedTimestamp\" holds a line break",
}

func TestConformanceBundles(t *testing.T) {
	dir := vectors.Dir(t, "sigstore-conformance/bundle-verify")
	files, err := filepath.Glob(filepath.Join(dir, "*", "bundle.sigstore.json"))
	if err != nil || len(files) != 70 {
		t.Fatalf("%d bundles, %v; want 70", len(files), err)
	}
	for _, f := range files {
		name := filepath.Base(filepath.Dir(f))
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var b *Bundle
		vectors.Within(t, hostileTime, hostileBytes, func() { b, err = ParseBundle(raw, Limits{}) })
		if want, bad := malformedConformance[name]; bad {
			if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "\u00a0", " "), want) || fault.KindOf(err) != fault.Invalid {
				t.Errorf("%s: %v, want an error with %q", name, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		checkBundle(t, name, raw, b)
	}
}

// checkBundle asserts what holds for every bundle that parses.
func checkBundle(t *testing.T, name string, raw []byte, b *Bundle) {
	t.Helper()
	if !bytes.Equal(b.Bytes(), raw) {
		t.Errorf("%s: bytes changed", name)
	}
	if (b.MessageSignature() == nil) == (b.Envelope() == nil) {
		t.Errorf("%s: not exactly one kind of content", name)
	}
	if _, key := b.KeyHint(); key == (b.Certificate() != nil) {
		t.Errorf("%s: not exactly one of certificate and key", name)
	}
	if len(b.Signature()) == 0 {
		t.Errorf("%s: no signature", name)
	}
	out, err := json.Marshal(b)
	if err != nil {
		t.Errorf("%s: write: %v", name, err)
		return
	}
	again, err := ParseBundle(out, Limits{})
	if err != nil {
		t.Errorf("%s: read what was written: %v", name, err)
		return
	}
	if again.Version() != BundleV03 && again.Version() != b.Version() {
		t.Errorf("%s: %s was written as %s", name, b.Version(), again.Version())
	}
	type parts struct {
		Envelope *Envelope
		Message  *MessageSignature
		Leaf     []byte
		Hint     string
		Times    [][]byte
		Entries  []string
	}
	of := func(b *Bundle) parts {
		p := parts{Envelope: b.Envelope(), Message: b.MessageSignature(), Times: b.Timestamps()}
		p.Hint, _ = b.KeyHint()
		if c := b.Certificate(); c != nil {
			p.Leaf = c.Raw
		}
		for _, e := range b.LogEntries() {
			p.Entries = append(p.Entries, string(e.CanonicalizedBody)+string(e.InclusionProof.GetRootHash())+string(e.InclusionPromise.GetSignedEntryTimestamp()))
		}
		return p
	}
	if d := cmp.Diff(of(b), of(again)); d != "" {
		t.Errorf("%s: a round trip changed it (-before +after):\n%s", name, d)
	}
}

// eachDocument calls fn for each JSON document of the slsa-verifier suite: a
// whole file, or each line of one.
func eachDocument(t testing.TB, fn func(name string, doc []byte)) {
	root := vectors.Dir(t, "slsa-verifier")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if json.Valid(b) {
			fn(name, b)
			return nil
		}
		if !bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
			return nil
		}
		lines := bufio.NewScanner(bytes.NewReader(b))
		lines.Buffer(nil, 16<<20)
		for lines.Scan() {
			if json.Valid(lines.Bytes()) {
				fn(name, bytes.Clone(lines.Bytes()))
			}
		}
		return lines.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// find gives every object inside v that has all of the members.
func find(v any, members []string, fn func(map[string]any)) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			find(e, members, fn)
		}
	case map[string]any:
		all := true
		for _, m := range members {
			if _, ok := v[m]; !ok {
				all = false
			}
		}
		if all {
			fn(v)
			return
		}
		for _, e := range v {
			find(e, members, fn)
		}
	}
}

// What of slsa-verifier's data is refused by its form, and why. All of it was
// made to be refused, but for the image id, which Limits.OpaqueSubjects admits.
var malformedSLSA = map[string]string{
	"envelope internal-testdata/gcb/testdata/gcloud-container-empty-payload.json":                 "payload is absent or empty",
	"envelope internal-testdata/gcb/testdata/gcloud-container-empty-signature.json":               "signature 0 is absent or empty",
	"envelope internal-testdata/gcb/testdata/gcloud-container-invalid-payload-encoding.json":      "white space",
	"envelope internal-testdata/gcb/testdata/gcloud-container-invalid-signature-encodingv03.json": "white space",
	"envelope internal-testdata/gha/testdata/bundle/invalid-dsse-sig.intoto.sigstore":             "illegal base64",
	"envelope testdata/gcb_container/v0.2/gcloud-container-empty-signature.json":                  "signature 0 is absent or empty",
	"envelope testdata/gcb_container/v0.2/gcloud-container-invalid-signature-encoding.json":       "white space",
	"envelope testdata/gcb_container/v0.3/gcloud-container-empty-signature.json":                  "signature 0 is absent or empty",
	"envelope testdata/gcb_container/v0.3/gcloud-container-invalid-signature-encoding.json":       "white space",

	"statement internal-testdata/gcb/testdata/gcloud-container-invalid-signature-payloadtype.json":  "payloadType",
	"statement internal-testdata/gcb/testdata/v1.0-gcloud-container-github-both-invalid-sig.json":   "invalid character",
	"statement internal-testdata/gcb/testdata/v1.0-gcloud-container-github-single-invalid-sig.json": "invalid character",
	"statement internal-testdata/gcb/testdata/v1.0-gcloud-container-github-v0.1-valid.json":         "invalid character", // its v1.0 half
	"statement internal-testdata/gcb/testdata/v1.0-gcloud-container-github-v1.0-valid.json":         "invalid character", // its v0.1 half
	"statement internal-testdata/gha/testdata/bundle/valid.intoto.sigstore":                         "predicateType is absent",
	"statement internal-testdata/gha/testdata/npm-att-mismatch-prov-payloadtype.intoto.sigstore":    "payloadType",
	"statement internal-testdata/gha/testdata/npm-att-mismatch-pub-payloadtype.intoto.sigstore":     "payloadType",
	"statement internal-testdata/gha/testdata/npm-att-publish-invalid-signature.intoto.sigstore":    "unmarshal JSON string",
	"statement internal-testdata/gha/testdata/npm-att-publish-nodigest.intoto.sigstore":             "want sha256",
	"statement internal-testdata/gha/testdata/npm-att-publish-nosubjects.intoto.sigstore":           "want an array",
	"statement internal-testdata/gha/testdata/npm-stmt-mismatch-prov-type.intoto.sigstore":          "_type",
	"statement internal-testdata/gha/testdata/npm-stmt-mismatch-pub-type.intoto.sigstore":           "_type",
	"statement testdata/vsa/gce/v1/gke-gce-pre.bcid-vsa.jsonl":                                      "gce_image_id",
}

// Provenance that names no source, or one whose digest is nowhere.
var sourcelessSLSA = map[string]bool{
	"internal-testdata/gcb/testdata/gcloud-container-gcs.json":                    true, // definedInMaterial -1
	"testdata/gcb_container/v0.3/gcloud-container-gcs.json":                       true,
	"internal-testdata/gcb/testdata/v1.0-gcloud-container-github-inline.json":     true, // source and dependency differ
	"internal-testdata/gcb/testdata/v1.0-gcloud-container-github-sourcediff.json": true,
	"internal-testdata/gcb/testdata/v1.0-gcloud-container-github-tag.json":        true,
}

// Every bundle, envelope, statement and provenance in slsa-verifier's data is
// read, or refused for the reason given above.
func TestSLSAVerifierDocuments(t *testing.T) {
	refused, sourceless, counts := map[string]string{}, map[string]bool{}, map[string]int{}
	note := func(kind, name string, err error) bool {
		counts[kind]++
		if err != nil {
			refused[kind+" "+name] = err.Error()
			if k := fault.KindOf(err); k != fault.Invalid {
				t.Errorf("%s: %v is of kind %v", name, err, k)
			}
		}
		return err == nil
	}
	payload := func(name string, e *Envelope) {
		s, err := e.Statement(Limits{})
		if !note("statement", name, err) || !IsProvenance(s.PredicateType) {
			return
		}
		p, err := s.Provenance()
		if note(s.PredicateType, name, err) && (p.SourceURI == "" || len(p.SourceDigest) == 0) {
			sourceless[name] = true
		}
	}
	eachDocument(t, func(name string, doc []byte) {
		var v any
		if err := json.Unmarshal(doc, &v); err != nil {
			t.Fatal(err)
		}
		find(v, []string{"mediaType", "verificationMaterial"}, func(m map[string]any) {
			raw, _ := json.Marshal(m)
			b, err := ParseBundle(raw, Limits{})
			if !note("bundle", name, err) {
				return
			}
			checkBundle(t, name, raw, b)
			if e := b.Envelope(); e != nil {
				payload(name, e)
			}
		})
		find(v, []string{"payload", "payloadType", "signatures"}, func(m map[string]any) {
			raw, _ := json.Marshal(m)
			e, err := ParseEnvelope(raw, Limits{})
			if note("envelope", name, err) {
				payload(name, e)
			}
		})
	})
	for name, err := range refused {
		if want, known := malformedSLSA[name]; !known || !strings.Contains(err, want) {
			t.Errorf("%s: refused: %s; want %q", name, err, want)
		}
	}
	for name := range malformedSLSA {
		if refused[name] == "" {
			t.Errorf("%s: accepted", name)
		}
	}
	if d := cmp.Diff(sourcelessSLSA, sourceless); d != "" {
		t.Errorf("provenance without a source (-want +got):\n%s", d)
	}
	want := map[string]int{"bundle": 145, "envelope": 386, "statement": 522,
		PredicateProvenanceV01: 90, PredicateProvenanceV02: 178, PredicateProvenanceV1: 174}
	if d := cmp.Diff(want, counts); d != "" {
		t.Errorf("documents seen (-want +got):\n%s", d)
	}
}

// The one statement about something that is no content: an image id of a cloud.
func TestOpaqueSubject(t *testing.T) {
	raw := vectors.Read(t, "slsa-verifier/testdata/vsa/gce/v1", "gke-gce-pre.bcid-vsa.jsonl")
	e, err := ParseEnvelope(bytes.TrimSpace(raw), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := e.Statement(Limits{OpaqueSubjects: true})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.VSA()
	if err != nil {
		t.Fatal(err)
	}
	if s.Subject[0].Digest["gce_image_id"] != "8970095005306000053" || v.VerificationResult != VSAPassed ||
		v.Verifier.ID != "https://bcid.corp.google.com/verifier/bcid_package_enforcer/v0.1" {
		t.Errorf("%+v", v)
	}
	if _, ok := s.Match(s.Subject[0].Digest); ok {
		t.Error("an opaque identifier matched as a digest")
	}
	key := parseKey(t, vectors.Read(t, "slsa-verifier/testdata/vsa/gce/v1", "vsa_signing_public_key.pem"))
	if m, err := VerifyDSSE(e, key); err != nil || len(m) != 1 {
		t.Errorf("%v, %v", m, err)
	}
}

func parseKey(t testing.TB, text []byte) crypto.PublicKey {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
