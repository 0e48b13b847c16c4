package tuf

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"
)

var (
	targetName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	metadataPath = regexp.MustCompile(`^(?:[1-9][0-9]{0,18}\.(?:root|targets|snapshot)|timestamp|root)\.json$`)
	targetPath   = regexp.MustCompile(`^targets/[0-9a-f]{64}\.[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
)

// Handler serves the repository's files by their name below the mount point
// (strip its prefix first). Nothing else in the folder can be named: no
// listing, no temporary file, no link out of it.
func (r *Repository) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodGet && req.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		name := strings.TrimPrefix(req.URL.Path, "/")
		if !metadataPath.MatchString(name) && !targetPath.MatchString(name) {
			http.NotFound(w, req)
			return
		}
		r.serve(w, req, name)
	})
}

func (r *Repository) serve(w http.ResponseWriter, req *http.Request, name string) {
	root, err := os.OpenRoot(r.o.Dir)
	if err == nil {
		defer func() { _ = root.Close() }()
		var f *os.File
		if f, err = root.Open(name); err == nil {
			defer func() { _ = f.Close() }()
			h := w.Header()
			h.Set("Content-Type", "application/json")
			h.Set("X-Content-Type-Options", "nosniff")
			if name == "timestamp.json" || name == "root.json" {
				h.Set("Cache-Control", "no-cache") // the two names that change
			} else {
				h.Set("Cache-Control", "public, max-age=86400, immutable")
			}
			http.ServeContent(w, req, "", time.Time{}, f)
			return
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		http.NotFound(w, req) // how a client learns that it has the newest root
		return
	}
	r.o.Logger.Error("TUF file cannot be read", "name", name, "error", err)
	http.Error(w, "temporarily unavailable", http.StatusServiceUnavailable)
}
