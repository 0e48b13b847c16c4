package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var oidSCTList = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}

const maxSCTs = 16

// sct is a SignedCertificateTimestamp, RFC 6962 section 3.2.
type sct struct {
	logID      []byte
	timestamp  uint64 // milliseconds since the epoch
	extensions []byte
	hash, alg  uint8 // TLS HashAlgorithm and SignatureAlgorithm
	signature  []byte
}

func (s *sct) time() time.Time { return time.UnixMilli(int64(s.timestamp)).UTC() }

// verifySCTs counts the CT logs of the root that promised to log leaf, which
// issuer issued (RFC 6962, section 3.2, precert_entry). An SCT of a log that
// the root does not name is skipped; one that a known log made in its window
// and that does not verify is a forgery and refuses the certificate.
func (r *Root) verifySCTs(leaf, issuer *x509.Certificate, want int) (int, error) {
	if want <= 0 {
		return 0, nil
	}
	scts, err := parseSCTs(leaf)
	if err != nil {
		return 0, err
	}
	var signed []byte
	var last error
	seen := map[string]bool{}
	for _, s := range scts {
		for _, l := range r.ctlogs {
			if l.id != string(s.logID) {
				continue
			}
			if !l.window.Contains(s.time()) {
				last = refuse(CodeSCTInvalid, "SCT of log %s is of %s, but the trusted root trusts that log's key only %s", l.url, stamp(s.time()), l.window)
				continue
			}
			if signed == nil {
				if signed, err = precertTBS(leaf); err != nil {
					return 0, err
				}
			}
			if !r.verifySCT(l, s, issuer, signed) {
				return 0, refuse(CodeSCTInvalid, "SCT of log %s does not verify: the certificate was not logged as it stands, or the trusted root holds another key of that log", l.url)
			}
			seen[l.party()] = true
		}
	}
	if len(seen) < want {
		if last != nil {
			return len(seen), last
		}
		return len(seen), refuse(CodeSCTMissing, "certificate carries SCTs of %d known CT logs, want %d; found %d SCTs in all; check that the trusted root holds the CT log's key", len(seen), want, len(scts))
	}
	return len(seen), nil
}

func (r *Root) verifySCT(l *logKey, s *sct, issuer *x509.Certificate, tbs []byte) bool {
	if s.hash != 4 { // SHA-256, the only one that RFC 6962 allows
		return false
	}
	switch l.pub.(type) {
	case *ecdsa.PublicKey:
		if s.alg != 3 {
			return false
		}
	case *rsa.PublicKey:
		if s.alg != 1 {
			return false
		}
	case ed25519.PublicKey:
		return false
	}
	b := make([]byte, 0, 64+len(tbs)+len(s.extensions))
	b = append(b, 0, 0) // version v1, signature type certificate_timestamp
	b = binary.BigEndian.AppendUint64(b, s.timestamp)
	b = append(b, 0, 1) // entry type precert_entry
	ikh := sha256.Sum256(issuer.RawSubjectPublicKeyInfo)
	b = append(b, ikh[:]...)
	b = append(b, byte(len(tbs)>>16), byte(len(tbs)>>8), byte(len(tbs)))
	b = append(b, tbs...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.extensions)))
	b = append(b, s.extensions...)
	return r.facts.digest(l.verifyKey, crypto.SHA256, sum(crypto.SHA256, b), s.signature)
}

// parseSCTs reads the embedded SignedCertificateTimestampList, RFC 6962
// section 3.3. A certificate without one has none; a malformed one is refused.
func parseSCTs(c *x509.Certificate) ([]*sct, error) {
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidSCTList) {
			continue
		}
		ext := cryptobyte.String(e.Value)
		var list, inner cryptobyte.String
		if !ext.ReadASN1(&list, cbasn1.OCTET_STRING) || !ext.Empty() || !list.ReadUint16LengthPrefixed(&inner) || !list.Empty() {
			return nil, refuse(CodeCertMalformed, "signing certificate: SCT list does not parse")
		}
		var out []*sct
		for !inner.Empty() {
			var one cryptobyte.String
			if !inner.ReadUint16LengthPrefixed(&one) || len(out) == maxSCTs {
				return nil, refuse(CodeCertMalformed, "signing certificate: SCT list does not parse or has more than %d SCTs", maxSCTs)
			}
			s, ok := parseSCT(one)
			if !ok {
				return nil, refuse(CodeCertMalformed, "signing certificate: SCT %d does not parse", len(out))
			}
			if s != nil {
				out = append(out, s)
			}
		}
		return out, nil
	}
	return nil, nil
}

// parseSCT reads one SCT; an SCT of a later version is nil and true.
func parseSCT(b cryptobyte.String) (*sct, bool) {
	var version uint8
	if !b.ReadUint8(&version) {
		return nil, false
	}
	if version != 0 {
		return nil, true
	}
	s := &sct{}
	var ext, sig cryptobyte.String
	ok := b.ReadBytes(&s.logID, 32) && b.ReadUint64(&s.timestamp) && b.ReadUint16LengthPrefixed(&ext) &&
		b.ReadUint8(&s.hash) && b.ReadUint8(&s.alg) && b.ReadUint16LengthPrefixed(&sig) && b.Empty() && s.timestamp < 1<<62/1000
	s.extensions, s.signature = ext, sig
	return s, ok
}

// precertTBS is the certificate's TBSCertificate without its SCT list: what
// the CA submitted to the log. Every other byte stays as it is.
func precertTBS(c *x509.Certificate) ([]byte, error) {
	bad := func() ([]byte, error) {
		return nil, refuse(CodeCertMalformed, "signing certificate: its TBSCertificate does not parse")
	}
	in := cryptobyte.String(c.RawTBSCertificate)
	var tbs cryptobyte.String
	if !in.ReadASN1(&tbs, cbasn1.SEQUENCE) || !in.Empty() {
		return bad()
	}
	var out cryptobyte.Builder
	ok := true
	out.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for !tbs.Empty() {
			var el cryptobyte.String
			var tag cbasn1.Tag
			if !tbs.ReadAnyASN1Element(&el, &tag) {
				ok = false
				return
			}
			if tag != cbasn1.Tag(3).Constructed().ContextSpecific() {
				b.AddBytes(el)
				continue
			}
			ok = dropSCTList(b, el, tag) && tbs.Empty()
		}
	})
	b, err := out.Bytes()
	if err != nil || !ok {
		return bad()
	}
	return b, nil
}

// dropSCTList copies the extensions element without the SCT list.
func dropSCTList(b *cryptobyte.Builder, el cryptobyte.String, tag cbasn1.Tag) bool {
	var wrap, exts cryptobyte.String
	if !el.ReadASN1(&wrap, tag) || !wrap.ReadASN1(&exts, cbasn1.SEQUENCE) || !wrap.Empty() {
		return false
	}
	ok := true
	b.AddASN1(tag, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for !exts.Empty() {
				var one, body cryptobyte.String
				var oid asn1.ObjectIdentifier
				if !exts.ReadASN1Element(&one, cbasn1.SEQUENCE) {
					ok = false
					return
				}
				peek := one
				if !peek.ReadASN1(&body, cbasn1.SEQUENCE) || !body.ReadASN1ObjectIdentifier(&oid) {
					ok = false
					return
				}
				if !oid.Equal(oidSCTList) {
					b.AddBytes(one)
				}
			}
		})
	})
	return ok
}
