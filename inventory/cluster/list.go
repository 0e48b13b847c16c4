package cluster

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"assay/internal/fault"
	"assay/internal/kube"
	"assay/inventory"
)

// listPage is how many Pods are asked for at once.
const listPage = "500"

// maxListed bounds the containers of one look: a cluster has some 150,000 Pods at
// most (https://kubernetes.io/docs/setup/best-practices/cluster-large/).
const maxListed = 1_000_000

// List gives what runs in a cluster now, by one list: of some namespaces, or of all
// where none is named. It only reads. unread is how many Pods could not be.
func List(ctx context.Context, c *kube.Client, namespaces ...string) (all []inventory.Workload, unread int, err error) {
	paths := []string{"/api/v1/pods"}
	if len(namespaces) > 0 {
		paths = nil
		for _, n := range namespaces {
			paths = append(paths, "/api/v1/namespaces/"+url.PathEscape(n)+"/pods")
		}
	}
	for _, path := range paths {
		q := url.Values{"limit": {listPage}}
		for {
			var page struct {
				Metadata struct {
					Continue string `json:"continue"`
				} `json:"metadata"`
				Items []json.RawMessage `json:"items"`
			}
			if err := c.Do(ctx, http.MethodGet, path, q, nil, &page); err != nil {
				return all, unread, err
			}
			for _, it := range page.Items {
				p, err := readPod(it)
				if err != nil {
					unread++
					continue
				}
				all = append(all, p.workloads()...)
			}
			if len(all) > maxListed {
				return all[:maxListed], unread, fault.Newf(fault.TooLarge, "more than %d containers run: name namespaces", maxListed)
			}
			if page.Metadata.Continue == "" {
				break
			}
			q.Set("continue", page.Metadata.Continue)
		}
	}
	return all, unread, nil
}
