// Package oidcflow logs a person in at an OpenID Connect issuer from a command
// line: by authorization code with PKCE on a loopback address (RFC 8252, RFC
// 7636), or by device code (RFC 8628), and renews what was obtained. It is a
// public client: it holds no secret.
//
// The issuer's documents are read without following redirects, up to a size, and
// only from https addresses, or http on loopback.
package oidcflow

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
)

// Client is the command line as an issuer knows it.
type Client struct {
	Issuer string       // exact iss
	ID     string       // client_id, and so the aud of its ID tokens
	Scopes []string     // besides openid; empty: email, profile
	HTTP   *http.Client // nil: one with a timeout of 30 s; redirects are not followed
	Now    func() time.Time
}

// Tokens are what a login gives.
type Tokens struct {
	IDToken string    `json:"id_token"`
	Refresh string    `json:"refresh_token,omitempty"`
	Expires time.Time `json:"expires"` // of the ID token
}

// metadata is the part of OpenID Connect Discovery 1.0, section 3, that counts.
type metadata struct {
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	Device        string   `json:"device_authorization_endpoint"`
	PKCE          []string `json:"code_challenge_methods_supported"`
	Scopes        []string `json:"scopes_supported"`
}

const maxAnswer = 1 << 20

func (c *Client) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

func (c *Client) http() *http.Client {
	h := c.HTTP
	if h == nil {
		h = &http.Client{Timeout: 30 * time.Second}
	}
	n := *h
	// Codes and tokens go to the endpoints that the issuer named, and nowhere else.
	n.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &n
}

// endpoint checks an address that tokens or people are sent to.
func endpoint(what, raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return fault.Newf(fault.Invalid, "%s %.200q: want an https address (http on loopback alone)", what, raw)
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c *Client) discover(ctx context.Context) (*metadata, error) {
	if err := endpoint("issuer", c.Issuer); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.Issuer, "/")+"/.well-known/openid-configuration", nil)
	if err != nil {
		return nil, err
	}
	status, body, err := c.do(req)
	if err != nil {
		return nil, err
	}
	var m metadata
	if status != http.StatusOK || json.Unmarshal(body, &m) != nil {
		return nil, fault.Newf(fault.Unavailable, "issuer %s: its discovery document answers %d and is not one", c.Issuer, status)
	}
	if m.Issuer != c.Issuer {
		return nil, fault.Newf(fault.Invalid, "issuer %s calls itself %.200q: use that name exactly, if it is right", c.Issuer, m.Issuer)
	}
	if err := endpoint("token_endpoint", m.Token); err != nil {
		return nil, err
	}
	return &m, nil
}

func (c *Client) do(req *http.Request) (int, []byte, error) {
	resp, err := c.http().Do(req)
	if err != nil {
		return 0, nil, fault.Newf(fault.Unavailable, "issuer %s does not answer: %w", c.Issuer, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = errors.New("the answer is too large")
	}
	if err != nil {
		return 0, nil, fault.Newf(fault.Unavailable, "issuer %s: %w", c.Issuer, err)
	}
	return resp.StatusCode, b, nil
}

func (c *Client) scope(m *metadata) string {
	scopes := c.Scopes
	if len(scopes) == 0 {
		scopes = []string{"email", "profile"}
		if slices.Contains(m.Scopes, "groups") {
			scopes = append(scopes, "groups")
		}
	}
	if slices.Contains(m.Scopes, "offline_access") {
		scopes = append(slices.Clone(scopes), "offline_access")
	}
	return "openid " + strings.Join(scopes, " ")
}

func random() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Browser logs in by authorization code. open is called with the address to show
// to the person; it may only print it. The code comes back to a listener on
// 127.0.0.1, which takes one answer with the right state and ends.
func (c *Client) Browser(ctx context.Context, open func(address string) error) (*Tokens, error) {
	m, err := c.discover(ctx)
	if err != nil {
		return nil, err
	}
	if err := endpoint("authorization_endpoint", m.Authorization); err != nil {
		return nil, err
	}
	if len(m.PKCE) > 0 && !slices.Contains(m.PKCE, "S256") {
		return nil, fault.Newf(fault.Invalid, "issuer %s does not know PKCE with S256, without which a code could be stolen", c.Issuer)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	redirect := "http://" + l.Addr().String() + "/callback"
	state, nonce, verifier := random(), random(), random()
	challenge := sha256.Sum256([]byte(verifier))
	u, _ := url.Parse(m.Authorization) // checked above
	q := u.Query()
	for k, v := range map[string]string{
		"response_type": "code", "client_id": c.ID, "redirect_uri": redirect, "scope": c.scope(m), "state": state, "nonce": nonce,
		"code_challenge": base64.RawURLEncoding.EncodeToString(challenge[:]), "code_challenge_method": "S256",
	} {
		q.Set(k, v)
	}
	u.RawQuery = q.Encode()

	answers := make(chan callback, 1)
	srv := &http.Server{Handler: callbackHandler(state, c.Issuer, answers), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = srv.Serve(l) }()
	defer func() {
		// The page that says that all is well is still on its way.
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = srv.Shutdown(stop)
	}()
	if err := open(u.String()); err != nil {
		return nil, err
	}
	var got callback
	select {
	case got = <-answers:
	case <-ctx.Done():
		return nil, fault.Newf(fault.Undecided, "nobody logged in: %w", ctx.Err())
	}
	if got.err != nil {
		return nil, got.err
	}
	return c.redeem(ctx, m, url.Values{"grant_type": {"authorization_code"}, "code": {got.code}, "redirect_uri": {redirect}, "code_verifier": {verifier}}, nonce)
}

type callback struct {
	code string
	err  error
}

// callbackHandler takes the browser's way back. A request without the state,
// which any page can send, changes nothing.
func callbackHandler(state, issuer string, answers chan<- callback) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'")
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer")
		q := r.URL.Query()
		if r.URL.Path != "/callback" || r.Method != http.MethodGet || subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) != 1 {
			http.Error(w, "this is not the answer to the login that waits here", http.StatusBadRequest)
			return
		}
		a := callback{code: q.Get("code")}
		switch {
		case q.Has("iss") && q.Get("iss") != issuer: // RFC 9207
			a.err = fault.Newf(fault.Unauthenticated, "the answer is of issuer %.200q, asked was %s", q.Get("iss"), issuer)
		case q.Get("error") != "":
			a.err = fault.Newf(fault.Unauthenticated, "the issuer refused the login: %.200q %.400q", q.Get("error"), q.Get("error_description"))
		case a.code == "":
			a.err = fault.Newf(fault.Unauthenticated, "the issuer's answer has no code")
		}
		select {
		case answers <- a:
		default: // a second answer
		}
		words := "You are logged in. You can close this page."
		if a.err != nil {
			words = a.err.Error()
		}
		fmt.Fprintf(w, "<!doctype html><title>Assay</title><p>%s</p>\n", html.EscapeString(words))
	})
}

// tokenAnswer is RFC 6749, sections 5.1 and 5.2.
type tokenAnswer struct {
	IDToken      string `json:"id_token"`
	RefreshToken string `json:"refresh_token"`
	Error        string `json:"error"`
	Description  string `json:"error_description"`
}

// oauthError is a refusal of the issuer's with its code.
type oauthError struct {
	code string
	error
}

func (e *oauthError) Unwrap() error { return e.error }

func (c *Client) post(ctx context.Context, to string, form url.Values) ([]byte, error) {
	form.Set("client_id", c.ID)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	status, body, err := c.do(req)
	if err != nil {
		return nil, err
	}
	if status == http.StatusOK {
		return body, nil
	}
	var a tokenAnswer
	if json.Unmarshal(body, &a) != nil || a.Error == "" {
		return nil, fault.Newf(fault.Unavailable, "issuer %s answers %d", c.Issuer, status)
	}
	return nil, &oauthError{a.Error, fault.Newf(fault.Unauthenticated, "issuer %s refuses: %.200q %.400q", c.Issuer, a.Error, a.Description)}
}

func (c *Client) redeem(ctx context.Context, m *metadata, form url.Values, nonce string) (*Tokens, error) {
	body, err := c.post(ctx, m.Token, form)
	if err != nil {
		return nil, err
	}
	var a tokenAnswer
	if err := json.Unmarshal(body, &a); err != nil || a.IDToken == "" {
		return nil, fault.Newf(fault.Unavailable, "issuer %s gave no ID token: is openid among the client's scopes?", c.Issuer)
	}
	end, err := c.check(a.IDToken, nonce)
	return &Tokens{a.IDToken, a.RefreshToken, end}, err
}

// check reads an ID token that came from the issuer's own endpoint over TLS,
// which stands for its signature (OpenID Connect Core 1.0, section 3.1.3.7, 6).
// Whoever is shown the token verifies that.
func (c *Client) check(raw, nonce string) (time.Time, error) {
	var claims struct {
		Issuer  string  `json:"iss"`
		Nonce   string  `json:"nonce"`
		Expires float64 `json:"exp"`
		Aud     any     `json:"aud"`
	}
	parts := strings.Split(raw, ".")
	if len(raw) > 16<<10 || len(parts) != 3 {
		return time.Time{}, fault.Newf(fault.Unauthenticated, "issuer %s: what it gave is no ID token", c.Issuer)
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(b, &claims)
	}
	if err != nil {
		return time.Time{}, fault.Newf(fault.Unauthenticated, "issuer %s: its ID token does not read: %w", c.Issuer, err)
	}
	end := time.Unix(int64(claims.Expires), 0)
	list, _ := claims.Aud.([]any)
	switch {
	case claims.Issuer != c.Issuer:
		return end, fault.Newf(fault.Unauthenticated, "the ID token is of issuer %.200q, want %s", claims.Issuer, c.Issuer)
	case claims.Aud != any(c.ID) && (len(list) != 1 || list[0] != any(c.ID)):
		return end, fault.Newf(fault.Unauthenticated, "the ID token is for %.200v, want %s", claims.Aud, c.ID)
	case nonce != "" && subtle.ConstantTimeCompare([]byte(claims.Nonce), []byte(nonce)) != 1:
		return end, fault.Newf(fault.Unauthenticated, "the ID token is the answer to another login")
	case !c.now().Before(end):
		return end, fault.Newf(fault.Unauthenticated, "the ID token has ended already; check the clocks")
	}
	return end, nil
}

// Refresh gets another ID token. An issuer that gives no new refresh token
// leaves the old one good.
func (c *Client) Refresh(ctx context.Context, refresh string) (*Tokens, error) {
	m, err := c.discover(ctx)
	if err != nil {
		return nil, err
	}
	t, err := c.redeem(ctx, m, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "scope": {c.scope(m)}}, "")
	if err == nil && t.Refresh == "" {
		t.Refresh = refresh
	}
	return t, err
}

// Device logs in by device code. show is told where to go and which code to
// type, and, where the issuer has one, an address with the code in it.
func (c *Client) Device(ctx context.Context, show func(address, code, complete string)) (*Tokens, error) {
	m, err := c.discover(ctx)
	if err != nil {
		return nil, err
	}
	if m.Device == "" {
		return nil, fault.Newf(fault.Invalid, "issuer %s has no device flow (RFC 8628); log in with a browser on this machine", c.Issuer)
	}
	if err := endpoint("device_authorization_endpoint", m.Device); err != nil {
		return nil, err
	}
	body, err := c.post(ctx, m.Device, url.Values{"scope": {c.scope(m)}})
	if err != nil {
		return nil, err
	}
	var d struct {
		Code     string `json:"device_code"`
		UserCode string `json:"user_code"`
		Address  string `json:"verification_uri"`
		Complete string `json:"verification_uri_complete"`
		Expires  int    `json:"expires_in"`
		Interval int    `json:"interval"`
	}
	if err := json.Unmarshal(body, &d); err != nil || d.Code == "" || d.UserCode == "" {
		return nil, fault.Newf(fault.Unavailable, "issuer %s: its device answer does not read", c.Issuer)
	}
	if err := endpoint("verification_uri", d.Address); err != nil {
		return nil, err
	}
	if d.Complete != "" && endpoint("verification_uri_complete", d.Complete) != nil {
		d.Complete = ""
	}
	show(d.Address, d.UserCode, d.Complete)
	if d.Expires < 1 || d.Expires > 3600 {
		d.Expires = 3600
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(d.Expires)*time.Second)
	defer cancel()
	return c.poll(ctx, m, d.Code, time.Duration(max(d.Interval, 1))*time.Second)
}

// poll asks for the token until the person has agreed (RFC 8628, section 3.5).
func (c *Client) poll(ctx context.Context, m *metadata, code string, every time.Duration) (*Tokens, error) {
	for {
		t := time.NewTimer(every)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, fault.Newf(fault.Undecided, "nobody logged in: %w", ctx.Err())
		case <-t.C:
		}
		tokens, err := c.redeem(ctx, m, url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {code}}, "")
		var refused *oauthError
		switch {
		case err == nil:
			return tokens, nil
		case errors.As(err, &refused) && refused.code == "authorization_pending":
		case errors.As(err, &refused) && refused.code == "slow_down":
			every += 5 * time.Second
		default:
			return nil, err
		}
	}
}
