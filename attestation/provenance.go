package attestation

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Provenance is one view over SLSA provenance v0.1, v0.2 and v1, named as v1
// names things. It holds the builder's claims: which of them count depends on
// who signed. There is no level in it; a document does not grade itself.
//
// Unset, null and empty are the same everywhere (SLSA 1.2, "Verifying
// artifacts"): such members of the parameter objects are dropped.
type Provenance struct {
	PredicateType string
	BuilderID     string // never empty
	BuildType     string // empty only in v0.1, where the recipe is optional
	InvocationID  string

	// ExternalParameters are under the control of whoever asked for the build,
	// so a policy must account for every one of them: v1
	// buildDefinition.externalParameters, v0.2 invocation.parameters, v0.1
	// recipe.arguments. Values are those of strictjson.UnmarshalAny. A v0.2 or
	// v0.1 value that is no object stands under its member's own name.
	ExternalParameters map[string]any
	// InternalParameters are under the builder's control: v1
	// internalParameters, v0.2 and v0.1 environment.
	InternalParameters   map[string]any
	ResolvedDependencies []ResourceDescriptor // v1; materials in v0.2 and v0.1
	Byproducts           []ResourceDescriptor // v1 only
	BuilderVersion       map[string]string    // v1 only

	// Where the build's definition came from. SourceURI has neither a "git+"
	// prefix nor an "@ref" suffix; SourceRef is that suffix, for example
	// "refs/tags/v1.2.0". Empty where the document does not say, or says two
	// things.
	SourceURI    string
	SourceRef    string
	SourceDigest artifact.DigestSet
	EntryPoint   string // workflow or configuration file within the source

	// StartedOn and FinishedOn are claimed times, for display only; zero if
	// unset. Nothing may be decided by them.
	StartedOn, FinishedOn time.Time
}

// ParseProvenance reads the predicate of a statement of the given type, which
// must be exactly one of those that [IsProvenance] knows. A document without a
// builder id, or without a build type from v0.2 on, is an error: it would
// claim nothing that could be matched.
func ParseProvenance(predicateType string, predicate []byte) (*Provenance, error) {
	var p *Provenance
	var err error
	switch predicateType {
	case PredicateProvenanceV1, PredicateProvenanceV1Stray:
		p, err = parseProvenanceV1(predicate)
	case PredicateProvenanceV02:
		p, err = parseProvenanceV02(predicate)
	case PredicateProvenanceV01:
		p, err = parseProvenanceV01(predicate)
	default:
		return nil, invalid("provenance: predicateType is %.100q, want %q, or v0.2, v0.1 of it, exactly", predicateType, PredicateProvenanceV1)
	}
	if err != nil {
		return nil, fault.Newf(fault.KindOf(err), "provenance: %w", err)
	}
	p.PredicateType = predicateType
	if p.BuilderID == "" {
		return nil, invalid("provenance: builder.id is absent")
	}
	if p.BuildType == "" && predicateType != PredicateProvenanceV01 {
		return nil, invalid("provenance: buildType is absent")
	}
	for _, list := range [][]ResourceDescriptor{p.ResolvedDependencies, p.Byproducts} {
		for i, d := range list {
			if err := ValidateDigestSet(d.Digest); err != nil {
				return nil, invalid("provenance: dependency %d (%.80q): %w", i, d.URI, err)
			}
		}
	}
	if err := ValidateDigestSet(p.SourceDigest); err != nil {
		return nil, invalid("provenance: source: %w", err)
	}
	p.ExternalParameters = prune(p.ExternalParameters)
	p.InternalParameters = prune(p.InternalParameters)
	return p, nil
}

// UnknownParameters lists, sorted, the external parameters that hold something
// and are not among those known. A verifier rejects when there is any (SLSA
// 1.2, "Verifying artifacts", step 3).
func (p *Provenance) UnknownParameters(known ...string) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(p.ExternalParameters)) {
		if !slices.Contains(known, name) {
			out = append(out, name)
		}
	}
	return out
}

// prune drops the members that are null or empty, at every depth of objects; an
// object that becomes empty thereby is dropped too. false and 0 are values.
func prune(m map[string]any) map[string]any {
	var out map[string]any
	for k, v := range m {
		if o, ok := v.(map[string]any); ok {
			v = any(prune(o))
		}
		switch v := v.(type) {
		case nil:
			continue
		case string:
			if v == "" {
				continue
			}
		case []any:
			if len(v) == 0 {
				continue
			}
		case map[string]any:
			if len(v) == 0 {
				continue
			}
		}
		if out == nil {
			out = map[string]any{}
		}
		out[k] = v
	}
	return out
}

type provenanceV1 struct {
	BuildDefinition struct {
		BuildType            string               `json:"buildType"`
		ExternalParameters   map[string]any       `json:"externalParameters"`
		InternalParameters   map[string]any       `json:"internalParameters"`
		ResolvedDependencies []ResourceDescriptor `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID      string            `json:"id"`
			Version map[string]string `json:"version"`
		} `json:"builder"`
		Metadata struct {
			// The specification's text and its protobuf disagreed for a while.
			InvocationID  string `json:"invocationId"`
			InvocationID2 string `json:"invocationID"`
			StartedOn     string `json:"startedOn"`
			FinishedOn    string `json:"finishedOn"`
		} `json:"metadata"`
		Byproducts []ResourceDescriptor `json:"byproducts"`
	} `json:"runDetails"`
}

func parseProvenanceV1(b []byte) (*Provenance, error) {
	var w provenanceV1
	if err := strictjson.Unmarshal(b, &w); err != nil {
		return nil, err
	}
	def, run := w.BuildDefinition, w.RunDetails
	p := &Provenance{
		BuilderID: run.Builder.ID, BuilderVersion: run.Builder.Version, BuildType: def.BuildType,
		ExternalParameters: def.ExternalParameters, InternalParameters: def.InternalParameters,
		ResolvedDependencies: def.ResolvedDependencies, Byproducts: run.Byproducts,
	}
	if err := p.setInvocation(run.Metadata.InvocationID, run.Metadata.InvocationID2); err != nil {
		return nil, err
	}
	if err := p.setTimes(run.Metadata.StartedOn, run.Metadata.FinishedOn); err != nil {
		return nil, err
	}
	p.sourceOfV1()
	return p, nil
}

// metadataV0 is shared by v0.1 and v0.2. The specification says
// buildInvocationId; in-toto's Go types, and so most builders in Go, write
// buildInvocationID.
type metadataV0 struct {
	InvocationID  string `json:"buildInvocationId"`
	InvocationID2 string `json:"buildInvocationID"`
	StartedOn     string `json:"buildStartedOn"`
	FinishedOn    string `json:"buildFinishedOn"`
}

func (m metadataV0) into(p *Provenance) error {
	if err := p.setInvocation(m.InvocationID, m.InvocationID2); err != nil {
		return err
	}
	return p.setTimes(m.StartedOn, m.FinishedOn)
}

type provenanceV02 struct {
	Builder struct {
		ID string `json:"id"`
	} `json:"builder"`
	BuildType  string `json:"buildType"`
	Invocation struct {
		ConfigSource struct {
			URI        string             `json:"uri"`
			Digest     artifact.DigestSet `json:"digest"`
			EntryPoint string             `json:"entryPoint"`
		} `json:"configSource"`
		Parameters  any `json:"parameters"`
		Environment any `json:"environment"`
	} `json:"invocation"`
	Metadata  metadataV0           `json:"metadata"`
	Materials []ResourceDescriptor `json:"materials"`
}

func parseProvenanceV02(b []byte) (*Provenance, error) {
	var w provenanceV02
	if err := strictjson.Unmarshal(b, &w); err != nil {
		return nil, err
	}
	p := &Provenance{
		BuilderID: w.Builder.ID, BuildType: w.BuildType,
		ExternalParameters:   object("parameters", w.Invocation.Parameters),
		InternalParameters:   object("environment", w.Invocation.Environment),
		ResolvedDependencies: w.Materials,
		EntryPoint:           w.Invocation.ConfigSource.EntryPoint,
	}
	p.setSource(w.Invocation.ConfigSource.URI, w.Invocation.ConfigSource.Digest)
	return p, w.Metadata.into(p)
}

type provenanceV01 struct {
	Builder struct {
		ID string `json:"id"`
	} `json:"builder"`
	Recipe struct {
		Type              string         `json:"type"`
		DefinedInMaterial jsontext.Value `json:"definedInMaterial"`
		EntryPoint        string         `json:"entryPoint"`
		Arguments         any            `json:"arguments"`
		Environment       any            `json:"environment"`
	} `json:"recipe"`
	Metadata  metadataV0           `json:"metadata"`
	Materials []ResourceDescriptor `json:"materials"`
}

func parseProvenanceV01(b []byte) (*Provenance, error) {
	var w provenanceV01
	if err := strictjson.Unmarshal(b, &w); err != nil {
		return nil, err
	}
	p := &Provenance{
		BuilderID: w.Builder.ID, BuildType: w.Recipe.Type,
		ExternalParameters:   object("arguments", w.Recipe.Arguments),
		InternalParameters:   object("environment", w.Recipe.Environment),
		ResolvedDependencies: w.Materials,
		EntryPoint:           w.Recipe.EntryPoint,
	}
	in, given, err := materialIndex(w.Recipe.DefinedInMaterial)
	if err != nil {
		return nil, err
	}
	switch {
	case given && in >= 0 && in < len(w.Materials):
		p.setSource(w.Materials[in].URI, w.Materials[in].Digest)
	case given && in >= len(w.Materials):
		return nil, invalid("recipe.definedInMaterial is %d, but there are %d materials", in, len(w.Materials))
	case !given && len(w.Materials) == 1:
		// The field defaults to "unset"; with a single material there is no
		// choice (Google Cloud Build leaves it out so).
		p.setSource(w.Materials[0].URI, w.Materials[0].Digest)
	}
	return p, w.Metadata.into(p)
}

// materialIndex reads recipe.definedInMaterial, a number that Google Cloud
// Build writes as a string (protobuf's JSON for int64). Negative means none.
func materialIndex(raw jsontext.Value) (n int, given bool, err error) {
	switch raw.Kind() {
	case jsontext.KindInvalid, jsontext.KindNull:
		return 0, false, nil
	case jsontext.KindString:
		var s string
		if err := strictjson.Unmarshal(raw, &s); err != nil {
			return 0, false, err
		}
		if s == "" {
			return 0, false, nil
		}
		raw = jsontext.Value(s)
	}
	n, err = strconv.Atoi(string(raw))
	if err != nil {
		return 0, false, invalid("recipe.definedInMaterial is %.40q, want an integer", raw)
	}
	return n, true, nil
}

// object gives v as an object, a value of another type under its own name.
func object(name string, v any) map[string]any {
	if m, ok := v.(map[string]any); ok {
		return m
	}
	return map[string]any{name: v}
}

func (p *Provenance) setInvocation(a, b string) error {
	if a != "" && b != "" && a != b {
		return invalid("invocation id is given twice, as %.80q and as %.80q", a, b)
	}
	if p.InvocationID = a; a == "" {
		p.InvocationID = b
	}
	return nil
}

func (p *Provenance) setTimes(started, finished string) error {
	for _, t := range []struct {
		text string
		to   *time.Time
	}{{started, &p.StartedOn}, {finished, &p.FinishedOn}} {
		if t.text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, t.text)
		if err != nil {
			return invalid("time %.40q: want RFC 3339: %w", t.text, err)
		}
		*t.to = at.UTC()
	}
	return nil
}

// setSource splits a source URI. "git+https://host/repo@ref" is SPDX's form,
// ".../commit/<hex>" is how Google Cloud Build names a commit.
func (p *Provenance) setSource(uri string, digest artifact.DigestSet) {
	p.SourceURI, p.SourceRef = splitSource(uri)
	p.SourceDigest = digest
	if base, commit, ok := strings.Cut(p.SourceURI, "/commit/"); ok && len(digest) == 0 {
		if d := (artifact.DigestSet{"gitCommit": commit}); ValidateDigestSet(d) == nil {
			p.SourceURI, p.SourceDigest = base, d
		}
	}
}

func splitSource(uri string) (repository, ref string) {
	uri = strings.TrimPrefix(uri, "git+")
	// An '@' before the path belongs to the authority: ssh://git@host/repo.
	path := 0
	if i := strings.Index(uri, "://"); i >= 0 {
		path = i + 3 + max(0, strings.IndexByte(uri[i+3:], '/'))
	}
	if i := strings.IndexByte(uri[path:], '@'); i >= 0 {
		// Google Cloud Build writes "@@ref" for GitLab; no ref begins with '@'.
		return uri[:path+i], strings.TrimPrefix(uri[path+i+1:], "@")
	}
	return uri, ""
}
