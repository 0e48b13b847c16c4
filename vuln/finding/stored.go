package finding

import (
	"context"

	"assay/store"
	"assay/vuln"
)

// Stored finds what an advisory affects from the database alone, as the index
// does from memory: for a process that has no index, or does not need one for
// some few advisories.
func (m *Matcher) Stored(ctx context.Context, a *vuln.Advisory, documents bool) (hits []vuln.Hit, err error) {
	if a.IsWithdrawn() {
		return nil, nil
	}
	err = m.db.View(ctx, func(tx *store.Tx) error {
		hits = nil
		seen := map[int64]int{}
		for i := range a.Affected {
			f := &a.Affected[i]
			found, err := storedOf(ctx, tx, f)
			if err != nil {
				return err
			}
			for _, h := range found {
				// One advisory may name a package twice, by several ranges.
				if at, is := seen[h.Component]; is {
					if hits[at].Status == vuln.Unknown && h.Status == vuln.IsAffected {
						hits[at] = h
					}
					continue
				}
				seen[h.Component] = len(hits)
				hits = append(hits, h)
			}
		}
		if !documents {
			return nil
		}
		for i := range hits {
			if hits[i].Documents, err = ids(ctx, tx, `SELECT document FROM sbom_occurrence WHERE component = ? AND document IN (SELECT document FROM finding_scan)`, hits[i].Component); err != nil {
				return err
			}
		}
		return nil
	})
	return hits, err
}

// storedOf judges the stored versions of one package.
func storedOf(ctx context.Context, tx *store.Tx, f *vuln.Affected) (hits []vuln.Hit, err error) {
	key := f.Key()
	rows, err := tx.Query(ctx, `SELECT component, version FROM finding_component WHERE ecosystem = ? AND package = ? AND state = ?`, key.Ecosystem, key.Name, lookedUp)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var judge func(string) vuln.Verdict
	for rows.Next() {
		h := vuln.Hit{Package: key}
		if err := rows.Scan(&h.Component, &h.Version); err != nil {
			return nil, err
		}
		if judge == nil { // most advisories are about nothing that is stored
			judge = f.Judge()
		}
		if h.Verdict = judge(h.Version); h.Status != vuln.NotAffected {
			hits = append(hits, h)
		}
	}
	return hits, rows.Err()
}
