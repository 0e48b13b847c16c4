package risk

import (
	"context"
	"slices"
	"sync"
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
	if v == nil || v.life == 0 {
		return s.view(ctx, service)
	}
	age := s.o.DB.Now().Sub(v.at)
	if age >= 0 && age < v.life {
		return v, nil
	}
	made := s.views.flight.DoChan(service, func() (any, error) { return s.view(context.WithoutCancel(ctx), service) })
	if age >= 0 && age < 2*v.life {
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
	if took := s.o.DB.Now().Sub(began); took > s.views.quick {
		v.life = min(keptTimes*took, keptMost)
	}
	s.views.mu.Lock()
	defer s.views.mu.Unlock()
	if v.life == 0 {
		delete(s.views.kept, service)
		return v, nil
	}
	if _, is := s.views.kept[service]; !is && len(s.views.kept) >= mostKept {
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
