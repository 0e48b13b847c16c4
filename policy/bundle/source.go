package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/oci"
	"assay/internal/strictjson"
	"assay/source"
)

// The media types of a bundle in a registry. OPA pulls a bundle by its archive's
// type; the artifact's own says to everybody what it is.
const (
	ArtifactType       = "application/vnd.assay.policy.bundle.v1"
	MediaTypeArchive   = "application/vnd.oci.image.layer.v1.tar+gzip"
	MediaTypeSignature = "application/vnd.dev.sigstore.bundle.v0.3+json"
)

// archiveTypes are those under which others store a bundle's archive.
var archiveTypes = []string{MediaTypeArchive, "application/vnd.oci.image.layer.v1.tar", "application/gzip", "application/vnd.openpolicyagent.bundle.v1+gzip", "application/vnd.openpolicyagent.layer.v1+tar"}

// Source says where a bundle comes from.
type Source struct {
	// From is a folder, an archive (.tar.gz, with its signatures beside it in
	// NAME.sigstore.json), oci://HOST/REPOSITORY[:TAG][@DIGEST], or
	// git+URL@REVISION[#FOLDER].
	From string `yaml:"from"`
	// AllowedSigners is the text of an allowed-signers file: the git commit or
	// tag must be signed by somebody in it. "": not asked.
	AllowedSigners []byte `yaml:"-"`
}

// Loaded is a bundle as it was found.
type Loaded struct {
	*Bundle
	Signatures []byte
	Origin     string // what was read, by its digest or commit where it has one
	GitSigner  string // who signed the commit or tag; "": not asked
}

// Load reads a bundle from where it lies. registry is nil where none may be
// asked.
func Load(ctx context.Context, s Source, registry *oci.Client) (*Loaded, error) {
	if rest, is := strings.CutPrefix(s.From, "oci://"); is {
		if registry == nil {
			return nil, fault.Newf(fault.Invalid, "bundle %s: no registry can be asked here", s.From)
		}
		return pull(ctx, rest, registry)
	}
	if rest, is := strings.CutPrefix(s.From, "git+"); is {
		return clone(ctx, rest, s.AllowedSigners)
	}
	if strings.Contains(s.From, "://") {
		return nil, fault.Newf(fault.Invalid, "bundle %.120s: want a folder, a .tar.gz, oci://HOST/REPOSITORY:TAG or git+URL@REVISION", s.From)
	}
	st, err := os.Stat(s.From)
	if err != nil {
		return nil, fault.Newf(fault.NotFound, "bundle: %w", err)
	}
	if st.IsDir() {
		b, sig, err := Folder(s.From)
		return &Loaded{Bundle: b, Signatures: sig, Origin: s.From}, err
	}
	if st.Size() > MaxArchive {
		return nil, fault.Newf(fault.TooLarge, "bundle %s of %d bytes: at most %d are read", s.From, st.Size(), MaxArchive)
	}
	raw, err := os.ReadFile(s.From)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	b, err := Read(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.From, err)
	}
	sig, err := os.ReadFile(SignaturesOf(s.From))
	if err != nil && !os.IsNotExist(err) {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	return &Loaded{Bundle: b, Signatures: sig, Origin: s.From}, nil
}

// SignaturesOf is where the signatures of a folder or an archive lie.
func SignaturesOf(from string) string {
	if st, err := os.Stat(from); err == nil && st.IsDir() {
		return filepath.Join(from, SignatureFile)
	}
	return from + ".sigstore.json"
}

func clone(ctx context.Context, from string, allowed []byte) (*Loaded, error) {
	from, folder, _ := strings.Cut(from, "#")
	at := strings.LastIndex(from, "@")
	if at < 0 || strings.Contains(from[at:], "/") && !strings.HasPrefix(from[at:], "@refs/") {
		return nil, fault.Newf(fault.Invalid, "bundle git+%.120s: which revision? Want git+URL@REVISION, a tag or a commit", from)
	}
	remote, revision := from[:at], from[at+1:]
	dir, err := os.MkdirTemp("", "assay-bundle-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	r, id, err := source.Fetch(ctx, dir, remote, revision)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	out := &Loaded{}
	if len(allowed) > 0 {
		if out.GitSigner, err = r.SignedBy(ctx, id, allowed); err != nil {
			return nil, err
		}
	}
	commit, err := r.CommitOf(ctx, id)
	if err != nil {
		return nil, err
	}
	files, err := r.Files(ctx, commit, folder, MaxFiles, MaxBytes)
	if err != nil {
		return nil, err
	}
	out.Signatures, out.Origin = files[SignatureFile], "git+"+remote+"@"+commit
	if folder != "" {
		out.Origin += "#" + folder
	}
	for name := range files {
		base := name[strings.LastIndex(name, "/")+1:]
		if strings.HasPrefix(name, ".") && name != ManifestFile || strings.Contains(name, "/.") || base == SignatureFile {
			delete(files, name)
		}
	}
	out.Bundle, err = FromFiles(files)
	return out, err
}

func pull(ctx context.Context, text string, registry *oci.Client) (*Loaded, error) {
	ref, err := artifact.ParseReference(text)
	if err != nil {
		return nil, err
	}
	m, docs, err := registry.Artifact(ctx, ref)
	if err != nil {
		return nil, err
	}
	out := &Loaded{Origin: "oci://" + ref.Host + "/" + ref.Repository + "@" + string(m.Digest)}
	for _, d := range docs {
		switch {
		case d.MediaType == MediaTypeSignature, d.MediaType == "application/vnd.dsse.envelope.v1+json", strings.HasSuffix(d.Title, ".sigstore.json"):
			if out.Signatures, err = Joined(out.Signatures, d.Bytes); err != nil {
				return nil, err
			}
		case isArchive(d):
			if out.Bundle != nil {
				return nil, fault.Newf(fault.Invalid, "bundle %s: two archives in one artifact; want one", out.Origin)
			}
			if out.Bundle, err = Read(d.Bytes); err != nil {
				return nil, fmt.Errorf("%s: %w", out.Origin, err)
			}
		}
	}
	if out.Bundle == nil {
		return nil, fault.Newf(fault.Invalid, "bundle %s: no layer of type %s", out.Origin, MediaTypeArchive)
	}
	return out, nil
}

func isArchive(d oci.Document) bool {
	for _, t := range archiveTypes {
		if d.MediaType == t {
			return bytes.HasPrefix(d.Bytes, []byte{0x1f, 0x8b})
		}
	}
	return false
}

// Push stores a bundle and its signatures in a registry.
func Push(ctx context.Context, ref artifact.Reference, b *Bundle, c Claim, signatures []byte, registry *oci.Client) (artifact.Digest, error) {
	archive, err := b.Archive()
	if err != nil {
		return "", err
	}
	docs := []oci.Document{{MediaType: MediaTypeArchive, Bytes: archive, Title: "bundle.tar.gz"}}
	for line := range bytes.Lines(signatures) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			docs = append(docs, oci.Document{MediaType: MediaTypeSignature, Bytes: bytes.Clone(line), Title: fmt.Sprintf("bundle.tar.gz.%d.sigstore.json", len(docs))})
		}
	}
	return registry.PushArtifact(ctx, ref, ArtifactType, docs, map[string]string{
		"org.opencontainers.image.title":   c.Name,
		"org.opencontainers.image.version": fmt.Sprint(c.Version),
	})
}

// oneLine is a JSON document on one line.
func oneLine(b []byte) ([]byte, error) {
	if err := strictjson.Check(b); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	return out.Bytes(), nil
}
