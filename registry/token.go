package registry

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/identity"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// tokenHeader is the JOSE header of every scoped token, byte for byte. A token
// with any other header is not one of ours: there is no algorithm to negotiate
// and no key to name (CVE-2025-24976).
const tokenHeader = `{"alg":"HS256","typ":"assay-registry+jwt"}`

var tokenPrefix = base64.RawURLEncoding.EncodeToString([]byte(tokenHeader)) + "."

// tokenClaims is the body of a scoped token, in the shape of Docker's token
// specification with the whole principal in it.
type tokenClaims struct {
	Issuer    string             `json:"iss"`
	Audience  string             `json:"aud"`
	IssuedAt  int64              `json:"iat"` // unix seconds
	Expires   int64              `json:"exp"`
	ID        string             `json:"jti"`
	Principal identity.Principal `json:"assay_principal"`
	Access    tokenAccess        `json:"access"`
}

// tokenAccess lists what a scoped token is good for; not nil in a token.
type tokenAccess []accessEntry

type accessEntry struct {
	Type    string   `json:"type"` // repository or registry
	Name    string   `json:"name"`
	Actions []string `json:"actions"` // pull, push, delete, or * for the catalog
}

func (a tokenAccess) allows(typ, name, action string) bool {
	for _, e := range a {
		if e.Type == typ && e.Name == name && slices.Contains(e.Actions, action) {
			return true
		}
	}
	return false
}

// tokenService mints and checks scoped tokens.
type tokenService struct {
	realm   string // "" when no public URL is known
	service string
	keys    *secrets
	ttl     time.Duration
	now     clock.Clock
}

func newTokenService(publicURL string, key []byte, ttl time.Duration, now clock.Clock) (*tokenService, error) {
	s := &tokenService{keys: &secrets{}, ttl: ttl, now: now, service: "assay"}
	s.keys.set(useTokens, key, nil)
	if publicURL == "" {
		return s, nil
	}
	u, err := url.Parse(publicURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || strings.ContainsAny(publicURL, "\"\\\r\n") {
		return nil, fault.Newf(fault.Invalid, "registry: public URL %.200q: want http(s)://host[:port]", publicURL)
	}
	s.service = hostOf(u)
	s.realm = u.Scheme + "://" + s.service + "/token"
	return s, nil
}

// deriveKey separates the uses of one secret.
func deriveKey(secret []byte, use string) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(use))
	return m.Sum(nil)
}

// own says whether raw has the shape of a scoped token.
func (s *tokenService) own(raw string) bool { return strings.HasPrefix(raw, tokenPrefix) }

func (s *tokenService) mint(p identity.Principal, access tokenAccess) (raw string, at time.Time, err error) {
	at = s.now()
	p.Claims = nil // for policies on the outer token; they would only swell this one
	if access == nil {
		access = tokenAccess{}
	}
	body, err := json.Marshal(tokenClaims{
		Issuer: s.realm, Audience: s.service, IssuedAt: at.Unix(), Expires: at.Add(s.ttl).Unix(),
		ID: rand.Text(), Principal: p, Access: access,
	})
	if err != nil {
		return "", at, err
	}
	signed := tokenPrefix + base64.RawURLEncoding.EncodeToString(body)
	raw = signed + "." + base64.RawURLEncoding.EncodeToString(s.keys.sum(signed))
	if len(raw) > 16<<10 {
		return "", at, failf(codeDenied, fault.Invalid, "the scoped token would have %d bytes: ask for fewer scopes, or belong to fewer groups", len(raw))
	}
	return raw, at, nil
}

var errToken = fault.Newf(fault.Unauthenticated, "the bearer token is not valid here or has expired; ask for a new one")

func (s *tokenService) verify(raw string) (identity.Principal, tokenAccess, error) {
	none := identity.Principal{}
	dot := strings.LastIndexByte(raw, '.')
	if len(raw) > 16<<10 || dot < len(tokenPrefix) {
		return none, nil, errToken
	}
	mac, err := base64.RawURLEncoding.Strict().DecodeString(raw[dot+1:])
	if err != nil || !s.keys.holds(raw[:dot], mac, sha256.Size) {
		return none, nil, errToken
	}
	body, err := base64.RawURLEncoding.Strict().DecodeString(raw[len(tokenPrefix):dot])
	if err != nil {
		return none, nil, errToken
	}
	var c tokenClaims
	if err := strictjson.Unmarshal(body, &c, strictjson.RejectUnknown()); err != nil {
		return none, nil, errToken
	}
	now := s.now().Unix()
	if c.Issuer != s.realm || c.Audience != s.service || now >= c.Expires || c.Expires-c.IssuedAt > int64(maxTokenTTL/time.Second) || c.Access == nil {
		return none, nil, errToken
	}
	return c.Principal, c.Access, nil
}

// tokenAnswer is the answer of Docker's token specification, and of its OAuth 2
// form.
type tokenAnswer struct {
	Token       string `json:"token,omitempty"`
	AccessToken string `json:"access_token"`
	Scope       string `json:"scope,omitempty"`
	ExpiresIn   int    `json:"expires_in"` // seconds
	IssuedAt    string `json:"issued_at"`  // RFC 3339
}

const (
	maxTokenForm   = 32 << 10
	maxTokenScopes = 64
)

// serveToken answers GET and POST /token: a scoped token for whoever the Basic
// credentials, the form's password or its refresh token prove, or for anybody
// where the access rules let everybody pull. A scope that is not allowed is
// left out, as Docker's specification asks; it is not an error.
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
	raw, at, err := r.tokens.mint(c.Principal, access)
	if err != nil {
		return err
	}
	answer := tokenAnswer{AccessToken: raw, ExpiresIn: int(r.tokens.ttl / time.Second), IssuedAt: at.UTC().Format(time.RFC3339)}
	if req.Method == http.MethodGet {
		answer.Token = raw
	} else {
		answer.Scope = strings.Join(granted, " ")
	}
	return writeJSON(w, "application/json", answer)
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
		if err == nil && c.access != nil {
			// A scoped token must not beget another: it would never end.
			err = failf(codeUnauthorized, fault.Unauthenticated, "a scoped token does not buy another; use the credentials themselves")
		}
		return c, err
	}
	user, secret := form.Get("username"), form.Get("password")
	switch grant := form.Get("grant_type"); grant {
	case "password":
	case "refresh_token":
		user, secret = "token", form.Get("refresh_token")
	default:
		return caller{}, failf(codeUnsupported, fault.Invalid, "grant_type %.40q: want password or refresh_token", grant)
	}
	if secret == "" {
		return caller{}, failf(codeUnauthorized, fault.Unauthenticated, "no secret was sent: want a token of audience %s", identity.AudienceRegistry)
	}
	clone := req.Clone(req.Context())
	clone.Header = http.Header{}
	clone.SetBasicAuth(user, secret)
	return r.external(clone)
}

// grantScope reads one scope, "type:name:action,action", and keeps of it what
// the caller may do.
func (r *Registry) grantScope(req *http.Request, c *caller, scope string) (accessEntry, error) {
	typ, rest, ok := strings.Cut(scope, ":")
	dot := strings.LastIndexByte(rest, ':')
	if !ok || dot < 0 || len(scope) > 2*maxName {
		return accessEntry{}, failf(codeUnsupported, fault.Invalid, "scope %.300q: want type:name:actions", scope)
	}
	name, asked := rest[:dot], strings.Split(rest[dot+1:], ",")
	e := accessEntry{Type: typ, Name: name}
	if typ == "registry" && name == "catalog" {
		if slices.Contains(asked, "*") {
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
		if r.permits(req.Context(), &caller{Principal: c.Principal}, name, a.acts...) == nil {
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
