package blob

import (
	"context"
	"errors"
	"sync"
	"syscall"

	"assay/internal/fault"
)

// dirSyncer gathers requests to make the names in folders durable. Requests
// that arrive while a round is running wait for the next one, and all requests
// for a folder in a round share one fsync: a group commit.
type dirSyncer struct {
	sync func(dir string) error

	mu      sync.Mutex
	running bool
	waiting map[string]*round
}

// round is one fsync that somebody waits for.
type round struct {
	done chan struct{}
	err  error
}

// at most this many folder syncs at once in a round: enough for the file system
// to join them in one journal commit.
const syncWidth = 16

// do returns once a sync of dir that began after the call has ended, or with
// the context, in which case the sync still happens.
func (s *dirSyncer) do(ctx context.Context, dir string) error {
	s.mu.Lock()
	if s.waiting == nil {
		s.waiting = map[string]*round{}
	}
	r := s.waiting[dir]
	if r == nil {
		r = &round{done: make(chan struct{})}
		s.waiting[dir] = r
	}
	if !s.running {
		s.running = true
		go s.run()
	}
	s.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *dirSyncer) run() {
	for {
		s.mu.Lock()
		batch := s.waiting
		s.waiting = nil
		if len(batch) == 0 {
			s.running = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		slots := make(chan struct{}, syncWidth)
		var wg sync.WaitGroup
		for dir, r := range batch {
			slots <- struct{}{}
			wg.Go(func() {
				r.err = s.sync(dir)
				close(r.done)
				<-slots
			})
		}
		wg.Wait()
	}
}

// wrapIO marks what the operating system says about a failing medium with the
// kind that a door answers: 507 for a full disk, 503 for a broken one.
func wrapIO(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), isDiskFull(err):
		return fault.Wrap(fault.NoSpace, err)
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.EROFS):
		return fault.Wrap(fault.Unavailable, err)
	}
	return err
}
