package scan

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"assay/artifact"
	"assay/internal/fault"

	rpmdb "github.com/erikvarga/go-rpmdb/pkg"
)

// stanzas reads "Key: value" paragraphs, of which a line that begins with a
// space goes on (deb-control(5), apk's database has no such lines).
func stanzas(content *io.SectionReader, keys map[string]bool, each func(get map[string]string) error) error {
	sc := bufio.NewScanner(io.NewSectionReader(content, 0, content.Size()))
	sc.Buffer(make([]byte, 0, 64<<10), 8<<20)
	one, last := map[string]string{}, ""
	flush := func() error {
		if len(one) == 0 {
			return nil
		}
		err := each(one)
		clear(one)
		last = ""
		return err
	}
	for sc.Scan() {
		b := sc.Bytes()
		if len(bytes.TrimSpace(b)) == 0 {
			if err := flush(); err != nil {
				return err
			}
			continue
		}
		if b[0] == ' ' || b[0] == '\t' {
			if keys[last] {
				one[last] += " " + strings.TrimSpace(string(b))
			}
			continue
		}
		key, value, ok := bytes.Cut(b, []byte(":"))
		if !ok {
			return fault.Newf(fault.Invalid, "line %.60q: want KEY: VALUE", b)
		}
		last = string(key)
		if !keys[last] {
			continue
		}
		one[last] = strings.TrimSpace(string(value))
	}
	if err := sc.Err(); err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	return flush()
}

var dpkgKeys = map[string]bool{
	"Package": true, "Status": true, "Version": true, "Architecture": true, "Source": true, "Maintainer": true,
	"Depends": true, "Pre-Depends": true, "Provides": true,
}

var apkKeys = map[string]bool{"P": true, "V": true, "A": true, "L": true, "o": true, "m": true, "D": true, "p": true, "C": true}

// readDpkg reads dpkg's status, or one package of a distroless status.d.
func readDpkg(_ *collector, p string, content *io.SectionReader) (*finding, error) {
	f := &finding{group: "dpkg"}
	err := stanzas(content, dpkgKeys, func(get map[string]string) error {
		name, version := get["Package"], get["Version"]
		if name == "" || version == "" {
			return nil
		}
		if status := strings.Fields(get["Status"]); len(status) == 3 {
			switch status[2] { // dpkg-query(1): what has left its configuration only is not installed
			case "not-installed", "config-files":
				return nil
			}
		} else if get["Status"] != "" || !strings.Contains(p, "status.d/") {
			return nil
		}
		one := pkg{typ: "deb", name: name, version: version, os: true, supplier: get["Maintainer"], ids: []string{name}, quals: map[string]string{}}
		if strings.HasPrefix(p, "usr/lib/opkg/") {
			one.typ = "opkg"
		}
		if arch := get["Architecture"]; arch != "" {
			one.quals["arch"] = arch
		}
		one.source = name
		if src := get["Source"]; src != "" {
			var v string
			one.source, v, _ = strings.Cut(src, " (")
			one.sourceVersion = strings.TrimSuffix(v, ")")
		}
		for _, virtual := range relations(get["Provides"]) {
			one.ids = append(one.ids, virtual...)
		}
		one.needs = append(relations(get["Pre-Depends"]), relations(get["Depends"])...)
		f.pkgs = append(f.pkgs, one)
		return nil
	})
	return f, err
}

// relations reads "a (>= 1), b | c": what is needed, each with its alternatives.
func relations(s string) (out [][]string) {
	if s == "" {
		return nil
	}
	for part := range strings.SplitSeq(s, ",") {
		var any []string
		for alt := range strings.SplitSeq(part, "|") {
			name, _, _ := strings.Cut(strings.TrimSpace(alt), " ")
			name, _, _ = strings.Cut(name, "(")
			name, _, _ = strings.Cut(name, ":")
			if name != "" {
				any = append(any, name)
			}
		}
		if any != nil {
			out = append(out, any)
		}
	}
	return out
}

// readDpkgFiles reads what a package put where: *.list holds paths, *.md5sums a
// digest before each.
func readDpkgFiles(_ *collector, p string, content *io.SectionReader) (*finding, error) {
	b, err := text(content)
	if err != nil {
		return nil, err
	}
	sums := strings.HasSuffix(p, ".md5sums")
	f := &finding{}
	for line := range bytes.Lines(b) {
		line = bytes.TrimSpace(line)
		if sums {
			if _, after, ok := bytes.Cut(line, []byte("  ")); ok {
				line = after
			}
		}
		// Programs stand in few places: the rest is not kept.
		if bytes.Contains(line, []byte("bin/")) || bytes.Contains(line, []byte("lib")) {
			f.owns = append(f.owns, string(line))
		}
	}
	return f, nil
}

// readCopyright reads the licences of a Debian package (DEP 5).
func readCopyright(_ *collector, p string, content *io.SectionReader) (*finding, error) {
	head := make([]byte, min(content.Size(), 128<<10))
	if _, err := content.ReadAt(head, 0); err != nil && err != io.EOF {
		return nil, err
	}
	f := &finding{}
	if !bytes.Contains(head[:min(len(head), 512)], []byte("copyright-format")) {
		return f, nil
	}
	seen := map[string]bool{}
	for line := range bytes.Lines(head) {
		rest, is := bytes.CutPrefix(line, []byte("License:"))
		if !is || len(rest) > 100 {
			continue
		}
		if l := debianLicense(strings.TrimSpace(string(rest))); l != "" && !seen[l] {
			seen[l] = true
			f.licenses = append(f.licenses, l)
		}
	}
	return f, nil
}

// debianLicenses are DEP 5's short names that SPDX spells differently.
var debianLicenses = map[string]string{
	"GPL-1": "GPL-1.0-only", "GPL-1+": "GPL-1.0-or-later", "GPL-2": "GPL-2.0-only", "GPL-2+": "GPL-2.0-or-later", "GPL-3": "GPL-3.0-only", "GPL-3+": "GPL-3.0-or-later",
	"LGPL-2": "LGPL-2.0-only", "LGPL-2+": "LGPL-2.0-or-later", "LGPL-2.1": "LGPL-2.1-only", "LGPL-2.1+": "LGPL-2.1-or-later", "LGPL-3": "LGPL-3.0-only", "LGPL-3+": "LGPL-3.0-or-later",
	"AGPL-3": "AGPL-3.0-only", "AGPL-3+": "AGPL-3.0-or-later", "Expat": "MIT", "Apache-2": "Apache-2.0", "BSD-2-clause": "BSD-2-Clause", "BSD-3-clause": "BSD-3-Clause",
	"BSD-4-clause": "BSD-4-Clause", "Artistic": "Artistic-1.0", "MPL-1.1": "MPL-1.1", "zlib": "Zlib", "PSF-2": "PSF-2.0", "GFDL-1.3": "GFDL-1.3-only", "GFDL-1.3+": "GFDL-1.3-or-later",
}

func debianLicense(s string) string {
	if l := debianLicenses[s]; l != "" {
		return l
	}
	if strings.Contains(s, " or ") || strings.Contains(s, " and ") || strings.Contains(s, " with ") {
		parts := strings.Fields(s)
		for i, p := range parts {
			switch p {
			case "or", "and", "with":
				parts[i] = strings.ToUpper(p)
			default:
				if l := debianLicenses[p]; l != "" {
					parts[i] = l
				}
			}
		}
		return strings.Join(parts, " ")
	}
	return s
}

// readRelease reads os-release(5).
func readRelease(_ *collector, _ string, content *io.SectionReader) (*finding, error) {
	b, err := text(content)
	if err != nil {
		return nil, err
	}
	f := &finding{release: map[string]string{}}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") && len(value) < 200 {
			f.release[key] = strings.Trim(value, `"'`)
		}
	}
	return f, nil
}

// readApk reads Alpine's database of what is installed.
func readApk(_ *collector, _ string, content *io.SectionReader) (*finding, error) {
	f := &finding{group: "apk"}
	err := stanzas(content, apkKeys, func(get map[string]string) error {
		if get["P"] == "" || get["V"] == "" {
			return nil
		}
		one := pkg{typ: "apk", name: get["P"], version: get["V"], os: true, supplier: get["m"], ids: []string{get["P"]}, quals: map[string]string{}, source: get["o"]}
		if get["A"] != "" {
			one.quals["arch"] = get["A"]
		}
		if l := get["L"]; l != "" {
			one.licenses = []string{l}
		}
		if sum, is := strings.CutPrefix(get["C"], "Q1"); is {
			if b, err := base64.StdEncoding.DecodeString(sum); err == nil && len(b) == 20 {
				one.digests = artifact.DigestSet{"sha1": hex.EncodeToString(b)}
			}
		}
		for virtual := range strings.FieldsSeq(get["p"]) {
			name, _, _ := strings.Cut(virtual, "=")
			one.ids = append(one.ids, name)
		}
		for need := range strings.FieldsSeq(get["D"]) {
			if at := strings.IndexAny(need, "=<>~"); at > 0 {
				need = need[:at]
			}
			if !strings.HasPrefix(need, "!") {
				one.needs = append(one.needs, []string{need})
			}
		}
		f.pkgs = append(f.pkgs, one)
		return nil
	})
	if err != nil {
		return f, err
	}
	f.owns, err = apkFiles(content)
	return f, err
}

// apkFiles are the paths below the folders (F:) of the packages (R:).
func apkFiles(content *io.SectionReader) (out []string, err error) {
	sc := bufio.NewScanner(io.NewSectionReader(content, 0, content.Size()))
	sc.Buffer(make([]byte, 0, 64<<10), 8<<20)
	dir := ""
	for sc.Scan() {
		b := sc.Bytes()
		switch {
		case bytes.HasPrefix(b, []byte("F:")):
			dir = string(b[2:])
		case bytes.HasPrefix(b, []byte("R:")) && (strings.Contains(dir, "bin") || strings.Contains(dir, "lib")):
			out = append(out, dir+"/"+string(b[2:]))
		}
	}
	return out, sc.Err()
}

// readRPM reads an RPM database in any of its three forms.
func readRPM(c *collector, p string, content *io.SectionReader) (*finding, error) {
	tmp, err := c.tempFile() // the library opens files by name
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp.Name())
	_, err = io.Copy(tmp, io.NewSectionReader(content, 0, content.Size()))
	if closed := tmp.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return nil, fault.Wrap(fault.NoSpace, err)
	}
	db, err := rpmdb.Open(tmp.Name())
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "no RPM database: %w", err)
	}
	defer db.Close()
	list, err := db.ListPackagesWithContext(c.ctx)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	f := &finding{group: "rpm"}
	for _, one := range list {
		if one.Name == "gpg-pubkey" || one.Name == "" {
			continue // a key, which RPM keeps as a package
		}
		q := map[string]string{}
		if one.Arch != "" && one.Arch != "(none)" {
			q["arch"] = one.Arch
		}
		if one.Epoch != nil && *one.Epoch > 0 {
			q["epoch"] = fmt.Sprint(*one.Epoch)
		}
		if one.SourceRpm != "" {
			q["upstream"] = one.SourceRpm
		}
		n := pkg{typ: "rpm", name: one.Name, version: one.Version + "-" + one.Release, os: true, supplier: one.Vendor, quals: q, ids: append([]string{one.Name}, one.Provides...)}
		if one.License != "" {
			n.licenses = []string{one.License}
		}
		files, _ := one.InstalledFileNames()
		for _, name := range files {
			if dir := path.Dir(name); strings.Contains(dir, "bin") || strings.Contains(dir, "lib") {
				f.owns = append(f.owns, name)
			}
		}
		for _, need := range one.Requires {
			if !strings.HasPrefix(need, "rpmlib(") {
				n.needs = append(n.needs, []string{need})
			}
		}
		f.pkgs = append(f.pkgs, n)
	}
	return f, nil
}
