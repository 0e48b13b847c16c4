package admission

import (
	"fmt"
	"strings"

	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/policy"
)

// verdictOn is what was found out about one image of an object.
type verdictOn struct {
	image  *Image
	answer *Answer // nil: none
	err    error
	// restart says that what runs already may start again in spite of the answer.
	restart bool
}

// refuses says whether the object must be refused for this image.
func (v *verdictOn) refuses() bool {
	return v.err != nil && !v.restart || v.err == nil && v.answer.Refuses() && !v.restart
}

// text says what is wrong with an image, for the developer whose kubectl shows
// it: which container, which image, what was expected, what was found, what to do.
func (v *verdictOn) text(namespace string) string {
	where := string(v.image.Use)
	if v.image.Name != "" {
		where += " " + excerpt.Line(v.image.Name, 63, '.')
	}
	what := excerpt.Line(v.image.Reference, 200, '.')
	if what == "" {
		what = "(none)"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: image %s may not run in namespace %s: ", where, what, excerpt.Line(namespace, 63, '.'))
	switch {
	case v.err != nil && (fault.KindOf(v.err) == fault.NotFound):
		fmt.Fprintf(&b, "it is not in the registry, or waits there for its evidence: %s", excerpt.Line(v.err.Error(), 300, '.'))
	case v.err != nil && (fault.KindOf(v.err) == fault.Invalid || fault.KindOf(v.err) == fault.Denied):
		b.WriteString(excerpt.Line(v.err.Error(), 400, '.'))
	case v.err != nil:
		fmt.Fprintf(&b, "it could not be decided, so it is refused: %s", excerpt.Line(v.err.Error(), 300, '.'))
	case v.answer.Blocked != "":
		b.WriteString(excerpt.Line(v.answer.Blocked, 400, '.'))
	default:
		b.WriteString(why(v.answer))
	}
	return b.String()
}

// why is what failed, and what would mend it.
func why(a *Answer) string {
	var parts []string
	mend := ""
	for _, c := range a.Failed {
		parts = append(parts, fmt.Sprintf("%s: expected %s, found %s", c.Name, excerpt.Line(c.Expected, 200, '.'), excerpt.Line(c.Found, 200, '.')))
		if mend == "" {
			mend = c.Mend
		}
	}
	if len(parts) == 0 {
		parts = []string{"denied by its evidence"}
	}
	s := strings.Join(parts, "; ")
	if mend != "" {
		s += "; to mend it: " + excerpt.Line(mend, 300, '.')
	}
	s += fmt.Sprintf(" (policy %s, %s", excerpt.Line(a.Policy, 80, '.'), a.Digest.Short())
	if a.Decision != "" {
		s += ", " + a.Decision[:min(len(a.Decision), 16)]
	}
	return s + ")"
}

// outcome is the event's word for a verdict.
func (v *verdictOn) outcome(audit bool) string {
	switch {
	case v.err == nil && v.answer.Allowed():
		return "allowed"
	case v.refuses() && !audit:
		return "denied"
	}
	return "warned"
}

func (v *verdictOn) mode() policy.Mode {
	if v.answer == nil {
		return policy.Enforce
	}
	return v.answer.Mode
}
