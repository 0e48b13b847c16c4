package attestation

import (
	"strings"

	"assay/artifact"
)

// sourceOfV1 finds the source in v1 provenance, where each build type keeps it
// elsewhere. The shapes read here:
//
//   - externalParameters.workflow {repository, ref, path}: GitHub Actions
//     (actions.github.io/buildtypes/workflow/v1 and SLSA's own of that name)
//   - externalParameters.buildConfigSource {repository, ref, path}: Google
//     Cloud Build (gcb-buildtypes/google-worker/v1)
//   - externalParameters.source, a descriptor or {artifact: descriptor}, with
//     configPath or workflowPath beside it: slsa-github-generator
//   - externalParameters.configSource, a descriptor: documents converted from v0.2
//
// Failing all these, a resolved dependency that is the only one from git is
// the source (slsa-github-generator's delegator). With two there is no saying
// which, and the source stays empty rather than guessed.
func (p *Provenance) sourceOfV1() {
	ext := p.ExternalParameters
	for _, name := range []string{"workflow", "buildConfigSource"} {
		if w, ok := ext[name].(map[string]any); ok && text(w["repository"]) != "" {
			p.setSource(text(w["repository"]), nil)
			if ref := text(w["ref"]); ref != "" {
				p.SourceRef = ref
			}
			p.EntryPoint = text(w["path"])
			if len(p.SourceDigest) == 0 {
				p.SourceDigest = p.digestOfSource()
			}
			return
		}
	}
	for _, name := range []string{"source", "configSource"} {
		s, ok := ext[name].(map[string]any)
		if a, wrapped := s["artifact"].(map[string]any); wrapped {
			s = a
		}
		if ok && text(s["uri"]) != "" {
			p.setSource(text(s["uri"]), digestSet(s["digest"]))
			for _, path := range []any{ext["configPath"], ext["workflowPath"], s["entryPoint"]} {
				if p.EntryPoint == "" {
					p.EntryPoint = text(path)
				}
			}
			return
		}
	}
	var git []ResourceDescriptor
	for _, d := range p.ResolvedDependencies {
		if strings.HasPrefix(d.URI, "git+") {
			git = append(git, d)
		}
	}
	if len(git) == 1 {
		p.setSource(git[0].URI, git[0].Digest)
	}
}

// digestOfSource is the digest of the resolved dependency that is the source
// already found: same repository and, where both say, same ref. Two such
// dependencies that disagree give none.
func (p *Provenance) digestOfSource() artifact.DigestSet {
	var found artifact.DigestSet
	for _, d := range p.ResolvedDependencies {
		uri, ref := splitSource(d.URI)
		if uri != p.SourceURI || (ref != "" && p.SourceRef != "" && ref != p.SourceRef) || len(d.Digest) == 0 {
			continue
		}
		if found != nil && !sameDigests(found, d.Digest) {
			return nil
		}
		found = d.Digest
	}
	return found
}

func sameDigests(a, b artifact.DigestSet) bool {
	if len(a) != len(b) {
		return false
	}
	for alg, v := range a {
		if b[alg] != v {
			return false
		}
	}
	return true
}

func text(v any) string { s, _ := v.(string); return s }

func digestSet(v any) artifact.DigestSet {
	m, _ := v.(map[string]any)
	var out artifact.DigestSet
	for alg, sum := range m {
		if out == nil {
			out = artifact.DigestSet{}
		}
		out[alg] = text(sum) // "" is refused by ValidateDigestSet
	}
	return out
}
