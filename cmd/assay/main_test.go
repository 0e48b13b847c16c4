package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/client"
	"assay/internal/fault"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// explosive is a reader that panics, as a bug deep in a command would.
type explosive struct{}

func (explosive) Read([]byte) (int, error) { panic("a bug") }

// A panic is 70, says what to do, and is never success (CVE-2026-44310).
func TestThreat_CLI_PanicIsNotSuccess(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	var out, errOut bytes.Buffer
	code := Main([]string{"apply", "-f", "-"}, explosive{}, &out, &errOut)
	if code != exitPanic || out.Len() > 0 || !strings.Contains(errOut.String(), "please report it: a bug") {
		t.Errorf("code %d, out %q, err %.200q", code, &out, &errOut)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no space") }

// An answer that could not be written was not given.
func TestThreat_CLI_FailedOutputIsNotSuccess(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	for _, args := range [][]string{{"version"}, {"version", "-o", "json"}, {"version", "-o", "yaml"}} {
		if code := Main(args, strings.NewReader(""), failing{}, io.Discard); code == 0 {
			t.Errorf("%q into a full disk ends in 0", args)
		}
	}
}

func TestEveryCommandHasHelp(t *testing.T) {
	root := newRoot(&app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard})
	names := map[string]bool{}
	walk(root, func(c *cobra.Command) {
		names[c.CommandPath()] = true
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short help %q, want a line without a full stop", c.CommandPath(), c.Short)
		}
		if c.Runnable() && !c.HasSubCommands() && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for line := range strings.Lines(c.Example) {
			if strings.Contains(line, "assay ") && !strings.HasPrefix(strings.TrimSpace(line), "#") {
				known(t, root, c, line)
			}
		}
	})
	for _, want := range []string{"assay up", "assay verify", "assay log monitor", "assay trust export", "assay completion bash"} {
		if !names[want] {
			t.Errorf("there is no %s", want)
		}
	}
}

// known holds an example's command and flags against the tree.
func known(t *testing.T, root, at *cobra.Command, line string) {
	t.Helper()
	_, line, _ = strings.Cut(line, "assay ")
	words := strings.Fields(strings.NewReplacer(")", " ", "|", " | ", `"`, " ").Replace(line))
	c, _, err := root.Find(words)
	if err != nil || c == root {
		t.Errorf("%s: its example has no command: %s", at.CommandPath(), line)
		return
	}
	for _, w := range words {
		if w == "--" || w == "|" || w == "&&" {
			return
		}
		name, long := strings.CutPrefix(w, "--")
		if name, _, _ = strings.Cut(name, "="); long && c.Flags().Lookup(name) == nil && c.InheritedFlags().Lookup(name) == nil {
			t.Errorf("%s: its example has a flag --%s, which %s does not", at.CommandPath(), name, c.CommandPath())
		}
	}
}

const hostileText = "a\x1b[31mb\x07\u009bc\u202ed\x7fe\nALLOWED f\tg\r"

// What others wrote reaches a terminal in no form that it would obey, and reads
// back as what it was where that is promised.
func TestThreat_MetricsLogs_HostileTextIsEscaped(t *testing.T) {
	obeyed := "\x1b\x07\u009b\u202e\x7f\r"
	if got := clean(hostileText); strings.ContainsAny(got, obeyed) || !strings.Contains(got, "\n") {
		t.Errorf("clean: %q", got)
	}
	if got := line(hostileText); strings.ContainsAny(got, obeyed+"\n\t") {
		t.Errorf("line: %q", got)
	}
	value := map[string]any{"text": hostileText, "list": []string{hostileText, ""}, "number": 1, "none": nil, "empty": []string{}, hostileText: true, "date": "2026-01-02", "bool": "true"}
	for _, form := range []string{"json", "yaml"} {
		var out bytes.Buffer
		a := &app{stdout: &out, output: form}
		if err := a.print(value, nil); err != nil {
			t.Fatalf("%s: %v", form, err)
		}
		if strings.ContainsAny(out.String(), obeyed) {
			t.Errorf("%s holds what a terminal obeys: %q", form, out.String())
		}
		var back map[string]any
		var err error
		if form == "json" {
			err = json.Unmarshal(out.Bytes(), &back)
		} else {
			err = yaml.Unmarshal(out.Bytes(), &back)
		}
		if err != nil || back["text"] != hostileText || back[hostileText] != true || back["date"] != "2026-01-02" || back["bool"] != "true" || fmt.Sprint(back["number"]) != "1" {
			t.Errorf("%s does not read back: %v, %q\n%s", form, err, back, out.String())
		}
	}
}

func FuzzPrint(f *testing.F) {
	f.Add(hostileText)
	f.Add("- a: [b, {c: d}] # e\n...\n---")
	f.Fuzz(func(t *testing.T, text string) {
		text = strings.ToValidUTF8(text, "?")
		for _, form := range []string{"json", "yaml"} {
			var out bytes.Buffer
			a := &app{stdout: &out, output: form}
			if err := a.print(map[string]string{"x": text}, nil); err != nil {
				t.Fatal(err)
			}
			if clean(out.String()) != out.String() {
				t.Fatalf("%s of %q: %q", form, text, out.String())
			}
			var back map[string]string
			if err := yaml.Unmarshal(out.Bytes(), &back); form == "yaml" && (err != nil || back["x"] != text) {
				t.Fatalf("%q comes back as %q, %v", text, back["x"], err)
			}
		}
	})
}

// Tokens go to the host that was named, over TLS (CVE-2026-33540).
func TestThreat_Registry_ServerSendsClientsElsewhere(t *testing.T) {
	status := func(public, registry string) *client.Status {
		return &client.Status{PublicURL: public, Services: client.Services{
			Fulcio: public + "/fulcio", Rekor: public + "/rekor", TSA: public + "/tsa", TUF: public + "/tuf", OIDC: public + "/oidc", Registry: registry,
		}}
	}
	for _, tt := range []struct {
		server, public, registry string
		ok                       bool
	}{
		{"https://a.example", "https://a.example", "a.example", true},
		{"https://a.example:8443", "https://a.example", "a.example:5000", true},
		{"http://127.0.0.1:8484", "http://127.0.0.1:8484", "127.0.0.1:8484", true},
		{"http://localhost:8484", "http://127.0.0.1:8484", "127.0.0.1:8484", true},
		{"https://a.example", "https://b.example", "a.example", false},
		{"https://a.example", "https://a.example", "docker.io", false},
		{"https://a.example", "http://a.example", "a.example", false},
		{"https://a.example", "https://a.example.evil.example", "a.example", false},
		{"https://a.example", "https://a.example@evil.example", "a.example", false},
		{"https://a.example", "http://127.0.0.1:1", "a.example", false},
		{"https://a.example", "", "", false},
	} {
		u, err := url.Parse(tt.server)
		if err != nil {
			t.Fatal(err)
		}
		if err := bound(u, status(tt.public, tt.registry)); (err == nil) != tt.ok {
			t.Errorf("%s says that it is %s with registry %s: %v, want ok %v", tt.server, tt.public, tt.registry, err, tt.ok)
		}
	}
}

// The token for reading entries does not go along with a redirect.
func TestThreat_Registry_LogRedirectsTheToken(t *testing.T) {
	leaked := ""
	evil := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { leaked = r.Header.Get("Authorization") }))
	defer evil.Close()
	log := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, evil.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	defer log.Close()
	t.Setenv("ASSAY_API_TOKEN", "secret")
	a := &app{}
	h, err := a.httpClient()
	if err != nil {
		t.Fatal(err)
	}
	s := &session{app: a, http: h, status: &client.Status{PublicURL: log.URL, Services: client.Services{Rekor: log.URL}}}
	c := s.logClient()
	resp, err := c.Get(log.URL + "/tile/entries/000")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusTemporaryRedirect || leaked != "" {
		t.Errorf("status %d, and the other host got %q", resp.StatusCode, leaked)
	}
}

func TestReadToken(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, v := range []string{"a.b.c", put("token", " a.b.c\n")} {
		if got, err := readToken(v); err != nil || got != "a.b.c" {
			t.Errorf("%s: %q, %v", v, got, err)
		}
	}
	for _, v := range []string{put("empty", ""), put("blank", " \n"), put("large", strings.Repeat("x", 1<<20)), filepath.Join(dir, "nosuch"), "nonsense"} {
		if _, err := readToken(v); !errors.Is(err, errUsage) {
			t.Errorf("%s: %v, want a usage error", v, err)
		}
	}
}

func TestGitHubToken(t *testing.T) {
	var asked, bearer string
	body, status := `{"value":"a.b.c"}`, 200
	gh := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked, bearer = r.URL.Query().Get("audience"), r.Header.Get("Authorization")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	defer gh.Close()
	ctx := context.Background()
	if got, err := githubToken(ctx, "sigstore"); got != "" || err != nil {
		t.Errorf("outside GitHub: %q, %v", got, err)
	}
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", gh.URL+"/?x=1")
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "request-secret")
	if got, err := githubToken(ctx, "sigstore"); got != "a.b.c" || err != nil || asked != "sigstore" || bearer != "Bearer request-secret" {
		t.Errorf("%q, %v, asked for %q as %q", got, err, asked, bearer)
	}
	for _, b := range []string{"", "{}", `{"value":""}`, "<html>"} {
		body = b
		if _, err := githubToken(ctx, "sigstore"); !errors.Is(err, fault.Unavailable) || strings.Contains(err.Error(), "request-secret") {
			t.Errorf("answer %q: %v", b, err)
		}
	}
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "http://github.example/")
	if _, err := githubToken(ctx, "sigstore"); !errors.Is(err, fault.Invalid) {
		t.Errorf("in the clear: %v", err)
	}
}

func TestPredicateNames(t *testing.T) {
	for _, p := range predicateNames {
		if got, err := predicateURI(p.name); err != nil || !strings.Contains(got, "://") {
			t.Errorf("%s: %q, %v", p.name, got, err)
		}
	}
	for _, bad := range []string{"", "nosuch", "SPDX"} {
		if _, err := predicateURI(bad); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v, want a usage error", bad, err)
		}
	}
}
