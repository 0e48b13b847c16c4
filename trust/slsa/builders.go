package slsa

import (
	"slices"
	"strings"

	"assay/trust"
)

// The codes of this package's refusals; see trust.Code.
const (
	CodeBuilder      = "slsa.builder"       // built by a builder that is not trusted or not the one expected
	CodeSource       = "slsa.source"        // built from another source, or the provenance contradicts itself
	CodeRef          = "slsa.ref"           // built from no branch or no tag where one is expected
	CodeBranch       = "slsa.branch"        // built from another branch
	CodeTag          = "slsa.tag"           // built from another tag
	CodeVersionedTag = "slsa.versioned-tag" // built from a tag of another version
	CodeInputs       = "slsa.inputs"        // built with other workflow inputs
	CodePackage      = "slsa.package"       // about another package or version
	CodeCertificate  = "slsa.certificate"   // the provenance claims what the certificate does not confirm
	CodeProvenance   = "slsa.provenance"    // no provenance, or of a form that says too little
)

// GitHubIssuer is the OIDC issuer of GitHub Actions.
const GitHubIssuer = "https://token.actions.githubusercontent.com"

// Builder is a configured root of trust in builds: who it is, and the level
// that its builds earn (SLSA 1.2, "Build track").
type Builder struct {
	// Name is the workflow as the certificate's subject names it, without
	// "@ref"; for a Forgeable builder, its builder.id.
	Name   string
	Issuer string // OIDC issuer; empty: GitHubIssuer
	Level  int    // 1 to 3
	// BuildTypes are the accepted build types; empty: any.
	BuildTypes []string
	// Delegates is for a workflow that runs another one isolated and writes its
	// name as builder.id ("bring your own builder"). With no builder expected,
	// that name must begin with DelegatePrefix.
	Delegates      bool
	DelegatePrefix string
	// Forgeable is for provenance that the built job itself writes (npm publish
	// --provenance): it is accepted for what the certificate confirms.
	// Runner is the runner environment that the certificate must state, Aliases
	// the other builder.id values that mean the same.
	Forgeable bool
	Runner    string
	Aliases   []string
	// AnyRef admits a workflow that is not at a release tag (vX.Y.Z).
	AnyRef bool
}

// Builders is the configured set.
type Builders []Builder

// Level is the level that a verified bundle's provenance earns under the set:
// that of the builder whose certificate signed it, else 1.
func (bs Builders) Level(v *trust.Verified) int {
	name, _, _ := strings.Cut(v.Identity.Subject, "@")
	for _, b := range bs {
		if !b.Forgeable && b.Name == name && b.issuer() == v.Identity.Issuer {
			return max(b.Level, 1)
		}
	}
	return 1
}

func (b *Builder) issuer() string {
	if b.Issuer == "" {
		return GitHubIssuer
	}
	return b.Issuer
}

func (bs Builders) find(fn func(b *Builder) bool) *Builder {
	if i := slices.IndexFunc(bs, func(b Builder) bool { return fn(&b) }); i >= 0 {
		return &bs[i]
	}
	return nil
}

const (
	generator = "https://github.com/slsa-framework/slsa-github-generator/.github/workflows/"
	generated = "https://github.com/slsa-framework/slsa-github-generator/"
	runner    = "https://github.com/actions/runner"
)

// GitHubGenerator is the set of slsa-github-generator's builders for files, at
// level 3, as slsa-verifier trusts them by default.
func GitHubGenerator() Builders {
	byob := []string{generated + "delegator-generic@v0"}
	return Builders{
		{Name: generator + "generator_generic_slsa3.yml", Level: 3, BuildTypes: []string{generated + "generic@v1"}},
		{Name: generator + "builder_go_slsa3.yml", Level: 3, BuildTypes: []string{
			generated + "go@v1", "https://github.com/slsa-framework/slsa-github-generator-go@v1", "https://github.com/slsa-framework/slsa-github-generator@v1"}},
		{Name: generator + "builder_container-based_slsa3.yml", Level: 3, BuildTypes: []string{"https://slsa.dev/container-based-build/v0.1?draft"}},
		{Name: generator + "delegator_generic_slsa3.yml", Level: 3, BuildTypes: byob, Delegates: true, DelegatePrefix: generator},
		{Name: generator + "delegator_lowperms-generic_slsa3.yml", Level: 3, BuildTypes: byob, Delegates: true, DelegatePrefix: generator},
	}
}

// GitHubContainerGenerator is slsa-github-generator's builder for images.
func GitHubContainerGenerator() Builders {
	return Builders{{Name: generator + "generator_container_slsa3.yml", Level: 3, BuildTypes: []string{generated + "container@v1"}}}
}

// NPM is the set for npm packages: slsa-github-generator's low-permission
// delegator, and npm's own provenance from GitHub's runners, which is level 2
// since the job being built writes it.
func NPM() Builders {
	cli := []string{"https://github.com/npm/cli/gha@v1", "https://github.com/npm/cli/gha/v2"}
	return Builders{
		{Name: generator + "delegator_lowperms-generic_slsa3.yml", Level: 3, BuildTypes: []string{generated + "delegator-generic@v0"}, Delegates: true, DelegatePrefix: generator},
		{Name: runner + "/github-hosted", Level: 2, Forgeable: true, Runner: "github-hosted", Aliases: []string{runner},
			BuildTypes: append([]string{"https://slsa-framework.github.io/github-actions-buildtypes/workflow/v1"}, cli...)},
		{Name: runner, Level: 2, Forgeable: true, Runner: "github-hosted", Aliases: []string{runner + "/github-hosted"}, BuildTypes: cli},
		{Name: runner + "/self-hosted", Level: 1, Forgeable: true, Runner: "self-hosted", BuildTypes: cli},
	}
}
