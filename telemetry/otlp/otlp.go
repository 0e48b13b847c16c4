package otlp

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"assay/internal/fault"
	"assay/telemetry"
)

// Options are what an [Exporter] is given besides its settings.
type Options struct {
	Service    string // OTEL_SERVICE_NAME goes over it
	Version    string
	Instance   string // of this process
	Getenv     func(string) string
	Gatherer   prometheus.Gatherer
	Registerer prometheus.Registerer
	Logger     *slog.Logger // not one that [Exporter.Handler] made
	Now        func() time.Time
}

// Exporter sends. Make it with New; Close sends what waits.
type Exporter struct {
	o        Options
	interval time.Duration
	started  time.Time
	resource *resource.Resource
	traces   *sdktrace.TracerProvider
	logs     *sdklog.LoggerProvider
	metrics  *sender
	exports  *prometheus.CounterVec
	items    *prometheus.CounterVec
	told     sync.Mutex
	last     map[string]time.Time // of the last word about a failure, by signal
	stop     chan struct{}
	done     sync.WaitGroup
	targets  []target
}

// New makes an exporter, or gives nil where nothing is to be sent.
func New(ctx context.Context, s Settings, o Options) (*Exporter, error) {
	env := environment(o.Getenv)
	targets, err := s.targets(env)
	exports, items := register(o.Registerer)
	if err != nil || len(targets) == 0 {
		return nil, err
	}
	if s.Sample < 0 || s.Sample > 1 {
		return nil, fault.Newf(fault.Invalid, "telemetry sample %g: want a share from 0 to 1", s.Sample)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	e := &Exporter{o: o, started: o.Now(), exports: exports, items: items, targets: targets, last: map[string]time.Time{}, stop: make(chan struct{})}
	if e.interval, err = s.interval(env); err != nil {
		return nil, err
	}
	// Who runs this may add attributes and give another name
	// (OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME).
	e.resource, err = resource.New(ctx, resource.WithSchemaURL(telemetry.SchemaURL), resource.WithAttributes(
		telemetry.ServiceName.String(o.Service), telemetry.ServiceVersion.String(o.Version), telemetry.ServiceInstance.String(o.Instance),
	), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) && !errors.Is(err, resource.ErrSchemaURLConflict) {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	for _, t := range targets {
		snd, err := newSender(t)
		if err != nil {
			return nil, err
		}
		switch t.signal {
		case Traces:
			e.traces = e.tracerProvider(snd, s.Sample, env)
		case Logs:
			e.logs = sdklog.NewLoggerProvider(sdklog.WithResource(e.resource), sdklog.WithProcessor(sdklog.NewBatchProcessor(&logExporter{e, snd})))
		case Metrics:
			if e.metrics = snd; o.Gatherer != nil {
				e.done.Go(e.sendMetrics)
			}
		}
	}
	return e, nil
}

// register has the metrics there also where nothing is sent.
func register(reg prometheus.Registerer) (exports, items *prometheus.CounterVec) {
	exports = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_telemetry_exports_total", Help: "Requests to the collector, by signal and outcome.",
	}, []string{"signal", "outcome"})
	items = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_telemetry_items_total", Help: "Spans, log records and data points sent to the collector, by signal and outcome.",
	}, []string{"signal", "outcome"})
	for _, signal := range Signals() {
		exports.WithLabelValues(signal, "taken")
		items.WithLabelValues(signal, "lost")
	}
	if reg != nil {
		reg.MustRegister(exports, items)
	}
	return exports, items
}

// tracerProvider leaves queue and sampler to OTEL_BSP_* and OTEL_TRACES_SAMPLER
// where these are set.
func (e *Exporter) tracerProvider(s *sender, sample float64, env environment) *sdktrace.TracerProvider {
	opts := []sdktrace.TracerProviderOption{
		sdktrace.WithResource(e.resource), sdktrace.WithBatcher(&spanExporter{e, s}),
	}
	if env("OTEL_TRACES_SAMPLER") == "" {
		opts = append(opts, sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(sample))))
	}
	return sdktrace.NewTracerProvider(opts...)
}

// Tracing is the provider of spans; nil where no traces are sent.
func (e *Exporter) Tracing() trace.TracerProvider {
	if e == nil || e.traces == nil {
		return nil
	}
	return e.traces
}

// Endpoints says what is sent where, for the log.
func (e *Exporter) Endpoints() map[string]string {
	out := map[string]string{}
	for _, t := range e.targets {
		out[t.signal] = t.endpoint
	}
	return out
}

// Flush sends what waits.
func (e *Exporter) Flush(ctx context.Context) error {
	var errs []error
	if e.traces != nil {
		errs = append(errs, e.traces.ForceFlush(ctx))
	}
	if e.logs != nil {
		errs = append(errs, e.logs.ForceFlush(ctx))
	}
	if e.metrics != nil && e.o.Gatherer != nil {
		e.metricsOnce(ctx)
	}
	return errors.Join(errs...)
}

// Close sends what waits, until ctx ends, and ends the workers.
func (e *Exporter) Close(ctx context.Context) error {
	if e == nil {
		return nil
	}
	close(e.stop)
	e.done.Wait()
	var errs []error
	if e.traces != nil {
		errs = append(errs, e.traces.Shutdown(ctx))
	}
	if e.metrics != nil && e.o.Gatherer != nil {
		e.metricsOnce(ctx)
		e.metrics.close()
	}
	if e.logs != nil {
		errs = append(errs, e.logs.Shutdown(ctx))
	}
	return errors.Join(errs...)
}

func (e *Exporter) sendMetrics() {
	tick := time.NewTicker(e.interval)
	defer tick.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-e.stop:
		case <-ctx.Done():
		}
		cancel()
	}()
	for {
		select {
		case <-e.stop:
			return
		case <-tick.C:
			e.metricsOnce(ctx)
		}
	}
}

func (e *Exporter) metricsOnce(ctx context.Context) {
	m, points, err := gather(e.o.Gatherer, e.resource, e.started, e.o.Now())
	if err != nil {
		e.note(Metrics, 0, err)
		return
	}
	e.send(ctx, e.metrics, m, points)
}

// sayEvery is how often a collector that does not answer is told of.
const sayEvery = 5 * time.Minute

func (e *Exporter) send(ctx context.Context, s *sender, m proto.Message, n int) {
	e.note(s.t.signal, n, s.send(ctx, m))
}

func (e *Exporter) note(signal string, n int, err error) {
	outcome := "taken"
	if err != nil {
		outcome = "lost"
	}
	e.exports.WithLabelValues(signal, outcome).Inc()
	e.items.WithLabelValues(signal, outcome).Add(float64(n))
	if err == nil {
		return
	}
	e.told.Lock()
	now := e.o.Now()
	say := now.Sub(e.last[signal]) >= sayEvery
	if say {
		e.last[signal] = now
	}
	e.told.Unlock()
	if say {
		e.o.Logger.Warn("telemetry was not taken, and is lost", "signal", signal, "items", n, "error", err)
	}
}

type spanExporter struct {
	e *Exporter
	s *sender
}

// ExportSpans sends; a failure is counted and told here, since the SDK would
// only write it to the standard error.
func (x *spanExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	x.e.send(ctx, x.s, encodeSpans(spans), len(spans))
	return nil
}

func (x *spanExporter) Shutdown(context.Context) error {
	x.s.close()
	return nil
}

type logExporter struct {
	e *Exporter
	s *sender
}

func (x *logExporter) Export(ctx context.Context, records []sdklog.Record) error {
	x.e.send(ctx, x.s, encodeLogs(records), len(records))
	return nil
}

func (x *logExporter) ForceFlush(context.Context) error { return nil }

func (x *logExporter) Shutdown(context.Context) error {
	x.s.close()
	return nil
}

// Handler writes records to next and sends them too; where no logs are sent it
// is next.
func (e *Exporter) Handler(next slog.Handler) slog.Handler {
	if e == nil || e.logs == nil {
		return next
	}
	return &handler{next: next, to: e.logs.Logger("assay")}
}

type handler struct {
	next   slog.Handler
	to     log.Logger
	attrs  []attribute.KeyValue
	prefix string
}

func (h *handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	var rec log.Record
	rec.SetTimestamp(r.Time)
	rec.SetBody(attribute.StringValue(r.Message))
	rec.SetSeverityText(r.Level.String())
	// slog's levels are four apart, as are OTLP's ranges, and both count up by
	// one within: debug is 5, info 9, warn 13, error 17.
	rec.SetSeverity(log.Severity(min(max(int(r.Level)+9, 1), 24)))
	rec.AddAttributes(h.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		rec.AddAttributes(flatten(nil, h.prefix, a)...)
		return true
	})
	h.to.Emit(ctx, rec)
	return h.next.Handle(ctx, r)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.next = h.next.WithAttrs(attrs)
	c.attrs = append([]attribute.KeyValue{}, h.attrs...)
	for _, a := range attrs {
		c.attrs = flatten(c.attrs, h.prefix, a)
	}
	return &c
}

func (h *handler) WithGroup(name string) slog.Handler {
	c := *h
	c.next = h.next.WithGroup(name)
	if name != "" {
		c.prefix = h.prefix + name + "."
	}
	return &c
}

// flatten gives an attribute, or those of a group, with their names joined.
func flatten(into []attribute.KeyValue, prefix string, a slog.Attr) []attribute.KeyValue {
	v := a.Value.Resolve()
	key := prefix + a.Key
	switch v.Kind() {
	case slog.KindGroup:
		if a.Key != "" {
			prefix = key + "."
		}
		for _, x := range v.Group() {
			into = flatten(into, prefix, x)
		}
		return into
	case slog.KindInt64:
		return append(into, attribute.Int64(key, v.Int64()))
	case slog.KindFloat64:
		return append(into, attribute.Float64(key, v.Float64()))
	case slog.KindBool:
		return append(into, attribute.Bool(key, v.Bool()))
	}
	return append(into, attribute.String(key, v.String()))
}
