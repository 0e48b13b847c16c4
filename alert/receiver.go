package alert

import (
	"net/mail"
	"net/url"
	"slices"
	"strings"
	"text/template"

	"assay/internal/fault"
)

// The types of receiver.
const (
	TypeWebhook      = "webhook"
	TypeSlack        = "slack"
	TypePagerDuty    = "pagerduty"
	TypeEmail        = "email"
	TypeAlertmanager = "alertmanager"
	TypeGitHub       = "github"
	TypeGitLab       = "gitlab"
	TypeJira         = "jira"
)

// Types lists the types of receiver.
func Types() []string {
	return []string{TypeWebhook, TypeSlack, TypePagerDuty, TypeEmail, TypeAlertmanager, TypeGitHub, TypeGitLab, TypeJira}
}

// Spec is a document of kind Receiver: somebody to be told of alerts.
type Spec struct {
	// Type is one of [Types].
	Type string `yaml:"type"`
	// URL is where to send: of a webhook and of Slack the whole address; of
	// Alertmanager, GitHub, GitLab and Jira their base; of email "smtp://HOST:PORT"
	// (STARTTLS) or "smtps://HOST:PORT". PagerDuty, GitHub and GitLab have defaults.
	URL string `yaml:"url"`
	// Secret is "file:PATH" or "credential:NAME": PagerDuty's routing key, a token,
	// a webhook's signing secret, Slack's whole URL in place of url, Jira's and
	// SMTP's "USER:PASSWORD".
	Secret string `yaml:"secret"`
	// Project is GitHub's "OWNER/NAME", GitLab's "GROUP/NAME", Jira's key.
	Project string `yaml:"project"`
	// IssueType is Jira's. Default "Task".
	IssueType string `yaml:"issueType"`
	// Labels are put on issues.
	Labels []string `yaml:"labels"`
	// From and To are addresses of email.
	From string   `yaml:"from"`
	To   []string `yaml:"to"`
	// Severities are what it takes. Default: page and ticket; issues: ticket.
	Severities []Severity `yaml:"severities"`
	// Teams are whose alerts it takes. Default: those of nobody by name; see Default.
	Teams []string `yaml:"teams"`
	// Default receives what no other receiver of the severity takes.
	Default bool `yaml:"default"`
	// Escalation receives pages that nobody acknowledged in time.
	Escalation bool `yaml:"escalation"`
	// Quiet leaves out that an alert is over. Issues are closed all the same.
	Quiet bool `yaml:"quiet"`
	// Title and Text are templates (Go text/template) over a notice. Default: the
	// built-in ones.
	Title string `yaml:"title"`
	Text  string `yaml:"text"`
	// CABundle is a PEM file of authorities for the receiver's TLS.
	CABundle string `yaml:"caBundle"`
	// AllowPrivate permits receivers on private networks.
	AllowPrivate bool `yaml:"allowPrivate"`
}

// Receiver is a spec that is in force.
type Receiver struct {
	Name string
	Spec
	title, text *template.Template
}

// Compile makes a receiver of a spec. Errors are fault.Invalid.
func Compile(name string, s Spec) (*Receiver, error) {
	if err := s.complete(); err != nil {
		return nil, err
	}
	r := &Receiver{Name: name, Spec: s}
	var err error
	if r.title, err = parseTemplate("title", s.Title, defaultTitle); err != nil {
		return nil, err
	}
	if r.text, err = parseTemplate("text", s.Text, defaultText); err != nil {
		return nil, err
	}
	return r, nil
}

func parseTemplate(name, own, otherwise string) (*template.Template, error) {
	if own == "" {
		own = otherwise
	}
	t, err := template.New(name).Option("missingkey=error").Parse(own)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "%s: %w", name, err)
	}
	if _, err := render(t, sample()); err != nil {
		return nil, fault.Newf(fault.Invalid, "%s: %w", name, err)
	}
	return t, nil
}

// Validate says what is wrong with a spec; fault.Invalid.
func (s *Spec) Validate() error {
	_, err := Compile("it", *s)
	return err
}

func (s *Spec) complete() error {
	if !slices.Contains(Types(), s.Type) {
		return fault.Newf(fault.Invalid, "type %.40q: want one of %s", s.Type, strings.Join(Types(), ", "))
	}
	if s.URL == "" {
		s.URL = map[string]string{TypePagerDuty: "https://events.pagerduty.com/v2/enqueue", TypeGitHub: "https://api.github.com", TypeGitLab: "https://gitlab.com"}[s.Type]
	}
	if s.Secret != "" && !strings.HasPrefix(s.Secret, "file:") && !strings.HasPrefix(s.Secret, "credential:") {
		return fault.Newf(fault.Invalid, "secret: want file:PATH or credential:NAME, never the secret itself")
	}
	if s.URL != "" || s.Type != TypeSlack || s.Secret == "" {
		if err := s.checkURL(); err != nil {
			return err
		}
	}
	switch s.Type {
	case TypePagerDuty, TypeGitHub, TypeGitLab, TypeJira:
		if s.Secret == "" {
			return fault.Newf(fault.Invalid, "a receiver of type %s wants a secret: file:PATH or credential:NAME", s.Type)
		}
	}
	if s.issues() {
		if !projectOK(s.Type, s.Project) {
			return fault.Newf(fault.Invalid, "project %.80q: want OWNER/NAME of GitHub, GROUP/NAME of GitLab, the key of Jira", s.Project)
		}
		if s.IssueType == "" {
			s.IssueType = "Task"
		}
	}
	if s.Type == TypeEmail {
		for _, a := range append([]string{s.From}, s.To...) {
			if p, err := mail.ParseAddress(a); err != nil || p.Address != a {
				return fault.Newf(fault.Invalid, "address %.80q: want NAME@HOST in from, and at least one in to", a)
			}
		}
		if len(s.To) == 0 || len(s.To) > 50 {
			return fault.Newf(fault.Invalid, "to has %d addresses: want 1 to 50", len(s.To))
		}
	}
	for _, v := range s.Severities {
		if v != Page && v != Ticket {
			return fault.Newf(fault.Invalid, "severities: %.40q: want page or ticket", v)
		}
	}
	if len(s.Severities) == 0 {
		s.Severities = []Severity{Page, Ticket}
		if s.issues() {
			s.Severities = []Severity{Ticket}
		}
	}
	return nil
}

func (s *Spec) issues() bool {
	return s.Type == TypeGitHub || s.Type == TypeGitLab || s.Type == TypeJira
}

func (s *Spec) checkURL() error {
	u, err := url.Parse(s.URL)
	schemes := []string{"https", "http"}
	if s.Type == TypeEmail {
		schemes = []string{"smtps", "smtp"}
	}
	if err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme) {
		return fault.Newf(fault.Invalid, "url %.200q: want %s://HOST", s.URL, schemes[0])
	}
	if s.Type == TypeEmail && u.Port() == "" {
		return fault.Newf(fault.Invalid, "url %.200q: want a port, for example smtp://mail.example.org:587", s.URL)
	}
	if u.User != nil || u.Fragment != "" {
		return fault.Newf(fault.Invalid, "url of a receiver carries neither credentials nor a fragment: use secret")
	}
	if u.Scheme == "http" && !s.AllowPrivate {
		return fault.Newf(fault.Invalid, "url %.200q: http is for receivers on private networks, with allowPrivate; want https", s.URL)
	}
	return nil
}

func projectOK(kind, p string) bool {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-/", r)
	}
	if p == "" || len(p) > 200 || strings.IndexFunc(p, func(r rune) bool { return !plain(r) }) >= 0 || slices.ContainsFunc(strings.Split(p, "/"), func(s string) bool { return s == "" || s == "." || s == ".." }) {
		return false
	}
	switch kind {
	case TypeGitHub:
		return strings.Count(p, "/") == 1
	case TypeGitLab:
		return strings.Contains(p, "/")
	}
	return !strings.Contains(p, "/")
}

func (r *Receiver) takes(sev Severity) bool { return slices.Contains(r.Severities, sev) }

// route gives the receivers of a group: those that the service's or the team's
// routes name, else those of the team, else the default ones. With further, those
// for what nobody acknowledged come with them.
func route(all []*Receiver, sev Severity, team string, named []string, further bool) (out []*Receiver) {
	pick := func(want func(*Receiver) bool) {
		for _, r := range all {
			if want(r) && !slices.Contains(out, r) {
				out = append(out, r)
			}
		}
	}
	pick(func(r *Receiver) bool { return slices.Contains(named, r.Name) })
	if len(out) == 0 {
		pick(func(r *Receiver) bool { return r.takes(sev) && team != "" && slices.Contains(r.Teams, team) })
	}
	if len(out) == 0 {
		pick(func(r *Receiver) bool { return r.takes(sev) && r.Default })
	}
	if further {
		pick(func(r *Receiver) bool { return r.Escalation && r.takes(sev) })
	}
	return out
}
