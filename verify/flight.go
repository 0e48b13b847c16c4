package verify

import (
	"context"
	"sync"

	"assay/policy"
)

// flights lets callers who ask the same share one answer. Unlike the usual
// singleflight, nobody joins a run that has begun: it may have read evidence
// before the caller's was there. All who come during a run share the next.
type flights struct {
	mu   sync.Mutex
	slot map[flightKey]*slot
}

// flightKey is the whole question: those who ask another one never share an
// answer.
type flightKey struct {
	decisionKey
	policy  string // hash
	subject string // the subject, every field
	uri     string
	scope   policy.Scope
}

type slot struct {
	next *flight // waits for the run under way; nil: nobody asked since
}

type flight struct {
	done chan struct{}
	d    *Decision
	err  error
}

// do runs fn, or shares a run that begins after this call. fn's context ends
// with none of the callers: others may wait for it.
func (f *flights) do(ctx context.Context, k flightKey, fn func(context.Context) (*Decision, error)) (*Decision, error) {
	f.mu.Lock()
	if f.slot == nil {
		f.slot = map[flightKey]*slot{}
	}
	s, running := f.slot[k]
	var mine *flight
	switch {
	case !running:
		mine = &flight{done: make(chan struct{})}
		f.slot[k] = &slot{}
		go f.run(context.WithoutCancel(ctx), k, mine, fn)
	case s.next == nil:
		mine = &flight{done: make(chan struct{})}
		s.next = mine
	default:
		mine = s.next
	}
	f.mu.Unlock()
	select {
	case <-mine.done:
		return mine.d, mine.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (f *flights) run(ctx context.Context, k flightKey, mine *flight, fn func(context.Context) (*Decision, error)) {
	for {
		mine.d, mine.err = fn(ctx)
		close(mine.done)
		f.mu.Lock()
		s := f.slot[k]
		if s.next == nil {
			delete(f.slot, k)
			f.mu.Unlock()
			return
		}
		mine, s.next = s.next, nil
		f.mu.Unlock()
	}
}
