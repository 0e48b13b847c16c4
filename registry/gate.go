package registry

import (
	"context"

	"assay/artifact"
	"assay/identity"
	"assay/store"
)

// Gate decides what becomes of what is pushed: may it be stored, may a tag
// move, or is the move held until evidence allows it. An error stops the whole
// request; of kind fault.Denied it answers 403 with its message, and is on
// record.
//
// What takes a transaction may run more than once for one request, since
// transactions are retried, and must have no effects outside of it.
type Gate interface {
	// Prepare is asked before the transaction of a manifest's push and outside
	// of any, once its bytes are stored: here a decision may be made.
	Prepare(ctx context.Context, p *Push) error
	// Stored is asked in that transaction, when the manifest's row is there,
	// also for one that is pushed again, and before its tags move.
	Stored(ctx context.Context, tx *store.Tx, p *Push) error
	// TagMove is asked in the transaction of every move: a tag set by PUT, by a
	// tag parameter, or deleted (Move.To is then empty). With hold the move
	// waits: see [Promote].
	TagMove(ctx context.Context, tx *store.Tx, m Move) (hold bool, err error)
	// Removed is asked in the transaction that takes a manifest out of its
	// repository, before its tags go.
	Removed(ctx context.Context, tx *store.Tx, m Move) error
}

// Push is a manifest on its way in.
type Push struct {
	Repository string
	Digest     artifact.Digest
	MediaType  string
	Tags       []string        // to be set; without tags it is a push by digest
	Subject    artifact.Digest // what it says something about, by its subject or by a carrier tag; empty: nothing
	Runnable   bool            // a container could be started from it, it is an index, or it gets a tag of its own: it counts for itself, whatever its subject
	Principal  identity.Principal
	Owner      string // see Owner
	Profile    string // set by the gate: of the repository, for the events
	State      string // set by Stored: what became of it
	Prepared   any    // set by Prepare: what the gate has at hand in Stored
	Warning    string // set by the gate: what the pusher should know, for the Warning header
}

// Move is a tag about to point elsewhere.
type Move struct {
	Repository string
	Tag        string
	From       artifact.Digest // empty: the tag is new
	To         artifact.Digest // empty: the tag is being deleted
	MediaType  string          // of the manifest that To names
	Carrier    bool            // the tag carries evidence: sha256-<hex>, .sig, .att, .sbom
	Principal  identity.Principal
	ByRule     bool // a retention rule deletes that says so of immutable repositories
}

// Open is the gate that lets everything pass at once.
type Open struct{}

// Prepare allows p.
func (Open) Prepare(context.Context, *Push) error { return nil }

// Stored allows p.
func (Open) Stored(context.Context, *store.Tx, *Push) error { return nil }

// TagMove allows m.
func (Open) TagMove(context.Context, *store.Tx, Move) (bool, error) { return false, nil }

// Removed allows m.
func (Open) Removed(context.Context, *store.Tx, Move) error { return nil }

// Visibility decides what p sees of what a repository holds. It is asked at
// every read, inside the read's transaction. nil in Options shows everything to
// those who may pull.
type Visibility interface {
	// Visible rules manifests, HEAD, tag lists, referrers, mounts, and blobs (a
	// blob is seen through a manifest that is seen).
	Visible(ctx context.Context, tx *store.Tx, p identity.Principal, repository string, digest artifact.Digest) (bool, error)
	// Withheld says whether a digest, also that of a blob, is served to nobody.
	Withheld(ctx context.Context, tx *store.Tx, digest artifact.Digest) (bool, error)
	// SeesHeld says whether p's tags of the repository resolve to what is held
	// for them: to the newest push, and not to what everybody sees. owner is
	// who pushed it.
	SeesHeld(ctx context.Context, p identity.Principal, repository, owner string) bool
	// Refusal is why p does not see a manifest that is there, as an error of
	// kind fault.Denied; nil where p is to be told that it is not there.
	Refusal(ctx context.Context, tx *store.Tx, p identity.Principal, repository string, digest artifact.Digest) error
}

// Owner names a principal exactly, as rows that belong to one do.
func Owner(p identity.Principal) string {
	return string(p.Kind) + "\n" + p.Issuer + "\n" + p.Subject
}
