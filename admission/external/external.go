// Package external looks into images of other registries than the site's own, for
// admission: what a tag names there, and the evidence that lies beside the image.
// The evidence is taken in like any other, and verified; decisions are made by it
// and stand while the registry is away.
//
// Credentials are those of the Pod: of its imagePullSecrets, else of its service
// account. Each goes to the registry that it is for and to nobody else, whatever a
// registry asks for.
package external

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"assay/admission"
	"assay/artifact"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/internal/oci"
	"assay/store"
)

// Keeper takes evidence in: evidence.Store is one. What does not verify is its to
// note.
type Keeper interface {
	Take(ctx context.Context, e *oci.Evidence) error
}

// Options of [New]. DB, Keeper and Transport are required.
type Options struct {
	Images    []string // patterns of host and repository: "ghcr.io/org/**"
	Secrets   Secrets  // nil: anonymously
	DB        *store.DB
	Keeper    Keeper
	Transport http.RoundTripper
	Clock     clock.Clock
	Logger    *slog.Logger
}

// Registries are the registries that are looked into. It is safe for concurrent
// use.
type Registries struct {
	o      Options
	images []glob.Glob

	mu      sync.Mutex
	clients map[[32]byte]*oci.Client
	brought map[artifact.Digest]time.Time
}

// Bounds.
const (
	maxClients  = 512
	maxBrought  = 10_000
	bringAgain  = 10 * time.Second // at the earliest, what was denied is looked at anew
	bringWithin = 30 * time.Second
)

// New makes Registries; a pattern that is none is fault.Invalid.
func New(o Options) (*Registries, error) {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Registries{o: o, clients: map[[32]byte]*oci.Client{}, brought: map[artifact.Digest]time.Time{}}
	for _, p := range o.Images {
		host, _, ok := strings.Cut(p, "/")
		if !ok || strings.Contains(host, "**") {
			return nil, fault.Newf(fault.Invalid, "%.100q: want HOST/REPOSITORY, such as ghcr.io/org/**", p)
		}
		g, err := glob.Parse(p)
		if err != nil {
			return nil, err
		}
		r.images = append(r.images, g)
	}
	return r, nil
}

// Covers implements [admission.External].
func (r *Registries) Covers(ref artifact.Reference) bool {
	for _, g := range r.images {
		if g.Match(strings.ToLower(ref.Host) + "/" + ref.Repository) {
			return true
		}
	}
	return false
}

// Resolve implements [admission.External].
func (r *Registries) Resolve(ctx context.Context, ref artifact.Reference, place admission.Place, pull admission.Pull) (d artifact.Digest, err error) {
	err = r.each(ctx, ref, place, pull, func(c *oci.Client) error {
		if d, err = c.Head(ctx, ref); err != nil || d != "" {
			return err
		}
		m, err := c.Manifest(ctx, ref) // it does not say; the bytes do
		if err == nil {
			d = m.Digest
		}
		return err
	})
	return d, err
}

// Bring implements [admission.External].
func (r *Registries) Bring(ctx context.Context, ref artifact.Reference, place admission.Place, pull admission.Pull) error {
	now := r.o.Clock()
	r.mu.Lock()
	last, have := r.brought[ref.Digest]
	r.mu.Unlock()
	if have && now.Sub(last) < bringAgain && !now.Before(last) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, bringWithin)
	defer cancel()
	err := r.each(ctx, ref, place, pull, func(c *oci.Client) error { return r.bring(ctx, c, ref) })
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.brought) >= maxBrought {
		clear(r.brought)
	}
	r.brought[ref.Digest] = now
	return nil
}

func (r *Registries) bring(ctx context.Context, c *oci.Client, ref artifact.Reference) error {
	m, err := c.Manifest(ctx, ref) // and it has the digest
	if err != nil {
		return err
	}
	parts, err := m.Parts()
	if err != nil {
		return err
	}
	items, _, err := c.Evidence(ctx, ref)
	if err != nil {
		return err
	}
	for i := range items {
		if items[i].Err != nil {
			r.o.Logger.WarnContext(ctx, "evidence of another registry could not be read", "registry", ref.Host, "digest", string(ref.Digest), "error", items[i].Err)
			continue
		}
		switch err := r.o.Keeper.Take(ctx, &items[i]); fault.KindOf(err) {
		case nil, fault.Unverified, fault.Invalid, fault.TooLarge: // it was noted; anybody may push there
		default:
			return err
		}
	}
	var children []artifact.Digest
	for _, d := range parts.Manifests {
		children = append(children, d.Digest)
	}
	return keep(ctx, r.o.DB, m.Digest, m.MediaType, children)
}

// Known implements [admission.External].
func (r *Registries) Known(ctx context.Context, d artifact.Digest) (mediaType string, parts []artifact.Digest, known bool, err error) {
	return load(ctx, r.o.DB, d)
}

// each tries what the Pod has for the registry, as a kubelet does: each credential
// in its order, and without any where there is none.
func (r *Registries) each(ctx context.Context, ref artifact.Reference, place admission.Place, pull admission.Pull, do func(*oci.Client) error) error {
	var all [][]byte
	if r.o.Secrets != nil && (len(pull.Secrets) > 0 || pull.ServiceAccount != "") {
		var err error
		if all, err = r.o.Secrets.For(ctx, place, pull, ref); err != nil {
			return fault.Newf(fault.Undecided, "credentials for %s: %w", ref.Host, err)
		}
	}
	if len(all) == 0 {
		all = [][]byte{nil}
	}
	var errs []error
	for _, secret := range all {
		c, err := r.client(ref.Host, secret)
		if err == nil {
			err = do(c)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
		if !errors.Is(err, fault.Denied) && !errors.Is(err, fault.Unauthenticated) && !errors.Is(err, fault.NotFound) {
			break
		}
	}
	return errors.Join(errs...)
}

// client keeps one for each registry and credential.
func (r *Registries) client(host string, secret []byte) (*oci.Client, error) {
	key := sha256.Sum256([]byte(host + "\x00" + string(secret)))
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.clients[key]; c != nil {
		return c, nil
	}
	keys, err := oci.HostKeychain(apiHost(host), secret)
	if err != nil {
		return nil, err
	}
	if len(r.clients) >= maxClients {
		clear(r.clients)
	}
	c := oci.New(oci.Options{Keychain: keys, Transport: r.o.Transport, UserAgent: "assay-admission"})
	r.clients[key] = c
	return c, nil
}

// apiHost is the name of a registry under which its credentials are kept.
func apiHost(host string) string {
	if strings.EqualFold(host, "docker.io") {
		return "index.docker.io"
	}
	return host
}
