package alert

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"assay/event"
	"assay/store"

	"github.com/google/go-cmp/cmp"
)

const jiraWays = `{"transitions": [{"id": "11", "name": "Start", "to": {"name": "In Progress", "statusCategory": {"key": "indeterminate"}}},
	{"id": "21", "name": "Reject", "to": {"name": "Rejected", "statusCategory": {"key": "done"}}},
	{"id": "31", "name": "Finish", "to": {"name": "Done", "statusCategory": {"key": "done"}}}]}`

// An issue of Jira ends where its workflow has it end, and its last comment is
// written once whatever the workflow says.
func TestJiraIssuesAreClosed(t *testing.T) {
	const comment, asked, moved = "POST /rest/api/2/issue/OPS-9/comment", "GET /rest/api/2/issue/OPS-9/transitions", "POST /rest/api/2/issue/OPS-9/transitions"
	for _, c := range []struct {
		name, ways string
		strict     bool
		want       []string
		id         string
	}{
		{"by its workflow", jiraWays, false, []string{asked, moved, comment}, "31"},
		{"by another end", `{"transitions": [{"id": "21", "to": {"name": "Rejected", "statusCategory": {"key": "done"}}}]}`, false, []string{asked, moved, comment}, "21"},
		{"not: no way there", `{"transitions": [{"id": "11", "to": {"name": "Open", "statusCategory": {"key": "new"}}}]}`, false, []string{asked, comment}, ""},
		{"not: the workflow wants more", jiraWays, true, []string{asked, moved, comment}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := &shaped{ways: c.ways, strict: c.strict}
			h := httptest.NewServer(server)
			defer h.Close()
			s := newSite(t, store.SQLite, receiver(t, "jira", Spec{Type: TypeJira, URL: h.URL, AllowPrivate: true, Default: true, Severities: []Severity{Page, Ticket}, Secret: "file:x", Project: "OPS"}))
			s.o.Secret = func(string) ([]byte, error) { return []byte("user:token"), nil }
			about := m{"what": "blob", "name": "x", "found": "y"}
			for _, kind := range []event.Kind{event.StoreTampered, event.StoreRepaired} {
				s.tell(event.Event{Kind: kind, Digest: digest(1), Body: about})
				for range 5 {
					if _, err := s.SendDue(t.Context()); err != nil {
						t.Fatal(err)
					}
					s.now = s.now.Add(10 * time.Minute)
				}
			}
			server.mu.Lock()
			defer server.mu.Unlock()
			if d := cmp.Diff(append([]string{"POST /rest/api/2/issue"}, c.want...), server.got); d != "" {
				t.Errorf("requests (-want +got):\n%s", d)
			}
			if c.id != "" {
				if got := fmt.Sprint(server.last[moved]["transition"]); got != "map[id:"+c.id+"]" {
					t.Errorf("moved by %s, want %s", got, c.id)
				}
			}
			left, err := s.Deliveries(t.Context(), "", 100)
			if err != nil || slices.ContainsFunc(left, func(d Delivery) bool { return d.Taken.IsZero() }) {
				t.Errorf("notices wait: %+v, %v", left, err)
			}
		})
	}
}
