package report

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"assay/client"
	"assay/policy"
	"assay/readiness"
)

func (m *making) keys() {
	s := Section{ID: "keys", Title: "Keys", Columns: []string{"Key", "Role", "Algorithm", "Where", "Age in days", "State", "Rotates", "Ends"}, Link: "trust"}
	var list client.List[client.Key]
	err := m.ask(m.ctx, "keys", &list)
	late := 0
	for i := range list.Items {
		k := &list.Items[i]
		if !k.Rotates.IsZero() && m.r.To.After(k.Rotates) {
			late++
		}
		s.Rows = append(s.Rows, []string{k.Name, k.Role, k.Algorithm, k.Where, fmt.Sprint(k.Age / 86400), k.State, stamp(k.Rotates), stamp(k.Expires)})
	}
	s.Summary = fmt.Sprintf("%d keys; %d are past their rotation.", len(s.Rows), late)
	m.add(s, err)
}

func (m *making) credentials() {
	s := Section{ID: "credentials", Title: "Credentials of machines", Columns: []string{"Robot", "Made", "Token since", "Ends", "Last used"}, Link: "trust"}
	var list client.List[client.Robot]
	err := m.ask(m.ctx, "robots", &list, "limit", "1000")
	ended := 0
	for i := range list.Items {
		r := &list.Items[i]
		row := []string{r.Name, stamp(r.CreatedAt), "no token", "", ""}
		if len(r.Tokens) > 0 { // the newest
			t := &r.Tokens[0]
			if t.Expires.Before(m.r.To) {
				ended++
			}
			row = []string{r.Name, stamp(r.CreatedAt), stamp(t.CreatedAt), stamp(t.Expires), stamp(t.LastUsed)}
		}
		s.Rows = append(s.Rows, row)
	}
	s.Summary = fmt.Sprintf("%d robots; the tokens of %d have ended.", len(s.Rows), ended)
	m.add(s, err)
}

// exercises are what was tried and rehearsed.
func (m *making) exercises() {
	s := Section{ID: "exercises", Title: "Exercises and probes", Columns: []string{"When", "What", "By", "Outcome"}, Link: "readiness"}
	all, _, err := m.audited("readiness.probed", "backup.created", "restore.reconciled", "key.rotated")
	for _, e := range all {
		name, outcome := e.Kind, ""
		if e.Kind == "readiness.probed" {
			name, outcome = probed(e.Body)
		}
		s.Rows = append(s.Rows, []string{stamp(e.Time), name, e.Actor, outcome})
	}
	s.Summary = fmt.Sprintf("%d exercises, probes, backups and rotations.", len(s.Rows))
	m.add(s, err)
}

func (m *making) policies() {
	s := Section{ID: "policies", Title: "Policies for review", Columns: []string{"Policy", "Mode", "Hash", "Changed", "By"}, Link: "policies"}
	var list client.List[client.StoredDocument]
	err := m.ask(m.ctx, "documents", &list, "kind", "Policy")
	applied, _, aerr := m.audited("policy.applied")
	if err == nil {
		err = aerr
	}
	enforced := 0
	for i := range list.Items {
		d := &list.Items[i]
		row := []string{d.Name, "not known", "", "", ""}
		if p, err := policy.ParseRequirements([]byte(d.Text)); err == nil {
			row[1], row[2] = string(p.Mode()), p.Hash()[:12]
			if p.Mode() == policy.Enforce {
				enforced++
			}
		}
		for _, e := range applied {
			if strings.Contains(string(e.Body), strconv.Quote(d.Name)) {
				row[3], row[4] = stamp(e.Time), e.Actor
				break
			}
		}
		s.Rows = append(s.Rows, row)
	}
	slices.SortFunc(s.Rows, slices.Compare[[]string])
	s.Summary = fmt.Sprintf("%d policies, %d of which enforce.", len(s.Rows), enforced)
	m.add(s, err)
}

func (m *making) readiness() {
	s := Section{ID: "readiness", Title: "Readiness and maturity", Columns: []string{"Check", "Outcome", "Found", "Level", "To mend it"}, Link: "readiness"}
	all := readiness.Check(m.ctx, m.ask, m.r.To, readiness.Production)
	for _, r := range all {
		s.Rows = append(s.Rows, []string{r.Title, string(r.Status), r.Found, fmt.Sprint(r.Level), r.Mend})
	}
	l := readiness.Maturity(all)
	s.Summary = fmt.Sprintf("Level %d of %d: %s.", l.Level, readiness.MostLevel, l.Name)
	if l.Next != "" {
		s.Summary += fmt.Sprintf(" For %q %d checks are missing.", l.Next, len(l.Missing))
	}
	m.add(s, nil)
}

// probed reads what a record of a probe says.
func probed(body json.RawMessage) (name, outcome string) {
	var p readiness.Probe
	if json.Unmarshal(body, &p) != nil {
		return "not known", "not known"
	}
	return p.Name, string(p.Status) + ": " + p.Found
}
