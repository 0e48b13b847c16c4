package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"assay/blob/s3"
	"assay/internal/fault"
	"assay/internal/oci"
)

// request is for a file: all of it unless it is the one of Tag, or the rest from
// Offset on if it still is.
type request struct {
	Tag    string // the upstream's name for the content, as it gave it
	Offset int64
}

// response is what came.
type response struct {
	Body      io.ReadCloser
	Tag       string // "" when the upstream gives none
	Offset    int64  // where Body begins
	Size      int64  // of the whole file; -1: not told
	Unchanged bool   // it is still what Tag names; no body
}

// place is where files are. An absent file is fault.NotFound, a place that does
// not answer fault.Unavailable.
type place interface {
	open(ctx context.Context, name string, q request) (*response, error)
	close()
}

// web is a place over HTTP.
type web struct {
	base   *url.URL
	single bool // base is the file itself
	auth   string
	c      *http.Client
}

const maxRedirects = 4

func (f *Fetcher) openWeb(s *Spec, u *url.URL) (*web, error) {
	t, err := oci.NewTransport(oci.Guard{CABundle: s.CABundle, AllowPrivate: s.AllowPrivate, Proxy: s.Proxy})
	if err != nil {
		return nil, err
	}
	w := &web{base: u, single: s.single(), c: &http.Client{Transport: t}}
	w.c.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		switch {
		case len(via) > maxRedirects:
			return fault.Newf(fault.Unavailable, "more than %d redirects", maxRedirects)
		case r.URL.Scheme != u.Scheme && r.URL.Scheme != "https":
			return fault.Newf(fault.Denied, "%s leads to %s: from https to https only", u.Host, r.URL.Scheme)
		case r.URL.Host != u.Host: // net/http drops the header for other domains, and keeps it for parts of this one
			r.Header.Del("Authorization")
		}
		return nil
	}
	if s.Credentials == "" {
		return w, nil
	}
	secret, err := f.o.Secret(s.Credentials)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	text := strings.TrimSpace(string(secret))
	if user, password, is := strings.Cut(text, ":"); is {
		r := http.Request{Header: http.Header{}}
		r.SetBasicAuth(user, password)
		w.auth = r.Header.Get("Authorization")
	} else {
		w.auth = "Bearer " + text
	}
	return w, nil
}

func (w *web) close() { w.c.CloseIdleConnections() }

func (w *web) open(ctx context.Context, name string, q request) (*response, error) {
	u := *w.base
	if w.single {
		u.Path += strings.TrimPrefix(name, single)
	} else {
		u.Path = strings.TrimSuffix(u.Path, "/") + "/" + name
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	r.Header.Set("User-Agent", "assay")
	if w.auth != "" {
		r.Header.Set("Authorization", w.auth)
	}
	tag, isDate := strings.CutPrefix(q.Tag, dated)
	switch {
	case q.Offset > 0: // RFC 9110, section 13.1.5: the rest, or all of what is there now
		r.Header.Set("Range", "bytes="+strconv.FormatInt(q.Offset, 10)+"-")
		r.Header.Set("If-Range", tag)
	case q.Tag != "" && isDate:
		r.Header.Set("If-Modified-Since", tag)
	case q.Tag != "":
		r.Header.Set("If-None-Match", tag)
	}
	res, err := w.c.Do(r)
	if err != nil {
		return nil, failure(err)
	}
	out, err := answer(res, q)
	if err != nil || out.Unchanged {
		res.Body.Close()
	}
	if err != nil {
		return nil, fault.Newf(fault.KindOf(err), "%s: %w", u.Host+u.Path, err)
	}
	return out, nil
}

// dated marks a tag that is a Last-Modified, for want of an ETag.
const dated = "date:"

func answer(res *http.Response, q request) (*response, error) {
	out := &response{Body: res.Body, Tag: res.Header.Get("ETag"), Size: res.ContentLength}
	if out.Tag == "" {
		if at := res.Header.Get("Last-Modified"); at != "" {
			out.Tag = dated + at
		}
	}
	if len(out.Tag) > 300 {
		out.Tag = ""
	}
	switch res.StatusCode {
	case http.StatusOK:
		return out, nil
	case http.StatusPartialContent:
		from, size, ok := contentRange(res.Header.Get("Content-Range"))
		if !ok || from != q.Offset || q.Offset == 0 || out.Tag != "" && out.Tag != q.Tag {
			return nil, fault.Newf(fault.Unavailable, "a part that nobody asked for: Content-Range %.80q", res.Header.Get("Content-Range"))
		}
		out.Offset, out.Size = from, size
		return out, nil
	case http.StatusNotModified:
		if q.Tag == "" || q.Offset > 0 {
			return nil, fault.Newf(fault.Unavailable, "status 304 without a condition")
		}
		out.Unchanged, out.Tag = true, q.Tag
		return out, nil
	case http.StatusNotFound, http.StatusGone:
		return nil, fault.Newf(fault.NotFound, "status %d: there is no such file", res.StatusCode)
	case http.StatusRequestedRangeNotSatisfiable:
		return nil, errRange
	}
	return nil, fault.Newf(fault.Unavailable, "status %d", res.StatusCode)
}

// errRange says that what is here of a file is no beginning of what is there.
var errRange = fault.Newf(fault.Unavailable, "the upstream has no rest of this file")

func contentRange(s string) (from, size int64, ok bool) {
	rest, is := strings.CutPrefix(s, "bytes ")
	span, whole, both := strings.Cut(rest, "/")
	first, _, dash := strings.Cut(span, "-")
	from, err := strconv.ParseInt(first, 10, 64)
	if !is || !both || !dash || err != nil || from < 0 {
		return 0, 0, false
	}
	if whole == "*" {
		return from, -1, true
	}
	size, err = strconv.ParseInt(whole, 10, 64)
	return from, size, err == nil && size > from
}

func failure(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case fault.KindOf(err) != fault.Internal:
		return err
	}
	return fault.Wrap(fault.Unavailable, err)
}

// bucket is a place in S3.
type bucket struct {
	o    *s3.Objects
	file string // the one file, of a URL that is one
}

func openBucket(ctx context.Context, s *Spec, u *url.URL) (*bucket, error) {
	o, err := s3.OpenObjects(ctx, s.bucket(u))
	if err != nil {
		return nil, err
	}
	b := &bucket{o: o}
	if s.single() {
		b.file = u.Path[strings.LastIndex(u.Path, "/")+1:]
	}
	return b, nil
}

func (b *bucket) close() { _ = b.o.Close() } // only idle connections

func (b *bucket) open(ctx context.Context, name string, q request) (*response, error) {
	if b.file != "" {
		name = b.file + strings.TrimPrefix(name, single)
	} else if u, err := url.PathUnescape(name); err == nil {
		name = u
	}
	o, err := b.o.Fetch(ctx, name, q.Tag, q.Offset)
	switch {
	case err != nil && q.Offset > 0 && errors.Is(err, fault.Conflict):
		return nil, errRange
	case err != nil:
		return nil, err
	case o.Body == nil:
		return &response{Tag: q.Tag, Unchanged: true}, nil
	}
	return &response{Body: o.Body, Tag: o.ETag, Offset: q.Offset, Size: o.Size}, nil
}

// patience is how long a file may take to come, and each attempt.
const (
	patience = time.Hour
	attempts = 6
)
