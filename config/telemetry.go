package config

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"assay/internal/fault"
	"assay/telemetry"
	"assay/telemetry/otlp"
)

// Telemetry says where Assay's own traces, metrics and log lines are sent. By
// default nothing is sent anywhere. OpenTelemetry's own variables (OTEL_…) go
// over this section; see docs/telemetry.md.
type Telemetry struct {
	// Endpoint is a collector, http(s)://HOST:PORT.
	Endpoint string `yaml:"endpoint"`
	// Protocol is http/protobuf or grpc.
	Protocol string `yaml:"protocol"`
	// Signals are some of traces, metrics, logs; empty: all.
	Signals []string `yaml:"signals"`
	// Headers are sent with each request; the values are secrets' places, file:PATH
	// or credential:NAME.
	Headers map[string]string `yaml:"headers"`
	// CABundle is a PEM file of authorities for the collector's TLS.
	CABundle string `yaml:"ca_bundle"`
	// Certificate and Key are this client's, PEM files.
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	// Sample is the share of traces that are kept of those that begin here, from 0
	// to 1. A caller's trace is kept when the caller keeps it.
	Sample float64 `yaml:"sample"`
	// Interval is how often metrics are sent.
	Interval time.Duration `yaml:"interval"`
	// Baggage are patterns over the hosts that W3C baggage is handed on to.
	Baggage []string `yaml:"baggage"`
	// Links lead from pages and answers to where else is something about a digest,
	// a trace or a build.
	Links []Link `yaml:"links"`
}

func (t *Telemetry) validate() error {
	for _, s := range t.Signals {
		if !slices.Contains(otlp.Signals(), s) {
			return fault.Newf(fault.Invalid, "telemetry.signals: %.40q is none; want traces, metrics, logs", s)
		}
	}
	if t.Sample < 0 || t.Sample > 1 {
		return fault.Newf(fault.Invalid, "telemetry.sample %g: want a share from 0 to 1", t.Sample)
	}
	if t.Interval < time.Second {
		return fault.Newf(fault.Invalid, "telemetry.interval %s: want 1s or more", t.Interval)
	}
	for name := range t.Headers {
		if http.CanonicalHeaderKey(name) == "" {
			return fault.Newf(fault.Invalid, "telemetry.headers: a name is empty")
		}
	}
	if _, err := telemetry.NewPropagation(t.Baggage); err != nil {
		return fmt.Errorf("telemetry.baggage: %w", err)
	}
	return validateLinks(t.Links)
}

// Settings resolves the section; secrets are read.
func (t *Telemetry) Settings() (otlp.Settings, error) {
	s := otlp.Settings{
		Endpoint: t.Endpoint, Protocol: t.Protocol, Signals: t.Signals, Headers: map[string]string{},
		CABundle: t.CABundle, ClientCert: t.Certificate, ClientKey: t.Key, Sample: t.Sample, Interval: t.Interval,
	}
	for name, place := range t.Headers {
		v, err := Secret(place)
		if err != nil {
			return s, fmt.Errorf("telemetry.headers.%s: %w", name, err)
		}
		s.Headers[name] = string(v)
	}
	return s, nil
}
