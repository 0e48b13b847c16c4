package server

import (
	"context"

	"assay/artifact"
	"assay/store"
	"assay/vuln/vex"
)

// excused says of flaws whether the site states that they do not concern an
// artifact: in each repository in which it lies, so that a statement about one
// takes no risk away from another.
func (s *Server) excused(ctx context.Context) (func(subject artifact.Digest, flaw, component string) bool, error) {
	statements := s.vulnerabilities.Statements
	book, err := statements.Book(ctx)
	if err != nil {
		return nil, err
	}
	stated := book.Names()
	if len(stated) == 0 {
		return func(artifact.Digest, string, string) bool { return false }, nil
	}
	names := map[string][]string{} // of a flaw, all that feeds call it
	for _, n := range stated {
		all := []string{n}
		records, err := s.vulnerabilities.Feeds.ByAlias(ctx, n)
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			if !r.Means(n) {
				continue // it mends others, too
			}
			all = append(append(all, r.ID), r.Names()...)
		}
		for _, one := range all {
			names[one] = append(names[one], all...)
		}
	}
	places := map[artifact.Digest][]string{}
	if err := s.db.View(ctx, func(tx *store.Tx) error {
		clear(places)
		return pairs(ctx, tx, func(d, repository string) {
			places[artifact.Digest(d)] = append(places[artifact.Digest(d)], repository)
		}, `SELECT DISTINCT m.digest, m.repository FROM registry_manifest m WHERE m.digest IN (SELECT subject FROM finding_scan)`)
	}); err != nil {
		return nil, err
	}
	now := statements.Now()
	return func(subject artifact.Digest, flaw, component string) bool {
		all, known := names[flaw]
		if !known {
			return false // nothing is stated about it
		}
		in := places[subject]
		if len(in) == 0 {
			in = []string{""} // a file, or of another registry
		}
		for _, repository := range in {
			st := book.Of(vex.Subject{Digest: subject, Repository: repository}, vex.Flaw{Names: all, Component: component}, now)
			if st == nil || st.Status != vex.NotAffected && st.Status != vex.Fixed {
				return false
			}
		}
		return true
	}, nil
}
