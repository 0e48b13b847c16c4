package ct

import (
	"crypto/x509"
	"encoding/hex"
	"errors"

	"assay/tlog"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

func hexName(h tlog.Hash) string { return hex.EncodeToString(h[:]) }

// Codec is how C2SP static-ct-api stores entries: TileLeaf, one after another.
type Codec struct{}

// Folder implements [tlog.Codec].
func (Codec) Folder() string { return "data" }

var errMalformed = errors.New("not a TileLeaf of static-ct-api")

// Entry is one entry in parts.
type Entry struct {
	Timestamp     uint64 // milliseconds since 1970
	Index         uint64 // of the leaf_index extension
	IssuerKeyHash [32]byte
	TBS           []byte // TBSCertificate, DER; of an entry that is a whole certificate, that
	Precert       bool
	Chain         [][]byte // SHA-256 fingerprints of the issuers
}

// Split implements [tlog.Codec].
func (Codec) Split(b []byte) (raw, leaf []byte, err error) {
	_, rest, end, err := parse(b)
	if err != nil {
		return nil, nil, err
	}
	n := len(b) - len(rest)
	return b[:n:n], append([]byte{version1, typeTimestamped}, b[:end]...), nil
}

// ParseEntry reads the raw form of an entry, all of it.
func ParseEntry(raw []byte) (Entry, error) {
	e, rest, _, err := parse(raw)
	if err == nil && len(rest) > 0 {
		err = errMalformed
	}
	return e, err
}

// Certificate reads the certificate that was promised. Of a precertificate the
// log has what is signed and no signature: the one here is none.
func (e Entry) Certificate() (*x509.Certificate, error) {
	if !e.Precert {
		return x509.ParseCertificate(e.TBS)
	}
	tbs := cryptobyte.String(e.TBS)
	var body, alg cryptobyte.String
	if !tbs.ReadASN1(&body, asn1.SEQUENCE) || !body.SkipOptionalASN1(asn1.Tag(0).ContextSpecific().Constructed()) ||
		!body.SkipASN1(asn1.INTEGER) || !body.ReadASN1Element(&alg, asn1.SEQUENCE) {
		return nil, errMalformed
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(e.TBS)
		b.AddBytes(alg)
		b.AddASN1BitString([]byte{0})
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// parse reads the first TileLeaf; end is where its TimestampedEntry ends.
func parse(b []byte) (e Entry, rest []byte, end int, err error) {
	s := cryptobyte.String(b)
	fail := func() (Entry, []byte, int, error) { return Entry{}, nil, 0, errMalformed }
	var typ uint16
	if !s.ReadUint64(&e.Timestamp) || !s.ReadUint16(&typ) {
		return fail()
	}
	switch typ {
	case entryX509:
	case entryPrecert:
		e.Precert = true
		if !s.CopyBytes(e.IssuerKeyHash[:]) {
			return fail()
		}
	default:
		return fail()
	}
	var tbs, ext, chain cryptobyte.String
	if !s.ReadUint24LengthPrefixed(&tbs) || tbs.Empty() || !s.ReadUint16LengthPrefixed(&ext) {
		return fail()
	}
	e.TBS = tbs
	if e.Index, err = parseIndex(ext); err != nil {
		return fail()
	}
	end = len(b) - len(s)
	if e.Precert {
		var pre cryptobyte.String
		if !s.ReadUint24LengthPrefixed(&pre) || pre.Empty() {
			return fail()
		}
	}
	if !s.ReadUint16LengthPrefixed(&chain) || len(chain)%fingerprintBytes != 0 {
		return fail()
	}
	for ; len(chain) > 0; chain = chain[fingerprintBytes:] {
		e.Chain = append(e.Chain, chain[:fingerprintBytes:fingerprintBytes])
	}
	return e, s, end, nil
}

// parseIndex reads the leaf_index out of CtExtensions.
func parseIndex(ext cryptobyte.String) (uint64, error) {
	for !ext.Empty() {
		var typ uint8
		var data cryptobyte.String
		if !ext.ReadUint8(&typ) || !ext.ReadUint16LengthPrefixed(&data) {
			return 0, errMalformed
		}
		if typ != extensionIndex {
			continue
		}
		var hi uint8
		var lo uint32
		if !data.ReadUint8(&hi) || !data.ReadUint32(&lo) || !data.Empty() {
			return 0, errMalformed
		}
		return uint64(hi)<<32 | uint64(lo), nil
	}
	return 0, errMalformed
}
