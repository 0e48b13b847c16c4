package registry

import (
	"bytes"
	"mime"
	"slices"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// The media types of manifests that are stored.
const (
	typeImage       = "application/vnd.oci.image.manifest.v1+json"
	typeIndex       = "application/vnd.oci.image.index.v1+json"
	typeDockerImage = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerList  = "application/vnd.docker.distribution.manifest.list.v2+json"
)

func isIndex(mediaType string) bool { return mediaType == typeIndex || mediaType == typeDockerList }
func isImage(mediaType string) bool { return mediaType == typeImage || mediaType == typeDockerImage }

// descriptor is the OCI descriptor (image specification, "Content
// Descriptors").
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       artifact.Digest   `json:"digest"`
	Size         int64             `json:"size"`
	URLs         []string          `json:"urls,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Data         []byte            `json:"data,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
}

// document is what all four manifest formats have between them. Members of
// this struct that a format does not have must be absent there, or one reader
// would see an image where another sees an index (GHSA-qq97-vm5h-rrhg).
type document struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     *string           `json:"mediaType"`
	ArtifactType  *string           `json:"artifactType"`
	Config        *descriptor       `json:"config"`
	Layers        *[]descriptor     `json:"layers"`
	Manifests     *[]descriptor     `json:"manifests"`
	Subject       *descriptor       `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
	FSLayers      *any              `json:"fsLayers"` // Docker schema 1
	Blobs         *any              `json:"blobs"`    // the artifact manifest that OCI withdrew
}

// manifest is a checked manifest.
type manifest struct {
	mediaType    string
	artifactType string // as the referrers API shows it; "" for an index without one
	subject      artifact.Digest
	annotations  map[string]string
	blobs        []descriptor // config and layers that must be stored
	children     []descriptor // manifests of an index
	runnable     bool         // see runnable
	claimed      []descriptor // layers beside an image's config that say to be evidence, see unmask
	remote       bool         // its blobs lie at an upstream and are brought when asked for
}

// parseManifest checks b, which came with a Content-Type header, by the OCI
// image specification 1.1 and Docker's schema 2. Unknown members are kept and
// ignored, as the specification asks; known ones are strict. Nothing that the
// document names is fetched.
func parseManifest(contentType string, b []byte, maxRefs int) (*manifest, error) {
	// Each descriptor has a digest: a document with far too many is refused
	// before anything is decoded. One that hides them behind escapes is decoded
	// first and counted then.
	if n := bytes.Count(b, []byte(`"digest"`)); n > maxRefs+2 { // config and subject are not counted
		return nil, tooManyReferences(n, maxRefs)
	}
	var doc document
	if err := strictjson.Unmarshal(b, &doc, strictjson.WithMaxBytes(int64(len(b))+1)); err != nil {
		return nil, withManifestCode(err)
	}
	if doc.SchemaVersion != 2 {
		return nil, invalidManifest("schemaVersion is %d, want 2", doc.SchemaVersion)
	}
	mediaType, err := manifestType(contentType, doc.MediaType)
	if err != nil {
		return nil, err
	}
	if doc.FSLayers != nil || doc.Blobs != nil {
		return nil, invalidManifest("members fsLayers and blobs belong to formats that are not stored here; push an OCI or Docker schema 2 manifest")
	}
	m := &manifest{mediaType: mediaType, annotations: doc.Annotations}
	if doc.ArtifactType != nil {
		m.artifactType = *doc.ArtifactType
		if !validMediaType(m.artifactType) {
			return nil, invalidManifest("artifactType %.200q is no media type (RFC 6838)", m.artifactType)
		}
	}
	if isIndex(mediaType) {
		err = m.readIndex(&doc, maxRefs)
	} else {
		err = m.readImage(&doc, maxRefs)
	}
	if err != nil {
		return nil, err
	}
	if doc.Subject != nil {
		if err := checkDescriptor("subject", doc.Subject); err != nil {
			return nil, err
		}
		m.subject = doc.Subject.Digest
	}
	return m, nil
}

// manifestType settles the media type: the header and the document must agree,
// and one of them must say it.
func manifestType(contentType string, inside *string) (string, error) {
	var outside string
	if contentType != "" {
		t, _, err := mime.ParseMediaType(contentType) // parameters are ignored
		if err != nil {
			return "", invalidManifest("Content-Type %.200q cannot be read: %v", contentType, err)
		}
		outside = t
	}
	switch {
	case inside == nil && outside == "":
		return "", invalidManifest("neither Content-Type nor mediaType says what this is; send Content-Type %s", typeImage)
	case inside != nil && outside != "" && *inside != outside:
		return "", invalidManifest("mediaType is %.200q but Content-Type %.200q; they must be the same", *inside, outside)
	case inside != nil:
		outside = *inside
	case !strings.HasPrefix(outside, "application/vnd.oci."):
		return "", invalidManifest("mediaType is absent; Docker manifests must have it")
	}
	if !isImage(outside) && !isIndex(outside) {
		return "", invalidManifest("media type %.200q is not stored here; want one of %s, %s, %s, %s", outside, typeImage, typeIndex, typeDockerImage, typeDockerList)
	}
	return outside, nil
}

func (m *manifest) readImage(doc *document, maxRefs int) error {
	if doc.Manifests != nil {
		return invalidManifest("an image manifest has no manifests; this one could be read as an index")
	}
	if doc.Config == nil || doc.Layers == nil {
		return invalidManifest("an image manifest has config and layers (image specification, Image Manifest)")
	}
	if err := checkDescriptor("config", doc.Config); err != nil {
		return err
	}
	if len(*doc.Layers) > maxRefs {
		return tooManyReferences(len(*doc.Layers), maxRefs)
	}
	m.blobs = append(m.blobs, *doc.Config)
	if m.runnable = runnable(doc); !m.runnable && mayRun(doc.Config) {
		m.claimed = *doc.Layers
	}
	for i := range *doc.Layers {
		l := &(*doc.Layers)[i]
		if err := checkDescriptor("layer", l); err != nil {
			return err
		}
		if !foreign(l) {
			m.blobs = append(m.blobs, *l)
		}
	}
	if m.artifactType == "" {
		m.artifactType = doc.Config.MediaType
	}
	return nil
}

func (m *manifest) readIndex(doc *document, maxRefs int) error {
	if doc.Layers != nil || doc.Config != nil {
		return invalidManifest("an index has neither layers nor config; this one could be read as an image")
	}
	if doc.Manifests == nil {
		return invalidManifest("an index has manifests (image specification, Image Index)")
	}
	if len(*doc.Manifests) > maxRefs {
		return tooManyReferences(len(*doc.Manifests), maxRefs)
	}
	for i := range *doc.Manifests {
		c := &(*doc.Manifests)[i]
		if err := checkDescriptor("manifest of the index", c); err != nil {
			return err
		}
		m.children = append(m.children, *c)
	}
	return nil
}

// emptyDigest is that of the empty JSON object, the config of what is no image
// (image specification, "Guidance for an Empty Descriptor").
const emptyDigest artifact.Digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"

// runnable says whether a runtime could start a container from an image
// manifest: it has a layer of a file system, and a config that is not the empty
// object. Such a manifest is never taken for mere evidence about another, or a
// subject would be a way around the gate.
//
// Runtimes go by less than the specification: some take layers of any type, some
// configs of those types that old registries gave, and none minds the case. So
// next to the config of an image every layer is one of a file system, unless its
// type is known to be of evidence.
func runnable(doc *document) bool {
	if doc.Config.Digest == emptyDigest {
		return false // no runtime takes it for an image's
	}
	image := mayRun(doc.Config)
	for i := range *doc.Layers {
		t := strings.ToLower((*doc.Layers)[i].MediaType)
		if ofImage(t) || image && !ofEvidence(t) {
			return true
		}
	}
	return false
}

// mayRun says whether a runtime may take a config for an image's.
func mayRun(config *descriptor) bool {
	t := strings.ToLower(config.MediaType)
	return config.Digest != emptyDigest && (ofImage(t) || slices.Contains(oldConfigs, t))
}

func ofImage(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.oci.image.") || strings.HasPrefix(mediaType, "application/vnd.docker.")
}

// oldConfigs are types that docker takes for an image's config, since registries
// once gave them.
var oldConfigs = []string{"application/octet-stream", "application/json", "text/html", "text/plain"}

// ofEvidence says whether a layer's type is one of evidence that tools attach
// with an image's config: cosign's signatures, attestations and SBOMs.
func ofEvidence(mediaType string) bool {
	switch mediaType {
	case "application/vnd.dsse.envelope.v1+json", "application/vnd.in-toto+json", "application/vnd.syft+json",
		"application/spdx+json", "text/spdx", "text/spdx+json", "text/spdx+xml":
		return true
	}
	for _, prefix := range []string{"application/vnd.dev.cosign.", "application/vnd.dev.sigstore.", "application/vnd.cyclonedx"} {
		if strings.HasPrefix(mediaType, prefix) {
			return true
		}
	}
	return false
}

// checkDescriptor applies the rules for one descriptor.
func checkDescriptor(what string, d *descriptor) error {
	if !validMediaType(d.MediaType) {
		return invalidManifest("%s: mediaType %.200q is no media type (RFC 6838)", what, d.MediaType)
	}
	if d.ArtifactType != "" && !validMediaType(d.ArtifactType) {
		return invalidManifest("%s: artifactType %.200q is no media type (RFC 6838)", what, d.ArtifactType)
	}
	if err := d.Digest.Validate(); err != nil {
		return &failure{code: codeDigestInvalid, err: fault.Newf(fault.Invalid, "%s: %w", what, err)}
	}
	if d.Size < 0 {
		return &failure{code: codeSizeInvalid, err: fault.Newf(fault.Invalid, "%s %s: size is %d, want 0 or more", what, d.Digest, d.Size)}
	}
	if d.Data == nil {
		return nil
	}
	h := d.Digest.Hash()
	h.Write(d.Data)
	if int64(len(d.Data)) != d.Size || artifact.NewDigest(d.Digest.Algorithm(), h.Sum(nil)) != d.Digest {
		return invalidManifest("%s %s: the embedded data is not what digest and size say", what, d.Digest)
	}
	return nil
}

// foreign says whether a layer is kept elsewhere by its own declaration: it has
// a non-distributable media type and names where. Its URLs are for clients;
// this server never follows them (CVE-2026-10517).
func foreign(d *descriptor) bool {
	if len(d.URLs) == 0 {
		return false
	}
	return strings.HasPrefix(d.MediaType, "application/vnd.oci.image.layer.nondistributable.") ||
		strings.HasPrefix(d.MediaType, "application/vnd.docker.image.rootfs.foreign.")
}

func invalidManifest(format string, args ...any) error {
	return failf(codeManifestInvalid, fault.Invalid, "manifest: "+format, args...)
}

func tooManyReferences(n, most int) error {
	return failf(codeManifestInvalid, fault.TooLarge, "manifest names %d descriptors, want at most %d", n, most)
}

// withManifestCode keeps size errors apart from the rest.
func withManifestCode(err error) error {
	return &failure{code: codeManifestInvalid, err: fault.Newf(fault.KindOf(err), "manifest: %w", err)}
}
