package finding

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
	"assay/vuln/feed"
)

// mostUnnamed is how many components that could not be looked up are told by name.
const mostUnnamed = 20

// unnamed reads some of the components that no advisory can be about.
func unnamed(ctx context.Context, tx *store.Tx, subject artifact.Digest, some documents, st *State) error {
	if st.Unmatched+st.ReleaseMissing == 0 {
		return nil
	}
	var err error
	st.Unnamed, err = store.Values[string](ctx, tx, `SELECT DISTINCT c.key FROM finding_scan s JOIN sbom_occurrence o ON o.document = s.document JOIN finding_component f ON f.component = o.component AND f.state <> 0
		JOIN sbom_component c ON c.id = o.component WHERE s.subject = ?`+some.of("s.document")+` ORDER BY c.key LIMIT ?`, string(subject), mostUnnamed)
	return err
}

// Coverage gives what is known of an artifact apart from its findings.
func (m *Matcher) Coverage(ctx context.Context, subject artifact.Digest, maxAge time.Duration) (st State, err error) {
	if err := subject.Validate(); err != nil {
		return st, fault.Wrap(fault.Invalid, err)
	}
	err = m.db.View(ctx, func(tx *store.Tx) error {
		st = State{}
		return known(ctx, tx, subject, nil, &st)
	})
	if err != nil {
		return st, err
	}
	if err := m.freshness(ctx, subject, nil, maxAge, &st); err != nil {
		return st, err
	}
	book, err := m.exploits.Book(ctx)
	if err == nil {
		st.lists(book, m.db.Now(), maxAge)
	}
	return st, err
}

// coverage is which feeds know of which ecosystems.
type coverage struct {
	feeds   *feed.Store
	sources []feed.Source
	memo    *sync.Map // of earlier answers, while the feeds stay what they are
}

// covered is the key of an answer in the memo.
type covered struct{ name, of, ecosystem string }

// covers says whether a feed has a record of an ecosystem, with its release. What
// a feed is called by says little: one that was imported as of several ecosystems,
// or of one with releases, need not hold what is asked about.
func (c *coverage) covers(ctx context.Context, f *feed.Source, ecosystem string) (bool, error) {
	key := covered{f.Name, f.Ecosystem, ecosystem}
	if is, known := c.memo.Load(key); known {
		return is == true, nil
	}
	is, err := c.feeds.Covers(ctx, f.Name, f.Ecosystem, ecosystem)
	if err == nil {
		c.memo.Store(key, is)
	}
	return is, err
}

// ahead is how much later than now a feed may have been looked at: clocks of two
// processes differ by seconds. What is further ahead says nothing of its age.
const ahead = 5 * time.Minute

// feeds notes whether a feed in force is for an ecosystem, and how old it is.
func (st *State) feeds(ctx context.Context, c *coverage, ecosystem string, now time.Time, maxAge time.Duration) error {
	base, _, _ := strings.Cut(ecosystem, ":")
	some, there, fresh := false, false, false
	var until time.Time
	for i := range c.sources {
		f := &c.sources[i]
		if f.Operation == 0 || f.Ecosystem != "" && f.Ecosystem != base && f.Ecosystem != ecosystem {
			continue
		}
		some = true
		is, err := c.covers(ctx, f, ecosystem)
		if err != nil {
			return err
		}
		if there = there || is; !is || f.Blocked != "" {
			continue // what is in doubt is as good as old
		}
		age := now.Sub(f.Checked)
		fresh = fresh || age <= maxAge && age > -ahead
		if end := f.Checked.Add(maxAge); end.After(until) {
			until = end
		}
	}
	if fresh {
		st.until(until)
	}
	// A release with a support of its own is one release.
	if ecosystem = strings.TrimSuffix(ecosystem, ":LTS"); !some {
		ecosystem = base // nothing of it is there, whatever the release
	}
	switch {
	case !there && !slices.Contains(st.FeedsMissing, ecosystem):
		st.FeedsMissing = append(st.FeedsMissing, ecosystem)
	case there && !fresh && !slices.Contains(st.FeedsStale, base):
		st.FeedsStale = append(st.FeedsStale, base)
	}
	return nil
}
