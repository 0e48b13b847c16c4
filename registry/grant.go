package registry

import (
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/glob"
)

// tokenAnswer is the answer of Docker's token specification, of its OAuth 2
// form, and of token exchange (RFC 8693, section 2.2.1).
type tokenAnswer struct {
	Token           string `json:"token,omitempty"`
	AccessToken     string `json:"access_token"`
	RefreshToken    string `json:"refresh_token,omitempty"`
	IssuedTokenType string `json:"issued_token_type,omitempty"`
	TokenType       string `json:"token_type,omitempty"`
	Scope           string `json:"scope,omitempty"`
	ExpiresIn       int    `json:"expires_in"` // seconds
	IssuedAt        string `json:"issued_at"`  // RFC 3339
}

const (
	maxTokenForm   = 32 << 10
	maxTokenScopes = 64
)

// The types of RFC 8693, section 3.
const (
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	typeIDToken     = "urn:ietf:params:oauth:token-type:id_token"
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
)

// serveToken answers GET and POST /token: a scoped token for whoever the Basic
// credentials, the form's password or its refresh token prove, or for anybody
// where the access rules let everybody pull. A scope that is not allowed is
// left out, as Docker's specification asks; it is not an error. With
// grant_type token-exchange it answers a token of another issuer with one that a
// pipeline can log in with.
func (r *Registry) serveToken(w *response, req *http.Request) error {
	w.Header().Set("Cache-Control", "no-store")
	form, err := tokenForm(w, req)
	if err != nil {
		return err
	}
	if service := form.Get("service"); service != "" && service != r.tokens.service {
		return failf(codeUnsupported, fault.Invalid, "service %.200q: this is %q; the realm led to the wrong place", service, r.tokens.service)
	}
	scopes := strings.Fields(strings.Join(form["scope"], " "))
	if len(scopes) > maxTokenScopes {
		return failf(codeUnsupported, fault.Invalid, "%d scopes: want at most %d", len(scopes), maxTokenScopes)
	}
	if req.Method == http.MethodPost && form.Get("grant_type") == grantExchange {
		return r.exchange(w, req, form, scopes)
	}
	c, err := r.tokenCaller(req, form)
	if err != nil {
		return err
	}
	var access tokenAccess
	var granted []string
	for _, s := range scopes {
		e, err := r.grantScope(req, &c, s)
		if err != nil {
			return err
		}
		if len(e.Actions) > 0 {
			access = append(access, e)
			granted = append(granted, e.Type+":"+e.Name+":"+strings.Join(e.Actions, ","))
		}
	}
	t, err := r.tokens.mint(useScoped, r.carried(c), access, r.tokens.ttl)
	if err != nil {
		return err
	}
	answer := newAnswer(t)
	if req.Method == http.MethodGet {
		answer.Token = t.raw
	} else {
		answer.Scope = strings.Join(granted, " ")
	}
	if answer.RefreshToken, err = r.refreshToken(req, form, &c); err != nil {
		return err
	}
	if !c.IsAnonymous() {
		r.issued.note(c.Actor(), network(address(req)), c.Credential.ID)
	}
	return writeJSON(w, "application/json", answer)
}

func newAnswer(t minted) tokenAnswer {
	return tokenAnswer{AccessToken: t.raw, ExpiresIn: int(t.end.Sub(t.at) / time.Second), IssuedAt: t.at.UTC().Format(time.RFC3339)}
}

// carried is the principal as a token of ours carries it: of its claims those
// that grants ask for.
func (r *Registry) carried(c caller) identity.Principal {
	p := c.Principal
	p.Claims = r.access.Keep(p)
	if e := c.ends; !e.IsZero() && (p.Credential.Expires.IsZero() || e.Before(p.Credential.Expires)) {
		p.Credential.Expires = e
	}
	return p
}

// refreshToken is what a client may keep after login, where it asks for one: it
// buys scoped tokens as long as the credential itself would, ends with it and is
// revoked with it, and spares the client to keep the credential. Its event is
// committed before it is handed out.
func (r *Registry) refreshToken(req *http.Request, form url.Values, c *caller) (string, error) {
	asked := form.Get("offline_token") == "true" || form.Get("access_type") == "offline"
	if !asked || c.IsAnonymous() || c.Credential.Expires.IsZero() {
		return "", nil
	}
	if c.use == useRefresh {
		return form.Get("refresh_token"), nil // it stays what it is
	}
	access := c.access
	if access == nil {
		access = allAccess
	}
	t, err := r.tokens.mint(useRefresh, r.carried(*c), access, maxRefreshTTL)
	if err != nil {
		return "", err
	}
	return t.raw, r.tellIssued(req, c, useRefresh, t, "")
}

type issuedBody struct {
	Subject    string            `json:"subject"`
	Audience   identity.Audience `json:"audience"`
	Use        string            `json:"use"` // scoped, exchange, refresh
	Expires    string            `json:"expires,omitempty"`
	Scope      string            `json:"scope,omitempty"`
	Address    string            `json:"address"`
	Credential string            `json:"credential,omitempty"`
	Count      int               `json:"count,omitempty"` // scoped tokens that this event stands for
}

// tellIssued records a token that lives long enough to be told of by itself.
// The token is not handed out unless its record is committed.
func (r *Registry) tellIssued(req *http.Request, c *caller, use tokenUse, t minted, scope string) error {
	return r.rec.add(event.Event{
		Kind: event.TokenIssued, Actor: c.Actor(), TraceID: traceID(req), Body: issuedBody{
			Subject: clip(c.Name, 512), Audience: identity.AudienceRegistry, Use: string(use), Expires: t.end.UTC().Format(time.RFC3339),
			Scope: clip(scope, 2048), Address: address(req), Credential: c.Credential.ID,
		},
	}).wait(req.Context())
}

// exchange answers RFC 8693: subject_token is a token of audience assay-registry
// of a configured issuer (a pipeline's, a service account's), or a robot's; the
// answer a token that is good as password and as bearer, for the scopes that
// were asked for, and for longer than the issuer's own, which some issuers give
// for five minutes alone. Rights are asked for at every use: the scopes can only
// narrow them.
func (r *Registry) exchange(w *response, req *http.Request, form url.Values, scopes []string) error {
	for name, accepted := range map[string][]string{
		"subject_token_type":   {typeJWT, typeIDToken, typeAccessToken},
		"requested_token_type": {"", typeAccessToken},
		"audience":             {"", string(identity.AudienceRegistry), r.tokens.service},
		"actor_token":          {""},
	} {
		if v := form.Get(name); !slices.Contains(accepted, v) {
			return failf(codeUnsupported, fault.Invalid, "%s %.100q: want %s (RFC 8693 section 2.1)", name, v, strings.Join(nonEmpty(accepted), " or "))
		}
	}
	raw := form.Get("subject_token")
	if raw == "" {
		return failf(codeUnauthorized, fault.Unauthenticated, "no subject_token: want a token of audience %s", identity.AudienceRegistry)
	}
	if r.tokens.own(raw) {
		// It would never end.
		return failf(codeUnauthorized, fault.Unauthenticated, "a token of this registry is not exchanged for another; use the issuer's own")
	}
	c, err := r.external(withBasic(req, raw))
	if err != nil {
		return err
	}
	access := allAccess
	if len(scopes) > 0 {
		access = tokenAccess{}
		for _, s := range scopes {
			e, err := parseLimit(s)
			if err != nil {
				return err
			}
			access = append(access, e)
		}
	}
	ttl := r.limits.ExchangeTTL
	if s := form.Get("expires_in"); s != "" { // not of RFC 8693, which leaves the life to us
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || time.Duration(n)*time.Second > maxExchangeTTL {
			return failf(codeUnsupported, fault.Invalid, "expires_in %.20q: want from 1 to %d seconds", s, int(maxExchangeTTL/time.Second))
		}
		ttl = time.Duration(n) * time.Second
	}
	p := r.carried(c)
	// The issuer's token proves who asks now; from here on this one does.
	p.Credential.Expires = time.Time{}
	t, err := r.tokens.mint(useExchange, p, access, ttl)
	if err != nil {
		return err
	}
	scope := strings.Join(scopes, " ")
	if err := r.tellIssued(req, &c, useExchange, t, scope); err != nil {
		return err
	}
	answer := newAnswer(t)
	answer.IssuedTokenType, answer.TokenType, answer.Scope = typeAccessToken, "Bearer", scope
	return writeJSON(w, "application/json", answer)
}

func nonEmpty(list []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == "" })
}

// parseLimit reads a scope that an exchanged token is to be limited to:
// repository:<name or pattern>:<actions>, or registry:catalog:*.
func parseLimit(scope string) (accessEntry, error) {
	typ, name, asked, err := splitScope(scope)
	if err != nil {
		return accessEntry{}, err
	}
	e := accessEntry{Type: typ, Name: name}
	if typ == "registry" && name == "catalog" {
		e.Actions = []string{"*"}
		return e, nil
	}
	if _, err := glob.Parse(name); err != nil || typ != "repository" || !strings.Contains(name, "*") && !ValidName(name) {
		return e, failf(codeUnsupported, fault.Invalid, "scope %.300q: want repository:<name or pattern>:pull,push,delete", scope)
	}
	for _, word := range []string{"pull", "push", "delete"} {
		if slices.Contains(asked, word) || slices.Contains(asked, "*") {
			e.Actions = append(e.Actions, word)
		}
	}
	if len(e.Actions) == 0 {
		return e, failf(codeUnsupported, fault.Invalid, "scope %.300q: want some of the actions pull, push, delete", scope)
	}
	return e, nil
}

// splitScope reads "type:name:action,action".
func splitScope(scope string) (typ, name string, actions []string, err error) {
	typ, rest, ok := strings.Cut(scope, ":")
	dot := strings.LastIndexByte(rest, ':')
	if !ok || dot < 0 || len(scope) > 2*maxName {
		return "", "", nil, failf(codeUnsupported, fault.Invalid, "scope %.300q: want type:name:actions", scope)
	}
	return typ, rest[:dot], strings.Split(rest[dot+1:], ","), nil
}

func tokenForm(w *response, req *http.Request) (url.Values, error) {
	if req.Method == http.MethodGet {
		return req.URL.Query(), nil
	}
	typ, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if typ != "application/x-www-form-urlencoded" {
		return nil, failf(codeUnsupported, fault.Invalid, "Content-Type %.80q: want application/x-www-form-urlencoded (RFC 6749 section 4.3.2)", typ)
	}
	req.Body = http.MaxBytesReader(w, req.Body, maxTokenForm)
	if err := req.ParseForm(); err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			return nil, failf(codeSizeInvalid, fault.TooLarge, "token request: want at most %d bytes", maxTokenForm)
		}
		return nil, failf(codeUnsupported, fault.Invalid, "token request: %w", err)
	}
	return req.PostForm, nil // never the query: secrets do not belong there
}

// tokenCaller proves who asks for a token.
func (r *Registry) tokenCaller(req *http.Request, form url.Values) (caller, error) {
	if req.Method == http.MethodGet || req.Header.Get("Authorization") != "" && form.Get("grant_type") == "" {
		c, err := r.authenticate(req)
		if err == nil && c.access != nil && c.use == useScoped {
			// A scoped token must not beget another: it would never end.
			err = failf(codeUnauthorized, fault.Unauthenticated, "a scoped token does not buy another; use the credentials themselves")
		}
		return c, err
	}
	secret := ""
	switch grant := form.Get("grant_type"); grant {
	case "password":
		secret = form.Get("password")
	case "refresh_token":
		secret = form.Get("refresh_token")
	default:
		return caller{}, failf(codeUnsupported, fault.Invalid, "grant_type %.80q: want password, refresh_token or %s", grant, grantExchange)
	}
	if secret == "" {
		return caller{}, failf(codeUnauthorized, fault.Unauthenticated, "no secret was sent: want a token of audience %s", identity.AudienceRegistry)
	}
	if r.tokens.own(secret) {
		return r.ownCaller(req, secret, useExchange, useRefresh)
	}
	return r.external(withBasic(req, secret))
}

// withBasic is a copy of a request whose credentials are a secret alone.
func withBasic(req *http.Request, secret string) *http.Request {
	clone := req.Clone(req.Context())
	clone.Header = http.Header{}
	clone.SetBasicAuth("token", secret)
	return clone
}

// grantScope reads one scope, "type:name:action,action", and keeps of it what
// the caller may do.
func (r *Registry) grantScope(req *http.Request, c *caller, scope string) (accessEntry, error) {
	typ, name, asked, err := splitScope(scope)
	if err != nil {
		return accessEntry{}, err
	}
	e := accessEntry{Type: typ, Name: name}
	if typ == "registry" && name == "catalog" {
		if slices.Contains(asked, "*") && (c.access == nil || c.access.allows(typ, name, "*")) {
			e.Actions = []string{"*"} // the answer lists what the caller may pull
		}
		return e, nil
	}
	if typ != "repository" || !ValidName(name) {
		return accessEntry{}, nil // nothing of that kind here: nothing granted
	}
	for _, a := range []struct {
		word string
		acts []identity.Action
	}{
		{"pull", []identity.Action{identity.ActPull}},
		{"push", []identity.Action{identity.ActCreate, identity.ActPush, identity.ActSign}},
		{"delete", []identity.Action{identity.ActDelete}},
	} {
		if !slices.Contains(asked, a.word) && !slices.Contains(asked, "*") {
			continue
		}
		if r.permits(req.Context(), c, name, a.acts...) == nil {
			e.Actions = append(e.Actions, a.word)
		}
	}
	return e, nil
}

func writeJSON(w *response, mediaType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, err = w.Write(body)
	return err
}
