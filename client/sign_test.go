package client

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/internal/fault"
)

// services is a double of CA and log. swap changes what it answers.
type services struct {
	ca   *ecdsa.PrivateKey
	swap string
	seen []string // paths with their Authorization
}

func (s *services) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.seen = append(s.seen, r.URL.Path+" "+r.Header.Get("Authorization"))
	b, _ := io.ReadAll(r.Body)
	switch {
	case s.swap == "endless":
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	case s.swap == "redirect":
		http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
	case s.swap == "garbage":
		_, _ = io.WriteString(w, "\x1b[31mgarbage")
	case strings.HasSuffix(r.URL.Path, "/signingCert"):
		s.certify(w, b)
	default:
		s.enter(w, b)
	}
}

func (s *services) certify(w http.ResponseWriter, b []byte) {
	var q struct {
		Key struct {
			Public struct{ Content string } `json:"publicKey"`
		} `json:"publicKeyRequest"`
	}
	_ = json.Unmarshal(b, &q)
	block, _ := pem.Decode([]byte(q.Key.Public.Content))
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if s.swap == "other key" {
		pub = s.ca.Public()
	}
	if err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour)}
	der, _ := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, s.ca)
	certs := []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
	switch s.swap {
	case "no certificate":
		certs = nil
	case "no PEM":
		certs = []string{"x"}
	case "no DER":
		certs = []string{"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"signedCertificateEmbeddedSct": map[string]any{"chain": map[string]any{"certificates": certs}}})
}

func (s *services) enter(w http.ResponseWriter, b []byte) {
	var q struct {
		R struct {
			Digest    []byte
			Signature struct {
				Content  []byte
				Verifier map[string]any
			}
		} `json:"hashedRekordRequestV002"`
	}
	_ = json.Unmarshal(b, &q)
	if s.swap == "other entry" {
		q.R.Digest = make([]byte, 32)
	}
	if s.swap == "other signature" {
		q.R.Signature.Content = []byte("x")
	}
	body, _ := json.Marshal(map[string]any{"kind": "hashedrekord", "spec": map[string]any{"hashedRekordV002": map[string]any{
		"data": map[string]any{"algorithm": "SHA2_256", "digest": q.R.Digest}, "signature": map[string]any{"content": q.R.Signature.Content},
	}}})
	if s.swap == "no entry" {
		body = []byte("{")
	}
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]any{"logIndex": "7", "canonicalizedBody": body})
}

func start(t *testing.T, swap string) (*services, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &services{ca: key, swap: swap}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, h.URL
}

func jwt(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

func token(v string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return v, nil }
}

func TestKeyless(t *testing.T) {
	s, url := start(t, "")
	d := artifact.SHA256Of([]byte("content"))
	raw := jwt(`{"sub":"me","email":"me@example.com"}`)
	b, err := (&Signing{Fulcio: url, Rekor: url, Token: token(raw)}).Blob(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(b.GetVerificationMaterial().GetCertificate().GetRawBytes())
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(cert.PublicKey.(*ecdsa.PublicKey), d.Bytes(), b.GetMessageSignature().GetSignature()) {
		t.Error("the certificate's key does not verify the signature")
	}
	if got := b.GetVerificationMaterial().GetTlogEntries()[0].GetLogIndex(); got != 7 {
		t.Errorf("log index %d, want 7", got)
	}
	// The token goes to the CA and to nobody else.
	want := []string{"/api/v2/signingCert Bearer " + raw, "/api/v2/log/entries "}
	if strings.Join(s.seen, "|") != strings.Join(want, "|") {
		t.Errorf("requests %q, want %q", s.seen, want)
	}
}

func TestHostileServices(t *testing.T) {
	for swap, kind := range map[string]*fault.Kind{
		"other key": fault.Unverified, "no certificate": fault.Unavailable, "no PEM": fault.Unavailable, "no DER": fault.Unavailable,
		"other entry": fault.Unverified, "other signature": fault.Unverified, "no entry": fault.Unverified,
		"endless": fault.TooLarge, "redirect": fault.Unavailable, "garbage": fault.Unavailable,
	} {
		_, url := start(t, swap)
		raw := jwt(`{"sub":"me"}`)
		_, err := (&Signing{Fulcio: url, Rekor: url, Token: token(raw)}).Blob(t.Context(), artifact.SHA256Of(nil))
		if !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", swap, err, kind)
		}
		if err != nil && (strings.Contains(err.Error(), raw) || strings.Contains(err.Error(), "\x1b")) {
			t.Errorf("%s: the error holds the token or an escape: %q", swap, err)
		}
	}
	// A timestamp authority that answers with anything but a stamp.
	for _, swap := range []string{"endless", "redirect", "garbage"} {
		_, url := start(t, swap)
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (&Signing{TSA: url, Key: key}).Blob(t.Context(), artifact.SHA256Of(nil)); err == nil {
			t.Errorf("timestamp authority, %s: no error", swap)
		}
	}
}

func TestTokensThatAreNone(t *testing.T) {
	s, url := start(t, "")
	for _, raw := range []string{
		"", "x", "a.b", "a.b.c", strings.Repeat(".", 1<<20), jwt(`{}`), jwt(`{"sub":""}`), jwt(`[]`), jwt(`{"sub":1}`), jwt("\xff"),
	} {
		if _, err := (&Signing{Fulcio: url, Token: token(raw)}).Blob(t.Context(), artifact.SHA256Of(nil)); !errors.Is(err, fault.Invalid) {
			t.Errorf("token %.40q: %v, want invalid", raw, err)
		}
	}
	if len(s.seen) > 0 {
		t.Errorf("asked all the same: %q", s.seen)
	}
}

func TestKeys(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	r2048, _ := rsa.GenerateKey(rand.Reader, 2048)
	r2056, _ := rsa.GenerateKey(rand.Reader, 2056)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	for name, tt := range map[string]struct {
		key crypto.Signer
		ok  bool
	}{"P-256": {p256, true}, "RSA 2048": {r2048, true}, "P-384": {p384, false}, "RSA 2056": {r2056, false}, "Ed25519": {ed, false}} {
		payload := []byte("payload")
		b, err := (&Signing{Key: tt.key}).Statement(t.Context(), "text/plain", payload, payload)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v, want ok %v", name, err, tt.ok)
		}
		if err != nil {
			if !errors.Is(err, fault.Invalid) {
				t.Errorf("%s: %v, want invalid", name, err)
			}
			continue
		}
		sum := sha256.Sum256(payload)
		sig := b.GetDsseEnvelope().GetSignatures()[0].GetSig()
		switch pub := tt.key.Public().(type) {
		case *ecdsa.PublicKey:
			if !ecdsa.VerifyASN1(pub, sum[:], sig) {
				t.Errorf("%s: the signature does not verify", name)
			}
		case *rsa.PublicKey:
			if err := rsa.VerifyPKCS1v15(pub, crypto.SHA256, sum[:], sig); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := (&Signing{}).Blob(t.Context(), artifact.SHA256Of(nil)); !errors.Is(err, fault.Invalid) {
		t.Errorf("nothing to sign with: %v", err)
	}
	if _, err := (&Signing{Key: p256}).Blob(t.Context(), artifact.Digest("sha512:"+strings.Repeat("0", 128))); !errors.Is(err, fault.Invalid) {
		t.Errorf("a sha512 digest: %v", err)
	}
}

func FuzzProofSubject(f *testing.F) {
	for _, s := range []string{"", "a.b.c", jwt(`{"sub":"x"}`), jwt(`{"email":"x"}`), "...."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if s, err := proofSubject(raw); err == nil && s == "" {
			t.Fatal("no subject and no error")
		}
	})
}
