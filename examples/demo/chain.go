package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// developer is who commits in the story.
const developer = "dev@example.com"

// chain is the whole way of a program, on real tools: commit, verified source,
// traced build, image with provenance, bill of materials, evidence about the
// machine and the tests, in a protected repository, decided upon. Then a build of
// a commit that nobody signed, which the same policy refuses.
func (d *demo) chain(ctx context.Context) error {
	d.title("From commit to image: a signed commit, verified, built under watch, tested, in a protected repository")
	repo := d.path("repo")
	if err := d.repository(ctx, repo); err != nil {
		return err
	}
	if err := d.write("chain.yaml", d.chainPolicy()); err != nil {
		return err
	}
	d.step(ctx, "apply the policy of the protected repository", ok, d.local("apply", "-f", d.path("chain.yaml"))...)
	image := d.image("chain:v1")
	if err := d.build(ctx, repo, image); err != nil {
		return err
	}
	d.step(ctx, "verify: signed source, traced build, tests, bill of materials", allowed, d.as(ci, "verify", image)...)
	d.step(ctx, "what the image is made of", ok, d.as(ci, "sbom", "search", "--name", "stdlib")...)

	d.title("Refused: built from a commit that nobody signed")
	if err := d.commit(ctx, repo, "sneaked in", false, map[string]string{"more.go": "package main\n\n// sneaked in without a signature\n"}); err != nil {
		return err
	}
	d.step(ctx, "verify the source", denied, d.as(ci, "source", "verify", "--repo", repo)...)
	sneaked := d.image("chain:v2")
	d.step(ctx, "build all the same", ok, d.traced(repo, sneaked)...)
	d.step(ctx, "sign all the same", ok, d.as(ci, "sign", sneaked)...)
	d.step(ctx, "attest its tests", ok, d.as(ci, "attest", "--type", "gotest", "--report", d.path("tests.json"), sneaked)...)
	d.step(ctx, "verify: the source is not", denied, d.as(ci, "verify", sneaked)...)
	return nil
}

func (d *demo) as(who string, args ...string) []string {
	n := 1
	if len(args) > 1 && !strings.HasPrefix(args[1], "-") && (args[0] == "source" || args[0] == "sbom") {
		n = 2 // a command of a command
	}
	out := append([]string{}, args[:n]...)
	out = append(out, "--data", d.data, "--subject", who)
	return append(out, args[n:]...)
}

// traced is the build under watch.
func (d *demo) traced(repo, image string) []string {
	return d.as(ci, "run", "--trace", "--dir", repo, "--materials", "*.go", "--materials", "go.mod", "--products", "hello", "--image", image,
		"--", "go", "build", "-trimpath", "-buildvcs=false", "-o", "hello", ".")
}

func (d *demo) build(ctx context.Context, repo, image string) error {
	d.step(ctx, "verify the source", ok, d.as(ci, "source", "verify", "--repo", repo, "--attest", "--uri", sourceURI)...)
	d.step(ctx, "build under watch", ok, d.traced(repo, image)...)
	// Tests fail or pass by themselves; what they say is attested either way.
	tests, err := d.output(ctx, repo, "go", "test", "-json", "./...")
	if err != nil {
		return err
	}
	if err := d.write("tests.json", tests); err != nil {
		return err
	}
	d.step(ctx, "attest the tests", ok, d.as(ci, "attest", "--type", "gotest", "--report", d.path("tests.json"), image)...)
	d.step(ctx, "sign", ok, d.as(ci, "sign", image)...)
	return nil
}

const sourceURI = "git+https://git.example.com/demo/hello"

// repository is the example program in a git repository whose protected branch
// says who may sign.
func (d *demo) repository(ctx context.Context, repo string) error {
	key, err := d.sshKey()
	if err != nil {
		return err
	}
	files := map[string]string{
		"go.mod":             "module hello\n\ngo 1.26\n",
		".assay/source.yaml": "apiVersion: assay/v1\nkind: SourcePolicy\nspec:\n  branch: main\n  identities:\n    - name: developer\n      emails: [" + developer + "]\n      ssh: [\"" + key + "\"]\n",
		".gitignore":         "/hello\n",
	}
	for _, name := range []string{"main.go", "main_test.go"} {
		b, err := os.ReadFile(filepath.Join("examples", "hello", name))
		if err != nil {
			return err
		}
		files[name] = string(b)
	}
	if err := os.MkdirAll(repo, 0o700); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"},
		{"config", "gpg.format", "ssh"},
		{"config", "gpg.ssh.program", self}, // this program, see signCommit
		{"config", "user.signingkey", d.path("developer.key")},
		{"config", "user.name", "Developer"},
		{"config", "user.email", developer},
		{"remote", "add", "origin", strings.TrimPrefix(sourceURI, "git+")},
	} {
		if _, err := d.output(ctx, repo, "git", args...); err != nil {
			return err
		}
	}
	if err := d.commit(ctx, repo, "policy and program", true, files); err != nil {
		return err
	}
	if _, err := d.output(ctx, repo, "git", "checkout", "-q", "-b", "change"); err != nil {
		return err
	}
	return d.commit(ctx, repo, "a change", true, map[string]string{"README": "hello\n"})
}

func (d *demo) commit(ctx context.Context, repo, message string, signed bool, files map[string]string) error {
	for name, text := range files {
		path := filepath.Join(repo, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	if _, err := d.output(ctx, repo, "git", "add", "-A"); err != nil {
		return err
	}
	how := "--no-gpg-sign"
	if signed {
		how = "--gpg-sign"
	}
	_, err := d.output(ctx, repo, "git", "commit", "-q", how, "-m", message)
	return err
}

// chainPolicy is what must be so for an image of the protected repository.
func (d *demo) chainPolicy() string {
	who := `[{issuer: "` + d.ready.Services.OIDC + `", subject: ` + ci + `}]`
	return `apiVersion: assay/v1
kind: Policy
metadata: {name: chain}
spec:
  scope: {repositories: ["demo/chain"]}
  mode: enforce
  requirements:
    signatures: [{name: signed-by-ci, identities: ` + who + `}]
    attestations:
      - {name: provenance, predicateType: https://slsa.dev/provenance/v1, identities: ` + who + `}
      - {name: bill of materials, predicateType: https://cyclonedx.org/bom, identities: ` + who + `}
      - {name: the machine, predicateType: ` + runnerType + `, identities: ` + who + `}
    provenance:
      builders: [{id: https://assay.dev/builders/local, signer: {issuer: "` + d.ready.Services.OIDC + `", subject: ` + ci + `}, level: 1}]
    build:
      identities: ` + who + `
      noFailures: true
      noSecrets: true
      trace: {undeclared: ["**"], network: ["**"]}
    tests: {identities: ` + who + `, min: 1}
    source: {level: 1, identities: ` + who + `}
---
apiVersion: assay/v1
kind: Repository
metadata: {name: chain}
spec: {pattern: demo/chain, mode: staged}
`
}

const runnerType = "https://assay.dev/predicates/runner/v0.1"

// sshKey writes the developer's key and gives its public half.
func (d *demo) sshKey() (string, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(d.path("developer.key"), pem.EncodeToMemory(block), 0o600); err != nil {
		return "", err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), nil
}

// signCommit is what git asks of gpg.ssh.program, so that the demo needs no
// ssh-keygen: -Y sign -n NAMESPACE -f KEY FILE writes FILE.sig.
func signCommit(args []string) error {
	var key, file, namespace string
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "-f" && i+1 < len(args):
			i++
			key = args[i]
		case args[i] == "-n" && i+1 < len(args):
			i++
			namespace = args[i]
		case !strings.HasPrefix(args[i], "-") && args[i] != "sign":
			file = args[i]
		}
	}
	b, err := os.ReadFile(key)
	if err != nil {
		return err
	}
	signer, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return err
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	sig, err := sshsig.Sign(io.Reader(in), signer, sshsig.HashSHA512, namespace)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(file+".sig", sshsig.Armor(sig), 0o600))
}
