package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"strings"

	"assay/internal/clock"
	"assay/internal/fault"
)

// NewCAChain makes a new authority's certificates, issuing one first, for a
// signer that exists. The root above it is new as well: a chain that follows
// another shares nothing with it, so that the end of one never touches the
// other, and the root's private key is gone when this returns. Nobody can ever
// sign a second intermediate with it.
func NewCAChain(name string, now clock.Clock, signer crypto.Signer) ([]*x509.Certificate, error) {
	in := initialiser{opts: InitOptions{Name: name, Clock: now}}
	return newChain(in.caTemplates, name, signer)
}

// NewTSAChain is NewCAChain for a time stamp authority.
func NewTSAChain(name string, now clock.Clock, signer crypto.Signer) ([]*x509.Certificate, error) {
	in := initialiser{opts: InitOptions{Name: name, Clock: now}}
	return newChain(in.tsaTemplates, name, signer)
}

func newChain(templates func(root, leaf crypto.PublicKey) (r, l *x509.Certificate, err error), name string, signer crypto.Signer) ([]*x509.Certificate, error) {
	if name == "" || len(name) > 64 || strings.ToValidUTF8(name, "") != name {
		return nil, fault.Newf(fault.Invalid, "authority: name %.80q: want 1 to 64 bytes", name)
	}
	if err := p256(signer.Public()); err != nil {
		return nil, err
	}
	root, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	rootTmpl, leafTmpl, err := templates(root.Public(), signer.Public())
	if err != nil {
		return nil, err
	}
	rootCert, err := signCert(rootTmpl, rootTmpl, root.Public(), root)
	if err != nil {
		return nil, err
	}
	leafCert, err := signCert(leafTmpl, rootCert, signer.Public(), root)
	if err != nil {
		return nil, err
	}
	chain := []*x509.Certificate{leafCert, rootCert}
	return chain, checkChain("that were just made", chain, signer)
}
