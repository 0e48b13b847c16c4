package alert

import (
	"bytes"
	"encoding/json"
	"strings"
	"text/template"
	"time"

	"assay/internal/excerpt"
	"assay/internal/fault"
)

// The occasions of a notice.
const (
	OccasionOpened    = "opened"
	OccasionJoined    = "joined" // a rule joined a group that had been told of
	OccasionEscalated = "escalated"
	OccasionResolved  = "resolved"
	OccasionTest      = "test"
)

// Notice is what a receiver is told of a group; templates are over it.
type Notice struct {
	ID       string // of the delivery, without the receiver
	Occasion string
	Group    Group
	Site     string // public URL
	URL      string // of the group's page
	First    Alert  // the alert that tells most: the newest that fires
	Rules    []string
	Test     bool
	At       time.Time
}

// Over says that all of it is resolved.
func (n *Notice) Over() bool { return n.Occasion == OccasionResolved }

const defaultTitle = `{{if .Test}}[TEST] {{end}}[{{if .Over}}RESOLVED{{else}}{{.Group.Severity}}{{end}}] {{.First.Title}}{{if .Group.Service}}: {{.Group.Service}}{{end}}{{if gt .Group.Total 1}} ({{.Group.Total}} alerts){{end}}`

const defaultText = `{{if eq .Occasion "escalated"}}Nobody has acknowledged this in time.
{{end}}{{range $i, $a := .Group.Alerts}}{{if lt $i 10}}- {{$a.Title}}{{if $a.Artifact}} {{$a.Artifact}}{{end}}{{if $a.Summary}}: {{$a.Summary}}{{end}}{{if gt $a.Count 1}} ({{$a.Count}} times){{end}}
{{end}}{{end}}{{if gt .Group.Total 10}}and more: {{.Group.Total}} alerts in all, {{.Group.Firing}} of them open
{{end}}
Service: {{or .Group.Service "none"}}   Release: {{or .Group.Release "unknown"}}   Team: {{or .Group.Team "none"}}{{if not .Group.Owned}} (nobody owns it){{end}}
Since: {{.Group.Opened.Format "2006-01-02 15:04:05Z07:00"}}
Runbook: {{.Site}}/ui/docs/{{.First.Runbook}}
Command: {{.First.Command}}
Acknowledge: assay alert ack {{.First.ID}}
{{.URL}}`

const maxNotice = 16 << 10

// render carries a template out, bounded, and free of control characters.
func render(t *template.Template, n *Notice) (string, error) {
	var b limited
	if err := t.Execute(&b, n); err != nil {
		return "", err
	}
	var lines []string
	for _, l := range strings.Split(b.String(), "\n") {
		lines = append(lines, excerpt.Line(l, 2000, ' '))
	}
	return strings.TrimSpace(strings.Join(lines, "\n")), nil
}

type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxNotice {
		return 0, fault.Newf(fault.TooLarge, "the notice is longer than %d bytes", maxNotice)
	}
	return l.Buffer.Write(p)
}

// sample is a notice to try templates on, and to test receivers with.
func sample() *Notice {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a := Alert{ID: "alr_test", Rule: "tampering", Severity: Ticket, State: Firing, Title: "This is a test of the receiver", Summary: "nothing is wrong", Group: "grp_test", Since: at, Last: at, Count: 1, Owned: true, Runbook: "runbooks/test.md", Command: "assay alert list"}
	return &Notice{ID: "test", Occasion: OccasionOpened, Group: Group{ID: "grp_test", Severity: Ticket, Opened: at, Alerts: []Alert{a}, Total: 1, Firing: 1, Owned: true}, First: a, Rules: []string{a.Rule}, At: at}
}

func unmarshal(raw json.RawMessage, v any) error { return json.Unmarshal(raw, v) }

func first(all []string, n int) string {
	if len(all) <= n {
		return strings.Join(all, ", ")
	}
	return strings.Join(all[:n], ", ") + ", …"
}
