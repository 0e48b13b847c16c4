package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"

	"assay/internal/clock"
	"assay/internal/fault"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"
)

// LocalIssuer is the issuer inside this process: its keys are asked for here
// and never fetched.
type LocalIssuer struct {
	URL  string                   // exact iss claim
	Keys func() []jose.JSONWebKey // public keys in force; cheap, safe for many goroutines
}

// VerifierOptions says whose tokens a [Verifier] believes.
type VerifierOptions struct {
	Issuers []IssuerConfig
	Local   *LocalIssuer // nil: no embedded issuer
	Clock   clock.Clock  // nil: the system's
	Logger  *slog.Logger // nil: none
	// Check says whether what proved p, which holds by itself, was revoked: nil or
	// fault.Unauthenticated. nil: nothing is.
	Check func(p Principal) error
	// Registerer takes the metrics; nil means none.
	Registerer prometheus.Registerer
	// Proxy chooses the proxy for a request; nil means HTTP(S)_PROXY and
	// NO_PROXY of the environment.
	Proxy func(*http.Request) (*url.URL, error)

	lookup func(ctx context.Context, host string) ([]netip.Addr, error) // tests
}

// Verifier checks OIDC tokens of configured issuers. It is safe for many
// goroutines; its issuers can be exchanged while it works.
type Verifier struct {
	opts    VerifierOptions
	now     clock.Clock
	log     *slog.Logger
	metrics verifierMetrics
	apply   sync.Mutex // one SetIssuers at a time
	issuers atomic.Pointer[map[string]*issuer]
}

type issuer struct {
	cfg  IssuerConfig
	auds map[Audience]string
	src  keySource
}

type verifierMetrics struct {
	tokens  *prometheus.CounterVec
	fetches *prometheus.CounterVec
}

// NewVerifier makes a verifier; a configuration that cannot hold is
// [fault.Invalid]. Nothing is fetched before the first token asks for it.
func NewVerifier(opts VerifierOptions) (*Verifier, error) {
	v := &Verifier{opts: opts, now: opts.Clock, log: opts.Logger}
	if v.now == nil {
		v.now = clock.System
	}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	v.metrics = verifierMetrics{
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_identity_tokens_total", Help: "OIDC tokens by purpose and outcome.",
		}, []string{"audience", "outcome"}),
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_identity_key_fetches_total", Help: "Fetches of issuers' key sets by outcome.",
		}, []string{"outcome"}),
	}
	if opts.Registerer != nil {
		for _, c := range []prometheus.Collector{v.metrics.tokens, v.metrics.fetches} {
			if err := opts.Registerer.Register(c); err != nil {
				return nil, err
			}
		}
	}
	return v, v.SetIssuers(opts.Issuers)
}

// SetIssuers exchanges the configured issuers at once, or none when one is
// invalid. Keys already fetched are kept for issuers that stay the same.
func (v *Verifier) SetIssuers(list []IssuerConfig) error {
	v.apply.Lock()
	defer v.apply.Unlock()
	var old map[string]*issuer
	if p := v.issuers.Load(); p != nil {
		old = *p
	}
	next := make(map[string]*issuer, len(list)+1)
	if l := v.opts.Local; l != nil {
		auds, _ := IssuerConfig{}.audiences()
		next[l.URL] = &issuer{cfg: IssuerConfig{URL: l.URL, Type: TypeLocal}, auds: auds, src: localKeys(l.Keys)}
	}
	for _, cfg := range list {
		if err := cfg.Validate(); err != nil {
			return err
		}
		if _, dup := next[cfg.URL]; dup {
			return fault.Newf(fault.Invalid, "issuer %s is configured twice, or is the embedded one", cfg.URL)
		}
		if o := old[cfg.URL]; o != nil && reflect.DeepEqual(o.cfg, cfg) {
			next[cfg.URL] = o
			continue
		}
		iss, err := v.newIssuer(cfg)
		if err != nil {
			return err
		}
		next[cfg.URL] = iss
	}
	v.issuers.Store(&next)
	return nil
}

func (v *Verifier) newIssuer(cfg IssuerConfig) (*issuer, error) {
	auds, err := cfg.audiences()
	if err != nil {
		return nil, err
	}
	iss := &issuer{cfg: cfg, auds: auds}
	if cfg.JWKSFile != "" {
		f := &fileKeys{path: cfg.JWKSFile}
		if _, err := f.keys(context.Background(), ""); err != nil {
			return nil, fault.Newf(fault.Invalid, "issuer %s: %w", cfg.URL, err)
		}
		iss.src = f
		return iss, nil
	}
	fetch, err := newFetcher(&cfg, &v.opts)
	if err != nil {
		return nil, err
	}
	iss.src = &remoteKeys{issuer: cfg.URL, fetch: fetch, now: v.now, observe: func(err error) {
		if err != nil {
			v.metrics.fetches.WithLabelValues("failed").Inc()
			v.log.Warn("issuer's keys could not be fetched", "issuer", cfg.URL, "error", err)
			return
		}
		v.metrics.fetches.WithLabelValues("ok").Inc()
	}}
	return iss, nil
}

// Issuers lists the issuers in force, the embedded one included.
func (v *Verifier) Issuers() []IssuerConfig {
	var out []IssuerConfig
	for _, iss := range *v.issuers.Load() {
		out = append(out, iss.cfg)
	}
	return out
}

// AudienceClaim gives the aud claim that an issuer's tokens must have for a
// purpose; ok is false when the issuer is unknown or does not serve it.
func (v *Verifier) AudienceClaim(issuerURL string, aud Audience) (claim string, ok bool) {
	iss := (*v.issuers.Load())[issuerURL]
	if iss == nil {
		return "", false
	}
	claim, ok = iss.auds[aud]
	return claim, ok
}

// Verify checks a compact JWT in full for one purpose: size and shape, the
// algorithm, the signature by a key of the issuer that its iss claim names
// exactly and that is configured, the one audience, and the times with 60 s of
// skew. Errors are [fault.Unauthenticated] for a token that does not hold, and
// [fault.Unavailable] when the issuer's keys cannot be had; neither repeats
// the token.
func (v *Verifier) Verify(ctx context.Context, raw string, aud Audience) (Principal, *Token, error) {
	p, t, err := v.verify(ctx, raw, aud)
	outcome := "ok"
	switch {
	case errors.Is(err, fault.Unavailable):
		outcome = "unavailable"
	case err != nil:
		outcome = "refused"
	}
	label := aud
	if !aud.Valid() {
		label = "other"
	}
	v.metrics.tokens.WithLabelValues(string(label), outcome).Inc()
	if err != nil {
		return Principal{}, nil, err
	}
	return p, t, nil
}

func (v *Verifier) verify(ctx context.Context, raw string, aud Audience) (Principal, *Token, error) {
	if !aud.Valid() {
		return Principal{}, nil, fault.Newf(fault.Internal, "verify token: no such audience %q", aud)
	}
	u, err := parseToken(raw)
	if err != nil {
		return Principal{}, nil, err
	}
	name := u.claims.text("iss")
	iss := (*v.issuers.Load())[name]
	if iss == nil {
		return Principal{}, nil, refuse("issuer %.200q is not configured; an admin adds it with assay apply", name)
	}
	set, err := iss.src.keys(ctx, u.kid)
	if err != nil {
		return Principal{}, nil, err
	}
	if err := u.signature(raw, set); err != nil {
		return Principal{}, nil, fmt.Errorf("issuer %s: %w", name, err)
	}
	// From here on the claims are the issuer's own.
	t := &Token{Issuer: name, Audience: aud, Type: iss.cfg.Type, ID: u.claims.text("jti"), claims: u.claims}
	got, err := u.claims.audience()
	if err != nil {
		return Principal{}, nil, err
	}
	if want, ok := iss.auds[aud]; !ok || got != want {
		return Principal{}, nil, refuse("its audience is %.80q, this door wants %q; get a token for that audience", got, want)
	}
	if err := t.times(u.claims, v.now()); err != nil {
		return Principal{}, nil, err
	}
	p, err := t.identify(&iss.cfg)
	if err != nil {
		return Principal{}, nil, fmt.Errorf("issuer %s: %w", name, err)
	}
	// Of what is signed, not of the signature: an ECDSA signature can be written
	// in two ways, and both would have to be revoked.
	sum := sha256.Sum256([]byte(raw[:strings.LastIndexByte(raw, '.')]))
	p.Credential = Credential{ID: "jwt:" + hex.EncodeToString(sum[:16]), IssuedAt: t.IssuedAt, Expires: t.Expires}
	if v.opts.Check != nil {
		if err := v.opts.Check(p); err != nil {
			return Principal{}, nil, err
		}
	}
	return p, t, nil
}

// signature checks the token's signature with one of the issuer's keys. The
// claims that were verified must be those that were parsed.
func (u *unverified) signature(raw string, set []jose.JSONWebKey) error {
	keys := choose(set, u.kid, u.alg)
	if len(keys) == 0 {
		return refuse("no key %.80q for %s among the issuer's %d", u.kid, u.alg, len(set))
	}
	jws, err := jose.ParseSignedCompact(raw, algorithms)
	if err != nil {
		return refuse("it is not a JWS: %w", err)
	}
	_, body, _ := strings.Cut(raw, ".")
	body, _, _ = strings.Cut(body, ".")
	want, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return refuse("its claims are not base64url: %w", err)
	}
	for i := range keys {
		if got, err := jws.Verify(keys[i].Key); err == nil && bytes.Equal(got, want) {
			return nil
		}
	}
	return refuse("its signature does not verify with the issuer's key %.80q", u.kid)
}
