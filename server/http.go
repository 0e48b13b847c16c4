package server

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"assay/event"
	"assay/internal/fault"
	"assay/telemetry"

	"github.com/prometheus/client_golang/prometheus"
)

// door wraps a service's handler with what every door has: a trace ID, a log
// line, metrics with a fixed label set, and an answer instead of a crash.
type door struct {
	name     string // of the service: registry, rekor, …; the metric's label
	next     http.Handler
	within   time.Duration // for the whole request, body and answer; 0: no end
	log      *slog.Logger
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	proxies  []netip.Prefix
	telling  telling
}

// httpMetrics are shared by all doors. Labels come from this program, never
// from a request (CVE-2026-49835): an unknown method is "other".
type httpMetrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	proxies  []netip.Prefix // whose X-Forwarded-For is believed
	telling  telling
}

func newHTTPMetrics(reg prometheus.Registerer) *httpMetrics {
	m := &httpMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_http_requests_total", Help: "Requests answered, by service, method and class of status.",
		}, []string{"service", "method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "assay_http_request_seconds", Help: "Time from a request's head to the end of its answer, in seconds.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"service"}),
	}
	reg.MustRegister(m.requests, m.seconds)
	return m
}

// How long a request may take, body and answer, whatever the client sends or
// does not read. Blobs have no end: their size has none.
const (
	shortRequest = time.Minute
	noLimit      = 0
)

func (m *httpMetrics) door(name string, next http.Handler, log *slog.Logger, within time.Duration) http.Handler {
	return &door{name: name, next: next, within: within, log: log.With("service", name), requests: m.requests, seconds: m.seconds, proxies: m.proxies, telling: m.telling}
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	ctx, span := d.span(r)
	trace, _ := telemetry.IDs(ctx)
	if trace == "" {
		trace = traceID(r.Header.Get("Traceparent"))
	}
	ctx = event.WithTrace(ctx, trace)
	rec := &recorder{ResponseWriter: w}
	rec.Header().Set("X-Request-Id", trace)
	rec.Header().Set("X-Content-Type-Options", "nosniff") // of every door, whatever else it sets
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p) // the connection is to be cut
			}
			d.log.Error("panic in a handler", "trace_id", trace, "panic", p, "stack", string(debug.Stack()))
			if rec.status == 0 {
				http.Error(rec, "internal error; the server's log has it under trace "+trace, http.StatusInternalServerError)
			}
		}
		d.requests.WithLabelValues(d.name, method(r.Method), strconv.Itoa(rec.code()/100)+"xx").Inc()
		telemetry.Observe(ctx, d.seconds.WithLabelValues(d.name), time.Since(start).Seconds())
		if span.On() {
			span.Int(telemetry.HTTPStatus, int64(rec.code()))
			var failed error
			if rec.code() >= 500 {
				failed = fault.Newf(fault.Internal, "%d", rec.code())
			}
			span.End(failed)
		}
		level := slog.LevelDebug
		if rec.code() >= 500 {
			level = slog.LevelWarn
		}
		d.log.Log(ctx, level, "request", "method", r.Method, "path", r.URL.Path, "status", rec.code(), "bytes", rec.bytes,
			"ms", float64(time.Since(start).Microseconds())/1000, "remote", r.RemoteAddr, "trace_id", trace)
	}()
	if d.within > 0 {
		// net/http takes both deadlines back when the next request begins.
		c := http.NewResponseController(w)
		_ = c.SetReadDeadline(start.Add(d.within))
		_ = c.SetWriteDeadline(start.Add(d.within))
	}
	r = r.WithContext(ctx) // a copy, whose address may be another
	r.RemoteAddr = clientAddress(r, d.proxies)
	d.next.ServeHTTP(rec, r)
}

// span begins the request's span, in the caller's trace where it names one.
// Without telemetry it only hands on what the caller sent.
func (d *door) span(r *http.Request) (context.Context, telemetry.Span) {
	ctx := telemetry.Extract(r.Context(), r.Header)
	if d.telling.exporter == nil {
		return ctx, telemetry.Span{}
	}
	ctx = telemetry.WithPropagation(telemetry.With(ctx, d.telling.tracing), d.telling.propagate)
	ctx, span := telemetry.Serve(ctx, method(r.Method)+" "+d.name)
	if span.On() {
		span.Text(telemetry.HTTPMethod, method(r.Method))
		span.Text(telemetry.URLPath, strings.ToValidUTF8(r.URL.Path, "?"))
		span.Text(telemetry.RequestedBy, d.name)
	}
	return ctx, span
}

func method(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "other"
}

// traceID takes the trace ID of a W3C traceparent, or makes one.
func traceID(traceparent string) string {
	if id, ok := event.ParseTraceparent(traceparent); ok {
		return id
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, crypto/rand
	return hex.EncodeToString(b[:])
}

// recorder notes the status and the size of an answer.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) code() int {
	if r.status == 0 {
		return http.StatusOK
	}
	return r.status
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// ReadFrom keeps sendfile(2) for blobs.
func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := io.Copy(r.ResponseWriter, src)
	r.bytes += n
	return n, err
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) Flush() { _ = http.NewResponseController(r.ResponseWriter).Flush() }

func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(r.ResponseWriter).Hijack()
}
