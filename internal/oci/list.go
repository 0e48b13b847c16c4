package oci

import (
	"context"
	"net/http"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// maxNames bounds what a registry may list.
const maxNames = 1_000_000

// Catalog lists a registry's repositories, as far as the credentials see them.
func (c *Client) Catalog(ctx context.Context, host string) ([]string, error) {
	return c.names(ctx, artifact.Reference{Host: host}, "/v2/_catalog?n=1000", "catalog of "+host, func(b []byte) ([]string, error) {
		var doc struct {
			Repositories []string `json:"repositories"`
		}
		err := strictjson.Unmarshal(b, &doc)
		return doc.Repositories, err
	})
}

// Tags lists a repository's tags.
func (c *Client) Tags(ctx context.Context, ref artifact.Reference) ([]string, error) {
	return c.names(ctx, ref, "/tags/list?n=1000", "tags of "+ref.Host+"/"+ref.Repository, func(b []byte) ([]string, error) {
		var doc struct {
			Tags []string `json:"tags"`
		}
		err := strictjson.Unmarshal(b, &doc)
		return doc.Tags, err
	})
}

func (c *Client) names(ctx context.Context, ref artifact.Reference, path, what string, read func([]byte) ([]string, error)) ([]string, error) {
	var all []string
	for path != "" {
		resp, err := c.do(ctx, http.MethodGet, ref, path, nil, nil)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusOK {
			err := statusError(what, resp)
			_ = resp.Body.Close()
			return nil, err
		}
		b, err := readCapped(resp.Body, c.opts.MaxBlob, what)
		_ = resp.Body.Close()
		if err != nil {
			return nil, err
		}
		page, err := read(b)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "%s: %w", what, err)
		}
		all = append(all, page...)
		next, unread := nextPage(resp)
		if unread {
			return nil, fault.Newf(fault.Invalid, "%s: goes on at another host, which is not followed", what)
		}
		if len(all) > maxNames || len(page) == 0 && next != "" {
			return nil, fault.Newf(fault.TooLarge, "%s: has no end", what)
		}
		path = next
	}
	return all, nil
}
