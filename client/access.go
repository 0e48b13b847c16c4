package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Right is a role within a scope, and of its actions, if any are given, these.
type Right struct {
	Role    string   `json:"role"`
	Scope   string   `json:"scope"` // a pattern of repositories
	Actions []string `json:"actions,omitempty"`
}

// Robot is a machine account.
type Robot struct {
	Name        string           `json:"name"`
	Description string           `json:"description,omitempty"`
	Rights      []Right          `json:"rights"`
	Audiences   []string         `json:"audiences"` // assay-registry, assay-api
	CreatedAt   time.Time        `json:"created_at,omitzero"`
	CreatedBy   string           `json:"created_by,omitempty"`
	Tokens      []RobotTokenInfo `json:"tokens,omitempty"` // newest first
}

// RobotTokenInfo is what is known of a robot's token; the secret is not.
type RobotTokenInfo struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
	Expires   time.Time `json:"expires"`
	Revoked   time.Time `json:"revoked,omitzero"`
	LastUsed  time.Time `json:"last_used,omitzero"` // to the minute
	Live      bool      `json:"live"`
}

// RobotRequest makes a robot: POST /api/v1/robots. Name, rights, audiences and a
// life are wanted.
type RobotRequest struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Rights      []Right  `json:"rights"`
	Audiences   []string `json:"audiences"`
	TTL         int64    `json:"ttl_seconds"`
}

// RotateRequest gives a robot another token.
type RotateRequest struct {
	TTL  int64 `json:"ttl_seconds"`
	Keep int64 `json:"keep_seconds"` // how long those that it has still hold
}

// RobotToken is a robot's new token. The secret is told here and never again.
type RobotToken struct {
	Robot   string    `json:"robot"`
	ID      string    `json:"id"`
	Secret  string    `json:"secret"`
	Expires time.Time `json:"expires"`
}

// RevokeCredentialRequest ends credentials: give a robot, a credential, or an issuer with
// an identity.
type RevokeCredentialRequest struct {
	Robot      string    `json:"robot,omitempty"`
	Credential string    `json:"credential,omitempty"` // robot:… or jwt:…, as the audit trail shows it
	Issuer     string    `json:"issuer,omitempty"`
	Identity   string    `json:"identity,omitempty"`
	Since      time.Time `json:"since,omitzero"` // from when on earlier use was not right; default now
	Reason     string    `json:"reason"`
}

// CredentialRevocation is one that holds.
type CredentialRevocation struct {
	ID         string    `json:"id"`
	At         time.Time `json:"at"`
	Since      time.Time `json:"since"`
	Robot      string    `json:"robot,omitempty"`
	Credential string    `json:"credential,omitempty"`
	Issuer     string    `json:"issuer,omitempty"`
	Identity   string    `json:"identity,omitempty"`
	Actor      string    `json:"actor"`
	Reason     string    `json:"reason"`
	Served     int64     `json:"served"` // pulls since then that were served; told once, when it is made
}

// LoginOptions say where people log in: GET /api/v1/login.
type LoginOptions struct {
	Issuers []LoginIssuer `json:"issuers"`
}

// LoginIssuer is an issuer where people log in, and the client that they do so
// as for each purpose.
type LoginIssuer struct {
	URL     string            `json:"url"`
	Clients map[string]string `json:"clients"` // audience to client_id
}

// StoredDocument is an applied document.
type StoredDocument struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	Text string `json:"text"` // YAML
}

// BreakGlassRequest asks for the break-glass administrator's token: POST
// /v1/break-glass on the admin socket.
type BreakGlassRequest struct {
	Reason   string `json:"reason"`
	Audience string `json:"audience"` // assay-api or assay-registry
	TTL      int    `json:"ttl_seconds"`
}

// BreakGlassAnswer is that token.
type BreakGlassAnswer struct {
	Token   string    `json:"token"`
	Subject string    `json:"subject"`
	Expires time.Time `json:"expires"`
}

func page(after string, limit int) url.Values {
	q := url.Values{}
	if after != "" {
		q.Set("after", after)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return q
}

// Robots lists the robots that the caller manages.
func (c *Client) Robots(ctx context.Context, after string, limit int) (*List[Robot], error) {
	var l List[Robot]
	return &l, c.call(ctx, http.MethodGet, "/api/v1/robots", page(after, limit), nil, &l)
}

// CreateRobot makes a robot and its first token.
func (c *Client) CreateRobot(ctx context.Context, r RobotRequest) (*RobotToken, error) {
	var t RobotToken
	return &t, c.call(ctx, http.MethodPost, "/api/v1/robots", nil, r, &t)
}

// RotateRobot gives a robot another token.
func (c *Client) RotateRobot(ctx context.Context, name string, r RotateRequest) (*RobotToken, error) {
	var t RobotToken
	return &t, c.call(ctx, http.MethodPost, "/api/v1/robots/"+url.PathEscape(name)+"/rotate", nil, r, &t)
}

// DeleteRobot takes a robot away, with its tokens.
func (c *Client) DeleteRobot(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/api/v1/robots/"+url.PathEscape(name), nil, nil, nil)
}

// RevokeCredentials ends credentials.
func (c *Client) RevokeCredentials(ctx context.Context, r RevokeCredentialRequest) (*CredentialRevocation, error) {
	var out CredentialRevocation
	return &out, c.call(ctx, http.MethodPost, "/api/v1/revocations", nil, r, &out)
}

// CredentialRevocations lists revocations of credentials, oldest first.
func (c *Client) CredentialRevocations(ctx context.Context, after string, limit int) (*List[CredentialRevocation], error) {
	var l List[CredentialRevocation]
	return &l, c.call(ctx, http.MethodGet, "/api/v1/revocations", page(after, limit), nil, &l)
}

// Login says where people log in.
func (c *Client) Login(ctx context.Context) (*LoginOptions, error) {
	var o LoginOptions
	return &o, c.call(ctx, http.MethodGet, "/api/v1/login", nil, nil, &o)
}

// Documents lists the applied documents, of one kind or of all.
func (c *Client) Documents(ctx context.Context, kind string) ([]StoredDocument, error) {
	q := url.Values{}
	if kind != "" {
		q.Set("kind", kind)
	}
	var l List[StoredDocument]
	err := c.call(ctx, http.MethodGet, "/api/v1/documents", q, nil, &l)
	return l.Items, err
}

// DeleteDocument takes one away.
func (c *Client) DeleteDocument(ctx context.Context, kind, name string, dryRun bool) (*ApplyAnswer, error) {
	q := url.Values{}
	if dryRun {
		q.Set("dry_run", "true")
	}
	var a ApplyAnswer
	return &a, c.call(ctx, http.MethodDelete, "/api/v1/documents/"+url.PathEscape(kind)+"/"+url.PathEscape(name), q, nil, &a)
}

// BreakGlass asks the admin socket for an administrator's token.
func (c *Client) BreakGlass(ctx context.Context, r BreakGlassRequest) (*BreakGlassAnswer, error) {
	var a BreakGlassAnswer
	return &a, c.call(ctx, http.MethodPost, "/v1/break-glass", nil, r, &a)
}
