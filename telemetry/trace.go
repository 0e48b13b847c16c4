// Package telemetry is what Assay tells of its own work: spans, log lines that
// name their trace, and examples of slow requests in the metrics. It sends
// nothing: package telemetry/otlp does, where a site configures it.
//
// There is no global state. A tracer travels in the context, and where the
// context has none, as on a site that sends no traces, [Start] costs one look
// into the context.
package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"assay/internal/fault"
)

type tracerKey struct{}

// With gives a context whose spans go to a provider; nil leaves ctx as it is.
func With(ctx context.Context, p trace.TracerProvider) context.Context {
	if p == nil {
		return ctx
	}
	return context.WithValue(ctx, tracerKey{}, p.Tracer(instrumentation, trace.WithSchemaURL(SchemaURL)))
}

// Span is a span, or nothing: every method of the zero value returns at once.
type Span struct{ s trace.Span }

// Start begins a span of an operation's name, which is one of few: names carry
// no data. [Span.End] ends it.
func Start(ctx context.Context, name string) (context.Context, Span) {
	return start(ctx, name, trace.SpanKindInternal)
}

// StartOf is [Start] with a name of two parts, which are joined only where the
// span is kept.
func StartOf(ctx context.Context, prefix, name string) (context.Context, Span) {
	if _, ok := ctx.Value(tracerKey{}).(trace.Tracer); !ok {
		return ctx, Span{}
	}
	return start(ctx, prefix+name, trace.SpanKindInternal)
}

// Serve is [Start] for a request that came in.
func Serve(ctx context.Context, name string) (context.Context, Span) {
	return start(ctx, name, trace.SpanKindServer)
}

func start(ctx context.Context, name string, kind trace.SpanKind) (context.Context, Span) {
	t, ok := ctx.Value(tracerKey{}).(trace.Tracer)
	if !ok {
		return ctx, Span{}
	}
	ctx, s := t.Start(ctx, name, trace.WithSpanKind(kind))
	return ctx, Span{s}
}

// Current is the span that ctx is in, to be told more of.
func Current(ctx context.Context) Span {
	if _, ok := ctx.Value(tracerKey{}).(trace.Tracer); !ok {
		return Span{}
	}
	return Span{trace.SpanFromContext(ctx)}
}

// On says whether what is told of the span is kept: work that is done only to
// tell it asks first.
func (s Span) On() bool { return s.s != nil && s.s.IsRecording() }

// maxText bounds texts that others wrote, in bytes.
const maxText = 512

// Text tells a text; an empty one is not told.
func (s Span) Text(k attribute.Key, v string) {
	if s.s != nil && v != "" {
		if len(v) > maxText {
			v = v[:maxText]
		}
		s.s.SetAttributes(k.String(v))
	}
}

// Int tells a number.
func (s Span) Int(k attribute.Key, v int64) {
	if s.s != nil {
		s.s.SetAttributes(k.Int64(v))
	}
}

// Fail says that the operation failed, by a kind of internal/fault: a refusal
// is an outcome and no failure.
func (s Span) Fail(err error) {
	if s.s == nil || err == nil {
		return
	}
	kind := fault.KindOf(err)
	s.s.SetAttributes(ErrorType.String(kind.Name()))
	if fault.HTTPStatus(err) >= 500 {
		s.s.SetStatus(codes.Error, kind.Name()) // the text may hold what does not belong to who reads traces
	}
}

// End ends the span, with the error of the operation if there is one.
func (s Span) End(err error) {
	if s.s != nil {
		s.Fail(err)
		s.s.End()
	}
}

// TraceID is the trace that ctx is in, if it is one of this program's spans that
// is kept; else "".
func TraceID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.IsSampled() && !sc.IsRemote() && sc.HasTraceID() {
		return sc.TraceID().String()
	}
	return ""
}

// IDs are the trace and the span of ctx; "" where there are none. A caller's
// span is not this program's.
func IDs(ctx context.Context) (traceID, spanID string) {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return "", ""
	}
	if sc.IsRemote() {
		return sc.TraceID().String(), ""
	}
	return sc.TraceID().String(), sc.SpanID().String()
}
