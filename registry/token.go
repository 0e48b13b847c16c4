package registry

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"assay/identity"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/internal/strictjson"
)

// tokenHeader is the JOSE header of every scoped token, byte for byte. A token
// with any other header is not one of ours: there is no algorithm to negotiate
// and no key to name (CVE-2025-24976).
const tokenHeader = `{"alg":"HS256","typ":"assay-registry+jwt"}`

var tokenPrefix = base64.RawURLEncoding.EncodeToString([]byte(tokenHeader)) + "."

// tokenUse says what a token of this registry is good for.
type tokenUse string

const (
	// useScoped opens /v2/ within its scopes: Docker's token specification.
	useScoped tokenUse = ""
	// useExchange opens /v2/ and buys scoped tokens, both within its scopes: what
	// a token of another issuer was exchanged for (RFC 8693).
	useExchange tokenUse = "exchange"
	// useRefresh buys scoped tokens and opens nothing itself: what a client keeps
	// after login (Docker's identity token).
	useRefresh tokenUse = "refresh"
)

// tokenClaims is the body of a token of this registry, in the shape of Docker's
// token specification with the whole principal in it.
type tokenClaims struct {
	Use       tokenUse           `json:"use,omitempty"`
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
	Type    string   `json:"type"`    // repository or registry; * is all, in tokens that buy others
	Name    string   `json:"name"`    // in tokens that buy others also a pattern, see internal/glob
	Actions []string `json:"actions"` // pull, push, delete, or * for the catalog
}

func (a tokenAccess) allows(typ, name, action string) bool {
	for _, e := range a {
		if e.Type == "*" {
			return true
		}
		if e.Type == typ && slices.Contains(e.Actions, action) && (e.Name == name || strings.Contains(e.Name, "*") && globMatch(e.Name, name)) {
			return true
		}
	}
	return false
}

// allAccess is the access of a token without a limit of its own.
var allAccess = tokenAccess{{Type: "*"}}

func globMatch(pattern, name string) bool {
	g, err := glob.Parse(pattern)
	return err == nil && g.Match(name)
}

// tokenService mints and checks scoped tokens.
type tokenService struct {
	realm   string // "" when no public URL is known
	service string
	keys    *secrets
	ttl     time.Duration
	now     clock.Clock

	mu     sync.RWMutex
	proved generations[[sha256.Size]byte, provedToken] // by the token's hash
}

// provedToken is a token that was verified, and the keys that it was verified
// with: when they change, it is verified again.
type provedToken struct {
	keys   *[][]byte
	claims *tokenClaims
}

func newTokenService(publicURL string, key []byte, ttl time.Duration, now clock.Clock) (*tokenService, error) {
	s := &tokenService{
		keys: &secrets{}, ttl: ttl, now: now, service: "assay",
		proved: generations[[sha256.Size]byte, provedToken]{life: maxTokenTTL},
	}
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

// minted is a token that was just made.
type minted struct {
	raw     string
	at, end time.Time
}

// maxLife bounds what a token says of its own end, by use.
var maxLife = map[tokenUse]time.Duration{useScoped: maxTokenTTL, useExchange: maxExchangeTTL, useRefresh: maxRefreshTTL}

// mint makes a token that ends after ttl, or with the credential that buys it.
func (s *tokenService) mint(use tokenUse, p identity.Principal, access tokenAccess, ttl time.Duration) (minted, error) {
	t := minted{at: s.now()}
	t.end = t.at.Add(min(ttl, maxLife[use]))
	if e := p.Credential.Expires; !e.IsZero() && e.Before(t.end) && use != useExchange {
		t.end = e
	}
	if !t.end.After(t.at) {
		// An issuer whose clock is behind: its token was taken within the skew.
		t.end = t.at.Add(10 * time.Second)
	}
	if access == nil {
		access = tokenAccess{}
	}
	body, err := json.Marshal(tokenClaims{
		Use: use, Issuer: s.realm, Audience: s.service, IssuedAt: t.at.Unix(), Expires: t.end.Unix(),
		ID: rand.Text(), Principal: p, Access: access,
	})
	if err != nil {
		return t, err
	}
	signed := tokenPrefix + base64.RawURLEncoding.EncodeToString(body)
	t.raw = signed + "." + base64.RawURLEncoding.EncodeToString(s.keys.sum(signed))
	if len(t.raw) > 16<<10 {
		return t, failf(codeDenied, fault.Invalid, "the token would have %d bytes: ask for fewer scopes, or belong to fewer groups", len(t.raw))
	}
	return t, nil
}

var errToken = fault.Newf(fault.Unauthenticated, "the bearer token is not valid here or has expired; ask for a new one")

// verify gives what a token says that this registry signed and that has not
// ended. A client shows the same token at every request: it is taken apart once,
// and each time asked whether it has ended. The claims are shared: nobody may
// change them.
func (s *tokenService) verify(raw string) (*tokenClaims, error) {
	if len(raw) > 16<<10 {
		return nil, errToken
	}
	var plain [2 << 10]byte // holds most tokens, without garbage
	hash, keys := sha256.Sum256(append(plain[:0], raw...)), s.keys.keys.Load()
	s.mu.RLock()
	known, ok := s.proved.get(hash, time.Now())
	s.mu.RUnlock()
	if ok && known.keys == keys {
		if s.now().Unix() >= known.claims.Expires {
			return nil, errToken
		}
		return known.claims, nil
	}
	c, err := s.prove(raw)
	if err == nil {
		s.mu.Lock()
		s.proved.put(hash, provedToken{keys, c}, time.Now())
		s.mu.Unlock()
	}
	return c, err
}

func (s *tokenService) prove(raw string) (*tokenClaims, error) {
	dot := strings.LastIndexByte(raw, '.')
	if dot < len(tokenPrefix) {
		return nil, errToken
	}
	mac, err := base64.RawURLEncoding.Strict().DecodeString(raw[dot+1:])
	if err != nil || !s.keys.holds(raw[:dot], mac, sha256.Size) {
		return nil, errToken
	}
	body, err := base64.RawURLEncoding.Strict().DecodeString(raw[len(tokenPrefix):dot])
	if err != nil {
		return nil, errToken
	}
	var c tokenClaims
	if err := strictjson.Unmarshal(body, &c, strictjson.RejectUnknown()); err != nil {
		return nil, errToken
	}
	life, known := maxLife[c.Use]
	now := s.now().Unix()
	if !known || c.Issuer != s.realm || c.Audience != s.service || now >= c.Expires || c.Expires-c.IssuedAt > int64(life/time.Second) || c.Access == nil {
		return nil, errToken
	}
	return &c, nil
}
