package siem

import (
	"context"
	"time"

	"assay/event"
	"assay/internal/excerpt"
	"assay/store"
)

// stalledAfter is how long a sink takes nothing until somebody is told.
const stalledAfter = 10 * time.Minute

// health is how a sink does, by its last tries.
type health struct {
	since   time.Time // of the first failure after the last success; zero: none
	problem string
	known   bool // what was told is known
	told    bool // that it stalled
}

// tried notes how a try went.
func (st *stream) tried(now time.Time, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if err == nil {
		st.health.since, st.health.problem = time.Time{}, ""
		return
	}
	if st.health.since.IsZero() {
		st.health.since = now
	}
	st.health.problem = excerpt.Line(err.Error(), 300, ' ')
}

// tell makes an event of a sink that took nothing for long, and of one that takes
// again: once each, also over a restart.
func (st *stream) tell(ctx context.Context, backlog int64) error {
	st.mu.Lock()
	h := st.health
	st.mu.Unlock()
	if !h.known {
		told, err := st.lastTold(ctx)
		if err != nil {
			return err
		}
		h.told = told
	}
	stalled := !h.since.IsZero() && st.s.o.DB.Now().Sub(h.since) >= stalledAfter
	resumed := h.since.IsZero() && backlog == 0
	e := event.Event{Actor: "system:siem", Body: map[string]any{"sink": st.spec.Name, "backlog": backlog}}
	switch {
	case stalled && !h.told:
		e.Kind, e.Body = event.SIEMStalled, map[string]any{"sink": st.spec.Name, "backlog": backlog, "since": h.since.UTC().Format(time.RFC3339), "reason": h.problem}
	case resumed && h.told:
		e.Kind = event.SIEMResumed
	}
	if e.Kind != "" {
		if err := st.s.o.DB.Update(ctx, func(tx *store.Tx) error { return event.Append(ctx, tx, e) }); err != nil {
			return err
		}
		h.told = stalled
	}
	st.mu.Lock()
	st.health.known, st.health.told = true, h.told
	st.mu.Unlock()
	return nil
}

// lastTold says whether the last that was told of the sink is that it stalled.
func (st *stream) lastTold(ctx context.Context) (bool, error) {
	list, err := st.s.o.Events.Query(ctx, event.Filter{Kinds: []event.Kind{event.SIEMStalled, event.SIEMResumed}, Newest: true, Limit: 1000})
	if err != nil {
		return false, err
	}
	for i := range list {
		var body struct {
			Sink string `json:"sink"`
		}
		if err := list[i].Decode(&body); err == nil && body.Sink == st.spec.Name {
			return list[i].Kind == event.SIEMStalled, nil
		}
	}
	return false, nil
}
