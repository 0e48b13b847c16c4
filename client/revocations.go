package client

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"assay/artifact"
)

// Revocation is one entry of the list: the members that name its target are
// those of its kind.
type Revocation struct {
	Kind    string          `json:"kind"`              // key, identity, certificate, builder, log, artifact
	Key     string          `json:"key,omitempty"`     // fingerprint, sha256:…
	Match   string          `json:"match,omitempty"`   // of identity: exact or pattern
	Issuer  string          `json:"issuer,omitempty"`  // of identity and certificate
	Subject string          `json:"subject,omitempty"` // of identity
	Serial  string          `json:"serial,omitempty"`  // of certificate, hex
	Builder string          `json:"builder,omitempty"` // builder.id
	LogID   string          `json:"log_id,omitempty"`  // hex
	From    *int64          `json:"from,omitempty"`    // first index of the log
	To      *int64          `json:"to,omitempty"`      // last index; absent: to the end
	Digest  artifact.Digest `json:"digest,omitempty"`  // of the artifact

	InvalidSince time.Time  `json:"invalid_since"`
	Reason       string     `json:"reason"`
	Requester    string     `json:"requester,omitempty"` // set by the server
	Created      *time.Time `json:"created,omitempty"`   // set by the server
}

// RevocationList is what is revoked: GET /api/v1/trust/revocations.
type RevocationList struct {
	Domain   string       `json:"domain"`
	Version  int64        `json:"version"`
	State    string       `json:"state"` // current or stale
	Issued   time.Time    `json:"issued"`
	Expires  time.Time    `json:"expires"`
	LogIndex *int64       `json:"log_index,omitempty"` // of its signature
	Entries  []Revocation `json:"entries"`
}

// RevokeRequest asks to revoke: POST /api/v1/trust/revocations.
type RevokeRequest struct {
	Entries []Revocation `json:"entries"`
	Plan    bool         `json:"plan,omitempty"` // only say what it would take
}

// RevokeAnswer says what a revocation takes, or would take.
type RevokeAnswer struct {
	Plan         bool               `json:"plan"`
	Version      int64              `json:"version"`             // of the list that is in force now
	LogIndex     *int64             `json:"log_index,omitempty"` // of the new list
	Added        int                `json:"added"`               // entries that say more than the list did
	Attestations int                `json:"attestations"`        // bundles that count no more
	Artifacts    int                `json:"artifacts"`           // that lose evidence or are revoked themselves
	Allowed      int                `json:"allowed"`             // of those listed, how many are allowed somewhere now
	Items        []AffectedArtifact `json:"items"`               // those that lose most first, at most 1,000
	Truncated    bool               `json:"truncated"`
}

// AffectedArtifact is one artifact that a revocation concerns.
type AffectedArtifact struct {
	Digest       artifact.Digest `json:"digest"`
	Attestations int             `json:"attestations"`
	Places       []ArtifactPlace `json:"places,omitempty"`     // in this registry
	AllowedIn    []string        `json:"allowed_in,omitempty"` // scopes whose last decision allows it
}

// ArtifactPlace is a repository that holds an artifact, with the tags that name
// it there.
type ArtifactPlace struct {
	Repository string   `json:"repository"`
	Tags       []string `json:"tags,omitempty"`
}

const revocationsPath = "/api/v1/trust/revocations"

// Revocations fetches the list.
func (c *Client) Revocations(ctx context.Context) (*RevocationList, error) {
	var l RevocationList
	return &l, c.call(ctx, http.MethodGet, revocationsPath, nil, nil, &l)
}

// SignedRevocations fetches the signed list, for a verifier elsewhere; export
// asks for one that holds for 30 days.
func (c *Client) SignedRevocations(ctx context.Context, export bool) ([]byte, error) {
	q := url.Values{}
	if export {
		q.Set("export", "true")
	}
	var b []byte
	return b, c.call(ctx, http.MethodGet, revocationsPath+"/signed", q, nil, &b)
}

// Revoke revokes, or says what it would take.
func (c *Client) Revoke(ctx context.Context, req RevokeRequest) (*RevokeAnswer, error) {
	var a RevokeAnswer
	return &a, c.call(ctx, http.MethodPost, revocationsPath, nil, req, &a)
}

// ReplaceRevocations hands in a list that the offline root signed, a DSSE
// envelope.
func (c *Client) ReplaceRevocations(ctx context.Context, envelope []byte) (*RevokeAnswer, error) {
	var a RevokeAnswer
	return &a, c.call(ctx, http.MethodPut, revocationsPath, nil, Document{Bytes: envelope, MediaType: "application/vnd.dsse.envelope.v1+json"}, &a)
}
