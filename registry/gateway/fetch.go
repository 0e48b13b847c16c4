package gateway

import (
	"context"
	"io"
	"net/url"
	"strings"

	"assay/artifact"
	"assay/config"
	"assay/internal/fault"
	"assay/registry/integrity"
)

// Fetch implements integrity.Source: the upstream of a gateway's repository has
// what is damaged here, if anybody has.
func (g *Gateway) Fetch(ctx context.Context, repository string, d artifact.Digest, manifest bool, size int64) (string, io.ReadCloser, error) {
	if _, ok := g.Of(repository); !ok {
		return "", nil, nil
	}
	src, err := g.source(repository)
	if err != nil {
		return "the upstream of " + repository, nil, err
	}
	return src.fetch(ctx, d, manifest, size)
}

func (s *source) fetch(ctx context.Context, d artifact.Digest, manifest bool, size int64) (string, io.ReadCloser, error) {
	from := s.at.Host + "/" + s.at.Repository
	body, err := s.client.Content(ctx, s.at, d, manifest, size)
	return from, body, err
}

// Replicas are registries that hold this site's repositories under the same
// names, and are read to repair what is damaged here.
type Replicas struct {
	list []config.Replica
	st   *state
	read func(place string) ([]byte, error)
}

// NewReplicas makes the source of a site's replicas. secret reads credentials;
// nil: config.Secret.
func NewReplicas(list []config.Replica, secret func(place string) ([]byte, error)) *Replicas {
	if secret == nil {
		secret = config.Secret
	}
	return &Replicas{list: list, st: &state{}, read: secret}
}

// Sources are the replicas, each as a source of its own.
func (r *Replicas) Sources() []integrity.Source {
	out := make([]integrity.Source, 0, len(r.list))
	for i := range r.list {
		out = append(out, replica{r, i})
	}
	return out
}

type replica struct {
	*Replicas
	n int
}

// Fetch implements integrity.Source.
func (r replica) Fetch(ctx context.Context, repository string, d artifact.Digest, manifest bool, size int64) (string, io.ReadCloser, error) {
	spec := r.list[r.n]
	u, err := url.Parse(spec.URL)
	if err != nil {
		return "replica", nil, fault.Wrap(fault.Invalid, err)
	}
	at := artifact.Reference{Host: strings.ToLower(u.Host), Repository: strings.Trim(strings.Trim(u.Path, "/")+"/"+repository, "/")}
	c, err := r.st.client(config.UpstreamSpec{URL: spec.URL, Credentials: spec.Credentials, CABundle: spec.CABundle, AllowPrivate: spec.AllowPrivate}, r.read)
	if err != nil {
		return at.Host + "/" + at.Repository, nil, err
	}
	return (&source{repository: repository, at: at, client: c}).fetch(ctx, d, manifest, size)
}

var (
	_ integrity.Source = (*Gateway)(nil)
	_ integrity.Source = replica{}
)
