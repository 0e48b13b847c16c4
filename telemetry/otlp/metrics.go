package otlp

import (
	"encoding/hex"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/sdk/resource"
	collectmetrics "go.opentelemetry.io/proto/slim/otlp/collector/metrics/v1"
	pbcommon "go.opentelemetry.io/proto/slim/otlp/common/v1"
	pbmetrics "go.opentelemetry.io/proto/slim/otlp/metrics/v1"
)

// gather reads the metrics of /metrics as OTLP has them (specification,
// "Prometheus and OpenMetrics Compatibility").
func gather(g prometheus.Gatherer, r *resource.Resource, started, now time.Time) (*collectmetrics.ExportMetricsServiceRequest, int, error) {
	families, err := g.Gather()
	if err != nil && len(families) == 0 {
		return nil, 0, err
	}
	e := &metricEncoder{started: nanos(started), now: nanos(now)}
	sm := &pbmetrics.ScopeMetrics{Scope: &pbcommon.InstrumentationScope{Name: "assay"}}
	for _, f := range families {
		if m := e.family(f); m != nil {
			sm.Metrics = append(sm.Metrics, m)
		}
	}
	return &collectmetrics.ExportMetricsServiceRequest{ResourceMetrics: []*pbmetrics.ResourceMetrics{{
		Resource: encodeResource(r), ScopeMetrics: []*pbmetrics.ScopeMetrics{sm},
	}}}, e.points, nil
}

type metricEncoder struct {
	started, now uint64
	points       int
}

const cumulative = pbmetrics.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE

func (e *metricEncoder) family(f *dto.MetricFamily) *pbmetrics.Metric {
	m := &pbmetrics.Metric{Name: f.GetName(), Description: f.GetHelp(), Unit: f.GetUnit()}
	switch f.GetType() {
	case dto.MetricType_COUNTER:
		sum := &pbmetrics.Sum{AggregationTemporality: cumulative, IsMonotonic: true}
		for _, x := range f.GetMetric() {
			sum.DataPoints = append(sum.DataPoints, e.number(x, x.GetCounter().GetValue(), true))
		}
		m.Data = &pbmetrics.Metric_Sum{Sum: sum}
	case dto.MetricType_GAUGE, dto.MetricType_UNTYPED:
		gauge := &pbmetrics.Gauge{}
		for _, x := range f.GetMetric() {
			v := x.GetGauge().GetValue()
			if f.GetType() == dto.MetricType_UNTYPED {
				v = x.GetUntyped().GetValue()
			}
			gauge.DataPoints = append(gauge.DataPoints, e.number(x, v, false))
		}
		m.Data = &pbmetrics.Metric_Gauge{Gauge: gauge}
	case dto.MetricType_HISTOGRAM:
		h := &pbmetrics.Histogram{AggregationTemporality: cumulative}
		for _, x := range f.GetMetric() {
			h.DataPoints = append(h.DataPoints, e.histogram(x))
		}
		m.Data = &pbmetrics.Metric_Histogram{Histogram: h}
	case dto.MetricType_SUMMARY:
		s := &pbmetrics.Summary{}
		for _, x := range f.GetMetric() {
			s.DataPoints = append(s.DataPoints, e.summary(x))
		}
		m.Data = &pbmetrics.Metric_Summary{Summary: s}
	default:
		return nil
	}
	e.points += len(f.GetMetric())
	return m
}

func labels(x *dto.Metric) []*pbcommon.KeyValue {
	out := make([]*pbcommon.KeyValue, 0, len(x.GetLabel()))
	for _, l := range x.GetLabel() {
		out = append(out, &pbcommon.KeyValue{Key: l.GetName(), Value: text(l.GetValue())})
	}
	return out
}

func (e *metricEncoder) number(x *dto.Metric, v float64, counts bool) *pbmetrics.NumberDataPoint {
	p := &pbmetrics.NumberDataPoint{TimeUnixNano: e.now, Attributes: labels(x), Value: &pbmetrics.NumberDataPoint_AsDouble{AsDouble: v}}
	if counts {
		p.StartTimeUnixNano = e.started
	}
	return p
}

// histogram turns cumulative buckets into counts of each.
func (e *metricEncoder) histogram(x *dto.Metric) *pbmetrics.HistogramDataPoint {
	h := x.GetHistogram()
	sum := h.GetSampleSum()
	p := &pbmetrics.HistogramDataPoint{TimeUnixNano: e.now, StartTimeUnixNano: e.started, Attributes: labels(x), Count: h.GetSampleCount(), Sum: &sum}
	before := uint64(0)
	for _, b := range h.GetBucket() {
		if ex := exemplar(b.GetExemplar()); ex != nil {
			p.Exemplars = append(p.Exemplars, ex)
		}
		if math.IsInf(b.GetUpperBound(), 1) {
			continue
		}
		p.ExplicitBounds = append(p.ExplicitBounds, b.GetUpperBound())
		p.BucketCounts = append(p.BucketCounts, b.GetCumulativeCount()-before)
		before = b.GetCumulativeCount()
	}
	p.BucketCounts = append(p.BucketCounts, h.GetSampleCount()-before)
	return p
}

func exemplar(x *dto.Exemplar) *pbmetrics.Exemplar {
	if x == nil {
		return nil
	}
	out := &pbmetrics.Exemplar{Value: &pbmetrics.Exemplar_AsDouble{AsDouble: x.GetValue()}, TimeUnixNano: nanos(x.GetTimestamp().AsTime())}
	for _, l := range x.GetLabel() {
		if l.GetName() == "trace_id" {
			if id, err := hex.DecodeString(l.GetValue()); err == nil && len(id) == 16 {
				out.TraceId = id
			}
		}
	}
	return out
}

func (e *metricEncoder) summary(x *dto.Metric) *pbmetrics.SummaryDataPoint {
	s := x.GetSummary()
	p := &pbmetrics.SummaryDataPoint{TimeUnixNano: e.now, StartTimeUnixNano: e.started, Attributes: labels(x), Count: s.GetSampleCount(), Sum: s.GetSampleSum()}
	for _, q := range s.GetQuantile() {
		p.QuantileValues = append(p.QuantileValues, &pbmetrics.SummaryDataPoint_ValueAtQuantile{Quantile: q.GetQuantile(), Value: q.GetValue()})
	}
	return p
}
