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
	return all(c.names(ctx, artifact.Reference{Host: host}, "/v2/_catalog?n=1000", "catalog of "+host, maxNames, func(b []byte) ([]string, error) {
		var doc struct {
			Repositories []string `json:"repositories"`
		}
		err := strictjson.Unmarshal(b, &doc)
		return doc.Repositories, err
	}))
}

// Tags lists a repository's tags.
func (c *Client) Tags(ctx context.Context, ref artifact.Reference) ([]string, error) {
	return all(c.TagsUpTo(ctx, ref, maxNames))
}

// TagsUpTo lists a repository's tags until it has at least most of them, and
// says whether there are more.
func (c *Client) TagsUpTo(ctx context.Context, ref artifact.Reference, most int) (tags []string, more bool, err error) {
	return c.names(ctx, ref, "/tags/list?n=1000", "tags of "+ref.Host+"/"+ref.Repository, most, func(b []byte) ([]string, error) {
		var doc struct {
			Tags []string `json:"tags"`
		}
		err := strictjson.Unmarshal(b, &doc)
		return doc.Tags, err
	})
}

// all takes a list that is cut for none.
func all(list []string, more bool, err error) ([]string, error) {
	if err == nil && more {
		return nil, fault.Newf(fault.TooLarge, "a list of more than %d names", maxNames)
	}
	return list, err
}

func (c *Client) names(ctx context.Context, ref artifact.Reference, path, what string, most int, read func([]byte) ([]string, error)) (all []string, more bool, err error) {
	for path != "" {
		resp, err := c.do(ctx, http.MethodGet, ref, path, nil, nil)
		if err != nil {
			return nil, false, err
		}
		if resp.StatusCode != http.StatusOK {
			err := statusError(what, resp)
			_ = resp.Body.Close()
			return nil, false, err
		}
		b, err := readCapped(resp.Body, c.opts.MaxBlob, what)
		_ = resp.Body.Close()
		if err != nil {
			return nil, false, err
		}
		page, err := read(b)
		if err != nil {
			return nil, false, fault.Newf(fault.Invalid, "%s: %w", what, err)
		}
		all = append(all, page...)
		next, unread := nextPage(resp)
		if unread {
			return nil, false, fault.Newf(fault.Invalid, "%s: goes on at another host, which is not followed", what)
		}
		if next != "" && len(all) >= most {
			return all, true, nil
		}
		if len(page) == 0 && next != "" {
			return nil, false, fault.Newf(fault.TooLarge, "%s: has no end", what)
		}
		path = next
	}
	return all, false, nil
}
