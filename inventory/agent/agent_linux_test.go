package agent

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/inventory/threat"

	"github.com/google/go-cmp/cmp"
)

const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

type fake struct {
	mu    sync.Mutex
	down  bool
	files threat.Files
	err   error
	told  []string
}

func (f *fake) Files(context.Context, *Container) (artifact.Digest, threat.Files, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return "", nil, fault.Newf(fault.Unavailable, "down")
	}
	return artifact.SHA256Of([]byte("image")), f.files, f.err
}

func (f *fake) Tell(_ context.Context, x *Finding) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return fault.Newf(fault.Unavailable, "down")
	}
	f.told = append(f.told, x.Rule+" "+x.Path+" "+x.Container.Pod)
	return nil
}

func sumOf(t *testing.T, path string) artifact.Digest {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return artifact.SHA256Of(b)
}

// host runs a real program, and shows it to an agent as one of a container: only
// its cgroup is made up.
func host(t *testing.T, programs ...string) (in func(pid string) string, run string) {
	t.Helper()
	run = t.TempDir()
	pids := map[string]bool{}
	for _, p := range programs {
		cmd := exec.Command(p, "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		pid := strconv.Itoa(cmd.Process.Pid)
		pids[pid] = true
		for deadline := time.Now().Add(10 * time.Second); ; {
			if to, err := os.Readlink("/proc/" + pid + "/exe"); err == nil && to == p || time.Now().After(deadline) {
				break
			}
		}
	}
	at := filepath.Join(run, "containerd/io.containerd.runtime.v2.task/k8s.io", id)
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"annotations": map[string]string{
		"io.kubernetes.cri.sandbox-namespace": "shop", "io.kubernetes.cri.sandbox-name": "checkout-1", "io.kubernetes.cri.container-name": "main", "io.kubernetes.cri.image-name": "registry.example/shop@" + string(artifact.SHA256Of([]byte("image"))),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(at, "config.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return func(pid string) string {
		if pids[pid] {
			return id
		}
		return ""
	}, run
}

func copied(t *testing.T, from, more string) string {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Skip("no " + from)
	}
	to := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(to, append(b, more...), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	return to
}

// TestThreat_Agent_ForeignProgram: what the image does not hold is told of once,
// also when the server was down, the agent started anew and the file was swapped
// after it was executed; what it holds is not.
func TestThreat_Agent_ForeignProgram(t *testing.T) {
	known, foreign, changed := copied(t, "/bin/sleep", ""), copied(t, "/bin/sleep", "foreign"), copied(t, "/bin/sleep", "changed")
	in, run := host(t, known, foreign, changed)
	srv := &fake{down: true, files: threat.Files{strings.TrimPrefix(known, "/"): sumOf(t, known), strings.TrimPrefix(changed, "/"): artifact.SHA256Of([]byte("other"))}}
	// It is swapped for what the image holds, after it runs.
	if err := os.Remove(foreign); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(foreign, []byte("harmless"), 0o700); err != nil { //nolint:gosec // as a program would be
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "queue")
	start := func() *Agent {
		a, err := New(Options{Server: srv, Dir: dir, Run: run, Sweep: true})
		if err != nil {
			t.Fatal(err)
		}
		a.idIn = in
		return a
	}
	a := start()
	for range 2 {
		if err := a.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.tellOne(t.Context()); err == nil {
		t.Fatal("a server that is down took a report")
	}
	if n := a.queue.length(); n != 3 {
		t.Fatalf("%d wait, want 3", n)
	}
	a = start()
	srv.down = false
	for {
		more, err := a.tellOne(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			break
		}
	}
	want := map[string]bool{"foreign " + foreign + " checkout-1": true, "changed " + changed + " checkout-1": true}
	got := map[string]bool{}
	for _, x := range srv.told {
		got[x] = true
	}
	if d := cmp.Diff(want, got); d != "" || len(srv.told) != 2 {
		t.Error(srv.told, d)
	}
}

// TestThreat_Agent_UnknownIsUnknown: an image whose files nobody knows makes an
// unknown, never silence.
func TestThreat_Agent_UnknownIsUnknown(t *testing.T) {
	in, run := host(t, copied(t, "/bin/sleep", ""))
	srv := &fake{err: fault.Newf(fault.NotFound, "the registry does not hold it")}
	a, err := New(Options{Server: srv, Dir: filepath.Join(t.TempDir(), "q"), Run: run, Sweep: true})
	if err != nil {
		t.Fatal(err)
	}
	a.idIn = in
	if err := a.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.tellOne(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.miss(3, "too many")
	if _, err := a.tellOne(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"unknown  checkout-1", "unwatched  "}, srv.told); d != "" {
		t.Error(d)
	}
}

func TestQueueIsBounded(t *testing.T) {
	q, err := openQueue(filepath.Join(t.TempDir(), "q"))
	if err != nil {
		t.Fatal(err)
	}
	q.names = make([]string, maxQueue)
	if err := q.put(&Execution{}); err == nil {
		t.Error("a full queue took one more")
	}
}
