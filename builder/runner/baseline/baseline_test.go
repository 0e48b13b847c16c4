package baseline_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/blob"
	"assay/builder/runner"
	"assay/builder/runner/baseline"
	"assay/event"
	"assay/evidence"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
	"assay/trust/trusttest"

	"github.com/google/go-cmp/cmp"
)

const (
	issuer = "https://oidc.ci.test"
	repo   = "https://git.test/org/app"
)

// site is a baseline over real evidence: every bundle in it is signed, logged
// and verified.
type site struct {
	*baseline.Store
	ev    *evidence.Store
	db    *store.DB
	world *trusttest.World
	n     int
}

type verifier struct{ root *trust.Root }

func (v verifier) Verify(ctx context.Context, b *attestation.Bundle) (*trust.Verified, error) {
	return v.root.VerifyBundle(ctx, b, trust.VerifyOptions{AnyArtifact: true, AnyIdentity: true})
}

func open(t *testing.T, db *store.DB) *site {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, trust.Migrations, evidence.Migrations, baseline.Migrations); err != nil {
		t.Fatal(err)
	}
	dir, err := blob.NewDir(filepath.Join(t.TempDir(), "blobs"), blob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{db: db, world: trusttest.New(t)}
	v := verifier{s.world.Root(t, trust.WithName("test"))}
	if s.ev, err = evidence.New(evidence.Options{DB: db, Blobs: dir, Verifier: v}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.ev.Close(); _ = dir.Close() })
	if s.Store, err = baseline.New(baseline.Options{DB: db, Evidence: s.ev, Verifier: v}); err != nil {
		t.Fatal(err)
	}
	return s
}

// build is one run as a test wants it.
type build struct {
	id, ref, trigger string
	repo             string
	job              string
	command          []any
	tools            []runner.Tool
	caches           []runner.Cache
	instance         string
	used             int
	egress           []string // "address port"
	programs         map[string]string
	noTrace          bool
	untraced         bool
}

func sum(s string) artifact.Digest { return artifact.SHA256Of([]byte(s)) }

// run brings the evidence of a build in and compares it; it gives its state and
// what was new, as "kind name".
func (s *site) run(t *testing.T, b build) (*baseline.Build, []string) {
	t.Helper()
	s.n++
	at := s.world.Start.Add(time.Duration(s.n) * time.Minute)
	if b.ref == "" {
		b.ref = "refs/heads/main"
	}
	if b.repo == "" {
		b.repo = repo
	}
	if b.command == nil {
		b.command = []any{"make"}
	}
	if b.instance == "" {
		b.instance = "machine " + b.id
	}
	product := sum("product of " + b.id)
	leaf := trusttest.Leaf{
		Issuer: issuer, Subject: b.repo + "/.ci/build.yml@" + b.ref, At: at,
		Extensions: map[int]string{12: b.repo, 14: b.ref, 18: b.repo + "/.ci/build.yml@" + b.ref},
	}
	if b.trigger != "" {
		leaf.Extensions[20] = b.trigger
	}
	if b.job != "" {
		leaf.Extensions[21] = b.job
	}
	e := &runner.Evidence{
		Build:   runner.Build{InvocationID: b.id, StartedOn: at},
		Machine: runner.Machine{Kind: "vm", OS: "linux", Arch: "amd64", Instance: string(sum(b.instance))},
		Use:     runner.Use{Fresh: b.used == 0, Builds: b.used}, Tools: b.tools, Caches: b.caches,
	}
	pred, err := e.JSON()
	if err != nil {
		t.Fatal(err)
	}
	s.attest(t, product, runner.PredicateType, pred, leaf)
	s.attest(t, product, attestation.PredicateProvenanceV1, mustJSON(t, map[string]any{
		"buildDefinition": map[string]any{"buildType": "https://assay.dev/buildtypes/command/v1", "externalParameters": map[string]any{"command": b.command, "dir": "."}},
		"runDetails":      map[string]any{"builder": map[string]any{"id": "https://ci.test"}, "metadata": map[string]any{"invocationId": b.id}},
	}), leaf)
	if !b.noTrace {
		var network, process []any
		for _, a := range b.egress {
			addr, port, _ := strings.Cut(a, " ")
			var p int
			_, _ = fmt.Sscan(port, &p)
			network = append(network, map[string]any{"protocol": "tcp", "address": addr, "port": p})
		}
		for name, content := range b.programs {
			p := map[string]any{"program": name}
			if content != "" { // else nobody could read it
				p["digest"] = map[string]any{"sha256": sum(content).Hex()}
			}
			process = append(process, p)
		}
		s.attest(t, product, attestation.PredicateRuntimeTrace, mustJSON(t, map[string]any{
			"monitor": map[string]any{"type": "https://assay.dev/monitors/ptrace"}, "monitoredProcess": map[string]any{"event": b.id},
			"assayTrace": map[string]any{"invocationId": b.id, "traced": !b.untraced, "complete": !b.untraced, "names": []any{"Proxy.Test."}}, "monitorLog": map[string]any{"process": process, "network": network},
		}), leaf)
	}
	builds, open, err := s.About(t.Context(), product)
	if err != nil {
		t.Fatal(err)
	}
	if len(builds) != 1 {
		t.Fatalf("%d builds of %s", len(builds), b.id)
	}
	var found []string
	for _, a := range open {
		found = append(found, a.Kind+" "+a.Name)
	}
	slices.Sort(found)
	return builds[0], found
}

func (s *site) attest(t *testing.T, about artifact.Digest, predicateType string, predicate []byte, leaf trusttest.Leaf) {
	t.Helper()
	st := mustJSON(t, map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "predicateType": predicateType, "predicate": json.RawMessage(predicate),
		"subject": []any{map[string]any{"name": "app", "digest": about.Set()}},
	})
	b := s.world.Draft(t, trusttest.Request{Statement: st, Leaf: leaf, At: leaf.At.Add(time.Minute)}).JSON(t)
	if _, _, err := s.ev.Ingest(t.Context(), b, evidence.Origin{Source: "api", Actor: "tester"}); err != nil {
		t.Fatal(err)
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s *site) events(t *testing.T, kind event.Kind) (n int) {
	t.Helper()
	if err := s.db.View(t.Context(), func(tx *store.Tx) error {
		return tx.QueryRow(t.Context(), `SELECT COUNT(*) FROM event_pending WHERE kind = ?`, string(kind)).Scan(&n)
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func usual(id string) build {
	return build{
		id: id, tools: []runner.Tool{{Name: "go", Digest: sum("go 1")}}, egress: []string{"203.0.113.7 443"},
		programs: map[string]string{"/usr/bin/make": "make"},
	}
}

func TestBaseline(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		first, found := s.run(t, usual("bld_1"))
		if first.State != baseline.StateFirst || found != nil || first.Rank != baseline.RankProtected {
			t.Fatalf("first: %+v, %q", first, found)
		}
		second, found := s.run(t, usual("bld_2"))
		if second.State != baseline.StateCompared || found != nil {
			t.Fatalf("second: %+v, %q", second, found)
		}
		changed := usual("bld_3")
		changed.tools = []runner.Tool{{Name: "go", Digest: sum("go 2")}}
		changed.egress = []string{"203.0.113.99 443", "198.51.100.1 443", "127.0.0.1 8080"} // one network of the two is known
		changed.programs = map[string]string{"/usr/bin/make": "make", "/usr/bin/curl": "curl"}
		changed.command = []any{"make", "publish"}
		third, found := s.run(t, changed)
		if diff := cmp.Diff([]string{"command command", "egress tcp", "program /usr/bin/curl", "tool go"}, found); diff != "" {
			t.Fatal(diff)
		}
		if third.Open != 4 || s.events(t, event.RunnerAnomaly) != 4 {
			t.Errorf("%d open, %d events", third.Open, s.events(t, event.RunnerAnomaly))
		}
		// Comparing again says the same, and tells nobody again.
		if err := s.Compare(t.Context(), third.Subjects[0]); err != nil || s.events(t, event.RunnerAnomaly) != 4 {
			t.Errorf("compared again: %v, %d events", err, s.events(t, event.RunnerAnomaly))
		}
		// What nobody accepted is new again.
		changed.id = "bld_4"
		if _, found := s.run(t, changed); len(found) != 4 {
			t.Errorf("the same again: %q", found)
		}
		s.accept(t, third)
		changed.id = "bld_5"
		if b, found := s.run(t, changed); found != nil || b.State != baseline.StateCompared {
			t.Errorf("after it was accepted: %q, %s", found, b.State)
		}
	})
}

// TestThreat_Runner_ProgramsThatRan: a program that never ran before, one of
// another content under a usual name, and one whose content nobody could read are
// told of, also where the toolchain is the usual one.
func TestThreat_Runner_ProgramsThatRan(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	s.run(t, usual("bld_1"))
	for id, c := range map[string]struct {
		programs map[string]string
		found    []string
	}{
		"bld_2": {map[string]string{"/usr/bin/make": "make"}, nil},
		"bld_3": {map[string]string{"/usr/bin/make": "make", "/tmp/x": "miner"}, []string{"program /tmp/x"}},
		"bld_4": {map[string]string{"/usr/bin/make": "another make"}, []string{"program /usr/bin/make"}},
		"bld_5": {map[string]string{"/usr/bin/make": ""}, []string{"program /usr/bin/make"}},
		"bld_6": {map[string]string{"/usr/bin/make": "make", "/memfd:x": ""}, []string{"program /memfd:x"}},
	} {
		b := usual(id)
		b.programs = c.programs
		if _, found := s.run(t, b); !slices.Equal(found, c.found) {
			t.Errorf("%s: %q, want %q", id, found, c.found)
		}
	}
	if n := s.events(t, event.RunnerAnomaly); n != 4 {
		t.Errorf("%d events, want 4", n)
	}
}

// accept accepts all anomalies of a build, which also acknowledges the same of
// others.
func (s *site) accept(t *testing.T, b *baseline.Build) {
	t.Helper()
	_, _, all, err := s.Build(t.Context(), b.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if a.Kind != baseline.KindEgress && a.Before == "" && a.Kind != baseline.KindProgram {
			t.Errorf("%s %s does not say what was before", a.Kind, a.Name)
		}
		got, err := s.Accept(t.Context(), baseline.Accept{ID: a.ID, By: "alice", Reason: "the new toolchain"})
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 2 || got[0].Accepted.By != "alice" {
			t.Errorf("accepted %d of %s", len(got), a.Kind)
		}
	}
	if _, err := s.Accept(t.Context(), baseline.Accept{ID: all[0].ID, By: "bob", Reason: "again"}); !errors.Is(err, fault.Conflict) {
		t.Errorf("accepted twice: %v", err)
	}
	if _, err := s.Accept(t.Context(), baseline.Accept{ID: all[0].ID, By: "bob"}); !errors.Is(err, fault.Invalid) {
		t.Errorf("accepted without a reason: %v", err)
	}
}

// A build that connects nowhere makes every later connection a new one.
func TestSilenceTeaches(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	quiet := usual("bld_1")
	quiet.egress = nil
	s.run(t, quiet)
	if _, found := s.run(t, usual("bld_2")); !slices.Equal(found, []string{"egress tcp"}) {
		t.Errorf("found %q", found)
	}
}

// A build that was not watched where earlier ones were is told of, and teaches no
// silence.
func TestUntraced(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	blind := usual("bld_1")
	blind.untraced, blind.egress, blind.programs = true, nil, nil
	s.run(t, blind)
	if b, found := s.run(t, usual("bld_2")); b.State != baseline.StateFirst || found != nil {
		t.Errorf("first that was traced: %s, %q", b.State, found)
	}
	blind.id = "bld_3"
	if _, found := s.run(t, blind); !slices.Equal(found, []string{"trace trace"}) {
		t.Errorf("no more watched: %q", found)
	}
}

func TestAcceptByPattern(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	s.run(t, usual("bld_1"))
	b := usual("bld_2")
	b.egress = []string{"198.51.100.1 443"}
	_, _ = s.run(t, b)
	all, _, err := s.Anomalies(t.Context(), baseline.Filter{Source: repo, Open: true})
	if err != nil || len(all) != 1 {
		t.Fatalf("%d anomalies, %v", len(all), err)
	}
	if _, err := s.Accept(t.Context(), baseline.Accept{ID: all[0].ID, Pattern: "10.*", By: "a", Reason: "r"}); !errors.Is(err, fault.Invalid) {
		t.Errorf("a pattern that does not match: %v", err)
	}
	if _, err := s.Accept(t.Context(), baseline.Accept{ID: all[0].ID, Pattern: "198.51.*/24 443", By: "a", Reason: "the mirror"}); err != nil {
		t.Fatal(err)
	}
	b.id, b.egress = "bld_3", []string{"198.51.77.1 443"}
	if _, found := s.run(t, b); found != nil {
		t.Errorf("found %q", found)
	}
}

// TestThreat_Runner_CacheOfAnotherBranch is the drill: a run of a pull request
// writes a cache, and a run of the protected branch reads it.
func TestThreat_Runner_CacheOfAnotherBranch(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		good, evil, after := sum("good cache"), sum("evil cache"), sum("what was made of the evil one")
		first := usual("bld_1")
		first.caches = []runner.Cache{{Key: "mod", Saved: good}}
		s.run(t, first)
		second := usual("bld_2")
		second.caches = []runner.Cache{{Key: "mod", Restored: good, Saved: good}}
		if _, found := s.run(t, second); found != nil {
			t.Fatalf("our own cache: %q", found)
		}
		pull := usual("bld_pr")
		pull.ref, pull.trigger, pull.caches = "refs/pull/7/merge", "pull_request", []runner.Cache{{Key: "mod", Restored: good, Saved: evil}}
		if b, found := s.run(t, pull); found != nil || b.Rank != baseline.RankForeign {
			t.Fatalf("a pull request may read ours: %q, rank %d", found, b.Rank)
		}
		poisoned := usual("bld_3")
		poisoned.caches = []runner.Cache{{Key: "mod", Restored: evil, Saved: after}}
		b, found := s.run(t, poisoned)
		if !slices.Equal(found, []string{"cache mod"}) {
			t.Fatalf("poisoned: %q", found)
		}
		_, _, all, err := s.Build(t.Context(), b.ID)
		if err != nil || !strings.Contains(all[0].Before, "refs/pull/7/merge") || all[0].After != string(evil) {
			t.Errorf("it does not say who wrote it: %+v, %v", all[0], err)
		}
		// What was made of it is no better, although a trusted run wrote it.
		later := usual("bld_4")
		later.caches = []runner.Cache{{Key: "mod", Restored: after, Saved: after}}
		if _, found := s.run(t, later); !slices.Equal(found, []string{"cache mod"}) {
			t.Errorf("laundered: %q", found)
		}
		// A cache that nobody is known to have written, and one of another repository.
		unknown := usual("bld_5")
		unknown.caches = []runner.Cache{{Key: "mod", Restored: sum("who knows")}}
		if _, found := s.run(t, unknown); !slices.Equal(found, []string{"cache mod"}) {
			t.Errorf("unknown: %q", found)
		}
		other := usual("bld_o")
		other.repo, other.caches = "https://git.test/other/app", []runner.Cache{{Key: "mod", Saved: sum("theirs")}}
		s.run(t, other)
		foreign := usual("bld_6")
		foreign.caches = []runner.Cache{{Key: "mod", Restored: sum("theirs")}}
		if _, found := s.run(t, foreign); !slices.Equal(found, []string{"cache mod"}) {
			t.Errorf("foreign: %q", found)
		}
		// Made anew from nothing by a trusted run, the same content is ours again.
		clean := usual("bld_7")
		clean.caches = []runner.Cache{{Key: "mod", Saved: after}}
		s.run(t, clean)
		last := usual("bld_8")
		last.caches = []runner.Cache{{Key: "mod", Restored: after}}
		if _, found := s.run(t, last); found != nil {
			t.Errorf("made anew: %q", found)
		}
	})
}

// TestThreat_Runner_ReusedMachine is the drill: a runner that should be thrown
// away builds again, and says so, or hides it.
func TestThreat_Runner_ReusedMachine(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	s.run(t, usual("bld_1"))
	used := usual("bld_2")
	used.used = 3
	b, found := s.run(t, used)
	if !slices.Equal(found, []string{"reuse instance"}) || !b.Used {
		t.Fatalf("used: %q, %+v", found, b)
	}
	hides := usual("bld_3")
	hides.instance = "machine bld_1"
	if b, found := s.run(t, hides); !slices.Equal(found, []string{"hidden instance", "reuse instance"}) || !b.Used {
		t.Fatalf("hides: %q", found)
	}
	// Two builds of one job are one use.
	one, two := usual("bld_4"), usual("bld_5")
	one.job, two.job = "https://git.test/org/app/runs/9/attempts/1", "https://git.test/org/app/runs/9/attempts/1"
	one.instance, two.instance, two.used = "job", "job", 1
	s.run(t, one)
	if b, found := s.run(t, two); found != nil || b.Used {
		t.Errorf("second of one job: %q", found)
	}
	two.id, two.job, two.used = "bld_6", "https://git.test/org/app/runs/10/attempts/1", 2
	if _, found := s.run(t, two); !slices.Equal(found, []string{"reuse instance"}) {
		t.Errorf("another job: %q", found)
	}
}

// A source whose machines are used again since ever has that as its usual.
func TestPersistentRunner(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	one, two := usual("bld_1"), usual("bld_2")
	one.used, two.used, one.instance, two.instance = 5, 6, "x", "x"
	s.run(t, one)
	if b, found := s.run(t, two); found != nil || !b.Used {
		t.Errorf("found %q, used %v", found, b.Used)
	}
}

// A pull request's run teaches nothing, and is told apart from the branch's.
func TestThreat_Runner_PullRequestTeaches(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	pull := usual("bld_pr")
	pull.trigger, pull.ref = "pull_request", "refs/pull/1/merge"
	pull.programs = map[string]string{"/tmp/evil": "evil"}
	if b, found := s.run(t, pull); b.State != baseline.StateNone || found != nil {
		t.Fatalf("%s, %q", b.State, found)
	}
	if b, _ := s.run(t, usual("bld_1")); b.State != baseline.StateFirst {
		t.Errorf("the branch's first build is %s", b.State)
	}
	pull.id = "bld_pr2"
	if b, found := s.run(t, pull); b.State != baseline.StateCompared || len(found) == 0 {
		t.Errorf("%s, %q", b.State, found)
	}
}

// The first build is compared with nothing, until somebody looked at it.
func TestAcceptFirst(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	b, _ := s.run(t, usual("bld_1"))
	if _, err := s.Accept(t.Context(), baseline.Accept{ID: b.ID, By: "alice", Reason: "looked at the trace"}); err != nil {
		t.Fatal(err)
	}
	got, _, err := s.Builds(t.Context(), baseline.Filter{Digest: b.Subjects[0]})
	if err != nil || got[0].State != baseline.StateAccepted || s.events(t, event.RunnerAccepted) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := s.Accept(t.Context(), baseline.Accept{ID: b.ID, By: "alice", Reason: "again"}); !errors.Is(err, fault.Conflict) {
		t.Errorf("again: %v", err)
	}
}

// All that is open of a build is accepted at once, and with it what is the same
// elsewhere; what other builds have beside stays open.
func TestAcceptAllOfABuild(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	first, _ := s.run(t, usual("bld_1"))
	b := usual("bld_2")
	b.egress = []string{"198.51.100.1 443", "192.0.2.1 443"}
	two, _ := s.run(t, b)
	b.id, b.egress = "bld_3", []string{"192.0.2.1 443", "8.8.8.8 443"}
	three, _ := s.run(t, b)
	if two.Open != 2 || three.Open != 2 {
		t.Fatalf("%d and %d are open", two.Open, three.Open)
	}
	if _, err := s.Accept(t.Context(), baseline.Accept{ID: two.ID, By: "a", Reason: "r"}); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "2 are open") {
		t.Errorf("a later build as a whole: %v", err)
	}
	if _, err := s.Accept(t.Context(), baseline.Accept{ID: two.ID, All: true, Pattern: "**", By: "a", Reason: "r"}); !errors.Is(err, fault.Invalid) {
		t.Errorf("all by a pattern: %v", err)
	}
	got, err := s.Accept(t.Context(), baseline.Accept{ID: two.ID, All: true, By: "a", Reason: "the mirrors"})
	if err != nil || len(got) != 3 {
		t.Errorf("%d accepted, want two and the same in another build: %v", len(got), err)
	}
	if _, err := s.Accept(t.Context(), baseline.Accept{ID: two.ID, All: true, By: "a", Reason: "again"}); !errors.Is(err, fault.Conflict) {
		t.Errorf("again: %v", err)
	}
	if left, _, err := s.Anomalies(t.Context(), baseline.Filter{Source: repo, Open: true}); err != nil || len(left) != 1 || left[0].Build != three.ID {
		t.Errorf("%+v is open: %v", left, err)
	}
	if _, err := s.Accept(t.Context(), baseline.Accept{ID: first.ID, All: true, By: "a", Reason: "the first"}); err != nil {
		t.Errorf("the first build with nothing open: %v", err)
	}
	if _, err := s.Accept(t.Context(), baseline.Accept{ID: "run_none", All: true, By: "a", Reason: "r"}); !errors.Is(err, fault.NotFound) {
		t.Errorf("no such build: %v", err)
	}
}

// Another signer who names the same invocation makes another build, and changes
// nothing of the first.
func TestThreat_Runner_AnotherSignersWord(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	s.run(t, usual("bld_1"))
	evil := usual("bld_1")
	evil.repo, evil.programs = "https://git.test/evil/app", map[string]string{"/tmp/evil": "evil"}
	// About the same product, by another's identity.
	at := s.world.Start.Add(time.Hour)
	leaf := trusttest.Leaf{Issuer: issuer, Subject: evil.repo + "/x.yml@refs/heads/main", At: at, Extensions: map[int]string{12: evil.repo, 14: "refs/heads/main"}}
	e := &runner.Evidence{Build: runner.Build{InvocationID: "bld_1", StartedOn: at}, Machine: runner.Machine{Kind: "vm"}, Use: runner.Use{Fresh: true}}
	pred, err := e.JSON()
	if err != nil {
		t.Fatal(err)
	}
	product := sum("product of bld_1")
	s.attest(t, product, runner.PredicateType, pred, leaf)
	builds, _, err := s.About(t.Context(), product)
	if err != nil || len(builds) != 1 || builds[0].Identity != repo+"/.ci/build.yml@refs/heads/main" {
		t.Errorf("%+v, %v", builds, err)
	}
}

func FuzzParseTrace(f *testing.F) {
	f.Add([]byte(`{"monitoredProcess":{"event":"bld_1"},"monitorLog":{"process":[{"program":"/bin/sh","digest":{"sha256":"00"}}],"network":[{"protocol":"tcp","address":"::1","port":1}]},"assayTrace":{"names":["a."],"traced":true}}`))
	f.Add([]byte(`{"monitorLog":{"network":[{"address":"fe80::1%eth0","port":1e9},7]}}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, o := range baseline.Observe(b) {
			if len(o) > 1600 {
				t.Fatalf("an observation of %d bytes", len(o))
			}
		}
	})
}
