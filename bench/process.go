package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"assay/client"
)

// process is one server under measurement.
type process struct {
	cmd    *exec.Cmd
	log    *tail
	exited chan struct{} // closed when it has ended
}

// start runs a server. first, when not nil, gets the first line of its output.
func start(program string, args, env []string, first chan<- string) (*process, error) {
	p := &process{cmd: exec.Command(program, args...), log: &tail{}, exited: make(chan struct{})}
	p.cmd.Env = append(quietEnv(), env...)
	p.cmd.Stderr = p.log
	bind(p.cmd)
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.exited)
		r := bufio.NewReader(stdout)
		if first != nil {
			line, _ := r.ReadString('\n')
			first <- line
		}
		_, _ = io.Copy(io.Discard, r)
		_ = p.cmd.Wait()
	}()
	return p, nil
}

// stop ends it: asked first, killed when it does not go within ten seconds.
func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// quietEnv is this process's environment without what would change what is
// measured: settings of Assay, proxies, exporters of traces.
func quietEnv() []string {
	env := []string{"OTEL_SDK_DISABLED=true", "OTEL_TRACES_EXPORTER=none"}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "ASSAY_") || strings.HasPrefix(name, "OTEL_") || strings.HasPrefix(name, "REGISTRY_") ||
			strings.HasSuffix(strings.ToLower(name), "_proxy") {
			continue
		}
		env = append(env, kv)
	}
	return env
}

// tail keeps the last bytes of a log, for an error message.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const most = 8 << 10
	t.buf = append(t.buf, p...)
	if len(t.buf) > most {
		t.buf = bytes.Clone(t.buf[len(t.buf)-most:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

// site is a running assay up.
type site struct {
	*process
	data  string
	admin *client.Client
	client.Status
	after time.Duration // from its start to its ready line
}

// up starts Assay on a folder and waits until it says that it is ready.
func up(ctx context.Context, assay, data string) (*site, error) { return upWith(ctx, assay, data) }

// upWith is up with variables of the environment.
func upWith(ctx context.Context, assay, data string, env ...string) (*site, error) {
	began := time.Now()
	lines := make(chan string, 1)
	p, err := start(assay, []string{"up", "--data", data, "--listen", "127.0.0.1:0", "-o", "json"}, env, lines)
	if err != nil {
		return nil, fmt.Errorf("start assay: %w", err)
	}
	s := &site{process: p, data: data, admin: client.Socket(filepath.Join(data, "run", "admin.sock"))}
	select {
	case line := <-lines:
		s.after = time.Since(began)
		if err := json.Unmarshal([]byte(line), &s.Status); err != nil || s.PublicURL == "" {
			p.stop()
			return nil, fmt.Errorf("assay up: want its ready line, found %q\n%s", line, p.log)
		}
	case <-time.After(30 * time.Second):
		p.stop()
		return nil, fmt.Errorf("assay up: not ready within 30 s\n%s", p.log)
	case <-ctx.Done():
		p.stop()
		return nil, ctx.Err()
	}
	return s, nil
}

// token asks for an identity token of the local issuer.
func (s *site) token(ctx context.Context, audience string) (string, error) {
	a, err := s.admin.Mint(ctx, client.TokenRequest{Subject: benchSubject, Audience: audience, TTL: 600})
	if err != nil {
		return "", err
	}
	return a.Token, nil
}

// benchSubject is who signs and pushes.
const benchSubject = "bench@example.com"

// freePort is a port of 127.0.0.1 that was free a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// answers waits until a server answers GET url at all.
func answers(ctx context.Context, p *process, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if res, err := h.Do(req); err == nil {
			res.Body.Close()
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended at its start\n%s", p.cmd.Path, p.log)
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer at %s\n%s", p.cmd.Path, url, p.log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// meter measures a slot of time: how long it was, what processes used in it.
type meter struct {
	began                time.Time
	machine, own, server time.Duration
	pid                  int // 0: none
}

func startMeter(p *process) meter {
	m := meter{machine: machineCPU(), own: ownCPU()}
	if p != nil {
		m.pid = p.pid()
		m.server = processCPU(m.pid)
	}
	m.began = time.Now()
	return m
}

// slot is what a meter found.
type slot struct {
	wall        time.Duration
	own, server time.Duration // processor time of this process and of the server
	others      float64       // percent of all processors
}

func (m meter) stop(processors int) slot {
	s := slot{wall: time.Since(m.began), own: ownCPU() - m.own}
	if m.pid != 0 {
		s.server = processCPU(m.pid) - m.server
	}
	if used := machineCPU() - m.machine; used > 0 {
		share := 100 * float64(used-s.own-s.server) / float64(s.wall) / float64(processors)
		s.others = math.Round(min(100, max(0, share)))
	}
	return s
}
