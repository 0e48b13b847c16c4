package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/strictjson"
)

// ComponentsFact is what this site knows of the components of an artifact, from
// its stored bills of materials and overlays, for one requirement: it says whose
// word counts. What is not known is counted by itself.
type ComponentsFact struct {
	ID         string   `json:"id"`                   // of the requirement
	State      string   `json:"state"`                // done, pending (a document or an overlay is not read yet), or no_sbom
	SBOMs      []string `json:"sboms,omitempty"`      // attestations of the documents
	Components int      `json:"components"`           // distinct, of all documents
	Incomplete []string `json:"incomplete,omitempty"` // what the documents say that they do not hold
	// Youngest are those whose age is known, the youngest first, at most 50.
	Youngest []ComponentAge `json:"youngest,omitempty"`
	Dated    int            `json:"dated,omitzero"`    // whose age is known
	Undated  int            `json:"undated,omitzero"`  // whose age is not
	NoDate   []string       `json:"no_date,omitempty"` // the first of them, at most 10
	// Licenses are the parts, all of which must hold, of the different expressions:
	// those that are not taken first, at most 100.
	Licenses   []ComponentLicense `json:"licenses,omitempty"`
	Unlicensed int                `json:"unlicensed,omitzero"`  // whose licence is not known
	NoLicense  []string           `json:"no_license,omitempty"` // the first of them, at most 10
}

// ComponentAge says since when a component is there.
type ComponentAge struct {
	Component   string `json:"component"`             // package URL
	Since       string `json:"since"`                 // RFC 3339
	Source      string `json:"source"`                // published (by an overlay's word), or first_seen (by this site, in a signed document)
	Attestation string `json:"attestation,omitempty"` // the overlay
}

// ComponentLicense is an expression under which components stand.
type ComponentLicense struct {
	License    string `json:"license"`        // SPDX expression, or what a document says in its place
	Known      bool   `json:"known,omitzero"` // well-formed, of identifiers on the SPDX list
	Components int    `json:"components"`
	First      string `json:"first"` // package URL of one of them
}

// ComponentRequirement is what components must be: of some age, and under some
// licences. What is unknown denies, unless it is accepted by name.
type ComponentRequirement struct {
	Identities []IdentityMatch    `yaml:"identities,omitempty" json:"identities,omitempty"` // whose bills of materials and overlays tell licences, and whose overlays tell ages; absent: any verified bill of materials tells licences
	Signers    string             `yaml:"signers,omitempty" json:"signers,omitempty"`       // "delegated", in place of identities
	MinAge     Duration           `yaml:"minAge,omitempty" json:"minAge,omitempty"`         // since a component was published
	FirstSeen  bool               `yaml:"firstSeen,omitempty" json:"firstSeen,omitzero"`    // where nobody tells when: since this site met it in any signed bill of materials
	Licenses   *ComponentLicenses `yaml:"licenses,omitempty" json:"licenses,omitempty"`
	Accept     []string           `yaml:"accept,omitempty" json:"accept,omitempty"` // what may be unknown: sbom-incomplete, age, license
}

// ComponentLicenses says which licences are taken; deny goes before.
type ComponentLicenses struct {
	Allow []string `yaml:"allow,omitempty" json:"allow,omitempty"` // SPDX identifiers; absent: all but those denied
	Deny  []string `yaml:"deny,omitempty" json:"deny,omitempty"`   // SPDX identifiers
}

// ComponentUnknowns are the names of what may not be known about components.
func ComponentUnknowns() []string { return []string{"sbom-incomplete", "age", "license"} }

// Components is a compiled requirement about components, for who gathers the facts.
type Components struct {
	ID             string // of whose word counts, and of the licences that are taken
	Ages, Licenses bool
	FirstSeen      bool
	Any            bool // nobody is named

	ids     []*identity
	quality quality
	minAge  time.Duration
	list    licenseList
	accept  []string
}

func (r *ComponentRequirement) compile(q quality) (*Components, error) {
	out := &Components{Ages: r.MinAge > 0, Licenses: r.Licenses != nil, FirstSeen: r.FirstSeen, minAge: time.Duration(r.MinAge), quality: q, accept: r.Accept}
	var err error
	if out.Any = r.Identities == nil && r.Signers == ""; !out.Any {
		if out.ids, _, err = compileSigners(r.Identities, r.Signers, nil); err != nil {
			return nil, fmt.Errorf("whose word counts: %w", err)
		}
	}
	switch {
	case !out.Ages && !out.Licenses:
		return nil, fault.Newf(fault.Invalid, "want minAge or licenses")
	case out.Ages && out.Any && !r.FirstSeen:
		return nil, fault.Newf(fault.Invalid, "minAge: nobody tells an age: name under identities whose overlays do (assay sbom enrich), or say firstSeen: true")
	case !out.Ages && r.FirstSeen:
		return nil, fault.Newf(fault.Invalid, "firstSeen is about minAge, which is not given")
	}
	if out.Licenses {
		if out.list, err = licenseLists(r.Licenses.Allow, r.Licenses.Deny); err != nil {
			return nil, fmt.Errorf("licenses: %w", err)
		}
		if len(out.list.allow)+len(out.list.deny) == 0 {
			return nil, fault.Newf(fault.Invalid, "licenses: want allow or deny, with SPDX identifiers")
		}
	}
	for _, a := range r.Accept {
		if !slices.Contains(ComponentUnknowns(), a) {
			return nil, fault.Newf(fault.Invalid, "accept %.40q: want %s", a, strings.Join(ComponentUnknowns(), ", "))
		}
	}
	// Ages are listed by youth, whatever the age that is wanted.
	b, err := strictjson.Canonical(map[string]any{
		"identities": r.Identities, "signers": r.Signers, "ages": out.Ages, "firstSeen": r.FirstSeen, "licenses": r.Licenses,
		"maxAge": q.maxAge.String(), "log": q.log, "stamped": q.stamped, "witnesses": q.witnesses,
	})
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "%w", err)
	}
	sum := sha256.Sum256(b)
	out.ID = "cmp_" + hex.EncodeToString(sum[:])
	return out, nil
}

// Components are what the policy asks of components, each once.
func (p *Policy) Components() (out []*Components) {
	for _, u := range p.units {
		if u.reqs == nil || u.reqs.components == nil {
			continue
		}
		if c := u.reqs.components; !slices.ContainsFunc(out, func(o *Components) bool { return o.ID == c.ID }) {
			out = append(out, c)
		}
	}
	return out
}

// Counts says whether the word of who signed evidence counts, and until when; zero
// is for ever.
func (c *Components) Counts(e *Evidence, now time.Time) (is bool, until time.Time) {
	if !matchAny(c.ids, e) || c.quality.unusable(e, now) != "" {
		return false, until
	}
	if at, ok := e.At(); ok && c.quality.maxAge > 0 {
		until = at.Add(c.quality.maxAge)
	}
	return true, until
}

// Rank orders expressions for the facts, in which not all may have room: what is
// not taken first, then what is no known licence.
func (c *Components) Rank(license string, known bool) int {
	switch {
	case c.takes(license, known):
		return 2
	case !known && len(c.list.allow) == 0 && !c.list.names(license):
		return 1
	}
	return 0
}

// takes says whether components may stand under an expression. Without a list of
// those allowed, what nobody knows is not taken.
func (c *Components) takes(license string, known bool) bool {
	return c.list.ok(license) && (known || len(c.list.allow) > 0)
}

func (c *Components) evaluate(ev *evaluation) {
	known := Check{Name: "components/known", Status: Fail, Expected: "a bill of materials that is read, and whole"}
	if slices.Contains(c.accept, "sbom-incomplete") {
		known.Expected = "a bill of materials that is read"
	}
	at := slices.IndexFunc(ev.facts.Components, func(f ComponentsFact) bool { return f.ID == c.ID })
	if at < 0 {
		known.Found, known.Mend = "nothing is known of its components here, or these facts were gathered for another policy", "assay verify "+ev.target+"  # on a server that holds its bill of materials"
		ev.add(known)
		return
	}
	f := &ev.facts.Components[at]
	known.Evidence = f.SBOMs[:min(len(f.SBOMs), maxEvidence)]
	switch {
	case f.State == "no_sbom":
		known.Found, known.Mend = "no bill of materials", "assay sbom TARGET --attest  # or have the build attest one"
	case f.State != "done":
		known.Found, known.Mend = "a bill of materials or an overlay is not read yet", "ask again in a moment"
	case len(f.Incomplete) > 0 && !slices.Contains(c.accept, "sbom-incomplete"):
		known.Found, known.Mend = "the bill of materials is incomplete: "+clip(strings.Join(f.Incomplete, ", "), 200), "attest one that holds everything, or accept sbom-incomplete"
	default:
		known.Status, known.Found = Pass, fmt.Sprintf("%d components of %d documents", f.Components, len(f.SBOMs))
	}
	ev.add(known)
	if f.State == "no_sbom" {
		return
	}
	if c.Ages {
		ev.add(c.age(ev, f))
	}
	if c.Licenses {
		ev.add(c.license(f))
	}
}

func (c *Components) age(ev *evaluation, f *ComponentsFact) Check {
	out := Check{Name: "components/age", Status: Fail, Expected: "every component is at least " + days(c.minAge) + " old"}
	switch {
	case c.Any:
		out.Expected += ", by when this site first met it"
	case c.FirstSeen:
		out.Expected += ", by the word of " + identitiesText(c.ids) + ", or by when this site first met it"
	default:
		out.Expected += ", by the word of " + identitiesText(c.ids)
	}
	var bad []string
	n := 0
	for i := range f.Youngest {
		a := &f.Youngest[i]
		since, err := time.Parse(time.RFC3339, a.Since)
		if err == nil && ev.now.Sub(since) >= c.minAge {
			break // all others are older
		}
		if err == nil {
			ev.expire(since.Add(c.minAge)) // then it is asked again
		}
		if n++; len(bad) < 5 {
			word := "published "
			if a.Source != "published" {
				word = "first seen here "
			}
			bad = append(bad, clip(a.Component, 120)+" ("+word+dayOf(a.Since)+")")
		}
		if a.Attestation != "" {
			out.Evidence = appendNew(out.Evidence, a.Attestation)
		}
	}
	if n > 0 {
		out.Found = fmt.Sprintf("%d younger: %s", n, strings.Join(bad, "; "))
		if n == len(f.Youngest) && n < f.Dated {
			out.Found = "at least " + out.Found
		}
		out.Mend = "wait, or build with an older version of " + clip(f.Youngest[0].Component, 200)
	}
	if f.Undated > 0 && !slices.Contains(c.accept, "age") {
		if n > 0 {
			out.Found += "; "
		}
		out.Found += fmt.Sprintf("%d of unknown age: %s", f.Undated, firstOf(f.NoDate, f.Undated))
		if out.Mend == "" {
			out.Mend = "attest when they were published (assay sbom enrich), or accept age"
		}
	}
	if out.Found == "" {
		out.Status, out.Found = Pass, fmt.Sprintf("%d of known age, %d of unknown", f.Dated, f.Undated)
		if len(f.Youngest) > 0 {
			out.Found += "; the youngest is of " + dayOf(f.Youngest[0].Since)
		}
	}
	return out
}

func (c *Components) license(f *ComponentsFact) Check {
	out := Check{Name: "components/licenses", Status: Fail, Expected: c.list.text()}
	var bad, unknown []string
	n, odd := 0, 0
	for i := range f.Licenses {
		l := &f.Licenses[i]
		switch {
		case c.takes(l.License, l.Known):
			continue
		case !l.Known && len(c.list.allow) == 0 && !c.list.names(l.License): // what it is, nobody can tell
			odd += l.Components
			unknown = append(unknown, clip(l.License, 60)+" of "+clip(l.First, 120))
		default:
			if n += l.Components; len(bad) < 5 {
				bad = append(bad, fmt.Sprintf("%s (%s%s)", clip(l.License, 80), clip(l.First, 120), andMore(l.Components-1)))
			}
		}
	}
	if n > 0 {
		out.Found = fmt.Sprintf("%d under licences that are not taken: %s", n, strings.Join(bad, "; "))
		out.Mend = "take them out, or allow their licence in the policy"
	}
	if odd += f.Unlicensed; odd > 0 && !slices.Contains(c.accept, "license") {
		if n > 0 {
			out.Found += "; "
		}
		for _, name := range f.NoLicense {
			unknown = append(unknown, clip(name, 120))
		}
		out.Found += fmt.Sprintf("%d of unknown licence: %s", odd, firstOf(unknown, odd))
		if out.Mend == "" {
			out.Mend = "attest their licences (assay sbom enrich), or accept license"
		}
	}
	if out.Found == "" {
		out.Status, out.Found = Pass, fmt.Sprintf("%d components, %d of unknown licence", f.Components, odd)
	}
	return out
}

// names says whether a text that is no expression has a denied identifier in it.
func (l licenseList) names(text string) bool {
	return slices.ContainsFunc(strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return strings.ContainsRune(" ()/,;", r) }), func(w string) bool { return l.deny[deniedAs(w)] || l.deny[strings.TrimSuffix(deniedAs(w), "+")] })
}

func (l licenseList) text() string {
	var parts []string
	for _, one := range []struct {
		word string
		ids  map[string]bool
	}{{"under one of ", l.allow}, {"under none of ", l.deny}} {
		if len(one.ids) > 0 {
			parts = append(parts, one.word+clip(strings.Join(sortedKeys(one.ids), ", "), 200))
		}
	}
	return "every component " + strings.Join(parts, ", and ")
}

func andMore(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(", %d more", n)
}

// firstOf joins the first five names of n.
func firstOf(names []string, n int) string {
	shown := names[:min(len(names), 5)]
	return strings.Join(shown, "; ") + andMore(n-len(shown))
}

// dayOf is the day that ended, or went on, just before an instant.
func dayOf(since string) string {
	at, err := time.Parse(time.RFC3339, since)
	if err != nil {
		return clip(since, 30)
	}
	return at.Add(-time.Second).UTC().Format(time.DateOnly)
}

func days(d time.Duration) string {
	if d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.String()
}
