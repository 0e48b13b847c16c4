// Package s3test starts a real S3 server (versitygw, tools/versitygw) for tests.
package s3test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"assay/blob/s3"
)

// Server is a running versitygw over a folder.
type Server struct {
	Endpoint    string // http://127.0.0.1:PORT
	Dir         string // buckets are folders in it
	Credentials string // "file:…" of its root account
}

const (
	access = "assay-test"
	secret = "assay-test-secret"
)

// Start starts a server, stopped at the end of the test. Without versitygw on
// PATH the test is skipped, or fails when ASSAY_REQUIRE_S3=1.
func Start(t testing.TB) *Server {
	t.Helper()
	bin, err := exec.LookPath("versitygw")
	if err != nil {
		if os.Getenv("ASSAY_REQUIRE_S3") == "1" {
			t.Fatalf("ASSAY_REQUIRE_S3=1: versitygw is not on PATH: tools/install.sh versitygw")
		}
		t.Skip("skipped: versitygw is not on PATH; PATH=\"$(tools/install.sh versitygw):$PATH\" runs this")
	}
	s := &Server{Dir: t.TempDir()}
	home := t.TempDir()
	versions := filepath.Join(home, "versions")
	file := filepath.Join(home, "credentials")
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", access, secret)
	if err := errors.Join(os.Mkdir(versions, 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	s.Credentials = "file:" + file
	var last error
	for range 5 { // a port that was free may be taken by the time it is used
		if last = s.try(t, bin, home, versions); last == nil {
			return s
		}
	}
	t.Fatal(last)
	return nil
}

func (s *Server) try(t testing.TB, bin, home, versions string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	addr := l.Addr().String()
	_ = l.Close()
	log, err := os.CreateTemp(home, "log")
	if err != nil {
		return err
	}
	cmd := exec.Command(bin, "--port", addr, "--access", access, "--secret", secret, "--health", "/healthy", "--quiet",
		"posix", "--versioning-dir", versions, s.Dir)
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = log, log
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			_ = cmd.Process.Kill()
			if err := <-exited; err == nil {
				t.Error("versitygw had ended by itself")
			}
			_ = log.Close()
		})
	}
	s.Endpoint = "http://" + addr
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		select {
		case err := <-exited:
			exited <- err
			stop()
			b, _ := os.ReadFile(log.Name())
			return fmt.Errorf("versitygw ended: %w\n%s", err, b)
		case <-time.After(20 * time.Millisecond):
		}
		resp, err := http.Get(s.Endpoint + "/healthy")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				t.Cleanup(stop)
				return nil
			}
		}
	}
	stop()
	b, _ := os.ReadFile(log.Name())
	return fmt.Errorf("versitygw did not answer on %s\n%s", addr, b)
}

// Bucket makes an empty bucket and gives options that open it.
func (s *Server) Bucket(t testing.TB, name string) s3.Options {
	t.Helper()
	if err := os.Mkdir(filepath.Join(s.Dir, name), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	return s3.Options{Endpoint: s.Endpoint, Bucket: name, PathStyle: true, Credentials: s.Credentials}
}
