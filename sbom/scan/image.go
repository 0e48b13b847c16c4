package scan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/oci"
	"assay/internal/strictjson"
	"assay/sbom"
)

// maxManifest bounds manifests, configurations and indexes.
const maxManifest = 4 << 20

// layer is one of an image's.
type layer struct {
	digest artifact.Digest // of its bytes; of what they unpack to when diff
	diff   bool
	open   func() (io.ReadCloser, error) // checks the digest itself when in is nil
	in     *io.SectionReader             // its bytes, where they can be read in place
}

// image is what is common to all that hold one.
type image struct {
	subject subject
	layers  []layer // the lowest first
}

// scanImage walks the layers, the topmost first.
func (c *collector) scanImage(img image) (*sbom.Document, error) {
	shadow := newShadow()
	for i := len(img.layers) - 1; i >= 0; i-- {
		l := img.layers[i]
		c.o.Progress(fmt.Sprintf("layer %d of %d %s", len(img.layers)-i, len(img.layers), l.digest))
		if err := c.layer(l, shadow, i == 0); err != nil {
			return nil, fmt.Errorf("layer %s: %w", l.digest, err)
		}
		shadow.lower()
	}
	return c.document(img.subject)
}

func (c *collector) layer(l layer, s *shadow, bottom bool) error {
	w := &tarWalk{c: c, label: string(l.digest), shadow: s, bottom: bottom}
	if err := c.throughLayer(l, true, w.walk); err != nil || len(w.links) == 0 {
		return err
	}
	return c.throughLayer(l, false, w.follow)
}

// throughLayer hands a layer's tar to visit, in place when that can be. With
// check its bytes must have the digest that the manifest gives.
func (c *collector) throughLayer(l layer, check bool, visit func(io.Reader, *io.SectionReader) error) error {
	if l.in == nil {
		r, err := l.open()
		if err != nil {
			return err
		}
		defer r.Close()
		return c.throughStream(r, visit)
	}
	var head [6]byte
	_, _ = l.in.ReadAt(head[:], 0)
	h := l.digest.Hash()
	if !isCompressed(head[:]) {
		if check {
			if _, err := io.CopyBuffer(h, onlyReader{io.NewSectionReader(l.in, 0, l.in.Size())}, make([]byte, 256<<10)); err != nil {
				return err
			}
			if got := artifact.NewDigest(l.digest.Algorithm(), h.Sum(nil)); got != l.digest {
				return fault.Newf(fault.Tampered, "expected content with the digest %s, found %s", l.digest, got)
			}
			if c.bytes += l.in.Size(); c.bytes > c.o.Limits.Bytes {
				return fault.Newf(fault.TooLarge, "more than %d bytes: raise the limit if that is right", c.o.Limits.Bytes)
			}
		}
		return visit(nil, io.NewSectionReader(l.in, 0, l.in.Size()))
	}
	var raw io.Reader = io.NewSectionReader(l.in, 0, l.in.Size())
	if !l.diff {
		raw = io.TeeReader(raw, h)
	}
	err := c.throughStream(raw, func(r io.Reader, _ *io.SectionReader) error {
		if l.diff {
			r = io.TeeReader(r, h)
		}
		if err := visit(r, nil); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, r)
		return err
	})
	if got := artifact.NewDigest(l.digest.Algorithm(), h.Sum(nil)); err == nil && got != l.digest {
		return fault.Newf(fault.Tampered, "expected content with the digest %s, found %s", l.digest, got)
	}
	return err
}

// onlyReader hides that a reader could write itself out in larger steps.
type onlyReader struct{ io.Reader }

func isCompressed(head []byte) bool {
	return bytes.HasPrefix(head, []byte{0x1f, 0x8b}) || bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) || bytes.HasPrefix(head, []byte("BZh")) || bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0})
}

// throughStream reads a stream to its very end, so that its digest is known.
func (c *collector) throughStream(raw io.Reader, visit func(io.Reader, *io.SectionReader) error) error {
	r, _, done, err := c.inflated(raw)
	if err != nil {
		return err
	}
	defer done()
	if err := visit(r, nil); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, raw)
	return err
}

// isLayer says whether a media type is that of a layer of files.
func isLayer(mediaType string) bool {
	return mediaType == "" || strings.Contains(mediaType, ".layer.") || strings.Contains(mediaType, ".rootfs.diff.")
}

// remote reads an image of a registry.
func (c *collector) remote(client *oci.Client, ref artifact.Reference) (*sbom.Document, error) {
	at := artifact.Reference{Host: ref.Host, Repository: ref.Repository}
	manifest, err := client.Manifest(c.ctx, ref)
	if err != nil {
		return nil, err
	}
	for depth := 0; ; depth++ {
		parts, err := manifest.Parts()
		if err != nil {
			return nil, err
		}
		if len(parts.Manifests) == 0 {
			img := image{subject: imageSubject(at.Host+"/"+at.Repository, ref.Tag, manifest.Digest)}
			for _, d := range parts.Layers {
				if !isLayer(d.MediaType) {
					c.incomplete("layer %s is of type %s, which is not read", d.Digest, d.MediaType)
					continue
				}
				img.layers = append(img.layers, layer{digest: d.Digest, open: func() (io.ReadCloser, error) {
					return client.BlobReader(c.ctx, at, d.Digest, d.Size)
				}})
			}
			return c.scanImage(img)
		}
		if depth == 4 {
			return nil, fault.Newf(fault.TooLarge, "%s: indexes within indexes", ref)
		}
		chosen, err := c.choose(manifest.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
		if manifest, err = client.Manifest(c.ctx, at.WithDigest(chosen)); err != nil {
			return nil, err
		}
	}
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      artifact.Digest   `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform"`
	Annotations map[string]string `json:"annotations"`
}

type manifestDoc struct {
	MediaType string       `json:"mediaType"`
	Config    descriptor   `json:"config"`
	Layers    []descriptor `json:"layers"`
	Manifests []descriptor `json:"manifests"`
}

// choose picks an image of an index by its platform.
func (c *collector) choose(index []byte) (artifact.Digest, error) {
	var doc manifestDoc
	if err := strictjson.Unmarshal(index, &doc); err != nil {
		return "", err
	}
	var images []descriptor
	for _, d := range doc.Manifests {
		if d.Annotations["vnd.docker.reference.type"] == "" && (d.Platform == nil || d.Platform.OS != "unknown") {
			images = append(images, d)
		}
	}
	if len(images) == 1 && c.o.Platform == "" {
		return images[0].Digest, images[0].Digest.Validate()
	}
	want := platform{OS: "linux", Architecture: runtime.GOARCH}
	if c.o.Platform != "" {
		var err error
		if want, err = parsePlatform(c.o.Platform); err != nil {
			return "", err
		}
	}
	var names []string
	for _, d := range images {
		if d.Platform == nil {
			continue
		}
		names = append(names, d.Platform.String())
		if d.Platform.OS == want.OS && d.Platform.Architecture == want.Architecture && (want.Variant == "" || want.Variant == d.Platform.Variant) {
			return d.Digest, d.Digest.Validate()
		}
	}
	return "", fault.Newf(fault.NotFound, "no image for %s; there is: %s; choose with --platform", want, strings.Join(names, ", "))
}

// blobs gives the files of a layout by their path below its root.
type blobs func(name string) (*io.SectionReader, error)

// layout reads an OCI image layout, whatever holds it.
func (c *collector) layout(get blobs, name string) (*sbom.Document, error) {
	blob := func(d artifact.Digest) (*io.SectionReader, error) {
		if err := d.Validate(); err != nil {
			return nil, err
		}
		return get("blobs/" + d.Algorithm() + "/" + d.Hex())
	}
	in, err := get("index.json")
	if err != nil {
		return nil, err
	}
	b, err := small(in, "index.json")
	if err != nil {
		return nil, err
	}
	digest := artifact.Digest("")
	for depth := 0; ; depth++ {
		var doc manifestDoc
		if err := strictjson.Unmarshal(b, &doc); err != nil {
			return nil, fault.Newf(fault.Invalid, "manifest %s: %w", digest, err)
		}
		if digest != "" && len(doc.Manifests) == 0 {
			img := image{subject: imageSubject(name, "", digest)}
			for _, d := range doc.Layers {
				if !isLayer(d.MediaType) {
					c.incomplete("layer %s is of type %s, which is not read", d.Digest, d.MediaType)
					continue
				}
				in, err := blob(d.Digest)
				if err != nil {
					return nil, fmt.Errorf("layer %s: %w", d.Digest, err)
				}
				img.layers = append(img.layers, layer{digest: d.Digest, in: in})
			}
			return c.scanImage(img)
		}
		if depth == 5 {
			return nil, fault.Newf(fault.TooLarge, "indexes within indexes")
		}
		if digest, err = c.choose(b); err != nil {
			return nil, err
		}
		if in, err = blob(digest); err != nil {
			return nil, err
		}
		if b, err = small(in, string(digest)); err != nil {
			return nil, err
		}
		h := digest.Hash()
		_, _ = h.Write(b)
		if got := artifact.NewDigest(digest.Algorithm(), h.Sum(nil)); got != digest {
			return nil, fault.Newf(fault.Tampered, "manifest: expected content with the digest %s, found %s", digest, got)
		}
	}
}

// saved reads what docker save wrote before it wrote OCI layouts too. Its images
// have no manifest of a registry: the subject is the image's own identity, the
// digest of its configuration.
func (c *collector) saved(get blobs) (*sbom.Document, error) {
	in, err := get("manifest.json")
	if err != nil {
		return nil, err
	}
	b, err := small(in, "manifest.json")
	if err != nil {
		return nil, err
	}
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fault.Newf(fault.Invalid, "manifest.json: %w", err)
	}
	if len(list) != 1 {
		return nil, fault.Newf(fault.Invalid, "the archive holds %d images: want one (docker save IMAGE)", len(list))
	}
	if in, err = get(path.Clean(list[0].Config)); err != nil {
		return nil, err
	}
	if b, err = small(in, "configuration"); err != nil {
		return nil, err
	}
	var config struct {
		RootFS struct {
			DiffIDs []artifact.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(b, &config); err != nil {
		return nil, fault.Newf(fault.Invalid, "configuration: %w", err)
	}
	if len(config.RootFS.DiffIDs) != len(list[0].Layers) {
		return nil, fault.Newf(fault.Invalid, "the configuration names %d layers, the manifest %d", len(config.RootFS.DiffIDs), len(list[0].Layers))
	}
	name, tag := "image", ""
	if len(list[0].RepoTags) > 0 {
		name = list[0].RepoTags[0]
		if at := strings.LastIndexByte(name, ':'); at > strings.LastIndexByte(name, '/') {
			name, tag = name[:at], name[at+1:]
		}
	}
	img := image{subject: imageSubject(name, tag, artifact.SHA256Of(b))}
	for i, at := range list[0].Layers {
		if err := config.RootFS.DiffIDs[i].Validate(); err != nil {
			return nil, err
		}
		in, err := get(path.Clean(at))
		if err != nil {
			return nil, err
		}
		img.layers = append(img.layers, layer{digest: config.RootFS.DiffIDs[i], diff: true, in: in})
	}
	return c.scanImage(img)
}

func small(in *io.SectionReader, what string) ([]byte, error) {
	if in.Size() > maxManifest {
		return nil, fault.Newf(fault.TooLarge, "%s has %d bytes, want at most %d", what, in.Size(), maxManifest)
	}
	return text(in)
}

// layoutFolder reads an OCI layout in a folder.
func (c *collector) layoutFolder(root *os.Root, dir string) (*sbom.Document, error) {
	var open []*os.File
	defer func() {
		for _, f := range open {
			_ = f.Close()
		}
	}()
	return c.layout(func(name string) (*io.SectionReader, error) {
		f, err := root.Open(filepath.FromSlash(name))
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "the layout lacks %s: %w", name, err)
		}
		open = append(open, f)
		st, err := f.Stat()
		if err != nil {
			return nil, err
		}
		return io.NewSectionReader(f, 0, st.Size()), nil
	}, filepath.Base(dir))
}

// errNoImage says that an archive holds files, not an image.
var errNoImage = errors.New("no image")

// archivedImage reads an image from an archive that can be read in place.
func (c *collector) archivedImage(in *io.SectionReader, name string) (*sbom.Document, error) {
	files, err := topFiles(in)
	if err != nil {
		return nil, err
	}
	get := func(name string) (*io.SectionReader, error) {
		at, is := files[name]
		if !is {
			return nil, fault.Newf(fault.Invalid, "the archive lacks %s", name)
		}
		return io.NewSectionReader(in, at[0], at[1]), nil
	}
	_, layout := files["oci-layout"]
	_, index := files["index.json"]
	_, saved := files["manifest.json"]
	if saved && !(layout && index) {
		// A project's own tree may hold a file of this name.
		b, err := get("manifest.json")
		if err != nil {
			return nil, err
		}
		var head [1]byte
		if _, err := b.ReadAt(head[:], 0); err != nil || !slices.Contains([]byte("[ \n\t"), head[0]) {
			return nil, errNoImage
		}
		return c.saved(get)
	}
	if layout && index {
		return c.layout(get, name)
	}
	return nil, errNoImage
}
