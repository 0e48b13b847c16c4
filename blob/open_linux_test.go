package blob

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestOpenBeneath: what openat2 opens is what os.Root would have opened, and where
// openat2 refuses, os.Root decides: it follows a link inside the folder, and none
// that leads out.
func TestOpenBeneath(t *testing.T) {
	d, dir := newDir(t, Options{})
	if d.beneath == nil {
		t.Fatal("the folder has no descriptor: the test shows nothing")
	}
	outside := filepath.Join(t.TempDir(), "secret")
	for name, content := range map[string]string{filepath.Join(dir, "sha256", "real"): "inside", outside: "outside"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"in": "real", "out": outside, "up": "../../" + filepath.Base(filepath.Dir(outside)) + "/secret"} {
		if err := os.Symlink(to, filepath.Join(dir, "sha256", link)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) (string, error) {
		f, err := d.open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		b, err := io.ReadAll(f)
		return string(b), err
	}
	for _, tt := range []struct{ name, want string }{
		{"sha256/real", "inside"}, {"sha256/in", "inside"}, {"sha256/out", ""}, {"sha256/up", ""}, {"../secret", ""}, {outside, ""},
	} {
		if got, err := read(tt.name); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
	if _, err := read("sha256/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
	if err := d.beneath.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := read("sha256/real"); err != nil || got != "inside" {
		t.Errorf("without a descriptor: %q, %v", got, err)
	}
	d.beneath = nil // newDir closes the rest
}
