package gate_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"assay/gate"
	"assay/internal/fault"
)

// forge keeps statuses and comments as GitHub and GitLab do, by their documented
// routes, and knows one token.
type forge struct {
	mu       sync.Mutex
	statuses []map[string]string
	comments []map[string]any
	moved    string // answers with a redirect there
	strange  bool   // comments cannot be renewed by this token
}

func (f *forge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.moved != "" {
		http.Redirect(w, r, f.moved, http.StatusTemporaryRedirect)
		return
	}
	if r.Header.Get("Authorization") != "Bearer secret" && r.Header.Get("PRIVATE-TOKEN") != "secret" {
		http.Error(w, `{"message":"Bad credentials"}`, http.StatusUnauthorized)
		return
	}
	in := map[string]string{}
	if r.Method != http.MethodGet {
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	const commits, comments = "/repos/shop/app/commits/" + sha + "/comments", "/projects/shop%2Fapp/repository/commits/" + sha + "/comments"
	switch route := r.Method + " " + r.URL.EscapedPath(); route {
	case "POST /repos/shop/app/statuses/" + sha, "POST /projects/shop%2Fapp/statuses/" + sha:
		f.statuses = append(f.statuses, in)
	case "GET " + commits, "GET " + comments:
		_ = json.NewEncoder(w).Encode(append([]map[string]any{}, f.comments...))
		return
	case "POST " + commits:
		f.comments = append(f.comments, map[string]any{"id": len(f.comments) + 1, "body": in["body"]})
	case "POST " + comments:
		f.comments = append(f.comments, map[string]any{"note": in["note"]})
	default:
		var id int
		if _, err := fmt.Sscanf(route, "PATCH /repos/shop/app/comments/%d", &id); err != nil || id < 1 || id > len(f.comments) {
			http.NotFound(w, r)
			return
		}
		if f.strange {
			http.Error(w, `{"message":"Must have admin rights"}`, http.StatusForbidden)
			return
		}
		f.comments[id-1]["body"] = in["body"]
	}
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write([]byte("{}"))
}

const sha = "0123456789012345678901234567890123456789"

func serve(t *testing.T, f *forge) string {
	t.Helper()
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestPost(t *testing.T) {
	for _, kind := range []string{gate.GitHub, gate.GitLab} {
		t.Run(kind, func(t *testing.T) {
			f := &forge{}
			c := &gate.Commit{Forge: kind, URL: serve(t, f), Project: "shop/app", SHA: sha, Token: "secret", HTTP: http.DefaultClient}
			if err := c.Validate(); err != nil {
				t.Fatal(err)
			}
			post := func(verdict, body string) {
				t.Helper()
				if err := c.Post(t.Context(), &gate.Status{Verdict: verdict, Name: "assay/gate", Title: strings.Repeat("ä", 200), Body: body}); err != nil {
					t.Fatal(err)
				}
			}
			post(gate.Deny, "first")
			post(gate.Deny, "first")
			if len(f.comments) != 1 {
				t.Errorf("%d comments of one word", len(f.comments))
			}
			post(gate.SlowLane, "second")
			post(gate.Undecided, "third")
			want, comments := "failure success error", 1
			if kind == gate.GitLab { // which cannot renew them
				want, comments = "failed success failed", 3
			}
			var got []string
			for _, s := range f.statuses[1:] {
				got = append(got, s["state"])
				if d := s["description"]; len(d) > 140 {
					t.Errorf("a description of %d bytes", len(d))
				}
			}
			if strings.Join(got, " ") != want || len(f.comments) != comments {
				t.Errorf("%v, %d comments; want %s, %d", got, len(f.comments), want, comments)
			}
			last := fmt.Sprint(f.comments[len(f.comments)-1])
			if !strings.Contains(last, "third") || !strings.Contains(last, "<!-- assay/gate -->") {
				t.Errorf("the last comment: %s", last)
			}
			c.Token = "another"
			if err := c.Post(t.Context(), &gate.Status{Verdict: gate.Allow, Name: "assay/gate"}); fault.KindOf(err) != fault.Denied || strings.Contains(err.Error(), "another") {
				t.Errorf("with another token: %v", err)
			}
		})
	}
}

// A comment that somebody else wrote in our form is left to them.
func TestPostBesideAnothersComment(t *testing.T) {
	f := &forge{strange: true, comments: []map[string]any{{"id": 1, "body": "mine <!-- assay/gate -->"}}}
	c := &gate.Commit{Forge: gate.GitHub, URL: serve(t, f), Project: "shop/app", SHA: sha, Token: "secret", HTTP: http.DefaultClient}
	if err := c.Post(t.Context(), &gate.Status{Verdict: gate.Deny, Name: "assay/gate", Body: "denied"}); err != nil || len(f.comments) != 2 {
		t.Errorf("%v, %d comments", err, len(f.comments))
	}
}

// TestThreat_Gate_ForgeSendsElsewhere: a forge that redirects gets no token there.
func TestThreat_Gate_ForgeSendsElsewhere(t *testing.T) {
	thief := &forge{}
	f := &forge{moved: serve(t, thief) + "/repos/shop/app/statuses/" + sha}
	c := &gate.Commit{Forge: gate.GitHub, URL: serve(t, f), Project: "shop/app", SHA: sha, Token: "secret", HTTP: http.DefaultClient}
	if err := c.Post(t.Context(), &gate.Status{Verdict: gate.Allow, Name: "assay/gate"}); err == nil || len(thief.statuses) != 0 {
		t.Errorf("%v, and elsewhere %v", err, thief.statuses)
	}
}

func TestCommitValidate(t *testing.T) {
	good := gate.Commit{Forge: gate.GitHub, URL: "https://api.github.com", Project: "shop/app", SHA: sha, Token: "secret"}
	for name, change := range map[string]func(*gate.Commit){
		"forge":               func(c *gate.Commit) { c.Forge = "svn" },
		"no host":             func(c *gate.Commit) { c.URL = "https://" },
		"password":            func(c *gate.Commit) { c.URL = "https://a:b@api.github.com" },
		"in the clear":        func(c *gate.Commit) { c.URL = "http://api.github.com" },
		"project":             func(c *gate.Commit) { c.Project = "shop" },
		"project that climbs": func(c *gate.Commit) { c.Project = "../.." },
		"short commit":        func(c *gate.Commit) { c.SHA = "0123456" },
		"commit that climbs":  func(c *gate.Commit) { c.SHA = "../../../user" },
		"no token":            func(c *gate.Commit) { c.Token = "" },
	} {
		c := good
		change(&c)
		if err := c.Validate(); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
}

func FuzzFlagger(f *testing.F) {
	f.Add([]byte(`{"name":"podinfo","namespace":"test","phase":"Progressing","checksum":"1","canaryWeight":20,"metadata":{"image":"a.example/b:c, d.example/e","share":"5"}}`))
	f.Add([]byte(`{"canaryWeight":1e300,"metadata":{"service":""}}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := gate.ParseFlagger(b)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Errorf("%v", err)
			}
			return
		}
		if q.Controller != gate.ControllerFlagger {
			t.Errorf("%+v", q)
		}
	})
}
