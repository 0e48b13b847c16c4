package scan

import (
	"archive/zip"
	"bufio"
	"bytes"
	"crypto/sha1" //nolint:gosec // Maven Central's name for a jar, no security in it
	"encoding/hex"
	"encoding/xml"
	"io"
	"path"
	"regexp"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
)

// pom is the little that is read of a project's description.
type pom struct {
	GroupID    string `xml:"groupId"`
	ArtifactID string `xml:"artifactId"`
	Version    string `xml:"version"`
	Parent     struct {
		GroupID string `xml:"groupId"`
		Version string `xml:"version"`
	} `xml:"parent"`
	Properties struct {
		All []struct {
			XMLName xml.Name
			Value   string `xml:",chardata"`
		} `xml:",any"`
	} `xml:"properties"`
	Managed      []mavenDependency `xml:"dependencyManagement>dependencies>dependency"`
	Dependencies []mavenDependency `xml:"dependencies>dependency"`
	Licenses     []struct {
		Name string `xml:"name"`
	} `xml:"licenses>license"`
}

type mavenDependency struct {
	GroupID    string `xml:"groupId"`
	ArtifactID string `xml:"artifactId"`
	Version    string `xml:"version"`
	Scope      string `xml:"scope"`
	Optional   string `xml:"optional"`
}

func maven(group, name, version string) pkg {
	return pkg{typ: "maven", namespace: group, name: name, version: version, ids: []string{group + ":" + name}}
}

var property = regexp.MustCompile(`\$\{([^}]+)\}`)

// readPOM reads pom.xml: what a project names itself. What those need in turn is
// not in it, and versions may stand in a parent elsewhere: the document says so.
func readPOM(_ *collector, p string, content *io.SectionReader) (*finding, error) {
	var doc pom
	if err := decodeXML(content, &doc); err != nil {
		return nil, err
	}
	props := map[string]string{}
	for _, one := range doc.Properties.All {
		props[one.XMLName.Local] = strings.TrimSpace(one.Value)
	}
	group, version := or(doc.GroupID, doc.Parent.GroupID), or(doc.Version, doc.Parent.Version)
	for _, prefix := range []string{"", "project.", "pom."} {
		props[prefix+"groupId"], props[prefix+"version"], props[prefix+"artifactId"] = group, version, doc.ArtifactID
	}
	props["project.parent.version"], props["project.parent.groupId"] = doc.Parent.Version, doc.Parent.GroupID
	fill := func(s string) string {
		for range 4 {
			s = property.ReplaceAllStringFunc(s, func(m string) string {
				if v, is := props[m[2:len(m)-1]]; is && len(v) < 500 {
					return v
				}
				return m
			})
			if len(s) > 2000 {
				return ""
			}
		}
		return strings.TrimSpace(s)
	}
	f := &finding{}
	if doc.ArtifactID != "" {
		self := maven(fill(group), doc.ArtifactID, fill(version))
		self.kind, self.direct = "application", true
		for _, l := range doc.Licenses {
			self.licenses = append(self.licenses, strings.TrimSpace(l.Name))
		}
		for _, d := range doc.Dependencies {
			self.needs = append(self.needs, []string{fill(d.GroupID) + ":" + fill(d.ArtifactID)})
		}
		f.pkgs = append(f.pkgs, self)
	}
	managed := map[string]mavenDependency{}
	for _, d := range doc.Managed {
		managed[d.GroupID+":"+d.ArtifactID] = d
	}
	for _, d := range doc.Dependencies {
		m := managed[d.GroupID+":"+d.ArtifactID]
		one := maven(fill(d.GroupID), fill(d.ArtifactID), fill(or(d.Version, m.Version)))
		one.direct = true
		switch or(d.Scope, m.Scope) {
		case "test":
			one.scope = "excluded"
		case "provided":
			one.scope = "optional"
		}
		if d.Optional == "true" {
			one.scope = "optional"
		}
		if one.version == "" || strings.ContainsAny(one.version, "$[(,") {
			one.version = ""
			f.incomplete = append(f.incomplete, clip(p+": the version of "+one.namespace+":"+one.name+" is not in it"))
		}
		f.pkgs = append(f.pkgs, one)
	}
	if len(doc.Dependencies) > 0 {
		f.incomplete = append(f.incomplete, clip(p+": does not name what its dependencies need in turn"))
	}
	return f, nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// readGradle reads gradle.lockfile: GROUP:NAME:VERSION=CONFIGURATIONS.
func readGradle(_ *collector, _ string, content *io.SectionReader) (*finding, error) {
	b, err := text(content)
	if err != nil {
		return nil, err
	}
	f := &finding{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "empty=") {
			continue
		}
		coordinates, configurations, _ := strings.Cut(line, "=")
		parts := strings.Split(coordinates, ":")
		if len(parts) != 3 {
			return nil, fault.Newf(fault.Invalid, "%.100q: want GROUP:NAME:VERSION", line)
		}
		one := maven(parts[0], parts[1], parts[2])
		if only := strings.ToLower(configurations); only != "" && strings.Count(only, "test") == strings.Count(only, ",")+1 {
			one.scope = "excluded"
		}
		f.pkgs = append(f.pkgs, one)
	}
	return f, nil
}

const (
	maxJarDepth = 4
	maxJarBytes = 512 << 20 // of all jars within one
)

// readJar reads a Java archive and those within it.
func readJar(c *collector, p string, content *io.SectionReader) (*finding, error) {
	f := &finding{}
	left := int64(maxJarBytes)
	err := c.jar(f, path.Base(p), "", content, 0, &left)
	return f, err
}

// jar reads one archive: pom.properties says what is in it; without those its
// manifest, or its file's name, says what it is.
func (c *collector) jar(f *finding, name, place string, content *io.SectionReader, depth int, left *int64) error {
	z, err := zip.NewReader(content, content.Size())
	if err != nil {
		return fault.Newf(fault.Invalid, "%s%s: no archive: %w", name, place, err)
	}
	var own []pkg
	manifest := map[string]string{}
	for _, file := range z.File {
		if err := c.entry(); err != nil {
			return err
		}
		switch base := path.Base(file.Name); {
		case base == "pom.properties":
			if props, err := c.properties(file, "="); err == nil && props["artifactId"] != "" {
				one := maven(props["groupId"], props["artifactId"], props["version"])
				one.place = place
				own = append(own, one)
			}
		case file.Name == "META-INF/MANIFEST.MF":
			if manifest, err = c.properties(file, ":"); err != nil {
				f.incomplete = append(f.incomplete, clip(name+place+": its manifest cannot be read"))
			}
		case readerOf(file.Name) != nil && large(file.Name) && strings.Contains(path.Ext(base), "ar"):
			inner := place + "!/" + file.Name
			size := int64(file.UncompressedSize64) //nolint:gosec // a negative one is refused below
			if depth+1 > maxJarDepth || size < 0 || size > *left {
				f.incomplete = append(f.incomplete, clip(name+inner+": too deep or too large to be read"))
				continue
			}
			*left -= size
			if err := c.innerJar(f, file, inner, size, depth, left); err != nil {
				f.incomplete = append(f.incomplete, clip(name+inner+": "+err.Error()))
			}
		}
	}
	if len(own) == 0 {
		if one, ok := fromManifest(name, manifest); ok {
			one.place = place
			own = append(own, one)
		} else if depth == 0 || len(z.File) > 0 {
			f.incomplete = append(f.incomplete, clip(name+place+": does not say what it is"))
		}
	}
	stem := strings.TrimSuffix(name, path.Ext(name))
	for i := range own {
		if len(own) == 1 || stem == own[i].name+"-"+own[i].version || stem == own[i].name {
			own[i].digests = jarDigest(content)
		}
	}
	f.pkgs = append(f.pkgs, own...)
	return nil
}

func (c *collector) innerJar(f *finding, file *zip.File, place string, size int64, depth int, left *int64) error {
	r, err := file.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	tmp, err := c.tempFile()
	if err != nil {
		return err
	}
	defer func() { _ = tmp.Close(); removeFile(tmp) }()
	if _, err := io.CopyN(tmp, r, size); err != nil {
		return fault.Newf(fault.Invalid, "cannot be unpacked: %w", err)
	}
	return c.jar(f, path.Base(file.Name), place, io.NewSectionReader(tmp, 0, size), depth+1, left)
}

func jarDigest(content *io.SectionReader) artifact.DigestSet {
	h := sha1.New() //nolint:gosec // see the import
	if _, err := io.Copy(h, io.NewSectionReader(content, 0, content.Size())); err != nil {
		return nil
	}
	return artifact.DigestSet{"sha1": hex.EncodeToString(h.Sum(nil))}
}

// properties reads "KEY=VALUE" or "KEY: VALUE" lines of a small file.
func (c *collector) properties(file *zip.File, sep string) (map[string]string, error) {
	r, err := file.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	out := map[string]string{}
	b, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return out, err
	}
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, 1<<20)
	last := ""
	for sc.Scan() {
		line := sc.Text()
		if sep == ":" && strings.HasPrefix(line, " ") { // a manifest's line goes on
			out[last] += strings.TrimSpace(line)
			continue
		}
		if strings.TrimSpace(line) == "" && sep == ":" {
			break // the main section is what counts
		}
		if key, value, ok := strings.Cut(line, sep); ok && !strings.HasPrefix(key, "#") {
			last = strings.TrimSpace(key)
			out[last] = strings.TrimSpace(value)
		}
	}
	return out, nil
}

var jarName = regexp.MustCompile(`^(.+?)-(\d[A-Za-z0-9.+_-]*)$`)

// fromManifest makes a guess of what a jar without Maven's files is.
func fromManifest(file string, m map[string]string) (pkg, bool) {
	stem := strings.TrimSuffix(file, path.Ext(file))
	name, version := stem, ""
	if parts := jarName.FindStringSubmatch(stem); parts != nil {
		name, version = parts[1], parts[2]
	}
	symbolic, _, _ := strings.Cut(m["Bundle-SymbolicName"], ";")
	version = or(version, or(m["Implementation-Version"], m["Bundle-Version"]))
	if version == "" {
		return pkg{}, false
	}
	group := m["Implementation-Vendor-Id"]
	if group == "" && symbolic != "" {
		group = strings.TrimSuffix(symbolic, "."+name)
		if at := strings.LastIndexByte(symbolic, '.'); group == name && at > 0 {
			group = symbolic[:at]
		}
	}
	if group == "" {
		group = name
	}
	return maven(group, name, version), true
}
