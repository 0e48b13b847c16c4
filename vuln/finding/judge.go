package finding

import (
	"context"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/vuln"
	"assay/vuln/exploit"
	"assay/vuln/feed"
)

// Component is one of a bill of materials that is not stored.
type Component struct {
	PURL          string // package URL
	Name          string // where there is none: what it is called
	Version       string
	SourceName    string // source package of a distribution's binary one
	SourceVersion string
	Direct        string // direct, transitive, unknown
	Via           string // key of the component that brings it
}

// Judge says what the advisories in force say about components, without storing
// anything: the answer of a gate about what was just built. incomplete are the
// reasons of the document for which it does not hold everything.
func Judge(ctx context.Context, feeds *feed.Store, book *exploit.Book, components []Component, incomplete []string, now time.Time, maxAge time.Duration) (all []Finding, st State, err error) {
	sources, err := feeds.Sources(ctx)
	if err != nil {
		return nil, st, err
	}
	st = State{SBOM: true, Scanned: true, Incomplete: incomplete}
	st.lists(book, now, maxAge)
	known := flaws{feeds: feeds, book: book, known: map[string]*flaw{}, memo: feeds.Memo(sources)}
	cover := coverage{feeds: feeds, sources: sources, memo: known.memo}
	records := map[vuln.Package][]feed.Record{}
	seen, total := map[string]bool{}, 0
	for _, c := range components {
		p, err := artifact.ParsePURL(c.PURL)
		key := first(p.Component().String(), "name:"+c.Name+"@"+c.Version)
		if p.Version == "" {
			p.Version = c.Version // as it is stored
			key = first(p.Component().String(), key)
		}
		// One that stands there twice with different sources is looked up by both.
		one := strings.Join([]string{key, c.SourceName, c.SourceVersion}, "\x00")
		if seen[one] {
			continue
		}
		seen[one] = true
		st.Components++
		var candidates []vuln.Candidate
		missing := false
		if err == nil {
			candidates, missing = vuln.Lookups(p, c.Version, c.SourceName, c.SourceVersion)
		}
		if len(candidates) == 0 {
			if missing {
				st.ReleaseMissing++
			} else {
				st.Unmatched++
			}
			if len(st.Unnamed) < mostUnnamed {
				st.Unnamed = append(st.Unnamed, key)
			}
			continue
		}
		var matches merged
		for _, cand := range candidates {
			if err := st.feeds(ctx, &cover, cand.Ecosystem, now, maxAge); err != nil {
				return nil, st, err
			}
			found, is := records[cand.Package]
			if !is {
				if found, err = feeds.ByPackage(ctx, cand.Package); err != nil {
					return nil, st, err
				}
				records[cand.Package] = found
			}
			for _, r := range found {
				matches.add(judge(r, cand)...)
			}
		}
		if total += len(matches.list); total > maxMatches {
			return nil, st, fault.Newf(fault.TooLarge, "advisories are about these components more than %d times: ask about fewer", maxMatches)
		}
		var mine []Finding // of this component
		places := map[[2]string]int{}
		for _, m := range matches.list {
			f, err := known.of(ctx, m.advisory)
			if err != nil {
				return nil, st, err
			}
			mine = join(mine, places, row{component: key, version: c.Version, feed: m.feed, advisory: m.advisory, status: int64(m.Status), fixed: m.Fixed, reason: m.Reason, direct: -1, seen: now}, f)
			at := &mine[places[[2]string{f.name, key}]]
			at.Direct, at.Via = first(c.Direct, "unknown"), c.Via
		}
		all = append(all, mine...)
	}
	slices.Sort(st.FeedsMissing)
	slices.Sort(st.FeedsStale)
	sortFindings(all)
	return all, st, nil
}
