package artifactid_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"assay/artifactid"
	"assay/telemetry"
)

const injected = "service.name=shop,oci.manifest.digest=sha256%3A00ff,artifact.attestation.id=dec_1"

func TestParse(t *testing.T) {
	for in, want := range map[string]artifactid.ID{
		"":       {},
		injected: {Digest: "sha256:00ff", Decision: "dec_1"},
		"oci.manifest.digest=sha256:00ff, vcs.ref.head.revision=abc": {Digest: "sha256:00ff", Revision: "abc"},
		"oci.manifest.digest=a,oci.manifest.digest=b":                {Digest: "b"},
		"oci.manifest.digest=%zz,artifact.attestation.id":            {},
		"oci.manifest.digest=" + strings.Repeat("x", 300):            {},
	} {
		if got := artifactid.Parse(in); got != want {
			t.Errorf("%q: %+v, want %+v", in, got, want)
		}
	}
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", injected)
	if got := artifactid.FromEnv(); got.Digest != "sha256:00ff" || !got.Known() {
		t.Errorf("%+v", got)
	}
	// The names are those of Assay's own spans.
	if artifactid.ManifestDigest != string(telemetry.ManifestDigest) || artifactid.AttestationID != string(telemetry.AttestationID) || artifactid.Revision != string(telemetry.VCSRevision) {
		t.Error("the names differ from package telemetry's")
	}
}

// TestHandler: a request's span has the artifact, what is asked next learns who
// asks, and a caller's baggage is kept.
func TestHandler(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("t")
	shop, stock := artifactid.Parse(injected), artifactid.ID{Digest: "sha256:1234"}
	prop := propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	// serve is what otelhttp does around a handler.
	serve := func(name string, h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, span := tracer.Start(prop.Extract(r.Context(), propagation.HeaderCarrier(r.Header)), name)
			defer span.End()
			h.ServeHTTP(w, r.WithContext(ctx))
		})
	}
	back := httptest.NewServer(serve("stock", stock.Handler(stock.WithHeader(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, baggage.FromContext(r.Context()).Member("user").Value())
	})))))
	defer back.Close()
	front := httptest.NewServer(serve("shop", shop.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, _ := http.NewRequestWithContext(r.Context(), http.MethodGet, back.URL, nil)
		prop.Inject(r.Context(), propagation.HeaderCarrier(req.Header))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		w.Header().Set(artifactid.Header, resp.Header.Get(artifactid.Header))
	}))))
	defer front.Close()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, front.URL, nil)
	req.Header.Set("baggage", "user=alice")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got := resp.Header.Get(artifactid.Header); got != "sha256:1234" {
		t.Errorf("header %q", got)
	}
	got := map[string]map[string]string{}
	for _, s := range spans.Ended() {
		m := map[string]string{}
		for _, a := range s.Attributes() {
			m[string(a.Key)] = a.Value.AsString()
		}
		got[s.Name()] = m
	}
	want := map[string]map[string]string{
		"shop":  {"oci.manifest.digest": "sha256:00ff", "artifact.attestation.id": "dec_1"},
		"stock": {"oci.manifest.digest": "sha256:1234", "caller.oci.manifest.digest": "sha256:00ff"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestFewDependencies: services that import this link OpenTelemetry's API and
// nothing of Assay.
func TestFewDependencies(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "assay/artifactid").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if i := slices.IndexFunc(deps, func(d string) bool {
		return strings.HasPrefix(d, "assay/") && d != "assay/artifactid" || strings.Contains(d, "/sdk") && !strings.Contains(d, "auto/sdk") || strings.Contains(d, "grpc")
	}); i >= 0 || len(deps) > 25 {
		t.Errorf("%d packages, among them %q", len(deps), deps)
	}
}

func Example() {
	// In a Pod, FromEnv reads what Assay's admission wrote.
	id := artifactid.Parse("oci.manifest.digest=sha256%3A00ff,artifact.attestation.id=dec_1")

	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})).With(id.LogAttrs()...)
	log.Info("ready")
	fmt.Print(out.String())

	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	srv := httptest.NewServer(id.Handler(id.WithHeader(mux)))
	defer srv.Close()
	resp, err := http.Get(srv.URL) //nolint:noctx // an example
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	fmt.Println(resp.Header.Get(artifactid.Header))
	// Output:
	// level=INFO msg=ready oci.manifest.digest=sha256:00ff artifact.attestation.id=dec_1
	// sha256:00ff
}
