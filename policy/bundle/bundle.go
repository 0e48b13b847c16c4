// Package bundle holds policies that are given out together: Rego v1 modules,
// their data and Requirements, in the layout of OPA's bundles, with a version
// that only grows and a signature over every file.
//
// What is signed is not the archive, whose bytes depend on who compressed it,
// but the listing of its files (see [Bundle.Listing]): the same text as sha256sum
// writes, so that anybody can make it and any client of Sigstore can verify it.
package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/internal/strictyaml"
	"assay/policy"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v3"
)

// The limits of a bundle.
const (
	MaxArchive = 4 << 20  // bytes, compressed
	MaxBytes   = 16 << 20 // bytes of all files
	MaxFiles   = 2000
)

// Names of files in a bundle.
const (
	ManifestFile  = ".manifest"
	SignatureFile = ".bundle.sigstore.json" // of a folder; never part of what is signed
)

// Manifest is a bundle's .manifest: OPA's members, and under metadata.assay ours.
type Manifest struct {
	Revision    string   `json:"revision,omitempty"`
	Roots       []string `json:"roots,omitempty"`
	RegoVersion *int     `json:"rego_version,omitempty"`
	Metadata    struct {
		Assay jsontext.Value `json:"assay,omitempty"`
	} `json:"metadata,omitzero"`
}

// About says what a bundle is, and of the Rego that belongs to no Policy document
// of its own, where and how it holds.
type About struct {
	Name    string           `json:"name,omitempty"`
	Version int64            `json:"version,omitempty"`
	Scope   *policy.Selector `json:"scope,omitempty"`
	Mode    policy.Mode      `json:"mode,omitempty"`
}

// Bundle is a bundle that was read. It is immutable.
type Bundle struct {
	Manifest Manifest
	about    About
	files    map[string][]byte
}

var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// CheckName says whether a bundle may be called so.
func CheckName(name string) error {
	if !nameRE.MatchString(name) {
		return fault.Newf(fault.Invalid, "bundle name %.80q: want lower-case letters, digits, - and ., at most 63; metadata.assay.name in %s says it, or --name", name, ManifestFile)
	}
	return nil
}

// FromFiles makes a bundle of files by their paths, with "/" between names.
// Errors are fault.Invalid and name the file.
func FromFiles(files map[string][]byte) (*Bundle, error) {
	b := &Bundle{files: map[string][]byte{}}
	total := 0
	for name, text := range files {
		if name == SignatureFile || path.Base(name) == ".signatures.json" {
			continue // ours stands beside; OPA's own counts for nothing here
		}
		if total += len(text); total > MaxBytes || len(b.files) >= MaxFiles {
			return nil, fault.Newf(fault.TooLarge, "bundle: more than %d files or %d bytes", MaxFiles, MaxBytes)
		}
		if path.Clean("/"+name) != "/"+name || strings.ContainsAny(name, "\\\n\r\x00") {
			return nil, fault.Newf(fault.Invalid, "bundle: file %.120q: want a plain path below the bundle", name)
		}
		switch base := path.Base(name); {
		case name == ManifestFile, strings.HasSuffix(base, ".rego"), strings.HasSuffix(base, ".yaml"), strings.HasSuffix(base, ".yml"), base == "data.json":
		case path.Ext(base) == ".wasm" || base == "plan.json":
			return nil, fault.Newf(fault.Invalid, "bundle: %s: compiled policies are not read; bring their Rego", name)
		case path.Ext(base) == ".json", base == "README.md", base == "LICENSE":
			// Facts of tests, words for people. Signed like the rest.
		default:
			return nil, fault.Newf(fault.Invalid, "bundle: %s: want .rego, .yaml, data.json and %s; leave out what is nothing to a policy", name, ManifestFile)
		}
		b.files[name] = text
	}
	if m, ok := b.files[ManifestFile]; ok {
		if err := strictjson.Unmarshal(m, &b.Manifest); err != nil {
			return nil, fault.Newf(fault.Invalid, "bundle: %s: %w", ManifestFile, err)
		}
	}
	return b, b.check()
}

func (b *Bundle) check() error {
	if v := b.Manifest.RegoVersion; v != nil && *v != 1 {
		return fault.Newf(fault.Invalid, "bundle: rego_version %d: want 1 (opa fmt --v0-v1 rewrites older Rego)", *v)
	}
	if raw := b.Manifest.Metadata.Assay; raw != nil {
		// A scope that is misspelt would be a wider one.
		a := &b.about
		if err := strictjson.Unmarshal(raw, a, strictjson.RejectUnknown()); err != nil {
			return fault.Newf(fault.Invalid, "bundle: %s: metadata.assay: %w", ManifestFile, err)
		}
		if a.Version < 0 {
			return fault.Newf(fault.Invalid, "bundle: metadata.assay.version %d: want 1 or more", a.Version)
		}
		if a.Name != "" {
			if err := CheckName(a.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// About is what the manifest says the bundle is; the zero value where it says
// nothing.
func (b *Bundle) About() About { return b.about }

// Files lists the paths, sorted.
func (b *Bundle) Files() []string { return slices.Sorted(maps.Keys(b.files)) }

// Listing is what a signature is over: of each file, in the order of their
// paths, the SHA-256 in hex, two spaces, the path, a line feed.
func (b *Bundle) Listing() []byte {
	var out bytes.Buffer
	for _, name := range b.Files() {
		fmt.Fprintf(&out, "%s  %s\n", artifact.SHA256Of(b.files[name]).Hex(), name)
	}
	return out.Bytes()
}

// Digest is that of the listing, and names the bundle's content however it is
// packed.
func (b *Bundle) Digest() artifact.Digest { return artifact.SHA256Of(b.Listing()) }

// Documents are the policies that the bundle comes to, as `assay apply` would
// read them, sorted by name. name is the bundle's, for Rego that stands in no
// Policy document. Each was compiled.
func (b *Bundle) Documents(name string) ([]policy.Document, error) {
	data, err := b.data()
	if err != nil {
		return nil, err
	}
	mains, libraries, err := b.modules()
	if err != nil {
		return nil, err
	}
	var out []policy.Document
	for _, file := range b.Files() {
		if ext := path.Ext(file); ext != ".yaml" && ext != ".yml" || path.Base(file) == "data.yaml" || path.Base(file) == "data.yml" {
			continue
		}
		docs, err := parsePolicies(b.files[file])
		if err != nil {
			return nil, fmt.Errorf("bundle: %s: %w", file, err)
		}
		beside := strings.TrimSuffix(file, path.Ext(file)) + ".rego"
		if m, ok := mains[beside]; ok && len(docs) == 1 {
			docs[0].Spec.Rego = append(docs[0].Spec.Rego, m)
			delete(mains, beside)
		}
		out = append(out, docs...)
	}
	if len(mains) > 0 {
		if err := CheckName(name); err != nil {
			return nil, err
		}
		about := b.About()
		d := policy.Document{APIVersion: policy.APIVersion, Kind: policy.KindPolicy, Metadata: policy.Metadata{Name: name}, Spec: policy.Spec{Scope: about.Scope, Mode: about.Mode}}
		for _, file := range slices.Sorted(maps.Keys(mains)) {
			d.Spec.Rego = append(d.Spec.Rego, mains[file])
		}
		out = append(out, d)
	}
	if len(out) == 0 {
		return nil, fault.Newf(fault.Invalid, "bundle: no policy in it: want Policy documents in .yaml files, or Rego of package assay.policy")
	}
	seen := map[string]bool{}
	for i := range out {
		d := &out[i]
		if len(d.Spec.Rego) > 0 {
			d.Spec.Rego = append(d.Spec.Rego, libraries...)
			for k, v := range data {
				if _, own := d.Spec.Data[k]; own {
					return nil, fault.Newf(fault.Invalid, "bundle: policy %s: spec.data.%s stands in the bundle's data as well", d.Metadata.Name, k)
				}
				if d.Spec.Data == nil {
					d.Spec.Data = map[string]policy.Value{}
				}
				d.Spec.Data[k] = policy.Value{JSON: v}
			}
		}
		if _, err := policy.Compile(d); err != nil {
			return nil, fmt.Errorf("bundle: %w", err)
		}
		if seen[d.Metadata.Name] {
			return nil, fault.Newf(fault.Invalid, "bundle: two policies are named %s", d.Metadata.Name)
		}
		seen[d.Metadata.Name] = true
	}
	slices.SortFunc(out, func(x, y policy.Document) int { return strings.Compare(x.Metadata.Name, y.Metadata.Name) })
	return out, nil
}

// YAML is documents as one text for `assay apply`.
func YAML(docs []policy.Document) ([]byte, error) {
	var out bytes.Buffer
	for _, d := range docs {
		out.WriteString("---\n")
		enc := yaml.NewEncoder(&out)
		enc.SetIndent(2)
		if err := enc.Encode(d); err != nil {
			return nil, fault.Newf(fault.Invalid, "write policy %s: %w", d.Metadata.Name, err)
		}
	}
	return out.Bytes(), nil
}

func parsePolicies(text []byte) (out []policy.Document, err error) {
	parts, err := strictyaml.Split(text)
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		var head struct {
			Kind string `yaml:"kind"`
		}
		if err := yaml.Unmarshal(p.Text(), &head); err != nil {
			return nil, fault.Newf(fault.Invalid, "%w", err)
		}
		switch head.Kind {
		case policy.KindPolicy:
			d, err := policy.ParseDocument(p.Text())
			if err != nil {
				return nil, err
			}
			out = append(out, *d)
		case "PolicyTest": // for assay policy test
		default:
			return nil, fault.Newf(fault.Invalid, "kind %.40q: a bundle holds documents of kind Policy (and PolicyTest); what else a site has is for assay apply", head.Kind)
		}
	}
	return out, nil
}

// modules are those of package assay.policy by their file, and all others.
// Tests are for people who write policies.
func (b *Bundle) modules() (mains map[string]policy.Module, libraries []policy.Module, err error) {
	mains = map[string]policy.Module{}
	for _, file := range b.Files() {
		if path.Ext(file) != ".rego" || strings.HasSuffix(file, "_test.rego") {
			continue
		}
		m := policy.Module{Name: file, Text: string(b.files[file])}
		pkg, err := policy.PackageOf(m)
		if err != nil {
			return nil, nil, fmt.Errorf("bundle: %s: %w", file, err)
		}
		if !b.owns(strings.ReplaceAll(pkg, ".", "/")) {
			return nil, nil, fault.Newf(fault.Invalid, "bundle: %s: package %s is under none of the manifest's roots", file, pkg)
		}
		if pkg == "assay.policy" {
			mains[file] = m
		} else {
			libraries = append(libraries, m)
		}
	}
	return mains, libraries, nil
}

// owns says whether a path of data is under the manifest's roots, as OPA has it:
// no roots, or an empty one, are everything.
func (b *Bundle) owns(p string) bool {
	if len(b.Manifest.Roots) == 0 {
		return true
	}
	return slices.ContainsFunc(b.Manifest.Roots, func(r string) bool {
		r = strings.Trim(r, "/")
		return r == "" || p == r || strings.HasPrefix(p, r+"/")
	})
}

// data joins the data files: a/b/data.json stands at data.a.b.
func (b *Bundle) data() (map[string]any, error) {
	root := map[string]any{}
	for _, file := range b.Files() {
		base := path.Base(file)
		if base != "data.json" && base != "data.yaml" && base != "data.yml" {
			continue
		}
		var v map[string]any
		if base == "data.json" {
			if err := strictjson.Unmarshal(b.files[file], &v); err != nil {
				return nil, fault.Newf(fault.Invalid, "bundle: %s: want one JSON object: %w", file, err)
			}
		} else {
			var y map[string]policy.Value
			if err := strictyaml.Unmarshal(b.files[file], &y); err != nil {
				return nil, fault.Newf(fault.Invalid, "bundle: %s: want one YAML mapping: %w", file, err)
			}
			v = map[string]any{}
			for k, one := range y {
				v[k] = one.JSON
			}
		}
		at, dir := root, path.Dir(file)
		if dir != "." {
			for _, name := range strings.Split(dir, "/") {
				next, _ := at[name].(map[string]any)
				if next == nil {
					if _, taken := at[name]; taken {
						return nil, fault.Newf(fault.Invalid, "bundle: %s: data.%s stands in another file already", file, strings.ReplaceAll(dir, "/", "."))
					}
					next = map[string]any{}
					at[name] = next
				}
				at = next
			}
		}
		for k, one := range v {
			if _, taken := at[k]; taken {
				return nil, fault.Newf(fault.Invalid, "bundle: %s: %s stands in another data file already", file, k)
			}
			if p := strings.TrimPrefix(dir+"/"+k, "./"); !b.owns(p) && !slices.ContainsFunc(b.Manifest.Roots, func(r string) bool { return strings.HasPrefix(strings.Trim(r, "/"), p+"/") }) {
				return nil, fault.Newf(fault.Invalid, "bundle: %s: %s is under none of the manifest's roots", file, p)
			}
			at[k] = one
		}
	}
	return root, nil
}

// As is the bundle with its name and version in the manifest.
func (b *Bundle) As(c Claim) (*Bundle, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if b.about.Name == c.Name && b.about.Version == c.Version {
		return b, nil
	}
	doc := map[string]any{}
	if m, ok := b.files[ManifestFile]; ok {
		v, err := strictjson.UnmarshalAny(m)
		if err != nil {
			return nil, err
		}
		if doc, ok = v.(map[string]any); !ok {
			return nil, fault.Newf(fault.Invalid, "bundle: %s: want an object", ManifestFile)
		}
	}
	meta, _ := doc["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
	}
	ours, _ := meta["assay"].(map[string]any)
	if ours == nil {
		ours = map[string]any{}
	}
	ours["name"], ours["version"] = c.Name, c.Version
	meta["assay"], doc["metadata"] = ours, meta
	m, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, err
	}
	files := maps.Clone(b.files)
	files[ManifestFile] = append(m, '\n')
	return FromFiles(files)
}
