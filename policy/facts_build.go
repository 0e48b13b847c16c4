package policy

import (
	"slices"
	"strings"
)

// ProvenanceBuild is what a provenance tells of how and when it was built,
// beside the other provenance about the same artifact.
type ProvenanceBuild struct {
	// Environment is what the build ran with, by name: builder, type, source,
	// commit, command, parameters, os, arch, and tool:NAME for each program that
	// is named; long values by their digest.
	Environment map[string]string `json:"environment,omitempty"`
	Conflict    []string          `json:"conflict,omitempty"` // names of the environment in which another provenance about the artifact differs, sorted
	Age         int64             `json:"age,omitempty"`      // seconds that it is older, by trusted time, than the newest provenance about the artifact
	Secrets     []string          `json:"secrets,omitempty"`  // names of variables that look like secrets and that the build could read
}

// Differences lists the names whose values differ between two environments.
// What one does not tell is no difference.
func Differences(a, b map[string]string) []string {
	var out []string
	for _, name := range sortedKeys(a) {
		if v, ok := b[name]; ok && v != a[name] {
			out = append(out, name)
		}
	}
	return out
}

// Trace is what a verified trace of a build says. It is its signer's word.
type Trace struct {
	Attestation  string   `json:"attestation"`             // id of the attestation
	InvocationID string   `json:"invocation_id,omitempty"` // of the build, as in its provenance
	Traced       bool     `json:"traced"`                  // false: tracing was asked for and not possible, or the monitor is not known here
	Complete     bool     `json:"complete"`                // nothing of what is watched escaped, and nothing was cut
	Reason       string   `json:"reason,omitempty"`        // why it was not traced, or is not complete
	Undeclared   []string `json:"undeclared,omitempty"`    // files and programs that no material, tracked file or toolchain covers; many of one folder as that folder with "/" at the end
	Changed      []string `json:"changed,omitempty"`       // declared files that the build wrote, or read with other content; folders as above
	Toolchain    []string `json:"toolchain,omitempty"`     // patterns of files that needed no declaration
	Network      []string `json:"network,omitempty"`       // addresses, as "tcp/192.0.2.7/443"
	Names        []string `json:"names,omitempty"`         // asked of a name server, as far as seen
	Programs     []Traced `json:"programs,omitempty"`      // that ran
	More         bool     `json:"more,omitzero"`           // network, names, programs or toolchain are longer than what stands here
}

// Traced is a program that ran.
type Traced struct {
	Program string `json:"program"`
	Digest  string `json:"digest,omitempty"`
	Made    bool   `json:"made,omitzero"` // by the build itself
}

// FailedBuild is a verified statement that a build failed which left this
// artifact.
type FailedBuild struct {
	Attestation  string `json:"attestation"`             // id of the attestation
	InvocationID string `json:"invocation_id,omitempty"` // of the build
	Reason       string `json:"reason"`                  // fixed word: exit, signal, start, material.changed, product.missing, product.unwritten, product.changed
	ExitCode     int    `json:"exit_code"`
}

// BuildRequirement wants provenance, and what else is known of that build, to be
// as it should. Statements by others than the signers count for nothing here,
// neither for nor against.
type BuildRequirement struct {
	Identities []IdentityMatch   `yaml:"identities,omitempty" json:"identities,omitempty"` // whose statements about the build count
	Signers    string            `yaml:"signers,omitempty" json:"signers,omitempty"`       // "delegated", in place of identities
	MaxAge     Duration          `yaml:"maxAge,omitempty" json:"maxAge,omitempty"`         // of the provenance, by trusted time
	NoFailures bool              `yaml:"noFailures,omitempty" json:"noFailures,omitzero"`  // no failed build left this artifact
	NoConflict bool              `yaml:"noConflict,omitempty" json:"noConflict,omitzero"`  // all provenance about the artifact tells of the same environment
	MayDiffer  []string          `yaml:"mayDiffer,omitempty" json:"mayDiffer,omitempty"`   // with noConflict: names, or patterns such as tool:*, that may differ
	NoSecrets  bool              `yaml:"noSecrets,omitempty" json:"noSecrets,omitzero"`    // the build could read no variable that looks like a secret
	Trace      *TraceRequirement `yaml:"trace,omitempty" json:"trace,omitempty"`           // a complete trace of that build
}

// TraceRequirement wants a complete trace of the build in which nothing was
// changed that was declared, and nothing stands beyond what is listed.
type TraceRequirement struct {
	Undeclared []string `yaml:"undeclared,omitempty" json:"undeclared,omitempty"` // patterns of files that may be read undeclared; absent: none
	Network    []string `yaml:"network,omitempty" json:"network,omitempty"`       // patterns of addresses that may be connected to; absent: none
	Programs   []string `yaml:"programs,omitempty" json:"programs,omitempty"`     // patterns of names, or digests, of programs that may run; absent: any
	Toolchain  []string `yaml:"toolchain,omitempty" json:"toolchain,omitempty"`   // patterns that the build may have taken for the machine's own, beside MachineFiles
}

// MachineFiles are the patterns that a trace may take for files of the machine
// itself without being allowed to by a policy.
func MachineFiles() []string {
	return []string{"/usr/**", "/bin/**", "/sbin/**", "/lib/**", "/lib64/**", "/lib32/**", "/opt/**", "/etc/**", "/nix/store/**"}
}

// sortBuild brings what has no order of its own into one.
func (f *Facts) sortBuild() {
	slices.SortStableFunc(f.Traces, func(a, b Trace) int { return strings.Compare(a.Attestation, b.Attestation) })
	slices.SortStableFunc(f.FailedBuilds, func(a, b FailedBuild) int { return strings.Compare(a.Attestation, b.Attestation) })
}
