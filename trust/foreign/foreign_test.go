package foreign_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/vectors"
	"assay/trust"
	"assay/trust/foreign"
	"assay/trust/trusttest"
)

const issuer = "https://issuer.example"

func certPEM(certs ...*x509.Certificate) []string {
	var out []string
	for _, c := range certs {
		out = append(out, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})))
	}
	return out
}

// sigstore is a document of the world's own trusted root.
func sigstore(t testing.TB, w *trusttest.World, change ...func(*foreign.Document)) *foreign.Document {
	d := &foreign.Document{Name: "old", Version: 1, Type: foreign.Sigstore, Namespaces: []string{"team/**"}, TrustedRoot: w.Root(t).Bytes()}
	for _, c := range change {
		c(d)
	}
	return d
}

func compile(t testing.TB, d *foreign.Document) *foreign.Root {
	t.Helper()
	b, err := d.JSON()
	if err != nil {
		t.Fatal(err)
	}
	back, err := foreign.ParseDocument(b)
	if err != nil {
		t.Fatal(err)
	}
	r, err := foreign.Compile(back)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSigstoreWindowAndThresholds(t *testing.T) {
	w := trusttest.New(t)
	art := []byte("artifact")
	b := w.Sign(t, trusttest.Request{Artifact: art, Leaf: trusttest.Leaf{Issuer: issuer, Subject: "a@b.example"}})
	verify := func(d *foreign.Document) string {
		_, err := compile(t, d).Root().VerifyBundle(t.Context(), b, trust.VerifyOptions{Artifact: artifact.SHA256Of(art).Set(), AnyIdentity: true})
		if err == nil {
			return "ok"
		}
		return trust.Code(err)
	}
	signed := w.Start.Add(2 * time.Minute)
	for what, c := range map[string]struct {
		change func(*foreign.Document)
		want   string
	}{
		"as it is":       {func(*foreign.Document) {}, "ok"},
		"ends later":     {func(d *foreign.Document) { d.NotAfter = signed.Add(time.Hour) }, "ok"},
		"ended before":   {func(d *foreign.Document) { d.NotAfter = signed.Add(-time.Second) }, trust.CodeTSAOutside},
		"begins later":   {func(d *foreign.Document) { d.NotBefore = signed.Add(time.Second) }, trust.CodeTSAOutside},
		"two timestamps": {func(d *foreign.Document) { d.Thresholds = &foreign.Thresholds{SCT: 1, Log: 1, TSA: 1, Time: 2} }, trust.CodeTimeMissing},
		"no log asked":   {func(d *foreign.Document) { d.Thresholds = &foreign.Thresholds{TSA: 1, Time: 1} }, "ok"},
	} {
		if got := verify(sigstore(t, w, c.change)); got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
}

// GitHub's root has neither log nor certificate log: its thresholds are of its
// own, and are lowered in so many words.
func TestGitHubShape(t *testing.T) {
	w := trusttest.New(t)
	p := w.Parts()
	p.Logs, p.CTLogs = nil, nil
	r, err := trust.NewRoot(p)
	if err != nil {
		t.Fatal(err)
	}
	d := &foreign.Document{Name: "github", Version: 1, Type: foreign.Sigstore, Namespaces: []string{"org/**"}, TrustedRoot: r.Bytes()}
	if _, err := foreign.Compile(d); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "--min-sct 0") {
		t.Errorf("with thresholds that nothing can meet: %v", err)
	}
	d.Thresholds = &foreign.Thresholds{TSA: 1, Time: 1}
	art := []byte("artifact")
	b := w.Sign(t, trusttest.Request{Statement: trusttest.Statement(art, attestation.PredicateProvenanceV1), NoLog: true, Leaf: trusttest.Leaf{NoSCT: true, Issuer: "https://token.actions.githubusercontent.com", Subject: "https://github.com/org/app/.github/workflows/ci.yml@refs/heads/main"}})
	v, err := compile(t, d).Root().VerifyBundle(t.Context(), b, trust.VerifyOptions{Artifact: artifact.SHA256Of(art).Set(), AnyIdentity: true})
	if err != nil || v.TimeSource != "tsa" || v.Root != "github" || v.LogIndex != -1 {
		t.Errorf("a private GitHub attestation: %+v, %v", v, err)
	}
	if _, err := w.Root(t).VerifyBundle(t.Context(), b, trust.VerifyOptions{Artifact: artifact.SHA256Of(art).Set(), AnyIdentity: true}); err == nil {
		t.Error("another root takes it without log and SCT")
	}
}

func TestPublicGood(t *testing.T) {
	dir := vectors.Dir(t, "sigstore-conformance")
	b, err := os.ReadFile(filepath.Join(dir, "trusted-root-public-good.json"))
	if err != nil {
		t.Fatal(err)
	}
	r := compile(t, &foreign.Document{Name: "public-good", Version: 1, Type: foreign.Sigstore, Namespaces: []string{"**"}, TrustedRoot: b})
	whole, err := trust.ParseTrustedRoot(b)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.Root().Parts(), whole.Parts(); len(got.Logs) != len(want.Logs) || len(got.CAs) != len(want.CAs) || len(got.TSAs) != len(want.TSAs) || len(got.CTLogs) != len(want.CTLogs) {
		t.Errorf("parts were lost: %d logs of %d", len(got.Logs), len(want.Logs))
	}
	if !r.Covers("a/b") || !r.Covers("") || len(r.Fingerprints()) == 0 {
		t.Error("it does not cover everything")
	}
	// Signed with it, years ago, under Rekor v1.
	raw, err := os.ReadFile(filepath.Join(dir, "bundle-verify", "happy-path", "bundle.sigstore.json"))
	if err != nil {
		t.Skip("no happy-path in this copy of the vectors: ", err)
	}
	bundle, err := attestation.ParseBundle(raw, attestation.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := r.Root().VerifyBundle(t.Context(), bundle, trust.VerifyOptions{AnyArtifact: true, AnyIdentity: true}); err != nil || v.Root != "public-good" {
		t.Errorf("%v", err)
	}
}

func TestX509(t *testing.T) {
	w := trusttest.New(t)
	d := &foreign.Document{Name: "corp", Version: 1, Type: foreign.X509, Namespaces: []string{"corp/**"},
		Certificates: certPEM(w.CA.Chain[1], w.CA.Chain[0]), TSA: certPEM(w.TSA.Chain...)}
	r := compile(t, d)
	art := []byte("artifact")
	sign := func(l trusttest.Leaf) *attestation.Bundle {
		l.NoSCT = true
		return w.Sign(t, trusttest.Request{Artifact: art, NoLog: true, Leaf: l})
	}
	verify := func(b *attestation.Bundle) (*trust.Verified, error) {
		return r.Root().VerifyBundle(t.Context(), b, trust.VerifyOptions{Artifact: artifact.SHA256Of(art).Set(), AnyIdentity: true})
	}
	v, err := verify(sign(trusttest.Leaf{Subject: "signer@corp.example"}))
	if err != nil || v.Identity.Issuer != "x509:corp" || v.Identity.Subject != "signer@corp.example" {
		t.Errorf("%+v, %v", v, err)
	}
	v, err = verify(sign(trusttest.Leaf{Subject: "x", Template: func(c *x509.Certificate) {
		c.URIs, c.Subject.CommonName, c.Subject.Organization = nil, "Release", []string{"Corp"}
	}}))
	if err != nil || v.Identity.Subject != "x509.subject:CN=Release,O=Corp" {
		t.Errorf("by distinguished name: %+v, %v", v, err)
	}
	if _, err := verify(sign(trusttest.Leaf{Subject: "x", Template: func(c *x509.Certificate) { c.URIs = nil }})); trust.Code(err) != trust.CodeIdentityMissing {
		t.Errorf("nobody: %v", err)
	}
	if _, err := verify(w.Sign(t, trusttest.Request{Artifact: art, NoLog: true, NoTSA: true, Leaf: trusttest.Leaf{NoSCT: true, Subject: "signer@corp.example"}})); trust.Code(err) != trust.CodeTSAMissing {
		t.Errorf("undated: %v", err)
	}
	for what, change := range map[string]func(*foreign.Document){
		"no timestamp authority": func(d *foreign.Document) { d.TSA = nil },
		"a log":                  func(d *foreign.Document) { d.Thresholds = &foreign.Thresholds{Log: 1, TSA: 1} },
		"a leaf as authority":    func(d *foreign.Document) { d.Certificates = certPEM(w.TSA.Chain[0]) },
		"no certificate":         func(d *foreign.Document) { d.Certificates = []string{"x"} },
		"after all":              func(d *foreign.Document) { d.NotBefore = w.Start.AddDate(20, 0, 0) },
	} {
		c := *d
		change(&c)
		if _, err := foreign.Compile(&c); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", what, err)
		}
	}
}

// A corporate authority writes GitHub's issuer into its certificates.
func TestThreat_Foreign_AuthoritySpeaksForAnIssuer(t *testing.T) {
	w := trusttest.New(t)
	r := compile(t, &foreign.Document{Name: "corp", Version: 1, Type: foreign.X509, Namespaces: []string{"**"}, Certificates: certPEM(w.CA.Chain...), TSA: certPEM(w.TSA.Chain...)})
	b := w.Sign(t, trusttest.Request{Artifact: []byte("a"), NoLog: true, Leaf: trusttest.Leaf{NoSCT: true, Issuer: "https://token.actions.githubusercontent.com", Subject: "https://github.com/org/app"}})
	v, err := r.Root().VerifyBundle(t.Context(), b, trust.VerifyOptions{AnyArtifact: true, AnyIdentity: true})
	if err != nil || v.Identity.Issuer != "x509:corp" {
		t.Errorf("%+v, %v", v, err)
	}
	// A SAN that reads like a distinguished name is not taken for one.
	b = w.Sign(t, trusttest.Request{Artifact: []byte("a"), NoLog: true, Leaf: trusttest.Leaf{NoSCT: true, Subject: "x509.subject:CN=Release,O=Corp"}})
	if _, err = r.Root().VerifyBundle(t.Context(), b, trust.VerifyOptions{AnyArtifact: true, AnyIdentity: true}); trust.Code(err) != trust.CodeIdentityMissing {
		t.Errorf("a SAN as a distinguished name: %v", err)
	}
}

func TestDocumentRefusals(t *testing.T) {
	w := trusttest.New(t)
	for what, change := range map[string]func(*foreign.Document){
		"no name":       func(d *foreign.Document) { d.Name = "" },
		"a path":        func(d *foreign.Document) { d.Name = "../x" },
		"version":       func(d *foreign.Document) { d.Version = 0 },
		"no namespaces": func(d *foreign.Document) { d.Namespaces = nil },
		"bad namespace": func(d *foreign.Document) { d.Namespaces = []string{"a?"} },
		"unknown type":  func(d *foreign.Document) { d.Type = "pgp" },
		"two types":     func(d *foreign.Document) { d.PublicKeys = []string{"x"} },
		"another type":  func(d *foreign.Document) { d.Type = foreign.Keys },
		"removed":       func(d *foreign.Document) { d.Removed = true },
		"window":        func(d *foreign.Document) { d.NotBefore, d.NotAfter = w.Start, w.Start },
		"over":          func(d *foreign.Document) { d.NotAfter = w.Start.Add(-time.Hour) },
		"negative":      func(d *foreign.Document) { d.Thresholds = &foreign.Thresholds{SCT: -1} },
		"too many":      func(d *foreign.Document) { d.Thresholds = &foreign.Thresholds{SCT: 2, Log: 1, Time: 1} },
		"no root":       func(d *foreign.Document) { d.TrustedRoot = []byte(`{}`) },
		"root of nothing": func(d *foreign.Document) {
			d.TrustedRoot = []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`)
		},
	} {
		if _, err := foreign.Compile(sigstore(t, w, change)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", what, err)
		}
	}
	p := &foreign.Published{Version: 2}
	one, _ := sigstore(t, w).JSON()
	gone, _ := (&foreign.Document{Name: "gone", Version: 4, Removed: true}).JSON()
	p.Roots = append(p.Roots, one, gone)
	b, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	back, roots, err := foreign.ParsePublished(b)
	if err != nil || len(roots) != 1 || roots[0].Name() != "old" {
		t.Fatalf("%v, %v", roots, err)
	}
	if err := back.NewerThan(3); !errors.Is(err, fault.Unverified) {
		t.Errorf("an older set: %v", err)
	}
	p.Roots = append(p.Roots, one)
	if b, err = p.JSON(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := foreign.ParsePublished(b); !errors.Is(err, fault.Invalid) {
		t.Errorf("one root twice: %v", err)
	}
}

func TestCovers(t *testing.T) {
	w := trusttest.New(t)
	r := compile(t, sigstore(t, w, func(d *foreign.Document) { d.Namespaces = []string{"team/**", "ghcr.io/org/*"} }))
	for repo, want := range map[string]bool{"team": true, "team/a/b": true, "teams/a": false, "ghcr.io/org/a": true, "org/a": false, "ghcr.io/org/a/b": false, "": false} {
		if r.Covers(repo) != want {
			t.Errorf("%q: %v", repo, !want)
		}
	}
}

func FuzzParseDocument(f *testing.F) {
	f.Add([]byte(`{"name":"a","version":1,"type":"keys","namespaces":["**"],"public_keys":["x"]}`))
	f.Add([]byte(`{"name":"a","version":1,"type":"notation","namespaces":["**"],"trust_stores":[{"type":"ca","name":"x","certificates":[]}],"trust_policy":{"version":"1.0","trustPolicies":[{"name":"p","registryScopes":["*"],"signatureVerification":{"level":"strict"},"trustStores":["ca:x"],"trustedIdentities":["*"]}]}}`))
	f.Add([]byte(`{"name":"a","version":1,"removed":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := foreign.ParseDocument(b)
		if err != nil {
			return
		}
		again, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := foreign.ParseDocument(again); err != nil {
			t.Fatalf("read again: %v", err)
		}
	})
}
