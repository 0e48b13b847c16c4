package registry

import (
	"net/netip"
	"strings"
	"sync"
	"time"
	"unicode"

	"assay/artifact"
)

// trail is what every audit record says beside what it is about.
type trail struct {
	Decision   string `json:"decision"` // allow or deny
	Address    string `json:"address"`
	UserAgent  string `json:"user_agent,omitempty"` // as the client says, clipped and without control characters
	Credential string `json:"credential,omitempty"` // what proved the actor: jwt:… or robot:…
	Micros     int64  `json:"micros,omitempty"`     // from the request to this record
}

const (
	decisionAllow = "allow"
	decisionDeny  = "deny"
)

func (q *request) trail(decision string) trail {
	t := trail{
		Decision: decision, Address: address(q.Request), UserAgent: agent(q.UserAgent()), Credential: q.caller.Credential.ID,
	}
	if !q.start.IsZero() {
		t.Micros = max(1, time.Since(q.start).Microseconds())
	}
	return t
}

// agent makes a client's name for itself fit to keep: nothing of it is obeyed
// by a terminal, and it is short.
func agent(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most]
	}
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// network is the address to count by: of IPv6 the 64 bits that one customer
// has to herself (RFC 6177), since the other 64 are hers to choose.
func network(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil || a.Unmap().Is4() {
		return address
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return address
	}
	return p.String()
}

// pullWindow tells which requests are one pull. Clients ask HEAD by tag and then
// GET by digest: that is one pull, of the tag. And a client that did not hear
// the answer asks again: that is one pull, too.
//
//   - A HEAD by tag is remembered for headWindow; the GET by digest of the same
//     caller, address and repository within it was asked for by that tag.
//   - A GET that repeats one of the same caller, credential, address, user
//     agent, repository and digest within retryWindow, for the same tag or by
//     digest, is the same pull: its answer waits for the first one's record, and
//     has none of its own.
//
// It lives in memory. After a restart, on another replica, or when more than
// maxWindow pulls stand in a window, a pull may be recorded twice; none is left
// out.
type pullWindow struct {
	mu          sync.Mutex
	heads       generations[pullKey, string]
	served      generations[pullKey, servedPull]
	readers     generations[pullKey, struct{}]
	retryWindow time.Duration
}

const (
	headWindow   = time.Minute
	retryWindow  = 10 * time.Second
	readerWindow = time.Hour
	maxWindow    = 8192
)

type pullKey struct {
	caller, credential, address, agent, repository string
	digest                                         artifact.Digest
}

type servedPull struct {
	tag    string
	record *record
}

func newPullWindow() *pullWindow {
	return &pullWindow{
		heads:       generations[pullKey, string]{life: headWindow},
		served:      generations[pullKey, servedPull]{life: retryWindow},
		readers:     generations[pullKey, struct{}]{life: readerWindow},
		retryWindow: retryWindow,
	}
}

func (q *request) pullKey(d artifact.Digest) pullKey {
	return pullKey{q.caller.owner(), q.caller.Credential.ID, address(q.Request), agent(q.UserAgent()), q.route.name, d}
}

// reader is the key of one who pulled a manifest of a repository. Anybody may be
// nobody, and many may have one credential: the address tells them apart.
func (q *request) reader() pullKey {
	return pullKey{caller: q.caller.owner(), credential: q.caller.Credential.ID, address: address(q.Request), repository: q.route.name}
}

// head notes a HEAD by tag.
func (w *pullWindow) head(k pullKey, tag string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heads.put(k, tag, time.Now())
}

// pull gives the record of the pull that k is a part of. For a new one, make is
// called with the tag that was asked for and its record is remembered.
func (w *pullWindow) pull(k, reader pullKey, tag string, make func(tag string) *record) *record {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if old, ok := w.served.get(k, now); ok && (tag == "" || tag == old.tag) && !old.record.failed() {
		return old.record
	}
	if tag == "" {
		tag, _ = w.heads.get(k, now)
	}
	rec := make(tag)
	w.served.put(k, servedPull{tag, rec}, now)
	w.readers.put(reader, struct{}{}, now)
	return rec
}

// knows says whether a caller has pulled a manifest of the repository lately,
// and takes it that she has now.
func (w *pullWindow) knows(reader pullKey) bool {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.readers.get(reader, now)
	if !ok {
		w.readers.put(reader, struct{}{}, now)
	}
	return ok
}

// generations is a map that forgets: what is older than life, and the older half
// of what is too much.
type generations[K comparable, V any] struct {
	life     time.Duration
	now, old map[K]aged[V]
	began    time.Time
}

type aged[V any] struct {
	at    time.Time
	value V
}

func (g *generations[K, V]) turn(now time.Time) {
	if g.now == nil || now.Sub(g.began) > g.life || len(g.now) >= maxWindow/2 {
		g.old, g.now, g.began = g.now, map[K]aged[V]{}, now
	}
}

func (g *generations[K, V]) put(k K, v V, now time.Time) {
	g.turn(now)
	g.now[k] = aged[V]{now, v}
}

func (g *generations[K, V]) get(k K, now time.Time) (v V, ok bool) {
	e, ok := g.now[k]
	if !ok {
		e, ok = g.old[k]
	}
	if !ok || now.Sub(e.at) > g.life {
		return v, false
	}
	return e.value, true
}
