package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"assay/event"
	"assay/internal/clock"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/store"
	"assay/vuln/exploit"
	"assay/vuln/feed"

	"github.com/prometheus/client_golang/prometheus"
)

// Options of [New]. DB, Feeds, Lists and Dir are required.
type Options struct {
	DB         *store.DB // migrated with [Migrations], those of feed, exploit and event
	Feeds      *feed.Store
	Lists      *exploit.Store
	Configured []Spec // by the site's configuration, valid
	Dir        string // for files on their way, and indexes
	MaxAge     time.Duration
	// Secret reads credentials at "file:PATH" or "credential:NAME".
	Secret func(place string) ([]byte, error)
	// Verify checks a Sigstore bundle about a file of a SHA-256; fault.Unverified.
	Verify     func(ctx context.Context, sha256 string, bundle []byte, who Signature) error
	Clock      clock.Clock
	Logger     *slog.Logger
	Registerer prometheus.Registerer

	sleep func(context.Context, time.Duration) error
}

// Upstreams are all feeds that are fetched. Methods may be called concurrently.
type Upstreams struct {
	o       Options
	f       *Fetcher
	wake    chan struct{}
	fetches *prometheus.CounterVec
}

// New makes the upstreams of a site.
func New(o Options) (*Upstreams, error) {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.sleep == nil {
		o.sleep = func(ctx context.Context, d time.Duration) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(d):
				return nil
			}
		}
	}
	for i := range o.Configured {
		if err := o.Configured[i].Validate(); err != nil {
			return nil, err
		}
	}
	u := &Upstreams{o: o, f: &Fetcher{o}, wake: make(chan struct{}, 1), fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_feed_fetches_total", Help: "Looks at upstreams of advisory feeds, by what came of them.",
	}, []string{"outcome"})}
	if o.Registerer != nil {
		if err := o.Registerer.Register(u.fetches); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// Upstream is a feed that is fetched.
type Upstream struct {
	Spec
	Configured bool      // by the site's configuration: it cannot be removed by command
	Added      time.Time // by command
	Actor      string
}

// List gives all upstreams, by name.
func (u *Upstreams) List(ctx context.Context) (all []Upstream, err error) {
	err = u.o.DB.View(ctx, func(tx *store.Tx) error {
		all, err = u.list(ctx, tx)
		return err
	})
	return all, err
}

func (u *Upstreams) list(ctx context.Context, tx *store.Tx) (all []Upstream, err error) {
	for _, s := range u.o.Configured {
		all = append(all, Upstream{Spec: s, Configured: true})
	}
	rows, err := tx.Query(ctx, `SELECT spec, added, actor FROM feed_upstream ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		var added int64
		var one Upstream
		if err := rows.Scan(&text, &added, &one.Actor); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(text), &one.Spec); err != nil {
			return nil, fault.Newf(fault.Tampered, "a stored upstream: %w", err)
		}
		one.Added = store.Time(added)
		if !slices.ContainsFunc(u.o.Configured, func(s Spec) bool { return s.Name == one.Name }) { // the configuration goes first
			all = append(all, one)
		}
	}
	slices.SortFunc(all, func(a, b Upstream) int { return strings.Compare(a.Name, b.Name) })
	return all, rows.Err()
}

const maxUpstreams = 100

// Add brings an upstream in, or another form of one that was added before. One
// of the configuration is fault.Conflict.
func (u *Upstreams) Add(ctx context.Context, s Spec, actor string) error {
	if err := s.Validate(); err != nil {
		return err
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	defer u.stir()
	return u.o.DB.Update(ctx, func(tx *store.Tx) error {
		all, err := u.list(ctx, tx)
		if err != nil {
			return err
		}
		what := "added"
		for _, one := range all {
			if one.Name == s.Name {
				what = "changed"
				if one.Configured {
					return fault.Newf(fault.Conflict, "feed %s stands in the configuration (vuln.feeds): change it there", s.Name)
				}
			}
		}
		if len(all) >= maxUpstreams && what == "added" {
			return fault.Newf(fault.TooMany, "there are %d feeds: at most %d", len(all), maxUpstreams)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO feed_upstream (name, spec, added, actor) VALUES (?, ?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET spec = excluded.spec, added = excluded.added, actor = excluded.actor`, s.Name, string(text), store.Micros(tx.Now()), actor); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM feed_sync WHERE name = ?`, s.Name); err != nil {
			return err
		}
		return configured(ctx, tx, s.Name, what, s.URL, "", actor)
	})
}

func configured(ctx context.Context, tx *store.Tx, name, what, url, reason, actor string) error {
	return event.Append(ctx, tx, event.Event{Kind: event.FeedConfigured, Actor: actor, Body: map[string]any{"feed": name, "what": what, "url": url, "reason": reason}})
}

// Remove ends the fetching of a feed. What is in force of it stays, and grows old.
func (u *Upstreams) Remove(ctx context.Context, name, actor string) error {
	return u.o.DB.Update(ctx, func(tx *store.Tx) error {
		one, err := u.find(ctx, tx, name)
		if err != nil {
			return err
		}
		if one.Configured {
			return fault.Newf(fault.Conflict, "feed %s stands in the configuration (vuln.feeds): remove it there", name)
		}
		for _, q := range []string{`DELETE FROM feed_upstream WHERE name = ?`, `DELETE FROM feed_sync WHERE name = ?`} {
			if _, err := tx.Exec(ctx, q, name); err != nil {
				return err
			}
		}
		return configured(ctx, tx, name, "removed", one.URL, "", actor)
	})
}

func (u *Upstreams) find(ctx context.Context, tx *store.Tx, name string) (Upstream, error) {
	all, err := u.list(ctx, tx)
	if err != nil {
		return Upstream{}, err
	}
	for _, one := range all {
		if one.Name == name {
			return one, nil
		}
	}
	return Upstream{}, fault.Newf(fault.NotFound, "no feed %.60q is fetched; assay feed status lists those that are", name)
}

// Sync has a feed looked at as soon as can be. downgrade is why it may go back,
// this once; "": it may not. It gives the moment from which on a look counts.
func (u *Upstreams) Sync(ctx context.Context, name, downgrade, actor string) (asked time.Time, err error) {
	defer u.stir()
	return asked, u.o.DB.Update(ctx, func(tx *store.Tx) error {
		one, err := u.find(ctx, tx, name)
		if err != nil {
			return err
		}
		asked = tx.Now()
		if err := u.rows(ctx, tx, one); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE feed_sync SET due = ?, downgrade = ?, actor = ? WHERE name = ?`, store.Micros(asked), excerpt.Text(downgrade, 500), actor, name); err != nil || downgrade == "" {
			return err
		}
		return configured(ctx, tx, name, "downgrade", one.URL, excerpt.Text(downgrade, 500), actor)
	})
}

func (u *Upstreams) stir() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// Status is how it goes with one ecosystem of an upstream.
type Status struct {
	Name, Ecosystem, URL string
	Due, Tried           time.Time // zero: never tried
	Succeeded            time.Time // the last success; zero: never
	Failures             int64     // since then
	Problem              string    // of the last try; "" when it succeeded
	Outcome              string    // of the last success
}

// Status lists how it goes with all upstreams, by name and ecosystem.
func (u *Upstreams) Status(ctx context.Context) (all []Status, err error) {
	if err := u.prepare(ctx); err != nil {
		return nil, err
	}
	err = u.o.DB.View(ctx, func(tx *store.Tx) error {
		all = nil
		rows, err := tx.Query(ctx, `SELECT name, ecosystem, url, due, tried, succeeded, failures, problem, outcome FROM feed_sync ORDER BY name, ecosystem`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var s Status
			var due, tried, succeeded int64
			if err := rows.Scan(&s.Name, &s.Ecosystem, &s.URL, &due, &tried, &succeeded, &s.Failures, &s.Problem, &s.Outcome); err != nil {
				return err
			}
			s.Due, s.Tried, s.Succeeded = store.Time(due), moment(tried), moment(succeeded)
			all = append(all, s)
		}
		return rows.Err()
	})
	return all, err
}

func moment(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return store.Time(micros)
}

// prepare makes a row for each upstream and ecosystem, and takes those away of
// upstreams that are no more.
func (u *Upstreams) prepare(ctx context.Context) error {
	return u.o.DB.Update(ctx, func(tx *store.Tx) error {
		all, err := u.list(ctx, tx)
		if err != nil {
			return err
		}
		names := map[string]bool{}
		for _, one := range all {
			names[one.Name] = true
			if err := u.rows(ctx, tx, one); err != nil {
				return err
			}
		}
		rows, err := tx.Query(ctx, `SELECT DISTINCT name FROM feed_sync`)
		if err != nil {
			return err
		}
		var gone []string
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				rows.Close()
				return err
			}
			if !names[name] {
				gone = append(gone, name)
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		for _, name := range gone {
			if _, err := tx.Exec(ctx, `DELETE FROM feed_sync WHERE name = ?`, name); err != nil {
				return err
			}
		}
		return nil
	})
}

// rows are those of one upstream: another URL begins anew.
func (u *Upstreams) rows(ctx context.Context, tx *store.Tx, one Upstream) error {
	list := one.Ecosystems
	if len(list) == 0 {
		list = []string{""}
	}
	args := []any{one.Name, one.URL}
	for _, e := range list {
		args = append(args, e)
	}
	if _, err := tx.Exec(ctx, `DELETE FROM feed_sync WHERE name = ? AND (url <> ? OR ecosystem NOT IN (`+strings.TrimSuffix(strings.Repeat("?,", len(list)), ",")+`))`, args...); err != nil {
		return err
	}
	for _, e := range list {
		if _, err := tx.Exec(ctx, `INSERT INTO feed_sync (name, ecosystem, url, due, tried, succeeded, failures, problem, outcome, tag, whole, downgrade, actor)
			VALUES (?, ?, ?, ?, 0, 0, 0, '', '', '', 0, '', '') ON CONFLICT (name, ecosystem) DO NOTHING`, one.Name, e, one.URL, store.Micros(tx.Now())); err != nil {
			return err
		}
	}
	return nil
}
