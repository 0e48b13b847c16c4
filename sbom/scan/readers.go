package scan

import (
	"io"
	"path"
	"strings"
)

// reader makes a finding of a file. A nil finding is one without packages.
type reader func(c *collector, path string, content *io.SectionReader) (*finding, error)

// byName are the files that are known by their name alone.
var byName = map[string]reader{
	"go.mod":                      readGoMod,
	"package-lock.json":           readPackageLock,
	".package-lock.json":          readPackageLock,
	"npm-shrinkwrap.json":         readPackageLock,
	"yarn.lock":                   readYarn,
	"pnpm-lock.yaml":              readPnpm,
	"poetry.lock":                 readPythonLock,
	"uv.lock":                     readPythonLock,
	"pdm.lock":                    readPythonLock,
	"pylock.toml":                 readPythonLock,
	"Pipfile.lock":                readPipfile,
	"Cargo.lock":                  readCargoLock,
	"pom.xml":                     readPOM,
	"gradle.lockfile":             readGradle,
	"buildscript-gradle.lockfile": readGradle,
	"Gemfile.lock":                readGemfileLock,
	"gems.locked":                 readGemfileLock,
	"composer.lock":               readComposer,
	"packages.lock.json":          readNuGetLock,
	"packages.config":             readPackagesConfig,
}

// byPath are those that stand in one place.
var byPath = map[string]reader{
	"etc/os-release":                    readRelease,
	"usr/lib/os-release":                readRelease,
	"var/lib/dpkg/status":               readDpkg,
	"usr/lib/opkg/status":               readDpkg,
	"lib/apk/db/installed":              readApk,
	"usr/lib/apk/db/installed":          readApk,
	"var/lib/rpm/Packages":              readRPM,
	"var/lib/rpm/Packages.db":           readRPM,
	"var/lib/rpm/rpmdb.sqlite":          readRPM,
	"usr/lib/sysimage/rpm/Packages":     readRPM,
	"usr/lib/sysimage/rpm/Packages.db":  readRPM,
	"usr/lib/sysimage/rpm/rpmdb.sqlite": readRPM,
	"usr/share/rpm/rpmdb.sqlite":        readRPM,
}

// readerOf finds the reader of a path below the root; nil for most.
func readerOf(p string) reader {
	if r := byPath[p]; r != nil {
		return r
	}
	base := path.Base(p)
	if r := byName[base]; r != nil {
		return r
	}
	switch ext := path.Ext(base); ext {
	case ".jar", ".war", ".ear", ".jmod", ".par", ".sar", ".jpi", ".hpi", ".nar", ".lpkg":
		return readJar
	case ".gemspec":
		if strings.Contains(p, "/specifications/") || strings.HasPrefix(p, "specifications/") {
			return readGemspec
		}
	case ".txt":
		if strings.Contains(base, "requirements") {
			return readRequirements
		}
	case ".list":
		if strings.HasPrefix(p, "var/lib/dpkg/info/") {
			return readDpkgFiles
		}
	case ".json":
		switch {
		case base == "package.json" && strings.Contains("/"+p, "/node_modules/"):
			return readPackageJSON
		case strings.HasSuffix(base, ".deps.json"):
			return readDepsJSON
		case base == "installed.json" && strings.HasSuffix(path.Dir(p), "vendor/composer"):
			return readComposer
		}
	}
	switch {
	case strings.HasPrefix(p, "var/lib/dpkg/status.d/"):
		if strings.HasSuffix(base, ".md5sums") {
			return readDpkgFiles
		}
		return readDpkg
	case base == "METADATA" && strings.HasSuffix(path.Dir(p), ".dist-info"),
		base == "PKG-INFO" && (strings.HasSuffix(path.Dir(p), ".egg-info") || strings.HasSuffix(path.Dir(p), "EGG-INFO")),
		strings.HasSuffix(base, ".egg-info"):
		return readMetadata
	case base == "copyright" && strings.HasPrefix(p, "usr/share/doc/") && strings.Count(p, "/") == 4:
		return readCopyright
	}
	return nil
}

// large says whether a file is read in place rather than whole.
func large(p string) bool {
	switch path.Ext(p) {
	case ".jar", ".war", ".ear", ".jmod", ".par", ".sar", ".jpi", ".hpi", ".nar", ".lpkg":
		return true
	}
	return strings.HasPrefix(path.Base(p), "Packages") || strings.HasPrefix(path.Base(p), "rpmdb")
}
