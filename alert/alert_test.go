package alert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/inventory"
	"assay/slo"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
)

// site is a store with a clock of its own and receivers that are never reached.
type site struct {
	*Store
	t    *testing.T
	now  time.Time
	seq  int
	book *inventory.Catalogue
}

func newSite(t *testing.T, d store.Dialect, receivers ...*Receiver) *site {
	t.Helper()
	s := &site{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	db := storetest.Open(t, d, store.WithClock(func() time.Time { return s.now }))
	if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
		t.Fatal(err)
	}
	if receivers == nil {
		receivers = []*Receiver{receiver(t, "all", Spec{Type: TypeWebhook, URL: "https://never.example", Default: true})}
	}
	s.Store = New(Options{
		DB: db, Clock: func() time.Time { return s.now }, Site: "https://assay.example",
		Receivers: func() []*Receiver { return receivers }, Catalogue: func() *inventory.Catalogue { return s.book },
	})
	return s
}

func receiver(t *testing.T, name string, spec Spec) *Receiver {
	t.Helper()
	r, err := Compile(name, spec)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func each(t *testing.T, f func(t *testing.T, s *site)) {
	for _, d := range []store.Dialect{store.SQLite, store.PostgreSQL} {
		t.Run(fmt.Sprint(d), func(t *testing.T) { f(t, newSite(t, d)) })
	}
}

func digest(n int) artifact.Digest { return artifact.Digest(fmt.Sprintf("sha256:%064x", n)) }

// tell has the rules look at events of a kind, as the log would give them.
func (s *site) tell(list ...event.Event) {
	s.t.Helper()
	for i := range list {
		e := &list[i]
		s.seq++
		e.Seq, e.ID = int64(s.seq), fmt.Sprintf("evt_%08d", s.seq)
		if e.Time.IsZero() {
			e.Time = s.now
		}
		b, err := json.Marshal(e.Body)
		if err != nil {
			s.t.Fatal(err)
		}
		e.Body = json.RawMessage(b)
	}
	for part := range slices.Chunk(list, 256) {
		if err := s.o.DB.Update(s.t.Context(), func(tx *store.Tx) error { return s.take(s.t.Context(), tx, part) }); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *site) open() (out []string) {
	s.t.Helper()
	all, err := s.List(s.t.Context(), Filter{Limit: 1000})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, a := range all {
		out = append(out, fmt.Sprintf("%s %s %s x%d", a.Severity, a.Rule, a.State, a.Count))
	}
	slices.Sort(out)
	return out
}

func (s *site) notices() (out []string) {
	s.t.Helper()
	all, err := s.Deliveries(s.t.Context(), "", 1000)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, d := range all {
		out = append(out, d.Receiver+" "+d.Occasion)
	}
	slices.Sort(out)
	return out
}

func (s *site) want(what string, got, want []string) {
	s.t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		s.t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

type m = map[string]any

func TestManyFindingsOfOneReleaseAreOneNotice(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		s.o.Locate = func(_ context.Context, _ *store.Tx, e *event.Event) (slo.Place, error) {
			return slo.Place{Team: "payments", Service: "checkout", Release: "team/checkout:v7"}, nil
		}
		var list []event.Event
		for i := range 10_000 {
			list = append(list, event.Event{Kind: event.FindingOpened, Digest: digest(i % 40), Body: m{"feed": "osv", "operation": i, "advisories": []string{fmt.Sprintf("CVE-2026-%d", i)}, "count": 1}})
		}
		s.tell(list...)
		s.want("notices", s.notices(), []string{"all opened"})
		groups, err := s.Groups(t.Context(), GroupFilter{})
		if err != nil || len(groups) != 1 || groups[0].Total != 40 || groups[0].Firing != 40 {
			t.Fatalf("groups: %+v, %v", groups, err)
		}
		if n := groups[0].Alerts[0].Count; n != 250 {
			t.Errorf("an artifact's alert counts %d occurrences, want 250", n)
		}
		if a := groups[0].Alerts[0]; len(a.Evidence) != 10 || a.Runbook != "runbooks/finding.md" || a.Command != "assay vuln list "+string(a.Artifact) {
			t.Errorf("alert %+v", a)
		}
		// A second look at the same says nothing more, nor does its end twice.
		s.tell(list[:200]...)
		s.want("notices", s.notices(), []string{"all opened"})
	})
}

func TestTamperingPagesAtOnce(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		s.tell(event.Event{Kind: event.StoreTampered, Digest: digest(1), Body: m{"what": "blob", "name": "x", "found": "y"}})
		s.want("alerts", s.open(), []string{"page tampering firing x1"})
		all, err := s.Deliveries(t.Context(), "", 0)
		if err != nil || len(all) != 1 || all[0].Due.After(s.now) {
			t.Fatalf("deliveries %+v, %v: want one that is due now", all, err)
		}
		s.tell(event.Event{Kind: event.StoreRepaired, Digest: digest(1), Body: m{"what": "blob", "name": "x"}})
		s.want("alerts", s.open(), nil)
	})
}

func TestASingleFlakeDoesNotAlert(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		flake := func() {
			s.tell(event.Event{Kind: event.AdmissionDenied, Cluster: "eu", Digest: digest(s.seq), Body: m{"reason": "no answer", "cause": slo.CauseInfrastructure}})
		}
		for range 4 {
			flake()
			s.now = s.now.Add(time.Second)
		}
		s.want("after four", s.open(), nil)
		s.now = s.now.Add(flakeWindow)
		flake()
		s.want("after one more, later", s.open(), nil)
		for range 4 {
			flake()
			s.now = s.now.Add(time.Second)
		}
		s.want("after five within the window", s.open(), []string{"ticket admission-failing firing x1"})
		// A refusal by evidence is none.
		s.tell(event.Event{Kind: event.AdmissionDenied, Cluster: "eu", Digest: digest(99), Body: m{"reason": "not signed"}})
		s.want("a refusal", s.open(), []string{"ticket admission-failing firing x1"})
	})
}

func TestAnOutagePagesWithinTwoMinutes(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		numbers := slo.New(slo.Options{DB: s.o.DB, Clock: s.o.Clock})
		if err := s.o.DB.Migrate(t.Context(), slo.Migrations); err != nil {
			t.Fatal(err)
		}
		s.o.Outage = numbers.Verified
		s.o.Objectives = func(ctx context.Context) ([]slo.Status, error) { return numbers.Status(ctx, time.Time{}) }
		count := func(good, failed int64) {
			x := []slo.Sample{{Indicator: slo.FailedVerifications, At: s.now, Good: good}}
			if failed > 0 {
				x = append(x, slo.Sample{Indicator: slo.FailedVerifications, At: s.now, Bad: failed, Extra: map[string]string{"cause": slo.CauseInfrastructure}})
			}
			if err := s.o.DB.Update(t.Context(), func(tx *store.Tx) error { return numbers.Add(t.Context(), tx, x, true) }); err != nil {
				t.Fatal(err)
			}
		}
		tend := func() {
			if err := s.Tend(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for range 120 { // two good hours
			count(20, 0)
			s.now = s.now.Add(time.Minute)
		}
		count(3, 1) // a flake
		tend()
		s.want("a flake", s.open(), nil)
		s.now = s.now.Add(time.Minute)
		began := s.now
		paged := func() bool {
			return slices.ContainsFunc(s.open(), func(a string) bool { return strings.Contains(a, RuleOutage) })
		}
		for !paged() && s.now.Sub(began) < 5*time.Minute {
			count(0, 3)
			tend()
			s.now = s.now.Add(tendEvery)
		}
		if took := s.now.Sub(began); !paged() || took > 2*time.Minute {
			t.Fatalf("the page came after %s: want within 2 minutes; open: %v", took, s.open())
		}
		for range 3 {
			s.now = s.now.Add(time.Minute)
			count(20, 0)
			tend()
		}
		if paged() {
			t.Errorf("still open when questions are answered again: %v", s.open())
		}
	})
}

func TestASlowBurnMakesATicket(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		if err := s.o.DB.Migrate(t.Context(), slo.Migrations); err != nil {
			t.Fatal(err)
		}
		numbers := slo.New(slo.Options{DB: s.o.DB, Clock: s.o.Clock})
		s.o.Objectives = func(ctx context.Context) ([]slo.Status, error) { return numbers.Status(ctx, time.Time{}) }
		var x []slo.Sample
		for h := range 24 * 20 { // twenty good days, then one of four times the rate
			good, bad := int64(1000), int64(0)
			if h >= 24*19 {
				good, bad = 960, 40
			}
			x = append(x, slo.Sample{Indicator: slo.FailedVerifications, At: s.now.Add(time.Duration(h) * time.Hour), Good: good, Bad: bad})
		}
		s.now = s.now.Add(24*20*time.Hour - 30*time.Minute)
		if err := s.o.DB.Update(t.Context(), func(tx *store.Tx) error { return numbers.Add(t.Context(), tx, x, true) }); err != nil {
			t.Fatal(err)
		}
		if err := s.Tend(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.want("alerts", s.open(), []string{"ticket objective-slow-burn firing x1"})
	})
}

func TestASpentBudgetIsWhatThePolicySays(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		if err := s.o.DB.Migrate(t.Context(), slo.Migrations); err != nil {
			t.Fatal(err)
		}
		goals := slo.Defaults()
		numbers := slo.New(slo.Options{DB: s.o.DB, Clock: s.o.Clock, Objectives: func() *slo.Objectives { return goals }})
		s.o.Objectives = func(ctx context.Context) ([]slo.Status, error) { return numbers.Status(ctx, time.Time{}) }
		tend := func(policy string) {
			t.Helper()
			var err error
			if goals, err = slo.Compile(map[string]slo.Spec{"site": {Budget: &slo.BudgetSpec{Exhausted: policy}}}); err != nil {
				t.Fatal(err)
			}
			if err := s.Tend(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		// Ten days ago half failed: the budget is spent, and nothing burns it now.
		x := []slo.Sample{{Indicator: slo.FailedVerifications, At: s.now.Add(-240 * time.Hour), Good: 500, Bad: 500}}
		if err := s.o.DB.Update(t.Context(), func(tx *store.Tx) error { return numbers.Add(t.Context(), tx, x, true) }); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ policy, want string }{{"", "ticket"}, {"page", "page"}, {"page", "page"}, {"ticket", "ticket"}} {
			tend(c.policy)
			s.want("policy "+c.policy, s.open(), []string{c.want + " objective-missed firing x1"})
		}
		s.now = s.now.Add(40 * 24 * time.Hour) // the window has passed it
		tend("page")
		s.want("after the window", s.open(), nil)
	})
}

func TestThreeHighEventsOfAServiceEscalate(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		fire := func(service string, kind event.Kind, n int) {
			s.tell(event.Event{Kind: kind, Service: service, Team: "a", Digest: digest(n), Body: m{"reason": "r", "what": "tool", "name": "x"}})
		}
		fire("checkout", event.ArtifactQuarantined, 1)
		fire("other", event.RunnerAnomaly, 2)
		fire("checkout", event.RunnerAnomaly, 3)
		fire("checkout", event.RunnerAnomaly, 4) // of one rule and thing: one
		s.now = s.now.Add(10 * time.Minute)
		for _, a := range s.open() {
			if strings.Contains(a, RuleUnderFire) {
				t.Fatalf("two are enough: %v", s.open())
			}
		}
		fire("checkout", event.MalwareFound, 5)
		if !slices.Contains(s.open(), "page service-under-fire firing x1") {
			t.Errorf("three in ten minutes do not escalate: %v", s.open())
		}
	})
}

func TestAcknowledgedOrEscalated(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		further := receiver(t, "boss", Spec{Type: TypeWebhook, URL: "https://boss.example", Escalation: true})
		all := append(s.o.Receivers(), further)
		s.o.Receivers = func() []*Receiver { return all }
		tend := func(d time.Duration) {
			s.now = s.now.Add(d)
			if err := s.Tend(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		s.tell(event.Event{Kind: event.BreakGlass, Body: m{"subject": "break-glass:1", "reason": "why"}})
		tend(14 * time.Minute)
		s.want("in time", s.notices(), []string{"all opened"})
		tend(2 * time.Minute)
		tend(time.Minute)
		s.want("not in time", s.notices(), []string{"all escalated:1", "all opened", "boss escalated:1"})
		list, err := s.List(t.Context(), Filter{})
		if err != nil || len(list) != 1 || list[0].Escalated != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		got, err := s.Acknowledge(t.Context(), list[0].ID, "jo", "on it")
		if err != nil || got.State != Acknowledged || got.AcknowledgedBy != "jo" || !got.Acknowledged.Equal(s.now) {
			t.Fatalf("%+v, %v", got, err)
		}
		tend(10 * time.Hour)
		if n := len(s.notices()); n != 3 {
			t.Errorf("%d notices after the acknowledgement, want 3: %v", n, s.notices())
		}
		if got, err = s.Resolve(t.Context(), list[0].ID, "jo"); err != nil || got.State != Resolved {
			t.Fatalf("%+v, %v", got, err)
		}
		if _, err := s.Acknowledge(t.Context(), list[0].ID, "jo", ""); !errors.Is(err, fault.Conflict) {
			t.Errorf("acknowledging what is resolved: %v", err)
		}
	})
}

func TestSilences(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		hush := func(x Silence) error {
			_, err := s.Hush(t.Context(), x)
			return err
		}
		for name, x := range map[string]Silence{
			"no owner":      {Rule: "finding", Reason: "r", Expires: s.now.Add(time.Hour)},
			"no reason":     {Rule: "finding", Owner: "jo", Expires: s.now.Add(time.Hour)},
			"everything":    {Severity: Ticket, Owner: "jo", Reason: "r", Expires: s.now.Add(time.Hour)},
			"no end":        {Rule: "finding", Owner: "jo", Reason: "r"},
			"too long":      {Rule: "finding", Owner: "jo", Reason: "r", Expires: s.now.Add(31 * 24 * time.Hour)},
			"pages, a week": {Service: "checkout", Owner: "jo", Reason: "r", Expires: s.now.Add(7 * 24 * time.Hour)},
			"unknown rule":  {Rule: "nothing", Owner: "jo", Reason: "r", Expires: s.now.Add(time.Hour)},
		} {
			if err := hush(x); !errors.Is(err, fault.Invalid) {
				t.Errorf("%s: %v, want fault.Invalid", name, err)
			}
		}
		if err := hush(Silence{Rule: "sbom-refused", Owner: "jo", Reason: "known", Expires: s.now.Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		s.tell(event.Event{Kind: event.SBOMRefused, Digest: digest(1), Body: m{"reason": "bad"}})
		s.want("silenced", s.notices(), nil)
		list, err := s.List(t.Context(), Filter{})
		if err != nil || len(list) != 1 || list[0].Silenced == "" {
			t.Fatalf("%+v, %v", list, err)
		}
		s.now = s.now.Add(2 * time.Hour)
		if err := s.Tend(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.want("when it has ended", s.notices(), []string{"all opened"})
	})
}

// A long silence, of a time when the rule made tickets alone, holds back no page
// that it makes now, since the budget's policy asks for pages.
func TestThreat_Alerts_ALongSilenceHoldsNoPage(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		status := slo.Status{Definition: slo.Definition{Name: "Coverage"}, State: slo.Exhausted, Reason: "spent"}
		status.Indicator.Definition = slo.Definition{ID: slo.AttestationCoverage}
		s.o.Objectives = func(context.Context) ([]slo.Status, error) { return []slo.Status{status}, nil }
		if _, err := s.Hush(t.Context(), Silence{Rule: RuleMissed, Owner: "jo", Reason: "known", Expires: s.now.Add(20 * time.Hour)}); err != nil {
			t.Fatal(err)
		}
		if err := s.o.DB.Update(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE alert_silence SET expires = ?`, store.Micros(s.now.Add(20*24*time.Hour)))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			s.now = s.now.Add(time.Minute)
			if err := s.Tend(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		s.want("a ticket is held back", s.notices(), nil)
		status.PageWhenSpent = true
		for range 3 {
			s.now = s.now.Add(time.Minute)
			if err := s.Tend(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		list, err := s.List(t.Context(), Filter{})
		if err != nil || len(list) != 1 || list[0].Severity != Page || list[0].Silenced != "" {
			t.Fatalf("%+v, %v", list, err)
		}
		if n := s.notices(); len(n) == 0 {
			t.Error("nobody is told of the page")
		}
	})
}

// Who silences pages is not the only one who knows, and cannot silence that.
func TestThreat_Alerts_ASilenceIsNotQuiet(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		made, err := s.Hush(t.Context(), Silence{Rule: "tampering", Owner: "mallory", Reason: "maintenance", Expires: s.now.Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Hush(t.Context(), Silence{Rule: RuleSilenced, Owner: "mallory", Reason: "x", Expires: s.now.Add(time.Hour)}); !errors.Is(err, fault.Invalid) {
			t.Errorf("the rule itself was silenced: %v", err)
		}
		if _, err := s.Hush(t.Context(), Silence{Rule: "finding", Owner: "jo", Reason: "tickets", Expires: s.now.Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		tend := func(want ...string) {
			t.Helper()
			s.now = s.now.Add(time.Minute)
			if err := s.Tend(t.Context()); err != nil {
				t.Fatal(err)
			}
			list, err := s.List(t.Context(), Filter{})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, a := range list {
				got = append(got, a.Rule+" "+a.About)
				if a.Silenced != "" || !strings.Contains(a.Summary, "mallory") {
					t.Errorf("%+v", a)
				}
			}
			s.want("alerts", got, want)
		}
		tend(RuleSilenced + " " + made.ID)
		tend(RuleSilenced + " " + made.ID)
		s.want("told once", s.notices(), []string{"all opened"})
		if _, err := s.Unhush(t.Context(), made.ID, "jo", &Reach{Site: true}); err != nil {
			t.Fatal(err)
		}
		tend()
	})
}

func TestRoutes(t *testing.T) {
	one := func(name string, s Spec) *Receiver {
		s.Type, s.URL = TypeWebhook, "https://"+name+".example"
		return receiver(t, name, s)
	}
	all := []*Receiver{one("platform", Spec{Default: true}), one("payments", Spec{Teams: []string{"payments"}}), one("night", Spec{Severities: []Severity{Page}, Teams: []string{"payments"}}), one("oncall", Spec{}), one("boss", Spec{Escalation: true})}
	for _, c := range []struct {
		name    string
		sev     Severity
		team    string
		named   []string
		further bool
		want    []string
	}{
		{"of the team", Ticket, "payments", nil, false, []string{"payments"}},
		{"a page of the team", Page, "payments", nil, false, []string{"payments", "night"}},
		{"nobody's", Page, "", nil, false, []string{"platform"}},
		{"of a team without a receiver", Ticket, "search", nil, false, []string{"platform"}},
		{"as the catalogue says", Page, "payments", []string{"oncall"}, false, []string{"oncall"}},
		{"the catalogue names what is not there", Page, "search", []string{"gone"}, false, []string{"platform"}},
		{"further up", Page, "search", nil, true, []string{"platform", "boss"}},
	} {
		var got []string
		for _, r := range route(all, c.sev, c.team, c.named, c.further) {
			got = append(got, r.Name)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

func TestUnownedGoesToThePlatform(t *testing.T) {
	s := newSite(t, store.SQLite)
	book, err := inventory.NewCatalogue(inventory.Spec{Teams: map[string]inventory.Team{"base": {Platform: true}}})
	if err != nil {
		t.Fatal(err)
	}
	s.book = book
	s.tell(event.Event{Kind: event.SBOMRefused, Digest: digest(1), Body: m{"reason": "bad"}})
	list, err := s.List(t.Context(), Filter{Unowned: true, Team: "base"})
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
}

func TestRulesHaveRunbooks(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Rules() {
		if seen[r.ID] {
			t.Errorf("rule %s stands twice", r.ID)
		}
		seen[r.ID] = true
		if r.Title == "" || r.Why == "" || r.Command == "" || len(r.kinds) > 0 && r.match == nil {
			t.Errorf("rule %s lacks its title, its reason, its command or its match", r.ID)
		}
		b, err := os.ReadFile(filepath.Join("..", "docs", filepath.FromSlash(r.Runbook())))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, part := range []string{"# " + r.Title, "## What it means", "## What to do", "## When it is over"} {
			if !strings.Contains(string(b), part) {
				t.Errorf("%s lacks %q", r.Runbook(), part)
			}
		}
	}
	files, err := filepath.Glob(filepath.Join("..", "docs", "runbooks", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !seen[strings.TrimSuffix(filepath.Base(f), ".md")] {
			t.Errorf("%s is of no rule", f)
		}
	}
}

// What an attacker names goes neither into a shell nor onto a terminal.
func TestThreat_Alerts_HostileNames(t *testing.T) {
	s := newSite(t, store.SQLite)
	s.tell(event.Event{Kind: event.WebhookFailing, Body: m{"hook": "x; rm -rf /", "reason": "\x1b[2Jgone\r\nX: y"}})
	list, err := s.List(t.Context(), Filter{})
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	if a := list[0]; a.Command != "assay webhook deliveries NAME" || strings.ContainsAny(a.Summary, "\x1b\r\n") {
		t.Errorf("command %q, summary %q", a.Command, a.Summary)
	}
	// A body of other types than it should be of matches nothing, and breaks nothing.
	s.tell(event.Event{Kind: event.FindingOpened, Digest: digest(1), Body: m{"feed": 7, "advisories": "x", "count": "many"}}, event.Event{Kind: event.ArtifactRevoked, Digest: digest(2), Body: m{"pulls": "many"}})
}
