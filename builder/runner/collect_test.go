package runner_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/builder/runner"
	"assay/internal/clock"
	"assay/internal/fault"

	"github.com/google/go-cmp/cmp"
)

var now = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

const containerHex = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// machine writes what a system shows of itself below a folder.
func machine(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	all := map[string]string{
		"etc/machine-id":                 "0123456789abcdef0123456789abcdef\n",
		"etc/os-release":                 "ID=debian\nVERSION_ID=\"12\"\n",
		"proc/sys/kernel/random/boot_id": "11111111-2222-3333-4444-555555555555\n",
		"proc/sys/kernel/osrelease":      "6.1.0-test\n",
		"proc/uptime":                    "3600.50 100.0\n",
		"proc/1/stat":                    "1 (a) b) S 0 0 0 0 -1 4194560 1 2 0 4 5 9 1 7 20 0 13 0 340000 53 49\n",
		"proc/meminfo":                   "MemTotal:  2048 kB\nMemAvailable: 1024 kB\n",
		"proc/cpuinfo":                   "flags\t: fpu hypervisor sse\n",
		"proc/loadavg":                   "0.50 0.40 0.39 1/95 21169\n",
		"proc/self/cgroup":               "0::/\n",
		"sys/class/dmi/id/product_name":  "Standard PC\n",
	}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		if text == "" {
			continue
		}
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func env(m map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) { v, ok := m[k]; return v, ok }
}

func options(t *testing.T, root string) runner.Options {
	return runner.Options{
		InvocationID: "bld_1", Dir: t.TempDir(), Clock: clock.Fixed(now), Root: root, Getenv: env(nil),
		Marks: []runner.Place{{Name: "home", Dir: t.TempDir()}, {Name: "tmp", Dir: t.TempDir()}},
	}
}

func collect(t *testing.T, o runner.Options) *runner.Evidence {
	t.Helper()
	e, err := runner.Collect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Finish(t.Context(), runner.Finished{Caches: o.Caches, Clock: o.Clock}); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestMachine(t *testing.T) {
	e := collect(t, options(t, machine(t, nil)))
	m := e.Machine
	if m.Kind != "vm" || m.BootAge != 3600 || m.Age != 200 || m.Kernel != "6.1.0-test" || m.OSRelease != "debian 12" || m.Memory != 2<<20 {
		t.Errorf("machine: %+v", m)
	}
	if want := now.Add(-3601 * time.Second); !m.BootedOn.Equal(want) {
		t.Errorf("booted on %v, want %v", m.BootedOn, want)
	}
	for _, id := range []string{m.ID, m.BootID, m.Instance} {
		if !strings.HasPrefix(id, "sha256:") || strings.Contains(id, "0123456789abcdef0123456789abcdef") {
			t.Errorf("identifier %q", id)
		}
	}
	if e.Load == nil || e.Load.Load1 != 0.5 || e.Load.MemFree != 1<<20 || e.Load.DiskTotal == 0 {
		t.Errorf("load %+v", e.Load)
	}
}

// Another container on the same boot is another instance, and so is another boot
// of the same machine.
func TestInstance(t *testing.T) {
	base := collect(t, options(t, machine(t, nil))).Machine
	again := collect(t, options(t, machine(t, nil))).Machine
	if base.Instance != again.Instance || base.ID != again.ID {
		t.Error("the same machine looks like another")
	}
	inside := collect(t, options(t, machine(t, map[string]string{"proc/self/cgroup": "0::/system.slice/docker-" + containerHex + ".scope\n"})))
	if m := inside.Machine; m.BootID != base.BootID || m.Instance == base.Instance || m.Kind != "container" || inside.Image.Container != containerHex {
		t.Errorf("container: %+v", m)
	}
	booted := collect(t, options(t, machine(t, map[string]string{"proc/sys/kernel/random/boot_id": "99999999-2222-3333-4444-555555555555"}))).Machine
	if booted.Instance == base.Instance || booted.ID != base.ID {
		t.Error("another boot looks like the same")
	}
}

// A machine that hides says so, and the build goes on.
func TestNothingToSee(t *testing.T) {
	e := collect(t, options(t, t.TempDir()))
	if e.Machine.Kind != "unknown" || e.Machine.Instance != "" || len(e.Problems) < 2 {
		t.Errorf("machine %+v, problems %q", e.Machine, e.Problems)
	}
}

// TestThreat_Runner_Reused: a runner that was used shows, also when most of its
// marks were cleaned away.
func TestThreat_Runner_Reused(t *testing.T) {
	o := options(t, machine(t, nil))
	if e := collect(t, o); !e.Use.Fresh || e.Use.Builds != 0 {
		t.Fatalf("first build: %+v", e.Use)
	}
	if e := collect(t, o); e.Use.Fresh || e.Use.Builds != 1 || !e.Use.First.Equal(now) {
		t.Fatalf("second build: %+v", e.Use)
	}
	left, err := os.ReadDir(o.Marks[0].Dir)
	if err != nil || len(left) != 1 {
		t.Fatalf("%d files in a place, %v", len(left), err)
	}
	if err := os.Remove(filepath.Join(o.Marks[0].Dir, left[0].Name())); err != nil {
		t.Fatal(err)
	}
	if e := collect(t, o); e.Use.Fresh || e.Use.Builds != 2 {
		t.Fatalf("third build, one mark wiped: %+v", e.Use)
	}
	// What is no mark is not taken for its absence.
	for _, p := range o.Marks {
		if err := os.WriteFile(filepath.Join(p.Dir, left[0].Name()), []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if e := collect(t, o); e.Use.Fresh || e.Use.Builds < 1 || e.Use.Marks[0].State != "unreadable" {
		t.Fatalf("overwritten marks: %+v", e.Use)
	}
}

// A link that another user left in a shared folder is replaced, not followed.
func TestThreat_Runner_MarkIsLink(t *testing.T) {
	o := options(t, machine(t, nil))
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(o.Marks[1].Dir, ".assay-runner-mark")); err != nil {
		t.Fatal(err)
	}
	if e := collect(t, o); e.Use.Fresh {
		t.Error("a machine with something in the mark's place counts as fresh")
	}
	if b, _ := os.ReadFile(victim); string(b) != "precious" {
		t.Errorf("the link was followed: %q", b)
	}
}

// A place inside of the build's own folder says nothing; without any other the
// machine never counts as fresh.
func TestNoPlaceOutside(t *testing.T) {
	o := options(t, machine(t, nil))
	o.Marks = []runner.Place{{Name: "home", Dir: o.Dir}}
	if e := collect(t, o); e.Use.Fresh || len(e.Use.Marks) != 0 || len(e.Problems) == 0 {
		t.Errorf("use %+v, problems %q", e.Use, e.Problems)
	}
}

func TestThreat_Runner_SecretNeverPublished(t *testing.T) {
	o := options(t, machine(t, nil))
	o.Getenv = env(map[string]string{
		"RUNNER_NAME": "ghp_0123456789abcdef0123456789", "GITHUB_TOKEN": "plain", "ImageOS": "ubuntu24", "ImageVersion": "2026\x1b[31m1",
		"GITHUB_ACTIONS": "true", "HOME": "/home/somebody",
	})
	e := collect(t, o)
	b, err := e.JSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"ghp_", "plain", "somebody", "\x1b"} {
		if strings.Contains(string(b), bad) {
			t.Errorf("%q was published: %s", bad, b)
		}
	}
	if e.Image.Name != "ubuntu24" || e.Claims["GITHUB_ACTIONS"] != "true" {
		t.Errorf("image %+v, claims %v", e.Image, e.Claims)
	}
	// Also what others wrote is not let in.
	if _, err := runner.Parse([]byte(strings.Replace(string(b), "ubuntu24", "ghp_0123456789abcdef0123456789", 1))); !errors.Is(err, fault.Invalid) {
		t.Errorf("a document with a secret was read: %v", err)
	}
}

func TestCaches(t *testing.T) {
	o := options(t, machine(t, nil))
	dir := t.TempDir()
	o.Caches = []runner.CacheSpec{{Key: "mod", Path: filepath.Join(dir, "mod")}, {Key: "none", Path: filepath.Join(dir, "none")}}
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, "mod"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "mod", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	e, err := runner.Collect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	write("a", "1")
	if err := e.Finish(t.Context(), runner.Finished{Caches: o.Caches}); err != nil {
		t.Fatal(err)
	}
	if c := e.Caches[0]; c.Restored != "" || c.Saved == "" || c.Files != 1 || c.Bytes != 1 || e.Caches[1].Saved != "" {
		t.Errorf("first: %+v", e.Caches)
	}
	second := collect(t, o)
	if c := second.Caches[0]; c.Restored != e.Caches[0].Saved || c.Saved != c.Restored {
		t.Errorf("unchanged cache: %+v", c)
	}
	if err := os.Chtimes(filepath.Join(dir, "mod", "a"), now, now); err != nil {
		t.Fatal(err)
	}
	if c := collect(t, o).Caches[0]; c.Restored != e.Caches[0].Saved {
		t.Error("a time counts as content")
	}
	write("a", "2")
	if c := collect(t, o).Caches[0]; c.Restored == e.Caches[0].Saved {
		t.Error("another content has the same digest")
	}
	// Names cannot run into one another.
	write("a", "x")
	one, _ := runner.HashCache(t.Context(), dir)
	write("a\nx", "x")
	two, _ := runner.HashCache(t.Context(), dir)
	if one.Digest == two.Digest {
		t.Error("a file was added and the digest stayed")
	}
}

func TestClock(t *testing.T) {
	o := options(t, machine(t, nil))
	o.Ask = func(context.Context) (time.Time, time.Duration, string, error) {
		return now.Add(-90 * time.Second), time.Second, "server", nil
	}
	if diff := cmp.Diff(&runner.Clock{Source: "server", Offset: 90_000, Uncertainty: 1000}, collect(t, o).Clock); diff != "" {
		t.Error(diff)
	}
	o.Ask = func(context.Context) (time.Time, time.Duration, string, error) {
		return time.Time{}, 0, "", errors.New("no way")
	}
	if e := collect(t, o); e.Clock != nil || !strings.Contains(strings.Join(e.Problems, ";"), "no way") {
		t.Errorf("clock %+v, problems %q", e.Clock, e.Problems)
	}
}

func TestRoundTrip(t *testing.T) {
	e := collect(t, options(t, machine(t, nil)))
	b, err := e.JSON()
	if err != nil {
		t.Fatal(err)
	}
	got, err := runner.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"build":{"invocationId":"bld_1","startedOn":"2026-11-22T10:00:00Z"},"machine":{"kind":"vm","os":"linux","arch":"amd64"},"image":{},"use":{"fresh":true,"builds":0}}`))
	f.Add([]byte(`{"build":{"invocationId":"x","startedOn":"2026-11-22T10:00:00Z"},"machine":{"kind":"host","os":"","arch":""},"image":{},"use":{"fresh":false,"builds":3},"caches":[{"key":"k","files":1,"bytes":-1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := runner.Parse(b)
		if err != nil {
			return
		}
		out, err := e.JSON()
		if err != nil {
			t.Fatalf("read and not written: %v", err)
		}
		if _, err := runner.Parse(out); err != nil {
			t.Fatalf("written and not read: %v", err)
		}
	})
}
