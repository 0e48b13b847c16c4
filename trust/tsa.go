package trust

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const maxTimestamps = 16

var (
	oidEKU = asn1.ObjectIdentifier{2, 5, 29, 37}
	errTSA = errors.New("not DER as RFC 3161 and RFC 5652 define it")
)

// token is a parsed RFC 3161 TimeStampResp with its CMS SignedData.
type token struct {
	info       []byte // TSTInfo, DER: what is signed
	imprint    []byte
	imprintAlg crypto.Hash
	genTime    time.Time
	certs      []*x509.Certificate // embedded, in no trusted order
	issuer     []byte              // of the signer's certificate, raw
	serial     *big.Int
	keyID      []byte // of the signer's certificate, when it is named so
	digestAlg  crypto.Hash
	signedAttr []byte // as a SET OF, the bytes that are signed
	msgDigest  []byte
	certHash   []byte // ESSCertID(v2) hash of the signer's certificate
	certAlg    crypto.Hash
	sigAlg     crypto.Hash // hash that the signature algorithm names; 0: digestAlg
	signature  []byte
}

// stampProof is a timestamp that verified.
type stampProof struct {
	at    time.Time
	party string
	uri   string
}

// verifyTimestamps gives the distinct authorities' timestamps over sig. A
// timestamp of an authority that the root does not name is skipped (its error
// is reported when too few remain); one of a known authority that does not
// verify is not counted either, so that a client may add a foreign one.
func (r *Root) verifyTimestamps(tokens [][]byte, sig []byte) (proofs []stampProof, last error) {
	for _, raw := range tokens {
		p, err := r.verifyTimestamp(raw, sig)
		if err != nil {
			if last == nil || progress(Code(err)) > progress(Code(last)) {
				last = err
			}
			continue
		}
		dup := false
		for _, q := range proofs {
			dup = dup || q.party == p.party
		}
		if !dup {
			proofs = append(proofs, p)
		}
	}
	return proofs, last
}

func (r *Root) verifyTimestamp(raw, sig []byte) (stampProof, error) {
	t, err := parseToken(raw)
	if err != nil {
		return stampProof{}, refuse(CodeTSAMalformed, "timestamp: %w", err)
	}
	if !bytes.Equal(t.imprint, sum(t.imprintAlg, sig)) {
		return stampProof{}, refuse(CodeTSAMismatch, "timestamp of %s is over other bytes (%s %x), not over this signature: it belongs to another bundle", stamp(t.genTime), t.imprintAlg, t.imprint)
	}
	var last error
	for _, a := range r.tsas {
		if err := r.verifyToken(a, t); err != nil {
			if last == nil || progress(Code(err)) > progress(Code(last)) {
				last = err
			}
			continue
		}
		return stampProof{at: t.genTime, party: a.party(), uri: a.String()}, nil
	}
	if last == nil {
		last = refuse(CodeTSAUnknown, "timestamp: the trusted root names no timestamp authority")
	}
	return stampProof{}, last
}

// verifyToken checks the token under one authority: RFC 5652 section 5.4
// (signature over the signed attributes), RFC 3161 section 2.3 (the signer's
// certificate), RFC 5816 (the certificate named in the attributes), and the
// path at the time that the token states.
func (r *Root) verifyToken(a *authority, t *token) error {
	cert, err := t.signer(a)
	if err != nil {
		return err
	}
	path, issued, err := a.pathAt(r.facts, cert, t.genTime)
	if err != nil {
		if Code(err) == CodeCertOutside {
			return refuse(CodeTSAOutside, "timestamp: %w", err)
		}
		return refuse(CodeTSAInvalid, "timestamp: %w", err)
	}
	if path == nil && !issued {
		return refuse(CodeTSAUnknown, "timestamp is of %q, which authority %s did not issue; the trusted root does not name this timestamp authority", cert.Subject, a)
	}
	if !bytes.Equal(t.msgDigest, sum(t.digestAlg, t.info)) {
		return refuse(CodeTSAInvalid, "timestamp: message digest does not fit the token's content")
	}
	if len(t.certHash) > 0 && !bytes.Equal(t.certHash, sum(t.certAlg, cert.Raw)) {
		return refuse(CodeTSAInvalid, "timestamp: its signing-certificate attribute names another certificate than the signer's")
	}
	key, err := newVerifyKey(cert.PublicKey)
	if err != nil {
		return refuse(CodeTSAInvalid, "timestamp: %w", err)
	}
	h := t.sigAlg
	if h == 0 {
		h = t.digestAlg
	}
	if !r.facts.digest(key, h, sum(h, t.signedAttr), t.signature) {
		return refuse(CodeTSAInvalid, "timestamp: signature does not verify under %q", cert.Subject)
	}
	return nil
}

// signer is the certificate that signed the token: the configured leaf, which
// an embedded one must equal, or else the embedded one that the token names.
func (t *token) signer(a *authority) (*x509.Certificate, error) {
	cert := a.leaf
	if cert == nil || !t.names(cert) {
		for _, c := range t.certs {
			if t.names(c) {
				cert = c
				break
			}
		}
	}
	if cert == nil || !t.names(cert) || (a.leaf != nil && !a.leaf.Equal(cert)) {
		return nil, refuse(CodeTSAUnknown, "timestamp is not by authority %s; the trusted root does not name the timestamp authority that made it", a)
	}
	if len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageTimeStamping || len(cert.UnknownExtKeyUsage) > 0 {
		return nil, refuse(CodeTSAInvalid, "timestamp: certificate %q: want the one extended key usage timeStamping (RFC 3161, section 2.3)", cert.Subject)
	}
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidEKU) && !e.Critical {
			return nil, refuse(CodeTSAInvalid, "timestamp: certificate %q: extended key usage must be critical (RFC 3161, section 2.3)", cert.Subject)
		}
	}
	return cert, nil
}

func (t *token) names(c *x509.Certificate) bool {
	if t.serial != nil {
		return c.SerialNumber.Cmp(t.serial) == 0 && bytes.Equal(c.RawIssuer, t.issuer)
	}
	return len(t.keyID) > 0 && bytes.Equal(c.SubjectKeyId, t.keyID)
}

var (
	oidSignedData   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidTSTInfo      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4}
	oidContentType  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDig   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSigningCert  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 12}
	oidSigningCert2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 47}
	tag0            = cbasn1.Tag(0).ContextSpecific()
	tag1            = cbasn1.Tag(1).ContextSpecific()
)

// hashOIDs are digest algorithms; sigOIDs are signature algorithms with the
// hash that they name (0: the digest algorithm's). SHA-1 is in neither.
var (
	hashOIDs = []oidHash{
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, crypto.SHA256},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, crypto.SHA384},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}, crypto.SHA512},
	}
	sigOIDs = []oidHash{
		{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, crypto.SHA256},
		{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}, crypto.SHA384},
		{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}, crypto.SHA512},
		{asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, 0}, // id-ecPublicKey, as some signers write
		{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, 0},
		{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, crypto.SHA256},
		{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}, crypto.SHA384},
		{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}, crypto.SHA512},
	}
)

type oidHash struct {
	oid  asn1.ObjectIdentifier
	hash crypto.Hash
}

func lookup(table []oidHash, oid asn1.ObjectIdentifier) (crypto.Hash, bool) {
	for _, e := range table {
		if e.oid.Equal(oid) {
			return e.hash, true
		}
	}
	return 0, false
}

// readAlg reads an AlgorithmIdentifier and ignores its parameters, which the
// algorithms in use leave absent or NULL.
func readAlg(s *cryptobyte.String, table []oidHash) (crypto.Hash, bool) {
	var alg cryptobyte.String
	var oid asn1.ObjectIdentifier
	if !s.ReadASN1(&alg, cbasn1.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&oid) {
		return 0, false
	}
	return lookup(table, oid)
}

// parseToken reads a TimeStampResp (RFC 3161, section 2.4.2) whose token is a
// CMS SignedData (RFC 5652) with one signer, in DER.
func parseToken(raw []byte) (*token, error) {
	in := cryptobyte.String(raw)
	var resp, status, content, oidBody, sd cryptobyte.String
	var code int
	var oid asn1.ObjectIdentifier
	if !in.ReadASN1(&resp, cbasn1.SEQUENCE) || !in.Empty() || !resp.ReadASN1(&status, cbasn1.SEQUENCE) || !status.ReadASN1Integer(&code) {
		return nil, errTSA
	}
	if code != 0 && code != 1 {
		return nil, errors.New("the authority did not grant it")
	}
	if !resp.ReadASN1(&content, cbasn1.SEQUENCE) || !resp.Empty() || !content.ReadASN1ObjectIdentifier(&oid) || !oid.Equal(oidSignedData) ||
		!content.ReadASN1(&oidBody, tag0.Constructed()) || !content.Empty() || !oidBody.ReadASN1(&sd, cbasn1.SEQUENCE) || !oidBody.Empty() {
		return nil, errTSA
	}
	t := &token{}
	var version int
	var algs, encap, econtent, info cryptobyte.String
	if !sd.ReadASN1Integer(&version) || !sd.ReadASN1(&algs, cbasn1.SET) || !sd.ReadASN1(&encap, cbasn1.SEQUENCE) ||
		!encap.ReadASN1ObjectIdentifier(&oid) || !oid.Equal(oidTSTInfo) || !encap.ReadASN1(&econtent, tag0.Constructed()) || !encap.Empty() ||
		!econtent.ReadASN1(&info, cbasn1.OCTET_STRING) || !econtent.Empty() {
		return nil, errTSA
	}
	t.info = info
	if err := t.readCerts(&sd); err != nil {
		return nil, err
	}
	var signers, signer cryptobyte.String
	if !sd.ReadASN1(&signers, cbasn1.SET) || !sd.Empty() || !signers.ReadASN1(&signer, cbasn1.SEQUENCE) || !signers.Empty() {
		return nil, errTSA
	}
	if err := t.readSigner(signer); err != nil {
		return nil, err
	}
	return t, t.readInfo(info)
}

func (t *token) readCerts(sd *cryptobyte.String) error {
	var certs cryptobyte.String
	var has bool
	if !sd.ReadOptionalASN1(&certs, &has, tag0.Constructed()) || !sd.SkipOptionalASN1(tag1.Constructed()) {
		return errTSA
	}
	for !certs.Empty() {
		var el cryptobyte.String
		var tag cbasn1.Tag
		if !certs.ReadAnyASN1Element(&el, &tag) || len(t.certs) == maxChain {
			return errTSA
		}
		if tag != cbasn1.SEQUENCE { // other kinds of CertificateChoices
			continue
		}
		c, err := x509.ParseCertificate(el)
		if err != nil {
			return err
		}
		t.certs = append(t.certs, c)
	}
	return nil
}

// readSigner reads a SignerInfo, RFC 5652 section 5.3.
func (t *token) readSigner(s cryptobyte.String) error {
	var version int
	if !s.ReadASN1Integer(&version) {
		return errTSA
	}
	if s.PeekASN1Tag(cbasn1.SEQUENCE) {
		var ias, name cryptobyte.String
		t.serial = new(big.Int)
		if !s.ReadASN1(&ias, cbasn1.SEQUENCE) || !ias.ReadASN1Element(&name, cbasn1.SEQUENCE) || !ias.ReadASN1Integer(t.serial) || !ias.Empty() {
			return errTSA
		}
		t.issuer = name
	} else {
		var id cryptobyte.String
		if !s.ReadASN1(&id, tag0) {
			return errTSA
		}
		t.keyID = id
	}
	var ok bool
	if t.digestAlg, ok = readAlg(&s, hashOIDs); !ok {
		return errors.New("digest algorithm is not one of SHA-256, SHA-384, SHA-512")
	}
	var attrs, sig cryptobyte.String
	if !s.ReadASN1Element(&attrs, tag0.Constructed()) {
		return errors.New("signed attributes are missing")
	}
	// The signature is over the attributes under the tag SET OF, not [0]
	// (RFC 5652, section 5.4).
	t.signedAttr = append([]byte{0x31}, attrs[1:]...)
	if t.sigAlg, ok = readAlg(&s, sigOIDs); !ok {
		return errors.New("signature algorithm is not ECDSA or RSA with SHA-2")
	}
	if !s.ReadASN1(&sig, cbasn1.OCTET_STRING) || !s.SkipOptionalASN1(tag1.Constructed()) || !s.Empty() {
		return errTSA
	}
	t.signature = sig
	return t.readAttrs(attrs)
}

func (t *token) readAttrs(el cryptobyte.String) error {
	var attrs cryptobyte.String
	if !el.ReadASN1(&attrs, tag0.Constructed()) {
		return errTSA
	}
	seen := map[string]bool{}
	for !attrs.Empty() {
		var attr, vals cryptobyte.String
		var oid asn1.ObjectIdentifier
		if !attrs.ReadASN1(&attr, cbasn1.SEQUENCE) || !attr.ReadASN1ObjectIdentifier(&oid) || !attr.ReadASN1(&vals, cbasn1.SET) || !attr.Empty() || seen[oid.String()] {
			return errTSA
		}
		seen[oid.String()] = true
		ok := true
		switch {
		case oid.Equal(oidContentType):
			var ct asn1.ObjectIdentifier
			ok = vals.ReadASN1ObjectIdentifier(&ct) && vals.Empty() && ct.Equal(oidTSTInfo)
		case oid.Equal(oidMessageDig):
			var d cryptobyte.String
			ok = vals.ReadASN1(&d, cbasn1.OCTET_STRING) && vals.Empty()
			t.msgDigest = d
		case oid.Equal(oidSigningCert2):
			ok = t.readESSCert(vals, true)
		case oid.Equal(oidSigningCert):
			ok = t.readESSCert(vals, false)
		}
		if !ok {
			return errTSA
		}
	}
	if !seen[oidContentType.String()] || len(t.msgDigest) == 0 {
		return errors.New("signed attributes lack content type or message digest")
	}
	if !seen[oidSigningCert2.String()] && !seen[oidSigningCert.String()] {
		return errors.New("signed attributes lack the signing certificate (RFC 3161, section 2.4.2)")
	}
	return nil
}

// readESSCert reads SigningCertificateV2 (RFC 5035). The hash of the first
// version is SHA-1 and binds nothing here; the signer is bound by its name,
// its key, and the v2 attribute where there is one.
func (t *token) readESSCert(vals cryptobyte.String, v2 bool) bool {
	var sc, ids, id, hash cryptobyte.String
	if !vals.ReadASN1(&sc, cbasn1.SEQUENCE) || !vals.Empty() || !sc.ReadASN1(&ids, cbasn1.SEQUENCE) || !ids.ReadASN1(&id, cbasn1.SEQUENCE) {
		return false
	}
	if !v2 {
		return true
	}
	t.certAlg = crypto.SHA256 // DEFAULT
	if id.PeekASN1Tag(cbasn1.SEQUENCE) {
		alg, ok := readAlg(&id, hashOIDs)
		if !ok {
			return false
		}
		t.certAlg = alg
	}
	ok := id.ReadASN1(&hash, cbasn1.OCTET_STRING) && len(hash) == t.certAlg.Size()
	t.certHash = hash
	return ok
}

// readInfo reads TSTInfo, RFC 3161 section 2.4.2.
func (t *token) readInfo(raw cryptobyte.String) error {
	var info, imprint, hashed cryptobyte.String
	var version int
	var policy asn1.ObjectIdentifier
	serial := new(big.Int)
	if !raw.ReadASN1(&info, cbasn1.SEQUENCE) || !raw.Empty() || !info.ReadASN1Integer(&version) || version != 1 ||
		!info.ReadASN1ObjectIdentifier(&policy) || !info.ReadASN1(&imprint, cbasn1.SEQUENCE) {
		return errTSA
	}
	var ok bool
	if t.imprintAlg, ok = readAlg(&imprint, hashOIDs); !ok {
		return errors.New("message imprint is not SHA-256, SHA-384 or SHA-512")
	}
	if !imprint.ReadASN1(&hashed, cbasn1.OCTET_STRING) || !imprint.Empty() || len(hashed) != t.imprintAlg.Size() || !info.ReadASN1Integer(serial) {
		return errTSA
	}
	t.imprint = hashed
	if t.genTime, ok = readGenTime(&info); !ok {
		return errTSA
	}
	// accuracy, ordering, nonce and tsa say nothing that a check here uses.
	var exts cryptobyte.String
	var has bool
	if !info.SkipOptionalASN1(cbasn1.SEQUENCE) || !info.SkipOptionalASN1(cbasn1.BOOLEAN) || !info.SkipOptionalASN1(cbasn1.INTEGER) ||
		!info.SkipOptionalASN1(tag0.Constructed()) || !info.ReadOptionalASN1(&exts, &has, tag1.Constructed()) || !info.Empty() {
		return errTSA
	}
	for !exts.Empty() {
		var ext cryptobyte.String
		var oid asn1.ObjectIdentifier
		var critical bool
		if !exts.ReadASN1(&ext, cbasn1.SEQUENCE) || !ext.ReadASN1ObjectIdentifier(&oid) || !ext.ReadOptionalASN1Boolean(&critical, cbasn1.BOOLEAN, false) {
			return errTSA
		}
		if critical {
			return errors.New("an extension that is critical and unknown")
		}
	}
	return nil
}

// readGenTime reads a GeneralizedTime with optional fractions of a second, UTC
// (RFC 3161, section 2.4.2: "YYYYMMDDhhmmss[.s...]Z").
func readGenTime(s *cryptobyte.String) (time.Time, bool) {
	var b cryptobyte.String
	if !s.ReadASN1(&b, cbasn1.GeneralizedTime) || len(b) < 15 || len(b) > 25 {
		return time.Time{}, false
	}
	// Parse accepts a fraction after the seconds, whether the layout has one or not.
	t, err := time.Parse("20060102150405Z", string(b))
	return t.UTC(), err == nil
}
