// Package site starts the binary under test as a site, for the tests beside it.
package site

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

// program is the binary under test: ASSAY_BIN, or what make build leaves.
func program(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("ASSAY_BIN")
	if bin == "" {
		bin = filepath.Join("..", "..", "..", "bin", "assay")
	}
	bin, err := filepath.Abs(bin)
	if err == nil {
		_, err = os.Stat(bin)
	}
	if err != nil {
		if os.Getenv("ASSAY_REQUIRE_VECTORS") != "" {
			t.Fatal(err, ": make build first")
		}
		t.Skip(err, ": make build, or set ASSAY_BIN")
	}
	return bin
}

// Site is a running assay up, with a door for cluster c1.
type Site struct {
	t         *testing.T
	Bin       string
	Dir       string // of its own, short enough for a socket
	Kill      func() // ends the server; it has ended with the test
	PublicURL string `json:"public_url"`
	Services  struct {
		OIDC     string `json:"oidc"`
		Registry string `json:"registry"`
	} `json:"services"`
}

func (s *Site) env() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ASSAY_") {
			env = append(env, kv)
		}
	}
	return append(env, "ASSAY_DATA="+filepath.Join(s.Dir, "data"), "HOME="+s.Dir, "XDG_CONFIG_HOME="+s.Dir, "XDG_CACHE_HOME="+s.Dir)
}

// New starts a site with further settings, NAME=VALUE.
func New(t *testing.T, env ...string) *Site {
	t.Helper()
	s := &Site{t: t, Bin: program(t)}
	var err error
	if s.Dir, err = os.MkdirTemp("", "assay-oracle-"); err != nil { //nolint:usetesting // a socket's path is short
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.Dir) })
	cmd := exec.Command(s.Bin, "up", "--data", filepath.Join(s.Dir, "data"), "--listen", "127.0.0.1:0", "-o", "json")
	cmd.Env = append(append(s.env(), "ASSAY_ADMISSION_LISTEN=127.0.0.1:0", "ASSAY_ADMISSION_CLUSTER=c1"), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(s.Dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.Kill = sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	t.Cleanup(s.Kill)
	line, _ := bufio.NewReader(out).ReadString('\n')
	if err := json.Unmarshal([]byte(line), s); err != nil {
		b, _ := os.ReadFile(log.Name())
		t.Fatalf("not ready: %q\n%s", line, b)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return s
}

// Assay runs the command line, which must succeed.
func (s *Site) Assay(args ...string) string {
	s.t.Helper()
	return s.exits(0, args...)
}

// exits runs the command line, which must end with 0 or with code.
func (s *Site) exits(code int, args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.Bin, args...)
	cmd.Env = s.env()
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if have := cmd.ProcessState.ExitCode(); have != 0 && have != code {
		s.t.Fatalf("assay %s: %v\n%s%s", strings.Join(args, " "), err, out, errs.String())
	}
	return strings.TrimSpace(string(out))
}

// Write makes a file of the site's folder.
func (s *Site) Write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// Push makes an image of one file and returns its digest.
func (s *Site) Push(ref string, sign bool) digest.Digest {
	s.t.Helper()
	s.Assay("push", "--subject", "me@example.com", "--product", s.Write("product", ref), s.Services.Registry+"/"+ref)
	if sign {
		s.Assay("sign", "--subject", "me@example.com", s.Services.Registry+"/"+ref)
	}
	d, _ := s.Status(ref)
	return d
}

// Status is the digest and the state of what the registry has.
func (s *Site) Status(ref string) (digest.Digest, string) {
	s.t.Helper()
	var st struct {
		Digest digest.Digest `json:"digest"`
		State  string        `json:"state"`
	}
	if err := json.Unmarshal([]byte(s.exits(1, "registry", "status", ref, "-o", "json")), &st); err != nil || st.Digest.Validate() != nil {
		s.t.Fatalf("%s: %+v %v", ref, st, err)
	}
	return st.Digest, st.State
}

// AssayNode runs the command line as the node has it.
func (s *Site) AssayNode(args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.Bin, args...)
	cmd.Env = append(s.env(), "ASSAY_IMAGE_VERIFIER_CONFIG="+os.Getenv("ASSAY_IMAGE_VERIFIER_CONFIG"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("assay %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
