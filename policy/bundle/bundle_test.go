package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"assay/internal/fault"
	"assay/policy/bundle"
)

const signed = `apiVersion: assay/v1
kind: Policy
metadata: {name: signed}
spec:
  requirements:
    signatures: [{identities: [{issuer: "https://issuer.example", subject: me@example.com}]}]
`

func small() map[string][]byte {
	return map[string][]byte{
		bundle.ManifestFile: []byte(`{"metadata": {"assay": {"name": "release", "version": 3}}}`),
		"signed.yaml":       []byte(signed),
		"a/b/data.json":     []byte(`{"names": ["x"]}`),
		"rules.rego":        []byte("package assay.policy\n\nallow if input.subject.repository in data.a.b.names\n"),
	}
}

func packed(t testing.TB, entries ...*tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	tw := tar.NewWriter(zw)
	for _, h := range entries {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestArchiveRoundTrip(t *testing.T) {
	b, err := bundle.FromFiles(small())
	if err != nil {
		t.Fatal(err)
	}
	docs, err := b.Documents("release")
	if err != nil || len(docs) != 2 || docs[0].Metadata.Name != "release" || docs[1].Metadata.Name != "signed" {
		t.Fatalf("%+v, %v", docs, err)
	}
	raw, err := b.Archive()
	if err != nil {
		t.Fatal(err)
	}
	again, err := bundle.Read(raw)
	if err != nil || again.Digest() != b.Digest() {
		t.Fatalf("%v: %s, want %s", err, again.Digest(), b.Digest())
	}
	if c, err := again.Claim(bundle.Claim{}, nil); err != nil || c != (bundle.Claim{Name: "release", Version: 3}) {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := again.Claim(bundle.Claim{Version: 4}, nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("another version than the manifest's: %v", err)
	}
}

// TestThreat_Archive_PolicyBundle: what leads elsewhere, repeats, or grows is
// refused before any of it counts.
func TestThreat_Archive_PolicyBundle(t *testing.T) {
	reg := func(name string, size int64) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}
	}
	for name, raw := range map[string][]byte{
		"traversal":     packed(t, reg("../x.rego", 1)),
		"symbolic link": packed(t, &tar.Header{Typeflag: tar.TypeSymlink, Name: "x.rego", Linkname: "/etc/passwd"}),
		"hard link":     packed(t, &tar.Header{Typeflag: tar.TypeLink, Name: "x.rego", Linkname: "y.rego"}),
		"twice":         packed(t, reg("x.rego", 1), reg("/x.rego", 1)),
		"bomb":          packed(t, reg("data.json", bundle.MaxBytes+1)),
		"wasm":          packed(t, reg("policy.wasm", 1)),
		"not a tar":     []byte("x"),
		"cut short":     packed(t, reg("x.rego", 100))[:20],
	} {
		if _, err := bundle.Read(raw); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, change := range map[string]map[string]string{
		"a scope that is misspelt":    {bundle.ManifestFile: `{"metadata": {"assay": {"name": "x", "version": 1, "scope": {"repositores": ["a"]}}}}`},
		"older Rego":                  {bundle.ManifestFile: `{"rego_version": 0}`},
		"a package under no root":     {bundle.ManifestFile: `{"roots": ["lib"]}`},
		"data in two files":           {"a/data.json": `{"b": {"names": []}}`},
		"two policies of one name":    {"again.yaml": signed},
		"a document of another kind":  {"grant.yaml": "apiVersion: assay/v1\nkind: Grant\nmetadata: {name: x}\nspec: {}\n"},
		"the network":                 {"net.rego": "package assay.policy\n\nallow if http.send({}).x\n"},
		"data that is not in it":      {"more.rego": "package assay.policy\n\nallow if data.nothing.x\n"},
		"a file that is nothing here": {"run.sh": "#!/bin/sh"},
	} {
		files := small()
		for k, v := range change {
			files[k] = []byte(v)
		}
		b, err := bundle.FromFiles(files)
		if err == nil {
			_, err = b.Documents("release")
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A pinned revision of a git repository, signed when that is asked.
func TestGit(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("ssh-keygen is not installed")
	}
	dir := t.TempDir()
	sh := func(name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "HOME="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	for _, k := range []string{"key", "other"} {
		sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, k))
	}
	if err := os.MkdirAll(filepath.Join(dir, "repo", "bundle", "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, b := range small() {
		if err := os.WriteFile(filepath.Join(dir, "repo", "bundle", filepath.FromSlash(name)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	git := func(args ...string) {
		sh("git", append([]string{"-C", "repo", "-c", "user.name=me", "-c", "user.email=me@example.com", "-c", "gpg.format=ssh", "-c", "user.signingkey=" + filepath.Join(dir, "key.pub")}, args...)...)
	}
	git("init", "-q", "-b", "main")
	git("add", "-A")
	git("commit", "-q", "-S", "-m", "policies")
	git("tag", "-s", "-m", "one", "v1")
	git("commit", "-q", "--allow-empty", "-m", "unsigned")
	allowed := func(key string) []byte {
		pub, err := os.ReadFile(filepath.Join(dir, key+".pub"))
		if err != nil {
			t.Fatal(err)
		}
		return []byte("me@example.com " + string(pub))
	}
	from := "git+file://" + filepath.Join(dir, "repo")
	load := func(rev string, signers []byte) (*bundle.Loaded, error) {
		return bundle.Load(context.WithoutCancel(t.Context()), bundle.Source{From: from + "@" + rev + "#bundle", AllowedSigners: signers}, nil)
	}
	b, err := load("v1", allowed("key"))
	if err != nil || len(b.Files()) != 4 || b.GitSigner != "me@example.com" || !strings.Contains(b.Origin, "#bundle") {
		t.Fatalf("%+v, %v", b, err)
	}
	if _, err := load("main", nil); err != nil {
		t.Errorf("a branch: %v", err)
	}
	if _, err := load("main", allowed("key")); !errors.Is(err, fault.Unverified) {
		t.Errorf("a commit that nobody signed: %v", err)
	}
	if _, err := load("v1", allowed("other")); !errors.Is(err, fault.Unverified) {
		t.Errorf("a tag by another key: %v", err)
	}
	for _, rev := range []string{"nosuch", "--upload-pack=x", "v1^"} {
		if _, err := load(rev, nil); err == nil {
			t.Errorf("revision %q: no error", rev)
		}
	}
}

func FuzzRead(f *testing.F) {
	b, err := bundle.FromFiles(small())
	if err != nil {
		f.Fatal(err)
	}
	raw, err := b.Archive()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := bundle.Read(raw)
		if err != nil {
			return
		}
		out, err := b.Archive()
		if err != nil {
			return
		}
		again, err := bundle.Read(out)
		if err != nil || again.Digest() != b.Digest() {
			t.Fatalf("packed again it is another: %v", err)
		}
	})
}
