package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"unicode"

	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/policy"
	"assay/verify"
)

const defaultScope = "default"

// scopeID names all that a decision depends on beside the digest: the scope
// that was asked for and the repository whose policies apply.
func scopeID(scope, repository string) string {
	if scope == "" {
		scope = defaultScope
	}
	if repository == "" {
		return scope
	}
	return scope + "@" + repository
}

// repositoryOf is the inverse: whose right to read a decision is.
func repositoryOf(scopeID string) string {
	_, repository, _ := strings.Cut(scopeID, "@")
	return repository
}

func (a *API) verify(w http.ResponseWriter, r *http.Request) {
	q, err := readVerifyRequest(w, r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if err := a.allow(r, identity.ActVerify, identity.ResourceDecision, q.Repository); err != nil {
		a.fail(w, r, err)
		return
	}
	ctx := r.Context()
	if q.Digest == "" {
		ref, err := artifact.ParseReference(q.Reference)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		what := string(ref.Digest)
		if what == "" {
			what = ref.Tag
		}
		got, err := a.o.Resolve(ctx, identity.FromContext(ctx), q.Repository, what)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		q.Digest, q.MediaType = got.Digest, got.MediaType
	}
	t := verify.Target{
		Digest: q.Digest, Kind: policy.Kind(q.Kind), MediaType: q.MediaType,
		Registry: q.Registry, Repository: q.Repository, Name: q.Reference,
	}
	scope := policy.Scope{ID: scopeID(q.Scope, q.Repository), Environment: q.Environment}
	d, err := a.o.Engine.Decide(ctx, t, scope, a.o.Desired().Policies.For(t.Subject(), scope))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.writeDecision(w, r, d, q.Reference)
}

// readVerifyRequest reads strictly and settles which repository is asked about,
// before anybody is asked whether the caller may.
func readVerifyRequest(w http.ResponseWriter, r *http.Request) (*client.VerifyRequest, error) {
	if err := wantMedia(r, "application/json"); err != nil {
		return nil, err
	}
	b, err := body(w, r, 1<<20)
	if err != nil {
		return nil, err
	}
	var q client.VerifyRequest
	if err := strictjson.Unmarshal(b, &q, strictjson.RejectUnknown()); err != nil {
		return nil, fault.Newf(fault.Invalid, "request: %w", err)
	}
	if q.Digest == "" && q.Reference == "" {
		return nil, fault.Newf(fault.Invalid, "want a digest or a reference")
	}
	if q.Digest != "" {
		if err := q.Digest.Validate(); err != nil {
			return nil, err
		}
	} else if q.Repository == "" {
		ref, err := artifact.ParseReference(q.Reference)
		if err != nil {
			return nil, err
		}
		q.Repository = ref.Repository
	}
	if q.Repository != "" && !artifact.ValidRepository(q.Repository) {
		return nil, fault.Newf(fault.Invalid, "repository %.80q is not of the OCI grammar", q.Repository)
	}
	switch q.Kind {
	case "", string(policy.Image), string(policy.File):
	default:
		return nil, fault.Newf(fault.Invalid, "kind %.40q: want %s or %s", q.Kind, policy.Image, policy.File)
	}
	if strings.Contains(q.Scope, "@") {
		return nil, fault.Newf(fault.Invalid, "scope %.80q: want it without @", q.Scope)
	}
	for name, text := range map[string]string{
		"scope": q.Scope, "environment": q.Environment, "registry": q.Registry, "media_type": q.MediaType, "reference": q.Reference,
	} {
		if most := maxText[name]; len(text) > most || strings.ContainsFunc(text, unicode.IsControl) {
			return nil, fault.Newf(fault.Invalid, "%s %.80q: want at most %d bytes without control characters", name, text, most)
		}
	}
	return &q, nil
}

// maxText bounds what a request for a decision carries into facts and trails,
// in bytes.
var maxText = map[string]int{"scope": 200, "environment": 200, "registry": 255, "media_type": 255, "reference": 1024}

func (a *API) writeDecision(w http.ResponseWriter, r *http.Request, d *verify.Decision, name string) {
	rep, err := a.o.Engine.Report(r.Context(), d)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if name != "" {
		rep.Target = name
	}
	WriteJSON(w, http.StatusOK, rep)
}

func (a *API) decision(w http.ResponseWriter, r *http.Request) {
	d, err := a.o.Engine.Get(r.Context(), r.PathValue("id"))
	repository := ""
	if err == nil {
		repository = repositoryOf(d.ScopeID)
	}
	if aerr := a.allow(r, identity.ActVerify, identity.ResourceDecision, repository); aerr != nil {
		a.fail(w, r, aerr)
		return
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, d)
}

func (a *API) decisions(w http.ResponseWriter, r *http.Request) {
	d, err := artifact.ParseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	all, err := a.o.Engine.List(r.Context(), d)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	page := client.List[json.RawMessage]{Items: []json.RawMessage{}}
	for _, one := range all {
		// Those of repositories that the caller may not see are left out, as if
		// they were not there.
		if a.allow(r, identity.ActVerify, identity.ResourceDecision, repositoryOf(one.ScopeID)) != nil {
			continue
		}
		b, err := json.Marshal(one)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		page.Items = append(page.Items, b)
	}
	if len(page.Items) == 0 {
		// Nothing to see: say whether that is for want of credentials.
		if err := a.allow(r, identity.ActVerify, identity.ResourceDecision, ""); err != nil && identity.FromContext(r.Context()).IsAnonymous() {
			a.fail(w, r, err)
			return
		}
	}
	WriteJSON(w, http.StatusOK, page)
}
