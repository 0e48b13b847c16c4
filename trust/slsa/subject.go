package slsa

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/semver"

	"assay/attestation"
	"assay/internal/strictjson"
	"assay/trust"
)

// workflow is the signing identity of a GitHub Actions certificate.
type workflow struct {
	issuer    string
	name, ref string // subject before and after '@'
	ext       map[string]string
}

func readWorkflow(id trust.Identity) (*workflow, error) {
	i := strings.LastIndexByte(id.Subject, '@')
	if id.SubjectKey != "uri" || i <= 0 || i == len(id.Subject)-1 {
		return nil, trust.Refuse(CodeBuilder, "certificate names %.160q, want a workflow: https://host/org/repo/path@ref", id.Subject)
	}
	w := &workflow{issuer: id.Issuer, name: id.Subject[:i], ref: id.Subject[i+1:], ext: id.Extensions}
	// Fulcio states some things twice, in an old and a new extension.
	for _, pair := range [][2]string{
		{"github_workflow_trigger", "build_trigger"}, {"github_workflow_sha", "source_repository_digest"}, {"github_workflow_ref", "source_repository_ref"},
	} {
		if a, b := w.ext[pair[0]], w.ext[pair[1]]; a != "" && b != "" && a != b {
			return nil, trust.Refuse(CodeCertificate, "certificate contradicts itself: %s is %q, %s is %q", pair[0], a, pair[1], b)
		}
	}
	if a, b := w.ext["github_workflow_repository"], w.ext["source_repository_uri"]; a != "" && b != "" && "https://github.com/"+a != b {
		return nil, trust.Refuse(CodeCertificate, "certificate contradicts itself: repository %q and %q", a, b)
	}
	return w, nil
}

// first is the first of the extensions that is there.
func (w *workflow) first(names ...string) string {
	for _, n := range names {
		if w.ext[n] != "" {
			return w.ext[n]
		}
	}
	return ""
}

// repository is org/repo of the source.
func (w *workflow) repository() string {
	return strings.TrimPrefix(w.first("source_repository_uri", "github_workflow_repository"), "https://github.com/")
}

func (w *workflow) refIsRelease() bool {
	tag, ok := strings.CutPrefix(w.ref, "refs/tags/")
	return ok && isRelease(tag)
}

// subject is one provenance under examination.
type subject struct {
	prov *attestation.Provenance
	w    *workflow
	b    *Builder
}

// env reads what the builder recorded of its environment, in the upper case of
// GitHub's variables or the lower case of older generators. Numbers are given
// as text: some generators wrote run IDs so.
func (s *subject) env(name string) string {
	for _, key := range []string{name, strings.ToLower(name)} {
		switch v := s.prov.InternalParameters[key].(type) {
		case string:
			return v
		case int64:
			return strconv.FormatInt(v, 10)
		}
	}
	return ""
}

// trigger is the repository, with ref, whose workflow asked for the build.
func (s *subject) trigger() string {
	if _, ok := s.prov.ExternalParameters["workflow"].(map[string]any); ok || s.prov.PredicateType == attestation.PredicateProvenanceV02 {
		return join(s.prov.SourceURI, s.prov.SourceRef)
	}
	repo, ref, ok := strings.Cut(s.env("GITHUB_WORKFLOW_REF"), "@")
	parts := strings.SplitN(repo, "/", 3)
	if !ok || len(parts) < 3 {
		return ""
	}
	return join("https://github.com/"+parts[0]+"/"+parts[1], ref)
}

func join(repo, ref string) string {
	if repo == "" {
		return ""
	}
	if ref == "" {
		return normalize(repo)
	}
	return normalize(repo) + "@" + ref
}

// material is the source that was built: the first dependency.
func (s *subject) material() string {
	if len(s.prov.ResolvedDependencies) == 0 {
		return ""
	}
	return s.prov.ResolvedDependencies[0].URI
}

// checkSource wants trigger and material to be the expected repository, and
// each other's equal where both name a ref.
func (s *subject) checkSource(source string) error {
	want := normalize(source)
	if !strings.HasPrefix(want, "git+https://github.com/") {
		return trust.Refuse(CodeSource, "expected source %q: want a repository on github.com", source)
	}
	trigger, material := s.trigger(), s.material()
	tr, tref, _ := strings.Cut(trigger, "@")
	mr, mref, _ := strings.Cut(material, "@")
	switch {
	case tr != want:
		return trust.Refuse(CodeSource, "build was triggered from %.200q, want %q", trigger, want)
	case tref == "":
		return trust.Refuse(CodeSource, "build's trigger %.200q names no ref", trigger)
	case mr != want:
		return trust.Refuse(CodeSource, "build's source is %.200q, want %q", material, want)
	case mref == "" && (s.b.Delegates || s.prov.BuildType == "https://github.com/npm/cli/gha@v1"):
		// A delegated build may check out a commit that it made itself; npm's
		// first provenance named none.
		return nil
	case trigger != material:
		return trust.Refuse(CodeSource, "provenance contradicts itself: triggered from %.200q, built from %.200q", trigger, material)
	}
	return nil
}

func (s *subject) checkRefs(e Expect) error {
	if e.Branch != "" {
		ref := s.branch()
		got, ok := strings.CutPrefix(ref, "refs/heads/")
		if !ok || got == "" {
			return trust.Refuse(CodeRef, "built from %q, want branch %q", ref, e.Branch)
		}
		if got != e.Branch {
			return trust.Refuse(CodeBranch, "built from branch %q, want %q", got, e.Branch)
		}
	}
	if e.Tag != "" || e.VersionedTag != "" {
		ref := s.tag()
		got, ok := strings.CutPrefix(ref, "refs/tags/")
		if !ok || got == "" {
			return trust.Refuse(CodeRef, "built from no tag (%q), want %s%s", ref, e.Tag, e.VersionedTag)
		}
		if e.Tag != "" && got != e.Tag {
			return trust.Refuse(CodeTag, "built from tag %q, want %q", got, e.Tag)
		}
		if e.VersionedTag != "" {
			if err := matchVersion(got, e.VersionedTag); err != nil {
				return err
			}
		}
	}
	return s.checkInputs(e.Inputs)
}

// ref is the full ref that was built, with its kind.
func (s *subject) ref() string {
	if s.b.Delegates {
		_, ref, _ := strings.Cut(s.material(), "@")
		return ref
	}
	if s.env("GITHUB_REF_TYPE") == "" {
		return s.prov.SourceRef
	}
	return s.env("GITHUB_REF")
}

func (s *subject) tag() string {
	if s.env("GITHUB_REF_TYPE") == "branch" && !s.b.Delegates {
		return ""
	}
	if ref := s.ref(); strings.HasPrefix(ref, "refs/tags/") {
		return ref
	}
	return ""
}

// branch is the branch that was built; of a tag, the branch that the event
// says it was made on, where it says so.
func (s *subject) branch() string {
	ref := s.ref()
	if !strings.HasPrefix(ref, "refs/tags/") {
		return ref
	}
	if base := s.env("GITHUB_BASE_REF"); base != "" {
		return base
	}
	switch event := s.event(); s.env("GITHUB_EVENT_NAME") {
	case "push":
		base, _ := event["base_ref"].(string)
		return base
	case "release":
		release, _ := event["release"].(map[string]any)
		if branch, _ := release["target_commitish"].(string); branch != "" {
			return "refs/heads/" + branch
		}
	}
	return ""
}

func (s *subject) event() map[string]any {
	for _, key := range []string{"GITHUB_EVENT_PAYLOAD", "github_event_payload"} {
		if m, ok := s.prov.InternalParameters[key].(map[string]any); ok {
			return m
		}
	}
	return nil
}

// checkInputs compares workflow_dispatch inputs, which are text. Unset and
// empty are the same.
func (s *subject) checkInputs(want map[string]string) error {
	if len(want) == 0 {
		return nil
	}
	if got := s.env("GITHUB_EVENT_NAME"); got != "workflow_dispatch" {
		return trust.Refuse(CodeInputs, "build was triggered by %q, which has no inputs; want workflow_dispatch", got)
	}
	inputs, _ := s.event()["inputs"].(map[string]any)
	for k, v := range want {
		if got, _ := inputs[k].(string); got != v {
			return trust.Refuse(CodeInputs, "workflow input %q is %.120q, want %q", k, got, v)
		}
	}
	return nil
}

// matchVersion compares as many parts of a semantic version as want gives.
// Build metadata of the tag is ignored, a prerelease is not (semver 2.0, 10).
func matchVersion(tag, want string) error {
	if !semver.IsValid(want) {
		return trust.Refuse(CodeVersionedTag, "expected version %q is no semantic version vX[.Y[.Z]]", want)
	}
	have := semver.Canonical(tag)
	if have == "" {
		return trust.Refuse(CodeVersionedTag, "tag %.80q is no semantic version", tag)
	}
	w := strings.SplitN(strings.TrimSuffix(want, semver.Build(want)), ".", 3)
	h := strings.SplitN(have, ".", 3)
	if !slices.Equal(w, h[:len(w)]) {
		return trust.Refuse(CodeVersionedTag, "built from version %s, want %s", have, want)
	}
	return nil
}

// predicate reads members that the common view leaves out.
func predicate(v *trust.Verified) (m struct {
	Metadata struct {
		Completeness struct {
			Parameters  bool `json:"parameters"`
			Environment bool `json:"environment"`
			Materials   bool `json:"materials"`
		} `json:"completeness"`
		Reproducible bool `json:"reproducible"`
	} `json:"metadata"`
	BuildConfig json.RawMessage `json:"buildConfig"`
}, err error) {
	err = strictjson.Unmarshal(v.Statement.Predicate, &m)
	return m, err
}
