package telemetry

import (
	"context"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"assay/internal/glob"
)

// The headers of W3C Trace Context and W3C Baggage.
const (
	headerTraceparent = "Traceparent"
	headerTracestate  = "Tracestate"
	headerBaggage     = "Baggage"
)

// maxBaggage is the longest baggage that is carried on, in bytes, and
// maxMembers how many members of it (W3C Baggage, section 3.3.2, asks for at
// least so much).
const (
	maxBaggage = 8192
	maxMembers = 64
)

// Extract reads the trace and the baggage that a request carries into the
// context. What is not valid is left out, as the standards have it. A request
// with neither, as most are, costs two look-ups.
func Extract(ctx context.Context, h http.Header) context.Context {
	if _, ok := h[headerTraceparent]; ok {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(h))
	}
	if values, ok := h[headerBaggage]; ok {
		if b, ok := parseBaggage(values); ok {
			ctx = baggage.ContextWithBaggage(ctx, b)
		}
	}
	return ctx
}

func parseBaggage(values []string) (baggage.Baggage, bool) {
	n := 0
	for _, v := range values {
		n += len(v) + 1
	}
	if n > maxBaggage {
		return baggage.Baggage{}, false
	}
	b, err := baggage.Parse(strings.Join(values, ","))
	if err != nil || b.Len() == 0 || b.Len() > maxMembers {
		return baggage.Baggage{}, false
	}
	return b, true
}

// FromEnvironment reads TRACEPARENT, TRACESTATE and BAGGAGE, by which a
// pipeline hands its trace to the programs that it starts.
func FromEnvironment(ctx context.Context, getenv func(string) string) context.Context {
	h := http.Header{}
	for _, name := range [...]string{headerTraceparent, headerTracestate, headerBaggage} {
		if v := getenv(strings.ToUpper(name)); v != "" {
			h.Set(name, v)
		}
	}
	return Extract(ctx, h)
}

// Inject writes the trace of ctx into a request's headers, and the baggage too
// where withBaggage says that the receiver may have it.
func Inject(ctx context.Context, h http.Header, withBaggage bool) {
	if trace.SpanContextFromContext(ctx).IsValid() {
		propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(h))
	}
	if withBaggage {
		if b := baggage.FromContext(ctx); b.Len() > 0 {
			h.Set(headerBaggage, b.String())
		}
	}
}

// Propagation says which hosts are told what: a trace ID tells a stranger
// nothing, baggage carries what users put there.
type Propagation struct {
	baggage []glob.Glob
}

// NewPropagation takes patterns of the hosts that baggage goes to.
func NewPropagation(hosts []string) (*Propagation, error) {
	p := &Propagation{}
	for _, h := range hosts {
		g, err := glob.Parse(h)
		if err != nil {
			return nil, err
		}
		p.baggage = append(p.baggage, g)
	}
	return p, nil
}

type propagationKey struct{}

// WithPropagation has requests that are made in ctx follow p.
func WithPropagation(ctx context.Context, p *Propagation) context.Context {
	if p == nil {
		return ctx
	}
	return context.WithValue(ctx, propagationKey{}, p)
}

func (p *Propagation) toHost(host string) bool {
	if p == nil {
		return false
	}
	for _, g := range p.baggage {
		if g.Match(host) {
			return true
		}
	}
	return false
}

// Transport hands the trace of a request's context on, in a span of its own
// where traces are kept.
func Transport(base http.RoundTripper) http.RoundTripper { return &transport{base: base} }

// TransportAll is [Transport] for a client whose receiver is the site itself: it
// has the baggage too.
func TransportAll(base http.RoundTripper) http.RoundTripper { return &transport{base, true} }

type transport struct {
	base http.RoundTripper
	all  bool
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	p, _ := ctx.Value(propagationKey{}).(*Propagation)
	withBaggage := t.all || p.toHost(r.URL.Hostname())
	ctx, span := start(ctx, r.Method, trace.SpanKindClient)
	if !trace.SpanContextFromContext(ctx).IsValid() && (!withBaggage || baggage.FromContext(ctx).Len() == 0) {
		return t.base.RoundTrip(r)
	}
	span.Text(HTTPMethod, r.Method)
	span.Text(ServerAddress, r.URL.Hostname())
	r = r.Clone(ctx) // a RoundTripper must not change its request
	Inject(ctx, r.Header, withBaggage)
	resp, err := t.base.RoundTrip(r)
	if err == nil {
		span.Int(HTTPStatus, int64(resp.StatusCode))
	}
	span.End(err)
	return resp, err
}

// CloseIdleConnections passes the wish on.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
