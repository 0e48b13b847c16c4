package verify

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"assay/artifact"
	"assay/attestation"
	"assay/blob"
	"assay/blob/sweep"
	"assay/event"
	"assay/evidence"
	"assay/internal/fault"
	"assay/policy"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
	"assay/trust/trusttest"
)

// rig is an engine over a database, with a clock and a source that tests move.
type rig struct {
	*Engine
	w   *world
	db  *store.DB
	key *ecdsa.PrivateKey

	mu     sync.Mutex
	items  Items
	now    time.Time
	epoch  int64
	stale  bool
	err    error
	before func() // called before evidence is read
	reads  atomic.Int32
}

func (r *rig) Evidence(context.Context, artifact.Digest) ([]Item, bool, error) {
	r.reads.Add(1)
	r.mu.Lock()
	before := r.before
	r.mu.Unlock()
	if before != nil {
		before()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.items, false, r.err
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) advance(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

func (r *rig) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func newRig(t testing.TB, db *store.DB, change ...func(*Options)) *rig {
	t.Helper()
	w := newWorld(t)
	r := &rig{w: w, db: db, key: trusttest.NewKey(t), now: w.now()}
	if err := db.Migrate(t.Context(), event.Migrations, sweep.Migrations, trust.Migrations, Migrations); err != nil {
		t.Fatal(err)
	}
	v := w.verifier(r.key) // even where the decision key is trusted, it is no evidence
	o := Options{
		DB: db, Source: r, Key: r.key, VerifierID: "https://assay.example", Host: "assay.example", Clock: r.clock, CacheAge: time.Hour,
		Trust: func() TrustState {
			r.mu.Lock()
			defer r.mu.Unlock()
			return TrustState{Verifier: v, Epoch: r.epoch, Stale: r.stale}
		},
	}
	for _, c := range change {
		c(&o)
	}
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r.Engine = e
	return r
}

var scope = policy.Scope{ID: "repository/team-a/app", Environment: "production", Team: "team-a"}

func decideOn(t testing.TB, r *rig, p *policy.Policy) *Decision {
	t.Helper()
	d, err := r.Decide(t.Context(), target(content), scope, p)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// events gives the kinds and bodies that wait to be sealed.
func events(t testing.TB, db *store.DB) (out []string) {
	t.Helper()
	err := db.View(t.Context(), func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(t.Context(), `SELECT kind, body FROM event_pending ORDER BY time, ord`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var kind, body string
			if err := rows.Scan(&kind, &body); err != nil {
				return err
			}
			var b map[string]string
			if err := json.Unmarshal([]byte(body), &b); err != nil {
				return err
			}
			out = append(out, strings.TrimSpace(kind+" "+b["from"]+" "+b["verdict"]))
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDecide(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		r := newRig(t, db)
		p := parse(t, fullPolicy)
		if _, err := r.Current(t.Context(), target(content).Digest, scope.ID); !errors.Is(err, fault.NotFound) {
			t.Errorf("undecided: %v", err)
		}
		denied := decideOn(t, r, p)
		if denied.Allowed() || !denied.Blocks() || !errors.Is(denied.Err(), fault.Denied) {
			t.Errorf("without evidence: %+v", denied)
		}
		r.set(func() { r.items = fullEvidence(r.w) })
		d := decideOn(t, r, p)
		if !d.Allowed() || d.Err() != nil || d.Policy != "test" || d.FactsHash == denied.FactsHash {
			t.Fatalf("%+v", d)
		}
		if want := r.now.Add(24 * time.Hour); !d.ValidUntil.Equal(want) {
			t.Errorf("valid until %v, want %v", d.ValidUntil, want)
		}
		for name, get := range map[string]func() (*Decision, error){
			"current": func() (*Decision, error) { return r.Current(t.Context(), d.Digest, scope.ID) },
			"get":     func() (*Decision, error) { return r.Get(t.Context(), d.ID) },
			"list": func() (*Decision, error) {
				l, err := r.List(t.Context(), d.Digest)
				if len(l) != 1 {
					return nil, fmt.Errorf("%d decisions", len(l))
				}
				return l[0], err
			},
		} {
			got, err := get()
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if diff := cmp.Diff(d, got, cmpopts.IgnoreUnexported(policy.Check{})); diff != "" {
				t.Errorf("%s (-made +read)\n%s", name, diff)
			}
		}
		want := []string{"decision.made  deny", "decision.made  allow", "decision.changed deny allow"}
		if diff := cmp.Diff(want, events(t, db)); diff != "" {
			t.Errorf("events (-want +got)\n%s", diff)
		}
		old, err := r.Get(t.Context(), denied.ID)
		if err != nil || old.Verdict != policy.Deny || !old.ValidUntil.IsZero() {
			t.Errorf("the decision before: %+v, %v", old, err)
		}
		if rep, err := r.Report(t.Context(), denied); err != nil || !strings.HasPrefix(rep.Checks[2].Mend, "assay sign assay.example/team-a/app@sha256:") {
			t.Errorf("%+v, %v", rep, err)
		}
		rep, err := r.Report(t.Context(), d)
		if err != nil || !rep.Allowed() || len(rep.Evidence) != 3 || rep.DecisionID != d.ID {
			t.Errorf("%+v, %v", rep, err)
		}
	})
}

// A decision is a signed verification summary that other tools can read.
func TestDecisionIsVSA(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	r := newRig(t, db)
	r.items = fullEvidence(r.w)
	d := decideOn(t, r, parse(t, fullPolicy))
	env, err := attestation.ParseEnvelope(d.VSA, attestation.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := attestation.VerifyDSSE(env, r.key.Public()); err != nil || len(m) != 1 {
		t.Fatal(m, err)
	}
	s, err := env.Statement(attestation.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Match(d.Digest.Set()); !ok {
		t.Error("about another artifact")
	}
	v, err := s.VSA()
	if err != nil {
		t.Fatal(err)
	}
	if v.Verifier.ID != "https://assay.example" || v.VerificationResult != attestation.VSAPassed || v.ResourceURI != "oci://assay.example/team-a/app@"+string(d.Digest) ||
		!v.TimeVerified.Equal(r.now) || v.Policy.Digest["sha256"] != d.PolicyHash || len(v.InputAttestations) != 3 ||
		fmt.Sprint(v.VerifiedLevels) != "[SLSA_BUILD_LEVEL_3]" || string(v.Extensions[vsaFacts]) != `"`+d.FactsHash+`"` {
		t.Errorf("%+v", v)
	}
	for _, in := range v.InputAttestations {
		if !strings.Contains(in.URI, in.Digest["sha256"]) {
			t.Errorf("%+v", in)
		}
	}
	r.items = nil
	d = decideOn(t, r, parse(t, fullPolicy))
	env, _ = attestation.ParseEnvelope(d.VSA, attestation.Limits{})
	s, _ = env.Statement(attestation.Limits{})
	if v, err = s.VSA(); err != nil || v.VerificationResult != attestation.VSAFailed || len(v.VerifiedLevels) != 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

// Facts that did not change extend the decision that stands; a change of facts,
// policy or outcome makes another.
func TestExtend(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		r := newRig(t, db)
		r.items = Items{r.w.sign(alice, content)}
		p := parse(t, signedByAlice)
		d := decideOn(t, r, p)
		r.advance(time.Hour)
		again := decideOn(t, r, p)
		if again.ID != d.ID || !again.ValidUntil.Equal(d.ValidUntil.Add(time.Hour)) || !again.DecidedAt.Equal(d.DecidedAt) {
			t.Errorf("%+v", again)
		}
		if cur, err := r.Current(t.Context(), d.Digest, scope.ID); err != nil || !cur.ValidUntil.Equal(again.ValidUntil) {
			t.Errorf("%+v, %v", cur, err)
		}
		if got := len(events(t, db)); got != 1 {
			t.Errorf("%d events, want 1", got)
		}
		r.set(func() { r.items = append(Items{}, r.items[0], r.w.sign("bob@example.org", content)) })
		if other := decideOn(t, r, p); other.ID == d.ID || other.FactsHash == d.FactsHash {
			t.Errorf("other facts: %+v", other)
		}
		q := parse(t, strings.Replace(signedByAlice, "spec:\n", "spec:\n  mode: audit\n", 1))
		if other := decideOn(t, r, q); other.PolicyHash == d.PolicyHash || other.Mode != policy.Audit || other.Blocks() {
			t.Errorf("another policy: %+v", other)
		}
	})
}

// Time alone turns a verdict whose evidence may not be old, and the decision
// ends when it would.
func TestValidUntil(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	r := newRig(t, db)
	r.items = Items{r.w.sign(alice, content)} // signed two minutes after Start
	p := parse(t, signedByAlice+"    maxAge: 2h\n")
	d := decideOn(t, r, p)
	if want := r.w.Start.Add(2*time.Hour + 2*time.Minute); !d.Allowed() || !d.ValidUntil.Equal(want) {
		t.Fatalf("%s until %v, want %v", d.Verdict, d.ValidUntil, want)
	}
	r.advance(65 * time.Minute)
	got, err := r.Current(t.Context(), d.Digest, scope.ID)
	if !errors.Is(err, fault.Undecided) || got == nil || got.ID != d.ID {
		t.Errorf("ended: %+v, %v", got, err)
	}
	due, err := r.Due(t.Context(), r.now, 10)
	if err != nil || len(due) != 1 || due[0].Subject.Repository != "team-a/app" || due[0].Scope != scope {
		t.Errorf("due %+v, %v", due, err)
	}
	after := decideOn(t, r, p)
	if after.Allowed() || after.FactsHash != d.FactsHash || after.ID == d.ID {
		t.Errorf("the same facts, two hours later: %+v", after)
	}
	if got, err := r.Current(t.Context(), d.Digest, scope.ID); err != nil || got.Verdict != policy.Deny {
		t.Errorf("%+v, %v", got, err)
	}
}

// Facts that are gone or altered keep their own decision from being made again,
// and no other one.
func TestDueWithLostFacts(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		r := newRig(t, db)
		r.items = Items{r.w.sign(alice, content)}
		p := parse(t, signedByAlice)
		var made []*Decision
		for _, id := range []string{"one", "two", "three"} {
			d, err := r.Decide(t.Context(), target(content), policy.Scope{ID: id}, p)
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, d)
		}
		if err := db.Update(t.Context(), func(tx *store.Tx) error {
			if _, err := tx.Exec(t.Context(), `DELETE FROM decision_facts WHERE id = ?`, made[0].FactsHash); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), `UPDATE decision_facts SET body = ? WHERE id = ?`, []byte("{}"), made[1].FactsHash)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		due, err := r.Due(t.Context(), made[2].ValidUntil, 10)
		if err != nil || len(due) != 3 {
			t.Fatalf("due %+v, %v", due, err)
		}
		for _, d := range due {
			if lost := d.Scope.ID != "three"; errors.Is(d.Lost, fault.Tampered) != lost || d.Subject.Digest != made[0].Digest {
				t.Errorf("scope %s: %+v", d.Scope.ID, d)
			}
		}
	})
}

// The same facts and policy give the same result, byte for byte.
func TestReplay(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		r := newRig(t, db)
		r.items = fullEvidence(r.w)
		regoPolicy, err := policy.CompileRego("rego", policy.Module{Name: "m", Text: "package assay.policy\nallow if count(input.signatures) > 0\ndeny contains s.identity.subject if { some s in input.signatures; s.identity.issuer == \"x\" }\nwarn contains input.now\n"})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []*policy.Policy{parse(t, fullPolicy), regoPolicy.WithRegoTime(time.Minute), parse(t, signedByAlice+"    maxAge: 2h\n")} {
			r.set(func() { r.now = r.w.now() })
			d := decideOn(t, r, p)
			r.advance(1000 * time.Hour)
			want, _ := json.Marshal(d.Checks)
			for range 5 {
				res, err := r.Replay(t.Context(), d.ID, p)
				if err != nil || res.Verdict != d.Verdict {
					t.Fatalf("%+v, %v", res, err)
				}
				if got, _ := json.Marshal(res.Checks); !bytes.Equal(got, want) {
					t.Errorf("%s\nwant %s", got, want)
				}
			}
		}
		// Another policy over the recorded facts shows what would flip.
		d := decideOn(t, r, parse(t, fullPolicy))
		res, err := r.Replay(t.Context(), d.ID, parse(t, strings.Replace(signedByAlice, "alice@", "bob@", 1)))
		if err != nil || res.Verdict != policy.Deny {
			t.Errorf("%+v, %v", res, err)
		}
	})
}

// Facts and evidence that were altered in the store are found.
func TestThreat_Store_AlteredFacts(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		r := newRig(t, db)
		r.items = fullEvidence(r.w)
		d := decideOn(t, r, parse(t, fullPolicy))
		err := db.Update(t.Context(), func(tx *store.Tx) error {
			var body []byte
			if err := tx.QueryRow(t.Context(), `SELECT body FROM decision_facts WHERE id = ?`, d.FactsHash).Scan(&body); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), `UPDATE decision_facts SET body = ? WHERE id = ?`, bytes.Replace(body, []byte("alice"), []byte("malice"), 1), d.FactsHash)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Facts(t.Context(), d.FactsHash); !errors.Is(err, fault.Tampered) {
			t.Errorf("%v, want tampered", err)
		}
		if _, err := r.Replay(t.Context(), d.ID, parse(t, fullPolicy)); !errors.Is(err, fault.Tampered) {
			t.Errorf("%v, want tampered", err)
		}
	})
}

// When no answer can be found, the decision that stands is left as it is.
func TestUndecided(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	reg := prometheus.NewRegistry()
	r := newRig(t, db, func(o *Options) { o.Registerer = reg })
	r.items = Items{r.w.sign(alice, content)}
	p := parse(t, signedByAlice)
	d := decideOn(t, r, p)
	slow, err := policy.CompileRego("slow", policy.Module{Name: "m", Text: "package assay.policy\nl := input.signatures\nm := [1 | some i in split(\"" + strings.Repeat("a,", 2000) + "\", \",\"); some j in split(\"" + strings.Repeat("a,", 2000) + "\", \",\"); i == j]\nallow if count(m) > 0\n"})
	if err != nil {
		t.Fatal(err)
	}
	r.set(func() { r.err = errors.New("the disk is gone") })
	if _, err := r.Decide(t.Context(), target(content), scope, p); !errors.Is(err, fault.Undecided) {
		t.Errorf("source: %v", err)
	}
	r.set(func() { r.err = nil })
	if _, err := r.Decide(t.Context(), target(content), scope, slow); !errors.Is(err, fault.Undecided) {
		t.Errorf("budget: %v", err)
	}
	if err := db.Update(t.Context(), func(tx *store.Tx) error { _, err := trust.RaiseEpoch(t.Context(), tx, "a test"); return err }); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Decide(t.Context(), target(content), scope, p); !errors.Is(err, fault.Undecided) {
		t.Errorf("trust not loaded: %v", err)
	}
	if got, err := r.Current(t.Context(), d.Digest, scope.ID); err != nil || got.ID != d.ID {
		t.Errorf("%+v, %v", got, err)
	}
	if due, err := r.Due(t.Context(), time.Time{}, 10); err != nil || len(due) != 1 {
		t.Errorf("due after the epoch was raised: %+v, %v", due, err)
	}
	r.set(func() { r.epoch = 1 })
	if again := decideOn(t, r, p); again.ID != d.ID || again.TrustEpoch != 1 {
		t.Errorf("%+v", again)
	}
	if due, err := r.Due(t.Context(), time.Time{}, 10); err != nil || len(due) != 0 {
		t.Errorf("due: %+v, %v", due, err)
	}
	r.set(func() { r.stale = true })
	if stale := decideOn(t, r, p); stale.Allowed() || !strings.Contains(stale.Err().Error(), "trust/fresh") {
		t.Errorf("stale: %+v", stale)
	}
	want := `
# HELP assay_verify_decisions_total Questions that were answered, by verdict; undecided: no answer was found.
# TYPE assay_verify_decisions_total counter
assay_verify_decisions_total{verdict="allow"} 2
assay_verify_decisions_total{verdict="deny"} 1
assay_verify_decisions_total{verdict="undecided"} 3
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "assay_verify_decisions_total"); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		tg Target
		sc policy.Scope
		p  *policy.Policy
	}{"no scope": {target(content), policy.Scope{}, p}, "no policy": {target(content), scope, nil}, "no digest": {Target{}, scope, p}} {
		if _, err := r.Decide(t.Context(), c.tg, c.sc, c.p); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Decision keys are never evidence for the instance that made them.
func TestOwnDecisionsAreNoEvidence(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	r := newRig(t, db)
	vsa := statement(t, content, attestation.PredicateVSA, map[string]any{"verifier": map[string]any{"id": "x"}})
	r.items = Items{item(r.w.Sign(t, trusttest.Request{Statement: vsa, Key: r.key}))}
	fp, err := trust.KeyFingerprint(r.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.DefaultKey(fp)
	if err != nil {
		t.Fatal(err)
	}
	d := decideOn(t, r, p)
	f, err := r.Facts(t.Context(), d.FactsHash)
	if err != nil {
		t.Fatal(err)
	}
	if d.Allowed() || len(f.Rejected) != 1 || f.Rejected[0].Code != codeOwnDecision {
		t.Errorf("%s, %+v", d.Verdict, f.Rejected)
	}
	// Another instance may take it as evidence.
	if rep, err := Offline(t.Context(), target(content), r.items, OfflineOptions{Verifier: r.w.verifier(r.key), Policy: p, Clock: r.clock}); err != nil || !rep.Allowed() {
		t.Errorf("%+v, %v", rep, err)
	}
}

// Fifty who ask at once cost two readings at most, and nobody gets an answer
// that was begun before they asked.
func TestFlights(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	r := newRig(t, db)
	p := parse(t, signedByAlice)
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.before = func() { once.Do(func() { close(entered); <-release }) }
	first := make(chan *Decision, 1)
	go func() {
		d, err := r.Decide(context.Background(), target(content), scope, p)
		if err != nil {
			t.Error(err)
		}
		first <- d
	}()
	<-entered // it reads what was there before: nothing
	var wg sync.WaitGroup
	results := make(chan *Decision, 50)
	for range 50 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			d, err := r.Decide(context.Background(), target(content), scope, p)
			if err != nil {
				t.Error(err)
				return
			}
			results <- d
		}()
	}
	time.Sleep(50 * time.Millisecond) // let them queue
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Decide(ctx, target(content), scope, p); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if n := r.reads.Load(); n != 1 {
		t.Errorf("%d readings while the first runs", n)
	}
	// The evidence arrives while the first run is under way.
	r.set(func() { r.items = Items{r.w.sign(alice, content)} })
	close(release)
	wg.Wait()
	close(results)
	for d := range results {
		if !d.Allowed() {
			t.Fatalf("an answer from before the question: %+v", d.Checks)
		}
	}
	if n := r.reads.Load(); n > 3 {
		t.Errorf("%d readings for 51 questions", n)
	}
	<-first
	r.flights.mu.Lock()
	defer r.flights.mu.Unlock()
	if len(r.flights.slot) != 0 {
		t.Errorf("%d flights are left behind", len(r.flights.slot))
	}
}

// Two processes decide at once; each sees the other's decision within CacheAge.
func TestTwoEngines(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		a := newRig(t, db, func(o *Options) { o.CacheAge = time.Second })
		b := newRig(t, db, func(o *Options) { o.CacheAge = time.Second })
		b.w, b.now = a.w, a.now
		a.items = Items{a.w.sign(alice, content)}
		p := parse(t, signedByAlice)
		allowed := decideOn(t, a, p)
		if got, err := b.Current(t.Context(), allowed.Digest, scope.ID); err != nil || got.ID != allowed.ID {
			t.Fatalf("%+v, %v", got, err)
		}
		denied := decideOn(t, b, p) // it has no evidence
		if got, err := b.Current(t.Context(), allowed.Digest, scope.ID); err != nil || got.ID != denied.ID {
			t.Errorf("own write: %+v, %v", got, err)
		}
		if _, err := a.Current(t.Context(), allowed.Digest, scope.ID); err != nil {
			t.Error(err)
		}
		a.advance(time.Second)
		if got, err := a.Current(t.Context(), allowed.Digest, scope.ID); err != nil || got.ID != denied.ID {
			t.Errorf("the other's write, a second later: %+v, %v", got, err)
		}
		var wg sync.WaitGroup
		for range 4 {
			for _, r := range []*rig{a, b} {
				wg.Add(1)
				go func() {
					defer wg.Done()
					if _, err := r.Decide(t.Context(), target(content), scope, p); err != nil && !errors.Is(err, fault.Undecided) {
						t.Error(err)
					}
				}()
			}
		}
		wg.Wait()
	})
}

// The real store of evidence, and what it refused at its door.
func TestWithEvidenceStore(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(t.Context(), event.Migrations, sweep.Migrations, trust.Migrations, evidence.Migrations); err != nil {
			t.Fatal(err)
		}
		w := newWorld(t)
		blobs, err := blob.NewDir(t.TempDir()+"/blobs", blob.Options{})
		if err != nil {
			t.Fatal(err)
		}
		es, err := evidence.New(evidence.Options{DB: db, Blobs: blobs, Verifier: w.verifier()})
		if err != nil {
			t.Fatal(err)
		}
		defer es.Close()
		r := newRig(t, db, func(o *Options) {
			o.Source = es
			v := w.verifier()
			o.Trust = func() TrustState { return TrustState{Verifier: v} }
		})
		p := parse(t, fullPolicy)
		foreign := newWorld(t)
		if err := refer(t, es, blobs, foreign.attest(alice, statement(t, content, releaseType, map[string]any{"a": 1}))); err != nil {
			t.Fatal(err) // a push is not refused for what it refers with
		}
		d := decideOn(t, r, p)
		f, err := r.Facts(t.Context(), d.FactsHash)
		if err != nil || d.Allowed() || len(f.Rejected) != 1 {
			t.Fatalf("%s %+v, %v", d.Verdict, f, err)
		}
		if !strings.Contains(d.Checks[2].Found, "1 rejected") {
			t.Errorf("the trail does not name what was refused: %s", d.Checks[2].Found)
		}
		for _, it := range fullEvidence(w) {
			if err := refer(t, es, blobs, it); err != nil {
				t.Fatal(err)
			}
		}
		if d = decideOn(t, r, p); !d.Allowed() {
			t.Errorf("%v", d.Err())
		}
	})
}

// refer brings a bundle as a registry does: by a manifest that refers to the
// artifact.
func refer(t *testing.T, es *evidence.Store, blobs blob.Store, it Item) error {
	t.Helper()
	b, err := attestation.ParseBundle(it.Bundle, attestation.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	subject := attestation.Descriptor{MediaType: attestation.MediaTypeOCIManifest, Digest: artifact.SHA256Of(content), Size: int64(len(content))}
	manifest, err := attestation.NewReferrerManifest(subject, b, time.Unix(1e9, 0))
	if err != nil {
		t.Fatal(err)
	}
	var d artifact.Digest
	for _, part := range [][]byte{[]byte(attestation.EmptyConfig), it.Bundle, manifest} {
		if d, err = blob.Put(t.Context(), blobs, part); err != nil {
			t.Fatal(err)
		}
	}
	return es.Referrer(t.Context(), subject.Digest, "team-a/app", d, attestation.MediaTypeBundle)
}

func TestNewErrors(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	for name, change := range map[string]func(*Options){
		"no database": func(o *Options) { o.DB = nil },
		"no source":   func(o *Options) { o.Source = nil },
		"no trust":    func(o *Options) { o.Trust = nil },
		"no key":      func(o *Options) { o.Key = nil },
		"no id":       func(o *Options) { o.VerifierID = "" },
		"builder":     func(o *Options) { o.Builders = []policy.Builder{{ID: "x", Level: 3}} },
		"level": func(o *Options) {
			o.Builders = []policy.Builder{{ID: "x", Level: 9, Signer: policy.IdentityMatch{Issuer: "a", Subject: "b"}}}
		},
	} {
		o := Options{DB: db, Source: Items{}, Key: trusttest.NewKey(t), VerifierID: "https://x.example", Trust: func() TrustState { return TrustState{} }}
		change(&o)
		if _, err := New(o); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
	e, err := New(Options{DB: db, Source: Items{}, Key: trusttest.NewKey(t), VerifierID: "https://x.example", Trust: func() TrustState { return TrustState{} }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Decide(t.Context(), target(content), scope, parse(t, signedByAlice)); !errors.Is(err, fault.Undecided) {
		t.Errorf("no root: %v", err)
	}
}

// The cache is bounded, and a reading that was overtaken by a write is not kept.
func TestCache(t *testing.T) {
	c := newDecisions(10, time.Minute)
	now := time.Unix(1e9, 0)
	key := func(i int) decisionKey { return decisionKey{artifact.SHA256Of(fmt.Append(nil, i)), "s"} }
	for i := range 1000 {
		c.put(key(i), &Decision{ID: fmt.Sprint(i)}, now, c.seq.Load())
	}
	if n := len(c.new) + len(c.old); n > 10 {
		t.Errorf("%d entries", n)
	}
	if d, _, ok := c.get(key(999), now); !ok || d.ID != "999" {
		t.Error("the newest is gone")
	}
	if _, _, ok := c.get(key(999), now.Add(time.Minute)); ok {
		t.Error("too old, and given")
	}
	if _, _, ok := c.get(key(999), now.Add(-time.Minute)); ok {
		t.Error("from the future, and given")
	}
	_, seq, _ := c.get(key(5000), now)
	c.drop(key(5000))
	c.put(key(5000), &Decision{}, now, seq)
	if _, _, ok := c.get(key(5000), now); ok {
		t.Error("a reading from before the write is kept")
	}
	v := newVerdicts(64 << 10)
	for i := range 1000 {
		v.put(verdictKey{id: fmt.Sprint(i)}, collected{predicateType: fmt.Sprint(i)})
	}
	v.put(verdictKey{id: "giant"}, collected{predicate: make([]byte, 1<<20)})
	if n := len(v.new) + len(v.old); n > 64 || n == 0 {
		t.Errorf("%d verdicts", n)
	}
	if got, ok := v.get(verdictKey{id: "999"}); !ok || got.predicateType != "999" {
		t.Error("the newest verdict is gone")
	}
}

func BenchmarkCurrent(b *testing.B) {
	for _, d := range storetest.Dialects {
		for _, age := range []time.Duration{time.Hour, time.Nanosecond} {
			name := string(d) + "/memory"
			if age == time.Nanosecond {
				name = string(d) + "/sql"
			}
			b.Run(name, func(b *testing.B) {
				r := newRig(b, storetest.Open(b, d), func(o *Options) { o.CacheAge = age })
				r.items = fullEvidence(r.w)
				dec := decideOn(b, r, parse(b, fullPolicy))
				for b.Loop() {
					if age == time.Nanosecond {
						r.now = r.now.Add(time.Nanosecond)
					}
					if _, err := r.Current(b.Context(), dec.Digest, scope.ID); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkDecideExtend(b *testing.B) {
	r := newRig(b, storetest.Open(b, store.SQLite))
	r.items = fullEvidence(r.w)
	p := parse(b, fullPolicy)
	for b.Loop() {
		decideOn(b, r, p)
	}
}

// A decision from before the last change of trust is not answered as if it held,
// neither from memory nor from the database; a change that the state does not
// have yet is fetched before it is decided.
func TestTrustChanged(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		refreshed := 0
		var r *rig
		r = newRig(t, db, func(o *Options) {
			o.Refresh = func(context.Context) error {
				refreshed++
				r.set(func() { r.epoch++ })
				return nil
			}
		})
		r.set(func() { r.items = fullEvidence(r.w) })
		p := parse(t, fullPolicy)
		d := decideOn(t, r, p)
		if got, err := r.Current(t.Context(), d.Digest, scope.ID); err != nil || !got.Allowed() {
			t.Fatalf("before: %+v, %v", got, err)
		}
		if err := db.Update(t.Context(), func(tx *store.Tx) error { _, err := trust.RaiseEpoch(t.Context(), tx, "a test"); return err }); err != nil {
			t.Fatal(err)
		}
		if again := decideOn(t, r, p); refreshed != 1 || again.TrustEpoch != 1 {
			t.Errorf("decided under epoch %d after %d refreshes, want 1 and 1", again.TrustEpoch, refreshed)
		}
		r.set(func() { r.epoch = 2 })
		for _, where := range []string{"from memory", "again"} {
			if got, err := r.Current(t.Context(), d.Digest, scope.ID); !errors.Is(err, fault.Undecided) || got == nil {
				t.Errorf("%s: %+v, %v; want the old decision, undecided", where, got, err)
			}
		}
	})
}
