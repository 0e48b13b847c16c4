package authority

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/identity"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/store"

	"github.com/prometheus/client_golang/prometheus"
)

// LeafLife is how long a signing certificate is valid: long enough to sign,
// log and timestamp, too short to be worth stealing.
const LeafLife = 10 * time.Minute

// PrecertLog is a certificate transparency log. tlog's CT log implements it.
type PrecertLog interface {
	// AddPreCert logs a certificate about to be issued and promises so: tbs is
	// its TBSCertificate in DER without the SCT list extension, issuerKeyHash
	// the SHA-256 of the issuer's SubjectPublicKeyInfo in DER (RFC 6962,
	// section 3.2, PreCert). It returns one SignedCertificateTimestamp in TLS
	// encoding (section 3.2), durable when it returns.
	AddPreCert(ctx context.Context, tbs []byte, issuerKeyHash [32]byte) (sct []byte, err error)
}

// CAOptions is what a certificate authority needs.
type CAOptions struct {
	Chain    []*x509.Certificate // issuing certificate first, root last
	Signer   crypto.Signer       // key of Chain[0]
	SCT      PrecertLog
	Verifier *identity.Verifier
	DB       *store.DB
	// Permit, when set, is asked before each issuance; its error refuses it.
	// nil means what Fulcio does: every identity of a configured issuer may
	// have a certificate.
	Permit     func(ctx context.Context, p identity.Principal, t *identity.Token) error
	Clock      clock.Clock           // nil: the system's
	Logger     *slog.Logger          // nil: none
	Registerer prometheus.Registerer // nil: no metrics
}

// CA issues short-lived signing certificates to identities proved by OIDC
// tokens, as Fulcio does. It is safe for many goroutines.
type CA struct {
	opts    CAOptions
	current atomic.Pointer[issuing]
	issued  *prometheus.CounterVec
}

// issuing is what certificates are issued with; a request keeps to one.
type issuing struct {
	chain   []*x509.Certificate
	signer  crypto.Signer
	keyHash [32]byte // of the issuer's SubjectPublicKeyInfo
}

// NewCA makes a certificate authority. Errors are [fault.Invalid] when
// certificates and key do not fit.
func NewCA(o CAOptions) (*CA, error) {
	if o.SCT == nil || o.Verifier == nil || o.DB == nil {
		return nil, fault.Newf(fault.Invalid, "certificate authority: want a chain, its key, a transparency log, a verifier and a database")
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ca := &CA{opts: o}
	if err := ca.SetChain(o.Chain, o.Signer); err != nil {
		return nil, err
	}
	ca.issued = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_authority_certificates_total", Help: "Requests for a signing certificate by outcome.",
	}, []string{"outcome"})
	if o.Registerer != nil {
		if err := o.Registerer.Register(ca.issued); err != nil {
			return nil, err
		}
	}
	return ca, nil
}

// SetChain makes the authority issue under another chain, whose first certificate
// is signer's, from the next request on. What does not fit is [fault.Invalid] or
// [fault.Tampered], and nothing changes.
func (ca *CA) SetChain(chain []*x509.Certificate, signer crypto.Signer) error {
	if len(chain) < 2 || signer == nil {
		return fault.Newf(fault.Invalid, "certificate authority: want a chain and its key")
	}
	if err := checkChain("of the certificate authority", chain, signer); err != nil {
		return err
	}
	ca.current.Store(&issuing{slices.Clone(chain), signer, sha256.Sum256(chain[0].RawSubjectPublicKeyInfo)})
	return nil
}

// Chain gives the authority's certificates, issuing one first, root last.
func (ca *CA) Chain() []*x509.Certificate { return slices.Clone(ca.current.Load().chain) }

// Issue certifies a public key for the identity of a verified token. proof is
// a signature over the token's challenge by the key; it is always checked.
// The chain is leaf, intermediate, root. Errors are [fault.Invalid] for a weak
// key or a wrong proof, [fault.Denied] when the identity may not sign,
// [fault.Unavailable] when the authority's certificate is not valid now.
func (ca *CA) Issue(ctx context.Context, p identity.Principal, t *identity.Token, pub crypto.PublicKey, proof []byte) ([]*x509.Certificate, error) {
	if t == nil {
		return nil, fault.Newf(fault.Unauthenticated, "want a verified token")
	}
	if err := checkKey(pub); err != nil {
		return nil, err
	}
	if err := checkProof(pub, t.Challenge, proof); err != nil {
		return nil, err
	}
	return ca.issue(ctx, p, t, pub)
}

// issue certifies a key whose possession has been proved.
func (ca *CA) issue(ctx context.Context, p identity.Principal, t *identity.Token, pub crypto.PublicKey) ([]*x509.Certificate, error) {
	if t.Audience != identity.AudienceSigstore {
		return nil, fault.Newf(fault.Denied, "a token for %q gives no certificate: want audience %q", t.Audience, identity.AudienceSigstore)
	}
	if ca.opts.Permit != nil {
		if err := ca.opts.Permit(ctx, p, t); err != nil {
			return nil, err
		}
	}
	by := ca.current.Load()
	tmpl, err := ca.template(by, t, pub)
	if err != nil {
		return nil, err
	}
	leaf, err := ca.signLogged(ctx, by, tmpl, pub)
	if err != nil {
		return nil, err
	}
	if err := ca.record(ctx, p, t, leaf); err != nil {
		return nil, fmt.Errorf("record certificate: %w", err)
	}
	return append([]*x509.Certificate{leaf}, by.chain...), nil
}

// template is the leaf as Fulcio has it: empty subject, one subject
// alternative name (critical, since the subject is empty: RFC 5280, section
// 4.2.1.6), code signing only, and Fulcio's own extensions.
func (ca *CA) template(by *issuing, t *identity.Token, pub crypto.PublicKey) (*x509.Certificate, error) {
	id := t.Certificate
	if id.Name() == "" {
		return nil, fault.Newf(fault.Denied, "subject %.200q is neither an e-mail address nor a URI, and so has no place in a certificate", t.Subject)
	}
	now := ca.opts.Clock().UTC().Truncate(time.Second)
	if issuer := by.chain[0]; now.Before(issuer.NotBefore) || now.Add(LeafLife).After(issuer.NotAfter) {
		return nil, fault.Newf(fault.Unavailable, "the authority's certificate is valid from %s to %s, now is %s: check the clock, or rotate the authority",
			issuer.NotBefore.Format(time.RFC3339), issuer.NotAfter.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	exts, err := id.Extensions.Render()
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "certificate extensions: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	skid, err := keyID(pub)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:    serial,
		NotBefore:       now,
		NotAfter:        now.Add(LeafLife),
		SubjectKeyId:    skid,
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: exts,
	}
	if id.Email != "" {
		tmpl.EmailAddresses = []string{id.Email}
	} else {
		tmpl.URIs = []*url.URL{id.URI}
	}
	return tmpl, nil
}

var oidSCTList = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}

// signLogged signs the leaf with a promise of the log in it. Verifiers take
// the SCT list extension out of the certificate and check the SCT over what is
// left (RFC 6962, section 3.2); that is the TBSCertificate signed here first.
func (ca *CA) signLogged(ctx context.Context, by *issuing, tmpl *x509.Certificate, pub crypto.PublicKey) (*x509.Certificate, error) {
	issuer := by.chain[0]
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, pub, by.signer)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	pre, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse own certificate: %w", err)
	}
	sct, err := ca.opts.SCT.AddPreCert(ctx, pre.RawTBSCertificate, by.keyHash)
	if err != nil {
		return nil, fmt.Errorf("log certificate: %w", err)
	}
	ext, err := sctList(sct)
	if err != nil {
		return nil, err
	}
	tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, ext)
	if der, err = x509.CreateCertificate(rand.Reader, tmpl, issuer, pub, by.signer); err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// sctList is the X.509 extension that holds a SignedCertificateTimestampList
// of one (RFC 6962, section 3.3): an OCTET STRING around lengths of 16 bits.
func sctList(sct []byte) (pkix.Extension, error) {
	if len(sct) == 0 || len(sct) > 1<<16-3 {
		return pkix.Extension{}, fault.Newf(fault.Internal, "the log gave an SCT of %d bytes", len(sct))
	}
	list := binary.BigEndian.AppendUint16(nil, uint16(len(sct)+2))
	list = binary.BigEndian.AppendUint16(list, uint16(len(sct)))
	value, err := asn1.Marshal(append(list, sct...))
	if err != nil {
		return pkix.Extension{}, err
	}
	return pkix.Extension{Id: oidSCTList, Value: value}, nil
}

// certificateBody is the body of event certificate.issued.
type certificateBody struct {
	Serial   string    `json:"serial"`  // hexadecimal
	Subject  string    `json:"subject"` // alternative name
	Issuer   string    `json:"issuer"`  // of the identity token
	NotAfter time.Time `json:"not_after"`
	Key      string    `json:"key"` // SHA-256 of the SubjectPublicKeyInfo, hexadecimal
}

// record writes the event. A certificate that could not be recorded is not
// handed out.
func (ca *CA) record(ctx context.Context, p identity.Principal, t *identity.Token, leaf *x509.Certificate) error {
	return ca.opts.DB.Update(ctx, func(tx *store.Tx) error {
		return event.Append(ctx, tx, event.Event{
			Kind:   event.CertificateIssued,
			Digest: artifact.SHA256Of(leaf.Raw),
			Actor:  p.Actor(),
			Body: certificateBody{
				Serial: leaf.SerialNumber.Text(16), Subject: t.Certificate.Name(), Issuer: t.Issuer,
				NotAfter: leaf.NotAfter, Key: artifact.SHA256Of(leaf.RawSubjectPublicKeyInfo).Hex(),
			},
		})
	})
}
