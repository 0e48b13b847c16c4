package feed

import (
	"context"
	"time"

	"assay/event"
	"assay/store"

	"github.com/prometheus/client_golang/prometheus"
)

// TellStale writes an event for each feed that was not looked at with success
// for longer than maxAge; once, until it is fresh again.
func (s *Store) TellStale(ctx context.Context, maxAge time.Duration) error {
	return s.db.Update(ctx, func(tx *store.Tx) error {
		now := tx.Now()
		all, err := sources(ctx, tx, `WHERE operation <> 0 AND told = 0 AND checked < ? ORDER BY name, ecosystem LIMIT 500`, store.Micros(now.Add(-maxAge)))
		if err != nil {
			return err
		}
		for _, src := range all {
			if _, err := tx.Exec(ctx, `UPDATE feed_source SET told = 1 WHERE name = ? AND ecosystem = ?`, src.Name, src.Ecosystem); err != nil {
				return err
			}
			if err := event.Append(ctx, tx, event.Event{Kind: event.FeedStale, Actor: "system:vuln", Body: map[string]any{
				"feed": src.Name, "ecosystem": src.Ecosystem, "operation": src.Operation, "checked": src.Checked.Format(time.RFC3339),
				"seconds": int64(now.Sub(src.Checked).Seconds()), "reason": or(src.Problem, "nobody brought it, and no upstream gave it"),
			}}); err != nil {
				return err
			}
		}
		return nil
	})
}

// maxAges bounds how many feeds and ecosystems have a metric of their own.
const maxAges = 300

// Ages is the metric of how old each feed is; Extra adds those of other stores.
type Ages struct {
	Store *Store
	Extra func(ctx context.Context) (map[string]time.Time, error) // by feed: when it was last looked at
	age   *prometheus.Desc
}

// NewAges makes the collector.
func NewAges(s *Store, extra func(context.Context) (map[string]time.Time, error)) *Ages {
	return &Ages{s, extra, prometheus.NewDesc("assay_feed_age_seconds",
		"How long ago a feed in force was last looked at with success; of the first 300 feeds and ecosystems by name.", []string{"feed", "ecosystem"}, nil)}
}

// Describe implements [prometheus.Collector].
func (a *Ages) Describe(ch chan<- *prometheus.Desc) { ch <- a.age }

// Collect implements [prometheus.Collector].
func (a *Ages) Collect(ch chan<- prometheus.Metric) {
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Second)
	defer stop()
	all, err := a.Store.Sources(ctx)
	if err != nil {
		return // a site whose database does not answer has other alerts
	}
	now, n := a.Store.db.Now(), 0
	for _, s := range all {
		if s.Operation != 0 && n < maxAges {
			n++
			ch <- prometheus.MustNewConstMetric(a.age, prometheus.GaugeValue, now.Sub(s.Checked).Seconds(), s.Name, s.Ecosystem)
		}
	}
	if a.Extra == nil {
		return
	}
	more, err := a.Extra(ctx)
	for name, checked := range more {
		if err == nil {
			ch <- prometheus.MustNewConstMetric(a.age, prometheus.GaugeValue, now.Sub(checked).Seconds(), name, "")
		}
	}
}
