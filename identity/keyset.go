package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/strictjson"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json/jsontext"
)

// How long fetched keys are used. An issuer that rotates announces the new
// key beforehand or is asked again when a token names a key we do not have.
const (
	keysFresh    = time.Hour        // used without asking again
	keysStale    = 24 * time.Hour   // used while a refresh runs or fails; then no more
	keysInterval = 30 * time.Second // least time between two fetches, whatever tokens name
	maxKeys      = 64
)

// parseJWKS reads a JSON Web Key Set (RFC 7517, section 5), leaving out keys
// that cannot verify our algorithms.
func parseJWKS(b []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := strictjson.Unmarshal(b, &set, strictjson.WithMaxDepth(maxDepth)); err != nil {
		return nil, fault.Newf(fault.Invalid, "key set: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fault.Newf(fault.Invalid, "key set of %d keys: at most %d", len(set.Keys), maxKeys)
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) != nil || !k.IsPublic() || !k.Valid() || k.Use != "" && k.Use != "sig" || !strong(k.Key) {
			continue
		}
		// Certificates in a key prove nothing here and cost memory.
		k.Certificates, k.CertificatesURL = nil, nil
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, fault.Newf(fault.Invalid, "key set holds no usable public signature key (RSA of 2048 bits or more, P-256, P-384, P-521, Ed25519)")
	}
	return keys, nil
}

// strong says whether a public key is of a kind and size we rely on. 8192 bits
// bound what a hostile issuer's key can cost to verify.
func strong(key any) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= 2048 && k.N.BitLen() <= 8192
	case *ecdsa.PublicKey:
		return curveAlgorithm(k) != ""
	case ed25519.PublicKey:
		return len(k) == ed25519.PublicKeySize
	}
	return false
}

func curveAlgorithm(k *ecdsa.PublicKey) jose.SignatureAlgorithm {
	switch k.Curve.Params().BitSize {
	case 256:
		return jose.ES256
	case 384:
		return jose.ES384
	case 521:
		return jose.ES512
	}
	return ""
}

// fits says whether a key may verify a signature of an algorithm: its type,
// its curve, and its own alg member must agree (RFC 8725, section 3.1).
func fits(k *jose.JSONWebKey, alg jose.SignatureAlgorithm) bool {
	if k.Algorithm != "" && k.Algorithm != string(alg) {
		return false
	}
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(string(alg), "RS") || strings.HasPrefix(string(alg), "PS")
	case *ecdsa.PublicKey:
		return curveAlgorithm(key) == alg
	case ed25519.PublicKey:
		return alg == jose.EdDSA
	}
	return false
}

// keySource gives an issuer's keys. kid is what a token names, and may make
// the source look again; it never says where.
type keySource interface {
	// keys gives the issuer's whole set, [fault.Unavailable] when there is none
	// to be had.
	keys(ctx context.Context, kid string) ([]jose.JSONWebKey, error)
}

// choose finds the keys of a set that may have made a signature.
func choose(set []jose.JSONWebKey, kid string, alg jose.SignatureAlgorithm) []jose.JSONWebKey {
	var out []jose.JSONWebKey
	for _, k := range set {
		if (kid == "" || k.KeyID == kid) && fits(&k, alg) {
			out = append(out, k)
		}
	}
	if kid == "" && len(out) != 1 {
		return nil // a token without kid is good only where there is no choice
	}
	return out
}

func hasKey(set []jose.JSONWebKey, kid string) bool {
	for i := range set {
		if kid == "" || set[i].KeyID == kid {
			return true
		}
	}
	return false
}

// localKeys are those of the issuer in this process.
type localKeys func() []jose.JSONWebKey

func (f localKeys) keys(context.Context, string) ([]jose.JSONWebKey, error) { return f(), nil }

// fileKeys reads a key set from a file, again when its time or size changes.
type fileKeys struct {
	path string
	mu   sync.Mutex
	mod  time.Time
	size int64
	set  []jose.JSONWebKey
}

func (f *fileKeys) keys(context.Context, string) ([]jose.JSONWebKey, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	st, err := os.Stat(f.path)
	if err == nil && f.set != nil && st.ModTime().Equal(f.mod) && st.Size() == f.size {
		return f.set, nil
	}
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "key set file: %w", err)
	}
	b, err := readCapped(f.path, maxJWKS)
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "key set file: %w", err)
	}
	set, err := parseJWKS(b)
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "key set file %s: %w", f.path, err)
	}
	f.set, f.mod, f.size = set, st.ModTime(), st.Size()
	return set, nil
}

// remoteKeys are found by OpenID Connect discovery and kept in memory.
type remoteKeys struct {
	issuer  string
	fetch   *fetcher
	now     clock.Clock
	observe func(err error)

	mu      sync.Mutex
	set     []jose.JSONWebKey
	fetched time.Time     // of set
	tried   time.Time     // the last attempt began
	flight  chan struct{} // closed when the attempt under way ends
	lastErr error
}

func (r *remoteKeys) keys(ctx context.Context, kid string) ([]jose.JSONWebKey, error) {
	r.mu.Lock()
	now := r.now()
	age := now.Sub(r.fetched)
	usable := r.set != nil && age < keysStale
	wanted := !usable || age >= keysFresh || !hasKey(r.set, kid)
	if wanted && r.flight == nil && now.Sub(r.tried) >= keysInterval {
		r.tried = now
		r.flight = make(chan struct{})
		// The fetch serves everybody who waits: it outlives this request, but
		// not its own timeout.
		go r.refresh(context.WithoutCancel(ctx), r.flight)
	}
	flight, set, known := r.flight, r.set, hasKey(r.set, kid)
	r.mu.Unlock()
	if usable && known || flight == nil {
		return r.result(set, usable)
	}
	select {
	case <-flight:
	case <-ctx.Done():
		return nil, fault.Newf(fault.Unavailable, "keys of issuer %s: %w", r.issuer, ctx.Err())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.set, r.failure(r.set != nil && r.now().Sub(r.fetched) < keysStale)
}

func (r *remoteKeys) result(set []jose.JSONWebKey, usable bool) ([]jose.JSONWebKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return set, r.failure(usable)
}

// failure is why there are no keys; r.mu is held.
func (r *remoteKeys) failure(usable bool) error {
	if usable {
		return nil
	}
	return fault.Newf(fault.Unavailable, "keys of issuer %s cannot be had (asked again after %s): %w", r.issuer, keysInterval, r.lastErr)
}

func (r *remoteKeys) refresh(ctx context.Context, flight chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, 2*fetchTimeout)
	defer cancel()
	set, err := r.discover(ctx)
	r.observe(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lastErr = err; err == nil {
		r.set, r.fetched = set, r.now()
	}
	r.flight = nil
	close(flight)
}

// discover asks the issuer where its keys are (OpenID Connect Discovery 1.0,
// section 4) and gets them.
func (r *remoteKeys) discover(ctx context.Context) ([]jose.JSONWebKey, error) {
	b, err := r.fetch.get(ctx, strings.TrimSuffix(r.issuer, "/")+"/.well-known/openid-configuration", maxDiscovery)
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	var doc struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := strictjson.Unmarshal(b, &doc, strictjson.WithMaxDepth(maxDepth)); err != nil {
		return nil, fmt.Errorf("discovery document: %w", err)
	}
	if doc.Issuer != r.issuer {
		return nil, fault.Newf(fault.Unverified, "discovery document names issuer %.200q, want exactly %q", doc.Issuer, r.issuer)
	}
	if b, err = r.fetch.get(ctx, doc.JWKSURI, maxJWKS); err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	return parseJWKS(b)
}
