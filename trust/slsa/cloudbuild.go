package slsa

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/strictjson"
	"assay/trust"
)

// CodeSignature is the code of Cloud Build provenance that no given key signed.
const CodeSignature = "slsa.signature"

const cloudBuilder = "https://cloudbuild.googleapis.com/GoogleHostedWorker"

// CloudBuild is the set for Google Cloud Build's hosted workers.
func CloudBuild() Builders { return Builders{{Name: cloudBuilder, Level: 3}} }

// CloudBuildKeys are Google Cloud Build's public keys, ECDSA, by their full
// resource name: "projects/verified-builder/locations/…/cryptoKeyVersions/1".
//
// The regional keys (…/cryptoKeys/builtByGCB/…) sign the bare payload and not
// its DSSE encoding, as Cloud Build did before 2023. The resource name says
// which of the two a key does, so that neither is taken for the other.
type CloudBuildKeys map[string]crypto.PublicKey

// describe is what `gcloud artifacts docker images describe IMAGE --format json
// --show-provenance` prints.
type describe struct {
	ImageSummary struct {
		Digest               string `json:"digest"`
		FullyQualifiedDigest string `json:"fully_qualified_digest"`
	} `json:"image_summary"`
	ProvenanceSummary struct {
		Provenance []occurrence `json:"provenance"`
	} `json:"provenance_summary"`
}

type occurrence struct {
	Build struct {
		Statement   json.RawMessage `json:"intotoStatement"`
		StatementV1 json.RawMessage `json:"inTotoSlsaProvenanceV1"`
	} `json:"build"`
	Kind        string `json:"kind"`
	ResourceURI string `json:"resourceUri"`
	Envelope    struct {
		Payload     string `json:"payload"`
		PayloadType string `json:"payloadType"`
		Signatures  []struct {
			KeyID string `json:"keyid"`
			Sig   string `json:"sig"`
		} `json:"signatures"`
	} `json:"envelope"`
}

// maxOccurrences caps the provenances of one image, and the signatures of each.
const maxOccurrences = 16

// CheckCloudBuild verifies what gcloud says about an image: the first
// provenance that one of keys signed, its builder, subject and source, and that
// the texts around it, which are not signed, do not say otherwise. There is no
// trusted time in it: keys are trusted as they stand.
func (bs Builders) CheckCloudBuild(doc []byte, keys CloudBuildKeys, image artifact.Digest, e Expect) (*Result, error) {
	var d describe
	if err := strictjson.Unmarshal(doc, &d); err != nil {
		return nil, trust.Refuse(CodeProvenance, "Cloud Build: %w", err)
	}
	if n := len(d.ProvenanceSummary.Provenance); n == 0 || n > maxOccurrences {
		return nil, trust.Refuse(CodeProvenance, "Cloud Build: %d provenances, want 1 to %d", n, maxOccurrences)
	}
	for i := range d.ProvenanceSummary.Provenance {
		o := &d.ProvenanceSummary.Provenance[i]
		payload := o.signed(keys)
		if payload == nil {
			continue
		}
		st, err := attestation.ParseStatement(payload, attestation.Limits{})
		if err != nil {
			return nil, trust.Refuse(CodeProvenance, "Cloud Build: %w", err)
		}
		prov, err := st.Provenance()
		if err != nil {
			return nil, trust.Refuse(CodeProvenance, "Cloud Build: %w", err)
		}
		c := &cloudBuild{st: st, prov: prov, o: o, d: &d}
		if err := c.check(bs, image, e); err != nil {
			return nil, err
		}
		return &Result{BuilderID: prov.BuilderID, Level: bs.cloudLevel(), Source: prov.SourceURI, Ref: prov.SourceRef, Provenance: prov}, nil
	}
	return nil, trust.Refuse(CodeSignature, "Cloud Build: no provenance is signed by one of the %d given keys", len(keys))
}

func (bs Builders) cloudLevel() int {
	if b := bs.find(func(b *Builder) bool { return b.Name == cloudBuilder }); b != nil {
		return max(b.Level, 1)
	}
	return 1
}

// signed gives the payload when one of keys signed it, else nil.
func (o *occurrence) signed(keys CloudBuildKeys) []byte {
	payload, ok := decode64(o.Envelope.Payload)
	if !ok || o.Envelope.PayloadType != attestation.PayloadType || len(o.Envelope.Signatures) > maxOccurrences {
		return nil
	}
	for _, s := range o.Envelope.Signatures {
		key, _ := keys[s.KeyID].(*ecdsa.PublicKey)
		sig, ok := decode64(s.Sig)
		if key == nil || !ok {
			continue
		}
		msg := payload
		if !strings.Contains(s.KeyID, "/cryptoKeys/builtByGCB/") {
			msg = attestation.PAE(o.Envelope.PayloadType, payload)
		}
		if h := sha256.Sum256(msg); ecdsa.VerifyASN1(key, h[:], sig) {
			return payload
		}
	}
	return nil
}

// decode64 reads standard or URL-safe base64, padded or not.
func decode64(s string) ([]byte, bool) {
	s = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(s), "=")
	b, err := base64.RawStdEncoding.DecodeString(s)
	return b, err == nil && len(b) > 0
}

// cloudBuild is one signed provenance with the texts around it.
type cloudBuild struct {
	st   *attestation.Statement
	prov *attestation.Provenance
	o    *occurrence
	d    *describe
}

func (c *cloudBuild) check(bs Builders, image artifact.Digest, e Expect) error {
	if err := c.checkBuilder(bs, e.Builder); err != nil {
		return err
	}
	if _, ok := c.st.Match(image.Set()); !ok {
		return trust.Refuse(trust.CodeArtifact, "Cloud Build: provenance is about another image than %s", image)
	}
	if err := c.checkSource(e.Source); err != nil {
		return err
	}
	if err := c.checkTexts(image); err != nil {
		return err
	}
	if e.Branch != "" {
		return trust.Refuse(CodeBranch, "Cloud Build: provenance states no branch that could be compared with %q", e.Branch)
	}
	if e.Tag == "" && e.VersionedTag == "" {
		return nil
	}
	tag := c.tag()
	if e.Tag != "" && tag != e.Tag {
		return trust.Refuse(CodeTag, "Cloud Build: built from tag %q, want %q", tag, e.Tag)
	}
	if e.VersionedTag != "" {
		return matchVersion(tag, e.VersionedTag)
	}
	return nil
}

// checkBuilder knows v0.2 and v0.3 of the hosted worker, and the one without a
// version that writes SLSA v1.
func (c *cloudBuild) checkBuilder(bs Builders, want string) error {
	name, version, _ := splitBuilder(c.prov.BuilderID)
	if name != cloudBuilder || bs.find(func(b *Builder) bool { return b.Name == name }) == nil || want != "" && !sameBuilder(name, version, want) {
		return trust.Refuse(CodeBuilder, "Cloud Build: built by %.120q, want %q", c.prov.BuilderID, want)
	}
	t, ok := c.prov.BuildType, false
	switch version {
	case "v0.2":
		ok = t == c.prov.BuilderID
	case "v0.3":
		ok = strings.HasPrefix(t, "https://cloudbuild.googleapis.com/CloudBuildYaml@") || strings.HasPrefix(t, "https://cloudbuild.googleapis.com/CloudBuildSteps@")
	case "":
		ok = t == "https://cloud.google.com/build/gcb-buildtypes/google-worker/v1" && c.st.PredicateType == attestation.PredicateProvenanceV1
	}
	if version != "" {
		kind, _ := c.prov.ExternalParameters["@type"].(string)
		ok = ok && c.st.PredicateType == attestation.PredicateProvenanceV01 && kind == "type.googleapis.com/google.devtools.cloudbuild.v1.Build"
	}
	if !ok {
		return trust.Refuse(CodeBuilder, "Cloud Build: build type %.120q is none of builder %q", t, c.prov.BuilderID)
	}
	return nil
}

// checkSource compares the first material; v0.2 appends the commit to it, and a
// source in Cloud Storage its generation.
func (c *cloudBuild) checkSource(want string) error {
	uri := ""
	if len(c.prov.ResolvedDependencies) > 0 {
		uri = c.prov.ResolvedDependencies[0].URI
	}
	if c.st.PredicateType == attestation.PredicateProvenanceV1 {
		uri = c.prov.SourceURI
	}
	uri = strings.TrimPrefix(uri, "git+")
	if strings.HasPrefix(uri, "https://") && !strings.HasPrefix(want, "https://") {
		want = "https://" + want
	}
	_, version, _ := splitBuilder(c.prov.BuilderID)
	ok := uri == want && version != "v0.2" || strings.HasPrefix(uri, want+"#") || version == "v0.2" && strings.HasPrefix(uri, want+"/commit/")
	if !ok || want == "" {
		return trust.Refuse(CodeSource, "Cloud Build: built from %.200q, want %q", uri, want)
	}
	return nil
}

// checkTexts wants what stands around the signed payload to agree with it:
// people read that.
func (c *cloudBuild) checkTexts(image artifact.Digest) error {
	at := "@" + image.String()
	switch {
	case c.o.Kind != "BUILD":
		return trust.Refuse(CodeProvenance, "Cloud Build: occurrence is of kind %.40q, want BUILD", c.o.Kind)
	case !strings.HasSuffix(c.o.ResourceURI, at), c.d.ImageSummary.Digest != image.String(), !strings.HasSuffix(c.d.ImageSummary.FullyQualifiedDigest, at):
		return trust.Refuse(trust.CodeArtifact, "Cloud Build: the summary is about another image than %s", image)
	}
	var text struct {
		Type          string                `json:"_type"`
		PredicateType string                `json:"predicateType"`
		Subject       []attestation.Subject `json:"subject"`
		V01           map[string]any        `json:"slsaProvenance"`
		V1            map[string]any        `json:"predicate"`
	}
	raw := c.o.Build.Statement
	if c.st.PredicateType == attestation.PredicateProvenanceV1 {
		raw = c.o.Build.StatementV1
	}
	var signed map[string]any
	if strictjson.Unmarshal(raw, &text) != nil || strictjson.Unmarshal(c.st.Predicate, &signed) != nil {
		return trust.Refuse(CodeProvenance, "Cloud Build: the readable statement does not parse")
	}
	shown := text.V01
	if c.st.PredicateType == attestation.PredicateProvenanceV1 {
		shown = text.V1
	}
	if text.Type != c.st.Type || text.PredicateType != c.st.PredicateType || !equal(text.Subject, c.st.Subject) || !equal(likened(shown), likened(signed)) {
		return trust.Refuse(CodeProvenance, "Cloud Build: the readable statement is not the signed one")
	}
	return nil
}

func equal(a, b any) bool {
	x, err1 := strictjson.Canonical(a)
	y, err2 := strictjson.Canonical(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

// likened drops what the two forms write differently: empty values, the
// build's ID, and a number that one of them writes as text.
func likened(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			if x = likened(x); x != nil && k != "definedInMaterial" && k != "buildInvocationId" {
				out[k] = x
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case []any:
		var out []any
		for _, x := range v {
			out = append(out, likened(x))
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case string:
		if v == "" {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	}
	return v
}

// tag is the tag that triggered the build; SLSA v1 states it twice, and must
// not contradict itself.
func (c *cloudBuild) tag() string {
	if c.st.PredicateType == attestation.PredicateProvenanceV1 {
		subs, _ := c.prov.InternalParameters["systemSubstitutions"].(map[string]any)
		tag, _ := subs["TAG_NAME"].(string)
		if tag == "" || c.prov.SourceRef != "refs/tags/"+tag {
			return ""
		}
		return tag
	}
	subs, _ := c.prov.ExternalParameters["substitutions"].(map[string]any)
	tag, _ := subs["TAG_NAME"].(string)
	return tag
}
