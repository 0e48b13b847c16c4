package scan_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"assay/sbom"

	"github.com/google/go-cmp/cmp"
)

// TestReaders: each ecosystem's file, as its tool writes it.
func TestReaders(t *testing.T) {
	for _, tc := range []struct {
		path, text, typ string
		want            []string
	}{
		{"yarn.lock", "# yarn lockfile v1\n\n\"@babel/core@^7.0.0\", \"@babel/core@^7.1.0\":\n  version \"7.22.0\"\n  resolved \"https://r.example/x.tgz#abc\"\n  dependencies:\n    ms \"2.1.2\"\n\nms@2.1.2:\n  version \"2.1.2\"\n", "npm", []string{"@babel/core 7.22.0", "ms 2.1.2"}},
		{"b/yarn.lock", "__metadata:\n  version: 8\n\n\"app@workspace:.\":\n  version: 0.0.0-use.local\n  resolution: \"app@workspace:.\"\n\n\"ms@npm:^2.1.0\":\n  version: 2.1.2\n  resolution: \"ms@npm:2.1.2\"\n", "npm", []string{"ms 2.1.2"}},
		{"pnpm-lock.yaml", "lockfileVersion: '9.0'\nimporters:\n  .:\n    dependencies:\n      debug:\n        specifier: ^4\n        version: 4.3.4\npackages:\n  debug@4.3.4:\n    resolution: {integrity: sha512-x}\n  ms@2.1.2:\n    resolution: {integrity: sha512-x}\n  '@a/b@1.0.0':\n    resolution: {integrity: sha512-x}\nsnapshots:\n  debug@4.3.4:\n    dependencies:\n      ms: 2.1.2\n  ms@2.1.2: {}\n", "npm", []string{"@a/b 1.0.0", "debug 4.3.4", "ms 2.1.2"}},
		{"v6/pnpm-lock.yaml", "lockfileVersion: '6.0'\npackages:\n  /debug@4.3.4(supports-color@8.1.1):\n    dependencies:\n      ms: 2.1.2\n  /ms@2.1.2:\n    dev: false\n", "npm", []string{"debug 4.3.4", "ms 2.1.2"}},
		{"v1/package-lock.json", `{"lockfileVersion":1,"dependencies":{"debug":{"version":"4.3.4","requires":{"ms":"2.1.2"},"dependencies":{"ms":{"version":"2.1.2"}}},"ms":{"version":"2.0.0"}}}`, "npm", []string{"debug 4.3.4", "ms 2.0.0", "ms 2.1.2"}},
		{"usr/lib/node_modules/npm/node_modules/abbrev/package.json", `{"name":"abbrev","version":"2.0.0","license":"ISC"}`, "npm", []string{"abbrev 2.0.0"}},
		{"node_modules/a/test/package.json", `{"name":"not-installed","version":"1.0.0"}`, "npm", nil},
		{"poetry.lock", "[[package]]\nname = \"Requests\"\nversion = \"2.31.0\"\n[package.dependencies]\nurllib3 = \">=1\"\n[[package]]\nname = \"urllib3\"\nversion = \"2.0.4\"\n", "pypi", []string{"requests 2.31.0", "urllib3 2.0.4"}},
		{"uv.lock", "version = 1\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\nsource = { virtual = \".\" }\ndependencies = [{ name = \"idna\" }]\n[[package]]\nname = \"idna\"\nversion = \"3.4\"\n", "pypi", []string{"app 0.1.0", "idna 3.4"}},
		{"Pipfile.lock", `{"default":{"idna":{"version":"==3.4"}},"develop":{"pytest":{"version":"==7.0"}}}`, "pypi", []string{"idna 3.4", "pytest 7.0"}},
		{"go.mod", "module example.com/app\n\ngo 1.21\n\nrequire (\n\tgolang.org/x/mod v0.10.0\n\tgolang.org/x/sys v0.1.0 // indirect\n)\n\nreplace golang.org/x/sys => example.com/fork/sys v0.2.0\n", "golang", []string{"example.com/app ", "example.com/fork/sys v0.2.0", "golang.org/x/mod v0.10.0"}},
		{"pom.xml", "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><groupId>g</groupId><artifactId>a</artifactId><version>1</version><properties><v>2.17.1</v></properties><dependencies><dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>${v}</version></dependency></dependencies></project>", "maven", []string{"g:a 1", "org.apache.logging.log4j:log4j-core 2.17.1"}},
		{"gradle.lockfile", "# note\ncom.google.guava:guava:32.0.0-jre=compileClasspath,runtimeClasspath\nempty=\n", "maven", []string{"com.google.guava:guava 32.0.0-jre"}},
		{"Gemfile.lock", "GEM\n  remote: https://rubygems.org/\n  specs:\n    nokogiri (1.15.4-x86_64-linux)\n      racc (~> 1.4)\n    racc (1.7.1)\n\nDEPENDENCIES\n  nokogiri\n", "gem", []string{"nokogiri 1.15.4", "racc 1.7.1"}},
		{"usr/lib/ruby/gems/3.1.0/specifications/rake-13.0.6.gemspec", "Gem::Specification.new do |s|\n  s.name = \"rake\".freeze\n  s.version = \"13.0.6\"\n  s.licenses = [\"MIT\".freeze]\nend\n", "gem", []string{"rake 13.0.6"}},
		{"composer.lock", `{"packages":[{"name":"monolog/monolog","version":"v3.4.0","license":["MIT"],"require":{"php":">=8.1","psr/log":"^2"}}],"packages-dev":[{"name":"psr/log","version":"2.0.0"}]}`, "composer", []string{"monolog/monolog 3.4.0", "psr/log 2.0.0"}},
		{"packages.lock.json", `{"version":1,"dependencies":{"net8.0":{"Newtonsoft.Json":{"type":"Direct","resolved":"13.0.3"}}}}`, "nuget", []string{"Newtonsoft.Json 13.0.3"}},
		{"app.deps.json", `{"targets":{},"libraries":{"Serilog/3.0.1":{"type":"package"}}}`, "nuget", []string{"Serilog 3.0.1"}},
		{"lib/apk/db/installed", "C:Q1p78yvTLG094tHE1+dToJGbmYzQE=\nP:musl\nV:1.2.4-r2\nA:x86_64\no:musl\nL:MIT\nF:lib\nR:ld-musl-x86_64.so.1\n\nP:busybox-binsh\nV:1.36.1-r5\no:busybox\nD:musl\n", "apk", []string{"busybox-binsh 1.36.1-r5", "musl 1.2.4-r2"}},
		{"var/lib/dpkg/status.d/base", "Package: base-files\nVersion: 12.4\nArchitecture: amd64\n", "deb", []string{"base-files 12.4"}},
	} {
		t.Run(tc.path, func(t *testing.T) {
			dir := t.TempDir()
			put(t, filepath.Join(dir, tc.path), tc.text)
			d := scanPath(t, dir)
			if diff := cmp.Diff(tc.want, packages(t, d, tc.typ)); diff != "" {
				t.Errorf("packages (-want +got):\n%s", diff)
			}
			for _, why := range d.Incomplete {
				if strings.Contains(why, "could not be read") {
					t.Error(why)
				}
			}
			again(t, d)
		})
	}
}

// again: a document that is written and read again is equal, in every format.
func again(t *testing.T, d *sbom.Document) {
	t.Helper()
	for _, format := range []sbom.Format{sbom.CycloneDXJSON, sbom.SPDXJSON, sbom.SPDX3JSON} {
		var b bytes.Buffer
		if err := sbom.Write(&b, d, format, ""); err != nil {
			t.Fatal(err)
		}
		got, err := sbom.Parse(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Problems) > 0 {
			t.Errorf("%s: %q", format, got.Problems)
		}
		key := func(d *sbom.Document) map[string]string {
			out := map[string]string{}
			for _, c := range d.Components {
				out[c.PURL.String()] = fmt.Sprint(c.Name, c.Version, c.SourceName, c.SourceVersion, c.Digests, c.Licenses, len(c.Locations))
			}
			return out
		}
		if diff := cmp.Diff(key(d), key(got)); diff != "" {
			t.Errorf("%s read again (-written +read):\n%s", format, diff)
		}
	}
}

// TestHiddenPrograms: a program that does not say what it is built of makes the
// document incomplete, unless a package owns it.
func TestHiddenPrograms(t *testing.T) {
	build := func(dir string, args ...string) string {
		put(t, filepath.Join(dir, "main.go"), "package main\nfunc main() {}\n")
		put(t, filepath.Join(dir, "go.mod"), "module example.com/tiny\n\ngo 1.21\n")
		out := filepath.Join(dir, "tiny")
		cmd := exec.CommandContext(t.Context(), "go", append(append([]string{"build"}, args...), "-o", out, ".")...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOOS=linux", "GOARCH=amd64")
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("go build: %v\n%s", err, b)
		}
		return out
	}
	tiny := build(t.TempDir(), "-ldflags=-s -w")
	b, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	run := func(name string, b []byte) {
		put(t, filepath.Join(root, name), string(b))
		if err := os.Chmod(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run("usr/bin/told", b)
	hidden := bytes.ReplaceAll(bytes.ReplaceAll(b, []byte(".go.buildinfo\x00"), []byte(".no.buildinfo\x00")), []byte("\xff Go buildinf:"), []byte("\xff No buildinf:"))
	run("usr/bin/owned", hidden)
	run("opt/hidden", hidden)
	put(t, filepath.Join(root, "var/lib/dpkg/info/x.list"), "/.\n/bin/owned\n")
	put(t, filepath.Join(root, "var/lib/dpkg/status"), "Package: x\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n\n")
	put(t, filepath.Join(root, "etc/os-release"), "ID=debian\nVERSION_ID=\"12\"\n")
	d := scanPath(t, root)
	if diff := cmp.Diff([]string{"/opt/hidden is a Go program without build information"}, d.Incomplete); diff != "" {
		t.Errorf("incomplete (-want +got):\n%s", diff)
	}
	if d.Component("pkg:deb/debian/x@1?arch=amd64&distro=debian-12") == nil {
		t.Errorf("components: %+v", d.Components)
	}
	if got := packages(t, d, "golang"); len(got) != 2 || got[0] != "example.com/tiny " {
		t.Errorf("modules of the one that tells: %q", got)
	}
}
