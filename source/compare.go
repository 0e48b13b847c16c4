package source

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/glob"
)

// PredicateTarball is the type of a statement that an archive was compared with
// a tag; its subject is the archive.
const PredicateTarball = "https://assay.dev/attestations/tarball/v1"

// Departure is one file in which an archive and its tag differ.
type Departure struct {
	Path string `json:"path"`
	// What is "added", "missing", "changed", "mode", "ignored" (in the archive
	// though export-ignore keeps it out) or "hostile" (a path that leads out of
	// the archive, or that stands in it twice).
	What string `json:"what"`
	Note string `json:"note,omitempty"`
	// Allowed says that the caller expected it: a file that a build adds.
	Allowed bool `json:"allowed,omitzero"`
}

// Comparison is where an archive departs from a tag.
type Comparison struct {
	Archive    string          `json:"archive"`
	Digest     artifact.Digest `json:"digest"`
	Tag        string          `json:"tag"`
	Commit     string          `json:"commit"`
	Prefix     string          `json:"prefix,omitempty"` // folder that was taken off the archive's paths
	Same       int             `json:"same"`             // files that are equal
	Differs    bool            `json:"differs"`          // some departure is not allowed
	Departures []Departure     `json:"departures,omitempty"`
	More       int             `json:"more,omitzero"` // departures beyond those listed
}

// CompareRequest is what to compare.
type CompareRequest struct {
	Name     string // of the archive, for people
	Archive  ReaderAtSize
	Size     int64
	Digest   artifact.Digest
	Tag      string
	Allow    []string // patterns (package glob) of files that may be added
	MaxBytes int64    // that the archive may unpack to; 0: DefaultArchiveBytes
}

// maxDepartures bounds what is listed.
const maxDepartures = 10_000

// Compare holds an archive against what git archive makes of the tag: so
// export-ignore leaves files out, and export-subst fills them in, as they did
// for who made the archive.
func Compare(ctx context.Context, r *Repository, q CompareRequest) (*Comparison, error) {
	if q.MaxBytes <= 0 {
		q.MaxBytes = DefaultArchiveBytes
	}
	var allow []glob.Glob
	for _, p := range q.Allow {
		g, err := glob.Parse(p)
		if err != nil {
			return nil, err
		}
		allow = append(allow, g)
	}
	commit, err := r.CommitOf(ctx, q.Tag)
	if err != nil {
		return nil, err
	}
	want, err := r.exported(ctx, commit, q.MaxBytes)
	if err != nil {
		return nil, err
	}
	tree, err := r.tree(ctx, commit)
	if err != nil {
		return nil, err
	}
	got, err := readArchive(ctx, q.Archive, q.Size, len(commit), q.MaxBytes)
	if err != nil {
		return nil, err
	}
	c := &comparing{out: &Comparison{Archive: q.Name, Digest: q.Digest, Tag: q.Tag, Commit: commit}, allow: allow, want: want, tree: tree, got: got}
	c.run()
	if err := c.explain(ctx, r); err != nil {
		return nil, err
	}
	return c.out, nil
}

// exported lists what git archive makes of a commit.
func (r *Repository) exported(ctx context.Context, commit string, limit int64) (*listing, error) {
	off, err := r.withoutFilters(ctx)
	if err != nil {
		return nil, err
	}
	cmd := r.command(ctx, "-c", "core.autocrlf=false", "-c", "tar.umask=0022", "archive", "--format=tar", commit)
	cmd.Env = append(cmd.Env, off...)
	var errOut bytes.Buffer
	cmd.Stderr = &limited{w: &errOut, left: 4096}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	l := newListing(len(commit), limit)
	err = l.tar(ctx, out)
	if err != nil {
		_ = cmd.Process.Kill()
	}
	if werr := cmd.Wait(); err == nil && werr != nil {
		err = fault.Newf(fault.Undecided, "git archive %s: %s", commit, strings.TrimSpace(errOut.String()))
	}
	return l, err
}

// maxFilters bounds the filters that a repository's configuration names.
const maxFilters = 1000

// withoutFilters is an environment that takes the commands out of all filters
// that the repository's own configuration names: archive runs them on the files
// whose attributes, which the commit holds, ask for them. Filters of the machine
// or the user are theirs, and stay, unless the repository gives one other commands.
func (r *Repository) withoutFilters(ctx context.Context) (env []string, err error) {
	out, err := r.git(ctx, 1<<20, "config", "--list", "--show-scope", "--name-only", "-z", "--includes")
	if err != nil {
		return nil, fault.Newf(fault.Undecided, "read the repository's configuration: %w", err)
	}
	filters := map[string]bool{}
	parts := strings.Split(out, "\x00")
	for i := 0; i+1 < len(parts); i += 2 {
		scope, key := parts[i], parts[i+1]
		end := strings.LastIndexByte(key, '.')
		if scope == "system" || scope == "global" || !strings.HasPrefix(key, "filter.") || end <= len("filter.")-1 {
			continue
		}
		filters[key[:end]] = true
	}
	if len(filters) > maxFilters {
		return nil, fault.Newf(fault.TooLarge, "the repository's configuration names %d filters, at most %d are looked at", len(filters), maxFilters)
	}
	// By the environment, since -c ends a key at its first "=".
	n := 0
	set := func(key, value string) {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", n, key), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", n, value))
		n++
	}
	for _, f := range slices.Sorted(maps.Keys(filters)) {
		set(f+".smudge", "")
		set(f+".process", "")
		set(f+".required", "false")
	}
	return append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", n)), nil
}

// tree lists a commit's files as they are, whatever is exported.
func (r *Repository) tree(ctx context.Context, commit string) (map[string]entry, error) {
	out, err := r.git(ctx, 512<<20, "ls-tree", "-r", "-z", "--full-tree", "--end-of-options", commit)
	if err != nil {
		return nil, fault.Newf(fault.Undecided, "list the files of %s: %w", commit, err)
	}
	files := map[string]entry{}
	for one := range strings.SplitSeq(out, "\x00") {
		head, name, ok := strings.Cut(one, "\t")
		if f := strings.Fields(head); ok && len(f) == 3 {
			files[name] = entry{mode: f[0], id: f[2]}
		}
	}
	return files, nil
}

type comparing struct {
	out   *Comparison
	allow []glob.Glob
	want  *listing
	tree  map[string]entry
	got   *listing
}

func (c *comparing) depart(p, what, note string) {
	d := Departure{Path: clipPath(p), What: what, Note: note}
	if what == "added" {
		d.Allowed = slices.ContainsFunc(c.allow, func(g glob.Glob) bool { return g.Match(p) })
	}
	c.out.Differs = c.out.Differs || !d.Allowed
	if len(c.out.Departures) == maxDepartures {
		c.out.More++
		return
	}
	c.out.Departures = append(c.out.Departures, d)
}

func (c *comparing) run() {
	strip := c.got.prefix()
	if strip != "" {
		// A folder that the tag has as well is no prefix: then all of the tag is one
		// folder.
		if own := c.want.prefix(); own == strip {
			strip = ""
		}
	}
	c.out.Prefix = strip
	files := map[string]entry{}
	for p, e := range c.got.files {
		if strip != "" {
			p = strings.TrimPrefix(p, strip+"/")
		}
		files[p] = e
	}
	for _, p := range c.got.hostile {
		c.depart(p, "hostile", "leads out of the archive, or stands in it twice")
	}
	if id := c.got.commit; id != "" && id != c.out.Commit {
		c.depart("", "changed", "the archive says that it was made of commit "+id)
	}
	for _, p := range sorted(files) {
		e, w := files[p], c.want.files[p]
		switch raw, inTree := c.tree[p]; {
		case w == entry{} && inTree:
			note := "export-ignore keeps it out"
			if raw.id != e.id {
				note += ", and it is not the tag's"
			}
			c.depart(p, "ignored", note)
		case w == entry{}:
			c.depart(p, "added", generated(p))
		case w.id != e.id:
			c.depart(p, "changed", "")
		case w.mode != e.mode:
			c.depart(p, "mode", w.mode+" became "+e.mode)
		default:
			c.out.Same++
		}
	}
	for _, p := range sorted(c.want.files) {
		if _, ok := files[p]; !ok {
			c.depart(p, "missing", "")
		}
	}
}

func sorted(m map[string]entry) []string {
	out := make([]string, 0, len(m))
	for p := range m {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

// explain says of changed files that export-subst fills them in: what git puts
// there may depend on the refs of who made the archive (%d).
func (c *comparing) explain(ctx context.Context, r *Repository) error {
	for i := range c.out.Departures {
		d := &c.out.Departures[i]
		if d.What != "changed" || d.Path == "" || i > 200 {
			continue
		}
		out, err := r.git(ctx, 8192, "check-attr", "-z", "--source="+c.out.Commit, "export-subst", "--", d.Path)
		if err == nil && strings.Contains(out, "\x00set") {
			d.Note = "export-subst fills it in; git's own answer for the tag is another one"
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// generated says which files autotools and release scripts add. It excuses
// nothing: what opened the back door of xz was one of them.
func generated(p string) string {
	base, dir := path.Base(p), path.Dir(p)
	switch {
	case slices.Contains([]string{
		"configure", "aclocal.m4", "config.h.in", "Makefile.in", "config.guess", "config.sub", "config.rpath", "install-sh", "ltmain.sh", "depcomp",
		"missing", "compile", "ar-lib", "test-driver", "ylwrap", "mkinstalldirs", "texinfo.tex", "mdate-sh", "py-compile",
	}, base), strings.HasSuffix(base, ".m4") && (dir == "m4" || strings.HasSuffix(dir, "/m4")), strings.HasSuffix(base, ".in~"),
		strings.HasPrefix(p, "autom4te.cache/"), base == "libtool.m4", strings.HasPrefix(p, "build-aux/"), strings.HasPrefix(p, "po/") && (strings.HasSuffix(base, ".gmo") || strings.HasSuffix(base, ".sin") || strings.HasSuffix(base, ".sed")):
		return "has the name of what autotools generate; nobody reviewed it: make it anew and compare"
	case slices.Contains([]string{"ChangeLog", ".tarball-version", ".version", "INSTALL"}, base):
		return "has the name of what release scripts write"
	}
	return ""
}

// tarballPredicate is the body of a statement of type PredicateTarball.
type tarballPredicate struct {
	Result     string                         `json:"result"` // "same" or "differs"
	Tag        string                         `json:"tag"`
	Source     attestation.ResourceDescriptor `json:"source"` // the commit
	ComparedAt time.Time                      `json:"comparedAt"`
	Same       int                            `json:"same"`
	Departures map[string]int                 `json:"departures,omitempty"` // by what they are
	Files      []Departure                    `json:"files,omitempty"`      // the first 200
}

// Statement states the outcome about the archive.
func (c *Comparison) Statement(repository string, at time.Time) (*attestation.Statement, error) {
	p := tarballPredicate{
		Result: "same", Tag: c.Tag, ComparedAt: at.UTC().Truncate(time.Second), Same: c.Same, Departures: map[string]int{},
		Source: attestation.ResourceDescriptor{URI: repository, Digest: artifact.DigestSet{"gitCommit": c.Commit}},
		Files:  c.Departures[:min(len(c.Departures), 200)],
	}
	if c.Differs {
		p.Result = "differs"
	}
	for _, d := range c.Departures {
		p.Departures[d.What]++
	}
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("state the comparison: %w", err)
	}
	return attestation.NewStatement(PredicateTarball, json.RawMessage(b), attestation.Subject{Name: c.Archive, Digest: c.Digest.Set()})
}
