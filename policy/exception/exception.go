// Package exception keeps what was agreed to run although a check fails: for one
// digest, of named checks, for a while, asked for by one person and approved by
// another, with the reason. What was approved is signed by the site and logged as
// an attestation about the digest, and counts only while that verifies: a row that
// somebody writes into the database excuses nothing. Break-glass is the same for an
// emergency: of every check, and short.
package exception

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/policy"
)

// PredicateType of the attestation that an exception is.
const PredicateType = "https://assay.dev/attestations/exception/v1"

// The states of an [Entry].
const (
	Requested = "requested" // it waits for another person
	Approved  = "approved"  // and in force
	Rejected  = "rejected"
	Withdrawn = "withdrawn"
	Expired   = "expired" // approved once, or never decided about
)

// Terms are what is excused.
type Terms struct {
	Kind   string           `json:"kind"` // exception or break-glass
	Digest artifact.Digest  `json:"digest"`
	Checks []string         `json:"checks,omitempty"` // as decisions name them, or "reports/*"; absent: all, of kind break-glass
	Scope  *policy.Selector `json:"scope,omitempty"`  // where; absent: wherever the digest is
	Reason string           `json:"reason"`
	Ticket string           `json:"ticket,omitempty"`
	Until  time.Time        `json:"until"`
}

// Grant is the predicate of what the site signs.
type Grant struct {
	Terms
	ID          string    `json:"id"`
	RequestedBy string    `json:"requested_by"`
	RequestedAt time.Time `json:"requested_at"`
	ApprovedBy  string    `json:"approved_by"`
}

// Limits bound how long exceptions hold.
type Limits struct {
	Ordinary   time.Duration // default 30 days
	BreakGlass time.Duration // default 8 hours
}

// requestAge is how long a request waits for an answer.
const requestAge = 7 * 24 * time.Hour

// shownFor is how long facts tell of an exception that is over.
const shownFor = 7 * 24 * time.Hour

// checkRE is a check by its name, or all below one. Those that stand before a
// policy's own are not excused by any, and are refused by name so that nobody
// believes they are.
var (
	checkRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9._+-]+)*(/\*)?$`)
	never   = []string{"trust", "evidence", "repository"}
)

func (t *Terms) check(now time.Time, lim Limits) error {
	if err := t.Digest.Validate(); err != nil {
		return err
	}
	longest := lim.Ordinary
	switch t.Kind {
	case policy.ExceptionOrdinary:
		if len(t.Checks) == 0 {
			return fault.Newf(fault.Invalid, "checks: want the names of the checks to excuse, as assay verify prints them (%q)", "signatures/release")
		}
	case policy.ExceptionBreakGlass:
		longest = lim.BreakGlass
	default:
		return fault.Newf(fault.Invalid, "kind %.40q: want exception or break-glass", t.Kind)
	}
	if len(t.Checks) > 16 {
		return fault.Newf(fault.Invalid, "%d checks: want at most 16", len(t.Checks))
	}
	for _, c := range t.Checks {
		if len(c) > 200 || !checkRE.MatchString(c) {
			return fault.Newf(fault.Invalid, "check %.80q: want a name as assay verify prints it, or all below one: reports/*", c)
		}
		if first, _, _ := strings.Cut(c, "/"); slices.Contains(never, first) {
			return fault.Newf(fault.Invalid, "check %.80q is never excused: what is revoked, stale or not read whole stays denied", c)
		}
	}
	if n := len(strings.TrimSpace(t.Reason)); n < 3 || n > 1000 {
		return fault.Newf(fault.Invalid, "reason: want 3 to 1,000 bytes")
	}
	if len(t.Ticket) > 200 {
		return fault.Newf(fault.Invalid, "ticket: want at most 200 bytes")
	}
	if t.Scope != nil {
		if _, err := t.Scope.Covers(policy.Subject{}, policy.Scope{}); err != nil {
			return err
		}
	}
	if !t.Until.After(now) || t.Until.After(now.Add(longest)) {
		return fault.Newf(fault.Invalid, "until %s: want an instant within %s from now", t.Until.UTC().Format(time.RFC3339), longest)
	}
	return nil
}

// Entry is an exception as it is told.
type Entry struct {
	ID string `json:"id"` // exc_...
	Terms
	State       string    `json:"state"`
	RequestedBy string    `json:"requested_by"`
	RequestedAt time.Time `json:"requested_at"`
	DecidedBy   string    `json:"decided_by,omitempty"` // who approved or rejected it
	DecidedAt   time.Time `json:"decided_at,omitzero"`
	Answer      string    `json:"answer,omitempty"` // their reason
	EndedBy     string    `json:"ended_by,omitempty"`
	EndedAt     time.Time `json:"ended_at,omitzero"`
	EndReason   string    `json:"end_reason,omitempty"`
	Attestation string    `json:"attestation,omitempty"` // att_... of what the site signed

	person string // who asked
	bundle []byte
}

// state is what the row says at an instant.
func (e *Entry) settle(now time.Time) {
	switch {
	case e.State == Approved && !now.Before(e.Until), e.State == Requested && (!now.Before(e.RequestedAt.Add(requestAge)) || !now.Before(e.Until)):
		e.State = Expired
	}
}

func (e *Entry) grant() Grant {
	return Grant{Terms: e.Terms, ID: e.ID, RequestedBy: e.RequestedBy, RequestedAt: e.RequestedAt.UTC(), ApprovedBy: e.DecidedBy}
}

// statement is what the site signs.
func (e *Entry) statement() (*attestation.Statement, error) {
	b, err := strictjson.Canonical(e.grant())
	if err != nil {
		return nil, err
	}
	return attestation.NewStatement(PredicateType, json.RawMessage(b), attestation.Subject{Name: e.ID, Digest: e.Digest.Set()})
}

// matches says whether a verified statement says what the row says.
func (e *Entry) matches(st *attestation.Statement) error {
	want, err := e.statement()
	if err != nil {
		return err
	}
	a, err := strictjson.Canonical(want)
	if err != nil {
		return err
	}
	b, err := strictjson.Canonical(st)
	if err != nil {
		return err
	}
	if string(a) != string(b) {
		return fault.Newf(fault.Tampered, "exception %s: the row says something else than what was signed", e.ID)
	}
	return nil
}

func (e *Entry) fact() policy.ExceptionFact {
	return policy.ExceptionFact{ID: e.ID, Kind: e.Kind, Checks: e.Checks, Until: e.Until.UTC().Format(time.RFC3339), RequestedBy: excerpt.Line(e.RequestedBy, 120, '?'), ApprovedBy: excerpt.Line(e.DecidedBy, 120, '?'), Reason: excerpt.Line(e.Reason, 300, '?')}
}
