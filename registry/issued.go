package registry

import (
	"context"
	"sync"
	"time"

	"assay/event"
	"assay/identity"
)

// issuedTokens tells of scoped tokens. A client fetches one for every
// repository and every five minutes, so they are counted: one event for each
// actor, address and credential in a window, when it ends. Every use of a token
// is recorded by itself; a process that is killed loses counts of the last
// minute and no more.
type issuedTokens struct {
	rec    *recorder
	window time.Duration

	mu     sync.Mutex
	counts map[issuedKey]int
	timer  *time.Timer
}

type issuedKey struct{ actor, address, credential string }

// maxIssuedKeys bounds what is told apart at a time.
const maxIssuedKeys = 1024

func newIssuedTokens(rec *recorder) *issuedTokens {
	return &issuedTokens{rec: rec, window: time.Minute, counts: map[issuedKey]int{}}
}

func (t *issuedTokens) note(actor, address, credential string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.counts) >= maxIssuedKeys {
		t.tell()
	}
	t.counts[issuedKey{actor, address, credential}]++
	if t.timer == nil {
		t.timer = time.AfterFunc(t.window, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.tell()
		})
	}
}

// tell queues what was counted; the lock is held.
func (t *issuedTokens) tell() (sent []*record) {
	for k, n := range t.counts {
		sent = append(sent, t.rec.add(event.Event{Kind: event.TokenIssued, Actor: k.actor, Body: issuedBody{
			Audience: identity.AudienceRegistry, Use: "scoped", Address: k.address, Credential: k.credential, Count: n,
		}}))
	}
	clear(t.counts)
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	return sent
}

// flush tells what was counted, and waits for it or until ctx ends.
func (t *issuedTokens) flush(ctx context.Context) error {
	t.mu.Lock()
	sent := t.tell()
	t.mu.Unlock()
	for _, p := range sent {
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}
