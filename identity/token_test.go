package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/fault"
	"assay/internal/vectors"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

func TestVerify(t *testing.T) {
	s := newSigner(t, "k1")
	v := emailVerifier(t, s.jwk)
	p, tok, err := v.Verify(bg, s.token(t, goodClaims(map[string]any{"groups": []string{"dev", "ops"}, "n": 7}), nil), AudienceSigstore)
	if err != nil {
		t.Fatal(err)
	}
	want := Principal{
		Issuer: testIssuer, Subject: "1234", Kind: KindUser, Name: "alice@example.com", Person: "mailto:alice@example.com",
		Email: "alice@example.com", Groups: []string{"dev", "ops"},
		Claims: map[string]string{
			"iss": testIssuer, "sub": "1234", "aud": "sigstore", "email": "alice@example.com", "email_verified": "true",
			"iat": "1795348800", "nbf": "1795348800", "exp": "1795349100", "n": "7",
		},
		Credential: Credential{ID: p.Credential.ID, IssuedAt: testNow, Expires: testNow.Add(5 * time.Minute)},
	}
	if !strings.HasPrefix(p.Credential.ID, "jwt:") || len(p.Credential.ID) != 36 {
		t.Errorf("credential %q", p.Credential.ID)
	}
	if d := cmp.Diff(want, p); d != "" {
		t.Error(d)
	}
	if tok.Challenge != "alice@example.com" || tok.Audience != AudienceSigstore || !tok.Expires.Equal(testNow.Add(5*time.Minute)) ||
		tok.Certificate.Email != "alice@example.com" || tok.Certificate.Extensions.Issuer != testIssuer || tok.Certificate.Extensions.Subject != "1234" {
		t.Errorf("token %+v", tok)
	}
}

// Every algorithm of the allow-list verifies with its key and with no other.
func TestVerifyAlgorithms(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	curve := func(c elliptic.Curve) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	var signers []signer
	for _, alg := range []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512} {
		signers = append(signers, signerOf(rsaKey, "", alg))
	}
	signers = append(signers, signerOf(edKey, "", jose.EdDSA), signerOf(curve(elliptic.P256()), "", jose.ES256),
		signerOf(curve(elliptic.P384()), "", jose.ES384), signerOf(curve(elliptic.P521()), "", jose.ES512))
	for i, s := range signers {
		for j, other := range signers {
			s.jwk.KeyID, other.jwk.KeyID = "k", "k"
			_, _, err := emailVerifier(t, other.jwk).Verify(bg, s.token(t, goodClaims(nil), nil), AudienceSigstore)
			if i == j && err != nil {
				t.Errorf("%s: %v", s.alg, err)
			}
			if i != j && !errors.Is(err, fault.Unauthenticated) {
				t.Errorf("%s verified by a key for %s: %v", s.alg, other.alg, err)
			}
		}
	}
}

func TestVerifyClaims(t *testing.T) {
	s := newSigner(t, "k1")
	v := emailVerifier(t, s.jwk)
	at := func(d time.Duration) int64 { return testNow.Add(d).Unix() }
	for _, c := range []struct {
		name   string
		change map[string]any
		header map[jose.HeaderKey]any
		want   string // part of the error; empty: accepted
	}{
		{"good", nil, nil, ""},
		{"one audience in a list", map[string]any{"aud": []string{"sigstore"}}, nil, ""},
		{"no nbf, no iat", map[string]any{"nbf": nil, "iat": nil}, nil, ""},
		{"fractional times", map[string]any{"exp": float64(at(time.Minute)) + 0.5}, nil, ""},
		{"expired within the skew", map[string]any{"exp": at(-59 * time.Second)}, nil, ""},
		{"email_verified as text", map[string]any{"email_verified": "true"}, nil, ""},
		{"typ jose", nil, map[jose.HeaderKey]any{"typ": "JOSE"}, ""},

		{"two audiences", map[string]any{"aud": []string{"sigstore", "assay-registry"}}, nil, "exactly one audience"},
		{"the same audience twice", map[string]any{"aud": []string{"sigstore", "sigstore"}}, nil, "exactly one audience"},
		{"no audience", map[string]any{"aud": nil}, nil, "no aud claim"},
		{"empty audiences", map[string]any{"aud": []string{}}, nil, "exactly one audience"},
		{"audience is an object", map[string]any{"aud": map[string]any{"sigstore": 1}}, nil, "want a text"},
		{"audience as prefix", map[string]any{"aud": "sigstore2"}, nil, "audience"},
		{"audience in capitals", map[string]any{"aud": "SIGSTORE"}, nil, "audience"},
		{"expired", map[string]any{"exp": at(-61 * time.Second)}, nil, "expired"},
		{"expired on the dot of the skew", map[string]any{"exp": at(-60 * time.Second)}, nil, "expired"},
		{"no exp", map[string]any{"exp": nil}, nil, "no exp claim"},
		{"exp is text", map[string]any{"exp": "9999999999"}, nil, "seconds since 1970"},
		{"exp is negative", map[string]any{"exp": -1}, nil, "seconds since 1970"},
		{"exp overflows", map[string]any{"exp": 1e300}, nil, "seconds since 1970"},
		{"not yet", map[string]any{"nbf": at(61 * time.Second)}, nil, "not valid before"},
		{"issued in the future", map[string]any{"iat": at(61 * time.Second)}, nil, "to come"},
		{"issuer with slash", map[string]any{"iss": testIssuer + "/"}, nil, "is not configured"},
		{"issuer in capitals", map[string]any{"iss": "https://ISSUER.example.com"}, nil, "is not configured"},
		{"issuer is a list", map[string]any{"iss": []string{testIssuer}}, nil, "is not configured"},
		{"no issuer", map[string]any{"iss": nil}, nil, "is not configured"},
		{"no subject", map[string]any{"sub": nil}, nil, "sub claim"},
		{"subject is a number", map[string]any{"sub": 1234}, nil, "sub claim"},
		{"subject with control character", map[string]any{"sub": "a\nb"}, nil, "control character"},
		{"email not verified", map[string]any{"email_verified": false}, nil, "email_verified"},
		{"email_verified absent", map[string]any{"email_verified": nil}, nil, "email_verified"},
		{"email_verified 1", map[string]any{"email_verified": 1}, nil, "email_verified"},
		{"no email", map[string]any{"email": nil}, nil, "no email claim"},
		{"two emails", map[string]any{"email": "a@example.com,b@example.com"}, nil, "plain address"},
		{"email with name", map[string]any{"email": "Alice <alice@example.com>"}, nil, "plain address"},
		{"email with line break", map[string]any{"email": "alice@example.com\nb"}, nil, "plain address"},
		{"email with two at signs", map[string]any{"email": "alice@evil.com@example.com"}, nil, "plain address"},
		{"email with cyrillic e", map[string]any{"email": "alic\u0435@example.com"}, nil, "plain address"},
		{"groups are a number", map[string]any{"groups": 1}, nil, "list of texts"},
		{"typ at+jwt", nil, map[jose.HeaderKey]any{"typ": "at+jwt"}, "type"},
		{"typ number", nil, map[jose.HeaderKey]any{"typ": 1}, "type"},
		{"unknown kid", nil, map[jose.HeaderKey]any{"kid": "k2"}, "no key"},
		{"kid number", nil, map[jose.HeaderKey]any{"kid": 1}, "kid"},
		{"kid too long", nil, map[jose.HeaderKey]any{"kid": strings.Repeat("k", 513)}, "kid"},
		{"crit", nil, map[jose.HeaderKey]any{"crit": []string{"b64"}, "b64": true}, "header"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := v.Verify(bg, s.token(t, goodClaims(c.change), c.header), AudienceSigstore)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (!errors.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want unauthenticated with %q", err, c.want)
			}
		})
	}
}

// A token without kid is good only where the issuer leaves no choice.
func TestVerifyWithoutKid(t *testing.T) {
	a, b := newSigner(t, ""), newSigner(t, "")
	raw := a.token(t, goodClaims(nil), nil)
	if _, _, err := emailVerifier(t, a.jwk).Verify(bg, raw, AudienceSigstore); err != nil {
		t.Error(err)
	}
	if _, _, err := emailVerifier(t, a.jwk, b.jwk).Verify(bg, raw, AudienceSigstore); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("two keys, no kid: %v", err)
	}
}

func TestThreat_Identity_AudiencesAreDisjoint(t *testing.T) {
	s := newSigner(t, "k1")
	v := emailVerifier(t, s.jwk)
	for _, made := range Audiences() {
		raw := s.token(t, goodClaims(map[string]any{"aud": string(made)}), nil)
		for _, asked := range Audiences() {
			_, _, err := v.Verify(bg, raw, asked)
			if (made == asked) != (err == nil) {
				t.Errorf("token for %s at the door of %s: %v", made, asked, err)
			}
		}
	}
	if _, _, err := v.Verify(bg, s.token(t, goodClaims(map[string]any{"aud": ""}), nil), ""); err == nil {
		t.Error("the empty audience was accepted")
	}
}

func TestThreat_Identity_JWTAlgNone(t *testing.T) {
	s := newSigner(t, "k1")
	v := emailVerifier(t, s.jwk)
	body, err := json.Marshal(goodClaims(nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, alg := range []string{"none", "None", "NONE", "", "HS256", "HS512", "A128GCM", "dir", "ES256K", "RS1"} {
		for _, sig := range []string{"", "AAAA"} {
			raw := b64(`{"alg":"`+alg+`","kid":"k1","typ":"JWT"}`) + "." + b64(string(body)) + "." + sig
			if _, _, err := v.Verify(bg, raw, AudienceSigstore); !errors.Is(err, fault.Unauthenticated) {
				t.Errorf("alg %q, signature %q: %v", alg, sig, err)
			}
		}
	}
	// A public key in PEM as the secret of an HMAC.
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	js, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: der}, (&jose.SignerOptions{}).WithHeader("kid", "k1"))
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
	if _, _, err := v.Verify(bg, raw, AudienceSigstore); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("HMAC with the public key: %v", err)
	}
}

// CVE-2025-24976: a key in the token's own header must not verify it.
func TestThreat_Identity_JWTEmbeddedKey(t *testing.T) {
	s, evil := newSigner(t, "k1"), newSigner(t, "k1")
	v := emailVerifier(t, s.jwk)
	for name, h := range map[string]map[jose.HeaderKey]any{
		"jwk": {"jwk": evil.jwk}, "jku": {"jku": "https://evil.example/keys"},
		"x5u": {"x5u": "https://evil.example/cert"}, "x5c": {"x5c": []string{"AAAA"}},
	} {
		if _, _, err := v.Verify(bg, evil.token(t, goodClaims(nil), h), AudienceSigstore); !errors.Is(err, fault.Unauthenticated) {
			t.Errorf("%s by the attacker: %v", name, err)
		}
		if _, _, err := v.Verify(bg, s.token(t, goodClaims(nil), h), AudienceSigstore); !errors.Is(err, fault.Unauthenticated) {
			t.Errorf("%s in a good token: %v", name, err)
		}
	}
	// The attacker's signature without any such header.
	if _, _, err := v.Verify(bg, evil.token(t, goodClaims(nil), nil), AudienceSigstore); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("wrong key of the same kid: %v", err)
	}
}

// CVE-2025-66506: a million dots cost nothing.
func TestThreat_Identity_JWTMillionDots(t *testing.T) {
	v := emailVerifier(t, newSigner(t, "k1").jwk)
	for name, raw := range map[string]string{
		"a million dots":        strings.Repeat(".", 1_000_000),
		"16 Ki dots":            strings.Repeat(".", MaxToken),
		"one part":              strings.Repeat("a", MaxToken),
		"endless":               strings.Repeat("a", 64<<20),
		"one byte over the cap": strings.Repeat("a", MaxToken+1),
		"five parts, as a JWE":  "a.b.c.d.e",
		"empty":                 "",
		"three empty parts":     "..",
		"two empty parts":       b64(`{"alg":"ES256"}`) + "..",
	} {
		quickest := time.Hour // the machine may be busy with other things
		allocs := testing.AllocsPerRun(3, func() {
			start := time.Now()
			if _, _, err := v.Verify(bg, raw, AudienceSigstore); !errors.Is(err, fault.Unauthenticated) {
				t.Errorf("%s: %v", name, err)
			}
			quickest = min(quickest, time.Since(start))
		})
		if allocs > 20 {
			t.Errorf("%s: %v allocations, want a small constant", name, allocs)
		}
		if quickest > 50*time.Millisecond {
			t.Errorf("%s: %s", name, quickest)
		}
	}
}

func TestThreat_Identity_JWTStrictJSON(t *testing.T) {
	s := newSigner(t, "k1")
	v := emailVerifier(t, s.jwk)
	good, err := json.Marshal(goodClaims(nil))
	if err != nil {
		t.Fatal(err)
	}
	body := string(good)
	for name, b := range map[string]string{
		"duplicate member":  strings.Replace(body, "{", `{"sub":"root",`, 1),
		"trailing data":     body + "{}",
		"invalid UTF-8":     strings.Replace(body, "alice", "al\xffice", 1),
		"array":             "[" + body + "]",
		"null":              "null",
		"deep":              strings.Replace(body, "{", `{"x":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`,`, 1),
		"escaped duplicate": strings.Replace(body, "{", `{"s\u0075b":"root",`, 1),
	} {
		if _, _, err := v.Verify(bg, s.raw(t, []byte(b), nil), AudienceSigstore); !errors.Is(err, fault.Unauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Names are compared exactly: another case is another, unknown claim.
	p, _, err := v.Verify(bg, s.raw(t, []byte(strings.Replace(body, "{", `{"Sub":"root","SUB":"root","Aud":"x",`, 1)), nil), AudienceSigstore)
	if err != nil || p.Subject != "1234" {
		t.Errorf("claims in another case: subject %q, %v", p.Subject, err)
	}
	// Parts in another base64: padding, the standard alphabet, line breaks,
	// bits beyond the end.
	raw := s.token(t, goodClaims(nil), nil)
	parts := strings.Split(raw, ".")
	for name, bad := range map[string]string{
		"padding":    parts[0] + "=." + parts[1] + "." + parts[2],
		"line break": parts[0] + "\n." + parts[1] + "." + parts[2],
		"space":      " " + raw,
		"plus":       parts[0] + "." + parts[1] + "." + strings.ReplaceAll(strings.ReplaceAll(parts[2], "-", "+"), "_", "/") + "+",
	} {
		if _, _, err := v.Verify(bg, bad, AudienceSigstore); !errors.Is(err, fault.Unauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Every change of one byte of a good token is refused, or leaves its meaning.
func TestVerifyTampered(t *testing.T) {
	s := newSigner(t, "k1")
	v := emailVerifier(t, s.jwk)
	raw := s.token(t, goodClaims(nil), nil)
	for i := range raw {
		for _, c := range []byte("A9-.") {
			if raw[i] == c {
				continue
			}
			mod := raw[:i] + string(c) + raw[i+1:]
			if _, _, err := v.Verify(bg, mod, AudienceSigstore); err == nil {
				t.Fatalf("byte %d as %q was accepted", i, c)
			}
		}
	}
}

func TestHostileVectors(t *testing.T) {
	dir := vectors.Dir(t, "hostile/jwt")
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil || len(files) < 2 {
		t.Fatalf("want the hostile tokens in %s, found %d (%v)", dir, len(files), err)
	}
	s := newSigner(t, "k1")
	v := emailVerifier(t, s.jwk)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		raw := strings.TrimSpace(string(b))
		for _, aud := range Audiences() {
			if _, _, err := v.Verify(bg, raw, aud); !errors.Is(err, fault.Unauthenticated) {
				t.Errorf("%s: %v, want refused", filepath.Base(f), err)
			}
		}
	}
}

func FuzzVerify(f *testing.F) {
	s := newSigner(f, "k1")
	v := emailVerifier(f, s.jwk)
	good := s.token(f, goodClaims(nil), nil)
	f.Add(good)
	f.Add(b64(`{"alg":"none"}`) + "." + b64(`{}`) + ".")
	f.Add(b64(`{"alg":"ES256","kid":"k1"}`) + "." + b64(`{"iss":"`+testIssuer+`"}`) + ".AAAA")
	f.Add(strings.Repeat(".", 100))
	f.Fuzz(func(t *testing.T, raw string) {
		p, tok, err := v.Verify(bg, raw, AudienceSigstore)
		if err == nil && raw != good {
			t.Fatalf("accepted %q as %+v", raw, p)
		}
		if (err == nil) == (tok == nil) || err != nil && !errors.Is(err, fault.Unauthenticated) {
			t.Fatalf("%q: token %v, error %v", raw, tok, err)
		}
	})
}

// FuzzClaims signs whatever the claims are: hostile content of an issuer that
// is believed must not panic and must yield a name that a certificate can hold.
func FuzzClaims(f *testing.F) {
	for _, body := range []string{
		`{"sub":"a","email":"a@example.com","email_verified":true}`,
		`{"sub":"system:serviceaccount:ns:sa","kubernetes.io":{"namespace":"ns","serviceaccount":{"name":"sa"}}}`,
		`{"sub":"spiffe://example.com/a"}`, `{"sub":"https://ci.example.com/x"}`, `{"sub":1,"groups":[1]}`, `null`, `{"exp":1e999}`,
	} {
		f.Add([]byte(body))
	}
	cfgs := []IssuerConfig{
		{Type: TypeEmail}, {Type: TypeKubernetes}, {Type: TypeGitHub}, {Type: TypeGitLab}, {Type: TypeLocal},
		{Type: TypeSPIFFE, TrustDomain: "example.com"}, {Type: TypeURI, SubjectDomain: "https://ci.example.com"},
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := decodeObject("claims", b64(string(body)))
		if err != nil {
			return
		}
		_, _ = c.audience()
		_ = (&Token{}).times(c, testNow)
		for _, cfg := range cfgs {
			tok := Token{Issuer: testIssuer, claims: c}
			p, err := tok.identify(&cfg)
			if err != nil {
				continue
			}
			if p.Kind == KindSystem || p.IsAnonymous() || p.Name == "" || p.Issuer != testIssuer {
				t.Fatalf("%s: %s became %+v", cfg.Type, body, p)
			}
			if tok.Certificate.Email != "" && !IsEmail(tok.Certificate.Email) {
				t.Fatalf("%s: %s gave address %q", cfg.Type, body, tok.Certificate.Email)
			}
		}
	})
}
