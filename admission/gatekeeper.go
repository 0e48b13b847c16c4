package admission

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"assay/artifact"
	"assay/internal/clock"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/policy"
	"assay/telemetry"
)

// PathGatekeeper is that of the external data provider for Gatekeeper.
const PathGatekeeper = "/gatekeeper"

// doorGatekeeper names the door in events and metrics.
const doorGatekeeper = "gatekeeper"

const (
	providerVersion  = "externaldata.gatekeeper.sh/v1beta1"
	providerRequest  = "ProviderRequest"
	providerResponse = "ProviderResponse"

	// MaxKeys and MaxProviderRequest bound what Gatekeeper asks at once.
	MaxKeys            = 512
	MaxProviderRequest = 1 << 20

	// gatekeeperWithin is less than the 3 s after which Gatekeeper takes no answer.
	gatekeeperWithin = 2500 * time.Millisecond

	// toldFor is how long the same answer to the same key is one event: Gatekeeper's
	// audit asks about everything that runs, again and again.
	toldFor = time.Minute
	maxTell = 50_000
)

// ProviderRequest is what Gatekeeper asks of an external data provider.
type ProviderRequest struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Request    struct {
		Keys []string `json:"keys"` // "NAMESPACE IMAGE", or an image
	} `json:"request"`
}

// ProviderResponse answers it.
type ProviderResponse struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Response   ProviderBody `json:"response"`
}

// ProviderBody holds an item for each key, or the error for which there is none.
type ProviderBody struct {
	Idempotent  bool           `json:"idempotent"`
	Items       []ProviderItem `json:"items"`
	SystemError string         `json:"systemError"`
}

// ProviderItem is the answer to a key: Value or Error.
type ProviderItem struct {
	Key   string         `json:"key"`
	Value *ProviderValue `json:"value,omitempty"`
	Error string         `json:"error,omitempty"`
}

// ProviderValue says of an image whether it may run.
type ProviderValue struct {
	// Decision is allowed; denied; or warned: not allowed, and yet not refused, by
	// the policy's mode, or because it runs there already.
	Decision   string          `json:"decision"`
	Digest     artifact.Digest `json:"digest"`
	Image      string          `json:"image,omitempty"` // with the digest
	Reasons    []string        `json:"reasons,omitempty"`
	ID         string          `json:"id,omitempty"` // of the decision, dec_...
	Policy     string          `json:"policy,omitempty"`
	Mode       policy.Mode     `json:"mode,omitempty"`
	ValidUntil time.Time       `json:"valid_until,omitzero"`
}

// Gatekeeper answers as an external data provider of Gatekeeper, by the same
// judge and for the same cluster as a [Webhook].
type Gatekeeper struct {
	h  *Webhook
	ca *ClientCA

	mu   sync.Mutex
	told map[string]told
}

type told struct {
	what string
	at   time.Time
}

// NewGatekeeper makes the door. Callers show a certificate that ca signed.
func NewGatekeeper(h *Webhook, ca *ClientCA) *Gatekeeper {
	return &Gatekeeper{h: h, ca: ca, told: map[string]told{}}
}

// With puts the provider beside the webhook's paths.
func (g *Gatekeeper) With(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == PathGatekeeper {
			g.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ServeHTTP answers a ProviderRequest. Whatever hinders an answer is a systemError
// without items: nothing in it can be taken for an allow.
func (g *Gatekeeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(r.Context(), gatekeeperWithin)
	defer cancel()
	ctx, span := telemetry.StartOf(ctx, "admission.", doorGatekeeper)
	items, status, err := g.answer(ctx, w, r)
	span.End(err)
	out := ProviderResponse{APIVersion: providerVersion, Kind: providerResponse, Response: ProviderBody{Idempotent: true, Items: items}}
	outcome := "allowed"
	for _, it := range items {
		switch {
		case it.Value == nil || it.Value.Decision == "denied":
			outcome = "denied"
		case it.Value.Decision == "warned" && outcome == "allowed":
			outcome = "warned"
		}
	}
	if err != nil {
		outcome = "invalid"
		g.h.o.Logger.Warn("a request of Gatekeeper was not answered", "error", err)
		out.Response = ProviderBody{Items: []ProviderItem{}, SystemError: "assay: " + excerpt.Line(err.Error(), 500, '.')}
	}
	g.h.met.reviews.WithLabelValues(doorGatekeeper, outcome).Inc()
	telemetry.Observe(ctx, g.h.met.seconds.WithLabelValues(doorGatekeeper), time.Since(start).Seconds())
	b, err := strictjson.Marshal(out)
	if err != nil {
		http.Error(w, "the answer could not be written", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

func (g *Gatekeeper) answer(ctx context.Context, w http.ResponseWriter, r *http.Request) (items []ProviderItem, status int, err error) {
	caller, err := g.ca.Caller(r)
	if err != nil {
		return nil, http.StatusForbidden, err
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, http.StatusMethodNotAllowed, fault.Newf(fault.Invalid, "want POST with a ProviderRequest")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxProviderRequest))
	if err != nil {
		return nil, http.StatusRequestEntityTooLarge, fault.Newf(fault.TooLarge, "the request could not be read, or is over %d bytes", MaxProviderRequest)
	}
	q, err := parseProviderRequest(b)
	if err != nil {
		return nil, http.StatusBadRequest, err
	}
	if items, err = g.items(ctx, q.Request.Keys, r.URL.Query().Get("namespace"), caller); err != nil {
		return nil, http.StatusServiceUnavailable, err
	}
	return items, http.StatusOK, nil
}

// parseProviderRequest reads what Gatekeeper sends. Members that are not known are
// left to newer versions of it.
func parseProviderRequest(b []byte) (*ProviderRequest, error) {
	var q ProviderRequest
	if err := strictjson.Unmarshal(b, &q, strictjson.WithMaxBytes(MaxProviderRequest)); err != nil {
		return nil, fault.Newf(fault.Invalid, "provider request: %w", err)
	}
	if q.APIVersion != providerVersion || q.Kind != providerRequest {
		return nil, fault.Newf(fault.Invalid, "provider request: %.60q %.60q, want %s %s", q.APIVersion, q.Kind, providerVersion, providerRequest)
	}
	if n := len(q.Request.Keys); n == 0 || n > MaxKeys {
		return nil, fault.Newf(fault.Invalid, "provider request: %d keys, want 1 to %d", n, MaxKeys)
	}
	return &q, nil
}

// gatekeeperKey is what one key asks.
type gatekeeperKey struct {
	namespace string
	verdict   verdictOn
}

// items answers every key, each image of a namespace asked about once.
func (g *Gatekeeper) items(ctx context.Context, keys []string, namespace, caller string) ([]ProviderItem, error) {
	asked := map[string]*gatekeeperKey{}
	var eg errgroup.Group
	eg.SetLimit(maxAtOnce)
	for _, k := range keys {
		if asked[k] != nil {
			continue
		}
		q := &gatekeeperKey{namespace: namespace, verdict: verdictOn{image: &Image{Use: "Gatekeeper", Reference: k}}}
		asked[k] = q
		if ns, image, ok := strings.Cut(k, " "); ok {
			q.namespace, q.verdict.image.Reference = ns, image
		}
		if !ValidName(q.namespace) {
			q.verdict.err = fault.Newf(fault.Invalid, "key %.300q: want NAMESPACE IMAGE, or an image and ?namespace=NAME in the Provider's url", k)
			continue
		}
		place := Place{Cluster: g.h.o.Cluster, Namespace: q.namespace}
		if g.h.o.Environment != nil {
			place.Environment = g.h.o.Environment(q.namespace)
		}
		eg.Go(func() error { g.h.judgeOne(ctx, place, &q.verdict); return nil })
	}
	_ = eg.Wait()
	if err := g.record(ctx, asked, caller); err != nil {
		return nil, err
	}
	items := make([]ProviderItem, 0, len(keys))
	for _, k := range keys {
		items = append(items, asked[k].item(k, g.h.lenient(asked[k].namespace)))
	}
	return items, nil
}

// item is the answer to a key. What could not be decided is an error, in whatever
// namespace, unless it may start again where it runs.
func (q *gatekeeperKey) item(key string, lenient bool) ProviderItem {
	v := &q.verdict
	if v.err != nil && (!v.restart || v.answer == nil) {
		return ProviderItem{Key: key, Error: v.text(q.namespace)}
	}
	a := v.answer
	out := &ProviderValue{Decision: v.outcome(lenient), Digest: a.Digest, ID: a.Decision, Policy: a.Policy, Mode: a.Mode, ValidUntil: a.ValidUntil}
	if ref, err := normalize(v.image.Reference); err == nil && a.Digest != "" {
		out.Image = pinned(ref, a.Digest)
	}
	if out.Decision != "allowed" {
		out.Reasons = []string{v.text(q.namespace)}
	}
	return ProviderItem{Key: key, Value: out}
}

// record tells of what was not told within the last minute.
func (g *Gatekeeper) record(ctx context.Context, asked map[string]*gatekeeperKey, caller string) error {
	byNamespace := map[string][]verdictOn{}
	now := g.h.o.Clock()
	g.mu.Lock()
	if len(g.told) > maxTell {
		clear(g.told)
	}
	for _, key := range sortedKeys(asked) {
		q := asked[key]
		if !ValidName(q.namespace) {
			continue // nobody's place: it was refused without being looked into
		}
		what := q.verdict.outcome(g.h.lenient(q.namespace))
		if a := q.verdict.answer; a != nil {
			what += " " + string(a.Digest) + " " + a.Decision
		}
		name := q.namespace + " " + q.verdict.image.Reference
		if last, ok := g.told[name]; ok && last.what == what && now.Sub(last.at) < toldFor && !now.Before(last.at) {
			continue
		}
		g.told[name] = told{what, now}
		byNamespace[q.namespace] = append(byNamespace[q.namespace], q.verdict)
	}
	g.mu.Unlock()
	for _, ns := range sortedKeys(byNamespace) {
		q := &Request{Namespace: ns, Kind: GVK{Version: "v1", Kind: "Pod"}, Operation: "REVIEW", UserInfo: UserInfo{Username: caller}, door: doorGatekeeper}
		if err := g.h.record(ctx, q, byNamespace[ns], false); err != nil {
			g.mu.Lock()
			clear(g.told)
			g.mu.Unlock()
			return err
		}
	}
	return nil
}

// ClientCA knows callers by certificates that an authority signed: Gatekeeper
// shows its webhook's, whose authority stands as ca.crt in its Secret. The file is
// read anew when it changes, as mounted Secrets do.
type ClientCA struct {
	file  string
	clock clock.Clock

	mu     sync.Mutex
	pool   *x509.CertPool
	mod    time.Time
	size   int64
	looked time.Time
}

const (
	clientCAEvery = 10 * time.Second
	maxClientCA   = 1 << 20
)

// OpenClientCA reads the authority's certificates, PEM; errors are fault.Invalid.
func OpenClientCA(file string, now clock.Clock) (*ClientCA, error) {
	if now == nil {
		now = clock.System
	}
	c := &ClientCA{file: file, clock: now}
	return c, c.load()
}

func (c *ClientCA) load() error {
	st, err := os.Stat(c.file)
	if err != nil {
		return fault.Newf(fault.Invalid, "the authority of Gatekeeper's certificate: %w", err)
	}
	if c.pool != nil && st.ModTime().Equal(c.mod) && st.Size() == c.size {
		return nil
	}
	if st.Size() > maxClientCA {
		return fault.Newf(fault.Invalid, "%s has %d bytes, want certificates of at most %d", c.file, st.Size(), maxClientCA)
	}
	b, err := os.ReadFile(c.file)
	if err != nil {
		return fault.Newf(fault.Invalid, "the authority of Gatekeeper's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return fault.Newf(fault.Invalid, "%s: want certificates, PEM: ca.crt of Gatekeeper's Secret gatekeeper-webhook-server-cert", c.file)
	}
	c.pool, c.mod, c.size = pool, st.ModTime(), st.Size()
	return nil
}

// Caller checks the certificate that a request came with, and gives its name.
func (c *ClientCA) Caller(r *http.Request) (string, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "", fault.Newf(fault.Unauthenticated, "want a client certificate: Gatekeeper shows its own (--enable-external-data, TLS on both sides)")
	}
	c.mu.Lock()
	now := c.clock()
	var stale error
	if c.pool == nil || now.Sub(c.looked) >= clientCAEvery || now.Before(c.looked) {
		c.looked = now
		if stale = c.load(); stale != nil {
			c.pool = nil // until it can be read again, nobody is known
		}
	}
	pool := c.pool
	c.mu.Unlock()
	if stale != nil {
		return "", stale
	}
	rest := x509.NewCertPool()
	for _, x := range r.TLS.PeerCertificates[1:] {
		rest.AddCert(x)
	}
	leaf := r.TLS.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: rest, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return "", fault.Newf(fault.Unauthenticated, "the client certificate is not one that %s signed: %w", c.file, err)
	}
	name := leaf.Subject.CommonName
	if name == "" && len(leaf.DNSNames) > 0 {
		name = leaf.DNSNames[0]
	}
	return fmt.Sprintf("%s/%s", doorGatekeeper, excerpt.Line(name, 200, '.')), nil
}
