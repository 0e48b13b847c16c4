package credential_test

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"assay/event"
	"assay/identity"
	"assay/identity/credential"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

const local = "https://assay.test/oidc"

// site is one replica with a clock of its own.
type site struct {
	*credential.Store
	now     time.Time
	changes int
}

func open(t *testing.T, db *store.DB) *site {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, credential.Migrations); err != nil {
		t.Fatal(err)
	}
	s := &site{now: time.Now()}
	var err error
	if s.Store, err = credential.Open(t.Context(), credential.Options{
		DB: db, Clock: func() time.Time { return s.now }, Local: local, Changed: func() { s.changes++ },
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

func ci() credential.Robot {
	return credential.Robot{
		Name: "ci", Rights: []credential.Right{{Role: identity.RolePush, Scope: "team/**"}},
		Audiences: []identity.Audience{identity.AudienceRegistry},
	}
}

func refuse(t *testing.T, what string, err error, kind *fault.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("%s: %v, want %s", what, err, kind.Name())
	}
}

func ok(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func TestRobotLife(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := open(t, db)
		is, err := s.Create(ctx, ci(), time.Hour, "admin")
		ok(t, "create", err)
		if !regexp.MustCompile(`^assay_robot_[a-z2-7]{16}_[a-z2-7]{59}$`).MatchString(is.Secret) {
			t.Fatalf("secret %q is not of the form that scanners look for", is.Secret)
		}
		_, err = s.Create(ctx, ci(), time.Hour, "admin")
		refuse(t, "the same name twice", err, fault.Conflict)

		p, err := s.Verify(ctx, is.Secret, identity.AudienceRegistry)
		ok(t, "verify", err)
		if p.Issuer != credential.RobotIssuer || p.Name != "ci" || p.Kind != identity.KindRobot || p.Credential.ID != "robot:"+is.ID {
			t.Fatalf("principal %+v", p)
		}
		ok(t, "check", s.Check(p))
		_, err = s.Verify(ctx, is.Secret, identity.AudienceAPI)
		refuse(t, "another door", err, fault.Unauthenticated)
		_, err = s.Verify(ctx, is.Secret, identity.AudienceSigstore)
		refuse(t, "signing", err, fault.Unauthenticated)

		access, err := identity.NewAccess(s.Grants())
		ok(t, "grants", err)
		ok(t, "its right", access.Allow(ctx, p, identity.ActPush, identity.Repository("team/app")))
		refuse(t, "beyond its scope", access.Allow(ctx, p, identity.ActPull, identity.Repository("other/app")), fault.Denied)
		refuse(t, "beyond its role", access.Allow(ctx, p, identity.ActDelete, identity.Repository("team/app")), fault.Denied)

		s.now = is.Expires
		_, err = s.Verify(ctx, is.Secret, identity.AudienceRegistry)
		refuse(t, "expired", err, fault.Unauthenticated)
		refuse(t, "what the expired one bought", s.Check(p), fault.Unauthenticated)
		if g := s.Grants(); len(g) != 0 {
			t.Errorf("a robot without a token holds %v", g)
		}
	})
}

// The database holds nothing that opens a door (a copied backup is no key).
func TestThreat_Identity_SecretsAreNotStored(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		is, err := s.Create(t.Context(), ci(), time.Hour, "admin")
		ok(t, "create", err)
		secret := is.Secret[strings.LastIndexByte(is.Secret, '_')+1:]
		ok(t, "look", db.View(t.Context(), func(tx *store.Tx) error {
			var id, robot, by string
			var hash []byte
			if err := tx.QueryRow(t.Context(), `SELECT id, robot, created_by, hash FROM credential_token`).Scan(&id, &robot, &by, &hash); err != nil {
				return err
			}
			if len(hash) != 32 || strings.Contains(id+robot+by+string(hash), secret[:20]) {
				t.Errorf("the row holds the secret: %q %q %q %x", id, robot, by, hash)
			}
			var bodies string
			if err := tx.QueryRow(t.Context(), `SELECT body FROM event_pending`).Scan(&bodies); err != nil {
				return err
			}
			if strings.Contains(bodies, secret[:20]) {
				t.Errorf("the event holds the secret: %s", bodies)
			}
			return nil
		}))
		// Nor does one who has the hash get in by it, or by another's id.
		for _, forged := range []string{"", "assay_robot_", is.Secret[:len(is.Secret)-1], is.Secret + "a", strings.ToUpper(is.Secret),
			strings.Replace(is.Secret, secret[:1], "7", 1) + "", credential.Prefix + is.ID + "_" + strings.Repeat("a", 59)} {
			if forged == is.Secret {
				continue
			}
			_, err := s.Verify(t.Context(), forged, identity.AudienceRegistry)
			refuse(t, "forged "+forged, err, fault.Unauthenticated)
		}
	})
}

func TestRotate(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := open(t, db)
		first, err := s.Create(ctx, ci(), time.Hour, "admin")
		ok(t, "create", err)
		second, err := s.Rotate(ctx, "ci", 2*time.Hour, 10*time.Minute, "admin")
		ok(t, "rotate", err)
		for _, is := range []*credential.Issued{first, second} {
			_, err := s.Verify(ctx, is.Secret, identity.AudienceRegistry)
			ok(t, "during the overlap", err)
		}
		s.now = s.now.Add(11 * time.Minute)
		_, err = s.Verify(ctx, first.Secret, identity.AudienceRegistry)
		refuse(t, "after the overlap", err, fault.Unauthenticated)
		third, err := s.Rotate(ctx, "ci", time.Hour, 0, "admin")
		ok(t, "rotate", err)
		_, err = s.Verify(ctx, second.Secret, identity.AudienceRegistry)
		refuse(t, "rotated without overlap", err, fault.Unauthenticated)
		_, err = s.Verify(ctx, third.Secret, identity.AudienceRegistry)
		ok(t, "the new one", err)

		for ttl, keep := range map[time.Duration]time.Duration{0: 0, time.Second: 0, 91 * 24 * time.Hour: 0, time.Hour: -1} {
			_, err := s.Rotate(ctx, "ci", ttl, keep, "admin")
			refuse(t, ttl.String(), err, fault.Invalid)
		}
		_, err = s.Rotate(ctx, "nobody", time.Hour, 0, "admin")
		refuse(t, "unknown", err, fault.NotFound)
		r, err := s.Get(ctx, "ci")
		ok(t, "get", err)
		if len(r.Tokens) != 3 {
			t.Fatalf("tokens %+v", r.Tokens)
		}
		ok(t, "delete", s.Delete(ctx, "ci", "admin"))
		_, err = s.Verify(ctx, third.Secret, identity.AudienceRegistry)
		refuse(t, "deleted", err, fault.Unauthenticated)
	})
}

// A revoked robot ends here at once and on another replica by its next look,
// scoped tokens that it bought included, and a new one of its name has other
// tokens.
func TestRevoke(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx, stop := context.WithCancel(t.Context())
		s, other := open(t, db), open(t, db)
		done := make(chan error, 1)
		go func() { done <- other.Run(ctx) }()
		defer func() { stop(); <-done }()

		is, err := s.Create(t.Context(), ci(), time.Hour, "admin")
		ok(t, "create", err)
		p, err := other.Verify(t.Context(), is.Secret, identity.AudienceRegistry)
		ok(t, "known to the other replica before it looked", err)

		r, err := s.Revoke(t.Context(), credential.Revocation{Robot: "ci", Reason: "left in a public repository"}, "admin")
		ok(t, "revoke", err)
		began := time.Now()
		refuse(t, "here", s.Check(p), fault.Unauthenticated)
		for other.Check(p) == nil {
			if time.Since(began) > 10*time.Second {
				t.Fatal("the other replica does not learn of it")
			}
			time.Sleep(5 * time.Millisecond)
		}
		_, err = other.Verify(t.Context(), is.Secret, identity.AudienceRegistry)
		refuse(t, "verify", err, fault.Unauthenticated)
		all, err := s.Revocations(t.Context(), "", 10)
		ok(t, "list", err)
		if len(all) != 1 || all[0].Robot != "ci" || all[0].ID != r.ID || all[0].Since.After(all[0].At) {
			t.Errorf("revocations %+v", all)
		}
		next, err := s.Revocations(t.Context(), r.ID, 10)
		ok(t, "list", err)
		if len(next) != 0 {
			t.Errorf("after the last: %+v", next)
		}
	})
}

// What an identity obtained before its revocation ends; what it obtains after
// counts. One credential can be revoked alone.
func TestRevokeIdentity(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		alice := func(id string, at time.Time) identity.Principal {
			return identity.Principal{Issuer: local, Subject: "42", Name: "alice@example.com", Kind: identity.KindUser, Credential: identity.Credential{ID: id, IssuedAt: at}}
		}
		before := alice("jwt:1", time.Now().Add(-time.Minute))
		ok(t, "before", s.Check(before))
		_, err := s.Revoke(t.Context(), credential.Revocation{Credential: "jwt:1", Reason: "leaked"}, "admin")
		ok(t, "revoke", err)
		refuse(t, "the credential", s.Check(before), fault.Unauthenticated)
		ok(t, "another", s.Check(alice("jwt:2", time.Now().Add(-time.Minute))))
		_, err = s.Revoke(t.Context(), credential.Revocation{Issuer: local, Name: "alice@example.com", Reason: "laptop stolen"}, "admin")
		ok(t, "revoke", err)
		refuse(t, "all so far", s.Check(alice("jwt:2", time.Now().Add(-time.Minute))), fault.Unauthenticated)
		refuse(t, "one that does not say when it was issued", s.Check(alice("jwt:3", time.Time{})), fault.Unauthenticated)
		ok(t, "a new login", s.Check(alice("jwt:4", time.Now().Add(time.Minute))))
		ok(t, "somebody else", s.Check(identity.Principal{Issuer: local, Subject: "43", Name: "bob@example.com", Kind: identity.KindUser}))

		for _, bad := range []credential.Revocation{
			{Reason: "x"}, {Robot: "ci", Credential: "jwt:1", Reason: "x"}, {Robot: "ci"}, {Issuer: local, Reason: "x"}, {Credential: "sha256:x", Reason: "x"},
			{Credential: "jwt:1", Reason: "x", Since: time.Now().Add(time.Hour)},
		} {
			_, err := s.Revoke(t.Context(), bad, "admin")
			refuse(t, "bad", err, fault.Invalid)
		}
		_, err = s.Revoke(t.Context(), credential.Revocation{Robot: "nobody", Reason: "x"}, "admin")
		refuse(t, "no such robot", err, fault.NotFound)
	})
}

func TestBreakGlass(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		_, err := s.BreakGlass(t.Context(), "oops", time.Minute, "uid:0")
		refuse(t, "without a reason", err, fault.Invalid)
		subject, err := s.BreakGlass(t.Context(), "the IdP is down", time.Minute, "uid:0")
		ok(t, "break glass", err)
		p := identity.Principal{Issuer: local, Subject: subject, Name: subject, Kind: identity.KindRobot}
		access, err := identity.NewAccess(s.Grants())
		ok(t, "grants", err)
		ok(t, "admin", access.Allow(t.Context(), p, identity.ActApply, identity.Resource{Kind: identity.ResourceConfig}))
		ok(t, "check", s.Check(p))
		refuse(t, "one that nobody opened", s.Check(identity.Principal{Issuer: local, Subject: "break-glass:0", Kind: identity.KindRobot}), fault.Unauthenticated)
		s.now = s.now.Add(2 * time.Minute)
		refuse(t, "ended", s.Check(p), fault.Unauthenticated)
		if g := s.Grants(); len(g) != 0 {
			t.Errorf("an ended session holds %v", g)
		}
	})
}

func TestRobotValidate(t *testing.T) {
	good := ci()
	ok(t, "good", good.Validate())
	for name, edit := range map[string]func(*credential.Robot){
		"name":     func(r *credential.Robot) { r.Name = "../ci" },
		"none":     func(r *credential.Robot) { r.Rights = nil },
		"admin":    func(r *credential.Robot) { r.Rights = []credential.Right{{Role: identity.RoleAdmin, Scope: "**"}} },
		"role":     func(r *credential.Robot) { r.Rights = []credential.Right{{Role: "root", Scope: "**"}} },
		"scope":    func(r *credential.Robot) { r.Rights = []credential.Right{{Role: identity.RolePull, Scope: "a[b]"}} },
		"sigstore": func(r *credential.Robot) { r.Audiences = []identity.Audience{identity.AudienceSigstore} },
		"audience": func(r *credential.Robot) { r.Audiences = nil },
		"long":     func(r *credential.Robot) { r.Description = strings.Repeat("x", 600) },
	} {
		r := ci()
		edit(&r)
		refuse(t, name, r.Validate(), fault.Invalid)
	}
}

func FuzzVerify(f *testing.F) {
	s := &site{now: time.Now()}
	db := storetest.Open(f, store.SQLite)
	if err := db.Migrate(f.Context(), event.Migrations, credential.Migrations); err != nil {
		f.Fatal(err)
	}
	var err error
	if s.Store, err = credential.Open(f.Context(), credential.Options{DB: db}); err != nil {
		f.Fatal(err)
	}
	is, err := s.Create(f.Context(), ci(), time.Hour, "admin")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(is.Secret)
	f.Add("assay_robot_")
	f.Add(strings.Repeat("assay_robot_", 100))
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := s.Verify(t.Context(), text, identity.AudienceRegistry); err == nil && text != is.Secret {
			t.Fatalf("%q is taken", text)
		}
	})
}
