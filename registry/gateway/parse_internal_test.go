package gateway

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzNotice: whatever stands in a notice, it names a bounded number of places,
// and nothing panics.
func FuzzNotice(f *testing.F) {
	files, err := filepath.Glob("testdata/notices/*.json")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		provider, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(name), ".json"), "-")
		f.Add(provider, b)
	}
	f.Fuzz(func(t *testing.T, provider string, body []byte) {
		parse, ok := parsers[provider]
		if !ok {
			return
		}
		list, err := parse(http.Header{"X-Github-Event": {"package"}}, body)
		if err != nil && len(list) > 0 || len(list) > maxPlaces {
			t.Fatalf("%d places, %v", len(list), err)
		}
		for _, p := range list {
			_, _ = aboutDigest(p.tag)
		}
	})
}
