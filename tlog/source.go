package tlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"assay/internal/fault"
)

// Source reads the files of a log as C2SP tlog-tiles lays them out. Nothing
// that it returns is trusted: [Tree] checks every byte against a root. An
// absent file is [fault.NotFound]. Methods may be called at once.
type Source interface {
	// Checkpoint gives the newest signed note.
	Checkpoint(ctx context.Context) ([]byte, error)
	// Tile gives width hashes (1 to 256) of the n-th tile of a level.
	Tile(ctx context.Context, level int, n uint64, width int) ([]byte, error)
	// Bundle gives at least the first width entries of the n-th bundle.
	Bundle(ctx context.Context, n uint64, width int) ([]byte, error)
}

// Dir reads a log from its folder.
type Dir struct {
	Path   string // the folder
	Folder string // what bundles stand in; "" is "entries", CT has "data"
}

func bundleFolder(f string) string {
	if f == "" {
		return "entries"
	}
	return f
}

// Checkpoint implements [Source].
func (d Dir) Checkpoint(context.Context) ([]byte, error) {
	return readFile(filepath.Join(d.Path, "checkpoint"), maxCheckpoint)
}

// Tile implements [Source]. A partial tile that is gone is cut from a wider one.
func (d Dir) Tile(_ context.Context, level int, n uint64, width int) ([]byte, error) {
	b, err := d.read(resource{level: level, n: n, width: width}, tileWidth*int64(len(Hash{})))
	if err == nil && len(b) > width*len(Hash{}) {
		b = b[:width*len(Hash{})]
	}
	return b, err
}

// Bundle implements [Source].
func (d Dir) Bundle(_ context.Context, n uint64, width int) ([]byte, error) {
	return d.read(resource{entries: true, n: n, width: width}, maxBundle)
}

// read reads a file, or for a partial version that has been replaced since one
// that begins with it: the full one or a wider one.
func (d Dir) read(r resource, limit int64) ([]byte, error) {
	folder := bundleFolder(d.Folder)
	abs := func(r resource) string { return filepath.Join(d.Path, filepath.FromSlash(r.path(folder))) }
	var b []byte
	var err error
	for range 3 { // the one that is found may be replaced before it is read
		b, err = readFile(abs(r), limit)
		if !errors.Is(err, fault.NotFound) || r.width == tileWidth {
			return b, err
		}
		wider := resource{entries: r.entries, level: r.level, n: r.n, width: tileWidth}
		names, _ := os.ReadDir(filepath.Dir(abs(r)))
		for _, n := range names {
			if w, err := strconv.Atoi(n.Name()); err == nil && w > r.width && w < wider.width {
				wider.width = w
			}
		}
		if full, err := readFile(abs(wider), limit); !errors.Is(err, fault.NotFound) {
			return full, err
		}
	}
	return b, err
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.Newf(fault.NotFound, "%s: no such file in the log", path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, limit, path)
}

func readAll(r io.Reader, limit int64, what string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	if int64(len(b)) > limit {
		return nil, fault.Newf(fault.TooLarge, "read %s: more than %d bytes", what, limit)
	}
	return b, nil
}

// HTTP reads a log from its tile server. Entry bundles of a private log need
// a Client that authenticates.
type HTTP struct {
	URL    string       // prefix of "/checkpoint" and "/tile/…"
	Folder string       // as in Dir
	Client *http.Client // nil: http.DefaultClient
}

// Checkpoint implements [Source].
func (h HTTP) Checkpoint(ctx context.Context) ([]byte, error) {
	return h.get(ctx, "checkpoint", maxCheckpoint)
}

// Tile implements [Source].
func (h HTTP) Tile(ctx context.Context, level int, n uint64, width int) ([]byte, error) {
	b, err := h.resource(ctx, resource{level: level, n: n, width: width}, tileWidth*int64(len(Hash{})))
	if err == nil && len(b) > width*len(Hash{}) {
		b = b[:width*len(Hash{})]
	}
	return b, err
}

// Bundle implements [Source].
func (h HTTP) Bundle(ctx context.Context, n uint64, width int) ([]byte, error) {
	return h.resource(ctx, resource{entries: true, n: n, width: width}, maxBundle)
}

func (h HTTP) resource(ctx context.Context, r resource, limit int64) ([]byte, error) {
	folder := bundleFolder(h.Folder)
	b, err := h.get(ctx, r.path(folder), limit)
	if errors.Is(err, fault.NotFound) && r.width < tileWidth {
		r.width = tileWidth // C2SP tlog-tiles: partial tiles may go once the full one is there
		if full, ferr := h.get(ctx, r.path(folder), limit); ferr == nil {
			return full, nil
		}
	}
	return b, err
}

func (h HTTP) get(ctx context.Context, path string, limit int64) ([]byte, error) {
	u := strings.TrimSuffix(h.URL, "/") + "/" + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	c := h.Client
	if c == nil {
		c = http.DefaultClient
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return readAll(resp.Body, limit, u)
	case http.StatusNotFound, http.StatusGone:
		return nil, fault.Newf(fault.NotFound, "GET %s: %s", u, resp.Status)
	case http.StatusUnauthorized:
		return nil, fault.Newf(fault.Unauthenticated, "GET %s: %s: the log is private, give a token", u, resp.Status)
	case http.StatusForbidden:
		return nil, fault.Newf(fault.Denied, "GET %s: %s: reading entries of this log needs a role", u, resp.Status)
	}
	return nil, fault.Newf(fault.Unavailable, "GET %s: %s", u, resp.Status)
}
