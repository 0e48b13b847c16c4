package slsa_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/semver"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/vectors"
	"assay/trust"
	"assay/trust/slsa"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// verifierCase is a row of slsa-verifier's cases.json.
type verifierCase struct {
	Test, Name, Expect, Err, Source      string
	Artifacts, Builders, SubjectDigests  []string
	Artifact, Provenance, ProvenancePath string
	PBranch, PTag, PVersionTag           string
	BuilderID, PBuilderID, OutBuilderID  string
	NoVersion                            string
	MinVersion, MaxVersion               string
	PkgName, PkgVersion                  string
	Inputs                               []string
	AttestationPath, PublicKeyID         string
	PublicKeyPath, ResourceURI           string
	VerifierID                           string
	VerifiedLevels                       []string
	ArtifactDigest                       []string
	Remote, NoDigest                     any
}

func (c *verifierCase) inputs() map[string]string {
	out := map[string]string{}
	for _, kv := range c.Inputs {
		k, v, _ := strings.Cut(kv, "=")
		out[k] = v
	}
	return out
}

// codesOf says which of our codes stand for an error class of slsa-verifier.
var codesOf = map[string][]string{
	"ErrorInvalidRef":                {slsa.CodeRef},
	"ErrorMismatchTag":               {slsa.CodeTag},
	"ErrorMismatchBranch":            {slsa.CodeBranch},
	"ErrorMismatchVersionedTag":      {slsa.CodeVersionedTag},
	"ErrorMismatchHash":              {trust.CodeArtifact},
	"ErrorUntrustedReusableWorkflow": {slsa.CodeBuilder},
	"ErrorMismatchBuilderID":         {slsa.CodeBuilder},
	"ErrorInvalidBuilderID":          {slsa.CodeBuilder},
	"ErrorNotSupported":              {slsa.CodeBuilder},
	"ErrorMismatchSource":            {slsa.CodeSource},
	"ErrorMismatchPackageName":       {slsa.CodePackage},
	"ErrorMismatchPackageVersion":    {slsa.CodePackage},
	"ErrorInvalidSignature":          {trust.CodeTLogMismatch, trust.CodeSignature},
	"ErrorNoValidSignature":          {trust.CodeSignature, slsa.CodeSignature},
	"ErrorMismatchWorkflowInputs":    {slsa.CodeInputs},
	"ErrorMismatchIntoto":            {slsa.CodeProvenance},
	"ErrorInvalidFormat":             {slsa.CodeProvenance},
	"ErrorInvalidDssePayload":        {slsa.CodeProvenance},
}

// npmKey is npm's attestation key, the keys.json target of
// Sigstore's TUF repository, key SHA256:jl3bwswu80PjjokCgh0o2w5c2U4LhQAE57gj9cz1kzA.
const npmKey = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE1Olb3zMAFFxXKHiIkQO5cJ3Yhl5i6UPp+IhuteBJbuHcA5UogKo0EWtlWwW6KSaKoTNEYL7JlCQiVnkhBktUgg=="

// undecided is why a variant of a case cannot be decided offline.
type undecided string

func (u undecided) Error() string { return string(u) }

type suite struct {
	t       *testing.T
	root    *trust.Root
	dir     string
	digests map[string]artifact.DigestSet
}

// TestSLSAVerifier runs slsa-verifier's regression cases. Each case is run with
// every builder version that has data and every way to name the builder; what
// no offline verifier can decide is listed in testdata/undecided.golden with
// the reason, and nothing else may be left out.
func TestSLSAVerifier(t *testing.T) {
	dir := vectors.Dir(t, "slsa-verifier")
	s := &suite{t: t, dir: filepath.Join(dir, "testdata"), digests: readDigests(t, filepath.Join(dir, "artifact-digests.json"))}
	var err error
	if s.root, err = trust.ParseTrustedRoot(vectors.Read(t, "sigstore-conformance", "trusted-root-public-good.json"), trust.WithName("public-good")); err != nil {
		t.Fatal(err)
	}
	var cases []verifierCase
	if err := json.Unmarshal(vectors.Read(t, "slsa-verifier", "cases.json"), &cases); err != nil {
		t.Fatal(err)
	}
	left := map[string]int{} // what, to how many variants
	decidedCases, variants := 0, 0
	for i, c := range cases {
		t.Run(fmt.Sprintf("%03d/%s", i, c.Name), func(t *testing.T) {
			s.t = t
			agreed := 0
			for _, v := range s.variants(&c) {
				err := v.run()
				if u, ok := errors.AsType[undecided](err); ok {
					folder, _, _ := strings.Cut(v.what, "/")
					folder, _, _ = strings.Cut(folder, " by ")
					left[fmt.Sprintf("%03d %s: %s: %s: %s", i, c.Test, c.Name, folder, u)]++
					continue
				}
				s.compare(&c, v.what, err)
				agreed++
			}
			if variants += agreed; agreed > 0 {
				decidedCases++
			}
		})
	}
	t.Logf("%d of %d cases decided offline in %d variants; %d rows are listed as undecided", decidedCases, len(cases), variants, len(left))
	var lines strings.Builder
	for _, what := range slices.Sorted(maps.Keys(left)) {
		fmt.Fprintf(&lines, "%s (%d variants)\n", what, left[what])
	}
	golden(t, "undecided.golden", lines.String())
	if want := 98; decidedCases < want {
		t.Errorf("%d cases decided, want at least %d", decidedCases, want)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got); run with -update if the change is right:\n%s", path, diff)
	}
}

func (s *suite) compare(c *verifierCase, what string, err error) {
	s.t.Helper()
	switch {
	case c.Expect == "ACCEPT" && err != nil:
		s.t.Errorf("%s: refused (%s), slsa-verifier accepts: %v", what, trust.Code(err), err)
	case c.Expect == "REJECT" && err == nil:
		s.t.Errorf("%s: accepted, slsa-verifier refuses with %s", what, c.Err)
	case c.Expect == "REJECT" && !slices.Contains(codesOf[c.Err], trust.Code(err)):
		s.t.Errorf("%s: refused with %q, want one of %q as slsa-verifier's %s: %v", what, trust.Code(err), codesOf[c.Err], c.Err, err)
	case err != nil && !errors.Is(err, fault.Unverified):
		s.t.Errorf("%s: kind %v, want unverified: %v", what, fault.KindOf(err), err)
	}
}

func readDigests(t *testing.T, path string) map[string]artifact.DigestSet {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var in map[string]struct{ SHA256, SHA512 string }
	if err := json.Unmarshal(b, &in); err != nil {
		t.Fatal(err)
	}
	out := map[string]artifact.DigestSet{}
	for name, d := range in {
		out[name] = artifact.DigestSet{"sha256": d.SHA256, "sha512": d.SHA512}
	}
	return out
}

// variant is one run of a case.
type variant struct {
	what string
	run  func() error
}

func (s *suite) variants(c *verifierCase) []variant {
	switch c.Test {
	case "Test_runVerifyGHAArtifactPath":
		trusted := slsa.GitHubGenerator()
		for i := range trusted {
			// slsa-verifier's cases run in its testing mode, where the delegators of
			// its own e2e repository may stand at main.
			trusted[i].AnyRef = trusted[i].Delegates
		}
		return s.files(c, []string{"gha_go", "gha_generic", "gha_delegator", "gha_maven", "gha_gradle"}, trusted)
	case "Test_runVerifyGHAContainerBased":
		return s.files(c, []string{"gha_container-based"}, slsa.GitHubGenerator())
	case "Test_runVerifyGHAArtifactImage":
		return s.images(c)
	case "Test_runVerifyGithubAttestation":
		return []variant{{c.Artifact, func() error {
			return s.bundle("bcr/"+c.Artifact+".intoto.jsonl", []string{"bcr/" + c.Artifact}, c, nil, c.BuilderID)
		}}}
	case "Test_runVerifyNpmPackage":
		return []variant{{c.Artifact, func() error { return s.npm(c) }}}
	case "Test_runVerifyVSA":
		return []variant{{c.AttestationPath, func() error { return s.vsa(c) }}}
	case "Test_runVerifyGCBArtifactImage":
		return s.cloudBuilds(c)
	}
	s.t.Fatalf("unknown test %s", c.Test)
	return nil
}

// files runs a case over builders, versions and the ways to name a builder, as
// slsa-verifier's main_regression_test.go does.
func (s *suite) files(c *verifierCase, defaults []string, trusted slsa.Builders) []variant {
	if len(c.Builders) > 0 {
		defaults = c.Builders
	}
	folders := []string{""}
	if c.NoVersion == "" {
		folders = s.versions(c, defaults)
	}
	var out []variant
	for _, folder := range folders {
		kind, version := filepath.Split(folder)
		prov := c.ProvenancePath
		if prov == "" {
			prov = s.provenance(filepath.Join(folder, c.Artifacts[0]))
		} else {
			prov = filepath.Join(folder, prov)
		}
		var arts []string
		for _, a := range c.Artifacts {
			arts = append(arts, filepath.ToSlash(filepath.Join(folder, a)))
		}
		for _, id := range builderIDs(c, strings.TrimSuffix(kind, "/"), version) {
			what := filepath.ToSlash(prov) + " by "
			if what += id; id == "" {
				what += "any"
			}
			out = append(out, variant{what, func() error { return s.bundle(prov, arts, c, trusted, id) }})
		}
	}
	return out
}

func (s *suite) versions(c *verifierCase, kinds []string) []string {
	var out []string
	for _, kind := range kinds {
		entries, err := os.ReadDir(filepath.Join(s.dir, kind))
		if err != nil {
			s.t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() && (c.MinVersion == "" || semver.Compare(c.MinVersion, e.Name()) <= 0) && (c.MaxVersion == "" || semver.Compare(c.MaxVersion, e.Name()) > 0) {
				out = append(out, filepath.Join(kind, e.Name()))
			}
		}
	}
	return out
}

func (s *suite) provenance(base string) string {
	for _, suffix := range []string{".build.slsa", ".intoto.build.slsa", ".intoto.sigstore", ".intoto.jsonl"} {
		if _, err := os.Stat(filepath.Join(s.dir, base+suffix)); err == nil {
			return base + suffix
		}
	}
	return base + ".absent"
}

func builderIDs(c *verifierCase, kind, version string) []string {
	if c.PBuilderID != "" {
		return []string{c.PBuilderID}
	}
	const gen = "https://github.com/slsa-framework/slsa-github-generator/.github/workflows/"
	id := map[string]string{
		"gha_go": gen + "builder_go_slsa3.yml", "gha_generic": gen + "generator_generic_slsa3.yml", "gha_container-based": gen + "builder_container-based_slsa3.yml",
		"gha_maven": gen + "builder_maven_slsa3.yml", "gha_gradle": gen + "builder_gradle_slsa3.yml",
		"gha_delegator": "https://github.com/slsa-framework/example-trw/.github/workflows/builder_high-perms_slsa3.yml",
	}[kind]
	if id == "" {
		return []string{gen + "generator_generic_slsa3.yml", ""}
	}
	out := []string{id}
	if kind != "gha_delegator" { // hosted elsewhere, so it has to be named
		out = append(out, "")
	}
	if version != "" && semver.Compare(version, "v1.0.0") > 0 {
		out = append(out, id+"@"+version, id+"@refs/tags/"+version)
	}
	return out
}

// bundle verifies provenance of artifacts by their digests.
func (s *suite) bundle(path string, arts []string, c *verifierCase, trusted slsa.Builders, builder string) error {
	raw, err := os.ReadFile(filepath.Join(s.dir, path))
	if errors.Is(err, os.ErrNotExist) {
		return undecided("there is no provenance of this name among the vectors")
	}
	if err != nil {
		return err
	}
	b, err := attestation.ParseBundle(bytes.TrimSpace(raw), attestation.Limits{})
	if err != nil {
		if _, err := attestation.ParseEnvelope(bytes.TrimSpace(raw), attestation.Limits{}); err == nil {
			return undecided("a bare envelope carries no log entry, so no trusted time; slsa-verifier searches Rekor online")
		}
		return err
	}
	for _, a := range arts {
		digest, ok := s.digests[a]
		if !ok {
			return undecided("the digest of " + a + " is not among the vectors")
		}
		v, err := s.root.VerifyBundle(s.t.Context(), b, trust.VerifyOptions{Artifact: digest, AnyIdentity: true})
		if err != nil {
			return err
		}
		if err := s.check(v, c, trusted, builder); err != nil {
			return err
		}
	}
	return nil
}

func (s *suite) check(v *trust.Verified, c *verifierCase, trusted slsa.Builders, builder string) error {
	r, err := trusted.Check(v, slsa.Expect{Source: c.Source, Builder: builder, Branch: c.PBranch, Tag: c.PTag, VersionedTag: c.PVersionTag, Inputs: c.inputs()})
	if err != nil {
		return err
	}
	if c.OutBuilderID != "" && !strings.HasPrefix(r.BuilderID, c.OutBuilderID) {
		s.t.Errorf("builder %s, want %s", r.BuilderID, c.OutBuilderID)
	}
	if trusted != nil && r.Level != 3 {
		s.t.Errorf("level %d of builder %s, want 3", r.Level, r.BuilderID)
	}
	return nil
}

// images verifies the attestations that cosign stored beside images.
func (s *suite) images(c *verifierCase) []variant {
	var out []variant
	all := &verifierCase{} // slsa-verifier bounds images the other way round: min < version <= max
	for _, folder := range s.versions(all, []string{"gha_generic_container"}) {
		if v := filepath.Base(folder); c.MinVersion != "" && semver.Compare(v, c.MinVersion) <= 0 || c.MaxVersion != "" && semver.Compare(v, c.MaxVersion) > 0 {
			continue
		}
		const id = "https://github.com/slsa-framework/slsa-github-generator/.github/workflows/generator_container_slsa3.yml"
		version := filepath.Base(folder)
		ids := []string{id, "", id + "@" + version, id + "@refs/tags/" + version}
		if c.PBuilderID != "" {
			ids = []string{c.PBuilderID}
		}
		for _, b := range ids {
			what := filepath.ToSlash(filepath.Join(folder, c.Artifact)) + " by "
			if what += b; b == "" {
				what += "any"
			}
			out = append(out, variant{what, func() error { return s.image(filepath.Join(folder, c.Artifact), c, b) }})
		}
	}
	return out
}

type manifest struct {
	Manifests, Layers []struct {
		Digest      artifact.Digest
		MediaType   string
		Annotations map[string]string
	}
}

func (s *suite) image(path string, c *verifierCase, builder string) error {
	digest, err := os.ReadFile(filepath.Join(s.dir, path+".digest"))
	if err != nil {
		return undecided("the image is not among the vectors")
	}
	want := artifact.DigestSet{"sha256": strings.TrimPrefix(strings.TrimSpace(string(digest)), "sha256:")}
	read := func(d artifact.Digest) []byte {
		b, err := os.ReadFile(filepath.Join(s.dir, path, "blobs", "sha256", d.Hex()))
		if err != nil {
			s.t.Fatal(err)
		}
		return b
	}
	var index, atts manifest
	b, err := os.ReadFile(filepath.Join(s.dir, path, "index.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	decode(s.t, b, &index)
	for _, m := range index.Manifests {
		if m.Annotations["kind"] == "dev.cosignproject.cosign/atts" {
			decode(s.t, read(m.Digest), &atts)
		}
	}
	err = undecided("the image has no attestation")
	for _, l := range atts.Layers {
		bundle, perr := attestation.FromCosignAttestation(read(l.Digest), l.Annotations, attestation.Limits{})
		if perr != nil {
			s.t.Fatal(perr)
		}
		v, verr := s.root.VerifyBundle(s.t.Context(), bundle, trust.VerifyOptions{Artifact: want, AnyIdentity: true})
		if verr == nil {
			verr = s.check(v, c, slsa.GitHubContainerGenerator(), builder)
		}
		if err = verr; err == nil {
			return nil
		}
	}
	return err
}

func decode(t *testing.T, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

// npm verifies a package's two attestations.
func (s *suite) npm(c *verifierCase) error {
	raw, err := os.ReadFile(filepath.Join(s.dir, "npm", "gha", c.Artifact+".json"))
	if err != nil {
		s.t.Fatal(err)
	}
	var set struct {
		Attestations []struct {
			PredicateType string
			Bundle        json.RawMessage
		}
	}
	decode(s.t, raw, &set)
	digest, ok := s.digests["npm/gha/"+c.Artifact]
	if !ok {
		return undecided("the digest of " + c.Artifact + " is not among the vectors")
	}
	der, err := base64.StdEncoding.DecodeString(npmKey)
	if err != nil {
		s.t.Fatal(err)
	}
	key, err := trust.ParsePublicKey(der)
	if err != nil {
		s.t.Fatal(err)
	}
	var prov, pub *trust.Verified
	for _, a := range set.Attestations {
		b, err := attestation.ParseBundle(a.Bundle, attestation.Limits{})
		if err != nil {
			return err
		}
		v, err := s.root.VerifyBundle(s.t.Context(), b, trust.VerifyOptions{Artifact: digest, AnyIdentity: true, Keys: []trust.Key{{Public: key}}})
		if err != nil {
			return err
		}
		if strings.HasPrefix(a.PredicateType, slsa.PredicateNPMPublish) && v.Certificate == nil {
			pub = v
		} else {
			prov = v
		}
	}
	r, err := slsa.NPM().CheckNPM(prov, pub, slsa.Expect{Source: c.Source, Builder: c.BuilderID}, slsa.Package{Name: c.PkgName, Version: c.PkgVersion})
	if err == nil && r.Level < 2 {
		s.t.Errorf("level %d, want 2 or 3", r.Level)
	}
	return err
}

func (s *suite) vsa(c *verifierCase) error {
	raw := bytes.TrimSpace(vectors.Read(s.t, "slsa-verifier", "testdata", "vsa", c.AttestationPath))
	e, err := attestation.ParseEnvelope(raw, attestation.Limits{})
	if err != nil {
		return err
	}
	key, err := trust.ParsePublicKey(vectors.Read(s.t, "slsa-verifier", "testdata", "vsa", c.PublicKeyPath))
	if err != nil {
		return err
	}
	v, err := trust.VerifyEnvelope(s.t.Context(), e, trust.VerifyOptions{
		AnyArtifact: true, Keys: []trust.Key{{Public: key, ID: c.PublicKeyID}}, Limits: attestation.Limits{OpaqueSubjects: true},
	})
	if err != nil {
		return err
	}
	want := slsa.ExpectVSA{VerifierID: c.VerifierID, ResourceURI: c.ResourceURI, Levels: c.VerifiedLevels}
	for _, d := range c.SubjectDigests {
		alg, sum, _ := strings.Cut(d, ":")
		want.Subjects = append(want.Subjects, attestation.Subject{Digest: artifact.DigestSet{alg: sum}})
	}
	_, err = slsa.CheckVSA(v, want)
	return err
}

// cloudBuilds runs a case over the versions of Google's builder.
func (s *suite) cloudBuilds(c *verifierCase) []variant {
	if c.NoDigest != nil {
		return []variant{{c.Artifact, func() error {
			return undecided("the case names an image by tag alone, which only a registry can resolve")
		}}}
	}
	var out []variant
	for _, folder := range s.versions(c, []string{"gcb_container"}) {
		version := filepath.Base(folder)
		const id = "https://cloudbuild.googleapis.com/GoogleHostedWorker"
		digest := ""
		for _, kv := range c.ArtifactDigest {
			if v, sum, _ := strings.Cut(kv, "="); v == version {
				digest = sum
			}
		}
		if digest == "" {
			b, err := os.ReadFile(filepath.Join(s.dir, folder, c.Artifact+".digest"))
			if err != nil {
				s.t.Fatal(err)
			}
			digest = strings.TrimPrefix(strings.TrimSpace(string(b)), "sha256:")
		}
		for _, builder := range []string{id + "@" + version, id} {
			out = append(out, variant{filepath.ToSlash(filepath.Join(folder, c.Provenance)) + " by " + builder, func() error {
				doc, err := os.ReadFile(filepath.Join(s.dir, folder, c.Provenance))
				if err != nil {
					s.t.Fatal(err)
				}
				r, err := slsa.CloudBuild().CheckCloudBuild(doc, cloudKeys(s.t), artifact.Digest("sha256:"+digest),
					slsa.Expect{Source: c.Source, Builder: builder, Tag: c.PTag, VersionedTag: c.PVersionTag})
				if err == nil && (r.Level != 3 || !strings.HasPrefix(r.BuilderID, builder)) {
					s.t.Errorf("result %+v, want level 3 of %s", r, builder)
				}
				return err
			}})
		}
	}
	return out
}

// cloudKeys reads testdata/cloudbuild.
func cloudKeys(t *testing.T) slsa.CloudBuildKeys {
	t.Helper()
	files, err := filepath.Glob("testdata/cloudbuild/*.key")
	if err != nil || len(files) == 0 {
		t.Fatal("no keys", err)
	}
	keys := slsa.CloudBuildKeys{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		pub, err := trust.ParsePublicKey(b)
		if err != nil {
			t.Fatal(err)
		}
		region, key := strings.TrimSuffix(filepath.Base(f), ".key"), "builtByGCB"
		if name, ok := strings.CutPrefix(region, "global-pae-"); ok {
			region, key = "global", strings.TrimSuffix(name, "_1")
		}
		keys["projects/verified-builder/locations/"+region+"/keyRings/attestor/cryptoKeys/"+key+"/cryptoKeyVersions/1"] = pub
	}
	return keys
}
