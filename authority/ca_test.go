package authority

import (
	"bytes"
	"context"
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
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"assay/event"
	"assay/identity"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/keyring"
)

var testKey = func() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}()

func prove(t testing.TB, challenge string) []byte {
	t.Helper()
	sum := sha256.Sum256([]byte(challenge))
	sig, err := testKey.Sign(rand.Reader, sum[:], crypto.SHA256)
	must(t, err)
	return sig
}

func verifiedToken(t testing.TB, s *site, subject string) *identity.Token {
	t.Helper()
	_, tok, err := s.verifier.Verify(bg, s.mint(t, subject, identity.AudienceSigstore), identity.AudienceSigstore)
	must(t, err)
	return tok
}

func publicPEM(t testing.TB, pub crypto.PublicKey) string {
	t.Helper()
	b, err := keyring.MarshalPublic(pub)
	must(t, err)
	return string(b)
}

func csrPEM(t testing.TB, key crypto.Signer, alg x509.SignatureAlgorithm) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{SignatureAlgorithm: alg, EmailAddresses: []string{"mallory@example.com"}}, key)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// ask posts a request to the CA and gives the status and the body.
func (s *site) ask(t testing.TB, body any, header map[string]string) (int, []byte) {
	t.Helper()
	raw, ok := body.([]byte)
	if !ok {
		var err error
		raw, err = json.Marshal(body)
		must(t, err)
	}
	req, err := http.NewRequest(http.MethodPost, s.URL+"/fulcio/api/v2/signingCert", bytes.NewReader(raw))
	must(t, err)
	req.Header.Set("Content-Type", "application/json")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, b
}

func keyForm(pemKey string, proof []byte) map[string]any {
	return map[string]any{"publicKey": map[string]any{"algorithm": "ECDSA", "content": pemKey}, "proofOfPossession": base64.StdEncoding.EncodeToString(proof)}
}

// The forms in which clients ask: sigstore-go, sigstore-js, sigstore-python,
// and protobuf's original names.
func TestSigningCertForms(t *testing.T) {
	s := newSite(t, siteOptions{})
	token := s.mint(t, "alice@example.com", identity.AudienceSigstore)
	pub, proof := publicPEM(t, testKey.Public()), prove(t, "alice@example.com")
	inHeader := map[string]string{"Authorization": "Bearer " + token}
	credentials := map[string]any{"oidcIdentityToken": token}
	csr := base64.StdEncoding.EncodeToString([]byte(csrPEM(t, testKey, x509.ECDSAWithSHA256)))
	for name, c := range map[string]struct {
		body   any
		header map[string]string
	}{
		"sigstore-go":     {map[string]any{"publicKeyRequest": keyForm(pub, proof)}, inHeader},
		"sigstore-js":     {map[string]any{"credentials": credentials, "publicKeyRequest": keyForm(pub, proof)}, nil},
		"sigstore-python": {map[string]any{"certificateSigningRequest": csr}, map[string]string{"Authorization": "Bearer " + token, "Accept": "application/pem-certificate-chain"}},
		"csr and body":    {map[string]any{"credentials": credentials, "certificateSigningRequest": csr}, nil},
		"original names": {map[string]any{"credentials": map[string]any{"oidc_identity_token": token}, "public_key_request": map[string]any{
			"public_key": map[string]any{"content": pub}, "proof_of_possession": base64.RawURLEncoding.EncodeToString(proof)}}, nil},
		"unknown members":    {map[string]any{"credentials": credentials, "publicKeyRequest": keyForm(pub, proof), "future": map[string]any{"a": 1}}, nil},
		"charset":            {map[string]any{"publicKeyRequest": keyForm(pub, proof)}, map[string]string{"Authorization": "bearer " + token, "Content-Type": "application/json; charset=utf-8"}},
		"text after the key": {map[string]any{"publicKeyRequest": keyForm(pub+"\n\n", proof)}, inHeader},
	} {
		status, body := s.ask(t, c.body, c.header)
		var resp struct {
			Embedded struct {
				Chain struct{ Certificates []string } `json:"chain"`
			} `json:"signedCertificateEmbeddedSct"`
		}
		must(t, json.Unmarshal(body, &resp))
		if status != http.StatusOK || len(resp.Embedded.Chain.Certificates) != 3 {
			t.Errorf("%s: %d %s", name, status, body)
			continue
		}
		var chain []*x509.Certificate
		for _, p := range resp.Embedded.Chain.Certificates {
			block, rest := pem.Decode([]byte(p))
			if block == nil || len(rest) != 0 {
				t.Fatalf("%s: not one PEM block: %q", name, p)
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			must(t, err)
			chain = append(chain, cert)
		}
		if !testKey.PublicKey.Equal(chain[0].PublicKey) || !chain[1].Equal(s.material.CAChain[0]) || !chain[2].Equal(s.material.CAChain[1]) {
			t.Errorf("%s: wrong chain", name)
		}
		if d := chain[0].EmailAddresses; len(d) != 1 || d[0] != "alice@example.com" {
			t.Errorf("%s: names %v", name, d)
		}
	}
}

func TestThreat_Identity_HostileCertificateRequests(t *testing.T) {
	external, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	s := newSite(t, siteOptions{})
	good := s.mint(t, "alice@example.com", identity.AudienceSigstore)
	parts := strings.Split(good, ".")
	pub, proof := publicPEM(t, testKey.Public()), prove(t, "alice@example.com")
	rsa1024 := weakRSA(t, 1024)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	must(t, err)
	ok := map[string]any{"credentials": map[string]any{"oidcIdentityToken": good}, "publicKeyRequest": keyForm(pub, proof)}
	with := func(k string, v any) map[string]any {
		m := maps.Clone(ok)
		m[k] = v
		if v == nil {
			delete(m, k)
		}
		return m
	}
	token := func(tok string) map[string]any { return with("credentials", map[string]any{"oidcIdentityToken": tok}) }
	key := func(pemKey string, proof []byte) map[string]any {
		return with("publicKeyRequest", keyForm(pemKey, proof))
	}
	csr := func(text string) map[string]any {
		m := with("certificateSigningRequest", base64.StdEncoding.EncodeToString([]byte(text)))
		delete(m, "publicKeyRequest")
		return m
	}
	tampered := []byte(csrPEM(t, testKey, x509.ECDSAWithSHA256))
	block, _ := pem.Decode(tampered)
	block.Bytes[len(block.Bytes)-1] ^= 1
	enc := base64.RawURLEncoding.EncodeToString
	for name, c := range map[string]struct {
		body   any
		status int
	}{
		"no token":             {with("credentials", nil), 400},
		"alg none":             {token(enc([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."), 400},
		"signature stripped":   {token(parts[0] + "." + parts[1] + "."), 400},
		"signature of another": {token(parts[0] + "." + parts[1] + "." + strings.Split(s.mint(t, "bob@example.com", identity.AudienceSigstore), ".")[2]), 400},
		"audience registry":    {token(s.mint(t, "alice@example.com", identity.AudienceRegistry)), 400},
		"audience api":         {token(s.mint(t, "alice@example.com", identity.AudienceAPI)), 400},
		"1000 dots":            {token(strings.Repeat(".", 1000)), 400},
		"token of 20 KiB":      {token(strings.Repeat("a", 20<<10)), 400},
		"proof of another key": {key(publicPEM(t, external.Public()), proof), 400},
		"proof over the wrong": {key(pub, prove(t, "bob@example.com")), 400},
		"no proof":             {key(pub, nil), 400},
		"proof not base64":     {with("publicKeyRequest", map[string]any{"publicKey": map[string]any{"content": pub}, "proofOfPossession": "%%%"}), 400},
		"no key":               {with("publicKeyRequest", nil), 400},
		"key and csr":          {with("certificateSigningRequest", "AAAA"), 400},
		"empty key":            {key("", proof), 400},
		"two keys":             {key(pub+publicPEM(t, external.Public()), proof), 400},
		"private key":          {key(string(mustPKCS8(t, testKey)), proof), 400},
		"RSA 1024":             {key(publicPEM(t, rsa1024.Public()), []byte("x")), 400},
		"RSA 1024 csr":         {csr(csrPEM(t, rsa1024, x509.SHA256WithRSA)), 400},
		"RSA of 16384 bits":    {key(publicPEM(t, &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 16383), E: 65537}), []byte("x")), 400},
		"RSA, exponent 3":      {key(publicPEM(t, &rsa.PublicKey{N: new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 2047), big.NewInt(1)), E: 3}), []byte("x")), 400},
		"P-224":                {key(publicPEM(t, p224.Public()), []byte("x")), 400},
		"csr tampered":         {csr(string(pem.EncodeToMemory(block))), 400},
		"csr by SHA-1":         {csr(sha1CSR), 400},
		"csr of garbage":       {csr("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"), 400},
		"not JSON":             {[]byte("{"), 400},
		"duplicate member":     {[]byte(`{"credentials":{},"credentials":{"oidcIdentityToken":"x"}}`), 400},
		"trailing data":        {[]byte(`{} {}`), 400},
		"null":                 {[]byte(`null`), 400},
		"array":                {[]byte(`[]`), 400},
		"empty":                {[]byte{}, 400},
		"wrong types":          {[]byte(`{"credentials":"x","publicKeyRequest":7}`), 400},
		"deep":                 {[]byte(`{"a":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`), 400},
		"65 KiB":               {bytes.Repeat([]byte(" "), 65<<10), 413},
	} {
		var status int
		var body []byte
		// The quickest of three: the machine may be busy with other things.
		quickest := time.Hour
		for n := 0; n < 3 && quickest > 200*time.Millisecond; n++ {
			start := time.Now()
			status, body = s.ask(t, c.body, nil)
			quickest = min(quickest, time.Since(start))
		}
		if quickest > 200*time.Millisecond {
			t.Errorf("%s took %s", name, quickest)
		}
		var e struct {
			Code    int
			Message string
			Details []any
		}
		if status != c.status || json.Unmarshal(body, &e) != nil || e.Code == 0 || e.Message == "" || e.Details == nil {
			t.Errorf("%s: %d %s, want %d with the JSON of a gRPC status", name, status, body, c.status)
		}
		if bytes.Contains(body, []byte(parts[2])) {
			t.Errorf("%s: the answer repeats the token", name)
		}
	}
	if status, body := s.ask(t, ok, map[string]string{"Content-Type": "text/html"}); status != 400 {
		t.Errorf("as text/html: %d %s", status, body)
	}
	if evs := s.events(t, event.CertificateIssued); len(evs) != 0 || len(s.log.tbs) != 0 {
		t.Errorf("%d certificates were recorded, %d logged, want none", len(evs), len(s.log.tbs))
	}
	if status, body := s.ask(t, ok, nil); status != http.StatusOK {
		t.Errorf("the request that all these were made from: %d %s", status, body)
	}
}

// What is answered for paths and methods that are not there.
func TestCAPaths(t *testing.T) {
	s := newSite(t, siteOptions{issuers: []identity.IssuerConfig{
		{URL: "https://spiffe.example.com", Type: identity.TypeSPIFFE, TrustDomain: "example.com"},
		{URL: "https://api-only.example.com", Type: identity.TypeEmail, Audiences: map[identity.Audience]string{identity.AudienceAPI: "x"}},
		{URL: "https://accounts.example.com", Type: identity.TypeEmail, ClientID: "client-1"},
	}})
	get := func(method, path string) (int, string) {
		req, err := http.NewRequest(method, s.URL+path, nil)
		must(t, err)
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp.StatusCode, string(b)
	}
	if status, body := get("GET", "/fulcio/api/v2/signingCert"); status != 405 || !strings.Contains(body, `"code":12`) {
		t.Errorf("GET signingCert: %d %s", status, body)
	}
	if status, body := get("GET", "/fulcio/api/v3/x"); status != 404 || !strings.Contains(body, `"code":5`) {
		t.Errorf("unknown path: %d %s", status, body)
	}
	status, body := get("GET", "/fulcio/api/v2/trustBundle")
	var bundle struct {
		Chains []struct{ Certificates []string }
	}
	must(t, json.Unmarshal([]byte(body), &bundle))
	if status != 200 || len(bundle.Chains) != 1 || len(bundle.Chains[0].Certificates) != 2 || bundle.Chains[0].Certificates[1] != string(encodeChain(s.material.CAChain[1:])) {
		t.Errorf("trustBundle: %d %s", status, body)
	}
	status, body = get("GET", "/fulcio/api/v2/configuration")
	want := `{"issuers":[` +
		`{"issuerUrl":"` + s.issuer.URL() + `","audience":"sigstore","challengeClaim":"email","issuerType":"local"},` +
		`{"issuerUrl":"https://accounts.example.com","audience":"client-1","challengeClaim":"email","issuerType":"email"},` +
		`{"issuerUrl":"https://spiffe.example.com","audience":"sigstore","challengeClaim":"sub","spiffeTrustDomain":"example.com","issuerType":"spiffe"}]}`
	if status != 200 || body != want {
		t.Errorf("configuration: %d\n%s\nwant\n%s", status, body, want)
	}
}

// What stands in the way of a certificate, from inside.
func TestIssueFails(t *testing.T) {
	deny := fault.Newf(fault.Denied, "not this one")
	denying := newSite(t, siteOptions{permit: func(_ context.Context, p identity.Principal, _ *identity.Token) error {
		if p.Email == "alice@example.com" {
			return deny
		}
		return nil
	}})
	request := func(s *site, subject string) map[string]any {
		return map[string]any{"credentials": map[string]any{"oidcIdentityToken": s.mint(t, subject, identity.AudienceSigstore)},
			"publicKeyRequest": keyForm(publicPEM(t, testKey.Public()), prove(t, subject))}
	}
	if status, body := denying.ask(t, request(denying, "alice@example.com"), nil); status != 403 || !bytes.Contains(body, []byte("not this one")) {
		t.Errorf("permit: %d %s", status, body)
	}
	if status, body := denying.ask(t, request(denying, "bob@example.com"), nil); status != 200 {
		t.Errorf("permit, another: %d %s", status, body)
	}
	s := newSite(t, siteOptions{})
	s.log.err = fault.Newf(fault.Unavailable, "secret detail of the log")
	if status, body := s.ask(t, request(s, "alice@example.com"), nil); status != 503 || bytes.Contains(body, []byte("secret")) {
		t.Errorf("log down: %d %s", status, body)
	}
	s.log.err = errors.New("secret detail of the log")
	if status, body := s.ask(t, request(s, "alice@example.com"), nil); status != 500 || bytes.Contains(body, []byte("secret")) {
		t.Errorf("log broken: %d %s", status, body)
	}
	s.log.err = nil
	tok := verifiedToken(t, s, "alice@example.com")
	for _, aud := range []identity.Audience{identity.AudienceRegistry, identity.AudienceAPI, ""} {
		other := *tok
		other.Audience = aud
		if _, err := s.ca.Issue(bg, identity.Principal{}, &other, testKey.Public(), prove(t, tok.Challenge)); !errors.Is(err, fault.Denied) {
			t.Errorf("token for %q: %v", aud, err)
		}
	}
	if _, err := s.ca.Issue(bg, identity.Principal{}, nil, testKey.Public(), nil); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("no token: %v", err)
	}
	// The database is gone: no certificate without its event.
	must(t, s.db.Close())
	if chain, err := s.ca.Issue(bg, identity.Principal{}, tok, testKey.Public(), prove(t, tok.Challenge)); err == nil || chain != nil {
		t.Errorf("a certificate was handed out and not recorded: %v", err)
	}
	// Before the authority began and after it ended.
	for _, at := range []time.Duration{-time.Hour, intermediateLife} {
		late := newSite(t, siteOptions{clock: clock.Fixed(time.Now().Add(at))})
		if _, err := late.ca.Issue(bg, identity.Principal{}, verifiedToken(t, late, "alice@example.com"), testKey.Public(), prove(t, "alice@example.com")); !errors.Is(err, fault.Unavailable) {
			t.Errorf("clock off by %s: %v", at, err)
		}
	}
}

// A plain name of the local issuer has no place in a certificate.
func TestPlainNameGetsNoCertificate(t *testing.T) {
	s := newSite(t, siteOptions{})
	tok := verifiedToken(t, s, "alice@example.com")
	tok.Certificate = identity.CertificateIdentity{Extensions: tok.Certificate.Extensions}
	if _, err := s.ca.Issue(bg, identity.Principal{}, tok, testKey.Public(), prove(t, tok.Challenge)); !errors.Is(err, fault.Denied) {
		t.Error(err)
	}
}

func TestProofs(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	curve := func(c elliptic.Curve) crypto.Signer {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		must(t, err)
		return k
	}
	for name, c := range map[string]struct {
		key  crypto.Signer
		hash crypto.Hash
	}{
		"p256": {curve(elliptic.P256()), crypto.SHA256}, "p384": {curve(elliptic.P384()), crypto.SHA384}, "p521": {curve(elliptic.P521()), crypto.SHA512},
		"ed25519": {ed, 0}, "rsa": {rsaKey, crypto.SHA256},
	} {
		must(t, checkKey(c.key.Public()))
		msg := []byte("alice@example.com")
		if c.hash != 0 {
			h := c.hash.New()
			h.Write(msg)
			msg = h.Sum(nil)
		}
		sig, err := c.key.Sign(rand.Reader, msg, c.hash)
		must(t, err)
		if err := checkProof(c.key.Public(), "alice@example.com", sig); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for what, bad := range map[string][]byte{"empty": nil, "cut": sig[:len(sig)-1], "longer": append(bytes.Clone(sig), 0)} {
			if err := checkProof(c.key.Public(), "alice@example.com", bad); !errors.Is(err, fault.Invalid) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		if err := checkProof(c.key.Public(), "bob@example.com", sig); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s, another subject: %v", name, err)
		}
	}
	if err := checkProof("no key", "a", nil); !errors.Is(err, fault.Invalid) {
		t.Error(err)
	}
}

// sha1CSR was made by openssl req -new -sha1.
const sha1CSR = `-----BEGIN CERTIFICATE REQUEST-----
MIHGMG4CAQAwDDEKMAgGA1UEAwwBeDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IA
BPcMV9JWvUYD0leuGDhte7AdFQHBqTd9Af1GmwuxIEWI2Dp63iRcMwA8JjUiuz32
wqq5MWyRN9W8ip17LXyX1yqgADAJBgcqhkjOPQQBA0kAMEYCIQDfXbH3L2xI4MBA
9l3D5kWQR8PSAxygo1XCtZKhFUwlkAIhAOJvUqca9M3rsvXEwOWDnt0St3weAwJQ
8ftjsJfsWfUE
-----END CERTIFICATE REQUEST-----
`

func weakRSA(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	k, err := rsa.GenerateKey(rand.Reader, bits)
	must(t, err)
	return k
}

func mustPKCS8(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	b, err := keyring.Marshal(key, nil)
	must(t, err)
	return b
}

func FuzzSigningRequest(f *testing.F) {
	pub, err := keyring.MarshalPublic(testKey.Public())
	must(f, err)
	body, err := json.Marshal(map[string]any{"credentials": map[string]any{"oidcIdentityToken": "a.b.c"}, "publicKeyRequest": keyForm(string(pub), prove(f, "alice@example.com"))})
	must(f, err)
	f.Add(body)
	csr, err := json.Marshal(map[string]any{"certificateSigningRequest": base64.StdEncoding.EncodeToString([]byte(csrPEM(f, testKey, x509.ECDSAWithSHA256)))})
	must(f, err)
	f.Add(csr)
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := parseSigningRequest(body)
		if err != nil {
			if !errors.Is(err, fault.Invalid) {
				t.Fatalf("%v", err)
			}
			return
		}
		pub, err := q.key("alice@example.com")
		if err != nil && !errors.Is(err, fault.Invalid) {
			t.Fatalf("%v", err)
		}
		if err == nil && checkKey(pub) != nil {
			t.Fatalf("a weak key passed: %v", pub)
		}
	})
}

func BenchmarkIssue(b *testing.B) {
	s := newSite(b, siteOptions{})
	tok, proof := verifiedToken(b, s, "alice@example.com"), prove(b, "alice@example.com")
	b.ReportAllocs()
	b.SetParallelism(32) // commits are shared
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.ca.Issue(bg, identity.Principal{}, tok, testKey.Public(), proof); err != nil {
				b.Error(err)
			}
		}
	})
}
