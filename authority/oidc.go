package authority

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"assay/event"
	"assay/identity"
	"assay/internal/clock"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/store"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
)

// MaxTokenLife bounds the life of a token of the embedded issuer.
const MaxTokenLife = 10 * time.Minute

// IssuerOptions is what the embedded OIDC issuer needs.
type IssuerOptions struct {
	// URL is the iss claim and the place of the discovery document, for
	// example "https://assay.example.com/oidc"; no slash at its end.
	URL string
	// Signer is an RSA key of 2,048 bits or more (RS256), or P-256 (ES256).
	// RS256 is what every OpenID Connect client must know (Discovery 1.0,
	// section 3), and the only algorithm that cosign takes on its command line.
	Signer crypto.Signer
	// Others are further public keys of the key set: one that will sign, so that
	// verifiers know it by then, and one that signed, until its last token has
	// expired. See [Issuer.SetKeys].
	Others     []crypto.PublicKey
	DB         *store.DB
	Clock      clock.Clock           // nil: the system's
	Logger     *slog.Logger          // nil: none
	Registerer prometheus.Registerer // nil: no metrics
}

// Issuer is the embedded OIDC issuer: it mints short-lived tokens for those
// who may ask at the admin socket, and tells the world its public keys. Its
// identities count for no two-person rule. It is safe for many goroutines.
type Issuer struct {
	opts    IssuerOptions
	current atomic.Pointer[issuerKeys]
	minted  *prometheus.CounterVec
}

// issuerKeys is what tokens are signed with, and what is told of it.
type issuerKeys struct {
	signer crypto.Signer
	kid    string
	alg    jose.SignatureAlgorithm
	keys   []jose.JSONWebKey
	jwks   []byte
	doc    []byte
}

// NewIssuer makes an issuer. Errors are [fault.Invalid].
func NewIssuer(o IssuerOptions) (*Issuer, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || strings.HasSuffix(o.URL, "/") {
		return nil, fault.Newf(fault.Invalid, "embedded issuer: URL %.200q: want an absolute URL without query and final slash", o.URL)
	}
	if o.DB == nil {
		return nil, fault.Newf(fault.Invalid, "embedded issuer: want a key and a database")
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	i := &Issuer{opts: o}
	if err := i.SetKeys(o.Signer, o.Others...); err != nil {
		return nil, err
	}
	i.minted = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_authority_tokens_total", Help: "Tokens of the embedded issuer by audience and outcome.",
	}, []string{"audience", "outcome"})
	if o.Registerer != nil {
		if err := o.Registerer.Register(i.minted); err != nil {
			return nil, err
		}
	}
	return i, nil
}

// SetKeys makes signer sign the tokens from the next one on. The key set is its
// key and the others. A key that cannot sign tokens is [fault.Invalid], and
// nothing changes.
func (i *Issuer) SetKeys(signer crypto.Signer, others ...crypto.PublicKey) error {
	if signer == nil {
		return fault.Newf(fault.Invalid, "embedded issuer: want a key and a database")
	}
	keys, err := TokenKeys(append([]crypto.PublicKey{signer.Public()}, others...)...)
	if err != nil {
		return err
	}
	next := &issuerKeys{signer: signer, keys: keys}
	next.kid, next.alg = next.keys[0].KeyID, jose.SignatureAlgorithm(next.keys[0].Algorithm)
	if err := next.documents(i.opts.URL); err != nil {
		return err
	}
	i.current.Store(next)
	return nil
}

// TokenKeys are public keys as tokens of the embedded issuer name them. A key
// that cannot sign tokens is [fault.Invalid].
func TokenKeys(pubs ...crypto.PublicKey) (out []jose.JSONWebKey, err error) {
	for _, pub := range pubs {
		alg, err := tokenAlgorithm(pub)
		if err != nil {
			return nil, err
		}
		k := jose.JSONWebKey{Key: pub, Algorithm: string(alg), Use: "sig"}
		thumb, err := k.Thumbprint(crypto.SHA256) // RFC 7638
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err)
		}
		k.KeyID = base64.RawURLEncoding.EncodeToString(thumb)
		out = append(out, k)
	}
	return out, nil
}

// documents writes the key set (RFC 7517) and the discovery document (OpenID
// Connect Discovery 1.0, section 3) once.
func (i *issuerKeys) documents(url string) (err error) {
	set := struct {
		Keys []jsonKey `json:"keys"`
	}{}
	for _, k := range i.keys {
		b, err := k.MarshalJSON()
		if err != nil {
			return err
		}
		set.Keys = append(set.Keys, jsonKey(b))
	}
	if i.jwks, err = json.Marshal(set); err != nil {
		return err
	}
	i.doc, err = json.Marshal(struct {
		Issuer        string   `json:"issuer"`
		JWKSURI       string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		Algorithms    []string `json:"id_token_signing_alg_values_supported"`
		Claims        []string `json:"claims_supported"`
	}{
		url, url + "/keys",
		[]string{"id_token"}, []string{"public"}, i.algorithms(),
		[]string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "email", "email_verified", "groups"},
	})
	return err
}

// algorithms are those of the key set, the signing one first.
func (i *issuerKeys) algorithms() (algs []string) {
	for _, k := range i.keys {
		if !slices.Contains(algs, k.Algorithm) {
			algs = append(algs, k.Algorithm)
		}
	}
	return algs
}

// jsonKey is a key already written as JSON.
type jsonKey []byte

func (k jsonKey) MarshalJSON() ([]byte, error) { return k, nil }

// URL is the iss claim of the issuer's tokens.
func (i *Issuer) URL() string { return i.opts.URL }

// Local is how a verifier in this process comes to the issuer's keys.
func (i *Issuer) Local() *identity.LocalIssuer {
	return &identity.LocalIssuer{URL: i.opts.URL, Keys: func() []jose.JSONWebKey { return i.current.Load().keys }}
}

// Handler serves /.well-known/openid-configuration and /keys. Strip a prefix
// such as /oidc before it.
func (i *Issuer) Handler() http.Handler {
	mux := http.NewServeMux()
	serve := func(body func(*issuerKeys) []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			w.Header().Set("Cache-Control", "max-age=300")
			_, _ = w.Write(body(i.current.Load())) // the client may be gone
		}
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", serve(func(k *issuerKeys) []byte { return k.doc }))
	mux.HandleFunc("GET /keys", serve(func(k *issuerKeys) []byte { return k.jwks }))
	return mux
}

// MintRequest asks for a token.
type MintRequest struct {
	// Subject is an e-mail address, a URI, or a plain name; only the first two
	// can have audience sigstore. At most 256 bytes.
	Subject  string
	Audience identity.Audience // empty means [identity.AudienceRegistry]
	TTL      time.Duration     // at most and by default [MaxTokenLife]
	// Claims are further claims, for example groups; those that the issuer
	// itself states cannot be given.
	Claims map[string]any
	By     string // who asked, for the audit trail, for example "uid:1000"
}

// tokenBody is the body of events token.issued and token.refused.
type tokenBody struct {
	Subject  string            `json:"subject"`
	Audience identity.Audience `json:"audience"`
	Expires  time.Time         `json:"expires,omitzero"`
	Reason   string            `json:"reason,omitempty"`
}

const maxMintSubject = 256

// Mint makes a token, once its event token.issued is durable. A request that
// cannot be met is [fault.Invalid] and recorded as token.refused.
func (i *Issuer) Mint(ctx context.Context, q MintRequest) (string, error) {
	if q.Audience == "" {
		q.Audience = identity.AudienceRegistry
	}
	if q.TTL == 0 {
		q.TTL = MaxTokenLife
	}
	label := string(q.Audience)
	if !q.Audience.Valid() {
		label = "other"
	}
	token, err := i.mint(ctx, q)
	if err != nil {
		i.minted.WithLabelValues(label, "refused").Inc()
		return "", err
	}
	i.minted.WithLabelValues(label, "issued").Inc()
	return token, nil
}

func (i *Issuer) mint(ctx context.Context, q MintRequest) (string, error) {
	body, exp, err := i.claims(q)
	if err != nil {
		if rerr := i.record(ctx, event.TokenRefused, q, tokenBody{
			Subject: clip(q.Subject), Audience: identity.Audience(clip(string(q.Audience))), Reason: err.Error(),
		}); rerr != nil {
			i.opts.Logger.ErrorContext(ctx, "refused token not recorded", "error", rerr)
		}
		return "", err
	}
	token, err := i.current.Load().sign(body)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	if err := i.record(ctx, event.TokenIssued, q, tokenBody{Subject: q.Subject, Audience: q.Audience, Expires: exp}); err != nil {
		return "", fmt.Errorf("record token: %w", err)
	}
	return token, nil
}

// claims checks a request and writes what the token says, and when it ends.
func (i *Issuer) claims(q MintRequest) (body []byte, exp time.Time, err error) {
	claims, exp, err := i.own(q)
	if err != nil {
		return nil, exp, err
	}
	for name, v := range q.Claims {
		if _, own := claims[name]; own || name == "email" || name == "email_verified" {
			return nil, exp, fault.Newf(fault.Invalid, "claim %.40q is stated by the issuer and cannot be given", name)
		}
		claims[name] = v
	}
	if body, err = json.Marshal(claims, json.Deterministic(true)); err != nil {
		return nil, exp, fault.Newf(fault.Invalid, "claims of the token: %w", err)
	}
	if len(body) > identity.MaxToken/2 {
		return nil, exp, fault.Newf(fault.TooLarge, "claims of %d bytes are too many for a token", len(body))
	}
	return body, exp, nil
}

// own gives the claims that the issuer states itself.
func (i *Issuer) own(q MintRequest) (claims map[string]any, exp time.Time, err error) {
	if !q.Audience.Valid() {
		return nil, exp, fault.Newf(fault.Invalid, "audience %.80q: want one of %v", q.Audience, identity.Audiences())
	}
	if q.TTL < time.Second || q.TTL > MaxTokenLife {
		return nil, exp, fault.Newf(fault.Invalid, "life of the token %s: want 1s to %s", q.TTL, MaxTokenLife)
	}
	if q.Subject == "" || len(q.Subject) > maxMintSubject || strings.ContainsFunc(q.Subject, func(r rune) bool { return r <= 0x20 || r == 0x7f || r == 0xfffd }) {
		return nil, exp, fault.Newf(fault.Invalid, "subject %.80q: want 1 to %d bytes without white space and control characters", q.Subject, maxMintSubject)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, exp, err
	}
	now := i.opts.Clock().UTC().Truncate(time.Second)
	exp = now.Add(q.TTL)
	claims = map[string]any{
		"iss": i.opts.URL, "sub": q.Subject, "aud": string(q.Audience),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": exp.Unix(), "jti": id.String(),
	}
	switch {
	case identity.IsEmail(q.Subject):
		claims["email"], claims["email_verified"] = q.Subject, true
	case q.Audience == identity.AudienceSigstore && !identity.IsURI(q.Subject):
		return nil, exp, fault.Newf(fault.Invalid, "subject %q cannot sign: want an e-mail address or a URI, which a certificate can carry", q.Subject)
	}
	return claims, exp, nil
}

// tokenAlgorithm is the algorithm of a token key; weak and other keys are
// [fault.Invalid].
func tokenAlgorithm(pub crypto.PublicKey) (jose.SignatureAlgorithm, error) {
	if k, ok := pub.(*rsa.PublicKey); ok {
		if k.N.BitLen() < 2048 {
			return "", fault.Newf(fault.Invalid, "token key: RSA of %d bits, want 2,048 or more", k.N.BitLen())
		}
		return jose.RS256, nil
	}
	return jose.ES256, p256(pub)
}

// sign writes a compact JWS over SHA-256 (RFC 7515).
func (i *issuerKeys) sign(body []byte) (string, error) {
	enc := base64.RawURLEncoding
	head, err := json.Marshal(struct {
		Alg string `json:"alg"`
		Kid string `json:"kid"`
		Typ string `json:"typ"`
	}{string(i.alg), i.kid, "JWT"})
	if err != nil {
		return "", err
	}
	input := enc.EncodeToString(head) + "." + enc.EncodeToString(body)
	sum := sha256.Sum256([]byte(input))
	der, err := i.signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return "", err
	}
	if i.alg == jose.RS256 {
		return input + "." + enc.EncodeToString(der), nil // PKCS #1 v1.5 as it is (RFC 7518, section 3.3)
	}
	// ES256 has r and s of 32 octets each (section 3.4), where a crypto.Signer
	// gives DER.
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) != 0 || rs.R.Sign() < 0 || rs.S.Sign() < 0 || rs.R.BitLen() > 256 || rs.S.BitLen() > 256 {
		return "", fault.Newf(fault.Internal, "the key store gave a signature that is not ECDSA over P-256")
	}
	sig := make([]byte, 64)
	rs.R.FillBytes(sig[:32])
	rs.S.FillBytes(sig[32:])
	return input + "." + enc.EncodeToString(sig), nil
}

func clip(s string) string { return excerpt.Text(s, maxMintSubject) }

func (i *Issuer) record(ctx context.Context, kind event.Kind, q MintRequest, body tokenBody) error {
	by := q.By
	if by == "" {
		by = identity.System("issuer").Actor()
	}
	return i.opts.DB.Update(ctx, func(tx *store.Tx) error {
		return event.Append(ctx, tx, event.Event{Kind: kind, Actor: by, Body: body})
	})
}
