package evidence

import (
	"context"
	"log/slog"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/attestation"
	"assay/blob"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/store"
	"assay/trust"
)

// Verifier says what a bundle proves, whatever artifact it is about: under the
// site's trusted roots when a certificate signed, under its keys when a key
// did. A refusal is fault.Unverified and carries a trust.Code; any other error
// means that no answer was found, and is not held against the bundle. It is
// called from many goroutines at once, at most as many as Limits.Verifiers.
type Verifier interface {
	Verify(ctx context.Context, b *attestation.Bundle) (*trust.Verified, error)
}

// NotationVerifier is a [Verifier] that also reads signatures of the Notary
// Project, on the same terms. With one that does not, they are refused.
type NotationVerifier interface {
	VerifyNotation(ctx context.Context, raw []byte) (*trust.Verified, error)
}

// Limits bound what a bundle, a page and a question may cost. A zero field
// means its default.
type Limits struct {
	Attestation   attestation.Limits // caps within a bundle, before any cryptography
	Inline        int                // largest bundle kept in SQL, bytes; larger ones go to the blob store; 64 KiB
	Verifiers     int                // verifications at once; the number of cores
	MaxEvidence   int                // bundles that Evidence gives, the signers by turns; 64
	EvidenceBytes int64              // bytes of bundles that Evidence gives; 64 MiB
	MaxPage       int                // records that List gives; 1,000
	MaxLayers     int                // bundles read of one pushed manifest; 256
	MaxListed     int                // manifests read of one fallback index; 1,024
	RejectWindow  time.Duration      // refusals of one sort within it become one event; 1 min
}

func (l Limits) withDefaults() Limits {
	d := attestation.DefaultLimits()
	def(&l.Attestation.MaxBundle, d.MaxBundle)
	def(&l.Attestation.MaxManifest, d.MaxManifest)
	def(&l.Attestation.MaxSubjects, d.MaxSubjects)
	def(&l.Inline, 64<<10)
	def(&l.Verifiers, runtime.GOMAXPROCS(0))
	def(&l.MaxEvidence, 64)
	def(&l.EvidenceBytes, 64<<20)
	def(&l.MaxPage, 1000)
	def(&l.MaxLayers, 256)
	def(&l.MaxListed, 1024)
	def(&l.RejectWindow, time.Minute)
	return l
}

func def[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Options of a [Store]. DB, Blobs and Verifier are required.
type Options struct {
	DB       *store.DB
	Blobs    blob.Store
	Verifier Verifier
	// Epoch tells the trust epoch; nil: trust.Epoch. Bytes that were verified
	// under the current epoch are not verified again.
	Epoch func(ctx context.Context, tx *store.Tx) (int64, error)
	// Own says of an OIDC issuer that its identities are the site's, and OwnLog of
	// a log (ID in hex) that it is. Evidence by such an identity that no such log
	// holds raises an alert. nil: nothing is.
	Own    func(issuer string) bool
	OwnLog func(id string) bool
	// Registry is where Referrer reads pushed manifests and layers; nil: from
	// Blobs, by digest.
	Registry RegistrySource

	Clock      clock.Clock           // nil: clock.System; times the verifications only, rows have the database's clock
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
	Limits     Limits
}

// Store keeps verified bundles. It is safe for concurrent use.
type Store struct {
	db       *store.DB
	blobs    blob.Store
	verifier Verifier
	epoch    func(ctx context.Context, tx *store.Tx) (int64, error)
	registry RegistrySource
	own      func(issuer string) bool
	ownLog   func(id string) bool
	now      clock.Clock
	log      *slog.Logger
	met      *metrics
	limits   Limits
	turns    chan struct{} // one for each verification under way
	rejected *rejections
	told     once // bundles that were found altered
}

// New makes a store over a database that was migrated with [Migrations],
// event.Migrations and trust.Migrations. Errors are fault.Invalid and name the
// option. Close it when done.
func New(o Options) (*Store, error) {
	switch {
	case o.DB == nil:
		return nil, fault.Newf(fault.Invalid, "evidence: Options.DB is required")
	case o.Blobs == nil:
		return nil, fault.Newf(fault.Invalid, "evidence: Options.Blobs is required")
	case o.Verifier == nil:
		return nil, fault.Newf(fault.Invalid, "evidence: Options.Verifier is required")
	}
	if o.Epoch == nil {
		o.Epoch = trust.Epoch
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	met, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Store{
		db: o.DB, blobs: o.Blobs, verifier: o.Verifier, epoch: o.Epoch, registry: o.Registry, own: o.Own, ownLog: o.OwnLog,
		now: o.Clock, log: o.Logger, met: met, limits: o.Limits.withDefaults(),
	}
	if s.registry == nil {
		s.registry = blobSource{s}
	}
	s.turns = make(chan struct{}, s.limits.Verifiers)
	s.rejected = newRejections(s.limits.RejectWindow, s.writeRejections)
	return s, nil
}

// Close writes down the refusals that were counted and not told yet. Nothing
// that was acknowledged depends on it.
func (s *Store) Close() error {
	s.rejected.close()
	return nil
}
