package ui

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/client"
	"assay/event"
	"assay/identity"
	"assay/registry/gate"
)

// trustPage is whom this site believes, and with what it signs.
func trustPage(c *visit) (*Page, error) {
	p := &Page{Title: "Keys and roots", Here: "Keys and roots", Live: true}
	if c.may(identity.ActReadAudit) {
		p.Sections = append(p.Sections, c.keys())
	} else {
		p.Sections = append(p.Sections, Section{ID: "keys", Title: "The site's own keys", Problem: "Their ages and rotations are for auditors."})
	}
	p.Sections = append(p.Sections, c.roots(), c.revocationList(), c.delegations())
	if c.may(identity.ActReadAudit) {
		p.Sections = append(p.Sections, c.credentialRevocations())
	}
	if c.may(identity.ActOperate) {
		p.Sections = append(p.Sections, c.blocks())
	}
	p.Sections = append(p.Sections, Section{ID: "verify", Title: "To verify elsewhere", Note: "assay trust export --out trust.json gives what an offline verifier needs; cosign initialize --mirror " + c.u.o.PublicURL + "/tuf --root 1.root.json serves Sigstore's clients."})
	return p, nil
}

func (c *visit) keys() Section {
	out := Section{ID: "keys", Title: "The site's own keys", Table: &Table{Columns: columns("Role", "State", "Algorithm", "Age#", "Made", "Rotates", "Expires", "Kept", "Fingerprint")}}
	var list client.List[client.Key]
	if err := c.get(&list, "keys"); err != nil {
		out.Problem = err.Error()
		return out
	}
	now := c.u.o.Clock()
	for i := range list.Items {
		k := &list.Items[i]
		state := mark(Good, k.State)
		switch k.State {
		case "pending", "retiring":
			state.Mark = Info
		case "retired":
			state.Mark = Unknown
		case "":
			state = mark(Good, "in use")
		}
		if k.Where == "retired" {
			state = mark(Info, "retired")
		}
		if k.Reason != "" {
			state.Sub = clip(k.Reason, 80)
		}
		rotates := when(k.Rotates)
		if k.Waits != "" {
			rotates = Cell{Text: "waits", Mark: Warn, Sub: clip(k.Waits, 80)}
		}
		expires := when(k.Expires)
		if !k.Expires.IsZero() && k.Expires.Sub(now) < 30*24*time.Hour {
			expires.Mark, expires.Value = Warn, expires.Stamp()
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{{Text: k.Role, Sub: otherName(k.Name, k.Role)}, state, text(k.Algorithm), age(time.Duration(k.Age) * time.Second), when(k.Created), rotates, expires, text(k.Where), {Text: short(k.Fingerprint), Value: k.Fingerprint, Title: k.Fingerprint, Mono: true}})
	}
	return out
}

func otherName(name, role string) string {
	if name == role {
		return ""
	}
	return name
}

func (c *visit) roots() Section {
	out := Section{ID: "roots", Title: "Imported roots of trust", Table: &Table{Columns: columns("Root", "Type", "Namespaces", "From", "To", "Revocation", "Imported", "Because"), Empty: "Only the site's own root is believed."}}
	var list client.List[client.ForeignRoot]
	if err := c.get(&list, "trust/roots"); err != nil {
		out.Problem = err.Error()
		return out
	}
	for i := range list.Items {
		r := &list.Items[i]
		revocation := text(r.Revocation)
		if r.Revocation == "not_configured" {
			revocation = unknown("it brings no list of revocations")
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{{Text: r.Name, Sub: "version " + strconv.FormatInt(r.Version, 10)}, text(r.Type), clipped(strings.Join(r.Namespaces, ", "), 80), when(r.NotBefore), when(r.NotAfter), revocation, when(r.ImportedAt), orNone(clip(r.Reason, 100))})
	}
	return out
}

func (c *visit) revocationList() Section {
	out := Section{ID: "revocations", Title: "Revoked: trusted no more, since when", Table: &Table{Columns: columns("Kind", "What", "Invalid since", "Because", "By", "Made"), Empty: "Nothing is revoked."}}
	var list client.RevocationList
	if err := c.get(&list, "trust/revocations"); err != nil {
		out.Problem = err.Error()
		return out
	}
	state := mark(Good, list.State)
	if list.State != "current" {
		state = mark(Bad, list.State)
	}
	out.Facts = []Fact{{"List", state}, {"Version", count(list.Version)}, {"Issued", when(list.Issued)}, {"Expires", when(list.Expires)}}
	for i := range list.Entries {
		r := &list.Entries[i]
		what := r.Key + r.Subject + r.Builder + string(r.Digest)
		switch {
		case r.Serial != "":
			what = r.Issuer + " serial " + r.Serial
		case r.LogID != "":
			what = "log " + clip(r.LogID, 16)
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{text(r.Kind), {Text: clip(what, 80), Value: what, Title: what, Mono: true}, when(r.InvalidSince), clipped(r.Reason, 160), who(r.Requester), whenPtr(r.Created)})
	}
	return out
}

func (c *visit) delegations() Section {
	out := Section{ID: "delegations", Title: "Delegations", Table: &Table{Columns: columns("Delegation", "State", "Patterns", "Types", "To", "Expires", "Signed by"), Empty: "Nothing is handed to teams or vendors."}}
	var list client.List[client.Delegation]
	if err := c.get(&list, "trust/delegations"); err != nil {
		out.Problem = err.Error()
		return out
	}
	for i := range list.Items {
		d := &list.Items[i]
		state := mark(Good, d.State)
		if d.State != "holds" {
			state = Cell{Text: d.State, Mark: Bad, Sub: clip(d.Problem, 80)}
		}
		to := make([]string, 0, len(d.Delegates))
		for _, one := range d.Delegates {
			to = append(to, one.Subject+one.SubjectRegexp+one.Key)
		}
		types := make([]string, 0, len(d.PredicateTypes))
		for _, t := range d.PredicateTypes {
			types = append(types, typeName(t))
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{text(d.Name), state, clipped(strings.Join(d.Patterns, ", "), 80), clipped(strings.Join(types, ", "), 80), clipped(strings.Join(to, ", "), 80), when(d.Expires), text(d.SignedBy)})
	}
	return out
}

func (c *visit) credentialRevocations() Section {
	out := Section{ID: "credentials", Title: "Revoked credentials", Table: &Table{Columns: columns("When", "What", "Since", "Because", "By"), Empty: "No credential was revoked."}}
	var list client.List[client.CredentialRevocation]
	if err := c.get(&list, "revocations", "limit", "200"); err != nil {
		out.Problem = err.Error()
		return out
	}
	for i := range list.Items {
		r := &list.Items[i]
		what := r.Credential
		if r.Robot != "" {
			what = "robot " + r.Robot
		} else if r.Identity != "" {
			what = r.Identity + " of " + r.Issuer
		}
		out.Table.Rows = append(out.Table.Rows, []Cell{when(r.At), clipped(what, 100), when(r.Since), clipped(r.Reason, 160), who(r.Actor)})
	}
	return out
}

func (c *visit) blocks() Section {
	out := Section{ID: "blocks", Title: "Digests that nobody is served", Table: &Table{Columns: columns("Artifact", "State", "Because", "By", "Since", "Source"), Empty: "None is quarantined or revoked."}}
	var list client.List[gate.Block]
	if err := c.get(&list, "registry/blocks", "limit", "100"); err != nil {
		out.Problem = err.Error()
		return out
	}
	for _, b := range list.Items {
		out.Table.Rows = append(out.Table.Rows, []Cell{digest(b.Digest, ""), stateCell(b.State, ""), clipped(b.Reason, 160), who(b.Actor), when(b.Since), text(b.Source)})
	}
	return out
}

// auditPage is who did or tried what.
func auditPage(c *visit) (*Page, error) {
	fields := []Field{{Name: "identity", Label: "Who"}, {Name: "repository", Label: "Repository"}, {Name: "digest", Label: "Artifact", Hint: "sha256:…"}, {Name: "kind", Label: "What", Options: auditKinds()}, {Name: "since", Label: "Since", Hint: "2026-01-31T00:00:00Z"}, {Name: "until", Label: "Until"}}
	q := []string{"newest", "true", "after", c.query("after"), "limit", c.pageLimit()}
	for i := range fields {
		fields[i].Value = c.query(fields[i].Name)
		q = append(q, fields[i].Name, fields[i].Value)
	}
	var list client.List[client.AuditRecord]
	if err := c.get(&list, "audit", q...); err != nil {
		return nil, err
	}
	return &Page{Title: "Audit trail", Here: "Audit trail", Lead: "Sealed in a chain whose heads are in the transparency log; assay audit export gives it with proofs.", Live: c.query("after") == "",
		Filter: &Filter{fields}, Sections: []Section{{ID: "records", Table: c.next(auditTable(list.Items), list.Next)}}}, nil
}

func auditKinds() []string {
	out := []string{""}
	for _, k := range event.Kinds() {
		out = append(out, string(k.Kind))
	}
	return out
}

func sortNewest(list []client.AuditRecord) {
	slices.SortFunc(list, func(a, b client.AuditRecord) int { return b.Time.Compare(a.Time) })
}
