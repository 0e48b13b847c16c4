package scan

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"path"
	"regexp"
	"strings"

	"assay/artifact"
	"assay/internal/fault"

	"github.com/BurntSushi/toml"
)

var pypiRuns = regexp.MustCompile(`[-_.]+`)

// pypiName is a project's name in its normal form (PEP 503).
func pypiName(s string) string { return strings.ToLower(pypiRuns.ReplaceAllString(s, "-")) }

func pypi(name, version string) pkg {
	return pkg{typ: "pypi", name: pypiName(name), version: version, ids: []string{pypiName(name)}}
}

var requirementName = regexp.MustCompile(`^\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?`)

// readMetadata reads what an installed distribution says of itself (core
// metadata: METADATA of wheels, PKG-INFO of eggs).
func readMetadata(_ *collector, p string, content *io.SectionReader) (*finding, error) {
	dir := path.Dir(p)
	if base := path.Base(p); base == "METADATA" || base == "PKG-INFO" {
		dir = path.Dir(dir)
	}
	f := &finding{group: "python:" + dir}
	var one pkg
	var name, version string
	sc := bufio.NewScanner(io.NewSectionReader(content, 0, content.Size()))
	sc.Buffer(make([]byte, 0, 16<<10), 1<<20)
	for sc.Scan() && len(bytes.TrimSpace(sc.Bytes())) > 0 { // the description comes after
		key, value, ok := strings.Cut(sc.Text(), ":")
		value = strings.TrimSpace(value)
		if !ok || value == "" || value == "UNKNOWN" {
			continue
		}
		switch key {
		case "Name":
			name = value
		case "Version":
			version = value
		case "License-Expression":
			one.licenses = []string{value}
		case "License":
			if len(one.licenses) == 0 && len(value) < 100 {
				one.licenses = []string{value}
			}
		case "Author", "Maintainer":
			if one.supplier == "" {
				one.supplier = value
			}
		case "Requires-Dist":
			if m := requirementName.FindStringSubmatch(value); m != nil && !strings.Contains(value, "extra ==") {
				one.needs = append(one.needs, []string{pypiName(m[1])})
			}
		}
	}
	if name == "" || version == "" {
		return nil, sc.Err()
	}
	base := pypi(name, version)
	base.licenses, base.supplier, base.needs = one.licenses, one.supplier, one.needs
	f.pkgs = []pkg{base}
	return f, nil
}

var pinned = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(===?)\s*([^\s;#,\\]+)\s*(,.*)?`)

// readRequirements reads requirements files. What is not pinned is there without
// a version, and the document says so.
func readRequirements(_ *collector, p string, content *io.SectionReader) (*finding, error) {
	b, err := text(content)
	if err != nil {
		return nil, err
	}
	f := &finding{}
	joined := strings.NewReplacer("\\\r\n", " ", "\\\n", " ").Replace(string(b))
	for line := range strings.Lines(joined) {
		line = strings.TrimSpace(line)
		if at := strings.Index(line, " #"); at >= 0 {
			line = strings.TrimSpace(line[:at])
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, "-") {
			if strings.HasPrefix(line, "-e") || strings.HasPrefix(line, "--editable") {
				f.incomplete = append(f.incomplete, clip(p+": "+line+" is installed from its source"))
			}
			continue // options, and files that are read by themselves
		}
		if m := pinned.FindStringSubmatch(line); m != nil && !strings.Contains(m[3], "*") {
			one := pypi(m[1], m[3])
			one.direct = true
			for _, hash := range strings.Split(line, "--hash=")[1:] {
				alg, hex, _ := strings.Cut(strings.TrimSpace(hash), ":")
				if strings.Count(line, "--hash=") == 1 && alg == "sha256" && len(hex) == 64 {
					one.digests = artifact.DigestSet{alg: hex}
				}
			}
			f.pkgs = append(f.pkgs, one)
			continue
		}
		m := requirementName.FindStringSubmatch(line)
		if m == nil || strings.Contains(line, "://") && !strings.Contains(line, "@") {
			f.incomplete = append(f.incomplete, clip(p+": "+line+" is no name with a version"))
			continue
		}
		rest := strings.TrimSpace(line[len(m[0]):])
		if rest != "" && !strings.ContainsAny(rest[:1], "<>=!~;@,(") {
			continue // prose: not every text file of that name is a list
		}
		one := pypi(m[1], "")
		one.direct = true
		f.pkgs = append(f.pkgs, one)
		f.incomplete = append(f.incomplete, clip(p+": the version of "+m[1]+" is not pinned"))
	}
	return f, nil
}

// readPythonLock reads the lock files of poetry, uv and pdm, and pylock.toml
// (PEP 751): all list [[package]] or [[packages]] with name and version.
func readPythonLock(_ *collector, _ string, content *io.SectionReader) (*finding, error) {
	type locked struct {
		Name, Version, Category string
		Optional                bool
		Source                  map[string]any
		Dependencies            any
	}
	var doc struct{ Package, Packages []locked }
	if _, err := toml.NewDecoder(io.NewSectionReader(content, 0, content.Size())).Decode(&doc); err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	f := &finding{}
	for _, one := range append(doc.Package, doc.Packages...) {
		if one.Name == "" {
			continue
		}
		p := pypi(one.Name, one.Version)
		for _, own := range []string{"virtual", "editable", "workspace"} { // uv: the project itself
			if _, is := one.Source[own]; is {
				p.kind, p.direct = "application", true
			}
		}
		if one.Category == "dev" {
			p.scope = "excluded"
		} else if one.Optional {
			p.scope = "optional"
		}
		for _, need := range tomlNames(one.Dependencies) {
			p.needs = append(p.needs, []string{pypiName(need)})
		}
		f.pkgs = append(f.pkgs, p)
	}
	return f, nil
}

// tomlNames are the names of a list of requirements, of a list of tables with a
// name, or of a table by name.
func tomlNames(v any) (out []string) {
	add := func(s string) {
		if m := requirementName.FindStringSubmatch(s); m != nil {
			out = append(out, m[1])
		}
	}
	switch all := v.(type) {
	case map[string]any:
		for _, name := range sortedKeys(all) {
			add(name)
		}
	case []map[string]any:
		for _, one := range all {
			if name, ok := one["name"].(string); ok {
				add(name)
			}
		}
	case []any:
		for _, one := range all {
			switch one := one.(type) {
			case string:
				add(one)
			case map[string]any:
				if name, ok := one["name"].(string); ok {
					add(name)
				}
			}
		}
	}
	return out
}

// readPipfile reads Pipfile.lock.
func readPipfile(_ *collector, p string, content *io.SectionReader) (*finding, error) {
	b, err := text(content)
	if err != nil {
		return nil, err
	}
	type locked struct {
		Version string
	}
	var doc struct{ Default, Develop map[string]locked }
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	f := &finding{}
	add := func(all map[string]locked, scope string) {
		for _, name := range sortedKeys(all) {
			one := pypi(name, strings.TrimPrefix(all[name].Version, "=="))
			one.scope = scope
			if one.version == "" {
				f.incomplete = append(f.incomplete, clip(p+": "+name+" has no version"))
			}
			f.pkgs = append(f.pkgs, one)
		}
	}
	add(doc.Default, "")
	add(doc.Develop, "excluded")
	return f, nil
}
