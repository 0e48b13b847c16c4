package slo

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Collector gives the site's indicators and objectives to Prometheus. Its labels
// are names of indicators and windows: none is from a request.
type Collector struct {
	s                                            *Store
	good, bad, unknown, value, budget, burn, met *prometheus.Desc
}

// NewCollector makes one.
func NewCollector(s *Store) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("assay_slo_"+name, help, labels, nil)
	}
	return &Collector{
		s:       s,
		good:    desc("good", "Good, in the objective's window, by indicator.", "indicator"),
		bad:     desc("bad", "Bad, in the objective's window, by indicator.", "indicator"),
		unknown: desc("unknown", "Not known, in the objective's window, by indicator.", "indicator"),
		value:   desc("value", "An indicator's value in the objective's window, in its unit.", "indicator"),
		budget:  desc("budget_ratio", "Part of the error budget that is left: 1 all, 0 none, below 0 overspent.", "indicator"),
		burn:    desc("burn_rate", "How fast the budget burns: 1 spends it in its window.", "indicator", "window"),
		met:     desc("met", "1 when the objective is met, 0 when it is missed; absent without data.", "indicator"),
	}
}

// Describe names the metrics.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.good, c.bad, c.unknown, c.value, c.budget, c.burn, c.met} {
		ch <- d
	}
}

// Collect reads them. An indicator of which nothing was counted is absent.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	all, err := c.s.Status(ctx, time.Time{})
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.value, err)
		return
	}
	for i := range all {
		s := &all[i]
		id := string(s.Definition.ID)
		gauge := func(d *prometheus.Desc, v float64, more ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{id}, more...)...)
		}
		if s.State == NoData {
			continue
		}
		gauge(c.good, s.Indicator.Denominator-s.Indicator.Bad-s.Indicator.Unknown)
		gauge(c.bad, s.Indicator.Bad)
		gauge(c.unknown, s.Indicator.Unknown)
		gauge(c.value, s.Indicator.Value)
		gauge(c.budget, s.Budget)
		met := 1.0
		if s.Missed() {
			met = 0
		}
		gauge(c.met, met)
		rates := map[string]float64{} // 6 h is a long window and a short one
		for _, b := range s.BurnRates {
			rates[window(b.Long)], rates[window(b.Short)] = b.LongRate, b.ShortRate
		}
		for w, rate := range rates {
			gauge(c.burn, rate, w)
		}
	}
}

// window is a time as Prometheus writes it.
func window(d time.Duration) string {
	switch {
	case d%(24*time.Hour) == 0:
		return strconv.Itoa(int(d/(24*time.Hour))) + "d"
	case d%time.Hour == 0:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	}
	return strconv.Itoa(int(d/time.Minute)) + "m"
}
