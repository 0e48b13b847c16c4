package main

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/oci"

	"github.com/google/go-containerregistry/pkg/authn"
)

// target is what a command works on: an image in a registry, a file, or a bare
// digest. Whatever it is, its digest is what counts.
type target struct {
	text   string
	digest artifact.Digest
	image  *artifact.Reference // set for an image, with the digest resolved
	file   string              // set for a file
	media  string              // the manifest's media type, for an image
}

// name is how a statement names its subject: opaque text.
func (t *target) name() string {
	if t.image != nil {
		return t.image.Host + "/" + t.image.Repository
	}
	if t.file != "" {
		return filepath.Base(t.file)
	}
	return string(t.digest)
}

// resolve reads TARGET: a digest, an existing file, else an image reference,
// whose tag is resolved once.
func (s *session) resolve(ctx context.Context, text string) (*target, error) {
	t := &target{text: text}
	if d, err := artifact.ParseDigest(text); err == nil {
		t.digest = d
		return t, nil
	}
	if st, err := os.Stat(text); err == nil {
		if !st.Mode().IsRegular() {
			return nil, usagef("%s is not a regular file", text)
		}
		f, err := os.Open(text)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err)
		}
		defer f.Close()
		d, _, err := artifact.SHA256Reader(&contextReader{ctx, f})
		if err != nil {
			return nil, err
		}
		t.digest, t.file = d, text
		return t, nil
	}
	ref, err := artifact.ParseReference(text)
	if err != nil && s.status != nil && s.status.Services.Registry != "" { // as the server's own answers name what it holds
		ref, err = artifact.ParseReference(s.status.Services.Registry + "/" + text)
	}
	if err != nil {
		return nil, usagef("%q is no file, no digest and no image reference (HOST/REPOSITORY[:TAG][@DIGEST])", clean(text))
	}
	if ref.Tag == "" && ref.Digest == "" {
		ref.Tag = "latest"
	}
	m, err := s.registry().Manifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	ref.Digest = m.Digest
	t.digest, t.image, t.media = m.Digest, &ref, m.MediaType
	return t, nil
}

// contextReader ends a long read when the command is interrupted.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}

// registry is a client of registries: with tokens of this session for the
// session's own server, with the user's docker credentials for all others.
func (s *session) registry() *oci.Client {
	return oci.New(oci.Options{Keychain: keychain{s}, Transport: s.http.Transport, UserAgent: "assay/" + version()})
}

type keychain struct{ s *session }

func (k keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if st := k.s.status; st != nil && r.RegistryStr() == st.Services.Registry {
		token, err := k.s.tokenFor(context.Background(), "assay-registry")
		if err != nil {
			return nil, err
		}
		if token != "" {
			return authn.FromConfig(authn.AuthConfig{Username: "assay", Password: token}), nil
		}
	}
	return authn.DefaultKeychain.Resolve(r)
}
