package vuln

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/artifact"
	"assay/internal/vectors"

	"github.com/google/go-cmp/cmp"
)

func affected(ecosystem string, versions []string, ranges ...[]Event) *Affected {
	a := &Affected{Versions: versions}
	a.Package.Ecosystem, a.Package.Name = ecosystem, "x"
	for _, r := range ranges {
		a.Ranges = append(a.Ranges, Range{Type: "ECOSYSTEM", Events: r})
	}
	return a
}

func TestAffects(t *testing.T) {
	from, fixed, last := func(v string) Event { return Event{Introduced: v} }, func(v string) Event { return Event{Fixed: v} }, func(v string) Event { return Event{LastAffected: v} }
	tests := []struct {
		name string
		a    *Affected
		want map[string]string // version -> status and fix
	}{
		{"one range", affected("npm", nil, []Event{from("0"), fixed("1.2.0")}),
			map[string]string{"0.0.1": "affected 1.2.0", "1.1.9": "affected 1.2.0", "1.2.0-rc.1": "affected 1.2.0", "1.2.0": "not_affected ", "": "unknown "}},
		{"last affected", affected("npm", nil, []Event{from("1.0.0"), last("1.2.0")}),
			map[string]string{"0.9.0": "not_affected ", "1.2.0": "affected ", "1.2.1": "not_affected "}},
		{"unsorted, several in one", affected("npm", nil, []Event{fixed("2.5.0"), from("2.0.0"), fixed("1.5.0"), from("1.0.0")}),
			map[string]string{"1.4.0": "affected 1.5.0", "1.7.0": "not_affected ", "2.1.0": "affected 2.5.0", "3.0.0": "not_affected "}},
		{"several ranges", affected("npm", nil, []Event{from("1.0.0"), fixed("1.5.0")}, []Event{from("2.0.0")}),
			map[string]string{"1.4.0": "affected 1.5.0", "1.7.0": "not_affected ", "9.0.0": "affected "}},
		{"without end, introduced twice", affected("npm", nil, []Event{from("0"), from("1.0.0")}), map[string]string{"0.5.0": "affected ", "2.0.0": "affected "}},
		{"limit", affected("npm", nil, []Event{from("0"), {Limit: "2.0.0"}}), map[string]string{"1.9.0": "affected 2.0.0", "2.0.0": "not_affected "}},
		{"no limit", affected("npm", nil, []Event{from("0"), {Limit: "*"}}), map[string]string{"1.9.0": "affected "}},
		{"same version ends and begins", affected("npm", nil, []Event{from("0"), fixed("1.0.0"), from("1.0.0"), fixed("1.1.0")}), map[string]string{"1.0.0": "affected 1.1.0"}},
		{"one version alone", affected("npm", nil, []Event{from("1.0.0"), last("1.0.0")}), map[string]string{"1.0.0": "affected ", "1.0.1": "not_affected "}},
		{"list", affected("PyPI", []string{"1.0", "1.1"}), map[string]string{"1.0": "affected ", "1.0.0": "affected ", "1.2": "not_affected "}},
		{"list and range", affected("PyPI", []string{"1.0", "7.0.bad"}, []Event{from("0"), fixed("2.0")}), map[string]string{"1.0": "affected 2.0", "1.5": "affected 2.0", "3.0": "not_affected "}},
		{"epoch", affected("AlmaLinux:8", nil, []Event{from("0"), fixed("1:2.0-1.el8")}), map[string]string{"9.0-1.el8": "affected 1:2.0-1.el8", "1:2.0-1.el8": "not_affected "}},
		{"tilde", affected("Debian:12", nil, []Event{from("0"), fixed("2.0-1")}), map[string]string{"2.0~rc1-1": "affected 2.0-1", "2.0-1+deb12u1": "not_affected "}},
		{"unreadable version", affected("Debian:12", nil, []Event{from("0"), fixed("2.0-1")}), map[string]string{strings.Repeat("1", 300): "unknown "}},
		{"built of a working folder", affected("Go", nil, []Event{from("0"), fixed("1.2.0")}), map[string]string{"(devel)": "unknown ", "1.1.0": "affected 1.2.0", "devel": "unknown "}},
		{"nothing said", affected("npm", nil), map[string]string{"1.0.0": "unknown "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for version, want := range tt.want {
				got := tt.a.Affects(version)
				if s := got.Status.String() + " " + got.Fixed; s != want {
					t.Errorf("%q: %s, want %s", version, s, want)
				}
				if (got.Reason != "") != (got.Status == Unknown) {
					t.Errorf("%q: reason %q of %s", version, got.Reason, got.Status)
				}
			}
		})
	}
}

func TestLookups(t *testing.T) {
	for purl, want := range map[string]string{
		"pkg:npm/%40angular/core@1.0.0":                                             "npm @angular/core 1.0.0",
		"pkg:pypi/Zope.Interface@5.0":                                               "PyPI zope-interface 5.0",
		"pkg:golang/github.com/BurntSushi/toml@v1.2.0":                              "Go github.com/burntsushi/toml 1.2.0",
		"pkg:golang/stdlib@go1.22.1":                                                "Go stdlib 1.22.1",
		"pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1":                      "Maven org.apache.logging.log4j:log4j-core 2.14.1",
		"pkg:composer/Laravel/Framework@5.0.0":                                      "Packagist laravel/framework 5.0.0",
		"pkg:cargo/serde@1.0.0":                                                     "crates.io serde 1.0.0",
		"pkg:deb/debian/libssl3@3.0.11-1~deb12u2?distro=debian-12&upstream=openssl": "Debian:12 openssl 3.0.11-1~deb12u2",
		"pkg:deb/debian/libssl3@3.0.11-1~deb12u2?distro=bookworm&upstream=openssl":  "Debian:12 openssl 3.0.11-1~deb12u2",
		"pkg:deb/ubuntu/curl@7.81.0-1?distro=ubuntu-22.04":                          "Ubuntu:22.04 curl 7.81.0-1, Ubuntu:22.04:LTS curl 7.81.0-1",
		"pkg:apk/alpine/libcrypto3@3.1.4-r1?distro=alpine-3.19.1&upstream=openssl":  "Alpine:v3.19 openssl 3.1.4-r1",
		"pkg:rpm/almalinux/openssl-libs@1.1.1k-9.el8?distro=almalinux-8.9&epoch=1":  "AlmaLinux:8 openssl-libs 1:1.1.1k-9.el8",
		"pkg:rpm/opensuse/curl@8.0.1-1?distro=opensuse-leap-15.5":                   "openSUSE:Leap 15.5 curl 8.0.1-1",
		"pkg:rpm/sles/curl@8.0.1-1?distro=sles-15.5":                                "SUSE:Linux Enterprise Server 15 SP5 curl 8.0.1-1",
		"pkg:deb/debian/libssl3@3.0.11-1":                                           "release missing",
		"pkg:apk/alpine/musl@1.2":                                                   "release missing",
		"pkg:generic/thing@1.0":                                                     "",
		"pkg:githubactions/tj-actions/changed-files@v45.0.7":                        "GitHub Actions tj-actions/changed-files 45.0.7",
	} {
		p, err := artifact.ParsePURL(purl)
		if err != nil {
			t.Fatal(err)
		}
		all, missing := Lookups(p, "", p.Qualifier("upstream"), "")
		var words []string
		for _, c := range all {
			words = append(words, c.Ecosystem+" "+c.Name+" "+c.Version)
		}
		if missing {
			words = append(words, "release missing")
		}
		if diff := cmp.Diff(want, strings.Join(words, ", ")); diff != "" {
			t.Errorf("%s: %s", purl, diff)
		}
	}
}

// TestRepositoryOfAnEcosystem: Packagist's and Maven's suffixes name repositories,
// a distribution's its release.
func TestRepositoryOfAnEcosystem(t *testing.T) {
	for ecosystem, want := range map[string]string{
		"Packagist:https://packages.drupal.org/8": "Packagist", "Maven:https://repo.example/maven2": "Maven", "Packagist": "Packagist",
		"Debian:12": "Debian:12", "Red Hat:enterprise_linux:9::baseos": "Red Hat:9",
	} {
		a := affected(ecosystem, nil)
		if got := a.Key().Ecosystem; got != want {
			t.Errorf("%s: %s, want %s", ecosystem, got, want)
		}
	}
}

// TestVersionOrder holds the order of versions to fixtures of the ecosystems'
// own tools: all of their 71,818 comparisons.
func TestVersionOrder(t *testing.T) {
	dir := vectors.Dir(t, "version-order")
	files, err := filepath.Glob(filepath.Join(dir, "*-versions*.txt"))
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	names := map[string]string{"alpine": "Alpine", "cran": "CRAN", "debian": "Debian", "hackage": "Hackage", "maven": "Maven", "nuget": "NuGet", "packagist": "Packagist",
		"pub": "Pub", "pypi": "PyPI", "redhat": "Red Hat", "rubygems": "RubyGems", "semver": "npm", "ubuntu": "Ubuntu"}
	lines := 0
	for _, file := range files {
		name, _, _ := strings.Cut(filepath.Base(file), "-")
		ecosystem := names[name]
		if ecosystem == "" {
			t.Errorf("%s: of which ecosystem?", file)
			continue
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewScanner(f)
		for in.Scan() {
			line := strings.TrimSpace(in.Text())
			if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "//") {
				continue
			}
			words := strings.Fields(line)
			if len(words) != 3 {
				t.Errorf("%s: %q", file, line)
				continue
			}
			lines++
			c, err := parse(words[0], ecosystem).compare(parse(words[2], ecosystem))
			got := map[int]string{-1: "<", 0: "=", 1: ">"}[c]
			if err != nil {
				got = err.Error()
			}
			if got != words[1] {
				t.Errorf("%s: %s: we say %s", filepath.Base(file), line, got)
			}
		}
		f.Close()
		if err := in.Err(); err != nil {
			t.Error(err)
		}
	}
	if lines != 71_818 {
		t.Errorf("%d comparisons were read", lines)
	}
}

// A version that cannot be read is not one that an advisory does not list.
func TestThreat_Vuln_UnreadableVersionOfAList(t *testing.T) {
	for _, tt := range []struct {
		ecosystem, version string
		want               Status
	}{{"PyPI", "1.0", IsAffected}, {"PyPI", "2.0", NotAffected}, {"PyPI", strings.Repeat("1", 300), Unknown}, {"Go", "(devel)", Unknown}, {"PyPI", "", Unknown}} {
		a := Affected{Versions: []string{"1.0"}}
		a.Package.Ecosystem = tt.ecosystem
		if got := a.Affects(tt.version); got.Status != tt.want {
			t.Errorf("%s %.20q: %s, want %s", tt.ecosystem, tt.version, got.Status, tt.want)
		}
	}
}

func TestMeans(t *testing.T) {
	dsa := Advisory{ID: "DSA-1", Upstream: []string{"CVE-1", "CVE-2"}, Related: []string{"CVE-9"}}
	one := Advisory{ID: "UBUNTU-CVE-1", Upstream: []string{"CVE-1"}}
	ghsa := Advisory{ID: "GHSA-1", Aliases: []string{"CVE-1"}, Related: []string{"CVE-9"}}
	alma := Advisory{ID: "ALSA-1", Related: []string{"CVE-1", "CVE-2", "RHSA-1"}, Affected: make([]Affected, 1)}
	alma.Affected[0].Package.Ecosystem = "AlmaLinux:8"
	alike := Advisory{ID: "PYSEC-1", Related: []string{"CVE-9"}, Affected: make([]Affected, 1)}
	alike.Affected[0].Package.Ecosystem = "PyPI"
	for _, tt := range []struct {
		a     Advisory
		means bool // CVE-1
		flaws string
	}{
		{dsa, false, "CVE-1 CVE-2 DSA-1"}, {one, true, "CVE-1 UBUNTU-CVE-1"}, {ghsa, true, "CVE-1 GHSA-1"}, {alma, false, "ALSA-1 CVE-1 CVE-2"}, {alike, false, "PYSEC-1"},
	} {
		if got := tt.a.Means("CVE-1"); got != tt.means {
			t.Errorf("%s means CVE-1: %v", tt.a.ID, got)
		}
		if got := strings.Join(tt.a.Flaws(), " "); got != tt.flaws {
			t.Errorf("%s is about %s, want %s", tt.a.ID, got, tt.flaws)
		}
	}
}
