package rotation

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/event"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/store"
	"assay/trust"
)

// KeyStore keeps private keys by name. A name is used once.
type KeyStore interface {
	// New makes a key, durable on return, or gives the one that an interrupted
	// rotation has made under that name. place is "" or the URI of a KMS or token
	// that the key is to be made in, or lies in already.
	New(ctx context.Context, name, place string, rsa bool) (crypto.Signer, error)
	// Load gives a key; one that is not there is [fault.NotFound].
	Load(ctx context.Context, name string) (crypto.Signer, error)
	// Retire destroys a key for good; one that is not there is no error.
	Retire(ctx context.Context, name string) error
}

// Options of a [Keeper]. DB, Keys, Chain and Apply are required.
type Options struct {
	DB   *store.DB
	Keys KeyStore
	// Chain makes the certificates of a new ca or tsa key, signing one first.
	Chain func(r Role, signer crypto.Signer) ([]*x509.Certificate, error)
	// Apply brings the running server and what it publishes to the rows: trusted
	// root and TUF first, signers after. It returns once clients can fetch it,
	// and is called again after an error. waiting names roles whose rows could not
	// be published yet, and why: an offline root has to sign first.
	Apply func(ctx context.Context) (waiting map[Role]string, err error)
	// Schedule is that of a role; nil: no role has one, and DefaultOverlap.
	Schedule func(Role) Schedule
	// Place is where the next key of a role is made; "" and nil: the key folder.
	Place func(r Role, number int) (string, error)
	// Expires tells of ends that no certificate has (of the TUF root); nil: none.
	Expires func(Role) time.Time
	Alerts  []time.Duration // before expiry; nil: DefaultAlerts
	Archive bool            // keep the private halves of retired keys
	Every   time.Duration   // between looks at the rows; 0: 30 s

	Clock      clock.Clock           // nil: the system's
	Logger     *slog.Logger          // nil: none
	Registerer prometheus.Registerer // nil: no metrics
	Holder     string                // of the lease: names this run of this process

	// Roles are those whose keys this process holds, of a site whose processes
	// each hold some; nil: all. The keys of others are left to them.
	Roles []Role
}

// Keeper leads the keys of a site through their lives. It is safe for many
// goroutines, and for many processes on one database.
type Keeper struct {
	o      Options
	mu     sync.Mutex // held while rows are changed: the lease is between processes
	expiry *prometheus.GaugeVec
	failed *prometheus.CounterVec
	wake   chan struct{}
	lease  string
}

// mine says whether this process holds the keys of a role.
func (k *Keeper) mine(r Role) bool { return k.o.Roles == nil || slices.Contains(k.o.Roles, r) }

const (
	leaseAll = "key-rotation"
	leaseFor = 15 * time.Second // given back after each step; this bounds the wait for one that died in it
	actor    = "system:rotation"
)

// New makes a keeper over a database that was migrated with trust.Migrations and
// event.Migrations.
func New(o Options) (*Keeper, error) {
	if o.DB == nil || o.Keys == nil || o.Chain == nil || o.Apply == nil || o.Holder == "" {
		return nil, fault.Newf(fault.Invalid, "rotation: Options.DB, Keys, Chain, Apply and Holder are required")
	}
	if o.Schedule == nil {
		o.Schedule = func(Role) Schedule { return Schedule{Overlap: DefaultOverlap} }
	}
	for _, r := range Roles() {
		if err := o.Schedule(r).Validate(); err != nil {
			return nil, fmt.Errorf("keys of role %s: %w", r, err)
		}
	}
	if o.Place == nil {
		o.Place = func(Role, int) (string, error) { return "", nil }
	}
	if o.Expires == nil {
		o.Expires = func(Role) time.Time { return time.Time{} }
	}
	if o.Alerts == nil {
		o.Alerts = DefaultAlerts()
	}
	if o.Every <= 0 {
		o.Every = 30 * time.Second
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{o: o, wake: make(chan struct{}, 1), lease: leaseAll}
	if len(o.Roles) > 0 {
		k.lease += " " + string(o.Roles[0]) // processes that hold other keys step beside this one
	}
	k.expiry = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "assay_key_expiry_seconds", Help: "Time until the key that signs for a role has to be followed by another: its certificate's end, or that of its schedule.",
	}, []string{"role"})
	k.failed = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_key_rotation_failures_total", Help: "Steps of key rotations that failed and are tried again.",
	}, []string{"role"})
	if o.Registerer != nil {
		for _, c := range []prometheus.Collector{k.expiry, k.failed} {
			if err := o.Registerer.Register(c); err != nil {
				return nil, err
			}
		}
	}
	return k, nil
}

// Load reads the keys; none before the first start was completed.
func Load(ctx context.Context, tx *store.Tx) ([]Key, error) {
	docs, err := trust.Documents(ctx, tx, trust.DocAuthority)
	if err != nil {
		return nil, err
	}
	return Parse(docs)
}

// List gives all keys, in the order of roles, oldest first.
func (k *Keeper) List(ctx context.Context) (keys []Key, err error) {
	err = k.o.DB.View(ctx, func(tx *store.Tx) error { keys, err = Load(ctx, tx); return err })
	return keys, err
}

// put writes a row: raise says that verification changes, else only what is known
// about the key does.
func put(ctx context.Context, tx *store.Tx, k *Key, raise bool) error {
	body, err := marshal(k)
	if err != nil {
		return err
	}
	k.version++
	d := trust.Document{Kind: trust.DocAuthority, Name: k.Name, Version: k.version, Body: body}
	if !raise {
		return trust.RenewDocument(ctx, tx, d)
	}
	epoch, err := trust.PutDocument(ctx, tx, d)
	if err != nil {
		return err
	}
	return event.Append(ctx, tx, event.Event{Kind: event.TrustChanged, Actor: actor, Body: map[string]any{
		"what": "authority", "name": k.Name, "epoch": epoch,
	}})
}

// Adopt writes the rows of a site's first keys, one a role. They are active from
// the beginning of their windows. A role that has a row already keeps it, so that
// a release that knows a further role can be started.
func (k *Keeper) Adopt(ctx context.Context, keys []Key) error {
	return k.o.DB.Update(ctx, func(tx *store.Tx) error {
		have, err := Load(ctx, tx)
		if err != nil {
			return err
		}
		for _, key := range keys {
			if len(Of(have, key.Role)) > 0 {
				continue
			}
			key.Number, key.State = 1, Active
			key.Published, key.Activated = key.Start, key.Start
			if err := put(ctx, tx, &key, true); err != nil {
				return fmt.Errorf("adopt key %s: %w", key.Name, err)
			}
		}
		return nil
	})
}

// Describe fills what a key says of itself.
func Describe(r Role, name string, signer crypto.Signer, chain []*x509.Certificate, start time.Time) (Key, error) {
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return Key{}, fault.Wrap(fault.Invalid, err)
	}
	fp, err := trust.KeyFingerprint(signer.Public())
	if err != nil {
		return Key{}, err
	}
	k := Key{Role: r, Name: name, Algorithm: algorithm(signer.Public()), Fingerprint: fp, Public: der, Created: start, Start: start}
	for _, c := range chain {
		k.Chain = append(k.Chain, c.Raw)
	}
	return k, nil
}

// Request asks for the rotation of one role's key.
type Request struct {
	Role Role
	// Now does not wait for the overlap: clients that have not renewed what they
	// know meet signatures of a key that they have not heard of.
	Now bool
	// Compromised ends the window of the present key at Since (zero: now) and
	// does not wait either.
	Compromised bool
	Since       time.Time
	Place       string // where the new key is made, a URI; "": as configured
	Actor       string // who asked
}

// maxKeys of a role; the trusted root holds 64 of each kind.
const maxKeys = 60

// Rotate makes the key that follows, writes its row, and publishes it. When it
// takes over, [Keeper.Step] says. Of a rotation that is under way already, Now
// and Compromised hurry it; else it is [fault.Conflict].
func (k *Keeper) Rotate(ctx context.Context, q Request) (Key, error) {
	if !q.Role.Valid() {
		return Key{}, fault.Newf(fault.Invalid, "no key of role %.40q: want one of %v", string(q.Role), Roles())
	}
	now := k.o.Clock().UTC()
	switch {
	case !q.Since.IsZero() && !q.Compromised:
		return Key{}, fault.Newf(fault.Invalid, "a time from which a key is not believed is for a compromised one")
	case q.Since.After(now):
		return Key{}, fault.Newf(fault.Invalid, "since %s is yet to come: now is %s", q.Since.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	next, err := k.ask(ctx, q)
	if err != nil {
		return Key{}, err
	}
	_, err = k.Step(ctx)
	k.nudge()
	return k.reread(ctx, next, err)
}

// ask writes what a request asks for.
func (k *Keeper) ask(ctx context.Context, q Request) (Key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	keys, err := k.List(ctx)
	if err != nil {
		return Key{}, err
	}
	if !k.mine(q.Role) {
		return Key{}, fault.Newf(fault.NotFound, "the %s key is not in this process's folder: ask the process of this site that holds it", q.Role)
	}
	active := ActiveOf(keys, q.Role)
	if active == nil {
		return Key{}, fault.Newf(fault.NotFound, "this site has no key of role %s", q.Role)
	}
	if len(Of(keys, q.Role)) >= maxKeys {
		return Key{}, fault.Newf(fault.Conflict, "role %s has had %d keys, and a trusted root holds no more: start a new site, and trust this one's root there", q.Role, maxKeys)
	}
	next := Key{}
	if in := In(keys, q.Role, Pending); len(in) == 1 {
		if !q.Now && !q.Compromised {
			return Key{}, fault.Newf(fault.Conflict, "key %s is pending already, and takes over at %s; --now does not wait", in[0].Name, said(k.o.Schedule(q.Role).TakesOver(in[0])))
		}
		next = in[0]
	} else if next, err = k.make(ctx, q, len(Of(keys, q.Role))+1); err != nil {
		k.failed.WithLabelValues(string(q.Role)).Inc()
		return Key{}, fmt.Errorf("rotate %s: %w", q.Role, err)
	}
	if q.Compromised {
		next.Reason = ReasonCompromised
	}
	next.Hurry = next.Hurry || q.Now || q.Compromised
	return next, k.begin(ctx, q, &next)
}

// reread gives a key's row as it is now; without it, as it was. What is written
// is not undone by a failure to publish: the next step does that.
func (k *Keeper) reread(ctx context.Context, was Key, failed error) (Key, error) {
	keys, err := k.List(ctx)
	if err != nil {
		return was, errors.Join(failed, err)
	}
	for _, key := range keys {
		if key.Name == was.Name {
			was = key
		}
	}
	if failed != nil {
		return was, fmt.Errorf("key %s was made and is not in force everywhere yet, which is tried again: %w", was.Name, failed)
	}
	return was, nil
}

func said(t time.Time) string {
	if t.IsZero() {
		return "a time that is known once it is published"
	}
	return t.UTC().Format(time.RFC3339)
}

// make makes a key and its chain. Run again after a crash, it finds the key.
func (k *Keeper) make(ctx context.Context, q Request, number int) (Key, error) {
	name := string(q.Role) + "." + strconv.Itoa(number)
	place := q.Place
	if place == "" {
		var err error
		if place, err = k.o.Place(q.Role, number); err != nil {
			return Key{}, err
		}
	}
	signer, err := k.o.Keys.New(ctx, name, place, q.Role.rsa())
	if err != nil {
		return Key{}, err
	}
	var chain []*x509.Certificate
	if q.Role == CA || q.Role == TSA {
		if chain, err = k.o.Chain(q.Role, signer); err != nil {
			return Key{}, err
		}
	}
	key, err := Describe(q.Role, name, signer, chain, k.o.Clock().UTC().Truncate(time.Second))
	key.Number, key.State, key.Place = number, Pending, place
	return key, err
}

// begin writes the pending row, and what a compromise means for the active one.
func (k *Keeper) begin(ctx context.Context, q Request, next *Key) error {
	by := q.Actor
	if by == "" {
		by = actor
	}
	fresh := next.version == 0
	return k.o.DB.Update(ctx, func(tx *store.Tx) error {
		now := *next // fn may run twice
		if err := put(ctx, tx, &now, true); err != nil {
			return err
		}
		if fresh {
			if err := event.Append(ctx, tx, event.Event{Kind: event.KeyCreated, Actor: by, Body: map[string]any{
				"role": now.Role, "name": now.Name, "fingerprint": now.Fingerprint, "algorithm": now.Algorithm, "reason": now.Reason,
			}}); err != nil {
				return err
			}
		}
		if !q.Compromised {
			return nil
		}
		keys, err := Load(ctx, tx)
		if err != nil {
			return err
		}
		old := ActiveOf(keys, q.Role)
		old.Reason, old.End = ReasonCompromised, q.Since.UTC()
		if q.Since.IsZero() {
			old.End = tx.Now().UTC()
		}
		if old.End.Before(old.Start) {
			old.End = old.Start
		}
		return put(ctx, tx, old, true)
	})
}
