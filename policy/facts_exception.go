package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// ExceptionFact is an exception for the artifact in this scope that two persons
// agreed on and the site signed. One that is over stays in the facts for a while,
// so that a denial says that it was the exception's end that brought it.
type ExceptionFact struct {
	ID          string   `json:"id"`               // exc_...
	Kind        string   `json:"kind"`             // exception, break-glass
	Checks      []string `json:"checks,omitempty"` // names of checks, or all below one: "reports/*"; absent: all, of kind break-glass
	Until       string   `json:"until"`            // RFC 3339
	RequestedBy string   `json:"requested_by"`
	ApprovedBy  string   `json:"approved_by"`
	Reason      string   `json:"reason"`
}

// The kinds of exception. Break-glass may excuse every check of a policy, and is
// short.
const (
	ExceptionOrdinary   = "exception"
	ExceptionBreakGlass = "break-glass"
)

// Covers says whether a target is one that the selector selects.
func (s *Selector) Covers(sub Subject, sc Scope) (bool, error) {
	c, err := s.compile()
	if err != nil {
		return false, err
	}
	_, ok := c.match(sub, sc)
	return ok, nil
}

// CoversCheck says whether an exception's list of checks covers a check by its
// name. A combined policy's checks begin with the name of the policy that they are
// of, which may be left out.
func CoversCheck(list []string, name string) bool {
	return slices.ContainsFunc(list, func(p string) bool {
		for rest, more := name, true; more; {
			below, all := strings.CutSuffix(p, "/*")
			if rest == p || all && strings.HasPrefix(rest, below+"/") {
				return true
			}
			if rest != name {
				return false
			}
			_, rest, more = strings.Cut(name, "/")
		}
		return false
	})
}

func (e *ExceptionFact) covers(c *Check) bool {
	switch e.Kind {
	case ExceptionBreakGlass:
		return len(e.Checks) == 0 || CoversCheck(e.Checks, c.Name)
	case ExceptionOrdinary:
		return CoversCheck(e.Checks, c.Name)
	}
	return false
}

// excuse turns failed checks into warnings where an exception says so. What stands
// before the policy's own checks is never excused: a revoked artifact, evidence
// that was not read whole, stale trust, content of profile dev. Nor is a malicious
// package; and a flaw that is known to be exploited only by break-glass.
func (ev *evaluation) excuse(head int) (any bool) {
	for i := range ev.checks[head:] {
		c := &ev.checks[head+i]
		if c.Status != Fail || c.grave == unexcusable {
			continue
		}
		var over *ExceptionFact
		for k := range ev.facts.Exceptions {
			e := &ev.facts.Exceptions[k]
			if !e.covers(c) || c.grave == emergency && e.Kind != ExceptionBreakGlass {
				continue
			}
			until, err := time.Parse(time.RFC3339, e.Until)
			if err != nil {
				continue
			}
			if !ev.now.Before(until) {
				over = e
				continue
			}
			c.Status, c.Exception, any = Warned, e.ID, true
			c.Found += fmt.Sprintf("; %s %s until %s: %s (asked by %s, approved by %s)", e.Kind, clip(e.ID, 24), e.Until, clip(e.Reason, 200), clip(e.RequestedBy, 100), clip(e.ApprovedBy, 100))
			ev.expire(until)
			break
		}
		if c.Status == Fail && over != nil {
			c.Exception = over.ID
			c.Found += fmt.Sprintf("; %s %s ended at %s", over.Kind, clip(over.ID, 24), over.Until)
		}
	}
	return any
}
