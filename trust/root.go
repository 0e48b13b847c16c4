package trust

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"net/url"
	"strings"
	"time"

	"crypto/ecdsa"
	"crypto/ed25519"

	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustpb "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"assay/artifact"
	"assay/tlog"
)

// Media types of a trusted root that are read; the first is written, since
// clients of 2026 accept no other.
const (
	MediaTypeTrustedRoot   = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
	mediaTypeTrustedRoot01 = "application/vnd.dev.sigstore.trustedroot.v0.1+json"
	mediaTypeTrustedRoot02 = "application/vnd.dev.sigstore.trustedroot.v0.2+json"
)

// Caps on a trusted root, far above any in use.
const (
	maxRootBytes   = 1 << 20
	maxAuthorities = 64 // of each kind
	maxChain       = 8  // certificates of one authority
)

// Window is a closed interval of time; a zero End means "until further
// notice". Start is always set: a window without a start is refused.
type Window struct{ Start, End time.Time }

// Contains says whether t lies in the window, both ends included
// (protobuf-specs TimeRange).
func (w Window) Contains(t time.Time) bool {
	return !t.Before(w.Start) && (w.End.IsZero() || !t.After(w.End))
}

// String is "start to end" or "from start", RFC 3339.
func (w Window) String() string {
	if w.End.IsZero() {
		return "from " + w.Start.UTC().Format(time.RFC3339)
	}
	return w.Start.UTC().Format(time.RFC3339) + " to " + w.End.UTC().Format(time.RFC3339)
}

// Root is one trust domain: the certificate authorities, logs and timestamp
// authorities that may vouch for a signature, each with its window. It is
// immutable after it was made and safe for concurrent use; it remembers
// signature checks that passed, so keep one Root per document.
type Root struct {
	name       string
	raw        []byte // the document as it was read; nil when built from parts
	thresholds Thresholds
	witnesses  []*tlog.WitnessKey
	pb         *trustpb.TrustedRoot
	logs       []*logKey
	ctlogs     []*logKey
	cas        []*authority
	tsas       []*authority
	facts      *facts
	x509       string // issuer of the identities of plain X.509 authorities; "": Fulcio's
}

// RootOption changes how a Root judges.
type RootOption func(*Root)

// WithName names the trust domain, as shown in results and decisions
// ("own", "public-good", "github").
func WithName(name string) RootOption { return func(r *Root) { r.name = name } }

// WithThresholds sets what bundles must carry under this root where the caller
// does not say; the default is [DefaultThresholds].
func WithThresholds(t Thresholds) RootOption { return func(r *Root) { r.thresholds = t } }

// WithWitnesses names the witnesses whose cosignatures on checkpoints count
// (C2SP tlog-cosignature): pinned here, since a log's own word on who watches it
// is worth nothing.
func WithWitnesses(keys ...*tlog.WitnessKey) RootOption {
	return func(r *Root) { r.witnesses = append(r.witnesses, keys...) }
}

// logKey is a transparency log's key: Rekor's or a CT log's.
type logKey struct {
	*verifyKey
	id       string // log ID, raw bytes
	url      string
	origin   string // host name of url: the checkpoint origin of a Rekor v2 log
	operator string
	noteHash uint32 // signed-note key ID under origin
	window   Window
}

// party is who counts for a threshold: the operator where it is named, else
// the key itself.
func (l *logKey) party() string {
	if l.operator != "" {
		return l.operator
	}
	return l.fingerprint()
}

// ParseTrustedRoot reads a Sigstore trusted_root.json (protobuf-specs
// trustroot v1) strictly: unknown and duplicate members, trailing data, keys
// and certificates that do not parse, a validity without a start or with an end
// before it, and one log ID with two keys are refused (CodeRootMalformed). The
// bytes are kept: see [Root.Bytes].
func ParseTrustedRoot(b []byte, opts ...RootOption) (*Root, error) {
	if len(b) > maxRootBytes {
		return nil, refuse(CodeRootMalformed, "trusted root: %d bytes, want at most %d", len(b), maxRootBytes)
	}
	pb := &trustpb.TrustedRoot{}
	// protojson refuses unknown members, members given twice (also once in
	// camelCase and once in snake_case), trailing data and invalid UTF-8.
	if err := (protojson.UnmarshalOptions{RecursionLimit: 32}).Unmarshal(b, pb); err != nil {
		return nil, refuse(CodeRootMalformed, "trusted root: %w; want a sigstore trusted_root.json", err)
	}
	r, err := fromProto(pb, opts)
	if err != nil {
		return nil, err
	}
	r.raw = bytes.Clone(b)
	return r, nil
}

func fromProto(pb *trustpb.TrustedRoot, opts []RootOption) (*Root, error) {
	switch pb.GetMediaType() {
	case MediaTypeTrustedRoot, mediaTypeTrustedRoot01, mediaTypeTrustedRoot02:
	default:
		return nil, refuse(CodeRootMalformed, "trusted root: media type %.120q, want %q", pb.GetMediaType(), MediaTypeTrustedRoot)
	}
	for _, n := range []int{len(pb.GetTlogs()), len(pb.GetCtlogs()), len(pb.GetCertificateAuthorities()), len(pb.GetTimestampAuthorities())} {
		if n > maxAuthorities {
			return nil, refuse(CodeRootMalformed, "trusted root: %d authorities or logs of one kind, want at most %d", n, maxAuthorities)
		}
	}
	r := &Root{pb: pb, facts: newFacts(), thresholds: DefaultThresholds()}
	var err error
	if r.logs, err = parseLogs("tlogs", pb.GetTlogs()); err != nil {
		return nil, err
	}
	if r.ctlogs, err = parseLogs("ctlogs", pb.GetCtlogs()); err != nil {
		return nil, err
	}
	if r.cas, err = parseAuthorities("certificateAuthorities", pb.GetCertificateAuthorities(), x509.ExtKeyUsageCodeSigning); err != nil {
		return nil, err
	}
	if r.tsas, err = parseAuthorities("timestampAuthorities", pb.GetTimestampAuthorities(), x509.ExtKeyUsageTimeStamping); err != nil {
		return nil, err
	}
	for _, o := range opts {
		o(r)
	}
	return r, nil
}

// Name is the trust domain's name; "" unless [WithName] gave one.
func (r *Root) Name() string { return r.name }

// Bytes is the document: as it was read, or as [Root.MarshalJSON] writes it.
func (r *Root) Bytes() []byte {
	if r.raw != nil {
		return bytes.Clone(r.raw)
	}
	b, err := r.MarshalJSON()
	if err != nil { // a Root that was made marshals
		panic(err)
	}
	return b
}

// Digest names the document's bytes.
func (r *Root) Digest() artifact.Digest { return artifact.SHA256Of(r.Bytes()) }

func parseWindow(where string, tr *commonpb.TimeRange) (Window, error) {
	var w Window
	if tr.GetStart() == nil {
		return w, refuse(CodeRootMalformed, "trusted root: %s: validFor.start is missing; a window without a start is not unbounded, it is malformed", where)
	}
	if err := tr.GetStart().CheckValid(); err != nil {
		return w, refuse(CodeRootMalformed, "trusted root: %s: validFor.start: %w", where, err)
	}
	w.Start = tr.GetStart().AsTime()
	if tr.GetEnd() != nil {
		if err := tr.GetEnd().CheckValid(); err != nil {
			return w, refuse(CodeRootMalformed, "trusted root: %s: validFor.end: %w", where, err)
		}
		w.End = tr.GetEnd().AsTime()
		if w.End.Before(w.Start) {
			return w, refuse(CodeRootMalformed, "trusted root: %s: validFor.end %s is before its start %s", where, w.End.Format(time.RFC3339), w.Start.Format(time.RFC3339))
		}
	}
	return w, nil
}

func parseLogs(kind string, in []*trustpb.TransparencyLogInstance) ([]*logKey, error) {
	var out []*logKey
	for i, l := range in {
		k, err := parseLog(kind, l)
		if err != nil {
			return nil, err
		}
		for _, o := range out {
			if o.id == k.id && o.sum != k.sum {
				return nil, refuse(CodeRootMalformed, "trusted root: %s[%d]: log ID %x already names another key", kind, i, k.id)
			}
		}
		out = append(out, k)
	}
	return out, nil
}

func parseLog(kind string, l *trustpb.TransparencyLogInstance) (*logKey, error) {
	where := kind + " " + l.GetBaseUrl()
	if l.GetHashAlgorithm() != commonpb.HashAlgorithm_SHA2_256 {
		return nil, refuse(CodeRootMalformed, "trusted root: %s: hashAlgorithm %s, want SHA2_256", where, l.GetHashAlgorithm())
	}
	id := l.GetLogId().GetKeyId()
	if len(id) == 0 || len(id) > 64 {
		return nil, refuse(CodeRootMalformed, "trusted root: %s: logId.keyId has %d bytes, want 32", where, len(id))
	}
	key, err := parseRootKey(l.GetPublicKey())
	if err != nil {
		return nil, refuse(CodeRootMalformed, "trusted root: %s: %w", where, err)
	}
	w, err := parseWindow(where, l.GetPublicKey().GetValidFor())
	if err != nil {
		return nil, err
	}
	k := &logKey{verifyKey: key, id: string(id), url: l.GetBaseUrl(), operator: l.GetOperator(), window: w}
	if k.origin, err = originOf(l.GetBaseUrl()); err != nil {
		return nil, refuse(CodeRootMalformed, "trusted root: %s: baseUrl: %w", where, err)
	}
	k.noteHash = binary.BigEndian.Uint32(noteKeyID(k.origin, key))
	return k, nil
}

// originOf is the checkpoint origin of a Rekor v2 log: the host name of its
// base URL, without port (sigstore-go, rekor-tiles).
func originOf(base string) (string, error) {
	if base == "" {
		return "", nil
	}
	if !strings.Contains(base, "://") {
		base = "//" + base // "MAY be a scheme-less URL"
	}
	u, err := url.Parse(base)
	if err != nil {
		return "", err
	}
	return u.Hostname(), nil
}

// noteKeyID is the full signed-note key ID of a log key under an origin, whose
// first four bytes stand in each signature line (C2SP signed-note, with Rekor's
// deviations: ECDSA hashes the SubjectPublicKeyInfo alone, RSA names its
// encoding).
func noteKeyID(origin string, k *verifyKey) []byte {
	h := sha256.New()
	switch p := k.pub.(type) {
	case *ecdsa.PublicKey:
		h.Write(k.spki)
	case ed25519.PublicKey:
		h.Write([]byte(origin + "\n\x01"))
		h.Write(p)
	default:
		h.Write([]byte(origin + "\n\xffPKIX-RSA-PKCS#1v1.5"))
		h.Write(k.spki)
	}
	return h.Sum(nil)
}

// parseRootKey reads a log's key in the formats that roots in the field use.
func parseRootKey(pk *commonpb.PublicKey) (*verifyKey, error) {
	der := pk.GetRawBytes()
	if len(der) == 0 {
		return nil, refuse(CodeRootMalformed, "public key is missing")
	}
	if pk.GetKeyDetails() == commonpb.PublicKeyDetails_PKCS1_RSA_PKCS1V5 { //nolint:staticcheck // Sigstore's staging root has one
		k, err := x509.ParsePKCS1PublicKey(der)
		if err != nil {
			return nil, err
		}
		return newVerifyKey(k)
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	k, err := newVerifyKey(pub)
	if err != nil {
		return nil, err
	}
	if want := protoKeyDetails(k); pk.GetKeyDetails() != want {
		return nil, refuse(CodeRootMalformed, "keyDetails %s, but the key is %s", pk.GetKeyDetails(), want)
	}
	return k, nil
}
