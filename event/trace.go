package event

import "context"

type traceKey struct{}

// WithTrace gives a context in which [Append] marks events with the trace id:
// 32 lowercase hex digits, not all zero. Another text leaves ctx as it is.
func WithTrace(ctx context.Context, traceID string) context.Context {
	if !validTraceID(traceID) {
		return ctx
	}
	return context.WithValue(ctx, traceKey{}, traceID)
}

// TraceFrom is the trace id of ctx, or "".
func TraceFrom(ctx context.Context) string {
	id, _ := ctx.Value(traceKey{}).(string)
	return id
}

// ParseTraceparent reads the trace id of a W3C traceparent header
// (https://www.w3.org/TR/trace-context/, section 3.2). A header that is not
// valid gives false, and the standard has it ignored: it starts a new trace.
func ParseTraceparent(header string) (traceID string, ok bool) {
	const length = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if len(header) < length || header[2] != '-' || header[35] != '-' || header[52] != '-' {
		return "", false
	}
	version, trace, parent, flags := header[:2], header[3:35], header[36:52], header[53:length]
	// Version ff is invalid; later versions may only add after another dash.
	if !isHex(version) || version == "ff" ||
		version == "00" && len(header) != length ||
		len(header) > length && header[length] != '-' {
		return "", false
	}
	if !validTraceID(trace) || !isHex(parent) || allZero(parent) || !isHex(flags) {
		return "", false
	}
	return trace, true
}

func validTraceID(s string) bool { return len(s) == 32 && isHex(s) && !allZero(s) }

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func allZero(s string) bool {
	for i := range len(s) {
		if s[i] != '0' {
			return false
		}
	}
	return true
}
