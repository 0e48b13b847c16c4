package source

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

const minRSABits = 2048

func rsaBits(k crypto.PublicKey) (int, bool) {
	r, ok := k.(*rsa.PublicKey)
	if !ok {
		return 0, false
	}
	return r.N.BitLen(), true
}

// readKeyring reads public keys in their armour.
func readKeyring(armoured string) (openpgp.EntityList, error) {
	list, err := openpgp.ReadArmoredKeyRing(strings.NewReader(armoured))
	if err != nil {
		return nil, fmt.Errorf("PGP public key: %w", err)
	}
	for _, e := range list {
		if e.PrivateKey != nil {
			return nil, errors.New("PGP public key: this is a private key; write gpg --armor --export instead")
		}
	}
	return list, nil
}

// verifyPGP verifies a detached signature over the raw payload by one of the
// keys, at t: expired and revoked keys, weak hashes and short RSA keys do not
// count. It gives the primary key's fingerprint.
func verifyPGP(payload []byte, armoured string, keys openpgp.EntityList, t time.Time) (fingerprint string, err error) {
	// A panic over hostile packets is a signature that does not verify.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("PGP signature cannot be read: %v", p)
		}
	}()
	block, err := armor.Decode(strings.NewReader(armoured))
	if err != nil || block.Type != openpgp.SignatureType {
		return "", errors.New("the armour of the PGP signature cannot be read")
	}
	var raw bytes.Buffer
	if _, err := raw.ReadFrom(block.Body); err != nil {
		return "", fmt.Errorf("PGP signature: %w", err)
	}
	made, err := oneSignature(raw.Bytes())
	if err != nil {
		return "", err
	}
	// Git writes the commit's time before it asks for the signature, and somebody
	// may have to type first. Both times are the signer's word.
	if made.After(t) && made.Sub(t) <= maxSigning {
		t = made
	}
	conf := &packet.Config{
		Time: func() time.Time { return t }, MinRSABits: minRSABits,
		RejectMessageHashAlgorithms: map[crypto.Hash]bool{crypto.MD5: true, crypto.SHA1: true, crypto.RIPEMD160: true},
		RejectHashAlgorithms:        map[crypto.Hash]bool{crypto.MD5: true, crypto.RIPEMD160: true},
	}
	e, err := openpgp.CheckDetachedSignature(keys, bytes.NewReader(payload), &raw, conf)
	if err != nil {
		return "", fmt.Errorf("PGP signature: %w", err)
	}
	return fmt.Sprintf("%X", e.PrimaryKey.Fingerprint), nil
}

// maxSigning is how long after the time that an object has it may have been signed.
const maxSigning = 10 * time.Minute

// oneSignature refuses packets beside the one signature, since which of several
// counts would be each reader's own choice, and gives the time that it says.
func oneSignature(raw []byte) (made time.Time, err error) {
	r := packet.NewReader(bytes.NewReader(raw))
	n := 0
	for {
		p, err := r.Next()
		if err != nil {
			break
		}
		sig, ok := p.(*packet.Signature)
		if !ok {
			return made, errors.New("PGP signature: another packet beside it")
		}
		made = sig.CreationTime
		n++
	}
	if n != 1 {
		return made, fmt.Errorf("%d PGP signatures in one armour, want one", n)
	}
	return made, nil
}
