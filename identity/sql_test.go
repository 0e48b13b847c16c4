package identity

import (
	"errors"
	"testing"

	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
)

func TestSettings(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for range 2 { // a second start finds the tables
			if err := db.Migrate(bg, Migrations); err != nil {
				t.Fatal(err)
			}
		}
		load := func() (s Settings) {
			t.Helper()
			if err := db.View(bg, func(tx *store.Tx) (err error) { s, err = Load(bg, tx); return err }); err != nil {
				t.Fatal(err)
			}
			return s
		}
		replace := func(s Settings) (c Change, err error) {
			err = db.Update(bg, func(tx *store.Tx) (err error) { c, err = Replace(bg, tx, s); return err })
			return c, err
		}
		if s := load(); len(s.Grants)+len(s.Issuers) != 0 || s.Generation != 0 {
			t.Errorf("a new database has %+v", s)
		}
		first := Settings{
			Grants: []Grant{
				{Issuer: testIssuer, Subject: "alice@example.com", Role: RolePublisher, Scope: "team/**", Actions: []Action{ActPull, ActCreate}},
				{Anonymous: true, Role: RoleViewer, Scope: "public/*"},
			},
			Issuers: []IssuerConfig{
				{URL: testIssuer, Type: TypeEmail, Audiences: map[Audience]string{AudienceSigstore: "sigstore", AudienceAPI: "client-1"}},
				{URL: github, Type: TypeGitHub},
			},
		}
		c, err := replace(first)
		if err != nil || len(c.GrantsAdded) != 2 || len(c.IssuersAdded) != 2 || len(c.GrantsRemoved)+len(c.IssuersRemoved)+len(c.IssuersChanged) != 0 {
			t.Fatalf("%+v, %v", c, err)
		}
		want := first
		want.Generation = 1
		if d := cmp.Diff(want, load()); d != "" {
			t.Error(d)
		}
		if c, err = replace(first); err != nil || !c.Empty() || load().Generation != 1 {
			t.Errorf("the same again: %+v, %v", c, err)
		}
		second := Settings{
			Grants:  first.Grants[1:],
			Issuers: []IssuerConfig{{URL: testIssuer, Type: TypeEmail, AllowPrivate: true}},
		}
		c, err = replace(second)
		if err != nil {
			t.Fatal(err)
		}
		wantChange := Change{GrantsRemoved: first.Grants[:1], IssuersChanged: second.Issuers, IssuersRemoved: first.Issuers[1:]}
		if d := cmp.Diff(wantChange, c); d != "" {
			t.Error(d)
		}
		for name, bad := range map[string]Settings{
			"invalid grant":    {Grants: []Grant{{Role: RoleAdmin}}},
			"grant twice":      {Grants: []Grant{first.Grants[1], first.Grants[1]}},
			"invalid issuer":   {Issuers: []IssuerConfig{{URL: "http://example.com", Type: TypeEmail}}},
			"issuer twice":     {Issuers: []IssuerConfig{first.Issuers[1], first.Issuers[1]}},
			"issuer of itself": {Issuers: []IssuerConfig{{URL: testIssuer, Type: TypeLocal}}},
		} {
			if _, err := replace(bad); !errors.Is(err, fault.Invalid) {
				t.Errorf("%s: %v, want invalid", name, err)
			}
		}
		second.Generation = 2
		if d := cmp.Diff(second, load()); d != "" {
			t.Error(d)
		}
	})
}

// A row that somebody edited is noticed, and nothing is loaded.
func TestSettingsTampered(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(bg, Migrations); err != nil {
			t.Fatal(err)
		}
		for _, body := range []string{`{`, `{"role":"admin","scope":"**"}`, `{"anonymous":true,"role":"viewer","scope":"**","admin":true}`} {
			if err := db.Update(bg, func(tx *store.Tx) error {
				if _, err := tx.Exec(bg, `DELETE FROM identity_grant`); err != nil {
					return err
				}
				_, err := tx.Exec(bg, `INSERT INTO identity_grant (id, ordinal, body) VALUES (?, ?, ?)`, "x", 0, body)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			err := db.View(bg, func(tx *store.Tx) error { _, err := Load(bg, tx); return err })
			if !errors.Is(err, fault.Tampered) {
				t.Errorf("%s: %v, want tampered", body, err)
			}
		}
	})
}
