package trust_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"google.golang.org/protobuf/proto"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/trust"
	"assay/trust/trusttest"
)

const (
	issuer = "https://oidc.assay.test"
	signer = "https://ci.assay.test/org/repo/build.yml@refs/heads/main"
)

var content = []byte("the artifact\n")

func request() trusttest.Request {
	return trusttest.Request{
		Statement: trusttest.Statement(content, attestation.PredicateProvenanceV1),
		Leaf:      trusttest.Leaf{Issuer: issuer, Subject: signer},
	}
}

// strictly asks for everything: the artifact, the signer, default thresholds.
func strictly() trust.VerifyOptions {
	return trust.VerifyOptions{
		Artifact: artifact.SHA256Of(content).Set(),
		Identity: []trust.IdentityMatch{{Issuer: issuer, Subject: signer}},
	}
}

func keyed(keys ...crypto.PublicKey) trust.VerifyOptions {
	o := strictly()
	o.Identity = nil
	for _, k := range keys {
		o.Keys = append(o.Keys, trust.Key{Public: k})
	}
	return o
}

// wantCode checks a verdict: "" for acceptance, else the refusal's code.
func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if code == "" {
		if err != nil {
			t.Errorf("refused (%s), want acceptance: %v", trust.Code(err), err)
		}
		return
	}
	if err == nil {
		t.Errorf("accepted, want %s", code)
		return
	}
	if trust.Code(err) != code || (!errors.Is(err, fault.Unverified) && code != trust.CodeBundleOptions) {
		t.Errorf("code %q of kind %v, want %q of unverified: %v", trust.Code(err), fault.KindOf(err), code, err)
	}
}

func verify(t *testing.T, r *trust.Root, d *trusttest.Draft, o trust.VerifyOptions) (*trust.Verified, error) {
	t.Helper()
	return r.VerifyBundle(t.Context(), d.Parse(t), o)
}

func TestVerifyBundleProves(t *testing.T) {
	w := trusttest.New(t)
	root := w.Root(t, trust.WithName("own"))
	for _, scheme := range []trust.Scheme{trust.SchemeDSSE, trust.SchemeMessage} {
		for _, byKey := range []bool{false, true} {
			req, o := request(), strictly()
			if scheme == trust.SchemeMessage {
				req.Statement, req.Artifact = nil, content
			}
			if byKey {
				req.Key = trusttest.NewKey(t)
				o = keyed(req.Key.Public())
			}
			v, err := verify(t, root, w.Draft(t, req), o)
			if err != nil {
				t.Fatalf("%s, key %v: %v", scheme, byKey, err)
			}
			if v.Root != "own" || v.Scheme != scheme || !v.TrustedTime.Equal(w.Start.Add(2*time.Minute)) || v.TimeSource != "tsa" || v.LogIndex < 0 ||
				len(v.Logs) != 1 || v.Logs[0].TreeSize == 0 || (v.Certificate == nil) != byKey || (v.Statement == nil) != (scheme == trust.SchemeMessage) {
				t.Errorf("%s, key %v: result %+v", scheme, byKey, v)
			}
			if !byKey && (v.Identity.Issuer != issuer || v.Identity.Subject != signer || v.SCTs != 1) {
				t.Errorf("identity %+v", v.Identity)
			}
		}
	}
}

// TestThreat_Bundle_LogEntryOfAnother puts a valid, logged entry about another
// digest, signature or key into a bundle (CVE-2026-22703, CVE-2024-51746).
func TestThreat_Bundle_LogEntryOfAnother(t *testing.T) {
	w := trusttest.New(t)
	root := w.Root(t)
	for _, message := range []bool{false, true} {
		req := request()
		signed := attestation.PAE(attestation.PayloadType, req.Statement)
		if message {
			req.Statement, req.Artifact, signed = nil, content, content
		}
		d := w.Draft(t, req)
		sig := d.GetMessageSignature().GetSignature()
		if !message {
			sig = d.GetDsseEnvelope().GetSignatures()[0].GetSig()
		}
		_, other := w.Issue(t, req.Leaf)
		for what, body := range map[string][]byte{
			"Digest":      trusttest.Body(t, []byte("another artifact"), sig, d.Cert, nil),
			"Signature":   trusttest.Body(t, signed, trusttest.Sign(t, d.Key, signed), d.Cert, nil),
			"Certificate": trusttest.Body(t, signed, sig, other, nil),
			"BareKey":     trusttest.Body(t, signed, sig, nil, d.Key),
			"ExtraMember": bytes.Replace(trusttest.Body(t, signed, sig, d.Cert, nil), []byte(`{"apiVersion"`), []byte(`{"a":1,"apiVersion"`), 1),
		} {
			t.Run(what, func(t *testing.T) {
				forged := &trusttest.Draft{Bundle: proto.CloneOf(d.Bundle), Cert: d.Cert, Key: d.Key}
				forged.VerificationMaterial.TlogEntries[0] = w.Log(t, body)
				_, err := verify(t, root, forged, strictly())
				wantCode(t, err, trust.CodeTLogMismatch)
			})
		}
	}
}

// TestThreat_Bundle_CountedTwice gives one party several voices
// (CVE-2026-49834).
func TestThreat_Bundle_CountedTwice(t *testing.T) {
	w := trusttest.New(t)
	root := w.Root(t)
	d := w.Draft(t, request())
	sig := d.GetDsseEnvelope().GetSignatures()[0].GetSig()
	body := d.Entry().GetCanonicalizedBody()
	two := strictly()

	t.Run("SameEntry", func(t *testing.T) {
		c := &trusttest.Draft{Bundle: proto.CloneOf(d.Bundle)}
		c.VerificationMaterial.TlogEntries = append(c.VerificationMaterial.TlogEntries, c.Entry())
		_, err := verify(t, root, c, two)
		wantCode(t, err, trust.CodeBundleMalformed)
	})
	t.Run("SameLog", func(t *testing.T) {
		c := &trusttest.Draft{Bundle: proto.CloneOf(d.Bundle)}
		c.VerificationMaterial.TlogEntries = append(c.VerificationMaterial.TlogEntries, w.Log(t, body))
		_, err := verify(t, root, c, two)
		wantCode(t, err, "")
		two.Thresholds = &trust.Thresholds{SCT: 1, TLog: 2, Time: 1}
		_, err = verify(t, root, c, two)
		wantCode(t, err, trust.CodeTLogMissing)
	})
	t.Run("SameLogKeyUnderTwoNames", func(t *testing.T) {
		p := w.Parts()
		alias := p.Logs[0]
		alias.ID = bytes.Repeat([]byte{7}, 32)
		p.Logs = append(p.Logs, alias)
		c := &trusttest.Draft{Bundle: proto.CloneOf(d.Bundle)}
		e := w.Log(t, body)
		e.LogId.KeyId = alias.ID
		c.VerificationMaterial.TlogEntries = append(c.VerificationMaterial.TlogEntries, e)
		_, err := verify(t, trusttest.Build(t, p), c, two)
		wantCode(t, err, trust.CodeTLogMissing)
	})
	t.Run("SameTSA", func(t *testing.T) {
		c := &trusttest.Draft{Bundle: proto.CloneOf(d.Bundle)}
		data := c.VerificationMaterial.TimestampVerificationData
		data.Rfc3161Timestamps = append(data.Rfc3161Timestamps, &commonpb.RFC3161SignedTimestamp{SignedTimestamp: w.Timestamp(t, sig, w.Start.Add(3*time.Minute), true)})
		o := strictly()
		o.Thresholds = &trust.Thresholds{SCT: 1, TLog: 1, TSA: 2}
		_, err := verify(t, root, c, o)
		wantCode(t, err, trust.CodeTSAMissing)
		o.Thresholds = &trust.Thresholds{SCT: 1, TLog: 1, Time: 2}
		_, err = verify(t, root, c, o)
		wantCode(t, err, trust.CodeTimeMissing)
	})
	t.Run("SameCTLog", func(t *testing.T) {
		o := strictly()
		o.Thresholds = &trust.Thresholds{SCT: 2, TLog: 1}
		_, err := verify(t, root, d, o)
		wantCode(t, err, trust.CodeSCTMissing)
	})
	t.Run("SameKeyInEnvelope", func(t *testing.T) {
		k := trusttest.NewKey(t)
		st := request().Statement
		pae := attestation.PAE(attestation.PayloadType, st)
		e := &attestation.Envelope{PayloadType: attestation.PayloadType, Payload: st}
		for range 3 {
			e.Signatures = append(e.Signatures, attestation.EnvelopeSignature{Sig: trusttest.Sign(t, k, pae), KeyID: "another each time"})
		}
		v, err := trust.VerifyEnvelope(t.Context(), e, keyed(k.Public(), k.Public()))
		wantCode(t, err, "")
		if err == nil && len(v.Signers) != 1 {
			t.Errorf("%d signers, want one key to count once", len(v.Signers))
		}
	})
}

// TestThreat_Bundle_OutsideValidity is the edit matrix of a trusted root: each
// kind of authority ended before signing, ended at the very moment, begins
// after, is gone (CVE-2026-54787, CVE-2026-24122, CVE-2026-39984).
func TestThreat_Bundle_OutsideValidity(t *testing.T) {
	w := trusttest.New(t)
	d := w.Draft(t, request())
	stamped, issued := w.Start.Add(2*time.Minute), w.Start.Add(time.Minute)
	for _, kind := range []struct {
		name          string
		moment        time.Time
		edit          func(p *trust.Parts, w *trust.Window)
		outside, gone string
	}{
		{"CA", stamped, func(p *trust.Parts, w *trust.Window) {
			if p.CAs[0].Window = *orZero(w); w == nil {
				p.CAs = nil
			}
		}, trust.CodeCertOutside, trust.CodeCertUnknown},
		{"TSA", stamped, func(p *trust.Parts, w *trust.Window) {
			if p.TSAs[0].Window = *orZero(w); w == nil {
				p.TSAs = nil
			}
		}, trust.CodeTSAOutside, trust.CodeTSAUnknown},
		{"Log", stamped, func(p *trust.Parts, w *trust.Window) {
			if p.Logs[0].Window = *orZero(w); w == nil {
				p.Logs = nil
			}
		}, trust.CodeTLogOutside, trust.CodeTLogUnknown},
		{"CT", issued, func(p *trust.Parts, w *trust.Window) {
			if p.CTLogs[0].Window = *orZero(w); w == nil {
				p.CTLogs = nil
			}
		}, trust.CodeSCTInvalid, trust.CodeSCTMissing},
	} {
		for _, c := range []struct {
			name   string
			window *trust.Window
			want   string
		}{
			{"ended before", &trust.Window{Start: w.Start, End: kind.moment.Add(-time.Second)}, kind.outside},
			{"ended at that moment", &trust.Window{Start: w.Start, End: kind.moment}, ""},
			{"ended after", &trust.Window{Start: w.Start, End: kind.moment.Add(time.Second)}, ""},
			{"begins at that moment", &trust.Window{Start: kind.moment}, ""},
			{"begins after", &trust.Window{Start: kind.moment.Add(time.Second)}, kind.outside},
			{"removed", nil, kind.gone},
		} {
			t.Run(kind.name+"/"+c.name, func(t *testing.T) {
				p := w.Parts()
				kind.edit(&p, c.window)
				_, err := verify(t, trusttest.Build(t, p), d, strictly())
				wantCode(t, err, c.want)
			})
		}
	}
	t.Run("Certificate", func(t *testing.T) {
		for _, at := range []time.Duration{30 * time.Second, 12 * time.Minute} {
			req := request()
			req.At = w.Start.Add(at) // the certificate lives from 1 to 11 minutes
			_, err := verify(t, w.Root(t), w.Draft(t, req), strictly())
			wantCode(t, err, trust.CodeCertOutside)
		}
	})
	t.Run("Key", func(t *testing.T) {
		req := request()
		req.Key = trusttest.NewKey(t)
		o := keyed(req.Key.Public())
		d := w.Draft(t, req)
		o.Keys[0].Window = trust.Window{Start: w.Start, End: stamped}
		_, err := verify(t, w.Root(t), d, o)
		wantCode(t, err, "")
		o.Keys[0].Window.End = stamped.Add(-time.Second)
		_, err = verify(t, w.Root(t), d, o)
		wantCode(t, err, trust.CodeKeyOutside)
	})
}

func orZero(w *trust.Window) *trust.Window {
	if w == nil {
		return &trust.Window{}
	}
	return w
}

// TestThreat_Bundle_OwnAuthorities lets an attacker run each service, or all
// (CVE-2023-47122: keys come from the pinned root alone).
func TestThreat_Bundle_OwnAuthorities(t *testing.T) {
	honest, evil := trusttest.New(t), trusttest.New(t)
	root := honest.Root(t)
	for name, c := range map[string]struct {
		swap func(w *trusttest.World)
		want string
	}{
		"All": {func(w *trusttest.World) { w.CA, w.TSA, w.CTKey, w.LogKey = evil.CA, evil.TSA, evil.CTKey, evil.LogKey }, trust.CodeTLogUnknown},
		"CA":  {func(w *trusttest.World) { w.CA = evil.CA }, trust.CodeCertChain},    // same name and dates, another key
		"TSA": {func(w *trusttest.World) { w.TSA = evil.TSA }, trust.CodeTSAInvalid}, // same name and serial number, another key
		"CT":  {func(w *trusttest.World) { w.CTKey = evil.CTKey }, trust.CodeSCTMissing},
		"Log": {func(w *trusttest.World) { w.LogKey = evil.LogKey }, trust.CodeTLogUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			w := &trusttest.World{Start: honest.Start, Host: honest.Host, CA: honest.CA, TSA: honest.TSA, CTKey: honest.CTKey, LogKey: honest.LogKey}
			c.swap(w)
			_, err := verify(t, root, w.Draft(t, request()), strictly())
			if name == "CA" && trust.Code(err) == trust.CodeCertUnknown {
				return // told apart by its key identifier already
			}
			wantCode(t, err, c.want)
		})
	}
	t.Run("LogIDOfTheHonestOne", func(t *testing.T) {
		w := &trusttest.World{Start: honest.Start, Host: honest.Host, CA: honest.CA, TSA: honest.TSA, CTKey: honest.CTKey, LogKey: evil.LogKey}
		d := w.Draft(t, request())
		d.Entry().LogId = honest.Log(t, []byte("x")).LogId
		_, err := verify(t, root, d, strictly())
		wantCode(t, err, trust.CodeTLogCheckpoint)
	})
	t.Run("SCTOfTheHonestIDByAnotherKey", func(t *testing.T) {
		p := honest.Parts()
		id, err := hex.DecodeString(strings.TrimPrefix(mustFingerprint(t, evil.CTKey.Public()), "sha256:"))
		if err != nil {
			t.Fatal(err)
		}
		p.CTLogs[0].ID = id // the root holds the honest key under the ID that the SCT names
		w := &trusttest.World{Start: honest.Start, Host: honest.Host, CA: honest.CA, TSA: honest.TSA, CTKey: evil.CTKey, LogKey: honest.LogKey}
		_, err = verify(t, trusttest.Build(t, p), w.Draft(t, request()), strictly())
		wantCode(t, err, trust.CodeSCTInvalid)
	})
}

func mustFingerprint(t *testing.T, k crypto.PublicKey) string {
	t.Helper()
	fp, err := trust.KeyFingerprint(k)
	if err != nil {
		t.Fatal(err)
	}
	return fp
}

// TestThreat_Bundle_Certificates tries certificates that a signer may not use.
func TestThreat_Bundle_Certificates(t *testing.T) {
	w := trusttest.New(t)
	root := w.Root(t)
	for name, c := range map[string]struct {
		leaf func(l *trusttest.Leaf)
		want string
	}{
		"NoSCT":     {func(l *trusttest.Leaf) { l.NoSCT = true }, trust.CodeSCTMissing},
		"NoPurpose": {func(l *trusttest.Leaf) { l.Template = func(c *x509.Certificate) { c.ExtKeyUsage = nil } }, ""}, // none: unrestricted, RFC 5280
		"ForServers": {func(l *trusttest.Leaf) {
			l.Template = func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
		}, trust.CodeCertChain},
		"Authority": {func(l *trusttest.Leaf) {
			l.Template = func(c *x509.Certificate) {
				c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
			}
		}, trust.CodeCertMalformed},
		"TwoNames": {func(l *trusttest.Leaf) {
			l.Template = func(c *x509.Certificate) { c.EmailAddresses = []string{"boss@assay.test"} }
		}, trust.CodeIdentityMissing},
		"NoName": {func(l *trusttest.Leaf) { l.Template = func(c *x509.Certificate) { c.URIs = nil } }, trust.CodeIdentityMissing},
		"TwoIssuer": {func(l *trusttest.Leaf) {
			l.Template = func(c *x509.Certificate) { c.ExtraExtensions[0].Value = []byte("https://evil.test") }
		}, trust.CodeIdentityMissing},
	} {
		t.Run(name, func(t *testing.T) {
			req := request()
			c.leaf(&req.Leaf)
			_, err := verify(t, root, w.Draft(t, req), strictly())
			wantCode(t, err, c.want)
		})
	}
	t.Run("RootInChain", func(t *testing.T) {
		evil := trusttest.New(t)
		for _, c := range []struct {
			root *x509.Certificate
			want string
		}{{w.CA.Chain[1], ""}, {evil.CA.Chain[1], trust.CodeCertRootInChain}} {
			d := w.Draft(t, request())
			d.MediaType = attestation.MediaTypeBundleV02
			d.VerificationMaterial.Content = &bundlepb.VerificationMaterial_X509CertificateChain{X509CertificateChain: &commonpb.X509CertificateChain{
				Certificates: []*commonpb.X509Certificate{{RawBytes: d.Cert.Raw}, {RawBytes: w.CA.Chain[0].Raw}, {RawBytes: c.root.Raw}},
			}}
			_, err := verify(t, root, d, strictly())
			wantCode(t, err, c.want)
		}
	})
}

// TestThreat_Bundle_Edited changes one part of a good bundle at a time.
func TestThreat_Bundle_Edited(t *testing.T) {
	w := trusttest.New(t)
	root := w.Root(t)
	for range 3 {
		w.Draft(t, request()) // so that the proof has hashes
	}
	for name, c := range map[string]struct {
		edit func(d *trusttest.Draft)
		want string
	}{
		"Payload":     {func(d *trusttest.Draft) { d.GetDsseEnvelope().Payload = append(d.GetDsseEnvelope().Payload, ' ') }, trust.CodeTLogMismatch},
		"PayloadType": {func(d *trusttest.Draft) { d.GetDsseEnvelope().PayloadType = "text/plain" }, trust.CodeTLogMismatch},
		"NoLog":       {func(d *trusttest.Draft) { d.VerificationMaterial.TlogEntries = nil }, trust.CodeTLogMissing},
		"NoTime":      {func(d *trusttest.Draft) { d.VerificationMaterial.TimestampVerificationData = nil }, trust.CodeTimeMissing},
		"StampOfAnother": {func(d *trusttest.Draft) {
			d.Stamps()[0].SignedTimestamp = w.Timestamp(t, []byte("x"), w.Start.Add(2*time.Minute), false)
		}, trust.CodeTSAMismatch},
		"StampCut": {func(d *trusttest.Draft) {
			s := d.Stamps()[0]
			s.SignedTimestamp = s.SignedTimestamp[:len(s.SignedTimestamp)-9]
		}, trust.CodeTSAMalformed},
		"StampFlipped": {func(d *trusttest.Draft) { s := d.Stamps()[0].SignedTimestamp; s[len(s)-1] ^= 1 }, trust.CodeTSAInvalid},
		"ProofHash":    {func(d *trusttest.Draft) { d.Entry().InclusionProof.Hashes[0][3] ^= 1 }, trust.CodeTLogInclusion},
		"ProofIndex":   {func(d *trusttest.Draft) { d.Entry().InclusionProof.LogIndex--; d.Entry().LogIndex-- }, trust.CodeTLogInclusion},
		"LogIndex":     {func(d *trusttest.Draft) { d.Entry().LogIndex++ }, trust.CodeTLogInclusion},
		"RootHash":     {func(d *trusttest.Draft) { d.Entry().InclusionProof.RootHash[0] ^= 1 }, trust.CodeTLogCheckpoint},
		"TreeSize":     {func(d *trusttest.Draft) { d.Entry().InclusionProof.TreeSize++ }, trust.CodeTLogCheckpoint},
		"Checkpoint": {func(d *trusttest.Draft) {
			cp := d.Entry().InclusionProof.Checkpoint
			cp.Envelope = strings.Replace(cp.Envelope, "\n4\n", "\n5\n", 1)
			d.Entry().InclusionProof.TreeSize = 5
		}, trust.CodeTLogCheckpoint},
		"CheckpointOfAnotherOrigin": {func(d *trusttest.Draft) {
			ip := d.Entry().InclusionProof
			ip.Checkpoint.Envelope = w.Checkpoint(t, "elsewhere.test", uint64(ip.TreeSize), ip.RootHash)
		}, trust.CodeTLogCheckpoint},
		"IntegratedTime": {func(d *trusttest.Draft) { d.Entry().IntegratedTime = w.Start.Unix() }, trust.CodeTLogMalformed},
		"Kind":           {func(d *trusttest.Draft) { d.Entry().KindVersion.Kind = "dsse" }, trust.CodeTLogMismatch},
		"UnknownKind":    {func(d *trusttest.Draft) { d.Entry().KindVersion.Version = "0.0.9" }, trust.CodeTLogMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			w.Draft(t, request())
			d := w.Draft(t, request())
			if name == "Checkpoint" { // a tree of four, to edit by text
				w4 := &trusttest.World{Start: w.Start, Host: w.Host, CA: w.CA, TSA: w.TSA, CTKey: w.CTKey, LogKey: w.LogKey}
				for range 3 {
					w4.Draft(t, request())
				}
				d = w4.Draft(t, request())
			}
			c.edit(d)
			_, err := verify(t, root, d, strictly())
			wantCode(t, err, c.want)
		})
	}
}

// TestThreat_Identity_Regex: patterns are anchored, and nothing is matched by
// an empty condition or a misspelt one (CVE-2025-29778, CVE-2026-22772).
func TestThreat_Identity_Regex(t *testing.T) {
	id := trust.Identity{Issuer: issuer, Subject: "https://ci.assay.test/org/repo@refs/heads/main", Extensions: map[string]string{"source_repository_uri": "https://git.assay.test/org/repo"}}
	for _, c := range []struct {
		name  string
		m     trust.IdentityMatch
		bad   bool // does not compile
		match bool
	}{
		{"exact", trust.IdentityMatch{Issuer: issuer, Subject: id.Subject}, false, true},
		{"exact is no pattern", trust.IdentityMatch{Issuer: issuer, Subject: ".*"}, false, false},
		{"exact is no prefix", trust.IdentityMatch{Issuer: issuer, Subject: "https://ci.assay.test/org/repo"}, false, false},
		{"pattern", trust.IdentityMatch{Issuer: issuer, SubjectRegexp: `https://ci\.assay\.test/org/.*`}, false, true},
		{"unanchored pattern", trust.IdentityMatch{Issuer: issuer, SubjectRegexp: `ci\.assay\.test`}, false, false},
		{"alternation stays inside the anchors", trust.IdentityMatch{Issuer: issuer, SubjectRegexp: `nobody|https`}, false, false},
		{"pattern that closes the group", trust.IdentityMatch{Issuer: issuer, SubjectRegexp: `x)|(?:.*`}, true, false},
		{"multi-line flag", trust.IdentityMatch{Issuer: issuer, SubjectRegexp: `(?m)https`}, false, false},
		{"no subject", trust.IdentityMatch{Issuer: issuer}, true, false},
		{"no issuer", trust.IdentityMatch{Subject: id.Subject}, true, false},
		{"nothing", trust.IdentityMatch{}, true, false},
		{"both", trust.IdentityMatch{Issuer: issuer, IssuerRegexp: ".*", Subject: id.Subject}, true, false},
		{"extension", trust.IdentityMatch{Issuer: issuer, SubjectRegexp: ".*", Extensions: map[string]string{"source_repository_uri": "https://git.assay.test/org/repo"}}, false, true},
		{"other extension", trust.IdentityMatch{Issuer: issuer, SubjectRegexp: ".*", Extensions: map[string]string{"source_repository_uri": "https://git.assay.test/org"}}, false, false},
		{"absent extension, empty", trust.IdentityMatch{Issuer: issuer, SubjectRegexp: ".*", Extensions: map[string]string{"build_trigger": ""}}, false, false},
		{"misspelt extension", trust.IdentityMatch{Issuer: issuer, SubjectRegexp: ".*", Extensions: map[string]string{"sourceRepositoryURI": "x"}}, true, false},
	} {
		m, err := c.m.Compile()
		if (err != nil) != c.bad {
			t.Errorf("%s: compile: %v, want an error: %v", c.name, err, c.bad)
		}
		if err == nil && (m.Match(id) == nil) != c.match {
			t.Errorf("%s: %v, want a match: %v", c.name, m.Match(id), c.match)
		}
		if err != nil && !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: kind %v, want invalid", c.name, fault.KindOf(err))
		}
	}
}

// TestVerifyOptionsFailClosed: what is not said is refused, not assumed.
func TestVerifyOptionsFailClosed(t *testing.T) {
	w := trusttest.New(t)
	root, d := w.Root(t), w.Draft(t, request())
	any := trust.VerifyOptions{AnyArtifact: true, AnyIdentity: true}
	for name, c := range map[string]struct {
		edit func(o *trust.VerifyOptions)
		want string
	}{
		"nothing":               {func(o *trust.VerifyOptions) { *o = trust.VerifyOptions{} }, trust.CodeBundleOptions},
		"no artifact":           {func(o *trust.VerifyOptions) { o.AnyArtifact = false }, trust.CodeBundleOptions},
		"no identity":           {func(o *trust.VerifyOptions) { o.AnyIdentity = false }, trust.CodeBundleOptions},
		"two artifacts":         {func(o *trust.VerifyOptions) { o.Artifact = artifact.SHA256Of(content).Set() }, trust.CodeBundleOptions},
		"weak digest":           {func(o *trust.VerifyOptions) { o.AnyArtifact, o.Artifact = false, artifact.DigestSet{"sha1": "aa"} }, trust.CodeBundleOptions},
		"any and one identity":  {func(o *trust.VerifyOptions) { o.Identity = strictly().Identity }, trust.CodeBundleOptions},
		"certificate, want key": {func(o *trust.VerifyOptions) { o.AnyIdentity, o.Keys = false, []trust.Key{{Public: d.Key.Public()}} }, trust.CodeKeyUnexpected},
		"another artifact":      {func(o *trust.VerifyOptions) { o.AnyArtifact, o.Artifact = false, artifact.SHA256Of([]byte("x")).Set() }, trust.CodeArtifact},
		"thresholds of nothing": {func(o *trust.VerifyOptions) { o.Thresholds = &trust.Thresholds{} }, ""},
		"all waived":            {func(*trust.VerifyOptions) {}, ""},
	} {
		o := any
		c.edit(&o)
		_, err := verify(t, root, d, o)
		t.Run(name, func(t *testing.T) { wantCode(t, err, c.want) })
	}
	t.Run("a certificate always needs a time", func(t *testing.T) {
		req := request()
		req.NoTSA = true
		o := any
		o.Thresholds = &trust.Thresholds{}
		_, err := verify(t, root, w.Draft(t, req), o)
		wantCode(t, err, trust.CodeTimeMissing)
	})
	t.Run("a key without log and time only when asked", func(t *testing.T) {
		req := request()
		req.Key, req.NoTSA, req.NoLog = trusttest.NewKey(t), true, true
		d, o := w.Draft(t, req), keyed(req.Key.Public())
		_, err := verify(t, root, d, o)
		wantCode(t, err, trust.CodeTLogMissing)
		o.Thresholds = &trust.Thresholds{}
		v, err := verify(t, root, d, o)
		wantCode(t, err, "")
		if err == nil && (!v.TrustedTime.IsZero() || v.LogIndex != -1) {
			t.Errorf("result %+v claims a time or a log", v)
		}
	})
	t.Run("a key's log entry without time is judged now", func(t *testing.T) {
		req := request()
		req.Key, req.NoTSA = trusttest.NewKey(t), true
		o := keyed(req.Key.Public())
		o.Thresholds = &trust.Thresholds{TLog: 1}
		o.Now = clock.Fixed(w.Start.Add(-time.Hour)) // the log's key is not trusted yet
		_, err := verify(t, root, w.Draft(t, req), o)
		wantCode(t, err, trust.CodeTLogOutside)
	})
	t.Run("another key", func(t *testing.T) {
		req := request()
		req.Key = trusttest.NewKey(t)
		_, err := verify(t, root, w.Draft(t, req), keyed(trusttest.NewKey(t).Public()))
		wantCode(t, err, trust.CodeTLogMismatch)
		_, err = verify(t, root, w.Draft(t, req), keyed(trusttest.NewKey(t).Public(), req.Key.Public()))
		wantCode(t, err, "")
	})
	t.Run("a check refuses", func(t *testing.T) {
		o := any
		o.Checks = []trust.Check{func(_ context.Context, v *trust.Verified) error {
			return trust.Refuse("revoked", "at %s", v.TrustedTime)
		}}
		_, err := verify(t, root, d, o)
		wantCode(t, err, "revoked")
	})
}

// TestTrustedTime: with k sources asked for, the k-th smallest time counts, so
// that one source alone cannot move it back.
func TestTrustedTime(t *testing.T) {
	w, second := trusttest.New(t), trusttest.New(t)
	p := w.Parts()
	tsa := second.Parts().TSAs[0]
	tsa.URL = "https://tsa2.assay.test"
	p.TSAs = append(p.TSAs, tsa)
	root := trusttest.Build(t, p)
	d := w.Draft(t, request())
	sig := d.GetDsseEnvelope().GetSignatures()[0].GetSig()
	data := d.VerificationMaterial.TimestampVerificationData
	data.Rfc3161Timestamps = append(data.Rfc3161Timestamps, &commonpb.RFC3161SignedTimestamp{SignedTimestamp: second.Timestamp(t, sig, w.Start.Add(5*time.Minute), true)})
	for k, want := range map[int]time.Duration{0: 2 * time.Minute, 1: 2 * time.Minute, 2: 5 * time.Minute} {
		o := strictly()
		o.Thresholds = &trust.Thresholds{SCT: 1, TLog: 1, Time: k}
		v, err := verify(t, root, d, o)
		if err != nil {
			t.Fatal(err)
		}
		if got := v.TrustedTime.Sub(w.Start); got != want || len(v.Times) != 2 {
			t.Errorf("threshold %d: trusted time start+%v of %d, want start+%v of 2", k, got, len(v.Times), want)
		}
	}
}

// TestDetached covers bare envelopes and bare signatures.
func TestDetached(t *testing.T) {
	k := trusttest.NewKey(t)
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sig := trusttest.Sign(t, k, content)
	for name, c := range map[string]struct {
		sig  []byte
		o    func() trust.VerifyOptions
		want string
	}{
		"digest":     {sig, func() trust.VerifyOptions { return keyed(k.Public()) }, ""},
		"second key": {sig, func() trust.VerifyOptions { return keyed(pub, k.Public()) }, ""},
		"reader": {sig, func() trust.VerifyOptions {
			o := keyed(k.Public())
			o.Artifact, o.ArtifactReader = nil, bytes.NewReader(content)
			return o
		}, ""},
		"pure Ed25519": {ed25519.Sign(priv, content), func() trust.VerifyOptions {
			o := keyed(pub)
			o.Artifact, o.ArtifactReader = nil, bytes.NewReader(content)
			return o
		}, ""},
		"Ed25519 digest": {ed25519.Sign(priv, content), func() trust.VerifyOptions { return keyed(pub) }, trust.CodeSignature},
		"other artifact": {sig, func() trust.VerifyOptions {
			o := keyed(k.Public())
			o.Artifact = artifact.SHA256Of([]byte("x")).Set()
			return o
		}, trust.CodeSignature},
		"other key":      {sig, func() trust.VerifyOptions { return keyed(trusttest.NewKey(t).Public()) }, trust.CodeSignature},
		"no signature":   {nil, func() trust.VerifyOptions { return keyed(k.Public()) }, trust.CodeSignature},
		"identity asked": {sig, func() trust.VerifyOptions { o := keyed(k.Public()); o.Identity = strictly().Identity; return o }, trust.CodeKeyMissing},
		"key expired": {sig, func() trust.VerifyOptions {
			o := keyed(k.Public())
			o.Keys[0].Window, o.Now = trust.Window{Start: time.Unix(0, 0), End: time.Unix(100, 0)}, clock.Fixed(time.Unix(101, 0))
			return o
		}, trust.CodeKeyOutside},
	} {
		_, err := trust.VerifyBlob(t.Context(), c.sig, c.o())
		t.Run("blob/"+name, func(t *testing.T) { wantCode(t, err, c.want) })
	}

	st := request().Statement
	raw := func(sig []byte) []byte { // IEEE P1363
		var rs struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(sig, &rs); err != nil {
			t.Fatal(err)
		}
		return append(rs.R.FillBytes(make([]byte, 32)), rs.S.FillBytes(make([]byte, 32))...)
	}
	good := trusttest.Sign(t, k, attestation.PAE(attestation.PayloadType, st))
	for name, c := range map[string]struct {
		e    attestation.Envelope
		want string
	}{
		"good":         {attestation.Envelope{PayloadType: attestation.PayloadType, Payload: st, Signatures: sigs(good)}, ""},
		"P1363":        {attestation.Envelope{PayloadType: attestation.PayloadType, Payload: st, Signatures: sigs(raw(good))}, ""},
		"second":       {attestation.Envelope{PayloadType: attestation.PayloadType, Payload: st, Signatures: sigs(good[:8], good)}, ""},
		"type swapped": {attestation.Envelope{PayloadType: "text/plain", Payload: st, Signatures: sigs(good)}, trust.CodeSignature},
		"not PAE":      {attestation.Envelope{PayloadType: attestation.PayloadType, Payload: st, Signatures: sigs(trusttest.Sign(t, k, st))}, trust.CodeSignature},
		"no statement": {attestation.Envelope{PayloadType: attestation.PayloadType, Payload: []byte("{}"), Signatures: sigs(trusttest.Sign(t, k, attestation.PAE(attestation.PayloadType, []byte("{}"))))}, trust.CodeStatement},
		"unsigned":     {attestation.Envelope{PayloadType: attestation.PayloadType, Payload: st}, trust.CodeBundleMalformed},
		"17 signatures": {attestation.Envelope{PayloadType: attestation.PayloadType, Payload: st, Signatures: sigs(make([][]byte, 17)...)},
			trust.CodeBundleMalformed},
	} {
		_, err := trust.VerifyEnvelope(t.Context(), &c.e, keyed(k.Public()))
		t.Run("envelope/"+name, func(t *testing.T) { wantCode(t, err, c.want) })
	}
}

func sigs(all ...[]byte) (out []attestation.EnvelopeSignature) {
	for _, s := range all {
		out = append(out, attestation.EnvelopeSignature{Sig: s, KeyID: "hint"})
	}
	return out
}
