package foreign

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/notaryproject/tspclient-go"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/trust"
)

// The codes of Notation signatures that do not count.
const (
	CodeNotationMalformed = "notation.malformed" // no envelope that can be read
	CodeNotationUnknown   = "notation.unknown"   // no trust store of the policy holds one of its authorities
	CodeNotationIdentity  = "notation.identity"  // the policy trusts other identities of that authority
	CodeNotationScope     = "notation.scope"     // no statement of the policy is for this repository
	CodeNotationTime      = "notation.time"      // not timestamped as it must be, or outside a certificate's validity
	CodeNotationExpired   = "notation.expired"   // the signature has expired by its own word
)

const (
	notationPayload = "application/vnd.cncf.notary.payload.v1+json"
	maxNotation     = 1 << 20
)

// notation is a compiled trust store with its policy.
type notation struct {
	stores     map[string][]*x509.Certificate // by "type:name"
	statements []statement
}

// statement is one of trustpolicy.json's trustPolicies.
type statement struct {
	name       string
	everywhere bool
	scopes     []string
	stores     []string
	anyone     bool
	subjects   []map[string]string // distinguished names, by attribute
}

// trustPolicy is trustpolicy.json (Notary Project, trust-store-trust-policy
// 1.0; the "oci" form).
type trustPolicy struct {
	Version       string `json:"version"`
	TrustPolicies []struct {
		Name                  string   `json:"name"`
		RegistryScopes        []string `json:"registryScopes"`
		SignatureVerification struct {
			Level           string            `json:"level"`
			Override        map[string]string `json:"override,omitempty"`
			VerifyTimestamp string            `json:"verifyTimestamp,omitempty"`
		} `json:"signatureVerification"`
		TrustStores       []string `json:"trustStores"`
		TrustedIdentities []string `json:"trustedIdentities"`
		GlobalPolicy      bool     `json:"globalPolicy,omitempty"`
	} `json:"trustPolicies"`
}

func compileNotation(d *Document) (*notation, error) {
	n := &notation{stores: map[string][]*x509.Certificate{}}
	for _, s := range d.TrustStores {
		key := s.Type + ":" + s.Name
		if !slices.Contains([]string{"ca", "signingAuthority", "tsa"}, s.Type) || s.Name == "" || len(s.Name) > 128 || n.stores[key] != nil {
			return nil, invalid(d, "trust store %.120q: want type ca, signingAuthority or tsa and a name, each once", key)
		}
		certs, err := d.parseCertificates("trust store "+key, s.Certificates)
		if err != nil {
			return nil, err
		}
		n.stores[key] = certs
	}
	var p trustPolicy
	if err := strictjson.Unmarshal(d.TrustPolicy, &p, strictjson.RejectUnknown()); err != nil {
		return nil, invalid(d, "trust policy: %w", err)
	}
	if p.Version != "1.0" || len(p.TrustPolicies) == 0 || len(p.TrustPolicies) > maxList {
		return nil, invalid(d, "trust policy of version %.20q with %d statements, want version 1.0 and 1 to %d", p.Version, len(p.TrustPolicies), maxList)
	}
	wild := 0
	for _, t := range p.TrustPolicies {
		s := statement{name: t.Name, scopes: t.RegistryScopes, stores: t.TrustStores}
		switch level := t.SignatureVerification.Level; level {
		case "strict", "permissive": // both are judged as strict
		default:
			return nil, invalid(d, "trust policy %.60q: level %.40q verifies too little to count as evidence, want strict or permissive", t.Name, level)
		}
		if len(t.RegistryScopes) == 0 && !t.GlobalPolicy {
			return nil, invalid(d, "trust policy %.60q: no registryScopes", t.Name)
		}
		if slices.Contains(t.RegistryScopes, "*") || t.GlobalPolicy {
			if wild++; len(t.RegistryScopes) > 1 || wild > 1 {
				return nil, invalid(d, "trust policy %.60q: the scope \"*\" stands alone, in one statement", t.Name)
			}
			s.everywhere = true
		}
		roots := 0
		for _, store := range t.TrustStores {
			if n.stores[store] == nil {
				return nil, invalid(d, "trust policy %.60q names trust store %.120q, which was not given", t.Name, store)
			}
			if !strings.HasPrefix(store, "tsa:") {
				roots++
			}
		}
		if roots == 0 {
			return nil, invalid(d, "trust policy %.60q names no trust store of type ca or signingAuthority", t.Name)
		}
		if err := s.identities(t.TrustedIdentities); err != nil {
			return nil, invalid(d, "trust policy %.60q: %w", t.Name, err)
		}
		n.statements = append(n.statements, s)
	}
	return n, nil
}

func (s *statement) identities(in []string) error {
	if len(in) == 0 {
		return fault.Newf(fault.Invalid, "no trustedIdentities")
	}
	for _, text := range in {
		if text == "*" {
			if s.anyone = true; len(in) > 1 {
				return fault.Newf(fault.Invalid, "the identity \"*\" stands alone")
			}
			continue
		}
		dn, ok := strings.CutPrefix(text, "x509.subject:")
		if !ok {
			return fault.Newf(fault.Invalid, "trusted identity %.120q: want \"*\" or x509.subject: and a distinguished name", text)
		}
		m, err := parseDN(dn)
		if err != nil {
			return err
		}
		for _, must := range []string{"C", "ST", "O"} {
			if m[must] == "" {
				return fault.Newf(fault.Invalid, "trusted identity %.120q: a distinguished name wants C, ST and O", text)
			}
		}
		s.subjects = append(s.subjects, m)
	}
	return nil
}

// trusts says whether the certificate's subject has every attribute of one of
// the trusted names.
func (s *statement) trusts(subject pkix.Name) bool {
	if s.anyone {
		return true
	}
	have := map[string]string{}
	for _, a := range subject.Names {
		name, text := dnNames[a.Type.String()], ""
		if text, _ = a.Value.(string); name == "" {
			continue
		}
		if _, twice := have[name]; twice {
			text = "" // two of one type: neither is the one
		}
		have[name] = text
	}
	return slices.ContainsFunc(s.subjects, func(want map[string]string) bool {
		for k, v := range want {
			if have[k] != v {
				return false
			}
		}
		return true
	})
}

// Place is where the artifact is, for the scopes of trust policies.
type Place struct {
	Registry   string // host; "" for the own registry
	Repository string // without the host
	Any        bool   // at ingest: no place is known yet, and any statement's word does
}

// statementsFor picks the statements for a place: the one whose scope names it,
// else the one for everything. In the own registry a repository has the name
// that it had where it came from.
func (n *notation) statementsFor(p Place) []statement {
	if p.Any {
		return n.statements
	}
	var wild []statement
	for _, s := range n.statements {
		for _, scope := range s.scopes {
			host, repository, _ := strings.Cut(scope, "/")
			if repository != "" && repository == p.Repository && (p.Registry == "" || p.Registry == host) {
				return []statement{s}
			}
		}
		if s.everywhere {
			wild = append(wild, s)
		}
	}
	return wild
}

// IsNotationEnvelope says whether bytes look like a signature of the Notary
// Project: a JWS in JSON, or a COSE_Sign1 with its tag. It proves nothing.
func IsNotationEnvelope(b []byte) bool { return attestation.IsNotation(b) }

// VerifyNotation verifies a signature of the Notary Project under this root. A
// refusal is fault.Unverified with a code.
func (r *Root) VerifyNotation(ctx context.Context, raw []byte, p Place, now time.Time) (v *trust.Verified, err error) {
	if r.notation == nil {
		return nil, trust.Refuse(CodeNotationUnknown, "root %q knows no Notation signatures", r.Name())
	}
	// The parsers are others' and the bytes are hostile.
	defer func() {
		if x := recover(); x != nil {
			v, err = nil, trust.Refuse(CodeNotationMalformed, "Notation signature: the parser failed: %v", x)
		}
	}()
	info, payload, err := openEnvelope(raw)
	if err != nil {
		return nil, err
	}
	statements := r.notation.statementsFor(p)
	err = trust.Refuse(CodeNotationScope, "no statement of the trust policy of %q is for %q", r.Name(), strings.TrimPrefix(p.Registry+"/"+p.Repository, "/"))
	for _, s := range statements {
		if v, err = r.judge(ctx, &s, info, payload, now); err == nil {
			return v, nil
		}
	}
	return nil, err
}

// openEnvelope checks integrity and form, with what is strict about JSON done
// first: the library reads a member that is there twice.
func openEnvelope(raw []byte) (*signature.SignerInfo, *notationTarget, error) {
	bad := func(err error) error { return trust.Refuse(CodeNotationMalformed, "Notation signature: %w", err) }
	if len(raw) == 0 || len(raw) > maxNotation {
		return nil, nil, trust.Refuse(CodeNotationMalformed, "Notation signature of %d bytes, want 1 to %d", len(raw), maxNotation)
	}
	var env signature.Envelope
	var err error
	if raw[0] == '{' {
		if err := strictJWS(raw); err != nil {
			return nil, nil, bad(err)
		}
		env, err = jws.ParseEnvelope(raw)
	} else {
		env, err = cose.ParseEnvelope(raw)
	}
	if err != nil {
		return nil, nil, bad(err)
	}
	content, err := env.Verify()
	if err != nil {
		return nil, nil, bad(err)
	}
	t := &notationTarget{raw: content.Payload.Content, contentType: content.Payload.ContentType}
	if t.contentType != notationPayload {
		return nil, nil, trust.Refuse(CodeNotationMalformed, "Notation signature over %.100q, want %q", t.contentType, notationPayload)
	}
	var doc struct {
		TargetArtifact attestation.Descriptor `json:"targetArtifact"`
	}
	if err := strictjson.Unmarshal(t.raw, &doc); err != nil {
		return nil, nil, bad(err)
	}
	if err := doc.TargetArtifact.Digest.Validate(); err != nil {
		return nil, nil, bad(err)
	}
	t.digest = doc.TargetArtifact.Digest
	for _, a := range content.SignerInfo.SignedAttributes.ExtendedAttributes {
		if a.Critical {
			return nil, nil, trust.Refuse(CodeNotationMalformed, "Notation signature: the attribute %v is critical, and nothing here knows it", a.Key)
		}
	}
	return &content.SignerInfo, t, nil
}

type notationTarget struct {
	raw         []byte
	contentType string
	digest      artifact.Digest
}

// strictJWS refuses what JSON readers take differently, in the envelope and in
// its protected header and payload.
func strictJWS(raw []byte) error {
	var env struct {
		Payload   string          `json:"payload"`
		Protected string          `json:"protected"`
		Header    json.RawMessage `json:"header"`
		Signature string          `json:"signature"`
	}
	if err := strictjson.Unmarshal(raw, &env, strictjson.RejectUnknown()); err != nil {
		return err
	}
	for _, part := range []string{env.Payload, env.Protected} {
		b, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil {
			return err
		}
		if err := strictjson.Check(b); err != nil {
			return err
		}
	}
	return nil
}

// judge applies one statement.
func (r *Root) judge(ctx context.Context, s *statement, info *signature.SignerInfo, target *notationTarget, now time.Time) (*trust.Verified, error) {
	want := "ca:"
	if info.SignedAttributes.SigningScheme == signature.SigningSchemeX509SigningAuthority {
		want = "signingAuthority:"
	} else if info.SignedAttributes.SigningScheme != signature.SigningSchemeX509 {
		return nil, trust.Refuse(CodeNotationMalformed, "Notation signature of scheme %.60q is not known", string(info.SignedAttributes.SigningScheme))
	}
	var trusted, tsas []*x509.Certificate
	for _, store := range s.stores {
		switch {
		case strings.HasPrefix(store, want):
			trusted = append(trusted, r.notation.stores[store]...)
		case strings.HasPrefix(store, "tsa:"):
			tsas = append(tsas, r.notation.stores[store]...)
		}
	}
	leaf := info.CertificateChain[0]
	if len(trusted) == 0 || !slices.ContainsFunc(info.CertificateChain, func(c *x509.Certificate) bool { return slices.ContainsFunc(trusted, c.Equal) }) {
		return nil, trust.Refuse(CodeNotationUnknown, "Notation signature by %q: no trust store %s* of statement %q (%s) holds one of its authorities", leaf.Subject, want, s.name, r.Name())
	}
	if !s.trusts(leaf.Subject) {
		return nil, trust.Refuse(CodeNotationIdentity, "Notation signature by %q, whom statement %q (%s) does not trust", leaf.Subject, s.name, r.Name())
	}
	id, err := trust.X509Identity(trust.X509Issuer+r.Name(), leaf)
	if err != nil {
		return nil, err
	}
	fp, err := trust.KeyFingerprint(leaf.PublicKey)
	if err != nil {
		return nil, err
	}
	v := &trust.Verified{
		Root: r.Name(), Scheme: trust.SchemeNotation, Identity: id, Certificate: leaf, KeyFingerprint: fp, Signature: info.Signature,
		PayloadType: target.contentType, Payload: target.raw, PayloadDigest: artifact.SHA256Of(target.raw),
		Subjects: []attestation.Subject{{Digest: target.digest.Set()}}, LogIndex: -1,
	}
	if err := r.date(ctx, v, info, tsas, now); err != nil {
		return nil, err
	}
	return v, nil
}

// date finds the trusted time, and compares with it what has a validity.
func (r *Root) date(ctx context.Context, v *trust.Verified, info *signature.SignerInfo, tsas []*x509.Certificate, now time.Time) error {
	at, source, party := now, "", ""
	early, late := now, now
	switch token := info.UnsignedAttributes.TimestampSignature; {
	case info.SignedAttributes.SigningScheme == signature.SigningSchemeX509SigningAuthority:
		at, source, party = info.SignedAttributes.SigningTime, "authority", r.Name()
		early, late = at, at
	case len(token) > 0 && len(tsas) > 0:
		var err error
		if at, early, late, party, err = verifyToken(ctx, token, info.Signature, tsas); err != nil {
			return trust.Refuse(CodeNotationTime, "Notation signature: timestamp: %w", err)
		}
		source = "tsa"
	}
	if t := r.thresholds; t != nil && (t.TSA > 0 && source != "tsa" || t.Time > 0 && source == "" || t.TSA > 1 || t.Time > 1 || t.TLog > 0 || t.SCT > 0) {
		return trust.Refuse(CodeNotationTime, "Notation signature carries %s, and root %q asks for %d timestamps, %d times, %d logs and %d SCTs", source, r.Name(), t.TSA, t.Time, t.TLog, t.SCT)
	}
	if at.After(now.Add(time.Minute)) {
		return trust.Refuse(CodeNotationTime, "Notation signature is dated %s, which is to come", stamp(at))
	}
	if w := r.Document.window(); !w.Contains(early) || !w.Contains(late) {
		return trust.Refuse(CodeNotationTime, "Notation signature of %s: root %q is trusted only %s", stamp(at), r.Name(), w)
	}
	for _, c := range info.CertificateChain {
		if early.Before(c.NotBefore) || late.After(c.NotAfter) {
			return trust.Refuse(CodeNotationTime, "Notation signature of %s: certificate %q is valid only %s to %s; sign with a timestamp authority, and trust it by a trust store of type tsa", stamp(at), c.Subject, stamp(c.NotBefore), stamp(c.NotAfter))
		}
		if source == "" {
			v.Expires = earliest(v.Expires, c.NotAfter)
		}
	}
	if end := info.SignedAttributes.Expiry; !end.IsZero() {
		if !now.Before(end) {
			return trust.Refuse(CodeNotationExpired, "Notation signature expired at %s by its own word; sign again", stamp(end))
		}
		v.Expires = earliest(v.Expires, end)
	}
	if source != "" {
		v.TrustedTime, v.TimeSource = at.UTC(), source
		v.Times = []trust.TimeProof{{Time: at.UTC(), Source: source, Party: party}}
	}
	return nil
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// verifyToken checks an RFC 3161 token over a signature under the stores' roots,
// at the time that it states, with its accuracy on both sides.
func verifyToken(ctx context.Context, raw, sig []byte, tsas []*x509.Certificate) (at, early, late time.Time, party string, err error) {
	token, err := tspclient.ParseSignedToken(raw)
	if err != nil {
		return at, early, late, "", err
	}
	info, err := token.Info()
	if err != nil {
		return at, early, late, "", err
	}
	ts, err := info.Validate(sig)
	if err != nil {
		return at, early, late, "", err
	}
	roots := x509.NewCertPool()
	for _, c := range tsas {
		roots.AddCert(c)
	}
	chain, err := token.Verify(ctx, x509.VerifyOptions{Roots: roots, CurrentTime: ts.Value})
	if err != nil {
		return at, early, late, "", err
	}
	if anchor := chain[len(chain)-1]; !slices.ContainsFunc(tsas, anchor.Equal) {
		return at, early, late, "", fault.Newf(fault.Unverified, "its chain ends at %q, which is in no trust store", anchor.Subject)
	}
	return ts.Value, ts.Value.Add(-ts.Accuracy), ts.Value.Add(ts.Accuracy), chain[0].Subject.String(), nil
}
