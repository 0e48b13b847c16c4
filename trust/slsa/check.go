package slsa

import (
	"slices"
	"strings"

	"golang.org/x/mod/semver"

	"assay/attestation"
	"assay/trust"
)

// Expect is what a consumer expects of a build. Source is required; an empty
// other field asks nothing.
type Expect struct {
	Source       string            // repository: "github.com/org/repo", with or without scheme and "git+"
	Builder      string            // builder.id, with or without "@ref"; empty: any of the set
	Branch       string            // branch that was built, without refs/heads/
	Tag          string            // tag that was built, without refs/tags/
	VersionedTag string            // semantic version, as far as it is given: v1 matches v1.2.3
	Inputs       map[string]string // workflow_dispatch inputs
}

// Result is what was found to be so.
type Result struct {
	BuilderID  string // with its ref
	Level      int
	Source     string // normalised: git+https://…
	Ref        string // full git ref, where the provenance states one
	Commit     string // from the certificate
	Provenance *attestation.Provenance
}

// Check compares verified provenance with e. The artifact itself was bound by
// trust; this is about how it was built. Refusals carry this package's codes.
func (bs Builders) Check(v *trust.Verified, e Expect) (*Result, error) {
	if v == nil || v.Statement == nil {
		return nil, trust.Refuse(CodeProvenance, "bundle holds no statement; want SLSA provenance")
	}
	prov, err := attestation.ParseProvenance(v.Statement.PredicateType, v.Statement.Predicate)
	if err != nil {
		return nil, trust.Refuse(CodeProvenance, "provenance: %w", err)
	}
	w, err := readWorkflow(v.Identity)
	if err != nil {
		return nil, err
	}
	b, err := bs.pick(w, e)
	if err != nil {
		return nil, err
	}
	if !w.refIsRelease() && !b.AnyRef && !b.Forgeable {
		return nil, trust.Refuse(CodeBuilder, "builder %s is at %q, want a release tag vX.Y.Z: a branch can change under the builder's name", w.name, w.ref)
	}
	if got, want := w.repository(), repositoryName(e.Source); got != want {
		return nil, trust.Refuse(CodeSource, "certificate says the source is %q, want %q", got, want)
	}
	if len(b.BuildTypes) > 0 && !slices.Contains(b.BuildTypes, prov.BuildType) {
		return nil, trust.Refuse(CodeBuilder, "build type %.120q is none that builder %s makes", prov.BuildType, b.Name)
	}
	if err := b.checkID(w, prov, e); err != nil {
		return nil, err
	}
	s := &subject{prov: prov, w: w, b: b}
	if err := s.checkSource(e.Source); err != nil {
		return nil, err
	}
	if err := s.checkRefs(e); err != nil {
		return nil, err
	}
	if b.Forgeable {
		if err := s.matchCertificate(v); err != nil {
			return nil, err
		}
	}
	return &Result{
		BuilderID: prov.BuilderID, Level: max(b.Level, 1), Source: normalize(e.Source), Ref: prov.SourceRef,
		Commit: w.first("source_repository_digest", "github_workflow_sha"), Provenance: prov,
	}, nil
}

// pick finds the builder whose rules apply: a delegator that signed, the
// forgeable one that is asked for, or the workflow that signed.
func (bs Builders) pick(w *workflow, e Expect) (*Builder, error) {
	signed := func(b *Builder) bool { return !b.Forgeable && b.Name == w.name && b.issuer() == w.issuer }
	if b := bs.find(signed); b != nil {
		if b.Delegates || e.Builder == "" || sameBuilder(w.name, w.ref, e.Builder) {
			return b, nil
		}
	}
	if e.Builder == "" {
		return nil, trust.Refuse(CodeBuilder, "built by %s, which is no trusted builder; name it as the expected builder if it is right", w.name)
	}
	if b := bs.find(func(b *Builder) bool { return b.Forgeable && b.Name == e.Builder }); b != nil {
		if w.issuer != b.issuer() {
			return nil, trust.Refuse(CodeBuilder, "certificate is of issuer %q, want %q", w.issuer, b.issuer())
		}
		if got := w.ext["runner_environment"]; got != b.Runner {
			return nil, trust.Refuse(CodeBuilder, "certificate says the runner was %q, want %q as builder %s implies", got, b.Runner, b.Name)
		}
		return b, nil
	}
	if w.issuer != GitHubIssuer || !sameBuilder(w.name, w.ref, e.Builder) {
		return nil, trust.Refuse(CodeBuilder, "built by %s@%s, want %s", w.name, w.ref, e.Builder)
	}
	return &Builder{Name: w.name, Level: 1}, nil
}

// checkID compares builder.id with the certificate, or, where the builder runs
// another one, with what is expected.
func (b *Builder) checkID(w *workflow, prov *attestation.Provenance, e Expect) error {
	name, ref, ok := splitBuilder(prov.BuilderID)
	if !ok {
		return trust.Refuse(CodeBuilder, "builder.id %.160q: want at most one '@'", prov.BuilderID)
	}
	switch {
	case b.Forgeable:
		if prov.BuilderID != b.Name && !slices.Contains(b.Aliases, prov.BuilderID) {
			return trust.Refuse(CodeBuilder, "builder.id is %.160q, want %q", prov.BuilderID, b.Name)
		}
	case b.Delegates:
		if !validDelegate(name, ref) && !b.AnyRef {
			return trust.Refuse(CodeBuilder, "delegated builder %.160q is not at a release tag vX.Y.Z", prov.BuilderID)
		}
		if e.Builder == "" && (b.DelegatePrefix == "" || !strings.HasPrefix(name, b.DelegatePrefix)) {
			return trust.Refuse(CodeBuilder, "delegated builder %.160q is not trusted by default; name it as the expected builder if it is right", prov.BuilderID)
		}
		if e.Builder != "" && !sameBuilder(name, ref, e.Builder) {
			return trust.Refuse(CodeBuilder, "built by %.160q, want %q", prov.BuilderID, e.Builder)
		}
	default:
		if name != w.name || ref != w.ref && "refs/tags/"+ref != w.ref {
			return trust.Refuse(CodeBuilder, "builder.id is %.160q, but %s@%s signed", prov.BuilderID, w.name, w.ref)
		}
	}
	return nil
}

// sameBuilder compares a builder with the expected one, which may leave its
// version out or give it short ("v1.2.3" for refs/tags/v1.2.3).
func sameBuilder(name, ref, want string) bool {
	wn, wr, ok := splitBuilder(want)
	return ok && wn == name && (wr == "" || wr == ref || "refs/tags/"+wr == ref)
}

func splitBuilder(id string) (name, ref string, ok bool) {
	name, ref, has := strings.Cut(id, "@")
	return name, ref, name != "" && has == (ref != "") && !strings.Contains(ref, "@")
}

// validDelegate says whether a delegated builder stands at a release: vX.Y.Z,
// or for JReleaser, whose releases carry the language, vX.Y.Z-java.
func validDelegate(name, ref string) bool {
	tag, ok := strings.CutPrefix(ref, "refs/tags/")
	if strings.HasPrefix(name, "https://github.com/jreleaser/release-action") {
		return ok && semver.IsValid(tag) && semver.Prerelease(tag) == "-java" && semver.Build(tag) == "" && strings.Count(tag, ".") == 2
	}
	return ok && isRelease(tag)
}

// isRelease says whether a tag is vX.Y.Z with nothing behind.
func isRelease(tag string) bool {
	return semver.IsValid(tag) && strings.Count(tag, ".") == 2 && semver.Prerelease(tag) == "" && semver.Build(tag) == ""
}

// normalize gives a repository as provenance writes it.
func normalize(uri string) string {
	switch {
	case strings.HasPrefix(uri, "git+"):
		return uri
	case strings.Contains(uri, "://"):
		return "git+" + uri
	}
	return "git+https://" + uri
}

// repositoryName is org/repo of a GitHub repository, as certificates name it.
func repositoryName(uri string) string {
	return strings.TrimPrefix(strings.TrimPrefix(normalize(uri), "git+https://"), "github.com/")
}
