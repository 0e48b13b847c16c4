package finding

import (
	"context"
	"database/sql"
	"slices"
	"strings"

	"assay/internal/fault"
	"assay/store"
	"assay/vuln"
)

// Stored finds what advisories affect from the database alone, as the index does
// from memory, in their order: for a process that has no index, or does not need
// one for some few of them.
func (m *Matcher) Stored(ctx context.Context, documents bool, all ...*vuln.Advisory) (out [][]vuln.Hit, err error) {
	err = m.db.View(ctx, func(tx *store.Tx) error {
		out = make([][]vuln.Hit, len(all))
		for i, a := range all {
			if out[i], err = stored(ctx, tx, a, documents); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func stored(ctx context.Context, tx *store.Tx, a *vuln.Advisory, documents bool) (hits []vuln.Hit, err error) {
	if a.IsWithdrawn() {
		return nil, nil
	}
	about := map[vuln.Package][]*vuln.Affected{}
	for i := range a.Affected {
		key := a.Affected[i].Key()
		about[key] = append(about[key], &a.Affected[i])
	}
	found, err := storedOf(ctx, tx, about)
	if err != nil {
		return nil, err
	}
	seen := map[int64]int{}
	for _, h := range found {
		// One advisory may name a package twice, by several ranges.
		at, is := seen[h.Component]
		switch {
		case !is:
			seen[h.Component] = len(hits)
			hits = append(hits, h)
		case hits[at].Status == vuln.Unknown && h.Status == vuln.IsAffected:
			hits[at] = h
		}
	}
	if documents && len(hits) > 0 {
		err = documentsOf(ctx, tx, hits, seen)
	}
	return hits, err
}

// storedOf judges the stored versions of packages.
func storedOf(ctx context.Context, tx *store.Tx, about map[vuln.Package][]*vuln.Affected) (hits []vuln.Hit, err error) {
	byEcosystem := map[string][]any{}
	for key := range about {
		byEcosystem[key.Ecosystem] = append(byEcosystem[key.Ecosystem], key.Name)
	}
	judges, of := map[*vuln.Affected]func(string) vuln.Verdict{}, vuln.Judges(len(about))
	for ecosystem, names := range byEcosystem {
		for part := range slices.Chunk(names, most) {
			marks, args := in(part)
			rows, err := tx.Query(ctx, `SELECT component, package, version, platform FROM finding_component WHERE ecosystem = ? AND state = 0 AND package IN `+marks, append([]any{ecosystem}, args...)...)
			if err != nil {
				return nil, err
			}
			for rows.Next() {
				h := vuln.Hit{Package: vuln.Package{Ecosystem: ecosystem}}
				var platform string
				if err := rows.Scan(&h.Component, &h.Package.Name, &h.Version, &platform); err != nil {
					rows.Close()
					return nil, err
				}
				for _, f := range about[h.Package] {
					if judges[f] == nil { // most advisories are about nothing that is stored
						judges[f] = of(f)
					}
					if h.Verdict = judges[f](h.Version); h.Status != vuln.NotAffected && f.For(platform) {
						hits = append(hits, h)
					}
				}
			}
			if err := rows.Err(); err != nil {
				return nil, err
			}
			rows.Close()
		}
	}
	return hits, nil
}

// most is how many values one statement asks about.
const most = 100

// in makes a list for SQL's IN; of few lengths, the last value repeated, so that
// few statements are prepared.
func in(values []any) (marks string, args []any) {
	n := 1
	for n < len(values) {
		n = min(n*10, most)
	}
	args = append(make([]any, 0, n), values...)
	for len(args) < n {
		args = append(args, values[len(values)-1])
	}
	return "(" + strings.TrimSuffix(strings.Repeat("?,", n), ",") + ")", args
}

// documentsOf reads which documents hold what was hit, a row for each component:
// a number in a text costs a tenth of one in a row of its own.
func documentsOf(ctx context.Context, tx *store.Tx, hits []vuln.Hit, at map[int64]int) error {
	components := make([]any, len(hits))
	for i, h := range hits {
		components[i] = h.Component
	}
	for part := range slices.Chunk(components, most) {
		marks, args := in(part)
		rows, err := tx.Query(ctx, `SELECT component, string_agg(CAST(document AS TEXT), ',') FROM sbom_occurrence WHERE component IN `+marks+` GROUP BY component`, args...)
		if err != nil {
			return err
		}
		for rows.Next() {
			var component int64
			var text sql.RawBytes
			if err := rows.Scan(&component, &text); err != nil {
				rows.Close()
				return err
			}
			if hits[at[component]].Documents, err = numbers(nil, text); err != nil {
				rows.Close()
				return err
			}
		}
		if err := rows.Err(); err != nil {
			return err
		}
		rows.Close()
	}
	return nil
}

// numbers reads a list of them, parted by commas, behind those in out.
func numbers(out []int64, text []byte) ([]int64, error) {
	n, figures := int64(0), 0
	for i := 0; i <= len(text); i++ {
		switch {
		case i < len(text) && text[i] >= '0' && text[i] <= '9' && figures < 19:
			n, figures = n*10+int64(text[i]-'0'), figures+1
		case (i == len(text) || text[i] == ',') && figures > 0 && n >= 0:
			out, n, figures = append(out, n), 0, 0
		default:
			return nil, fault.Newf(fault.Internal, "a list of documents is none: %.100q", text)
		}
	}
	return out, nil
}
