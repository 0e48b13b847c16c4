package api

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"assay/client"
	"assay/config"
	"assay/identity"
	"assay/identity/credential"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/store"
)

// accessRoutes are the routes about who may.
func (a *API) accessRoutes() []Route {
	list := []Param{{"after", "cursor"}, {"limit", "at most 1000"}}
	return []Route{
		{Method: "GET", Path: "/api/v1/login", Summary: "Where people log in", Out: client.LoginOptions{}, Status: 200, handle: a.login},
		{Method: "GET", Path: "/api/v1/robots", Summary: "The robots within the scopes that the caller administers", Action: identity.ActAdmin, Query: list,
			Out: client.List[client.Robot]{}, Status: 200, handle: a.robots},
		{Method: "POST", Path: "/api/v1/robots", Summary: "Make a robot; its secret is in the answer and nowhere else", Action: identity.ActAdmin,
			In: client.RobotRequest{}, Out: client.RobotToken{}, Status: 201, handle: a.createRobot},
		{Method: "POST", Path: "/api/v1/robots/{name}/rotate", Summary: "Give a robot another token", Action: identity.ActAdmin,
			In: client.RotateRequest{}, Out: client.RobotToken{}, Status: 200, handle: a.rotateRobot},
		{Method: "DELETE", Path: "/api/v1/robots/{name}", Summary: "Take a robot away, with its tokens", Action: identity.ActAdmin,
			Out: client.Robot{}, Status: 200, handle: a.deleteRobot},
		{Method: "GET", Path: "/api/v1/revocations", Summary: "Revoked credentials, oldest first", Action: identity.ActReadAudit, Query: list,
			Out: client.List[client.CredentialRevocation]{}, Status: 200, handle: a.credentialRevocations},
		{Method: "POST", Path: "/api/v1/revocations", Summary: "Revoke a robot's tokens, one credential, or all of an identity so far", Action: identity.ActRevoke,
			In: client.RevokeCredentialRequest{}, Out: client.CredentialRevocation{}, Status: 201, handle: a.revokeCredentials},
		{Method: "GET", Path: "/api/v1/documents", Summary: "The documents in force", Action: identity.ActApply, Query: []Param{{"kind", "of document"}},
			Out: client.List[client.StoredDocument]{}, Status: 200, handle: a.documents},
		{Method: "DELETE", Path: "/api/v1/documents/{kind}/{name}", Summary: "Take a document away", Action: identity.ActApply, Query: []Param{{"dry_run", "true changes nothing"}},
			Out: client.ApplyAnswer{}, Status: 200, handle: a.deleteDocument},
	}
}

// answer writes v, or err as a problem.
func (a *API) answer(w http.ResponseWriter, r *http.Request, status int, v any, err error) {
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, status, v)
}

// request reads a JSON body strictly.
func request(w http.ResponseWriter, r *http.Request, v any) error {
	if err := wantMedia(r, "application/json"); err != nil {
		return err
	}
	b, err := body(w, r, 64<<10)
	if err != nil {
		return err
	}
	if err := strictjson.Unmarshal(b, v, strictjson.RejectUnknown()); err != nil {
		return fault.Newf(fault.Invalid, "request: %w", err)
	}
	return nil
}

// life reads seconds before they become a duration, which a large number would
// overflow.
func life(what string, seconds int64) (time.Duration, error) {
	if seconds < 0 || seconds > 10*366*24*3600 {
		return 0, fault.Newf(fault.Invalid, "%s %d: want seconds", what, seconds)
	}
	return time.Duration(seconds) * time.Second, nil
}

func (a *API) login(w http.ResponseWriter, r *http.Request) {
	o := client.LoginOptions{Issuers: []client.LoginIssuer{}}
	for _, cfg := range a.o.Verifier.Issuers() {
		if !cfg.Login {
			continue
		}
		i := client.LoginIssuer{URL: cfg.URL, Clients: map[string]string{}}
		for _, aud := range []identity.Audience{identity.AudienceRegistry, identity.AudienceAPI} {
			if id, ok := a.o.Verifier.AudienceClaim(cfg.URL, aud); ok {
				i.Clients[string(aud)] = id
			}
		}
		o.Issuers = append(o.Issuers, i)
	}
	WriteJSON(w, http.StatusOK, o)
}

// manages asks whether the caller administers all that a robot may do.
func (a *API) manages(r *http.Request, rights []credential.Right) error {
	for _, right := range rights {
		if err := a.o.Access.AllowPattern(r.Context(), identity.FromContext(r.Context()), identity.ActAdmin, right.Scope); err != nil {
			return err
		}
	}
	return nil
}

// known finds a robot that the caller manages. One that she does not is not
// there for her.
func (a *API) known(r *http.Request) (credential.Robot, error) {
	robot, err := a.o.Credentials.Get(r.Context(), r.PathValue("name"))
	if err == nil {
		if merr := a.manages(r, robot.Rights); merr == nil {
			return robot, nil
		} else if identity.FromContext(r.Context()).IsAnonymous() {
			return robot, merr
		}
	}
	if aerr := a.allow(r, identity.ActAdmin, identity.ResourceConfig, ""); aerr != nil {
		return robot, aerr
	}
	return robot, err
}

func (a *API) robots(w http.ResponseWriter, r *http.Request) {
	if err := a.o.Access.Somewhere(identity.FromContext(r.Context()), identity.ActAdmin); err != nil {
		a.fail(w, r, err)
		return
	}
	n, err := limit(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	after, err := readCursor("robots", r.URL.Query().Get("after"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	all, err := a.o.Credentials.List(r.Context(), after, n)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	page := client.List[client.Robot]{Items: []client.Robot{}}
	for _, robot := range all {
		if a.manages(r, robot.Rights) == nil {
			page.Items = append(page.Items, wireRobot(robot))
		}
	}
	if len(all) == n {
		page.Next = writeCursor("robots", all[n-1].Name)
	}
	WriteJSON(w, http.StatusOK, page)
}

func wireRobot(r credential.Robot) client.Robot {
	out := client.Robot{Name: r.Name, Description: r.Description, CreatedAt: r.CreatedAt, CreatedBy: r.CreatedBy}
	for _, right := range r.Rights {
		cr := client.Right{Role: string(right.Role), Scope: right.Scope}
		for _, act := range right.Actions {
			cr.Actions = append(cr.Actions, string(act))
		}
		out.Rights = append(out.Rights, cr)
	}
	for _, aud := range r.Audiences {
		out.Audiences = append(out.Audiences, string(aud))
	}
	for _, t := range r.Tokens {
		out.Tokens = append(out.Tokens, client.RobotTokenInfo(t))
	}
	return out
}

func (a *API) createRobot(w http.ResponseWriter, r *http.Request) {
	var q client.RobotRequest
	if err := request(w, r, &q); err != nil {
		// Whoever may not make robots learns nothing of their form.
		if aerr := a.allow(r, identity.ActAdmin, identity.ResourceConfig, ""); aerr != nil && identity.FromContext(r.Context()).IsAnonymous() {
			err = aerr
		}
		a.fail(w, r, err)
		return
	}
	robot := credential.Robot{Name: q.Name, Description: q.Description}
	for _, right := range q.Rights {
		cr := credential.Right{Role: identity.Role(right.Role), Scope: right.Scope}
		for _, act := range right.Actions {
			cr.Actions = append(cr.Actions, identity.Action(act))
		}
		robot.Rights = append(robot.Rights, cr)
	}
	for _, aud := range q.Audiences {
		robot.Audiences = append(robot.Audiences, identity.Audience(aud))
	}
	err := robot.Validate()
	if merr := a.manages(r, robot.Rights); merr != nil && (err == nil || identity.FromContext(r.Context()).IsAnonymous()) {
		err = merr
	}
	var ttl time.Duration
	if err == nil {
		ttl, err = life("ttl_seconds", q.TTL)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	is, err := a.o.Credentials.Create(r.Context(), robot, ttl, identity.FromContext(r.Context()).Actor())
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusCreated, client.RobotToken(*is))
}

func (a *API) rotateRobot(w http.ResponseWriter, r *http.Request) {
	robot, err := a.known(r)
	var q client.RotateRequest
	if err == nil {
		err = request(w, r, &q)
	}
	var ttl, keep time.Duration
	if err == nil {
		ttl, err = life("ttl_seconds", q.TTL)
	}
	if err == nil {
		keep, err = life("keep_seconds", q.Keep)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	is, err := a.o.Credentials.Rotate(r.Context(), robot.Name, ttl, keep, identity.FromContext(r.Context()).Actor())
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, client.RobotToken(*is))
}

func (a *API) deleteRobot(w http.ResponseWriter, r *http.Request) {
	robot, err := a.known(r)
	if err == nil {
		err = a.o.Credentials.Delete(r.Context(), robot.Name, identity.FromContext(r.Context()).Actor())
	}
	a.answer(w, r, http.StatusOK, wireRobot(robot), err)
}

func wireRevocation(r credential.Revocation) client.CredentialRevocation {
	return client.CredentialRevocation{
		ID: r.ID, At: r.At.UTC(), Since: r.Since.UTC(), Robot: r.Robot, Credential: r.Credential, Issuer: r.Issuer, Identity: r.Name,
		Actor: r.Actor, Reason: r.Reason, Served: r.Served,
	}
}

func (a *API) credentialRevocations(w http.ResponseWriter, r *http.Request) {
	err := a.allow(r, identity.ActReadAudit, identity.ResourceAudit, "")
	var n int
	if err == nil {
		n, err = limit(r)
	}
	var after string
	if err == nil {
		after, err = readCursor("revocations", r.URL.Query().Get("after"))
	}
	var all []credential.Revocation
	if err == nil {
		all, err = a.o.Credentials.Revocations(r.Context(), after, n)
	}
	page := client.List[client.CredentialRevocation]{Items: []client.CredentialRevocation{}}
	for _, one := range all {
		page.Items = append(page.Items, wireRevocation(one))
	}
	if len(all) > 0 && len(all) == n {
		page.Next = writeCursor("revocations", all[n-1].ID)
	}
	a.answer(w, r, http.StatusOK, page, err)
}

// revokeCredentials ends credentials. A robot's are its administrators' to end; all others
// are the site's.
func (a *API) revokeCredentials(w http.ResponseWriter, r *http.Request) {
	siteErr := a.allow(r, identity.ActRevoke, identity.ResourceConfig, "")
	if siteErr != nil && identity.FromContext(r.Context()).IsAnonymous() {
		a.fail(w, r, siteErr)
		return
	}
	var q client.RevokeCredentialRequest
	if err := request(w, r, &q); err != nil {
		a.fail(w, r, err)
		return
	}
	if siteErr != nil && q.Robot != "" {
		if robot, err := a.o.Credentials.Get(r.Context(), q.Robot); err == nil && a.manages(r, robot.Rights) == nil {
			siteErr = nil
		}
	}
	if siteErr != nil {
		a.fail(w, r, siteErr)
		return
	}
	rev, err := a.o.Credentials.Revoke(r.Context(), credential.Revocation{
		Robot: q.Robot, Credential: q.Credential, Issuer: q.Issuer, Name: q.Identity, Since: q.Since, Reason: q.Reason,
	}, identity.FromContext(r.Context()).Actor())
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusCreated, wireRevocation(*rev))
}

func (a *API) documents(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActApply, identity.ResourceConfig, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	kind := r.URL.Query().Get("kind")
	if kind != "" {
		if err := validKind(kind); err != nil {
			a.fail(w, r, err)
			return
		}
	}
	var docs []config.Document
	err := a.o.DB.View(r.Context(), func(tx *store.Tx) (err error) {
		docs, err = config.Stored(r.Context(), tx)
		return err
	})
	page := client.List[client.StoredDocument]{Items: []client.StoredDocument{}}
	for _, d := range docs {
		if kind == "" || d.Kind == kind {
			page.Items = append(page.Items, client.StoredDocument{Kind: d.Kind, Name: d.Name, Text: string(d.Text)})
		}
	}
	a.answer(w, r, http.StatusOK, page, err)
}

func validKind(kind string) error {
	for _, k := range config.Kinds() {
		if k == kind {
			return nil
		}
	}
	return fault.Newf(fault.Invalid, "kind %.40q: want one of %v", kind, config.Kinds())
}

func (a *API) deleteDocument(w http.ResponseWriter, r *http.Request) {
	if err := a.allow(r, identity.ActApply, identity.ResourceConfig, ""); err != nil {
		a.fail(w, r, err)
		return
	}
	dryRun, err := flag(r, "dry_run")
	if err == nil {
		err = validKind(r.PathValue("kind"))
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	answer, err := a.applyChange(r, dryRun, func(stored []config.Document) ([]config.Document, []config.Change, error) {
		return withdraw(stored, r.PathValue("kind"), r.PathValue("name"))
	})
	a.answer(w, r, http.StatusOK, answer, err)
}

// withdraw plans the end of one document.
func withdraw(stored []config.Document, kind, name string) (wanted []config.Document, plan []config.Change, err error) {
	if !slices.ContainsFunc(stored, func(d config.Document) bool { return d.Kind == kind && d.Name == name }) {
		return nil, nil, fault.Newf(fault.NotFound, "there is no %s %.80q; assay get lists the documents", kind, name)
	}
	return nil, []config.Change{{Kind: kind, Name: name, Action: "deleted"}}, nil
}

// cursors are opaque: what stands in one is this server's own business, and one
// of another list is refused.
func writeCursor(list, key string) string { return encodeCursor(list + "\n" + key) }

func readCursor(list, cursor string) (string, error) {
	if cursor == "" {
		return "", nil
	}
	text, ok := decodeCursor(cursor)
	if !ok || len(text) <= len(list) || text[:len(list)+1] != list+"\n" {
		return "", fmt.Errorf("after %.60q: %w", cursor, fault.Newf(fault.Invalid, "want the cursor that the page before gave as next"))
	}
	return text[len(list)+1:], nil
}
