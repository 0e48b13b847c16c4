package finding

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
	"assay/vuln"
	"assay/vuln/exploit"
	"assay/vuln/feed"
	"assay/vuln/vex"
)

// Finding is an advisory's word about a component of an artifact. Records of
// several feeds about one flaw are one finding.
type Finding struct {
	Name      string    // of the flaw: its CVE where it has one
	Records   []Source  // by which it was found, with the names that they use
	Component string    // its key: canonical package URL
	Version   string    // of the component
	Status    string    // affected, unknown
	Reason    string    // why it is unknown
	Fixed     string    // the least version that mends it; "" when none is named
	Direct    string    // direct, transitive, unknown
	Via       string    // the component that brings it, of a transitive one
	Path      []string  // from what the root needs itself to the component; nil: not asked for, or nobody can tell
	FirstSeen time.Time // since when it is known here that this artifact is affected
	Known     time.Time // since when the first of its records is in force here, whatever it affected then; zero: not asked for
	Severity  string    // critical, high, medium, low, none; "unknown" when nobody rates it
	Score     float64   // of CVSS, with the severity; 0: none
	Summary   string
	Malicious bool
	KEV       string      // since when it stands in the catalog of known exploited vulnerabilities; "" when it does not
	EPSS      float64     // probability that it is exploited within 30 days; 0: no score
	Names     []string    // all names of the flaw, its own among them
	Stated    *vex.Stated // what the site states about it; nil: nothing
}

// Settled says that a statement takes the finding away.
func (f *Finding) Settled() bool {
	return f.Stated != nil && (f.Stated.Status == vex.NotAffected || f.Stated.Status == vex.Fixed)
}

// Apply enters what the site states about findings of an artifact. Malicious
// packages are not stated away: who holds one takes it out.
func Apply(all []Finding, book *vex.Book, subject vex.Subject, now time.Time) {
	for i := range all {
		if f := &all[i]; !f.Malicious {
			f.Stated = book.Of(subject, vex.Flaw{Names: f.Names, Component: f.Component}, now)
		}
	}
}

// Source is a record of a feed.
type Source struct{ Feed, ID string }

// State is what is known of an artifact apart from its findings: each of these
// is unknown, and none counts as clean.
type State struct {
	SBOM           bool     // there is a bill of materials in force
	Scanned        bool     // all of them are looked up
	Incomplete     []string // what the bills of materials say that they do not hold
	Components     int
	Unmatched      int      // no feed knows their kind
	ReleaseMissing int      // their distribution's release is not known
	Unnamed        []string // some of both, at most twenty
	FeedsMissing   []string // ecosystems of components that no feed in force is for
	FeedsStale     []string // and that no feed was looked at for lately
	KEV, EPSS      bool     // these lists are in force, and fresh
	// FreshUntil is when the first of the feeds and lists that are fresh will be
	// stale; zero: none is.
	FreshUntil time.Time
}

// OfSubject gives what is known about an artifact. maxAge is how old a feed may
// be before it is stale.
func (m *Matcher) OfSubject(ctx context.Context, subject artifact.Digest, maxAge time.Duration) (all []Finding, st State, err error) {
	return m.OfDocuments(ctx, subject, maxAge, nil)
}

// OfDocuments is OfSubject by some bills of materials alone, as their attestations are
// named; nil is all, and an empty list none.
func (m *Matcher) OfDocuments(ctx context.Context, subject artifact.Digest, maxAge time.Duration, attestations []string) (all []Finding, st State, err error) {
	if err := subject.Validate(); err != nil {
		return nil, st, fault.Wrap(fault.Invalid, err)
	}
	some, err := m.some(ctx, subject, attestations)
	if err != nil {
		return nil, st, err
	}
	rows, st, err := m.rows(ctx, subject, some)
	if err != nil {
		return nil, st, err
	}
	if err := m.freshness(ctx, subject, some, maxAge, &st); err != nil {
		return nil, st, err
	}
	book, err := m.exploits.Book(ctx)
	if err != nil {
		return nil, st, err
	}
	now := m.db.Now()
	st.lists(book, now, maxAge)
	told := flaws{feeds: m.feeds, book: book, known: map[string]*flaw{}}
	places := map[[2]string]int{}
	for _, r := range rows {
		f, err := told.of(ctx, r.advisory)
		if err != nil {
			return nil, st, err
		}
		all = join(all, places, r, f)
	}
	sortFindings(all)
	return all, st, nil
}

// sortFindings puts the worst first.
func sortFindings(all []Finding) {
	slices.SortFunc(all, func(a, b Finding) int {
		if a.Score != b.Score {
			if a.Score > b.Score {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name+a.Component, b.Name+b.Component)
	})
}

// row is a match of a component that the artifact holds.
type row struct {
	component, version, feed, advisory string
	status                             int64
	fixed, reason                      string
	direct                             int64
	via                                string
	seen                               time.Time
	known                              time.Time // since when the record is in force here; zero: not asked for
}

func (m *Matcher) rows(ctx context.Context, subject artifact.Digest, some documents) (all []row, st State, err error) {
	err = m.db.View(ctx, func(tx *store.Tx) error {
		all, st = nil, State{}
		if err := known(ctx, tx, subject, some, &st); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT c.key, c.version, f.feed, f.advisory, f.status, f.fixed, f.reason, o.direct, COALESCE((SELECT v.key FROM sbom_component v WHERE v.id = o.via), ''),
			CASE WHEN f.opened > s.scanned THEN f.opened ELSE s.scanned END,
			COALESCE((SELECT MIN(p.finished) FROM feed_record r JOIN feed_operation p ON p.id = r.operation AND p.state IN (1, 3) WHERE r.id = f.advisory AND r.name || '/' || r.ecosystem = f.feed), 0)
			FROM finding_scan s JOIN sbom_occurrence o ON o.document = s.document JOIN finding_match f ON f.component = o.component AND f.closed = 0
			JOIN sbom_component c ON c.id = o.component WHERE s.subject = ?`+some.of("s.document")+` ORDER BY c.key, f.advisory`, string(subject))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var r row
			var seen, known int64
			if err := rows.Scan(&r.component, &r.version, &r.feed, &r.advisory, &r.status, &r.fixed, &r.reason, &r.direct, &r.via, &seen, &known); err != nil {
				return err
			}
			if r.seen = store.Time(seen); known > 0 {
				r.known = store.Time(known)
			}
			all = append(all, r)
		}
		return rows.Err()
	})
	return all, st, err
}

// known reads what the database knows of an artifact apart from matches.
func known(ctx context.Context, tx *store.Tx, subject artifact.Digest, some documents, st *State) error {
	var documents, scanned int64
	if err := tx.QueryRow(ctx, `SELECT COUNT(*), COALESCE(SUM(CASE WHEN s.document IS NULL THEN 0 ELSE 1 END), 0)
		FROM sbom_document d LEFT JOIN finding_scan s ON s.document = d.id WHERE d.subject = ? AND d.state = 1`+some.of("d.id"), string(subject)).Scan(&documents, &scanned); err != nil {
		return err
	}
	if err := incomplete(ctx, tx, subject, some, st); err != nil {
		return err
	}
	st.SBOM, st.Scanned = documents > 0, documents > 0 && documents == scanned
	if err := tx.QueryRow(ctx, `SELECT COUNT(DISTINCT o.component), COUNT(DISTINCT CASE WHEN f.state = 1 THEN o.component END), COUNT(DISTINCT CASE WHEN f.state = 2 THEN o.component END)
		FROM finding_scan s JOIN sbom_occurrence o ON o.document = s.document LEFT JOIN finding_component f ON f.component = o.component WHERE s.subject = ?`+some.of("s.document"), string(subject)).
		Scan(&st.Components, &st.Unmatched, &st.ReleaseMissing); err != nil {
		return err
	}
	return unnamed(ctx, tx, subject, some, st)
}

// incomplete reads what the documents say that they do not hold.
func incomplete(ctx context.Context, tx *store.Tx, subject artifact.Digest, some documents, st *State) error {
	rows, err := tx.Query(ctx, `SELECT incomplete FROM sbom_document WHERE subject = ? AND state = 1 AND incomplete <> ''`+some.of("id"), string(subject))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		var reasons []string
		if err := rows.Scan(&text); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(text), &reasons); err != nil {
			return fault.Wrap(fault.Tampered, err)
		}
		for _, r := range reasons {
			if !slices.Contains(st.Incomplete, r) {
				st.Incomplete = append(st.Incomplete, r)
			}
		}
	}
	return rows.Err()
}

// freshness says for which ecosystems no feed is in force, or none that was
// looked at lately.
func (m *Matcher) freshness(ctx context.Context, subject artifact.Digest, some documents, maxAge time.Duration, st *State) error {
	all, err := m.feeds.Sources(ctx)
	if err != nil {
		return err
	}
	var ecosystems []string
	if err := m.db.View(ctx, func(tx *store.Tx) (err error) {
		ecosystems, err = store.Values[string](ctx, tx, `SELECT DISTINCT f.ecosystem FROM finding_scan s JOIN sbom_occurrence o ON o.document = s.document
			JOIN finding_component f ON f.component = o.component AND f.state = 0 WHERE s.subject = ?`+some.of("s.document")+` ORDER BY f.ecosystem`, string(subject))
		return err
	}); err != nil {
		return err
	}
	cover := coverage{feeds: m.feeds, sources: all, memo: m.feeds.Memo(all)}
	st.FeedsMissing, st.FeedsStale = nil, nil
	for _, e := range ecosystems {
		if err := st.feeds(ctx, &cover, e, m.db.Now(), maxAge); err != nil {
			return err
		}
	}
	return nil
}

// until notes that something is fresh until then.
func (st *State) until(end time.Time) {
	if st.FreshUntil.IsZero() || end.Before(st.FreshUntil) {
		st.FreshUntil = end
	}
}

// lists notes which lists about exploits are in force, and until when.
func (st *State) lists(book *exploit.Book, now time.Time, maxAge time.Duration) {
	st.KEV, st.EPSS = book.Has(exploit.KEV, now, maxAge), book.Has(exploit.EPSS, now, maxAge)
	for _, l := range book.Lists {
		if now.Sub(l.Checked) <= maxAge {
			st.until(l.Checked.Add(maxAge))
		}
	}
}

// flaw is what all records in force say of one flaw, whatever they call it.
type flaw struct {
	name      string
	summary   string
	severity  string
	score     float64
	malicious bool
	kev       string
	epss      float64
	names     []string
	mends     []string // names of all flaws that the record itself is about
}

// flaws remembers what was read of the flaws of one answer.
type flaws struct {
	feeds *feed.Store
	book  *exploit.Book
	known map[string]*flaw
	memo  *sync.Map // of earlier answers, while the feeds stay what they are; nil: none
}

// of reads a record and those that are about the same flaw: severity is filled in
// from them where one says nothing.
func (k *flaws) of(ctx context.Context, id string) (*flaw, error) {
	if f := k.known[id]; f != nil {
		return f, nil
	}
	var f *flaw
	if k.memo != nil {
		if old, is := k.memo.Load(id); is {
			again := *old.(*flaw) //nolint:forcetypeassert // nothing else is put there
			f = &again
		}
	}
	if f == nil {
		var err error
		if f, err = k.read(ctx, id); err != nil {
			return nil, err
		}
		if k.memo != nil {
			kept := *f
			k.memo.Store(id, &kept)
		}
	}
	if k, is := k.book.Known(slices.Concat(f.names, f.mends)...); is {
		f.kev = first(k.Added, "listed")
	}
	if s, is := k.book.Score(slices.Concat(f.names, f.mends)...); is {
		f.epss = s.Probability
	}
	k.known[id] = f
	return f, nil
}

// read is what the records say, without the lists of exploited flaws.
func (k *flaws) read(ctx context.Context, id string) (*flaw, error) {
	records, err := k.feeds.ByAlias(ctx, id)
	if err != nil {
		return nil, err
	}
	// What mends this flaw among others is about another: only what means the same.
	meant := func(all []feed.Record, name string) []feed.Record {
		return slices.DeleteFunc(all, func(r feed.Record) bool { return !r.Means(name) })
	}
	records = meant(records, id)
	f := &flaw{name: id}
	names := []string{id}
	for _, r := range records {
		names = append(names, r.Same()...)
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		if name == id || len(names) > 200 {
			continue
		}
		more, err := k.feeds.ByAlias(ctx, name)
		if err != nil {
			return nil, err
		}
		records = append(records, meant(more, name)...)
	}
	for _, r := range records {
		names = append(names, r.Same()...)
		f.malicious = f.malicious || r.IsMalicious()
		if r.ID == id {
			f.mends = append(f.mends, r.Flaws()...)
		}
		if f.summary == "" || r.ID == id {
			f.summary = first(r.Summary, f.summary)
		}
		// The worst that any of them says, in a number or a word: that another rates
		// it lower, or not at all, takes nothing away.
		severity, score := r.Rating()
		if vuln.Rank(severity) > vuln.Rank(f.severity) {
			f.severity = severity
		}
		f.score = max(score, f.score)
	}
	slices.Sort(names)
	for _, n := range names {
		if strings.HasPrefix(n, "CVE-") {
			f.name = n
			break
		}
	}
	if f.name == id { // without a CVE all records of the flaw share the first of its names
		f.name = names[0]
	}
	f.names = slices.Compact(names)
	f.severity = first(f.severity, "unknown")
	return f, nil
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// join adds a row to the findings: to the one of the same flaw and component,
// where there is one. places is where each stands, by both their names.
func join(all []Finding, places map[[2]string]int, r row, f *flaw) []Finding {
	key := [2]string{f.name, r.component}
	i, is := places[key]
	if !is {
		all = append(all, Finding{Name: f.name, Component: r.component, Version: r.version, Status: vuln.Status(r.status).String(), Reason: r.reason, Fixed: r.fixed, Direct: directness(r.direct), Via: r.via,
			FirstSeen: r.seen, Severity: f.severity, Score: f.score, Summary: f.summary, Malicious: f.malicious, KEV: f.kev, EPSS: f.epss, Names: f.names})
		i = len(all) - 1
		places[key] = i
	}
	at := &all[i]
	if s := (Source{r.feed, r.advisory}); !slices.Contains(at.Records, s) {
		at.Records = append(at.Records, s)
	}
	if status := vuln.Status(r.status); status == vuln.IsAffected {
		at.Status, at.Reason = status.String(), ""
	}
	at.Fixed = first(at.Fixed, r.fixed)
	if r.seen.Before(at.FirstSeen) {
		at.FirstSeen = r.seen
	}
	at.KEV, at.EPSS, at.Malicious = first(at.KEV, f.kev), max(at.EPSS, f.epss), at.Malicious || f.malicious
	if !r.known.IsZero() && (at.Known.IsZero() || r.known.Before(at.Known)) {
		at.Known = r.known
	}
	if d := directness(r.direct); d == "direct" {
		at.Direct, at.Via = d, ""
	}
	return all
}

func directness(n int64) string {
	switch n {
	case 1:
		return "direct"
	case 0:
		return "transitive"
	}
	return "unknown"
}

// Affected is an artifact that holds a component which an advisory affects.
type Affected struct {
	Subject   artifact.Digest
	Component string
	Status    string
	Fixed     string
	Direct    string
	Advisory  string
	Name      string // what a bill of materials calls the artifact; of what was handed in for a project, that and its version
}

// ByAdvisory gives the artifacts that hold what an advisory affects, by any of
// the names of the flaw, at most limit of them.
func (m *Matcher) ByAdvisory(ctx context.Context, name string, limit int) (all []Affected, err error) {
	records, err := m.feeds.ByAlias(ctx, name)
	if err != nil {
		return nil, err
	}
	if len(records) == 0 {
		return nil, fault.Newf(fault.NotFound, "no feed in force knows of %q", name)
	}
	ids := map[string]bool{}
	for _, r := range records {
		ids[r.ID] = true
		for _, n := range r.Names() {
			more, err := m.feeds.ByAlias(ctx, n)
			if err != nil {
				return nil, err
			}
			for _, o := range more {
				ids[o.ID] = true
			}
		}
	}
	err = m.db.View(ctx, func(tx *store.Tx) error {
		all = nil
		for _, id := range slices.Sorted(maps.Keys(ids)) {
			rows, err := tx.Query(ctx, `SELECT s.subject, c.key, f.status, f.fixed, o.direct, COALESCE((SELECT u.project || ' ' || u.version FROM sbom_upload u WHERE u.subject = s.subject LIMIT 1), MIN(d.name)) FROM finding_match f JOIN sbom_component c ON c.id = f.component
				JOIN sbom_occurrence o ON o.component = f.component JOIN finding_scan s ON s.document = o.document JOIN sbom_document d ON d.id = o.document
				WHERE f.feed IN (SELECT name || '/' || ecosystem FROM feed_source) AND f.advisory = ? AND f.closed = 0
				GROUP BY s.subject, c.key, f.status, f.fixed, o.direct ORDER BY s.subject, c.key LIMIT ?`, id, limit-len(all))
			if err != nil {
				return err
			}
			for rows.Next() {
				a := Affected{Advisory: id}
				var subject string
				var status, direct int64
				if err := rows.Scan(&subject, &a.Component, &status, &a.Fixed, &direct, &a.Name); err != nil {
					rows.Close()
					return err
				}
				a.Name = strings.TrimSpace(a.Name)
				a.Subject, a.Status, a.Direct = artifact.Digest(subject), vuln.Status(status).String(), directness(direct)
				all = append(all, a)
			}
			if err := rows.Err(); err != nil {
				return err
			}
			rows.Close()
			if len(all) >= limit {
				return nil
			}
		}
		return nil
	})
	return all, err
}
