package scan_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/sbom"
	"assay/sbom/scan"

	"github.com/google/go-cmp/cmp"
)

var options = scan.Options{Tool: "assay test", Now: time.Unix(1700000000, 0).UTC()}

// packages are "NAME VERSION" of one type, sorted; a component that is there
// twice fails the test.
func packages(t *testing.T, d *sbom.Document, typ string) []string {
	t.Helper()
	var out []string
	seen := map[string]bool{}
	for _, c := range d.Components {
		if c.PURL.Type != typ {
			continue
		}
		if seen[c.PURL.String()] {
			t.Errorf("%s is there twice", c.PURL)
		}
		seen[c.PURL.String()] = true
		out = append(out, c.FullName()+" "+c.Version)
	}
	slices.Sort(out)
	return out
}

func tool(t *testing.T, dir, name string, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not on this machine: nothing to compare with", name)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("%s %v: %v\n%s", name, args, err, &stderr)
	}
	return out
}

func put(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func scanPath(t *testing.T, path string) *sbom.Document {
	t.Helper()
	d, err := scan.Path(t.Context(), path, options)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// debianRoot is the part of this machine's root that says what is installed.
func debianRoot(t testing.TB) string {
	root := t.TempDir()
	for _, name := range []string{"var/lib/dpkg/status", "etc/os-release"} {
		b, err := os.ReadFile("/" + name)
		if err != nil {
			t.Skipf("not a Debian machine: %v", err)
		}
		_ = os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755)
		if err := os.WriteFile(filepath.Join(root, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestDpkg: what dpkg-query says is installed is what is found, in a root file
// system and in an image of it.
func TestDpkg(t *testing.T) {
	root := debianRoot(t)
	var want []string
	source := map[string]string{}
	for line := range strings.Lines(string(tool(t, "", "dpkg-query", "--admindir="+root+"/var/lib/dpkg", "-W", "-f", "${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\t${source:Package} ${source:Version}\n"))) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if f[0] == "config-files" || f[0] == "not-installed" {
			continue
		}
		want = append(want, f[1]+" "+f[2])
		source[f[1]+" "+f[2]+" "+f[3]] = f[4]
	}
	slices.Sort(want)
	if len(want) < 20 {
		t.Skipf("dpkg knows %d packages only", len(want))
	}
	d := scanPath(t, root)
	if diff := cmp.Diff(want, packages(t, d, "deb")); diff != "" {
		t.Errorf("dpkg-query and the document differ (-dpkg +document):\n%s", diff)
	}
	edges := 0
	for _, dep := range d.Dependencies {
		edges += len(dep.On)
	}
	if edges < len(want)/2 {
		t.Errorf("%d relations of %d packages", edges, len(want))
	}
	for _, c := range d.Components {
		if c.PURL.Type != "deb" {
			continue
		}
		if !strings.Contains(c.PURL.Qualifier("distro"), "-") {
			t.Fatalf("%s: no release", c.PURL)
		}
		name, version := c.SourceName, c.SourceVersion
		if name == "" {
			name = c.Name
		}
		if version == "" {
			version = c.Version
		}
		if got := name + " " + version; got != source[c.Name+" "+c.Version+" "+c.PURL.Qualifier("arch")] {
			t.Errorf("%s: source %s, dpkg-query says %s", c.PURL, got, source[c.Name+" "+c.Version+" "+c.PURL.Qualifier("arch")])
		}
	}
	for _, form := range []string{"saved", "layout", "layout.gz", "folder"} {
		path := imageOf(t, form, root)
		if diff := cmp.Diff(want, packages(t, scanPath(t, path), "deb")); diff != "" {
			t.Errorf("image %s (-dpkg +document):\n%s", form, diff)
		}
	}
}

// TestGoVersion: a Go program's modules are those of go version -m.
func TestGoVersion(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	list, err := sbom.ReadList(bytes.NewReader(tool(t, "", "go", "version", "-m", self)), sbom.ListGo, sbom.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d := scanPath(t, self)
	if diff := cmp.Diff(packages(t, list, "golang"), packages(t, d, "golang")); diff != "" {
		t.Errorf("go version -m and the document differ (-go +document):\n%s", diff)
	}
	if len(d.Incomplete) > 0 {
		t.Errorf("incomplete: %q", d.Incomplete)
	}
}

// lock is a lock file as npm writes it, with what is easy to get wrong: two
// versions of one package, a scope, an alias's real name, dev and peer.
const lock = `{"name":"app","version":"1.2.3","lockfileVersion":3,"requires":true,"packages":{
"":{"name":"app","version":"1.2.3","dependencies":{"debug":"4.3.4","@types/node":"20.1.0"},"devDependencies":{"ms":"2.0.0"}},
"node_modules/@types/node":{"version":"20.1.0","license":"MIT","integrity":"sha512-O+z53uwx64xY7D6roOi4+jApDGFg0qn6WHcxe5QeqjMaTezBO/mxdfFXIVAVVyNWKx84OmPB3L8kbVYOTeN34A=="},
"node_modules/debug":{"version":"4.3.4","license":"MIT","dependencies":{"ms":"2.1.2"}},
"node_modules/debug/node_modules/ms":{"version":"2.1.2","license":"MIT"},
"node_modules/ms":{"version":"2.0.0","dev":true,"license":"MIT"}}}`

// TestNPM: a lock file's packages and relations are those of npm ls.
func TestNPM(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "package.json"), `{"name":"app","version":"1.2.3","dependencies":{"debug":"4.3.4","@types/node":"20.1.0"},"devDependencies":{"ms":"2.0.0"}}`)
	put(t, filepath.Join(dir, "package-lock.json"), lock)
	d := scanPath(t, dir)
	want := []string{"@types/node 20.1.0", "app 1.2.3", "debug 4.3.4", "ms 2.0.0", "ms 2.1.2"}
	if diff := cmp.Diff(want, packages(t, d, "npm")); diff != "" {
		t.Fatalf("packages (-want +got):\n%s", diff)
	}
	relations := map[string][]string{}
	for _, dep := range d.Dependencies {
		relations[dep.Ref] = dep.On
	}
	if diff := cmp.Diff([]string{"pkg:npm/ms@2.1.2"}, relations["pkg:npm/debug@4.3.4"]); diff != "" {
		t.Error(diff)
	}
	if !d.Direct()["pkg:npm/debug@4.3.4"] || d.Direct()["pkg:npm/ms@2.1.2"] {
		t.Errorf("direct: %v", d.Direct())
	}
	list, err := sbom.ReadList(bytes.NewReader(tool(t, dir, "npm", "ls", "--all", "--json", "--package-lock-only")), sbom.ListNPM, sbom.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(packages(t, list, "npm"), packages(t, d, "npm")); diff != "" {
		t.Errorf("npm ls and the document differ (-npm +document):\n%s", diff)
	}
}

// TestPip: what pip lists in a folder of installed distributions is found.
func TestPip(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "requests-2.31.0.dist-info", "METADATA"), "Metadata-Version: 2.1\nName: requests\nVersion: 2.31.0\nLicense: Apache 2.0\nRequires-Dist: urllib3 (<3,>=1.21.1)\nRequires-Dist: PySocks ; extra == 'socks'\n\nName: not this\n")
	put(t, filepath.Join(dir, "urllib3-2.0.4.dist-info", "METADATA"), "Metadata-Version: 2.1\nName: urllib3\nVersion: 2.0.4\nLicense-Expression: MIT\n")
	put(t, filepath.Join(dir, "zope.interface-6.0.dist-info", "METADATA"), "Metadata-Version: 2.1\nName: zope.interface\nVersion: 6.0\n")
	put(t, filepath.Join(dir, "Old_Thing.egg-info", "PKG-INFO"), "Metadata-Version: 1.0\nName: Old_Thing\nVersion: 1.0\n")
	got := packages(t, scanPath(t, dir), "pypi")
	if diff := cmp.Diff([]string{"old-thing 1.0", "requests 2.31.0", "urllib3 2.0.4", "zope-interface 6.0"}, got); diff != "" {
		t.Fatalf("packages (-want +got):\n%s", diff)
	}
	var listed []struct{ Name, Version string }
	if err := json.Unmarshal(tool(t, dir, "python3", "-m", "pip", "list", "--path", dir, "--format", "json", "--disable-pip-version-check"), &listed); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, one := range listed {
		want = append(want, strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(one.Name))+" "+one.Version)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pip and the document differ (-pip +document):\n%s", diff)
	}
}

// TestRequirements: a lock file for pip, with hashes and line ends.
func TestRequirements(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "requirements.txt"), "# made by pip-compile\n--index-url https://pypi.example/simple\nDjango==4.2.1 \\\n    --hash=sha256:"+strings.Repeat("a", 64)+"\n    # via -r requirements.in\nsqlparse[x]==0.4.4 ; python_version > '3.8'\nunpinned>=1\n")
	d := scanPath(t, dir)
	if diff := cmp.Diff([]string{"django 4.2.1", "sqlparse 0.4.4", "unpinned "}, packages(t, d, "pypi")); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(fmt.Sprint(d.Incomplete), "version of unpinned is not pinned") {
		t.Errorf("incomplete: %q", d.Incomplete)
	}
}

// TestCargo: the crates of a lock file are those of cargo metadata.
func TestCargo(t *testing.T) {
	dir := t.TempDir()
	for name, needs := range map[string]string{"app": "middle = { path = \"../middle\" }", "middle": "leaf = { path = \"../leaf\" }", "leaf": ""} {
		put(t, filepath.Join(dir, name, "Cargo.toml"), "[package]\nname = \""+name+"\"\nversion = \"0.1.2\"\nedition = \"2021\"\n[dependencies]\n"+needs+"\n")
		put(t, filepath.Join(dir, name, "src", "lib.rs"), "")
	}
	var meta struct {
		Packages []struct{ Name, Version string }
	}
	if err := json.Unmarshal(tool(t, filepath.Join(dir, "app"), "cargo", "metadata", "--offline", "--format-version", "1"), &meta); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, p := range meta.Packages {
		want = append(want, p.Name+" "+p.Version)
	}
	slices.Sort(want)
	d := scanPath(t, filepath.Join(dir, "app", "Cargo.lock"))
	if diff := cmp.Diff(want, packages(t, d, "cargo")); diff != "" || len(want) != 3 {
		t.Errorf("cargo and the document differ (-cargo +document):\n%s", diff)
	}
}
