package trust

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"sync"
	"time"

	trustpb "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
)

var oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}

// authority is a certificate or timestamp authority of a root: its chain as
// configured, leaf side first, trust anchor last.
type authority struct {
	uri      string
	operator string
	window   Window
	eku      x509.ExtKeyUsage
	chain    []*x509.Certificate // without the TSA's leaf
	leaf     *x509.Certificate   // a TSA's signing certificate, when configured
	anchors  []*anchor           // the certificates of chain that may issue
}

// anchor is one issuing certificate of an authority together with its path to
// the trust anchor. The path's signatures and constraints are checked once, at
// first use; its windows are checked at each trusted time.
type anchor struct {
	cert *x509.Certificate
	path []*x509.Certificate // cert first, trust anchor last
	sum  [32]byte            // SHA-256 of cert.Raw
	eku  x509.ExtKeyUsage

	once  sync.Once
	pool  *x509.CertPool // cert alone
	err   error          // why this certificate cannot issue
	whole bool           // constraints above cert apply to leaves: verify with the whole path each time
}

func (a *authority) party() string {
	if a.operator != "" {
		return a.operator
	}
	if a.uri != "" {
		return a.uri
	}
	last := a.chain[len(a.chain)-1]
	return string(last.RawSubjectPublicKeyInfo)
}

func (a *authority) String() string {
	if a.uri != "" {
		return a.uri
	}
	return a.chain[len(a.chain)-1].Subject.String()
}

func parseAuthorities(kind string, in []*trustpb.CertificateAuthority, eku x509.ExtKeyUsage) ([]*authority, error) {
	var out []*authority
	for i, ca := range in {
		where := fmt.Sprintf("%s[%d]", kind, i)
		if ca.GetUri() != "" {
			where += " " + ca.GetUri()
		}
		w, err := parseWindow(where, ca.GetValidFor())
		if err != nil {
			return nil, err
		}
		ders := ca.GetCertChain().GetCertificates()
		if len(ders) == 0 || len(ders) > maxChain {
			return nil, refuse(CodeRootMalformed, "trusted root: %s: certChain has %d certificates, want 1 to %d", where, len(ders), maxChain)
		}
		a := &authority{uri: ca.GetUri(), operator: ca.GetOperator(), window: w, eku: eku}
		for j, der := range ders {
			c, err := x509.ParseCertificate(der.GetRawBytes())
			if err != nil {
				return nil, refuse(CodeRootMalformed, "trusted root: %s: certificate %d: %w", where, j, err)
			}
			if _, err := newVerifyKey(c.PublicKey); err != nil {
				return nil, refuse(CodeRootMalformed, "trusted root: %s: certificate %d: %w", where, j, err)
			}
			switch {
			case c.IsCA:
				a.chain = append(a.chain, c)
			case j == 0 && eku == x509.ExtKeyUsageTimeStamping && len(ders) > 1:
				a.leaf = c
			default:
				return nil, refuse(CodeRootMalformed, "trusted root: %s: certificate %d (%s) is no certificate authority", where, j, c.Subject)
			}
		}
		for j, c := range a.chain {
			a.anchors = append(a.anchors, &anchor{cert: c, path: a.chain[j:], sum: sha256.Sum256(c.Raw), eku: eku})
		}
		out = append(out, a)
	}
	return out, nil
}

// check verifies the path above the certificate, once.
func (an *anchor) check() error {
	an.once.Do(func() {
		an.pool = x509.NewCertPool()
		an.pool.AddCert(an.cert)
		an.err = an.verifyPath()
	})
	return an.err
}

func (an *anchor) verifyPath() error {
	roots, inter, at := x509.NewCertPool(), x509.NewCertPool(), an.cert.NotBefore
	for j, up := range an.path {
		// A certificate j steps above the issuer has j intermediates below it
		// (RFC 5280, section 4.2.1.9).
		if (up.MaxPathLen > 0 || up.MaxPathLenZero) && up.MaxPathLen < j {
			return fmt.Errorf("path length constraint of %s", up.Subject)
		}
		if j > 0 && constrainsNames(up) {
			an.whole = true
		}
		if inter.AddCert(up); up.NotBefore.After(at) {
			at = up.NotBefore
		}
	}
	if len(an.path) == 1 {
		return nil // the trust anchor itself
	}
	roots.AddCert(an.path[len(an.path)-1])
	_, err := an.cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{an.eku}})
	return err
}

func constrainsNames(c *x509.Certificate) bool {
	return len(c.PermittedDNSDomains)+len(c.ExcludedDNSDomains)+len(c.PermittedEmailAddresses)+len(c.ExcludedEmailAddresses)+
		len(c.PermittedURIDomains)+len(c.ExcludedURIDomains)+len(c.PermittedIPRanges)+len(c.ExcludedIPRanges) > 0
}

// certWindow is the validity of a certificate.
func certWindow(c *x509.Certificate) Window { return Window{c.NotBefore, c.NotAfter} }

// pathAt finds a valid path for leaf at time t: RFC 5280 section 6 with t as
// current time, every certificate up to the anchor valid at t ("hybrid model"
// of the Sigstore client specification). issued says whether the authority
// issued leaf at all, so that the caller can tell a stranger from a failure.
func (a *authority) pathAt(f *facts, leaf *x509.Certificate, t time.Time) (path []*x509.Certificate, issued bool, err error) {
	for _, an := range a.anchors {
		if !bytes.Equal(an.cert.RawSubject, leaf.RawIssuer) {
			continue
		}
		if len(leaf.AuthorityKeyId) > 0 && len(an.cert.SubjectKeyId) > 0 && !bytes.Equal(leaf.AuthorityKeyId, an.cert.SubjectKeyId) {
			continue
		}
		if err = a.verifyLeaf(f, an, leaf, t); err == nil {
			return append([]*x509.Certificate{leaf}, an.path...), true, nil
		}
		issued = true
	}
	return nil, issued, err
}

func (a *authority) verifyLeaf(f *facts, an *anchor, leaf *x509.Certificate, t time.Time) error {
	if err := an.check(); err != nil {
		return refuse(CodeCertChain, "certificate chain of %s: %w; the trusted root's chain is broken, ask its operator", a, err)
	}
	if !a.window.Contains(t) {
		return refuse(CodeCertOutside, "signed at %s, but the trusted root trusts authority %s only %s", stamp(t), a, a.window)
	}
	for _, c := range an.path {
		if !certWindow(c).Contains(t) {
			return refuse(CodeCertOutside, "signed at %s, but certificate %q of authority %s is valid only %s", stamp(t), c.Subject, a, certWindow(c))
		}
	}
	if !certWindow(leaf).Contains(t) {
		return refuse(CodeCertOutside, "signed at %s, but the signing certificate is valid only %s", stamp(t), certWindow(leaf))
	}
	var buf [64]byte
	lsum := sha256.Sum256(leaf.Raw)
	key := sha256.Sum256(append(append(append(buf[:0], an.sum[:]...), byte(a.eku)), lsum[:]...))
	if f.has(key) {
		return nil
	}
	opts := x509.VerifyOptions{Roots: an.pool, CurrentTime: t, KeyUsages: []x509.ExtKeyUsage{a.eku}}
	if an.whole {
		opts.Roots, opts.Intermediates = x509.NewCertPool(), x509.NewCertPool()
		opts.Roots.AddCert(an.path[len(an.path)-1])
		for _, c := range an.path {
			opts.Intermediates.AddCert(c)
		}
	}
	if _, err := leaf.Verify(opts); err != nil {
		return refuse(CodeCertChain, "certificate issued in the name of %s does not verify: %w", a, err)
	}
	f.add(key)
	return nil
}

// knows says whether c, byte for byte, is one of the authorities' own.
func (r *Root) knows(c *x509.Certificate) bool {
	for _, ca := range r.cas {
		for _, have := range ca.chain {
			if bytes.Equal(have.Raw, c.Raw) {
				return true
			}
		}
	}
	return false
}

// refuseRoots refuses a bundle that brings a root of its own, which a careless
// client might trust. The one exception says nothing new: npm and
// slsa-github-generator used to repeat the very root that the trusted root holds.
func (r *Root) refuseRoots(m *material) error {
	for _, c := range m.roots {
		if !r.knows(c) {
			return refuse(CodeCertRootInChain, "bundle: its chain holds a self-signed certificate (%q) that is not of the trusted root; a bundle brings no root", c.Subject)
		}
	}
	return nil
}

// stamp shows a time in messages.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// parseLeaf reads a signing certificate: no authority, for digital signatures,
// with nothing critical that nobody looked at.
//
// parsed saves the parsing when it is of these very bytes; it is copied, since
// its list of unhandled extensions changes.
func parseLeaf(der []byte, parsed *x509.Certificate) (*x509.Certificate, error) {
	c := &x509.Certificate{}
	if parsed != nil && bytes.Equal(parsed.Raw, der) {
		*c = *parsed
	} else if p, err := x509.ParseCertificate(der); err != nil {
		return nil, refuse(CodeCertMalformed, "signing certificate: %w", err)
	} else {
		c = p
	}
	if c.IsCA {
		return nil, refuse(CodeCertMalformed, "signing certificate: want an end-entity certificate, found a certificate authority")
	}
	if c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, refuse(CodeCertMalformed, "signing certificate: key usage lacks digitalSignature")
	}
	// crypto/x509 leaves a SAN of only otherNames unhandled; identity.go reads it.
	var rest []asn1.ObjectIdentifier
	for _, oid := range c.UnhandledCriticalExtensions {
		if !oid.Equal(oidSAN) {
			rest = append(rest, oid)
		}
	}
	c.UnhandledCriticalExtensions = rest
	return c, nil
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer)
}
