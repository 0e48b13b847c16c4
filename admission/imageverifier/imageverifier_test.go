package imageverifier

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/admission"
	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/policy"
)

var (
	good    = artifact.SHA256Of([]byte("good"))
	bad     = artifact.SHA256Of([]byte("bad"))
	revoked = artifact.SHA256Of([]byte("revoked"))
	pause   = artifact.SHA256Of([]byte("pause"))
)

func args(name string, d artifact.Digest) []string {
	return []string{"-name", name, "-digest", string(d), "-stdin-media-type", MediaTypeDescriptor}
}

func desc(d artifact.Digest) string {
	return fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":7}`, d)
}

// TestThreat_Admission_VerifierCalls: a call that contradicts itself, or is not
// as containerd documents it, is no question.
func TestThreat_Admission_VerifierCalls(t *testing.T) {
	if c, err := ParseCall(args("nginx", good), strings.NewReader(desc(good))); err != nil || c.Reference.String() != "docker.io/library/nginx:latest@"+string(good) {
		t.Fatalf("%+v %v", c, err)
	}
	if _, err := ParseCall([]string{"--name=r.example/a:v1", "-digest=" + string(good), "--stdin-media-type", MediaTypeDescriptor}, strings.NewReader(desc(good))); err != nil {
		t.Error(err)
	}
	ok := args("r.example/a:v1", good)
	for name, c := range map[string]struct {
		args  []string
		stdin string
		want  string
	}{
		"nothing":                {nil, desc(good), "arguments are missing"},
		"a flag of no value":     {append(ok, "-name"), desc(good), "has no value"},
		"a flag twice":           {append(ok, "-digest", string(good)), desc(good), "want it once"},
		"another flag":           {append(ok, "-insecure"), desc(good), "is not known"},
		"a word":                 {append(ok, "x"), desc(good), "is not known"},
		"an empty name":          {args("", good), desc(good), "-name: want it once"},
		"a name too long":        {args(strings.Repeat("a", maxArg+1), good), desc(good), "-name: want it once"},
		"no reference":           {args("r.example/A B", good), desc(good), "-name"},
		"no digest":              {args("r.example/a:v1", "sha256:1"), desc(good), "-digest"},
		"another media type":     {[]string{"-name", "r.example/a:v1", "-digest", string(good), "-stdin-media-type", "text/plain"}, desc(good), "want " + MediaTypeDescriptor},
		"the name's digest":      {args("r.example/a@"+string(bad), good), desc(good), "what came is"},
		"the descriptor's":       {ok, desc(bad), "the descriptor's is"},
		"a member twice":         {ok, `{"digest":"` + string(bad) + `","digest":"` + string(good) + `"}`, "want an OCI descriptor"},
		"no JSON":                {ok, "{", "want an OCI descriptor"},
		"nothing on input":       {ok, "", "want an OCI descriptor"},
		"a negative size":        {ok, strings.Replace(desc(good), `"size":7`, `"size":-1`, 1), "size -1"},
		"more input than that":   {ok, strings.Repeat(" ", MaxStdin+1), "are no descriptor"},
		"a control character in": {args("r.example/a:v1\n", good), desc(good), "-name"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseCall(c.args, strings.NewReader(c.stdin)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func FuzzParseCall(f *testing.F) {
	f.Add("r.example/a:v1", string(good), desc(good))
	f.Add("r.example/a@"+string(bad), string(good), "{}")
	f.Fuzz(func(t *testing.T, name, d, stdin string) {
		c, err := ParseCall(args(name, artifact.Digest(d)), strings.NewReader(stdin))
		if err == nil && (string(c.Digest) != d || c.Reference.Digest != c.Digest || c.Digest.Validate() != nil) {
			t.Errorf("%+v of %q %q", c, name, d)
		}
	})
}

// node is a verifier, an authority, and a server that can be taken away.
type node struct {
	t         *testing.T
	v         *Verifier
	key       *ecdsa.PrivateKey
	authority []byte
	now       time.Time
	srv       *httptest.Server

	mu      sync.Mutex // of what the server reads too
	up      bool
	bundle  []byte
	hangs   bool // when a bundle is asked for
	fetches int
	records []map[string]any
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, now: time.Now(), up: true}
	var err error
	if n.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "ca.pem")
	ca, err := admission.OpenAuthority(file, n.key, []string{"127.0.0.1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	n.authority = ca.PEM()
	n.srv = httptest.NewServer(http.HandlerFunc(n.serve))
	t.Cleanup(n.srv.Close)
	c := &Config{
		APIVersion: "assay/v1", Kind: "ImageVerifier", Server: n.srv.URL, Authority: file, Cluster: "c1", Node: "n1", State: filepath.Join(dir, "state"),
		Bootstrap: []Bootstrap{{pause, "pause"}, {revoked, "was once"}},
	}
	if err := c.settle(); err != nil {
		t.Fatal(err)
	}
	if n.v, err = New(c, func() time.Time { return n.now }, nil); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) set(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

func (n *node) serve(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.up {
		panic(http.ErrAbortHandler)
	}
	switch r.URL.Path {
	case "/api/v1/admission/node":
		var q struct{ Reference string }
		_ = json.NewDecoder(r.Body).Decode(&q)
		reply := admission.ReplyOf(nil, fault.Newf(fault.Undecided, "the database does not answer"))
		if strings.HasSuffix(q.Reference, string(good)) {
			reply = admission.ReplyOf(&admission.Answer{Digest: good, Verdict: policy.Allow, Mode: policy.Enforce, Decision: "dec_1", Policy: "p"}, nil)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(reply)
	case "/api/v1/admission/bundle":
		n.fetches++
		if n.hangs {
			_, _ = io.Copy(io.Discard, r.Body) // so that the caller's leaving is noticed
			<-r.Context().Done()
			return
		}
		_, _ = w.Write(n.bundle)
	case "/api/v1/admission/records":
		var q struct{ Records []map[string]any }
		_ = json.NewDecoder(r.Body).Decode(&q)
		n.records = append(n.records, q.Records...)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("{}"))
	}
}

// seal makes a bundle that allows good in namespace shop for a day.
func (n *node) seal(version int64, key *ecdsa.PrivateKey) []byte {
	n.t.Helper()
	entry := func(d artifact.Digest, allow bool, namespace string, until time.Duration) admission.Entry {
		return admission.Entry{Digest: d, Scope: admission.Place{Cluster: "c1", Namespace: namespace}.ScopeID("shop/app"), Allow: allow, Mode: policy.Enforce, Decision: "dec_" + d.Hex()[:4], Reason: "not signed", Until: n.now.Add(until).Unix()}
	}
	b := &admission.Bundle{
		Version: version, Cluster: "c1", Issued: n.now, Expires: n.now.Add(admission.BundleLife), Hosts: []string{"r.example"},
		Entries: []admission.Entry{entry(good, false, "other", time.Hour), entry(good, true, "shop", 24*time.Hour), entry(bad, false, "shop", time.Hour), entry(revoked, true, "shop", time.Hour)},
		Blocked: []admission.Blocked{{Digest: revoked, Reason: "revoked: stolen key"}},
	}
	raw, err := b.Seal(context.Background(), key)
	if err != nil {
		n.t.Fatal(err)
	}
	return raw
}

func (n *node) ask(name string, d artifact.Digest) Judgement {
	n.t.Helper()
	c, err := ParseCall(args(name, d), strings.NewReader(desc(d)))
	if err != nil {
		n.t.Fatal(err)
	}
	defer n.set(func() {}) // the server has ended with it
	return n.v.Verify(n.t.Context(), c)
}

func (n *node) expect(what string, j Judgement, ok bool, want string) {
	n.t.Helper()
	if j.OK != ok || !strings.Contains(j.Reason, want) || len(j.Reason) > MaxReason || strings.Contains(j.Reason, "\n") {
		n.t.Errorf("%s: %t %q, want %t %q", what, j.OK, j.Reason, ok, want)
	}
}

// TestThreat_Admission_NodeOutage: without the server what it signed counts, for
// as long as it holds, and nothing else does.
func TestThreat_Admission_NodeOutage(t *testing.T) {
	n := newNode(t)
	n.set(func() { n.bundle = n.seal(7, n.key) })
	n.expect("allowed by the server", n.ask("r.example/shop/app:v1", good), true, "decision dec_1")
	n.expect("undecided at the server", n.ask("r.example/shop/app:v1", bad), false, "could not be decided")
	if v, err := n.v.Refresh(t.Context()); err != nil || v != 7 {
		t.Fatalf("%d %v", v, err)
	}
	n.set(func() { n.up = false })
	n.expect("allowed before", n.ask("r.example/shop/app:v1", good), true, "by the bundle of")
	n.expect("denied before", n.ask("r.example/shop/app:v1", bad), false, "not signed")
	n.expect("revoked", n.ask("r.example/shop/app:v1", revoked), false, "stolen key")
	n.expect("of another repository", n.ask("r.example/shop/other:v1", good), false, "no decision that still holds")
	n.expect("of another registry", n.ask("docker.io/shop/app:v1", good), false, "of registry docker.io")
	n.expect("unknown", n.ask("r.example/shop/app:v1", artifact.SHA256Of([]byte("x"))), false, "no decision that still holds")
	n.expect("bootstrap", n.ask("registry.k8s.io/pause:3.10", pause), true, "bootstrap list: pause")
	n.now = n.now.Add(2 * time.Hour)
	n.expect("allowed, after the bundle's life", n.ask("r.example/shop/app:v1", good), true, "by the bundle of")
	n.expect("revoked, after that", n.ask("r.example/shop/app:v1", revoked), false, "stolen key")
	n.expect("denied, after that", n.ask("r.example/shop/app:v1", bad), false, "no decision that still holds")
	n.now = n.now.Add(23 * time.Hour)
	n.expect("after the decision's end", n.ask("r.example/shop/app:v1", good), false, "no decision that still holds")
	// What was answered meanwhile is told, once.
	n.set(func() { n.up = true })
	n.expect("up again", n.ask("r.example/shop/app:v1", good), true, "decision dec_1")
	if len(n.records) != 11 {
		t.Errorf("%d events were handed on", len(n.records))
	}
	for _, r := range n.records {
		if b := r["body"].(map[string]any); b["door"] != admission.DoorContainerd || b["object"] != "Node n1" || r["actor"] != "node/n1" {
			t.Errorf("%v", r)
		}
	}
	n.ask("r.example/shop/app:v1", good)
	if len(n.records) != 11 || n.v.state.waiting() {
		t.Errorf("%d events after another call", len(n.records))
	}
	n.v.c.Audit = true
	n.expect("in audit", n.ask("r.example/shop/app:v1", bad), true, "would be refused")
}

// TestThreat_Admission_NodeRollback: an older bundle, one of another key or
// cluster, and one that was altered do not replace what was seen.
func TestThreat_Admission_NodeRollback(t *testing.T) {
	n := newNode(t)
	old := n.seal(6, n.key)
	n.set(func() { n.bundle = n.seal(7, n.key) })
	if _, err := n.v.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		raw  []byte
		kind *fault.Kind
	}{"older": {old, fault.Conflict}, "of another key": {n.seal(9, other), fault.Tampered}, "cut": {n.seal(9, n.key)[:100], fault.Tampered}} {
		n.set(func() { n.bundle = c.raw })
		if _, err := n.v.Refresh(t.Context()); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b, err := n.v.state.bundle(n.authority, "c1"); err != nil || b.Version != 7 {
		t.Fatalf("%+v %v", b, err)
	}
	// Put back on the disk, beside the number that was seen.
	if err := os.WriteFile(n.v.state.path(fileBundle), old, 0o600); err != nil {
		t.Fatal(err)
	}
	n.set(func() { n.up = false })
	n.expect("put back", n.ask("r.example/shop/app:v1", good), false, "and 7 was seen")
	if err := os.WriteFile(n.v.state.path(fileSeen), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.expect("the number altered", n.ask("r.example/shop/app:v1", good), false, "want the number of a bundle")
}

// TestBundleThatDoesNotCome: a server that answers and gives no bundle holds one
// pull of a minute, not each.
func TestBundleThatDoesNotCome(t *testing.T) {
	n := newNode(t)
	n.v.c.Timeout = 500 * time.Millisecond
	n.set(func() { n.hangs = true })
	for range 3 {
		n.expect("while bundles hang", n.ask("r.example/shop/app:v1", good), true, "decision dec_1")
	}
	if n.fetches != 1 {
		t.Errorf("%d times it was asked for a bundle", n.fetches)
	}
	then := time.Now().Add(-tryAgain)
	if err := os.Chtimes(n.v.state.path(fileTried), then, then); err != nil {
		t.Fatal(err)
	}
	n.set(func() { n.hangs, n.bundle = false, n.seal(7, n.key) })
	n.expect("a minute later", n.ask("r.example/shop/app:v1", good), true, "decision dec_1")
	if b, err := n.v.state.bundle(n.authority, "c1"); err != nil || b == nil || b.Version != 7 || n.fetches != 2 {
		t.Errorf("%+v %v after %d", b, err, n.fetches)
	}
	// What went well is no hindrance when the next one is due.
	if err := os.Chtimes(n.v.state.path(fileSeen), then.Add(-time.Hour), then.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	n.set(func() { n.bundle = n.seal(8, n.key) })
	n.ask("r.example/shop/app:v1", good)
	if b, err := n.v.state.bundle(n.authority, "c1"); err != nil || b.Version != 8 {
		t.Errorf("%+v %v", b, err)
	}
}

// TestEventsAreBounded: what waits has an end, and a line that was cut hinders
// nothing.
func TestEventsAreBounded(t *testing.T) {
	s, err := openState(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	e := event.Event{Kind: event.AdmissionDenied, Digest: good, Body: map[string]any{"reason": "x"}}
	if err := s.queue(e); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.path(fileRecords), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString(`{"kind":"adm` + "\n")
	f.Close()
	got := 0
	fail := errors.New("down")
	if err := s.handOn(func([]record) error { return fail }); !errors.Is(err, fail) {
		t.Error(err)
	}
	if err := s.handOn(func(l []record) error { got += len(l); return nil }); err != nil || got != 1 {
		t.Errorf("%d %v", got, err)
	}
	if err := os.WriteFile(s.path(fileRecords), make([]byte, maxRecords), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.queue(e); !errors.Is(err, fault.NoSpace) {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	const head = "apiVersion: assay/v1\nkind: ImageVerifier\n"
	for name, c := range map[string]struct{ text, want string }{
		"right":            {head + "server: https://a.example\nauthority: /ca.pem\ncluster: c1\n", ""},
		"http":             {head + "server: http://a.example\nauthority: /ca.pem\ncluster: c1\n", "want https"},
		"no cluster":       {head + "server: https://a.example\nauthority: /ca.pem\n", "cluster"},
		"no authority":     {head + "server: https://a.example\ncluster: c1\n", "authority"},
		"a relative state": {head + "server: https://a.example\nauthority: /ca.pem\ncluster: c1\nstate: x\n", "absolute"},
		"too slow":         {head + "server: https://a.example\nauthority: /ca.pem\ncluster: c1\ntimeout: 2h\n", "timeout"},
		"a loose image":    {head + "server: https://a.example\nauthority: /ca.pem\ncluster: c1\nbootstrap: [{digest: pause, reason: x}]\n", "bootstrap[0]"},
		"no reason":        {head + "server: https://a.example\nauthority: /ca.pem\ncluster: c1\nbootstrap: [{digest: \"" + string(pause) + "\"}]\n", "bootstrap[0]"},
		"another kind":     {"apiVersion: assay/v1\nkind: Config\nserver: https://a.example\n", "ImageVerifier"},
		"an unknown field": {head + "serve: https://a.example\n", "serve"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "c.yaml")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(path)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if err := os.Chmod(path, 0o666); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(path); err == nil {
				t.Error("others could change it")
			}
		})
	}
}
