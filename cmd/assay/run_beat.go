package main

import (
	"context"
	"os"
	"sync"
	"time"
)

// beatTimeout bounds one beat, also the last, for which the build's end waits.
const beatTimeout = 5 * time.Second

// beat tells the server of the machine's health while a build goes on that takes
// long, until the function that it gives is called. A build that is over within
// one interval says nothing. What the server does not take is passed over: it is
// for people to look at, and no reason to fail or to disturb a build.
func (w *wrapped) beat(ctx context.Context) (end func()) {
	name, err := os.Hostname()
	if w.base == "" || w.f.heartbeat <= 0 || err != nil {
		return func() {}
	}
	ctx, stop := context.WithCancel(ctx)
	tell := func(ctx context.Context, ended bool) bool {
		ctx, cancel := context.WithTimeout(ctx, beatTimeout)
		defer cancel()
		b, err := beatOf(ctx, name, w.f.build.Dir)
		if err != nil {
			return false
		}
		b.Building, b.Ended = w.f.build.ID, ended
		_, err = w.api().Heartbeat(ctx, b)
		return err == nil
	}
	told := false
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(w.f.heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				told = tell(ctx, false) || told
			}
		}
	})
	return func() {
		stop()
		done.Wait()
		if told { // and is not missed from here on
			tell(context.WithoutCancel(ctx), true)
		}
	}
}
