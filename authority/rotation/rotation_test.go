package rotation

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/authority"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
)

const day = 24 * time.Hour

// memory is a key store that keeps its keys in memory; it is a real one, whose
// keys a crash of the keeper does not touch.
type memory struct {
	mu   sync.Mutex
	keys map[string]crypto.Signer
	gone []string
	err  error // of New
}

func (m *memory) New(_ context.Context, name, _ string, bits bool) (crypto.Signer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	if k := m.keys[name]; k != nil {
		return k, nil
	}
	var k crypto.Signer
	var err error
	if k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); bits {
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	m.keys[name] = k
	return k, err
}

func (m *memory) Load(_ context.Context, name string) (crypto.Signer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.keys[name]; k != nil {
		return k, nil
	}
	return nil, fault.Newf(fault.NotFound, "no key %s", name)
}

func (m *memory) Retire(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.keys, name)
	m.gone = append(m.gone, name)
	return nil
}

// rig is a site of two roles, whose clock the test moves.
type rig struct {
	*Keeper
	t        *testing.T
	db       *store.DB
	keys     *memory
	mu       sync.Mutex
	now      time.Time
	applied  [][]Key // what Apply saw
	fail     error   // of Apply
	waiting  map[Role]string
	expires  map[Role]time.Time
	schedule Schedule
	opts     Options
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) pass(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

func (r *rig) apply(ctx context.Context) (map[Role]string, error) {
	keys, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	r.applied = append(r.applied, keys)
	return r.waiting, r.fail
}

func newRig(t *testing.T, d store.Dialect, change func(*Options)) *rig {
	t.Helper()
	ctx := t.Context()
	r := &rig{t: t, keys: &memory{keys: map[string]crypto.Signer{}}, now: time.Now().UTC().Truncate(time.Second), schedule: Schedule{Overlap: 8 * day}}
	db := storetest.Open(t, d, store.WithClock(r.clock))
	r.db = db
	if err := db.Migrate(ctx, event.Migrations, trust.Migrations); err != nil {
		t.Fatal(err)
	}
	r.opts = Options{
		DB: db, Keys: r.keys, Apply: r.apply, Clock: r.clock, Holder: "this run",
		Schedule: func(Role) Schedule { return r.schedule },
		Expires:  func(role Role) time.Time { return r.expires[role] },
		Chain: func(role Role, s crypto.Signer) ([]*x509.Certificate, error) {
			if role == CA {
				return authority.NewCAChain("test", r.clock, s)
			}
			return authority.NewTSAChain("test", r.clock, s)
		},
	}
	if change != nil {
		change(&r.opts)
	}
	k, err := New(r.opts)
	if err != nil {
		t.Fatal(err)
	}
	r.Keeper = k
	var first []Key
	for _, role := range []Role{CA, Log} {
		s, err := r.keys.New(ctx, string(role), "", false)
		if err != nil {
			t.Fatal(err)
		}
		var chain []*x509.Certificate
		if role == CA {
			if chain, err = r.opts.Chain(role, s); err != nil {
				t.Fatal(err)
			}
		}
		key, err := Describe(role, string(role), s, chain, r.now)
		if err != nil {
			t.Fatal(err)
		}
		first = append(first, key)
	}
	if err := r.Adopt(ctx, first); err != nil {
		t.Fatal(err)
	}
	if err := r.Adopt(ctx, first); err != nil { // a second start
		t.Fatal(err)
	}
	return r
}

// states shows the keys as "name state".
func (r *rig) states() (out []string) {
	r.t.Helper()
	keys, err := r.List(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, k := range keys {
		out = append(out, k.Name+" "+string(k.State))
	}
	return out
}

func (r *rig) want(states ...string) {
	r.t.Helper()
	if d := cmp.Diff(states, r.states()); d != "" {
		r.t.Errorf("keys (-want +got):\n%s", d)
	}
}

func (r *rig) step() {
	r.t.Helper()
	if _, err := r.Step(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) kinds() (out []string) {
	r.t.Helper()
	ctx := r.t.Context()
	if err := r.db.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, `SELECT kind FROM event_pending ORDER BY id`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k string
			if err := rows.Scan(&k); err != nil {
				return err
			}
			if k != string(event.TrustChanged) {
				out = append(out, k)
			}
		}
		return rows.Err()
	}); err != nil {
		r.t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// eachClock runs a test on each database; its clock is the rig's.
func eachClock(t *testing.T, test func(t *testing.T, open func(change func(*Options)) *rig)) {
	t.Helper()
	for _, d := range storetest.Dialects {
		t.Run(string(d), func(t *testing.T) {
			test(t, func(change func(*Options)) *rig { return newRig(t, d, change) })
		})
	}
}

func TestLifeOfAKey(t *testing.T) {
	eachClock(t, func(t *testing.T, open func(change func(*Options)) *rig) {
		r := open(nil)
		ctx := t.Context()
		r.want("ca active", "log active")
		next, err := r.Rotate(ctx, Request{Role: Log})
		if err != nil {
			t.Fatal(err)
		}
		if next.Name != "log.2" || next.Published.IsZero() || next.State != Pending {
			t.Errorf("%+v", next)
		}
		if _, err := r.Rotate(ctx, Request{Role: Log}); !errors.Is(err, fault.Conflict) {
			t.Errorf("a second rotation at once: %v", err)
		}
		r.pass(8*day - time.Second)
		r.step()
		r.want("ca active", "log active", "log.2 pending")
		r.pass(time.Second)
		r.step()
		r.want("ca active", "log retiring", "log.2 active")
		old := r.applied[len(r.applied)-1][1]
		if got := old.End.Sub(r.clock()); got < Log.Grace() || got > Log.Grace()+time.Second {
			t.Errorf("the old key's window ends after %s, want the grace of %s", got, Log.Grace())
		}
		if !r.applied[len(r.applied)-1][2].Window().Contains(next.Created) {
			t.Error("the window does not begin with the key")
		}
		r.pass(Log.Grace() + 2*time.Second)
		r.step()
		r.want("ca active", "log retired", "log.2 active")
		if d := cmp.Diff([]string{"log"}, r.keys.gone); d != "" {
			t.Errorf("destroyed (-want +got):\n%s", d)
		}
		r.step()
		if len(r.keys.gone) != 1 {
			t.Errorf("destroyed again: %v", r.keys.gone)
		}
		if d := cmp.Diff([]string{"key.created", "key.retired", "key.rotated"}, r.kinds()); d != "" {
			t.Errorf("events (-want +got):\n%s", d)
		}
	})
}

// A key that follows is made by the schedule, so early that it takes over on
// time, again and again.
func TestSchedule(t *testing.T) {
	eachClock(t, func(t *testing.T, open func(func(*Options)) *rig) {
		r := open(nil)
		r.schedule = Schedule{Every: 90 * day, Overlap: 8 * day}
		r.step()
		r.want("ca active", "log active")
		r.pass(82 * day)
		r.step()
		r.want("ca active", "ca.2 pending", "log active", "log.2 pending")
		r.pass(8 * day)
		r.step()
		r.want("ca retiring", "ca.2 active", "log retiring", "log.2 active")
		r.pass(90 * day)
		r.step() // late: it makes the next, publishes, and waits the overlap all the same
		r.want("ca retired", "ca.2 active", "ca.3 pending", "log retired", "log.2 active", "log.3 pending")
		keys, err := r.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if a, b := keys[1].Chain, keys[2].Chain; len(a) != 2 || len(b) != 2 || cmp.Equal(a[1], b[1]) {
			t.Error("two chains share a root")
		}
	})
}

func TestCompromised(t *testing.T) {
	eachClock(t, func(t *testing.T, open func(func(*Options)) *rig) {
		r := open(func(o *Options) { o.Archive = true })
		r.pass(10 * day)
		since := r.clock().Add(-day)
		next, err := r.Rotate(t.Context(), Request{Role: CA, Compromised: true, Since: since})
		if err != nil {
			t.Fatal(err)
		}
		r.want("ca retired", "ca.2 active", "log active")
		keys, err := r.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !keys[0].End.Equal(since) || keys[0].Reason != ReasonCompromised || next.Reason != ReasonCompromised {
			t.Errorf("window of the compromised key: %s, %+v", keys[0].Window(), keys[0])
		}
		if len(r.keys.gone) != 0 {
			t.Errorf("destroyed although they are archived: %v", r.keys.gone)
		}
	})
}

// Now does not wait, also for a key that waits already.
func TestNow(t *testing.T) {
	eachClock(t, func(t *testing.T, open func(func(*Options)) *rig) {
		r := open(nil)
		ctx := t.Context()
		if _, err := r.Rotate(ctx, Request{Role: Log}); err != nil {
			t.Fatal(err)
		}
		if next, err := r.Rotate(ctx, Request{Role: Log, Now: true}); err != nil || next.State != Active {
			t.Fatalf("%+v, %v", next, err)
		}
		if next, err := r.Rotate(ctx, Request{Role: CA, Now: true}); err != nil || next.State != Active {
			t.Fatalf("%+v, %v", next, err)
		}
		r.want("ca retiring", "ca.2 active", "log retiring", "log.2 active")
		// Before it signs, each was published in a state that did not sign.
		for _, name := range []string{"ca.2", "log.2"} {
			seen := false
			for _, keys := range r.applied {
				for _, k := range keys {
					seen = seen || k.Name == name && k.State == Pending
				}
			}
			if !seen {
				t.Errorf("%s took over without having been published", name)
			}
		}
	})
}

func TestRefusedRequests(t *testing.T) {
	eachClock(t, func(t *testing.T, open func(func(*Options)) *rig) {
		r := open(nil)
		for name, c := range map[string]struct {
			q    Request
			want error
		}{
			"no such role":         {Request{Role: "pigeon"}, fault.Invalid},
			"a role without a key": {Request{Role: TUFRoot}, fault.NotFound},
			"since without reason": {Request{Role: Log, Since: r.now}, fault.Invalid},
			"since in the future":  {Request{Role: Log, Compromised: true, Since: r.now.Add(day)}, fault.Invalid},
		} {
			if _, err := r.Rotate(t.Context(), c.q); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
		}
		r.want("ca active", "log active")
	})
}

// A failure of any step leaves what the next one goes on from: the key store,
// the publication, an offline root, a process that dies between two writes.
func TestFailuresGoOn(t *testing.T) {
	eachClock(t, func(t *testing.T, open func(func(*Options)) *rig) {
		r := open(nil)
		ctx := t.Context()
		r.keys.err = fault.Newf(fault.Unavailable, "the KMS is away")
		if _, err := r.Rotate(ctx, Request{Role: Log}); !errors.Is(err, fault.Unavailable) {
			t.Errorf("without a key store: %v", err)
		}
		r.want("ca active", "log active")
		r.keys.err = nil
		made, err := r.keys.New(ctx, "log.2", "", false) // made, then killed before its row
		if err != nil {
			t.Fatal(err)
		}
		r.fail = fault.Newf(fault.NoSpace, "TUF could not be written")
		next, err := r.Rotate(ctx, Request{Role: Log})
		if !errors.Is(err, fault.NoSpace) {
			t.Errorf("without TUF: %v", err)
		}
		pub, perr := next.PublicKey()
		if perr != nil || !made.Public().(*ecdsa.PublicKey).Equal(pub) {
			t.Errorf("the key that was made is not the one that is used: %v", perr)
		}
		r.pass(30 * day)
		r.want("ca active", "log active", "log.2 pending") // the overlap begins with publication
		r.fail, r.waiting = nil, map[Role]string{Log: "the signature of the offline root"}
		r.step()
		r.pass(30 * day)
		r.step()
		r.want("ca active", "log active", "log.2 pending")
		if _, err := r.Rotate(ctx, Request{Role: CA, Now: true}); err != nil {
			t.Fatalf("a role that waits keeps another: %v", err)
		}
		r.waiting = nil
		r.step()
		r.pass(8 * day)
		r.step()
		r.want("ca retired", "ca.2 active", "log retiring", "log.2 active")
		// Another process takes the lease over; this one must stop.
		o := r.opts
		o.Holder = "another run"
		k, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Step(ctx); err != nil {
			t.Fatal(err)
		}
		r.pass(time.Hour)
		if held, _, err := r.db.Lease(ctx, leaseAll, o.Holder, 2*time.Hour); err != nil || !held {
			t.Fatal(held, err)
		}
		before := r.states()
		if changed, err := r.Step(ctx); err != nil || changed {
			t.Errorf("a step without the lease: %v, %v", changed, err)
		}
		if d := cmp.Diff(before, r.states()); d != "" {
			t.Error(d)
		}
	})
}

// Each threshold is told of once; an end that moved away is told of again when
// it comes near.
func TestExpiring(t *testing.T) {
	eachClock(t, func(t *testing.T, open func(func(*Options)) *rig) {
		r := open(nil)
		told := func() (n int) {
			for _, k := range r.kinds() {
				if k == string(event.KeyExpiring) {
					n++
				}
			}
			return n
		}
		r.expires = map[Role]time.Time{Log: r.now.Add(100 * day)}
		for i, c := range []struct {
			pass time.Duration
			want int
		}{{0, 0}, {69 * day, 0}, {day, 1}, {0, 1}, {22 * day, 1}, {day, 2}, {6 * day, 3}, {12 * time.Hour, 3}} {
			r.pass(c.pass)
			r.step()
			if got := told(); got != c.want {
				t.Errorf("step %d: told %d times, want %d", i, got, c.want)
			}
		}
		r.expires[Log] = r.clock().Add(365 * day)
		r.step()
		r.pass(340 * day)
		r.step()
		if got := told(); got != 4 {
			t.Errorf("after the end had moved: told %d times, want 4", got)
		}
	})
}

func TestParseRefusesRows(t *testing.T) {
	good := Key{Role: Log, Number: 1, Name: "log", State: Active, Start: time.Unix(1, 0).UTC()}
	row := func(name string, change func(*Key)) trust.Document {
		k := good
		k.Name = name
		if change != nil {
			change(&k)
		}
		b, err := marshal(&k)
		if err != nil {
			t.Fatal(err)
		}
		return trust.Document{Kind: trust.DocAuthority, Name: name, Version: 1, Body: b}
	}
	if _, err := Parse([]trust.Document{row("log", nil)}); err != nil {
		t.Fatal(err)
	}
	for name, docs := range map[string][]trust.Document{
		"two active":   {row("log", nil), row("log.2", nil)},
		"two pending":  {row("log", nil), row("log.2", func(k *Key) { k.State = Pending }), row("log.3", func(k *Key) { k.State = Pending })},
		"none active":  {row("log", func(k *Key) { k.State = Retired })},
		"another name": {{Kind: trust.DocAuthority, Name: "ca", Version: 1, Body: row("log", nil).Body}},
		"no role":      {row("log", func(k *Key) { k.Role = "x" })},
		"no state":     {row("log", func(k *Key) { k.State = "x" })},
		"no window":    {row("log", func(k *Key) { k.Start = time.Time{} })},
		"no number":    {row("log", func(k *Key) { k.Number = 0 })},
		"unknown":      {{Kind: trust.DocAuthority, Name: "log", Version: 1, Body: []byte(`{"role":"log","color":1}`)}},
		"not JSON":     {{Kind: trust.DocAuthority, Name: "log", Version: 1, Body: []byte(`{`)}},
	} {
		if _, err := Parse(docs); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestScheduleValidate(t *testing.T) {
	for _, c := range []struct {
		s  Schedule
		ok bool
	}{
		{Schedule{}, true}, {Schedule{Every: 90 * day, Overlap: 8 * day}, true}, {Schedule{Overlap: day}, true},
		{Schedule{Every: day, Overlap: day}, false}, {Schedule{Every: -1}, false}, {Schedule{Overlap: -1}, false},
	} {
		if err := c.s.Validate(); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.s, err)
		}
	}
}
