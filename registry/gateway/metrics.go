package gateway

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"assay/internal/fault"
)

// metrics of a gateway. All label values stand here.
type metrics struct {
	lookups  *prometheus.CounterVec // by outcome
	requests *prometheus.CounterVec // by outcome
	bytes    prometheus.Counter
}

// Outcomes of a look-up.
const (
	outKept        = "kept"        // served without asking the upstream
	outRevalidated = "revalidated" // the upstream was asked whether what is kept still holds
	outFetched     = "fetched"     // was not here, and came
	outStale       = "stale"       // the upstream did not serve; what is kept was served
	outAbsent      = "absent"      // neither here nor there
	outFailed      = "failed"      // not here, and the upstream did not serve, or the gate refused it
)

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_gateway_lookups_total", Help: "Manifests that clients asked a gateway for, by outcome.",
		}, []string{"outcome"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_gateway_upstream_requests_total", Help: "Requests to upstreams, by outcome.",
		}, []string{"outcome"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_gateway_upstream_bytes_total", Help: "Bytes of bodies that upstreams sent.",
		}),
	}
	for _, o := range []string{outKept, outRevalidated, outFetched, outStale, outAbsent, outFailed} {
		m.lookups.WithLabelValues(o)
	}
	for _, o := range []string{"ok", "absent", "refused", "limited", "error", "failed"} {
		m.requests.WithLabelValues(o)
	}
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(reg.Register(m.lookups), reg.Register(m.requests), reg.Register(m.bytes))
}

func (m *metrics) lookup(outcome string) { m.lookups.WithLabelValues(outcome).Inc() }

// first counts a look-up of what is not here.
func (m *metrics) first(err error) {
	switch {
	case err == nil:
		m.lookup(outFetched)
	case errors.Is(err, fault.NotFound):
		m.lookup(outAbsent)
	default:
		m.lookup(outFailed)
	}
}

// metered counts what goes over a transport.
type metered struct {
	next http.RoundTripper
	m    *metrics
}

// RoundTrip implements [http.RoundTripper].
func (t metered) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		t.m.requests.WithLabelValues("failed").Inc()
		return nil, err
	}
	t.m.requests.WithLabelValues(outcome(r, resp.StatusCode)).Inc()
	resp.Body = &meteredBody{resp.Body, t.m.bytes}
	return resp, nil
}

func outcome(r *http.Request, status int) string {
	switch {
	case status < 400:
		return "ok"
	case status == http.StatusUnauthorized && strings.TrimSuffix(r.URL.Path, "/") == "/v2":
		return "ok" // asks how to log in, as the protocol has it
	case status == http.StatusNotFound:
		return "absent"
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return "refused"
	case status == http.StatusTooManyRequests:
		return "limited"
	}
	return "error"
}

type meteredBody struct {
	io.ReadCloser
	n prometheus.Counter
}

func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(float64(n))
	return n, err
}
