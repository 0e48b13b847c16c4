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
	// Err says why this one could not be read: it is malformed, too large, not
	// there, or not what its digest says. Bundle and Legacy are nil then. Anyone
	// who may push can cause it, so it does not hide the rest.
	Err error
}

// Legacy is a layer of a cosign .sig or .att manifest.
type Legacy struct {
	MediaType   string
	Payload     []byte
	Annotations map[string]string
}

const (
	bundlePrefix  = "application/vnd.dev.sigstore.bundle"
	notationType  = "application/vnd.cncf.notary.signature" // of signatures of the Notary Project, in one of the two forms below
	typeJWS       = "application/jose+json"
	typeCOSE      = "application/cose"
	createdAnno   = "org.opencontainers.image.created"
	mediaTypeDSSE = "application/vnd.dsse.envelope.v1+json"
	mediaTypeSig  = "application/vnd.dev.cosign.simplesigning.v1+json"
)

// Evidence reads what a registry holds about subject (ref.Repository and
// ref.Digest): referrers that are Sigstore bundles, by the referrers API or
// its fallback tag, and legacy .sig and .att tags. At most MaxReferrer are
// read, the newest first; truncated says that there were more. err is for what
// says nothing about the evidence: the registry is out of reach or refuses.
func (c *Client) Evidence(ctx context.Context, ref artifact.Reference) (items []Evidence, truncated bool, err error) {
	if ref.Digest == "" {
		return nil, false, fault.Newf(fault.Invalid, "evidence of %s: want a digest", ref)
	}
	list, truncated, err := c.referrers(ctx, ref)
	if err != nil {
		return nil, false, err
	}
	if len(list) > c.opts.MaxReferrer {
		list, truncated = list[:c.opts.MaxReferrer], true
	}
	for _, d := range list {
		ev, err := c.bundleReferrer(ctx, ref, d)
		if ev, err = orUnread(ev, err, ref.Host+"/"+ref.Repository+"@"+string(d.Digest)); err != nil {
			return nil, false, err
		}
		items = append(items, ev...)
	}
	if ref.Digest.Algorithm() != artifact.SHA256 {
		return items, truncated, nil // the older scheme has sha256 alone
	}
	for _, suffix := range []string{".sig", ".att"} {
		left := c.opts.MaxReferrer - len(items)
		ev, more, err := c.legacy(ctx, ref, suffix, left)
		if ev, err = orUnread(ev, err, ref.Host+"/"+ref.Repository+":"+FallbackTag(ref.Digest)+suffix); err != nil {
			return nil, false, err
		}
		items, truncated = append(items, ev...), truncated || more
	}
	return items, truncated, nil
}

// orUnread turns a fault of the content into an item that names it.
func orUnread(ev []Evidence, err error, source string) ([]Evidence, error) {
	switch fault.KindOf(err) {
	case fault.Invalid, fault.TooLarge, fault.Tampered, fault.Unverified, fault.NotFound:
		return append(ev, Evidence{Source: source, Err: err}), nil
	}
	return ev, err
}

// Bounds on a list of referrers. The spec has no paging limit of its own.
const (
	maxPages  = 64
	maxListed = 4096 // descriptors, after which no further page is read
)

// referrers lists the bundles that refer to ref; more says that the registry
// has pages that were not read.
func (c *Client) referrers(ctx context.Context, ref artifact.Reference) (list []Descriptor, more bool, err error) {
	list, more, err = c.listReferrers(ctx, ref)
	return bundlesNewestFirst(list), more, err
}

// listReferrers is referrers for all types, in the registry's order.
func (c *Client) listReferrers(ctx context.Context, ref artifact.Reference) (all []Descriptor, more bool, err error) {
	path := "/referrers/" + string(ref.Digest)
	for page := 0; path != ""; page++ {
		if page == maxPages || len(all) > maxListed {
			return all, true, nil
		}
		resp, err := c.do(ctx, http.MethodGet, ref, path, http.Header{"Accept": {"application/vnd.oci.image.index.v1+json"}}, nil)
		if err != nil {
			return nil, false, err
		}
		if resp.StatusCode == http.StatusNotFound && page == 0 {
			_ = resp.Body.Close()
			list, err := c.fallback(ctx, ref)
			return list, false, err
		}
		if resp.StatusCode != http.StatusOK {
			err := statusError("referrers of "+string(ref.Digest), resp)
			_ = resp.Body.Close()
			return nil, false, err
		}
		// No manifest, and often longer than one may be.
		b, err := readCapped(resp.Body, max(c.opts.MaxManifest, c.opts.MaxBlob), "referrers of "+string(ref.Digest))
		_ = resp.Body.Close()
		if err != nil {
			return nil, false, err
		}
		var m manifest
		if err := strictjson.Unmarshal(b, &m); err != nil {
			return nil, false, fault.Newf(fault.Invalid, "referrers of %s: %w", ref.Digest, err)
		}
		all = append(all, m.Manifests...)
		path, more = nextPage(resp)
	}
	return all, more, nil
}

// nextPage reads a Link header of RFC 8288 with rel="next". A page on another
// host is not followed: it is there, and is not known.
func nextPage(resp *http.Response) (page string, unread bool) {
	for _, link := range resp.Header.Values("Link") {
		target, rest, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
		if !ok || !strings.Contains(rest, `rel="next"`) {
			continue
		}
		u, err := resp.Request.URL.Parse(target)
		if err != nil || u.Host != resp.Request.URL.Host || u.Scheme != resp.Request.URL.Scheme {
			return "", true
		}
		return u.String(), false
	}
	return "", false
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
	return index.Manifests, nil
}

// FallbackTag is the referrers tag schema's tag of a digest: algorithm and hex,
// cut to 32 and 64 characters (OCI Distribution 1.1, "Referrers Tag Schema").
func FallbackTag(d artifact.Digest) string {
	alg, sum := d.Algorithm(), d.Hex()
	return alg[:min(len(alg), 32)] + "-" + sum[:min(len(sum), 64)]
}

func bundlesNewestFirst(in []Descriptor) []Descriptor {
	var out []Descriptor
	for _, d := range in {
		// Some registries leave artifactType out of the fallback index; those
		// are looked into.
		if d.ArtifactType == "" || d.ArtifactType == notationType || strings.HasPrefix(d.ArtifactType, bundlePrefix) {
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
		notation := m.ArtifactType == notationType || m.Config.MediaType == notationType
		if !strings.HasPrefix(l.MediaType, bundlePrefix) && (!notation || l.MediaType != typeJWS && l.MediaType != typeCOSE) {
			continue
		}
		if len(out) == 16 {
			return nil, fault.Newf(fault.TooLarge, "manifest %s: more than 16 bundles", at)
		}
		b, err := c.layer(ctx, ref, l)
		if err == nil {
			out = append(out, Evidence{Source: at.String(), Bundle: b})
		} else if out, err = orUnread(out, err, at.String()); err != nil {
			return nil, err
		}
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
	var layers []Descriptor
	for _, l := range m.Layers {
		if l.MediaType == mediaTypeSig || l.MediaType == mediaTypeDSSE {
			layers = append(layers, l)
		}
	}
	truncated := len(layers) > most
	if truncated { // the newest are the last
		layers = layers[len(layers)-max(most, 0):]
	}
	source := tag.Host + "/" + tag.Repository + ":" + tag.Tag + "@" + string(raw.Digest)
	var out []Evidence
	for _, l := range layers {
		ev := Evidence{Source: source}
		b, err := c.layer(ctx, ref, l)
		if err == nil {
			ev.Legacy = &Legacy{MediaType: l.MediaType, Payload: b, Annotations: l.Annotations}
			out = append(out, ev)
		} else if out, err = orUnread(out, err, source); err != nil {
			return nil, false, err
		}
	}
	return out, truncated, nil
}

// layer fetches a small layer by its descriptor.
func (c *Client) layer(ctx context.Context, ref artifact.Reference, l Descriptor) ([]byte, error) {
	if err := l.Digest.Validate(); err != nil {
		return nil, err
	}
	if l.Size > c.opts.MaxBlob {
		return nil, fault.Newf(fault.TooLarge, "blob %s: has %d bytes, want at most %d", l.Digest, l.Size, c.opts.MaxBlob)
	}
	return c.Blob(ctx, ref, l.Digest)
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
	// Entries of others stay as they are, with members that nobody here knows.
	index := map[string]json.RawMessage{"schemaVersion": json.RawMessage("2"), "mediaType": quote(acceptManifests[1])}
	list := []json.RawMessage{}
	if m, err := c.Manifest(ctx, tag); err == nil {
		if err := strictjson.Unmarshal(m.Bytes, &index); err != nil {
			return fault.Newf(fault.Invalid, "index %s: %w", tag, err)
		}
		if err := strictjson.Unmarshal(index["manifests"], &list); err != nil {
			return fault.Newf(fault.Invalid, "index %s: manifests: %w", tag, err)
		}
	} else if !errors.Is(err, fault.NotFound) {
		return err
	}
	for _, raw := range list {
		var have Descriptor
		if err := strictjson.Unmarshal(raw, &have); err == nil && have.Digest == d.Digest {
			return nil
		}
	}
	entry, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if index["manifests"], err = json.Marshal(append(list, entry)); err != nil {
		return err
	}
	body, err := json.Marshal(index)
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

func quote(s string) json.RawMessage { b, _ := json.Marshal(s); return b } // text always marshals

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
