//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestUnauthorizedPulls: what was served and proves wrong later is listed, and
// told once by an alert; what is refused after that is listed apart.
func TestUnauthorizedPulls(t *testing.T) {
	s := serve(t, gateDocs)
	env, bobs := s.home(alice), s.home(bob)
	type row struct {
		Pull struct {
			Kind, Actor, Digest string
			Body                struct{ Reason string }
		}
		Revocation, Reason string
	}
	list := func(args ...string) (items []row) {
		t.Helper()
		r := run(t, s.environ(), s.program(), append([]string{"audit", "unauthorized", "-o", "json"}, args...)...)
		var page struct{ Items []row }
		if err := json.Unmarshal([]byte(r.stdout), &page); err != nil {
			t.Fatalf("%v\n%s%s", err, r.stdout, r.stderr)
		}
		if want := map[bool]int{true: 1}[len(page.Items) > 0 && !slices.Contains(args, "--denied")]; r.code != want {
			t.Errorf("exit code %d with %d pulls %v", r.code, len(page.Items), args)
		}
		return page.Items
	}
	alerts := func() (counts []int) {
		t.Helper()
		var page struct {
			Items []struct{ Body struct{ Count int } }
		}
		out := s.assay("audit", "query", "--kind", "pull.unauthorized", "-o", "json")
		if err := json.Unmarshal([]byte(out), &page); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, i := range page.Items {
			counts = append(counts, i.Body.Count)
		}
		return counts
	}

	// An index is revoked: who pulled it, and who pulled a part of it alone.
	image := pushImage(t, s, env, "open/app", "one")
	repo, part, _ := strings.Cut(image, "@")
	must(t, env, "crane", "index", "append", "-m", image, "-t", repo+":all")
	index := strings.TrimSpace(must(t, env, "crane", "digest", repo+":all"))
	must(t, bobs, "crane", "manifest", repo+":all")
	must(t, bobs, "crane", "manifest", repo+"@"+part)
	other := pushImage(t, s, env, "open/app", "another")
	must(t, bobs, "crane", "manifest", other)
	if got := list(); len(got) != 0 {
		t.Fatalf("before any revocation: %+v", got)
	}
	s.assay("revoke", "--digest", index, "--since", time.Now().Add(-time.Hour).UTC().Format(time.RFC3339), "--reason", "built by a stranger", "--yes")
	time.Sleep(time.Second) // within which a revocation reaches the registry
	refused(t, nil, bobs, "crane", "manifest", repo+":all")
	var seen []string
	for _, r := range list("--limit", "100", "--since", "1h") {
		if strings.Contains(r.Pull.Actor, bob) {
			seen = append(seen, r.Pull.Digest)
		}
		if r.Reason != "built by a stranger" {
			t.Errorf("%+v", r)
		}
	}
	if !slices.Contains(seen, index) || !slices.Contains(seen, part) || len(seen) != 2 {
		t.Errorf("pulls by bob %v, want %s and its part %s", seen, index, part)
	}
	if got := alerts(); len(got) != 1 || got[0] < 2 {
		t.Errorf("alerts %v, want one of 2 pulls or more", got)
	}

	// A robot's credential turns out to have leaked: a pull, and a blob read alone.
	secret := strings.TrimSpace(s.assay("robot", "create", "leaked", "--allow", "pull=open/app", "--expires", "1d"))
	var doc struct{ Layers []struct{ Digest string } }
	if err := json.Unmarshal([]byte(must(t, env, "crane", "manifest", other)), &doc); err != nil {
		t.Fatal(err)
	}
	read := func(path string) int {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, s.PublicURL+"/v2/open/app/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("leaked", secret)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if got := read("blobs/" + doc.Layers[0].Digest); got != http.StatusOK {
		t.Fatalf("the robot reads a blob: %d", got)
	}
	s.assay("robot", "revoke", "leaked", "--since", "1h", "--reason", "found in a log")
	if got := read("blobs/" + doc.Layers[0].Digest); got != http.StatusUnauthorized {
		t.Fatalf("the robot reads on: %d", got)
	}
	robots := 0
	for _, r := range list() {
		if r.Reason == "found in a log" {
			robots++
			if r.Pull.Kind != "blob.read" {
				t.Errorf("%+v", r)
			}
		}
	}
	// The newest first; who follows the events tells it.
	if robots != 1 {
		t.Errorf("%d reads of the robot", robots)
	}
	within(t, "its alert", func() string { return fmt.Sprint(alerts()) }, func(v string) bool { return strings.HasPrefix(v, "[1 ") && strings.Count(v, " ") == 1 })
	// Refused attempts stand apart.
	denied := list("--denied")
	if len(denied) == 0 {
		t.Errorf("no refused attempts are listed among\n%s", s.assay("audit", "query", "--kind", "artifact.denied", "-o", "json"))
	}
	byRobot := 0
	for _, r := range denied {
		switch {
		case r.Pull.Kind == "login.failed" && r.Pull.Actor == "assay:robots#leaked" && r.Reason == "found in a log":
			byRobot++
		case r.Pull.Kind != "artifact.denied":
			t.Errorf("among the refused: %+v", r)
		}
	}
	if byRobot != 1 {
		t.Errorf("the revoked robot's attempt is told of %d times, want once", byRobot)
	}
}
