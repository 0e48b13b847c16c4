package ui_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/action"
	"assay/artifact"
	"assay/client"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/policy"
	"assay/policy/exception"
	"assay/readiness"
	"assay/registry/gate"
	"assay/store"
	"assay/store/storetest"
	"assay/tlog"
	"assay/ui"
	"assay/verify"
	"assay/verify/replay"
	"assay/vuln/vex"

	"golang.org/x/net/html"
)

const issuer = "https://issuer.example"

// hostile are texts that must stay texts, wherever they come out.
var hostile = []string{
	`<script>window.pwned=1</script>`, `"><img src=x onerror=window.pwned=1>`, `'-alert(1)-'`, `javascript:window.pwned=1`, `</title><script>window.pwned=1</script>`,
	`<svg/onload=window.pwned=1>`, `{{.CSRF}}`, "\u202egpj.exe", "a\x00b", `=HYPERLINK("https://evil.example","x")`, `https://evil.example/track.png`,
}

var aDigest = artifact.SHA256Of([]byte("x"))

// fakeAPI answers every question of the pages with values that are hostile in
// every text. It refuses what refused names, as the API does.
type fakeAPI struct {
	mu      sync.Mutex
	text    string
	refused map[string]int // by path, with the status
	empty   bool           // lists have nothing
	asked   map[string]bool
	posted  []string
	slow    chan struct{} // until it is closed, what is counted over everything is not ready
}

// answers are what each path gives; a path that is none of these is an error.
var answers = []struct {
	path string
	of   func() any
}{
	{`registry/artifacts`, func() any { return &client.List[gate.Listed]{} }},
	{`registry/repositories`, func() any { return &client.List[gate.ListedRepository]{} }},
	{`registry/tags`, func() any { return &client.List[gate.ListedTag]{} }},
	{`registry/places`, func() any { return &client.List[client.ArtifactPlace]{} }},
	{`registry/status`, func() any { return &gate.ManifestStatus{} }},
	{`registry/pulls`, func() any { return &client.Pulls[gate.Pull]{} }},
	{`registry/blocks`, func() any { return &client.List[gate.Block]{} }},
	{`evidence`, func() any { return &client.List[client.Evidence]{} }},
	{`sboms`, func() any { return &client.List[client.SBOM]{} }},
	{`components`, func() any { return &client.List[client.Component]{} }},
	{`findings`, func() any { return &client.Findings{} }},
	{`vulnerabilities/.*`, func() any { return &client.List[client.AffectedSubject]{} }},
	{`inventory/workloads`, func() any { return &client.List[client.Workload]{} }},
	{`inventory/clusters`, func() any { return &client.List[client.ReportingCluster]{} }},
	{`inventory/running/summary`, func() any { return &client.List[client.RunningTally]{} }},
	{`inventory/running`, func() any { return &client.List[client.RunningImage]{} }},
	{`inventory/services`, func() any { return &client.List[client.Service]{} }},
	{`inventory/services/.*`, func() any { return &client.Service{} }},
	{`runners/builds`, func() any { return &client.List[client.RunnerBuild]{} }},
	{`runners/builds/.*`, func() any { return &client.RunnerBuildDetail{} }},
	{`runners/anomalies`, func() any { return &client.List[client.RunnerAnomaly]{} }},
	{`runners`, func() any { return &client.List[client.RunnerHost]{} }},
	{`build-logs`, func() any { return &client.List[client.BuildLog]{} }},
	{`build-logs/[^/]*`, func() any { return &client.BuildLog{} }},
	{`build-logs/[^/]*/lines`, func() any { return &client.List[client.BuildLogLine]{} }},
	{`build-log-lines`, func() any { return &client.BuildLogFound{} }},
	{`decisions`, func() any { return &client.List[verify.Decision]{} }},
	{`decision-history`, func() any { return &client.List[verify.Past]{} }},
	{`decisions/[^/]*`, func() any { return &verify.Decision{} }},
	{`decisions/[^/]*/facts`, func() any { return &policy.Facts{} }},
	{`policies/replay`, func() any { return &replay.Comparison{} }},
	{`documents`, func() any { return &client.List[client.StoredDocument]{} }},
	{`slo/indicators`, func() any { return &client.List[client.Indicator]{} }},
	{`slo/status`, func() any { return &client.List[client.Objective]{} }},
	{`alerts`, func() any { return &client.List[client.Alert]{} }},
	{`alerts/[^/]*(/ack|/resolve)?`, func() any { return &client.Alert{} }},
	{`alert-groups`, func() any { return &client.List[client.AlertGroup]{} }},
	{`silences`, func() any { return &client.List[client.Silence]{} }},
	{`silences/[^/]*`, func() any { return &client.Silence{} }},
	{`receivers/test`, func() any { return &client.Notice{} }},
	{`documents`, func() any { return &client.List[client.StoredDocument]{} }},
	{`robots`, func() any { return &client.List[client.Robot]{} }},
	{`receivers`, func() any { return &client.List[client.Receiver]{} }},
	{`notices`, func() any { return &client.List[client.Notice]{} }},
	{`readiness/probes`, func() any { return &client.List[readiness.Probe]{} }},
	{`actions`, func() any { return &client.List[action.Entry]{} }},
	{`actions/.*`, func() any { return &action.Entry{} }},
	{`exceptions`, func() any { return &client.List[exception.Entry]{} }},
	{`exceptions/.*`, func() any { return &exception.Entry{} }},
	{`vex/statements`, func() any { return &client.List[vex.Entry]{} }},
	{`vex/statements/.*`, func() any { return &vex.Entry{} }},
	{`keys`, func() any { return &client.List[client.Key]{} }},
	{`trust/roots`, func() any { return &client.List[client.ForeignRoot]{} }},
	{`trust/revocations`, func() any { return &client.RevocationList{} }},
	{`trust/delegations`, func() any { return &client.List[client.Delegation]{} }},
	{`revocations`, func() any { return &client.List[client.CredentialRevocation]{} }},
	{`audit`, func() any { return &client.List[client.AuditRecord]{} }},
	{`audit/unauthorized`, func() any { return &client.List[client.UnauthorizedPull]{} }},
	{`feeds`, func() any { return &client.List[client.Feed]{} }},
	{`feeds/operations`, func() any { return &client.List[client.FeedOperation]{} }},
	{`feeds/upstreams`, func() any { return &client.List[client.FeedUpstream]{} }},
	{`exploits`, func() any { return &client.List[client.ExploitList]{} }},
	{`canaries`, func() any { return &client.List[client.Canary]{} }},
	{`risk`, func() any { return &client.RiskList{} }},
	{`risk/artifact`, func() any { return &client.RiskDetail{} }},
	{`risk/services`, func() any { return &client.List[client.ServiceRisk]{} }},
	{`risk/upgrades`, func() any { return &client.List[client.Upgrade]{} }},
	{`supply/scans`, func() any { return &client.List[client.SupplyScan]{} }},
	{`supply/scans/[^/]*`, func() any { return &client.SupplyScan{} }},
	{`supply/scans/[^/]*/inventory`, func() any { return &struct{ Items, Findings, Unknown []map[string]string }{} }},
	{`source/branches`, func() any { return &client.List[client.SourceBranch]{} }},
	{`contracts`, func() any { return &client.List[client.Contract]{} }},
	{`coverage`, func() any { return &client.List[client.EvidenceCoverage]{} }},
	{`tickets`, func() any { return &client.List[client.Ticket]{} }},
	{`robots`, func() any { return &client.List[client.Robot]{} }},
	{`status`, func() any { return &client.Status{} }},
	{`log/entries/.*`, func() any { return &client.LogEntry{} }},
}

func (f *fakeAPI) serve(w http.ResponseWriter, r *http.Request, p identity.Principal) {
	path := strings.TrimPrefix(r.URL.Path, "/api/v1/")
	if f.slow != nil && strings.HasPrefix(path, "risk") {
		select {
		case <-f.slow:
		case <-r.Context().Done():
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked[path] = true
	if p.IsAnonymous() || p.Kind == identity.KindSystem {
		panic("a page asks without its person")
	}
	if status := f.refused[path]; status != 0 {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(client.Problem{Status: status, Detail: "refused: " + f.text})
		return
	}
	if r.Method == http.MethodPost {
		f.posted = append(f.posted, path)
	}
	if strings.HasPrefix(path, "evidence/") {
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(client.Problem{Status: 404, Detail: "no such evidence " + f.text})
		return
	}
	for _, a := range answers {
		if !regexp.MustCompile("^" + a.path + "$").MatchString(path) {
			continue
		}
		v := a.of()
		if !f.empty {
			f.fill(reflect.ValueOf(v).Elem(), "", 0)
		}
		b, err := json.Marshal(v)
		if err != nil {
			panic(fmt.Sprintf("%s: %v", path, err))
		}
		_, _ = w.Write(b)
		return
	}
	panic("the pages ask for " + path + ", which this test does not know")
}

// fill sets every text to the hostile one; what has a form of its own gets that.
func (f *fakeAPI) fill(v reflect.Value, name string, depth int) {
	if depth > 8 {
		return
	}
	switch x := v.Addr().Interface().(type) {
	case *artifact.Digest:
		*x = aDigest
		return
	case *time.Time:
		*x = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		return
	case *json.RawMessage:
		*x, _ = json.Marshal(map[string]string{"text": f.text})
		return
	}
	switch v.Kind() {
	case reflect.String:
		if name == "Next" {
			return // the pages would go on for ever
		}
		v.SetString(f.text)
	case reflect.Int, reflect.Int64:
		v.SetInt(3)
	case reflect.Uint64:
		v.SetUint(3)
	case reflect.Float64:
		v.SetFloat(0.5)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem(), name, depth+1)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte(`{"text":"bytes"}`))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		f.fill(v.Index(0), name, depth+1)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		if v.Type().Elem().Kind() == reflect.String {
			v.SetMapIndex(reflect.ValueOf(f.text), reflect.ValueOf(f.text).Convert(v.Type().Elem()))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				f.fill(v.Field(i), v.Type().Field(i).Name, depth+1)
			}
		}
	}
}

// site is the UI over a database of its own.
type site struct {
	*httptest.Server
	t      testing.TB
	api    *fakeAPI
	ui     *ui.UI
	db     *store.DB
	access *identity.Access
	now    time.Time
	ended  map[string]bool // names whose credentials were revoked
	watch  *fakeWatch
}

func (s *site) clock() time.Time { return s.now }

func newSite(t testing.TB, db *store.DB) *site {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, ui.Migrations); err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, db: db, now: time.Now().UTC(), ended: map[string]bool{}, api: &fakeAPI{text: "plain", refused: map[string]int{}, asked: map[string]bool{}}, watch: &fakeWatch{}}
	var err error
	if s.access, err = identity.NewAccess([]identity.Grant{
		{Issuer: issuer, Subject: "admin@example.com", Role: identity.RoleAdmin, Scope: "**"}, {Issuer: issuer, Subject: "viewer@example.com", Role: identity.RoleViewer, Scope: "**"},
		{Issuer: issuer, Subject: "team@example.com", Role: identity.RoleViewer, Scope: "team/**"},
	}); err != nil {
		t.Fatal(err)
	}
	if s.ui, err = ui.New(ui.Options{
		DB: db, API: s.api.serve, Access: s.access, Verify: s.verify, Check: s.check, Logins: func() []ui.Login { return nil },
		Policies: func() []ui.Policy {
			return []ui.Policy{{Name: "release", Hash: "sha256:00", Mode: policy.Enforce, Scope: s.api.text}}
		},
		Serving: func() bool { return true }, Changes: func(context.Context) (int64, error) { return 1, nil }, OwnRoot: func() string { return "own" },
		Checkpoint: func([]byte) (tlog.Checkpoint, error) {
			return tlog.Checkpoint{}, fault.Newf(fault.Unverified, "not signed")
		},
		Watch: s.watch, PublicURL: "http://127.0.0.1", Host: "127.0.0.1", Version: "test", Clock: s.clock,
	}); err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewServer(s.ui)
	t.Cleanup(s.Close)
	return s
}

// verify believes tokens that are names.
func (s *site) verify(_ context.Context, token string) (identity.Principal, error) {
	if !strings.HasSuffix(token, "@example.com") {
		return identity.Anonymous(), fault.Newf(fault.Unauthenticated, "no such token")
	}
	return identity.Principal{Issuer: issuer, Subject: token, Name: token, Kind: identity.KindUser, Credential: identity.Credential{ID: "jwt:" + token}}, nil
}

func (s *site) check(p identity.Principal) error {
	if s.ended[p.Name] {
		return fault.Newf(fault.Unauthenticated, "revoked")
	}
	return nil
}

// browser is a client with cookies that follows no redirect.
func (s *site) browser() *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

func (s *site) get(c *http.Client, path string) (*http.Response, string) {
	s.t.Helper()
	resp, err := c.Get(s.URL + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		s.t.Fatal(err)
	}
	return resp, b.String()
}

func (s *site) post(c *http.Client, path string, form url.Values, header map[string]string) (*http.Response, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for k, v := range header {
		r.Header.Set(k, v)
	}
	resp, err := c.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	_, _ = b.ReadFrom(resp.Body)
	return resp, b.String()
}

// login gives a browser in which somebody is logged in, and the token of forms.
func (s *site) login(who string) (*http.Client, string) {
	s.t.Helper()
	c := s.browser()
	_, page := s.get(c, "/ui/login")
	m := csrfField.FindStringSubmatch(page)
	if m == nil {
		s.t.Fatal("the login form has no csrf field")
	}
	resp, body := s.post(c, "/ui/login", url.Values{"csrf": {m[1]}, "token": {who}}, nil)
	if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/ui/" {
		s.t.Fatalf("login: %d %s %s", resp.StatusCode, resp.Header.Get("Location"), body)
	}
	_, page = s.get(c, "/ui/runbooks")
	if m = csrfField.FindStringSubmatch(page); m == nil {
		s.t.Fatal("no form after the login")
	}
	return c, m[1]
}

// everyPage is an address of each page.
var everyPage = []string{
	"", "oncall", "slo", "slo/m1", "alerts", "alerts/alert-1", "receivers", "artifacts", "artifacts/" + string(aDigest), "artifacts/" + string(aDigest) + "/risk", "registry", "registry/team/app",
	"search?q=log4j-core+%3C+2.17", "search?q=team", "components?name=x", "vulnerabilities", "vulnerabilities/CVE-2021-44228", "workloads", "services", "services/shop", "builds", "builds/run_1", "build-logs", "build-logs?text=compiled", "build-logs/log_1",
	"policies", "policies/release", "vex", "vex/vex_1", "exceptions", "exceptions/exc_1", "actions", "actions/act_1", "readiness", "reports/weekly", "reports/quarterly", "decisions/dec_1", "trust", "audit", "inventory", "inventory/inv_1", "feeds", "feeds/osv/npm", "log", "log/3", "runbooks", "runbooks/gate",
}

func each(t *testing.T, fn func(t *testing.T, s *site)) {
	storetest.Each(t, func(t *testing.T, db *store.DB) { fn(t, newSite(t, db)) })
}

// inert says what in a page could act, or reach out, that must not.
func inert(t *testing.T, where, page string) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	scripts := 0
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "script":
			scripts++
			if n.FirstChild != nil {
				t.Errorf("%s: an inline script: %.100s", where, n.FirstChild.Data)
			}
		case "style", "iframe", "object", "embed", "base", "img", "foreignobject":
			t.Errorf("%s: element %s", where, n.Data)
		}
		for _, a := range n.Attr {
			name, value := strings.ToLower(a.Key), strings.TrimSpace(a.Val)
			switch {
			case strings.HasPrefix(name, "on"), name == "style":
				t.Errorf("%s: attribute %s=%.80q of %s", where, name, value, n.Data)
			case name == "href", name == "src", name == "action", name == "formaction", name == "data-live":
				if !strings.HasPrefix(value, "/ui/") && !strings.HasPrefix(value, "#") {
					t.Errorf("%s: %s leads to %.120q", where, name, value)
				}
			}
		}
	}
	if scripts != 1 {
		t.Errorf("%s: %d scripts, want the one", where, scripts)
	}
}

func TestThreat_UI_HostileText(t *testing.T) {
	s := newSite(t, storetest.Open(t, store.SQLite))
	c, csrf := s.login("admin@example.com")
	for _, text := range hostile {
		s.api.text, s.watch.text = text, text
		for _, path := range everyPage {
			resp, page := s.get(c, "/ui/"+path)
			if resp.StatusCode != http.StatusOK {
				t.Errorf("%s with %q: %d %.300s", path, text, resp.StatusCode, page)
				continue
			}
			inert(t, path+" with "+text, page)
		}
		for _, path := range []string{"search?q=" + url.QueryEscape(text), "vulnerabilities/" + url.PathEscape(text), "services/" + url.PathEscape(text), "silences/" + url.PathEscape(text), "artifacts?repository=" + url.QueryEscape(text), url.PathEscape(text)} {
			_, page := s.get(c, "/ui/"+path)
			if strings.Contains(page, "<html") {
				inert(t, path, page)
			}
		}
		for _, path := range []string{"receivers", "silences/sil_1"} {
			if _, page := s.post(c, "/ui/"+path, url.Values{"csrf": {csrf}, "receiver": {text}}, nil); strings.Contains(page, "<html") {
				inert(t, path+" after a form", page)
			}
		}
	}
	for _, a := range answers {
		asked := false
		for path := range s.api.asked {
			asked = asked || regexp.MustCompile("^"+a.path+"$").MatchString(path)
		}
		if !asked && a.path != "policies/replay" {
			t.Errorf("no page shows %s: the test lacks one", a.path)
		}
	}
}

func TestThreat_UI_Headers(t *testing.T) {
	s := newSite(t, storetest.Open(t, store.SQLite))
	c, _ := s.login("admin@example.com")
	for _, path := range append([]string{"login", "nowhere", "live"}, everyPage...) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodHead, s.URL+"/ui/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if path == "live" {
			continue // it goes on; its headers are those of all
		}
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		csp := resp.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: policy %q lacks %s", path, csp, want)
			}
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin", "Cache-Control": "no-store"} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s: %s %q, want %q", path, name, got, want)
			}
		}
		if strings.Contains(csp, "unsafe") {
			t.Errorf("%s: policy %q", path, csp)
		}
	}
}

func TestThreat_UI_Sessions(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		for _, path := range everyPage {
			resp, body := s.get(s.browser(), "/ui/"+path)
			if resp.StatusCode != http.StatusSeeOther || !strings.HasPrefix(resp.Header.Get("Location"), "/ui/login?next=") || strings.Contains(body, "plain") {
				t.Errorf("%s without a session: %d to %s", path, resp.StatusCode, resp.Header.Get("Location"))
			}
			if resp, _ := s.get(s.browser(), "/ui/"+strings.Split(path, "?")[0]+"?format=json"); resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("export of %s without a session: %d", path, resp.StatusCode)
			}
		}
		c, csrf := s.login("viewer@example.com")
		u, _ := url.Parse(s.URL)
		cookies := c.Jar.Cookies(u)
		if len(cookies) != 1 || cookies[0].Name != "assay_session" {
			t.Fatalf("cookies %v: want that of the session alone", cookies)
		}
		var stored int
		if err := s.db.View(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(t.Context(), `SELECT COUNT(*) FROM ui_session WHERE id = ? OR principal LIKE ?`, cookies[0].Value, "%"+cookies[0].Value+"%").Scan(&stored)
		}); err != nil || stored != 0 {
			t.Errorf("the cookie itself is in the database (%v)", err)
		}
		if resp, _ := s.get(c, "/ui/artifacts"); resp.StatusCode != http.StatusOK {
			t.Fatalf("with a session: %d", resp.StatusCode)
		}
		// What proved the person is revoked: at once.
		s.ended["viewer@example.com"] = true
		if resp, _ := s.get(c, "/ui/artifacts"); resp.StatusCode != http.StatusSeeOther {
			t.Errorf("after a revocation: %d", resp.StatusCode)
		}
		delete(s.ended, "viewer@example.com")
		// A form of another site, and one that knows too little.
		for name, tt := range map[string]struct {
			csrf   string
			header map[string]string
		}{
			"another site":  {csrf, map[string]string{"Sec-Fetch-Site": "cross-site"}},
			"another host":  {csrf, map[string]string{"Origin": "https://evil.example"}},
			"no field":      {"", nil},
			"another field": {"AAAA", nil},
		} {
			if resp, _ := s.post(c, "/ui/logout", url.Values{"csrf": {tt.csrf}}, tt.header); resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s: %d", name, resp.StatusCode)
			}
		}
		if resp, _ := s.get(c, "/ui/artifacts"); resp.StatusCode != http.StatusOK {
			t.Fatalf("after refused forms: %d", resp.StatusCode)
		}
		old := *cookies[0]
		if resp, _ := s.post(c, "/ui/logout", url.Values{"csrf": {csrf}}, nil); resp.StatusCode != http.StatusSeeOther {
			t.Errorf("logout: %d", resp.StatusCode)
		}
		c.Jar.SetCookies(u, []*http.Cookie{&old})
		if resp, _ := s.get(c, "/ui/artifacts"); resp.StatusCode != http.StatusSeeOther {
			t.Errorf("the cookie after the logout: %d", resp.StatusCode)
		}
	})
}

func TestSessionAttributesAndEnd(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		c := s.browser()
		_, page := s.get(c, "/ui/login")
		csrf := csrfField.FindStringSubmatch(page)[1]
		resp, _ := s.post(c, "/ui/login", url.Values{"csrf": {csrf}, "token": {"viewer@example.com"}, "next": {"/ui/artifacts?state=active"}}, nil)
		if resp.Header.Get("Location") != "/ui/artifacts?state=active" {
			t.Errorf("after the login: %s", resp.Header.Get("Location"))
		}
		found := false
		for _, cookie := range resp.Cookies() {
			if cookie.Name == "assay_session" {
				found = true
				if !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/" || cookie.MaxAge <= 0 || cookie.MaxAge > 8*3600 {
					t.Errorf("cookie %v", cookie)
				}
			}
		}
		if !found {
			t.Fatal("no session")
		}
		if _, err := s.db.Dialect(), s.db.Update(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE ui_session SET expires = ?`, tx.Now().Add(-time.Second))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if resp, _ := s.get(c, "/ui/artifacts"); resp.StatusCode != http.StatusSeeOther {
			t.Errorf("after its end: %d", resp.StatusCode)
		}
		// Tokens that do not hold open nothing, and elsewhere is not gone to.
		for token, want := range map[string]int{"nonsense": 401, "": 400} {
			b := s.browser()
			_, page := s.get(b, "/ui/login")
			form := url.Values{"csrf": {csrfField.FindStringSubmatch(page)[1]}, "token": {token}}
			if resp, _ := s.post(b, "/ui/login", form, nil); resp.StatusCode != want {
				t.Errorf("token %q: %d, want %d", token, resp.StatusCode, want)
			}
		}
		for _, next := range []string{"https://evil.example/", "//evil.example/", "/\\evil.example", "/ui/login?next=x", "/ui/logout", "javascript:1"} {
			b := s.browser()
			_, page := s.get(b, "/ui/login")
			form := url.Values{"csrf": {csrfField.FindStringSubmatch(page)[1]}, "token": {"viewer@example.com"}, "next": {next}}
			if resp, _ := s.post(b, "/ui/login", form, nil); resp.Header.Get("Location") != "/ui/" {
				t.Errorf("next %q leads to %s", next, resp.Header.Get("Location"))
			}
		}
	})
}

func TestRightsArePerPerson(t *testing.T) {
	s := newSite(t, storetest.Open(t, store.SQLite))
	nav := regexp.MustCompile(`data-key="[a-z]">([^<]+)<`)
	items := func(who string) string {
		c, _ := s.login(who)
		_, page := s.get(c, "/ui/runbooks")
		var out []string
		for _, m := range nav.FindAllStringSubmatch(page, -1) {
			out = append(out, m[1])
		}
		return strings.Join(out, ",")
	}
	if got := items("admin@example.com"); !strings.Contains(got, "Audit trail") || !strings.Contains(got, "Artifacts") {
		t.Errorf("an administrator sees %s", got)
	}
	if got := items("viewer@example.com"); strings.Contains(got, "Audit trail") || !strings.Contains(got, "Artifacts") {
		t.Errorf("a viewer sees %s", got)
	}
	if got := items("stranger@example.com"); got != "Keys and roots,Runbooks" {
		t.Errorf("who has no role sees %s", got)
	}
	// Numbers over all of the site are for those who may read all of it.
	team, _ := s.login("team@example.com")
	if resp, _ := s.get(team, "/ui/"); resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/ui/artifacts" {
		t.Errorf("the overview for a team: %d", resp.StatusCode)
	}
	if resp, _ := s.get(team, "/ui/slo/m1"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("an indicator for a team: %d", resp.StatusCode)
	}
	// What the API refuses is refused.
	s.api.refused["registry/artifacts"] = http.StatusForbidden
	if resp, page := s.get(team, "/ui/artifacts"); resp.StatusCode != http.StatusForbidden || !strings.Contains(page, "refused: plain") {
		t.Errorf("refused by the API: %d", resp.StatusCode)
	}
	// What is done about an alert is asked of the API, and what it refuses is not done.
	viewer, csrf := s.login("viewer@example.com")
	if _, page := s.get(viewer, "/ui/alerts/alert-1"); strings.Contains(page, "I deal with it") || strings.Contains(page, "It is over") {
		t.Error("a viewer is offered what only operators may do")
	}
	s.api.refused["alerts/alert-1/ack"] = http.StatusForbidden
	if resp, page := s.post(viewer, "/ui/alerts/alert-1", url.Values{"csrf": {csrf}, "do": {"acknowledge"}}, nil); resp.StatusCode != http.StatusForbidden || !strings.Contains(page, "refused: plain") {
		t.Errorf("a viewer acknowledges: %d", resp.StatusCode)
	}
	delete(s.api.refused, "alerts/alert-1/ack")
	admin, csrf := s.login("admin@example.com")
	for _, c := range []struct {
		path string
		form url.Values
		want string // asked of the API
		ends int
	}{
		{"alerts/alert-1", url.Values{"do": {"acknowledge"}, "note": {"looking"}}, "alerts/alert-1/ack", http.StatusSeeOther},
		{"alerts/alert-1", url.Values{"do": {"silence"}, "hours": {"4"}, "reason": {"upgrade"}}, "silences", http.StatusSeeOther},
		{"alerts/alert-1", url.Values{"do": {"silence"}, "hours": {"721"}, "reason": {"upgrade"}}, "", http.StatusBadRequest},
		{"alerts/alert-1", url.Values{"do": {"resolve"}}, "alerts/alert-1/resolve", http.StatusSeeOther},
		{"alerts/alert-1", url.Values{"do": {"dance"}}, "", http.StatusBadRequest},
		{"receivers", url.Values{"receiver": {"oncall"}}, "receivers/test", http.StatusOK},
	} {
		s.api.posted = nil
		c.form.Set("csrf", csrf)
		resp, page := s.post(admin, "/ui/"+c.path, c.form, nil)
		if resp.StatusCode != c.ends || strings.Join(s.api.posted, " ") != c.want {
			t.Errorf("%s %v: %d, asked %v; want %d, %q", c.path, c.form, resp.StatusCode, s.api.posted, c.ends, c.want)
		}
		if c.path == "receivers" && !strings.Contains(page, "oncall took the test") {
			t.Error("the page does not say how the test went")
		}
	}
	if _, page := s.get(admin, "/ui/receivers"); !strings.Contains(page, "Send a test") {
		t.Error("no button sends a test")
	}
}

func TestUnknownIsNotZero(t *testing.T) {
	s := newSite(t, storetest.Open(t, store.SQLite))
	s.api.empty = true
	s.watch.none = true
	c, _ := s.login("admin@example.com")
	_, body := s.get(c, "/ui/?format=json")
	var page struct {
		Stats []struct {
			Name  string
			Value any
		}
	}
	if err := json.Unmarshal([]byte(body), &page); err != nil {
		t.Fatal(err)
	}
	for _, st := range page.Stats {
		if st.Value != nil && st.Name != "Held back" {
			t.Errorf("%s is %v where nothing is known", st.Name, st.Value)
		}
	}
	if len(page.Stats) < 5 {
		t.Errorf("%d numbers", len(page.Stats))
	}
	// What cannot be asked for is unknown as well.
	s.api.refused["tickets"], s.api.refused["coverage"] = 503, 403
	_, body = s.get(c, "/ui/?format=json")
	if err := json.Unmarshal([]byte(body), &page); err != nil {
		t.Fatal(err)
	}
	for _, st := range page.Stats {
		if st.Value != nil {
			t.Errorf("%s is %v where nothing could be asked", st.Name, st.Value)
		}
	}
}

// Just after a start a page does not wait for what is counted over everything: it
// says so and comes again; an export waits.
func TestWhatIsBeingCounted(t *testing.T) {
	s := newSite(t, storetest.Open(t, store.SQLite))
	s.api.slow = make(chan struct{})
	c, _ := s.login("viewer@example.com")
	for _, page := range []string{"/ui/", "/ui/vulnerabilities"} {
		resp, body := s.get(c, page)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Refresh") == "" || !strings.Contains(body, "being counted") {
			t.Errorf("%s: %s, Refresh %q", page, resp.Status, resp.Header.Get("Refresh"))
		}
	}
	go func() { close(s.api.slow) }()
	if _, body := s.get(c, "/ui/vulnerabilities?format=json"); strings.Contains(body, "being counted") {
		t.Error("an export does not wait")
	}
	if resp, body := s.get(c, "/ui/vulnerabilities"); resp.Header.Get("Refresh") != "" || strings.Contains(body, "being counted") {
		t.Error("it is ready, and the page says that it is not")
	}
}

func TestExports(t *testing.T) {
	s := newSite(t, storetest.Open(t, store.SQLite))
	c, _ := s.login("admin@example.com")
	s.api.text = `=HYPERLINK("https://evil.example","x")`
	for _, path := range everyPage {
		join := "?"
		if strings.Contains(path, "?") {
			join = "&"
		}
		resp, body := s.get(c, "/ui/"+path+join+"format=json")
		if resp.StatusCode != http.StatusOK || !json.Valid([]byte(body)) || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s as JSON: %d %.200s", path, resp.StatusCode, body)
		}
		var page struct {
			Sections []struct {
				ID   string
				Rows []map[string]any
			}
		}
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			t.Fatal(err)
		}
		for _, section := range page.Sections {
			if len(section.Rows) == 0 {
				continue
			}
			resp, body := s.get(c, "/ui/"+path+join+"format=csv&table="+section.ID)
			records, err := csv.NewReader(strings.NewReader(body)).ReadAll()
			if resp.StatusCode != http.StatusOK || err != nil || len(records) != len(section.Rows)+1 || len(records[0]) != len(section.Rows[0]) {
				t.Errorf("%s %s as CSV: %d, %d records, %v", path, section.ID, resp.StatusCode, len(records), err)
			}
			for _, line := range records {
				for _, cell := range line {
					if strings.HasPrefix(cell, "=") {
						t.Errorf("%s %s: a formula: %s", path, section.ID, cell)
					}
				}
			}
		}
	}
	if resp, _ := s.get(c, "/ui/artifacts?format=xml"); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("an unknown format: %d", resp.StatusCode)
	}
	if resp, _ := s.get(c, "/ui/artifacts?format=csv&table=none"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("an unknown table: %d", resp.StatusCode)
	}
}

func TestReplayForm(t *testing.T) {
	s := newSite(t, storetest.Open(t, store.SQLite))
	c, csrf := s.login("admin@example.com")
	form := url.Values{"csrf": {csrf}, "document": {"kind: Policy\n<script>"}, "days": {"30"}}
	resp, page := s.post(c, "/ui/policies", form, nil)
	if resp.StatusCode != http.StatusOK || len(s.api.posted) != 1 || s.api.posted[0] != "policies/replay" {
		t.Fatalf("%d, asked %v", resp.StatusCode, s.api.posted)
	}
	inert(t, "replay", page)
	if !strings.Contains(page, "kind: Policy\n&lt;script&gt;") {
		t.Error("the document is not there to be changed")
	}
}

// What a page loads besides itself stays small.
func TestAssetsAreSmall(t *testing.T) {
	s := newSite(t, storetest.Open(t, store.SQLite))
	c, _ := s.login("admin@example.com")
	_, page := s.get(c, "/ui/")
	total := 0
	for _, m := range regexp.MustCompile(`(?:href|src)="(/ui/assets/[^"]+)"`).FindAllStringSubmatch(page, -1) {
		resp, body := s.get(c, m[1])
		if resp.StatusCode != http.StatusOK || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %s", m[1], resp.StatusCode, resp.Header.Get("Cache-Control"))
		}
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(body))
		_ = z.Close()
		total += b.Len()
		if strings.Contains(body, "http://") && !strings.Contains(m[1], ".svg") || strings.Contains(body, "https://") {
			t.Errorf("%s names another host", m[1])
		}
	}
	if total == 0 || total > 60<<10 {
		t.Errorf("%d bytes under gzip, want at most 60 KiB", total)
	}
	t.Logf("%d bytes under gzip", total)
	if resp, _ := s.get(c, "/ui/assets/000000000000/app.js"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("another version's file: %d", resp.StatusCode)
	}
}
