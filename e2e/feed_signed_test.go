//go:build e2e

package e2e

import (
	"archive/zip"
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestThreat_Feed_Signed: an archive comes into force when who is named signed it,
// as an unmodified cosign does; another archive under that signature, or one that
// somebody else signed, does not, and what is in force stays.
func TestThreat_Feed_Signed(t *testing.T) {
	s := up(t)
	dir := shortTemp(t)
	folder := filepath.Join(dir, "npm")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	root, archive, bundle := filepath.Join(dir, "root.json"), filepath.Join(folder, "all.zip"), filepath.Join(folder, "all.zip.sigstore.json")
	s.assay("trust", "root", "--out", root)
	changed := time.Now().Add(-24 * time.Hour)
	bring := func(fixed string) {
		t.Helper()
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		w, err := z.Create("GHSA-1.json")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(w, `{"id": "GHSA-1", "modified": "2026-01-01T00:00:00Z", "summary": "mended in %s", "affected": [{"package": {"ecosystem": "npm", "name": "left-pad"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": %q}]}]}]}`, fixed, fixed)
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		write(t, archive, b.Bytes())
		changed = changed.Add(time.Hour) // the mirror tells changes by the second alone
		if err := os.Chtimes(archive, changed, changed); err != nil {
			t.Fatal(err)
		}
	}
	sign := func(who string) {
		t.Helper()
		env := s.home(who)
		must(t, env, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", root)
		must(t, env, "cosign", "sign-blob", "--yes", "--identity-token", s.token(who, "sigstore"), "--bundle", bundle, archive)
	}
	mirror := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(mirror.Close)
	shown := func(fixed string) {
		t.Helper()
		if out := s.assay("vuln", "show", "GHSA-1"); !strings.Contains(out, "mended in "+fixed) {
			t.Errorf("in force is not what is mended in %s: %s", fixed, out)
		}
	}
	refusedFor := func(why string) {
		t.Helper()
		r := run(t, s.environ(), s.program(), "feed", "sync", "signed")
		st := run(t, s.environ(), s.program(), "feed", "status") // ends with 1: something failed
		if out := r.stdout + r.stderr + st.stdout; r.code == 0 || st.code == 0 || !strings.Contains(out, why) {
			t.Errorf("exit code %d, want a refusal that says %q: %s", r.code, why, out)
		}
	}

	bring("1.0.1")
	sign(alice)
	s.assay("feed", "add", "signed", mirror.URL, "--ecosystem", "npm", "--allow-private", "--proxy", "none", "--identity", alice, "--issuer", s.Services.OIDC)
	s.assay("feed", "sync", "signed")
	shown("1.0.1")

	bring("0.0.1")
	refusedFor("about another file")
	shown("1.0.1")
	sign(bob)
	refusedFor("signed by")
	shown("1.0.1")
	if err := os.Remove(bundle); err != nil {
		t.Fatal(err)
	}
	refusedFor("is not there")
	shown("1.0.1")

	bring("1.0.2")
	sign(alice)
	s.assay("feed", "sync", "signed")
	shown("1.0.2")
}
