package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	"assay/internal/kube"
	"assay/internal/strictjson"
)

// Guard is one webhook configuration, or policy, as it stands in a cluster.
type Guard struct {
	Kind        string // resource: validatingwebhookconfigurations, ...
	Name        string
	Fingerprint string // hex SHA-256 over what it does; "": it is not there
}

// guards are the resources in which webhooks and policies stand.
var guards = []string{"mutatingwebhookconfigurations", "validatingwebhookconfigurations", "validatingadmissionpolicies", "validatingadmissionpolicybindings"}

// Guards reads what guards a cluster: the objects that "assay admission manifests"
// writes, whether each is there and what it says. Those that stand in an API
// server's own files are not seen by it.
func Guards(ctx context.Context, c *kube.Client) ([]Guard, error) {
	var out []Guard
	for _, resource := range guards {
		var list struct {
			Items []map[string]json.RawMessage `json:"items"`
		}
		if err := c.Do(ctx, "GET", "/apis/admissionregistration.k8s.io/v1/"+resource, nil, nil, &list); err != nil {
			return nil, err
		}
		for _, it := range list.Items {
			var meta struct {
				Name string `json:"name"`
			}
			if err := json.Unmarshal(it["metadata"], &meta); err != nil || meta.Name != "assay" && meta.Name != "assay-digests-only" {
				continue
			}
			delete(it, "metadata") // versions and times
			delete(it, "status")
			b, err := strictjson.Canonical(it)
			if err != nil {
				return nil, err
			}
			sum := sha256.Sum256(b)
			out = append(out, Guard{resource, meta.Name, hex.EncodeToString(sum[:])})
		}
	}
	slices.SortFunc(out, func(a, b Guard) int { return strings.Compare(a.Kind+a.Name, b.Kind+b.Name) })
	return out, nil
}
