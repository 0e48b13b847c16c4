package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"assay/admission"
	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/inventory/threat"
	"assay/store"
)

// threats takes in what sensors report, and knows what can be executed of images.
type threats struct {
	*threat.Store
	s    *Server
	turn chan struct{} // holds one while an image is unpacked
}

func (s *Server) openThreats() *threats {
	judged := func(ctx context.Context, tx *store.Tx, cluster, namespace string, d artifact.Digest) (string, string, error) {
		state, decision, err := admission.StateOf(ctx, tx, cluster, namespace, d)
		return string(state), decision, err
	}
	return &threats{threat.New(s.db, judged), s, make(chan struct{}, 1)}
}

// maxImageManifest bounds a manifest that is read for its layers.
const maxImageManifest = 4 << 20

// FilesOf gives what can be executed of an image that this site's registry holds;
// of an index, of all its images together.
func (t *threats) FilesOf(ctx context.Context, d artifact.Digest) (threat.Files, error) {
	if f, err := t.Kept(ctx, d); err != nil || f != nil {
		return f, err
	}
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if f, err := t.Kept(ctx, d); err != nil || f != nil {
		return f, err
	}
	f, err := t.unpack(ctx, d, 0)
	if err != nil {
		return nil, err
	}
	return f, t.Keep(ctx, d, f)
}

func (t *threats) unpack(ctx context.Context, d artifact.Digest, depth int) (threat.Files, error) {
	if depth > 1 {
		return nil, fault.Newf(fault.Invalid, "an index within an index")
	}
	in, err := t.open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	b, err := io.ReadAll(io.LimitReader(in, maxImageManifest+1))
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d, err)
	}
	if len(b) > maxImageManifest {
		return nil, fault.Newf(fault.TooLarge, "manifest %s is larger than %d bytes", d, maxImageManifest)
	}
	type descriptor struct {
		MediaType string          `json:"mediaType"`
		Digest    artifact.Digest `json:"digest"`
		Platform  json.RawMessage `json:"platform"`
	}
	var doc struct {
		Layers    []descriptor `json:"layers"`
		Manifests []descriptor `json:"manifests"`
	}
	if err := strictjson.Unmarshal(b, &doc); err != nil {
		return nil, fault.Newf(fault.Invalid, "manifest %s: %w", d, err)
	}
	if len(doc.Manifests) > 0 {
		all := threat.Files{}
		for _, m := range doc.Manifests[:min(len(doc.Manifests), maxRunningParts)] {
			if strings.Contains(string(m.Platform), `"unknown"`) {
				continue // evidence that some builders put among the images
			}
			one, err := t.unpack(ctx, m.Digest, depth+1)
			if err != nil {
				return nil, err
			}
			for p, f := range one {
				all[p] = f // of several platforms the last counts at its path; contents are all known
				all[string(m.Digest)+":"+p] = f
			}
		}
		return all, nil
	}
	if len(doc.Layers) == 0 {
		return nil, fault.Newf(fault.NotFound, "%s has no layers", d)
	}
	var layers []threat.Layer
	for _, l := range doc.Layers {
		if !strings.Contains(l.MediaType, "tar") {
			return nil, fault.Newf(fault.Invalid, "layer %s is of type %.80s, which holds no files", l.Digest, l.MediaType)
		}
		layers = append(layers, func() (io.ReadCloser, error) { return t.open(ctx, l.Digest) })
	}
	return threat.Unpack(ctx, layers)
}

// open reads a blob and checks it against its digest at its end.
func (t *threats) open(ctx context.Context, d artifact.Digest) (io.ReadCloser, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	f, err := t.s.integrity.Store().Open(ctx, d)
	if err != nil {
		return nil, err
	}
	return &checked{f, d.Hash(), d}, nil
}

type checked struct {
	io.ReadCloser
	h hash.Hash
	d artifact.Digest
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	_, _ = c.h.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := artifact.NewDigest(c.d.Algorithm(), c.h.Sum(nil)); got != c.d {
			return n, fault.Newf(fault.Tampered, "expected content with the digest %s, found %s", c.d, got)
		}
	}
	return n, err
}

// Runs says whether something in a cluster runs by this digest: the agents of a
// cluster are told of its images alone.
func (t *threats) Runs(ctx context.Context, cluster string, d artifact.Digest) (bool, error) {
	return running{t.s}.Runs(ctx, cluster, "", d)
}
