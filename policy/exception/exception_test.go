package exception

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/event"
	"assay/internal/fault"
	"assay/policy"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
)

// signer stands for the site's key: it knows what it signed.
type signer struct {
	mu     sync.Mutex
	signed map[string]*attestation.Statement
}

func (s *signer) sign(_ context.Context, st *attestation.Statement) ([]byte, error) {
	b, err := json.Marshal(st)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signed[string(b)] = st
	return b, err
}

func (s *signer) verify(_ context.Context, b []byte, d artifact.Digest) (*attestation.Statement, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.signed[string(b)]
	if st == nil || !st.Subject[0].Digest.Match(d.Set()) {
		return nil, fault.Newf(fault.Unverified, "nobody signed this about %s", d)
	}
	return st, nil
}

type judged struct {
	digest artifact.Digest
	gone   bool
}

func TestStore(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
			t.Fatal(err)
		}
		key := &signer{signed: map[string]*attestation.Statement{}}
		var again []judged
		s := New(Options{DB: db, Sign: key.sign, Verify: key.verify, Judge: func(_ context.Context, _ *store.Tx, d artifact.Digest, gone bool) error {
			again = append(again, judged{d, gone})
			return nil
		}})
		ctx, d := t.Context(), artifact.SHA256Of([]byte("image"))
		alice, bob, robot := Who{"user alice", "mailto:alice@x"}, Who{"user bob", "mailto:bob@x"}, Who{"robot ci", ""}
		terms := Terms{Kind: policy.ExceptionOrdinary, Digest: d, Checks: []string{"signatures/who"}, Scope: &policy.Selector{Namespaces: []string{"shop"}}, Reason: "the signer is down", Until: db.Now().Add(time.Hour)}
		in := policy.Scope{ID: "a", Namespace: "shop"}

		for name, change := range map[string]func(*Terms){
			"no digest":         func(t *Terms) { t.Digest = "" },
			"no check":          func(t *Terms) { t.Checks = nil },
			"every check":       func(t *Terms) { t.Checks = []string{"*"} },
			"two stars":         func(t *Terms) { t.Checks = []string{"**"} },
			"trust":             func(t *Terms) { t.Checks = []string{"trust/revoked"} },
			"no reason":         func(t *Terms) { t.Reason = " " },
			"over":              func(t *Terms) { t.Until = db.Now().Add(-time.Second) },
			"too long":          func(t *Terms) { t.Until = db.Now().Add(31 * 24 * time.Hour) },
			"long break-glass":  func(t *Terms) { t.Kind, t.Checks, t.Until = policy.ExceptionBreakGlass, nil, db.Now().Add(9*time.Hour) },
			"another kind":      func(t *Terms) { t.Kind = "waiver" },
			"scope of nothing":  func(t *Terms) { t.Scope = &policy.Selector{} },
			"scope of no glob":  func(t *Terms) { t.Scope = &policy.Selector{Namespaces: []string{"a[b]"}} },
			"many checks":       func(t *Terms) { t.Checks = make([]string, 17) },
			"control character": func(t *Terms) { t.Checks = []string{"a\nb"} },
		} {
			bad := terms
			change(&bad)
			if e, err := s.Request(ctx, bad, alice); err == nil || err != nil && !errors.Is(err, fault.Invalid) {
				t.Errorf("%s: %+v, %v", name, e, err)
			}
		}
		if _, err := s.Request(ctx, terms, robot); !errors.Is(err, fault.Denied) {
			t.Errorf("asked for by a machine: %v", err)
		}

		e, err := s.Request(ctx, terms, alice)
		if err != nil {
			t.Fatal(err)
		}
		facts := func(sc policy.Scope) []policy.ExceptionFact {
			t.Helper()
			out, err := s.Facts(ctx, d, policy.Subject{Digest: d, Kind: policy.Image}, sc)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		if got := facts(in); len(got) != 0 {
			t.Errorf("a request excuses: %+v", got)
		}
		for name, who := range map[string]Who{"who asked": alice, "the same person by another sign-in": {"user alice2", alice.Person}, "a machine": robot} {
			if _, err := s.Approve(ctx, e.ID, who, ""); !errors.Is(err, fault.Denied) {
				t.Errorf("approved by %s: %v", name, err)
			}
		}
		if _, err := s.Approve(ctx, e.ID, bob, "fine"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Approve(ctx, e.ID, bob, "fine"); !errors.Is(err, fault.Conflict) {
			t.Errorf("approved twice: %v", err)
		}
		want := []policy.ExceptionFact{{ID: e.ID, Kind: "exception", Checks: []string{"signatures/who"}, Until: e.Until.Format(time.RFC3339), RequestedBy: "user alice", ApprovedBy: "user bob", Reason: "the signer is down"}}
		if diff := cmp.Diff(want, facts(in)); diff != "" {
			t.Error(diff)
		}
		if got := facts(policy.Scope{ID: "b", Namespace: "other"}); len(got) != 0 {
			t.Errorf("it holds elsewhere: %+v", got)
		}

		// What was signed is what counts.
		for name, q := range map[string]string{
			"another end": `UPDATE policy_exception SET terms = replace(terms, '"until":"2', '"until":"3')`,
			"no bundle":   `UPDATE policy_exception SET bundle = NULL`,
		} {
			var text string
			var bundle []byte
			if err := db.Update(ctx, func(tx *store.Tx) error {
				if err := tx.QueryRow(ctx, `SELECT terms, bundle FROM policy_exception WHERE id = ?`, e.ID).Scan(&text, &bundle); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, q)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if got := facts(in); len(got) != 0 {
				t.Errorf("%s: %+v", name, got)
			}
			if err := db.Update(ctx, func(tx *store.Tx) error {
				_, err := tx.Exec(ctx, `UPDATE policy_exception SET terms = ?, bundle = ? WHERE id = ?`, text, bundle, e.ID)
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		if got := facts(in); len(got) != 1 {
			t.Errorf("restored: %+v", got)
		}

		if _, err := s.Withdraw(ctx, e.ID, bob, "done"); err != nil {
			t.Fatal(err)
		}
		if got := facts(in); len(got) != 0 {
			t.Errorf("withdrawn, and excuses: %+v", got)
		}
		r, err := s.Request(ctx, terms, alice)
		if err == nil {
			_, err = s.Reject(ctx, r.ID, bob, "sign it")
		}
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]judged{{d, false}, {d, true}}, again, cmp.AllowUnexported(judged{})); diff != "" {
			t.Error(diff)
		}
		all, err := s.List(ctx, Query{Ended: true, Limit: 1})
		if err != nil || len(all) != 1 || all[0].State != Rejected {
			t.Errorf("%+v, %v", all, err)
		}
		more, err := s.List(ctx, Query{Ended: true, Limit: 10, Before: all[0].ID})
		if err != nil || len(more) != 1 || more[0].State != Withdrawn {
			t.Errorf("%+v, %v", more, err)
		}
		if now, err := s.List(ctx, Query{Limit: 10}); err != nil || len(now) != 0 {
			t.Errorf("in force: %+v, %v", now, err)
		}
	})
}

// TestExpire: what is over is told once, and what it allowed is judged again.
func TestExpire(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	db, err := store.Open(t.Context(), "sqlite:"+t.TempDir()+"/data/a.db", store.WithClock(func() time.Time { return now }))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
		t.Fatal(err)
	}
	key := &signer{signed: map[string]*attestation.Statement{}}
	gone := 0
	s := New(Options{DB: db, Sign: key.sign, Verify: key.verify, Judge: func(_ context.Context, _ *store.Tx, _ artifact.Digest, over bool) error {
		if over {
			gone++
		}
		return nil
	}})
	ctx, d := t.Context(), artifact.SHA256Of([]byte("image"))
	terms := Terms{Kind: policy.ExceptionBreakGlass, Digest: d, Reason: "checkout is down", Until: now.Add(time.Hour)}
	e, err := s.Request(ctx, terms, Who{"a", "mailto:a@x"})
	if err == nil {
		_, err = s.Approve(ctx, e.ID, Who{"b", "mailto:b@x"}, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	waits, err := s.Request(ctx, terms, Who{"a", "mailto:a@x"})
	if err != nil {
		t.Fatal(err)
	}
	told := func() (n int) {
		t.Helper()
		if err := s.Expire(ctx); err != nil {
			t.Fatal(err)
		}
		if err := db.View(ctx, func(tx *store.Tx) error {
			bodies, err := store.Values[string](ctx, tx, `SELECT kind FROM event_pending`)
			for _, b := range bodies {
				n += strings.Count(b, "exception.expired")
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := told(); n != 0 || gone != 0 {
		t.Errorf("%d told and %d judged before the end", n, gone)
	}
	now = now.Add(time.Hour)
	if n := told(); n != 2 || gone != 1 {
		t.Errorf("%d told and %d judged, want 2 and 1", n, gone)
	}
	if n := told(); n != 2 {
		t.Errorf("told again: %d", n)
	}
	if _, err := s.Approve(ctx, waits.ID, Who{"b", "mailto:b@x"}, ""); !errors.Is(err, fault.Conflict) {
		t.Errorf("approved after its end: %v", err)
	}
	// Facts tell of it for a while, so that a denial says why.
	if got, err := s.Facts(ctx, d, policy.Subject{Digest: d}, policy.Scope{ID: "a"}); err != nil || len(got) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	now = now.Add(shownFor)
	if got, err := s.Facts(ctx, d, policy.Subject{Digest: d}, policy.Scope{ID: "a"}); err != nil || len(got) != 0 {
		t.Errorf("a week later: %+v, %v", got, err)
	}
}
