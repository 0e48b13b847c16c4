package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sort"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Descriptor is an OCI content descriptor, image-spec 1.1 "descriptor.md".
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Digest       artifact.Digest   `json:"digest"`
	Size         int64             `json:"size"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// manifest is what is read of an image manifest or an index.
type manifest struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Config       Descriptor        `json:"config"`
	Layers       []Descriptor      `json:"layers"`
	Manifests    []Descriptor      `json:"manifests"`
	Subject      *Descriptor       `json:"subject"`
	Annotations  map[string]string `json:"annotations"`
}

// Evidence is one signed document that a registry holds about a subject. It
// proves nothing until it verifies.
type Evidence struct {
	// Source is where it was found: repository@digest of the manifest.
	Source string
	// Bundle is a Sigstore bundle as stored; nil for the legacy forms.
	Bundle []byte
	// Legacy is set for a layer of a .sig or .att tag: the layer's bytes and
	// its annotations.
	Legacy *Legacy
}

// Legacy is a layer of a cosign .sig or .att manifest.
type Legacy struct {
	MediaType   string
	Payload     []byte
	Annotations map[string]string
}

const (
	bundlePrefix  = "application/vnd.dev.sigstore.bundle"
	createdAnno   = "org.opencontainers.image.created"
	mediaTypeDSSE = "application/vnd.dsse.envelope.v1+json"
	mediaTypeSig  = "application/vnd.dev.cosign.simplesigning.v1+json"
)

// Evidence reads what a registry holds about subject (ref.Repository and
// ref.Digest): referrers that are Sigstore bundles, by the referrers API or
// its fallback tag, and legacy .sig and .att tags. At most MaxReferrer are
// read, the newest first; truncated says that there were more.
func (c *Client) Evidence(ctx context.Context, ref artifact.Reference) (items []Evidence, truncated bool, err error) {
	if ref.Digest == "" {
		return nil, false, fault.Newf(fault.Invalid, "evidence of %s: want a digest", ref)
	}
	list, err := c.referrers(ctx, ref)
	if err != nil {
		return nil, false, err
	}
	if len(list) > c.opts.MaxReferrer {
		list, truncated = list[:c.opts.MaxReferrer], true
	}
	for _, d := range list {
		ev, err := c.bundleReferrer(ctx, ref, d)
		if err != nil {
			return nil, false, err
		}
		items = append(items, ev...)
	}
	for _, suffix := range []string{".sig", ".att"} {
		left := c.opts.MaxReferrer - len(items)
		ev, more, err := c.legacy(ctx, ref, suffix, left)
		if err != nil {
			return nil, false, err
		}
		items, truncated = append(items, ev...), truncated || more
	}
	return items, truncated, nil
}

func (c *Client) referrers(ctx context.Context, ref artifact.Reference) ([]Descriptor, error) {
	var all []Descriptor
	path := "/referrers/" + string(ref.Digest)
	// Pages are followed until one more than the cap is known.
	for page := 0; path != "" && page < 16; page++ {
		resp, err := c.do(ctx, http.MethodGet, ref, path, http.Header{"Accept": {"application/vnd.oci.image.index.v1+json"}}, nil)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusNotFound && page == 0 {
			_ = resp.Body.Close()
			return c.fallback(ctx, ref)
		}
		if resp.StatusCode != http.StatusOK {
			err := statusError("referrers of "+string(ref.Digest), resp)
			_ = resp.Body.Close()
			return nil, err
		}
		b, err := readCapped(resp.Body, c.opts.MaxManifest, "referrers of "+string(ref.Digest))
		_ = resp.Body.Close()
		if err != nil {
			return nil, err
		}
		var m manifest
		if err := strictjson.Unmarshal(b, &m); err != nil {
			return nil, fault.Newf(fault.Invalid, "referrers of %s: %w", ref.Digest, err)
		}
		all = append(all, m.Manifests...)
		path = nextPage(resp)
		if len(all) > 4096 {
			break
		}
	}
	return bundlesNewestFirst(all), nil
}

// nextPage reads a Link header of RFC 8288 with rel="next"; a link to another
// host is not followed.
func nextPage(resp *http.Response) string {
	for _, link := range resp.Header.Values("Link") {
		target, rest, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
		if !ok || !strings.Contains(rest, `rel="next"`) {
			continue
		}
		u, err := resp.Request.URL.Parse(target)
		if err != nil || u.Host != resp.Request.URL.Host || u.Scheme != resp.Request.URL.Scheme {
			return ""
		}
		return u.String()
	}
	return ""
}

// fallback reads the referrers tag schema: an index under sha256-<hex>.
func (c *Client) fallback(ctx context.Context, ref artifact.Reference) ([]Descriptor, error) {
	tag := ref
	tag.Tag, tag.Digest = FallbackTag(ref.Digest), ""
	m, err := c.Manifest(ctx, tag)
	if errors.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var index manifest
	if err := strictjson.Unmarshal(m.Bytes, &index); err != nil {
		return nil, fault.Newf(fault.Invalid, "index %s: %w", tag, err)
	}
	return bundlesNewestFirst(index.Manifests), nil
}

// FallbackTag is the referrers tag schema's tag of a digest: alg-hex, cut to
// the length of a tag (image-spec 1.1, distribution-spec "Referrers Tag Schema").
func FallbackTag(d artifact.Digest) string {
	tag := d.Algorithm() + "-" + d.Hex()
	return tag[:min(len(tag), 128)]
}

func bundlesNewestFirst(in []Descriptor) []Descriptor {
	var out []Descriptor
	for _, d := range in {
		// Some registries leave artifactType out of the fallback index; those
		// are looked into.
		if d.ArtifactType == "" || strings.HasPrefix(d.ArtifactType, bundlePrefix) {
			out = append(out, d)
		}
	}
	sort.SliceStable(out, func(i, j int) bool {
		return out[i].Annotations[createdAnno] > out[j].Annotations[createdAnno]
	})
	return out
}

func (c *Client) bundleReferrer(ctx context.Context, ref artifact.Reference, d Descriptor) ([]Evidence, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, err
	}
	at := artifact.Reference{Host: ref.Host, Repository: ref.Repository, Digest: d.Digest}
	raw, err := c.Manifest(ctx, at)
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := strictjson.Unmarshal(raw.Bytes, &m); err != nil {
		return nil, fault.Newf(fault.Invalid, "manifest %s: %w", at, err)
	}
	if m.Subject == nil || m.Subject.Digest != ref.Digest {
		return nil, fault.Newf(fault.Unverified, "manifest %s is listed as a referrer of %s, but names another subject", at, ref.Digest)
	}
	var out []Evidence
	for _, l := range m.Layers {
		if !strings.HasPrefix(l.MediaType, bundlePrefix) {
			continue
		}
		if len(out) == 16 {
			return nil, fault.Newf(fault.TooLarge, "manifest %s: more than 16 bundles", at)
		}
		b, err := c.Blob(ctx, ref, l.Digest)
		if err != nil {
			return nil, err
		}
		out = append(out, Evidence{Source: at.String(), Bundle: b})
	}
	return out, nil
}

func (c *Client) legacy(ctx context.Context, ref artifact.Reference, suffix string, most int) ([]Evidence, bool, error) {
	tag := ref
	tag.Tag, tag.Digest = FallbackTag(ref.Digest)+suffix, ""
	raw, err := c.Manifest(ctx, tag)
	if errors.Is(err, fault.NotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	var m manifest
	if err := strictjson.Unmarshal(raw.Bytes, &m); err != nil {
		return nil, false, fault.Newf(fault.Invalid, "manifest %s: %w", tag, err)
	}
	truncated := len(m.Layers) > most
	if truncated { // the newest are the last
		m.Layers = m.Layers[len(m.Layers)-max(most, 0):]
	}
	var out []Evidence
	for _, l := range m.Layers {
		if l.MediaType != mediaTypeSig && l.MediaType != mediaTypeDSSE {
			continue
		}
		b, err := c.Blob(ctx, ref, l.Digest)
		if err != nil {
			return nil, false, err
		}
		out = append(out, Evidence{
			Source: tag.Host + "/" + tag.Repository + ":" + tag.Tag + "@" + string(raw.Digest),
			Legacy: &Legacy{MediaType: l.MediaType, Payload: b, Annotations: l.Annotations},
		})
	}
	return out, truncated, nil
}

// PushReferrer stores one document as a referrer of subject: a manifest with
// artifactType, the empty config, one layer and the subject. Where the registry
// has no referrers API, the fallback tag's index gains the manifest.
func (c *Client) PushReferrer(ctx context.Context, ref artifact.Reference, artifactType string, doc []byte, annotations map[string]string) (artifact.Digest, error) {
	subject, err := c.Manifest(ctx, ref)
	if err != nil {
		return "", err
	}
	layer := Descriptor{MediaType: artifactType, Digest: artifact.SHA256Of(doc), Size: int64(len(doc))}
	empty := Descriptor{MediaType: "application/vnd.oci.empty.v1+json", Digest: artifact.SHA256Of([]byte("{}")), Size: 2}
	for _, b := range []struct {
		d Descriptor
		b []byte
	}{{empty, []byte("{}")}, {layer, doc}} {
		if err := c.pushBlob(ctx, ref, b.d.Digest, b.b); err != nil {
			return "", err
		}
	}
	body, err := json.Marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     acceptManifests[0],
		"artifactType":  artifactType,
		"config":        empty,
		"layers":        []Descriptor{layer},
		"subject":       Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: int64(len(subject.Bytes))},
		"annotations":   annotations,
	})
	if err != nil {
		return "", err
	}
	d := artifact.SHA256Of(body)
	resp, err := c.do(ctx, http.MethodPut, ref, "/manifests/"+string(d), http.Header{"Content-Type": {acceptManifests[0]}}, body)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return "", statusError("push referrer of "+string(subject.Digest), resp)
	}
	if resp.Header.Get("OCI-Subject") == "" {
		desc := Descriptor{MediaType: acceptManifests[0], ArtifactType: artifactType, Digest: d, Size: int64(len(body)), Annotations: annotations}
		if err := c.addToFallback(ctx, ref, subject.Digest, desc); err != nil {
			return "", err
		}
	}
	return d, nil
}

func (c *Client) addToFallback(ctx context.Context, ref artifact.Reference, subject artifact.Digest, d Descriptor) error {
	tag := artifact.Reference{Host: ref.Host, Repository: ref.Repository, Tag: FallbackTag(subject)}
	list := []Descriptor{}
	if m, err := c.Manifest(ctx, tag); err == nil {
		var index manifest
		if err := strictjson.Unmarshal(m.Bytes, &index); err != nil {
			return fault.Newf(fault.Invalid, "index %s: %w", tag, err)
		}
		list = index.Manifests
	} else if !errors.Is(err, fault.NotFound) {
		return err
	}
	for _, have := range list {
		if have.Digest == d.Digest {
			return nil
		}
	}
	body, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": acceptManifests[1], "manifests": append(list, d)})
	if err != nil {
		return err
	}
	resp, err := c.do(ctx, http.MethodPut, tag, "/manifests/"+tag.Tag, http.Header{"Content-Type": {acceptManifests[1]}}, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return statusError("push "+tag.String(), resp)
	}
	return nil
}

func (c *Client) pushBlob(ctx context.Context, ref artifact.Reference, d artifact.Digest, b []byte) error {
	head, err := c.do(ctx, http.MethodHead, ref, "/blobs/"+string(d), nil, nil)
	if err != nil {
		return err
	}
	_ = head.Body.Close()
	if head.StatusCode == http.StatusOK {
		return nil
	}
	start, err := c.do(ctx, http.MethodPost, ref, "/blobs/uploads/", nil, nil)
	if err != nil {
		return err
	}
	defer start.Body.Close()
	if start.StatusCode != http.StatusAccepted {
		return statusError("push blob "+string(d), start)
	}
	loc, err := start.Request.URL.Parse(start.Header.Get("Location"))
	if err != nil {
		return fault.Newf(fault.Unavailable, "push blob %s: the registry gives no usable Location: %w", d, err)
	}
	q := loc.Query()
	q.Set("digest", string(d))
	loc.RawQuery = q.Encode()
	put, err := c.do(ctx, http.MethodPut, ref, loc.String(), http.Header{"Content-Type": {"application/octet-stream"}}, b)
	if err != nil {
		return err
	}
	defer put.Body.Close()
	if put.StatusCode != http.StatusCreated {
		return statusError(fmt.Sprintf("push blob %s", d), put)
	}
	return nil
}
