package registry

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/identity"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/telemetry"
)

// caller is who sends a request.
type caller struct {
	identity.Principal
	bare   bool        // no credentials at all, not even an anonymous token
	access tokenAccess // what the registry's own token is limited to; nil: no limit
	use    tokenUse    // of that token
	ends   time.Time   // of that token; zero: there is none
}

// owner names a caller exactly, for what belongs to one of them.
func (c *caller) owner() string {
	return Owner(c.Principal)
}

// maxAuthorization bounds the header before anything splits it.
const maxAuthorization = 24 << 10

// authenticate finds out who asks. Own scoped tokens are recognised by their
// fixed header; all other credentials are the Authenticator's.
func (r *Registry) authenticate(req *http.Request) (caller, error) {
	values := req.Header.Values("Authorization")
	switch {
	case len(values) == 0:
		return caller{Principal: identity.Anonymous(), bare: true}, nil
	case len(values) > 1:
		return caller{}, failf(codeUnauthorized, fault.Invalid, "%d Authorization headers: want one", len(values))
	case len(values[0]) > maxAuthorization:
		return caller{}, failf(codeUnauthorized, fault.Invalid, "Authorization header of %d bytes: want at most %d", len(values[0]), maxAuthorization)
	}
	if raw, ok := bearer(values[0]); ok && r.tokens.own(raw) {
		return r.ownCaller(req, raw, useScoped, useExchange)
	}
	if _, password, ok := req.BasicAuth(); ok && r.tokens.own(password) {
		// As clients send what was exchanged, and what they kept after login.
		uses := []tokenUse{useExchange}
		if req.URL.Path == "/token" {
			uses = append(uses, useRefresh)
		}
		return r.ownCaller(req, password, uses...)
	}
	return r.external(req)
}

// ownCaller proves a caller by a token of this registry that is good for one of
// the uses. That it was bought rightly is not enough: what bought it must still
// hold.
func (r *Registry) ownCaller(req *http.Request, raw string, uses ...tokenUse) (caller, error) {
	t, err := r.tokens.verify(raw)
	if err == nil && !slices.Contains(uses, t.Use) {
		err = errToken
	}
	if err == nil && r.credentials != nil {
		if err = r.credentials.Check(t.Principal); errors.As(err, new(*identity.RevokedError)) {
			r.refused.note(req.Context(), network(address(req)), traceID(req), err)
		}
	}
	if err != nil {
		return caller{}, &failure{code: codeUnauthorized, err: err, expired: true}
	}
	return caller{Principal: t.Principal, access: t.Access, use: t.Use, ends: time.Unix(t.Expires, 0).UTC()}, nil
}

// external proves credentials that are not this registry's own tokens.
func (r *Registry) external(req *http.Request) (caller, error) {
	if r.auth == nil {
		return caller{}, failf(codeUnauthorized, fault.Unauthenticated, "these credentials cannot be checked: no issuer is configured")
	}
	p, err := r.auth.Authenticate(req)
	if err == nil && p.IsAnonymous() {
		// Credentials that prove nobody are wrong credentials.
		err = fault.Newf(fault.Unauthenticated, "the credentials prove no identity")
	}
	if err != nil {
		if fault.KindOf(err) != fault.Unavailable { // the issuer may be unreachable
			r.refused.note(req.Context(), network(address(req)), traceID(req), err)
			err = &failure{code: codeUnauthorized, err: fault.Wrap(fault.Unauthenticated, err)}
		}
		return caller{}, err
	}
	return caller{Principal: p}, nil
}

func bearer(authorization string) (string, bool) {
	scheme, raw, ok := strings.Cut(authorization, " ")
	return strings.TrimSpace(raw), ok && strings.EqualFold(scheme, "Bearer")
}

// scopeFor is the word of Docker's token scopes under which an action falls.
func scopeFor(act identity.Action) string {
	switch act {
	case identity.ActPull:
		return "pull"
	case identity.ActDelete:
		return "delete"
	}
	return "push"
}

// allow asks for one action on a repository: first what the token is limited
// to, then, at every request, the access rules, so that a withdrawn grant ends
// with the next request and not with the token.
func (r *Registry) allow(q *request, act identity.Action, repository string) error {
	return r.allowAny(q, repository, act)
}

// allowAny passes when one of the actions is allowed. The refusal is that of
// the last one, the usual one, and is recorded.
func (r *Registry) allowAny(q *request, repository string, acts ...identity.Action) error {
	err := r.permits(q.Context(), &q.caller, repository, acts...)
	if err == nil {
		return nil
	}
	if fault.KindOf(err) == fault.Denied {
		r.noteDenied(q, repository, "", err)
	}
	return refusal(err, repository, acts[len(acts)-1])
}

// refusal says by which scope a client could get further.
func refusal(err error, repository string, act identity.Action) error {
	return &failure{code: fault.OCICode(err), err: err, challenge: challengeScope(repository, act)}
}

// narrowToken is the error of a token whose scope lacks what its principal may
// do: the client fetches another.
type narrowToken struct{ error }

func (n *narrowToken) Unwrap() error { return n.error }

// permits is allow without a record: it asks whether one of the actions would
// be allowed.
func (r *Registry) permits(ctx context.Context, c *caller, repository string, acts ...identity.Action) error {
	var err error
	for _, act := range acts {
		if err = r.access.Allow(ctx, c.Principal, act, identity.Repository(repository)); err != nil {
			continue
		}
		if c.access == nil || c.access.allows("repository", repository, scopeFor(act)) {
			return nil
		}
		return &narrowToken{fault.Newf(fault.Unauthenticated, "the token's scope does not cover %s on repository %s; ask %s for one that does", scopeFor(act), repository, "/token")}
	}
	return err
}

func challengeScope(repository string, act identity.Action) string {
	actions := scopeFor(act)
	if actions == "push" {
		actions = "pull,push" // those who push look first
	}
	return "repository:" + repository + ":" + actions
}

// challenge is the WWW-Authenticate header of a 401. Its realm is this server's
// configured address and never the request's Host, which a client may have been
// tricked into (CVE-2025-27403); scope and service hold only checked names.
func (r *Registry) challenge(f *failure) string {
	if r.tokens.realm == "" {
		return `Basic realm="assay registry", charset="UTF-8"`
	}
	var b strings.Builder
	b.WriteString(`Bearer realm="` + r.tokens.realm + `",service="` + r.tokens.service + `"`)
	if f.challenge != "" {
		b.WriteString(`,scope="` + f.challenge + `"`)
	}
	switch {
	case f.expired:
		b.WriteString(`,error="invalid_token"`)
	case errors.As(f.err, new(*narrowToken)):
		b.WriteString(`,error="insufficient_scope"`)
	}
	return b.String()
}

// VerifierAuth proves callers by OIDC tokens of audience assay-registry, given
// as the password of Basic (the user name is ignored) or as Bearer. A token of
// any other audience, sigstore's above all, is refused by the verifier. With
// Credentials, robots' tokens prove theirs too, and what was revoked proves
// nobody.
type VerifierAuth struct {
	Verifier    *identity.Verifier
	Credentials Credentials // nil: no robots, nothing revoked
}

// Credentials are the site's own: identity/credential.Store.
type Credentials interface {
	// Verify proves a robot by its token, for one audience; errors are
	// fault.Unauthenticated.
	Verify(ctx context.Context, secret string, aud identity.Audience) (identity.Principal, error)
	// Check says whether what proved p still does: nil or fault.Unauthenticated.
	// It is asked at every request and costs no look-up.
	Check(p identity.Principal) error
}

// Authenticate implements [Authenticator].
func (a VerifierAuth) Authenticate(req *http.Request) (identity.Principal, error) {
	raw, ok := bearer(req.Header.Get("Authorization"))
	if !ok {
		if _, raw, ok = req.BasicAuth(); !ok {
			return identity.Principal{}, fault.Newf(fault.Unauthenticated, "Authorization: want Basic or Bearer with a token of audience %s", identity.AudienceRegistry)
		}
	}
	if a.Credentials == nil {
		p, _, err := a.Verifier.Verify(req.Context(), raw, identity.AudienceRegistry)
		return p, err
	}
	if strings.HasPrefix(raw, robotPrefix) {
		return a.Credentials.Verify(req.Context(), raw, identity.AudienceRegistry)
	}
	p, _, err := a.Verifier.Verify(req.Context(), raw, identity.AudienceRegistry)
	if err == nil {
		err = a.Credentials.Check(p)
	}
	return p, err
}

// robotPrefix begins robots' tokens, see identity/credential.
const robotPrefix = "assay_robot_"

type deniedBody struct {
	Repository string `json:"repository"`
	Tag        string `json:"tag,omitempty"`
	Action     string `json:"action"`    // pull, push or delete
	Operation  string `json:"operation"` // as in the metrics
	Reason     string `json:"reason"`
	Cause      string `json:"cause"` // rights or gate
	trail
}

// noteDenied records a refusal of somebody known. Refusals of those without
// credentials are the ordinary first step of a login and are only counted.
func (r *Registry) noteDenied(q *request, repository string, d artifact.Digest, err error) {
	body := deniedBody{
		Repository: repository, Action: q.route.op.action(), Operation: string(q.route.op),
		Reason: clip(err.Error(), 512), Cause: "rights", trail: q.trail(decisionDeny),
	}
	if errors.As(err, new(*gateError)) {
		body.Cause = "gate"
	}
	// What an upload's path ends in is a capability and stays out of the log.
	if tag, digest, err := parseReference(q.route.ref); err == nil && q.route.op.onManifest() {
		if body.Tag = tag; d == "" {
			d = digest
		}
	}
	r.note(q.Context(), event.Event{
		Kind: event.ArtifactDenied, Digest: d, Actor: q.caller.Actor(), TraceID: traceID(q.Request), Body: body,
	})
}

// note records an event that belongs to no other transaction and waits until it
// is committed, with many others. A record that cannot be written is logged:
// what it says was refused anyway.
func (r *Registry) note(ctx context.Context, e event.Event) {
	// Whoever hangs up does not take the record with them.
	if err := r.rec.add(e).wait(context.WithoutCancel(ctx)); err != nil {
		r.log.ErrorContext(ctx, "audit record not written", "kind", string(e.Kind), "error", err)
	}
}

// address is the peer's, without its port.
func address(req *http.Request) string {
	host, _, err := net.SplitHostPort(req.RemoteAddr)
	if err != nil {
		return clip(req.RemoteAddr, 64)
	}
	return host
}

// traceID reads the trace id of a traceparent header (W3C Trace Context, 3.2),
// "" when there is none or it is malformed.
func traceID(req *http.Request) string {
	if id := telemetry.TraceID(req.Context()); id != "" {
		return id // of this program's own span, whose trace is kept
	}
	v := req.Header.Get("Traceparent")
	if len(v) < 55 || v[2] != '-' || v[35] != '-' {
		return ""
	}
	id := v[3:35]
	if strings.Trim(id, "0123456789abcdef") != "" || strings.Trim(id, "0") == "" {
		return ""
	}
	return id
}

func clip(s string, most int) string { return excerpt.Text(s, most) }
