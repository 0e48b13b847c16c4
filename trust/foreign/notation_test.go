package foreign_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"

	"assay/artifact"
	"assay/attestation"
	"assay/trust"
	"assay/trust/foreign"
	"assay/trust/trusttest"
)

// notary is who signs with Notation: a root and a leaf of three years, and a
// timestamp authority.
type notary struct {
	t     testing.TB
	w     *trusttest.World // its TSA stamps
	root  *x509.Certificate
	chain []*x509.Certificate
	key   *ecdsa.PrivateKey
}

func newNotary(t testing.TB) *notary {
	w := trusttest.New(t)
	rootKey, key := trusttest.NewKey(t), trusttest.NewKey(t)
	name := func(cn string) pkix.Name {
		return pkix.Name{CommonName: cn, Organization: []string{"Acme"}, Province: []string{"WA"}, Country: []string{"US"}}
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: name("Acme Root"), NotBefore: w.Start, NotAfter: w.Start.AddDate(10, 0, 0), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, MaxPathLen: 1}
	root := trusttest.Certify(t, tmpl, tmpl, rootKey.Public(), rootKey)
	leaf := trusttest.Certify(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: name("Release"), NotBefore: w.Start, NotAfter: w.Start.AddDate(3, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}, root, key.Public(), rootKey)
	return &notary{t: t, w: w, root: root, chain: []*x509.Certificate{leaf, root}, key: key}
}

type signing struct {
	mediaType string
	scheme    signature.SigningScheme
	at        time.Time
	expiry    time.Time
	stamp     time.Time // zero: none
	critical  bool
	content   string // payload; "": one that names the digest
}

const imageDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func payload(digest string) string {
	return `{"targetArtifact":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + digest + `","size":528}}`
}

func (n *notary) sign(s signing) []byte {
	n.t.Helper()
	if s.content == "" {
		s.content = payload(imageDigest)
	}
	if s.scheme == "" {
		s.scheme = signature.SigningSchemeX509
	}
	if s.at.IsZero() {
		s.at = n.w.Start.Add(time.Hour)
	}
	signer, err := signature.NewLocalSigner(n.chain, n.key)
	if err != nil {
		n.t.Fatal(err)
	}
	req := &signature.SignRequest{Payload: signature.Payload{ContentType: "application/vnd.cncf.notary.payload.v1+json", Content: []byte(s.content)},
		Signer: signer, SigningTime: s.at, Expiry: s.expiry, SigningScheme: s.scheme, SigningAgent: "test"}
	if s.critical {
		req.ExtendedSignedAttributes = []signature.Attribute{{Key: "io.cncf.notary.verificationPlugin", Critical: true, Value: "x"}}
	}
	env := jws.NewEnvelope()
	if s.mediaType == cose.MediaTypeEnvelope {
		env = cose.NewEnvelope()
	}
	raw, err := env.Sign(req)
	if err != nil {
		n.t.Fatal(err)
	}
	if s.stamp.IsZero() {
		return raw
	}
	// Timestamps are unsigned: a JWS takes one afterwards.
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		n.t.Fatal(err)
	}
	sig, err := base64.RawURLEncoding.DecodeString(m["signature"].(string))
	if err != nil {
		n.t.Fatal(err)
	}
	m["header"].(map[string]any)["io.cncf.notary.timestampSignature"] = n.token(sig, s.stamp)
	if raw, err = json.Marshal(m); err != nil {
		n.t.Fatal(err)
	}
	return raw
}

// token is an RFC 3161 token, without the response around it.
func (n *notary) token(msg []byte, at time.Time) []byte {
	resp := n.w.Timestamp(n.t, msg, at, true)
	ts, err := timestamp.ParseResponse(resp)
	if err != nil {
		n.t.Fatal(err)
	}
	return ts.RawToken
}

func policyJSON(scopes, stores, identities string) json.RawMessage {
	return fmt.Appendf(nil, `{"version":"1.0","trustPolicies":[{"name":"acme","registryScopes":[%s],"signatureVerification":{"level":"strict"},"trustStores":[%s],"trustedIdentities":[%s]}]}`, scopes, stores, identities)
}

const (
	acme    = `"x509.subject: C=US, ST=WA, O=Acme, CN=Release"`
	anyName = `"*"`
)

func (n *notary) document() *foreign.Document {
	return &foreign.Document{Name: "acme", Version: 1, Type: foreign.Notation, Namespaces: []string{"team/**"},
		TrustStores: []foreign.TrustStore{{Type: "ca", Name: "acme", Certificates: certPEM(n.root)},
			{Type: "signingAuthority", Name: "acme", Certificates: certPEM(n.root)}, {Type: "tsa", Name: "acme", Certificates: certPEM(n.w.TSA.Chain[1])}},
		TrustPolicy: policyJSON(`"*"`, `"ca:acme","signingAuthority:acme","tsa:acme"`, acme),
	}
}

var here = foreign.Place{Repository: "team/app"}

func TestNotation(t *testing.T) {
	n := newNotary(t)
	now := n.w.Start.AddDate(1, 0, 0)
	after := n.w.Start.AddDate(5, 0, 0) // the leaf has expired
	stamped := n.w.Start.AddDate(0, 1, 0)
	for what, c := range map[string]struct {
		s      signing
		change func(*foreign.Document)
		at     foreign.Place
		now    time.Time
		want   string // code, or source of the time
		ends   time.Time
	}{
		"JWS":                      {s: signing{}, now: now, want: "", ends: n.chain[0].NotAfter},
		"COSE":                     {s: signing{mediaType: cose.MediaTypeEnvelope}, now: now, want: "", ends: n.chain[0].NotAfter},
		"expires":                  {s: signing{expiry: now.Add(time.Hour)}, now: now, want: "", ends: now.Add(time.Hour)},
		"has expired":              {s: signing{expiry: now}, now: now, want: foreign.CodeNotationExpired},
		"leaf expired":             {s: signing{}, now: after, want: foreign.CodeNotationTime},
		"timestamped":              {s: signing{stamp: stamped}, now: after, want: "tsa"},
		"timestamped too late":     {s: signing{stamp: n.w.Start.AddDate(4, 0, 0)}, now: after, want: foreign.CodeNotationTime},
		"stamp without tsa store":  {s: signing{stamp: stamped}, now: after, want: foreign.CodeNotationTime, change: func(d *foreign.Document) { d.TrustPolicy = policyJSON(`"*"`, `"ca:acme"`, acme) }},
		"stamp asked for":          {s: signing{}, now: now, want: foreign.CodeNotationTime, change: func(d *foreign.Document) { d.Thresholds = &foreign.Thresholds{TSA: 1, Time: 1} }},
		"signing authority":        {s: signing{scheme: signature.SigningSchemeX509SigningAuthority}, now: after, want: "authority"},
		"authority, of the future": {s: signing{scheme: signature.SigningSchemeX509SigningAuthority, at: now.Add(time.Hour)}, now: now, want: foreign.CodeNotationTime},
		"authority, not trusted":   {s: signing{scheme: signature.SigningSchemeX509SigningAuthority}, now: now, want: foreign.CodeNotationUnknown, change: func(d *foreign.Document) { d.TrustPolicy = policyJSON(`"*"`, `"ca:acme"`, acme) }},
		"another name": {s: signing{}, now: now, want: foreign.CodeNotationIdentity, change: func(d *foreign.Document) {
			d.TrustPolicy = policyJSON(`"*"`, `"ca:acme"`, `"x509.subject: C=US, ST=WA, O=Acme, CN=Other"`)
		}},
		"any name":             {s: signing{}, now: now, want: "", ends: n.chain[0].NotAfter, change: func(d *foreign.Document) { d.TrustPolicy = policyJSON(`"*"`, `"ca:acme"`, anyName) }},
		"scope of another":     {s: signing{}, now: now, want: foreign.CodeNotationScope, change: func(d *foreign.Document) { d.TrustPolicy = policyJSON(`"old.example/team/other"`, `"ca:acme"`, acme) }},
		"scope, moved here":    {s: signing{}, now: now, want: "", ends: n.chain[0].NotAfter, change: func(d *foreign.Document) { d.TrustPolicy = policyJSON(`"old.example/team/app"`, `"ca:acme"`, acme) }},
		"scope, there":         {s: signing{}, at: foreign.Place{Registry: "old.example", Repository: "team/app"}, now: now, want: "", ends: n.chain[0].NotAfter, change: func(d *foreign.Document) { d.TrustPolicy = policyJSON(`"old.example/team/app"`, `"ca:acme"`, acme) }},
		"scope, elsewhere":     {s: signing{}, at: foreign.Place{Registry: "new.example", Repository: "team/app"}, now: now, want: foreign.CodeNotationScope, change: func(d *foreign.Document) { d.TrustPolicy = policyJSON(`"old.example/team/app"`, `"ca:acme"`, acme) }},
		"after the window":     {s: signing{stamp: stamped}, now: now, want: foreign.CodeNotationTime, change: func(d *foreign.Document) { d.NotAfter = stamped.Add(-time.Hour) }},
		"critical and unknown": {s: signing{critical: true}, now: now, want: foreign.CodeNotationMalformed},
		"no digest":            {s: signing{content: payload("sha256:00")}, now: now, want: foreign.CodeNotationMalformed},
		"member twice":         {s: signing{mediaType: cose.MediaTypeEnvelope, content: strings.Replace(payload(imageDigest), `{"mediaType"`, `{"digest":"x","mediaType"`, 1)}, now: now, want: foreign.CodeNotationMalformed},
	} {
		d := n.document()
		if c.change != nil {
			c.change(d)
		}
		if c.at == (foreign.Place{}) {
			c.at = here
		}
		raw := n.sign(c.s)
		if !attestation.IsNotation(raw) {
			t.Errorf("%s: is not taken for one", what)
		}
		v, err := compile(t, d).VerifyNotation(t.Context(), raw, c.at, c.now)
		if err != nil {
			if trust.Code(err) != c.want || c.want == "" {
				t.Errorf("%s: %v, want %q", what, err, c.want)
			}
			continue
		}
		if v.TimeSource != c.want || !v.Expires.Equal(c.ends) || v.TrustedTime.IsZero() != (c.want == "") {
			t.Errorf("%s: time source %q of %s, ends %s, want %q and %s", what, v.TimeSource, v.TrustedTime, v.Expires, c.want, c.ends)
		}
		if v.Scheme != trust.SchemeNotation || v.Identity.Issuer != "x509:acme" || !strings.HasPrefix(v.Identity.Subject, "x509.subject:CN=Release,O=Acme") ||
			!v.Subjects[0].Digest.Match(artifact.Digest(imageDigest).Set()) || v.LogIndex != -1 || v.Root != "acme" {
			t.Errorf("%s: %+v", what, v)
		}
	}
}

func TestThreat_Notation_Forgeries(t *testing.T) {
	n, other := newNotary(t), newNotary(t)
	r := compile(t, n.document())
	now := n.w.Start.AddDate(1, 0, 0)
	good := n.sign(signing{})
	edit := func(raw []byte, change func(map[string]any)) []byte {
		var m map[string]any
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		b, _ := json.Marshal(m)
		return b
	}
	stampOfOther := edit(good, func(m map[string]any) {
		m["header"].(map[string]any)["io.cncf.notary.timestampSignature"] = n.token([]byte("other bytes"), n.w.Start.AddDate(0, 1, 0))
	})
	for what, raw := range map[string][]byte{
		"another authority": other.sign(signing{}),
		"payload changed": edit(good, func(m map[string]any) {
			m["payload"] = base64.RawURLEncoding.EncodeToString([]byte(payload("sha256:" + strings.Repeat("0", 64))))
		}),
		"signature changed":           edit(good, func(m map[string]any) { m["signature"] = "AAAA" }),
		"unknown member":              edit(good, func(m map[string]any) { m["signatures"] = []any{} }),
		"stamp over other bytes":      stampOfOther,
		"member twice":                []byte(strings.Replace(string(good), `"payload"`, `"payload":"e30","payload"`, 1)),
		"trailing data":               append(append([]byte{}, good...), '{', '}'),
		"CBOR of nothing":             {0xd2, 0x84, 0x40},
		"deep CBOR":                   append([]byte{0xd2}, []byte(strings.Repeat("\x81", 100_000))...),
		"self-signed, another's name": selfSigned(t, n),
	} {
		if v, err := r.VerifyNotation(t.Context(), raw, here, now); trust.Code(err) == "" {
			t.Errorf("%s: %+v, %v", what, v, err)
		}
	}
	if _, err := r.VerifyNotation(t.Context(), good, here, now); err != nil {
		t.Errorf("the honest one: %v", err)
	}
}

// selfSigned is signed by a certificate with the trusted name that signed itself.
func selfSigned(t testing.TB, n *notary) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: n.chain[0].Subject, NotBefore: n.w.Start, NotAfter: n.w.Start.AddDate(3, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
	evil := *n
	evil.key, evil.chain = key, []*x509.Certificate{trusttest.Certify(t, tmpl, tmpl, key.Public(), key)}
	return evil.sign(signing{})
}

func TestTrustPolicyRefusals(t *testing.T) {
	n := newNotary(t)
	for what, p := range map[string]string{
		"skip":            `{"version":"1.0","trustPolicies":[{"name":"a","registryScopes":["*"],"signatureVerification":{"level":"skip"},"trustStores":[],"trustedIdentities":[]}]}`,
		"audit":           strings.Replace(string(policyJSON(`"*"`, `"ca:acme"`, acme)), "strict", "audit", 1),
		"version":         strings.Replace(string(policyJSON(`"*"`, `"ca:acme"`, acme)), `"1.0"`, `"2.0"`, 1),
		"no scope":        string(policyJSON(``, `"ca:acme"`, acme)),
		"star and others": string(policyJSON(`"*","a/b"`, `"ca:acme"`, acme)),
		"unknown store":   string(policyJSON(`"*"`, `"ca:other"`, acme)),
		"only tsa":        string(policyJSON(`"*"`, `"tsa:acme"`, acme)),
		"no identity":     string(policyJSON(`"*"`, `"ca:acme"`, ``)),
		"star and names":  string(policyJSON(`"*"`, `"ca:acme"`, `"*",`+acme)),
		"short name":      string(policyJSON(`"*"`, `"ca:acme"`, `"x509.subject: CN=Release"`)),
		"odd attribute":   string(policyJSON(`"*"`, `"ca:acme"`, `"x509.subject: C=US, ST=WA, O=Acme, X=1"`)),
		"twice":           string(policyJSON(`"*"`, `"ca:acme"`, `"x509.subject: C=US, ST=WA, O=Acme, O=Other"`)),
		"not a subject":   string(policyJSON(`"*"`, `"ca:acme"`, `"CN=Release"`)),
		"unknown member":  strings.Replace(string(policyJSON(`"*"`, `"ca:acme"`, acme)), `"version"`, `"x":1,"version"`, 1),
	} {
		d := n.document()
		d.TrustPolicy = json.RawMessage(p)
		if _, err := foreign.Compile(d); err == nil {
			t.Errorf("%s: is taken", what)
		}
	}
}

func FuzzVerifyNotation(f *testing.F) {
	n := newNotary(f)
	d := n.document()
	r, err := foreign.Compile(d)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(n.sign(signing{}))
	f.Add(n.sign(signing{mediaType: cose.MediaTypeEnvelope}))
	f.Add(n.sign(signing{stamp: n.w.Start.AddDate(0, 1, 0)}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		v, err := r.VerifyNotation(t.Context(), raw, here, n.w.Start.AddDate(1, 0, 0))
		if err == nil && !v.Subjects[0].Digest.Match(artifact.Digest(imageDigest).Set()) {
			t.Fatalf("accepted for another artifact: %+v", v.Subjects)
		}
		if err != nil && trust.Code(err) == "" {
			t.Fatalf("no code: %v", err)
		}
	})
}
