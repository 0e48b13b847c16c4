package sbom

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"

	"assay/artifact"
	"assay/internal/fault"

	"github.com/go-json-experiment/json"
)

// ListKind is the command whose output a plain package list is.
type ListKind string

// The kinds of list.
const (
	ListDPKG  ListKind = "dpkg"  // dpkg -l, or dpkg-query -W
	ListRPM   ListKind = "rpm"   // rpm -qa
	ListPip   ListKind = "pip"   // pip freeze
	ListNPM   ListKind = "npm"   // npm ls --all --json
	ListGo    ListKind = "go"    // go version -m
	ListAPK   ListKind = "apk"   // apk info -v
	ListCargo ListKind = "cargo" // cargo tree --prefix none
)

// ListKinds are all of them, for completion and messages.
var ListKinds = []ListKind{ListDPKG, ListRPM, ListPip, ListNPM, ListGo, ListAPK, ListCargo}

// ListOptions say what a list cannot say of itself.
type ListOptions struct {
	// Distro is the distribution and its release, "debian-12": lists of its
	// packages are worth little without, since advisories are by release.
	Distro string
	Name   string // of the system; becomes the document's name and root
	Limits Limits
}

// ReadList makes a document of the output of a package manager, for systems that
// no scanner runs on. It is marked incomplete, since a list has no dependencies
// and knows only what its package manager installed.
func ReadList(r io.Reader, kind ListKind, o ListOptions) (*Document, error) {
	o.Limits = o.Limits.withDefaults()
	l := &list{o: o, d: &Document{}}
	limited := &limitedReader{r: r, left: o.Limits.Bytes, most: o.Limits.Bytes}
	var err error
	if kind == ListNPM {
		err = l.npm(limited)
	} else {
		err = l.lines(limited, kind)
	}
	if limited.exceeded {
		err = fault.Newf(fault.TooLarge, "the list has more than %d bytes", o.Limits.Bytes)
	}
	if err == nil && len(l.d.Components) == 0 {
		err = fault.Newf(fault.Invalid, "no package in it: want the output of %s", listCommand[kind])
	}
	if err != nil {
		return nil, fmt.Errorf("read list of %s: %w", kind, err)
	}
	return l.done(kind), nil
}

var listCommand = map[ListKind]string{
	ListDPKG: "dpkg -l", ListRPM: "rpm -qa", ListPip: "pip freeze", ListNPM: "npm ls --all --json", ListGo: "go version -m FILE",
	ListAPK: "apk info -v", ListCargo: "cargo tree --prefix none",
}

type list struct {
	o    ListOptions
	d    *Document
	seen map[string]bool
	deps map[string][]string
}

func (l *list) lines(r io.Reader, kind ListKind) error {
	read := map[ListKind]func(string) error{
		ListDPKG: l.dpkg, ListRPM: l.rpm, ListPip: l.pip, ListGo: l.goVersion, ListAPK: l.apk, ListCargo: l.cargo,
	}[kind]
	if read == nil {
		return fault.Newf(fault.Invalid, "kind %.40q: want one of %v", kind, ListKinds)
	}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 64<<10)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimRight(sc.Text(), " \r")
		if strings.TrimSpace(line) == "" {
			continue
		}
		if err := read(line); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if errors.Is(sc.Err(), bufio.ErrTooLong) {
		return fault.Newf(fault.TooLarge, "a line of more than 64 KiB")
	}
	return sc.Err()
}

// add enters a package once.
func (l *list) add(typ, namespace, name, version string, qualifiers map[string]string) (string, error) {
	p, err := artifact.NewPURL(typ, namespace, name, version, qualifiers, "")
	if err != nil {
		return "", err
	}
	ref := p.String()
	if l.seen == nil {
		l.seen = map[string]bool{}
	}
	if l.seen[ref] {
		return ref, nil
	}
	if len(l.d.Components) >= l.o.Limits.Components {
		return "", fault.Newf(fault.TooLarge, "more than %d packages", l.o.Limits.Components)
	}
	l.seen[ref] = true
	c := Component{Ref: ref, Type: "library", Name: p.Name, Version: p.Version, PURL: p}
	if typ != "deb" && typ != "rpm" && typ != "apk" {
		c.Group = p.Namespace
	}
	if typ == "golang" || typ == "npm" {
		c.Group, c.Name = "", strings.Trim(p.Namespace+"/"+p.Name, "/")
	}
	settle(&c)
	l.d.Components = append(l.d.Components, c)
	return ref, nil
}

func (l *list) distro(fallback string) (vendor string, q map[string]string) {
	vendor, _, _ = strings.Cut(l.o.Distro, "-")
	q = map[string]string{}
	if l.o.Distro != "" {
		q["distro"] = l.o.Distro
	}
	if vendor == "" {
		vendor = fallback
	}
	return vendor, q
}

// dpkg reads "ii  name:arch  version  arch  description", the states of packages
// that are installed; or "name<TAB>version" of dpkg-query -W.
func (l *list) dpkg(line string) error {
	fields := strings.Fields(line)
	var name, version, arch string
	switch {
	case strings.Contains(line, "\t") && len(fields) == 2:
		name, version = fields[0], fields[1]
	case strings.HasPrefix(line, "Desired=") || strings.HasPrefix(line, "|") || strings.HasPrefix(line, "+++") || strings.HasPrefix(line, "||/"):
		return nil // the heading
	case len(fields) >= 4 && len(fields[0]) >= 2 && len(fields[0]) <= 3:
		if fields[0][1] != 'i' && fields[0][1] != 'U' && fields[0][1] != 'F' && fields[0][1] != 'H' && fields[0][1] != 'W' && fields[0][1] != 't' {
			return nil // removed: only its configuration is left
		}
		name, version, arch = fields[1], fields[2], fields[3]
	default:
		return fault.Newf(fault.Invalid, "%.80q: want the lines of dpkg -l or dpkg-query -W", line)
	}
	name, a, ok := strings.Cut(name, ":")
	if ok && arch == "" {
		arch = a
	}
	vendor, q := l.distro("debian")
	if arch != "" {
		q["arch"] = arch
	}
	_, err := l.add("deb", vendor, name, version, q)
	return err
}

// rpmArch are the ends of package names that are architectures.
var rpmArch = regexp.MustCompile(`\.(noarch|x86_64|i[3-6]86|aarch64|armv7hl|ppc64le|s390x|riscv64|src|\(none\))$`)

// rpm reads NAME-[EPOCH:]VERSION-RELEASE[.ARCH].
func (l *list) rpm(line string) error {
	s := strings.TrimSpace(line)
	vendor, q := l.distro("redhat")
	if at := rpmArch.FindStringIndex(s); at != nil {
		if arch := s[at[0]+1:]; arch != "(none)" {
			q["arch"] = arch
		}
		s = s[:at[0]]
	}
	name, version := splitRPM(s)
	if version == "" {
		return fault.Newf(fault.Invalid, "%.80q: want NAME-VERSION-RELEASE.ARCH, the lines of rpm -qa", line)
	}
	if name == "gpg-pubkey" {
		return nil // a key, which rpm lists as a package
	}
	if epoch, rest, has := strings.Cut(version, ":"); has {
		q["epoch"], version = epoch, rest
	}
	_, err := l.add("rpm", vendor, name, version, q)
	return err
}

var pipLine = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*(===?)\s*([^\s;#]+)`)

// pip reads NAME==VERSION; what has no version is known by its name alone.
func (l *list) pip(line string) error {
	s := strings.TrimSpace(line)
	if strings.HasPrefix(s, "#") || strings.HasPrefix(s, "-r ") || strings.HasPrefix(s, "--") {
		return nil
	}
	if m := pipLine.FindStringSubmatch(s); m != nil {
		_, err := l.add("pypi", "", m[1], m[3], nil)
		return err
	}
	s = strings.TrimPrefix(s, "-e ")
	name, from, ok := strings.Cut(s, " @ ")
	if !ok {
		if at := strings.Index(s, "#egg="); at >= 0 {
			name, from, ok = s[at+len("#egg="):], s[:at], true
		}
	}
	if !ok {
		return fault.Newf(fault.Invalid, "%.80q: want NAME==VERSION, the lines of pip freeze", line)
	}
	l.d.Incomplete = append(l.d.Incomplete, clip("the version of "+name+" is not known: it was installed from "+from, 200))
	_, err := l.add("pypi", "", strings.TrimSpace(name), "", nil)
	return err
}

// goVersion reads the "path", "mod", "dep" and "=>" lines of go version -m.
func (l *list) goVersion(line string) error {
	fields := strings.Split(strings.TrimLeft(line, "\t"), "\t")
	switch {
	case !strings.HasPrefix(line, "\t"):
		file, version, ok := strings.Cut(line, ": ")
		if !ok {
			return fault.Newf(fault.Invalid, "%.80q: want the lines of go version -m", line)
		}
		if l.o.Name == "" {
			l.o.Name = file
		}
		_, err := l.add("golang", "", "stdlib", strings.TrimPrefix(strings.Fields(version + " x")[0], "go"), nil)
		return err
	case fields[0] == "mod" && len(fields) >= 3, fields[0] == "dep" && len(fields) >= 3:
		return l.module(fields[1], fields[2])
	case fields[0] == "=>" && len(fields) >= 3:
		// The replacement is what was built in.
		last := len(l.d.Components) - 1
		if last >= 0 {
			delete(l.seen, l.d.Components[last].Ref)
			l.d.Components = l.d.Components[:last]
		}
		return l.module(fields[1], fields[2])
	}
	return nil
}

func (l *list) module(path, version string) error {
	if version == "(devel)" {
		version = ""
	}
	namespace, name := "", path
	if at := strings.LastIndexByte(path, '/'); at >= 0 {
		namespace, name = path[:at], path[at+1:]
	}
	_, err := l.add("golang", namespace, name, version, nil)
	return err
}

var apkLine = regexp.MustCompile(`^(\S+?)-([0-9][^-\s]*-r[0-9]+)$`)

func (l *list) apk(line string) error {
	m := apkLine.FindStringSubmatch(strings.TrimSpace(line))
	if m == nil {
		if strings.HasPrefix(line, "WARNING:") {
			return nil
		}
		return fault.Newf(fault.Invalid, "%.80q: want NAME-VERSION-rN, the lines of apk info -v", line)
	}
	vendor, q := l.distro("alpine")
	_, err := l.add("apk", vendor, m[1], m[2], q)
	return err
}

var cargoLine = regexp.MustCompile(`^([A-Za-z0-9_-]+) v(\S+)`)

func (l *list) cargo(line string) error {
	line = strings.TrimSpace(line)
	if strings.HasPrefix(line, "[") {
		return nil // [dev-dependencies]
	}
	m := cargoLine.FindStringSubmatch(line)
	if m == nil {
		return fault.Newf(fault.Invalid, "%.80q: want NAME vVERSION, the lines of cargo tree --prefix none", line)
	}
	_, err := l.add("cargo", "", m[1], m[2], nil)
	return err
}

// npmNode is one package of npm ls --json.
type npmNode struct {
	Name         string             `json:"name"`
	Version      string             `json:"version"`
	Missing      bool               `json:"missing"`
	Dependencies map[string]npmNode `json:"dependencies"`
}

func (l *list) npm(r io.Reader) error {
	var root npmNode
	if err := json.UnmarshalRead(r, &root); err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	l.deps = map[string][]string{}
	name := root.Name
	if name == "" {
		name = "unnamed"
	}
	return l.npmNode(name, root, 0)
}

func (l *list) npmNode(name string, n npmNode, depth int) error {
	if depth > 256 {
		return fault.Newf(fault.TooLarge, "packages are nested more than 256 deep")
	}
	ref, err := l.npmAdd(name, n)
	if err != nil {
		return err
	}
	if depth == 0 {
		l.d.Roots = []string{ref}
	}
	for _, child := range sortedKeys(n.Dependencies) {
		c := n.Dependencies[child]
		if c.Missing || c.Version == "" {
			l.d.Incomplete = append(l.d.Incomplete, clip(child+" is wanted and not installed", 200))
			continue
		}
		on, err := l.npmAdd(child, c)
		if err != nil {
			return err
		}
		l.deps[ref] = append(l.deps[ref], on)
		if err := l.npmNode(child, c, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (l *list) npmAdd(name string, n npmNode) (string, error) {
	namespace := ""
	if at := strings.LastIndexByte(name, '/'); at >= 0 {
		namespace, name = name[:at], name[at+1:]
	}
	return l.add("npm", namespace, name, n.Version, nil)
}

// done gives the document its frame.
func (l *list) done(kind ListKind) *Document {
	d := l.d
	d.Format, d.Name = CycloneDXJSON, l.o.Name
	if d.Roots == nil {
		name := l.o.Name
		if name == "" {
			name = "system"
		}
		root := Component{Ref: "assay:system", Type: "operating-system", Name: name}
		if kind == ListGo || kind == ListPip || kind == ListCargo {
			root.Type = "application"
		}
		d.Components = append([]Component{root}, d.Components...)
		d.Roots = []string{root.Ref}
	}
	for _, ref := range sortedKeys(l.deps) {
		on := distinct(l.deps[ref])
		sort.Strings(on)
		d.Dependencies = append(d.Dependencies, Dependency{Ref: ref, On: on})
	}
	d.Incomplete = distinct(append([]string{"a list of " + string(kind) + " packages: what another way installed is not in it"}, d.Incomplete...))
	return d
}
