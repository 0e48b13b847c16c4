//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/jws"

	"assay/artifact"
	"assay/attestation"
	"assay/trust"
)

// initialized is alice's home with cosign set up for the site.
func (s *site) initialized() []string {
	s.t.Helper()
	env := s.home(alice)
	root := filepath.Join(s.t.TempDir(), "root.json")
	s.assay("trust", "root", "--out", root)
	must(s.t, env, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", root)
	return env
}

func write(t testing.TB, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestEditMatrix edits the trusted root under which a real cosign signed. What
// vouched must have been trusted when it did: the one difference from cosign is
// the log's own key, whose window cosign does not look at.
func TestEditMatrix(t *testing.T) {
	s := up(t)
	env := s.initialized()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	blob := write(t, path("blob"), []byte("a file"))
	must(t, env, "cosign", "sign-blob", "--yes", "--identity-token", s.token(alice, "sigstore"), "--bundle", path("bundle.json"), blob)
	s.assay("trust", "export", "--out", path("root.json"))

	root, err := trust.ParseTrustedRoot(read(t, path("root.json")))
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := attestation.ParseBundle(read(t, path("bundle.json")), attestation.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	v, err := root.VerifyBundle(t.Context(), bundle, trust.VerifyOptions{Artifact: artifact.SHA256Of([]byte("a file")).Set(), AnyIdentity: true})
	if err != nil {
		t.Fatal(err)
	}
	signed := v.TrustedTime
	before := trust.Window{Start: signed.Add(-24 * time.Hour), End: signed.Add(-time.Hour)}
	after := trust.Window{Start: signed.Add(-24 * time.Hour), End: signed.Add(time.Hour)}
	authorities := func(in []trust.Authority, w trust.Window) []trust.Authority {
		for i := range in {
			in[i].Window = w
		}
		return in
	}
	logs := func(in []trust.Log, w trust.Window) []trust.Log {
		for i := range in {
			in[i].Window = w
		}
		return in
	}
	parts := []struct {
		name   string
		window func(*trust.Parts, trust.Window)
		remove func(*trust.Parts)
		code   string // of an end before the signature
		cosign bool   // accepts an end before the signature
	}{
		{"authority", func(p *trust.Parts, w trust.Window) { p.CAs = authorities(p.CAs, w) }, func(p *trust.Parts) { p.CAs = nil }, trust.CodeCertOutside, false},
		{"certificate log", func(p *trust.Parts, w trust.Window) { p.CTLogs = logs(p.CTLogs, w) }, func(p *trust.Parts) { p.CTLogs = nil }, "", false},
		{"timestamp authority", func(p *trust.Parts, w trust.Window) { p.TSAs = authorities(p.TSAs, w) }, func(p *trust.Parts) { p.TSAs = nil }, trust.CodeTSAOutside, false},
		{"log", func(p *trust.Parts, w trust.Window) { p.Logs = logs(p.Logs, w) }, func(p *trust.Parts) { p.Logs = nil }, trust.CodeTLogOutside, true},
	}
	who := []string{"--certificate-identity", alice, "--certificate-oidc-issuer", s.Services.OIDC}
	check := func(t *testing.T, change func(*trust.Parts), byAssay, byCosign bool, code string) {
		t.Helper()
		p := root.Parts()
		change(&p)
		edited, err := trust.NewRoot(p)
		if err != nil {
			t.Fatal(err)
		}
		file := write(t, path("edited.json"), edited.Bytes())
		if _, err := edited.VerifyBundle(t.Context(), bundle, trust.VerifyOptions{Artifact: artifact.SHA256Of([]byte("a file")).Set(), AnyIdentity: true}); (err == nil) != byAssay || code != "" && trust.Code(err) != code {
			t.Errorf("the verifier says %v (%s), want accepted %v, code %s", err, trust.Code(err), byAssay, code)
		}
		for _, tool := range []struct {
			name string
			args []string
			want bool
		}{
			{assayBin(t), append([]string{"verify", "--trusted-root", file, "--bundle", path("bundle.json")}, append(who, blob)...), byAssay},
			{"cosign", append([]string{"verify-blob", "--new-bundle-format", "--trusted-root", file, "--bundle", path("bundle.json")}, append(who, blob)...), byCosign},
		} {
			if r := run(t, env, tool.name, tool.args...); (r.code == 0) != tool.want {
				t.Errorf("%s: exit code %d, want accepted %v\n%s%s", filepath.Base(tool.name), r.code, tool.want, r.stdout, r.stderr)
			}
		}
	}
	t.Run("as it is", func(t *testing.T) { check(t, func(*trust.Parts) {}, true, true, "") })
	for _, part := range parts {
		t.Run(part.name+" ended before", func(t *testing.T) {
			check(t, func(p *trust.Parts) { part.window(p, before) }, false, part.cosign, part.code)
		})
		t.Run(part.name+" ended after", func(t *testing.T) {
			check(t, func(p *trust.Parts) { part.window(p, after) }, true, true, "")
		})
		t.Run(part.name+" removed", func(t *testing.T) { check(t, part.remove, false, false, "") })
	}
}

// TestForeignRoot: what another private Sigstore vouched for counts here once
// its root is imported, for its namespaces, and nothing is signed anew.
func TestForeignRoot(t *testing.T) {
	old, s := up(t), up(t)
	oldEnv := old.initialized()
	image := pushImage(t, old, oldEnv, "team/app", "made long ago")
	must(t, oldEnv, "cosign", "sign", "--yes", "--identity-token", old.token(alice, "sigstore"), image)
	root := filepath.Join(t.TempDir(), "old.json")
	old.assay("trust", "export", "--out", root)

	// Moved with its referrers by oras, with a login at both.
	env := s.home(alice)
	config := filepath.Join(t.TempDir(), "both.json")
	var a, b struct {
		Auths map[string]json.RawMessage `json:"auths"`
	}
	for i, e := range [][]string{oldEnv, env} {
		for _, kv := range e {
			if file, ok := strings.CutPrefix(kv, "REGISTRY_AUTH_FILE="); ok {
				if err := json.Unmarshal(read(t, file), []any{&a, &b}[i]); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for k, v := range a.Auths {
		b.Auths[k] = v
	}
	both, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	write(t, config, both)
	digest := image[strings.Index(image, "@"):]
	move := func(repo string) string {
		must(t, env, "oras", "cp", "-r", "--from-plain-http", "--to-plain-http", "--from-registry-config", config, "--to-registry-config", config, image, s.Services.Registry+"/"+repo+":v1")
		return s.Services.Registry + "/" + repo + digest
	}
	who := func(image string) []string {
		return []string{"verify", "--subject", alice, "--certificate-identity", alice, "--certificate-oidc-issuer", old.Services.OIDC, image}
	}
	policy := write(t, filepath.Join(t.TempDir(), "policy.yaml"), fmt.Appendf(nil, `apiVersion: assay/v1
kind: Policy
metadata: {name: signed}
spec:
  requirements:
    signatures:
      - identities: [{issuer: %q, subject: %s, root: old}]
`, old.Services.OIDC, alice))
	s.assay("apply", "-f", policy)
	there := move("team/before")
	s.assayRefused(1, nil, who(there)...)
	s.assay("trust", "import", "--name", "old", "--namespace", "team/**", root)
	here, elsewhere := move("team/app"), move("other/app")
	s.assay(who(here)...)
	s.assay(who(there)...) // evidence that was refused before counts now
	s.assayRefused(1, []string{"root.namespace"}, who(elsewhere)...)
	// The server's own decision says the same, with the evidence that was ingested.
	s.assay("verify", "--subject", alice, here)
	s.assayRefused(1, []string{"root.namespace"}, "verify", "--subject", alice, elsewhere)
	// A window that ended before the signature refuses; and gone is gone.
	s.assay("trust", "import", "--name", "old", "--namespace", "team/**", "--not-before", time.Now().Add(time.Hour).UTC().Format(time.RFC3339), root)
	s.assayRefused(1, nil, "verify", "--subject", alice, here)
	s.assay("trust", "import", "--name", "old", "--namespace", "team/**", root)
	s.assay("verify", "--subject", alice, here)
	s.assay("trust", "roots", "remove", "old")
	s.assayRefused(1, nil, "verify", "--subject", alice, here)
	s.assayRefused(1, nil, who(here)...)
}

// TestNotation attaches a Notation signature as notation does, by oras.
func TestNotation(t *testing.T) {
	s := up(t)
	env := s.home(alice)
	dir := t.TempDir()
	image := pushImage(t, s, env, "acme/app", "by acme")
	key, chain := notationChain(t)
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain[1].Raw})
	write(t, filepath.Join(dir, "root.pem"), root)
	write(t, filepath.Join(dir, "trustpolicy.json"), []byte(`{"version":"1.0","trustPolicies":[{"name":"acme","registryScopes":["*"],"signatureVerification":{"level":"strict"},
		"trustStores":["ca:acme"],"trustedIdentities":["x509.subject: C=US, ST=WA, O=Acme"]}]}`))
	s.assay("trust", "import", "--name", "acme", "--namespace", "acme/**", "--trust-store", "ca:acme="+filepath.Join(dir, "root.pem"), "--trust-policy", filepath.Join(dir, "trustpolicy.json"))

	digest := image[strings.Index(image, "@")+1:]
	signer, err := signature.NewLocalSigner(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := jws.NewEnvelope().Sign(&signature.SignRequest{
		Payload: signature.Payload{ContentType: "application/vnd.cncf.notary.payload.v1+json", Content: []byte(`{"targetArtifact":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + digest + `","size":1}}`)},
		Signer:  signer, SigningTime: time.Now(), SigningScheme: signature.SigningSchemeX509, SigningAgent: "e2e",
	})
	if err != nil {
		t.Fatal(err)
	}
	policy := write(t, filepath.Join(dir, "policy.yaml"), []byte(`apiVersion: assay/v1
kind: Policy
metadata: {name: acme}
spec:
  requirements:
    signatures:
      - identities: [{issuer: "x509:acme", subjectRegexp: "x509\\.subject:CN=Release,O=Acme,.*"}]
`))
	s.assay("apply", "-f", policy)
	s.assayRefused(1, nil, "verify", "--subject", alice, image)
	write(t, filepath.Join(dir, "sig.jws"), sig)
	attach := func(image string) {
		runInDir(t, dir, env, "oras", "attach", "--plain-http", "--artifact-type", attestation.ArtifactTypeNotation, image, "sig.jws:"+attestation.MediaTypeJWS)
	}
	attach(image)
	if out := s.assay("verify", "--subject", alice, image); !strings.Contains(out, "CN=Release") {
		t.Errorf("the trail does not name the signer:\n%s", out)
	}
	s.assay("verify", "--subject", alice, "--policy", policy, image) // by the registry, here
	// The same signature beside another image, and the image outside the namespace.
	other := pushImage(t, s, env, "acme/other", "something else")
	attach(other)
	s.assayRefused(1, nil, "verify", "--subject", alice, other)
	must(t, env, "oras", "cp", "-r", "--from-plain-http", "--to-plain-http", image, s.Services.Registry+"/else/app:v1")
	s.assayRefused(1, nil, "verify", "--subject", alice, s.Services.Registry+"/else/app@"+digest)
}

func notationChain(t *testing.T) (*ecdsa.PrivateKey, []*x509.Certificate) {
	t.Helper()
	name := func(cn string) pkix.Name {
		return pkix.Name{CommonName: cn, Organization: []string{"Acme"}, Province: []string{"WA"}, Country: []string{"US"}}
	}
	certify := func(tmpl, parent *x509.Certificate, pub, priv *ecdsa.PrivateKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub.Public(), priv)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	from, to := time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: name("Acme Root"), NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root := certify(tmpl, tmpl, rootKey, rootKey)
	leaf := certify(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: name("Release"), NotBefore: from, NotAfter: to, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}, root, key, rootKey)
	return key, []*x509.Certificate{leaf, root}
}
