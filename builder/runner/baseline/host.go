package baseline

import (
	"context"
	"errors"
	"math"
	"regexp"
	"sync"
	"time"

	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/store"

	"github.com/prometheus/client_golang/prometheus"
)

// StaleAfter is how long after its last beat a machine counts as gone.
const StaleAfter = 5 * time.Minute

const (
	maxHosts   = 1000               // machines that are remembered
	forgotten  = 7 * 24 * time.Hour // after which a machine's place is given to another
	leastPause = time.Second        // between two beats of a machine that count
)

// Beat is what a machine says of its health. It is a claim of the identity that
// sends it, for people to look at; no decision depends on it.
type Beat struct {
	Name       string  `json:"name"`
	Load1      float64 `json:"load1"`
	Processors int     `json:"processors"`
	MemTotal   int64   `json:"memory_total"`
	MemFree    int64   `json:"memory_available"`
	DiskTotal  int64   `json:"disk_total"`
	DiskFree   int64   `json:"disk_free"`
	Age        int64   `json:"age_seconds"`
	BootAge    int64   `json:"boot_age_seconds"`
	Builds     int     `json:"builds"`             // earlier ones, that it knows of
	Building   string  `json:"building,omitempty"` // invocation id
	Ended      bool    `json:"ended,omitempty"`    // it beats no more, and is not missed
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Validate checks the bounds.
func (b *Beat) Validate() error {
	switch {
	case !hostName.MatchString(b.Name):
		return fault.Newf(fault.Invalid, "name %.80q: want letters, digits, '.', '_' and '-', at most 63", b.Name)
	case math.IsNaN(b.Load1) || b.Load1 < 0 || b.Load1 > 1e6 || b.Processors < 1 || b.Processors > 1e6:
		return fault.Newf(fault.Invalid, "load1 and processors: want a load and at least one processor")
	case b.MemTotal < 0 || b.MemFree < 0 || b.DiskTotal < 0 || b.DiskFree < 0 || b.Age < 0 || b.BootAge < 0 || b.Builds < 0:
		return fault.Newf(fault.Invalid, "sizes and ages: want no negative number")
	case len(b.Building) > 256 || clip(b.Building) != b.Building:
		return fault.Newf(fault.Invalid, "building: want an invocation id")
	}
	return nil
}

// Host is a machine that beats.
type Host struct {
	ID       string // rnr_ and hex, of its identity and name
	Issuer   string
	Identity string
	Seen     time.Time
	Stale    bool
	Beat     Beat
}

// Heartbeat notes a machine's health. Its identity is the caller's, so that
// nobody speaks for another's machine. More machines than are remembered are
// fault.TooMany.
func (s *Store) Heartbeat(ctx context.Context, issuer, identity string, b Beat) (*Host, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	body, err := strictjson.Marshal(b)
	if err != nil {
		return nil, err
	}
	h := &Host{ID: hashID("rnr_", issuer, identity, b.Name), Issuer: clip(issuer), Identity: clip(identity), Beat: b}
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		h.Seen = tx.Now()
		if b.Ended {
			_, err := tx.Exec(ctx, `DELETE FROM runner_host WHERE id = ?`, h.ID)
			return err
		}
		var seen int64
		err := tx.QueryRow(ctx, `SELECT seen FROM runner_host WHERE id = ?`, h.ID).Scan(&seen)
		if err == nil && tx.Now().Sub(store.Time(seen)) < leastPause {
			return nil
		}
		if errors.Is(err, fault.NotFound) {
			if err := room(ctx, tx); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO runner_host (id, issuer, identity, seen, body) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET seen = excluded.seen, body = excluded.body`, h.ID, h.Issuer, h.Identity, store.Micros(tx.Now()), string(body))
		return err
	})
	return h, err
}

// room makes room for one machine more, by forgetting those that are long gone.
func room(ctx context.Context, tx *store.Tx) error {
	var n int
	if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM runner_host`).Scan(&n); err != nil || n < maxHosts {
		return err
	}
	gone, err := tx.Exec(ctx, `DELETE FROM runner_host WHERE seen < ?`, store.Micros(tx.Now().Add(-forgotten)))
	if err == nil && gone == 0 {
		err = fault.Newf(fault.TooMany, "%d runners are known already, all of them of this week: want no more", n)
	}
	return err
}

// Hosts lists the machines, the latest beat first.
func (s *Store) Hosts(ctx context.Context) (out []*Host, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT id, issuer, identity, seen, body FROM runner_host ORDER BY seen DESC, id LIMIT ?`, maxHosts)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var h Host
			var seen int64
			var body string
			if err := rows.Scan(&h.ID, &h.Issuer, &h.Identity, &seen, &body); err != nil {
				return err
			}
			if err := strictjson.Unmarshal([]byte(body), &h.Beat); err != nil {
				return fault.Newf(fault.Tampered, "runner %s: %w", h.ID, err)
			}
			h.Seen = store.Time(seen)
			h.Stale = tx.Now().Sub(h.Seen) > StaleAfter
			out = append(out, &h)
		}
		return rows.Err()
	})
	return out, err
}

// health is the collector of metrics over all machines. There is none for each:
// names of others are no labels.
type health struct {
	s     *Store
	count *prometheus.Desc
	of    []measure

	mu   sync.Mutex
	at   time.Time
	last []*Host
}

// measure is one figure of the worst of the machines that live.
type measure struct {
	desc *prometheus.Desc
	of   func(b *Beat) (v float64, ok bool)
	less bool // the smallest is the worst
}

// Metrics gives the collector of the machines' health.
func (s *Store) Metrics() prometheus.Collector {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	share := func(part, whole int64) (float64, bool) {
		return float64(part) / float64(max(whole, 1)), whole > 0
	}
	return &health{s: s, count: prometheus.NewDesc("assay_runners", "Runners that beat, by state.", []string{"state"}, nil), of: []measure{
		{desc("assay_runner_load_ratio_max", "Load per processor of the busiest live runner."), func(b *Beat) (float64, bool) { return b.Load1 / float64(b.Processors), true }, false},
		{desc("assay_runner_memory_available_ratio_min", "Share of memory that is available on the live runner with the least."), func(b *Beat) (float64, bool) { return share(b.MemFree, b.MemTotal) }, true},
		{desc("assay_runner_disk_free_ratio_min", "Share of disk that is free on the live runner with the least."), func(b *Beat) (float64, bool) { return share(b.DiskFree, b.DiskTotal) }, true},
		{desc("assay_runner_age_seconds_max", "Age of the oldest live runner."), func(b *Beat) (float64, bool) { return float64(b.Age), true }, false},
	}}
}

// Describe tells the metrics.
func (h *health) Describe(out chan<- *prometheus.Desc) {
	out <- h.count
	for _, m := range h.of {
		out <- m.desc
	}
}

// Collect reads the machines, at most every ten seconds.
func (h *health) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := h.s.now(); h.at.IsZero() || now.Sub(h.at) > 10*time.Second || now.Before(h.at) {
		hosts, err := h.s.Hosts(ctx)
		if err != nil {
			out <- prometheus.NewInvalidMetric(h.count, err)
			return
		}
		h.at, h.last = now, hosts
	}
	var live, stale float64
	worst := make([]float64, len(h.of))
	seen := make([]bool, len(h.of))
	for _, host := range h.last {
		if host.Stale {
			stale++
			continue
		}
		live++
		for i, m := range h.of {
			v, ok := m.of(&host.Beat)
			if ok && (!seen[i] || m.less == (v < worst[i]) && v != worst[i]) {
				worst[i], seen[i] = v, true
			}
		}
	}
	out <- prometheus.MustNewConstMetric(h.count, prometheus.GaugeValue, live, "live")
	out <- prometheus.MustNewConstMetric(h.count, prometheus.GaugeValue, stale, "stale")
	for i, m := range h.of {
		if seen[i] {
			out <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, worst[i])
		}
	}
}
