package server

import (
	"strings"
	"testing"
	"time"

	"assay/admission"
	"assay/artifact"
	"assay/client"
	"assay/config"
	"assay/event"
	"assay/policy"
	"assay/policy/exception"
	"assay/store"
)

// TestExceptions lets an unsigned image run, and no longer, as an API server asks
// over TLS.
func TestExceptions(t *testing.T) {
	s := newSite(t, true, func(c *config.Config) {
		c.Admission = config.Admission{Listen: "127.0.0.1:0", Cluster: "c1", Environment: "prod"}
	})
	s.apply(s.policyDoc("me@example.com"), false)
	r, ctx := s.reviewer(), t.Context()
	_, unsigned := s.image("shop/unsigned", "v1", "layer")
	image := s.host() + "/shop/unsigned@" + string(unsigned)
	ask := func(namespace string) bool { return r.ask(admission.PathValidate, namespace, image).Allowed }
	if ask("shop") {
		t.Fatal("allowed without a signature")
	}
	alice, bob := exception.Who{Actor: "user alice@example.com", Person: "mailto:alice@example.com"}, exception.Who{Actor: "user bob@example.com", Person: "mailto:bob@example.com"}
	terms := exception.Terms{Kind: policy.ExceptionOrdinary, Digest: unsigned, Checks: []string{"signatures/who"}, Scope: &policy.Selector{Namespaces: []string{"shop"}}, Reason: "the signer is down", Until: time.Now().Add(time.Hour)}

	// Who signed in with the local issuer is no person.
	if err := s.admin.RequestException(ctx, "", terms, &exception.Entry{}); err == nil || !strings.Contains(err.Error(), "two persons") {
		t.Errorf("asked for by nobody in particular: %v", err)
	}
	e, err := s.exceptions.Request(ctx, terms, alice)
	if err != nil {
		t.Fatal(err)
	}
	if ask("shop") {
		t.Fatal("a request alone excuses")
	}
	if _, err := s.exceptions.Approve(ctx, e.ID, alice, ""); err == nil {
		t.Fatal("approved by who asked")
	}
	if err := s.admin.AnswerException(ctx, e.ID, "approve", "", &exception.Entry{}); err == nil {
		t.Fatal("approved by nobody in particular")
	}
	if e, err = s.exceptions.Approve(ctx, e.ID, bob, "looked at it"); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return ask("shop") })
	if ask("elsewhere") {
		t.Error("allowed in another namespace than the exception's")
	}
	var list client.List[exception.Entry]
	if err := s.admin.Exceptions(ctx, string(unsigned), false, "", 10, &list); err != nil || len(list.Items) != 1 || list.Items[0].State != exception.Approved || list.Items[0].Attestation == "" {
		t.Errorf("%+v, %v", list, err)
	}
	if b, err := s.admin.ExceptionBundle(ctx, e.ID); err != nil {
		t.Error(err)
	} else if st, err := s.verifySource(ctx, b, unsigned); err != nil || st.PredicateType != exception.PredicateType {
		t.Errorf("what was signed: %+v, %v", st, err)
	}
	if used := s.eventsOf(event.ExceptionUsed); len(used) == 0 {
		t.Error("its use was not told")
	}

	// Ended before its time.
	if _, err := s.exceptions.Withdraw(ctx, e.ID, bob, "the signed build is out"); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return !ask("shop") })

	s.testExceptionOver(r, terms, alice, bob)
	s.testExceptionForged(r, terms, alice, bob)
	s.testExceptionRevoked(r, unsigned, alice, bob)
}

// testExceptionOver: what an exception allowed is denied when it is over.
func (s *testSite) testExceptionOver(r *reviewer, terms exception.Terms, alice, bob exception.Who) {
	t, ctx := s.t, s.t.Context()
	t.Helper()
	terms.Until = time.Now().Add(4 * time.Second)
	e, err := s.exceptions.Request(ctx, terms, alice)
	if err == nil {
		_, err = s.exceptions.Approve(ctx, e.ID, bob, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	image := s.host() + "/shop/unsigned@" + string(terms.Digest)
	allowed := func() bool { return r.ask(admission.PathValidate, "shop", image).Allowed }
	await(t, allowed)
	await(t, func() bool { return !allowed() })
	if now := time.Now(); now.Before(e.Until) {
		t.Errorf("denied at %s, before it ended at %s", now, e.Until)
	}
}

// testExceptionForged: a row that says something else than what was signed excuses
// nothing.
func (s *testSite) testExceptionForged(r *reviewer, terms exception.Terms, alice, bob exception.Who) {
	t, ctx := s.t, s.t.Context()
	t.Helper()
	_, other := s.image("shop/other", "v1", "another layer")
	e, err := s.exceptions.Request(ctx, terms, alice)
	if err == nil {
		_, err = s.exceptions.Approve(ctx, e.ID, bob, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.db.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE policy_exception SET digest = ?, terms = replace(terms, ?, ?) WHERE id = ?`, string(other), string(terms.Digest), string(other), e.ID)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if r.ask(admission.PathValidate, "shop", s.host()+"/shop/other@"+string(other)).Allowed {
		t.Error("a forged row excuses")
	}
}

// testExceptionRevoked: break-glass excuses all but what is never excused.
func (s *testSite) testExceptionRevoked(r *reviewer, digest artifact.Digest, alice, bob exception.Who) {
	t, ctx := s.t, s.t.Context()
	t.Helper()
	e, err := s.exceptions.Request(ctx, exception.Terms{Kind: policy.ExceptionBreakGlass, Digest: digest, Reason: "checkout is down", Until: time.Now().Add(time.Hour)}, alice)
	if err == nil {
		_, err = s.exceptions.Approve(ctx, e.ID, bob, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	image := s.host() + "/shop/unsigned@" + string(digest)
	await(t, func() bool { return r.ask(admission.PathValidate, "anywhere", image).Allowed })
	if _, err := s.admin.Revoke(ctx, client.RevokeRequest{Entries: []client.Revocation{{Kind: "artifact", Digest: digest, InvalidSince: time.Unix(0, 0), Reason: "backdoor"}}}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return !r.ask(admission.PathValidate, "anywhere", image).Allowed })
}
