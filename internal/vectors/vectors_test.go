package vectors

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// recorder stands for the test that calls Dir; Skip and Fatal end its
// goroutine, as in the real one.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper() {}
func (r *recorder) Skipf(f string, a ...any) {
	r.skipped = fmt.Sprintf(f, a...)
	runtime.Goexit()
}
func (r *recorder) Fatalf(f string, a ...any) {
	r.failed = fmt.Sprintf(f, a...)
	runtime.Goexit()
}

func dir(t *testing.T, name string) (r recorder, got string) {
	r.TB = t
	done := make(chan struct{})
	go func() {
		defer close(done)
		got = Dir(&r, name)
	}()
	<-done
	return r, got
}

func TestDir(t *testing.T) {
	base := t.TempDir()
	want := filepath.Join(base, "vectors", "hostile", "json")
	if err := os.MkdirAll(want, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv(envShared, base)

	t.Setenv(envRequire, "")
	if r, got := dir(t, "hostile/json"); got != want || r.skipped+r.failed != "" {
		t.Errorf("present: %q (%q, %q), want %q", got, r.skipped, r.failed, want)
	}
	if r, _ := dir(t, "absent"); !strings.Contains(r.skipped, filepath.Join(base, "vectors", "absent")) || r.failed != "" {
		t.Errorf("absent: skipped %q, failed %q; want a skip that names the folder", r.skipped, r.failed)
	}
	t.Setenv(envRequire, "1")
	if r, _ := dir(t, "absent"); r.failed == "" || r.skipped != "" {
		t.Errorf("absent and required: skipped %q, failed %q; want a failure", r.skipped, r.failed)
	}
}

// Without the override the data lies beside the module root.
func TestDefaultPlace(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "internal", "vectors", "vectors.go")); err != nil {
		t.Errorf("module root %s: %v", root, err)
	}
}

type errors struct {
	testing.TB
	msgs []string
}

func (e *errors) Helper()                   {}
func (e *errors) Errorf(f string, a ...any) { e.msgs = append(e.msgs, fmt.Sprintf(f, a...)) }

var sink []byte

func TestWithin(t *testing.T) {
	for name, c := range map[string]struct {
		fn   func()
		want string
	}{
		"fine":   {func() {}, ""},
		"greedy": {func() { sink = make([]byte, 4<<20) }, "allocated"},
		"slow":   {func() { time.Sleep(60 * time.Millisecond) }, "took"},
	} {
		e := &errors{TB: t}
		Within(e, 50*time.Millisecond, 1<<20, c.fn)
		if got := strings.Join(e.msgs, "; "); (got == "") != (c.want == "") || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
