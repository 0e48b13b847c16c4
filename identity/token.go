package identity

import (
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/strictjson"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// MaxToken is the longest token that is looked at, in bytes. A longer one is
// refused before anything is split or decoded (CVE-2025-66506).
const MaxToken = 16 << 10

// maxDepth bounds the nesting of a token's JSON.
const maxDepth = 16

// skew is how far an issuer's clock may differ from ours.
const skew = 60 * time.Second

// algorithms is the allow-list: public-key signatures only, so that neither
// "none" nor a public key used as an HMAC secret can pass.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512,
	jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512,
	jose.EdDSA,
}

// Token is a verified OIDC token.
type Token struct {
	Issuer   string
	Subject  string
	Audience Audience // the purpose that was asked for and found
	ID       string   // jti claim; may be empty
	IssuedAt time.Time
	Expires  time.Time
	Type     IssuerType
	// Challenge is what a client signs to prove that it holds a key: the
	// verified e-mail address where there is one, else the sub claim.
	Challenge string
	// Certificate is what Fulcio would put into this identity's certificate.
	Certificate CertificateIdentity

	claims claims
}

// Claim gives a claim of the token as JSON text, or "" when absent.
func (t *Token) Claim(name string) string { return string(t.claims[name]) }

// claims are a token's members, each still as the JSON text that was signed.
type claims map[string]jsontext.Value

// text gives a claim that must be a string; absent or another type is "".
func (c claims) text(name string) string {
	var s string
	if v := c[name]; len(v) == 0 || v.Kind() != '"' || json.Unmarshal(v, &s) != nil {
		return ""
	}
	return s
}

// seconds gives a NumericDate (RFC 7519, section 2); ok is false when the
// claim is absent.
func (c claims) seconds(name string) (t time.Time, ok bool, err error) {
	v := c[name]
	if len(v) == 0 {
		return time.Time{}, false, nil
	}
	var f float64
	if v.Kind() != '0' || json.Unmarshal(v, &f) != nil || f < 0 || f > 1<<40 {
		return time.Time{}, false, refuse("claim %s is %.40s, want seconds since 1970", name, v)
	}
	whole := int64(f)
	return time.Unix(whole, int64((f-float64(whole))*1e9)).UTC(), true, nil
}

// unverified is a token taken apart, nothing of it believed yet.
type unverified struct {
	alg    jose.SignatureAlgorithm
	kid    string
	claims claims
}

// refuse is the error of a token that proves nothing.
func refuse(format string, args ...any) error {
	return fault.Newf(fault.Unauthenticated, "token refused: "+format, args...)
}

// parseToken takes a compact JWS apart, strictly, with its caps first: it
// costs O(1) allocations for input that is too long or has the wrong number of
// dots.
func parseToken(raw string) (*unverified, error) {
	if len(raw) > MaxToken {
		return nil, refuse("%d bytes, at most %d", len(raw), MaxToken)
	}
	dots := 0
	for i := range len(raw) {
		switch c := raw[i]; {
		case c == '.':
			dots++
		case !isAlnum(rune(c)) && c != '-' && c != '_':
			// Go's base64 passes over line breaks; a token has none.
			return nil, refuse("byte %d is %q, which is not base64url", i, c)
		}
	}
	if dots != 2 {
		return nil, refuse("want a JWT of three parts (header.claims.signature), found %d", dots+1)
	}
	head, rest, _ := strings.Cut(raw, ".")
	body, sig, _ := strings.Cut(rest, ".")
	if sig == "" {
		return nil, refuse("it is not signed")
	}
	// Bits beyond the end would make two texts of one signature.
	if _, err := base64.RawURLEncoding.Strict().DecodeString(sig); err != nil {
		return nil, refuse("its signature is not base64url: %w", err)
	}
	h, err := decodeObject("header", head)
	if err != nil {
		return nil, err
	}
	t := &unverified{}
	if err := t.header(h); err != nil {
		return nil, err
	}
	if t.claims, err = decodeObject("claims", body); err != nil {
		return nil, err
	}
	return t, nil
}

// header reads the JOSE header. A key or the address of one in the header is
// refused outright, as are extensions that we do not know (RFC 7515, 4.1.11).
func (u *unverified) header(h claims) error {
	for _, name := range []string{"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc"} {
		if _, found := h[name]; found {
			return refuse("its header has %q; keys come from the issuer's own key set only", name)
		}
	}
	u.alg = jose.SignatureAlgorithm(h.text("alg"))
	if !slices.Contains(algorithms, u.alg) {
		return refuse("algorithm %.40q, want one of %v", string(u.alg), algorithms)
	}
	u.kid = h.text("kid")
	if _, found := h["kid"]; found && u.kid == "" || len(u.kid) > 512 {
		return refuse("its kid is not a text of 1 to 512 bytes")
	}
	if _, found := h["typ"]; found {
		// at+jwt (RFC 9068), secevent+jwt, logout+jwt and the like are not
		// identity tokens; SPIFFE says JOSE.
		if typ := h.text("typ"); !strings.EqualFold(typ, "JWT") && !strings.EqualFold(typ, "JOSE") {
			return refuse("type %.40q, want JWT", typ)
		}
	}
	return nil
}

// decodeObject decodes base64url without padding (RFC 7515, section 2) and a
// JSON object with no member twice, in valid UTF-8, nothing after it.
func decodeObject(what, part string) (claims, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, refuse("its %s are not base64url: %w", what, err)
	}
	var c claims
	if err := strictjson.Unmarshal(b, &c, strictjson.WithMaxDepth(maxDepth)); err != nil {
		return nil, refuse("its %s are not a strict JSON object: %w", what, err)
	}
	if c == nil {
		return nil, refuse("its %s are null", what)
	}
	return c, nil
}

// audience gives the one aud claim. A token for several audiences is refused:
// it could be replayed at each of them.
func (c claims) audience() (string, error) {
	v := c["aud"]
	switch {
	case len(v) == 0:
		return "", refuse("it has no aud claim")
	case v.Kind() == '"':
		return c.text("aud"), nil
	case v.Kind() == '[':
		var list []string
		if json.Unmarshal(v, &list) != nil || len(list) != 1 {
			return "", refuse("want exactly one audience, found %.200s", v)
		}
		return list[0], nil
	}
	return "", refuse("aud is %.40s, want a text", v)
}

// times checks exp, nbf and iat against now.
// The skew is for the clocks of others: a token of the embedded issuer ends
// when it says, since both clocks are one.
func (t *Token) times(c claims, now time.Time) error {
	skew := skew
	if t.Type == TypeLocal {
		skew = 0
	}
	exp, ok, err := c.seconds("exp")
	if err != nil {
		return err
	}
	if !ok {
		return refuse("it has no exp claim: it would be good for ever")
	}
	if !now.Before(exp.Add(skew)) {
		return refuse("it expired at %s, now is %s; get a new one", exp.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	nbf, ok, err := c.seconds("nbf")
	if err != nil {
		return err
	}
	if ok && nbf.After(now.Add(max(skew, time.Second))) {
		return refuse("it is not valid before %s, now is %s; check the clocks", nbf.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	iat, ok, err := c.seconds("iat")
	if err != nil {
		return err
	}
	if ok && iat.After(now.Add(max(skew, time.Second))) {
		return refuse("it was issued at %s, which is to come; now is %s; check the clocks", iat.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	t.Expires, t.IssuedAt = exp, iat
	return nil
}
