package telemetry

import (
	"context"
	"log/slog"
)

// LogHandler adds trace_id and span_id to the records of a context that is in
// a trace, unless who logs has said them. fallback gives the trace ID of a
// context that is in no span; nil: there is none.
func LogHandler(next slog.Handler, fallback func(context.Context) string) slog.Handler {
	return &logHandler{next: next, fallback: fallback}
}

type logHandler struct {
	next     slog.Handler
	fallback func(context.Context) string
	grouped  bool // what is added now would stand in a group
}

func (h *logHandler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	if h.grouped {
		return h.next.Handle(ctx, r)
	}
	traceID, spanID := IDs(ctx)
	if traceID == "" && h.fallback != nil {
		traceID = h.fallback(ctx)
	}
	if traceID == "" {
		return h.next.Handle(ctx, r)
	}
	said := false
	r.Attrs(func(a slog.Attr) bool {
		said = a.Key == "trace_id"
		return !said
	})
	r = r.Clone()
	if !said {
		r.AddAttrs(slog.String("trace_id", traceID))
	}
	if spanID != "" {
		r.AddAttrs(slog.String("span_id", spanID))
	}
	return h.next.Handle(ctx, r)
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{h.next.WithAttrs(attrs), h.fallback, h.grouped}
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{h.next.WithGroup(name), h.fallback, h.grouped || name != ""}
}
