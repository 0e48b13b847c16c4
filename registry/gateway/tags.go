package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/registry"
	"assay/store"
)

// Bounds on the list of an upstream's tags that is kept for a repository.
const (
	maxTags      = 20_000
	maxTagsBytes = 1 << 20
)

// tagList is what an upstream's repository listed.
type tagList struct {
	tags         []string // in the order of bytes, each once
	cut          bool     // there are more
	checked, due time.Time
}

func (l *tagList) warning() string {
	if !l.cut {
		return ""
	}
	return fmt.Sprintf("the upstream lists more tags than the %d that are kept here; those beyond can be pulled, and are not listed", len(l.tags))
}

// Tags implements registry.Upstream. The list is kept as long as a tag is
// believed, and longer while the upstream is down.
func (g *Gateway) Tags(ctx context.Context, repository string) (tags []string, warning string, err error) {
	host, ok := g.Of(repository)
	if !ok {
		return nil, "", fault.Newf(fault.NotFound, "repository %s has no upstream", repository)
	}
	kept, err := g.keptTags(ctx, repository)
	if err != nil {
		return nil, "", err
	}
	now := g.o.Clock()
	if kept != nil && now.Before(kept.due) {
		return kept.tags, kept.warning(), nil
	}
	if kept == nil && g.remembers(g.absent, repository+" ", now) {
		return nil, "", fault.Newf(fault.NotFound, "the upstream of %s has no such repository", repository)
	}
	err = errDown
	if !g.remembers(g.down, host, now) && !g.remembers(g.down, "tags "+repository, now) {
		var list *tagList
		if list, err = g.askTags(ctx, repository); err == nil {
			return list.tags, list.warning(), nil
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil, "", ctx.Err()
	case errors.Is(err, fault.NotFound): // what was fetched before is kept, and listed by itself
		return nil, "", err
	case kept != nil:
		g.o.Logger.WarnContext(ctx, "the upstream could not be asked for its tags; the list that is kept is served", "repository", repository, "upstream", host, "error", err)
		return kept.tags, fmt.Sprintf("the upstream %s could not be asked for its tags; the list is of %s", host, kept.checked.UTC().Format(time.RFC3339)), nil
	}
	return nil, fmt.Sprintf("the upstream %s could not be asked for its tags; those that are kept here are listed", host), err
}

// askTags has one request for all who want the same list, and waits for it.
func (g *Gateway) askTags(ctx context.Context, repository string) (*tagList, error) {
	src, err := g.source(repository)
	if err != nil {
		return nil, err
	}
	done := g.flight.DoChan("tags "+repository, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bringTimeout)
		defer cancel()
		select {
		case g.brings <- struct{}{}:
			defer func() { <-g.brings }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		tags, more, err := src.client.TagsUpTo(ctx, src.at, maxTags)
		now := g.o.Clock()
		switch {
		case errors.Is(err, fault.NotFound):
			g.remember(g.absent, repository+" ", now.Add(absentFor))
			return nil, errors.Join(err, g.dropTags(ctx, repository))
		case err != nil: // its manifests may be had all the same
			g.remember(g.down, "tags "+repository, now.Add(downFor))
			return nil, err
		}
		l := boundTags(tags, more)
		l.checked, l.due = now, now.Add(src.spec.Every())
		return l, g.keepTags(ctx, repository, l)
	})
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	select {
	case r := <-done:
		l, _ := r.Val.(*tagList)
		return l, r.Err
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, fault.Wrap(fault.Unavailable, ctx.Err())
		}
		return nil, ctx.Err()
	}
}

// boundTags sorts a list, leaves out what is no tag, and cuts what is over the
// bounds.
func boundTags(tags []string, more bool) *tagList {
	tags = slices.DeleteFunc(tags, func(t string) bool { return !registry.ValidTag(t) })
	slices.Sort(tags)
	tags = slices.Compact(tags)
	size := 0
	for i, t := range tags {
		if size += len(t) + 1; i == maxTags || size > maxTagsBytes {
			tags, more = tags[:i], true
			break
		}
	}
	return &tagList{tags: slices.Clip(tags), cut: more}
}

// keptTags gives the list that is kept; nil: there is none.
func (g *Gateway) keptTags(ctx context.Context, repository string) (l *tagList, err error) {
	err = g.o.DB.View(ctx, func(tx *store.Tx) error {
		var text string
		var cut, checked, due int64
		err := tx.QueryRow(ctx, `SELECT tags, cut, checked_at, due_at FROM gateway_tags WHERE repository = ?`, repository).Scan(&text, &cut, &checked, &due)
		if errors.Is(err, fault.NotFound) {
			l = nil
			return nil
		}
		l = &tagList{tags: []string{}, cut: cut != 0, checked: store.Time(checked), due: store.Time(due)}
		if text != "" {
			l.tags = strings.Split(text, "\n")
		}
		return err
	})
	return l, err
}

func (g *Gateway) keepTags(ctx context.Context, repository string, l *tagList) error {
	cut := 0
	if l.cut {
		cut = 1
	}
	return g.o.DB.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO gateway_tags (repository, tags, cut, checked_at, due_at) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (repository) DO UPDATE SET tags = excluded.tags, cut = excluded.cut, checked_at = excluded.checked_at, due_at = excluded.due_at`,
			repository, strings.Join(l.tags, "\n"), cut, store.Micros(l.checked), store.Micros(l.due))
		return err
	})
}

// dueTags has the list looked up anew when it is next asked for: somebody said
// that a tag was pushed.
func (g *Gateway) dueTags(ctx context.Context, repository string) error {
	return g.o.DB.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE gateway_tags SET due_at = 0 WHERE repository = ?`, repository)
		return err
	})
}

func (g *Gateway) dropTags(ctx context.Context, repository string) error {
	return g.o.DB.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM gateway_tags WHERE repository = ?`, repository)
		return err
	})
}

// forgetTags drops lists that nobody asked for in a month, since a list is
// looked up only when somebody does.
func (g *Gateway) forgetTags(ctx context.Context) error {
	return g.o.DB.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM gateway_tags WHERE checked_at < ?`, store.Micros(tx.Now().Add(-tagsKeptFor)))
		return err
	})
}

const tagsKeptFor = 30 * 24 * time.Hour
