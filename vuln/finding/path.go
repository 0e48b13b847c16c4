package finding

import (
	"context"

	"assay/artifact"
	"assay/sbom"
	"assay/store"
)

// The most steps that a path has, and components that paths of one answer lead
// over: what a document says of its own dependencies is its author's word.
const (
	maxPath  = 64
	maxSteps = 20_000
)

// Paths enters how the component of each finding is reached: from what the
// artifact's root needs itself to the component, by the shortest way that a bill
// of materials in force names. A finding of which nobody can tell has none.
func (m *Matcher) Paths(ctx context.Context, subject artifact.Digest, all []Finding) error {
	if len(all) == 0 {
		return nil
	}
	return m.db.View(ctx, func(tx *store.Tx) error {
		w := walk{tx: tx, subject: subject, keys: map[int64]string{}, at: map[spot]step{}, in: map[int64][]int64{}}
		var level []any
		for i := range all {
			id := sbom.ComponentID(all[i].Component)
			if _, known := w.keys[id]; !known {
				w.keys[id], level = all[i].Component, append(level, id)
			}
		}
		for depth := 0; len(level) > 0 && depth < maxPath && len(w.at) < maxSteps; depth++ {
			var err error
			if level, err = w.up(ctx, level); err != nil {
				return err
			}
		}
		for i := range all {
			all[i].Path = w.path(all[i].Component)
		}
		return nil
	})
}

type spot struct{ document, component int64 }

// step is how a component is reached in a document.
type step struct{ via, direct int64 }

type walk struct {
	tx      *store.Tx
	subject artifact.Digest
	keys    map[int64]string
	at      map[spot]step
	in      map[int64][]int64 // documents that a component stands in
}

// up reads how components are reached, and gives those through which they are.
func (w *walk) up(ctx context.Context, level []any) (next []any, err error) {
	fresh := map[int64]bool{}
	err = w.read(ctx, level, `SELECT o.document, o.component, o.via, o.direct, COALESCE((SELECT v.key FROM sbom_component v WHERE v.id = o.via), '')
		FROM sbom_occurrence o JOIN finding_scan s ON s.document = o.document WHERE s.subject = ? AND o.component IN `, []any{string(w.subject)}, func(scan func(...any) error) error {
		var p spot
		var s step
		var key string
		if err := scan(&p.document, &p.component, &s.via, &s.direct, &key); err != nil {
			return err
		}
		if _, known := w.at[p]; known {
			return nil
		}
		w.at[p], w.in[p.component] = s, append(w.in[p.component], p.document)
		if s.via != 0 && len(w.in[s.via]) == 0 && !fresh[s.via] {
			fresh[s.via], w.keys[s.via] = true, key
			next = append(next, s.via)
		}
		return nil
	})
	return next, err
}

// read asks for some hundred of the values at a time.
func (w *walk) read(ctx context.Context, values []any, q string, args []any, fn func(scan func(...any) error) error) error {
	for len(values) > 0 {
		part := values[:min(most, len(values))]
		values = values[len(part):]
		marks, list := in(part)
		rows, err := w.tx.Query(ctx, q+marks, append(args[:len(args):len(args)], list...)...)
		if err != nil {
			return err
		}
		for rows.Next() {
			if err := fn(rows.Scan); err != nil {
				rows.Close()
				return err
			}
		}
		rows.Close()
		if err := rows.Err(); err != nil {
			return err
		}
	}
	return nil
}

// path is the shortest way to a component in any of the documents.
func (w *walk) path(key string) (best []string) {
	for _, document := range w.in[sbom.ComponentID(key)] {
		var back []string
		id, whole := sbom.ComponentID(key), false
		for len(back) <= maxPath {
			s, known := w.at[spot{document, id}]
			if !known || s.direct < 0 {
				break
			}
			back = append(back, w.keys[id])
			if id = s.via; id == 0 {
				whole = true
				break
			}
		}
		if whole && (best == nil || len(back) < len(best)) {
			best = back
		}
	}
	for i, j := 0, len(best)-1; i < j; i, j = i+1, j-1 {
		best[i], best[j] = best[j], best[i]
	}
	return best
}
