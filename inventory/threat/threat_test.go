package threat

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/inventory"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
)

func digest(n int) artifact.Digest { return artifact.Digest(fmt.Sprintf("sha256:%064x", n)) }

const falcoLine = `{"uuid":"c0ff","output":"12:00:00.1: Critical Executing binary not part of base image","priority":"Critical","rule":"Drop and execute new binary in container","source":"syscall","tags":["mitre"],"time":"2026-03-03T12:00:00.123456789Z","hostname":"n1",
 "output_fields":{"container.id":"0123456789ab","container.image.repository":"registry.example/shop/checkout","container.image.tag":"v1","container.name":"main","evt.time":1772539200123456789,"k8s.ns.name":"shop","k8s.pod.name":"checkout-1","proc.cmdline":"x\u001b[2J -v","proc.exepath":"/tmp/x","user.uid":0,"proc.pname":null}}`

const tetragonLine = `{"process_kprobe":{"process":{"exec_id":"bjE6","pid":7,"uid":0,"cwd":"/","binary":"/usr/bin/cat","arguments":"/etc/shadow","start_time":"2026-03-03T12:00:00Z","docker":"0123456789ab",
 "pod":{"namespace":"shop","name":"checkout-1","container":{"id":"containerd://0123456789abcdef","name":"main","image":{"id":"registry.example/shop/checkout@sha256:%064x","name":"registry.example/shop/checkout:v1"}},"workload":"checkout","workload_kind":"Deployment"}},
 "function_name":"fd_install","action":"KPROBE_ACTION_SIGKILL","policy_name":"file-monitoring"},"node_name":"n1","time":"2026-03-03T12:00:00Z"}`

func TestRead(t *testing.T) {
	at := time.Date(2026, 3, 3, 12, 0, 0, 123456789, time.UTC)
	got, skipped, err := Read(Falco, "prod", []byte(falcoLine))
	if err != nil || skipped != 0 {
		t.Fatal(skipped, err)
	}
	want := []Report{{
		Source: Falco, Rule: "Drop and execute new binary in container", Priority: "critical", Claimed: at, Cluster: "prod", Node: "n1", Namespace: "shop", Pod: "checkout-1", Container: "main",
		ContainerID: "0123456789ab", Image: "registry.example/shop/checkout:v1", Process: "x\x1b[2J -v", Path: "/tmp/x", Message: "12:00:00.1: Critical Executing binary not part of base image",
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	exec := `{"process_exec":{"process":{"binary":"/bin/sh"}},"node_name":"n1","time":"2026-03-03T12:00:00Z"}`
	got, skipped, err = Read(Tetragon, "prod", []byte(exec+"\n"+fmt.Sprintf(tetragonLine, 5)+"\n"+exec))
	if err != nil || skipped != 2 {
		t.Fatal(skipped, err)
	}
	want = []Report{{
		Source: Tetragon, Rule: "file-monitoring", Priority: "critical", Claimed: at.Truncate(time.Second), Cluster: "prod", Node: "n1", Namespace: "shop", Pod: "checkout-1", Container: "main",
		ContainerID: "0123456789abcdef", Image: "registry.example/shop/checkout:v1", Digest: digest(5), Process: "/usr/bin/cat /etc/shadow", Path: "/usr/bin/cat", Message: "fd_install KPROBE_ACTION_SIGKILL",
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestThreat_Runtime_HostileEvents: what is no event, or too much, is refused.
func TestThreat_Runtime_HostileEvents(t *testing.T) {
	for name, c := range map[string]struct {
		source Source
		text   string
		kind   error
	}{
		"nothing":           {Falco, " \n", fault.Invalid},
		"no JSON":           {Falco, "Notice a shell", fault.Invalid},
		"cut off":           {Falco, falcoLine[:200], fault.Invalid},
		"no rule":           {Falco, `{"priority":"Notice"}`, fault.Invalid},
		"unknown priority":  {Falco, `{"rule":"r","priority":"Harmless"}`, fault.Invalid},
		"a member twice":    {Falco, `{"rule":"r","priority":"Critical","priority":"Debug"}`, fault.Invalid},
		"of another sensor": {Tetragon, falcoLine, fault.Invalid},
		"one of many":       {Falco, falcoLine + `{"a":1}`, fault.Invalid},
		"deep":              {Falco, strings.Repeat(`{"output_fields":`, 100_000), fault.Invalid},
		"many":              {Falco, strings.Repeat(`{"rule":"r","priority":"Debug"}`, MaxBatch+1), fault.TooLarge},
		"an unknown source": {"sysdig", falcoLine, fault.Invalid},
		"large":             {Falco, strings.Repeat(" ", MaxBytes+1), fault.TooLarge},
	} {
		if _, _, err := Read(c.source, "prod", []byte(c.text)); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(true, []byte(falcoLine))
	f.Add(false, fmt.Appendf(nil, tetragonLine, 5))
	f.Fuzz(func(t *testing.T, falco bool, b []byte) {
		source := Tetragon
		if falco {
			source = Falco
		}
		list, _, err := Read(source, "prod", b)
		if err != nil {
			return
		}
		for i := range list {
			list[i].clean()
			if err := list[i].validate(); err != nil {
				t.Fatalf("%+v: %v", list[i], err)
			}
		}
	})
}

func TestTake(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(t.Context(), event.Migrations, inventory.Migrations, Migrations); err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		inv := inventory.New(db, inventory.Options{})
		if err := db.Update(ctx, func(tx *store.Tx) error {
			_, err := inv.Observe(ctx, tx, inventory.Snapshot{Cluster: "prod", Environment: "production", Workloads: []inventory.Workload{
				{Key: inventory.Key{Namespace: "shop", Kind: "Deployment", Name: "checkout", Instance: "checkout-1", Container: "main"}, Image: "registry.example/shop/checkout:v1", Digest: digest(1), Node: "n1"},
				{Key: inventory.Key{Namespace: "shop", Kind: "Deployment", Name: "checkout", Instance: "checkout-1", Container: "side"}, Digest: digest(2)},
			}})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		s := New(db, func(_ context.Context, _ *store.Tx, cluster, namespace string, d artifact.Digest) (string, string, error) {
			return "denied", "dec_" + cluster + namespace + string(d[len(d)-1:]), nil
		})
		list, _, err := Read(Tetragon, "prod", fmt.Appendf(nil, tetragonLine, 5))
		if err != nil {
			t.Fatal(err)
		}
		stranger := Report{Source: Agent, Rule: RuleForeign, Cluster: "prod", Pod: "checkout-1", Namespace: "shop", ContainerID: "ff", Path: "/tmp/x\n", FileDigest: digest(9)} // which of two containers?
		got, err := s.Take(ctx, "robot:a", append(list, list[0], stranger))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(Taken{Told: 2, Again: 1, Joined: 2}, got); d != "" {
			t.Error(d)
		}
		bodies := storedEvents(t, db)
		if len(bodies) != 2 {
			t.Fatalf("%d events: %q", len(bodies), bodies)
		}
		for i, want := range [][]string{
			{"runtime.reported", string(digest(1)), `"kind":"Deployment"`, `"name":"checkout"`, `"joined":true`, `"state":"denied"`, `"decision":"dec_prodshop1"`, `"reported_digest":"` + string(digest(5)) + `"`},
			{"runtime.executed", `"joined":false`, `"file":"` + string(digest(9)) + `"`, `"path":"/tmp/x "`},
		} {
			for _, w := range want {
				if !strings.Contains(bodies[i], w) {
					t.Errorf("event %d lacks %s: %s", i, w, bodies[i])
				}
			}
		}
		seen, err := s.List(ctx, digest(1), "", 10)
		if err != nil || len(seen) != 1 || seen[0].Times != 2 || seen[0].Name != "checkout" {
			t.Errorf("%+v, %v", seen, err)
		}
		if _, err := s.Take(ctx, "robot:a", []Report{{Source: Agent, Rule: RuleForeign, Cluster: "prod", Digest: "sha256:0"}}); !errors.Is(err, fault.Invalid) {
			t.Error(err)
		}
	})
}

func storedEvents(t *testing.T, db *store.DB) (out []string) {
	t.Helper()
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(t.Context(), `SELECT kind, digest, body FROM event_pending WHERE kind LIKE 'runtime.%' ORDER BY time, ord`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var kind, d, b string
			if err := rows.Scan(&kind, &d, &b); err != nil {
				return err
			}
			out = append(out, kind+" "+d+" "+b)
		}
		return rows.Err()
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

type entry struct {
	name, content, link string
	mode                int64
	kind                byte
}

func layerOf(t *testing.T, packed bool, list ...entry) Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range list {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if err := w.WriteHeader(&tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.content)), Typeflag: e.kind, Linkname: e.link}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	raw := b.Bytes()
	if packed {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		if _, err := w.Write(raw); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		raw = z.Bytes()
	}
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }
}

func sum(s string) artifact.Digest { return artifact.SHA256Of([]byte(s)) }

func TestUnpack(t *testing.T) {
	got, err := Unpack(t.Context(), []Layer{
		layerOf(t, true, entry{name: "./bin/sh", content: "shell", mode: 0o755}, entry{name: "etc/passwd", content: "root", mode: 0o644}, entry{name: "lib/x.so", content: "\x7fELF1", mode: 0o644},
			entry{name: "opt/a/run", content: "a", mode: 0o755}, entry{name: "opt/b/run", content: "b", mode: 0o755}, entry{name: "run.sh", content: "#!/bin/sh", mode: 0o644}, entry{name: "gone", content: "g", mode: 0o755}, entry{name: "plain", content: "p", mode: 0o755}),
		layerOf(t, false, entry{name: "opt/a/.wh..wh..opq"}, entry{name: "opt/a/new", content: "n", mode: 0o700}, entry{name: "opt/.wh.b"}, entry{name: ".wh.gone"}, entry{name: "plain", content: "p", mode: 0o644},
			entry{name: "bin/bash", link: "/bin/sh", kind: tar.TypeLink}, entry{name: "../../bin/up", content: "u", mode: 0o755}),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Files{"bin/sh": sum("shell"), "bin/bash": sum("shell"), "lib/x.so": sum("\x7fELF1"), "opt/a/new": sum("n"), "run.sh": sum("#!/bin/sh"), "bin/up": sum("u")}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := Unpack(t.Context(), []Layer{func() (io.ReadCloser, error) { return os.Open(filepath.Join(t.TempDir(), "none")) }}); err == nil {
		t.Error("a layer that is not there was read")
	}
	if _, err := Unpack(t.Context(), []Layer{func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("no tar at all")), nil }}); !errors.Is(err, fault.Invalid) {
		t.Error(err)
	}
}

func TestKeep(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(t.Context(), event.Migrations, inventory.Migrations, Migrations); err != nil {
			t.Fatal(err)
		}
		s := New(db, nil)
		if f, err := s.Kept(t.Context(), digest(1)); f != nil || err != nil {
			t.Fatal(f, err)
		}
		want := Files{"bin/sh": digest(7)}
		if err := s.Keep(t.Context(), digest(1), want); err != nil {
			t.Fatal(err)
		}
		got, err := s.Kept(t.Context(), digest(1))
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Error(d, err)
		}
	})
}
