package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"assay/internal/fault"
	"assay/telemetry"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func recording() (*sdktrace.TracerProvider, *tracetest.SpanRecorder) {
	r := tracetest.NewSpanRecorder()
	return sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r)), r
}

func TestSpans(t *testing.T) {
	p, r := recording()
	ctx := telemetry.With(t.Context(), p)
	for _, err := range []error{nil, fault.Newf(fault.Denied, "no"), fault.Newf(fault.Unavailable, "a secret text"), errors.New("another")} {
		_, span := telemetry.StartOf(ctx, "registry.", "manifest_get")
		span.Text(telemetry.ManifestDigest, strings.Repeat("x", 2000))
		span.Text(telemetry.Tag, "")
		span.End(err)
	}
	var got []string
	for _, s := range r.Ended() {
		kind := ""
		for _, a := range s.Attributes() {
			if a.Key == telemetry.ErrorType {
				kind = a.Value.AsString()
			}
			if len(a.Value.AsString()) > 512 || a.Key == telemetry.Tag {
				t.Errorf("attribute %s of %d bytes", a.Key, len(a.Value.AsString()))
			}
		}
		if strings.Contains(s.Status().Description, "secret") {
			t.Errorf("status %v", s.Status())
		}
		got = append(got, s.Name()+" "+kind+" "+s.Status().Code.String())
	}
	// A refusal is an outcome, no failure.
	want := []string{"registry.manifest_get  " + codes.Unset.String(), "registry.manifest_get denied " + codes.Unset.String(), "registry.manifest_get unavailable " + codes.Error.String(), "registry.manifest_get internal " + codes.Error.String()}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestOffCostsNothing: without a tracer no operation allocates.
func TestOffCostsNothing(t *testing.T) {
	ctx := context.WithValue(t.Context(), struct{ a int }{}, 1)
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h"})
	header := http.Header{"Accept": {"x"}}
	if n := testing.AllocsPerRun(100, func() {
		ctx, span := telemetry.Start(ctx, "verify.decide")
		ctx, inner := telemetry.StartOf(ctx, "registry.", "manifest_get")
		inner.Text(telemetry.ManifestDigest, "sha256:00")
		inner.Int(telemetry.Items, 3)
		telemetry.Observe(ctx, h, 0.1)
		_ = telemetry.Extract(ctx, header)
		inner.End(nil)
		span.End(nil)
	}); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

func BenchmarkOff(b *testing.B) {
	ctx := b.Context()
	for range 8 { // as deep as a request's
		ctx = context.WithValue(ctx, new(int), 1)
	}
	b.ReportAllocs()
	for b.Loop() {
		_, span := telemetry.Start(ctx, "verify.decide")
		span.Text(telemetry.ManifestDigest, "sha256:00")
		span.End(nil)
	}
}

func BenchmarkOn(b *testing.B) {
	ctx := telemetry.With(b.Context(), sdktrace.NewTracerProvider())
	b.ReportAllocs()
	for b.Loop() {
		_, span := telemetry.Start(ctx, "verify.decide")
		span.Text(telemetry.ManifestDigest, "sha256:00")
		span.End(nil)
	}
}

// TestThreat_Telemetry_HostileHeaders: what is not valid is left out, and does not
// grow.
func TestThreat_Telemetry_HostileHeaders(t *testing.T) {
	for name, h := range map[string]http.Header{
		"none":         {},
		"short":        {"Traceparent": {"00-abc"}},
		"zeros":        {"Traceparent": {"00-00000000000000000000000000000000-b7ad6b7169203331-01"}},
		"version ff":   {"Traceparent": {"ff" + parent[2:]}},
		"upper case":   {"Traceparent": {strings.ToUpper(parent)}},
		"long baggage": {"Baggage": {"a=" + strings.Repeat("x", 9000)}},
		"many members": {"Baggage": {strings.Repeat("a", 1) + "=1" + manyMembers(80)}},
		"many headers": {"Baggage": strings.Split(strings.Repeat("a=b,", 5000), ",")},
		"no baggage":   {"Baggage": {"=;;=,"}},
	} {
		ctx := telemetry.Extract(t.Context(), h)
		if trace.SpanContextFromContext(ctx).IsValid() || baggage.FromContext(ctx).Len() != 0 {
			t.Errorf("%s: %v %v", name, trace.SpanContextFromContext(ctx), baggage.FromContext(ctx))
		}
	}
	ctx := telemetry.Extract(t.Context(), http.Header{"Traceparent": {parent}, "Baggage": {"user=al%20ice"}})
	id, span := telemetry.IDs(ctx)
	if id != "0af7651916cd43dd8448eb211c80319c" || span != "" || telemetry.TraceID(ctx) != "" {
		t.Errorf("a caller's span counts as ours: %q %q", id, span)
	}
	if got := baggage.FromContext(ctx).Member("user").Value(); got != "al ice" {
		t.Errorf("baggage %q", got)
	}
}

func manyMembers(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(",m" + string(rune('a'+i%26)) + string(rune('a'+i/26)) + "=1")
	}
	return b.String()
}

// TestTransport: the trace goes on; baggage only to hosts that are named.
func TestTransport(t *testing.T) {
	var got http.Header
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Clone() }))
	defer srv.Close()
	ask := func(ctx context.Context, rt http.RoundTripper) {
		t.Helper()
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if len(req.Header) != 0 {
			t.Errorf("the request was changed: %v", req.Header)
		}
	}
	came := telemetry.Extract(t.Context(), http.Header{"Traceparent": {parent}, "Tracestate": {"v=1"}, "Baggage": {"user=alice"}})
	ask(t.Context(), telemetry.Transport(http.DefaultTransport))
	if got.Get("Traceparent") != "" || got.Get("Baggage") != "" {
		t.Errorf("of nothing: %v", got)
	}
	ask(came, telemetry.Transport(http.DefaultTransport))
	if got.Get("Traceparent") != parent || got.Get("Tracestate") != "v=1" || got.Get("Baggage") != "" {
		t.Errorf("to a stranger: %v", got)
	}
	ask(came, telemetry.TransportAll(http.DefaultTransport))
	if got.Get("Baggage") != "user=alice" {
		t.Errorf("to the site itself: %v", got)
	}
	named, err := telemetry.NewPropagation([]string{"127.0.0.*"})
	if err != nil {
		t.Fatal(err)
	}
	ask(telemetry.WithPropagation(came, named), telemetry.Transport(http.DefaultTransport))
	if got.Get("Baggage") != "user=alice" {
		t.Errorf("to a host that is named: %v", got)
	}
	p, r := recording()
	ask(telemetry.With(came, p), telemetry.Transport(http.DefaultTransport))
	if s := r.Ended(); len(s) != 1 || s[0].SpanKind() != trace.SpanKindClient || !strings.Contains(got.Get("Traceparent"), s[0].SpanContext().SpanID().String()) || s[0].Parent().SpanID().String() != "b7ad6b7169203331" {
		t.Errorf("spans %v, header %v", s, got)
	}
	env := map[string]string{"TRACEPARENT": parent, "BAGGAGE": "user=alice"}
	h := http.Header{}
	telemetry.Inject(telemetry.FromEnvironment(t.Context(), func(k string) string { return env[k] }), h, true)
	if h.Get("Traceparent") != parent || h.Get("Baggage") != "user=alice" {
		t.Errorf("of a pipeline: %v", h)
	}
}

func TestLogHandler(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(telemetry.LogHandler(slog.NewJSONHandler(&out, nil), func(context.Context) string { return "fallback" }))
	p, _ := recording()
	ctx, span := telemetry.Start(telemetry.With(t.Context(), p), "x")
	defer span.End(nil)
	id, sid := telemetry.IDs(ctx)
	for name, c := range map[string]struct {
		do          func()
		trace, span string
	}{
		"in a span":    {func() { log.InfoContext(ctx, "m") }, id, sid},
		"said already": {func() { log.InfoContext(ctx, "m", "trace_id", "own") }, "own", sid},
		"no span":      {func() { log.InfoContext(t.Context(), "m") }, "fallback", ""},
		"with members": {func() { log.With("a", 1).InfoContext(ctx, "m") }, id, sid},
		"in a group":   {func() { log.WithGroup("g").InfoContext(ctx, "m", "b", 2) }, "", ""},
	} {
		out.Reset()
		c.do()
		var got struct {
			TraceID string `json:"trace_id"`
			SpanID  string `json:"span_id"`
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.TraceID != c.trace || got.SpanID != c.span {
			t.Errorf("%s: %s", name, out.String())
		}
	}
	slog.New(telemetry.LogHandler(slog.NewTextHandler(io.Discard, nil), nil)).Info("m") // without a fallback
}

// TestNamesStandInOneFile: the conventions' names are written in semconv.go alone.
func TestNamesStandInOneFile(t *testing.T) {
	names := regexp.MustCompile(`"(oci\.manifest\.|artifact\.attestation\.|vcs\.ref\.|vcs\.repository\.|cicd\.|http\.(request|response)\.)`)
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2 || d.Name() == "bin" || d.Name() == "tools") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "telemetry/semconv.go") || strings.Contains(path, "/artifactid/") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if m := names.Find(b); m != nil {
			t.Errorf("%s has %s…: the names stand in telemetry/semconv.go", path, m)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
