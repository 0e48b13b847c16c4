//go:build e2e

package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"assay/sbom"
)

const padBOM = `{"bomFormat":"CycloneDX","specVersion":"1.5","serialNumber":"urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79","version":1,
"metadata":{"timestamp":"2026-01-01T00:00:00Z","tools":[{"vendor":"OWASP","name":"Dependency-Track","version":"4.12.0"}],"component":{"name":"shop","version":"1.0","type":"application","bom-ref":"7b1ffb4c-1d9d-4e2c-9a8b-0e2f6c1f4b11"}},
"components":[{"name":"left-pad","version":"1.0.0","purl":"pkg:npm/left-pad@1.0.0","type":"library","bom-ref":"a6c05c48-0e7e-4b0e-8d0c-2f4b6c1f4b12"}]}`

// TestDependencyTrackClients: jobs that send bills of materials to Dependency-Track
// send the same requests here. The shapes are those of the Jenkins plugin, of
// DependencyTrack/gh-upload-sbom and of curl as its documentation has it.
func TestDependencyTrackClients(t *testing.T) {
	s := up(t)
	token := strings.TrimSpace(s.assay("token", "--subject", "ci@example.com", "--audience", "assay-api"))
	send := func(method, path, contentType, key string, body []byte) (int, map[string]any) {
		req, err := http.NewRequestWithContext(t.Context(), method, s.PublicURL+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Key", key)
		if contentType != "" {
			req.Header.Set("Content-Type", contentType)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		var out map[string]any
		_ = json.Unmarshal(b, &out)
		if res.StatusCode != 200 {
			out = map[string]any{"body": string(b)}
		}
		return res.StatusCode, out
	}
	b64 := base64.StdEncoding.EncodeToString([]byte(padBOM))
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	for k, v := range map[string]string{"autoCreate": "true", "projectName": "curl", "projectVersion": "1.0"} {
		_ = w.WriteField(k, v)
	}
	part, _ := w.CreateFormFile("bom", "bom.json")
	_, _ = part.Write([]byte(padBOM))
	w.Close()
	for name, ask := range map[string]struct {
		method, contentType string
		body                []byte
	}{
		"jenkins": {"PUT", "application/json; charset=utf-8", fmt.Appendf(nil, `{"autoCreate":true,"projectName":"jenkins","projectVersion":"1.0","projectTags":[{"name":"ci"}],"isLatest":true,"bom":%q}`, b64)},
		"action":  {"PUT", "application/json", fmt.Appendf(nil, `{"autoCreate":true,"bom":%q,"projectName":"action","projectVersion":"main","parentName":"all","parentVersion":"1"}`, b64)},
		"curl":    {"POST", w.FormDataContentType(), form.Bytes()},
	} {
		status, out := send(ask.method, "/api/v1/bom", ask.contentType, token, ask.body)
		upload, _ := out["token"].(string)
		if status != 200 || len(upload) != 36 {
			t.Fatalf("%s: %d %v", name, status, out)
		}
		until := time.Now().Add(20 * time.Second)
		for {
			status, out := send("GET", "/api/v1/bom/token/"+upload, "", token, nil)
			if status != 200 {
				t.Fatalf("%s: %d %v", name, status, out)
			}
			if out["processing"] == false {
				break
			}
			if time.Now().After(until) {
				t.Fatalf("%s: still being processed", name)
			}
			time.Sleep(50 * time.Millisecond)
		}
		if status, _ := send(ask.method, "/api/v1/bom", ask.contentType, "", ask.body); status != 401 {
			t.Errorf("%s without a key: %d", name, status)
		}
		if status, _ := send(ask.method, "/api/v1/bom", ask.contentType, "odt_nonsense", ask.body); status != 401 {
			t.Errorf("%s with another's key: %d", name, status)
		}
	}
	if status, out := send("PUT", "/api/v1/bom", "application/json", token, []byte(`{"projectName":"x","bom":"PGh0bWw+"}`)); status != 400 {
		t.Errorf("no document: %d %v", status, out)
	}
	// It is about a name: no artifact has evidence by it, and it is found.
	where := s.assay("sbom", "search", "pkg:npm/left-pad", "-o", "json", "--limit", "1000")
	for _, project := range [][2]string{{"jenkins", "1.0"}, {"action", "main"}, {"curl", "1.0"}} {
		if !strings.Contains(where, string(sbom.ProjectSubject(project[0], project[1]))) {
			t.Errorf("%v is not among\n%s", project, where)
		}
	}

	// The same site takes over what a Dependency-Track holds.
	dt := dependencyTrack(t)
	dir := shortTemp(t)
	state, vex := filepath.Join(dir, "state"), filepath.Join(dir, "vex.json")
	env := append(s.environ(), "DEPENDENCY_TRACK_API_KEY=odt_key")
	r := run(t, env, s.program(), "import", "dependency-track", dt.URL, "--state", state, "--vex", vex, "-o", "json")
	var report struct {
		Projects   int      `json:"projects"`
		BOMs       int      `json:"boms"`
		Done       int      `json:"done_before"`
		Statements int      `json:"statements"`
		NotTaken   []string `json:"not_taken_over"`
		Failed     []string `json:"failed"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || r.code != 1 || report.Projects != 103 || report.BOMs != 101 || report.Statements != 1 || len(report.NotTaken) != 2 || len(report.Failed) != 1 {
		t.Fatalf("%d %v\n%s%s", r.code, err, r.stdout, r.stderr)
	}
	b, err := os.ReadFile(vex)
	if err != nil || !strings.Contains(string(b), "vulnerable_code_not_in_execute_path") || !strings.Contains(string(b), "pkg:npm/left-pad@1.0.0") {
		t.Errorf("%s, %v", b, err)
	}
	if where := s.assay("sbom", "search", "pkg:npm/left-pad", "-o", "json", "--limit", "1000"); !strings.Contains(where, string(sbom.ProjectSubject("shop-3", "1.0"))) {
		t.Errorf("shop-3 is not among\n%.2000s", where)
	}
	// Again: what is done is done, what failed is tried once more.
	r = run(t, env, s.program(), "import", "dependency-track", dt.URL, "--state", state, "--vex", vex, "-o", "json")
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || report.BOMs != 0 || report.Done != 102 {
		t.Errorf("again: %d %v\n%s%s", r.code, err, r.stdout, r.stderr)
	}
	// What was decided there is stated here, once, and findings honour it; decided
	// otherwise, it is stated anew.
	project := string(sbom.ProjectSubject("shop-3", "1.0"))
	dt.mended.Store(true)
	advisories := filepath.Join(dir, "advisories")
	if err := os.Mkdir(advisories, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 2; i++ {
		write(t, filepath.Join(advisories, fmt.Sprintf("GHSA-%d.json", i)), fmt.Appendf(nil, `{"id": "GHSA-%d", "modified": "2024-01-01T00:00:00Z", "aliases": ["CVE-2024-000%[1]d"],
			"affected": [{"package": {"ecosystem": "npm", "name": "left-pad"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}]}]}`, i))
	}
	s.assay("feed", "import", "--name", "moved", "--ecosystem", "npm", advisories)
	for _, step := range []struct {
		adopted, withdrawn int
		state, statement   string
	}{{1, 0, "NOT_AFFECTED", "not_affected"}, {0, 0, "NOT_AFFECTED", "not_affected"}, {1, 1, "IN_TRIAGE", "under_investigation"}, {0, 1, "NOT_SET", ""}} {
		dt.state.Store(step.state)
		r := run(t, env, s.program(), "import", "dependency-track", dt.URL, "--state", state, "--adopt", "--until", "90d", "--repository", "shop-3=team/shop", "-o", "json")
		var report struct{ Adopted, Withdrawn int }
		if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || report.Adopted != step.adopted || report.Withdrawn != step.withdrawn {
			t.Errorf("%s: adopted %d, withdrawn %d: %s %s", step.state, report.Adopted, report.Withdrawn, r.stdout, r.stderr)
		}
		var found struct {
			Items []struct {
				Name      string
				Statement *struct{ Status, Author string }
			}
		}
		for end := time.Now().Add(20 * time.Second); len(found.Items) != 2 && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			list := run(t, s.environ(), s.program(), "vuln", "list", project, "-o", "json")
			if err := json.Unmarshal([]byte(list.stdout), &found); err != nil {
				t.Fatalf("%v: %s%s", err, list.stdout, list.stderr)
			}
		}
		got := map[string]string{}
		for _, f := range found.Items {
			if f.Statement != nil {
				got[f.Name] = f.Statement.Status
				if !strings.HasPrefix(f.Statement.Author, "Dependency-Track 127.0.0.1") {
					t.Errorf("%s is stated by %s", f.Name, f.Statement.Author)
				}
			}
		}
		if len(found.Items) != 2 || got["CVE-2024-0001"] != step.statement || got["CVE-2024-0002"] != "" {
			t.Errorf("%s: %v of %d findings", step.state, got, len(found.Items))
		}
	}
	if list := s.assay("vex", "list", "--ended", "-o", "json"); !strings.Contains(list, "team/shop") || !strings.Contains(list, "only in tests") || !strings.Contains(list, "decided otherwise in Dependency-Track") {
		t.Errorf("on record: %s", list)
	}
	if r := run(t, append(s.environ(), "DEPENDENCY_TRACK_API_KEY=wrong"), s.program(), "import", "dependency-track", dt.URL); r.code == 0 || !strings.Contains(r.stderr, "VIEW_PORTFOLIO") {
		t.Errorf("with another's key: %d %s", r.code, r.stderr)
	}
}

// movedFrom is a Dependency-Track whose one decision tests change.
type movedFrom struct {
	*httptest.Server
	state  atomic.Value // of the analysis
	mended atomic.Bool  // the export that failed does no more
}

// dependencyTrack answers as version 4.12 does: 103 projects on two pages; one
// without a document, one whose export fails; findings decided and suppressed.
func dependencyTrack(t *testing.T) *movedFrom {
	out := &movedFrom{}
	out.state.Store("NOT_AFFECTED")
	mux := http.NewServeMux()
	type project struct {
		UUID    string `json:"uuid"`
		Name    string `json:"name"`
		Version string `json:"version"`
		Active  bool   `json:"active"`
	}
	var all []project
	for i := range 103 {
		all = append(all, project{fmt.Sprintf("7b1ffb4c-1d9d-4e2c-9a8b-%012d", i), fmt.Sprintf("shop-%d", i), "1.0", true})
	}
	number := func(r *http.Request) (n int) {
		_, _ = fmt.Sscanf(r.PathValue("uuid"), "7b1ffb4c-1d9d-4e2c-9a8b-%d", &n)
		return n
	}
	mux.HandleFunc("GET /api/v1/project", func(w http.ResponseWriter, r *http.Request) {
		page, size := 1, 100
		_, _ = fmt.Sscan(r.URL.Query().Get("pageNumber"), &page)
		_, _ = fmt.Sscan(r.URL.Query().Get("pageSize"), &size)
		w.Header().Set("X-Total-Count", fmt.Sprint(len(all)))
		from := min((page-1)*size, len(all))
		_ = json.NewEncoder(w).Encode(all[from:min(from+size, len(all))])
	})
	mux.HandleFunc("GET /api/v1/bom/cyclonedx/project/{uuid}", func(w http.ResponseWriter, r *http.Request) {
		switch number(r) {
		case 7:
			w.WriteHeader(http.StatusNotFound)
			return
		case 8:
			if !out.mended.Load() {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
		}
		w.Header().Set("Content-Type", "application/vnd.cyclonedx+json")
		_, _ = io.WriteString(w, padBOM)
	})
	mux.HandleFunc("GET /api/v1/finding/project/{uuid}", func(w http.ResponseWriter, r *http.Request) {
		findings := `[]`
		if number(r) == 3 && r.URL.Query().Get("suppressed") == "true" {
			one := `{"component":{"uuid":"a","name":"left-pad","version":"1.0.0","purl":"pkg:npm/left-pad@1.0.0","project":"p"},"vulnerability":{"uuid":"v-%[1]d","source":"NVD","vulnId":"CVE-2024-000%[1]d","severity":"HIGH"},"analysis":%[2]s,"attribution":{"analyzerIdentity":"INTERNAL_ANALYZER"},"matrix":"p:a:v"}`
			findings = "[" + fmt.Sprintf(one, 1, fmt.Sprintf(`{"state":%q,"isSuppressed":%t}`, out.state.Load(), out.state.Load() == "NOT_AFFECTED")) + "," +
				fmt.Sprintf(one, 2, `{"isSuppressed":true}`) + "," + fmt.Sprintf(one, 3, `{"isSuppressed":false}`) + "]"
		}
		_, _ = io.WriteString(w, findings)
	})
	// Why something was decided, an analysis trail alone tells.
	mux.HandleFunc("GET /api/v1/analysis", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		switch {
		case !strings.HasPrefix(q.Get("project"), "7b1ffb4c") || q.Get("component") != "a":
			w.WriteHeader(http.StatusNotFound)
		case q.Get("vulnerability") == "v-1":
			_, _ = fmt.Fprintf(w, `{"analysisState":%q,"analysisJustification":"CODE_NOT_REACHABLE","analysisResponse":"NOT_SET","analysisDetails":"only in tests","analysisComments":[{"timestamp":1700000000000,"comment":"Suppressed","commenter":"ann"}],"isSuppressed":%t}`, out.state.Load(), out.state.Load() == "NOT_AFFECTED")
		default:
			_, _ = io.WriteString(w, `{"analysisState":"NOT_SET","analysisJustification":"NOT_SET","analysisResponse":"NOT_SET","analysisComments":[],"isSuppressed":true}`)
		}
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Api-Key") != "odt_key" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	out.Server = server
	return out
}
