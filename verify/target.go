package verify

import (
	"io"
	"os"

	"assay/artifact"
	"assay/internal/fault"
	"assay/policy"
)

// Target is the artifact that is asked about.
type Target struct {
	Digest     artifact.Digest
	Digests    artifact.DigestSet // further strong digests of the same bytes, where known
	Kind       policy.Kind        // default: image with a repository, else file
	MediaType  string             // of an image
	Registry   string             // host, when it is not the own registry
	Repository string             // without the host
	Tags       []string
	Profile    string // of the own repository: dev, or none
	Name       string // as the user named it: a path, a reference; for people
	URI        string // resource URI of the summary; default from the above
	// Open gives the artifact's bytes, where at hand. Only a pure Ed25519
	// signature over a file needs them.
	Open func() (io.ReadCloser, error)
}

// FileTarget is the target of a file: its digests of all strong algorithms,
// from one reading.
func FileTarget(path string) (Target, error) {
	f, err := os.Open(path)
	if err != nil {
		return Target{}, fault.Newf(fault.Invalid, "open the artifact: %w", err)
	}
	defer f.Close()
	t := Target{Kind: policy.File, Name: path, Digests: artifact.DigestSet{}, Open: func() (io.ReadCloser, error) { return os.Open(path) }}
	var all []io.Writer
	sums := map[string]interface{ Sum([]byte) []byte }{}
	for _, alg := range []string{artifact.SHA256, artifact.SHA384, artifact.SHA512} {
		h := artifact.Digest(alg + ":").Hash()
		sums[alg] = h
		all = append(all, h)
	}
	if _, err := io.Copy(io.MultiWriter(all...), f); err != nil {
		return Target{}, fault.Newf(fault.Unavailable, "read the artifact: %w", err)
	}
	for alg, h := range sums {
		d := artifact.NewDigest(alg, h.Sum(nil))
		t.Digests[alg] = d.Hex()
	}
	t.Digest = artifact.Digest(artifact.SHA256 + ":" + t.Digests[artifact.SHA256])
	return t, nil
}

// ReferenceTarget is the target of an image that was resolved to a digest.
// own says that the reference is of the own registry.
func ReferenceTarget(ref artifact.Reference, mediaType string, own bool) Target {
	t := Target{Digest: ref.Digest, Kind: policy.Image, MediaType: mediaType, Repository: ref.Repository, Name: ref.String()}
	if !own {
		t.Registry = ref.Host
	}
	return t
}

func (t Target) validate() error {
	if err := t.Digest.Validate(); err != nil {
		return err
	}
	for alg, hex := range t.Digests {
		if err := (artifact.Digest(alg + ":" + hex)).Validate(); err != nil {
			return err
		}
	}
	if t.Kind != "" && t.Kind != policy.Image && t.Kind != policy.File {
		return fault.Newf(fault.Invalid, "target kind %.40q: want image or file", t.Kind)
	}
	return nil
}

// set is every digest that is known of the target.
func (t Target) set() artifact.DigestSet {
	out := t.Digest.Set()
	for alg, hex := range t.Digests {
		if _, have := out[alg]; !have {
			out[alg] = hex
		}
	}
	return out
}

// Subject is the target as facts name it.
func (t Target) Subject() policy.Subject {
	s := policy.Subject{Digest: t.Digest, Kind: t.Kind, MediaType: t.MediaType, Registry: t.Registry, Repository: t.Repository, Tags: append([]string(nil), t.Tags...), Profile: t.Profile}
	if s.Kind == "" {
		s.Kind = policy.File
		if t.Repository != "" {
			s.Kind = policy.Image
		}
	}
	return s
}

// uri is the resource that a summary is about.
func (t Target) uri() string {
	switch {
	case t.URI != "":
		return t.URI
	case t.Repository != "":
		return "oci://" + t.Subject().Target()
	}
	return string(t.Digest)
}

// display is the target for people.
func (t Target) display() string {
	if t.Name != "" {
		return t.Name
	}
	return t.Subject().Target()
}
