package client

import (
	"encoding/json"
	"time"

	"assay/artifact"
)

// List is a page of things. Next is the cursor of the page after, "" at the end.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// Status is what a server says of itself: GET /api/v1/status.
type Status struct {
	Version    string    `json:"version"`
	PublicURL  string    `json:"public_url"`
	Origin     string    `json:"origin"`      // of the transparency log's checkpoints
	LogSize    uint64    `json:"log_size"`    // entries
	TrustEpoch int64     `json:"trust_epoch"` // raised by every change of trust
	StartedAt  time.Time `json:"started_at"`
	Services   Services  `json:"services"`
}

// Services are the base URLs of the signing services.
type Services struct {
	Fulcio   string `json:"fulcio"`
	Rekor    string `json:"rekor"`
	TSA      string `json:"tsa"`
	TUF      string `json:"tuf"`
	OIDC     string `json:"oidc"`
	Registry string `json:"registry"` // host[:port], as it stands in references
}

// TokenRequest asks for a token of the local issuer: POST /v1/token on the
// admin socket.
type TokenRequest struct {
	Subject  string `json:"subject"`
	Audience string `json:"audience"`    // sigstore, assay-registry, assay-api
	TTL      int    `json:"ttl_seconds"` // at most 600
}

// TokenAnswer is a token and its end.
type TokenAnswer struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// VerifyRequest asks whether an artifact may run: POST /api/v1/verify. What is
// in a repository of this server is an image; a digest alone is a file.
type VerifyRequest struct {
	Reference   string          `json:"reference,omitempty"`   // of this registry; HOST/REPOSITORY[:TAG][@DIGEST]
	Digest      artifact.Digest `json:"digest,omitempty"`      // of an image manifest or of a file
	Repository  string          `json:"repository,omitempty"`  // where the image is, and whose policies apply
	Scope       string          `json:"scope,omitempty"`       // "" is the default scope
	Environment string          `json:"environment,omitempty"` // where it is to run, for policies that select on it
}

// Evidence is one verified attestation or signature about one subject.
type Evidence struct {
	ID            string          `json:"id"` // att_…
	Subject       artifact.Digest `json:"subject"`
	PredicateType string          `json:"predicate_type"` // "" for a plain signature
	Issuer        string          `json:"issuer,omitempty"`
	Identity      string          `json:"identity,omitempty"`
	Key           string          `json:"key,omitempty"` // fingerprint, for key signatures
	Root          string          `json:"root"`          // the trust root that it verified under
	TrustedTime   time.Time       `json:"trusted_time"`
	LogIndex      *int64          `json:"log_index,omitempty"`
	Repository    string          `json:"repository,omitempty"`
	Source        string          `json:"source,omitempty"`
	IngestedAt    time.Time       `json:"ingested_at"`
}

// EvidenceFilter narrows a listing; the zero value lists all.
type EvidenceFilter struct {
	Digest        artifact.Digest
	PredicateType string
	Issuer        string
	Identity      string
	Repository    string // where it was pushed, and whose right to read counts
	After         string // cursor
	Limit         int    // 0: 100
}

// ApplyAnswer says what an apply changed, or would change.
type ApplyAnswer struct {
	Changes []Change `json:"changes"`
	DryRun  bool     `json:"dry_run"`
}

// Change is one document's way from what is to what is wanted.
type Change struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Action string `json:"action"`         // created, updated, deleted, unchanged, unmanaged
	Diff   string `json:"diff,omitempty"` // lines with - and +
}

// LogEntry is one entry of the transparency log, decoded.
type LogEntry struct {
	Index      uint64          `json:"index"`
	Kind       string          `json:"kind"`
	Digest     string          `json:"digest,omitempty"`
	Issuer     string          `json:"issuer,omitempty"`
	Identity   string          `json:"identity,omitempty"`
	Key        string          `json:"key,omitempty"`
	TreeSize   uint64          `json:"tree_size"`
	Checkpoint string          `json:"checkpoint"`
	Proof      []string        `json:"proof"` // hex, from the leaf up
	Body       json.RawMessage `json:"body"`
	RootHash   string          `json:"root_hash"`
	LeafHash   string          `json:"leaf_hash"`
}

// OnlineKey is the public half of the key that signs a site's TUF repository.
type OnlineKey struct {
	ID  string `json:"id"`  // as TUF names it
	PEM string `json:"pem"` // SubjectPublicKeyInfo
}

// VKey is how witnesses and monitors know a key of a log.
type VKey struct {
	Use  string `json:"use"`  // log: the log's key; witness: the key beside it that witnesses know
	VKey string `json:"vkey"` // C2SP signed-note
}
