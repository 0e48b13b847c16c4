package gateway

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"assay/artifact"
	"assay/config"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/registry"
)

// Bounds on notices.
const (
	maxNotice  = 256 << 10 // bytes
	maxPlaces  = 100       // tags in one
	maxNoticed = 1024      // tags that wait to be looked up
	minSecret  = 16        // bytes
)

// place is a tag here, and how often it was looked up in vain.
type place struct {
	repository, tag string
	tries           int
}

// lookAgain is how long after a look in vain there is another, doubled each
// time: a distribution registry tells of a tag before it has set it.
const (
	lookAgain = time.Second
	maxTries  = 4
)

// pushed is a tag at an upstream, as a notice says.
type pushed struct{ repository, tag string }

// Notices takes POST requests at prefix and a provider's name: what an upstream
// tells of its pushes. A notice proves by the secret that somebody knows it, and
// says nothing but that a tag should be looked up: neither its digest nor who it
// says has pushed is believed. Sent twice it costs another look.
func (g *Gateway) Notices(prefix string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := g.take(r, strings.TrimPrefix(r.URL.Path, prefix))
		switch kind := fault.KindOf(err); {
		case err == nil:
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(http.StatusAccepted)
			if n == 0 {
				_, _ = io.WriteString(w, "nothing here stands for that\n")
			}
		case kind == fault.TooMany:
			w.Header().Set("Retry-After", "30")
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		default:
			http.Error(w, err.Error(), fault.HTTPStatus(err))
		}
	})
}

func (g *Gateway) take(r *http.Request, provider string) (int, error) {
	parse, ok := parsers[provider]
	if !ok || r.Method != http.MethodPost {
		return 0, fault.Newf(fault.NotFound, "want POST /hooks/registry/harbor, ecr, ghcr or distribution")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxNotice+1))
	if err != nil {
		return 0, fault.Newf(fault.Invalid, "the notice ended early")
	}
	if len(body) > maxNotice {
		return 0, fault.Newf(fault.TooLarge, "a notice of more than %d bytes", maxNotice)
	}
	rules := g.state.Load().repositories
	var from []config.UpstreamSpec
	for _, u := range rules.Upstreams() {
		if u.Notices.Provider != provider {
			continue
		}
		secret, err := g.o.Secret(u.Notices.Secret)
		if err != nil || len(secret) < minSecret {
			g.o.Logger.ErrorContext(r.Context(), "notices are refused: the secret cannot be read, or is shorter than 16 bytes", "upstream", u.Host(), "error", err)
			continue
		}
		if proves(provider, r.Header, body, secret) {
			from = append(from, u)
		}
	}
	if len(from) == 0 {
		return 0, fault.Newf(fault.Unauthenticated, "no upstream with notices of %s has this secret", provider)
	}
	list, err := parse(r.Header, body)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, p := range list {
		for _, u := range from {
			for _, local := range rules.Locals(u, p.repository) {
				if !registry.ValidName(local) || !registry.ValidTag(p.tag) {
					continue
				}
				if !g.notice(place{local, p.tag, 0}) {
					return n, fault.Newf(fault.TooMany, "%d tags wait to be looked up; send it again", maxNoticed)
				}
				n++
			}
		}
	}
	return n, nil
}

// proves says whether whoever sent a notice knows the secret: by an HMAC of the
// body where the provider makes one, else by the header that it was told to send.
func proves(provider string, h http.Header, body, secret []byte) bool {
	if provider == "ghcr" {
		given, ok := strings.CutPrefix(h.Get("X-Hub-Signature-256"), "sha256=")
		mac, err := hex.DecodeString(given)
		sum := hmac.New(sha256.New, secret)
		sum.Write(body)
		return ok && err == nil && hmac.Equal(mac, sum.Sum(nil))
	}
	given := h.Get("Authorization")
	if provider == "ecr" && given == "" {
		given = h.Get("X-Api-Key") // as API destinations of EventBridge send it
	}
	given = strings.TrimPrefix(given, "Bearer ")
	return subtle.ConstantTimeCompare([]byte(given), secret) == 1
}

func (g *Gateway) notice(p place) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.queued[p] {
		return true
	}
	select {
	case g.noticed <- p:
		g.queued[p] = true
		return true
	default:
		return false
	}
}

// heed looks up what a notice named.
func (g *Gateway) heed(ctx context.Context, in registry.Intake, p place) {
	g.mu.Lock()
	delete(g.queued, p)
	g.mu.Unlock()
	look := g.Lookup
	if d, ok := aboutDigest(p.tag); ok {
		look = func(ctx context.Context, in registry.Intake, repository, _ string) error {
			return g.about(ctx, in, repository, d)
		}
	}
	err := look(ctx, in, p.repository, p.tag)
	if errors.Is(err, fault.NotFound) && p.tries < maxTries {
		p.tries++
		time.AfterFunc(lookAgain<<(p.tries-1), func() { g.notice(p) })
	} else if err != nil && !errors.Is(err, fault.NotFound) && ctx.Err() == nil {
		g.o.Logger.WarnContext(ctx, "what a notice named could not be looked up", "repository", p.repository, "tag", p.tag, "error", err)
	}
}

// aboutDigest reads what a tag is about that carries evidence: sha256-HEX, or with
// .sig, .att or .sbom. A notice of such a tag says that an image was signed.
func aboutDigest(tag string) (artifact.Digest, bool) {
	for _, suffix := range []string{".sig", ".att", ".sbom"} {
		tag = strings.TrimSuffix(tag, suffix)
	}
	hex, ok := strings.CutPrefix(tag, artifact.SHA256+"-")
	if !ok {
		return "", false
	}
	d, err := artifact.ParseDigest(artifact.SHA256 + ":" + hex)
	return d, err == nil
}

// about asks what an upstream holds about a manifest that is here; of one that is
// not, its evidence comes when it does.
func (g *Gateway) about(ctx context.Context, in registry.Intake, repository string, d artifact.Digest) error {
	here, err := in.Has(ctx, repository, d)
	if err != nil || !here {
		return err
	}
	return g.ask(ctx, in, repository, "", d, d, bringTimeout, false)
}

// parsers read the notices of each provider: pushes of tags, and nothing else.
var parsers = map[string]func(http.Header, []byte) ([]pushed, error){
	"harbor": parseHarbor, "ecr": parseECR, "ghcr": parseGHCR, "distribution": parseDistribution,
}

func read(body []byte, into any) error {
	if err := strictjson.Unmarshal(body, into, strictjson.WithMaxBytes(maxNotice+1)); err != nil {
		return fault.Newf(fault.Invalid, "the notice: %w", err)
	}
	return nil
}

func bounded(list []pushed) ([]pushed, error) {
	if len(list) > maxPlaces {
		return nil, fault.Newf(fault.TooLarge, "a notice of more than %d tags", maxPlaces)
	}
	return list, nil
}

// parseHarbor reads Harbor's default payload (Harbor documentation, "Configure
// Webhook Notifications").
func parseHarbor(_ http.Header, body []byte) (list []pushed, err error) {
	var n struct {
		Type string `json:"type"`
		Data struct {
			Resources []struct {
				Tag string `json:"tag"`
			} `json:"resources"`
			Repository struct {
				FullName string `json:"repo_full_name"`
			} `json:"repository"`
		} `json:"event_data"`
	}
	if err := read(body, &n); err != nil || n.Type != "PUSH_ARTIFACT" {
		return nil, err
	}
	for _, r := range n.Data.Resources {
		list = append(list, pushed{n.Data.Repository.FullName, r.Tag})
	}
	return bounded(list)
}

// parseECR reads EventBridge's "ECR Image Action" (Amazon ECR User Guide, "Amazon
// ECR events and EventBridge").
func parseECR(_ http.Header, body []byte) ([]pushed, error) {
	var n struct {
		Source string `json:"source"`
		Type   string `json:"detail-type"`
		Detail struct {
			Result     string `json:"result"`
			Action     string `json:"action-type"`
			Repository string `json:"repository-name"`
			Tag        string `json:"image-tag"`
		} `json:"detail"`
	}
	if err := read(body, &n); err != nil {
		return nil, err
	}
	if n.Source != "aws.ecr" || n.Type != "ECR Image Action" || n.Detail.Action != "PUSH" || n.Detail.Result != "SUCCESS" || n.Detail.Tag == "" {
		return nil, nil
	}
	return []pushed{{n.Detail.Repository, n.Detail.Tag}}, nil
}

// parseGHCR reads GitHub's package and registry_package events (GitHub Docs,
// "Webhook events and payloads").
func parseGHCR(h http.Header, body []byte) ([]pushed, error) {
	type pkg struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		Version   struct {
			URL       string `json:"package_url"` // ghcr.io/OWNER/NAME:TAG
			Container struct {
				Tag struct {
					Name string `json:"name"`
				} `json:"tag"`
			} `json:"container_metadata"`
		} `json:"package_version"`
	}
	var n struct {
		Action   string `json:"action"`
		Package  *pkg   `json:"package"`
		Registry *pkg   `json:"registry_package"`
	}
	if kind := h.Get("X-Github-Event"); kind != "package" && kind != "registry_package" {
		return nil, nil // ping
	}
	if err := read(body, &n); err != nil {
		return nil, err
	}
	p := n.Package
	if n.Registry != nil {
		p = n.Registry
	}
	if p == nil || n.Action != "published" && n.Action != "updated" || p.Version.Container.Tag.Name == "" {
		return nil, nil // what has no tag, too: see aboutDigest
	}
	// The reference to pull says it best: namespace holds more than the owner in
	// some payloads.
	if _, rest, ok := strings.Cut(strings.TrimSuffix(p.Version.URL, ":"+p.Version.Container.Tag.Name), "/"); ok && !strings.Contains(rest, ":") {
		return []pushed{{strings.ToLower(rest), p.Version.Container.Tag.Name}}, nil
	}
	return []pushed{{strings.ToLower(p.Namespace + "/" + p.Name), p.Version.Container.Tag.Name}}, nil
}

// parseDistribution reads the envelope of the distribution registry (its
// documentation, "Work with notifications").
func parseDistribution(_ http.Header, body []byte) (list []pushed, err error) {
	var n struct {
		Events []struct {
			Action string `json:"action"`
			Target struct {
				Repository string `json:"repository"`
				Tag        string `json:"tag"`
			} `json:"target"`
		} `json:"events"`
	}
	if err := read(body, &n); err != nil {
		return nil, err
	}
	for _, e := range n.Events {
		if e.Action == "push" && e.Target.Tag != "" {
			list = append(list, pushed{e.Target.Repository, e.Target.Tag})
		}
	}
	return bounded(list)
}
