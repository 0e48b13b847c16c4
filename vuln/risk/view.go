package risk

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// A list over all artifacts reads all that is open. What took long is kept for
// keptTimes as long as it took, so that those who look often take a small part of
// the processors, and answers say of when they are. What is quick is never kept: a
// small site's lists are always of the moment.
const (
	quick     = 50 * time.Millisecond
	keptTimes = 20
	keptMost  = time.Minute
	mostKept  = 64 // services whose lists are kept
	lookedAt  = 15 * time.Minute
	// MostListed bounds how many artifacts a list names.
	MostListed = 1000
)

// views are the kept lists, by service.
type views struct {
	mu     sync.Mutex
	kept   map[string]*view
	flight singleflight.Group
	quick  time.Duration
}

// view is what is known of all artifacts, or of a service's, at an instant.
type view struct {
	at       time.Time
	looked   atomic.Int64  // when somebody asked for it, Unix nanoseconds
	life     time.Duration // 0: it is not kept
	answer   *Answer       // without upgrades, at most MostListed artifacts
	services map[string]*Answer

	mu         sync.Mutex // of what follows
	components map[int64]*component
	upgrades   []Upgrade
	ranked     int // how many upgrades were asked for
}

// look gives a view: a kept one while it is young, the same once more while a new
// one is made, else a new one.
func (s *Scorer) look(ctx context.Context, service string) (*view, error) {
	s.views.mu.Lock()
	v := s.views.kept[service]
	s.views.mu.Unlock()
	if v != nil && v.life == 0 {
		return s.view(ctx, service)
	}
	old := false
	if v != nil {
		now := s.o.DB.Now()
		v.looked.Store(now.UnixNano())
		age := now.Sub(v.at)
		if age >= 0 && age < v.life {
			return v, nil
		}
		old = age >= 0 && age < 2*v.life
	}
	made := s.renew(ctx, service)
	if old {
		return v, nil
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case r := <-made:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*view), nil //nolint:forcetypeassert // the function above gives no other
	}
}

// renew has a view made, once for all who ask meanwhile.
func (s *Scorer) renew(ctx context.Context, service string) <-chan singleflight.Result {
	return s.views.flight.DoChan(service, func() (any, error) { return s.view(context.WithoutCancel(ctx), service) })
}

// Run keeps the lists young that are kept and were looked at lately, and makes the
// one of all artifacts at the start, so that nobody waits for it.
func (s *Scorer) Run(ctx context.Context) error {
	_, _ = s.look(ctx, "") // who asks is told the error
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, service := range s.old() {
			select {
			case <-ctx.Done():
				return nil
			case <-s.renew(ctx, service):
			}
		}
	}
}

// old gives the services whose lists are no longer young and that somebody looks at.
func (s *Scorer) old() (names []string) {
	now := s.o.DB.Now()
	s.views.mu.Lock()
	defer s.views.mu.Unlock()
	for name, v := range s.views.kept {
		if now.Sub(v.at) >= v.life && now.Sub(time.Unix(0, v.looked.Load())) < lookedAt {
			names = append(names, name)
		}
	}
	return names
}

// view reads all that is open, and keeps what it makes of it where that took long.
func (s *Scorer) view(ctx context.Context, service string) (*view, error) {
	began := s.o.DB.Now()
	var keep func(*Place) bool
	if service != "" {
		keep = func(p *Place) bool { return slices.Contains(p.Services, service) }
	}
	m, err := s.make(ctx, "", keep)
	if err != nil {
		return nil, err
	}
	v := &view{at: began, answer: m.answer(MostListed), services: m.services(s.o.Inventory.Catalogue()), components: m.components}
	v.answer.At = began
	v.looked.Store(began.UnixNano())
	if took := s.o.DB.Now().Sub(began); took > s.views.quick {
		v.life = min(keptTimes*took, keptMost)
	}
	s.views.mu.Lock()
	defer s.views.mu.Unlock()
	if v.life == 0 {
		delete(s.views.kept, service)
		return v, nil
	}
	if old := s.views.kept[service]; old != nil {
		v.looked.Store(old.looked.Load())
	} else if len(s.views.kept) >= mostKept {
		clear(s.views.kept)
	}
	s.views.kept[service] = v
	return v, nil
}

// first are the upgrades that take most away.
func (s *Scorer) first(ctx context.Context, v *view, most int) ([]Upgrade, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if most > v.ranked {
		all, err := s.upgrades(ctx, v.components, most)
		if err != nil {
			return nil, err
		}
		v.upgrades, v.ranked = all, most
	}
	return v.upgrades[:min(most, len(v.upgrades))], nil
}
