package assess

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"assay/artifact"
	"assay/verify"
	"assay/vuln/finding"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"
)

// TestFixes: each step turns most of what is left; where none turns any, it brings most
// of them nearest. What was not given to the look mends nothing, and is told.
func TestFixes(t *testing.T) {
	n := func(fix string) need { return need{cause: "no " + fix, fix: fix, decided: true} }
	deny := func(needs ...need) *Digest {
		return &Digest{Verdict: "deny", Images: []string{"i"}, needs: needs, Causes: make([]string, len(needs))}
	}
	bom := n("bom")
	bom.opens = true
	all := []*Digest{
		deny(n("sign")), deny(n("sign")), deny(n("upgrade")), deny(n("sign"), bom), deny(n("sign"), bom), deny(n("sign"), bom),
		{Verdict: "unknown", needs: []need{{cause: "claimed", fix: "root"}}}, {Verdict: "allow"},
	}
	want := []Fix{
		{Fix: "sign", Digests: 5, Turns: 2, Sum: 2, Images: []string{"i"}},
		{Fix: "bom", Digests: 3, Turns: 3, Sum: 5, AtMost: true, Images: []string{"i"}},
		{Fix: "upgrade", Digests: 1, Turns: 1, Sum: 6, AtMost: true, Images: []string{"i"}},
	}
	if diff := cmp.Diff(want, fixes(all)); diff != "" {
		t.Error(diff)
	}
	all = append(all, deny(n("take out"), need{cause: "not looked up", fix: "feeds"}))
	if got := fixes(all); !got[0].AtMost || got[2].Fix != "take out" || got[len(got)-1].Sum != 7 {
		t.Errorf("%+v", got)
	}
	wantCauses := []Cause{{"no sign", 5, 2, true}, {"no bom", 3, 0, true}, {"claimed", 1, 0, false}, {"no take out", 1, 0, true}, {"no upgrade", 1, 1, true}, {"not looked up", 1, 0, false}}
	if diff := cmp.Diff(wantCauses, causes(all)); diff != "" {
		t.Error(diff)
	}
	if got := fixes(nil); got == nil || len(got) != 0 {
		t.Errorf("%v", got)
	}
}

// TestThreat_UI_AssessmentPage: what others wrote is text in the page: no element, no
// attribute, no address that is loaded, nothing that turns the direction of writing.
func TestThreat_UI_AssessmentPage(t *testing.T) {
	hostile := "</td></table><script>window.pwned=1</script><img src=x onerror=alert(1)>\u202e\x1b]0;x\x07\n{{.}}"
	r := &Run{o: Options{}, of: map[string]*subject{}}
	if err := (&r.o).defaults(); err == nil {
		t.Fatal("options without a client are taken")
	}
	d := &Digest{Images: []string{text(hostile, 300)}, Where: []string{text(hostile, 300)}, Verdict: "deny", Causes: []string{text(hostile, 100)}, Signers: []string{text(hostile, 100)}, Problem: text(hostile, 300)}
	d.danger(&finding.Finding{Component: hostile, Name: hostile, KEV: hostile, Fixed: hostile, Status: "affected"}, "sbom")
	rep := &Report{
		Sources: []Source{{Kind: "cluster", Name: hostile}}, Incomplete: hostile, Policy: Judged{Name: hostile, Signers: []string{hostile}}, Trust: Trust{Roots: []string{hostile}},
		Advisories: Lists{Given: true, From: hostile, Feeds: []string{hostile}}, Signers: []Signer{{Identity: hostile, Issuer: hostile, Root: hostile}}, Claims: []Claim{{Identity: hostile, Reason: hostile}},
		Moved: []Tag{{Image: hostile, Running: artifact.Digest(hostile), Reason: hostile, Where: []string{hostile}}}, Dangers: d.dangers,
		Causes: []Cause{{Cause: hostile}}, Fixes: []Fix{{Fix: hostile, Images: []string{hostile}}}, Digests: []Digest{*d},
	}
	b, err := rep.HTML()
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{"lang": true, "charset": true, "name": true, "content": true, "http-equiv": true, "aria-labelledby": true, "id": true, "class": true, "scope": true, "tabindex": true, "role": true}
	z := html.NewTokenizer(strings.NewReader(string(b)))
	for {
		switch z.Next() {
		case html.ErrorToken:
			if z.Err() != io.EOF {
				t.Error(z.Err())
			}
			return
		case html.StartTagToken, html.SelfClosingTagToken:
			tok := z.Token()
			switch tok.Data {
			case "script", "img", "link", "iframe", "object", "form", "a":
				t.Errorf("the page has a <%s>", tok.Data)
			}
			for _, a := range tok.Attr {
				if !allowed[a.Key] || strings.Contains(a.Val, "pwned") || strings.Contains(a.Val, "://") {
					t.Errorf("<%s %s=%q>", tok.Data, a.Key, a.Val)
				}
			}
		}
	}
}

// TestText: bounded, of one line, and nothing that a terminal or a page would obey.
func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "a\nb": "a\uFFFDb", "a\u202eb": "a\uFFFDb", "\xff": "\uFFFD", strings.Repeat("x", 30): strings.Repeat("x", 20) + "…",
		strings.Repeat("ü", 20): strings.Repeat("ü", 10) + "…",
	} {
		if got := text(in, 20); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestReference(t *testing.T) {
	for in, want := range map[string]string{
		"nginx": "docker.io/library/nginx:latest", "nginx:1.27": "docker.io/library/nginx:1.27", "acme/app": "docker.io/acme/app:latest",
		"index.docker.io/acme/app:v1": "docker.io/acme/app:v1", "registry-1.docker.io/nginx": "docker.io/library/nginx:latest", "localhost/app:v1": "localhost/app:v1",
		"r.example:5000/a/b@sha256:" + strings.Repeat("0", 64): "r.example:5000/a/b@sha256:" + strings.Repeat("0", 64),
		"UPPER/case:v1": "", "": "", "a b": "", "r.example/a:b:c@d": "",
	} {
		got, err := reference(in)
		if (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("%q: %v, %v, want %q", in, got, err, want)
		}
	}
	if got := dialed(artifact.Reference{Host: "docker.io", Repository: "library/nginx"}); got.Host != "index.docker.io" {
		t.Errorf("%v", got)
	}
}

// FuzzReference: whatever a Pod names is a reference or an error, and a reference reads
// as itself.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"nginx", "docker.io/a/b:c", "r.example:5000/a@sha256:" + strings.Repeat("0", 64), "\x00", "a/b/c/d:e@f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := reference(s)
		if err != nil {
			return
		}
		if again, err := reference(r.String()); err != nil || again != r {
			t.Errorf("%q: %v, read again %v, %v", s, r, again, err)
		}
	})
}

// FuzzClaims: what a registry holds is taken apart in bounded time, whatever it is, and
// nothing of it is about another artifact.
func FuzzClaims(f *testing.F) {
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`), []byte(`{}`))
	f.Add([]byte("\xd2\x84"), []byte(`{"critical":{"image":{"docker-manifest-digest":"sha256:00"}}}`))
	of := artifact.SHA256Of([]byte("x"))
	f.Fuzz(func(t *testing.T, bundle, payload []byte) {
		for id, c := range read([]verify.Item{{Bundle: bundle, Payload: payload}}, of) {
			if c.id != id || fmt.Sprint(c.identity) == "" || len(c.identity) > 400 || c.why() == "" {
				t.Errorf("%+v", c)
			}
		}
	})
}
