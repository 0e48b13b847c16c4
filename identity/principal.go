// Package identity knows who asks and what they may do: principals proved by
// OIDC tokens of configured issuers, roles granted to them, and the one
// question every door asks, [Access.Allow].
//
// A token proves an identity for one [Audience] only, and the audiences are
// disjoint: a token made for signing never opens the registry.
package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
)

// Kind says what sort of party a principal is.
type Kind string

// The kinds of principal.
const (
	KindUser      Kind = "user"      // a person, by a verified e-mail address or a subject of a person's issuer
	KindWorkload  Kind = "workload"  // a pipeline, a Kubernetes service account, a SPIFFE workload
	KindRobot     Kind = "robot"     // a named machine account of the local issuer
	KindSystem    Kind = "system"    // Assay itself; made in process by [System], never from a token
	KindAnonymous Kind = "anonymous" // nobody in particular; made by [Anonymous]
)

// Principal is who asks. Issuer, Subject and Kind together name it.
type Principal struct {
	Issuer  string // exact issuer URL; empty for system and anonymous
	Subject string // the token's sub claim
	Kind    Kind
	// Name is the identity that a certificate for this principal carries in
	// its subject alternative name: a verified e-mail address or a URI. It is
	// what signatures are matched against, so that grants, audit and
	// signatures can speak of one name. Equal to Subject where the issuer has
	// no other.
	Name string
	// Person is a stable id for the human being behind the principal, the same
	// across issuers, for two-person rules. Empty for machines and for every
	// identity of the local issuer: those count for no such rule.
	Person string
	Email  string            // verified address, else empty
	Groups []string          // from the issuer's groups claim; at most 256
	Claims map[string]string // the token's scalar claims as text, for policies and audit; at most 64, each at most 1 KiB
	// Credential is what proved the principal, so that it can be named in the
	// audit trail and revoked by itself.
	Credential Credential
}

// Credential is one proof of an identity: a token, never its secret.
type Credential struct {
	// ID names it: "jwt:" and the first 32 hex digits of the SHA-256 of a token's
	// signed part, or
	// "robot:" and the id of a robot's token. Empty for system and anonymous.
	ID       string    `json:",omitzero"`
	IssuedAt time.Time `json:",omitzero"` // zero: its issuer does not say
	Expires  time.Time `json:",omitzero"`
}

// Anonymous is the principal of a request without credentials.
func Anonymous() Principal { return Principal{Kind: KindAnonymous} }

// System is Assay acting for itself, for example a worker. Name says which
// part. No token yields a system principal.
func System(name string) Principal {
	return Principal{Kind: KindSystem, Subject: name, Name: name}
}

// IsAnonymous says whether nobody was authenticated.
func (p Principal) IsAnonymous() bool { return p.Kind == KindAnonymous || p.Kind == "" }

// Actor names the principal in events and logs: "issuer#name" for those who
// hold tokens, "system:name", or "anonymous". It is at most 1 KiB, which is what
// an event holds: a longer one ends in the SHA-256 of the whole.
func (p Principal) Actor() string {
	switch {
	case p.Kind == KindSystem:
		return "system:" + p.Name
	case p.IsAnonymous():
		return "anonymous"
	}
	name := p.Name
	if name == "" {
		name = p.Subject
	}
	actor := p.Issuer + "#" + name
	if len(actor) > maxActor {
		sum := sha256.Sum256([]byte(actor))
		actor = strings.ToValidUTF8(actor[:maxActor-80], "") + "...sha256:" + hex.EncodeToString(sum[:])
	}
	return actor
}

const maxActor = 1 << 10

// names gives the names that a grant's subject is compared with. A sub claim
// that has the shape of an e-mail address but is not the verified one names
// nobody: otherwise a person who may choose their own sub could take another's
// grants.
func (p Principal) names() (a, b string) {
	if p.Subject != p.Name && strings.ContainsRune(p.Subject, '@') && looksLikeEmail(p.Subject) && p.Subject != p.Email {
		return p.Name, ""
	}
	return p.Name, p.Subject
}

type contextKey struct{}

// WithPrincipal gives ctx the principal that FromContext finds.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// FromContext finds the request's principal; without one, [Anonymous].
func FromContext(ctx context.Context) Principal {
	if p, ok := ctx.Value(contextKey{}).(Principal); ok {
		return p
	}
	return Anonymous()
}

// Audience is what a token is good for. The audiences are disjoint and never
// interchanged.
type Audience string

// The audiences, which are also the aud claims of tokens unless an issuer's
// configuration maps others.
const (
	AudienceSigstore Audience = "sigstore"       // a signing certificate
	AudienceRegistry Audience = "assay-registry" // the registry, as password or bearer
	AudienceAPI      Audience = "assay-api"      // the API and the UI
)

// Audiences lists all audiences.
func Audiences() []Audience {
	return []Audience{AudienceSigstore, AudienceRegistry, AudienceAPI}
}

// Valid says whether a is one of the audiences.
func (a Audience) Valid() bool {
	return a == AudienceSigstore || a == AudienceRegistry || a == AudienceAPI
}
