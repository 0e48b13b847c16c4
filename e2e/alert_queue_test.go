//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/artifact"
)

// pager takes notices as a receiver does that knows keys: a notice with a key that
// it had is the same notice. While it hangs, it takes some of them and answers none.
type pager struct {
	mu      sync.Mutex
	hangs   bool
	arrived int
	bodies  map[string]string // by key
	groups  map[string]int    // notices of the occasion "opened", by group
	changed []string          // keys that came with another body
}

func (p *pager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	var notice struct {
		ID, Occasion string
		Group        string
	}
	_ = json.Unmarshal(b, &notice)
	key := r.Header.Get("Idempotency-Key")
	p.mu.Lock()
	p.arrived++
	hangs, odd := p.hangs, p.arrived%2 == 1
	if !hangs || odd { // half of those that get no answer were read nevertheless
		if had, ok := p.bodies[key]; !ok {
			p.bodies[key] = string(b)
			p.groups[notice.Group]++
		} else if had != string(b) {
			p.changed = append(p.changed, key)
		}
	}
	p.mu.Unlock()
	if hangs {
		<-r.Context().Done() // until the server is killed
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// Notices are in the queue before anybody is told, and the server is killed while
// its receiver has them and does not answer: after the restart each alert's notice
// arrives, and with the key that it had, so that nobody is told twice.
func TestThreat_Alerts_KilledWhileItTells(t *testing.T) {
	p := &pager{hangs: true, bodies: map[string]string{}, groups: map[string]int{}}
	receiver := httptest.NewServer(p)
	t.Cleanup(receiver.Close)
	s := &site{t: t, data: filepath.Join(shortTemp(t), "data")}
	address := freeAddress(t)
	s.start(address)
	doc := filepath.Join(t.TempDir(), "receiver.yaml")
	if err := os.WriteFile(doc, fmt.Appendf(nil, "apiVersion: assay/v1\nkind: Receiver\nmetadata: {name: pager}\nspec: {type: webhook, url: %q, default: true, allowPrivate: true}\n", receiver.URL+"/hook"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.assay("apply", "-f", doc)
	const releases = 6
	token := s.token(alice, "assay-registry")
	for i := range releases {
		s.damage(pushOne(t, s, token, fmt.Sprintf("team/queue-%d", i)))
	}
	s.assayRefused(1, nil, "registry", "scrub")
	wait := func(what string, until time.Duration, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(until); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			p.mu.Lock()
			done := ok()
			p.mu.Unlock()
			if done {
				return
			}
		}
		t.Fatalf("%s: not within %s; %d notices arrived, %d keys", what, until, p.arrived, len(p.bodies))
	}
	wait("the receiver has notices that it does not answer", 30*time.Second, func() bool { return p.arrived >= 2 })
	s.kill()
	p.mu.Lock()
	p.hangs = false
	p.mu.Unlock()
	s.start(address)
	var list []struct{ Rule, Group string }
	wait("a notice of every alert arrives", 90*time.Second, func() bool {
		if err := json.Unmarshal(s.openAlerts(), &list); err != nil {
			t.Fatal(err)
		}
		tampering := 0
		for _, a := range list {
			if a.Rule == "tampering" {
				tampering++
				if p.groups[a.Group] == 0 {
					return false
				}
			}
		}
		return tampering == releases
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.changed) > 0 {
		t.Errorf("under one key came two notices: %q", p.changed)
	}
	for key, body := range p.bodies {
		if key == "" {
			t.Errorf("a notice without a key: %s", body)
		}
	}
	s.stop()
}

// openAlerts lists what is open; the command ends with 1 when something is.
func (s *site) openAlerts() []byte {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.program(), "alert", "list", "-o", "json")
	cmd.Env = s.environ()
	out, err := cmd.Output()
	if code := cmd.ProcessState.ExitCode(); code != 1 && err != nil {
		s.t.Fatalf("alert list: %v\n%s", err, out)
	}
	return out
}

// pushOne pushes a small image, and gives its manifest's digest.
func pushOne(t *testing.T, s *site, token, repository string) artifact.Digest {
	t.Helper()
	base := s.PublicURL + "/v2/" + repository
	config := []byte("{}")
	c := artifact.SHA256Of(config)
	m := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[],"annotations":{"of":%q}}`, c, repository)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, status, err := do(ctx, http.MethodPost, base+"/blobs/uploads/?digest="+string(c), "application/octet-stream", token, config); err != nil || status != http.StatusCreated {
		t.Fatalf("push: %d, %v", status, err)
	}
	if _, status, err := do(ctx, http.MethodPut, base+"/manifests/v1", "application/vnd.oci.image.manifest.v1+json", token, m); err != nil || status != http.StatusCreated {
		t.Fatalf("push: %d, %v", status, err)
	}
	return artifact.SHA256Of(m)
}

// damage changes a byte of a stored blob, as a bad disk does.
func (s *site) damage(d artifact.Digest) {
	s.t.Helper()
	found := false
	if err := filepath.WalkDir(filepath.Join(s.data, "blobs"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.Contains(path, d.Hex()) {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b[len(b)/2] ^= 1
		found = true
		_ = os.Chmod(path, 0o600)
		return os.WriteFile(path, b, 0o600)
	}); err != nil || !found {
		s.t.Fatalf("no file of %s was changed: %v", d, err)
	}
}
