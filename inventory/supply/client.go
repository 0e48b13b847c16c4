package supply

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/netguard"
	"assay/internal/strictjson"
)

const (
	maxAnswer = 4 << 20
	maxPages  = 200
	maxWait   = time.Minute
)

// newClient follows no redirect and looks at each address before it connects: the
// token goes to the configured host and nowhere else.
func newClient(private bool) *http.Client {
	d := &net.Dialer{Timeout: 5 * time.Second, Control: netguard.Control(private)}
	return &http.Client{
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: d.DialContext, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: 5 * time.Second, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
		},
	}
}

// get asks for one page and gives the address of the next.
func (s *scan) get(ctx context.Context, address string, into any) (next string, err error) {
	for {
		res, body, err := s.once(ctx, address) //nolint:bodyclose // once has read it to its end and closed it
		if err != nil {
			return "", err
		}
		if d, limited := retryAfter(res, s.now); limited {
			if d > maxWait || d > s.wait {
				return "", fault.Newf(fault.Unavailable, "%s: the rate limit is reached", s.base.Host)
			}
			s.wait -= d
			if err := s.pause(ctx, d); err != nil {
				return "", err
			}
			continue
		}
		place := res.Request.URL.Path
		switch {
		case res.StatusCode == http.StatusNotFound:
			return "", fault.Newf(fault.NotFound, "%s is not there", place)
		case res.StatusCode == http.StatusForbidden || res.StatusCode == http.StatusUnauthorized:
			return "", fault.Newf(fault.Denied, "%s: the token may not read it (%d)", place, res.StatusCode)
		case res.StatusCode != http.StatusOK:
			return "", fault.Newf(fault.Unavailable, "%s: answered %d, want 200; redirects are not followed", place, res.StatusCode)
		}
		if err := strictjson.Unmarshal(body, into, strictjson.WithMaxBytes(maxAnswer+1)); err != nil {
			return "", fault.Newf(fault.Unavailable, "the answer of %s: %w", place, err)
		}
		return s.next(res)
	}
}

func (s *scan) once(ctx context.Context, address string) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, fault.Newf(fault.Invalid, "an address of the API: %w", err)
	}
	switch s.o.Provider {
	case GitLab:
		req.Header.Set("PRIVATE-TOKEN", string(s.o.Token))
	case GitHub:
		req.Header.Set("Authorization", "Bearer "+string(s.o.Token))
		req.Header.Set("Accept", "application/vnd.github+json")
		req.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	default:
		req.Header.Set("Authorization", "token "+string(s.o.Token))
	}
	res, err := s.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, nil, fault.Newf(fault.Unavailable, "%s: %w", s.base.Host, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil || len(body) > maxAnswer {
		return nil, nil, fault.Newf(fault.Unavailable, "%s: the answer ended early, or is over %d bytes", req.URL.Path, maxAnswer)
	}
	return res, body, nil
}

// retryAfter says how long a limited client shall wait: 429, or 403 with one of
// GitHub's two headers.
func retryAfter(res *http.Response, now time.Time) (time.Duration, bool) {
	after, spent := res.Header.Get("Retry-After"), res.Header.Get("X-RateLimit-Remaining") == "0"
	if res.StatusCode != http.StatusTooManyRequests && (res.StatusCode != http.StatusForbidden || after == "" && !spent) {
		return 0, false
	}
	if n, err := strconv.ParseUint(after, 10, 31); err == nil {
		return max(time.Duration(n)*time.Second, time.Second), true
	}
	if t, err := http.ParseTime(after); err == nil {
		return max(t.Sub(now), time.Second), true
	}
	return maxWait + 1, true
}

func (s *scan) pause(ctx context.Context, d time.Duration) error {
	if s.o.Wait != nil {
		return s.o.Wait(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// next is Link's rel="next" (RFC 8288), which must be of the same forge.
func (s *scan) next(res *http.Response) (string, error) {
	for _, l := range strings.Split(strings.Join(res.Header.Values("Link"), ","), ",") {
		target, params, ok := strings.Cut(strings.TrimSpace(l), ">")
		if !ok || !strings.HasPrefix(target, "<") || !strings.Contains(strings.ReplaceAll(params, " ", ""), `rel="next"`) {
			continue
		}
		u, err := res.Request.URL.Parse(target[1:])
		if err != nil || u.Scheme != s.base.Scheme || u.Host != s.base.Host || u.User != nil || !strings.HasPrefix(u.Path, s.base.Path+"/") {
			return "", fault.Newf(fault.Unavailable, "%s: its next page is of another place, where the token does not go", res.Request.URL.Path)
		}
		return u.String(), nil
	}
	return "", nil
}

// one asks for one object.
func (s *scan) one(ctx context.Context, path string, into any) error {
	_, err := s.get(ctx, s.base.String()+path, into)
	return err
}

// list asks for all pages of a list and gives each page's items to use.
func list[T any](ctx context.Context, s *scan, path string, use func([]T)) error {
	return pages(ctx, s, path, func(p []T) { use(p) })
}

func pages[P any](ctx context.Context, s *scan, path string, use func(P)) error {
	size := "per_page=100"
	if s.o.Provider == Gitea {
		size = "limit=50"
	}
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	address := s.base.String() + path + sep + size
	for n := 0; address != ""; n++ {
		if n == maxPages {
			return fault.Newf(fault.TooLarge, "%s: over %d pages", path, maxPages)
		}
		var page P
		next, err := s.get(ctx, address, &page)
		if err != nil {
			return err
		}
		use(page)
		address = next
	}
	return nil
}

// content is a file as all three APIs give it.
type content struct {
	Encoding string `json:"encoding"`
	Content  string `json:"content"`
}

func (c *content) bytes() ([]byte, error) {
	if c.Encoding != "base64" {
		return nil, fault.Newf(fault.Unavailable, "a file's encoding is %q: want base64", clip(c.Encoding))
	}
	b, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(c.Content, "\n", ""))
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "a file's content is not base64")
	}
	return b, nil
}
