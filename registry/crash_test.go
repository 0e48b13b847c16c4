package registry_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/artifact"
	"assay/identity"
	"assay/registry/registrytest"
	"assay/store/storetest"
)

const crashEnv = "ASSAY_REGISTRY_CRASH_CHILD"

// TestCrashChild is the process that TestThreat_Store_KilledDuringPushes kills:
// a registry in a folder, which says on stdout where it listens.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashEnv)
	if dir == "" {
		t.Skip("runs as a child process only")
	}
	start := time.Now()
	s := registrytest.StartIn(t, storetest.OpenDSN(t, "sqlite:"+dir+"/assay.db"), dir+"/blobs")
	s.Grant(t, "owner", identity.RolePublisher, "**")
	fmt.Printf("READY %s %s %d\n", s.URL, s.Token(t, "owner", identity.AudienceRegistry), time.Since(start).Milliseconds())
	select {}
}

// TestThreat_Store_KilledDuringPushes kills the registry while clients push, and
// then asks it for everything that it had acknowledged: each blob with its
// bytes, each manifest, each tag at least as new as acknowledged. The number of
// kills is ASSAY_CRASH_CYCLES, else 3.
func TestThreat_Store_KilledDuringPushes(t *testing.T) {
	cycles := 3
	if v, err := strconv.Atoi(os.Getenv("ASSAY_CRASH_CYCLES")); err == nil {
		cycles = v
	}
	if testing.Short() {
		cycles = 1
	}
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var acked acknowledged
	for cycle := range cycles {
		child := startChild(t, dir)
		acked.check(t, child)
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for worker := range 4 {
			wg.Go(func() { acked.push(child, cycle, worker, stop) })
		}
		time.Sleep(time.Duration(50+rand.IntN(250)) * time.Millisecond)
		child.kill(t)
		close(stop)
		wg.Wait()
	}
	child := startChild(t, dir)
	acked.check(t, child)
	if len(acked.tags) == 0 {
		t.Fatal("nothing was acknowledged in any cycle")
	}
	t.Logf("%d cycles, %d blobs and %d manifests acknowledged, none lost", cycles, len(acked.blobs), len(acked.manifests))
	child.kill(t)
}

type child struct {
	cmd        *exec.Cmd
	url, token string
}

func startChild(t *testing.T, dir string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), crashEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: cmd}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var ms int
		said.WriteString(lines.Text() + "\n")
		if _, err := fmt.Sscanf(lines.Text(), "READY %s %s %d", &c.url, &c.token, &ms); err == nil {
			if ms > 2000 {
				t.Errorf("ready %d ms after the kill, want at most 2,000", ms)
			}
			return c
		}
	}
	t.Fatalf("the child ended before it was ready:\n%s", said.String())
	return nil
}

func (c *child) kill(t *testing.T) {
	t.Helper()
	if err := c.cmd.Process.Kill(); err != nil { // SIGKILL
		t.Fatal(err)
	}
	_ = c.cmd.Wait()
}

func (c *child) do(method, path, body string, headers ...string) (*http.Response, error) {
	req, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth("x", c.token)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return http.DefaultClient.Do(req)
}

// acknowledged is what the registry has answered 201 to.
type acknowledged struct {
	mu        sync.Mutex
	blobs     map[artifact.Digest]string
	manifests map[artifact.Digest]string
	tags      map[string]int // the newest generation acknowledged
}

func (a *acknowledged) push(c *child, cycle, worker int, stop <-chan struct{}) {
	tag := fmt.Sprintf("worker%d", worker)
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		gen := cycle*1_000_000 + i
		content := fmt.Sprintf("%d %d %s", worker, gen, strings.Repeat("x", rand.IntN(200_000)))
		d := artifact.SHA256Of([]byte(content))
		if !created(c.do("POST", "/v2/r/blobs/uploads/?digest="+string(d), content)) {
			return
		}
		a.note(func() { a.blobs[d] = content })
		m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/b","digest":%q,"size":%d},"layers":[],"annotations":{"gen":"%d"}}`,
			registrytest.ImageType, d, len(content), gen)
		if !created(c.do("PUT", "/v2/r/manifests/"+tag, m, "Content-Type", registrytest.ImageType)) {
			return
		}
		a.note(func() { a.manifests[artifact.SHA256Of([]byte(m))] = m; a.tags[tag] = gen })
	}
}

func created(r *http.Response, err error) bool {
	if err != nil {
		return false
	}
	_ = r.Body.Close()
	return r.StatusCode == http.StatusCreated
}

func (a *acknowledged) note(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.blobs == nil {
		a.blobs, a.manifests, a.tags = map[artifact.Digest]string{}, map[artifact.Digest]string{}, map[string]int{}
	}
	f()
}

func (a *acknowledged) check(t *testing.T, c *child) {
	t.Helper()
	get := func(path string) string {
		t.Helper()
		r, err := c.do("GET", path, "")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Body.Close() }()
		var b strings.Builder
		if _, err := bufio.NewReader(r.Body).WriteTo(&b); err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("acknowledged and lost: GET %s: %s %v", path, r.Status, err)
		}
		return b.String()
	}
	for d, content := range a.blobs {
		if get("/v2/r/blobs/"+string(d)) != content {
			t.Fatalf("blob %s came back changed", d)
		}
	}
	for d, m := range a.manifests {
		if get("/v2/r/manifests/"+string(d)) != m {
			t.Fatalf("manifest %s came back changed", d)
		}
	}
	for tag, gen := range a.tags {
		var found int
		_, rest, _ := strings.Cut(get("/v2/r/manifests/"+tag), `"gen":"`)
		if _, err := fmt.Sscanf(rest, "%d", &found); err != nil || found < gen {
			t.Fatalf("tag %s is at %d, acknowledged at %d", tag, found, gen)
		}
	}
}
