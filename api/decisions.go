package api

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"

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
// and the environment that were asked for, and the repository whose policies
// apply. Two questions with one ID would answer for each other.
func scopeID(scope, environment, repository string) string {
	if scope == "" {
		scope = defaultScope
	}
	if environment != "" {
		scope += "/" + environment
	}
	if repository != "" {
		scope += "@" + repository
	}
	return scope
}

// repositoryOf is the inverse: whose right to read a decision is.
func repositoryOf(scopeID string) string {
	_, repository, _ := strings.Cut(scopeID, "@")
	return repository
}

func (a *API) verify(w http.ResponseWriter, r *http.Request) {
	q, err := a.readVerifyRequest(w, r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if err := a.allow(r, identity.ActVerify, identity.ResourceDecision, q.Repository); err != nil {
		a.fail(w, r, err)
		return
	}
	ctx := r.Context()
	t := verify.Target{Digest: q.Digest, Kind: policy.File}
	if q.Repository != "" {
		// What an image is, and that it is in this repository at all, is the
		// registry's to say: a summary names the place, so it must be true.
		got, err := a.o.Resolve(ctx, identity.System("api"), q.Repository, q.what())
		if err != nil {
			a.fail(w, r, err)
			return
		}
		t = verify.Target{Digest: got.Digest, Kind: policy.Image, MediaType: got.MediaType, Repository: q.Repository}
	}
	scope := policy.Scope{ID: scopeID(q.Scope, q.Environment, q.Repository), Environment: q.Environment}
	if a.o.Placed != nil {
		if scope, err = a.o.Placed(ctx, t.Subject(), scope); err != nil {
			a.fail(w, r, err)
			return
		}
	}
	d, err := a.o.Engine.Decide(ctx, t, scope, a.o.Desired().Policies.For(t.Subject(), scope))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.writeDecision(w, r, d, q.Reference)
}

// question is a request for a decision, checked.
type question struct {
	client.VerifyRequest
	tag string // where the reference names one and no digest is given
}

func (q *question) what() string {
	if q.Digest != "" {
		return string(q.Digest)
	}
	return q.tag
}

// scopeName is what a scope and an environment are called.
var scopeName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

// readVerifyRequest reads strictly and settles which repository is asked about,
// before anybody is asked whether the caller may. Fields that say the same must
// agree.
func (a *API) readVerifyRequest(w http.ResponseWriter, r *http.Request) (*question, error) {
	if err := wantMedia(r, "application/json"); err != nil {
		return nil, err
	}
	b, err := body(w, r, 1<<20)
	if err != nil {
		return nil, err
	}
	var q question
	if err := strictjson.Unmarshal(b, &q.VerifyRequest, strictjson.RejectUnknown()); err != nil {
		return nil, fault.Newf(fault.Invalid, "request: %w", err)
	}
	if q.Digest != "" {
		if err := q.Digest.Validate(); err != nil {
			return nil, err
		}
	}
	for name, text := range map[string]string{"scope": q.Scope, "environment": q.Environment} {
		if text != "" && !scopeName.MatchString(text) {
			return nil, fault.Newf(fault.Invalid, "%s %.80q: want letters, digits, . _ and -, at most 63", name, text)
		}
	}
	if q.Repository != "" && !artifact.ValidRepository(q.Repository) {
		return nil, fault.Newf(fault.Invalid, "repository %.80q is not of the OCI grammar", q.Repository)
	}
	if q.Reference != "" {
		if err := a.settleReference(&q); err != nil {
			return nil, err
		}
	}
	if q.Digest == "" && q.tag == "" {
		return nil, fault.Newf(fault.Invalid, "want a digest, or a reference with a tag or a digest")
	}
	return &q, nil
}

// settleReference fills repository, digest and tag of a reference, which must
// be of this registry.
func (a *API) settleReference(q *question) error {
	ref, err := artifact.ParseReference(q.Reference)
	if err != nil {
		return err
	}
	if host := a.o.Host(); ref.Host != host {
		return fault.Newf(fault.Invalid, "reference %.200q is of another registry than %s, which this server knows nothing of: assay verify --policy, or with identity flags, checks it from where you are", q.Reference, host)
	}
	if q.Repository == "" {
		q.Repository = ref.Repository
	}
	if q.Digest == "" {
		q.Digest = ref.Digest
	}
	if q.Repository != ref.Repository || ref.Digest != "" && q.Digest != ref.Digest {
		return fault.Newf(fault.Invalid, "reference %.200q, repository %s and digest %s name different things", q.Reference, q.Repository, q.Digest)
	}
	if q.Digest == "" {
		if q.tag = ref.Tag; q.tag == "" {
			q.tag = "latest"
		}
	}
	return nil
}

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
	n, err := limit(r)
	var after string
	if err == nil {
		after, err = readCursor("decisions", r.URL.Query().Get("after"))
	}
	var all []*verify.Decision
	if err == nil {
		all, err = a.o.Engine.ListAfter(r.Context(), d, after, n)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	page := client.List[json.RawMessage]{Items: []json.RawMessage{}}
	if len(all) == n {
		page.Next = writeCursor("decisions", all[n-1].ScopeID)
	}
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
