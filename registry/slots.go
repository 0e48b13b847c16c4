package registry

import (
	"context"
	"sync"
	"time"

	"assay/internal/fault"
)

// uploadSlots are the places for bodies being written: so many in all, and of
// those at most half to one principal, so that nobody keeps all others out.
type uploadSlots struct {
	all  chan struct{}
	each int

	mu sync.Mutex
	of map[string]*ownSlots // of those who hold a place or wait for one
}

type ownSlots struct {
	places chan struct{}
	users  int
}

func newUploadSlots(n int) *uploadSlots {
	return &uploadSlots{all: make(chan struct{}, n), each: max(n/2, 1), of: map[string]*ownSlots{}}
}

// take waits for a place of the owner's and then for one among all.
func (u *uploadSlots) take(ctx context.Context, owner string, most time.Duration) (release func(), err error) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	own := u.enter(owner)
	if err := place(ctx, own.places, timer.C); err != nil {
		u.leave(owner, own)
		return nil, err
	}
	if err := place(ctx, u.all, timer.C); err != nil {
		<-own.places
		u.leave(owner, own)
		return nil, err
	}
	return func() {
		<-u.all
		<-own.places
		u.leave(owner, own)
	}, nil
}

func place(ctx context.Context, places chan struct{}, late <-chan time.Time) error {
	select {
	case places <- struct{}{}:
		return nil
	default:
	}
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-late:
		return failf("TOOMANYREQUESTS", fault.TooMany, "%d uploads are under way; try again shortly", len(places))
	}
}

func (u *uploadSlots) enter(owner string) *ownSlots {
	u.mu.Lock()
	defer u.mu.Unlock()
	own := u.of[owner]
	if own == nil {
		own = &ownSlots{places: make(chan struct{}, u.each)}
		u.of[owner] = own
	}
	own.users++
	return own
}

func (u *uploadSlots) leave(owner string, own *ownSlots) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if own.users--; own.users == 0 {
		delete(u.of, owner)
	}
}
