package scan

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"path"
	"slices"
	"sort"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/sbom"
)

// Reader reads a target from a stream, standard input for one. name is what it
// would be called as a file: lock files are known by their names.
func Reader(ctx context.Context, r io.Reader, name string, o Options) (*sbom.Document, error) {
	c, err := newCollector(ctx, o)
	if err != nil {
		return nil, err
	}
	defer c.close()
	return c.stream(r, name)
}

// subject is what the document describes.
type subject struct {
	kind, name, tag string
	digest          artifact.Digest // "": a folder has none
}

func imageSubject(name, tag string, d artifact.Digest) subject {
	return subject{kind: "container", name: name, tag: tag, digest: d}
}

func (s subject) component() sbom.Component {
	root := sbom.Component{Ref: "assay:subject", Type: s.kind, Name: s.name, Version: s.tag}
	if s.digest == "" {
		return root
	}
	root.Digests = s.digest.Set()
	if s.kind != "container" {
		return root
	}
	if root.Version == "" {
		root.Version = string(s.digest)
	}
	q := map[string]string{}
	if strings.Contains(s.name, "/") {
		q["repository_url"] = s.name
	}
	if s.tag != "" {
		q["tag"] = s.tag
	}
	if p, err := artifact.NewPURL("oci", "", strings.ToLower(path.Base(s.name)), string(s.digest), q, ""); err == nil {
		root.PURL, root.Version = p, p.Version
	}
	return root
}

// builder makes components of packages, each once.
type builder struct {
	c       *collector
	d       *sbom.Document
	at      map[string]int            // by ref
	groups  map[string]map[string]int // group, id -> component
	needs   []need
	release map[string]string
	direct  map[string]bool
	noOS    bool
}

type need struct {
	from  string
	group string
	any   []string
}

// document puts together what was found.
func (c *collector) document(s subject) (*sbom.Document, error) {
	root := s.component()
	d := &sbom.Document{Header: sbom.Header{
		Format: sbom.CycloneDXJSON, SpecVersion: sbom.DefaultCycloneDX, Name: s.name, Created: c.o.Now, Version: 1, Roots: []string{root.Ref},
	}}
	if c.o.Tool != "" {
		d.Tools = []string{c.o.Tool}
	}
	b := &builder{c: c, d: d, at: map[string]int{}, groups: map[string]map[string]int{}, direct: map[string]bool{}}
	b.add(root)
	b.release = c.systemRelease()
	licenses := c.licensesByPackage()
	for _, p := range c.order {
		f := c.found[p]
		if f == nil {
			continue
		}
		d.Incomplete = append(d.Incomplete, f.incomplete...)
		group := f.group
		if group == "" {
			group = "file:" + p
		}
		for i := range f.pkgs {
			one := &f.pkgs[i]
			if one.typ == "deb" && one.licenses == nil {
				one.licenses = licenses[one.name]
			}
			if err := b.pkg(one, f, group); err != nil {
				return nil, err
			}
		}
		f.pkgs = nil
	}
	if err := b.programs(); err != nil {
		return nil, err
	}
	b.edges(root.Ref)
	if b.noOS {
		d.Incomplete = append(d.Incomplete, "no os-release: the distribution and its release are not known, so its advisories cannot be found")
	}
	d.Incomplete = append(d.Incomplete, c.problems...)
	if len(d.Components) == 1 {
		d.Incomplete = append(d.Incomplete, "no package was found: what is there was put together by hand, or is of a kind that is not known")
	}
	d.ID = serial(d)
	return d, nil
}

// serial names a document by what is in it.
func serial(d *sbom.Document) string {
	h := sha256.New()
	fmt.Fprintln(h, d.Name, d.Created.UTC(), d.Tools)
	for i := range d.Components {
		fmt.Fprintln(h, d.Components[i].Ref, d.Components[i].Digests)
	}
	u := h.Sum(nil)[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // RFC 9562, version 8
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// systemRelease is what os-release says; /etc comes before /usr/lib.
func (c *collector) systemRelease() map[string]string {
	for _, p := range []string{"etc/os-release", "usr/lib/os-release"} {
		if f := c.found[p]; f != nil && f.release["ID"] != "" {
			return f.release
		}
	}
	return nil
}

func (c *collector) licensesByPackage() map[string][]string {
	out := map[string][]string{}
	for p, f := range c.found {
		if f.licenses != nil {
			out[path.Base(path.Dir(p))] = f.licenses
		}
	}
	return out
}

func (b *builder) add(c sbom.Component) int {
	c.Settle()
	i := len(b.d.Components)
	b.d.Components = append(b.d.Components, c)
	b.at[c.Ref] = i
	return i
}

// namespaces are the distributions whose package URLs use another word than
// os-release does.
var namespaces = map[string]string{
	"rhel": "redhat", "opensuse-leap": "opensuse", "opensuse-tumbleweed": "opensuse", "ol": "oracle", "amzn": "amazon",
}

// place gives a distribution's package its name and release.
func (b *builder) place(p *pkg) {
	id, version := b.release["ID"], b.release["VERSION_ID"]
	if id == "" {
		b.noOS = true
		p.namespace = map[string]string{"deb": "debian", "apk": "alpine", "rpm": "redhat"}[p.typ]
		return
	}
	p.namespace = or(namespaces[id], id)
	if version == "" {
		version = b.release["VERSION_CODENAME"] // Debian's testing and unstable
	}
	if p.quals == nil {
		p.quals = map[string]string{}
	}
	p.quals["distro"] = strings.TrimSuffix(id+"-"+version, "-")
}

func (b *builder) pkg(p *pkg, f *found, group string) error {
	if p.os {
		b.place(p)
	}
	if p.source != "" && (p.source != p.name || p.sourceVersion != "") {
		if p.quals == nil {
			p.quals = map[string]string{}
		}
		p.quals["upstream"] = p.source
		if p.sourceVersion != "" {
			p.quals["upstream"] += "@" + p.sourceVersion
		}
	}
	purl, err := artifact.NewPURL(p.typ, p.namespace, p.name, p.version, p.quals, "")
	if err != nil {
		b.c.incomplete("%s: package %q: %s", f.path, p.name, err)
		return nil
	}
	location := "/" + f.path + p.place
	if f.layer != "" {
		location = f.layer + ":" + location
	}
	ref := purl.String()
	i, known := b.at[ref]
	if !known {
		if len(b.d.Components) > b.c.o.Limits.Components {
			return fault.Newf(fault.TooLarge, "more than %d packages", b.c.o.Limits.Components)
		}
		n := sbom.Component{Ref: ref, Type: or(p.kind, "library"), Group: purl.Namespace, Name: purl.Name, Version: purl.Version, PURL: purl, Supplier: p.supplier, Scope: p.scope, Licenses: p.licenses, Digests: p.digests, Locations: []string{location}}
		switch p.typ {
		case "deb", "apk", "rpm":
			n.Group = ""
		case "golang", "npm":
			n.Group, n.Name = "", strings.Trim(purl.Namespace+"/"+purl.Name, "/")
		}
		i = b.add(n)
	} else {
		b.merge(&b.d.Components[i], p, location)
	}
	if p.direct {
		b.direct[ref] = true
	}
	ids := b.groups[group]
	if ids == nil {
		ids = map[string]int{}
		b.groups[group] = ids
	}
	for _, id := range p.ids {
		if _, taken := ids[id]; !taken {
			ids[id] = i
		}
	}
	for _, any := range p.needs {
		b.needs = append(b.needs, need{ref, group, any})
	}
	return nil
}

// merge adds what another place says of a component that is known.
func (b *builder) merge(n *sbom.Component, p *pkg, location string) {
	if !slices.Contains(n.Locations, location) && len(n.Locations) < 1000 {
		n.Locations = append(n.Locations, location)
	}
	if n.Scope != p.scope && (p.scope == "" || n.Scope == "excluded") {
		n.Scope = p.scope // needed somewhere is needed
	}
	if len(n.Licenses) == 0 {
		n.Licenses = p.licenses
	}
	if len(n.Digests) == 0 {
		n.Digests = p.digests
	}
	n.Supplier = or(n.Supplier, p.supplier)
	if p.kind != "" {
		n.Type = p.kind
	}
	n.Settle()
}

// edges settles who needs whom.
func (b *builder) edges(root string) {
	on := map[string]map[string]bool{}
	put := func(from, to string) {
		if from == to {
			return
		}
		if on[from] == nil {
			on[from] = map[string]bool{}
		}
		on[from][to] = true
	}
	for _, n := range b.needs {
		for _, id := range n.any {
			if i, is := b.groups[n.group][id]; is {
				put(n.from, b.d.Components[i].Ref)
				break
			}
		}
	}
	for ref := range b.direct {
		put(root, ref)
	}
	for _, ref := range sortedKeys(on) {
		b.d.Dependencies = append(b.d.Dependencies, sbom.Dependency{Ref: ref, On: sortedKeys(on[ref])})
	}
}

// programs says which executables hide what they are built of: those that no
// package manager put there.
func (b *builder) programs() error {
	hidden := map[string][]string{}
	for _, p := range b.c.order {
		f := b.c.found[p]
		if f == nil || f.program == nil || b.c.isOwned(p) {
			continue
		}
		if f.program.note != nil {
			if err := b.pkg(f.program.note, f, "note"); err != nil {
				return err
			}
			continue
		}
		if f.program.hides && !f.program.shared {
			hidden[f.program.why] = append(hidden[f.program.why], "/"+p)
		}
	}
	for _, why := range sortedKeys(hidden) {
		all := hidden[why]
		sort.Strings(all)
		text := all[0] + " " + why
		if more := len(all) - 1; more > 0 {
			text += fmt.Sprintf(", and so %d more: %s", more, strings.Join(all[1:min(len(all), 6)], ", "))
			if more > 5 {
				text += ", …"
			}
		}
		b.d.Incomplete = append(b.d.Incomplete, clip(text))
	}
	return nil
}
