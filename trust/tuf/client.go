package tuf

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"assay/internal/clock"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/trust"
)

// ClientOptions say where a repository is and what to begin with.
type ClientOptions struct {
	URL      string       // of the repository, http or https
	Root     []byte       // a root.json that was obtained out of band; the anchor of all trust
	CacheDir string       // remembers the highest versions seen; needed against rollback
	HTTP     *http.Client // nil: a client with a 30 s timeout that follows no redirect to another host
	Now      clock.Clock  // nil: the system's
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

// FetchTarget fetches one target, as [LoadFromTUF] does the trusted root.
func FetchTarget(ctx context.Context, o ClientOptions, name string) ([]byte, error) {
	if o.CacheDir == "" || len(o.Root) == 0 {
		return nil, fault.Newf(fault.Invalid, "TUF client: want a root to begin with, and a cache folder to remember versions in")
	}
	u, err := url.Parse(o.URL)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		return nil, fault.Newf(fault.Invalid, "TUF client: URL %.120q, want http or https", o.URL)
	}
	// The cache belongs to this anchor: another one starts afresh.
	sum := sha256.Sum256(o.Root)
	dir := filepath.Join(o.CacheDir, hex.EncodeToString(sum[:8]))
	if err := durable.MkdirAll(filepath.Join(dir, "targets"), 0o700); err != nil {
		return nil, err
	}
	lock, err := lockCache(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Close() }()
	b, err := fetch(ctx, o, dir, name)
	return b, classify(err, o.URL)
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

func fetch(ctx context.Context, o ClientOptions, dir, name string) ([]byte, error) {
	// go-tuf begins at the given root each time and would let a server hide
	// newer roots that this client has seen; begin at the newest one instead.
	for i, anchor := range [][]byte{newestRoot(dir, o.Root), o.Root} {
		cfg, err := config.New(o.URL, anchor)
		if err != nil {
			return nil, err
		}
		cfg.LocalMetadataDir, cfg.LocalTargetsDir = dir, filepath.Join(dir, "targets")
		cfg.UnsafeLocalMode = o.Offline
		cfg.Fetcher = &fetcher{ctx: ctx, client: o.HTTP}
		up, err := updater.New(cfg)
		if err != nil && i == 0 {
			continue // the cached root is damaged
		}
		if err != nil {
			return nil, err
		}
		if o.Now != nil {
			up.UnsafeSetRefTime(o.Now())
		}
		if err := up.Refresh(); err != nil {
			return nil, err
		}
		info, err := up.GetTargetInfo(name)
		if err != nil {
			return nil, err
		}
		if path, b, err := up.FindCachedTarget(info, ""); err == nil && path != "" {
			return b, nil
		}
		if o.Offline {
			return nil, fault.Newf(fault.Unavailable, "TUF target %s is not in the cache; fetch it online once", name)
		}
		_, b, err := up.DownloadTarget(info, "", "")
		return b, err
	}
	return nil, errors.New("unreachable: the given root was tried last")
}

// newestRoot is the newest root that an earlier run verified from this anchor.
func newestRoot(dir string, anchor []byte) []byte {
	b, err := os.ReadFile(filepath.Join(dir, "root.json"))
	if err != nil {
		return anchor
	}
	cached, err := new(metadata.Metadata[metadata.RootType]).FromBytes(b)
	if err != nil || cached.VerifyDelegate(metadata.ROOT, cached) != nil {
		return anchor
	}
	given, err := new(metadata.Metadata[metadata.RootType]).FromBytes(anchor)
	if err != nil || given.Signed.Version >= cached.Signed.Version {
		return anchor
	}
	return b
}

// classify gives go-tuf's errors their kind.
func classify(err error, at string) error {
	if err == nil || fault.KindOf(err) != fault.Internal {
		return err
	}
	for _, e := range []error{
		&metadata.ErrRepository{}, &metadata.ErrUnsignedMetadata{}, &metadata.ErrBadVersionNumber{}, &metadata.ErrEqualVersionNumber{},
		&metadata.ErrExpiredMetadata{}, &metadata.ErrLengthOrHashMismatch{}, &metadata.ErrValue{}, &metadata.ErrType{},
	} {
		if errors.Is(err, e) {
			return fault.Newf(fault.Unverified, "TUF repository %s: %w; the repository is stale or was tampered with, or the root is another's", at, err)
		}
	}
	var he *metadata.ErrDownloadHTTP
	var ue *url.Error
	if errors.As(err, &he) || errors.As(err, &ue) || errors.Is(err, context.DeadlineExceeded) {
		return fault.Newf(fault.Unavailable, "TUF repository %s: %w", at, err)
	}
	// What remains is metadata that does not parse.
	return fault.Newf(fault.Unverified, "TUF repository %s: %w", at, err)
}

// fetcher downloads for go-tuf under a context.
type fetcher struct {
	ctx    context.Context //nolint:containedctx // go-tuf's interface carries none
	client *http.Client
}

// DownloadFile implements go-tuf's fetcher.Fetcher.
func (f *fetcher) DownloadFile(at string, maxLength int64, _ time.Duration) ([]byte, error) {
	client := f.client
	if client == nil {
		client = &http.Client{Timeout: 30 * time.Second, CheckRedirect: sameHost}
	}
	req, err := http.NewRequestWithContext(f.ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, &metadata.ErrDownloadHTTP{StatusCode: res.StatusCode, URL: at}
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxLength+1))
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err)
	}
	if int64(len(b)) > maxLength {
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: fmt.Sprintf("%s: more than %d bytes", at, maxLength)}
	}
	return b, nil
}

func sameHost(req *http.Request, via []*http.Request) error {
	if len(via) > 3 || req.URL.Host != via[0].URL.Host || (via[0].URL.Scheme == "https" && req.URL.Scheme != "https") {
		return fault.Newf(fault.Unavailable, "TUF repository redirects to %s; give that URL itself", req.URL.Host)
	}
	return nil
}
