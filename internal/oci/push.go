package oci

import (
	"context"

	"assay/artifact"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// PushImage pushes an image by tag, layers first, and gives its digest.
func (c *Client) PushImage(ctx context.Context, ref artifact.Reference, img v1.Image) (artifact.Digest, error) {
	rt, _, err := c.transport(ctx, ref, push)
	if err != nil {
		return "", err
	}
	reg, err := c.registry(ref.Host)
	if err != nil {
		return "", err
	}
	tag := reg.Repo(ref.Repository).Tag(ref.Tag)
	if err := remote.Write(name.Reference(tag), img, remote.WithContext(ctx), remote.WithTransport(rt)); err != nil {
		return "", registryError("push "+ref.String(), err)
	}
	h, err := img.Digest()
	if err != nil {
		return "", err
	}
	return artifact.ParseDigest(h.String())
}
