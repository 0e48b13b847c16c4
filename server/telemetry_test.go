package server

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collectlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collecttrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	pbcommon "go.opentelemetry.io/proto/otlp/common/v1"
	pblogs "go.opentelemetry.io/proto/otlp/logs/v1"
	pbresource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"assay/admission"
	"assay/client"
	"assay/config"
	"assay/event"
	"assay/identity"
	"assay/vuln/feed/upstream"
)

// told is a span as a collector has it.
type told struct {
	trace, id, parent, name string
	attributes              map[string]string
}

// collector takes OTLP over HTTP, by OpenTelemetry's own message types.
type collector struct {
	*httptest.Server
	mu      sync.Mutex
	spans   []told
	logs    map[string][]string // bodies by trace
	metrics map[string]bool
}

func newCollector(t *testing.T) *collector {
	c := &collector{logs: map[string][]string{}, metrics: map[string]bool{}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		b, _ := io.ReadAll(z)
		c.mu.Lock()
		defer c.mu.Unlock()
		switch r.URL.Path {
		case "/v1/traces":
			var m collecttrace.ExportTraceServiceRequest
			if err := proto.Unmarshal(b, &m); err != nil {
				t.Error(err)
			}
			for _, s := range m.ResourceSpans[0].ScopeSpans[0].Spans {
				c.spans = append(c.spans, told{hex.EncodeToString(s.TraceId), hex.EncodeToString(s.SpanId), hex.EncodeToString(s.ParentSpanId), s.Name, attributesOf(s.Attributes)})
			}
		case "/v1/logs":
			var m collectlogs.ExportLogsServiceRequest
			if err := proto.Unmarshal(b, &m); err != nil {
				t.Error(err)
			}
			for _, l := range m.ResourceLogs[0].ScopeLogs[0].LogRecords {
				id := hex.EncodeToString(l.TraceId)
				c.logs[id] = append(c.logs[id], l.Body.GetStringValue())
			}
		case "/v1/metrics":
			var m collectmetrics.ExportMetricsServiceRequest
			if err := proto.Unmarshal(b, &m); err != nil {
				t.Error(err)
			}
			for _, x := range m.ResourceMetrics[0].ScopeMetrics[0].Metrics {
				c.metrics[x.Name] = true
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func attributesOf(list []*pbcommon.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range list {
		out[kv.Key] = kv.Value.GetStringValue()
	}
	return out
}

func (c *collector) named(name string) (out []told) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.name == name {
			out = append(out, s)
		}
	}
	return out
}

const (
	callersTrace = "0af7651916cd43dd8448eb211c80319c"
	callersSpan  = "b7ad6b7169203331"
)

// TestTelemetry: what a site does arrives at a collector: spans of each part with
// what they are about, in the caller's trace; log lines; metrics; and exemplars
// on /metrics that name a trace which arrived.
func TestTelemetry(t *testing.T) {
	c := newCollector(t)
	var asked sync.Map // headers of requests to the feed's upstream
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Header.Get("Traceparent"), r.Header.Get("Baggage"))
		http.NotFound(w, r)
	}))
	defer up.Close()
	s := newSite(t, true, func(cfg *config.Config) {
		cfg.Telemetry.Endpoint, cfg.Telemetry.Interval = c.URL, time.Hour
		cfg.Admission = config.Admission{Listen: "127.0.0.1:0", Cluster: "c1"}
		cfg.Vuln.Feeds = []upstream.Spec{{Name: "osv", URL: up.URL, Ecosystems: []string{"npm"}, AllowPrivate: true}}
	})
	s.apply(s.policyDoc("me@example.com"), false)
	manifest, digest := s.image("shop/app", "v1", "layer one")
	s.signImage("shop/app", manifest)
	if a := s.reviewer().ask(admission.PathMutate, "shop", s.host()+"/shop/app:v1"); !a.Allowed {
		t.Fatalf("%+v", a)
	}
	bom := `{"projectName": "shop/app", "projectVersion": "1", "autoCreate": true, "bom": "` + base64.StdEncoding.EncodeToString([]byte(`{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [{"type": "library", "bom-ref": "a", "name": "left-pad", "version": "1.0.0", "purl": "pkg:npm/left-pad@1.0.0"}]}`)) + `"}`
	api := map[string]string{"Authorization": "Bearer " + s.token("me@example.com", identity.AudienceAPI), "Content-Type": "application/json"}
	if status, _, b := s.do(http.MethodPut, "/api/v1/bom", api, strings.NewReader(bom)); status != http.StatusOK {
		t.Fatal(status, b)
	}
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:"+s.token("me@example.com", identity.AudienceRegistry)))
	status, h, _ := s.do(http.MethodGet, "/v2/shop/app/manifests/v1", map[string]string{
		"Authorization": basic, "Traceparent": "00-" + callersTrace + "-" + callersSpan + "-01", "Baggage": "user=alice",
	}, nil)
	if status != http.StatusOK || h.Get("X-Request-Id") != callersTrace {
		t.Fatal(status, h)
	}
	for range 500 {
		_ = s.telling.exporter.Flush(t.Context())
		if len(c.named("scan.document")) > 0 && len(c.named("feed.fetch")) > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}

	for name, want := range map[string]map[string]string{
		"registry.manifest_put": {"oci.manifest.digest": string(digest), "assay.repository": "shop/app"},
		"registry.manifest_get": {"oci.manifest.digest": string(digest)},
		"gate.tag_move":         {"oci.manifest.digest": string(digest), "assay.tag": "v1"},
		"evidence.ingest":       {"oci.manifest.digest": string(digest), "artifact.attestation.id": `^att_`},
		"evidence.verify":       {"artifact.attestation.id": `^att_`},
		"verify.decide":         {"oci.manifest.digest": string(digest), "assay.decision.id": `^dec_`, "assay.decision.verdict": "allow"},
		"policy.evaluate":       {"oci.manifest.digest": string(digest), "assay.decision.verdict": "allow"},
		"log.append":            {}, "admission.mutate": {"assay.decision.verdict": "allow"},
		"admission.judge": {"oci.manifest.digest": string(digest), "assay.decision.id": `^dec_`},
		"scan.document":   {"oci.manifest.digest": ""}, "feed.fetch": {"assay.feed.name": "osv"},
	} {
		found := c.named(name)
		if !slices.ContainsFunc(found, func(s told) bool {
			for k, v := range want {
				if ok, _ := regexp.MatchString(v, s.attributes[k]); !ok {
					return false
				}
			}
			return true
		}) {
			t.Errorf("no span %s has %v; there are %v", name, want, found)
		}
	}
	s.inCallersTrace(t, c, string(digest))
	s.exemplars(t, c)
	// Baggage goes to no host that was not named.
	n := 0
	asked.Range(func(k, v any) bool {
		n++
		if k == "" || v != "" {
			t.Errorf("the upstream was sent traceparent %q, baggage %q", k, v)
		}
		return true
	})
	if n == 0 {
		t.Error("the upstream was not asked")
	}
	if !c.metrics["assay_http_request_seconds"] || !c.metrics["assay_registry_request_seconds"] {
		t.Errorf("metrics %v", slices.Sorted(maps.Keys(c.metrics)))
	}
}

// inCallersTrace holds a pull to the trace that its caller named: spans, log lines
// here and at the collector, and the audit trail.
func (s *testSite) inCallersTrace(t *testing.T, c *collector, digest string) {
	t.Helper()
	var door, op told
	for _, x := range c.spans {
		if x.trace == callersTrace && x.name == "GET registry" {
			door = x
		}
		if x.trace == callersTrace && x.name == "registry.manifest_get" {
			op = x
		}
	}
	if door.parent != callersSpan || op.parent != door.id || op.attributes["oci.manifest.digest"] != digest {
		t.Errorf("door %+v, operation %+v", door, op)
	}
	if !slices.Contains(c.logs[callersTrace], "request") {
		t.Errorf("log lines of the trace: %q", c.logs[callersTrace])
	}
	said := false
	for line := range strings.Lines(s.logs.String()) {
		var l struct {
			Msg     string `json:"msg"`
			TraceID string `json:"trace_id"`
			SpanID  string `json:"span_id"`
		}
		if json.Unmarshal([]byte(line), &l) == nil && l.TraceID == callersTrace && l.SpanID == door.id {
			said = true
		}
		if strings.Count(line, `"trace_id"`) > 1 {
			t.Errorf("twice: %s", line)
		}
	}
	if !said {
		t.Error("no log line names the trace and the span")
	}
	for range 500 {
		if list := s.eventsOf(event.ArtifactPulled); len(list) > 0 {
			if list[0].TraceID != callersTrace {
				t.Errorf("the pull's record has trace %q", list[0].TraceID)
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the pull is not on record")
}

func (s *testSite) exemplars(t *testing.T, c *collector) {
	t.Helper()
	_, h, text := s.do(http.MethodGet, "/metrics", map[string]string{"Accept": "application/openmetrics-text; version=1.0.0"}, nil)
	if !strings.HasPrefix(h.Get("Content-Type"), "application/openmetrics-text") {
		t.Fatal(h)
	}
	found := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(assay_\w+)_bucket\{.*# \{trace_id="([0-9a-f]{32})"\}`).FindAllStringSubmatch(text, -1) {
		if slices.ContainsFunc(c.spans, func(x told) bool { return x.trace == m[2] }) {
			found[m[1]] = true
		}
	}
	for _, want := range []string{"assay_http_request_seconds", "assay_registry_request_seconds", "assay_verify_seconds", "assay_evidence_verify_seconds", "assay_admission_seconds"} {
		if !found[want] {
			t.Errorf("%s has no exemplar of a trace that arrived; those that have: %v", want, slices.Sorted(maps.Keys(found)))
		}
	}
}

// TestTelemetryOff: by default nothing is kept and nothing sent, and a caller's
// trace is on record all the same.
func TestTelemetryOff(t *testing.T) {
	s := newSite(t, true, nil)
	if s.telling.exporter != nil || s.telling.tracing != nil {
		t.Fatal("something is sent")
	}
	s.image("team/app", "v1", "layer")
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:"+s.token("me@example.com", identity.AudienceRegistry)))
	_, h, _ := s.do(http.MethodGet, "/v2/team/app/manifests/v1", map[string]string{"Authorization": basic, "Traceparent": "00-" + callersTrace + "-" + callersSpan + "-01"}, nil)
	if h.Get("X-Request-Id") != callersTrace {
		t.Error(h)
	}
	if _, _, text := s.do(http.MethodGet, "/metrics", map[string]string{"Accept": "application/openmetrics-text; version=1.0.0"}, nil); strings.Contains(text, "# {trace_id") {
		t.Error("an exemplar names a trace that nobody has")
	}
	if !strings.Contains(s.logs.String(), `"trace_id":"`+callersTrace) {
		t.Error("the log does not name the trace")
	}
}

// TestOTLPLogs: collectors send logs of builds, in both encodings; they stand with
// the artifact, without secrets, and nobody sends or reads them who may not.
func TestOTLPLogs(t *testing.T) {
	s := newSite(t, false, nil)
	issuer := s.Status(t.Context()).Services.OIDC
	s.apply(`apiVersion: assay/v1
kind: Grant
metadata: {name: me}
spec: {issuer: "`+issuer+`", subject: me@example.com, role: admin, scope: "team/**"}
---
apiVersion: assay/v1
kind: Grant
metadata: {name: other}
spec: {issuer: "`+issuer+`", subject: other@elsewhere.example, role: viewer, scope: "other/**"}
`, false)
	_, digest := s.image("team/app", "v1", "layer")
	str := func(k, v string) *pbcommon.KeyValue {
		return &pbcommon.KeyValue{Key: k, Value: &pbcommon.AnyValue{Value: &pbcommon.AnyValue_StringValue{StringValue: v}}}
	}
	m := &collectlogs.ExportLogsServiceRequest{ResourceLogs: []*pblogs.ResourceLogs{{
		Resource:  &pbresource.Resource{Attributes: []*pbcommon.KeyValue{str("cicd.pipeline.run.id", "run 1"), str("assay.repository", "team/app"), str("oci.manifest.digest", string(digest))}},
		ScopeLogs: []*pblogs.ScopeLogs{{LogRecords: []*pblogs.LogRecord{{Body: str("", "compiling <script>alert(1)</script>").Value}, {Body: str("", "password=abcdefgh12").Value}}}},
	}}}
	raw, _ := proto.Marshal(m)
	asJSON, _ := protojson.Marshal(m)
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	_, _ = zw.Write(raw)
	_ = zw.Close()
	bearer := "Bearer " + s.token("me@example.com", identity.AudienceAPI)
	for name, c := range map[string]struct {
		body          []byte
		media, enc    string
		authorization string
		want          int
	}{
		"protobuf":   {raw, "application/x-protobuf", "", bearer, 200},
		"gzip":       {z.Bytes(), "application/x-protobuf", "gzip", bearer, 200},
		"json":       {asJSON, "application/json", "", bearer, 200},
		"nobody":     {raw, "application/x-protobuf", "", "", 401},
		"no token":   {raw, "application/x-protobuf", "", "Bearer x.y.z", 401},
		"a reader":   {raw, "application/x-protobuf", "", "Bearer " + s.token("other@elsewhere.example", identity.AudienceAPI), 403},
		"garbage":    {[]byte{0xff, 0xff}, "application/x-protobuf", "", bearer, 400},
		"form":       {raw, "application/x-www-form-urlencoded", "", bearer, 415},
		"not gzip":   {raw, "application/x-protobuf", "gzip", bearer, 400},
		"other code": {raw, "application/x-protobuf", "br", bearer, 400},
	} {
		h := map[string]string{"Content-Type": c.media}
		if c.enc != "" {
			h["Content-Encoding"] = c.enc
		}
		if c.authorization != "" {
			h["Authorization"] = c.authorization
		}
		if status, _, b := s.do(http.MethodPost, "/v1/logs", h, bytes.NewReader(c.body)); status != c.want {
			t.Errorf("%s: %d %s, want %d", name, status, b, c.want)
		}
	}
	// Who may write elsewhere alone is refused all; who may read elsewhere sees nothing.
	other := map[string]string{"Authorization": "Bearer " + s.token("other@elsewhere.example", identity.AudienceAPI), "Content-Type": "application/json"}
	for _, path := range []string{"/api/v1/build-logs?repository=team/app", "/api/v1/build-logs", "/api/v1/build-log-lines?text=compiling"} {
		if status, _, b := s.do(http.MethodGet, path, other, nil); status != http.StatusForbidden {
			t.Errorf("%s by another team: %d %s", path, status, b)
		}
	}
	for _, path := range []string{"/api/v1/build-logs?repository=other/x", "/api/v1/build-log-lines?text=compiling&repository=other/x", "/api/v1/build-logs?repository=other/x&digest=" + string(digest)} {
		if status, _, b := s.do(http.MethodGet, path, other, nil); status != http.StatusOK || !strings.Contains(b, `"items":[]`) {
			t.Errorf("%s by another team: %d %s", path, status, b)
		}
	}
	if status, h, _ := s.do(http.MethodGet, "/v1/logs", nil, nil); status != http.StatusMethodNotAllowed || h.Get("Allow") != "POST" {
		t.Errorf("GET: %d", status)
	}
	logs, err := s.admin.BuildLogs(t.Context(), client.BuildLogFilter{Digest: digest, Repository: "team/app"})
	if err != nil || len(logs.Items) != 1 || logs.Items[0].Build != "run 1" || logs.Items[0].Lines != 6 || logs.Items[0].Redacted != 3 || logs.Items[0].Source != "otlp" {
		t.Fatalf("%+v, %v", logs, err)
	}
	found, err := s.admin.SearchBuildLogs(t.Context(), client.BuildLogFilter{Text: "abcdefgh12"})
	if err != nil || len(found.Items) != 0 {
		t.Errorf("the secret is found: %+v, %v", found, err)
	}
	if found, err = s.admin.SearchBuildLogs(t.Context(), client.BuildLogFilter{Text: "<SCRIPT>", Digest: digest}); err != nil || len(found.Items) != 3 {
		t.Errorf("%+v, %v", found, err)
	}
}
