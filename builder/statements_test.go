package builder

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"assay/artifact"
	"assay/builder/trace"
	"assay/internal/fault"
	"assay/internal/strictjson"

	"github.com/google/go-cmp/cmp"
	linkpb "github.com/in-toto/attestation/go/predicates/link/v0"
	v1 "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

func TestMain(m *testing.M) {
	trace.Launch()
	os.Exit(m.Run())
}

// repository is a git work tree with files committed.
func repository(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := realPath(t.TempDir())
	gitIn(t, dir, "init", "-q", "-b", "main")
	for name, text := range files {
		write(t, dir, name, text)
	}
	gitIn(t, dir, "add", ".")
	gitIn(t, dir, "commit", "-q", "-m", "first")
	return dir
}

func traced(t *testing.T, o Options) *Run {
	t.Helper()
	o.Trace = true
	run, err := Build(t.Context(), o)
	if run == nil {
		t.Fatal(err)
	}
	if !run.Trace.Traced {
		if os.Getenv("ASSAY_REQUIRE_TRACE") != "" {
			t.Fatal(run.Trace.Reason)
		}
		t.Skip(run.Trace.Reason)
	}
	return run
}

// TestLinkOfSchema reads the link by in-toto's own schema, which knows no other
// members.
func TestLinkOfSchema(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "in", "x")
	t.Setenv("BUILD_FLAVOUR", "plain")
	o := sh(dir, "cp in out", "out")
	o.Materials, o.Env = []string{"in"}, []string{"BUILD_FLAVOUR"}
	run, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := run.Link("compile")
	if err != nil {
		t.Fatal(err)
	}
	var l linkpb.Link
	if err := protojson.Unmarshal(b, &l); err != nil {
		t.Fatalf("in-toto's schema does not know it: %v\n%s", err, b)
	}
	if l.GetName() != "compile" || len(l.GetMaterials()) != 1 || l.GetByproducts().AsMap()["return-value"] != 0.0 ||
		l.GetEnvironment().AsMap()["variables"].(map[string]any)["BUILD_FLAVOUR"] != "plain" {
		t.Errorf("%s", b)
	}
	for _, m := range l.GetMaterials() {
		if err := m.Validate(); err != nil {
			t.Errorf("material: %v", err)
		}
	}
}

// TestTraceOfSpecification: the predicate has what in-toto's text asks for, and
// each file is a resource descriptor by its rules.
func TestTraceOfSpecification(t *testing.T) {
	dir := repository(t, map[string]string{"src/a": "a", "src/b": "b"})
	o := sh(dir, "cat src/a > mid; cat mid extra > out; rm mid", "out")
	write(t, dir, "extra", "undeclared")
	run := traced(t, o)
	b, err := run.TracePredicate("https://builders.example/ci")
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Monitor struct {
			Type         string         `json:"type"`
			ConfigSource any            `json:"configSource"`
			TracePolicy  map[string]any `json:"tracePolicy"`
		} `json:"monitor"`
		MonitoredProcess struct {
			HostID string `json:"hostID"`
			Type   string `json:"type"`
			Event  string `json:"event"`
		} `json:"monitoredProcess"`
		MonitorLog struct {
			Process    []map[string]any  `json:"process"`
			Network    []map[string]any  `json:"network"`
			FileAccess []json.RawMessage `json:"fileAccess"`
		} `json:"monitorLog"`
		Metadata struct {
			StartedOn  string `json:"buildStartedOn"`
			FinishedOn string `json:"buildFinishedOn"`
		} `json:"metadata"`
		AssayTrace traceSummary `json:"assayTrace"`
	}
	if err := strictjson.Unmarshal(b, &p, strictjson.RejectUnknown()); err != nil {
		t.Fatal(err)
	}
	if p.Monitor.Type == "" || p.MonitoredProcess.HostID != "https://builders.example/ci" || p.MonitoredProcess.Type != BuildType || p.MonitoredProcess.Event != run.ID ||
		p.Metadata.StartedOn == "" || len(p.MonitorLog.Process) == 0 || p.MonitorLog.Network == nil {
		t.Errorf("%s", b)
	}
	found := map[string]string{}
	for _, raw := range p.MonitorLog.FileAccess {
		var d v1.ResourceDescriptor
		if err := protojson.Unmarshal(raw, &d); err != nil {
			t.Fatalf("%v: %s", err, raw)
		}
		if err := d.Validate(); err != nil {
			t.Errorf("%v: %s", err, raw)
		}
		found[d.GetName()+d.GetUri()] = d.GetDigest()["sha256"]
	}
	if found["src/a"] != artifact.SHA256Of([]byte("a")).Hex() || found["extra"] == "" {
		t.Errorf("files: %v", found)
	}
	if d := cmp.Diff([]string{"extra"}, p.AssayTrace.Undeclared); d != "" || len(p.AssayTrace.Changed) > 0 {
		t.Errorf("undeclared (-want +got):\n%s\nchanged %v", d, p.AssayTrace.Changed)
	}
}

// TestThreat_Build_Observed: what a build does to what it was to read is seen.
func TestThreat_Build_Observed(t *testing.T) {
	for _, tt := range []struct {
		name, script        string
		undeclared, changed []string
	}{
		{"tracked files are declared by the commit", "cat src/a src/b > out", nil, nil},
		{"a swapped file that is put back", "mv src/a keep; echo evil > src/a; cat src/a > out; mv keep src/a", nil, []string{"src/a"}},
		{"a file that is appended to and cut again", "echo evil >> src/a; cat src/a > out; printf a > src/a", nil, []string{"src/a"}},
		{"another file under the name by a link", "echo evil > other; ln -f other src/a; cat src/a > out", nil, []string{"src/a"}},
		{"an ignored file", "cat cache/poison > out", []string{"cache/poison"}, nil},
		{"a product of an earlier build", "cat old > out", []string{"old"}, nil},
		{"what the build makes itself", "cat src/a > mid; mv mid mid2; cat mid2 > out", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := repository(t, map[string]string{"src/a": "a", "src/b": "b", ".gitignore": "cache/\nold\nout\nmid*\n"})
			write(t, dir, "cache/poison", "x")
			write(t, dir, "old", "x")
			run := traced(t, sh(dir, tt.script, "out"))
			if d := cmp.Diff([][]string{tt.undeclared, tt.changed}, [][]string{orNil(run.Trace.Undeclared), orNil(run.Trace.Changed)}); d != "" {
				t.Errorf("undeclared and changed (-want +got):\n%s", d)
			}
		})
	}
}

func orNil(s []string) []string {
	if len(s) == 0 {
		return nil
	}
	return s
}

func TestThreat_Build_SecretsOfEnvironment(t *testing.T) {
	env, secrets := buildEnv([]string{
		"PATH=/bin", "NPM_TOKEN=x", "EMPTY_TOKEN=", "GIT_AUTHOR_NAME=me", "PLAIN=ghp_0123456789012345678901", "SIGSTORE_ID_TOKEN=x",
		"ACTIONS_ID_TOKEN_REQUEST_TOKEN=x", "ASSAY_DATA=/x", "COSIGN_PASSWORD=x", "BAD\nNAME_TOKEN=x",
	})
	if d := cmp.Diff([]string{"NPM_TOKEN", "PLAIN"}, secrets); d != "" {
		t.Errorf("secrets (-want +got):\n%s", d)
	}
	for _, kv := range env {
		for _, gone := range []string{"SIGSTORE_", "ACTIONS_ID", "ASSAY_DATA", "COSIGN_"} {
			if strings.HasPrefix(kv, gone) {
				t.Errorf("the build gets %s", kv)
			}
		}
	}
}

func TestRecheckSeesAChangedProduct(t *testing.T) {
	dir := t.TempDir()
	run, err := Build(t.Context(), sh(dir, "echo good > out", "out"))
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Recheck(); err != nil {
		t.Fatal(err)
	}
	good := run.Products[0].Digest
	write(t, dir, "out", "evil")
	if err := run.Recheck(); fault.KindOf(err) != fault.Denied || run.Failure == nil || run.Failure.Reason != FailedProduct || len(run.Products) > 0 {
		t.Fatalf("%v, %+v", err, run.Failure)
	}
	var digests []artifact.Digest
	for _, s := range run.FailureSubjects() {
		digests = append(digests, s.Digest)
	}
	if !slices.Contains(digests, good) || !slices.Contains(digests, artifact.SHA256Of([]byte("evil"))) || !slices.Contains(digests, artifact.SHA256Of([]byte(run.ID))) {
		t.Errorf("subjects %v, want both contents and the build", digests)
	}
	b, err := run.FailurePredicate("https://b.example", "v1")
	if err != nil || !strings.Contains(string(b), `"reason":"product.changed"`) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestPatterns(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"src/a.c", "src/sub/b.c", "src/sub/c.h", "dist/old.tar"} {
		write(t, dir, f, f)
	}
	o := sh(dir, "cat src/*.c > dist/new.tar; rm dist/old.tar", "dist/*.tar")
	o.Materials = []string{"src/**", "src/sub/*.h"}
	run, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	names := func(files []File) (out []string) {
		for _, f := range files {
			out = append(out, f.Name)
		}
		return out
	}
	if d := cmp.Diff([][]string{{"src/a.c", "src/sub/b.c", "src/sub/c.h"}, {"dist/new.tar"}}, [][]string{names(run.Materials), names(run.Products)}); d != "" {
		t.Errorf("materials and products (-want +got):\n%s", d)
	}
	if run, err := Build(t.Context(), sh(dir, "touch other", "dist/*.tar")); err == nil || run.Failure.Reason != FailedUnwritten {
		t.Errorf("%v, want that the file of before is not this build's", err)
	}
	if run, err := Build(t.Context(), sh(dir, "true", "dist/*.zip")); err == nil || run.Failure.Reason != FailedMissing {
		t.Errorf("%v, want that no file has this form", err)
	}
	o = sh(dir, "true", "other")
	o.Materials = []string{"nosuch/**"}
	if _, err := Build(t.Context(), o); fault.KindOf(err) != fault.Invalid {
		t.Errorf("%v, want that the pattern stands for nothing", err)
	}
}

func TestToolsAreNamed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "go.mod", "module x")
	o := Options{Command: []string{"sh", "-c", "git --version && echo x > out"}, Dir: dir, Products: []string{"out"}, Stdout: io.Discard, Stderr: io.Discard}
	run, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]Tool{}
	for _, tool := range run.Tools {
		byName[tool.Name] = tool
	}
	if g := byName["go"]; !strings.HasPrefix(g.Version, "go1.") || g.Digest == "" {
		t.Errorf("go: %+v", g)
	}
	if g := byName["git"]; !strings.HasPrefix(g.Version, "git version") || g.Digest == "" {
		t.Errorf("git: %+v", g)
	}
	if c := byName["go tool compile"]; c.Digest == "" {
		t.Errorf("compile: %+v of %v", c, run.Tools)
	}
}

// TestOutputUnchanged: the build's streams are its own, traced or not.
func TestOutputUnchanged(t *testing.T) {
	for _, watch := range []bool{false, true} {
		dir := t.TempDir()
		out, err := os.Create(filepath.Join(dir, "stdout"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		var stderr strings.Builder
		o := Options{Command: []string{"sh", "-c", `printf 'a\0b\033[1m'; printf 'err\r\n' >&2; cat >&2; echo x > out`}, Dir: dir, Products: []string{"out"}, Stdin: strings.NewReader("in"), Stdout: out, Stderr: &stderr, Trace: watch}
		if _, err := Build(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(out.Name())
		if err != nil || string(b) != "a\x00b\x1b[1m" || stderr.String() != "err\r\nin" {
			t.Errorf("trace %v: %q and %q, %v", watch, b, stderr.String(), err)
		}
	}
}
