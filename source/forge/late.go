package forge

import (
	"context"
	"slices"
	"strings"

	"assay/store"
)

// maxContributors bounds who is remembered of one change; no change that a
// person wants to review has more.
const maxContributors = 200

// recordContributor remembers who moved the head of a change: an approval by one
// of its authors is none, whoever opened it.
func recordContributor(ctx context.Context, tx *store.Tx, source string, c *change) error {
	if c.Pusher == "" {
		return nil
	}
	_, err := tx.Exec(ctx, `INSERT INTO source_contributor (source, number, person)
		SELECT ?, ?, ? WHERE (SELECT COUNT(*) FROM source_contributor WHERE source = ? AND number = ?) < ? ON CONFLICT (source, number, person) DO NOTHING`,
		source, c.Number, c.Pusher, source, c.Number, maxContributors)
	return err
}

func findContributors(ctx context.Context, tx *store.Tx, source string, number int64) (map[string]bool, error) {
	rows, err := tx.Query(ctx, `SELECT person FROM source_contributor WHERE source = ? AND number = ?`, source, number)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]bool{}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		out[id] = true
	}
	return out, rows.Err()
}

// again has the push judged once more that a change brought: forges deliver out
// of order, what was said before the merge may be told after it, and a review may
// be dismissed at any time.
func again(ctx context.Context, tx *store.Tx, source string, number int64) error {
	_, err := tx.Exec(ctx, `UPDATE source_push SET due = ? WHERE source = ? AND due = 0 AND reviewed >= 0 AND after_id IN
		(SELECT merge_id FROM source_change WHERE source = ? AND number = ? AND merged = 1 AND merge_id <> '')`, store.Micros(tx.Now()), source, source, number)
	return err
}

// withdrawn says why a push that counted as reviewed counts so no longer; "" when
// nothing that was told takes the review back. That the forge tells less than it
// did takes nothing back.
func withdrawn(rec *Record, reviews []review) string {
	for _, v := range reviews {
		if v.State == "dismissed" {
			return "a review was dismissed, or taken back"
		}
		if v.State == "changes_requested" && rec.Change != nil && !v.At.After(rec.Change.MergedAt) {
			return "changes had been requested before the merge"
		}
	}
	for _, a := range rec.Approvals {
		if a.Pushed {
			return "who approved had moved the head of the change"
		}
	}
	return ""
}

// taken are the reviews less those that were dismissed: a dismissal counts
// whenever it comes, also after the merge. One that names its review, as GitHub's
// do by their link, takes back that one; another takes back what the reviewer
// said up to then.
func taken(reviews []review) []review {
	gone := map[string]bool{}
	own := func(v *review) string {
		if _, fragment, is := strings.Cut(v.Link, "#"); is && fragment != "" {
			return v.Reviewer + " " + fragment
		}
		return ""
	}
	for i := range reviews {
		if v := &reviews[i]; v.State == "dismissed" && own(v) != "" {
			gone[own(v)] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(reviews), func(v review) bool {
		if v.State == "dismissed" {
			return own(&v) != ""
		}
		return gone[own(&v)]
	})
}
