package trust

import (
	"bytes"
	"crypto/x509"
	"slices"
	"strings"
)

// Issued says whether one of the root's certificate authorities bears the name
// (and the key identifier) that leaf names as its issuer. It proves nothing: it
// spares a verifier with many roots the work under all but the one that could
// accept.
func (r *Root) Issued(leaf *x509.Certificate) bool {
	for _, ca := range r.cas {
		for _, an := range ca.anchors {
			if bytes.Equal(an.cert.RawSubject, leaf.RawIssuer) &&
				(len(leaf.AuthorityKeyId) == 0 || len(an.cert.SubjectKeyId) == 0 || bytes.Equal(leaf.AuthorityKeyId, an.cert.SubjectKeyId)) {
				return true
			}
		}
	}
	return false
}

// KnowsLog says whether the root has a transparency log of this ID.
func (r *Root) KnowsLog(id []byte) bool {
	return slices.ContainsFunc(r.logs, func(l *logKey) bool { return l.id == string(id) })
}

// Within gives the parts with every window closed to w as well, w.Start and
// w.End each only where set. What has no time left is dropped: a root can be
// narrowed to nothing, and then vouches for nothing.
func (p Parts) Within(w Window) Parts {
	narrow := func(own Window) (Window, bool) {
		if own.Start.Before(w.Start) {
			own.Start = w.Start
		}
		if !w.End.IsZero() && (own.End.IsZero() || own.End.After(w.End)) {
			own.End = w.End
		}
		return own, own.End.IsZero() || !own.End.Before(own.Start)
	}
	logs := func(in []Log) (out []Log) {
		for _, l := range in {
			var ok bool
			if l.Window, ok = narrow(l.Window); ok {
				out = append(out, l)
			}
		}
		return out
	}
	authorities := func(in []Authority) (out []Authority) {
		for _, a := range in {
			var ok bool
			if a.Window, ok = narrow(a.Window); ok {
				out = append(out, a)
			}
		}
		return out
	}
	p.Logs, p.CTLogs, p.CAs, p.TSAs = logs(p.Logs), logs(p.CTLogs), authorities(p.CAs), authorities(p.TSAs)
	return p
}

// X509Issuer begins the issuer of identities that a plain X.509 authority
// proved; the name of the root follows. No OIDC issuer begins so.
const X509Issuer = "x509:"

// subjectPrefix marks a distinguished name, as in Notation's trust policies.
const subjectPrefix = "x509.subject:"

// WithX509 makes a root of plain X.509 authorities, whose certificates have no
// Fulcio extensions: identities under it have the issuer "x509:" and name,
// whatever a certificate says of an OIDC issuer, so that such an authority can
// speak for no other.
func WithX509(name string) RootOption { return func(r *Root) { r.x509 = X509Issuer + name } }

// X509Identity is whom a certificate without Fulcio's extensions names: its one
// subject alternative name (a URI, an email address or a DNS name), else, when
// it has none or several, its distinguished name as "x509.subject:" and the
// text of RFC 4514. A certificate that names nobody, or holds text that could
// fool a reader, is refused (CodeIdentityMissing).
func X509Identity(issuer string, c *x509.Certificate) (Identity, error) {
	id := Identity{Issuer: issuer, Extensions: map[string]string{}}
	if err := id.readSAN(c); err == nil && id.SubjectKey != "ip" && !strings.HasPrefix(id.Subject, subjectPrefix) {
		return id, nil
	}
	dn := c.Subject.String()
	if dn == "" || !plain(dn) {
		return Identity{}, refuse(CodeIdentityMissing, "signing certificate has neither one subject alternative name nor a distinguished name: nobody can say who signed")
	}
	id.SubjectKey, id.Subject = "dn", subjectPrefix+dn
	return id, nil
}
