package server

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/action"
	"assay/admission"
	"assay/client"
	"assay/config"
	"assay/event"
)

var bobAnswers = action.Who{Actor: "user bob@example.com", Person: "mailto:bob@example.com"}

// waits gives the one action that waits; nil: none.
func (s *testSite) waits() *action.Entry {
	s.t.Helper()
	var list client.List[action.Entry]
	if err := s.admin.Actions(s.t.Context(), false, "", 10, &list); err != nil || len(list.Items) > 1 {
		s.t.Fatalf("%+v %v", list, err)
	}
	if len(list.Items) == 0 {
		return nil
	}
	return &list.Items[0]
}

// TestThreat_Action_QuarantineOfMuchThatRuns: a feed that names what half of the
// site runs takes nothing down by itself, and lets nothing new in: over TLS as an
// API server asks, before and after a restart, until a person answers.
func TestThreat_Action_QuarantineOfMuchThatRuns(t *testing.T) {
	s := newSite(t, true, func(c *config.Config) {
		c.Admission = config.Admission{Listen: "127.0.0.1:0", Cluster: "c1", Environment: "prod"}
	})
	s.apply(s.policyDoc("me@example.com"), false)
	r, ctx := s.reviewer(), t.Context()
	manifest, base := s.image("shop/base", "v1", "base")
	s.signImage("shop/base", manifest)
	small, rare := s.image("shop/rare", "v1", "rare")
	s.signImage("shop/rare", small)
	image := s.host() + "/shop/base@" + string(base)
	if a := r.ask(admission.PathValidate, "shop", image); !a.Allowed {
		t.Fatalf("%+v", a.Status)
	}
	s.runs(s.host()+"/shop/base:v1", base, 12, 3)

	// What runs nowhere is quarantined at once.
	if held, err := s.quarantine(ctx, rare, "system:vuln", "malicious package pkg:npm/evil (MAL-1)"); err != nil || held != "" {
		t.Fatalf("%q %v", held, err)
	}
	if status, _, _ := s.do("GET", "/v2/shop/rare/manifests/v1", map[string]string{"Authorization": "Bearer " + s.token("me@example.com", "assay-registry")}, nil); status != 403 {
		t.Errorf("a quarantined image: %d", status)
	}
	if s.waits() != nil {
		t.Errorf("%+v", s.waits())
	}

	held, err := s.quarantine(ctx, base, "system:vuln", "malicious package pkg:npm/evil (MAL-1)")
	if err != nil || held == "" {
		t.Fatalf("%q %v", held, err)
	}
	pull := func() int {
		status, _, _ := s.do("GET", "/v2/shop/base/manifests/v1", map[string]string{"Authorization": "Bearer " + s.token("me@example.com", "assay-registry")}, nil)
		return status
	}
	for i := range 2 {
		e := s.waits()
		if e == nil || e.ID != held || e.Touched != 12 || e.Running != 12 || e.Share != 100 || e.State != action.Held {
			t.Fatalf("%+v", e)
		}
		// Where it runs and elsewhere: no new Pod, also though policy allows it.
		for _, namespace := range []string{"shop", "other"} {
			if a := r.ask(admission.PathValidate, namespace, image); a.Allowed || !strings.Contains(a.Status.Message, "is held since") || !strings.Contains(a.Status.Message, held) {
				t.Errorf("%s: %+v", namespace, a.Status)
			}
		}
		if status := pull(); status != 200 {
			t.Errorf("what runs is served: %d", status)
		}
		// Asked again, it is the same question.
		if again, err := s.quarantine(ctx, base, "system:vuln", "malicious package pkg:npm/evil (MAL-1)"); err != nil || again != held {
			t.Errorf("%q %v", again, err)
		}
		if i == 0 {
			s.restart()
			r, image = s.reviewer(), s.host()+"/shop/base@"+string(base)
		}
	}
	// The administrator's socket names no person.
	if err := s.admin.AnswerAction(ctx, held, "approve", "", &action.Entry{}); err == nil || !strings.Contains(err.Error(), "person") {
		t.Errorf("%v", err)
	}
	// A second cause waits by itself: refusing the first lets nothing in.
	second, err := s.quarantine(ctx, base, "system:vuln", "malicious package pkg:npm/worse (MAL-2)")
	if err != nil || second == held || second == "" {
		t.Fatalf("%q %v", second, err)
	}
	if _, err := s.actions.Decide(ctx, held, bobAnswers, false, "the feed is wrong about evil"); err != nil {
		t.Fatal(err)
	}
	if a := r.ask(admission.PathValidate, "shop", image); a.Allowed {
		t.Error("a refused action let go of another's")
	}
	if _, err := s.actions.Decide(ctx, second, bobAnswers, false, "and about worse"); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return r.ask(admission.PathValidate, "shop", image).Allowed })

	third, err := s.quarantine(ctx, base, "system:vuln", "malicious package pkg:npm/worst (MAL-3)")
	if err != nil || third == "" {
		t.Fatalf("%q %v", third, err)
	}
	if e, err := s.actions.Decide(ctx, third, bobAnswers, true, "it is"); err != nil || e.State != action.Done {
		t.Fatalf("%+v %v", e, err)
	}
	if status := pull(); status != 403 {
		t.Errorf("approved, and served: %d", status)
	}
	if a := r.ask(admission.PathValidate, "shop", image); a.Allowed || !strings.Contains(a.Status.Message, "quarantined") {
		t.Errorf("%+v", a.Status)
	}
	await(t, func() bool {
		return len(s.eventsOf(event.ActionHeld)) == 3 && len(s.eventsOf(event.ActionRefused)) == 2 && len(s.eventsOf(event.ActionApproved)) == 1
	})
	if e := s.eventsOf(event.ActionApproved)[0]; e.Actor != "user bob@example.com" || e.Digest != base {
		t.Errorf("%+v", e)
	}
}

// TestThreat_Action_BundleThatRefusesWhatRuns: a followed bundle of policies that
// would refuse what runs is not in force before a person says so, who is not the
// one who signed it.
func TestThreat_Action_BundleThatRefusesWhatRuns(t *testing.T) {
	dir := t.TempDir()
	write := func(version int, doc string) {
		t.Helper()
		for name, text := range map[string]string{
			"release.yaml": strings.TrimSuffix(doc, "---\n"),
			".manifest":    fmt.Sprintf(`{"rego_version": 1, "roots": [""], "metadata": {"assay": {"name": "site", "version": %d}}}`, version),
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := newSite(t, true, func(c *config.Config) {
		c.Admission = config.Admission{Listen: "127.0.0.1:0", Cluster: "c1", Environment: "prod"}
		c.Trust.Policies.Unsigned = true
	})
	ctx := t.Context()
	version := func() (v int64, problem string) {
		t.Helper()
		s.followBundle(ctx, config.PolicyBundle{Name: "site", From: dir, Unsigned: true})
		all, err := s.admin.PolicyBundles(ctx)
		if err != nil || len(all.Items) != 1 {
			t.Fatalf("%+v %v", all, err)
		}
		return all.Items[0].Version, all.Items[0].Problem
	}
	write(1, s.policyDoc("me@example.com"))
	if v, problem := version(); v != 1 || problem != "" {
		t.Fatalf("version %d: %s", v, problem)
	}
	r := s.reviewer()
	manifest, base := s.image("shop/base", "v1", "base")
	s.signImage("shop/base", manifest)
	image := s.host() + "/shop/base@" + string(base)
	await(t, func() bool { return r.ask(admission.PathValidate, "shop", image).Allowed })
	s.runs(s.host()+"/shop/base:v1", base, 12, 1)

	write(2, s.policyDoc("other@example.com"))
	v, problem := version()
	e := s.waits()
	if e == nil || e.Kind != action.PolicyBundle || e.Touched != 12 || e.Running != 12 || !strings.Contains(problem, e.ID) {
		t.Fatalf("%s %+v", problem, e)
	}
	if v != 1 || !r.ask(admission.PathValidate, "shop", image).Allowed {
		t.Error("in force without an answer")
	}
	if _, err := s.actions.Decide(ctx, e.ID, bobAnswers, false, "it refuses all of shop"); err != nil {
		t.Fatal(err)
	}
	if v, problem = version(); v != 1 || !strings.Contains(problem, "it refuses all of shop") {
		t.Errorf("version %d: %s", v, problem)
	}
	// What waits is moot when something else lies there: another version, or the one
	// that is in force. It is asked about anew when it comes again.
	write(5, s.policyDoc("fifth@example.com"))
	version()
	fifth := s.waits()
	write(6, s.policyDoc("sixth@example.com"))
	version()
	if sixth := s.waits(); fifth == nil || sixth == nil || sixth.ID == fifth.ID {
		t.Errorf("%+v, then %+v", fifth, sixth)
	}
	write(1, s.policyDoc("me@example.com"))
	if _, problem := version(); problem != "" || s.waits() != nil {
		t.Errorf("%s %+v", problem, s.waits())
	}
	write(6, s.policyDoc("sixth@example.com"))
	if _, problem := version(); s.waits() == nil || !strings.Contains(problem, s.waits().ID) {
		t.Errorf("%s %+v", problem, s.waits())
	}
	await(t, func() bool { return len(s.eventsOf(event.ActionSuperseded)) == 2 })

	// Another version is another question.
	write(7, s.policyDoc("third@example.com"))
	version()
	if e = s.waits(); e == nil {
		t.Fatal("nothing waits")
	}
	if _, err := s.actions.Decide(ctx, e.ID, bobAnswers, true, "announced last week"); err != nil {
		t.Fatal(err)
	}
	if v, problem = version(); v != 7 || problem != "" {
		t.Errorf("version %d: %s", v, problem)
	}
	if got, err := s.actions.Get(ctx, e.ID); err != nil || got.State != action.Done {
		t.Errorf("%+v %v", got, err)
	}
	if r.ask(admission.PathValidate, "shop", image).Allowed {
		t.Error("allowed by a policy that was replaced")
	}
	// What refuses nothing that runs is put in force by itself.
	write(8, s.policyDoc("me@example.com"))
	if v, problem = version(); v != 8 || problem != "" {
		t.Errorf("version %d: %s", v, problem)
	}
}
