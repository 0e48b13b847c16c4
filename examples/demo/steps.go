package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// environ is this process's without what would lead assay elsewhere.
func environ(extra ...string) []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ASSAY_") && !strings.HasPrefix(kv, "SIGSTORE_") {
			env = append(env, kv)
		}
	}
	return append(env, extra...)
}

// start runs assay up and waits for its ready line.
func (d *demo) start(ctx context.Context, listen string) error {
	cmd := exec.Command(d.bin, "up", "--data", d.data, "--listen", listen, "-o", "json")
	cmd.Env = environ("ASSAY_ADMISSION_LISTEN="+d.door, "ASSAY_ADMISSION_CLUSTER=demo", "ASSAY_ADMISSION_ENVIRONMENT=production")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	logs, err := os.OpenFile(d.path("server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logs.Close()
	cmd.Stderr = logs
	// Ctrl-C is for the demo, which then stops the server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	d.server = cmd
	lines := make(chan string, 1)
	go func() {
		r := bufio.NewReader(stdout)
		line, _ := r.ReadString('\n')
		lines <- line
		_, _ = io.Copy(io.Discard, r)
	}()
	select {
	case line := <-lines:
		if err := json.Unmarshal([]byte(line), &d.ready); err != nil {
			b, _ := os.ReadFile(d.path("server.log"))
			return fmt.Errorf("assay up did not become ready: %q\n%s", line, b)
		}
	case <-time.After(30 * time.Second):
		return errors.New("assay up was not ready within 30 s")
	case <-ctx.Done():
		return ctx.Err()
	}
	d.say("ready after %d ms at %s", time.Since(began).Milliseconds(), d.ready.PublicURL)
	return nil
}

// stop asks the server to end and waits for it.
func (d *demo) stop() {
	if d.server == nil {
		return
	}
	_ = d.server.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = d.server.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		_ = d.server.Process.Kill()
		<-done
	}
	d.server = nil
}

// step runs one assay command and holds its end against what is expected.
func (d *demo) step(ctx context.Context, name, expected string, args ...string) {
	d.run(ctx, name, expected, environ(), d.bin, args...)
}

func (d *demo) run(ctx context.Context, name, expected string, env []string, program string, args ...string) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	err := cmd.Run()
	s := step{Step: name, Expected: expected, ExitCode: cmd.ProcessState.ExitCode(), Seconds: time.Since(began).Seconds(),
		Command: filepath.Base(program) + " " + strings.Join(args, " ")}
	switch {
	case s.ExitCode == 0 && expected == ok:
		s.Got = ok
	case s.ExitCode == 0:
		s.Got = allowed
	case s.ExitCode == 1:
		s.Got = denied
	default:
		s.Got = fmt.Sprintf("error (%v)", err)
	}
	d.steps = append(d.steps, s)
	mark := "as expected"
	if s.Got != expected {
		mark = "EXPECTED " + strings.ToUpper(expected)
		d.failed++
	}
	d.say("%-8s %s (exit %d, %d ms): %s", s.Got, name, s.ExitCode, time.Since(began).Milliseconds(), mark)
	if expected != ok || s.Got != expected {
		for _, line := range strings.Split(strings.TrimRight(out.String(), "\n"), "\n") {
			d.say("    %s", line)
		}
	}
}

// withCosign lets an unmodified cosign and crane join in where they are
// installed: they need the TUF repository and nothing else.
func (d *demo) withCosign(ctx context.Context, image string) {
	if crane, err := exec.LookPath("crane"); err == nil {
		d.crane(ctx, crane, image)
	}
	cosign, err := exec.LookPath("cosign")
	if err != nil {
		d.say("(cosign is not installed; with it, this would be checked by cosign verify too)")
		return
	}
	home := d.path("home")
	root := d.path("root.json")
	d.step(ctx, "fetch the TUF root", ok, d.local("trust", "root", "--out", root)...)
	env := d.login(ctx, home)
	if env == nil {
		return
	}
	d.run(ctx, "cosign initialize", ok, env, cosign, "initialize", "--mirror", d.ready.Services.TUF, "--root", root)
	d.run(ctx, "cosign verify", allowed, env, cosign, "verify", "--certificate-identity", ci, "--certificate-oidc-issuer", d.ready.Services.OIDC, image)
	d.run(ctx, "cosign verify, wrong identity", denied, env, cosign, "verify", "--certificate-identity", mallory, "--certificate-oidc-issuer", d.ready.Services.OIDC, image)
}

func (d *demo) crane(ctx context.Context, crane, image string) {
	if env := d.login(ctx, d.path("home")); env != nil {
		d.run(ctx, "crane digest", ok, env, crane, "digest", image)
	}
}

// login writes a docker configuration with a short-lived token.
func (d *demo) login(ctx context.Context, home string) []string {
	cmd := exec.CommandContext(ctx, d.bin, d.local("token", "--subject", ci)...)
	cmd.Env = environ()
	token, err := cmd.Output()
	if err != nil {
		d.failed++
		d.say("no token: %v", err)
		return nil
	}
	auth := base64.StdEncoding.EncodeToString([]byte("assay:" + strings.TrimSpace(string(token))))
	doc := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, d.ready.Services.Registry, auth)
	if err := os.MkdirAll(filepath.Join(home, ".docker"), 0o700); err != nil {
		d.failed++
		return nil
	}
	if err := os.WriteFile(filepath.Join(home, ".docker", "config.json"), []byte(doc), 0o600); err != nil {
		d.failed++
		return nil
	}
	return environ("HOME="+home, "DOCKER_CONFIG="+filepath.Join(home, ".docker"))
}

// alter changes one word inside a bundle's signed payload.
func (d *demo) alter(from, to string) error {
	b, err := os.ReadFile(d.path(from))
	if err != nil {
		return err
	}
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		return err
	}
	env, isMap := doc["dsseEnvelope"].(map[string]any)
	if !isMap {
		return errors.New("the bundle holds no DSSE envelope")
	}
	payload, err := base64.StdEncoding.DecodeString(env["payload"].(string))
	if err != nil {
		return err
	}
	changed := bytes.Replace(payload, []byte("examples/hello"), []byte("examples/other"), 1)
	if bytes.Equal(changed, payload) {
		changed = bytes.Replace(payload, []byte(`"go"`), []byte(`"sh"`), 1)
	}
	if bytes.Equal(changed, payload) {
		return errors.New("nothing to alter in the payload")
	}
	env["payload"] = base64.StdEncoding.EncodeToString(changed)
	if b, err = json.Marshal(doc); err != nil {
		return err
	}
	return d.write(to, string(b))
}

// tamper flips one bit of the largest blob in the data folder: the layer that
// holds the program.
func (d *demo) tamper() error {
	var largest string
	var size int64
	err := filepath.WalkDir(filepath.Join(d.data, "blobs"), func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if st, err := e.Info(); err == nil && st.Size() > size {
			largest, size = p, st.Size()
		}
		return nil
	})
	if err != nil || largest == "" {
		return fmt.Errorf("no blob to tamper with: %w", err)
	}
	if err := os.Chmod(largest, 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(largest, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, size/2); err != nil {
		return err
	}
	b[0] ^= 1
	_, err = f.WriteAt(b, size/2)
	d.say("flipped one bit of %s", filepath.Base(largest))
	return err
}

// output runs a tool of the story, which is no step of Assay's.
func (d *demo) output(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = environ("HOME="+d.path("home"), "GIT_CONFIG_NOSYSTEM=1", "GOFLAGS=-mod=mod", "GOCACHE="+goCache())
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// goCache keeps the compiler's work where it is, though HOME is another.
func goCache() string {
	if dir := os.Getenv("GOCACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "go-build")
	}
	return filepath.Join(dir, "go-build")
}
