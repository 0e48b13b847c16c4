package source

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// namespaceGit is what git signs in (git-config(1), gpg.format).
const namespaceGit = "git"

// readSSH reads an armoured SSH signature, with nothing that pem would skip.
func readSSH(armour string) (*sshsig.Signature, error) {
	block, rest := pem.Decode([]byte(armour))
	if block == nil || block.Type != sshsig.PEMType || len(block.Headers) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("the armour of the SSH signature cannot be read")
	}
	sig, err := sshsig.ParseSignature(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("SSH signature: %w", err)
	}
	return sig, nil
}

// sshProof is an SSH signature that verified by the key inside it, which alone
// says nothing of whose key that is.
type sshProof struct {
	key  ssh.PublicKey
	cert *ssh.Certificate // nil: a bare key
}

func verifySSH(payload []byte, armour string) (*sshProof, error) {
	sig, err := readSSH(armour)
	if err != nil {
		return nil, err
	}
	if sig.Namespace != namespaceGit {
		return nil, fmt.Errorf("SSH signature of namespace %.40q, want %q: it was made for something else", sig.Namespace, namespaceGit)
	}
	p := &sshProof{key: sig.PublicKey}
	if cert, ok := sig.PublicKey.(*ssh.Certificate); ok {
		p.cert, p.key = cert, cert.Key
	}
	if err := strongSSH(p.key); err != nil {
		return nil, err
	}
	if err := sshsig.Verify(bytes.NewReader(payload), sig, sig.PublicKey, sig.HashAlgorithm, namespaceGit); err != nil {
		return nil, fmt.Errorf("SSH signature does not verify over the raw bytes: %w", err)
	}
	return p, nil
}

func strongSSH(k ssh.PublicKey) error {
	switch k.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		if c, ok := k.(ssh.CryptoPublicKey); ok {
			if n, ok := rsaBits(c.CryptoPublicKey()); ok && n >= minRSABits {
				return nil
			}
		}
		return fmt.Errorf("RSA key of fewer than %d bits", minRSABits)
	}
	return fmt.Errorf("key of type %.40q is not accepted", k.Type())
}

// by says as whom a line of allowed signers lets the proof stand at t: the
// principal, or why not.
func (p *sshProof) by(s *Signer, t time.Time) (principal string, err error) {
	switch {
	case len(s.Namespaces) > 0 && !anyPattern(s.Namespaces, namespaceGit):
		return "", errors.New("its line is for other namespaces than git")
	case !s.during(t):
		return "", fmt.Errorf("its line does not hold at %s", t.UTC().Format(time.RFC3339))
	case s.Authority != (p.cert != nil):
		return "", errNoMatch
	case !s.Authority:
		if !bytes.Equal(p.key.Marshal(), s.Key.Marshal()) {
			return "", errNoMatch
		}
		return strings.Join(s.Principals, ","), nil
	}
	if !bytes.Equal(p.cert.SignatureKey.Marshal(), s.Key.Marshal()) {
		return "", errNoMatch
	}
	if p.cert.CertType != ssh.UserCert || len(p.cert.ValidPrincipals) == 0 {
		return "", errors.New("its certificate names no user")
	}
	check := ssh.CertChecker{Clock: func() time.Time { return t }}
	for _, name := range p.cert.ValidPrincipals {
		if !anyPattern(s.Principals, name) {
			continue
		}
		if err := check.CheckCert(name, p.cert); err != nil {
			return "", fmt.Errorf("its certificate: %w", err)
		}
		return name, nil
	}
	return "", errors.New("its certificate is for none of the principals of the authority's line")
}

var errNoMatch = errors.New("another key")
