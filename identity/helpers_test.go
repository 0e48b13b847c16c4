package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"testing"
	"time"

	"assay/internal/clock"

	jose "github.com/go-jose/go-jose/v4"
)

const testIssuer = "https://issuer.example.com"

var testNow = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// signer is a real issuer's key.
type signer struct {
	key crypto.Signer
	jwk jose.JSONWebKey
	alg jose.SignatureAlgorithm
}

func newSigner(t testing.TB, kid string) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signerOf(key, kid, jose.ES256)
}

func signerOf(key crypto.Signer, kid string, alg jose.SignatureAlgorithm) signer {
	return signer{key: key, alg: alg, jwk: jose.JSONWebKey{Key: key.Public(), KeyID: kid, Algorithm: string(alg), Use: "sig"}}
}

// token signs claims; header members are added to alg and kid.
func (s signer) token(t testing.TB, claims map[string]any, header map[jose.HeaderKey]any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return s.raw(t, body, header)
}

func (s signer) raw(t testing.TB, body []byte, header map[jose.HeaderKey]any) string {
	t.Helper()
	opts := (&jose.SignerOptions{}).WithType("JWT")
	if s.jwk.KeyID != "" {
		opts = opts.WithHeader("kid", s.jwk.KeyID)
	}
	for k, v := range header {
		opts = opts.WithHeader(k, v)
	}
	js, err := jose.NewSigner(jose.SigningKey{Algorithm: s.alg, Key: s.key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := js.Sign(body)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// jwks is a key set document.
func jwks(t testing.TB, keys ...jose.JSONWebKey) []byte {
	t.Helper()
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// goodClaims are those of a valid e-mail token, with changes; a nil value
// removes a claim.
func goodClaims(change map[string]any) map[string]any {
	c := map[string]any{
		"iss": testIssuer, "sub": "1234", "aud": "sigstore",
		"iat": testNow.Unix(), "nbf": testNow.Unix(), "exp": testNow.Add(5 * time.Minute).Unix(),
		"email": "alice@example.com", "email_verified": true,
	}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// verifierFor believes one issuer whose keys are in process.
func verifierFor(t testing.TB, cfg IssuerConfig, keys ...jose.JSONWebKey) *Verifier {
	t.Helper()
	v, err := NewVerifier(VerifierOptions{Clock: clock.Fixed(testNow)})
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	auds, err := cfg.audiences()
	if err != nil {
		t.Fatal(err)
	}
	v.issuers.Store(&map[string]*issuer{cfg.URL: {cfg: cfg, auds: auds, src: localKeys(func() []jose.JSONWebKey { return keys })}})
	return v
}

func emailVerifier(t testing.TB, keys ...jose.JSONWebKey) *Verifier {
	return verifierFor(t, IssuerConfig{URL: testIssuer, Type: TypeEmail}, keys...)
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

var bg = context.Background()

// tunnel joins the client of an HTTP CONNECT with addr.
func tunnel(w http.ResponseWriter, addr string) {
	up, err := net.Dial("tcp", addr)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	down, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = up.Close()
		return
	}
	_, _ = io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
	go func() { _, _ = io.Copy(up, down); _ = up.Close() }()
	go func() { _, _ = io.Copy(down, up); _ = down.Close() }()
}
