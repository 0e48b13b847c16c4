package authority

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/identity"

	"github.com/sigstore/fulcio/pkg/certificate"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// The whole way with sigstore-go's own clients and its own verifier: a token,
// a certificate with an SCT, a timestamp, a bundle.
func TestSigstoreClients(t *testing.T) {
	s := newSite(t, siteOptions{})
	for _, c := range []struct {
		name    string
		subject string
		alg     protocommon.PublicKeyDetails
	}{
		{"p256 email", "alice@example.com", protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256},
		{"p384 uri", "https://ci.example.com/jobs/7", protocommon.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384},
		{"p521 spiffe", "spiffe://example.com/ns/build", protocommon.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512},
		{"rsa2048", "carol@example.com", protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256},
	} {
		t.Run(c.name, func(t *testing.T) {
			keypair, err := sign.NewEphemeralKeypair(&sign.EphemeralKeypairOptions{Algorithm: c.alg})
			must(t, err)
			content := []byte("hello " + c.name)
			b, err := sign.Bundle(&sign.PlainData{Data: content}, keypair, sign.BundleOptions{
				CertificateProvider:        sign.NewFulcio(&sign.FulcioOptions{BaseURL: s.URL + "/fulcio"}),
				CertificateProviderOptions: &sign.CertificateProviderOptions{IDToken: s.mint(t, c.subject, identity.AudienceSigstore)},
				TimestampAuthorities: []*sign.TimestampAuthority{
					sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: s.URL + "/tsa/api/v1/timestamp"}),
				},
				Context: bg,
			})
			must(t, err)
			pb, err := bundle.NewBundle(b)
			must(t, err)
			v, err := verify.NewVerifier(&trusted{s: s}, verify.WithSignedCertificateTimestamps(1), verify.WithSignedTimestamps(1))
			must(t, err)
			check := func(san, issuer string, content []byte) error {
				id, err := verify.NewShortCertificateIdentity(issuer, "", san, "")
				must(t, err)
				_, err = v.Verify(pb, verify.NewPolicy(verify.WithArtifact(bytes.NewReader(content)), verify.WithCertificateIdentity(id)))
				return err
			}
			if err := check(c.subject, s.issuer.URL(), content); err != nil {
				t.Error(err)
			}
			if check("mallory@example.com", s.issuer.URL(), content) == nil || check(c.subject, s.issuer.URL()+"x", content) == nil || check(c.subject, s.issuer.URL(), []byte("x")) == nil {
				t.Error("another identity, issuer or content was accepted")
			}
			// Another installation does not vouch for it.
			foreign, err := verify.NewVerifier(&trusted{s: newSite(t, siteOptions{})}, verify.WithSignedCertificateTimestamps(1), verify.WithSignedTimestamps(1))
			must(t, err)
			if _, err := foreign.Verify(pb, verify.NewPolicy(verify.WithArtifact(bytes.NewReader(content)), verify.WithoutIdentitiesUnsafe())); err == nil {
				t.Error("another installation's roots accepted it")
			}
			leaf, err := x509.ParseCertificate(b.GetVerificationMaterial().GetCertificate().GetRawBytes())
			must(t, err)
			checkLeaf(t, s, leaf, c.subject)
		})
	}
	evs := s.events(t, event.CertificateIssued)
	if len(evs) != 4 {
		t.Fatalf("%d events certificate.issued, want 4", len(evs))
	}
	for _, e := range evs {
		var body certificateBody
		must(t, e.Decode(&body))
		if !strings.HasPrefix(e.Actor, s.issuer.URL()+"#") || !strings.HasSuffix(e.Actor, body.Subject) || e.Digest == "" || body.Serial == "" || len(body.Key) != 64 {
			t.Errorf("event %+v", e)
		}
	}
}

// sigstore-go makes no bundle of plain data with Ed25519, but gets certificates.
func TestSigstoreClientEd25519(t *testing.T) {
	s := newSite(t, siteOptions{})
	keypair, err := sign.NewEphemeralKeypair(&sign.EphemeralKeypairOptions{Algorithm: protocommon.PublicKeyDetails_PKIX_ED25519})
	must(t, err)
	der, err := sign.NewFulcio(&sign.FulcioOptions{BaseURL: s.URL + "/fulcio"}).GetCertificate(bg, keypair,
		&sign.CertificateProviderOptions{IDToken: s.mint(t, "bob@example.com", identity.AudienceSigstore)})
	must(t, err)
	leaf, err := x509.ParseCertificate(der)
	must(t, err)
	checkLeaf(t, s, leaf, "bob@example.com")
	chains, err := verify.VerifyLeafCertificate(time.Now(), leaf, &trusted{s: s})
	must(t, err)
	must(t, verify.VerifySignedCertificateTimestamp(chains, 1, &trusted{s: s}))
}

// checkLeaf holds a certificate against Fulcio's certificate specification.
func checkLeaf(t *testing.T, s *site, leaf *x509.Certificate, subject string) {
	t.Helper()
	if leaf.NotAfter.Sub(leaf.NotBefore) != LeafLife || leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature ||
		len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageCodeSigning || leaf.SerialNumber.Sign() <= 0 || leaf.SerialNumber.BitLen() > 159 {
		t.Errorf("leaf: valid %s, CA %v, usage %v %v, serial %x", leaf.NotAfter.Sub(leaf.NotBefore), leaf.IsCA, leaf.KeyUsage, leaf.ExtKeyUsage, leaf.SerialNumber)
	}
	if !bytes.Equal(leaf.RawSubject, []byte{0x30, 0}) {
		t.Errorf("subject is not empty: %s", leaf.Subject)
	}
	var san []string
	san = append(san, leaf.EmailAddresses...)
	for _, u := range leaf.URIs {
		san = append(san, u.String())
	}
	if len(san) != 1 || san[0] != subject || len(leaf.DNSNames)+len(leaf.IPAddresses) != 0 {
		t.Errorf("names %v, want %s alone", san, subject)
	}
	critical := false
	for _, e := range leaf.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			critical = e.Critical
		}
	}
	if !critical {
		t.Error("the subject alternative name is not critical, and the subject is empty (RFC 5280, 4.2.1.6)")
	}
	if last := leaf.Extensions[len(leaf.Extensions)-1]; !last.Id.Equal(oidSCTList) {
		t.Errorf("the last extension is %s, want the SCT list", last.Id)
	}
	ext, err := certificate.ParseExtensions(leaf.Extensions)
	must(t, err)
	if want := (certificate.Extensions{Issuer: s.issuer.URL(), Subject: subject}); ext != want {
		t.Errorf("extensions %+v, want %+v", ext, want)
	}
	if leaf.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		t.Errorf("signed with %s", leaf.SignatureAlgorithm)
	}
}

// A restart changes nothing: what was signed before verifies with what is
// trusted after.
func TestRestart(t *testing.T) {
	before := newSite(t, siteOptions{})
	after := newSite(t, siteOptions{dir: before.dir})
	for i := range before.material.CAChain {
		if !before.material.CAChain[i].Equal(after.material.CAChain[i]) || !before.material.TSAChain[i].Equal(after.material.TSAChain[i]) {
			t.Errorf("certificate %d changed", i)
		}
	}
	if before.issuer.current.Load().kid != after.issuer.current.Load().kid {
		t.Error("the issuer's key changed")
	}
}

// The log is asked for exactly the TBSCertificate that verifiers rebuild, and
// an SCT of another certificate does not pass.
func TestSCTIsOfThisCertificate(t *testing.T) {
	s := newSite(t, siteOptions{})
	issue := func() *x509.Certificate {
		chain, err := s.ca.Issue(bg, identity.Principal{}, verifiedToken(t, s, "alice@example.com"), testKey.Public(), prove(t, "alice@example.com"))
		must(t, err)
		if len(chain) != 3 {
			t.Fatalf("chain of %d, want leaf, intermediate, root", len(chain))
		}
		return chain[0]
	}
	a, b := issue(), issue()
	sct := func(c *x509.Certificate) error {
		return verify.VerifySignedCertificateTimestamp([][]*x509.Certificate{{c, s.material.CAChain[0]}}, 1, &trusted{s: s})
	}
	if err := sct(a); err != nil {
		t.Fatal(err)
	}
	if err := sct(b); err != nil {
		t.Fatal(err)
	}
	// b's SCT in a: same names, another serial.
	tmpl := *a
	tmpl.ExtraExtensions = nil
	for _, e := range a.Extensions {
		if e.Id.Equal(oidSCTList) {
			e = b.Extensions[len(b.Extensions)-1]
		}
		tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, e)
	}
	mixed, err := sign2(&tmpl, s)
	must(t, err)
	if err := sct(mixed); err == nil {
		t.Error("the SCT of another certificate was accepted")
	}
	if artifact.SHA256Of(s.log.tbs[0]) == artifact.SHA256Of(s.log.tbs[1]) {
		t.Error("two certificates have one TBSCertificate")
	}
}

func sign2(tmpl *x509.Certificate, s *site) (*x509.Certificate, error) {
	return signCert(tmpl, s.material.CAChain[0], tmpl.PublicKey, s.material.CASigner)
}

// A certificate of ten minutes is refused by a verifier that sees a timestamp
// of later.
func TestLeafExpires(t *testing.T) {
	s := newSite(t, siteOptions{})
	chain, err := s.ca.Issue(bg, identity.Principal{}, verifiedToken(t, s, "alice@example.com"), testKey.Public(), prove(t, "alice@example.com"))
	must(t, err)
	if _, err := verify.VerifyLeafCertificate(time.Now(), chain[0], &trusted{s: s}); err != nil {
		t.Error(err)
	}
	for _, at := range []time.Duration{-time.Minute, LeafLife + time.Minute} {
		if _, err := verify.VerifyLeafCertificate(time.Now().Add(at), chain[0], &trusted{s: s}); err == nil {
			t.Errorf("valid at %s from now", at)
		}
	}
}
