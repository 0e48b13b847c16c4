package otlp

import (
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	collectlogs "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	collecttrace "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	pbcommon "go.opentelemetry.io/proto/slim/otlp/common/v1"
	pblogs "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	pbresource "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	pbtrace "go.opentelemetry.io/proto/slim/otlp/trace/v1"
)

func encodeResource(r *resource.Resource) *pbresource.Resource {
	return &pbresource.Resource{Attributes: encodeAttributes(r.Attributes())}
}

func encodeScope(s instrumentation.Scope) *pbcommon.InstrumentationScope {
	return &pbcommon.InstrumentationScope{Name: s.Name, Version: s.Version}
}

func encodeAttributes(list []attribute.KeyValue) []*pbcommon.KeyValue {
	out := make([]*pbcommon.KeyValue, 0, len(list))
	for _, kv := range list {
		out = append(out, &pbcommon.KeyValue{Key: string(kv.Key), Value: encodeValue(kv.Value)})
	}
	return out
}

func text(s string) *pbcommon.AnyValue {
	return &pbcommon.AnyValue{Value: &pbcommon.AnyValue_StringValue{StringValue: s}}
}

// encodeValue gives the scalars their types; lists and maps, which Assay does
// not write, are told as text.
func encodeValue(v attribute.Value) *pbcommon.AnyValue {
	switch v.Type() {
	case attribute.STRING:
		return text(v.AsString())
	case attribute.BOOL:
		return &pbcommon.AnyValue{Value: &pbcommon.AnyValue_BoolValue{BoolValue: v.AsBool()}}
	case attribute.INT64:
		return &pbcommon.AnyValue{Value: &pbcommon.AnyValue_IntValue{IntValue: v.AsInt64()}}
	case attribute.FLOAT64:
		return &pbcommon.AnyValue{Value: &pbcommon.AnyValue_DoubleValue{DoubleValue: v.AsFloat64()}}
	}
	return text(v.String())
}

func nanos(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(max(t.UnixNano(), 0))
}

func encodeSpans(spans []sdktrace.ReadOnlySpan) *collecttrace.ExportTraceServiceRequest {
	if len(spans) == 0 {
		return &collecttrace.ExportTraceServiceRequest{}
	}
	byScope := map[instrumentation.Scope]*pbtrace.ScopeSpans{}
	rs := &pbtrace.ResourceSpans{Resource: encodeResource(spans[0].Resource()), SchemaUrl: spans[0].Resource().SchemaURL()}
	for _, s := range spans {
		scope := s.InstrumentationScope()
		ss := byScope[scope]
		if ss == nil {
			ss = &pbtrace.ScopeSpans{Scope: encodeScope(scope), SchemaUrl: scope.SchemaURL}
			byScope[scope] = ss
			rs.ScopeSpans = append(rs.ScopeSpans, ss)
		}
		ss.Spans = append(ss.Spans, encodeSpan(s))
	}
	return &collecttrace.ExportTraceServiceRequest{ResourceSpans: []*pbtrace.ResourceSpans{rs}}
}

var kinds = map[trace.SpanKind]pbtrace.Span_SpanKind{
	trace.SpanKindInternal: pbtrace.Span_SPAN_KIND_INTERNAL, trace.SpanKindServer: pbtrace.Span_SPAN_KIND_SERVER,
	trace.SpanKindClient: pbtrace.Span_SPAN_KIND_CLIENT, trace.SpanKindProducer: pbtrace.Span_SPAN_KIND_PRODUCER,
	trace.SpanKindConsumer: pbtrace.Span_SPAN_KIND_CONSUMER,
}

func encodeSpan(s sdktrace.ReadOnlySpan) *pbtrace.Span {
	sc := s.SpanContext()
	tid, sid := sc.TraceID(), sc.SpanID()
	out := &pbtrace.Span{
		TraceId: tid[:], SpanId: sid[:], TraceState: sc.TraceState().String(), Name: s.Name(), Kind: kinds[s.SpanKind()],
		StartTimeUnixNano: nanos(s.StartTime()), EndTimeUnixNano: nanos(s.EndTime()), Flags: uint32(sc.TraceFlags()),
		Attributes: encodeAttributes(s.Attributes()), DroppedAttributesCount: uint32(max(s.DroppedAttributes(), 0)),
		Status: &pbtrace.Status{},
	}
	if p := s.Parent(); p.SpanID().IsValid() {
		id := p.SpanID()
		out.ParentSpanId = id[:]
		// Whether the parent is of another process (trace.proto, SpanFlags).
		out.Flags |= uint32(pbtrace.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
		if p.IsRemote() {
			out.Flags |= uint32(pbtrace.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
		}
	}
	switch st := s.Status(); st.Code {
	case codes.Error:
		out.Status.Code, out.Status.Message = pbtrace.Status_STATUS_CODE_ERROR, st.Description
	case codes.Ok:
		out.Status.Code = pbtrace.Status_STATUS_CODE_OK
	}
	return out
}

func encodeLogs(records []sdklog.Record) *collectlogs.ExportLogsServiceRequest {
	if len(records) == 0 {
		return &collectlogs.ExportLogsServiceRequest{}
	}
	sl := &pblogs.ScopeLogs{Scope: encodeScope(records[0].InstrumentationScope())}
	for i := range records {
		r := &records[i]
		tid, sid := r.TraceID(), r.SpanID()
		rec := &pblogs.LogRecord{
			TimeUnixNano: nanos(r.Timestamp()), ObservedTimeUnixNano: nanos(r.ObservedTimestamp()),
			SeverityNumber: pblogs.SeverityNumber(r.Severity()), SeverityText: r.SeverityText(), Body: encodeValue(r.Body()), Flags: uint32(r.TraceFlags()),
		}
		if tid.IsValid() {
			rec.TraceId = tid[:]
		}
		if sid.IsValid() {
			rec.SpanId = sid[:]
		}
		r.WalkAttributes(func(kv attribute.KeyValue) bool {
			rec.Attributes = append(rec.Attributes, &pbcommon.KeyValue{Key: string(kv.Key), Value: encodeValue(kv.Value)})
			return true
		})
		sl.LogRecords = append(sl.LogRecords, rec)
	}
	rl := &pblogs.ResourceLogs{Resource: encodeResource(records[0].Resource()), ScopeLogs: []*pblogs.ScopeLogs{sl}}
	return &collectlogs.ExportLogsServiceRequest{ResourceLogs: []*pblogs.ResourceLogs{rl}}
}
