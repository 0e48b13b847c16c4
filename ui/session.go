package ui

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
)

// Migrations are the UI's tables: one row a session, under the hash of its
// cookie, so that a copy of the database opens none. What proved the person at the
// login is not kept, only who it was.
var Migrations = store.Migrations{Name: "ui", Steps: []string{`
CREATE TABLE ui_session (
	id        TEXT   NOT NULL PRIMARY KEY, -- SHA-256 of the cookie
	principal TEXT   NOT NULL,             -- JSON
	created   BIGINT NOT NULL,
	expires   BIGINT NOT NULL
);
CREATE INDEX ui_session_expires ON ui_session (expires);
`}}

// sessionLife is how long a login holds. Revoking the person, or the credential
// that was shown, ends it at once.
const sessionLife = 8 * time.Hour

type session struct {
	who     identity.Principal
	secret  string // of the cookie
	expires time.Time
}

// csrf is what a form of this session must bring along.
func (s *session) csrf() string { return formToken(s.secret) }

func formToken(secret string) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte("assay form"))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

func random() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func sessionID(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// cookie makes a cookie of this site. Off plain HTTP its name binds it to the
// host (RFC 6265bis, section 4.1.3.2).
func (u *UI) cookie(name, value string, life time.Duration) *http.Cookie {
	c := &http.Cookie{Name: u.cookieName(name), Value: value, Path: "/", HttpOnly: true, Secure: u.secure, SameSite: http.SameSiteLaxMode, MaxAge: int(life / time.Second)}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}

func (u *UI) cookieName(name string) string {
	if u.secure {
		return "__Host-assay_" + name
	}
	return "assay_" + name
}

func (u *UI) cookieValue(r *http.Request, name string) string {
	c, err := r.Cookie(u.cookieName(name))
	if err != nil || len(c.Value) > 2048 {
		return ""
	}
	return c.Value
}

// openSession notes a login and gives its cookie.
func (u *UI) openSession(ctx context.Context, r *http.Request, p identity.Principal) (*http.Cookie, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	life := sessionLife
	if p.Kind == identity.KindRobot && !p.Credential.Expires.IsZero() {
		life = min(life, p.Credential.Expires.Sub(u.o.Clock()))
	}
	secret := random()
	err = u.o.DB.Update(ctx, func(tx *store.Tx) error {
		now := tx.Now()
		if _, err := tx.Exec(ctx, `DELETE FROM ui_session WHERE expires < ?`, now); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO ui_session (id, principal, created, expires) VALUES (?, ?, ?, ?)`, sessionID(secret), string(b), now, now.Add(life)); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.SessionOpened, Actor: p.Actor(), TraceID: event.TraceFrom(ctx), Body: map[string]any{
			"credential": p.Credential.ID, "address": address(r), "seconds": int64(life / time.Second)}})
	})
	return u.cookie("session", secret, life), err
}

func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// session finds who looks. Without a session that holds it is
// fault.Unauthenticated.
func (u *UI) session(r *http.Request) (*session, error) {
	secret := u.cookieValue(r, "session")
	if secret == "" {
		return nil, fault.Newf(fault.Unauthenticated, "log in to see this")
	}
	s := &session{secret: secret}
	var raw string
	var expires int64
	err := u.o.DB.View(r.Context(), func(tx *store.Tx) error {
		if err := tx.QueryRow(r.Context(), `SELECT principal, expires FROM ui_session WHERE id = ?`, sessionID(secret)).Scan(&raw, &expires); err != nil {
			return err
		}
		if s.expires = store.Time(expires); !tx.Now().Before(s.expires) {
			return fault.Newf(fault.Unauthenticated, "your session has ended; log in again")
		}
		return nil
	})
	if errors.Is(err, fault.NotFound) {
		return nil, fault.Newf(fault.Unauthenticated, "your session has ended; log in again")
	}
	if err == nil {
		err = json.Unmarshal([]byte(raw), &s.who)
	}
	if err != nil {
		return nil, err
	}
	// The kinds that no token yields open no session.
	if s.who.Kind == identity.KindSystem || s.who.IsAnonymous() {
		return nil, fault.Newf(fault.Unauthenticated, "log in to see this")
	}
	return s, u.o.Check(s.who)
}

// closeSession ends a session.
func (u *UI) closeSession(ctx context.Context, s *session) error {
	return u.o.DB.Update(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(ctx, `DELETE FROM ui_session WHERE id = ?`, sessionID(s.secret))
		if err != nil || n == 0 {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.SessionClosed, Actor: s.who.Actor(), TraceID: event.TraceFrom(ctx),
			Body: map[string]any{"credential": s.who.Credential.ID}})
	})
}

// honest refuses a form that no page of this site sent. Two things must hold: the
// browser does not say that another site asks, and the form knows what only a page
// under this cookie could have read.
func (u *UI) honest(r *http.Request, secret string) error {
	if err := u.origins.Check(r); err != nil {
		return fault.Newf(fault.Denied, "this form was sent by another site: %w", err)
	}
	given := r.PostFormValue("csrf")
	if secret == "" || !hmac.Equal([]byte(given), []byte(formToken(secret))) {
		return fault.Newf(fault.Denied, "this form is not of your session; load the page again and send it anew")
	}
	return nil
}

// back is where to go after the login: a page of the UI, and no other address.
func back(next string) string {
	if strings.HasPrefix(next, root) && !strings.Contains(next, "\\") && len(next) < 2000 && !strings.HasPrefix(next, root+"log") {
		return next
	}
	if strings.HasPrefix(next, root+"log/") || next == root+"log" {
		return next
	}
	return root
}
