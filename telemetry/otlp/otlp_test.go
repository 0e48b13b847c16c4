package otlp_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	collectlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collecttrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	pbcommon "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"assay/internal/fault"
	"assay/telemetry"
	"assay/telemetry/otlp"
)

// receiver is a collector, over OpenTelemetry's own message types and, for
// gRPC, their generated services.
type receiver struct {
	collecttrace.UnimplementedTraceServiceServer
	collectmetrics.UnimplementedMetricsServiceServer
	mu      sync.Mutex
	traces  []*collecttrace.ExportTraceServiceRequest
	metrics []*collectmetrics.ExportMetricsServiceRequest
	logs    []*collectlogs.ExportLogsServiceRequest
	headers []string
	refuse  int // requests that are refused first, for later
	asked   int
}

func (r *receiver) take(m proto.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch m := m.(type) {
	case *collecttrace.ExportTraceServiceRequest:
		r.traces = append(r.traces, m)
	case *collectmetrics.ExportMetricsServiceRequest:
		r.metrics = append(r.metrics, m)
	case *collectlogs.ExportLogsServiceRequest:
		r.logs = append(r.logs, m)
	}
}

func (r *receiver) later() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	r.refuse--
	return r.refuse >= 0
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if r.later() {
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	}
	m := map[string]proto.Message{
		"/v1/traces": &collecttrace.ExportTraceServiceRequest{}, "/v1/metrics": &collectmetrics.ExportMetricsServiceRequest{}, "/v1/logs": &collectlogs.ExportLogsServiceRequest{},
	}[q.URL.Path]
	if m == nil || q.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "no such signal", http.StatusNotFound)
		return
	}
	var body io.Reader = q.Body
	if q.Header.Get("Content-Encoding") == "gzip" {
		body, _ = gzip.NewReader(q.Body)
	}
	b, err := io.ReadAll(body)
	if err == nil {
		err = proto.Unmarshal(b, m)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	r.headers = append(r.headers, q.Header.Get("X-Tenant"))
	r.mu.Unlock()
	r.take(m)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (r *receiver) Export(ctx context.Context, m *collecttrace.ExportTraceServiceRequest) (*collecttrace.ExportTraceServiceResponse, error) {
	if r.later() {
		return nil, status.Error(codes.Unavailable, "busy")
	}
	md, _ := metadata.FromIncomingContext(ctx)
	r.mu.Lock()
	r.headers = append(r.headers, strings.Join(md.Get("x-tenant"), ","))
	r.mu.Unlock()
	r.take(m)
	return &collecttrace.ExportTraceServiceResponse{}, nil
}

type logService struct {
	collectlogs.UnimplementedLogsServiceServer
	r *receiver
}

func (s *logService) Export(_ context.Context, m *collectlogs.ExportLogsServiceRequest) (*collectlogs.ExportLogsServiceResponse, error) {
	s.r.take(m)
	return &collectlogs.ExportLogsServiceResponse{}, nil
}

type metricService struct {
	collectmetrics.UnimplementedMetricsServiceServer
	r *receiver
}

func (s *metricService) Export(_ context.Context, m *collectmetrics.ExportMetricsServiceRequest) (*collectmetrics.ExportMetricsServiceResponse, error) {
	s.r.take(m)
	return &collectmetrics.ExportMetricsServiceResponse{}, nil
}

func none(string) string { return "" }

func start(t *testing.T, s otlp.Settings, o otlp.Options) *otlp.Exporter {
	t.Helper()
	o.Service, o.Version, o.Instance = "assay", "v1", "i"
	if o.Getenv == nil {
		o.Getenv = none
	}
	e, err := otlp.New(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func attributes(list []*pbcommon.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range list {
		out[kv.Key] = kv.Value.GetStringValue()
	}
	return out
}

func use(t *testing.T, e *otlp.Exporter, hist prometheus.Observer) string {
	t.Helper()
	log := slog.New(e.Handler(telemetry.LogHandler(slog.NewTextHandler(io.Discard, nil), nil)))
	ctx := telemetry.With(t.Context(), e.Tracing())
	ctx, outer := telemetry.Serve(ctx, "POST api")
	outer.Text(telemetry.ManifestDigest, "sha256:00")
	inner, span := telemetry.Start(ctx, "verify.decide")
	span.Text(telemetry.DecisionID, "dec_1")
	span.Int(telemetry.Items, 3)
	log.WarnContext(inner, "it broke", "digest", "sha256:00", slog.Group("g", "n", 7))
	if hist != nil {
		telemetry.Observe(inner, hist, 0.3)
	}
	span.End(fault.Newf(fault.Internal, "secret text"))
	outer.End(nil)
	return telemetry.TraceID(ctx)
}

// check holds what arrived against what was told.
func (r *receiver) check(t *testing.T, id string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.traces) == 0 || len(r.logs) == 0 || len(r.metrics) == 0 {
		t.Fatalf("arrived: %d traces, %d logs, %d metrics", len(r.traces), len(r.logs), len(r.metrics))
	}
	rs := r.traces[0].ResourceSpans[0]
	if got := attributes(rs.Resource.Attributes); got["service.name"] != "assay" || got["service.version"] != "v1" {
		t.Errorf("resource %v", got)
	}
	spans := rs.ScopeSpans[0].Spans
	if len(spans) != 2 || spans[0].Name != "verify.decide" || spans[1].Name != "POST api" {
		t.Fatalf("spans %v", spans)
	}
	if got := hex.EncodeToString(spans[0].TraceId); got != id || !bytes.Equal(spans[0].ParentSpanId, spans[1].SpanId) {
		t.Errorf("trace %s, want %s; parent %x, want %x", got, id, spans[0].ParentSpanId, spans[1].SpanId)
	}
	if got := attributes(spans[0].Attributes); got["assay.decision.id"] != "dec_1" || got["error.type"] != "internal" {
		t.Errorf("attributes %v", got)
	}
	if st := spans[0].Status; st.Code.String() != "STATUS_CODE_ERROR" || strings.Contains(st.Message, "secret") {
		t.Errorf("status %v: want an error without the error's text", st)
	}
	if spans[0].StartTimeUnixNano == 0 || spans[0].EndTimeUnixNano < spans[0].StartTimeUnixNano {
		t.Errorf("times %d %d", spans[0].StartTimeUnixNano, spans[0].EndTimeUnixNano)
	}
	rec := r.logs[0].ResourceLogs[0].ScopeLogs[0].LogRecords[0]
	if rec.Body.GetStringValue() != "it broke" || rec.SeverityText != "WARN" || rec.SeverityNumber != 13 || hex.EncodeToString(rec.TraceId) != id || !bytes.Equal(rec.SpanId, spans[0].SpanId) {
		t.Errorf("record %v", rec)
	}
	if got := attributes(rec.Attributes); got["digest"] != "sha256:00" {
		t.Errorf("record's attributes %v", got)
	}
	r.checkMetrics(t, id)
}

func (r *receiver) checkMetrics(t *testing.T, id string) {
	t.Helper()
	seen := map[string]bool{}
	for _, m := range r.metrics[len(r.metrics)-1].ResourceMetrics[0].ScopeMetrics[0].Metrics {
		seen[m.Name] = true
		switch m.Name {
		case "t_seconds":
			p := m.GetHistogram().DataPoints[0]
			if !slices.Equal(p.BucketCounts, []uint64{0, 1, 0}) || p.Count != 1 || p.GetSum() != 0.3 || len(p.Exemplars) != 1 || hex.EncodeToString(p.Exemplars[0].TraceId) != id {
				t.Errorf("histogram %v", p)
			}
		case "t_total":
			if s := m.GetSum(); !s.IsMonotonic || s.DataPoints[0].GetAsDouble() != 4 || s.DataPoints[0].StartTimeUnixNano == 0 {
				t.Errorf("counter %v", s)
			}
		}
	}
	if !seen["t_seconds"] || !seen["t_total"] {
		t.Errorf("metrics %v", seen)
	}
}

func registry() (*prometheus.Registry, prometheus.Histogram) {
	reg := prometheus.NewRegistry()
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "t_seconds", Buckets: []float64{.1, 1}})
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "t_total"})
	c.Add(4)
	reg.MustRegister(h, c)
	return reg, h
}

func TestHTTP(t *testing.T) {
	r := &receiver{refuse: 1}
	srv := httptest.NewServer(r)
	defer srv.Close()
	reg, h := registry()
	e := start(t, otlp.Settings{Endpoint: srv.URL, Sample: 1, Headers: map[string]string{"X-Tenant": "one"}}, otlp.Options{Gatherer: reg, Registerer: reg})
	id := use(t, e, h)
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.check(t, id)
	if r.headers[0] != "one" {
		t.Errorf("headers %q", r.headers)
	}
}

func TestGRPC(t *testing.T) {
	r := &receiver{refuse: 1}
	on, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	collecttrace.RegisterTraceServiceServer(srv, r)
	collectlogs.RegisterLogsServiceServer(srv, &logService{r: r})
	collectmetrics.RegisterMetricsServiceServer(srv, &metricService{r: r})
	go func() { _ = srv.Serve(on) }()
	defer srv.Stop()
	reg, h := registry()
	e := start(t, otlp.Settings{Endpoint: "http://" + on.Addr().String(), Protocol: otlp.GRPC, Sample: 1, Headers: map[string]string{"X-Tenant": "two"}}, otlp.Options{Gatherer: reg})
	id := use(t, e, h)
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.check(t, id)
	if r.headers[0] != "two" {
		t.Errorf("headers %q", r.headers)
	}
}

// TestOff: nothing is sent where nothing says so, whatever else is set.
func TestOff(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"nothing":                      {},
		"disabled":                     {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
		"none":                         {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
		"exporter without an endpoint": {"OTEL_TRACES_EXPORTER": "otlp"},
	} {
		e, err := otlp.New(t.Context(), otlp.Settings{Sample: 1}, otlp.Options{Getenv: func(k string) string { return env[k] }})
		if err != nil || e != nil {
			t.Errorf("%s: %v, %v", name, e, err)
		}
	}
}

// TestEnvironment: OpenTelemetry's variables go over the settings, and a
// signal's own over the general ones.
func TestEnvironment(t *testing.T) {
	r, own := &receiver{}, &receiver{}
	srv, ownSrv := httptest.NewServer(r), httptest.NewServer(http.StripPrefix("/in", own))
	defer srv.Close()
	defer ownSrv.Close()
	env := map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": srv.URL, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": ownSrv.URL + "/in/v1/logs",
		"OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=a%20b", "OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
	}
	t.Setenv("OTEL_SERVICE_NAME", "another") // read by the SDK's own detector
	e := start(t, otlp.Settings{Endpoint: "http://127.0.0.1:1", Sample: 1}, otlp.Options{Getenv: func(k string) string { return env[k] }})
	use(t, e, nil)
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(r.traces) != 1 || len(own.logs) != 1 || len(r.logs) != 0 || len(r.metrics) != 0 || r.headers[0] != "a b" {
		t.Errorf("%d traces, %d own logs, %d logs, %d metrics, headers %q", len(r.traces), len(own.logs), len(r.logs), len(r.metrics), r.headers)
	}
	if got := attributes(r.traces[0].ResourceSpans[0].Resource.Attributes)["service.name"]; got != "another" {
		t.Errorf("service %q", got)
	}
}

func TestBadSettings(t *testing.T) {
	for name, c := range map[string]struct {
		s   otlp.Settings
		env map[string]string
	}{
		"endpoint":    {s: otlp.Settings{Endpoint: "collector:4318"}},
		"password":    {s: otlp.Settings{Endpoint: "http://u:p@h:1"}},
		"protocol":    {s: otlp.Settings{Endpoint: "http://h:1", Protocol: "thrift"}},
		"exporter":    {s: otlp.Settings{Endpoint: "http://h:1"}, env: map[string]string{"OTEL_TRACES_EXPORTER": "zipkin"}},
		"headers":     {s: otlp.Settings{Endpoint: "http://h:1"}, env: map[string]string{"OTEL_EXPORTER_OTLP_HEADERS": "x"}},
		"timeout":     {s: otlp.Settings{Endpoint: "http://h:1"}, env: map[string]string{"OTEL_EXPORTER_OTLP_TIMEOUT": "1s"}},
		"sample":      {s: otlp.Settings{Endpoint: "http://h:1", Sample: 2}},
		"ca":          {s: otlp.Settings{Endpoint: "http://h:1", CABundle: "/nowhere"}},
		"compression": {s: otlp.Settings{Endpoint: "http://h:1"}, env: map[string]string{"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}},
	} {
		e, err := otlp.New(t.Context(), c.s, otlp.Options{Getenv: func(k string) string { return c.env[k] }})
		if fault.KindOf(err) != fault.Invalid || e != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "u:p") {
			t.Errorf("%s: the password is repeated: %v", name, err)
		}
	}
}

// TestDead: a collector that is not there costs its share of the end, is told
// of once, and is counted.
func TestDead(t *testing.T) {
	var log bytes.Buffer
	reg := prometheus.NewRegistry()
	e := start(t, otlp.Settings{Endpoint: "http://127.0.0.1:1", Sample: 1, Signals: []string{otlp.Traces}, Timeout: 200 * time.Millisecond},
		otlp.Options{Registerer: reg, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	use(t, e, nil)
	_ = e.Flush(t.Context())
	use(t, e, nil)
	began := time.Now()
	_ = e.Close(t.Context())
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the end took %s", took)
	}
	if n := strings.Count(log.String(), "telemetry was not taken"); n != 1 {
		t.Errorf("told %d times: %s", n, log.String())
	}
	families, _ := reg.Gather()
	for _, f := range families {
		if f.GetName() == "assay_telemetry_items_total" {
			lost := 0.0
			for _, m := range f.Metric {
				lost += m.GetCounter().GetValue()
			}
			if lost != 4 {
				t.Errorf("%g spans lost, want 4", lost)
			}
		}
	}
}

// TestSample: what the sampler leaves out is neither sent nor an exemplar.
func TestSample(t *testing.T) {
	r := &receiver{}
	srv := httptest.NewServer(r)
	defer srv.Close()
	e := start(t, otlp.Settings{Endpoint: srv.URL, Sample: 0, Signals: []string{otlp.Traces}}, otlp.Options{})
	if id := use(t, e, nil); id != "" {
		t.Errorf("trace %q is kept", id)
	}
	// A caller that keeps its trace has it kept here.
	h := http.Header{"Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
	ctx, span := telemetry.Serve(telemetry.With(telemetry.Extract(t.Context(), h), e.Tracing()), "GET api")
	span.End(nil)
	if got := telemetry.TraceID(ctx); got != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("trace %q", got)
	}
	_ = e.Close(t.Context())
	if len(r.traces) != 1 || len(r.traces[0].ResourceSpans[0].ScopeSpans[0].Spans) != 1 {
		t.Errorf("traces %v", r.traces)
	}
}
