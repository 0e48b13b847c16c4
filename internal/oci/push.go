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
	var as name.Reference = reg.Repo(ref.Repository).Tag(ref.Tag)
	if ref.Tag == "" && ref.Digest != "" { // nothing points to it
		as = reg.Repo(ref.Repository).Digest(string(ref.Digest))
	}
	if err := remote.Write(as, img, remote.WithContext(ctx), remote.WithTransport(rt)); err != nil {
		return "", registryError("push "+ref.String(), err)
	}
	h, err := img.Digest()
	if err != nil {
		return "", err
	}
	return artifact.ParseDigest(h.String())
}

// Delete takes a manifest away by its digest.
func (c *Client) Delete(ctx context.Context, ref artifact.Reference) error {
	rt, _, err := c.transport(ctx, ref, push+",delete")
	if err != nil {
		return err
	}
	reg, err := c.registry(ref.Host)
	if err != nil {
		return err
	}
	if err := remote.Delete(reg.Repo(ref.Repository).Digest(string(ref.Digest)), remote.WithContext(ctx), remote.WithTransport(rt)); err != nil {
		return registryError("delete "+ref.String(), err)
	}
	return nil
}
