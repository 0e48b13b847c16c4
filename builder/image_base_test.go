package builder

import (
	"archive/tar"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"encoding/pem"

	"assay/internal/fault"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

func testCertificate(t *testing.T) []byte {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// The same product and certificates are one image, wherever they lie; nothing in it
// but the program runs, and it does not run as root.
func TestImageOn(t *testing.T) {
	certs := testCertificate(t)
	var digests []string
	for range 2 {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "assay"), []byte("a static program"), 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := HashFile(dir, "assay")
		if err != nil {
			t.Fatal(err)
		}
		r := &Run{Products: []File{f}}
		img, err := r.ImageOn(dir, Base{Certificates: certs})
		if err != nil {
			t.Fatal(err)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d.String())
		cfg, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Config.User != "65532:65532" || len(cfg.RootFS.DiffIDs) != 2 || !cfg.Created.Time.IsZero() && cfg.Created.Unix() != 0 {
			t.Errorf("user %q, %d layers, made %s", cfg.Config.User, len(cfg.RootFS.DiffIDs), cfg.Created)
		}
		flat := mutate.Extract(img)
		got := map[string]string{}
		for tr := tar.NewReader(flat); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 || h.Mode&0o6000 != 0 {
				t.Errorf("%s: owner %d:%d, time %s, mode %o", h.Name, h.Uid, h.Gid, h.ModTime, h.Mode)
			}
			if h.Typeflag != tar.TypeDir {
				b, _ := io.ReadAll(tr)
				got[h.Name] = string(b)
			}
		}
		flat.Close()
		want := map[string]string{"usr/local/bin/assay": "a static program", "etc/group": imageGroup, "etc/passwd": imagePasswd, "etc/ssl/certs/ca-certificates.crt": string(certs)}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("files (-want +got):\n%s", d)
		}
	}
	if digests[0] != digests[1] {
		t.Errorf("two builds, two digests: %v", digests)
	}
}

func TestImageOnRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := HashFile(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	r := &Run{Products: []File{f}}
	good := string(testCertificate(t))
	for text, want := range map[string]string{
		"":         "want PEM",
		"nonsense": "want PEM",
		good + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n": "PRIVATE KEY",
		"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n":        "number 1",
		strings.Repeat("x", maxCertificates+1):                                  "at most",
	} {
		if _, err := r.ImageOn(dir, Base{Certificates: []byte(text)}); err == nil || fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
}
