package oidcflow

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/url"
	"slices"

	"assay/internal/fault"
)

// Pending is a login that a web page began: the browser keeps it, for its own
// answer, in a cookie that scripts cannot read.
type Pending struct {
	Issuer   string `json:"i"`
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"` // PKCE
	Next     string `json:"x,omitempty"`
}

// Begin gives the address where a browser logs in, to come back to redirect.
func (c *Client) Begin(ctx context.Context, redirect string) (address string, p Pending, err error) {
	m, err := c.discover(ctx)
	if err != nil {
		return "", p, err
	}
	if err := endpoint("authorization_endpoint", m.Authorization); err != nil {
		return "", p, err
	}
	if len(m.PKCE) > 0 && !slices.Contains(m.PKCE, "S256") {
		return "", p, fault.Newf(fault.Invalid, "issuer %s does not know PKCE with S256, without which a code could be stolen", c.Issuer)
	}
	p = Pending{Issuer: c.Issuer, State: random(), Nonce: random(), Verifier: random()}
	challenge := sha256.Sum256([]byte(p.Verifier))
	u, err := url.Parse(m.Authorization)
	if err != nil {
		return "", p, fault.Wrap(fault.Invalid, err)
	}
	q := u.Query()
	for k, v := range map[string]string{
		"response_type": "code", "client_id": c.ID, "redirect_uri": redirect, "scope": c.scope(m), "state": p.State, "nonce": p.Nonce,
		"code_challenge": base64.RawURLEncoding.EncodeToString(challenge[:]), "code_challenge_method": "S256",
	} {
		q.Set(k, v)
	}
	u.RawQuery = q.Encode()
	return u.String(), p, nil
}

// Finish takes the browser's way back: the query of the address that it came to.
func (c *Client) Finish(ctx context.Context, p Pending, redirect string, q url.Values) (*Tokens, error) {
	switch {
	case p.State == "" || subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(p.State)) != 1:
		return nil, fault.Newf(fault.Unauthenticated, "this is not the answer to the login that waits here; begin again")
	case q.Has("iss") && q.Get("iss") != c.Issuer: // RFC 9207
		return nil, fault.Newf(fault.Unauthenticated, "the answer is of issuer %.200q, asked was %s", q.Get("iss"), c.Issuer)
	case q.Get("error") != "":
		return nil, fault.Newf(fault.Unauthenticated, "the issuer refused the login: %.200q %.400q", q.Get("error"), q.Get("error_description"))
	case q.Get("code") == "":
		return nil, fault.Newf(fault.Unauthenticated, "the issuer's answer has no code")
	}
	m, err := c.discover(ctx)
	if err != nil {
		return nil, err
	}
	return c.redeem(ctx, m, url.Values{"grant_type": {"authorization_code"}, "code": {q.Get("code")}, "redirect_uri": {redirect}, "code_verifier": {p.Verifier}}, p.Nonce)
}
