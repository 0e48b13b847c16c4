package admission

import (
	"cmp"
	"context"
	"path"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/store"
)

// AheadMigrations make the table of what is to be decided before anybody asks: a
// digest of a repository, since when, and when it is due.
var AheadMigrations = store.Migrations{Name: "admission/ahead", Steps: []string{`
CREATE TABLE admission_ahead (
	digest     TEXT   NOT NULL,
	repository TEXT   NOT NULL,
	first      BIGINT NOT NULL,
	due        BIGINT NOT NULL,
	PRIMARY KEY (digest, repository)
);
CREATE INDEX admission_ahead_by_due ON admission_ahead (due);`}}

const (
	// Scopes begins the ids of all scopes of admission.
	Scopes = scopePrefix
	// aheadSettle is how long it is waited for what follows a push: its signature
	// and its evidence.
	aheadSettle = time.Second
	aheadAtMost = 5 * time.Second
	// MaxAhead bounds what waits to be decided ahead; what is beyond it is decided
	// when it is asked for.
	MaxAhead = 50_000
	// MaxAheadPlaces bounds the places for which one digest is decided ahead.
	MaxAheadPlaces = 32
	// maxAheadGuesses bounds them where none knows the repository. Each decision is
	// kept, and made again with each change of the policies, so that a guess costs
	// more than the few milliseconds it spares the first Pod.
	maxAheadGuesses = 4
)

// Coming is a digest that may be asked about soon.
type Coming struct {
	Digest     artifact.Digest
	Repository string
}

// Announce notes that digests came into repositories.
func Announce(ctx context.Context, tx *store.Tx, list []Coming) error {
	if len(list) == 0 {
		return nil
	}
	var waiting int
	if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM admission_ahead`).Scan(&waiting); err != nil {
		return err
	}
	now := tx.Now()
	for _, c := range list[:min(len(list), max(0, MaxAhead-waiting))] {
		if _, err := tx.Exec(ctx, `INSERT INTO admission_ahead (digest, repository, first, due) VALUES (?, ?, ?, ?)
			ON CONFLICT (digest, repository) DO UPDATE SET due = CASE WHEN excluded.due < admission_ahead.first + ? THEN excluded.due ELSE admission_ahead.first + ? END`,
			string(c.Digest), c.Repository, store.Micros(now), store.Micros(now.Add(aheadSettle)), aheadAtMost.Microseconds(), aheadAtMost.Microseconds()); err != nil {
			return err
		}
	}
	return nil
}

// Announced lists what is due, at most limit.
func Announced(ctx context.Context, tx *store.Tx, limit int) (out []Coming, err error) {
	rows, err := tx.Query(ctx, `SELECT digest, repository FROM admission_ahead WHERE due <= ? ORDER BY due LIMIT ?`, store.Micros(tx.Now()), limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c Coming
		if err := rows.Scan(&c.Digest, &c.Repository); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, rows.Err()
}

// Arrived takes away what was decided, or could not be.
func Arrived(ctx context.Context, tx *store.Tx, list []Coming) error {
	for _, c := range list {
		if _, err := tx.Exec(ctx, `DELETE FROM admission_ahead WHERE digest = ? AND repository = ?`, string(c.Digest), c.Repository); err != nil {
			return err
		}
	}
	return nil
}

// Spot is a namespace of a cluster.
type Spot struct{ Cluster, Namespace string }

// Spots are the namespaces that are known, and by which repositories.
type Spots struct {
	all map[Spot]map[string]bool // repositories that run, or were asked about, there
}

// Add notes a namespace, and a repository of it where one is known.
func (s *Spots) Add(at Spot, repository string) {
	if at.Cluster == "" || at.Namespace == "" {
		return
	}
	if s.all == nil {
		s.all = map[Spot]map[string]bool{}
	}
	if s.all[at] == nil {
		s.all[at] = map[string]bool{}
	}
	if repository != "" {
		s.all[at][repository] = true
	}
}

// AddScope notes the namespace and the repository of a scope of admission.
func (s *Spots) AddScope(id string) {
	rest, ok := strings.CutPrefix(id, scopePrefix)
	place, repository, ok2 := strings.Cut(rest, "@")
	cluster, namespace, ok3 := strings.Cut(place, "/")
	if !ok || !ok2 || !ok3 {
		return
	}
	namespace, _, _ = strings.Cut(namespace, "/") // the environment
	s.Add(Spot{cluster, namespace}, repository)
}

// For gives the namespaces where an image of a repository is likely to be asked for:
// those that know the repository, [MaxAheadPlaces] at most; where none does, a few of
// those that know one beside it, and then of the others.
func (s *Spots) For(repository string) []Spot {
	rank := map[Spot]int{}
	var out []Spot
	for at, has := range s.all {
		r := 2
		for other := range has {
			if other == repository {
				r = 0
				break
			}
			if path.Dir(other) == path.Dir(repository) {
				r = 1
			}
		}
		rank[at] = r
		out = append(out, at)
	}
	slices.SortFunc(out, func(a, b Spot) int {
		return cmp.Or(cmp.Compare(rank[a], rank[b]), cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Namespace, b.Namespace))
	})
	n := 0
	for n < len(out) && rank[out[n]] == 0 {
		n++
	}
	if n == 0 {
		return out[:min(len(out), maxAheadGuesses)]
	}
	return out[:min(n, MaxAheadPlaces)]
}
