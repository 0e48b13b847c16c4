package assess

import (
	"context"
	"errors"
	"sync"
	"time"

	"assay/internal/fault"
)

// host is a registry that is asked: by so many at once, and no more once it has been
// silent several times in a row.
type host struct {
	slots chan struct{}

	mu     sync.Mutex
	silent int
	last   error
}

// mostSilent is how often in a row a registry may not answer.
const mostSilent = 4

func (r *Run) host(name string) *host {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.hosts[name]
	if h == nil {
		h = &host{slots: make(chan struct{}, r.o.PerHost)}
		r.hosts[name] = h
	}
	return h
}

func (h *host) dead() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.silent < mostSilent {
		return nil
	}
	return fault.Newf(fault.Unavailable, "not asked: the registry did not answer %d times before: %w", h.silent, h.last)
}

// heard notes how a registry answered. That it refuses is an answer.
func (h *host) heard(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if errors.Is(err, fault.Unavailable) || errors.Is(err, context.DeadlineExceeded) {
		h.silent, h.last = h.silent+1, err
	} else if h.silent < mostSilent {
		h.silent = 0
	}
}

// each does n things, many at once, of one registry fewer. failed is told of each that
// was not done, or failed.
func (r *Run) each(ctx context.Context, n int, at func(int) string, do func(context.Context, int) error, failed func(int, error)) {
	slots := make(chan struct{}, r.o.Parallel)
	var all sync.WaitGroup
	for i := range n {
		name := at(i)
		all.Go(func() {
			if err := r.one(ctx, slots, name, i, do); err != nil {
				failed(i, err)
			}
			if r.tick != nil {
				r.tick()
			}
		})
	}
	all.Wait()
}

// errCut is of what was not looked at for want of time.
var errCut = fault.Newf(fault.Undecided, "not looked at: the assessment was ended before")

func (r *Run) one(ctx context.Context, slots chan struct{}, name string, i int, do func(context.Context, int) error) error {
	h := r.host(name)
	// First the registry's, so that a slow one does not keep the others from theirs.
	for _, s := range []chan struct{}{h.slots, slots} {
		select {
		case <-ctx.Done():
			return errCut
		case s <- struct{}{}:
			defer func() { <-s }()
		}
	}
	if ctx.Err() != nil {
		return errCut
	}
	if name != "" {
		if err := h.dead(); err != nil {
			return err
		}
	}
	one, cancel := context.WithTimeout(ctx, r.o.Each)
	defer cancel()
	err := do(one, i)
	for wait := time.Second; errors.Is(err, fault.TooMany) && wait <= 8*time.Second; wait *= 2 {
		select {
		case <-one.Done():
			wait = time.Minute
		case <-time.After(wait):
			err = do(one, i)
		}
	}
	if err != nil && ctx.Err() != nil {
		return errCut
	}
	if name != "" {
		h.heard(err)
	}
	return err
}
