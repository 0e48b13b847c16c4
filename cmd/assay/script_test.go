package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"assay/admission/imageverifier"
	"assay/builder/trace"
	"assay/internal/keyring"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	trace.Launch() // this binary is assay in the scripts, and so its launcher
	testscript.Main(m, map[string]func(){"assay": main, imageverifier.Name: main})
}

// TestScripts runs what a user could type, each script against servers of its
// own. Besides testscript's commands there are:
//
//	up [FLAG …]              assay up on $ASSAY_DATA and a free port, until it is ready
//	server ASSAY-ARG …       any assay command that serves, until it is ready
//	forge NAME DIR           $NAME is a forge that answers PATH with DIR/PATH/index.json
//	down                     SIGTERM to the server that was started last; it must end well
//	serverlog FILE           what that server has logged
//	expand FILE …            $VARIABLES in files, as the script has them
//	exits CODE COMMAND …     a command that must end with this exit code
//	keypair NAME [PASS-FILE] NAME.pem and NAME.pub, sealed with a passphrase
//	let NAME FILE            $NAME is what FILE holds
//	flip DATA DIGEST         turns one bit of a stored blob over, keeping its age
//	certificate NAME         NAME.crt and NAME.key for localhost and 127.0.0.1
//
// A started server sets $SERVER, $REGISTRY and $ISSUER; $ASSAY_DATA is there
// from the beginning, and its path is short enough for a socket.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Condition: func(cond string) (bool, error) {
			if cond != "ptrace" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			return canTrace()
		},
		Setup: func(e *testscript.Env) error {
			data, err := os.MkdirTemp("", "assay-script-") //nolint:usetesting // a socket's path is short
			if err != nil {
				return err
			}
			e.Defer(func() { _ = os.RemoveAll(data) })
			home := filepath.Join(e.WorkDir, "home")
			e.Setenv("HOME", home)
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(home, "config"))
			e.Setenv("ASSAY_DATA", filepath.Join(data, "data"))
			e.Setenv("ESC", "\x1b")
			return os.MkdirAll(filepath.Join(home, "config"), 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"up": func(ts *testscript.TestScript, neg bool, args []string) {
				startServer(ts, neg, append([]string{"up", "--listen", "127.0.0.1:0"}, args...))
			},
			"server":      startServer,
			"down":        func(ts *testscript.TestScript, _ bool, _ []string) { last(ts).end(ts) },
			"serverlog":   serverLog,
			"exits":       exits,
			"forge":       forgeFolder,
			"keypair":     keypair,
			"certificate": certificate,
			"flip":        flip,
			"sink": func(ts *testscript.TestScript, _ bool, _ []string) { // takes whatever is posted; $SINK is its address
				h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 1<<20))
					w.WriteHeader(http.StatusAccepted)
				}))
				ts.Defer(h.Close)
				ts.Setenv("SINK", h.URL)
			},
			"mkzip": makeZip,
			"let": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
			},
			"expand": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, f := range args {
					ts.Check(os.WriteFile(ts.MkAbs(f), []byte(os.Expand(ts.ReadFile(f), ts.Getenv)), 0o600))
				}
			},
		},
	})
}

// canTrace says whether this machine lets a process trace its children.
func canTrace() (bool, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer null.Close()
	_, err = trace.Run(context.Background(), trace.Options{Path: "/bin/sh", Args: []string{"sh", "-c", ":"}, Files: [3]*os.File{null, null, null}})
	if errors.Is(err, trace.ErrUnavailable) {
		return false, nil
	}
	return err == nil, err
}

// child is a server that a script started.
type child struct {
	cmd    *exec.Cmd
	stderr *safeBuffer
	once   sync.Once
	err    error // of its end
	exited chan error
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

var children sync.Map // of *testscript.TestScript to *child

func last(ts *testscript.TestScript) *child {
	c, ok := children.Load(ts)
	if !ok {
		ts.Fatalf("no server was started")
	}
	return c.(*child)
}

func startServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("a server that must not start: use exits")
	}
	path, err := exec.LookPath("assay")
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if p := filepath.Join(dir, "assay"); err != nil || path == "" {
			if _, serr := os.Stat(p); serr == nil {
				path, err = p, nil
			}
		}
	}
	ts.Check(err)
	c := &child{cmd: exec.Command(path, append(args, "-o", "json")...), stderr: &safeBuffer{}, exited: make(chan error, 1)}
	c.cmd.Dir, c.cmd.Stderr = ts.MkAbs("."), c.stderr
	for _, k := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "ASSAY_DATA", "TMPDIR", "ASSAY_LOG_LEVEL", "ASSAY_INVENTORY_TICKET_AFTER", "ASSAY_ADMISSION_LISTEN", "ASSAY_ADMISSION_CLUSTER"} {
		if v := ts.Getenv(k); v != "" {
			c.cmd.Env = append(c.cmd.Env, k+"="+v)
		}
	}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := c.cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(c.cmd.Start())
	line := make(chan string, 1)
	go func() {
		r := bufio.NewReader(out)
		l, _ := r.ReadString('\n')
		line <- l
		_, _ = io.Copy(io.Discard, r)
		c.exited <- c.cmd.Wait()
	}()
	ts.Defer(func() {
		defer func() { _ = recover() }() // Fatalf of a script that has ended already
		c.end(ts)
	})
	children.Store(ts, c)
	select {
	case l := <-line:
		var r ready
		if err := json.Unmarshal([]byte(l), &r); err != nil || !r.Ready {
			c.once.Do(func() { _ = c.cmd.Process.Kill(); <-c.exited })
			ts.Fatalf("not ready: %q\n%s", l, c.stderr)
		}
		ts.Setenv("SERVER", r.PublicURL)
		ts.Setenv("REGISTRY", r.Services.Registry)
		ts.Setenv("ISSUER", r.Services.OIDC)
	case <-time.After(30 * time.Second):
		ts.Fatalf("not ready within 30 s\n%s", c.stderr)
	}
}

// end asks for an orderly end, which must succeed.
func (c *child) end(ts *testscript.TestScript) {
	c.once.Do(func() {
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-c.exited:
			c.err = err
		case <-time.After(20 * time.Second):
			_ = c.cmd.Process.Kill()
			c.err = errors.New("it did not end within 20 s")
		}
	})
	if c.err != nil {
		ts.Fatalf("the server ended with %v\n%s", c.err, c.stderr)
	}
}

func serverLog(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: serverlog FILE")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(last(ts).stderr.String()), 0o600))
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG …]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	switch err := ts.Exec(args[1], args[2:]...); {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("%s ended with %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

func flip(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: flip DATA DIGEST")
	}
	algorithm, hex, _ := strings.Cut(args[1], ":")
	path := filepath.Join(args[0], "blobs", algorithm, hex[:2], hex)
	st, err := os.Stat(path)
	ts.Check(err)
	b, err := os.ReadFile(path)
	ts.Check(err)
	b[len(b)/2] ^= 4
	ts.Check(errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, b, 0o600), os.Chtimes(path, st.ModTime(), st.ModTime())))
}

func keypair(ts *testscript.TestScript, _ bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	var passphrase []byte
	if len(args) > 1 {
		passphrase = bytes.TrimSpace([]byte(ts.ReadFile(args[1])))
	}
	b, err := keyring.Marshal(key, passphrase)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".pem"), b, 0o600))
	b, err = keyring.MarshalPublic(key.Public())
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".pub"), b, 0o644))
}

func certificate(ts *testscript.TestScript, _ bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: args[0]}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	ts.Check(err)
	b, err := keyring.Marshal(key, nil)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".key"), b, 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
}

// forgeFolder answers as a forge's API would, by what stands in a folder.
func forgeFolder(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[1])
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := os.ReadFile(filepath.Join(dir, filepath.Clean("/"+r.URL.Path), "index.json"))
		if err != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(b)
	}))
	ts.Defer(srv.Close)
	ts.Setenv(args[0], srv.URL)
}
