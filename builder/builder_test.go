package builder

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/secret"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sh is a build of one line of shell.
func sh(dir, script string, products ...string) Options {
	return Options{Command: []string{"sh", "-c", script}, Dir: dir, Products: products, Stdout: io.Discard, Stderr: io.Discard}
}

func TestBuildRecordsWhatWentInAndCameOut(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "src/a.txt", "a")
	write(t, dir, "src/b.txt", "b")
	write(t, dir, "src/.git/config", "not a material")
	t.Setenv("BUILD_FLAVOUR", "plain")
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	o := sh(dir, "cat src/a.txt src/b.txt > out", "./out")
	o.Materials, o.Env, o.Clock = []string{"src", "src/a.txt"}, []string{"BUILD_FLAVOUR", "BUILD_ABSENT"}, clock.Fixed(at)
	run, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name, text string) File {
		return File{Name: name, Digest: artifact.SHA256Of([]byte(text)), Size: int64(len(text))}
	}
	if d := cmp.Diff([]File{file("src/a.txt", "a"), file("src/b.txt", "b")}, run.Materials); d != "" {
		t.Errorf("materials, each once and by name (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]File{file("out", "ab")}, run.Products); d != "" {
		t.Errorf("products (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[string]string{"BUILD_FLAVOUR": "plain"}, run.Env); d != "" {
		t.Errorf("environment (-want +got):\n%s", d)
	}
	if run.Source != nil {
		t.Errorf("source %+v outside a work tree", run.Source)
	}
	if !run.StartedOn.Equal(at) || !run.FinishedOn.Equal(at) || !strings.HasPrefix(run.ID, "bld_") {
		t.Errorf("run %s from %s to %s", run.ID, run.StartedOn, run.FinishedOn)
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script string
		change func(dir string, o *Options)
		kind   *fault.Kind
		says   string
		exit   int
	}{
		{"a failed build", "echo x > out; exit 7", nil, fault.Denied, "exit code 7; nothing is attested", 7},
		{"a build that a signal ended", "echo x > out; kill -9 $$", nil, fault.Denied, "ended by signal 9 (SIGKILL); nothing is attested", 137},
		{"a product that is not there", "true", nil, fault.Denied, "product out", 0},
		{"a product that is a folder", "mkdir out", nil, fault.Denied, "want a regular file", 0},
		{"a product that is a named pipe", "mkfifo out", nil, fault.Denied, "want a regular file", 0},
		{"a product that was there and was not written", "true", func(dir string, _ *Options) { write(t, dir, "out", "old") }, fault.Denied, "did not write it", 0},
		{"a material that changed", "echo changed >> in; echo x > out", nil, fault.Denied, "materials changed while the build ran (in)", 0},
		{"a material that went", "rm in; echo x > out", nil, fault.Denied, "materials changed", 0},
		{"a file that came among the materials", "echo x > sub/b; echo x > out", func(dir string, o *Options) {
			write(t, dir, "sub/a", "1")
			o.Materials = []string{"sub"}
		}, fault.Denied, "materials changed while the build ran (sub/b)", 0},
		{"no such material", "true", func(_ string, o *Options) { o.Materials = []string{"nosuch"} }, fault.Invalid, "nosuch", 0},
		{"a material that is a symbolic link", "true", func(dir string, o *Options) {
			if err := os.Symlink("in", filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			o.Materials = []string{"link"}
		}, fault.Invalid, "symbolic links are not followed", 0},
		{"an absolute product", "true", func(_ string, o *Options) { o.Products = []string{"/etc/passwd"} }, fault.Invalid, "relative to the build's folder", 0},
		{"an empty product", "true", func(_ string, o *Options) { o.Products = []string{""} }, fault.Invalid, "relative to the build's folder", 0},
		{"a product named twice", "true", func(_ string, o *Options) { o.Products = []string{"out", "./out"} }, fault.Invalid, "named twice", 0},
		{"no command", "", func(_ string, o *Options) { o.Command = nil }, fault.Invalid, "no command", 0},
		{"no such command", "", func(_ string, o *Options) { o.Command = []string{"no-such-command-here"} }, fault.Denied, "no-such-command-here", -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "in", "in")
			o := sh(dir, tt.script, "out")
			o.Materials = []string{"in"}
			if tt.change != nil {
				tt.change(dir, &o)
			}
			run, err := Build(t.Context(), o)
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("%v, want %v saying %q", err, tt.kind, tt.says)
			}
			if run != nil && (len(run.Products) > 0 || run.ExitCode != tt.exit) {
				t.Errorf("products %v, exit code %d, want none and %d", run.Products, run.ExitCode, tt.exit)
			}
		})
	}
}

// A product that is replaced counts as written, whatever its times say.
func TestBuildReplacedProduct(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "out", "old")
	write(t, dir, "ref", "old")
	past := time.Now().Add(-time.Hour)
	for _, n := range []string{"out", "ref"} {
		if err := os.Chtimes(filepath.Join(dir, n), past, past); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Build(t.Context(), sh(dir, "cp -p ref tmp && mv tmp out", "out")); err != nil {
		t.Errorf("same size, same time, another file: %v", err)
	}
}

// Products among the materials are what the build writes, not what it reads.
func TestBuildProductAmongMaterials(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "in", "in")
	o := sh(dir, "cp in out", "out")
	o.Materials = []string{"."}
	run, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(run.Materials) != 1 || run.Materials[0].Name != "in" {
		t.Errorf("materials %v, want in alone", run.Materials)
	}
}

// The program that runs is the one that was hashed: a relative one is found
// from the build's folder, as the system does, not from the caller's.
func TestBuildRelativeProgram(t *testing.T) {
	here := t.TempDir()
	t.Chdir(here)
	dir := filepath.Join(here, "sub")
	write(t, here, "tool.sh", "#!/bin/sh\necho wrong > out\n")
	write(t, dir, "tool.sh", "#!/bin/sh\necho right > out\n")
	for _, p := range []string{"tool.sh", "sub/tool.sh"} {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	o := sh("sub", "", "out")
	o.Command = []string{"./tool.sh"}
	run, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	want, err := HashFile(dir, "tool.sh")
	if err != nil {
		t.Fatal(err)
	}
	if run.Tool != want || run.Products[0].Digest != artifact.SHA256Of([]byte("right\n")) {
		t.Errorf("tool %v made %v: not the one of the build's folder", run.Tool, run.Products)
	}
	t.Setenv("PATH", ".:"+os.Getenv("PATH"))
	o.Command = []string{"tool.sh"}
	if _, err := Build(t.Context(), o); !errors.Is(err, fault.Denied) {
		t.Errorf("a program by way of a relative folder in PATH: %v, want a refusal", err)
	}
}

func TestThreat_MetricsLogs_SecretsAreNotRecorded(t *testing.T) {
	for _, n := range []string{
		"GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "db_password", "SIGNING_KEY", "KEY", "GH_PAT", "COSIGN_PASSPHRASE",
		"NPM_AUTH", "REGISTRY_CREDENTIALS", "MYSQL_PWD", "SESSION_COOKIE", "ApiKey", "DATABASE_DSN",
	} {
		t.Setenv(n, "x")
		if _, err := allowedEnv([]string{n}); !errors.Is(err, fault.Invalid) {
			t.Errorf("variable %s: %v, want a refusal", n, err)
		}
	}
	for _, n := range []string{"PATH", "PWD", "GOFLAGS", "CGO_ENABLED", "MONKEY", "KEYBOARD", "COMPASS", "SOURCE_DATE_EPOCH", "GOARCH"} {
		t.Setenv(n, "x")
		if _, err := allowedEnv([]string{n}); err != nil {
			t.Errorf("variable %s: %v, want it recorded", n, err)
		}
	}
	secrets := []string{
		"https://me:hunter2@host/repo.git", "--proxy=http://u:p@127.0.0.1:3128", "postgres://a:b%zz@h/db",
		"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2ln", "ghp_0123456789abcdefghijABCDEFGHIJ012345", "AKIAIOSFODNN7EXAMPLE",
		"-----BEGIN EC PRIVATE KEY-----\nAAAA", "glpat-abcdefghijklmnopqrst", "token=xoxb-123456789012-abcdef",
	}
	for _, v := range secrets {
		t.Setenv("INNOCENT", v)
		_, err := allowedEnv([]string{"INNOCENT"})
		if !errors.Is(err, fault.Invalid) || strings.Contains(err.Error(), v) {
			t.Errorf("value %q: %v, want a refusal that does not repeat it", v, err)
		}
		o := sh(t.TempDir(), "true", "out")
		o.Command = append(o.Command, v)
		if _, err := Build(t.Context(), o); !errors.Is(err, fault.Invalid) || strings.Contains(err.Error(), v) {
			t.Errorf("argument %q: %v, want a refusal that does not repeat it", v, err)
		}
	}
	for _, v := range []string{"https://host/repo.git", "ssh://git@host/repo", "-ldflags=-X main.v=1.2", "a@b", "host:8080", "://@", "x ://y@z"} {
		if v != "x ://y@z" && v != "://@" && secret.Looking(v) {
			t.Errorf("%q is taken for a secret", v)
		}
		_ = secret.Looking(v) // no panic
	}
}

func FuzzSecretLooking(f *testing.F) {
	for _, s := range []string{"https://a:b@c", "://@", "x://", " ://@ ", "-----BEGIN PRIVATE KEY"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if first := secret.Looking(s); first != secret.Looking(s) {
			t.Fatal("not a function of its text")
		}
		_ = secret.Name(s)
	})
}

func TestImageIsReproducible(t *testing.T) {
	digest := func(umask os.FileMode, when time.Time) string {
		dir := t.TempDir()
		write(t, dir, "bin/app", "program")
		write(t, dir, "data", strings.Repeat("data", 1000))
		for _, n := range []string{"bin/app", "data"} {
			if err := os.Chmod(filepath.Join(dir, n), umask); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(filepath.Join(dir, n), when, when); err != nil {
				t.Fatal(err)
			}
		}
		run := &Run{}
		for _, n := range []string{"bin/app", "data"} {
			file, err := HashFile(dir, n)
			if err != nil {
				t.Fatal(err)
			}
			run.Products = append(run.Products, file)
		}
		img, err := run.Image(dir)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Config.User != "65532:65532" || !slices.Equal(cfg.Config.Entrypoint, []string{"/usr/local/bin/app"}) {
			t.Errorf("user %q, entrypoint %q", cfg.Config.User, cfg.Config.Entrypoint)
		}
		manifest, err := img.RawManifest()
		if err != nil {
			t.Fatal(err)
		}
		var all bytes.Buffer
		all.Write(manifest)
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range layers {
			r, err := l.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(&all, r); err != nil {
				t.Fatal(err)
			}
		}
		return all.String()
	}
	if digest(0o644, time.Unix(1e9, 0)) != digest(0o700, time.Unix(1.5e9, 0)) {
		t.Error("the same products give another image")
	}
}

func TestImageRefuses(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "app", "program")
	write(t, dir, "other/app", "another")
	file := func(n string) File {
		f, err := HashFile(dir, n)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	app, other := file("app"), file("other/app")
	if _, err := (&Run{}).Image(dir); !errors.Is(err, fault.Invalid) {
		t.Errorf("no products: %v", err)
	}
	if _, err := (&Run{Products: []File{app, other}}).Image(dir); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "one file of the image") {
		t.Errorf("two products of one name: %v", err)
	}
	write(t, dir, "app", "PROGRAM")
	if _, err := (&Run{Products: []File{app}}).Image(dir); !errors.Is(err, fault.Tampered) {
		t.Errorf("a product that changed after the build: %v, want tampered", err)
	}
}

// TestBuildFindsProducts: where none is named, products are what the build made
// in its folder and git does not track.
func TestBuildFindsProducts(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		want   []string
		err    string
	}{
		"new ones":        {"mkdir -p dist && cp main.c app && cp main.c dist/b && cp main.c x.o && mkdir -p node_modules && cp main.c node_modules/y", []string{"app", "dist/b"}, ""},
		"written again":   {"echo new > old && touch kept.c && echo changed >> main.c", []string{"old"}, ""},
		"nothing":         {"true", nil, "made no new file"},
		"only sources":    {"echo x >> main.c", nil, "made no new file"},
		"there before":    {"cat old > /dev/null", nil, "made no new file"},
		"too many":        {"i=0; while [ $i -lt 70 ]; do echo $i > f$i; i=$((i+1)); done", nil, "more than 64 files"},
		"a failed build":  {"echo half > app; exit 3", nil, "exit code 3"},
		"a server's data": {"mkdir -p data/run && echo > data/run/admin.sock && echo > data/assay.db && echo > app", []string{"app"}, ""},
		"names with junk": {`printf x > 'a b,c'`, []string{"a b,c"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := repository(t, map[string]string{"main.c": "int main;", "kept.c": "x", ".gitignore": "/app\n/old\n"})
			write(t, dir, "old", "from before")
			o := sh(dir, c.script)
			if name == "names with junk" {
				o.Materials = []string{"."} // what is a product is none, named or found
			}
			run, err := Build(t.Context(), o)
			if c.err == "" {
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, f := range run.Products {
					got = append(got, f.Name)
				}
				if d := cmp.Diff(c.want, got); d != "" {
					t.Error(d)
				}
				if len(o.Materials) > 0 && len(run.Materials) != 4 {
					t.Errorf("materials %v", run.Materials)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Fatalf("%v, want %q", err, c.err)
			}
			switch {
			case name == "a failed build":
				if len(run.Failure.Files) != 1 || run.Failure.Files[0].Name != "app" {
					t.Errorf("what it left: %v", run.Failure.Files)
				}
			case !errors.Is(err, fault.Invalid) || run.Failure != nil:
				t.Errorf("%v of a build that went well: %+v", err, run.Failure)
			}
		})
	}
}
