package vuln

import (
	"regexp"
	"strings"

	"assay/artifact"
)

// Package is what an advisory and a component have in common: an OSV ecosystem
// with its release ("Debian:12", never its prefix alone), and the name that is
// used there, in its normal form.
type Package struct {
	Ecosystem string
	Name      string
}

// Candidate is one way to look a component up: the package, and the version that
// counts there. Distributions are looked up by source package where their feeds
// name those.
type Candidate struct {
	Package
	Version string
	// Platform is GOOS/GOARCH that a Go module was built for, as its package URL
	// says ("linux/amd64"); "" when that is not known, and part of it may be.
	Platform string
}

// plain are the ecosystems whose names are a package URL's, by its type.
var plain = map[string]string{
	"pypi": "PyPI", "cargo": "crates.io", "gem": "RubyGems", "nuget": "NuGet", "hex": "Hex", "pub": "Pub",
	"hackage": "Hackage", "cran": "CRAN", "bitnami": "Bitnami", "conan": "ConanCenter", "julia": "Julia",
}

// Lookups says how a component is found in advisories. None means that no feed
// knows this kind of package: that is unknown, not clean. releaseMissing is a
// distribution's package that does not say of which release it is. version counts
// where the package URL has none.
func Lookups(p artifact.PURL, version, sourceName, sourceVersion string) (all []Candidate, releaseMissing bool) {
	if p.Version != "" {
		version = p.Version // it is what names the component; what stands beside it may say another thing
	}
	path := p.Name
	if p.Namespace != "" {
		path = p.Namespace + "/" + p.Name
	}
	one := func(ecosystem, name, version string) []Candidate {
		return []Candidate{{Package: Package{ecosystem, normalName(ecosystem, name)}, Version: version}}
	}
	switch p.Type {
	case "npm":
		return one("npm", path, version), false
	case "golang":
		all = one("Go", path, strings.TrimPrefix(strings.TrimPrefix(version, "v"), "go"))
		if os, arch := p.Qualifier("goos"), p.Qualifier("goarch"); os != "" || arch != "" {
			all[0].Platform = os + "/" + arch
		}
		return all, false
	case "maven":
		return one("Maven", p.Namespace+":"+p.Name, version), false
	case "composer":
		return one("Packagist", path, version), false
	case "swift":
		return one("SwiftURL", path, version), false
	case "githubactions":
		return one("GitHub Actions", path, strings.TrimPrefix(version, "v")), false
	case "deb", "apk", "rpm":
		return distribution(p, version, sourceName, sourceVersion)
	}
	if e := plain[p.Type]; e != "" {
		return one(e, p.Name, version), false
	}
	return nil, false
}

// distribution finds a distribution's package. Debian, Ubuntu, Alpine and Wolfi
// name source packages in their advisories, the makers of RPMs binary ones.
func distribution(p artifact.PURL, version, sourceName, sourceVersion string) (all []Candidate, releaseMissing bool) {
	if epoch := p.Qualifier("epoch"); epoch != "" && epoch != "0" && !strings.Contains(version, ":") {
		version = epoch + ":" + version
	}
	if sourceVersion == "" {
		sourceVersion = version
	}
	ecosystems := releases(p.Type, p.Namespace, p.Qualifier("distro"))
	if len(ecosystems) == 0 {
		return nil, knownDistribution(p.Namespace)
	}
	for _, e := range ecosystems {
		if sourceName != "" && sourceName != p.Name && p.Type != "rpm" {
			all = append(all, Candidate{Package: Package{e, normalName(e, sourceName)}, Version: sourceVersion})
			continue
		}
		all = append(all, Candidate{Package: Package{e, normalName(e, p.Name)}, Version: version})
	}
	return all, false
}

// distributions are the ecosystems of distributions, without their releases.
var distributions = map[string]bool{
	"Debian": true, "Ubuntu": true, "Alpine": true, "Wolfi": true, "Chainguard": true, "MinimOS": true, "AlmaLinux": true, "Rocky Linux": true,
	"Red Hat": true, "Mageia": true, "openEuler": true, "openSUSE": true, "SUSE": true, "Photon OS": true,
}

func knownDistribution(namespace string) bool {
	switch namespace {
	case "debian", "ubuntu", "alpine", "almalinux", "rocky", "rockylinux", "redhat", "rhel", "opensuse", "sles", "suse", "mageia", "openeuler":
		return true
	}
	return false
}

var (
	numbers     = regexp.MustCompile(`\d+(\.\d+)*`)
	debianNames = map[string]string{"wheezy": "7", "jessie": "8", "stretch": "9", "buster": "10", "bullseye": "11", "bookworm": "12", "trixie": "13", "forky": "14"}
	ubuntuNames = map[string]string{"trusty": "14.04", "xenial": "16.04", "bionic": "18.04", "focal": "20.04", "jammy": "22.04", "noble": "24.04"}
)

// releases are the ecosystems of a distribution's release, as OSV spells them.
// distro is a package URL's qualifier: "debian-12", "bookworm", "alpine-3.19.1".
func releases(typ, namespace, distro string) []string {
	number := numbers.FindString(distro)
	major, rest, _ := strings.Cut(number, ".")
	named := func(names map[string]string) string {
		for name, n := range names {
			if strings.Contains(distro, name) {
				return n
			}
		}
		return ""
	}
	of := func(name, release string) []string {
		if release == "" {
			return nil
		}
		return []string{name + ":" + release}
	}
	minor, _, _ := strings.Cut(rest, ".")
	switch namespace {
	case "debian":
		if major == "" {
			major = named(debianNames)
		}
		return of("Debian", major)
	case "ubuntu":
		if number == "" {
			number = named(ubuntuNames)
		}
		if number == "" {
			return nil
		}
		return []string{"Ubuntu:" + number, "Ubuntu:" + number + ":LTS"}
	case "alpine":
		if minor == "" {
			return nil
		}
		return of("Alpine", "v"+major+"."+minor)
	case "wolfi":
		return []string{"Wolfi"} // these roll: there is one release
	case "chainguard":
		return []string{"Chainguard"}
	case "minimos":
		return []string{"MinimOS"}
	}
	if typ != "rpm" {
		return nil
	}
	switch namespace {
	case "almalinux":
		return of("AlmaLinux", major)
	case "rocky", "rockylinux":
		return of("Rocky Linux", major)
	case "redhat", "rhel":
		return of("Red Hat", major)
	case "mageia":
		return of("Mageia", major)
	case "openeuler":
		return of("openEuler", number)
	case "opensuse":
		if strings.Contains(distro, "tumbleweed") {
			return []string{"openSUSE:Tumbleweed"}
		}
		return of("openSUSE", leap("Leap ", number))
	case "sles", "suse":
		if major == "" {
			return nil
		}
		if minor == "" || minor == "0" {
			return of("SUSE", "Linux Enterprise Server "+major)
		}
		return of("SUSE", "Linux Enterprise Server "+major+" SP"+minor)
	}
	return nil
}

func leap(name, number string) string {
	if number == "" {
		return ""
	}
	return name + number
}

// normalName is a name as its ecosystem compares names.
func normalName(ecosystem, name string) string {
	base, _, _ := strings.Cut(ecosystem, ":")
	switch base {
	case "PyPI": // PEP 503
		return strings.Join(strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return r == '-' || r == '_' || r == '.' }), "-")
	case "Go", "NuGet", "Packagist", "GitHub Actions", "SwiftURL":
		// Package URLs fold the case of Go modules, so theirs is folded here too.
		return strings.ToLower(name)
	}
	return name
}

// Key is the advisory's package in the form in which components are looked up.
// Ecosystems of Red Hat are platform names of CPE; only their major release
// counts for a component, which knows no more.
func (a *Affected) Key() Package {
	e := a.Package.Ecosystem
	if rest, is := strings.CutPrefix(e, "Red Hat:enterprise_linux:"); is {
		release, _, _ := strings.Cut(rest, ":")
		major, _, _ := strings.Cut(release, ".")
		e = "Red Hat:" + major
	}
	// Of these a suffix is the repository that a package comes from, which
	// components do not say; names are the same in all of them.
	for _, name := range []string{"Packagist", "Maven"} {
		if strings.HasPrefix(e, name+":http") {
			e = name
		}
	}
	return Package{e, normalName(e, a.Package.Name)}
}
