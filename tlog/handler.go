package tlog

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"assay/internal/fault"
)

// TileHandler serves the log as C2SP tlog-tiles lays it out: /checkpoint and
// /tile/<L>/<N>[.p/<W>] to everyone, /tile/entries/<N>[.p/<W>] (for CT
// /tile/data/…) to whom authorize lets pass. Hashes tell nothing of an entry
// that one does not know already; entries hold identities. authorize is asked
// at every request for entries; nil refuses them all.
//
// Only what the newest checkpoint covers is served, and only after it has been
// checked against that checkpoint.
func (l *Log) TileHandler(authorize func(*http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "want GET or HEAD", http.StatusMethodNotAllowed)
			return
		}
		path := strings.TrimPrefix(r.URL.Path, "/")
		if path == "checkpoint" {
			w.Header().Set("Cache-Control", "no-cache")
			send(w, r, "text/plain; charset=utf-8", l.current().cp.Note)
			return
		}
		res, ok := parseResource(path, l.codec.Folder())
		if !ok {
			refuse(w, fault.Newf(fault.NotFound, "no such resource of a log: want /checkpoint or /tile/<level>/<index>[.p/<width>]"))
			return
		}
		if res.entries {
			if err := allow(authorize, r); err != nil {
				w.Header().Set("Cache-Control", "no-store")
				refuse(w, err)
				return
			}
		}
		b, err := l.current().tree.resource(r, res)
		if err != nil {
			if fault.KindOf(err) != fault.NotFound {
				l.logger.ErrorContext(r.Context(), "log read failed", "path", res.path(l.codec.Folder()), "error", err)
			}
			refuse(w, err)
			return
		}
		switch {
		case res.entries:
			w.Header().Set("Cache-Control", "private, no-cache") // the right to read may end
		default:
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		send(w, r, "application/octet-stream", b)
	})
}

func allow(authorize func(*http.Request) error, r *http.Request) error {
	if authorize == nil {
		return fault.Newf(fault.Denied, "the entries of this log are private")
	}
	return authorize(r)
}

// resource gives the bytes of a tile or bundle that the tree covers.
func (t *Tree) resource(r *http.Request, res resource) ([]byte, error) {
	level := res.level // of bundles 0
	have := t.size >> (tileHeight * level)
	if res.n >= have/tileWidth+1 || res.n*tileWidth+uint64(res.width) > have {
		return nil, fault.Newf(fault.NotFound, "the log of %d entries does not reach there", t.size)
	}
	from := res.n * tileWidth
	if res.entries {
		rs, err := t.Records(r.Context(), from, from+uint64(res.width))
		if err != nil {
			return nil, err
		}
		var b []byte
		for _, rec := range rs {
			b = append(b, rec.Raw...)
		}
		return b, nil
	}
	if res.n == have/tileWidth {
		e := t.edge[level]
		e.n = res.width
		return e.bytes(), nil
	}
	full, err := t.tile(r.Context(), level, res.n)
	if err != nil {
		return nil, err
	}
	part := *full
	part.n = res.width
	return part.bytes(), nil
}

func send(w http.ResponseWriter, r *http.Request, contentType string, b []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

// refuse answers an error as JSON. What failed on this side is not told: it
// names paths.
func refuse(w http.ResponseWriter, err error) {
	status, message := fault.HTTPStatus(err), err.Error()
	if status >= http.StatusInternalServerError {
		message = "the log cannot be read now (" + fault.KindOf(err).Name() + "): its operator finds the reason in its log file"
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"code": status, "message": message})
}
