package event

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// Log reads sealed events. It is safe for concurrent use.
type Log struct {
	db     *store.DB
	log    *slog.Logger
	lag    *prometheus.GaugeVec
	faults *prometheus.CounterVec
	news   *news
}

// LogOptions are what a Log may be given.
type LogOptions struct {
	Logger     *slog.Logger          // default: nowhere
	Registerer prometheus.Registerer // default: none
}

// NewLog makes a reader of the log in db.
func NewLog(db *store.DB, o LogOptions) *Log {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Log{
		db: db, log: o.Logger, news: &news{},
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "assay_event_consumer_lag_seconds", Help: "Age of the newest event of the last batch that a consumer finished, when it did.",
		}, []string{"consumer"}),
		faults: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_event_consumer_failures_total", Help: "Batches that a consumer failed on and will see again.",
		}, []string{"consumer"}),
	}
	register(o.Registerer, o.Logger, l.lag, l.faults)
	return l
}

// Filter chooses events; zero members choose all. Members are joined by "and".
type Filter struct {
	Kinds   []Kind // any of these
	Class   Class  // with Kinds: those of the kinds that are of the class
	Digest  artifact.Digest
	Actor   string
	Team    string
	Service string
	Env     string
	Cluster string
	TraceID string
	// Name chooses actors of this name, of whatever issuer: those that end in
	// "#" and it.
	Name string
	// Repository chooses events whose body has this member "repository".
	Repository string
	Classes    []Class   // any of these; joined with Kinds and Class by "and"
	From, To   time.Time // From <= time < To
	AfterSeq   int64     // the page's key: numbers above it, or below it when Newest
	Newest     bool      // newest first; default: oldest first
	Limit      int       // at most 1,000; default 100
}

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// Query gives the sealed events that f chooses, in order of their numbers. The
// next page has the last number as AfterSeq. An unknown kind or class is
// [fault.Invalid].
func (l *Log) Query(ctx context.Context, f Filter) ([]Event, error) {
	where, args, err := f.where(byBody)
	if err != nil {
		return nil, fmt.Errorf("query events: %w", err)
	}
	var events []Event
	err = l.db.View(ctx, func(tx *store.Tx) (err error) {
		if f.Repository != "" {
			events, err = queryRepository(ctx, tx, f)
			return err
		}
		rows, err := tx.Query(ctx, `SELECT seq, `+contentColumns+` FROM event`+where, args...)
		if err != nil {
			return err
		}
		events, err = scanEvents(rows, nil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("query events: %w", err)
	}
	return events, nil
}

// Get gives one sealed event by its id, or [fault.NotFound].
func (l *Log) Get(ctx context.Context, id string) (Event, error) {
	var events []Event
	err := l.db.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, `SELECT seq, `+contentColumns+` FROM event WHERE id = ?`, id)
		if err != nil {
			return err
		}
		events, err = scanEvents(rows, nil)
		return err
	})
	if err == nil && len(events) == 0 {
		err = fault.Newf(fault.NotFound, "no sealed event has the id %.60q", id)
	}
	if err != nil {
		return Event{}, fmt.Errorf("get event: %w", err)
	}
	return events[0], nil
}

// where is the rest of the statement after "FROM event", and its arguments.
// The texts that it can build are few, so that statements stay prepared.
func (f Filter) where(way int) (string, []any, error) {
	kinds, err := f.kinds()
	if err != nil {
		return "", nil, err
	}
	var conds []string
	var args []any
	add := func(cond string, arg ...any) {
		conds = append(conds, cond)
		args = append(args, arg...)
	}
	if len(kinds) > 0 {
		column := "kind"
		if way != byBody {
			column = "(kind || '')" // keeps the index over kinds out of it: that of the repository chooses better
		}
		add(column + " IN (?" + strings.Repeat(", ?", len(kinds)-1) + ")")
		for _, k := range kinds {
			args = append(args, string(k))
		}
	}
	if f.Digest != "" {
		add("digest <> '' AND digest = ?", string(f.Digest)) // the first part lets the partial index serve
	}
	if f.Actor != "" {
		add("actor <> '' AND actor = ?", f.Actor)
	}
	if f.Name != "" {
		add(`actor <> '' AND actor LIKE ? ESCAPE '\'`, "%#"+likeEscape.Replace(f.Name))
	}
	for _, c := range [...]struct{ column, value string }{
		{"team", f.Team}, {"service", f.Service}, {"env", f.Env}, {"cluster", f.Cluster}, {"trace_id", f.TraceID},
	} {
		if c.value != "" {
			add(c.column+" = ?", c.value)
		}
	}
	if f.Repository != "" {
		if err := f.repository(way, add); err != nil {
			return "", nil, err
		}
	}
	at := "time"
	if way != byBody {
		at = "(time + 0)" // as above
	}
	if !f.From.IsZero() {
		add(at+" >= ?", f.From)
	}
	if !f.To.IsZero() {
		add(at+" < ?", f.To)
	}
	order := " ORDER BY seq LIMIT ?"
	switch {
	case f.Newest && f.AfterSeq > 0:
		add("seq < ?", f.AfterSeq)
		order = " ORDER BY seq DESC LIMIT ?"
	case f.Newest:
		order = " ORDER BY seq DESC LIMIT ?"
	case f.AfterSeq > 0:
		add("seq > ?", f.AfterSeq)
	}
	args = append(args, f.limit())
	if len(conds) == 0 {
		return order, args, nil
	}
	return " WHERE " + strings.Join(conds, " AND ") + order, args, nil
}

func (f Filter) limit() int {
	if f.Limit <= 0 {
		return defaultLimit
	}
	return min(f.Limit, maxLimit)
}

var likeEscape = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// kinds joins Kinds and Class; none means all.
func (f Filter) kinds() ([]Kind, error) {
	for _, k := range f.Kinds {
		if err := k.Validate(); err != nil {
			return nil, err
		}
	}
	classes := f.Classes
	if f.Class != "" {
		classes = []Class{f.Class}
	}
	if len(classes) == 0 {
		return f.Kinds, nil
	}
	wanted := f.Kinds
	if len(wanted) == 0 {
		for _, k := range Kinds() {
			wanted = append(wanted, k.Kind)
		}
	}
	var kinds []Kind
	for _, k := range wanted {
		if slices.Contains(classes, k.Class()) {
			kinds = append(kinds, k)
		}
	}
	if len(kinds) == 0 {
		return nil, fault.Newf(fault.Invalid, "no kind asked for is of class %.40q (audit, domain, alert)", classes)
	}
	return kinds, nil
}
