package tuf

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"assay/internal/clock"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/trust"
)

// ClientOptions say where a repository is and what to begin with.
type ClientOptions struct {
	URL        string       // of the repository's metadata, http or https
	TargetsURL string       // of its targets; empty: "targets" below URL
	Root       []byte       // a root.json that was obtained out of band; the anchor of all trust
	CacheDir   string       // remembers the highest versions seen; needed against rollback
	HTTP       *http.Client // nil: a client with a 30 s timeout that follows no redirect to another host
	Now        clock.Clock  // nil: the system's
	// Offline uses what the cache holds, within its expiry, and asks nobody.
	Offline bool
	Options []trust.RootOption // for the trusted root, for example its name
}

// LoadFromTUF fetches trusted_root.json by the TUF client workflow (TUF
// specification 1.0, section 5) and parses it. Rollback, freeze, expiry, a
// missed threshold and mix-and-match are fault.Unverified; an unreachable
// repository is fault.Unavailable.
func LoadFromTUF(ctx context.Context, o ClientOptions) (*trust.Root, error) {
	b, err := FetchTarget(ctx, o, TargetTrustedRoot)
	if err != nil {
		return nil, err
	}
	return trust.ParseTrustedRoot(b, o.Options...)
}

// FetchTarget fetches one target, as [LoadFromTUF] does the trusted root. One
// that the repository does not have is fault.NotFound.
func FetchTarget(ctx context.Context, o ClientOptions, name string) (b []byte, err error) {
	err = fetching(ctx, o, func(up *update) error {
		info, err := up.find(ctx, name)
		if err == nil {
			b, err = up.fetch(ctx, name, info)
		}
		return err
	})
	return b, err
}

// fetching refreshes the cache of a repository, alone, and lets do fetch from
// it.
func fetching(ctx context.Context, o ClientOptions, do func(*update) error) error {
	if o.CacheDir == "" || len(o.Root) == 0 {
		return fault.Newf(fault.Invalid, "TUF client: want a root to begin with, and a cache folder to remember versions in")
	}
	if o.TargetsURL == "" {
		o.TargetsURL = strings.TrimSuffix(o.URL, "/") + "/targets"
	}
	for _, at := range []string{o.URL, o.TargetsURL} {
		u, err := url.Parse(at)
		if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
			return fault.Newf(fault.Invalid, "TUF client: URL %.120q, want http or https", at)
		}
	}
	// The cache belongs to this anchor: another one starts afresh.
	sum := sha256.Sum256(o.Root)
	dir := filepath.Join(o.CacheDir, hex.EncodeToString(sum[:8]))
	if err := durable.MkdirAll(filepath.Join(dir, "targets"), 0o700); err != nil {
		return err
	}
	lock, err := lockCache(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	up, err := newUpdate(o, dir)
	if err != nil {
		return err
	}
	if err := up.refresh(ctx); err != nil {
		return err
	}
	return do(up)
}

// lockCache waits for another process that fetches.
func lockCache(ctx context.Context, path string) (io.Closer, error) {
	for {
		l, err := durable.Lock(path)
		if err == nil || !errors.Is(err, fault.Conflict) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// errAbsent is a file that the repository does not have.
var errAbsent = errors.New("the repository does not have it")

// get downloads a file of the repository's metadata.
func (u *update) get(ctx context.Context, name string, limit int64) ([]byte, error) {
	return u.download(ctx, strings.TrimSuffix(u.o.URL, "/")+"/"+name, limit)
}

// download gives what at serves: more than limit bytes is fault.Unverified, any
// other failure fault.Unavailable, with errAbsent for a file that is not there.
func (u *update) download(ctx context.Context, at string, limit int64) ([]byte, error) {
	if u.o.Offline {
		return nil, fault.Newf(fault.Unavailable, "TUF repository: %s is not fetched offline", at)
	}
	client := u.o.HTTP
	if client == nil {
		client = &http.Client{Timeout: 30 * time.Second, CheckRedirect: sameHost}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "TUF repository: %w", err)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "TUF repository: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, fault.Newf(fault.Unavailable, "TUF repository: %s: %w", at, errAbsent)
	default:
		return nil, fault.Newf(fault.Unavailable, "TUF repository: %s answers %s", at, res.Status)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "TUF repository: %s: %w", at, err)
	}
	if int64(len(b)) > limit {
		return nil, fault.Newf(fault.Unverified, "TUF repository: %s has more than %d bytes", at, limit)
	}
	return b, nil
}

func sameHost(req *http.Request, via []*http.Request) error {
	if len(via) > 3 || req.URL.Host != via[0].URL.Host || (via[0].URL.Scheme == "https" && req.URL.Scheme != "https") {
		return fault.Newf(fault.Unavailable, "TUF repository redirects to %s; give that URL itself", req.URL.Host)
	}
	return nil
}
