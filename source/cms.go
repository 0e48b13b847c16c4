package source

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"google.golang.org/protobuf/proto"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/strictjson"
)

// The object identifiers of CMS (RFC 5652), of the timestamp attribute
// (RFC 3161, appendix A) and of gitsign's log entry.
var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidData          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidTimestamp     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 14}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidLogEntry      = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 3, 1}
)

// Bounds on a CMS signature.
const (
	maxCMS          = 256 << 10
	maxCertificates = 10
	maxAttributes   = 32
)

var errCMS = errors.New("CMS signature: not of the form that gitsign writes (one signer, detached, signed attributes, DER)")

// cmsSignature is what a CMS signature consists of.
type cmsSignature struct {
	leaf        *x509.Certificate
	signedAttrs []byte // as signed: a DER SET
	signature   []byte
	entries     [][]byte // of the log
	timestamps  [][]byte // tokens
}

// readCMS reads a detached SignedData with one signer and checks that its
// signed attributes are about payload. The signature itself is verified by who
// has the roots.
func readCMS(payload []byte, armour string) (*cmsSignature, error) {
	block, rest := pem.Decode([]byte(armour))
	if block == nil || block.Type != "SIGNED MESSAGE" || len(block.Headers) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("the armour of the CMS signature cannot be read")
	}
	if len(block.Bytes) > maxCMS {
		return nil, fmt.Errorf("CMS signature of %d bytes, at most %d are read", len(block.Bytes), maxCMS)
	}
	der := cryptobyte.String(block.Bytes)
	var info, wrapped, sd, algs, encap, certs, signers cryptobyte.String
	var kind, inner asn1.ObjectIdentifier
	var version int
	var hasCerts bool
	if !der.ReadASN1(&info, cbasn1.SEQUENCE) || !der.Empty() || !info.ReadASN1ObjectIdentifier(&kind) || !kind.Equal(oidSignedData) ||
		!info.ReadASN1(&wrapped, tag(0)) || !info.Empty() || !wrapped.ReadASN1(&sd, cbasn1.SEQUENCE) || !wrapped.Empty() ||
		!sd.ReadASN1Integer(&version) || !sd.ReadASN1(&algs, cbasn1.SET) || !sd.ReadASN1(&encap, cbasn1.SEQUENCE) ||
		!encap.ReadASN1ObjectIdentifier(&inner) || !inner.Equal(oidData) || !encap.Empty() ||
		!sd.ReadOptionalASN1(&certs, &hasCerts, tag(0)) || !hasCerts || !sd.SkipOptionalASN1(tag(1)) ||
		!sd.ReadASN1(&signers, cbasn1.SET) || !sd.Empty() {
		return nil, errCMS
	}
	var signer cryptobyte.String
	if !signers.ReadASN1(&signer, cbasn1.SEQUENCE) || !signers.Empty() {
		return nil, errCMS
	}
	return readSigner(payload, signer, certs)
}

func tag(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }

func readSigner(payload []byte, s, certs cryptobyte.String) (*cmsSignature, error) {
	var sid, alg, sigAlg, signed, unsigned cryptobyte.String
	var sidTag cbasn1.Tag
	var hash asn1.ObjectIdentifier
	var version int
	var hasUnsigned bool
	out := &cmsSignature{}
	if !s.ReadASN1Integer(&version) || !s.ReadAnyASN1(&sid, &sidTag) || !s.ReadASN1(&alg, cbasn1.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&hash) ||
		!s.ReadASN1Element(&signed, tag(0)) || !s.ReadASN1(&sigAlg, cbasn1.SEQUENCE) ||
		!s.ReadASN1Bytes(&out.signature, cbasn1.OCTET_STRING) || !s.ReadOptionalASN1(&unsigned, &hasUnsigned, tag(1)) || !s.Empty() {
		return nil, errCMS
	}
	if !hash.Equal(oidSHA256) {
		return nil, errors.New("CMS signature: digest algorithm is not SHA-256")
	}
	// RFC 5652, 5.4: signed with the tag of a SET.
	out.signedAttrs = append([]byte{0x31}, signed[1:]...)
	set := cryptobyte.String(out.signedAttrs)
	if !set.ReadASN1(&set, cbasn1.SET) {
		return nil, errCMS
	}
	attrs, err := readAttributes(set)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(payload)
	var kind asn1.ObjectIdentifier
	var digest []byte
	ct, md := attrs[oidContentType.String()], attrs[oidMessageDigest.String()]
	if len(ct) != 1 || !ct[0].ReadASN1ObjectIdentifier(&kind) || !kind.Equal(oidData) || len(md) != 1 || !md[0].ReadASN1Bytes(&digest, cbasn1.OCTET_STRING) {
		return nil, errCMS
	}
	if !bytes.Equal(digest, sum[:]) {
		return nil, errors.New("CMS signature is over other bytes than the raw object's")
	}
	if out.leaf, err = signerCertificate(certs, sid, sidTag); err != nil {
		return nil, err
	}
	if hasUnsigned {
		if attrs, err = readAttributes(unsigned); err != nil {
			return nil, err
		}
		for _, v := range attrs[oidLogEntry.String()] {
			var entry []byte
			if !v.ReadASN1Bytes(&entry, cbasn1.OCTET_STRING) {
				return nil, errCMS
			}
			out.entries = append(out.entries, entry)
		}
		for _, v := range attrs[oidTimestamp.String()] {
			out.timestamps = append(out.timestamps, v)
		}
	}
	return out, nil
}

// readAttributes gives the values by the attribute's identifier; one that
// stands twice is an error.
func readAttributes(set cryptobyte.String) (map[string][]cryptobyte.String, error) {
	out := map[string][]cryptobyte.String{}
	for !set.Empty() {
		var attr, values, v cryptobyte.String
		var id asn1.ObjectIdentifier
		var t cbasn1.Tag
		if len(out) == maxAttributes || !set.ReadASN1(&attr, cbasn1.SEQUENCE) || !attr.ReadASN1ObjectIdentifier(&id) ||
			!attr.ReadASN1(&values, cbasn1.SET) || !attr.Empty() || out[id.String()] != nil {
			return nil, errCMS
		}
		list := []cryptobyte.String{}
		for !values.Empty() {
			if len(list) == maxAttributes || !values.ReadAnyASN1Element(&v, &t) {
				return nil, errCMS
			}
			list = append(list, v)
		}
		out[id.String()] = list
	}
	return out, nil
}

// signerCertificate finds the one certificate that the signer's identifier names.
func signerCertificate(certs, sid cryptobyte.String, kind cbasn1.Tag) (*x509.Certificate, error) {
	var found *x509.Certificate
	for n := 0; !certs.Empty(); n++ {
		var raw cryptobyte.String
		if n == maxCertificates || !certs.ReadASN1Element(&raw, cbasn1.SEQUENCE) {
			return nil, errCMS
		}
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			return nil, fmt.Errorf("CMS signature: certificate: %w", err)
		}
		var is bool
		if kind == cbasn1.SEQUENCE {
			issuerAndSerial := sid
			var issuer, serial cryptobyte.String
			if !issuerAndSerial.ReadASN1Element(&issuer, cbasn1.SEQUENCE) || !issuerAndSerial.ReadASN1Element(&serial, cbasn1.INTEGER) || !issuerAndSerial.Empty() {
				return nil, errCMS
			}
			want, err := asn1.Marshal(c.SerialNumber)
			is = err == nil && bytes.Equal(issuer, c.RawIssuer) && bytes.Equal(serial, want)
		} else {
			is = kind == cbasn1.Tag(0).ContextSpecific() && len(sid) > 0 && bytes.Equal(sid, c.SubjectKeyId)
		}
		if is && found != nil {
			return nil, errors.New("CMS signature: two certificates of the signer")
		}
		if is {
			found = c
		}
	}
	if found == nil {
		return nil, errors.New("CMS signature: the signer's certificate is not in it")
	}
	return found, nil
}

// bundle is the same signature as a Sigstore bundle: a signature over the
// signed attributes, with its certificate, log entries and timestamps. So it is
// verified by the one verifier that there is, under all of its rules.
func (c *cmsSignature) bundle() (*attestation.Bundle, error) {
	if len(c.entries) == 0 && len(c.timestamps) == 0 {
		return nil, errors.New("the X.509 signature carries neither a log entry nor a timestamp, and its certificate is long expired: sign with gitsign.rekorMode=offline")
	}
	m := attestation.Material{Certificate: c.leaf.Raw}
	for _, raw := range c.entries {
		var e rekorpb.TransparencyLogEntry
		if err := (proto.UnmarshalOptions{RecursionLimit: 32}).Unmarshal(raw, &e); err != nil {
			return nil, fmt.Errorf("log entry of the X.509 signature: %w", err)
		}
		if len(e.CanonicalizedBody) == 0 { // gitsign leaves out what can be made again
			body, err := c.entryBody()
			if err != nil {
				return nil, err
			}
			e.CanonicalizedBody = body
		}
		m.LogEntries = append(m.LogEntries, &e)
	}
	for _, token := range c.timestamps {
		var b cryptobyte.Builder
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // TimeStampResp: granted
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1Int64(0) })
			b.AddBytes(token)
		})
		resp, err := b.Bytes()
		if err != nil {
			return nil, err
		}
		m.Timestamps = append(m.Timestamps, resp)
	}
	h, err := attestation.SignatureHash(c.leaf.PublicKey)
	if err != nil {
		return nil, err
	}
	if h != crypto.SHA256 {
		return nil, errors.New("CMS signature: want a P-256 or RSA key")
	}
	return attestation.NewMessageBundle(m, artifact.SHA256Of(c.signedAttrs), c.signature)
}

// entryBody is the log's hashedrekord of the signature (Rekor, hashedrekord
// 0.0.1), in its canonical form.
func (c *cmsSignature) entryBody() ([]byte, error) {
	sum := sha256.Sum256(c.signedAttrs)
	return strictjson.Canonical(map[string]any{
		"apiVersion": "0.0.1", "kind": "hashedrekord",
		"spec": map[string]any{
			"data": map[string]any{"hash": map[string]any{"algorithm": "sha256", "value": hex.EncodeToString(sum[:])}},
			"signature": map[string]any{
				"content": base64.StdEncoding.EncodeToString(c.signature),
				"publicKey": map[string]any{
					"content": base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.leaf.Raw})),
				},
			},
		},
	})
}
