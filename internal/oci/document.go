package oci

import (
	"context"
	"encoding/json"

	"assay/artifact"
)

// Document is one layer of an artifact that is no image.
type Document struct {
	MediaType string
	Bytes     []byte
	Title     string // file name for clients such as oras; "": none
}

// PushArtifact pushes documents as one artifact: a manifest with artifactType,
// the empty config and a layer for each (OCI image specification, guidelines for
// artifact usage). It goes by the reference's tag, or by digest alone.
func (c *Client) PushArtifact(ctx context.Context, ref artifact.Reference, artifactType string, docs []Document, annotations map[string]string) (artifact.Digest, error) {
	empty := Descriptor{MediaType: "application/vnd.oci.empty.v1+json", Digest: artifact.SHA256Of([]byte("{}")), Size: 2}
	if err := c.pushBlob(ctx, ref, empty.Digest, []byte("{}")); err != nil {
		return "", err
	}
	layers := make([]Descriptor, 0, len(docs))
	for _, d := range docs {
		l := Descriptor{MediaType: d.MediaType, Digest: artifact.SHA256Of(d.Bytes), Size: int64(len(d.Bytes))}
		if d.Title != "" {
			l.Annotations = map[string]string{"org.opencontainers.image.title": d.Title}
		}
		if err := c.pushBlob(ctx, ref, l.Digest, d.Bytes); err != nil {
			return "", err
		}
		layers = append(layers, l)
	}
	body, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": acceptManifests[0], "artifactType": artifactType,
		"config": empty, "layers": layers, "annotations": annotations,
	})
	if err != nil {
		return "", err
	}
	m := &Manifest{Digest: artifact.SHA256Of(body), MediaType: acceptManifests[0], Bytes: body}
	as := string(m.Digest)
	if ref.Tag != "" {
		as = ref.Tag
	}
	return m.Digest, c.putManifest(ctx, ref, as, m)
}

// Artifact fetches the documents of an artifact, each checked against its
// digest, and says which manifest they are of.
func (c *Client) Artifact(ctx context.Context, ref artifact.Reference) (*Manifest, []Document, error) {
	m, err := c.Manifest(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	parts, err := m.Parts()
	if err != nil {
		return nil, nil, err
	}
	var docs []Document
	for _, l := range parts.Layers {
		b, err := c.layer(ctx, ref, l)
		if err != nil {
			return nil, nil, err
		}
		docs = append(docs, Document{MediaType: l.MediaType, Bytes: b, Title: l.Annotations["org.opencontainers.image.title"]})
	}
	return m, docs, nil
}
