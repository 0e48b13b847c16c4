package server

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"assay/api"
	"assay/client"
	"assay/internal/fault"
)

// longDownload is how long a slow runner may take for the program.
const longDownload = 10 * time.Minute

// maxDownloads is how many may take it at once.
const maxDownloads = 32

// downloads gives this very program to those who have none yet: pipelines
// fetch it from their own site and hold it to a digest that was reviewed. It
// is public, since it holds nothing of the site; and only for the platform
// that the site itself runs on, since there is nothing else to give.
type downloads struct {
	path  string // of the program; on Linux a link that outlives a replaced file
	name  string
	slots chan struct{}

	mu  sync.Mutex
	sum string // hex SHA-256, once it is known
}

func newDownloads() *downloads {
	d := &downloads{path: "/proc/self/exe", name: "assay-" + runtime.GOOS + "-" + runtime.GOARCH, slots: make(chan struct{}, maxDownloads)}
	if _, err := os.Stat(d.path); err != nil {
		d.path, _ = os.Executable()
	}
	return d
}

// handler serves GET /download/ (what there is: [client.Download], JSON) and
// GET /download/NAME (the bytes, with ranges).
func (d *downloads) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /download/{$}", func(w http.ResponseWriter, _ *http.Request) {
		item, err := d.item()
		if err != nil {
			http.Error(w, "the program cannot be read; see the server's log", http.StatusInternalServerError)
			return
		}
		api.WriteJSON(w, http.StatusOK, client.List[client.Download]{Items: []client.Download{item}})
	})
	mux.HandleFunc("GET /download/"+d.name, d.serve)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no such program here: GET /download/ lists them; this site runs on "+runtime.GOOS+"/"+runtime.GOARCH+" and has its own program alone", http.StatusNotFound)
	})
	return mux
}

func (d *downloads) serve(w http.ResponseWriter, r *http.Request) {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	default:
		w.Header().Set("Retry-After", "5")
		http.Error(w, strconv.Itoa(maxDownloads)+" downloads are under way; try again in 5 s", http.StatusServiceUnavailable)
		return
	}
	item, err := d.item()
	if err != nil {
		http.Error(w, "the program cannot be read", http.StatusInternalServerError)
		return
	}
	f, err := os.Open(d.path)
	if err != nil {
		http.Error(w, "the program cannot be read", http.StatusInternalServerError)
		return
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", `attachment; filename="assay"`)
	h.Set("ETag", `"sha256:`+item.SHA256+`"`)
	h.Set("Content-Security-Policy", "sandbox")
	http.ServeContent(w, r, "", time.Time{}, f)
}

// item describes the program; it is hashed when somebody asks for the first
// time.
func (d *downloads) item() (client.Download, error) {
	f, err := os.Open(d.path)
	if err != nil {
		return client.Download{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return client.Download{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sum == "" {
		h := sha256.New()
		n, err := io.Copy(h, f)
		if err = errors.Join(err, sizeIs(n, st.Size())); err != nil {
			return client.Download{}, err
		}
		d.sum = hex.EncodeToString(h.Sum(nil))
	}
	return client.Download{Name: d.name, OS: runtime.GOOS, Arch: runtime.GOARCH, Size: st.Size(), SHA256: d.sum}, nil
}

func sizeIs(got, want int64) error {
	if got != want {
		return fault.Newf(fault.Tampered, "the program has %d bytes, %d were read", want, got)
	}
	return nil
}
