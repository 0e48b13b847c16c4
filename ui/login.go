package ui

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/oidcflow"
)

// Login is an issuer where people log in.
type Login struct {
	Issuer string
	Client *oidcflow.Client // with the client_id of the API's purpose
}

const loginWithin = 10 * time.Minute

type loginView struct {
	view
	Logins []Login
	Next   string
}

// loginPage shows how to log in.
func (u *UI) loginPage(w http.ResponseWriter, r *http.Request) {
	u.showLogin(w, r, http.StatusOK, "")
}

func (u *UI) showLogin(w http.ResponseWriter, r *http.Request, status int, trouble string) {
	// The form needs a secret before there is a session.
	secret := u.cookieValue(r, "form")
	if secret == "" {
		secret = random()
		http.SetCookie(w, u.cookie("form", secret, sessionLife))
	}
	v := loginView{Logins: u.o.Logins(), Next: back(r.FormValue("next"))}
	v.view = u.newView(r, nil, &Page{Title: "Log in", Lead: trouble})
	v.CSRF = formToken(secret)
	u.render(w, r, status, "login", v)
}

// loginToken takes a token of audience assay-api, as assay token prints it.
func (u *UI) loginToken(w http.ResponseWriter, r *http.Request) {
	if err := u.honest(r, u.cookieValue(r, "form")); err != nil {
		u.showLogin(w, r, http.StatusForbidden, err.Error())
		return
	}
	raw := strings.TrimSpace(r.PostFormValue("token"))
	if raw == "" {
		u.showLogin(w, r, http.StatusBadRequest, "Paste a token first.")
		return
	}
	u.admit(w, r, raw, r.PostFormValue("next"))
}

// admit opens a session for who holds a token.
func (u *UI) admit(w http.ResponseWriter, r *http.Request, raw, next string) {
	p, err := u.o.Verify(r.Context(), raw)
	if err == nil {
		err = u.o.Check(p)
	}
	if err != nil {
		u.o.Logger.InfoContext(r.Context(), "login refused", "error", err)
		u.showLogin(w, r, fault.HTTPStatus(err), "That token does not hold: "+err.Error())
		return
	}
	c, err := u.openSession(r.Context(), r, p)
	if err != nil {
		u.fail(w, r, nil, err)
		return
	}
	http.SetCookie(w, c)
	http.SetCookie(w, u.cookie("form", "", 0))
	http.Redirect(w, r, back(next), http.StatusSeeOther)
}

func (u *UI) issuer(url string) *Login {
	for _, l := range u.o.Logins() {
		if l.Issuer == url {
			return &l
		}
	}
	return nil
}

func (u *UI) redirectURL() string { return strings.TrimSuffix(u.o.PublicURL, "/") + root + "callback" }

// loginStart sends the browser to an issuer.
func (u *UI) loginStart(w http.ResponseWriter, r *http.Request) {
	l := u.issuer(r.FormValue("issuer"))
	if l == nil {
		u.showLogin(w, r, http.StatusNotFound, "Nobody logs in at that issuer here.")
		return
	}
	to, pending, err := l.Client.Begin(r.Context(), u.redirectURL())
	if err != nil {
		u.showLogin(w, r, fault.HTTPStatus(err), err.Error())
		return
	}
	pending.Next = back(r.FormValue("next"))
	b, err := json.Marshal(pending)
	if err != nil {
		u.fail(w, r, nil, err)
		return
	}
	http.SetCookie(w, u.cookie("login", base64.RawURLEncoding.EncodeToString(b), loginWithin))
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// callback takes the browser's way back from the issuer.
func (u *UI) callback(w http.ResponseWriter, r *http.Request) {
	var pending oidcflow.Pending
	b, err := base64.RawURLEncoding.DecodeString(u.cookieValue(r, "login"))
	if err == nil {
		err = json.Unmarshal(b, &pending)
	}
	http.SetCookie(w, u.cookie("login", "", 0))
	l := u.issuer(pending.Issuer)
	if err != nil || l == nil {
		u.showLogin(w, r, http.StatusBadRequest, "No login waits in this browser, or it waited too long; begin again.")
		return
	}
	t, err := l.Client.Finish(r.Context(), pending, u.redirectURL(), r.URL.Query())
	if err != nil {
		u.showLogin(w, r, fault.HTTPStatus(err), err.Error())
		return
	}
	u.admit(w, r, t.IDToken, pending.Next)
}

// logout ends the session.
func (u *UI) logout(w http.ResponseWriter, r *http.Request) {
	s, err := u.session(r)
	if err == nil {
		if err = u.honest(r, s.secret); err == nil {
			err = u.closeSession(r.Context(), s)
		}
		if err != nil {
			u.fail(w, r, s, err)
			return
		}
	}
	http.SetCookie(w, u.cookie("session", "", 0))
	http.Redirect(w, r, root+"login", http.StatusSeeOther)
}
