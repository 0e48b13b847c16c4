// Package baseline compares what is known of a build's machine, its trace and
// its command with earlier builds of the same source, and tells what is new.
//
// A source is a repository and a workflow as the verified identity of the signer
// names them, never as a document does. The first build of a source teaches what
// is usual; from then on a new address, a changed tool, a machine that was used
// before, a cache that a less trusted run wrote and another command are
// anomalies, until somebody with the right to accepts them. What was not accepted
// is an anomaly in the next build again.
package baseline

import (
	"context"
	"log/slog"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/evidence"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/store"
	"assay/trust"
)

// The kinds of what is compared.
const (
	KindEgress  = "egress"  // an address that was connected to
	KindDomain  = "domain"  // a name that was asked for
	KindTool    = "tool"    // a program of the toolchain, by name and digest
	KindProgram = "program" // a program that was seen to run, by path and digest
	KindCommand = "command" // what was run, with its folder
	KindTrace   = "trace"   // a build that was traced less than earlier ones
	KindReuse   = "reuse"   // a machine that was used before where none was
	KindHidden  = "hidden"  // a machine that says it is fresh, and built before
	KindCache   = "cache"   // a cache that a less trusted run, or nobody known, wrote
	KindMore    = "more"    // there were more than are listed
)

// Trust of a run, by its verified identity.
const (
	RankForeign   = 0 // a pull request's, or of another repository
	RankBranch    = 1 // a branch that is not protected
	RankProtected = 2 // of a trusted ref
)

// DefaultRefs are refs whose runs count as protected.
func DefaultRefs() []string {
	return []string{"refs/heads/main", "refs/heads/master", "refs/heads/release/**", "refs/tags/**"}
}

const (
	maxAnomalies = 256  // of one build
	maxKnown     = 4096 // of one source and kind
	maxDocuments = 64   // of one subject and type
	maxSubjects  = 64   // of one build
	maxShown     = 5    // known values that an anomaly names
	maxValue     = 500  // bytes of one value
)

// Evidence gives verified bundles; evidence.Store is one.
type Evidence interface {
	List(ctx context.Context, f evidence.Filter) ([]evidence.Record, error)
	Get(ctx context.Context, id string) ([]evidence.Record, error)
	Bundle(ctx context.Context, id string) ([]byte, error)
}

// Verifier verifies a stored bundle again, under today's roots, for the identity
// that its certificate names.
type Verifier interface {
	Verify(ctx context.Context, b *attestation.Bundle) (*trust.Verified, error)
}

// Options of a [Store]. DB, Evidence and Verifier are required.
type Options struct {
	DB          *store.DB
	Evidence    Evidence
	Verifier    Verifier
	TrustedRefs []string // patterns over refs; nil: DefaultRefs
	Clock       clock.Clock
	Logger      *slog.Logger
}

// Store keeps builds, what is usual for their sources, and anomalies. It is safe
// for concurrent use.
type Store struct {
	db       *store.DB
	evidence Evidence
	verifier Verifier
	refs     []glob.Glob
	now      clock.Clock
	log      *slog.Logger
}

// New makes a store over a database that was migrated with [Migrations],
// event.Migrations and evidence.Migrations.
func New(o Options) (*Store, error) {
	if o.DB == nil || o.Evidence == nil || o.Verifier == nil {
		return nil, fault.Newf(fault.Invalid, "baseline: Options.DB, Evidence and Verifier are required")
	}
	if o.TrustedRefs == nil {
		o.TrustedRefs = DefaultRefs()
	}
	s := &Store{db: o.DB, evidence: o.Evidence, verifier: o.Verifier, now: o.Clock, log: o.Logger}
	for _, r := range o.TrustedRefs {
		g, err := glob.Parse(r)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "runner.trusted_refs: %w", err)
		}
		s.refs = append(s.refs, g)
	}
	if s.now == nil {
		s.now = clock.System
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// Source is what builds are compared within.
type Source struct {
	ID         string // src_ and hex
	Issuer     string // of the signer's identity; "" of a bare key
	Repository string // URI; verified where the identity names one, else the provenance's
	Workflow   string // URI without its ref, the signer's name, or key: and fingerprint
	Verified   bool   // the repository is the identity's own word
	Since      time.Time
	Builds     int
}

// State of a build's comparison.
type State string

// The states. Only Compared and Accepted say that nothing else was there.
const (
	StateFirst    State = "first"    // it taught what is usual, and was compared with nothing
	StateCompared State = "compared" // with what earlier builds taught
	StateAccepted State = "accepted" // a first build that somebody looked at
	StateNone     State = "none"     // nothing is known to compare it with, and it may not teach
)

// Build is one run, by its signer and its invocation id.
type Build struct {
	ID           string // run_ and hex
	Source       string
	InvocationID string
	Issuer       string
	Identity     string // the signer's subject, or its key
	Ref          string
	RefVerified  bool // the ref is the identity's own word
	Trigger      string
	Rank         int
	Command      string
	Instance     string
	Machine      string
	Kind         string // container, vm, ...
	Fresh        bool
	Uses         int    // earlier builds that the machine knows of
	Used         bool   // by another job, as the machine says or as is known here
	Job          string // URI of the CI system's run, when the identity names it
	Age          int64
	Image        string
	Evidence     string // attestations
	Provenance   string
	Trace        string // "" when none was brought
	Subjects     []artifact.Digest
	Time         time.Time // trusted time of the runner evidence
	State        State
	Open         int // anomalies that nobody accepted
}

// Anomaly is one thing that was not so before.
type Anomaly struct {
	ID       string // ano_ and hex
	Build    string
	Source   string
	Kind     string
	Name     string // tool, cache key, protocol ...
	Before   string // what was usual; "" when nothing of the kind
	After    string // what is new
	Time     time.Time
	Subjects []artifact.Digest
	Accepted *Acceptance
}

// Acceptance is who took an anomaly into what is usual, and why.
type Acceptance struct {
	By     string
	Reason string
	Time   time.Time
}
