package rekor

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/vectors"
	"assay/store"
	"assay/store/storetest"
	"assay/tlog"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

func newLog(t testing.TB) *tlog.Log {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	db := storetest.Open(t, store.SQLite)
	if err := db.Migrate(t.Context(), tlog.Migrations); err != nil {
		t.Fatal(err)
	}
	l, err := tlog.Open(t.Context(), tlog.Options{Dir: t.TempDir(), Origin: "log.example", Signer: key, DB: db, Deduplicate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func newServer(t testing.TB, l *tlog.Log, o Options) *Server {
	t.Helper()
	s, err := New(l, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// signed makes a request for a message.
func signed(t testing.TB, key crypto.Signer, h crypto.Hash, msg []byte) Request {
	t.Helper()
	hh := h.New()
	hh.Write(msg)
	digest := hh.Sum(nil)
	var opts crypto.SignerOpts = h
	if _, ok := key.(ed25519.PrivateKey); ok {
		opts = &ed25519.Options{Hash: h}
	}
	sig, err := key.Sign(rand.Reader, digest, opts)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return Request{Digest: digest, Signature: sig, PublicKey: der}
}

// hashedJSON is the request as cosign sends it.
func hashedJSON(r Request, details string) string {
	b := base64.StdEncoding.EncodeToString
	verifier := `"publicKey":{"rawBytes":"` + b(r.PublicKey) + `"}`
	if len(r.Certificate) > 0 {
		verifier = `"x509Certificate":{"rawBytes":"` + b(r.Certificate) + `"}`
	}
	return `{"hashedRekordRequestV002":{"digest":"` + b(r.Digest) + `","signature":{"content":"` + b(r.Signature) +
		`","verifier":{` + verifier + `,"keyDetails":"` + details + `"}}}}`
}

func post(t testing.TB, h http.Handler, body string) (int, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/api/v2/log/entries", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// verifyEntry checks an answer as a client does, and gives its body.
func verifyEntry(t testing.TB, l *tlog.Log, answer string) *rekorpb.TransparencyLogEntry {
	t.Helper()
	var e rekorpb.TransparencyLogEntry
	if err := protojson.Unmarshal([]byte(answer), &e); err != nil {
		t.Fatalf("%v in %s", err, answer)
	}
	p := e.GetInclusionProof()
	c, err := tlog.ParseCheckpoint([]byte(p.GetCheckpoint().GetEnvelope()), l.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	h := tlog.LeafHash(e.GetCanonicalizedBody())
	if err := tlog.VerifyInclusion(uint64(e.GetLogIndex()), c.Size, h[:], p.GetHashes(), c.Root[:]); err != nil {
		t.Error(err)
	}
	id := l.KeyID()
	if !bytes.Equal(e.GetLogId().GetKeyId(), id[:]) || e.GetKindVersion().GetKind() != Kind || e.GetKindVersion().GetVersion() != Version ||
		p.GetLogIndex() != e.GetLogIndex() || p.GetTreeSize() != int64(c.Size) || !bytes.Equal(p.GetRootHash(), c.Root[:]) || e.GetIntegratedTime() != 0 {
		t.Errorf("entry %s", answer)
	}
	return &e
}

// TestGoldenBodies makes each entry of the conformance bundles again out of its
// parts; the bytes are those that the real Rekor v2 logged.
func TestGoldenBodies(t *testing.T) {
	dir := filepath.Join(vectors.Dir(t, "sigstore-conformance"), "bundle-verify")
	files, err := filepath.Glob(filepath.Join(dir, "rekor2-*", "bundle*.json"))
	if err != nil {
		t.Fatal(err)
	}
	good := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var bundle struct {
			VerificationMaterial struct {
				TlogEntries []struct {
					KindVersion       struct{ Kind, Version string }
					CanonicalizedBody []byte
				}
			}
		}
		if err := json.Unmarshal(b, &bundle); err != nil {
			t.Fatal(err)
		}
		for _, e := range bundle.VerificationMaterial.TlogEntries {
			if e.KindVersion.Kind != Kind || e.KindVersion.Version != Version {
				continue
			}
			var body struct {
				Spec struct{ HashedRekordV002 wireHashedBody }
			}
			if err := json.Unmarshal(e.CanonicalizedBody, &body); err != nil {
				t.Fatal(err)
			}
			spec := body.Spec.HashedRekordV002
			req := Request{Digest: spec.Data.Digest, Signature: spec.Signature.Content, Certificate: spec.Signature.Verifier.X509Certificate.RawBytes, PublicKey: spec.Signature.Verifier.PublicKey.RawBytes}
			got, err := req.Body()
			if err != nil {
				t.Errorf("%s: %v", f, err)
				continue
			}
			if string(got) != string(e.CanonicalizedBody) {
				t.Errorf("%s:\n%s\nwant\n%s", f, got, e.CanonicalizedBody)
			}
			in := Inspect(tlog.Record{Leaf: e.CanonicalizedBody})
			if in.Kind != Kind || in.Digest == "" || in.Issuer == "" || in.Identity == "" || !strings.HasPrefix(in.KeyFingerprint, "sha256:") {
				t.Errorf("%s: inspected as %+v", f, in)
			}
			good++
		}
	}
	if good < 20 {
		t.Errorf("%d entries made again, want 20 or more of %d bundles", good, len(files))
	}
}

type wireHashedBody struct {
	Data      struct{ Digest []byte }
	Signature struct {
		Content  []byte
		Verifier struct {
			X509Certificate struct{ RawBytes []byte }
			PublicKey       struct{ RawBytes []byte }
		}
	}
}

func TestCreateEntry(t *testing.T) {
	l := newLog(t)
	s := newServer(t, l, Options{})
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		details string
		key     crypto.Signer
		hash    crypto.Hash
	}{
		{"PKIX_ECDSA_P256_SHA_256", p256(t), crypto.SHA256},
		{"PKIX_ECDSA_P384_SHA_384", p384, crypto.SHA384},
		{"PKIX_ED25519_PH", ed, crypto.SHA512},
		{"PKIX_RSA_PKCS1V15_2048_SHA256", rsaKey, crypto.SHA256},
	}
	for i, tt := range tests {
		t.Run(tt.details, func(t *testing.T) {
			code, answer := post(t, s, hashedJSON(signed(t, tt.key, tt.hash, []byte("artifact")), tt.details))
			if code != http.StatusCreated {
				t.Fatalf("%d %s", code, answer)
			}
			if e := verifyEntry(t, l, answer); e.GetLogIndex() != int64(i) {
				t.Errorf("index %d, want %d", e.GetLogIndex(), i)
			}
			// The members that a client of the proto's JSON may look for are there.
			for _, want := range []string{`"integratedTime"`, `"inclusionPromise"`, `"logId"`} {
				if !strings.Contains(answer, want) {
					t.Errorf("no %s in %s", want, answer)
				}
			}
		})
	}
}

func TestDuplicate(t *testing.T) {
	l := newLog(t)
	s := newServer(t, l, Options{})
	body := hashedJSON(signed(t, p256(t), crypto.SHA256, []byte("artifact")), "PKIX_ECDSA_P256_SHA_256")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			code, answer := post(t, s, body)
			if code != http.StatusCreated {
				t.Errorf("%d %s", code, answer)
				return
			}
			if e := verifyEntry(t, l, answer); e.GetLogIndex() != 0 {
				t.Errorf("logged again as %d", e.GetLogIndex())
			}
		})
	}
	wg.Wait()
	if got := l.Head().Size; got != 1 {
		t.Errorf("%d entries of one request", got)
	}
}

func TestDSSERequest(t *testing.T) {
	l := newLog(t)
	s := newServer(t, l, Options{})
	key := p256(t)
	payload := []byte(`{"_type":"https://in-toto.io/Statement/v1"}`)
	pae := attestation.PAE(attestation.PayloadType, payload)
	req := signed(t, key, crypto.SHA256, pae)
	b := base64.StdEncoding.EncodeToString
	verifier := `{"publicKey":{"rawBytes":"` + b(req.PublicKey) + `"},"keyDetails":"PKIX_ECDSA_P256_SHA_256"}`
	sig := `{"sig":"` + b(req.Signature) + `","keyid":"hint"}`
	dsse := func(sigs, verifiers string) string {
		return `{"dsseRequestV002":{"envelope":{"payload":"` + b(payload) + `","payloadType":"` + attestation.PayloadType + `","signatures":[` + sigs + `]},"verifiers":[` + verifiers + `]}}`
	}
	code, answer := post(t, s, dsse(sig, verifier))
	if code != http.StatusCreated {
		t.Fatalf("%d %s", code, answer)
	}
	e := verifyEntry(t, l, answer)
	digest := sha256.Sum256(pae)
	if in := Inspect(tlog.Record{Leaf: e.GetCanonicalizedBody()}); in.Digest != fmt.Sprintf("sha256:%x", digest) {
		t.Errorf("logged over %s, want the PAE's %x", in.Digest, digest)
	}
	// The same as a request of today is the same entry.
	if code, answer := post(t, s, hashedJSON(req, "PKIX_ECDSA_P256_SHA_256")); code != http.StatusCreated || verifyEntry(t, l, answer).GetLogIndex() != 0 {
		t.Errorf("%d %s", code, answer)
	}
	for name, body := range map[string]string{
		"two signatures": dsse(sig+","+sig, verifier), "no signature": dsse("", verifier),
		"two verifiers": dsse(sig, verifier+","+verifier), "no verifier": dsse(sig, ""), "null": dsse("null", "null"),
		"other payload": strings.Replace(dsse(sig, verifier), b(payload), b([]byte("other")), 1),
	} {
		if code, answer := post(t, s, body); code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, code, answer)
		}
	}
}

// TestThreat_Bundle_LogEntryOfAnotherDigest: what is logged binds digest,
// signature and key: no two of them that do not belong together get in.
func TestThreat_Bundle_LogEntryOfAnotherDigest(t *testing.T) {
	l := newLog(t)
	s := newServer(t, l, Options{})
	good := signed(t, p256(t), crypto.SHA256, []byte("artifact"))
	other := signed(t, p256(t), crypto.SHA256, []byte("other"))
	bad := map[string]Request{
		"digest":    {Digest: other.Digest, Signature: good.Signature, PublicKey: good.PublicKey},
		"signature": {Digest: good.Digest, Signature: other.Signature, PublicKey: good.PublicKey},
		"key":       {Digest: good.Digest, Signature: good.Signature, PublicKey: other.PublicKey},
	}
	for name, req := range bad {
		if code, answer := post(t, s, hashedJSON(req, "PKIX_ECDSA_P256_SHA_256")); code != http.StatusBadRequest || !strings.Contains(answer, "does not verify") {
			t.Errorf("another %s: %d %s", name, code, answer)
		}
		if _, err := s.Add(t.Context(), req); !errors.Is(err, fault.Invalid) {
			t.Errorf("another %s, in process: %v", name, err)
		}
	}
	if got := l.Head().Size; got != 0 {
		t.Errorf("%d entries were logged", got)
	}
}

func TestRefusals(t *testing.T) {
	l := newLog(t)
	s := newServer(t, l, Options{})
	req := signed(t, p256(t), crypto.SHA256, []byte("artifact"))
	good := hashedJSON(req, "PKIX_ECDSA_P256_SHA_256")
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	short := req
	short.Digest = req.Digest[:31]
	both := strings.Replace(good, `"verifier":{`, `"verifier":{"x509Certificate":{"rawBytes":"AAAA"},`, 1)
	tests := []struct {
		name, body string
		code       int
	}{
		{"empty", ``, 400},
		{"no request", `{}`, 400},
		{"null request", `{"hashedRekordRequestV002":null}`, 400},
		{"null signature", `{"hashedRekordRequestV002":{"digest":"AAAA","signature":null}}`, 400},
		{"unknown member", strings.Replace(good, `"digest"`, `"x":1,"digest"`, 1), 400},
		{"doubled member", strings.Replace(good, `"digest"`, `"digest":"AAAA","digest"`, 1), 400},
		{"folded member", strings.Replace(good, `"digest"`, `"Digest"`, 1), 400},
		{"trailing data", good + `{}`, 400},
		{"both kinds", strings.TrimSuffix(good, "}") + `,"dsseRequestV002":{}}`, 400},
		{"both verifiers", both, 400},
		{"not base64", strings.Replace(good, `"digest":"`, `"digest":"*`, 1), 400},
		{"unknown algorithm", hashedJSON(req, "PKIX_ECDSA_P999"), 400},
		{"algorithm of another key", hashedJSON(req, "PKIX_ECDSA_P384_SHA_384"), 400},
		{"short digest", hashedJSON(short, "PKIX_ECDSA_P256_SHA_256"), 400},
		{"pure Ed25519", hashedJSON(signed(t, ed, crypto.SHA512, []byte("a")), "PKIX_ED25519"), 400},
		{"RSA of 1024 bits", hashedJSON(signed(t, small, crypto.SHA256, []byte("a")), "PKIX_RSA_PKCS1V15_2048_SHA256"), 400},
		{"deep", strings.Repeat(`{"hashedRekordRequestV002":`, 40) + strings.Repeat("}", 40), 400},
		{"large key", hashedJSON(Request{Digest: req.Digest, Signature: req.Signature, PublicKey: make([]byte, maxVerifier+1)}, "PKIX_ECDSA_P256_SHA_256"), 413},
		{"large body", strings.Repeat(" ", MaxBody) + good, 413},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, answer := post(t, s, tt.body)
			if code != tt.code {
				t.Errorf("%d %s, want %d", code, answer, tt.code)
			}
			var e struct {
				Code    int
				Message string
				Details []any
			}
			if err := json.Unmarshal([]byte(answer), &e); err != nil || e.Code == 0 || e.Message == "" || e.Details == nil {
				t.Errorf("the answer is not grpc-gateway's: %s (%v)", answer, err)
			}
		})
	}
	if got := l.Head().Size; got != 0 {
		t.Errorf("%d entries were logged", got)
	}
}

// TestSpellings: what protojson takes for the same request is the same entry.
func TestSpellings(t *testing.T) {
	l := newLog(t)
	s := newServer(t, l, Options{})
	good := hashedJSON(signed(t, p256(t), crypto.SHA256, []byte("artifact")), "PKIX_ECDSA_P256_SHA_256")
	snake := strings.NewReplacer("hashedRekordRequestV002", "hashed_rekord_request_v002", "publicKey", "public_key", "rawBytes", "raw_bytes", "keyDetails", "key_details").Replace(good)
	number := strings.Replace(good, `"PKIX_ECDSA_P256_SHA_256"`, fmt.Sprint(int(commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256)), 1)
	for name, body := range map[string]string{"camel": good, "snake": snake, "number": number, "URL-safe, bare": strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(good)} {
		if code, answer := post(t, s, body); code != http.StatusCreated || verifyEntry(t, l, answer).GetLogIndex() != 0 {
			t.Errorf("%s: %d %s", name, code, answer)
		}
	}
}

func TestReadSide(t *testing.T) {
	l := newLog(t)
	s := newServer(t, l, Options{ReadEntries: func(r *http.Request) error {
		if r.Header.Get("Authorization") == "" {
			return fault.Newf(fault.Unauthenticated, "log in")
		}
		return nil
	}})
	if _, err := s.Add(t.Context(), signed(t, p256(t), crypto.SHA256, []byte("artifact"))); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.StripPrefix("/rekor", s))
	defer srv.Close()
	tests := []struct {
		method, path, token string
		code                int
	}{
		{"GET", "/api/v2/checkpoint", "", 200},
		{"GET", "/api/v2/tile/0/000.p/1", "", 200},
		{"GET", "/api/v2/tile/entries/000.p/1", "", 401},
		{"GET", "/api/v2/tile/entries/000.p/1", "x", 200},
		{"GET", "/api/v2/tile/0/000", "", 404},
		{"GET", "/api/v2/log/entries", "x", 405},
		{"GET", "/api/v1/log", "x", 404},
		{"GET", "/", "x", 404},
		{"PUT", "/api/v2/log/entries", "x", 405},
	}
	for _, tt := range tests {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, srv.URL+"/rekor"+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", tt.token)
		if tt.token == "" {
			req.Header.Del("Authorization")
		}
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != tt.code {
			t.Errorf("%s %s: %d, want %d", tt.method, tt.path, resp.StatusCode, tt.code)
		}
	}
}

// TestThreat_Attestation_EndlessBody: a body that does not end, or says that it
// is large, is cut off before anything is parsed.
func TestThreat_Attestation_EndlessBody(t *testing.T) {
	s := newServer(t, newLog(t), Options{})
	srv := httptest.NewServer(s)
	defer srv.Close()
	resp, err := srv.Client().Post(srv.URL+"/api/v2/log/entries", "application/json", io.LimitReader(endless{}, 64<<20))
	if err != nil {
		return // cut off while sending is right too
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("%s, want 413", resp.Status)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

// TestThreat_Metrics_FixedLabels: nothing that a stranger sends becomes a label.
func TestThreat_Metrics_FixedLabels(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := newServer(t, newLog(t), Options{Registerer: reg})
	good := hashedJSON(signed(t, p256(t), crypto.SHA256, []byte("artifact")), "PKIX_ECDSA_P256_SHA_256")
	for _, body := range []string{good, good, "", strings.Replace(good, "PKIX", "\u001b[31m", 1), strings.Replace(good, `"digest"`, `"evil"`, 1)} {
		post(t, s, body)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				got[l.GetName()+"="+l.GetValue()] += m.GetCounter().GetValue()
			}
		}
	}
	if d := cmp.Diff(map[string]float64{"answer=created": 1, "answer=duplicate": 1, "answer=invalid": 3}, got); d != "" {
		t.Errorf("labels (-want +got):\n%s", d)
	}
}

func FuzzParseRequest(f *testing.F) {
	req := signed(f, p256(f), crypto.SHA256, []byte("artifact"))
	f.Add([]byte(hashedJSON(req, "PKIX_ECDSA_P256_SHA_256")))
	f.Add([]byte(`{"dsseRequestV002":{"envelope":{"payload":"AAAA","payloadType":"t","signatures":[{"sig":"AAAA","keyid":""}]},"verifiers":[{"publicKey":{"rawBytes":"AAAA"},"keyDetails":5}]}}`))
	f.Add([]byte(`{"hashed_rekord_request_v002":{"digest":null,"signature":{"content":"","verifier":{"key_details":null}}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			return
		}
		body, err := r.Body()
		if err != nil {
			return
		}
		// An entry is a request that verifies again, and inspects to its digest.
		in := Inspect(tlog.Record{Leaf: body})
		if in.Kind != Kind || in.Digest == "" {
			t.Errorf("%s was inspected as %+v", body, in)
		}
	})
}

func FuzzInspect(f *testing.F) {
	req := signed(f, p256(f), crypto.SHA256, []byte("artifact"))
	body, err := req.Body()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"kind":"\u001b[31m","apiVersion":"1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := Inspect(tlog.Record{Leaf: b})
		for _, s := range []string{in.Kind, in.Version, in.Identity, in.Issuer} {
			if strings.ContainsAny(s, "\x1b\n\r\x00") {
				t.Errorf("control characters in %q", s)
			}
		}
	})
}

// BenchmarkCreateEntry is the whole path of a request: JSON, signature, log,
// answer; 1,024 clients with certificates of their own size.
func BenchmarkCreateEntry(b *testing.B) {
	s := newServer(b, newLog(b), Options{})
	key := p256(b)
	bodies := make([]string, b.N)
	for i := range bodies {
		bodies[i] = hashedJSON(signed(b, key, crypto.SHA256, fmt.Appendf(nil, "%d", i)), "PKIX_ECDSA_P256_SHA_256")
	}
	next := make(chan string, len(bodies))
	for _, body := range bodies {
		next <- body
	}
	close(next)
	b.ResetTimer()
	var wg sync.WaitGroup
	for range 1024 {
		wg.Go(func() {
			for body := range next {
				if code, answer := post(b, s, body); code != http.StatusCreated {
					b.Errorf("%d %s", code, answer)
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
