// Package artifactid puts into a service's own traces, logs and requests which
// artifact it is: the digest of its image, and Assay's decision that let it run.
//
// The admission webhook of Assay says so in OTEL_RESOURCE_ATTRIBUTES, which
// OpenTelemetry's SDKs read by themselves into the resource of all that they
// send. This package is for what they do not reach: single spans, baggage for
// the services that are asked next, log lines, and an answer's header.
//
// It depends on OpenTelemetry's API alone, on no SDK and nothing else of Assay.
package artifactid

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/trace"
)

// Names of OpenTelemetry's semantic conventions, as Assay's admission writes them.
const (
	ManifestDigest = "oci.manifest.digest"
	AttestationID  = "artifact.attestation.id"
	Revision       = "vcs.ref.head.revision"
)

// Header tells the digest in answers, where a service wants that.
const Header = "X-Artifact-Digest"

// ID is which artifact a process runs as. Empty members are not known.
type ID struct {
	Digest   string // of the image's manifest, sha256:…
	Decision string // that let it run, dec_…
	Revision string // of the source
}

// FromEnv reads OTEL_RESOURCE_ATTRIBUTES.
func FromEnv() ID { return Parse(os.Getenv("OTEL_RESOURCE_ATTRIBUTES")) }

// Parse reads resource attributes as OpenTelemetry writes them: name=value with
// commas between, values percent-encoded. What does not parse is left out. Of a
// name that comes twice the last one counts, as in the SDKs.
func Parse(text string) ID {
	var id ID
	for pair := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || err != nil || len(value) > 256 {
			continue
		}
		switch strings.TrimSpace(name) {
		case ManifestDigest:
			id.Digest = value
		case AttestationID:
			id.Decision = value
		case Revision:
			id.Revision = value
		}
	}
	return id
}

// Known says whether anything is known.
func (id ID) Known() bool { return id != ID{} }

// Attributes are what is known, for a span or a resource.
func (id ID) Attributes() []attribute.KeyValue {
	var out []attribute.KeyValue
	for _, a := range id.pairs() {
		out = append(out, attribute.String(a[0], a[1]))
	}
	return out
}

// LogAttrs are what is known, for a logger: slog.New(h).With(id.LogAttrs()...).
func (id ID) LogAttrs() []any {
	var out []any
	for _, a := range id.pairs() {
		out = append(out, slog.String(a[0], a[1]))
	}
	return out
}

func (id ID) pairs() (out [][2]string) {
	for _, a := range [...][2]string{{ManifestDigest, id.Digest}, {AttestationID, id.Decision}, {Revision, id.Revision}} {
		if a[1] != "" {
			out = append(out, a)
		}
	}
	return out
}

// Mark tells the span that ctx is in which artifact works on it.
func (id ID) Mark(ctx context.Context) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(id.Attributes()...)
	}
}

// callerDigest is the baggage member that tells who asks.
const callerDigest = "caller." + ManifestDigest

// Baggage gives a context whose requests tell the next service which artifact
// asks, where OpenTelemetry's baggage propagator is at work.
func (id ID) Baggage(ctx context.Context) context.Context {
	if id.Digest == "" {
		return ctx
	}
	m, err := baggage.NewMemberRaw(callerDigest, id.Digest)
	if err != nil {
		return ctx
	}
	b, err := baggage.FromContext(ctx).SetMember(m)
	if err != nil { // it has too many members already
		return ctx
	}
	return baggage.ContextWithBaggage(ctx, b)
}

// Caller is the digest of the artifact that asks, as its own baggage says: good
// for finding one's way in traces, and no proof of anything.
func Caller(ctx context.Context) string {
	return baggage.FromContext(ctx).Member(callerDigest).Value()
}

// Handler marks the span of each request, and hands the artifact on in baggage.
// It stands inside of what begins the span:
//
//	http.Handle("/", otelhttp.NewHandler(id.Handler(mux), "shop"))
func (id ID) Handler(next http.Handler) http.Handler {
	if !id.Known() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		id.Mark(ctx)
		if caller := Caller(ctx); caller != "" {
			if span := trace.SpanFromContext(ctx); span.IsRecording() {
				span.SetAttributes(attribute.String(callerDigest, caller))
			}
		}
		next.ServeHTTP(w, r.WithContext(id.Baggage(ctx)))
	})
}

// WithHeader tells the digest in each answer, so that who asks can look it up:
// for services whose callers may know what they run.
func (id ID) WithHeader(next http.Handler) http.Handler {
	if id.Digest == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(Header, id.Digest)
		next.ServeHTTP(w, r)
	})
}
