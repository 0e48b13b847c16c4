package registry

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"assay/event"
	"assay/identity"
	"assay/internal/fault"
)

const (
	refusalWindow = time.Minute
	// maxRefusalSorts bounds how many sorts of refused login are told apart at a
	// time, and with it the events that those who have no credentials can cause
	// within a window.
	maxRefusalSorts = 256
	manyAddresses   = "many"
)

// refusedLogins bounds the events that credentials which do not hold cause, for
// anybody can send them and the chain of events is kept for ever. Of one sort,
// an address, a class of reasons and, of what was revoked, the credential, there is at most one event in a window: the
// first is told at once, those that follow are counted and told as one when the
// window ends or at flush. A count leaves memory only when it is committed.
type refusedLogins struct {
	rec    *recorder
	log    *slog.Logger
	window time.Duration

	mu    sync.Mutex
	sorts map[refusedSort]*refusedCount
	timer *time.Timer // set while sorts are held
}

// refusedSort has who was refused where that is proven: what they hold was
// revoked.
type refusedSort struct{ address, class, actor, credential string }

// refusedCount is what is known of a sort: the refusals not told yet, the
// latest of them, and the event on its way.
type refusedCount struct {
	reason string
	count  int
	next   time.Time // no event of the sort before this
	sent   *record
	told   int // refusals that sent stands for
}

func newRefusedLogins(rec *recorder, log *slog.Logger) *refusedLogins {
	return &refusedLogins{rec: rec, log: log, window: refusalWindow, sorts: map[refusedSort]*refusedCount{}}
}

// loginBody is the body of login.failed.
type loginBody struct {
	Door       string `json:"door"`
	Address    string `json:"address"`              // "many" once there are too many to tell apart
	Class      string `json:"class"`                // kind of fault
	Reason     string `json:"reason"`               // of the latest
	Count      int    `json:"count"`                // refusals that this event stands for
	Credential string `json:"credential,omitempty"` // that was revoked; the event's actor had it
}

// note counts a refusal of somebody at address. The first of its sort waits
// until its event is committed, whether or not ctx ends. That one cannot be
// written is logged: it stays in the count, and the login is refused anyway.
func (f *refusedLogins) note(ctx context.Context, address, traceID string, err error) {
	s := refusedSort{address: address, class: fault.KindOf(err).Name(), actor: identity.Anonymous().Actor()}
	if known := (*identity.RevokedError)(nil); errors.As(err, &known) {
		s.actor, s.credential = known.Principal.Actor(), known.Principal.Credential.ID
	}
	f.mu.Lock()
	c := f.sorts[s]
	if c == nil && len(f.sorts) >= maxRefusalSorts {
		s = refusedSort{address: manyAddresses, class: s.class, actor: identity.Anonymous().Actor()}
		c = f.sorts[s] // as many more as there are kinds of fault
	}
	if c == nil {
		c = &refusedCount{}
		f.sorts[s] = c
	}
	c.count++
	c.reason = clip(err.Error(), 512)
	var first *record
	if c.next.IsZero() {
		f.tell(s, c, traceID)
		first = c.sent
	}
	if f.timer == nil {
		f.timer = time.AfterFunc(f.window, f.end)
	}
	f.mu.Unlock()
	if first == nil {
		return
	}
	if err := first.wait(context.WithoutCancel(ctx)); err != nil {
		f.log.ErrorContext(ctx, "audit record not written", "kind", string(event.LoginFailed), "error", err)
	}
}

// tell queues the event of what was counted; the lock is held.
func (f *refusedLogins) tell(s refusedSort, c *refusedCount, traceID string) {
	c.sent = f.rec.add(event.Event{
		Kind: event.LoginFailed, Actor: s.actor, TraceID: traceID,
		Body: loginBody{Door: "registry", Address: s.address, Class: s.class, Reason: c.reason, Count: c.count, Credential: s.credential},
	})
	c.told, c.count = c.count, 0
	c.next = time.Now().Add(f.window)
}

// settle takes back into the count what could not be written. It says whether
// nothing is on its way; the lock is held.
func (c *refusedCount) settle() bool {
	if c.sent == nil {
		return true
	}
	select {
	case <-c.sent.done:
	default:
		return false
	}
	if c.sent.err != nil {
		c.count += c.told
	}
	c.sent, c.told = nil, 0
	return true
}

// end tells what was counted of the sorts whose window is over, forgets those
// that had nothing in theirs, and comes again for the next.
func (f *refusedLogins) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	wake := now.Add(f.window)
	for s, c := range f.sorts {
		if !now.Before(c.next) {
			switch settled := c.settle(); {
			case settled && c.count == 0:
				delete(f.sorts, s)
				continue
			case settled:
				f.tell(s, c, "")
			default:
				c.next = now.Add(f.window) // the database is slow
			}
		}
		if c.next.Before(wake) {
			wake = c.next
		}
	}
	f.timer = nil
	if len(f.sorts) > 0 {
		f.timer = time.AfterFunc(wake.Sub(now), f.end)
	}
}

// flush tells all that was counted and waits for it, or until ctx ends. What
// could not be written is the error's; it stays counted.
func (f *refusedLogins) flush(ctx context.Context) error {
	for range 2 { // what was counted behind an event on its way goes with the second
		for _, p := range f.tellAll() {
			if err := p.wait(ctx); err != nil && ctx.Err() != nil {
				return err
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	left := 0
	for s, c := range f.sorts {
		if c.settle() && c.count == 0 {
			delete(f.sorts, s)
		}
		left += c.count
	}
	if len(f.sorts) == 0 && f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
	if left > 0 {
		return fault.Newf(fault.Unavailable, "%d refused logins are counted and not in the audit log: their events could not be written", left)
	}
	return nil
}

// tellAll queues what was counted and gives all events on their way.
func (f *refusedLogins) tellAll() (sent []*record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s, c := range f.sorts {
		if c.settle() && c.count > 0 {
			f.tell(s, c, "")
		}
		if c.sent != nil {
			sent = append(sent, c.sent)
		}
	}
	return sent
}
