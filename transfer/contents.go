package transfer

import (
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/internal/strictjson"
)

// ContentsSchema is the value of Contents.Schema.
const ContentsSchema = "assay/bundle-contents/v1"

// Contents says what of a file belongs where. Where the file is not full, it
// says what is new since the one before.
type Contents struct {
	Schema       string       `json:"schema"`
	Repositories []Repository `json:"repositories"`
	Evidence     []Evidence   `json:"evidence"`
	Feeds        []Feed       `json:"feeds"`
}

// Repository is what one repository gained.
type Repository struct {
	Name      string     `json:"name"`
	Manifests []Manifold `json:"manifests"` // what an index names comes before it
	Tags      []Tag      `json:"tags"`
}

// Manifold is one manifest or index of a repository.
type Manifold struct {
	Digest    artifact.Digest `json:"digest"`
	MediaType string          `json:"media_type"`
	Size      int64           `json:"size"`
}

// Tag is where a tag points at the exporter.
type Tag struct {
	Name   string          `json:"name"`
	Digest artifact.Digest `json:"digest"`
}

// Evidence is a bundle of the exporter's evidence store.
type Evidence struct {
	Digest     artifact.Digest `json:"digest"`
	Repository string          `json:"repository"` // that of the artifact it is about
}

// Feed is a tree of files under a name.
type Feed struct {
	Name  string     `json:"name"`
	Files []FeedFile `json:"files"` // all of them, by path
}

// FeedFile is one file of a feed.
type FeedFile struct {
	Path   string          `json:"path"` // relative, with slashes
	Digest artifact.Digest `json:"digest"`
	Size   int64           `json:"size"`
}

// JSON writes the member.
func (c *Contents) JSON() ([]byte, error) {
	c.Schema = ContentsSchema
	b, err := strictjson.Canonical(c)
	if err == nil && len(b) > MaxDocument {
		err = fault.Newf(fault.TooLarge, "the list of contents has %d bytes, want at most %d: export fewer repositories at a time", len(b), MaxDocument)
	}
	return b, err
}

// ParseContents reads the member strictly. Errors are fault.Invalid and
// fault.TooLarge.
func ParseContents(b []byte) (*Contents, error) {
	var c Contents
	if err := strictjson.Unmarshal(b, &c, strictjson.RejectUnknown(), strictjson.WithMaxBytes(MaxDocument)); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "contents: %w", err)
	}
	if c.Schema != ContentsSchema {
		return nil, wrong("schema %.60q, want %s", c.Schema, ContentsSchema)
	}
	names := map[string]bool{}
	for i := range c.Repositories {
		r := &c.Repositories[i]
		if names[r.Name] {
			return nil, wrong("repository %.200q stands twice", r.Name)
		}
		names[r.Name] = true
		if err := r.check(); err != nil {
			return nil, err
		}
	}
	for _, e := range c.Evidence {
		if e.Digest.Validate() != nil || !artifact.ValidRepository(e.Repository) {
			return nil, wrong("evidence %.80q of %.200q", string(e.Digest), e.Repository)
		}
	}
	for i := range c.Feeds {
		if err := c.Feeds[i].Validate(); err != nil {
			return nil, err
		}
	}
	return &c, nil
}

func wrong(format string, args ...any) error {
	return fault.Newf(fault.Invalid, "contents: "+format, args...)
}

func (r *Repository) check() error {
	if !artifact.ValidRepository(r.Name) {
		return wrong("repository %.200q is not of the OCI grammar", r.Name)
	}
	for _, m := range r.Manifests {
		if m.Digest.Validate() != nil || m.Size < 1 || m.Size > MaxDocument || len(m.MediaType) > maxText {
			return wrong("manifest %.80q of %s", string(m.Digest), r.Name)
		}
	}
	seen := map[string]bool{}
	for _, t := range r.Tags {
		if t.Digest.Validate() != nil || len(t.Name) > 128 || seen[t.Name] {
			return wrong("tag %.130q of %s", t.Name, r.Name)
		}
		seen[t.Name] = true
	}
	return nil
}

// maxFeedFiles bounds the files of one feed.
const maxFeedFiles = 20_000

// Validate checks names and paths. Paths are names of rows and never of files
// here; what unpacks a feed gets none that would leave a folder.
func (f *Feed) Validate() error {
	if !ValidName(f.Name) || len(f.Files) > maxFeedFiles {
		return fault.Newf(fault.Invalid, "feed %.80q of %d files: want a name of lower-case letters, digits, \".\", \"_\" and \"-\", and at most %d files", f.Name, len(f.Files), maxFeedFiles)
	}
	seen := map[string]bool{}
	for _, file := range f.Files {
		if !ValidPath(file.Path) || seen[file.Path] || file.Digest.Validate() != nil || file.Size < 0 {
			return fault.Newf(fault.Invalid, "feed %s: file %.200q: want a relative path without \"..\", once, with its digest and size", f.Name, file.Path)
		}
		seen[file.Path] = true
	}
	return nil
}

// ValidPath says whether a feed may hold a file of this path.
func ValidPath(p string) bool {
	return p != "" && len(p) <= maxText && utf8.ValidString(p) && path.Clean(p) == p && !path.IsAbs(p) && p != "." && p != ".." &&
		!strings.HasPrefix(p, "../") && !strings.ContainsAny(p, "\x00\\:")
}

// Within refuses repositories that none of the patterns covers: an exporter has
// a say where it was given one.
func (c *Contents) Within(origin string, patterns []string) error {
	var globs []glob.Glob
	for _, p := range patterns {
		g, err := glob.Parse(p)
		if err != nil {
			return err
		}
		globs = append(globs, g)
	}
	covered := func(name string) bool {
		return slices.ContainsFunc(globs, func(g glob.Glob) bool { return g.Match(name) })
	}
	for _, r := range c.Repositories {
		if !covered(r.Name) {
			return refuse(CodeScope, "it holds repository %s, and %s is trusted for %s alone: add --namespace %s to trust it there too", r.Name, origin, strings.Join(patterns, " "), r.Name)
		}
	}
	for _, e := range c.Evidence {
		if !covered(e.Repository) {
			return refuse(CodeScope, "it holds evidence about repository %s, and %s is trusted for %s alone", e.Repository, origin, strings.Join(patterns, " "))
		}
	}
	return nil
}
