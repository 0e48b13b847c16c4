package vex

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"assay/attestation"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

// Where two persons are wanted, what takes a finding away counts from when another
// person approves it, and not before; nobody approves his own.
func TestThreat_Policy_SecondPerson(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
			t.Fatal(err)
		}
		n := byte(0)
		s := NewStore(Options{DB: db, Site: "https://site.example", SecondPerson: true, Sign: func(context.Context, *attestation.Statement) ([]byte, error) {
			n++
			return []byte{n}, nil
		}})
		ask := func(status Status, person string) Request {
			return Request{Source: Triage, Actor: person + "@x", Person: person, Reason: "a test", Until: db.Now().Add(time.Hour),
				Statements: []Statement{{Vulnerabilities: []string{"CVE-1"}, Products: []string{"**"}, Status: status, Impact: "because"}}}
		}
		stated := func() Status {
			t.Helper()
			b, err := s.Book(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if st := b.Of(Subject{Digest: image}, Flaw{[]string{"CVE-1"}, "pkg:npm/a@1"}, db.Now()); st != nil {
				return st.Status
			}
			return ""
		}
		if _, err := s.State(t.Context(), ask(NotAffected, "ann")); !errors.Is(err, fault.Denied) {
			t.Fatalf("stated by one person: %v", err)
		}
		if _, err := s.State(t.Context(), ask(Affected, "ann")); err != nil || stated() != Affected {
			t.Fatalf("what takes nothing away wants nobody else: %v", err)
		}
		if _, err := s.Propose(t.Context(), ask(NotAffected, "")); !errors.Is(err, fault.Denied) || !strings.Contains(err.Error(), "names none") {
			t.Errorf("proposed by nobody: %v", err)
		}
		p, err := s.Propose(t.Context(), ask(NotAffected, "ann"))
		if err != nil {
			t.Fatal(err)
		}
		if again, err := s.Propose(t.Context(), ask(NotAffected, "bob")); err != nil || again.ID != p.ID || again.Actor != "ann@x" {
			t.Errorf("proposed twice: %+v, %v", again, err)
		}
		if stated() != Affected {
			t.Error("what is proposed counts already")
		}
		for name, who := range map[string][2]string{"herself": {"ann@x", "ann"}, "herself by another issuer": {"ann@y", "ann"}, "a machine": {"robot", ""}, "her robot's name": {"ann@x", "bob"}} {
			if _, err := s.Approve(t.Context(), p.ID, who[0], who[1]); !errors.Is(err, fault.Denied) {
				t.Errorf("approved by %s: %v", name, err)
			}
		}
		e, err := s.Approve(t.Context(), p.ID, "bob@x", "bob")
		if err != nil || e.Actor != "ann@x" || e.ApprovedBy != "bob@x" || stated() != NotAffected {
			t.Fatalf("approved: %+v, %v, %s", e, err, stated())
		}
		if got, err := s.Get(t.Context(), e.ID); err != nil || got.ApprovedBy != "bob@x" {
			t.Errorf("on record: %+v, %v", got, err)
		}
		if _, err := s.Approve(t.Context(), p.ID, "bob@x", "bob"); !errors.Is(err, fault.Conflict) {
			t.Errorf("approved twice: %v", err)
		}
		if _, err := s.Refuse(t.Context(), p.ID, "bob@x", "too late"); !errors.Is(err, fault.Conflict) {
			t.Errorf("refused afterwards: %v", err)
		}
		other, err := s.Propose(t.Context(), ask(Fixed, "ann"))
		if err != nil {
			t.Fatal(err)
		}
		if p, err := s.Refuse(t.Context(), other.ID, "bob@x", "it is not"); err != nil || p.Outcome != "refused" {
			t.Errorf("refused: %+v, %v", p, err)
		}
		if _, err := s.Approve(t.Context(), other.ID, "bob@x", "bob"); !errors.Is(err, fault.Conflict) || stated() != NotAffected {
			t.Errorf("approved after it was refused: %v", err)
		}
		late, err := s.Propose(t.Context(), ask(Fixed, "ann"))
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE vex_proposal SET created = created - ? WHERE id = ?`, (31 * 24 * time.Hour).Microseconds(), late.ID)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Approve(t.Context(), late.ID, "bob@x", "bob"); !errors.Is(err, fault.Invalid) {
			t.Errorf("approved after 31 days: %v", err)
		}
		// What says that a flaw counts is taken back by two, or what was said before
		// would count again.
		counts, err := s.State(t.Context(), ask(Affected, "ann"))
		if err != nil || stated() != Affected {
			t.Fatalf("stated: %v, %s", err, stated())
		}
		if _, err := s.Withdraw(t.Context(), counts.ID, "ann@x", "not so bad"); !errors.Is(err, fault.Denied) {
			t.Errorf("taken back by one person: %v", err)
		}
		if _, err := s.ProposeWithdraw(t.Context(), counts, "robot", "", "not so bad"); !errors.Is(err, fault.Denied) {
			t.Errorf("its end is proposed by nobody: %v", err)
		}
		no, err := s.ProposeWithdraw(t.Context(), counts, "ann@x", "ann", "not so bad")
		if err != nil || no.Withdraws != counts.ID || no.Entry != "" {
			t.Fatalf("%+v, %v", no, err)
		}
		if p, err := s.Refuse(t.Context(), no.ID, "bob@x", "it is"); err != nil || p.Outcome != "refused" || p.Withdraws != counts.ID || stated() != Affected {
			t.Errorf("its end is refused: %+v, %v", p, err)
		}
		end, err := s.ProposeWithdraw(t.Context(), counts, "ann@x", "ann", "not so bad")
		if err != nil || end.ID == no.ID || stated() != Affected {
			t.Fatalf("proposed again: %v, %s", err, stated())
		}
		if _, err := s.Approve(t.Context(), end.ID, "ann@y", "ann"); !errors.Is(err, fault.Denied) {
			t.Errorf("approved by herself: %v", err)
		}
		if e, err := s.Approve(t.Context(), end.ID, "bob@x", "bob"); err != nil || e.ID != counts.ID || e.WithdrawnBy != "ann@x, approved by bob@x" || stated() != NotAffected {
			t.Errorf("%+v, %v, %s", e, err, stated())
		}
		if e, err := s.Withdraw(t.Context(), e.ID, "ann@x", "a mistake"); err != nil || e.WithdrawnBy != "ann@x" || stated() == NotAffected {
			t.Errorf("what takes a finding away ends by one person: %v, %s", err, stated())
		}
		if all, err := s.Proposals(t.Context(), "", 10, false); err != nil || len(all) != 0 {
			t.Errorf("%d wait, %v", len(all), err)
		}
		if all, err := s.Proposals(t.Context(), "", 10, true); err != nil || len(all) != 5 {
			t.Errorf("%d on record, %v", len(all), err)
		}
	})
}
