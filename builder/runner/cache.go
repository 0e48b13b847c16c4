package runner

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"assay/artifact"
	"assay/internal/fault"
)

// CacheSpec names a cache: a key, under which it is kept between builds, and
// where it lies on this machine.
type CacheSpec struct {
	Key  string
	Path string
}

// ParseCache reads KEY=PATH.
func ParseCache(s string) (CacheSpec, error) {
	key, path, ok := strings.Cut(s, "=")
	c := CacheSpec{key, path}
	if !ok || path == "" {
		return c, fault.Newf(fault.Invalid, "cache %.80q: want KEY=PATH, for example go-build=.cache/go", s)
	}
	return c, checkCaches([]CacheSpec{c})
}

func checkCaches(all []CacheSpec) error {
	if len(all) > maxCaches {
		return fault.Newf(fault.Invalid, "%d caches, want at most %d", len(all), maxCaches)
	}
	seen := map[string]bool{}
	for _, c := range all {
		if why := unprintable(c.Key); c.Key == "" || why != "" {
			return fault.Newf(fault.Invalid, "cache key %.80q: empty, or a text %s", c.Key, why)
		}
		if seen[c.Key] || c.Path == "" {
			return fault.Newf(fault.Invalid, "cache %.80q: named twice, or without a path", c.Key)
		}
		seen[c.Key] = true
	}
	return nil
}

// CacheSum is the content of a cache.
type CacheSum struct {
	Digest artifact.Digest // "" when there is nothing
	Files  int
	Bytes  int64
}

// Most that is read of one cache.
const (
	maxCacheFiles = 2_000_000
	maxCacheBytes = 256 << 30
)

// HashCache hashes a file, or a folder as the list of its files: for each in the
// order of their paths one line "MODE SIZE SHA256 PATH", where MODE is x, -, or l
// for a link, whose target is hashed and not followed. Times are left out: they
// change when an archive is unpacked. A cache that is not there has no digest.
func HashCache(ctx context.Context, path string) (CacheSum, error) {
	type item struct {
		rel, abs string
		mode     string
		size     int64
		sum      artifact.Digest
	}
	var items []*item
	var total CacheSum
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if d.IsDir() {
			return nil
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(path, p)
		if err != nil {
			return err
		}
		it := &item{rel: filepath.ToSlash(rel), abs: p, size: st.Size(), mode: "-"}
		switch {
		case st.Mode()&fs.ModeSymlink != 0:
			it.mode = "l"
		case !st.Mode().IsRegular():
			return nil // sockets and pipes hold nothing
		case st.Mode()&0o111 != 0:
			it.mode = "x"
		}
		items = append(items, it)
		total.Bytes += st.Size()
		if len(items) > maxCacheFiles || total.Bytes > maxCacheBytes {
			return fault.Newf(fault.TooLarge, "over %d files or %d bytes", maxCacheFiles, int64(maxCacheBytes))
		}
		return nil
	})
	switch {
	case os.IsNotExist(err):
		return CacheSum{}, nil
	case err != nil:
		return CacheSum{}, err
	case len(items) == 0:
		return CacheSum{}, nil
	}
	work := make(chan *item)
	var wg sync.WaitGroup
	var once sync.Once
	var failed error
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for it := range work {
				var err error
				if it.sum, it.size, err = hashItem(it.abs, it.mode); err != nil {
					once.Do(func() { failed = fmt.Errorf("%s: %w", it.rel, err) })
				}
			}
		})
	}
	for _, it := range items {
		if ctx.Err() != nil {
			break
		}
		work <- it
	}
	close(work)
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return CacheSum{}, err
	}
	if failed != nil {
		return CacheSum{}, failed
	}
	h := sha256.New()
	total.Bytes = 0
	for _, it := range items { // WalkDir goes by name within each folder: always the same order
		fmt.Fprintf(h, "%s %d %s %s\n", it.mode, it.size, it.sum.Hex(), strconv.Quote(it.rel))
		total.Bytes += it.size
	}
	total.Files = len(items)
	total.Digest = artifact.NewDigest(artifact.SHA256, h.Sum(nil))
	return total, nil
}

func hashItem(path, mode string) (artifact.Digest, int64, error) {
	if mode == "l" {
		target, err := os.Readlink(path)
		return artifact.SHA256Of([]byte(target)), int64(len(target)), err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	return artifact.SHA256Reader(io.LimitReader(f, maxCacheBytes))
}
