package alert

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/event"
	"assay/store"

	"github.com/google/go-cmp/cmp"
)

// shaped answers as the APIs of receivers do, and keeps what it was sent.
type shaped struct {
	mu   sync.Mutex
	got  []string
	last map[string]map[string]any
	fail int // requests to refuse
	// Of Jira: its answer to which ways lead on, and whether those want more.
	ways   string
	strict bool
}

func (s *shaped) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, _ := io.ReadAll(r.Body)
	if s.fail > 0 {
		s.fail--
		http.Error(w, "later", http.StatusServiceUnavailable)
		return
	}
	line := r.Method + " " + r.URL.EscapedPath()
	s.got = append(s.got, line)
	if r.Method == http.MethodGet {
		if len(b) > 0 {
			http.Error(w, "a GET with a body", http.StatusBadRequest)
			return
		}
		fmt.Fprint(w, s.ways)
		return
	}
	if strings.HasSuffix(line, "/transitions") && s.strict {
		http.Error(w, "a resolution is required", http.StatusBadRequest)
		return
	}
	if s.last == nil {
		s.last = map[string]map[string]any{}
	}
	var list []map[string]any
	var one map[string]any
	if json.Unmarshal(b, &list) == nil && len(list) > 0 {
		one = list[0]
	} else if err := json.Unmarshal(b, &one); err != nil {
		http.Error(w, "no JSON", http.StatusBadRequest)
		return
	}
	if a := r.Header.Get("Authorization") + r.Header.Get("PRIVATE-TOKEN"); a != "" {
		one["auth"] = a
	}
	s.last[line] = one
	w.WriteHeader(http.StatusCreated)
	fmt.Fprint(w, `{"number": 7, "iid": 8, "key": "OPS-9", "status": "success"}`)
}

func TestReceiversGetWhatTheyUnderstand(t *testing.T) {
	server := &shaped{fail: 3, ways: jiraWays}
	h := httptest.NewServer(server)
	defer h.Close()
	mail := newSMTP(t)
	at := func(name, kind, path string, s Spec) *Receiver {
		s.Type, s.URL, s.AllowPrivate, s.Default, s.Severities = kind, h.URL+path, true, true, []Severity{Page, Ticket}
		if kind == TypeEmail {
			s.URL = "smtp://" + mail.addr
		}
		return receiver(t, name, s)
	}
	s := newSite(t, store.SQLite,
		at("hook", TypeWebhook, "/hook", Spec{Secret: "file:x"}), at("slack", TypeSlack, "/slack", Spec{}), at("pd", TypePagerDuty, "/pd", Spec{Secret: "file:x"}),
		at("am", TypeAlertmanager, "", Spec{}), at("gh", TypeGitHub, "", Spec{Secret: "file:x", Project: "o/n"}), at("gl", TypeGitLab, "", Spec{Secret: "file:x", Project: "g/n"}),
		at("jira", TypeJira, "", Spec{Secret: "file:x", Project: "OPS"}), at("mail", TypeEmail, "", Spec{From: "assay@example.com", To: []string{"oncall@example.com"}}))
	s.o.Secret = func(string) ([]byte, error) { return []byte("user:0123456789abcdef\n"), nil }
	drain := func() {
		for range 200 {
			n, err := s.SendDue(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				s.now = s.now.Add(time.Minute)
				left, err := s.Deliveries(t.Context(), "", 100)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.ContainsFunc(left, func(d Delivery) bool { return d.Taken.IsZero() }) {
					return
				}
			}
		}
		left, _ := s.Deliveries(t.Context(), "", 100)
		t.Fatalf("notices wait still: %+v", left)
	}
	s.tell(event.Event{Kind: event.StoreTampered, Digest: digest(1), Body: m{"what": "blob", "name": "<!channel>", "found": "y"}})
	drain()
	s.tell(event.Event{Kind: event.StoreRepaired, Digest: digest(1), Body: m{"what": "blob", "name": "<!channel>"}})
	drain()
	server.mu.Lock()
	got := slices.Clone(server.got)
	slices.Sort(got)
	want := []string{ // in any order
		"PATCH /repos/o/n/issues/7", "POST /api/v2/alerts", "POST /api/v2/alerts", "POST /api/v4/projects/g%2Fn/issues", "POST /api/v4/projects/g%2Fn/issues/8/notes",
		"POST /hook", "POST /hook", "POST /pd", "POST /pd", "POST /repos/o/n/issues", "POST /repos/o/n/issues/7/comments",
		"GET /rest/api/2/issue/OPS-9/transitions", "POST /rest/api/2/issue", "POST /rest/api/2/issue/OPS-9/transitions", "POST /rest/api/2/issue/OPS-9/comment", "POST /slack", "POST /slack", "PUT /api/v4/projects/g%2Fn/issues/8",
	}
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("requests (-want +got):\n%s", d)
	}
	if p := server.last["POST /pd"]; p["event_action"] != "resolve" || !strings.HasPrefix(fmt.Sprint(p["dedup_key"]), "grp_") || p["routing_key"] != "user:0123456789abcdef" {
		t.Errorf("PagerDuty got %v", p)
	}
	if l, _ := server.last["POST /api/v2/alerts"]["labels"].(map[string]any); l["alertname"] != "tampering" || l["severity"] != "page" {
		t.Errorf("Alertmanager got %v", server.last["POST /api/v2/alerts"])
	}
	if b := fmt.Sprint(server.last["POST /slack"]); strings.Contains(b, "<!channel>") {
		t.Errorf("a name calls Slack's channel: %s", b)
	}
	if mails := mail.all(); len(mails) != 2 || !strings.Contains(mails[0], "Message-ID: <") || !strings.Contains(mails[0], "Subject: [page] Stored bytes") || !strings.Contains(mails[1], "RESOLVED") {
		t.Errorf("mail: %q", mails)
	}
	server.mu.Unlock()
	if d, err := s.Test(t.Context(), "am", "jo"); err != nil || d.Taken.IsZero() {
		t.Errorf("a test that was not taken: %+v, %v", d, err)
	}
}

// A receiver's name leads to no metadata service, and to no private network that
// its document does not allow.
func TestThreat_Alerts_ReceiversReachNoPrivateHost(t *testing.T) {
	hit := false
	h := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hit = true }))
	defer h.Close()
	s := newSite(t, store.SQLite, receiver(t, "hook", Spec{Type: TypeWebhook, URL: h.URL, Default: true}))
	if _, err := s.Test(t.Context(), "hook", "jo"); err == nil || hit || !strings.Contains(err.Error(), "private") {
		t.Errorf("a private host was reached (%t): %v", hit, err)
	}
	for _, spec := range []Spec{
		{Type: TypeWebhook, URL: "http://example.com"}, {Type: TypeWebhook, URL: "https://user:secret@example.com"}, {Type: TypePagerDuty}, {Type: "smoke", URL: "https://example.com"},
		{Type: TypeGitHub, Secret: "file:x", Project: "../../user"}, {Type: TypeEmail, URL: "smtp://h:25", From: "a@b\r\nBcc: c@d", To: []string{"a@b"}, AllowPrivate: true}, {Type: TypeSlack, Secret: "hunter2"},
		{Type: TypeWebhook, URL: "https://example.com", Title: "{{.NoSuch}}"},
	} {
		if _, err := Compile("x", spec); err == nil {
			t.Errorf("%+v was taken", spec)
		}
	}
}

// smtpServer takes mail as RFC 5321 has it, without TLS.
type smtpServer struct {
	addr string
	mu   sync.Mutex
	got  []string
}

func (s *smtpServer) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func newSMTP(t *testing.T) *smtpServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &smtpServer{addr: l.Addr().String()}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.serve(c) })
		}
	})
	return s
}

func (s *smtpServer) serve(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReader(c)
	fmt.Fprint(c, "220 test ESMTP\r\n")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch verb, _, _ := strings.Cut(strings.TrimSpace(line), " "); strings.ToUpper(verb) {
		case "DATA":
			fmt.Fprint(c, "354 go on\r\n")
			var b strings.Builder
			for {
				l, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if l == ".\r\n" {
					break
				}
				b.WriteString(l)
			}
			s.mu.Lock()
			s.got = append(s.got, b.String())
			s.mu.Unlock()
			fmt.Fprint(c, "250 taken\r\n")
		case "QUIT":
			fmt.Fprint(c, "221 bye\r\n")
			return
		default:
			fmt.Fprint(c, "250 ok\r\n")
		}
	}
}

// A receiver that sends a notice on, to a metadata service or anywhere else, is not
// followed; and what it is named after reaches no metadata service either, private
// networks allowed or not.
func TestThreat_Alerts_ReceiversAreNotFollowed(t *testing.T) {
	elsewhere := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer other.Close()
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	}))
	defer h.Close()
	s := newSite(t, store.SQLite,
		receiver(t, "hook", Spec{Type: TypeWebhook, URL: h.URL, Default: true, AllowPrivate: true}),
		receiver(t, "metadata", Spec{Type: TypeWebhook, URL: "http://169.254.169.254/latest", Default: true, AllowPrivate: true}),
		receiver(t, "mapped", Spec{Type: TypeWebhook, URL: "http://[::ffff:169.254.169.254]/latest", Default: true, AllowPrivate: true}))
	if _, err := s.Test(t.Context(), "hook", "jo"); err == nil || elsewhere != 0 || !strings.Contains(err.Error(), "307") {
		t.Errorf("followed %d times: %v", elsewhere, err)
	}
	for _, name := range []string{"metadata", "mapped"} {
		if _, err := s.Test(t.Context(), name, "jo"); err == nil || !strings.Contains(err.Error(), "metadata") && !strings.Contains(err.Error(), "link-local") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
