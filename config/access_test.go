package config

import (
	"errors"
	"testing"

	"assay/identity"
	"assay/internal/fault"
)

const teamDocs = `apiVersion: assay/v1
kind: Team
metadata: {name: payments}
spec:
  members:
    - {issuer: "https://i.example", group: payments}
    - {issuer: "https://i.example", subject: ann@example.com}
---
apiVersion: assay/v1
kind: Grant
metadata: {name: push}
spec: {team: payments, claims: {mfa: "true"}, role: push, scope: "payments/**"}
`

func TestTeams(t *testing.T) {
	docs, err := ParseDocuments([]byte(teamDocs))
	if err != nil {
		t.Fatal(err)
	}
	d, err := Compile(docs, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Grants) != 2 || d.Grants[0].Group != "payments" || d.Grants[1].Subject != "ann@example.com" {
		t.Fatalf("grants %+v", d.Grants)
	}
	for _, g := range d.Grants {
		if g.Team != "" || g.Role != identity.RolePush || g.Scope != "payments/**" || g.Claims["mfa"] != "true" {
			t.Errorf("grant %+v", g)
		}
	}
	if _, err := identity.NewAccess(d.Grants); err != nil {
		t.Error(err)
	}
	// A grant to a team that is not there takes nothing in force.
	if _, err := Compile(docs[1:], nil); !errors.Is(err, fault.Conflict) {
		t.Errorf("without the team: %v", err)
	}
	for name, text := range map[string]string{
		"no members":       "apiVersion: assay/v1\nkind: Team\nmetadata: {name: t}\nspec: {members: []}\n",
		"a member of none": "apiVersion: assay/v1\nkind: Team\nmetadata: {name: t}\nspec: {members: [{subject: a}]}\n",
		"both":             "apiVersion: assay/v1\nkind: Team\nmetadata: {name: t}\nspec: {members: [{issuer: \"https://i\", subject: a, group: g}]}\n",
		"a typo":           "apiVersion: assay/v1\nkind: Team\nmetadata: {name: t}\nspec: {member: []}\n",
	} {
		if _, err := ParseDocuments([]byte(text)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestProxies(t *testing.T) {
	p, err := Server{TrustedProxies: []string{"10.0.0.0/8", "2001:db8::1"}}.Proxies()
	if err != nil || len(p) != 2 || p[1].Bits() != 128 {
		t.Fatalf("%v, %v", p, err)
	}
	for _, bad := range []string{"", "everything", "0.0.0.0/0", "::/0", "10.0.0.0/99"} {
		if _, err := (Server{TrustedProxies: []string{bad}}).Proxies(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
