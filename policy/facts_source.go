package policy

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"assay/internal/fault"
)

// SourceFact is what one verified statement says of the commit that the
// artifact was built from, or of the archive that it is. It says what its signer
// says; a requirement names whose word counts.
type SourceFact struct {
	Evidence
	Own            bool     `json:"own,omitzero"`             // signed by this site's own source key, which records what forges told
	Kind           string   `json:"kind"`                     // "record": how the commit came to its branch; "summary": a source verification summary; "tag": what is known of a tag that names it, or named it; "tarball": the archive held against its tag
	Commit         string   `json:"commit"`                   // hex
	URI            string   `json:"uri,omitempty"`            // of the repository that the statement is about, without "git+"; the same commit can lie in others
	Level          int      `json:"level,omitempty"`          // of a summary: SLSA source level, 0 where it did not pass
	Signed         bool     `json:"signed,omitzero"`          // of a summary: every commit that was judged is signed by an identity of the repository's policy
	Merges         string   `json:"merges,omitempty"`         // of a summary that says it: "clean", "resolved": conflicts were settled by hand; "changed": a merge holds changes that none of the merged branches brings; "unknown": some could not be made again
	Reviewed       bool     `json:"reviewed,omitzero"`        // of a record: enough fresh approvals by others than the author
	Reviewers      []string `json:"reviewers,omitempty"`      // of a record: who approved what was merged
	Stale          bool     `json:"stale,omitzero"`           // of a record: somebody approved an older head than was merged
	Forced         string   `json:"forced,omitempty"`         // of a record: "yes", "no" or "unknown": the push rewrote the branch
	Removed        bool     `json:"removed,omitzero"`         // of a record: a force push took the commit off the branch
	Workflows      []string `json:"workflows,omitempty"`      // of a record: files of pipelines that the push changed
	FilesUnknown   bool     `json:"files_unknown,omitzero"`   // of a record: the forge did not tell of all changed files
	Ref            string   `json:"ref,omitempty"`            // of a tag: refs/tags/…
	TagMoved       bool     `json:"tag_moved,omitzero"`       // of a tag: it named another commit before, or names another now
	TarballDiffers bool     `json:"tarball_differs,omitzero"` // of a tarball: it departs from its tag
}

// SourceRequirement wants the commit that the provenance names to be as it
// should. It goes with provenance: that says whose word tells the commit.
type SourceRequirement struct {
	Identities           []IdentityMatch `yaml:"identities,omitempty" json:"identities,omitempty"`                    // whose statements about the commit count, beside the site's own record of its forges
	Level                int             `yaml:"level,omitempty" json:"level,omitempty"`                              // least SLSA source level, 1 to 3
	Reviewed             bool            `yaml:"reviewed,omitempty" json:"reviewed,omitzero"`                         // others than its author approved what was merged
	Signed               bool            `yaml:"signed,omitempty" json:"signed,omitzero"`                             // the commits are signed by identities of the repository's policy
	Merges               string          `yaml:"merges,omitempty" json:"merges,omitempty"`                            // what merge commits may hold that their parents do not: "clean", nothing; "resolved", conflicts that were settled by hand
	NoForcePush          bool            `yaml:"noForcePush,omitempty" json:"noForcePush,omitzero"`                   // the push rewrote nothing, and no later one took the commit away
	NoUnreviewedWorkflow bool            `yaml:"noUnreviewedWorkflow,omitempty" json:"noUnreviewedWorkflow,omitzero"` // files of pipelines did not change without review
	NoMovedTag           bool            `yaml:"noMovedTag,omitempty" json:"noMovedTag,omitzero"`                     // the tag that it was built from is known, and always named this commit
	Tarball              bool            `yaml:"tarball,omitempty" json:"tarball,omitzero"`                           // the artifact was held against its tag and does not depart from it
}

type sourceRule struct {
	want SourceRequirement
	ids  []*identity
}

func (r *SourceRequirement) compile(provenance bool) (*sourceRule, error) {
	out := &sourceRule{want: *r}
	if r.Level < 0 || r.Level > 3 {
		return nil, fault.Newf(fault.Invalid, "level %d: want 1 to 3", r.Level)
	}
	if r.Merges != "" && r.Merges != "clean" && r.Merges != "resolved" {
		return nil, fault.Newf(fault.Invalid, "merges %.40q: want clean or resolved", r.Merges)
	}
	commit := r.Level > 0 || r.Reviewed || r.Signed || r.Merges != "" || r.NoForcePush || r.NoUnreviewedWorkflow || r.NoMovedTag
	if !commit && !r.Tarball {
		return nil, fault.Newf(fault.Invalid, "want some of level, reviewed, signed, merges, noForcePush, noUnreviewedWorkflow, noMovedTag, tarball")
	}
	if commit && !provenance {
		return nil, fault.Newf(fault.Invalid, "goes with provenance, which says whose word tells the commit")
	}
	if (r.Signed || r.Tarball || r.Merges != "") && len(r.Identities) == 0 {
		return nil, fault.Newf(fault.Invalid, "signed, merges and tarball want identities: who verifies the commits, and compares the archive")
	}
	if len(r.Identities) == 0 {
		return out, nil
	}
	var err error
	out.ids, err = compileIdentities(r.Identities)
	return out, err
}

// counts says whether the policy believes who signed the statement.
func (r *sourceRule) counts(ev *evaluation, f *SourceFact, q *quality) bool {
	return (f.Own || matchAny(r.ids, &f.Evidence)) && q.unusable(&f.Evidence, ev.now) == ""
}

// trusts says whether a provenance is one that the policy's provenance rule
// believes, so that its word of the commit counts.
func (r *provenanceRule) trusts(ev *evaluation, p *Provenance) bool {
	a := ev.attestation(p.Attestation)
	if a == nil {
		return false
	}
	if len(r.builders) == 0 {
		return p.Level >= r.minLevel
	}
	return slices.ContainsFunc(r.builders, func(b builderRule) bool { return b.id == p.BuilderID && b.signer.matches(&a.Evidence) })
}

func (r *sourceRule) evaluate(ev *evaluation, provenance *provenanceRule, q *quality) {
	if r.want.Tarball {
		r.tarball(ev, q)
	}
	if provenance == nil {
		return
	}
	var commits []sourceCommit
	unnamed := false
	for i := range ev.facts.Provenance {
		p := &ev.facts.Provenance[i]
		if !provenance.trusts(ev, p) {
			continue
		}
		if r.want.NoMovedTag {
			r.tag(ev, p, q)
		}
		_, id, _ := strings.Cut(p.Source.Digest, ":")
		c := sourceCommit{id, repositoryName(p.Source.URI)}
		unnamed = unnamed || id == ""
		if !slices.Contains(commits, c) {
			commits = append(commits, c)
		}
	}
	if len(commits) == 0 || unnamed {
		ev.add(Check{Name: "source", Status: Fail, Expected: "provenance that names the commit", Found: "none that counts and names one", Mend: "assay run -- COMMAND  # in a clone whose remote origin is the repository"})
		return
	}
	for _, c := range commits {
		r.commit(ev, c, q)
	}
}

// sourceCommit is a commit in the repository that a provenance names; no
// repository where it names none.
type sourceCommit struct{ id, repository string }

// of says whether a statement is about this commit in this repository. Whoever
// may push to another repository brings the same commit there, and has it
// reviewed by whom they like.
func (c sourceCommit) of(f *SourceFact) bool {
	return f.Commit == c.id && (c.repository == "" || repositoryName(f.URI) == c.repository)
}

// repositoryName is what the addresses of one repository have in common: its
// host and path, whatever the protocol, the user and the suffix.
func repositoryName(uri string) string {
	u, err := url.Parse(strings.TrimPrefix(uri, "git+"))
	if err != nil || u.Host == "" {
		return uri
	}
	host := strings.ToLower(u.Host)
	for _, usual := range []string{":443", ":22", ":80"} {
		host = strings.TrimSuffix(host, usual)
	}
	path, _, _ := strings.Cut(u.Path, "@refs/")
	return host + "/" + strings.TrimSuffix(strings.Trim(path, "/"), ".git")
}

func (r *sourceRule) tarball(ev *evaluation, q *quality) {
	c := Check{Name: "source/tarball", Status: Fail, Expected: "held against its tag, and the same", Found: "compared by nobody whose word counts", Mend: "assay source compare " + ev.target + " TAG --attest"}
	for i := range ev.facts.Sources {
		if f := &ev.facts.Sources[i]; f.Kind == "tarball" && r.counts(ev, f, q) {
			c.Evidence = append(c.Evidence, f.ID)
			if f.TarballDiffers {
				c.Status, c.Found, c.Mend = Fail, "departs from its tag (commit "+clip(f.Commit, 64)+")", "make the archive anew from the tag"
				break
			}
			c.Status, c.Found, c.Mend = Pass, "the same as commit "+clip(f.Commit, 64), ""
		}
	}
	ev.add(c)
}

// tag checks the tag that a build was made from. What is built from a branch has
// none that could move.
func (r *sourceRule) tag(ev *evaluation, p *Provenance, q *quality) {
	ref := p.Source.Ref
	c := Check{Name: "source/tag", Status: Fail, Expected: "built from a tag that never moved, or from a branch", Mend: "connect the forge: a document of kind Source, and its webhook with tag pushes"}
	switch {
	case strings.HasPrefix(ref, "refs/heads/"):
		c.Status, c.Found, c.Mend = Pass, "built from "+clip(ref, 200), ""
	case !strings.HasPrefix(ref, "refs/tags/"):
		c.Found, c.Mend = "the provenance names neither: "+orNone(clip(ref, 200)), "build from a tag or a branch"
	default:
		_, commit, _ := strings.Cut(p.Source.Digest, ":")
		at := clip(ref, 200) + " at commit " + clip(commit, 12)
		c.Found = at + ": nobody whose word counts knows it"
		for i := range ev.facts.Sources {
			f := &ev.facts.Sources[i]
			if f.Kind != "tag" || f.Commit != commit || f.Ref != ref || !r.counts(ev, f, q) {
				continue
			}
			c.Evidence = append(c.Evidence, f.ID)
			if f.TagMoved {
				c.Status, c.Found, c.Mend = Fail, at+": the tag was moved", "release under a new tag"
				break
			}
			c.Status, c.Found, c.Mend = Pass, at+": never moved", ""
		}
	}
	ev.add(c)
}

// commit checks one commit. What counts against it counts in every statement;
// what counts for it has to be in one.
func (r *sourceRule) commit(ev *evaluation, commit sourceCommit, q *quality) {
	var records, summaries []*SourceFact
	elsewhere := ""
	for i := range ev.facts.Sources {
		f := &ev.facts.Sources[i]
		if f.Commit != commit.id || !r.counts(ev, f, q) {
			continue
		}
		if !commit.of(f) {
			elsewhere = "; what is known is about " + orNone(f.URI) + ", and it was built from " + commit.repository
			continue
		}
		switch f.Kind {
		case "record":
			records = append(records, f)
		case "summary":
			summaries = append(summaries, f)
		}
	}
	short := clip(commit.id, 12)
	add := func(name string, ok bool, expected, found, mend string, of []*SourceFact) {
		c := Check{Name: "source/" + name, Status: Fail, Expected: expected, Found: "commit " + short + ": " + found, Mend: mend}
		if ok {
			c.Status, c.Mend = Pass, ""
		}
		for _, f := range of[:min(len(of), maxEvidence)] {
			c.Evidence = append(c.Evidence, f.ID)
			if c.LogIndex == nil {
				c.LogIndex = f.LogIndex
			}
		}
		ev.add(c)
	}
	known := "no record by anybody whose word counts" + elsewhere
	connect := "connect the forge: a document of kind Source, and its webhook"
	reviewed := slices.ContainsFunc(records, func(f *SourceFact) bool { return f.Reviewed })
	if r.want.Level > 0 {
		level := 0
		for _, f := range summaries {
			level = max(level, f.Level)
		}
		add("level", level >= r.want.Level, fmt.Sprintf("SLSA source level %d", r.want.Level), fmt.Sprintf("level %d by %d summaries", level, len(summaries))+elsewhere, "assay source verify --attest  # says what keeps the next level away", summaries)
	}
	if r.want.Signed {
		ok := slices.ContainsFunc(summaries, func(f *SourceFact) bool { return f.Signed })
		found := "signatures verified"
		if !ok {
			found = "no summary says that its commits are signed" + elsewhere
		}
		add("signed", ok, "commits signed by identities of the repository's policy", found, "assay source verify --attest", summaries)
	}
	if r.want.Merges != "" {
		ok, found := r.merges(summaries)
		add("merges", ok, map[string]string{"clean": "merges that hold nothing of their own", "resolved": "merges that hold nothing of their own but settled conflicts"}[r.want.Merges],
			found+elsewhere, "assay source verify --attest  # names the merges and their files", summaries)
	}
	if r.want.Reviewed {
		found := known
		for _, f := range records {
			if found = "not reviewed"; f.Reviewed {
				found = "reviewed by " + clip(strings.Join(f.Reviewers, ", "), 200)
				break
			} else if f.Stale {
				found = "the approval is of an older head than was merged"
			}
		}
		mend := "have the change reviewed as it is merged"
		if len(records) == 0 {
			mend = connect
		}
		add("reviewed", reviewed, "approved by others than its author, as it was merged", found, mend, records)
	}
	if r.want.NoForcePush {
		ok, found := len(records) > 0, known
		for _, f := range records {
			if found = "pushed on top"; f.Removed || f.Forced != "no" {
				ok, found = false, "force push: "+f.Forced
				if f.Removed {
					found = "taken off its branch by a force push"
				}
				break
			}
		}
		add("force-push", ok, "on its branch without a force push", found, connect, records)
	}
	if r.want.NoUnreviewedWorkflow {
		ok, found := len(records) > 0, known
		for _, f := range records {
			if found = "no unreviewed change of pipelines"; !f.Reviewed && (len(f.Workflows) > 0 || f.FilesUnknown) {
				ok, found = false, "unreviewed change of "+orNone(clip(strings.Join(f.Workflows, ", "), 200))
				if f.FilesUnknown {
					found += " (not all files are known)"
				}
				break
			}
		}
		add("workflow", ok, "no change of pipelines without review", found, connect, records)
	}
}

// merges says whether the merge commits are as they should be. One summary that
// tells of a changed one counts against all others; one has to say that all were
// made again.
func (r *sourceRule) merges(summaries []*SourceFact) (ok bool, found string) {
	found = "no summary says what its merges hold"
	for _, f := range summaries {
		switch {
		case f.Merges == "changed":
			return false, "a merge holds changes that none of the merged branches brings"
		case f.Merges == "resolved" && r.want.Merges == "clean":
			return false, "conflicts were settled by hand in a merge"
		case f.Merges == "clean" || f.Merges == "resolved":
			ok, found = true, "merges: "+f.Merges
		case f.Merges == "unknown" && !ok:
			found = "a merge could not be made again"
		}
	}
	return ok, found
}
