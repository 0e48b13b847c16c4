package server

import (
	"context"
	"crypto/rand"
	"log/slog"
	"os"
	"time"

	"assay/event"
	"assay/telemetry"
	"assay/telemetry/otlp"

	"go.opentelemetry.io/otel/trace"
)

// telling is what this process sends of its own work; nothing by default.
type telling struct {
	exporter  *otlp.Exporter         // nil: nothing is sent
	tracing   trace.TracerProvider   // nil: no traces
	propagate *telemetry.Propagation // whom baggage is handed on to
}

// closeTelemetry bounds how long the end waits for a collector.
const closeTelemetry = 5 * time.Second

// openTelemetry comes before all else, so that the start is told too.
func (s *Server) openTelemetry(ctx context.Context) error {
	plain := s.log
	s.log = slog.New(telemetry.LogHandler(plain.Handler(), event.TraceFrom))
	settings, err := s.cfg.Telemetry.Settings()
	if err != nil {
		return err
	}
	e, err := otlp.New(ctx, settings, otlp.Options{
		Service: "assay", Version: s.opts.Version, Instance: rand.Text(), Getenv: os.Getenv, Gatherer: s.reg, Registerer: s.reg, Logger: plain,
	})
	if err != nil {
		return err
	}
	if s.telling.propagate, err = telemetry.NewPropagation(s.cfg.Telemetry.Baggage); err != nil || e == nil {
		return err
	}
	s.telling.exporter, s.telling.tracing = e, e.Tracing()
	s.log = slog.New(e.Handler(telemetry.LogHandler(plain.Handler(), event.TraceFrom)))
	s.log.Info("telemetry is sent", "endpoints", e.Endpoints())
	s.onClose("telemetry", func() error {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTelemetry)
		defer cancel()
		if err := e.Close(end); err != nil {
			plain.Warn("the last telemetry was not sent", "error", err)
		}
		return nil
	})
	return nil
}

// traced gives background work what requests have: spans that are kept.
func (s *Server) traced(ctx context.Context) context.Context {
	if s.telling.exporter == nil {
		return ctx
	}
	return telemetry.WithPropagation(telemetry.With(ctx, s.telling.tracing), s.telling.propagate)
}
