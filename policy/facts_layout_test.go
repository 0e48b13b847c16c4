package policy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"
)

func ownerPEM(t *testing.T) string {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func layoutPolicy(name, layout, owner, more string) string {
	return head + fmt.Sprintf("  requirements:\n    layouts:\n      - {name: %q, layout: %q, owners: [%q]}\n%s", name, layout, owner, more)
}

// A fact holds for the layout, owners and wishes that it was gathered for.
func TestLayoutRequirement(t *testing.T) {
	owner := ownerPEM(t)
	p := mustParse(t, layoutPolicy("release", "{}", owner, ""))
	if len(p.Layouts()) != 1 || len(p.Layouts()[0].Owners) != 1 {
		t.Fatalf("%+v", p.Layouts())
	}
	id := p.Layouts()[0].ID
	fact := LayoutFact{ID: id, Name: "release", Followed: true, Steps: []LayoutStep{{Name: "build", Functionaries: []string{"sha256:0"}}}}
	for name, c := range map[string]struct {
		p    *Policy
		f    []LayoutFact
		want Verdict
		say  string
	}{
		"followed":          {p, []LayoutFact{fact}, Allow, "1 step"},
		"not followed":      {p, []LayoutFact{{ID: id, Name: "release", Reason: "0 of 1 links"}}, Deny, "0 of 1 links"},
		"not looked at":     {p, nil, Deny, "not looked at"},
		"another layout":    {mustParse(t, layoutPolicy("release", "{ }", owner, "")), []LayoutFact{fact}, Deny, "not looked at"},
		"other owners":      {mustParse(t, layoutPolicy("release", "{}", ownerPEM(t), "")), []LayoutFact{fact}, Deny, "not looked at"},
		"links must be new": {mustParse(t, layoutPolicy("release", "{}", owner, "    maxAge: 5m\n")), []LayoutFact{fact}, Deny, "not looked at"},
	} {
		f := goodFacts()
		f.Layouts = c.f
		f.Normalize()
		r, err := c.p.Evaluate(context.Background(), f, testNow)
		if err != nil {
			t.Fatal(err)
		}
		last := r.Checks[len(r.Checks)-1]
		if r.Verdict != c.want || !strings.Contains(last.Found, c.say) || (last.Mend == "") != (c.want == Allow) {
			t.Errorf("%s: %s, %+v", name, r.Verdict, last)
		}
		if lacks := c.p.Lacks(f); (len(lacks) == 0) != (c.say != "not looked at") {
			t.Errorf("%s: lacks %v", name, lacks)
		}
	}
	both := Combine(p, mustParse(t, strings.Replace(layoutPolicy("other", "{}", owner, ""), "metadata: {name: ", "metadata: {name: other-", 1)))
	if len(both.Layouts()) != 2 {
		t.Errorf("combined: %d layouts", len(both.Layouts()))
	}
	e := Evidence{TrustedTime: testNow.Add(-time.Hour).Format(time.RFC3339)}
	old := mustParse(t, layoutPolicy("release", "{}", owner, "    maxAge: 5m\n")).Layouts()[0]
	if why, _ := old.Unusable(&e, testNow); why == "" {
		t.Error("a link of an hour ago counts for five minutes")
	}
	if why, until := mustParse(t, layoutPolicy("release", "{}", owner, "    maxAge: 2h\n")).Layouts()[0].Unusable(&e, testNow); why != "" || !until.Equal(testNow.Add(time.Hour)) {
		t.Errorf("%q until %s", why, until)
	}
}

// TestThreat_Policy_LayoutByAnyone: who owns the layout is for the policy to say.
func TestThreat_Policy_LayoutByAnyone(t *testing.T) {
	owner := ownerPEM(t)
	for _, bad := range []string{
		"[{name: a, layout: x}]", "[{name: a, layout: x, owners: []}]", "[{layout: x, owners: [OWNER]}]", "[{name: a, owners: [OWNER]}]",
		"[{name: a, layout: x, owners: [x]}]", "[{name: A b, layout: x, owners: [OWNER]}]", "[{name: a, layout: x, owners: [OWNER], keys: []}]",
		"[{name: a, layout: x, owners: [OWNER]}, {name: a, layout: y, owners: [OWNER]}]",
		"[{name: a, layout: x, owners: [" + strings.Repeat("OWNER, ", maxOwners) + "OWNER]}]",
		"[{name: a, layout: " + strings.Repeat("x", maxLayout+1) + ", owners: [OWNER]}]",
	} {
		if _, err := ParseRequirements([]byte(head + "  requirements:\n    layouts: " + strings.ReplaceAll(bad, "OWNER", fmt.Sprintf("%q", owner)) + "\n")); err == nil {
			t.Errorf("%.100s: compiled", bad)
		}
	}
}
