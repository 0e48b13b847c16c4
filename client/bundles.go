package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
)

// BundleMediaType is that of a bundle between sites.
const BundleMediaType = "application/vnd.assay.bundle.v1+tar"

// BundleExport asks for a bundle for another site.
type BundleExport struct {
	Target       string       `json:"target"`       // whom it is for
	Full         bool         `json:"full"`         // everything, whatever was sent before
	Repositories []string     `json:"repositories"` // patterns
	Policies     bool         `json:"policies"`     // documents of kind Policy and Repository
	Feeds        []BundleFeed `json:"feeds,omitempty"`
}

// BundleFeed names a feed that was uploaded before.
type BundleFeed struct {
	Name    string          `json:"name"`
	Listing artifact.Digest `json:"listing"` // as the upload answered
	Files   int             `json:"files,omitempty"`
	Bytes   int64           `json:"bytes,omitempty"`
}

// Bundle is a bundle that was made, or imported.
type Bundle struct {
	Origin   string          `json:"origin"`
	Target   string          `json:"target"`
	Sequence int64           `json:"sequence"`
	Digest   artifact.Digest `json:"digest"` // of the signed manifest
	Actor    string          `json:"actor,omitempty"`
	Time     time.Time       `json:"time"`

	// Of one that was just made.
	Full     bool      `json:"full,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`
	Members  int       `json:"members,omitempty"`
	Bytes    int64     `json:"bytes,omitempty"` // of the file
	LogIndex *int64    `json:"log_index,omitempty"`
}

// BundleList is what was made here, and how far the imports are.
type BundleList struct {
	Exported []Bundle       `json:"exported"`
	Origins  []BundleOrigin `json:"origins"`
}

// BundleOrigin is a site whose bundles are imported.
type BundleOrigin struct {
	Origin      string          `json:"origin"`
	Root        string          `json:"root"`     // name of the foreign root that it became
	RootDigest  artifact.Digest `json:"root_sha"` // of its newest root.json
	Target      string          `json:"target"`
	Sequence    int64           `json:"sequence"`
	Digest      artifact.Digest `json:"digest"`
	Namespaces  []string        `json:"namespaces"`
	ImportedAt  time.Time       `json:"imported_at"`
	Revocations string          `json:"revocations"` // state of its list: current, stale
	Feeds       []BundleFeed    `json:"feeds,omitempty"`
}

// BundleImport says how a bundle is imported.
type BundleImport struct {
	Root          artifact.Digest // of a root.json of the exporter; needed the first time
	Name          string          // of the foreign root that the exporter becomes; "": by its host
	Namespaces    []string        // repositories in which it counts; nil: those that it selected
	ApplyPolicies bool
}

// BundleImported is what an import did.
type BundleImported struct {
	Bundle
	Manifests   int             `json:"manifests"`
	Evidence    int             `json:"evidence"`
	Feeds       int             `json:"feeds"`
	Revocations int64           `json:"revocations"` // version of the origin's list
	Refused     []BundleRefusal `json:"refused"`     // what the gate or the verifier did not let in
	Changes     []Change        `json:"changes,omitempty"`
}

// BundleRefusal is one thing that was not let in.
type BundleRefusal struct {
	Repository string          `json:"repository,omitempty"`
	Tag        string          `json:"tag,omitempty"`
	Digest     artifact.Digest `json:"digest"`
	Reason     string          `json:"reason"`
}

// MakeBundle has a bundle made and signed; [Client.BundleContent] fetches it, as
// often as is needed.
func (c *Client) MakeBundle(ctx context.Context, q BundleExport) (*Bundle, error) {
	var b Bundle
	return &b, c.patient().call(ctx, http.MethodPost, "/api/v1/bundles", nil, q, &b)
}

// Bundles lists what was made and what was imported.
func (c *Client) Bundles(ctx context.Context) (*BundleList, error) {
	var l BundleList
	return &l, c.call(ctx, http.MethodGet, "/api/v1/bundles", nil, nil, &l)
}

// patient is the client without an end to one request: a bundle has no size
// that would set one.
func (c *Client) patient() *Client {
	d := *c
	if c.HTTP != nil {
		h := *c.HTTP
		h.Timeout = 0
		d.HTTP = &h
	}
	return &d
}

// BundleContent streams a bundle that was made.
func (c *Client) BundleContent(ctx context.Context, target string, sequence int64) (io.ReadCloser, int64, error) {
	resp, err := c.patient().stream(ctx, http.MethodGet, "/api/v1/bundles/"+url.PathEscape(target)+"/"+strconv.FormatInt(sequence, 10), nil, nil, "")
	if err != nil {
		return nil, 0, err
	}
	return resp.Body, resp.ContentLength, nil
}

// ImportBundle streams a bundle in.
func (c *Client) ImportBundle(ctx context.Context, file io.Reader, q BundleImport) (*BundleImported, error) {
	v := url.Values{}
	if q.Root != "" {
		v.Set("root", string(q.Root))
	}
	if q.Name != "" {
		v.Set("name", q.Name)
	}
	if len(q.Namespaces) > 0 {
		b, err := json.Marshal(q.Namespaces)
		if err != nil {
			return nil, err
		}
		v.Set("namespaces", string(b))
	}
	if q.ApplyPolicies {
		v.Set("apply_policies", "true")
	}
	var out BundleImported
	return &out, c.upload(ctx, "/api/v1/bundles/import", v, file, BundleMediaType, &out)
}

// UploadFeed streams a tar of a feed's files, for an export to name.
func (c *Client) UploadFeed(ctx context.Context, name string, tar io.Reader) (*BundleFeed, error) {
	var f BundleFeed
	return &f, c.upload(ctx, "/api/v1/bundles/feeds", url.Values{"name": {name}}, tar, "application/x-tar", &f)
}

func (c *Client) upload(ctx context.Context, path string, q url.Values, body io.Reader, mediaType string, out any) error {
	resp, err := c.patient().stream(ctx, http.MethodPost, path, q, body, mediaType)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return fault.Newf(fault.Unavailable, "POST %s: %w", path, err)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fault.Newf(fault.Unavailable, "POST %s: the answer is not what this version expects: %w", path, err)
	}
	return nil
}

// stream sends one request whose body or answer has no bound, and gives an
// answer of success.
func (c *Client) stream(ctx context.Context, method, path string, q url.Values, body io.Reader, mediaType string) (*http.Response, error) {
	u := strings.TrimSuffix(c.Base, "/") + path
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	req.Header.Set("User-Agent", UserAgent)
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	if c.Token != nil {
		token, err := c.Token(ctx)
		if err != nil {
			return nil, fmt.Errorf("identity token: %w", err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
	}
	resp, err := noRedirect(c.HTTP).Do(req)
	if err != nil {
		return nil, unreachable(c.name(), err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "%s %s: %w", method, u, err)
	}
	return nil, answerError(c.name(), resp, b)
}
