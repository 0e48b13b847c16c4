package admission

import (
	"context"

	"assay/artifact"
	"assay/policy"
	"assay/verify"
)

// Pull names what a Pod may show registries: names of Secrets of its namespace, and
// its service account. It holds no secret.
type Pull struct {
	ServiceAccount string   `json:"service_account,omitempty"`
	Secrets        []string `json:"secrets,omitempty"`
}

// key tells questions apart that are asked with other credentials.
func (p Pull) key() string {
	k := p.ServiceAccount
	for _, s := range p.Secrets {
		k += "\x00" + s
	}
	return k
}

// maxPull bounds the Secrets that a Pod names.
const maxPull = 16

// pullOf reads what a pod specification names; names that Kubernetes would not take
// are left out.
func pullOf(spec map[string]any) (p Pull) {
	if name, _ := spec["serviceAccountName"].(string); ValidObjectName(name) {
		p.ServiceAccount = name
	}
	list, _ := spec["imagePullSecrets"].([]any)
	for _, e := range list[:min(len(list), maxPull)] {
		m, _ := e.(map[string]any)
		if name, _ := m["name"].(string); ValidObjectName(name) {
			p.Secrets = append(p.Secrets, name)
		}
	}
	return p
}

// ValidObjectName says whether s can name an object of Kubernetes (RFC 1123).
func ValidObjectName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for i, c := range []byte(s) {
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || i == len(s)-1 || c != '.' && c != '-') {
			return false
		}
	}
	return true
}

// External looks into images of other registries than the site's own.
type External interface {
	// Covers says whether an image is one that is looked into.
	Covers(ref artifact.Reference) bool
	// Resolve gives what a tag names.
	Resolve(ctx context.Context, ref artifact.Reference, place Place, pull Pull) (artifact.Digest, error)
	// Bring takes in the evidence that lies beside an image, by digest.
	Bring(ctx context.Context, ref artifact.Reference, place Place, pull Pull) error
	// Known says what a digest is that was brought before, be it by whomever.
	Known(ctx context.Context, d artifact.Digest) (mediaType string, parts []artifact.Digest, known bool, err error)
}

// judgeExternal judges an image of another registry. The registry is asked what a
// tag names, and for evidence before a decision is made; a digest that is decided
// about needs nobody.
func (l *Local) judgeExternal(ctx context.Context, q Question) (*Answer, error) {
	x, ref := l.o.External, q.Reference
	if ref.Digest == "" {
		d, err := x.Resolve(ctx, ref, q.Place, q.Pull)
		if err != nil {
			return nil, undecided(err)
		}
		ref.Digest = d
	}
	ref.Tag = ""
	brought := false
	mediaType, parts, known, err := x.Known(ctx, ref.Digest)
	if err == nil && !known {
		if err = x.Bring(ctx, ref, q.Place, q.Pull); err == nil {
			brought = true
			mediaType, parts, _, err = x.Known(ctx, ref.Digest)
		}
	}
	if err != nil {
		return &Answer{Digest: ref.Digest}, undecided(err)
	}
	for _, d := range append([]artifact.Digest{ref.Digest}, parts...) {
		blocked, err := l.o.Registry.Blocked(ctx, d)
		if err != nil {
			return &Answer{Digest: ref.Digest}, undecided(err)
		}
		if blocked != "" {
			return &Answer{Digest: ref.Digest, Verdict: policy.Deny, Mode: policy.Enforce, Blocked: blocked, Basis: BasisDecision}, nil
		}
	}
	t := verify.Target{Digest: ref.Digest, Kind: policy.Image, MediaType: mediaType, Registry: ref.Host, Repository: ref.Repository}
	return l.judgeTarget(ctx, t, q, func() {
		if !brought {
			// What was brought before suffices where the registry is away: what came
			// since is unknown, and what is wanted and unknown is denied.
			_ = x.Bring(ctx, ref, q.Place, q.Pull)
		}
	})
}
