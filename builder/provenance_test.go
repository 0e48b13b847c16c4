package builder

import (
	"io"
	"path/filepath"
	"strings"
	"testing"

	"assay/attestation"

	prov "github.com/in-toto/attestation/go/predicates/provenance/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// TestProvenanceOfSchema reads what we write by in-toto's own schema, which
// knows no other members, and by its own rules.
func TestProvenanceOfSchema(t *testing.T) {
	dir := t.TempDir()
	gitIn(t, dir, "init", "-q", "-b", "main")
	write(t, dir, "sub/main.txt", "x")
	gitIn(t, dir, "add", ".")
	gitIn(t, dir, "commit", "-q", "-m", "first")
	gitIn(t, dir, "remote", "add", "origin", "git@host.example:team/app.git")
	t.Setenv("BUILD_FLAVOUR", "plain")
	for _, env := range [][]string{nil, {"BUILD_FLAVOUR"}} {
		o := Options{
			Command: []string{"sh", "-c", "cp main.txt out"}, Dir: filepath.Join(dir, "sub"), Materials: []string{"main.txt"},
			Products: []string{"out"}, Env: env, Stdout: io.Discard, Stderr: io.Discard,
		}
		run, err := Build(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		b, err := run.Provenance("https://builders.example/ci", "v1.2.3")
		if err != nil {
			t.Fatal(err)
		}
		var p prov.Provenance
		if err := protojson.Unmarshal(b, &p); err != nil {
			t.Fatalf("in-toto's schema does not know it: %v\n%s", err, b)
		}
		if err := p.Validate(); err != nil {
			t.Fatalf("in-toto's rules: %v\n%s", err, b)
		}
		def := p.GetBuildDefinition()
		if def.GetBuildType() != BuildType || p.GetRunDetails().GetBuilder().GetId() != "https://builders.example/ci" || p.GetRunDetails().GetMetadata().GetInvocationId() != run.ID {
			t.Errorf("build type, builder or invocation: %s", b)
		}
		deps := def.GetResolvedDependencies()
		if len(deps) != 3 || deps[0].GetUri() != "git+ssh://host.example/team/app.git@refs/heads/main" || deps[0].GetDigest()["gitCommit"] != run.Source.Commit ||
			!strings.HasPrefix(deps[1].GetName(), "tool:") || deps[2].GetName() != "main.txt" {
			t.Errorf("resolved dependencies: %s", b)
		}
		ext := def.GetExternalParameters().AsMap()
		if ext["dir"] != "sub" {
			t.Errorf("external parameters %v, want dir sub", ext)
		}
		if _, has := ext["env"]; has != (env != nil) {
			t.Errorf("external parameters %v with environment %v", ext, env)
		}
		// And by the view that policies use.
		view, err := attestation.ParseProvenance("https://slsa.dev/provenance/v1", b)
		if err != nil {
			t.Fatal(err)
		}
		if view.BuilderID != "https://builders.example/ci" || view.SourceURI != "ssh://host.example/team/app.git" || view.SourceRef != "refs/heads/main" || view.SourceDigest["gitCommit"] != run.Source.Commit {
			t.Errorf("view %+v", view)
		}
		// The second turn starts clean.
		gitIn(t, dir, "clean", "-fdq")
	}
}
