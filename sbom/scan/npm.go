package scan

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"assay/artifact"
	"assay/internal/fault"

	"go.yaml.in/yaml/v3"
)

func npm(name, version string) pkg {
	p := pkg{typ: "npm", name: name, version: version, ids: []string{name}}
	if scope, rest, ok := strings.Cut(name, "/"); ok && strings.HasPrefix(name, "@") {
		p.namespace, p.name = scope, rest
	}
	return p
}

// integrity reads a subresource integrity: "sha512-BASE64".
func integrity(s string) artifact.DigestSet {
	first, _, _ := strings.Cut(strings.TrimSpace(s), " ")
	alg, b64, ok := strings.Cut(first, "-")
	if !ok {
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || len(b) < 16 {
		return nil
	}
	switch alg {
	case "sha1", "sha256", "sha384", "sha512":
		return artifact.DigestSet{alg: hex.EncodeToString(b)}
	}
	return nil
}

// npmPackage is one of a lock file of version 2 or 3, by its folder.
type npmPackage struct {
	Name                 string            `json:"name"`
	Version              string            `json:"version"`
	Resolved             string            `json:"resolved"`
	Integrity            string            `json:"integrity"`
	License              any               `json:"license"`
	Dev                  bool              `json:"dev"`
	Optional             bool              `json:"optional"`
	Link                 bool              `json:"link"`
	Dependencies         map[string]string `json:"dependencies"`
	DevDependencies      map[string]string `json:"devDependencies"`
	OptionalDependencies map[string]string `json:"optionalDependencies"`
	PeerDependencies     map[string]string `json:"peerDependencies"`
}

// npmOld is one of a lock file of version 1, nested as on disk.
type npmOld struct {
	Version      string             `json:"version"`
	Integrity    string             `json:"integrity"`
	Dev          bool               `json:"dev"`
	Optional     bool               `json:"optional"`
	Requires     any                `json:"requires"`
	Dependencies map[string]*npmOld `json:"dependencies"`
}

// readPackageLock reads npm's lock file (package-lock.json, versions 1 to 3).
func readPackageLock(_ *collector, _ string, content *io.SectionReader) (*finding, error) {
	b, err := text(content)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Name         string                `json:"name"`
		Version      string                `json:"version"`
		Packages     map[string]npmPackage `json:"packages"`
		Dependencies map[string]*npmOld    `json:"dependencies"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	f := &finding{}
	if len(doc.Packages) == 0 {
		if err := oldLock(f, doc.Dependencies, "", 0); err != nil {
			return nil, err
		}
		return f, nil
	}
	targets := map[string]string{} // a link's folder to where it points
	for at, one := range doc.Packages {
		if one.Link {
			targets[at] = strings.TrimPrefix(path.Clean("/"+one.Resolved), "/")
		}
	}
	rootNeeds := map[string]bool{}
	for _, all := range []map[string]string{doc.Packages[""].Dependencies, doc.Packages[""].DevDependencies, doc.Packages[""].OptionalDependencies} {
		for name := range all {
			rootNeeds[name] = true
		}
	}
	for _, at := range sortedKeys(doc.Packages) {
		one := doc.Packages[at]
		if one.Link {
			continue
		}
		name := one.Name
		if cut := strings.LastIndex(at, "node_modules/"); cut >= 0 && name == "" {
			name = at[cut+len("node_modules/"):]
		}
		if at == "" && name == "" {
			name = doc.Name
		}
		if name == "" || one.Version == "" {
			continue
		}
		p := npm(name, one.Version)
		p.ids, p.digests, p.licenses = []string{at}, integrity(one.Integrity), npmLicense(one.License)
		switch {
		case at == "":
			p.kind, p.direct = "application", true
		case one.Dev:
			p.scope = "excluded"
		case one.Optional:
			p.scope = "optional"
		}
		p.direct = p.direct || rootNeeds[name] && at == "node_modules/"+name
		for _, all := range []map[string]string{one.Dependencies, one.OptionalDependencies, one.PeerDependencies} {
			for _, need := range sortedKeys(all) {
				p.needs = append(p.needs, npmPlaces(at, need, targets))
			}
		}
		if at == "" {
			for _, need := range sortedKeys(one.DevDependencies) {
				p.needs = append(p.needs, npmPlaces(at, need, targets))
			}
		}
		f.pkgs = append(f.pkgs, p)
	}
	return f, nil
}

// npmPlaces are the folders in which Node looks for a package, nearest first.
func npmPlaces(from, name string, targets map[string]string) (out []string) {
	for {
		place := strings.TrimPrefix(from+"/node_modules/"+name, "/")
		if to := targets[place]; to != "" {
			place = to
		}
		out = append(out, place)
		if from == "" || len(out) > 64 {
			return out
		}
		cut := strings.LastIndex(from, "/node_modules/")
		switch {
		case cut >= 0:
			from = from[:cut]
		default:
			from = ""
		}
	}
}

func oldLock(f *finding, all map[string]*npmOld, at string, depth int) error {
	if depth > 64 {
		return fault.Newf(fault.TooLarge, "packages are nested more than 64 deep")
	}
	for _, name := range sortedKeys(all) {
		one := all[name]
		if one == nil || one.Version == "" {
			continue
		}
		real, version := name, one.Version
		if alias, is := strings.CutPrefix(version, "npm:"); is {
			if cut := strings.LastIndexByte(alias, '@'); cut > 0 {
				real, version = alias[:cut], alias[cut+1:]
			}
		}
		p := npm(real, version)
		here := strings.TrimPrefix(at+"/node_modules/"+name, "/")
		p.ids, p.digests = []string{here}, integrity(one.Integrity)
		if one.Dev {
			p.scope = "excluded"
		} else if one.Optional {
			p.scope = "optional"
		}
		if requires, ok := one.Requires.(map[string]any); ok {
			for _, need := range sortedKeys(requires) {
				p.needs = append(p.needs, npmPlaces(here, need, nil))
			}
		}
		f.pkgs = append(f.pkgs, p)
		if err := oldLock(f, one.Dependencies, here, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func npmLicense(v any) []string {
	switch l := v.(type) {
	case string:
		if l != "" && !strings.HasPrefix(l, "SEE LICENSE") {
			return []string{l}
		}
	case map[string]any:
		return npmLicense(l["type"])
	case []any:
		var out []string
		for _, one := range l {
			out = append(out, npmLicense(one)...)
		}
		return out
	}
	return nil
}

// readPackageJSON reads what is installed below a node_modules.
func readPackageJSON(_ *collector, p string, content *io.SectionReader) (*finding, error) {
	// node_modules/NAME/package.json, or @SCOPE/NAME: others are a package's own
	// files.
	dir := path.Dir(p)
	cut := strings.LastIndex("/"+dir, "/node_modules/")
	rest := ("/" + dir)[cut+len("/node_modules/"):]
	if n := strings.Count(rest, "/"); n != 0 && (n != 1 || !strings.HasPrefix(rest, "@")) {
		return nil, nil
	}
	b, err := text(content)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Name                 string            `json:"name"`
		Version              string            `json:"version"`
		License              any               `json:"license"`
		Licenses             any               `json:"licenses"`
		Dependencies         map[string]string `json:"-"`
		RawDependencies      any               `json:"dependencies"`
		OptionalDependencies any               `json:"optionalDependencies"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	if doc.Name == "" || doc.Version == "" {
		return nil, nil
	}
	first := strings.Index("/"+p, "/node_modules/")
	one := npm(doc.Name, doc.Version)
	one.licenses = append(npmLicense(doc.License), npmLicense(doc.Licenses)...)
	one.ids = []string{strings.TrimPrefix(("/" + dir)[first:], "/")}
	for _, raw := range []any{doc.RawDependencies, doc.OptionalDependencies} {
		if needs, ok := raw.(map[string]any); ok {
			for _, need := range sortedKeys(needs) {
				one.needs = append(one.needs, npmPlaces(one.ids[0], need, nil))
			}
		}
	}
	return &finding{group: "npm:" + ("/" + p)[:first], pkgs: []pkg{one}}, nil
}

var yarnVersion = regexp.MustCompile(`^  "?(version|resolved|integrity|resolution|checksum)"?:? "?([^"]*)"?$`)

// readYarn reads yarn.lock, of yarn 1 and of the later ones.
func readYarn(_ *collector, _ string, content *io.SectionReader) (*finding, error) {
	b, err := text(content)
	if err != nil {
		return nil, err
	}
	f := &finding{}
	var one *pkg
	inDeps, local := false, false
	flush := func() {
		if one != nil && one.version != "" && !local {
			f.pkgs = append(f.pkgs, *one)
		}
		one, inDeps, local = nil, false, false
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case !strings.HasPrefix(line, " "):
			flush()
			head := strings.TrimSuffix(line, ":")
			if head == "__metadata" || !strings.HasSuffix(line, ":") {
				continue
			}
			var ids []string
			name := ""
			for spec := range strings.SplitSeq(head, ",") {
				spec = strings.Trim(strings.TrimSpace(spec), `"`)
				cut := strings.LastIndexByte(spec, '@')
				if at := strings.Index(spec[min(1, len(spec)):], "@"); at >= 0 {
					cut = at + 1
				}
				if cut <= 0 {
					continue
				}
				name = spec[:cut]
				if alias, is := strings.CutPrefix(spec[cut+1:], "npm:@"); is && strings.Contains(alias, "@") {
					name = "@" + alias[:strings.LastIndexByte(alias, '@')]
				} else if alias, is := strings.CutPrefix(spec[cut+1:], "npm:"); is && strings.Contains(alias, "@") {
					name = alias[:strings.LastIndexByte(alias, '@')]
				}
				ids = append(ids, spec, strings.Replace(spec, "@npm:", "@", 1))
			}
			if name != "" {
				p := npm(name, "")
				p.ids = ids
				one = &p
			}
		case one == nil:
		case strings.HasPrefix(line, "    ") && inDeps:
			name, version, ok := strings.Cut(strings.TrimSpace(line), " ")
			if ok {
				name, version = strings.Trim(strings.TrimSuffix(name, ":"), `"`), strings.Trim(version, `"`)
				one.needs = append(one.needs, []string{name + "@" + version, name + "@npm:" + version, name + "@" + strings.TrimPrefix(version, "npm:")})
			}
		default:
			key := strings.TrimSpace(line)
			inDeps = key == "dependencies:" || key == "optionalDependencies:"
			if m := yarnVersion.FindStringSubmatch(line); m != nil {
				switch m[1] {
				case "version":
					one.version = m[2]
				case "integrity":
					one.digests = integrity(m[2])
				case "resolution":
					local = strings.Contains(m[2], "@workspace:")
				}
			}
		}
	}
	flush()
	return f, nil
}

type pnpmPackage struct {
	Resolution           struct{ Integrity string }
	Name, Version        string
	Dev, Optional        bool
	Dependencies         map[string]string
	OptionalDependencies map[string]string `yaml:"optionalDependencies"`
}

// readPnpm reads pnpm-lock.yaml, versions 5 to 9.
func readPnpm(_ *collector, _ string, content *io.SectionReader) (*finding, error) {
	b, err := text(content)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Packages  map[string]pnpmPackage
		Snapshots map[string]pnpmPackage
		Importers map[string]struct {
			Dependencies         map[string]any
			DevDependencies      map[string]any `yaml:"devDependencies"`
			OptionalDependencies map[string]any `yaml:"optionalDependencies"`
		}
		Dependencies    map[string]any
		DevDependencies map[string]any `yaml:"devDependencies"`
	}
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	direct := map[string]bool{}
	note := func(all map[string]any) {
		for name, v := range all {
			version, _ := v.(string)
			if m, ok := v.(map[string]any); ok {
				version, _ = m["version"].(string)
			}
			direct[pnpmKey(name, version)] = true
		}
	}
	note(doc.Dependencies)
	note(doc.DevDependencies)
	for _, i := range doc.Importers {
		note(i.Dependencies)
		note(i.DevDependencies)
		note(i.OptionalDependencies)
	}
	f := &finding{}
	all := doc.Packages
	for key, s := range doc.Snapshots {
		base := pnpmBase(key)
		one := all[base]
		if one.Dependencies == nil {
			one.Dependencies = map[string]string{}
		}
		for k, v := range s.Dependencies {
			one.Dependencies[k] = v
		}
		for k, v := range s.OptionalDependencies {
			one.Dependencies[k] = v
		}
		if _, is := all[base]; is {
			all[base] = one
		}
	}
	for _, key := range sortedKeys(all) {
		one := all[key]
		name, version := pnpmName(pnpmBase(key))
		if one.Name != "" {
			name = one.Name
		}
		if one.Version != "" {
			version = one.Version
		}
		if name == "" || version == "" {
			continue
		}
		p := npm(name, version)
		id := name + "@" + version
		p.ids, p.digests, p.direct = []string{id}, integrity(one.Resolution.Integrity), direct[id]
		if one.Dev {
			p.scope = "excluded"
		} else if one.Optional {
			p.scope = "optional"
		}
		for _, deps := range []map[string]string{one.Dependencies, one.OptionalDependencies} {
			for _, need := range sortedKeys(deps) {
				p.needs = append(p.needs, []string{pnpmKey(need, deps[need])})
			}
		}
		f.pkgs = append(f.pkgs, p)
	}
	return f, nil
}

func pnpmKey(name, version string) string {
	version = pnpmBase(version)
	if n, v := pnpmName(version); n != "" && v != "" {
		return n + "@" + v // an alias, or a path of version 5
	}
	return name + "@" + strings.TrimPrefix(version, "/")
}

// pnpmBase takes off the peers: "a@1.0.0(b@2)", "/a/1.0.0_b@2".
func pnpmBase(key string) string {
	key, _, _ = strings.Cut(key, "(")
	if slash := strings.LastIndexByte(key, '/'); slash >= 0 {
		if under := strings.IndexByte(key[slash:], '_'); under > 0 && strings.HasPrefix(key, "/") && !strings.Contains(key[1:], "@") {
			key = key[:slash+under]
		}
	}
	return key
}

func pnpmName(key string) (name, version string) {
	key = strings.TrimPrefix(key, "/")
	if at := strings.LastIndexByte(key, '@'); at > 0 {
		return key[:at], key[at+1:]
	}
	if at := strings.LastIndexByte(key, '/'); at > 0 && strings.Count(key, "/") >= 1 && !strings.HasPrefix(key[at+1:], "@") && at+1 < len(key) && key[at+1] >= '0' && key[at+1] <= '9' {
		return key[:at], key[at+1:]
	}
	return "", ""
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
