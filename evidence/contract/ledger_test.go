package contract

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/policy"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
)

// book is a ledger with a clock, contracts and evidence that a test moves.
type book struct {
	t     *testing.T
	db    *store.DB
	mu    sync.Mutex
	now   time.Time
	facts map[artifact.Digest]*policy.Facts
	fail  error
	set   *Set
	led   *Ledger
}

// each runs a test on both databases, with a clock of its own.
func each(t *testing.T, cs []*Contract, f func(t *testing.T, b *book)) {
	b := &book{}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		*b = book{t: t, db: db, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), facts: map[artifact.Digest]*policy.Facts{}}
		if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
			t.Fatal(err)
		}
		var err error
		if b.set, err = NewSet(cs...); err != nil {
			t.Fatal(err)
		}
		b.led = b.ledger()
		f(t, b)
	}, store.WithClock(func() time.Time { b.mu.Lock(); defer b.mu.Unlock(); return b.now }))
}

func (b *book) ledger() *Ledger {
	l, err := New(Options{DB: b.db, Events: event.NewLog(b.db, event.LogOptions{}), Contracts: func() *Set { return b.set }, Facts: func(_ context.Context, d artifact.Digest, _ string) (*Facts, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.fail != nil {
			return nil, b.fail
		}
		f := b.facts[d]
		if f == nil {
			f = &policy.Facts{}
		}
		return &Facts{Facts: f, SBOM: func(string) (SBOM, bool) { return SBOM{}, false }}, nil
	}})
	if err != nil {
		b.t.Fatal(err)
	}
	return l
}

func (b *book) pass(d time.Duration) { b.mu.Lock(); b.now = b.now.Add(d); b.mu.Unlock() }

// happen hands an event to the follower, as Consume does.
func (b *book) happen(k event.Kind, d artifact.Digest, who string, body map[string]any) {
	b.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		b.t.Fatal(err)
	}
	e := event.Event{Kind: k, Digest: d, Actor: who, Time: b.db.Now(), Body: json.RawMessage(raw)}
	if err := b.db.Update(b.t.Context(), func(tx *store.Tx) error { return b.led.follow(b.t.Context(), tx, []event.Event{e}) }); err != nil {
		b.t.Fatal(err)
	}
}

func (b *book) push(d artifact.Digest, repository, tag, who string) {
	b.t.Helper()
	b.happen(event.ArtifactPushed, d, who, map[string]any{"repository": repository, "tag": tag})
}

func (b *book) sign(d artifact.Digest, who string) {
	b.t.Helper()
	f := &policy.Facts{Signatures: []policy.Signature{{Evidence: evidenceBy("att_"+who, who)}}}
	b.mu.Lock()
	b.facts[d] = f
	b.mu.Unlock()
	b.happen(event.AttestationIngested, d, who, map[string]any{"id": "att_x"})
}

func (b *book) look() {
	b.t.Helper()
	for {
		n, err := b.led.Look(b.t.Context())
		if err != nil {
			b.t.Fatal(err)
		}
		if n == 0 {
			return
		}
	}
}

// told lists the events of the ledger: kind, and what is missing.
func (b *book) told() []string {
	b.t.Helper()
	out := []string{}
	err := b.db.View(b.t.Context(), func(tx *store.Tx) error {
		rows, err := tx.Query(b.t.Context(), `SELECT kind, body FROM event_pending ORDER BY time, ord`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var kind string
			var body string
			if err := rows.Scan(&kind, &body); err != nil {
				return err
			}
			var in struct{ Missing []string }
			_ = json.Unmarshal([]byte(body), &in)
			if strings.HasPrefix(kind, "evidence.") {
				out = append(out, strings.TrimSpace(kind+" "+strings.Join(in.Missing, ",")))
			}
		}
		return rows.Err()
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *book) want(what string, want ...string) {
	b.t.Helper()
	b.look()
	if d := cmp.Diff(append([]string{}, want...), b.told()); d != "" {
		b.t.Errorf("%s: %s", what, d)
	}
}

func digestOf(s string) artifact.Digest { return artifact.SHA256Of([]byte(s)) }

const signedOnly = `{version: 1, repositories: ["team/**"], evidence: [{name: sig, signature: true, identities: [` + ci + `]}]}`

// What is missing when the time is over is named, once; foreign identities do
// not count; what comes later completes it, late.
func TestMissingAndCompleted(t *testing.T) {
	each(t, []*Contract{mustContract(t, "release", signedOnly)}, func(t *testing.T, b *book) {
		d := digestOf("a")
		b.push(d, "team/app", "v1", "alice")
		b.push(d, "other/app", "v1", "alice") // no contract
		b.want("at once")
		b.pass(59 * time.Second)
		b.want("after 59 s")
		b.sign(d, "eve@example.com")
		b.want("signed by eve")
		b.pass(2 * time.Second)
		b.want("after 61 s", "evidence.missing sig")
		b.pass(time.Hour)
		b.led = b.ledger() // a restart
		b.push(d, "team/app", "v2", "alice")
		b.want("an hour later, started anew and pushed again", "evidence.missing sig")
		b.sign(d, "ci@example.com")
		b.want("signed", "evidence.missing sig", "evidence.completed")
		rows, err := b.led.Coverage(t.Context(), b.db.Now().Add(-24*time.Hour), "")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]Coverage{{"team/app", "signature", 1, 0, 1, 0, 0}}, rows); diff != "" {
			t.Error(diff)
		}
		// Revoked: what was there is there no longer.
		b.facts[d] = &policy.Facts{}
		b.happen(event.RevocationAffects, d, "system:trust", map[string]any{})
		b.want("revoked", "evidence.missing sig", "evidence.completed", "evidence.missing sig")
	})
}

func TestInTime(t *testing.T) {
	each(t, []*Contract{mustContract(t, "release", signedOnly)}, func(t *testing.T, b *book) {
		d := digestOf("a")
		b.push(d, "team/app", "v1", "alice")
		b.pass(30 * time.Second)
		b.sign(d, "ci@example.com")
		b.want("signed in time")
		b.pass(time.Hour)
		b.want("later")
		bound, err := b.led.For(t.Context(), d, "team/app")
		if err != nil {
			t.Fatal(err)
		}
		if f := bound.Fact("team/app", b.facts[d], nil); !f.Complete || len(f.Late) > 0 || f.Version != 1 {
			t.Errorf("%+v", f)
		}
		// What carries evidence, or is a child of an index, or of profile dev, owes
		// nothing.
		b.happen(event.ArtifactPushed, digestOf("b"), "alice", map[string]any{"repository": "team/app", "subject": string(d)})
		b.push(digestOf("c"), "team/app", "sha256-"+d.Hex()+".sig", "alice")
		b.push(digestOf("d"), "team/app", "", "alice")
		b.happen(event.ArtifactPushed, digestOf("e"), "alice", map[string]any{"repository": "team/app", "tag": "x", "profile": "dev"})
		b.pass(time.Hour)
		b.want("what owes nothing")
		// What is deleted owes nothing any more.
		b.push(digestOf("f"), "team/app", "v9", "alice")
		b.happen(event.ArtifactDeleted, digestOf("f"), "alice", map[string]any{"repository": "team/app", "what": "manifest"})
		b.pass(time.Hour)
		b.want("deleted")
	})
}

// Evidence that cannot be verified now is no missing evidence: it is looked at
// again.
func TestUndecidedIsNotMissing(t *testing.T) {
	each(t, []*Contract{mustContract(t, "release", signedOnly)}, func(t *testing.T, b *book) {
		b.push(digestOf("a"), "team/app", "v1", "alice")
		b.pass(2 * time.Minute)
		b.fail = fault.Newf(fault.Undecided, "no root")
		b.want("undecided")
		b.fail = nil
		b.want("rests")
		b.pass(lookRest)
		b.want("after its rest", "evidence.missing sig")
	})
}

// Several ledgers over one database tell once.
func TestReplicas(t *testing.T) {
	each(t, []*Contract{mustContract(t, "release", signedOnly)}, func(t *testing.T, b *book) {
		for _, n := range []string{"a", "b", "c", "d", "e"} {
			b.push(digestOf(n), "team/app", n, "alice")
		}
		b.pass(2 * time.Minute)
		var wg sync.WaitGroup
		for range 4 {
			l := b.ledger()
			wg.Go(func() {
				for range 4 {
					if _, err := l.Look(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if got := b.told(); len(got) != 5 {
			t.Errorf("%d events of 5 pushes: %v", len(got), got)
		}
	})
}

// A build's start chooses the contract; its push is found by its actor, its
// products by the build's end; others cannot speak for it.
func TestBuilds(t *testing.T) {
	strict := mustContract(t, "strict", signedOnly)
	nightly := mustContract(t, "nightly", `{version: 7, repositories: ["team/**"], workflows: ["org/app/nightly@*"], evidence: [{name: note, predicateType: https://x.example/note, identities: [`+ci+`]}]}`)
	each(t, []*Contract{strict, nightly}, func(t *testing.T, b *book) {
		ctx := t.Context()
		start := func(actor, workflow string) *Build {
			t.Helper()
			got, _, err := b.led.Start(ctx, actor, "team/app", Starter{Workflow: workflow})
			if err != nil {
				t.Fatal(err)
			}
			b.pass(time.Millisecond)
			return got
		}
		one := start("ci", "org/app/nightly@main")
		if one.Contract != "nightly" || one.Version != 7 {
			t.Fatalf("%+v", one)
		}
		bound := func(d artifact.Digest) string {
			t.Helper()
			got, err := b.led.For(ctx, d, "team/app")
			if err != nil || got == nil {
				t.Fatal(got, err)
			}
			return got.Contract.Name + " " + got.Build
		}
		b.push(digestOf("mine"), "team/app", "n1", "ci")
		if got := bound(digestOf("mine")); got != "nightly "+one.ID {
			t.Error(got)
		}
		b.push(digestOf("theirs"), "team/app", "v1", "eve")
		if got := bound(digestOf("theirs")); got != "strict " {
			t.Errorf("a push by another is of the build: %s", got)
		}
		// The end names a product that another pushed, and one that is yet to come.
		if _, err := b.led.Finish(ctx, "ci", one.ID, "passed", "inv", []Product{{"x", digestOf("theirs")}, {"late", digestOf("late")}}); err != nil {
			t.Fatal(err)
		}
		if got := bound(digestOf("theirs")); got != "strict " {
			t.Errorf("a build's end claimed another's push: %s", got)
		}
		b.push(digestOf("late"), "team/app", "", "ci")
		if got := bound(digestOf("late")); got != "nightly "+one.ID {
			t.Error(got)
		}
		b.push(digestOf("after"), "team/app", "n2", "ci")
		if got := bound(digestOf("after")); got != "strict " {
			t.Errorf("a build that is over binds more: %s", got)
		}
		// A product that was pushed while a newer build was under way goes to the one
		// that names it.
		two, three := start("ci", "org/app/nightly@main"), start("ci", "")
		b.push(digestOf("two's"), "team/app", "n3", "ci")
		if got := bound(digestOf("two's")); got != "strict "+three.ID {
			t.Error(got)
		}
		if _, err := b.led.Finish(ctx, "ci", two.ID, "passed", "", []Product{{"", digestOf("two's")}}); err != nil {
			t.Fatal(err)
		}
		if got := bound(digestOf("two's")); got != "nightly "+two.ID {
			t.Error(got)
		}
		for name, err := range map[string]error{
			"another's": second(b.led.Finish(ctx, "eve", three.ID, "passed", "", nil)),
			"twice":     second(b.led.Finish(ctx, "ci", two.ID, "failed", "", nil)),
			"unknown":   second(b.led.Finish(ctx, "ci", "bld_x", "passed", "", nil)),
			"outcome":   second(b.led.Finish(ctx, "ci", three.ID, "maybe", "", nil)),
			"products":  second(b.led.Finish(ctx, "ci", three.ID, "failed", "", []Product{{"", digestOf("x")}})),
			"digest":    second(b.led.Finish(ctx, "ci", three.ID, "passed", "", []Product{{"", "sha256:1"}})),
		} {
			if err == nil || fault.KindOf(err) == fault.Internal {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := b.led.Finish(ctx, "ci", two.ID, "passed", "", nil); err != nil {
			t.Errorf("the same end again: %v", err)
		}
		if _, _, err := b.led.Start(ctx, "ci", "Team App", Starter{}); !errors.Is(err, fault.Invalid) {
			t.Errorf("%v", err)
		}
		all, err := b.led.Builds(ctx, "team/app", "", 2)
		if err != nil || len(all) != 2 || all[0].ID != three.ID {
			t.Errorf("%+v, %v", all, err)
		}
		if more, err := b.led.Builds(ctx, "", all[1].ID, 10); err != nil || len(more) != 1 || more[0].Contract != "nightly" {
			t.Errorf("%+v, %v", more, err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

// A contract that changes does not change what was bound, and a text that was
// altered in the store is noticed.
func TestBoundVersionStays(t *testing.T) {
	c := mustContract(t, "release", signedOnly)
	each(t, []*Contract{c}, func(t *testing.T, b *book) {
		d := digestOf("a")
		b.push(d, "team/app", "v1", "alice")
		next := mustContract(t, "release", strings.Replace(signedOnly, "version: 1", "version: 2", 1))
		set, err := NewSet(next)
		if err != nil {
			t.Fatal(err)
		}
		b.set = set
		got, err := b.led.For(t.Context(), d, "team/app")
		if err != nil || got.Contract.Version() != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		if got, err := b.led.For(t.Context(), digestOf("unseen"), "team/app"); err != nil || got.Contract.Version() != 2 {
			t.Fatalf("%+v, %v", got, err)
		}
		if err := b.db.Update(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE contract_text SET spec = ?`, strings.Replace(signedOnly, "ci@", "eve@", 1))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.led.For(t.Context(), d, "team/app"); !errors.Is(err, fault.Tampered) {
			t.Errorf("%v", err)
		}
	})
}

func TestTypeWords(t *testing.T) {
	for typ, want := range map[string]string{prov: "provenance", bom: "sbom", TypeSignature: "signature", "https://x": "other", "https://openvex.dev/ns": "vex"} {
		if got := typeWord(typ); got != want || !slices.Contains(typeWords, got) {
			t.Errorf("%s: %s, want %s", typ, got, want)
		}
	}
}
