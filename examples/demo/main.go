// Command demo runs Assay's main flow on real input, by Assay's own commands:
// build, push, sign, attest, verify, export trust, stop the server, verify
// again offline; then four refusals, each with its trail and the command that
// mends it. It fails when any step ends otherwise than expected.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "-Y" { // git asks for a commit's signature
		if err := signCommit(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "demo:", err)
			os.Exit(1)
		}
		return
	}
	assay := flag.String("assay", "bin/assay", "the binary to show")
	out := flag.String("out", "bin/demo.json", "where the summary goes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *assay, *out); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, assay, out string) (err error) {
	bin, err := filepath.Abs(assay)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "assay-demo-")
	if err != nil {
		return err
	}
	d := &demo{bin: bin, dir: dir, data: filepath.Join(dir, "data"), started: time.Now()}
	defer func() {
		d.stop()
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	flow := d.flow(ctx)
	if err := d.summary(out); err != nil {
		return err
	}
	if flow != nil {
		return flow
	}
	if d.failed > 0 {
		return fmt.Errorf("%d of %d steps ended otherwise than expected; see %s", d.failed, len(d.steps), out)
	}
	d.say("\nAll %d steps ended as expected in %.1f s. Summary: %s", len(d.steps), time.Since(d.started).Seconds(), out)
	if st, err := os.Stdin.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 && isTerminal(os.Stdout) {
		d.say("Assay keeps serving until Ctrl-C. Its pages are at\n  %s/ui/\nand ask for a token:\n  %s token --data %s --subject %s --audience assay-api\nOr, in another terminal:\n  %s verify --data %s %s", d.ready.PublicURL, assay, d.data, visitor, assay, d.data, d.image("hello:v1"))
		<-ctx.Done()
	} else {
		d.say("Assay served at %s, its pages at %s/ui/, and was stopped; on a terminal it would go on.", d.ready.PublicURL, d.ready.PublicURL)
	}
	return nil
}

func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

// The identities of the story.
const (
	ci      = "ci@example.com"
	visitor = "you@example.com" // looks at the pages
	mallory = "mallory@example.com"
)

func (d *demo) flow(ctx context.Context) error {
	d.title("Start: CA, log, timestamp authority, TUF, registry and policy in one process")
	if err := d.chooseDoor(); err != nil {
		return err
	}
	if err := d.start(ctx, "127.0.0.1:0"); err != nil {
		return err
	}
	if err := d.write("site.yaml", d.site()); err != nil {
		return err
	}
	d.step(ctx, "apply roles and policy", ok, d.local("apply", "-f", d.path("site.yaml"))...)
	image := d.image("hello:v1")
	local := func(who string, args ...string) []string {
		return append(d.local(args[0], "--subject", who), args[1:]...)
	}

	d.title("Build, push, sign, attest: a real Go program, keyless")
	d.step(ctx, "build, push and state provenance", ok, local(ci, "run", "--dir", "examples/hello",
		"--materials", "main.go", "--products", filepath.Join(d.rel(), "hello"), "--bundle", d.path("hello.provenance.json"), "--image", image,
		"--", "go", "build", "-trimpath", "-buildvcs=false", "-o", d.path("hello"), ".")...)
	d.step(ctx, "sign", ok, local(ci, "sign", image)...)
	if err := d.write("test.json", `{"result": "PASSED", "configuration": [{"name": "go test", "digest": {"sha256": "`+strings.Repeat("0", 64)+`"}}], "passedTests": ["hello says its digest"]}`); err != nil {
		return err
	}
	d.step(ctx, "attest the test result", ok, local(ci, "attest", "--type", "test-result", "--predicate", d.path("test.json"), image)...)

	d.title("Verify: may it run here, and how do we know?")
	d.step(ctx, "verify the image", allowed, local(ci, "verify", image)...)
	d.withCosign(ctx, image)

	d.title("Carry trust away, stop the server, verify offline")
	d.step(ctx, "export trust", ok, d.local("trust", "export", "--out", d.path("trust.json"))...)
	d.step(ctx, "check the log", ok, d.local("log", "verify")...)
	address := strings.TrimPrefix(d.ready.PublicURL, "http://")
	d.stop()
	d.step(ctx, "verify the file offline", allowed, d.offline("hello.provenance.json", ci, d.path("hello"))...)

	d.title("Start again on the same data: nothing that was signed has changed")
	if err := d.start(ctx, address); err != nil {
		return err
	}
	d.step(ctx, "verify the image after a restart", allowed, local(ci, "verify", image)...)

	if err := d.chain(ctx); err != nil {
		return err
	}

	d.title("Refused: unsigned")
	// Another build, since the same bytes would be the same artifact: evidence
	// is about digests, wherever they lie.
	unsigned := d.image("unsigned:v1")
	d.run(ctx, "build without assay", ok, environ(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s", "-o", d.path("unsigned"), "./examples/hello")
	d.step(ctx, "push an image without a signature", ok, local(ci, "push", "--product", d.path("unsigned"), unsigned)...)
	d.step(ctx, "unsigned", denied, local(ci, "verify", unsigned)...)

	d.title("Refused: signed by another identity")
	other := d.image("other:v1")
	d.step(ctx, "build and sign as mallory", ok, local(mallory, "run", "--dir", "examples/hello",
		"--materials", "main.go", "--products", filepath.Join(d.rel(), "other"), "--image", other,
		"--", "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-w", "-o", d.path("other"), ".")...)
	d.step(ctx, "sign as mallory", ok, local(mallory, "sign", other)...)
	d.step(ctx, "another identity", denied, local(ci, "verify", other)...)

	d.title("Refused: an attestation that was altered")
	if err := d.alter("hello.provenance.json", "altered.provenance.json"); err != nil {
		return err
	}
	d.step(ctx, "altered attestation", denied, d.offline("altered.provenance.json", ci, d.path("hello"))...)

	if err := d.admission(ctx, image, unsigned, other); err != nil {
		return err
	}

	d.title("Refused: a blob that was tampered with on disk")
	if err := d.tamper(); err != nil {
		return err
	}
	d.step(ctx, "tampered blob", denied, local(ci, "verify", "--content", image)...)
	return nil
}

// site is what the demo applies: who may do what, and what must be so for an
// image below demo/ to run.
func (d *demo) site() string {
	return `apiVersion: assay/v1
kind: Grant
metadata: {name: demo-you}
spec: {issuer: "` + d.ready.Services.OIDC + `", subject: ` + visitor + `, role: admin, scope: "**"}
---
apiVersion: assay/v1
kind: Grant
metadata: {name: demo-ci}
spec: {issuer: "` + d.ready.Services.OIDC + `", subject: ` + ci + `, role: publisher, scope: "demo/**"}
---
apiVersion: assay/v1
kind: Grant
metadata: {name: demo-mallory}
spec: {issuer: "` + d.ready.Services.OIDC + `", subject: ` + mallory + `, role: publisher, scope: "demo/**"}
---
apiVersion: assay/v1
kind: Policy
metadata: {name: demo}
spec:
  scope: {repositories: ["demo/**"]}
  mode: enforce
  requirements:
    signatures:
      - name: signed-by-ci
        threshold: 1
        identities: [{issuer: "` + d.ready.Services.OIDC + `", subject: ` + ci + `}]
    attestations:
      - name: provenance
        predicateType: https://slsa.dev/provenance/v1
        identities: [{issuer: "` + d.ready.Services.OIDC + `", subject: ` + ci + `}]
        fields: [{path: buildDefinition.buildType, equals: https://assay.dev/buildtypes/command/v1}]
`
}

// ready is the line that assay up prints with -o json.
type ready struct {
	PublicURL string `json:"public_url"`
	Services  struct {
		OIDC     string `json:"oidc"`
		TUF      string `json:"tuf"`
		Registry string `json:"registry"`
	} `json:"services"`
	SigningConfig string `json:"signing_config"`
}

type demo struct {
	bin, dir, data string
	door           string // the webhook's address
	server         *exec.Cmd
	ready          ready
	started        time.Time
	steps          []step
	failed         int
}

// step is one line of the summary.
type step struct {
	Step     string  `json:"step"`
	Expected string  `json:"expected"` // allowed, denied, ok
	Got      string  `json:"got"`
	ExitCode int     `json:"exit_code"`
	Seconds  float64 `json:"seconds"`
	Command  string  `json:"command"`
}

const (
	ok      = "ok"
	allowed = "allowed"
	denied  = "denied"
)

func (d *demo) say(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func (d *demo) title(s string)                 { d.say("\n== %s", s) }
func (d *demo) path(name string) string        { return filepath.Join(d.dir, name) }
func (d *demo) image(name string) string       { return d.ready.Services.Registry + "/demo/" + name }

// rel is the demo's folder as seen from examples/hello, where builds run.
func (d *demo) rel() string {
	from, err := filepath.Abs("examples/hello")
	if err != nil {
		return d.dir
	}
	rel, err := filepath.Rel(from, d.dir)
	if err != nil {
		return d.dir
	}
	return rel
}

func (d *demo) write(name, text string) error {
	return os.WriteFile(d.path(name), []byte(text), 0o600)
}

func (d *demo) local(args ...string) []string {
	return append([]string{args[0], "--data", d.data}, args[1:]...)
}

func (d *demo) offline(bundle, who, target string) []string {
	return []string{"verify", "--bundle", d.path(bundle), "--trusted-root", d.path("trust.json"),
		"--certificate-identity", who, "--certificate-oidc-issuer", d.ready.Services.OIDC, target}
}

func (d *demo) summary(out string) error {
	b, err := json.MarshalIndent(d.steps, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	return os.WriteFile(out, append(b, '\n'), 0o644)
}
