// Package retention says what is kept and for how long: rules of documents of
// kind Retention, carried out by the same way as a client's DELETE, and legal
// holds, which stand above all rules. Nothing unknown counts as deletable.
package retention

import (
	"context"
	"fmt"
	"time"

	"assay/artifact"
	"assay/config"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/registry"
)

// Presence is what is known of where an artifact runs.
type Presence int

// What may be known.
const (
	Unknown Presence = iota // nothing tells what runs, or not of this
	Runs
	Idle // it runs nowhere
)

// Running says where artifacts run: inventory.
type Running interface {
	Running(ctx context.Context, d artifact.Digest) (Presence, error)
}

// nobodyKnows is Running while nothing tells what runs.
type nobodyKnows struct{}

func (nobodyKnows) Running(context.Context, artifact.Digest) (Presence, error) { return Unknown, nil }

// rule is a compiled rule.
type rule struct {
	config.RetentionRule
	repositories []glob.Glob
	tags         []glob.Glob
}

func compile(list []config.RetentionRule) (out []rule, err error) {
	for _, r := range list {
		if err := r.Validate(); err != nil {
			return nil, fmt.Errorf("Retention %s: %w", r.Name, err)
		}
		c := rule{RetentionRule: r}
		for patterns, into := range map[*[]string]*[]glob.Glob{&r.Repositories: &c.repositories, &r.KeepTags: &c.tags} {
			for _, p := range *patterns {
				g, err := glob.Parse(p)
				if err != nil {
					return nil, err
				}
				*into = append(*into, g)
			}
		}
		out = append(out, c)
	}
	return out, nil
}

func (r *rule) covers(repository string) bool {
	for _, g := range r.repositories {
		if g.Match(repository) {
			return true
		}
	}
	return false
}

// keeps says why the rule keeps an image that is the rank-th newest of its
// repository, from 0; empty: it does not.
func (r *rule) keeps(ctx context.Context, im *registry.Image, rank int, now time.Time, running Running) (why string, err error) {
	for _, tag := range im.Tags {
		for i, g := range r.tags {
			if g.Match(tag) {
				return fmt.Sprintf("%s: tag %s is kept (keepTags %s)", r.Name, tag, r.KeepTags[i]), nil
			}
		}
	}
	if rank < r.KeepLast {
		return fmt.Sprintf("%s: it is number %d of the newest (keepLast %d)", r.Name, rank+1, r.KeepLast), nil
	}
	if age := now.Sub(im.Newest); r.KeepFor > 0 && age < r.KeepFor {
		return fmt.Sprintf("%s: it is %s old (keepFor %s)", r.Name, age.Round(time.Second), r.KeepFor), nil
	}
	if r.KeepRunning != nil && !*r.KeepRunning {
		return "", nil
	}
	p, err := running.Running(ctx, im.Digest)
	if err != nil && fault.KindOf(err) != fault.Unavailable {
		return "", err
	}
	switch {
	case err != nil || p == Unknown:
		return r.Name + ": whether it runs is not known (keepRunning)", nil //nolint:nilerr // not knowing is an answer: it is kept
	case p == Runs:
		return r.Name + ": it runs (keepRunning)", nil
	}
	return "", nil
}
