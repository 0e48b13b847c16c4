// Package foreign takes roots of trust of others: public-good Sigstore, an old
// private one, GitHub's, plain public keys, X.509 authorities and Notation trust
// stores, so that nothing that they signed has to be signed anew.
//
// A [Document] says what is imported, for which repositories it counts (its
// namespaces: nothing by default), within which times beside the document's own,
// and how many certificate logs, logs and timestamp authorities must vouch.
// [Compile] makes a [Root] of it. Parts of two roots never mix: a bundle is
// verified under one of them as a whole.
//
// # Identities
//
// Sigstore roots prove what Fulcio writes: an OIDC issuer and a subject. An
// X.509 authority or a Notation trust store cannot speak for an OIDC issuer: the
// issuer of its identities is "x509:" and the name of the import, the subject is
// the certificate's one subject alternative name, or "x509.subject:" and the
// distinguished name (RFC 4514) where there is none, or several.
//
// # Notation
//
// Signatures of the Notary Project (JWS and COSE envelopes, schemes notary.x509
// and notary.x509.signingAuthority) are read by notation-core-go, and judged by
// the imported trust policy: the trust stores and identities of the statement
// whose registry scope is the artifact's. Every check of the level "strict" is
// made, whatever the level says, but one: revocation is not asked for on the
// network. It is not_configured for foreign roots, as long as nothing on the
// site's own list of revocations names them.
//
// Trusted time is the timestamp countersignature under a trust store of type
// tsa, or the signing authority's word. Without either the certificates must be
// valid now, and the evidence ends with them.
package foreign
