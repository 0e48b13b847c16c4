package admission

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/policy"
)

// BundleType is the payload type of a signed bundle.
const BundleType = "application/vnd.assay.admission-bundle.v2+gzip"

const (
	// BundleLife is how long a bundle speaks of what is blocked. Its allows hold
	// until they end themselves.
	BundleLife = time.Hour
	// MaxBundle is the most that a bundle may take, in bytes, and half of what it may
	// unpack to: some 300,000 decisions.
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
	Entries []Entry   `json:"-"`
	Blocked []Blocked `json:"-"`
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
// replicas hold.
func (b *Bundle) Seal(ctx context.Context, key crypto.Signer) ([]byte, error) {
	w := NewBundleWriter()
	for i := range b.Entries {
		if err := w.Entry(&b.Entries[i]); err != nil {
			return nil, err
		}
	}
	for i := range b.Blocked {
		if err := w.Blocked(&b.Blocked[i]); err != nil {
			return nil, err
		}
	}
	return w.Seal(ctx, key, b)
}

// OpenBundle checks a bundle's signature under the authority's certificate, PEM,
// and that it is of a cluster and not older than a version that was seen. Bytes
// that were altered are fault.Tampered; an older one is fault.Conflict.
func OpenBundle(raw, authority []byte, cluster string, seen int64) (*Bundle, error) {
	var all []Entry
	b, err := openBundle(raw, authority, cluster, seen, func(e *Entry) { all = append(all, *e) })
	if err == nil {
		b.Entries = all
	}
	return b, err
}

// openBundle is OpenBundle that gives its entries to each, as they are read.
func openBundle(raw, authority []byte, cluster string, seen int64, each func(*Entry)) (*Bundle, error) {
	block, _ := pem.Decode(authority)
	if block == nil {
		return nil, fault.Newf(fault.Invalid, "the authority of bundles: want a certificate, PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "the authority of bundles: %w", err)
	}
	var s sealed
	if err := strictjson.Unmarshal(raw, &s, strictjson.RejectUnknown(), strictjson.WithMaxBytes(MaxBundle)); err != nil {
		return nil, fault.Newf(fault.Tampered, "bundle: %w", err)
	}
	if s.Type != BundleType {
		return nil, fault.Newf(fault.Tampered, "bundle: payload type %.80q, want %s", s.Type, BundleType)
	}
	if err := attestation.VerifySignature(cert.PublicKey, attestation.PAE(s.Type, s.Payload), s.Signature); err != nil {
		return nil, fault.Newf(fault.Tampered, "bundle: it is not signed by the server's authority: %w", err)
	}
	b, err := readBundle(s.Payload, each)
	if err != nil {
		return nil, fault.Newf(fault.Tampered, "bundle: %w", err)
	}
	if b.Cluster != cluster {
		return nil, fault.Newf(fault.Invalid, "bundle: of cluster %.80q, want %s", b.Cluster, cluster)
	}
	if b.Version < seen {
		return nil, fault.Newf(fault.Conflict, "bundle: version %d, and %d was seen: an older one says less of what is revoked", b.Version, seen)
	}
	return b, nil
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
	e := o.entry(d, q.Place.ScopeID(q.Reference.Repository))
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
