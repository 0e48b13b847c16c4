//go:build e2e

package e2e

import (
	"archive/zip"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"assay/artifact"
	"assay/client"
	"assay/internal/vectors"
	"assay/vuln"

	"github.com/google/go-cmp/cmp"
)

// noFeed are ecosystems that the inputs name and the stored feeds do not have:
// osv-scanner stops at one whose archive is not there, so it is given empty ones.
var noFeed = []string{"Alpine", "Debian", "Maven", "RubyGems", "NuGet", "Ubuntu", "Red Hat", "Wolfi", "Chainguard", "Hex", "Pub", "GitHub Actions", "CRAN", "GIT", "Bitnami", "ConanCenter", "SwiftURL", "Rocky Linux"}

// explained are the reasons for which one of both alone finds something. What none
// of them is about is not explained; none of them is a miss of ours.
var explained = []struct {
	side    string // who finds it
	finding *regexp.Regexp
	reason  string
}{
	{"theirs", regexp.MustCompile(`^oci-kubectl-.* Go stdlib 1\.1\.12 `), "of pkg:golang/github.com/json-iterator/go@v1.1.12 in an SPDX document osv-scanner takes the last part of the path, go, for the standard library: a false alarm"},
	{"ours", regexp.MustCompile(`^oci-kubectl-.* Go [a-z0-9.]+/\S+ [0-9.]+ GO-`), "of a Go module in an SPDX document osv-scanner looks up the last part of its path alone, and so finds nothing about it"},
	{"ours", regexp.MustCompile(`^oci-kubectl-.* Go k8s.io/kubernetes \(devel\) .* unknown$`), "a program that was built of a working folder has no version to compare: unknown, where osv-scanner says nothing"},
	{"ours", regexp.MustCompile(`^big-mongo-.* Go \S+ \(devel\) .* unknown$`), "a program that was built of a working folder has no version to compare: unknown, where osv-scanner takes it for older than all"},
	{"theirs", regexp.MustCompile(`^big-mongo-.* Go \S+ \(devel\) `), "a program that was built of a working folder has no version to compare: unknown, where osv-scanner takes it for older than all"},
	{"ours", regexp.MustCompile(`^alma.cdx.json AlmaLinux:[89] `), "osv-scanner matches packages of RPM in images alone: in a bill of materials it does not tell of which distribution they are"},
}

var updateGolden = flag.Bool("update", false, "write the golden list of differences")

// TestAgreesWithOSVScanner: on the same inputs and the same feeds Assay finds what
// osv-scanner finds, but for what is explained by name.
func TestAgreesWithOSVScanner(t *testing.T) {
	if _, err := exec.LookPath("osv-scanner"); err != nil {
		t.Fatal("osv-scanner is not on PATH: run these tests with make e2e")
	}
	feeds, boms := vectors.Shared(t, "osv"), vectors.Shared(t, "sboms")
	dir := shortTemp(t)
	data, local := filepath.Join(dir, "data"), filepath.Join(dir, "db", "osv-scalibr")
	must(t, cleanEnv(), assayBin(t), "feed", "import", "--data", data, feeds)
	archives, err := filepath.Glob(filepath.Join(feeds, "*", "all.zip"))
	if err != nil || len(archives) == 0 {
		t.Fatal(archives, err)
	}
	if err := os.MkdirAll(local, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, a := range archives {
		if err := os.Symlink(filepath.Dir(a), filepath.Join(local, filepath.Base(filepath.Dir(a)))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range noFeed {
		emptyZip(t, filepath.Join(local, name, "all.zip"))
	}

	inputs, both := 0, 0
	differ := map[string][]string{} // reason, and what is different for it
	note := func(side, finding string) {
		for _, e := range explained {
			if e.side == side && e.finding.MatchString(finding) {
				differ[e.reason] = append(differ[e.reason], side+" "+finding)
				return
			}
		}
		t.Errorf("not explained: %s %s", side, finding)
	}
	for name, path := range agreementInputs(t, boms, dir) {
		theirs, all := osvScanner(t, filepath.Dir(local), path)
		ours := assayScan(t, data, path)
		inputs++
		for f := range theirs {
			if ours[f] {
				both++
			} else {
				note("theirs", name+" "+f)
			}
		}
		for f := range ours {
			if !theirs[f] {
				note("ours", name+" "+f)
			}
		}
		t.Logf("%s: %d packages read by osv-scanner, findings: %d theirs, %d ours", name, all, len(theirs), len(ours))
	}
	golden(t, filepath.Join("testdata", "differences.golden"), differ)
	t.Logf("%d inputs, %d findings of both", inputs, both)
	if inputs < 20 || both < 300 {
		t.Errorf("%d inputs, %d findings of both: too few to say anything", inputs, both)
	}
}

// TestAgreesWithOSVScannerOnImages: of an image too, whose packages both read out
// of its layers: those of npm and PyPI as they are installed, and a Go program's.
func TestAgreesWithOSVScannerOnImages(t *testing.T) {
	feeds := vectors.Shared(t, "osv")
	dir := shortTemp(t)
	data, local := filepath.Join(dir, "data"), filepath.Join(dir, "db", "osv-scalibr")
	must(t, cleanEnv(), assayBin(t), "feed", "import", "--data", data, feeds)
	if err := os.MkdirAll(local, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Go", "npm", "PyPI"} {
		if err := os.Symlink(filepath.Join(feeds, name), filepath.Join(local, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range noFeed {
		emptyZip(t, filepath.Join(local, name, "all.zip"))
	}
	root := filepath.Join(dir, "root")
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, path, []byte(text))
	}
	put("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n")
	put("var/lib/dpkg/status", "Package: zlib1g\nStatus: install ok installed\nSource: zlib\nVersion: 1:1.2.13.dfsg-1\nArchitecture: amd64\n\n")
	for name, version := range map[string]string{"lodash": "4.17.4", "minimist": "0.0.8", "express": "4.15.0", "@babel/traverse": "7.20.0", "ws": "7.0.0"} {
		put("usr/local/lib/node_modules/"+name+"/package.json", fmt.Sprintf(`{"name": %q, "version": %q}`, name, version))
	}
	for name, version := range map[string]string{"requests": "2.6.0", "Jinja2": "2.10", "urllib3": "1.24", "Django": "2.2"} {
		put(fmt.Sprintf("usr/lib/python3/dist-packages/%s-%s.dist-info/METADATA", name, version), fmt.Sprintf("Metadata-Version: 2.1\nName: %s\nVersion: %s\n", name, version))
	}
	source := filepath.Join(dir, "app")
	if err := os.Mkdir(source, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(source, "main.go"), []byte(oldGo))
	env := cleanEnv("GOFLAGS=-mod=mod", "GOWORK=off", "CGO_ENABLED=0", "GOTOOLCHAIN=local")
	for _, args := range [][]string{
		{"mod", "init", "example.com/app"}, {"get", "golang.org/x/text@v0.3.5", "golang.org/x/net@v0.0.0-20210405180319-a5a99cb37ef4"}, {"build", "-o", filepath.Join(root, "app"), "."},
	} {
		if r := runIn(t, source, env, "go", args...); r.code != 0 {
			t.Fatalf("go %v: %s", args, r.stderr)
		}
	}
	must(t, cleanEnv(), "tar", "-C", root, "-cf", filepath.Join(dir, "layer.tar"), ".")
	image := filepath.Join(dir, "image.tar")
	must(t, cleanEnv(), "crane", "append", "-f", filepath.Join(dir, "layer.tar"), "-o", image, "-t", "example.com/app:v1")
	theirs, all := osvScannerOf(t, "image", filepath.Dir(local), "--archive", image)
	ours := assayScan(t, data, image)
	both := 0
	for f := range theirs {
		if ours[f] {
			both++
		} else {
			t.Errorf("theirs alone: %s", f)
		}
	}
	for f := range ours {
		// In a lock file that names the same lodash osv-scanner finds these two, in an
		// image it leaves them out. The version is in their range.
		if !theirs[f] && !slices.Contains([]string{"npm lodash 4.17.4 NSWG-NPM-368", "npm lodash 4.17.4 NSWG-NPM-493"}, f) {
			t.Errorf("ours alone: %s", f)
		}
	}
	t.Logf("%d packages read by osv-scanner, %d findings of both", all, both)
	if both < 60 {
		t.Errorf("%d findings of both: too few to say anything", both)
	}
}

// golden holds the differences, each by name under its reason, against the list.
func golden(t *testing.T, path string, differ map[string][]string) {
	t.Helper()
	var b strings.Builder
	for _, reason := range slices.Sorted(maps.Keys(differ)) {
		fmt.Fprintf(&b, "# %s\n", reason)
		// One line for all advisories of a package.
		lines := map[string][]string{}
		for _, d := range differ[reason] {
			d, unknown := strings.CutSuffix(d, " unknown")
			at := strings.LastIndexByte(d, ' ')
			id := d[at+1:]
			if unknown {
				id += " (unknown)"
			}
			lines[d[:at]] = append(lines[d[:at]], id)
		}
		for _, l := range slices.Sorted(maps.Keys(lines)) {
			slices.Sort(lines[l])
			fmt.Fprintf(&b, "%s: %s\n", l, strings.Join(lines[l], ", "))
		}
	}
	if *updateGolden {
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(b.String(), "\n")); diff != "" {
		t.Errorf("the differences are not those of %s (-update, and read them): %s", path, diff)
	}
}

func emptyZip(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := zip.NewWriter(f).Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// agreementInputs are the bills of materials of the test data, under names that
// osv-scanner knows them by, and our own lock files.
func agreementInputs(t *testing.T, boms, dir string) map[string]string {
	t.Helper()
	inputs := map[string]string{}
	entries, err := os.ReadDir(boms)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(boms, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		suffix, base := filepath.Ext(e.Name()), strings.TrimSuffix(e.Name(), filepath.Ext(e.Name()))
		text := string(b)
		switch {
		case strings.HasPrefix(e.Name(), "invalid-"), !strings.Contains(text, "pkg:"):
			continue
		case strings.Contains(text, `"bomFormat"`), strings.Contains(text, "cyclonedx.org/schema/bom"):
			base += ".cdx" + suffix
		case strings.Contains(text, `"spdxVersion"`):
			base += ".spdx" + suffix
		default:
			continue
		}
		path := filepath.Join(dir, base)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		inputs[e.Name()] = path
	}
	own := filepath.Join("testdata", "agreement")
	err = filepath.WalkDir(own, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			inputs[filepath.ToSlash(strings.TrimPrefix(path, own+string(filepath.Separator)))] = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return inputs
}

// osvScanner gives its findings as "ecosystem name version advisory".
func osvScanner(t *testing.T, local, path string) (found map[string]bool, packages int) {
	t.Helper()
	return osvScannerOf(t, "source", local, "--no-resolve", "-L", path)
}

func osvScannerOf(t *testing.T, what, local string, path ...string) (found map[string]bool, packages int) {
	t.Helper()
	r := run(t, cleanEnv(), "osv-scanner", slices.Concat([]string{"scan", what, "--offline", "--local-db-path", local, "--all-packages", "--all-vulns", "--format", "json"}, path)...)
	found = map[string]bool{}
	if r.code == 128 { // it found no packages
		return found, 0
	}
	if r.code != 0 && r.code != 1 {
		t.Fatalf("osv-scanner %s: exit code %d\n%s", path, r.code, r.stderr)
	}
	var out struct {
		Results []struct {
			Packages []struct {
				Package         struct{ Name, Version, Ecosystem string }
				Vulnerabilities []struct {
					ID string `json:"id"`
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
		t.Fatalf("osv-scanner %s: %v\n%s", path, err, r.stdout)
	}
	for _, result := range out.Results {
		for _, p := range result.Packages {
			packages++
			var a vuln.Affected
			a.Package.Ecosystem, a.Package.Name = p.Package.Ecosystem, p.Package.Name
			key := a.Key()
			for _, v := range p.Vulnerabilities {
				found[key.Ecosystem+" "+key.Name+" "+plainVersion(p.Package.Version)+" "+v.ID] = true
			}
		}
	}
	return found, packages
}

// assayScan gives what is affected, and what may be.
func assayScan(t *testing.T, data, path string) map[string]bool {
	t.Helper()
	r := run(t, cleanEnv(), assayBin(t), "scan", "--data", data, "-o", "json", path)
	if r.code > 2 {
		t.Fatalf("assay scan %s: exit code %d\n%s", path, r.code, r.stderr)
	}
	var out client.Findings
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
		t.Fatalf("assay scan %s: %v\n%s", path, err, r.stdout)
	}
	found := map[string]bool{}
	for _, f := range out.Items {
		p, err := artifact.ParsePURL(f.Component)
		if err != nil {
			t.Fatal(err)
		}
		lookups, _ := vuln.Lookups(p, f.Version, "", "")
		for _, l := range lookups {
			for _, r := range f.Records {
				key := l.Ecosystem + " " + l.Name + " " + plainVersion(f.Version) + " " + r.ID
				if f.Status != "affected" {
					key += " " + f.Status
				}
				found[key] = true
			}
		}
	}
	return found
}

func plainVersion(v string) string { return strings.TrimPrefix(v, "v") }
