//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"assay/internal/intoto"
)

// buildRun is what assay run -o json reports.
type buildRun struct {
	ID       string `json:"id"`
	Failed   string `json:"failed"`
	Image    string `json:"image"`
	Artifact string `json:"artifact"`
	Evidence []struct {
		PredicateType string `json:"predicate_type"`
		Bundle        string `json:"bundle"`
	} `json:"evidence"`
	Trace struct {
		Traced  bool     `json:"traced"`
		Reason  string   `json:"reason"`
		Changed []string `json:"changed"`
	} `json:"trace"`
}

const buildScript = "cat src.txt > app; echo built >> app"

// TestBuildCosign: an unmodified cosign verifies everything that a wrapped build
// states, beside the image and as files; oras gives the artifact's files back.
func TestBuildCosign(t *testing.T) {
	s := up(t)
	env := s.home(alice)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("src.txt"), []byte("source\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.assay("trust", "root", "--out", path("root.json"))
	must(t, env, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", path("root.json"))
	var run buildRun
	out := s.assay("run", "-o", "json", "--subject", alice, "--dir", dir, "--materials", "src.txt", "--products", "app", "--trace", "--bundle-dir", path("bundles"),
		"--image", s.Services.Registry+"/team/app:v1", "--push", s.Services.Registry+"/team/files:v1", "--", "sh", "-c", buildScript)
	if err := json.Unmarshal([]byte(out), &run); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	who := []string{"--certificate-identity", alice, "--certificate-oidc-issuer", s.Services.OIDC}
	types := map[string]bool{}
	for _, e := range run.Evidence {
		types[e.PredicateType] = true
		kind := e.PredicateType
		intoto.Statement(t, payloadOf(t, e.Bundle))
		for _, image := range []string{run.Image, run.Artifact} {
			must(t, env, "cosign", append(append([]string{"verify-attestation"}, who...), "--type", kind, image)...)
		}
		must(t, env, "cosign", append(append([]string{"verify-blob-attestation"}, who...), "--bundle", e.Bundle, "--type", kind, path("app"))...)
		refused(t, nil, env, "cosign", append(append([]string{"verify-blob-attestation"}, who...), "--bundle", e.Bundle, "--type", kind, path("src.txt"))...)
	}
	for _, want := range []string{"https://slsa.dev/provenance/v1", "https://in-toto.io/attestation/link/v0.3", "https://in-toto.io/attestation/runtime-trace/v0.1", "https://assay.dev/predicates/runner/v0.1"} {
		if !types[want] {
			t.Errorf("nothing of type %s is stated: %v", want, types)
		}
	}
	must(t, env, "oras", "pull", "--plain-http", "-o", path("pulled"), run.Artifact)
	want, err := os.ReadFile(path("app"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path("pulled/app")); err != nil || string(got) != string(want) {
		t.Errorf("oras pulled %q, %v; want %q", got, err, want)
	}
}

// payloadOf is the statement in a bundle's file.
func payloadOf(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var bundle struct {
		Envelope struct {
			Payload []byte `json:"payload"`
		} `json:"dsseEnvelope"`
	}
	if err := json.Unmarshal(b, &bundle); err != nil || len(bundle.Envelope.Payload) == 0 {
		t.Fatalf("%s: %v", file, err)
	}
	return bundle.Envelope.Payload
}

// TestBuildInterrupted: a signal reaches the build, the failure is recorded
// before the command ends, and nothing of the build runs on.
func TestBuildInterrupted(t *testing.T) {
	for _, trace := range []bool{false, true} {
		s := up(t)
		dir := t.TempDir()
		args := []string{"run", "--subject", alice, "--dir", dir, "--products", "app"}
		if trace {
			args = append(args, "--trace")
		}
		cmd := exec.Command(s.program(), append(args, "--", "sh", "-c", `trap 'echo told >&2; exit 5' TERM; sleep 600 & echo $! > pid; echo half > app; wait`)...)
		cmd.Env = s.environ()
		log := &lockedBuffer{}
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var pid string
		for end := time.Now().Add(20 * time.Second); pid == "" && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			b, _ := os.ReadFile(filepath.Join(dir, "pid"))
			pid = strings.TrimSpace(string(b))
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		err := cmd.Wait()
		if cmd.ProcessState.ExitCode() != 5 || !strings.Contains(log.String(), "told") || !strings.Contains(log.String(), "predicates/build-failure/v0.1") {
			t.Errorf("trace %v: %v, want the build's own exit code 5 and its failure recorded:\n%s", trace, err, log)
		}
		if st, err := os.ReadFile("/proc/" + pid + "/stat"); pid == "" || err == nil && !strings.Contains(string(st), ") Z ") {
			t.Errorf("trace %v: the build's sleep runs on (%q)", trace, pid)
		}
	}
}

// TestThreat_Build_ProductSwapped: a program that the build leaves behind outside
// of its group changes the product before it is signed: nothing is attested as
// good, and the statement of the failure names both contents.
func TestThreat_Build_ProductSwapped(t *testing.T) {
	s := up(t)
	dir := t.TempDir()
	// The token comes through a pipe: what the build left behind knows by that when
	// the product has been hashed and is about to be signed for.
	pipe, token := filepath.Join(dir, "pipe"), filepath.Join(dir, "token")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(token, []byte(s.token(alice, "sigstore")), 0o600); err != nil {
		t.Fatal(err)
	}
	const left = `: > ready; exec 3>pipe; echo evil > app; cat token >&3; exec 3>&-; sleep 0.5; cat token > pipe`
	r := run(t, s.environ(), s.program(), "run", "-o", "json", "--identity-token", pipe, "--dir", dir, "--products", "app", "--without", "link,runner", "--bundle-dir", filepath.Join(dir, "b"), "--",
		"sh", "-c", "echo good > app; setsid sh -c '"+left+"' >/dev/null 2>&1 & while ! test -e ready; do sleep 0.01; done")
	if r.code == 0 {
		t.Fatalf("a product that was swapped was attested:\n%s%s", r.stdout, r.stderr)
	}
	var out buildRun
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
		t.Fatalf("%v: %s%s", err, r.stdout, r.stderr)
	}
	if out.Failed != "product.changed" || len(out.Evidence) != 1 || out.Evidence[0].PredicateType != "https://assay.dev/predicates/build-failure/v0.1" {
		t.Errorf("%+v, want a failure of product.changed and no other statement\n%s", out, r.stderr)
	}
}
