package rebuild_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/builder"
	"assay/builder/rebuild"
	"assay/internal/fault"
)

func gitIn(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// project is a git repository with a script that builds.
func project(t *testing.T, script string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	dir := t.TempDir()
	gitIn(t, dir, "init", "-q", "-b", "main")
	if err := os.WriteFile(filepath.Join(dir, "build.sh"), []byte("#!/bin/sh\nset -e\n"+script), 0o755); err != nil { //nolint:gosec // a script
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".gitignore"), []byte("out\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	gitIn(t, dir, "add", ".")
	gitIn(t, dir, "commit", "-q", "-m", "one")
	return dir
}

// build runs the project's script as assay run does, and gives its provenance as
// a statement.
func build(t *testing.T, dir string, env ...string) *attestation.Statement {
	t.Helper()
	run, err := builder.Build(t.Context(), builder.Options{Dir: dir, Command: []string{"./build.sh"}, Products: []string{"out"}, Env: env})
	if err != nil {
		t.Fatal(err)
	}
	p, err := run.Provenance("https://builder.test", "test")
	if err != nil {
		t.Fatal(err)
	}
	return &attestation.Statement{
		Type: attestation.StatementV1, PredicateType: attestation.PredicateProvenanceV1, Predicate: p,
		Subject: []attestation.Subject{{Name: "out", Digest: run.Products[0].Digest.Set()}},
	}
}

func again(t *testing.T, st *attestation.Statement, o rebuild.Options) (*rebuild.Rebuild, error) {
	t.Helper()
	plan, err := rebuild.NewPlan(st, rebuild.Of{Attestation: "att_x", Signer: "ci"})
	if err != nil {
		t.Fatal(err)
	}
	o.Plan = plan
	return rebuild.Run(t.Context(), o)
}

func TestRebuild(t *testing.T) {
	dir := project(t, `test -z "$LEFT_OVER"; printf 'made with %s by %s\n' "$FLAVOUR" "$(cat build.sh | wc -c)" > out`)
	t.Setenv("FLAVOUR", "mint")
	st := build(t, dir, "FLAVOUR")
	t.Setenv("FLAVOUR", "of this machine")
	t.Setenv("LEFT_OVER", "x")
	// What happens to the repository later does not matter.
	if err := os.WriteFile(filepath.Join(dir, "build.sh"), []byte("#!/bin/sh\necho evil > out\n"), 0o755); err != nil { //nolint:gosec // a script
		t.Fatal(err)
	}
	r, err := again(t, st, rebuild.Options{Repo: dir})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Identical() || len(r.Env) != 1 || r.Env[0] != "FLAVOUR" || r.Of.BuilderID != "https://builder.test" {
		t.Errorf("%+v", r)
	}
	b, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	got, err := rebuild.Parse(b)
	if err != nil || !got.Identical() {
		t.Errorf("%v", err)
	}
	if gitIn(t, dir, "status", "--porcelain") != "M build.sh" {
		t.Error("the repository was changed")
	}
}

func TestRebuildDiffers(t *testing.T) {
	dir := project(t, `date +%s%N > out; echo the same >> out`)
	st := build(t, dir)
	r, err := again(t, st, rebuild.Options{Repo: dir, Originals: []string{filepath.Join(dir, "out")}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Identical() || len(r.Products[0].Differences) == 0 || r.Products[0].Differences[0].What != "bytes" {
		t.Errorf("%+v", r.Products)
	}
}

func TestRebuildFails(t *testing.T) {
	dir := project(t, `test ! -e "$HOME/once"; echo x > out; test -n "$MACHINE"`)
	t.Setenv("MACHINE", "here")
	st := build(t, dir)
	if _, err := again(t, st, rebuild.Options{Repo: dir}); !errors.Is(err, fault.Denied) {
		t.Errorf("without the variable that it needs: %v", err)
	}
	if r, err := again(t, st, rebuild.Options{Repo: dir, Pass: []string{"MACHINE"}}); err != nil || !r.Identical() || !slices.Equal(r.Passed, []string{"MACHINE"}) {
		t.Errorf("passed on: %v", err)
	}
}

// TestThreat_Rebuild_OtherSource: what is checked out is the commit of the
// provenance, and a repository that does not have it is refused.
func TestThreat_Rebuild_OtherSource(t *testing.T) {
	dir := project(t, "echo good > out")
	st := build(t, dir)
	other := project(t, "echo evil > out")
	if _, err := again(t, st, rebuild.Options{Repo: other}); !errors.Is(err, fault.NotFound) {
		t.Errorf("another repository: %v", err)
	}
	// An object whose content was swapped below its name.
	blob := gitIn(t, dir, "rev-parse", "HEAD:build.sh")
	evil := gitIn(t, other, "rev-parse", "HEAD:build.sh")
	src, err := os.ReadFile(filepath.Join(other, ".git", "objects", evil[:2], evil[2:]))
	if err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(dir, ".git", "objects", blob[:2], blob[2:])
	if err := os.Chmod(victim, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(victim, src, 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := again(t, st, rebuild.Options{Repo: dir}); err == nil {
		t.Errorf("a swapped object was built: %+v", r.Products)
	}
}

func TestThreat_Rebuild_RefusedProvenance(t *testing.T) {
	good := build(t, project(t, "echo x > out"))
	change := func(path string, v any) *attestation.Statement {
		var doc map[string]any
		if err := json.Unmarshal(good.Predicate, &doc); err != nil {
			t.Fatal(err)
		}
		at := doc
		keys := strings.Split(path, ".")
		for _, k := range keys[:len(keys)-1] {
			at = at[k].(map[string]any)
		}
		at[keys[len(keys)-1]] = v
		b, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		st := *good
		st.Predicate = b
		return &st
	}
	named := func(name string) *attestation.Statement {
		st := *good
		st.Subject = []attestation.Subject{{Name: name, Digest: good.Subject[0].Digest}}
		return &st
	}
	for name, st := range map[string]*attestation.Statement{
		"unknown build type":    change("buildDefinition.buildType", "https://evil.test/run-anything/v1"),
		"unknown parameter":     change("buildDefinition.externalParameters.user", "root"),
		"folder outside":        change("buildDefinition.externalParameters.dir", "../.."),
		"absolute folder":       change("buildDefinition.externalParameters.dir", "/etc"),
		"no command":            change("buildDefinition.externalParameters.command", []any{}),
		"command of numbers":    change("buildDefinition.externalParameters.command", []any{1}),
		"secret variable":       change("buildDefinition.externalParameters.env", map[string]any{"API_TOKEN": "x"}),
		"broken variable":       change("buildDefinition.externalParameters.env", map[string]any{"A=B": "x"}),
		"another machine":       change("buildDefinition.internalParameters.arch", "s390x"),
		"no source":             change("buildDefinition.resolvedDependencies", []any{}),
		"git's ext protocol":    change("buildDefinition.externalParameters.source", map[string]any{"uri": "git+ext::sh -c evil", "digest": map[string]any{"gitCommit": strings.Repeat("a", 40)}}),
		"dirty source":          change("buildDefinition.resolvedDependencies", []any{map[string]any{"name": "source", "digest": map[string]any{"gitCommit": strings.Repeat("a", 40)}, "annotations": map[string]any{"dirty": true}}}),
		"commit that is a flag": change("buildDefinition.resolvedDependencies", []any{map[string]any{"name": "source", "digest": map[string]any{"gitCommit": "--upload-pack=evil"}}}),
		"product outside":       named("../out"),
		"absolute product":      named("/etc/passwd"),
		"only an image":         named("127.0.0.1:5000/team/app"),
	} {
		t.Run(name, func(t *testing.T) {
			if plan, err := rebuild.NewPlan(st, rebuild.Of{}); err == nil {
				t.Errorf("taken: %+v", plan)
			}
		})
	}
	if _, err := rebuild.NewPlan(good, rebuild.Of{}); err != nil {
		t.Errorf("the good one is refused: %v", err)
	}
}

// goBinary builds one Go program with flags.
func goBinary(t *testing.T, name string, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	for file, text := range map[string]string{"go.mod": "module example.test/x\n\ngo 1.24\n", "main.go": "package main\n\nfunc main() { println(\"x\") }\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, name)
	cmd := exec.CommandContext(t.Context(), filepath.Join(runtime.GOROOT(), "bin", "go"), append([]string{"build", "-o", out}, append(flags, ".")...)...) //nolint:staticcheck // the toolchain that runs this test
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("no Go toolchain to build with: %v %s", err, b)
	}
	return out
}

func whats(t *testing.T, a, b string) []string {
	t.Helper()
	got, _, err := rebuild.Compare(a, b)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range got {
		out = append(out, strings.TrimSpace(d.What+" "+d.Name))
	}
	return out
}

func TestCompareGo(t *testing.T) {
	a, b := goBinary(t, "a", "-trimpath", "-buildvcs=false"), goBinary(t, "b", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-tags=extra")
	got := whats(t, a, b)
	for _, want := range []string{"size", "gobuild.setting -tags", "elf.note .note.go.buildid"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is not among %q", want, got)
		}
	}
	if got := whats(t, a, a); len(got) != 0 {
		t.Errorf("a file differs from itself: %q", got)
	}
}

func writeTar(t *testing.T, packed bool, at time.Time, members ...string) string {
	t.Helper()
	var b bytes.Buffer
	var z *gzip.Writer
	w := tar.NewWriter(&b)
	if packed {
		z = gzip.NewWriter(&b)
		z.ModTime = at
		w = tar.NewWriter(z)
	}
	for _, m := range members {
		name, text, _ := strings.Cut(m, "=")
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), ModTime: at}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if packed {
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "x.tar")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCompareArchives(t *testing.T) {
	one, two := time.Unix(1e9, 0), time.Unix(1e9+60, 0)
	for _, packed := range []bool{false, true} {
		a := writeTar(t, packed, one, "a=1", "b=2", "c=3")
		if got := whats(t, a, writeTar(t, packed, one, "b=2", "a=1", "c=3")); !slices.Contains(got, "tar.order member 0") {
			t.Errorf("order: %q", got)
		}
		if got := whats(t, a, writeTar(t, packed, two, "a=1", "b=2", "c=3")); !slices.Contains(got, "tar.mtime a") || packed != slices.Contains(got, "gzip mtime") {
			t.Errorf("times: %q", got)
		}
		if got := whats(t, a, writeTar(t, packed, one, "a=1", "b=X", "d=3")); !slices.Contains(got, "tar.content b") || !slices.Contains(got, "tar.member c") || !slices.Contains(got, "tar.member d") {
			t.Errorf("content: %q", got)
		}
	}
	zipped := func(text string) string {
		path := filepath.Join(t.TempDir(), "x.zip")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		w := zip.NewWriter(f)
		m, err := w.Create("a")
		if err == nil {
			_, err = m.Write([]byte(text))
		}
		if err = errors.Join(err, w.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if got := whats(t, zipped("1"), zipped("2")); !slices.Contains(got, "zip.content a") {
		t.Errorf("zip: %q", got)
	}
}

// FuzzCompare: what a stranger built is read by nothing that it could break.
func FuzzCompare(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01"), []byte("\x7fELF\x02\x01\x01\x00"))
	f.Add([]byte("PK\x03\x04aaaaaaaaaa"), []byte("PK\x03\x04bbbbbbbbbbbb"))
	f.Add([]byte("\x1f\x8b\x08\x00aaaaaa"), []byte("\x1f\x8b\x08\x00bbbbbbb"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		dir := t.TempDir()
		x, y := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		if err := errors.Join(os.WriteFile(x, a, 0o600), os.WriteFile(y, b, 0o600)); err != nil {
			t.Fatal(err)
		}
		got, _, err := rebuild.Compare(x, y)
		if err != nil {
			t.Fatal(err)
		}
		if same := bytes.Equal(a, b); same != (len(got) == 0) {
			t.Fatalf("the same: %v, differences %v", same, got)
		}
		r := &rebuild.Rebuild{
			InvocationID: "rbd_1", Source: rebuild.Source{Commit: strings.Repeat("a", 40)}, Command: []string{"x"},
			Products: []rebuild.Product{{Name: "x", Expected: artifact.SHA256Of(a), Got: artifact.SHA256Of(b), Differences: got}},
		}
		if _, err := r.JSON(); err != nil {
			t.Fatalf("differences that cannot be written: %v", err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"invocationId":"rbd_1","of":{"attestation":"a","builderId":"b","signer":"s"},"buildType":"t","source":{"commit":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},"command":["x"],"dir":".","os":"l","arch":"a","startedOn":"2026-01-01T00:00:00Z","finishedOn":"2026-01-01T00:00:00Z","products":[{"name":"x","expected":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := rebuild.Parse(b)
		if err != nil {
			return
		}
		if _, err := r.JSON(); err != nil {
			t.Fatalf("read and not written: %v", err)
		}
	})
}
