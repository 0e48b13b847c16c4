package finding

import (
	"context"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// Then gives what was known at a time of an artifact's components: matches that
// were open then, of the bills of materials in force today that were looked up by
// then. What a flaw is called and how severe it is are today's records' words.
func (m *Matcher) Then(ctx context.Context, subject artifact.Digest, at time.Time) (all []Finding, st State, err error) {
	if err := subject.Validate(); err != nil {
		return nil, st, fault.Wrap(fault.Invalid, err)
	}
	if at.After(m.db.Now()) {
		return nil, st, fault.Newf(fault.Invalid, "%s is yet to come: want a time that is past", at.UTC().Format(time.RFC3339))
	}
	var rows []row
	err = m.db.View(ctx, func(tx *store.Tx) (err error) {
		rows, st = nil, State{}
		then := store.Micros(at)
		var documents int64
		if err := tx.QueryRow(ctx, `SELECT COUNT(DISTINCT s.document), COUNT(DISTINCT o.component) FROM finding_scan s LEFT JOIN sbom_occurrence o ON o.document = s.document
			WHERE s.subject = ? AND s.scanned <= ?`, string(subject), then).Scan(&documents, &st.Components); err != nil {
			return err
		}
		st.SBOM, st.Scanned = documents > 0, documents > 0
		if err := incomplete(ctx, tx, subject, nil, &st); err != nil {
			return err
		}
		list, err := tx.Query(ctx, `SELECT c.key, c.version, f.feed, f.advisory, f.status, f.fixed, f.reason, o.direct, COALESCE((SELECT v.key FROM sbom_component v WHERE v.id = o.via), ''),
			CASE WHEN f.opened > s.scanned THEN f.opened ELSE s.scanned END
			FROM finding_scan s JOIN sbom_occurrence o ON o.document = s.document
			JOIN finding_match f ON f.component = o.component AND f.opened <= ? AND (f.closed = 0 OR f.closed > ?)
			JOIN sbom_component c ON c.id = o.component WHERE s.subject = ? AND s.scanned <= ? ORDER BY c.key, f.advisory`, then, then, string(subject), then)
		if err != nil {
			return err
		}
		defer list.Close()
		for list.Next() {
			var r row
			var seen int64
			if err := list.Scan(&r.component, &r.version, &r.feed, &r.advisory, &r.status, &r.fixed, &r.reason, &r.direct, &r.via, &seen); err != nil {
				return err
			}
			r.seen = store.Time(seen)
			rows = append(rows, r)
		}
		return list.Err()
	})
	if err != nil {
		return nil, st, err
	}
	book, err := m.exploits.Book(ctx)
	if err != nil {
		return nil, st, err
	}
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

// Now is the time of the site's clock.
func (m *Matcher) Now() time.Time { return m.db.Now() }
