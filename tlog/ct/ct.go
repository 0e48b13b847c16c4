package ct

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"net/http"
	"strings"
	"sync"

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
	log *tlog.Log
	now clock.Clock

	mu      sync.RWMutex
	key     crypto.Signer // of SCTs
	id      tlog.Hash
	chains  map[[32]byte][]byte // fingerprints of an issuer's chain, by SHA-256 of its key
	chain   []byte              // those of the newest
	issuers map[string][]byte
}

// Open opens the log in a folder of its own, or makes it; see [tlog.Open] for
// what it refuses.
func Open(ctx context.Context, o Options) (*CT, error) {
	if o.Signer == nil {
		return nil, fault.Newf(fault.Invalid, "a CT log needs a key")
	}
	if err := checkKey(o.Signer); err != nil {
		return nil, err
	}
	c := &CT{key: o.Signer, now: o.Clock, issuers: make(map[string][]byte), chains: make(map[[32]byte][]byte)}
	if c.now == nil {
		c.now = clock.System
	}
	c.AddIssuers(o.Issuers)
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

func checkKey(key crypto.Signer) error {
	if _, ok := key.Public().(*ecdsa.PublicKey); !ok {
		return fault.Newf(fault.Invalid, "a CT log's key of type %T: want P-256", key.Public())
	}
	return nil
}

// AddIssuers makes another chain of the authority known, leaf's issuer first.
// Those that were known stay: their certificates are in the log.
func (c *CT) AddIssuers(chain []*x509.Certificate) {
	if len(chain) == 0 {
		return
	}
	var names []byte
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cert := range chain {
		sum := sha256.Sum256(cert.Raw)
		names = append(names, sum[:]...)
		c.issuers[hexName(sum)] = cert.Raw
	}
	c.chains[sha256.Sum256(chain[0].RawSubjectPublicKeyInfo)], c.chain = names, names
}

// SetKeys changes the log's keys: see [tlog.Log.SetKeys]. SCTs are the new
// Signer's from then on. RFC 6962 names a log by its key, and so verifiers know
// an SCT's log by it; the tree goes on all the same, in one place for who
// watches it.
func (c *CT) SetKeys(ctx context.Context, k tlog.Keys) error {
	if k.Signer == nil {
		return fault.Newf(fault.Invalid, "a CT log needs a key")
	}
	for _, key := range append([]crypto.Signer{k.Signer}, k.Cosigners...) {
		if err := checkKey(key); err != nil {
			return err
		}
	}
	if err := c.log.SetKeys(ctx, k); err != nil {
		return err
	}
	id, _, err := tlog.KeyID(c.log.Origin(), k.Signer.Public())
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.key, c.id = k.Signer, id
	return nil
}

// Close closes the log.
func (c *CT) Close() error { return c.log.Close() }

// Log is the log underneath.
func (c *CT) Log() *tlog.Log { return c.log }

// ID is the log's id in SCTs and in a trusted root: SHA-256 of its key in DER.
func (c *CT) ID() tlog.Hash {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.id
}

// AddPreCert logs a certificate to be: tbs is its TBSCertificate in DER without
// the extension for SCTs, issuerKeyHash is SHA-256 of the issuer's
// SubjectPublicKeyInfo. It returns the SCT as RFC 6962 section 3.2 serialises
// it, once the entry is durable. See [tlog.Log.Add] for the errors.
func (c *CT) AddPreCert(ctx context.Context, tbs []byte, issuerKeyHash [32]byte) (sct []byte, err error) {
	if len(tbs) == 0 || len(tbs) > maxTBS {
		return nil, fault.Newf(fault.TooLarge, "a TBSCertificate of %d bytes: want 1 to %d", len(tbs), maxTBS)
	}
	c.mu.RLock()
	key, id, chain := c.key, c.id, c.chains[issuerKeyHash]
	if chain == nil {
		chain = c.chain
	}
	c.mu.RUnlock()
	at := uint64(c.now().UnixMilli())
	e, err := c.log.AddFunc(ctx, func(index uint64) (record, leaf []byte, err error) {
		entry, err := timestampedEntry(at, index, tbs, issuerKeyHash)
		if err != nil {
			return nil, nil, err
		}
		return tileLeaf(entry, tbs, chain), append([]byte{version1, typeTimestamped}, entry...), nil
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
	sig, err := tlog.Sign(key, append([]byte{version1, typeCertificate}, entry...))
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "sign the SCT of entry %d: %w", e.Index, err)
	}
	var b cryptobyte.Builder
	b.AddUint8(version1)
	b.AddBytes(id[:])
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

// tileLeaf is the TileLeaf of C2SP static-ct-api.
func tileLeaf(entry, tbs, chain []byte) []byte {
	var b cryptobyte.Builder
	b.AddBytes(entry)
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(tbs) })
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(chain) })
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
		c.mu.RLock()
		der, ok := c.issuers[name]
		c.mu.RUnlock()
		if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/pkix-cert")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(der)
	})
}
