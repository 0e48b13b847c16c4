package scan

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"regexp"
	"strings"

	"assay/artifact"
	"assay/internal/fault"

	"github.com/BurntSushi/toml"
	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

// readGoMod reads go.mod. Since Go 1.17 it names every module that is built in.
func readGoMod(_ *collector, p string, content *io.SectionReader) (*finding, error) {
	b, err := text(content)
	if err != nil {
		return nil, err
	}
	m, err := modfile.ParseLax(p, b, nil)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	full, err := modfile.Parse(p, b, nil) // with replace, which lax parsing leaves out
	if err == nil {
		m = full
	}
	f := &finding{}
	if m.Module != nil {
		main := goModule(m.Module.Mod.Path, "")
		main.kind, main.direct = "application", true
		for _, r := range m.Require {
			if !r.Indirect {
				main.needs = append(main.needs, []string{r.Mod.Path})
			}
		}
		f.pkgs = append(f.pkgs, main)
	}
	if m.Go == nil || semver.Compare("v"+m.Go.Version, "v1.17") < 0 && len(m.Require) > 0 {
		f.incomplete = append(f.incomplete, clip(p+": is for a Go before 1.17, and does not name what its modules need"))
	}
	for _, r := range m.Require {
		path, version := r.Mod.Path, r.Mod.Version
		for _, replaced := range m.Replace {
			if replaced.Old.Path == path && (replaced.Old.Version == "" || replaced.Old.Version == version) {
				path, version = replaced.New.Path, replaced.New.Version
			}
		}
		if modfile.IsDirectoryPath(path) {
			path, version = r.Mod.Path, "" // a folder beside it: its version is this tree's
		}
		one := goModule(path, version)
		one.ids, one.direct = []string{r.Mod.Path}, !r.Indirect
		f.pkgs = append(f.pkgs, one)
	}
	return f, nil
}

// readCargoLock reads Cargo.lock.
func readCargoLock(_ *collector, _ string, content *io.SectionReader) (*finding, error) {
	var doc struct {
		Package []struct {
			Name, Version, Source, Checksum string
			Dependencies                    []string
		}
	}
	if _, err := toml.NewDecoder(io.NewSectionReader(content, 0, content.Size())).Decode(&doc); err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	f := &finding{}
	direct := map[string]bool{}
	for _, one := range doc.Package {
		if one.Source == "" { // a member of the workspace
			for _, need := range one.Dependencies {
				direct[need] = true
			}
		}
	}
	for _, one := range doc.Package {
		p := pkg{typ: "cargo", name: one.Name, version: one.Version, ids: []string{one.Name, one.Name + " " + one.Version, one.Name + " " + one.Version + " (" + one.Source + ")"}}
		if len(one.Checksum) == 64 {
			p.digests = artifact.DigestSet{"sha256": one.Checksum}
		}
		if strings.HasPrefix(one.Source, "git+") {
			p.quals = map[string]string{"vcs_url": one.Source}
		}
		if one.Source == "" {
			p.kind, p.direct = "application", true
		}
		for _, id := range p.ids {
			p.direct = p.direct || direct[id]
		}
		for _, need := range one.Dependencies {
			p.needs = append(p.needs, []string{need})
		}
		f.pkgs = append(f.pkgs, p)
	}
	return f, nil
}

// readGemfileLock reads Gemfile.lock.
func readGemfileLock(_ *collector, _ string, content *io.SectionReader) (*finding, error) {
	b, err := text(content)
	if err != nil {
		return nil, err
	}
	f := &finding{}
	direct := map[string]bool{}
	section := ""
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\r\n")
		trimmed := strings.TrimLeft(line, " ")
		name, rest, _ := strings.Cut(trimmed, " ")
		switch indent := len(line) - len(trimmed); {
		case trimmed == "":
		case indent == 0:
			section = trimmed
		case section == "DEPENDENCIES" && indent == 2:
			direct[strings.TrimSuffix(name, "!")] = true
		case (section == "GEM" || section == "GIT" || section == "PATH") && indent == 4:
			p := pkg{typ: "gem", name: name, version: strings.Trim(rest, "()"), ids: []string{name}}
			// "1.15.4-x86_64-linux": a version has no hyphen, a platform follows one
			if v, platform, ok := strings.Cut(p.version, "-"); ok {
				p.version, p.quals = v, map[string]string{"platform": platform}
			}
			f.pkgs = append(f.pkgs, p)
		case (section == "GEM" || section == "GIT" || section == "PATH") && indent == 6 && len(f.pkgs) > 0:
			last := &f.pkgs[len(f.pkgs)-1]
			last.needs = append(last.needs, []string{strings.TrimSuffix(name, "!")})
		}
	}
	for i := range f.pkgs {
		f.pkgs[i].direct = direct[f.pkgs[i].name]
	}
	return f, nil
}

var (
	gemName    = regexp.MustCompile(`(?m)^\s*s(?:pec)?\.name\s*=\s*["']([^"']+)["']`)
	gemVersion = regexp.MustCompile(`(?m)^\s*s(?:pec)?\.version\s*=\s*["']([^"']+)["']`)
	gemLicense = regexp.MustCompile(`(?m)^\s*s(?:pec)?\.licenses?\s*=\s*\[?(["'][^\]\n]+)`)
	gemNeed    = regexp.MustCompile(`(?m)add_(?:runtime_)?dependency\(?\s*(?:%q<|["'])([^"'>]+)`)
	quotedWord = regexp.MustCompile(`["']([^"']+)["']`)
)

// readGemspec reads the specification of an installed gem, as RubyGems writes it.
func readGemspec(_ *collector, p string, content *io.SectionReader) (*finding, error) {
	b, err := text(content)
	if err != nil {
		return nil, err
	}
	name, version := gemName.FindSubmatch(b), gemVersion.FindSubmatch(b)
	if name == nil || version == nil {
		return nil, nil
	}
	one := pkg{typ: "gem", name: string(name[1]), version: string(version[1]), ids: []string{string(name[1])}}
	if l := gemLicense.FindSubmatch(b); l != nil {
		for _, w := range quotedWord.FindAllStringSubmatch(string(l[1]), 8) {
			one.licenses = append(one.licenses, w[1])
		}
	}
	for _, need := range gemNeed.FindAllStringSubmatch(string(b), 500) {
		one.needs = append(one.needs, []string{need[1]})
	}
	root, _, _ := strings.Cut(p, "specifications/")
	return &finding{group: "gem:" + root, pkgs: []pkg{one}}, nil
}

// readComposer reads composer.lock, and what Composer installed.
func readComposer(_ *collector, _ string, content *io.SectionReader) (*finding, error) {
	b, err := text(content)
	if err != nil {
		return nil, err
	}
	type locked struct {
		Name, Version string
		License       any
		Require       any
		Dist          struct{ Shasum string }
	}
	var doc struct {
		Packages []locked
		Dev      []locked `json:"packages-dev"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		if json.Unmarshal(b, &doc.Packages) != nil { // Composer 1
			return nil, fault.Wrap(fault.Invalid, err)
		}
	}
	f := &finding{}
	add := func(all []locked, scope string) {
		for _, one := range all {
			vendor, name, ok := strings.Cut(one.Name, "/")
			if !ok {
				vendor, name = "", one.Name
			}
			p := pkg{typ: "composer", namespace: vendor, name: name, version: strings.TrimPrefix(one.Version, "v"), ids: []string{one.Name}, licenses: npmLicense(one.License), scope: scope}
			if len(one.Dist.Shasum) == 40 {
				p.digests = artifact.DigestSet{"sha1": one.Dist.Shasum}
			}
			if needs, ok := one.Require.(map[string]any); ok {
				for _, need := range sortedKeys(needs) {
					p.needs = append(p.needs, []string{need})
				}
			}
			f.pkgs = append(f.pkgs, p)
		}
	}
	add(doc.Packages, "")
	add(doc.Dev, "excluded")
	return f, nil
}

// readNuGetLock reads packages.lock.json.
func readNuGetLock(_ *collector, _ string, content *io.SectionReader) (*finding, error) {
	b, err := text(content)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Dependencies map[string]map[string]struct {
			Type, Resolved string
			Dependencies   map[string]string
		}
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	f := &finding{}
	for _, framework := range sortedKeys(doc.Dependencies) {
		all := doc.Dependencies[framework]
		for _, name := range sortedKeys(all) {
			one := all[name]
			if one.Type == "Project" {
				continue
			}
			p := pkg{typ: "nuget", name: name, version: one.Resolved, ids: []string{framework + " " + strings.ToLower(name)}, direct: one.Type == "Direct"}
			for _, need := range sortedKeys(one.Dependencies) {
				p.needs = append(p.needs, []string{framework + " " + strings.ToLower(need)})
			}
			f.pkgs = append(f.pkgs, p)
		}
	}
	return f, nil
}

// readDepsJSON reads the list that .NET puts beside a program.
func readDepsJSON(_ *collector, _ string, content *io.SectionReader) (*finding, error) {
	b, err := text(content)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Targets   map[string]map[string]struct{ Dependencies map[string]string }
		Libraries map[string]struct{ Type string }
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	needs := map[string]map[string]string{}
	for _, target := range doc.Targets {
		for key, one := range target {
			needs[key] = one.Dependencies
		}
	}
	f := &finding{}
	for _, key := range sortedKeys(doc.Libraries) {
		name, version, _ := strings.Cut(key, "/")
		p := pkg{typ: "nuget", name: name, version: version, ids: []string{strings.ToLower(name)}}
		if doc.Libraries[key].Type == "project" {
			p.kind, p.direct = "application", true
		}
		for _, need := range sortedKeys(needs[key]) {
			p.needs = append(p.needs, []string{strings.ToLower(need)})
		}
		f.pkgs = append(f.pkgs, p)
	}
	return f, nil
}

// readPackagesConfig reads NuGet's older packages.config.
func readPackagesConfig(_ *collector, _ string, content *io.SectionReader) (*finding, error) {
	var doc struct {
		Package []struct {
			ID      string `xml:"id,attr"`
			Version string `xml:"version,attr"`
			Dev     bool   `xml:"developmentDependency,attr"`
		} `xml:"package"`
	}
	if err := decodeXML(content, &doc); err != nil {
		return nil, err
	}
	f := &finding{}
	for _, one := range doc.Package {
		p := pkg{typ: "nuget", name: one.ID, version: one.Version}
		if one.Dev {
			p.scope = "excluded"
		}
		f.pkgs = append(f.pkgs, p)
	}
	return f, nil
}

// decodeXML reads XML without a document type: entities are not for lists.
func decodeXML(content *io.SectionReader, into any) error {
	d := xml.NewDecoder(io.NewSectionReader(content, 0, content.Size()))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	if err := d.Decode(into); err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	return nil
}
