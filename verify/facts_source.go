package verify

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/evidence"
	"assay/internal/strictjson"
	"assay/policy"
	"assay/source"
	"assay/source/forge"
)

// Bounds of what enters the facts about commits.
const (
	maxSourceCommits = 8
	maxSourceNames   = 16
)

// commitSource is an EvidenceSource that has evidence about commits as well.
type commitSource interface {
	Commit(ctx context.Context, id string) (items []Item, truncated bool, err error)
}

// Commit gives the items of all sources that know of commits.
func (s Sources) Commit(ctx context.Context, id string) (items []Item, truncated bool, err error) {
	for _, one := range s {
		c, ok := one.(commitSource)
		if !ok {
			continue
		}
		got, cut, err := c.Commit(ctx, id)
		if err != nil {
			return nil, false, err
		}
		items, truncated = append(items, got...), truncated || cut
	}
	return items, truncated, nil
}

// Commit gives all items: those about the commit are found by reading them.
func (s Items) Commit(context.Context, string) ([]Item, bool, error) { return s, false, nil }

// enterSources enters what is known of the commits that the provenance names.
// What does not verify is left out: it is about the commit, and no part of the
// artifact's own evidence.
func (g *gathering) enterSources(ctx context.Context, src EvidenceSource) error {
	from, ok := src.(commitSource)
	if !ok {
		return nil
	}
	var commits []string
	for i := range g.facts.Provenance {
		alg, id, _ := strings.Cut(g.facts.Provenance[i].Source.Digest, ":")
		if (alg == "gitCommit" || alg == "sha1") && !slices.Contains(commits, id) && len(commits) < maxSourceCommits {
			commits = append(commits, id)
		}
	}
	for _, id := range commits {
		items, truncated, err := from.Commit(ctx, id)
		if err != nil {
			return err
		}
		if len(items) > MaxEvidence {
			items, truncated = items[:MaxEvidence], true
		}
		// What was left out could count against the commit.
		g.facts.Truncated = g.facts.Truncated || truncated
		var said []pushRecord
		for i := range items {
			att := evidence.ID(items[i].Bundle)
			c, err := g.verified(ctx, att, &items[i])
			if err != nil {
				return err
			}
			if c.err != nil || g.never[c.evidence.Key] || !slices.ContainsFunc(c.subjects, func(s attestation.Subject) bool { return attestation.GitCommit(s.Digest) == id }) {
				continue
			}
			f, ok := sourceFact(c.predicateType, c.predicate)
			if !ok {
				continue
			}
			f.Commit = id
			push, revision := g.pushOf(&c)
			said = append(said, pushRecord{f, c, &items[i], att, push, revision})
		}
		for _, r := range lastWords(said) {
			g.enterSource(r.fact, r.c, r.item, r.id)
		}
	}
	return nil
}

func (g *gathering) enterSource(f policy.SourceFact, c collected, it *Item, id string) {
	f.Evidence = c.evidence
	f.ID, f.Evidence.Source, f.Repository = id, clip(it.Source, 120), it.Repository
	f.Own = c.evidence.Key != "" && g.verifier.o.SourceKeys[c.evidence.Key]
	if !c.keyExpiry.IsZero() && (g.expires.IsZero() || c.keyExpiry.Before(g.expires)) {
		g.expires = c.keyExpiry
	}
	g.facts.Sources = append(g.facts.Sources, f)
}

// sourceFact reads a statement about a commit. One that cannot be read says
// nothing.
func sourceFact(predicateType string, predicate []byte) (f policy.SourceFact, ok bool) {
	switch predicateType {
	case forge.PredicateRecord:
		var r forge.Record
		if strictjson.Unmarshal(predicate, &r) != nil {
			return f, false
		}
		f = policy.SourceFact{Kind: "record", Reviewed: r.Reviewed, Forced: r.Forced, Removed: r.Removed, FilesUnknown: !r.FilesKnown, URI: repositoryURI(r.Repository)}
		if f.Forced != "yes" && f.Forced != "no" {
			f.Forced = "unknown"
		}
		for _, a := range r.Approvals {
			switch {
			case a.Stale:
				f.Stale = true
			case !a.Own && !a.Pushed && len(f.Reviewers) < maxSourceNames:
				f.Reviewers = append(f.Reviewers, clip(a.Reviewer, 100))
			}
		}
		for _, w := range r.Workflows {
			if len(f.Workflows) < maxSourceNames {
				f.Workflows = append(f.Workflows, clip(w, 200))
			}
		}
		return f, true
	case forge.PredicateTag:
		var t forge.Tag
		if strictjson.Unmarshal(predicate, &t) != nil {
			return f, false
		}
		return policy.SourceFact{Kind: "tag", Ref: clip(t.Ref, 300), TagMoved: t.Moved}, true
	case attestation.PredicateVSA:
		v, err := attestation.ParseVSA(predicate)
		if err != nil {
			return f, false
		}
		f = policy.SourceFact{Kind: "summary", URI: repositoryURI(v.ResourceURI)}
		f.Merges = mergesWord(v.SourceMerges())
		if v.VerificationResult != attestation.VSAPassed {
			return f, true
		}
		for _, l := range v.VerifiedLevels {
			if n, ok := strings.CutPrefix(l, "SLSA_SOURCE_LEVEL_"); ok {
				if level, err := strconv.Atoi(n); err == nil && level >= 1 && level <= 4 {
					f.Level = max(f.Level, min(level, 3))
				}
			}
		}
		var counts map[string]int
		if raw, there := v.Extensions[source.VSASignatures]; there && strictjson.Unmarshal(raw, &counts) == nil {
			f.Signed = counts[string(source.Good)] > 0
			for status, n := range counts {
				f.Signed = f.Signed && (n == 0 || status == string(source.Good) || status == string(source.Baseline))
			}
		}
		return f, true
	}
	return f, false
}

// mergesWord is the worst of what a summary says of merges; "" when it says
// nothing.
func mergesWord(m *attestation.SourceMerges) string {
	switch {
	case m == nil:
		return ""
	case m.Changed > 0:
		return "changed"
	case m.Unknown > 0:
		return "unknown"
	case m.Resolved > 0:
		return "resolved"
	}
	return "clean"
}

// pushRecord is a forge's record as it was read, to find the last word on a push.
type pushRecord struct {
	fact     policy.SourceFact
	c        collected
	item     *Item
	id       string
	push     string // who says it, and of which push; "" of what is no record
	revision int
}

// lastWords leaves out what the same signer said of the same push before: a push
// that counted as reviewed may count so no longer, and the other way round.
func lastWords(all []pushRecord) []pushRecord {
	last := map[string]int{}
	for _, r := range all {
		if r.push != "" {
			last[r.push] = max(last[r.push], r.revision)
		}
	}
	return slices.DeleteFunc(all, func(r pushRecord) bool { return r.push != "" && r.revision < last[r.push] })
}

// pushOf names the push that a record is about, and who says it; this site's own
// keys are one voice.
func (g *gathering) pushOf(c *collected) (push string, revision int) {
	var r forge.Record
	if c.predicateType != forge.PredicateRecord || strictjson.Unmarshal(c.predicate, &r) != nil {
		return "", 0
	}
	voice := c.evidence.Key + " " + c.evidence.Identity.Issuer + " " + c.evidence.Identity.Subject
	if c.evidence.Key != "" && g.verifier.o.SourceKeys[c.evidence.Key] {
		voice = "own"
	}
	return strings.Join([]string{voice, r.Repository, r.Ref, r.Before, r.PushedAt.UTC().Format(time.RFC3339Nano), strconv.FormatBool(r.Removed)}, "\x00"), r.Revision
}

// repositoryURI is a repository's address as facts have it; provenance's is
// without "git+" too. One that is cut short would be another's name.
func repositoryURI(s string) string {
	if s = strings.TrimPrefix(s, "git+"); len(s) > 500 {
		return "(too long)"
	}
	return s
}

// enterTarball enters that the artifact, an archive, was held against its tag.
func (g *gathering) enterTarball(c collected, it *Item, id string) error {
	if c.predicateType != source.PredicateTarball {
		return nil
	}
	var p struct {
		Result string `json:"result"`
		Source struct {
			Digest artifact.DigestSet `json:"digest"`
		} `json:"source"`
	}
	if err := strictjson.Unmarshal(c.predicate, &p); err != nil {
		return err
	}
	g.enterSource(policy.SourceFact{Kind: "tarball", Commit: clip(attestation.GitCommit(p.Source.Digest), 64), TarballDiffers: p.Result != "same"}, c, it, id)
	return nil
}
