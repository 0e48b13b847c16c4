package siem

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/event"
	"assay/internal/fault"
	"assay/store"
)

// Options of a [Streams]. DB and Events are required.
type Options struct {
	DB         *store.DB
	Events     *event.Log
	Sinks      []Spec
	Secret     func(place string) ([]byte, error)
	Product    Product
	Hostname   string // of this machine, for syslog
	Holder     string // of this process, for the leases
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Streams sends to all sinks.
type Streams struct {
	o       Options
	streams []*stream
	sent    *prometheus.CounterVec
	backlog *prometheus.GaugeVec
}

type stream struct {
	s      *Streams
	spec   Spec
	filter filter
	sink   sink

	mu     sync.Mutex // of what follows
	health health
}

// New makes the streams; nothing is sent before Run.
func New(o Options) (*Streams, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if len(o.Sinks) > MaxSinks {
		return nil, fault.Newf(fault.Invalid, "%d sinks: want at most %d", len(o.Sinks), MaxSinks)
	}
	s := &Streams{o: o}
	s.sent = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_siem_records_total", Help: "Records of events for SIEM sinks, by sink and outcome.",
	}, []string{"sink", "outcome"})
	s.backlog = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "assay_siem_backlog_events", Help: "Sealed events that a SIEM sink has not passed yet.",
	}, []string{"sink"})
	if o.Registerer != nil {
		if err := errors.Join(o.Registerer.Register(s.sent), o.Registerer.Register(s.backlog)); err != nil {
			return nil, err
		}
	}
	for _, spec := range o.Sinks {
		f, err := newFilter(&spec)
		if err != nil {
			return nil, err
		}
		to, err := newSink(&spec, o.Secret, o.Hostname)
		if err != nil {
			return nil, err
		}
		for _, outcome := range []string{"sent", "failed"} {
			s.sent.WithLabelValues(spec.Name, outcome)
		}
		s.streams = append(s.streams, &stream{s: s, spec: spec, filter: f, sink: to})
	}
	return s, nil
}

// prefix is that of the cursors' names.
const prefix = "siem/"

const measureEvery = 15 * time.Second

// Run sends until ctx ends. The cursor of a sink that is no more is dropped, so
// that it does not keep events from being dropped.
func (s *Streams) Run(ctx context.Context) error {
	if err := s.forget(ctx); err != nil {
		s.o.Logger.WarnContext(ctx, "cursors of former SIEM sinks could not be dropped", "error", err)
	}
	var wg sync.WaitGroup
	for _, st := range s.streams {
		wg.Go(func() {
			_ = s.o.Events.Follow(ctx, prefix+st.spec.Name, st.send, event.FollowOptions{Holder: s.o.Holder, New: st.spec.New})
			_ = st.sink.close()
		})
	}
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		for _, st := range s.streams {
			if n, err := s.o.Events.Backlogged(ctx, prefix+st.spec.Name); err == nil {
				s.backlog.WithLabelValues(st.spec.Name).Set(float64(n))
				if err := st.tell(ctx, n); err != nil && ctx.Err() == nil {
					s.o.Logger.WarnContext(ctx, "it could not be told how a SIEM sink does", "sink", st.spec.Name, "error", err)
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	wg.Wait()
	return nil
}

func (s *Streams) forget(ctx context.Context) error {
	cursors, err := s.o.Events.Cursors(ctx)
	if err != nil {
		return err
	}
	for _, st := range s.streams {
		delete(cursors, prefix+st.spec.Name)
	}
	for name := range cursors {
		if strings.HasPrefix(name, prefix) {
			if err := s.o.Events.Forget(ctx, name); err != nil {
				return err
			}
			s.o.Logger.InfoContext(ctx, "a SIEM sink is configured no more; its cursor is dropped", "sink", strings.TrimPrefix(name, prefix))
		}
	}
	return nil
}

// send gives a batch to the sink: what it wants of it.
func (st *stream) send(ctx context.Context, batch []event.Event) error {
	lines := make([]line, 0, len(batch))
	for i := range batch {
		e := &batch[i]
		if !st.filter.kinds[e.Kind] {
			continue
		}
		r := NewRecord(e, st.s.o.Product)
		if !st.filter.wants(e, &r) {
			continue
		}
		b, err := r.JSON()
		if err != nil {
			return err
		}
		lines = append(lines, line{json: b, time: e.Time, kind: string(e.Kind), severity: r.Severity})
	}
	if len(lines) == 0 {
		return nil
	}
	err := st.sink.write(ctx, lines)
	if err == nil || ctx.Err() == nil {
		st.tried(st.s.o.DB.Now(), err)
	}
	outcome := "sent"
	if err != nil {
		outcome = "failed"
	}
	st.s.sent.WithLabelValues(st.spec.Name, outcome).Add(float64(len(lines)))
	return err
}
