package scan

import (
	"bytes"
	"compress/zlib"
	"debug/buildinfo"
	"encoding/binary"
	"encoding/json"
	"io"
	"maps"
	"path"
	"runtime/debug"
	"strings"

	"assay/internal/fault"
)

// program is what an executable says of itself.
type program struct {
	packages bool // it names what it is built of
	hides    bool // it is built of packages and does not name them
	shared   bool // shared: part of what loads it
	why      string
	note     *pkg // ELF package metadata: who packaged it
}

// maybeProgram says whether a file may be one though nothing marks it so.
func maybeProgram(p string) bool {
	base := path.Base(p)
	switch path.Ext(base) {
	case ".so", ".exe", ".node", ".dylib":
		return true
	}
	return strings.Contains(base, ".so.") || strings.Contains(p, "bin/") && !strings.Contains(base, ".")
}

// isProgram looks at the first bytes: ELF, PE, Mach-O.
func isProgram(content *io.SectionReader) bool {
	var b [4]byte
	if n, _ := content.ReadAt(b[:], 0); n < 4 {
		return false
	}
	return isProgramMagic(b[:])
}

func isProgramMagic(b []byte) bool {
	switch {
	case bytes.HasPrefix(b, []byte("\x7fELF")), bytes.HasPrefix(b, []byte("MZ")):
		return true
	}
	switch binary.BigEndian.Uint32(b) {
	case 0xfeedface, 0xfeedfacf, 0xcefaedfe, 0xcffaedfe:
		return true
	}
	return false
}

// readProgram reads what an executable is built of: Go's build information,
// cargo-auditable's list, ELF package metadata.
func readProgram(_ *collector, p string, content *io.SectionReader) (*finding, error) {
	f := &finding{program: &program{}}
	e, err := readELF(content)
	switch {
	case err != nil:
		return nil, err
	case e == nil: // PE and Mach-O are seldom, and read by the library alone
		info, err := buildinfo.Read(content)
		if err != nil {
			f.program.hides, f.program.why = true, "is a program that does not say what it is built of"
			f.program.shared = strings.HasSuffix(p, ".dll") || strings.HasSuffix(p, ".dylib")
			return f, nil
		}
		goModules(f, info)
		return f, nil
	}
	base := path.Base(p)
	f.program.shared = e.object || e.shared && (strings.Contains(base, ".so") || strings.HasSuffix(base, ".node"))
	if e.note != nil {
		f.program.note = packageNote(e.note)
	}
	switch {
	case e.goInfo:
		info, err := buildinfo.Read(content)
		if err != nil {
			f.program.hides, f.program.why = true, "is a Go program whose build information cannot be read"
			return f, nil //nolint:nilerr // the finding says it
		}
		goModules(f, info)
	case e.goCode:
		f.program.hides, f.program.why = true, "is a Go program without build information"
	case e.auditable != nil:
		return f, cargoAuditable(f, e.auditable)
	default:
		f.program.hides, f.program.why = true, "is a program that does not say what it is built of"
		if e.static {
			f.program.why = "is a static program that does not say what it is built of"
		}
	}
	return f, nil
}

// goModules are those of a Go program (debug/buildinfo). It does not say which
// are direct.
func goModules(f *finding, info *debug.BuildInfo) {
	f.program.packages = true
	version, _, _ := strings.Cut(info.GoVersion, " ")
	if strings.HasPrefix(version, "go") {
		f.pkgs = append(f.pkgs, pkg{typ: "golang", name: "stdlib", version: strings.TrimPrefix(version, "go")})
	}
	if info.Main.Path == "" && len(info.Deps) == 0 {
		f.program.packages, f.program.hides, f.program.why = false, true, "is a Go program that does not name its modules"
		return
	}
	if info.Main.Path != "" {
		main := goModule(info.Main.Path, info.Main.Version)
		main.kind, main.direct = "application", true
		f.pkgs = append(f.pkgs, main)
	}
	for _, d := range info.Deps {
		if d.Replace != nil && d.Replace.Path != "" {
			d = d.Replace
		}
		f.pkgs = append(f.pkgs, goModule(d.Path, d.Version))
	}
	// As cyclonedx-gomod names it: some flaws are of one system alone.
	quals := map[string]string{}
	for _, s := range info.Settings {
		if s.Key == "GOOS" || s.Key == "GOARCH" {
			quals[strings.ToLower(s.Key)] = s.Value
		}
	}
	for i := range f.pkgs {
		f.pkgs[i].quals = maps.Clone(quals)
	}
}

func goModule(modulePath, version string) pkg {
	if version == "(devel)" {
		version = ""
	}
	p := pkg{typ: "golang", name: modulePath, version: version, ids: []string{modulePath}}
	if at := strings.LastIndexByte(modulePath, '/'); at >= 0 {
		p.namespace, p.name = modulePath[:at], modulePath[at+1:]
	}
	return p
}

// cargoAuditable reads what cargo-auditable builds in: a list of crates,
// compressed, in the section .dep-v0.
func cargoAuditable(f *finding, section []byte) error {
	z, err := zlib.NewReader(bytes.NewReader(section))
	if err != nil {
		return fault.Newf(fault.Invalid, "cargo-auditable's section: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(z, 16<<20))
	if err != nil {
		return fault.Newf(fault.Invalid, "cargo-auditable's section: %w", err)
	}
	var doc struct {
		Packages []struct {
			Name, Version, Source, Kind string
			Dependencies                []int
			Root                        bool
		}
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return fault.Newf(fault.Invalid, "cargo-auditable's section: %w", err)
	}
	f.program.packages = true
	for _, one := range doc.Packages {
		p := pkg{typ: "cargo", name: one.Name, version: one.Version, ids: []string{one.Name + " " + one.Version}, direct: one.Root}
		if one.Kind == "build" {
			p.scope = "excluded" // of the build, not in the program
		}
		if one.Root {
			p.kind = "application"
		}
		for _, i := range one.Dependencies {
			if i < 0 || i >= len(doc.Packages) {
				return fault.Newf(fault.Invalid, "cargo-auditable's section: package %d of %d", i, len(doc.Packages))
			}
			p.needs = append(p.needs, []string{doc.Packages[i].Name + " " + doc.Packages[i].Version})
		}
		f.pkgs = append(f.pkgs, p)
	}
	return nil
}

// packageNote reads the metadata that distributions put into ELF files
// (systemd's ELF_PACKAGE_METADATA).
func packageNote(b []byte) *pkg {
	var n struct {
		Type         string `json:"type"`
		OS           string `json:"os"`
		OSVersion    string `json:"osVersion"`
		Name         string `json:"name"`
		Version      string `json:"version"`
		Architecture string `json:"architecture"`
		OSCPE        string `json:"osCpe"`
	}
	if json.Unmarshal(bytes.TrimRight(b, "\x00"), &n) != nil || n.Name == "" || n.Version == "" {
		return nil
	}
	p := &pkg{name: n.Name, version: n.Version, namespace: n.OS, quals: map[string]string{}}
	switch n.Type {
	case "deb", "rpm", "apk":
		p.typ = n.Type
	case "arch", "alpm":
		p.typ, p.namespace = "alpm", "arch"
	default:
		p.typ, p.namespace = "generic", ""
	}
	if n.Architecture != "" {
		p.quals["arch"] = n.Architecture
	}
	if n.OS != "" && n.OSVersion != "" {
		p.quals["distro"] = n.OS + "-" + n.OSVersion
	}
	return p
}
