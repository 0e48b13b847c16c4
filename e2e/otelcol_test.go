//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// collector is an OpenTelemetry Collector: it takes OTLP, prints all that it takes,
// and hands log records on to a site.
type collector struct {
	http, grpc string // host and port
	out        *lockedBuffer
}

func startCollector(t *testing.T, logsTo, token string) *collector {
	t.Helper()
	program, err := exec.LookPath("otelcol")
	if err != nil {
		t.Fatal("otelcol is not on PATH: tools/install.sh otelcol prints what to put there")
	}
	c := &collector{http: freeAddress(t), grpc: freeAddress(t), out: &lockedBuffer{}}
	exporters, logs := "", "[debug]"
	if logsTo != "" {
		// As docs/build-logs.md says.
		exporters = "  otlp_http: {logs_endpoint: \"" + logsTo + "/v1/logs\", headers: {Authorization: \"Bearer " + token + "\"}}\n"
		logs = "[debug, otlp_http]"
	}
	config := filepath.Join(t.TempDir(), "collector.yaml")
	if err := os.WriteFile(config, []byte(`receivers:
  otlp: {protocols: {http: {endpoint: "`+c.http+`"}, grpc: {endpoint: "`+c.grpc+`"}}}
exporters:
  debug: {verbosity: detailed, sampling_initial: 100000, use_internal_logger: false}
`+exporters+`service:
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp], exporters: [debug]}
    metrics: {receivers: [otlp], exporters: [debug]}
    logs: {receivers: [otlp], exporters: `+logs+`}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config", "file:"+config)
	cmd.Stdout, cmd.Stderr = c.out, c.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
	c.wait(t, "Everything is ready")
	return c
}

// wait waits until what the collector printed has all these patterns.
func (c *collector) wait(t *testing.T, patterns ...string) {
	t.Helper()
	missing := ""
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		text := c.out.String()
		missing = ""
		for _, p := range patterns {
			if !regexp.MustCompile(p).MatchString(text) {
				missing = p
			}
		}
		if missing == "" {
			return
		}
	}
	text := c.out.String()
	t.Fatalf("the collector never told of %s:\n%s", missing, text[max(0, len(text)-3000):])
}

// TestCollector: an OpenTelemetry Collector takes what Assay sends, over HTTP and
// over gRPC: spans, metrics and log lines, with the artifact that they are about.
func TestCollector(t *testing.T) {
	for _, protocol := range []string{"http/protobuf", "grpc"} {
		t.Run(strings.ReplaceAll(protocol, "/", "-"), func(t *testing.T) {
			c := startCollector(t, "", "")
			endpoint := "http://" + c.http
			if protocol == "grpc" {
				endpoint = "http://" + c.grpc
			}
			s := &site{t: t, data: filepath.Join(shortTemp(t), "data"), env: []string{
				"OTEL_EXPORTER_OTLP_ENDPOINT=" + endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=" + protocol, "OTEL_METRIC_EXPORT_INTERVAL=1000", "OTEL_BSP_SCHEDULE_DELAY=200", "OTEL_BLRP_SCHEDULE_DELAY=200",
				"OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=e2e",
			}}
			s.start("127.0.0.1:0")
			file := filepath.Join(t.TempDir(), "app")
			if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			image := s.Services.Registry + "/team/app:v1"
			s.assay("push", "--subject", "ci@example.com", "--product", file, image)
			s.assay("sign", "--subject", "ci@example.com", image)
			s.assayRefused(1, nil, "verify", "--subject", "ci@example.com", image) // no policy
			digest := regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(s.assay("registry", "status", "team/app:v1", "-o", "json"))
			c.wait(t,
				`service\.name: Str\(assay\)`, `deployment\.environment\.name: Str\(e2e\)`,
				`Name +: registry\.manifest_put`, `Name +: gate\.tag_move`, `Name +: evidence\.ingest`, `Name +: log\.append`, `Name +: verify\.decide`,
				`oci\.manifest\.digest: Str\(`+digest+`\)`, `assay\.decision\.id: Str\(dec_`, `artifact\.attestation\.id: Str\(att_`,
				`-> Name: assay_http_request_seconds`, `-> Name: assay_slo_value`,
				`LogRecord #0`)
		})
	}
}

// TestCollectorSendsBuildLogs: a collector on the machine that builds hands the
// build's lines to the site, where they are found.
func TestCollectorSendsBuildLogs(t *testing.T) {
	s := up(t)
	grant := filepath.Join(t.TempDir(), "grant.yaml")
	if err := os.WriteFile(grant, []byte(`apiVersion: assay/v1
kind: Grant
metadata: {name: builder}
spec: {issuer: "`+s.Services.OIDC+`", subject: builder@example.com, role: publisher, scope: "team/**"}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	s.assay("apply", "-f", grant)
	c := startCollector(t, s.PublicURL, s.token("builder@example.com", "assay-api"))
	text := func(name, value string) map[string]any {
		return map[string]any{"key": name, "value": map[string]any{"stringValue": value}}
	}
	record := func(line string) map[string]any {
		return map[string]any{"timeUnixNano": "1795000000000000000", "severityText": "INFO", "body": map[string]any{"stringValue": line}}
	}
	body, err := json.Marshal(map[string]any{"resourceLogs": []any{map[string]any{
		"resource":  map[string]any{"attributes": []any{text("cicd.pipeline.run.id", "ci-4711"), text("assay.repository", "team/app")}},
		"scopeLogs": []any{map[string]any{"logRecords": []any{record("compiling the parser"), record("login with password=abcdefgh12")}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post("http://"+c.http+"/v1/logs", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	found := ""
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until) && !strings.Contains(found, "compiling the parser"); time.Sleep(100 * time.Millisecond) {
		found = run(t, s.environ(), s.program(), "build-log", "search", "compiling", "--build", "ci-4711").stdout
	}
	if !strings.Contains(found, "compiling the parser") {
		t.Errorf("found %q; the collector says:\n%s", found, c.out.String())
	}
	if all := run(t, s.environ(), s.program(), "build-log", "search", "login", "--build", "ci-4711").stdout; strings.Contains(all, "abcdefgh12") {
		t.Errorf("the password is kept: %s", all)
	}
}
