package identity

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"assay/internal/fault"

	"github.com/google/go-cmp/cmp"
)

const github = "https://token.actions.githubusercontent.com"

func TestAllow(t *testing.T) {
	grants := []Grant{
		{Issuer: testIssuer, Subject: "alice@example.com", Role: RolePublisher, Scope: "team-a/**"},
		{Issuer: testIssuer, Subject: "*@example.com", Role: RoleViewer, Scope: "shared/*"},
		{Issuer: testIssuer, Group: "auditors", Role: RoleAuditor, Scope: "**"},
		{Issuer: testIssuer, Group: "ops", Role: RoleOperator, Scope: "team-a/**"},
		{Issuer: testIssuer, Subject: "root@example.com", Role: RoleAdmin, Scope: "**"},
		{Issuer: github, Subject: "repo:org/app:ref:refs/heads/main", Role: RolePublisher, Scope: "team-a/app", Actions: []Action{ActPull, ActCreate}},
		{Issuer: github, Subject: "https://github.com/org/app/.github/workflows/*@refs/heads/main", Role: RoleSigner, Scope: "team-a/app"},
		{Anonymous: true, Role: RoleViewer, Scope: "public/**", Actions: []Action{ActPull}},
	}
	a, err := NewAccess(grants)
	if err != nil {
		t.Fatal(err)
	}
	user := func(email string, groups ...string) Principal {
		return Principal{Issuer: testIssuer, Subject: "id-" + email, Name: email, Email: email, Kind: KindUser, Groups: groups}
	}
	alice, bob := user("alice@example.com"), user("bob@example.com")
	ci := Principal{Issuer: github, Subject: "repo:org/app:ref:refs/heads/main", Name: "https://github.com/org/app/.github/workflows/ci.yml@refs/heads/main", Kind: KindWorkload}
	fork := ci
	fork.Subject, fork.Name = "repo:evil/app:ref:refs/heads/main", "https://github.com/evil/app/.github/workflows/ci.yml@refs/heads/main"
	foreign := alice
	foreign.Issuer = "https://other.example.com"
	shadow := user("mallory@example.org")
	shadow.Subject = "alice@example.com" // chose their own sub
	app, other := Repository("team-a/app"), Repository("team-b/app")
	log, audit := Resource{Kind: ResourceLog}, Resource{Kind: ResourceAudit}
	for _, c := range []struct {
		name string
		p    Principal
		act  Action
		r    Resource
		want error
	}{
		{"publisher pushes", alice, ActPush, app, nil},
		{"publisher creates", alice, ActCreate, app, nil},
		{"publisher signs", alice, ActSign, app, nil},
		{"publisher may not delete", alice, ActDelete, app, fault.Denied},
		{"publisher may not approve", alice, ActApprove, app, fault.Denied},
		{"scope ends", alice, ActPush, other, fault.Denied},
		{"scope is no prefix", alice, ActPull, Repository("team-a2/app"), fault.Denied},
		{"scope covers the folder itself", alice, ActPull, Repository("team-a"), nil},
		{"evidence by repository", alice, ActReadEvidence, Resource{ResourceEvidence, "team-a/app"}, nil},
		{"evidence without repository", alice, ActReadEvidence, Resource{Kind: ResourceEvidence}, fault.Denied},
		{"log needs the whole site", alice, ActReadLog, log, fault.Denied},
		{"viewer by pattern", bob, ActPull, Repository("shared/base"), nil},
		{"viewer, one segment", bob, ActPull, Repository("shared/a/b"), fault.Denied},
		{"viewer may not push", bob, ActPush, Repository("shared/base"), fault.Denied},
		{"auditor reads the log", user("x@example.org", "auditors"), ActReadLog, log, nil},
		{"auditor reads the audit trail", user("x@example.org", "auditors"), ActReadAudit, audit, nil},
		{"auditor may not pull", user("x@example.org", "auditors"), ActPull, app, fault.Denied},
		{"group of another issuer", Principal{Issuer: github, Subject: "x", Name: "x", Kind: KindWorkload, Groups: []string{"auditors"}}, ActReadLog, log, fault.Denied},
		{"group is exact", user("x@example.org", "Auditors", "auditors2"), ActReadLog, log, fault.Denied},
		{"operator within scope", user("x@example.org", "ops"), ActDelete, app, nil},
		{"operator reads no log without **", user("x@example.org", "ops"), ActReadLog, log, fault.Denied},
		{"admin everything", user("root@example.com"), ActAdmin, Resource{Kind: ResourceConfig}, nil},
		{"pipeline creates", ci, ActCreate, app, nil},
		{"pipeline signs by workflow", ci, ActSign, app, nil},
		{"fork", fork, ActCreate, app, fault.Denied},
		{"fork signs", fork, ActSign, app, fault.Denied},
		{"same name of another issuer", foreign, ActPush, app, fault.Denied},
		{"a sub in the shape of another's address", shadow, ActPush, app, fault.Denied},
		{"anonymous pulls what is public", Anonymous(), ActPull, Repository("public/a"), nil},
		{"anonymous elsewhere", Anonymous(), ActPull, app, fault.Unauthenticated},
		{"anonymous may not verify", Anonymous(), ActVerify, Repository("public/a"), fault.Unauthenticated},
		{"known ones pull what is public", bob, ActPull, Repository("public/a"), nil},
		{"the zero principal is anonymous", Principal{}, ActPull, app, fault.Unauthenticated},
		{"anonymous with a borrowed issuer", Principal{Kind: KindAnonymous, Issuer: testIssuer, Name: "root@example.com"}, ActAdmin, app, fault.Unauthenticated},
		{"system", System("sealer"), ActAdmin, Resource{Kind: ResourceConfig}, nil},
		{"unknown action", user("root@example.com"), "explode", app, fault.Denied},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := a.Allow(bg, c.p, c.act, c.r)
			if (c.want == nil) != (err == nil) || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	err = a.Allow(bg, bob, ActPush, app)
	if !strings.Contains(err.Error(), "at least role push") || !strings.Contains(err.Error(), "team-a/app") || !strings.Contains(err.Error(), "bob@example.com") {
		t.Errorf("the denial names neither role, scope nor person: %v", err)
	}
	if d := cmp.Diff(grants, a.Grants()); d != "" {
		t.Error(d)
	}
}

// CVE-2026-31801: who may only create does not overwrite a tag.
func TestThreat_Registry_CreateOnlyOverwrites(t *testing.T) {
	a, err := NewAccess([]Grant{{Issuer: testIssuer, Subject: "ci", Role: RolePublisher, Scope: "**", Actions: []Action{ActPull, ActCreate}}})
	if err != nil {
		t.Fatal(err)
	}
	p := Principal{Issuer: testIssuer, Subject: "ci", Name: "ci", Kind: KindRobot}
	if err := a.Allow(bg, p, ActCreate, Repository("a")); err != nil {
		t.Error(err)
	}
	if err := a.Allow(bg, p, ActPush, Repository("a")); !errors.Is(err, fault.Denied) {
		t.Errorf("overwriting: %v", err)
	}
}

func TestDefaultDeny(t *testing.T) {
	var zero Access
	none, err := NewAccess(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := Principal{Issuer: testIssuer, Subject: "x", Name: "x", Kind: KindUser}
	for _, a := range []*Access{&zero, none} {
		for _, role := range roleTable {
			for _, act := range role.actions {
				if a.Allow(bg, p, act, Repository("a")) == nil || a.Allow(bg, Anonymous(), act, Repository("a")) == nil {
					t.Errorf("%s is allowed by nothing", act)
				}
			}
		}
	}
}

func TestGrantValidate(t *testing.T) {
	good := Grant{Issuer: testIssuer, Subject: "a", Role: RoleViewer, Scope: "**"}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Grant){
		"nobody":               func(g *Grant) { g.Subject = "" },
		"subject and group":    func(g *Grant) { g.Group = "g" },
		"no issuer":            func(g *Grant) { g.Issuer = "" },
		"issuer pattern":       func(g *Grant) { g.Issuer = "https://*.example.com" },
		"unknown role":         func(g *Grant) { g.Role = "owner" },
		"no role":              func(g *Grant) { g.Role = "" },
		"no scope":             func(g *Grant) { g.Scope = "" },
		"bad scope":            func(g *Grant) { g.Scope = "a***" },
		"foreign action":       func(g *Grant) { g.Actions = []Action{ActPush} },
		"anonymous publisher":  func(g *Grant) { *g = Grant{Anonymous: true, Role: RolePublisher, Scope: "**"} },
		"anonymous and issuer": func(g *Grant) { g.Subject, g.Anonymous = "", true },
	} {
		g := good
		change(&g)
		if err := g.Validate(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}

// A swap is seen whole or not at all, and an invalid one not at all.
func TestAccessSet(t *testing.T) {
	both := Grant{Issuer: testIssuer, Subject: "x", Role: RolePublisher, Scope: "both"}
	set := func(scope string) []Grant {
		g := Grant{Issuer: testIssuer, Subject: "x", Role: RolePublisher, Scope: scope}
		if scope == "a" {
			return []Grant{both, g}
		}
		return []Grant{g, both}
	}
	a, err := NewAccess(set("a"))
	if err != nil {
		t.Fatal(err)
	}
	p := Principal{Issuer: testIssuer, Subject: "x", Name: "x", Kind: KindUser, Groups: []string{"g"}}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2000 {
				// What both sets grant is never missing while they change places.
				if err := a.Allow(bg, p, ActPush, Repository("both")); err != nil {
					t.Errorf("a swap was seen half done: %v", err)
					return
				}
			}
		})
	}
	for i := range 1000 {
		if err := a.Set(set([]string{"a", "b"}[i%2])); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if err := a.Set([]Grant{{Issuer: testIssuer, Subject: "x", Role: RoleAdmin, Scope: "**"}, {}}); !errors.Is(err, fault.Invalid) {
		t.Errorf("invalid grants: %v", err)
	}
	if a.Allow(bg, p, ActPush, Repository("c")) == nil || a.Allow(bg, p, ActPush, Repository("b")) != nil {
		t.Error("an invalid set changed the grants in force")
	}
}

// A robot's name holds brackets: without a star it is itself, and with one it is
// refused, since other tools would read a class of characters.
func TestSubjectWithBrackets(t *testing.T) {
	a, err := NewAccess([]Grant{{Issuer: testIssuer, Subject: "dependabot[bot]", Role: RoleViewer, Scope: "**"}})
	if err != nil {
		t.Fatal(err)
	}
	for subject, want := range map[string]error{"dependabot[bot]": nil, "dependabotb": fault.Denied, "dependabot": fault.Denied} {
		p := Principal{Issuer: testIssuer, Subject: subject, Name: subject, Kind: KindRobot}
		if err := a.Allow(bg, p, ActPull, Repository("app")); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", subject, err, want)
		}
	}
	if err := (Grant{Issuer: testIssuer, Subject: "*[bot]", Role: RoleViewer, Scope: "**"}).Validate(); !errors.Is(err, fault.Invalid) {
		t.Errorf("a pattern with brackets: %v, want invalid", err)
	}
}

func TestPrincipalContext(t *testing.T) {
	if p := FromContext(bg); !p.IsAnonymous() || p.Actor() != "anonymous" {
		t.Errorf("without a principal: %+v", p)
	}
	want := Principal{Issuer: testIssuer, Subject: "s", Name: "a@example.com", Kind: KindUser}
	if got := FromContext(WithPrincipal(bg, want)); cmp.Diff(want, got) != "" || got.Actor() != testIssuer+"#a@example.com" {
		t.Errorf("%+v", got)
	}
	if s := System("sealer").Actor(); s != "system:sealer" {
		t.Error(s)
	}
	long := Principal{Issuer: testIssuer, Name: strings.Repeat("é", 1000), Kind: KindUser}
	other := Principal{Issuer: testIssuer, Name: strings.Repeat("é", 999) + "è", Kind: KindUser}
	if len(long.Actor()) > 1024 || long.Actor() == other.Actor() || !utf8.ValidString(long.Actor()) {
		t.Errorf("long actors: %q and %q", long.Actor(), other.Actor())
	}
}

func BenchmarkAllow(b *testing.B) {
	var grants []Grant
	for i := range 1000 {
		grants = append(grants, Grant{Issuer: testIssuer, Subject: fmt.Sprintf("user%d@example.com", i), Role: RolePublisher, Scope: fmt.Sprintf("team-%d/**", i)})
	}
	a, err := NewAccess(grants)
	if err != nil {
		b.Fatal(err)
	}
	p := Principal{Issuer: testIssuer, Subject: "user999@example.com", Name: "user999@example.com", Email: "user999@example.com", Kind: KindUser}
	r := Repository("team-999/app")
	b.ReportAllocs()
	for b.Loop() {
		if err := a.Allow(bg, p, ActPush, r); err != nil {
			b.Fatal(err)
		}
	}
}

// CVE-2025-29778, CVE-2026-22772: a pattern that is not anchored, or is read as
// a regular expression, grants to strangers.
func TestThreat_Identity_PatternIsAnchored(t *testing.T) {
	a, err := NewAccess([]Grant{
		{Issuer: testIssuer, Subject: "ci@example.com", Role: RoleAdmin, Scope: "**"},
		{Issuer: testIssuer, Subject: "https://github.com/org/*", Role: RoleAdmin, Scope: "**"},
		{Issuer: testIssuer, Subject: ".*", Role: RoleAdmin, Scope: "**"},
		{Issuer: testIssuer, Subject: "^spiffe://example.com/a$", Role: RoleAdmin, Scope: "**"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"xci@example.com", "ci@example.com.evil.org", "ci@exampleXcom", "CI@example.com", "ci@example.com\n", "x\nci@example.com",
		"https://github.com/org/app/evil", "https://github.com/organisation", "https://evil.org/?https://github.com/org/a",
		"anything", "spiffe://example.com/a", "",
	} {
		p := Principal{Issuer: testIssuer, Subject: name, Name: name, Email: name, Kind: KindUser}
		if err := a.Allow(bg, p, ActPull, Repository("a")); err == nil {
			t.Errorf("%q was let in", name)
		}
	}
	ok := Principal{Issuer: testIssuer, Subject: "https://github.com/org/app", Name: "https://github.com/org/app", Kind: KindWorkload}
	if err := a.Allow(bg, ok, ActPull, Repository("a")); err != nil {
		t.Error(err)
	}
}
