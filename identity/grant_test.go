package identity

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"assay/internal/fault"
)

const hub = "https://token.hub.test"

func job(claims map[string]string) Principal {
	return Principal{Issuer: hub, Subject: "repo:org/app", Name: "https://hub.test/w", Kind: KindWorkload, Claims: claims}
}

// A grant by claims matches those alone who have them all, and of its issuer.
func TestGrantByClaims(t *testing.T) {
	a, err := NewAccess([]Grant{
		{Issuer: hub, Claims: map[string]string{"repository": "org/app", "ref": "refs/tags/*"}, Role: RoleCreateOnly, Scope: "org/app"},
		{Issuer: hub, Group: "release", Claims: map[string]string{"environment": "prod"}, Role: RoleDelete, Scope: "org/**"},
		{Issuer: hub, Subject: "repo:*/app", Claims: map[string]string{"n": "7"}, Role: RoleSign, Scope: "org/**"},
	})
	if err != nil {
		t.Fatal(err)
	}
	tag := map[string]string{"repository": "org/app", "ref": "refs/tags/v1", "actor": "ann"}
	app := Repository("org/app")
	for name, c := range map[string]struct {
		p    Principal
		act  Action
		want bool
	}{
		"all claims":            {job(tag), ActCreate, true},
		"beyond the role":       {job(tag), ActPush, false},
		"another ref":           {job(map[string]string{"repository": "org/app", "ref": "refs/heads/main"}), ActCreate, false},
		"a longer ref":          {job(map[string]string{"repository": "org/app", "ref": "refs/tags/a/b"}), ActCreate, false},
		"a claim missing":       {job(map[string]string{"ref": "refs/tags/v1"}), ActCreate, false},
		"a look-alike":          {job(map[string]string{"repository": "org/app2", "ref": "refs/tags/v1"}), ActCreate, false},
		"another issuer":        {Principal{Issuer: "https://other", Subject: "s", Kind: KindWorkload, Claims: tag}, ActCreate, false},
		"nobody":                {Anonymous(), ActCreate, false},
		"group without claim":   {Principal{Issuer: hub, Subject: "s", Kind: KindWorkload, Groups: []string{"release"}}, ActDelete, false},
		"group and claim":       {Principal{Issuer: hub, Subject: "s", Kind: KindWorkload, Groups: []string{"release"}, Claims: map[string]string{"environment": "prod"}}, ActDelete, true},
		"subject without claim": {job(nil), ActSign, false},
		"subject and claim":     {job(map[string]string{"n": "7"}), ActSign, true},
	} {
		if err := a.Allow(bg, c.p, c.act, app); (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What a token of ours keeps of the claims is what grants ask for, no more.
	if kept := a.Keep(job(tag)); len(kept) != 2 || kept["ref"] != "refs/tags/v1" || kept["repository"] != "org/app" {
		t.Errorf("kept %v", kept)
	}
	if kept := a.Keep(Principal{Issuer: "https://other", Claims: tag}); kept != nil {
		t.Errorf("kept %v of another issuer", kept)
	}
	for name, g := range map[string]Grant{
		"neither subject nor claims": {Issuer: hub, Role: RolePull, Scope: "**"},
		"claims of no issuer":        {Claims: tag, Role: RolePull, Scope: "**"},
		"everybody's claims":         {Anonymous: true, Claims: tag, Role: RoleViewer, Scope: "**"},
		"an empty claim":             {Issuer: hub, Claims: map[string]string{"ref": ""}, Role: RolePull, Scope: "**"},
		"a bad pattern":              {Issuer: hub, Claims: map[string]string{"ref": "refs/[a]*"}, Role: RolePull, Scope: "**"},
		"a team with an issuer":      {Issuer: hub, Team: "t", Role: RolePull, Scope: "**"},
		"a team and a subject":       {Team: "t", Subject: "s", Role: RolePull, Scope: "**"},
	} {
		if err := g.Validate(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	many := map[string]string{}
	for i := range 17 {
		many[fmt.Sprint(i)] = "x"
	}
	if err := (Grant{Issuer: hub, Claims: many, Role: RolePull, Scope: "**"}).Validate(); !errors.Is(err, fault.Invalid) {
		t.Errorf("17 claims: %v", err)
	}
	// A team that nobody expanded is no grant to everybody, nor to nobody in silence.
	if _, err := NewAccess([]Grant{{Team: "t", Role: RolePull, Scope: "**"}}); !errors.Is(err, fault.Invalid) {
		t.Errorf("a team without members: %v", err)
	}
}

// Whoever administers a part hands on no more than that part (tenancy).
func TestThreat_Tenancy_AllowPattern(t *testing.T) {
	ann := Principal{Issuer: hub, Subject: "ann", Name: "ann", Kind: KindUser}
	a, err := NewAccess([]Grant{{Issuer: hub, Subject: "ann", Role: RoleAdmin, Scope: "team/**"}, {Issuer: hub, Subject: "ann", Role: RoleAdmin, Scope: "solo/app-*"}})
	if err != nil {
		t.Fatal(err)
	}
	for scope, want := range map[string]bool{
		"team/**": true, "team/app": true, "team/*": true, "team/a/**": true, "team": true, "solo/app-*": true, "solo/app-1*": true,
		"**": false, "*": false, "teams/**": false, "team*": false, "*/app": false, "solo/*": false, "solo/**": false, "solo/app-*/x": false, "solo/app-**": false,
	} {
		if err := a.AllowPattern(bg, ann, ActAdmin, scope); (err == nil) != want {
			t.Errorf("%s: %v", scope, err)
		}
	}
	if err := a.AllowPattern(bg, System("x"), ActAdmin, "**"); err != nil {
		t.Errorf("the system: %v", err)
	}
	if err := a.Somewhere(ann, ActAdmin); err != nil {
		t.Errorf("somewhere: %v", err)
	}
	if err := a.Somewhere(ann, ActReadAudit); err != nil {
		t.Errorf("an admin of a part reads the audit of a part: %v", err)
	}
	bob := Principal{Issuer: hub, Subject: "bob", Name: "bob", Kind: KindUser}
	if err := a.Somewhere(bob, ActAdmin); !errors.Is(err, fault.Denied) {
		t.Errorf("bob: %v", err)
	}
	if err := a.Somewhere(Anonymous(), ActAdmin); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("nobody: %v", err)
	}
}

// A refusal names the least role that would do.
func TestLeastRole(t *testing.T) {
	for act, want := range map[Action]Role{
		ActPull: RolePull, ActSign: RoleSign, ActCreate: RoleCreateOnly, ActPush: RolePush, ActDelete: RoleDelete,
		ActVerify: RoleViewer, ActReadAudit: RoleAuditor, ActAdmin: RoleAdmin,
	} {
		if got := leastRole(act); got != string(want) {
			t.Errorf("%s: %s, want %s", act, got, want)
		}
	}
}

// The embedded issuer's clock is ours: its tokens end when they say. Another
// issuer's may be a minute off. And what was revoked is refused at every door.
func TestEndOfTokens(t *testing.T) {
	s := newSigner(t, "k1")
	now := testNow
	keys := func() []jose.JSONWebKey { return []jose.JSONWebKey{s.jwk} }
	var revoked error
	v, err := NewVerifier(VerifierOptions{
		Local: &LocalIssuer{URL: testIssuer, Keys: keys}, Clock: func() time.Time { return now },
		Check: func(Principal) error { return revoked },
	})
	if err != nil {
		t.Fatal(err)
	}
	raw := s.token(t, goodClaims(nil), nil) // good for five minutes
	verify := func() error { _, _, err := v.Verify(context.Background(), raw, AudienceSigstore); return err }
	if err := verify(); err != nil {
		t.Fatal(err)
	}
	revoked = fault.Newf(fault.Unauthenticated, "revoked")
	if err := verify(); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("revoked: %v", err)
	}
	revoked = nil
	now = testNow.Add(5*time.Minute - time.Second)
	if err := verify(); err != nil {
		t.Errorf("a second before its end: %v", err)
	}
	now = testNow.Add(5 * time.Minute)
	if err := verify(); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("at its end: %v", err)
	}
}
