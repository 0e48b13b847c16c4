package finding

import (
	"context"
	"strconv"
	"strings"

	"assay/artifact"
	"assay/store"
)

// documents are some of those about an artifact; nil is all.
type documents []int64

// of is the condition that a column names one of them.
func (d documents) of(column string) string {
	switch {
	case d == nil:
		return ""
	case len(d) == 0:
		return " AND 1 = 0"
	}
	var b strings.Builder
	for i, id := range d {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatInt(id, 10))
	}
	return " AND " + column + " IN (" + b.String() + ")"
}

// some finds documents by their attestations; nil is all.
func (m *Matcher) some(ctx context.Context, subject artifact.Digest, attestations []string) (out documents, err error) {
	if attestations == nil {
		return nil, nil
	}
	err = m.db.View(ctx, func(tx *store.Tx) error {
		out = documents{}
		for _, a := range attestations {
			ids, err := store.Values[int64](ctx, tx, `SELECT id FROM sbom_document WHERE attestation = ? AND subject = ? AND state = 1`, a, string(subject))
			if err != nil {
				return err
			}
			out = append(out, ids...)
		}
		return nil
	})
	return out, err
}

// Documents gives the attestations whose bills of materials an artifact's
// findings rest on, at most 16, in the order of their ids; of some attestations alone,
// where they are not nil.
func (m *Matcher) Documents(ctx context.Context, subject artifact.Digest, attestations []string) (ids []string, err error) {
	some, err := m.some(ctx, subject, attestations)
	if err != nil {
		return nil, err
	}
	err = m.db.View(ctx, func(tx *store.Tx) error {
		ids = nil
		var err error
		ids, err = store.Values[string](ctx, tx, `SELECT DISTINCT attestation FROM sbom_document WHERE subject = ? AND state = 1`+some.of("id")+` ORDER BY attestation LIMIT 16`, string(subject))
		return err
	})
	return ids, err
}
