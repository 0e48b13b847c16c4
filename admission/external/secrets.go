package external

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"assay/admission"
	"assay/artifact"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/kube"
	"assay/internal/strictjson"
)

// Secrets gives what a Pod may show a registry: documents as oci.HostKeychain reads
// them, for the image's registry alone, in the order in which they are tried.
type Secrets interface {
	For(ctx context.Context, place admission.Place, pull admission.Pull, ref artifact.Reference) ([][]byte, error)
}

// Kubernetes reads Secrets and service accounts of clusters. Its user may get both.
type Kubernetes struct {
	// Client gives the client of a cluster; nil: it is not known here.
	Client func(cluster string) (*kube.Client, error)
	Clock  clock.Clock

	mu   sync.Mutex
	kept map[string]keptSecret
}

type keptSecret struct {
	auths []auth
	until time.Time
}

// auth is one entry of a docker configuration.
type auth struct {
	host, path string
	raw        json.RawMessage
}

const (
	maxPullSecrets = 16
	maxAuths       = 256
	maxKept        = 2048
	keepSecret     = 15 * time.Second // a secret that was turned counts after that
)

// For implements [Secrets]. Only what is of the Pod's own namespace is read.
func (k *Kubernetes) For(ctx context.Context, place admission.Place, pull admission.Pull, ref artifact.Reference) ([][]byte, error) {
	c, err := k.Client(place.Cluster)
	if err != nil || c == nil {
		return nil, err
	}
	names := pull.Secrets
	if len(names) == 0 && pull.ServiceAccount != "" {
		if names, err = serviceAccount(ctx, c, place.Namespace, pull.ServiceAccount); err != nil {
			return nil, err
		}
	}
	var out [][]byte
	for _, name := range names[:min(len(names), maxPullSecrets)] {
		auths, err := k.secret(ctx, c, place, name)
		if err != nil {
			return nil, err
		}
		for _, a := range matching(auths, ref) {
			doc, err := json.Marshal(map[string]map[string]json.RawMessage{"auths": {apiHost(strings.ToLower(ref.Host)): a.raw}})
			if err != nil {
				return nil, fault.Newf(fault.Invalid, "secret %s cannot be read", name) // its text is secret
			}
			out = append(out, doc)
		}
	}
	return out, nil
}

func serviceAccount(ctx context.Context, c *kube.Client, namespace, name string) ([]string, error) {
	var sa struct {
		ImagePullSecrets []struct {
			Name string `json:"name"`
		} `json:"imagePullSecrets"`
	}
	err := c.Do(ctx, "GET", "/api/v1/namespaces/"+url.PathEscape(namespace)+"/serviceaccounts/"+url.PathEscape(name), nil, nil, &sa)
	if errors.Is(err, fault.NotFound) {
		return nil, nil // the API server refuses the Pod itself
	}
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "service account %s/%s: %w", namespace, name, err)
	}
	var out []string
	for _, s := range sa.ImagePullSecrets {
		if admission.ValidObjectName(s.Name) {
			out = append(out, s.Name)
		}
	}
	return out, nil
}

// secret reads one Secret's entries; none where it is not there, as for a kubelet.
func (k *Kubernetes) secret(ctx context.Context, c *kube.Client, place admission.Place, name string) ([]auth, error) {
	key, now := place.Cluster+"\x00"+place.Namespace+"\x00"+name, k.now()
	k.mu.Lock()
	have, ok := k.kept[key]
	k.mu.Unlock()
	if ok && now.Before(have.until) {
		return have.auths, nil
	}
	var s struct {
		Type string            `json:"type"`
		Data map[string]string `json:"data"`
	}
	err := c.Do(ctx, "GET", "/api/v1/namespaces/"+url.PathEscape(place.Namespace)+"/secrets/"+url.PathEscape(name), nil, nil, &s)
	if err != nil && !errors.Is(err, fault.NotFound) {
		return nil, fault.Newf(fault.Unavailable, "secret %s/%s: %w", place.Namespace, name, err)
	}
	auths, err := readAuths(s.Type, s.Data)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "secret %s/%s is no docker configuration that can be read", place.Namespace, name) // its text is secret
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.kept == nil || len(k.kept) >= maxKept {
		k.kept = map[string]keptSecret{}
	}
	k.kept[key] = keptSecret{auths, now.Add(keepSecret)}
	return auths, nil
}

func (k *Kubernetes) now() time.Time {
	if k.Clock == nil {
		return clock.System()
	}
	return k.Clock()
}

// readAuths reads the two types of Secrets that kubelets read. Others are none:
// whoever names some other Secret as imagePullSecret learns nothing by it.
func readAuths(kind string, data map[string]string) ([]auth, error) {
	var doc struct {
		Auths map[string]json.RawMessage `json:"auths"`
	}
	var err error
	switch kind {
	case "kubernetes.io/dockerconfigjson":
		err = decode(data[".dockerconfigjson"], &doc)
	case "kubernetes.io/dockercfg":
		err = decode(data[".dockercfg"], &doc.Auths)
	default:
		return nil, nil
	}
	if err != nil || len(doc.Auths) > maxAuths {
		return nil, errors.New("unreadable")
	}
	var out []auth
	for name, raw := range doc.Auths {
		if _, rest, ok := strings.Cut(name, "://"); ok {
			name = rest
		}
		host, path, _ := strings.Cut(strings.TrimSuffix(name, "/"), "/")
		if path == "v1" || path == "v2" {
			path = ""
		}
		out = append(out, auth{strings.ToLower(apiHost(host)), path, raw})
	}
	slices.SortFunc(out, func(a, b auth) int { // the most specific first, as a kubelet does
		return cmp.Or(cmp.Compare(len(b.path), len(a.path)), cmp.Compare(a.host+a.path, b.host+b.path))
	})
	return out, nil
}

func decode(text string, into any) error {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return err
	}
	return strictjson.Unmarshal(b, into)
}

// matching are the entries for a registry: its very host, and of a path that the
// repository is below. Hosts with wildcards are for nobody: a credential is bound to
// the host that it names.
func matching(all []auth, ref artifact.Reference) (out []auth) {
	host := strings.ToLower(apiHost(ref.Host))
	for _, a := range all {
		if a.host == host && (a.path == "" || a.path == ref.Repository || strings.HasPrefix(ref.Repository, a.path+"/")) {
			out = append(out, a)
		}
	}
	return out
}
