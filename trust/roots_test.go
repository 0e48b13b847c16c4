package trust_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/attestation"
	"assay/internal/fault"
	"assay/trust"
	"assay/trust/trusttest"
)

func TestRootsAreTriedInOrder(t *testing.T) {
	own, foreign := trusttest.New(t), trusttest.New(t)
	roots := trust.Roots{own.Root(t, trust.WithName("own")), foreign.Root(t, trust.WithName("public-good"))}
	for name, w := range map[string]*trusttest.World{"own": own, "public-good": foreign} {
		v, err := roots.VerifyBundle(t.Context(), w.Sign(t, request()), strictly())
		if err != nil || v.Root != name {
			t.Errorf("bundle of %s: root %v, %v", name, v, err)
		}
	}
	// Nobody's: the names are in the message.
	_, err := roots.VerifyBundle(t.Context(), trusttest.New(t).Sign(t, request()), strictly())
	wantCode(t, err, trust.CodeTLogUnknown)
	if err == nil || !strings.Contains(err.Error(), "own, public-good") {
		t.Errorf("message does not name the roots: %v", err)
	}
	// Known, by the wrong person: the nearest miss is reported, not the stranger's.
	o := strictly()
	o.Identity[0].Subject = "somebody else"
	_, err = roots.VerifyBundle(t.Context(), own.Sign(t, request()), o)
	wantCode(t, err, trust.CodeIdentity)
	// Parts of two roots do not mix.
	mixed := &trusttest.World{Start: own.Start, Host: own.Host, CA: own.CA, CTKey: own.CTKey, LogKey: own.LogKey, TSA: foreign.TSA}
	if _, err := roots.VerifyBundle(t.Context(), mixed.Sign(t, request()), strictly()); !errors.Is(err, fault.Unverified) {
		t.Errorf("own certificate with a foreign timestamp: %v, want unverified", err)
	}
	_, err = trust.Roots{}.VerifyBundle(t.Context(), own.Sign(t, request()), strictly())
	wantCode(t, err, trust.CodeBundleOptions)
}

// TestRootPerThresholds: a domain without CT log or Rekor can be told to do
// without, for its own bundles only.
func TestRootThresholds(t *testing.T) {
	w := trusttest.New(t)
	req := request()
	req.NoLog, req.Leaf.NoSCT = true, true
	d := w.Draft(t, req)
	_, err := verify(t, w.Root(t), d, strictly())
	wantCode(t, err, trust.CodeTLogMissing)
	_, err = verify(t, w.Root(t, trust.WithThresholds(trust.Thresholds{TSA: 1})), d, strictly())
	wantCode(t, err, "")
}

// TestNewRootRoundTrip builds, writes, reads and takes apart.
func TestNewRootRoundTrip(t *testing.T) {
	w := trusttest.New(t)
	p := w.Parts()
	p.Logs[0].Window.End = w.Start.AddDate(1, 0, 0)
	p.Logs = append(p.Logs, trust.Log{URL: "https://log2.assay.test:8443", Key: trusttest.NewKey(t).Public(), Window: trust.Window{Start: w.Start}})
	a := trusttest.Build(t, p)
	b := trusttest.Build(t, a.Parts())
	if diff := cmp.Diff(string(a.Bytes()), string(b.Bytes())); diff != "" || a.Digest() != b.Digest() {
		t.Errorf("parts of a root build another root:\n%s", diff)
	}
	for name, edit := range map[string]func(p *trust.Parts){
		"no start":         func(p *trust.Parts) { p.CTLogs[0].Window = trust.Window{} },
		"end before start": func(p *trust.Parts) { p.CAs[0].Window.End = w.Start.Add(-time.Hour) },
		"no chain":         func(p *trust.Parts) { p.TSAs[0].Chain = nil },
		"no key":           func(p *trust.Parts) { p.Logs[0].Key = nil },
		"leaf as authority": func(p *trust.Parts) {
			_, leaf := w.Issue(t, trusttest.Leaf{Issuer: issuer, Subject: signer})
			p.CAs[0].Chain[0] = leaf
		},
		"one ID for two keys": func(p *trust.Parts) {
			p.Logs[1].ID = []byte("0123456789abcdef0123456789abcdef")
			p.Logs[0].ID = p.Logs[1].ID
		},
	} {
		p := a.Parts()
		p.CAs[0].Chain = append(p.CAs[0].Chain[:0:0], p.CAs[0].Chain...)
		edit(&p)
		if _, err := trust.NewRoot(p); !errors.Is(err, fault.Unverified) {
			t.Errorf("%s: %v, want unverified", name, err)
		}
	}
}

// TestParseTrustedRootStrict edits a good document.
func TestParseTrustedRootStrict(t *testing.T) {
	good := string(trusttest.New(t).Root(t).Bytes())
	for name, doc := range map[string]string{
		"empty":             "",
		"null":              "null",
		"array":             "[]",
		"trailing data":     good + "{}",
		"duplicate member":  strings.Replace(good, `"tlogs":`, `"tlogs":[],"tlogs":`, 1),
		"two spellings":     strings.Replace(good, `"baseUrl":`, `"base_url":"https://evil.test","baseUrl":`, 1),
		"unknown member":    strings.Replace(good, `"tlogs":`, `"extra":1,"tlogs":`, 1),
		"other media type":  strings.Replace(good, "version=0.1", "version=9", 1),
		"no start":          strings.Replace(good, `"start":"2026-01-01T00:00:00Z"`, `"end":"2027-01-01T00:00:00Z"`, 1),
		"other key details": strings.Replace(good, "PKIX_ECDSA_P256_SHA_256", "PKIX_ED25519", 1),
		"weak tree hash":    strings.Replace(good, "SHA2_256", "SHA3_256", 1),
		"too long":          good + strings.Repeat(" ", 1<<20),
	} {
		if doc == good {
			t.Fatalf("%s: the edit does not bite", name)
		}
		_, err := trust.ParseTrustedRoot([]byte(doc))
		if trust.Code(err) != trust.CodeRootMalformed || !errors.Is(err, fault.Unverified) {
			t.Errorf("%s: code %q: %v, want %s", name, trust.Code(err), err, trust.CodeRootMalformed)
		}
	}
}

// TestLegacySignature verifies what old cosign kept in a .sig layer.
func TestLegacySignature(t *testing.T) {
	w := trusttest.New(t)
	image := "sha256:" + strings.Repeat("ab", 32)
	payload := []byte(`{"critical":{"identity":{"docker-reference":"registry.test/app"},"image":{"docker-manifest-digest":"` + image + `"},"type":"cosign container image signature"},"optional":null}`)
	req := request()
	req.Statement, req.Artifact = nil, payload
	digest, ref, err := attestation.ParseSimpleSigning(payload, attestation.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	l := &attestation.LegacySignature{Bundle: w.Sign(t, req), Payload: payload, Image: digest, Reference: ref}
	o := strictly()
	o.Artifact = digest.Set()
	v, err := trust.Roots{w.Root(t)}.VerifyLegacySignature(t.Context(), l, o)
	if err != nil || !v.Subjects[0].Digest.Match(digest.Set()) {
		t.Fatalf("%+v, %v", v, err)
	}
	o.Artifact = strictly().Artifact // another image
	_, err = trust.Roots{w.Root(t)}.VerifyLegacySignature(t.Context(), l, o)
	wantCode(t, err, trust.CodeArtifact)
	o.Artifact = digest.Set()
	l.Payload = append(payload, ' ') // another payload than the signed one
	_, err = trust.Roots{w.Root(t)}.VerifyLegacySignature(t.Context(), l, o)
	wantCode(t, err, trust.CodeArtifact)
}
