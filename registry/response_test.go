package registry

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A file arrives whole and counted, in whole or by range, with a buffer and by
// sendfile, and every buffer is given back.
func TestResponseSendsFiles(t *testing.T) {
	content := make([]byte, sendPiece+1<<20+12345)
	_, _ = rand.Read(content)
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, used := range []int{0, newSendBuffers().Max} {
		bufs := newSendBuffers()
		for range used {
			bufs.Get()
		}
		var out int64
		done := make(chan struct{}, 1)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f, err := os.Open(path)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			rw := newResponse(w, time.Minute, bufs)
			http.ServeContent(rw, r, "", time.Now(), f)
			out = rw.out
			done <- struct{}{}
		}))
		defer s.Close()
		for _, c := range []struct {
			header string
			from   int
			to     int
		}{{"", 0, len(content)}, {"bytes=5-", 5, len(content)}, {"bytes=1048570-9437190", 1048570, 9437191}, {"bytes=7-7", 7, 8}} {
			t.Run(fmt.Sprintf("used=%d %s", used, c.header), func(t *testing.T) {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
				if err != nil {
					t.Fatal(err)
				}
				if c.header != "" {
					req.Header.Set("Range", c.header)
				}
				res, err := s.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				got, err := io.ReadAll(res.Body)
				if err != nil {
					t.Fatal(err)
				}
				<-done
				if want := content[c.from:c.to]; !bytes.Equal(got, want) {
					t.Fatalf("%d bytes %x, want %d bytes %x", len(got), sha256.Sum256(got), len(want), sha256.Sum256(want))
				}
				if out != int64(len(got)) {
					t.Errorf("%d bytes counted, want %d", out, len(got))
				}
			})
		}
		free := 0
		for bufs.Get() != nil {
			free++
		}
		if want := bufs.Max - used; free != want {
			t.Errorf("%d buffers are free after it, want %d", free, want)
		}
	}
}
