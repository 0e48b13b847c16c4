// Package authority makes identities provable and times trustworthy: an OIDC
// issuer for local use, a certificate authority with Fulcio's API, and an RFC
// 3161 time stamp authority. Private keys come as crypto.Signer from a
// [KeyStore]; certificates lie as PEM beside them.
//
// All keys are P-256: verifying a P-384 signature costs ten times as much, and
// every verification of every bundle would pay it.
package authority

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"assay/internal/clock"
	"assay/internal/durable"
	"assay/internal/fault"
)

// KeyStore keeps private keys by name. internal/keyring implements it.
type KeyStore interface {
	// Create makes a new P-256 key, durable on return; an existing name is
	// [fault.Conflict].
	Create(ctx context.Context, name string) (crypto.Signer, error)
	// CreateRSA is Create for an RSA key of 2,048 bits.
	CreateRSA(ctx context.Context, name string) (crypto.Signer, error)
	// Load gives a key; one that is not there is [fault.NotFound].
	Load(ctx context.Context, name string) (crypto.Signer, error)
}

// The names of authority's keys in the key store. The two roots sign once, at
// set-up, and can then be taken off the machine.
const (
	KeyCARoot         = "ca-root"
	KeyCAIntermediate = "ca-intermediate"
	KeyTSARoot        = "tsa-root"
	KeyTSA            = "tsa"
	KeyOIDC           = "oidc"
)

// The files in InitOptions.Dir, each a chain in PEM that ends in its root.
const (
	FileCAChain  = "ca.pem"
	FileTSAChain = "tsa.pem"
)

const (
	rootLife         = 10 * 365 * 24 * time.Hour
	intermediateLife = 5 * 365 * 24 * time.Hour
	maxChainFile     = 64 << 10
)

// InitOptions says where the certificates lie and what they are called.
type InitOptions struct {
	Dir  string // folder of the certificate files, mode 0700; made when absent
	Name string // organisation in the subjects, cut to 64 bytes; "assay" when empty
	// Clock tells when certificates begin; nil means the system's.
	Clock  clock.Clock
	Logger *slog.Logger
}

// Material is what [NewCA], [NewTSA] and [NewIssuer] work with.
type Material struct {
	CAChain   []*x509.Certificate // intermediate, root
	CASigner  crypto.Signer       // of the intermediate
	TSAChain  []*x509.Certificate // leaf, root
	TSASigner crypto.Signer       // of the leaf
	OIDC      crypto.Signer
}

// Init creates all keys and certificates the first time and loads them ever
// after, so that a restart changes nothing that was signed. It may be
// interrupted anywhere and run again. Keys and certificates that do not belong
// together, or certificates that are gone although the set-up had been
// completed, are [fault.Tampered]: new ones would be another authority.
func Init(ctx context.Context, keys KeyStore, opts InitOptions) (*Material, error) {
	if opts.Clock == nil {
		opts.Clock = clock.System
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Name == "" {
		opts.Name = "assay"
	}
	// A host name can be longer than a subject's attribute (RFC 5280,
	// ub-organization-name); what is cut is a label and decides nothing.
	opts.Name = strings.ToValidUTF8(opts.Name[:min(len(opts.Name), 64)], "")
	if err := durable.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, err
	}
	in := initialiser{ctx: ctx, keys: keys, opts: opts}
	// The OIDC key is made last: where it is, the rest has been completed.
	oidc, err := keys.Load(ctx, KeyOIDC)
	in.done = err == nil
	if err != nil && !errors.Is(err, fault.NotFound) {
		return nil, fmt.Errorf("key %s: %w", KeyOIDC, err)
	}
	m := &Material{OIDC: oidc}
	if m.CAChain, m.CASigner, err = in.chain(FileCAChain, KeyCARoot, KeyCAIntermediate, in.caTemplates); err != nil {
		return nil, err
	}
	if m.TSAChain, m.TSASigner, err = in.chain(FileTSAChain, KeyTSARoot, KeyTSA, in.tsaTemplates); err != nil {
		return nil, err
	}
	if !in.done {
		if m.OIDC, err = keys.CreateRSA(ctx, KeyOIDC); err != nil {
			return nil, fmt.Errorf("key %s: %w", KeyOIDC, err)
		}
	}
	if _, err := tokenAlgorithm(m.OIDC.Public()); err != nil {
		return nil, fmt.Errorf("key %s: %w", KeyOIDC, err)
	}
	return m, nil
}

type initialiser struct {
	ctx  context.Context
	keys KeyStore
	opts InitOptions
	done bool // an earlier Init came to its end
}

// chain loads a chain of two certificates and the key of the first, or makes
// them.
func (in *initialiser) chain(file, rootKey, leafKey string, templates func(root, leaf crypto.PublicKey) (r, l *x509.Certificate, err error)) ([]*x509.Certificate, crypto.Signer, error) {
	path := filepath.Join(in.opts.Dir, file)
	chain, err := readChain(path)
	switch {
	case err == nil:
		signer, err := in.keys.Load(in.ctx, leafKey)
		if err != nil {
			return nil, nil, fmt.Errorf("key %s: %w", leafKey, err)
		}
		return chain, signer, checkChain(path, chain, signer)
	case !errors.Is(err, os.ErrNotExist):
		return nil, nil, err
	case in.done:
		return nil, nil, fault.Newf(fault.Tampered, "certificates %s are gone: restore the file from a backup; new ones would be another authority", path)
	}
	root, err := in.key(rootKey)
	if err != nil {
		return nil, nil, err
	}
	leaf, err := in.key(leafKey)
	if err != nil {
		return nil, nil, err
	}
	rootTmpl, leafTmpl, err := templates(root.Public(), leaf.Public())
	if err != nil {
		return nil, nil, err
	}
	rootCert, err := signCert(rootTmpl, rootTmpl, root.Public(), root)
	if err != nil {
		return nil, nil, err
	}
	leafCert, err := signCert(leafTmpl, rootCert, leaf.Public(), root)
	if err != nil {
		return nil, nil, err
	}
	chain = []*x509.Certificate{leafCert, rootCert}
	if err := checkChain(path, chain, leaf); err != nil {
		return nil, nil, err
	}
	if err := durable.CreateFile(path, encodeChain(chain), 0o600); err != nil {
		return nil, nil, err
	}
	in.opts.Logger.Info("authority created", "file", file, "root_sha256", fmt.Sprintf("%x", sha256.Sum256(rootCert.Raw)))
	return chain, leaf, nil
}

// key loads a key that an interrupted set-up left, or creates it.
func (in *initialiser) key(name string) (crypto.Signer, error) {
	k, err := in.keys.Load(in.ctx, name)
	if errors.Is(err, fault.NotFound) {
		k, err = in.keys.Create(in.ctx, name)
	}
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", name, err)
	}
	if err := p256(k.Public()); err != nil {
		return nil, fmt.Errorf("key %s: %w", name, err)
	}
	return k, nil
}

func p256(pub crypto.PublicKey) error {
	if k, ok := pub.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return fault.Newf(fault.Invalid, "want a P-256 key, found %T", pub)
	}
	return nil
}

// base is what all certificates of the hierarchy have.
func (in *initialiser) base(cn string, life time.Duration, pub crypto.PublicKey) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	skid, err := keyID(pub)
	if err != nil {
		return nil, err
	}
	from := in.opts.Clock().UTC().Truncate(time.Second)
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{in.opts.Name}, CommonName: "Assay " + cn},
		NotBefore:             from,
		NotAfter:              from.Add(life),
		SubjectKeyId:          skid,
		BasicConstraintsValid: true,
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}, nil
}

func (in *initialiser) root(cn string, pathLen int, pub crypto.PublicKey) (*x509.Certificate, error) {
	c, err := in.base(cn, rootLife, pub)
	if err != nil {
		return nil, err
	}
	c.IsCA, c.MaxPathLen, c.MaxPathLenZero = true, pathLen, pathLen == 0
	c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	return c, nil
}

// caTemplates: an intermediate signs leaves, limited to code signing, so that
// the root can be kept away.
func (in *initialiser) caTemplates(rootKey, interKey crypto.PublicKey) (root, inter *x509.Certificate, err error) {
	if root, err = in.root("signing root", 1, rootKey); err != nil {
		return nil, nil, err
	}
	if inter, err = in.base("signing intermediate", intermediateLife, interKey); err != nil {
		return nil, nil, err
	}
	inter.IsCA, inter.MaxPathLenZero = true, true
	inter.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	inter.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	return root, inter, nil
}

var (
	oidExtKeyUsage  = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidTimeStamping = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 8}
)

// tsaTemplates: the leaf's one extended key usage, timeStamping, is critical
// (RFC 3161, section 2.3), which the x509 package does not do by itself.
func (in *initialiser) tsaTemplates(rootKey, leafKey crypto.PublicKey) (root, leaf *x509.Certificate, err error) {
	if root, err = in.root("time stamp root", 0, rootKey); err != nil {
		return nil, nil, err
	}
	if leaf, err = in.base("time stamp authority", intermediateLife, leafKey); err != nil {
		return nil, nil, err
	}
	eku, err := asn1.Marshal([]asn1.ObjectIdentifier{oidTimeStamping})
	if err != nil {
		return nil, nil, err
	}
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	leaf.ExtraExtensions = []pkix.Extension{{Id: oidExtKeyUsage, Critical: true, Value: eku}}
	return root, leaf, nil
}

func signCert(tmpl, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, signer)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// newSerial gives 159 random bits: positive, at most 20 octets (RFC 5280,
// section 4.1.2.2), and never met twice.
func newSerial() (*big.Int, error) {
	b := make([]byte, 20)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	b[0] = b[0]&0x7f | 0x40 // full length, so that serials compare and print alike
	return new(big.Int).SetBytes(b), nil
}

// keyID is the subject key identifier: the first 160 bits of SHA-256 over the
// key (RFC 7093, section 2, method 1).
func keyID(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &spki); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(spki.Key.Bytes)
	return sum[:20], nil
}

func encodeChain(chain []*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range chain {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Buffer does not fail
	}
	return b.Bytes()
}

// readChain reads the two certificates of a chain file.
func readChain(path string) ([]*x509.Certificate, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxChainFile {
		return nil, fault.Newf(fault.Tampered, "certificates %s: %d bytes are too many for a chain", path, st.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" {
			return nil, fault.Newf(fault.Tampered, "certificates %s: block %d of type %.40q does not parse: %v", path, len(chain)+1, block.Type, err)
		}
		chain, b = append(chain, c), rest
	}
	if len(chain) != 2 || len(bytes.TrimSpace(b)) != 0 {
		return nil, fault.Newf(fault.Tampered, "certificates %s: want two in PEM and nothing else, found %d", path, len(chain))
	}
	return chain, nil
}

// checkChain says whether key, certificate and root belong together.
func checkChain(path string, chain []*x509.Certificate, signer crypto.Signer) error {
	if err := p256(signer.Public()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	pub, ok := chain[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || !pub.Equal(signer.Public()) {
		return fault.Newf(fault.Tampered, "certificates %s are not those of the key in the key store: restore both from one backup", path)
	}
	if err := chain[0].CheckSignatureFrom(chain[1]); err != nil {
		return fault.Newf(fault.Tampered, "certificates %s: the first is not signed by the second: %w", path, err)
	}
	if err := chain[1].CheckSignatureFrom(chain[1]); err != nil {
		return fault.Newf(fault.Tampered, "certificates %s: the second is no root: %w", path, err)
	}
	return nil
}
