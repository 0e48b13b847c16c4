package vuln

import (
	"slices"
	"strings"
	"time"

	"assay/internal/fault"

	"github.com/go-json-experiment/json"
)

// MaxAdvisory is the largest record that is read, in bytes. The largest that
// public feeds hold are of some 2 MiB: kernel advisories with their versions.
const MaxAdvisory = 8 << 20

// Advisory is one OSV record (https://ossf.github.io/osv-schema/), with what
// matching and risk need of it.
type Advisory struct {
	SchemaVersion string      `json:"schema_version,omitempty"`
	ID            string      `json:"id"`
	Modified      string      `json:"modified"` // claimed, and never trusted: feeds hold year 1 and days to come
	Published     string      `json:"published,omitempty"`
	Withdrawn     string      `json:"withdrawn,omitempty"`
	Aliases       []string    `json:"aliases,omitempty"`
	Upstream      []string    `json:"upstream,omitempty"`
	Related       []string    `json:"related,omitempty"`
	Summary       string      `json:"summary,omitempty"`
	Details       string      `json:"details,omitempty"`
	Severity      []Severity  `json:"severity,omitempty"`
	Affected      []Affected  `json:"affected,omitempty"`
	References    []Reference `json:"references,omitempty"`
	Database      struct {
		Severity string   `json:"severity,omitempty"`
		CWEs     []string `json:"cwe_ids,omitempty"`
	} `json:"database_specific,omitzero"`
}

// Severity is one rating; Type names how Score is read (CVSS_V2, CVSS_V3,
// CVSS_V4, Ubuntu).
type Severity struct {
	Type  string `json:"type"`
	Score string `json:"score"`
}

// Reference is where more is said.
type Reference struct {
	Type string `json:"type"`
	URL  string `json:"url"`
}

// Affected is one package of an advisory, and which of its versions.
type Affected struct {
	Package struct {
		Ecosystem string `json:"ecosystem"`
		Name      string `json:"name"`
		PURL      string `json:"purl,omitempty"`
	} `json:"package"`
	Severity []Severity `json:"severity,omitempty"`
	Ranges   []Range    `json:"ranges,omitempty"`
	Versions []string   `json:"versions,omitempty"`
	// Specific holds what Go's records say more (https://go.dev/doc/security/vuln/database).
	Specific struct {
		Imports  []Import `json:"imports,omitempty"`
		Severity string   `json:"severity,omitempty"` // of some feeds: RUSTSEC, Ubuntu
		Urgency  string   `json:"urgency,omitempty"`  // Debian
	} `json:"ecosystem_specific,omitzero"`
}

// Import is an affected Go package: only these symbols, and only when built for
// these systems, where they are named.
type Import struct {
	Path    string   `json:"path"`
	GOOS    []string `json:"goos,omitempty"`
	GOARCH  []string `json:"goarch,omitempty"`
	Symbols []string `json:"symbols,omitempty"`
}

// Range is a set of versions by events.
type Range struct {
	Type   string  `json:"type"` // SEMVER, ECOSYSTEM, GIT
	Events []Event `json:"events"`
}

// Event begins or ends a range. Exactly one member is set; "0" in Introduced is
// before every version.
type Event struct {
	Introduced   string `json:"introduced,omitempty"`
	Fixed        string `json:"fixed,omitempty"`
	LastAffected string `json:"last_affected,omitempty"`
	Limit        string `json:"limit,omitempty"`
}

// ParseAdvisory reads one record: strict JSON, so that no two readers see two
// things. Members that are not known are left out. What is no record is
// fault.Invalid, what is too large fault.TooLarge.
func ParseAdvisory(b []byte) (*Advisory, error) {
	if len(b) > MaxAdvisory {
		return nil, fault.Newf(fault.TooLarge, "advisory of %d bytes: at most %d", len(b), MaxAdvisory)
	}
	var a Advisory
	if err := json.Unmarshal(b, &a); err != nil {
		return nil, fault.Newf(fault.Invalid, "advisory: %w; want an OSV record", err)
	}
	if err := a.check(); err != nil {
		return nil, err
	}
	return &a, nil
}

// MaxID is the longest name of an advisory, in bytes.
const MaxID = 256

func (a *Advisory) check() error {
	if !plainID(a.ID) {
		return fault.Newf(fault.Invalid, "advisory: its id %.100q: want 1 to %d letters, figures and -_.:", a.ID, MaxID)
	}
	a.Aliases = slices.DeleteFunc(a.Aliases, func(s string) bool { return !plainID(s) || s == a.ID })
	a.Upstream = slices.DeleteFunc(a.Upstream, func(s string) bool { return !plainID(s) || s == a.ID })
	for i := range a.Affected {
		for _, r := range a.Affected[i].Ranges {
			for _, e := range r.Events {
				if n := e.members(); n != 1 {
					return fault.Newf(fault.Invalid, "advisory %s: affected[%d] has an event with %d of introduced, fixed, last_affected and limit; want one", a.ID, i, n)
				}
			}
		}
	}
	return nil
}

func (e Event) members() (n int) {
	for _, s := range []string{e.Introduced, e.Fixed, e.LastAffected, e.Limit} {
		if s != "" {
			n++
		}
	}
	return n
}

func plainID(s string) bool {
	return s != "" && len(s) <= MaxID && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.:+~/", r)
	})
}

// IsWithdrawn says that nobody should act upon the record any more. A day to
// come is none: the word alone counts.
func (a *Advisory) IsWithdrawn() bool { return a.Withdrawn != "" }

// IsMalicious says that the package itself is the attack: a record of the
// malicious packages repository. It pages and quarantines whatever its severity.
func (a *Advisory) IsMalicious() bool {
	return strings.HasPrefix(a.ID, "MAL-") || slices.ContainsFunc(a.Aliases, func(s string) bool { return strings.HasPrefix(s, "MAL-") })
}

// Names are the record's own name and its aliases, sorted, each once: findings
// of several feeds about one flaw share one of them.
func (a *Advisory) Names() []string {
	all := append([]string{a.ID}, a.Aliases...)
	slices.Sort(all)
	return slices.Compact(all)
}

// Means says whether the record is about the flaw of a name and about no other: it is
// its own, or an alias. An advisory of a distribution may mend several flaws, which it
// names as those upstream: with one of them it is the same, with more it is not.
func (a *Advisory) Means(name string) bool {
	return a.ID == name || slices.Contains(a.Aliases, name) || len(a.Upstream) == 1 && a.Upstream[0] == name
}

// Same are the names of the flaw that the record is about, where it is one.
func (a *Advisory) Same() []string {
	if len(a.Upstream) == 1 {
		return append(a.Names(), a.Upstream[0])
	}
	return a.Names()
}

// Flaws are the names of all flaws that the record is about: its own names, and those
// that an advisory of a distribution mends, which some of them call related.
func (a *Advisory) Flaws() []string {
	all := append(a.Names(), a.Upstream...)
	if len(a.Aliases)+len(a.Upstream) == 0 && slices.ContainsFunc(a.Affected, func(f Affected) bool { return distributions[family(f.Package.Ecosystem)] }) {
		for _, r := range a.Related {
			if strings.HasPrefix(r, "CVE-") && plainID(r) {
				all = append(all, r)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// PublishedAt is when the record says that it was published; false when it says
// nothing that can be: before 1990, or after now.
func (a *Advisory) PublishedAt(now time.Time) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339, a.Published)
	if err != nil || t.Year() < 1990 || t.After(now) {
		return time.Time{}, false
	}
	return t, true
}
