package finding

import (
	"context"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// mostUnnamed is how many components that could not be looked up are told by name.
const mostUnnamed = 20

// unnamed reads some of the components that no advisory can be about.
func unnamed(ctx context.Context, tx *store.Tx, subject artifact.Digest, st *State) error {
	if st.Unmatched+st.ReleaseMissing == 0 {
		return nil
	}
	var err error
	st.Unnamed, err = store.Values[string](ctx, tx, `SELECT DISTINCT c.key FROM finding_scan s JOIN sbom_occurrence o ON o.document = s.document JOIN finding_component f ON f.component = o.component AND f.state <> 0
		JOIN sbom_component c ON c.id = o.component WHERE s.subject = ? ORDER BY c.key LIMIT ?`, string(subject), mostUnnamed)
	return err
}

// Coverage gives what is known of an artifact apart from its findings.
func (m *Matcher) Coverage(ctx context.Context, subject artifact.Digest, maxAge time.Duration) (st State, err error) {
	if err := subject.Validate(); err != nil {
		return st, fault.Wrap(fault.Invalid, err)
	}
	err = m.db.View(ctx, func(tx *store.Tx) error {
		st = State{}
		return known(ctx, tx, subject, &st)
	})
	if err != nil {
		return st, err
	}
	if err := m.freshness(ctx, subject, maxAge, &st); err != nil {
		return st, err
	}
	book, err := m.exploits.Book(ctx)
	if err == nil {
		st.lists(book, m.db.Now(), maxAge)
	}
	return st, err
}
