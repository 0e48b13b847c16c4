// Package otlp sends what Assay tells of its own work to a collector, by OTLP
// over HTTP or gRPC: spans, log lines, and the metrics of /metrics. Nothing is
// sent unless the site's configuration or OpenTelemetry's environment variables
// name an endpoint.
package otlp

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"assay/internal/fault"
)

// The signals.
const (
	Traces  = "traces"
	Metrics = "metrics"
	Logs    = "logs"
)

// The protocols.
const (
	HTTP = "http/protobuf"
	GRPC = "grpc"
)

// Signals lists the signals.
func Signals() []string { return []string{Traces, Metrics, Logs} }

// Settings say what is sent where. The zero value sends nothing.
type Settings struct {
	Endpoint   string   // of all signals: http(s)://HOST:PORT[/PATH]; "": nothing is sent
	Protocol   string   // HTTP or GRPC; "": HTTP
	Signals    []string // "": all
	Headers    map[string]string
	CABundle   string // PEM file
	ClientCert string // PEM files
	ClientKey  string
	Sample     float64 // share of traces that begin here, 0 to 1
	Interval   time.Duration
	Timeout    time.Duration
	Plain      bool // no gzip
}

// target is where one signal goes.
type target struct {
	signal   string
	url      string // in full
	grpc     bool
	headers  http.Header
	timeout  time.Duration
	gzip     bool
	ca       string
	cert     string
	key      string
	endpoint string
}

var grpcPaths = map[string]string{
	Traces:  "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
	Metrics: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
	Logs:    "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}

// environment are OpenTelemetry's variables (specification, "OTLP Exporter
// Configuration" and "Environment Variable Specification"); they go over the
// settings, a signal's own over the general ones.
type environment func(string) string

func (env environment) first(signal, name string) string {
	if v := env("OTEL_EXPORTER_OTLP_" + strings.ToUpper(signal) + "_" + name); v != "" {
		return v
	}
	return env("OTEL_EXPORTER_OTLP_" + name)
}

// targets resolves the settings and the environment; none: nothing is sent.
func (s Settings) targets(env environment) ([]target, error) {
	if off, _ := strconv.ParseBool(env("OTEL_SDK_DISABLED")); off {
		return nil, nil
	}
	var out []target
	for _, signal := range Signals() {
		t, err := s.target(signal, env)
		if err != nil {
			return nil, err
		}
		if t != nil {
			out = append(out, *t)
		}
	}
	return out, nil
}

func (s Settings) wants(signal string) bool {
	if len(s.Signals) == 0 {
		return true
	}
	for _, x := range s.Signals {
		if x == signal {
			return true
		}
	}
	return false
}

func (s Settings) target(signal string, env environment) (*target, error) {
	name := "OTEL_" + strings.ToUpper(signal) + "_EXPORTER"
	switch v := env(name); v {
	case "":
		if !s.wants(signal) {
			return nil, nil
		}
	case "otlp":
	case "none":
		return nil, nil
	default:
		return nil, fault.Newf(fault.Invalid, "%s=%.40q: want otlp or none; /metrics serves Prometheus in any case", name, v)
	}
	own := env("OTEL_EXPORTER_OTLP_" + strings.ToUpper(signal) + "_ENDPOINT")
	base := own
	if base == "" {
		base = env("OTEL_EXPORTER_OTLP_ENDPOINT")
	}
	if base == "" {
		base = s.Endpoint
	}
	if base == "" {
		return nil, nil
	}
	t := &target{signal: signal, timeout: s.Timeout, gzip: !s.Plain, ca: s.CABundle, cert: s.ClientCert, key: s.ClientKey, headers: http.Header{}}
	if err := t.address(s, base, own != "", env); err != nil {
		return nil, err
	}
	return t, t.details(s, env)
}

// address makes the URL: a signal's own variable is the URL in full, all others
// are prefixes.
func (t *target) address(s Settings, base string, whole bool, env environment) error {
	protocol := env.first(t.signal, "PROTOCOL")
	if protocol == "" {
		protocol = s.Protocol
	}
	switch protocol {
	case "", HTTP:
	case GRPC:
		t.grpc = true
		if !strings.Contains(base, "://") {
			base = "https://" + base
		}
	default:
		return fault.Newf(fault.Invalid, "telemetry protocol %.40q: want %s or %s", protocol, HTTP, GRPC)
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fault.Newf(fault.Invalid, "telemetry endpoint: want http(s)://HOST:PORT, found another form")
	}
	if u.User != nil {
		return fault.Newf(fault.Invalid, "telemetry endpoint of %s carries a password: put it into headers", t.signal)
	}
	t.endpoint = u.Scheme + "://" + u.Host
	switch {
	case t.grpc:
		t.url = t.endpoint + grpcPaths[t.signal]
	case whole:
		if u.Path == "" {
			u.Path = "/"
		}
		t.url = u.String()
	default:
		t.url = strings.TrimSuffix(u.String(), "/") + "/v1/" + t.signal
	}
	return nil
}

func (t *target) details(s Settings, env environment) error {
	for name, value := range s.Headers {
		t.headers.Set(name, value)
	}
	for _, pair := range strings.Split(env.first(t.signal, "HEADERS"), ",") {
		name, value, ok := strings.Cut(pair, "=")
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || err != nil {
			return fault.Newf(fault.Invalid, "OTEL_EXPORTER_OTLP_HEADERS: want NAME=VALUE pairs with commas between")
		}
		t.headers.Set(name, value)
	}
	for variable, into := range map[string]*string{"CERTIFICATE": &t.ca, "CLIENT_CERTIFICATE": &t.cert, "CLIENT_KEY": &t.key} {
		if v := env.first(t.signal, variable); v != "" {
			*into = v
		}
	}
	switch v := env.first(t.signal, "COMPRESSION"); v {
	case "":
	case "gzip":
		t.gzip = true
	case "none":
		t.gzip = false
	default:
		return fault.Newf(fault.Invalid, "OTEL_EXPORTER_OTLP_COMPRESSION=%.40q: want gzip or none", v)
	}
	if v := env.first(t.signal, "TIMEOUT"); v != "" {
		ms, err := strconv.Atoi(v)
		if err != nil || ms <= 0 {
			return fault.Newf(fault.Invalid, "OTEL_EXPORTER_OTLP_TIMEOUT=%.40q: want milliseconds", v)
		}
		t.timeout = time.Duration(ms) * time.Millisecond
	}
	if t.timeout <= 0 {
		t.timeout = 10 * time.Second
	}
	return nil
}

// interval is how often metrics are sent.
func (s Settings) interval(env environment) (time.Duration, error) {
	if v := env("OTEL_METRIC_EXPORT_INTERVAL"); v != "" {
		ms, err := strconv.Atoi(v)
		if err != nil || ms <= 0 {
			return 0, fault.Newf(fault.Invalid, "OTEL_METRIC_EXPORT_INTERVAL=%.40q: want milliseconds", v)
		}
		return time.Duration(ms) * time.Millisecond, nil
	}
	if s.Interval > 0 {
		return s.Interval, nil
	}
	return time.Minute, nil
}
