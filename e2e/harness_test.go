//go:build e2e

// Package e2e drives the real binary with the real clients of the field. `make
// e2e` builds or installs those and sets PATH and ASSAY_BIN.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// site is one running assay up.
type site struct {
	t      testing.TB
	data   string
	env    []string // of the server, beside the clean one
	cmd    *exec.Cmd
	log    *lockedBuffer
	exited chan error
	config string          // serve with this file, where nobody has a role; "": up
	roles  string          // of a process that serves; "": all
	bin    string          // another build than ASSAY_BIN's; "" is that
	starts func(*exec.Cmd) // changes how the server is started; nil: nothing

	PublicURL string `json:"public_url"`
	Services  struct {
		Fulcio   string `json:"fulcio"`
		Rekor    string `json:"rekor"`
		TSA      string `json:"tsa"`
		TUF      string `json:"tuf"`
		OIDC     string `json:"oidc"`
		Registry string `json:"registry"`
	} `json:"services"`
	readyAfter time.Duration
}

func assayBin(t testing.TB) string {
	bin := os.Getenv("ASSAY_BIN")
	if bin == "" {
		t.Fatal("ASSAY_BIN is not set: run these tests with make e2e")
	}
	return bin
}

// freeAddress is an address that was free a moment ago, for a server that has
// to come back on the same one.
func freeAddress(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// up starts a site in a fresh folder.
func up(t testing.TB) *site {
	s := &site{t: t, data: filepath.Join(shortTemp(t), "data")}
	s.start("127.0.0.1:0")
	return s
}

// shortTemp is a folder whose path leaves room for a socket's name.
func shortTemp(t testing.TB) string {
	dir, err := os.MkdirTemp("", "assay-e2e-") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// start runs the server and waits until it says that it is ready.
func (s *site) start(listen string) {
	s.t.Helper()
	if err := s.tryStart(listen); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) tryStart(listen string) error {
	began := time.Now()
	cmd := exec.Command(s.program(), "up", "--data", s.data, "--listen", listen, "-o", "json")
	if s.config != "" {
		cmd = exec.Command(s.program(), "serve", "--config", s.config, "-o", "json")
		if s.roles != "" {
			cmd.Args = append(cmd.Args, "--roles", s.roles)
		}
	}
	cmd.Env = cleanEnv(s.env...)
	s.log = &lockedBuffer{}
	cmd.Stderr = s.log
	// Killed with the test, however that ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if s.starts != nil {
		s.starts(cmd)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd, s.exited = cmd, make(chan error, 1)
	lines := make(chan string, 1)
	go func() {
		r := bufio.NewReader(stdout)
		line, _ := r.ReadString('\n')
		lines <- line
		_, _ = io.Copy(io.Discard, r)
		s.exited <- cmd.Wait()
	}()
	s.t.Cleanup(s.kill)
	select {
	case line := <-lines:
		if err := json.Unmarshal([]byte(line), s); err != nil {
			<-s.exited
			s.exited <- nil
			return fmt.Errorf("not ready: %q\n%s", line, s.log)
		}
	case <-time.After(30 * time.Second):
		return fmt.Errorf("not ready within 30 s\n%s", s.log)
	}
	s.readyAfter = time.Since(began)
	return nil
}

// program is the binary of this site.
func (s *site) program() string {
	if s.bin != "" {
		return s.bin
	}
	return assayBin(s.t)
}

// kill is kill -9.
func (s *site) kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	<-s.exited
	s.cmd = nil
}

// stop is a graceful end, which must succeed.
func (s *site) stop() {
	s.t.Helper()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.exited:
		if err != nil {
			s.t.Errorf("the server ended with %v\n%s", err, s.log)
		}
		s.cmd = nil
	case <-time.After(20 * time.Second):
		s.t.Errorf("the server did not end within 20 s")
		s.kill()
	}
}

func cleanEnv(extra ...string) []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "ASSAY_") || strings.HasPrefix(name, "SIGSTORE_") || strings.HasPrefix(name, "COSIGN_") ||
			strings.HasPrefix(name, "TUF_") || strings.HasSuffix(strings.ToLower(name), "_proxy") {
			continue
		}
		env = append(env, kv)
	}
	return append(env, extra...)
}

// result is how a command ended.
type result struct {
	stdout, stderr string
	code           int
}

// run runs a program with a time limit.
func run(t testing.TB, env []string, program string, args ...string) result {
	t.Helper()
	return runIn(t, "", env, program, args...)
}

func runIn(t testing.TB, dir string, env []string, program string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Dir = env, dir
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v (is it on PATH? run these tests with make e2e)", program, err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// must wants exit code 0.
func must(t testing.TB, env []string, program string, args ...string) string {
	t.Helper()
	r := run(t, env, program, args...)
	if r.code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s%s", program, strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// refused wants another exit code than 0, and all of the words somewhere in
// what was printed.
func refused(t testing.TB, words []string, env []string, program string, args ...string) {
	t.Helper()
	r := run(t, env, program, args...)
	if r.code == 0 {
		t.Fatalf("%s %s: exit code 0, want a refusal\n%s%s", program, strings.Join(args, " "), r.stdout, r.stderr)
	}
	for _, w := range words {
		if !strings.Contains(r.stdout+r.stderr, w) {
			t.Errorf("%s %s: refused without %q in its words:\n%s%s", program, strings.Join(args, " "), w, r.stdout, r.stderr)
		}
	}
}

// environ is what the site's own command line runs in. What it remembers of
// sites (the newest lists that it saw) is by host name, and all are 127.0.0.1
// here: each site has folders of its own for that.
func (s *site) environ() []string {
	own := filepath.Join(filepath.Dir(s.data), "user")
	return cleanEnv(slices.Concat(s.env, []string{"ASSAY_DATA=" + s.data, "XDG_CACHE_HOME=" + own, "XDG_CONFIG_HOME=" + own})...)
}

// assay runs the site's own command line.
func (s *site) assay(args ...string) string {
	s.t.Helper()
	return must(s.t, s.environ(), s.program(), args...)
}

func (s *site) assayRefused(code int, words []string, args ...string) {
	s.t.Helper()
	r := run(s.t, s.environ(), s.program(), args...)
	if r.code != code {
		s.t.Errorf("assay %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.stdout, r.stderr)
	}
	for _, w := range words {
		if !strings.Contains(r.stdout+r.stderr, w) {
			s.t.Errorf("assay %s: no %q in its words:\n%s%s", strings.Join(args, " "), w, r.stdout, r.stderr)
		}
	}
}

func (s *site) token(subject, audience string) string {
	s.t.Helper()
	return strings.TrimSpace(s.assay("token", "--subject", subject, "--audience", audience))
}

// home is a home folder in which subject is logged in to the site's registry,
// as an environment for other tools.
func (s *site) home(subject string) []string {
	s.t.Helper()
	dir := s.t.TempDir()
	auth := base64.StdEncoding.EncodeToString([]byte("assay:" + s.token(subject, "assay-registry")))
	doc := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, s.Services.Registry, auth)
	if err := os.MkdirAll(filepath.Join(dir, ".docker"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".docker", "config.json"), []byte(doc), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return cleanEnv("HOME="+dir, "DOCKER_CONFIG="+filepath.Join(dir, ".docker"), "REGISTRY_AUTH_FILE="+filepath.Join(dir, ".docker", "config.json"))
}

// lockedBuffer takes a process's log while a test may read it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
