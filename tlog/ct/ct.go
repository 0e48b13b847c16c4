package ct

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"net/http"
	"strings"

	"assay/internal/clock"
	"assay/internal/fault"
	"assay/tlog"

	"golang.org/x/crypto/cryptobyte"
)

// RFC 6962 section 3.
const (
	version1         = 0
	typeTimestamped  = 0 // MerkleLeafType timestamped_entry
	typeCertificate  = 0 // SignatureType certificate_timestamp
	entryPrecert     = 1 // LogEntryType precert_entry
	entryX509        = 0
	extensionIndex   = 0      // C2SP static-ct-api, ExtensionType leaf_index
	ecdsaSHA256      = 0x0403 // RFC 5246: sha256, ecdsa
	maxIndex         = 1<<40 - 1
	maxTBS           = 48 << 10 // bytes; the largest certificates of Fulcio have some 3 KiB
	fingerprintBytes = sha256.Size
)

// Options of a [CT]. Log is opened for it by [Open].
type Options struct {
	tlog.Options // its Codec, CT and Deduplicate are set here; Signer must be P-256

	// Issuers are the certificates of the authority, leaf's issuer first. They
	// are served at /issuer/<SHA-256> and named in every entry.
	Issuers []*x509.Certificate
}

// CT is a Certificate Transparency log. Its methods may be called at once.
type CT struct {
	log     *tlog.Log
	key     crypto.Signer
	id      tlog.Hash
	now     clock.Clock
	chain   []byte // fingerprints of the issuers
	issuers map[string][]byte
}

// Open opens the log in a folder of its own, or makes it; see [tlog.Open] for
// what it refuses.
func Open(ctx context.Context, o Options) (*CT, error) {
	if o.Signer == nil {
		return nil, fault.Newf(fault.Invalid, "a CT log needs a key")
	}
	if _, ok := o.Signer.Public().(*ecdsa.PublicKey); !ok {
		return nil, fault.Newf(fault.Invalid, "a CT log's key of type %T: want P-256", o.Signer.Public())
	}
	c := &CT{key: o.Signer, now: o.Clock, issuers: make(map[string][]byte)}
	if c.now == nil {
		c.now = clock.System
	}
	for _, cert := range o.Issuers {
		sum := sha256.Sum256(cert.Raw)
		c.chain = append(c.chain, sum[:]...)
		c.issuers[hexName(sum)] = cert.Raw
	}
	o.Options.Codec, o.Options.CT, o.Options.Deduplicate = Codec{}, true, false
	if o.Options.Name == "" {
		o.Options.Name = "ct"
	}
	var err error
	if c.log, err = tlog.Open(ctx, o.Options); err != nil {
		return nil, err
	}
	// By RFC 6962 the log's id is SHA-256 of its key in DER; that is also what
	// a P-256 key's id is in a checkpoint.
	c.id = c.log.KeyID()
	return c, nil
}

// Close closes the log.
func (c *CT) Close() error { return c.log.Close() }

// Log is the log underneath.
func (c *CT) Log() *tlog.Log { return c.log }

// ID is the log's id in SCTs and in a trusted root: SHA-256 of its key in DER.
func (c *CT) ID() tlog.Hash { return c.id }

// AddPreCert logs a certificate to be: tbs is its TBSCertificate in DER without
// the extension for SCTs, issuerKeyHash is SHA-256 of the issuer's
// SubjectPublicKeyInfo. It returns the SCT as RFC 6962 section 3.2 serialises
// it, once the entry is durable. See [tlog.Log.Add] for the errors.
func (c *CT) AddPreCert(ctx context.Context, tbs []byte, issuerKeyHash [32]byte) (sct []byte, err error) {
	if len(tbs) == 0 || len(tbs) > maxTBS {
		return nil, fault.Newf(fault.TooLarge, "a TBSCertificate of %d bytes: want 1 to %d", len(tbs), maxTBS)
	}
	at := uint64(c.now().UnixMilli())
	e, err := c.log.AddFunc(ctx, func(index uint64) (record, leaf []byte, err error) {
		entry, err := timestampedEntry(at, index, tbs, issuerKeyHash)
		if err != nil {
			return nil, nil, err
		}
		return c.record(entry, tbs), append([]byte{version1, typeTimestamped}, entry...), nil
	})
	if err != nil {
		return nil, err
	}
	// The timestamp is signed after the entry has become durable: there is no
	// SCT of an entry that is not in the tree.
	entry, err := timestampedEntry(at, e.Index, tbs, issuerKeyHash)
	if err != nil {
		return nil, err
	}
	sig, err := tlog.Sign(c.key, append([]byte{version1, typeCertificate}, entry...))
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "sign the SCT of entry %d: %w", e.Index, err)
	}
	var b cryptobyte.Builder
	b.AddUint8(version1)
	b.AddBytes(c.id[:])
	b.AddUint64(at)
	addExtensions(&b, e.Index)
	b.AddUint16(ecdsaSHA256)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(sig) })
	return b.Bytes()
}

// timestampedEntry is what leaf and SCT signature share: TimestampedEntry of
// RFC 6962 section 3.4 for a precertificate.
func timestampedEntry(at, index uint64, tbs []byte, issuerKeyHash [32]byte) ([]byte, error) {
	if index > maxIndex {
		return nil, fault.Newf(fault.Unavailable, "the CT log is full: leaf_index holds 40 bits")
	}
	var b cryptobyte.Builder
	b.AddUint64(at)
	b.AddUint16(entryPrecert)
	b.AddBytes(issuerKeyHash[:])
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(tbs) })
	addExtensions(&b, index)
	return b.Bytes()
}

// addExtensions writes CtExtensions with the leaf_index of C2SP static-ct-api.
func addExtensions(b *cryptobyte.Builder, index uint64) {
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint8(extensionIndex)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint8(uint8(index >> 32))
			b.AddUint32(uint32(index))
		})
	})
}

// record is the TileLeaf of C2SP static-ct-api.
func (c *CT) record(entry, tbs []byte) []byte {
	var b cryptobyte.Builder
	b.AddBytes(entry)
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(tbs) })
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(c.chain) })
	return b.BytesOrPanic()
}

// SCTList serialises SCTs as the extension of a certificate holds them
// (RFC 6962 section 3.3): a SignedCertificateTimestampList in an OCTET STRING.
// The value is that of the extension 1.3.6.1.4.1.11129.2.4.2.
func SCTList(scts ...[]byte) ([]byte, error) {
	var list cryptobyte.Builder
	list.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, s := range scts {
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(s) })
		}
	})
	raw, err := list.Bytes()
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "the list of SCTs: %w", err)
	}
	var b cryptobyte.Builder
	b.AddASN1OctetString(raw)
	return b.Bytes()
}

// Handler serves the read side of C2SP static-ct-api: /checkpoint, /tile/…,
// /issuer/<SHA-256>. Entries (/tile/data/…) hold identities and are for whom
// authorize lets pass; nil refuses all.
func (c *CT) Handler(authorize func(*http.Request) error) http.Handler {
	tiles := c.log.TileHandler(authorize)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ok := strings.CutPrefix(r.URL.Path, "/issuer/")
		if !ok {
			tiles.ServeHTTP(w, r)
			return
		}
		der, ok := c.issuers[name]
		if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/pkix-cert")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(der)
	})
}
