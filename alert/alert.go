package alert

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"assay/artifact"
)

// Severity says how soon somebody must look.
type Severity string

// The severities.
const (
	Page   Severity = "page"   // now, whatever the hour
	Ticket Severity = "ticket" // in working hours
)

// State is where an alert stands.
type State string

// The states.
const (
	Firing       State = "firing"
	Acknowledged State = "acknowledged"
	Resolved     State = "resolved"
)

// Alert is one thing that is wrong.
type Alert struct {
	ID          string // alr_...
	Rule        string
	Severity    Severity
	State       State
	Fingerprint string // of rule and what it is about
	Group       string // grp_...
	Title       string
	Summary     string // of the latest occurrence
	Service     string
	Team        string // whom it goes to
	Owned       bool   // false: nobody owns it, so that it goes to the platform's team
	Environment string
	Cluster     string
	Release     string
	Artifact    artifact.Digest
	About       string // what it is about, where that is no artifact
	Since       time.Time
	Last        time.Time
	Count       int64 // how often it occurred
	Resolved    time.Time
	ResolvedBy  string

	Acknowledged   time.Time
	AcknowledgedBy string
	Note           string // of who acknowledged it
	Escalated      int    // how often, for want of an acknowledgement

	Silenced string // silence that it matches now, sil_...; "": none
	Runbook  string // path of its page in the docs: runbooks/RULE
	Command  string // that acts
	Evidence []string
}

// Silence keeps notices of alerts back until it ends. Members that are "" match
// all; at least one is set.
type Silence struct {
	ID       string // sil_...
	Rule     string
	Severity Severity
	Service  string
	Team     string
	Cluster  string
	Artifact artifact.Digest
	Owner    string // who made it
	Reason   string
	Made     time.Time
	Expires  time.Time
	Ended    time.Time // by hand, before it expired
	EndedBy  string
}

// Matches says whether an alert is silenced by it.
func (s *Silence) Matches(a *Alert) bool {
	if a.Rule == RuleSilenced {
		return false // a silence is not kept quiet
	}
	if a.Severity == Page && s.Expires.Sub(s.Made) > longestPages {
		return false // it was made for tickets: what has become a page since is told of
	}
	is := func(want, have string) bool { return want == "" || want == have }
	return is(s.Rule, a.Rule) && is(string(s.Severity), string(a.Severity)) && is(s.Service, a.Service) &&
		is(s.Team, a.Team) && is(s.Cluster, a.Cluster) && is(string(s.Artifact), string(a.Artifact))
}

// Group is what a person deals with at once.
type Group struct {
	ID       string // grp_...
	Severity Severity
	Service  string
	Release  string
	Team     string
	Owned    bool
	Opened   time.Time
	Resolved time.Time // zero: it goes on
	Alerts   []Alert   // those that fire first, the newest first; at most 100
	Total    int       // alerts in it
	Firing   int       // of these, not resolved
	Waiting  int       // of these, acknowledged by nobody
}

// Delivery is a notice on its way to a receiver, or what became of it.
type Delivery struct {
	ID       string // group, occasion and receiver: the same for every attempt
	Group    string
	Occasion string // opened, joined, escalated, resolved, test
	Receiver string
	Created  time.Time
	Due      time.Time
	Attempts int
	Taken    time.Time // zero: not yet
	GivenUp  bool
	Problem  string // of the last attempt
	Ref      string // what the receiver called it: an issue's URL or number
}

// Fingerprint is that of a rule and what it is about.
func Fingerprint(rule string, about ...string) string {
	sum := sha256.Sum256([]byte(rule + "\x00" + strings.Join(about, "\x00")))
	return hex.EncodeToString(sum[:16])
}
