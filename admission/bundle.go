package admission

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"io"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/policy"
)

// BundleType is the payload type of a signed bundle.
const BundleType = "application/vnd.assay.admission-bundle.v1+json"

const (
	// BundleLife is how long a bundle speaks of what is blocked. Its allows hold
	// until they end themselves.
	BundleLife = time.Hour
	// MaxBundle is the most that a bundle may hold, in bytes: some 100,000 decisions.
	MaxBundle = 64 << 20
)

// Bundle is what a cluster's webhooks go on with while the server does not
// answer: the decisions that stand for the cluster, and what is blocked.
type Bundle struct {
	Version int64     `json:"version"` // only ever rises, for a cluster
	Cluster string    `json:"cluster"`
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires"`
	Hosts   []string  `json:"hosts"` // names of the registry
	Entries []Entry   `json:"entries"`
	Blocked []Blocked `json:"blocked"`
}

// Entry is one decision that stands.
type Entry struct {
	Digest   artifact.Digest `json:"d"`
	Scope    string          `json:"s"`
	Allow    bool            `json:"a,omitzero"`
	Mode     policy.Mode     `json:"m,omitempty"`
	Decision string          `json:"id"`
	Policy   string          `json:"p,omitempty"`
	Reason   string          `json:"r,omitempty"`
	Soft     bool            `json:"t,omitzero"`
	Runs     bool            `json:"w,omitzero"` // it runs there already
	Until    int64           `json:"u"`          // Unix seconds
}

// Blocked is a digest that runs nowhere.
type Blocked struct {
	Digest artifact.Digest `json:"d"`
	Reason string          `json:"r"`
}

// Seal signs a bundle with the key of the webhook's authority, whose certificate
// replicas hold. It is DSSE around the bundle, compressed.
func (b *Bundle) Seal(ctx context.Context, key crypto.Signer) ([]byte, error) {
	body, err := strictjson.Marshal(b)
	if err != nil {
		return nil, err
	}
	e := &attestation.Envelope{PayloadType: BundleType, Payload: body}
	sig, err := attestation.SignMessage(ctx, key, e.PAE())
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "sign the bundle: %w", err)
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	wire, err := strictjson.Marshal(sealed{BundleType, body, sig})
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(wire); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

type sealed struct {
	Type      string `json:"payloadType"`
	Payload   []byte `json:"payload"`
	Signature []byte `json:"sig"`
}

// OpenBundle checks a bundle's signature under the authority's certificate, PEM,
// and that it is of a cluster and not older than a version that was seen. Bytes
// that were altered are fault.Tampered; an older one is fault.Conflict.
func OpenBundle(raw, authority []byte, cluster string, seen int64) (*Bundle, error) {
	block, _ := pem.Decode(authority)
	if block == nil {
		return nil, fault.Newf(fault.Invalid, "the authority of bundles: want a certificate, PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "the authority of bundles: %w", err)
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fault.Newf(fault.Tampered, "bundle: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(z, 2*MaxBundle+1))
	if err != nil || len(text) > 2*MaxBundle {
		return nil, fault.Newf(fault.Tampered, "bundle: it does not unpack to at most %d bytes", 2*MaxBundle)
	}
	var s sealed
	if err := strictjson.Unmarshal(text, &s, strictjson.RejectUnknown(), strictjson.WithMaxBytes(2*MaxBundle)); err != nil {
		return nil, fault.Newf(fault.Tampered, "bundle: %w", err)
	}
	if s.Type != BundleType {
		return nil, fault.Newf(fault.Tampered, "bundle: payload type %.80q, want %s", s.Type, BundleType)
	}
	if err := attestation.VerifySignature(cert.PublicKey, attestation.PAE(s.Type, s.Payload), s.Signature); err != nil {
		return nil, fault.Newf(fault.Tampered, "bundle: it is not signed by the server's authority: %w", err)
	}
	var b Bundle
	if err := strictjson.Unmarshal(s.Payload, &b, strictjson.RejectUnknown(), strictjson.WithMaxBytes(2*MaxBundle)); err != nil {
		return nil, fault.Newf(fault.Tampered, "bundle: %w", err)
	}
	if b.Cluster != cluster {
		return nil, fault.Newf(fault.Invalid, "bundle: of cluster %.80q, want %s", b.Cluster, cluster)
	}
	if b.Version < seen {
		return nil, fault.Newf(fault.Conflict, "bundle: version %d, and %d was seen: an older one says less of what is revoked", b.Version, seen)
	}
	return &b, nil
}

type entryKey struct {
	digest artifact.Digest
	scope  string
}

// offline answers out of a bundle.
type offline struct {
	*Bundle
	entries map[entryKey]*Entry
	blocked map[artifact.Digest]string
}

func newOffline(b *Bundle) *offline {
	o := &offline{b, make(map[entryKey]*Entry, len(b.Entries)), make(map[artifact.Digest]string, len(b.Blocked))}
	for i := range b.Entries {
		e := &b.Entries[i]
		o.entries[entryKey{e.Digest, e.Scope}] = e
	}
	for _, x := range b.Blocked {
		o.blocked[x.Digest] = x.Reason
	}
	return o
}

// judge says what is known. What is not known is fault.Undecided.
func (o *offline) judge(q Question, now time.Time) (*Answer, error) {
	d := q.Reference.Digest
	if d == "" {
		return nil, fault.Newf(fault.Undecided, "the server that resolves tags does not answer: name the image by its digest")
	}
	if why, is := o.blocked[d]; is {
		return &Answer{Digest: d, Verdict: policy.Deny, Mode: policy.Enforce, Blocked: why, Basis: BasisBundle}, nil
	}
	e := o.entries[entryKey{d, q.Place.ScopeID(q.Reference.Repository)}]
	switch {
	case e == nil:
		return &Answer{Digest: d}, fault.Newf(fault.Undecided, "the server does not answer, and nothing was decided about %s for namespace %s before that", d.Short(), q.Place.Namespace)
	case !e.Allow && !now.Before(o.Expires):
		return &Answer{Digest: d}, fault.Newf(fault.Undecided, "the server does not answer, and the bundle that denied %s ended at %s", d.Short(), o.Expires.UTC().Format(time.RFC3339))
	case e.Allow && now.Unix() >= e.Until:
		return &Answer{Digest: d}, fault.Newf(fault.Undecided, "the server does not answer, and the decision about %s ended at %s", d.Short(), time.Unix(e.Until, 0).UTC().Format(time.RFC3339))
	}
	a := &Answer{Digest: d, Verdict: policy.Deny, Mode: e.Mode, Decision: e.Decision, Policy: e.Policy, ValidUntil: time.Unix(e.Until, 0), Soft: e.Soft, Runs: e.Runs, Basis: BasisBundle}
	if e.Allow {
		a.Verdict = policy.Allow
	} else {
		a.Failed = []policy.Check{{Name: "decision", Status: policy.Fail, Expected: "an allow", Found: e.Reason}}
	}
	return a, nil
}
