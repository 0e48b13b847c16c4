package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"assay/internal/excerpt"
	"assay/internal/fault"
)

const maxAnswer = 64 << 20 // of a page of a list

// Error is what the API server refused, by its own words.
type Error struct {
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func (e *Error) Error() string {
	return fmt.Sprintf("the API server answers %d %s: %s", e.Code, e.Reason, excerpt.Text(e.Message, 2000))
}

// Is says which kind of fault it is.
func (e *Error) Is(target error) bool {
	switch e.Code {
	case http.StatusNotFound:
		return target == error(fault.NotFound)
	case http.StatusForbidden:
		return target == error(fault.Denied)
	case http.StatusUnauthorized:
		return target == error(fault.Unauthenticated)
	case http.StatusConflict:
		return target == error(fault.Conflict)
	}
	return e.Code >= 500 && target == error(fault.Unavailable)
}

// gone is what a watch ends with whose version is too old.
func gone(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == http.StatusGone
}

func (c *Client) open(ctx context.Context, method, path string, query url.Values, contentType string, body []byte) (*http.Response, error) {
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + path
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "assay")
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if c.token != nil {
		t, err := c.token()
		if err != nil {
			return nil, fault.Newf(fault.Unavailable, "read the token: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+t)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "ask the API server: %w", err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	e := &Error{}
	if json.Unmarshal(b, e) != nil || e.Code == 0 {
		e.Code, e.Message = resp.StatusCode, string(b)
	}
	return nil, e
}

// Do sends one request and decodes the answer into out, where it is not nil.
// Refusals are [Error]s; what cannot be reached is fault.Unavailable.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body []byte
	contentType := "application/json"
	switch v := in.(type) {
	case nil:
	case Patch:
		body, contentType = v.Body, v.Type
	case []byte:
		body = v
	default:
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fault.Wrap(fault.Invalid, err)
		}
	}
	resp, err := c.open(ctx, method, path, query, contentType, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fault.Newf(fault.Unavailable, "read the API server's answer: %w", err)
	}
	if len(b) > maxAnswer {
		return fault.Newf(fault.TooLarge, "the API server's answer has over %d bytes", maxAnswer)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fault.Newf(fault.Unavailable, "the API server's answer: %w", err)
	}
	return nil
}

// Patch is a body of method PATCH.
type Patch struct {
	Type string // media type
	Body []byte
}

// The media types of patches.
const (
	JSONPatch  = "application/json-patch+json"
	MergePatch = "application/merge-patch+json"
	Strategic  = "application/strategic-merge-patch+json"
)

// Watcher is told what there is of a resource, and how it changes. Its methods
// are called by one goroutine.
type Watcher interface {
	// Reset says that the list is read from its beginning: what Set does not name
	// until Synced is not there any more.
	Reset()
	Set(object json.RawMessage) error
	Synced() error
	Deleted(object json.RawMessage) error
}

const (
	pageSize = "500"
	// watchFor is how long one watch lasts before the API server ends it; then it
	// goes on from the last version.
	watchFor = 5 * time.Minute
	// quietWatch is the least time between two watches.
	quietWatch = 500 * time.Millisecond
)

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Follow lists a resource ("/api/v1/pods") and then watches it, until ctx ends or
// the watcher fails. A connection that breaks is begun again from where it was;
// a list that cannot be read is an error.
func (c *Client) Follow(ctx context.Context, path string, w Watcher) error {
	for {
		version, err := c.list(ctx, path, w)
		if err != nil {
			return err
		}
		for err == nil {
			began := time.Now()
			if version, err = c.watch(ctx, path, version, w); err == nil && time.Since(began) < quietWatch {
				pause(ctx, quietWatch) // one that ends at once must not be asked without end
			}
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the caller ended it
		}
		if !gone(err) {
			return err
		}
	}
}

func (c *Client) list(ctx context.Context, path string, w Watcher) (version string, err error) {
	w.Reset()
	q := url.Values{"limit": {pageSize}}
	for {
		var page struct {
			Metadata struct {
				Version  string `json:"resourceVersion"`
				Continue string `json:"continue"`
			} `json:"metadata"`
			Items []json.RawMessage `json:"items"`
		}
		if err := c.Do(ctx, http.MethodGet, path, q, nil, &page); err != nil {
			return "", err
		}
		for _, it := range page.Items {
			if err := w.Set(it); err != nil {
				return "", err
			}
		}
		if page.Metadata.Continue == "" {
			return page.Metadata.Version, w.Synced()
		}
		q.Set("continue", page.Metadata.Continue)
	}
}

// List gives each object of a resource, all of them or an error.
func (c *Client) List(ctx context.Context, path string, each func(object json.RawMessage) error) error {
	_, err := c.list(ctx, path, lister(each))
	return err
}

type lister func(json.RawMessage) error

func (l lister) Reset()                           {}
func (l lister) Set(object json.RawMessage) error { return l(object) }
func (l lister) Synced() error                    { return nil }
func (l lister) Deleted(json.RawMessage) error    { return nil }

// watch follows changes after a version and gives the last one that it saw. It
// ends without an error when the API server ends it.
func (c *Client) watch(ctx context.Context, path, version string, w Watcher) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, watchFor+30*time.Second)
	defer cancel()
	resp, err := c.open(ctx, http.MethodGet, path, url.Values{
		"watch": {"true"}, "resourceVersion": {version}, "allowWatchBookmarks": {"true"}, "timeoutSeconds": {strconv.Itoa(int(watchFor.Seconds()))},
	}, "", nil)
	if err != nil {
		return version, err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var e struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := dec.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) {
				return version, nil
			}
			return version, fault.Newf(fault.Unavailable, "watch %s: %w", path, err)
		}
		var meta struct {
			Code     int    `json:"code"`
			Reason   string `json:"reason"`
			Message  string `json:"message"`
			Metadata struct {
				Version string `json:"resourceVersion"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(e.Object, &meta); err != nil {
			return version, fault.Newf(fault.Unavailable, "watch %s: %w", path, err)
		}
		switch e.Type {
		case "ADDED", "MODIFIED":
			err = w.Set(e.Object)
		case "DELETED":
			err = w.Deleted(e.Object)
		case "BOOKMARK":
		case "ERROR":
			return version, &Error{meta.Code, meta.Reason, meta.Message}
		}
		if err != nil {
			return version, err
		}
		if meta.Metadata.Version != "" {
			version = meta.Metadata.Version
		}
	}
}
