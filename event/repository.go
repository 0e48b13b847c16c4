package event

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"assay/internal/strictjson"
	"assay/store"
)

// The column repository of a sealed event is the member of its body, and ” where
// there is none, so that an index can serve. NULL is what a version before this
// column sealed: such rows are read through by their body, and filled in from
// the oldest on by whoever seals ([Sealer.fill]). It is no part of the event: the
// chain covers the body.
const repositoryColumn = `
ALTER TABLE event ADD COLUMN repository TEXT;
CREATE INDEX event_by_repository ON event (repository, seq, kind, time) WHERE repository <> '';
CREATE INDEX event_unfilled ON event (seq) WHERE repository IS NULL;
`

// maxRepository bounds what is indexed, in bytes; no repository's name is longer.
const maxRepository = 512

// repositoryOf reads the member "repository" out of a canonical body. What could
// be no repository's name is ”: who has it in a body of his must not be able to
// stop the sealer.
func repositoryOf(body string) string {
	if !strings.Contains(body, `"repository":"`) {
		return ""
	}
	var b struct {
		Repository string `json:"repository"`
	}
	if err := strictjson.Unmarshal([]byte(body), &b); err != nil || len(b.Repository) > maxRepository ||
		!utf8.ValidString(b.Repository) || strings.ContainsRune(b.Repository, 0) {
		return ""
	}
	return b.Repository
}

// Ways to choose events by their repository.
const (
	byBody   = iota // of any row, read through
	byColumn        // of rows that have the column
	unfilled        // of rows that have it not yet
)

// repository adds the condition for f.Repository.
func (f Filter) repository(way int, add func(cond string, arg ...any)) error {
	if way == byColumn {
		add("repository <> '' AND repository = ?", f.Repository) // the first part lets the partial index serve
		return nil
	}
	if way == unfilled {
		add("repository IS NULL")
	}
	b, err := strictjson.Canonical(map[string]string{"repository": f.Repository})
	if err != nil {
		return err
	}
	// Bodies are canonical JSON, in which the member stands in one form. A
	// text that holds it is escaped, and so is another.
	add(`body LIKE ? ESCAPE '\'`, "%"+likeEscape.Replace(string(bytes.TrimSuffix(bytes.TrimPrefix(b, []byte("{")), []byte("}"))))+"%")
	return nil
}

// queryRepository is [Log.Query] for a repository: by the index, and through what
// the index has not yet.
func queryRepository(ctx context.Context, tx *store.Tx, f Filter) ([]Event, error) {
	var all []Event
	for _, way := range []int{byColumn, unfilled} {
		where, args, err := f.where(way)
		if err != nil {
			return nil, err
		}
		rows, err := tx.Query(ctx, `SELECT seq, `+contentColumns+` FROM event`+where, args...)
		if err != nil {
			return nil, err
		}
		some, err := scanEvents(rows, nil)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	slices.SortFunc(all, func(a, b Event) int {
		if f.Newest {
			a, b = b, a
		}
		return int(a.Seq - b.Seq)
	})
	return all[:min(len(all), f.limit())], nil
}

// fillAtOnce bounds one step of filling in, so that sealing does not wait for it.
const fillAtOnce = 500

// fill fills in the column of some rows that a version before it sealed; false
// when there were none.
func (s *Sealer) fill(ctx context.Context) (bool, error) {
	var seqs []int64
	err := s.db.View(ctx, func(tx *store.Tx) error {
		seqs = nil
		var err error
		seqs, err = store.Values[int64](ctx, tx, `SELECT seq FROM event WHERE repository IS NULL ORDER BY seq LIMIT ?`, fillAtOnce)
		return err
	})
	if err != nil || len(seqs) == 0 {
		return false, err
	}
	return true, s.db.Update(ctx, func(tx *store.Tx) error {
		if err := tx.Fence(ctx, leaseName, s.epoch); err != nil {
			return err
		}
		for _, n := range seqs {
			var body string
			if err := tx.QueryRow(ctx, `SELECT body FROM event WHERE seq = ?`, n).Scan(&body); err != nil {
				return fmt.Errorf("event %d: %w", n, err)
			}
			if _, err := tx.Exec(ctx, `UPDATE event SET repository = ? WHERE seq = ?`, repositoryOf(body), n); err != nil {
				return err
			}
		}
		return nil
	})
}
