package finding

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"

	"assay/artifact"
	"assay/store"
	"assay/vuln"
)

// Flaw is what all records in force say of one flaw, whatever they call it.
type Flaw struct {
	Name      string // its CVE where it has one
	Severity  string // critical, high, medium, low, none; "unknown" when nobody rates it
	Score     float64
	Summary   string
	Malicious bool
	KEV       string
	EPSS      float64
}

// Flaws remembers what was read of flaws until a feed or a list changes. It is
// safe for many goroutines.
type Flaws struct {
	m     *Matcher
	mu    sync.Mutex
	stamp string
	known map[string]*flaw
}

// NewFlaws makes a memory of flaws.
func (m *Matcher) NewFlaws() *Flaws { return &Flaws{m: m} }

// Of reads records by their identifiers. epss says whether a list of scores is in
// force at all: without, that a flaw has none says nothing.
func (f *Flaws) Of(ctx context.Context, ids []string) (out map[string]Flaw, epss bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	sources, err := f.m.feeds.Sources(ctx)
	if err != nil {
		return nil, false, err
	}
	book, err := f.m.exploits.Book(ctx)
	if err != nil {
		return nil, false, err
	}
	var stamp strings.Builder
	for _, s := range sources {
		fmt.Fprintf(&stamp, "%s/%s/%d;", s.Name, s.Ecosystem, s.Operation)
	}
	epss = false
	for _, l := range book.Lists {
		fmt.Fprintf(&stamp, "%s/%s;", l.Name, l.Digest)
		epss = epss || l.Name == "epss"
	}
	if f.known == nil || f.stamp != stamp.String() {
		f.stamp, f.known = stamp.String(), map[string]*flaw{}
	}
	// What is read goes into the memory only whole, and of these sources.
	k := flaws{feeds: f.m.feeds, book: book, known: f.known}
	out = make(map[string]Flaw, len(ids))
	for _, id := range ids {
		one, err := k.of(ctx, id)
		if err != nil {
			return nil, false, err
		}
		out[id] = Flaw{one.name, one.severity, one.score, one.summary, one.malicious, one.kev, one.epss}
	}
	return maps.Clone(out), epss, nil
}

// Match is an advisory's word about a component, whoever holds it.
type Match struct {
	Component int64
	Key       string // of the component
	Version   string
	Ecosystem string // by which it was looked up
	Package   string // as advisories name it
	Advisory  string
	Status    string // affected, unknown
	Fixed     string
}

// EachMatch gives all that is open, a component's together. With subjects it is
// what those hold alone.
func EachMatch(ctx context.Context, tx *store.Tx, subject artifact.Digest, fn func(Match) error) error {
	where, args := ``, []any{}
	if subject != "" {
		where, args = ` AND f.component IN (SELECT o.component FROM finding_scan s JOIN sbom_occurrence o ON o.document = s.document WHERE s.subject = ?)`, []any{string(subject)}
	}
	rows, err := tx.Query(ctx, `SELECT f.component, c.key, c.version, COALESCE(k.ecosystem, ''), COALESCE(k.package, ''), f.advisory, f.status, f.fixed
		FROM finding_match f JOIN sbom_component c ON c.id = f.component
		LEFT JOIN (SELECT component, MIN(ecosystem) AS ecosystem, MIN(package) AS package FROM finding_component WHERE state = 0 AND component IN (SELECT component FROM finding_match WHERE closed = 0) GROUP BY component) k ON k.component = f.component
		WHERE f.closed = 0`+where+` ORDER BY f.component, f.advisory`, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var m Match
		var status int64
		if err := rows.Scan(&m.Component, &m.Key, &m.Version, &m.Ecosystem, &m.Package, &m.Advisory, &status, &m.Fixed); err != nil {
			return err
		}
		m.Status = vuln.Status(status).String()
		if err := fn(m); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Holding is a component that an advisory affects in a document of a subject.
type Holding struct {
	Component int64
	Document  int64
	Direct    string // direct, transitive, unknown
}

// EachHolding gives who holds what open matches are about; with a subject, what
// it holds alone.
func EachHolding(ctx context.Context, tx *store.Tx, subject artifact.Digest, fn func(Holding)) error {
	q, args := `SELECT o.component, o.document, o.direct FROM sbom_occurrence o WHERE o.component IN (SELECT component FROM finding_match WHERE closed = 0)`, []any{}
	if subject != "" {
		q, args = `SELECT o.component, o.document, o.direct FROM finding_scan s JOIN sbom_occurrence o ON o.document = s.document
			WHERE s.subject = ? AND o.component IN (SELECT component FROM finding_match WHERE closed = 0)`, []any{string(subject)}
	}
	rows, err := tx.Query(ctx, q, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var h Holding
		var direct int64
		if err := rows.Scan(&h.Component, &h.Document, &direct); err != nil {
			return err
		}
		h.Direct = directness(direct)
		fn(h)
	}
	return rows.Err()
}

// Documents says whose each scanned document is, and how many each has.
func Documents(ctx context.Context, tx *store.Tx, subject artifact.Digest) (of map[int64]artifact.Digest, err error) {
	q, args := `SELECT document, subject FROM finding_scan`, []any{}
	if subject != "" {
		q, args = q+` WHERE subject = ?`, []any{string(subject)}
	}
	rows, err := tx.Query(ctx, q, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	of = map[int64]artifact.Digest{}
	for rows.Next() {
		var id int64
		var d artifact.Digest
		if err := rows.Scan(&id, &d); err != nil {
			return nil, err
		}
		of[id] = d
	}
	return of, rows.Err()
}
