package gate_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/artifact"
	"assay/identity"
	"assay/registry/gate"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
)

const pushers = 200

// TestConcurrentPushersToOneTag: 200 push to one tag at once. Every push that
// is acknowledged is in the history once, each move begins where the one before
// ended, the last one stands, and nothing that was acknowledged is lost.
func TestConcurrentPushersToOneTag(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		for _, repo := range []string{"open/app", "staged/app"} {
			manifests := s.fleet(t, repo)
			if repo == "staged/app" {
				continue
			}
			s.checkMoves(t, repo, manifests, pushers)
		}
		// In the staged repository no tag has moved yet. All are promoted at once.
		get(t, "before", s.as("reader"), "staged/app", "v1", http.StatusForbidden, "is staged")
		newest := s.as("owner").Do("GET", "/v2/staged/app/manifests/v1", "").Header.Get("Docker-Content-Digest")
		list, err := s.gate.History(t.Context(), "staged/app", "v1", 0, 1000, false)
		if err != nil || len(list) != 0 {
			t.Fatalf("moves before any promotion: %v %v", list, err)
		}
		var wg sync.WaitGroup
		for _, m := range s.known {
			wg.Go(func() {
				if err := s.gate.PromoteByHand(t.Context(), "staged/app", artifact.SHA256Of(m), "boss", "for the test", time.Hour); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		s.checkMoves(t, "staged/app", s.known, 0)
		if got := get(t, "after", s.as("reader"), "staged/app", "v1", http.StatusOK, "").Header.Get("Docker-Content-Digest"); got != newest {
			t.Fatalf("the tag names %s, the newest push was %s", got, newest)
		}
	}, staged)
}

// fleet has 200 identities push a manifest of their own to one tag at once.
func (s *site) fleet(t *testing.T, repo string) [][]byte {
	t.Helper()
	owner := s.as("owner")
	conf := owner.PushBlob(repo, "{}")
	manifests := make([][]byte, pushers)
	clients := make([]*registrytest.Client, pushers)
	for i := range manifests {
		manifests[i] = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"annotations":{"n":"%d"}}`, registrytest.ImageType, conf, i)
		clients[i] = owner
	}
	s.known = manifests
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range manifests {
		wg.Go(func() {
			<-begin
			r, err := clients[i].Try("PUT", "/v2/"+repo+"/manifests/v1", strings.NewReader(string(manifests[i])), "Content-Type", registrytest.ImageType)
			if err != nil || r.StatusCode != http.StatusCreated {
				t.Errorf("pusher %d: %v %v", i, err, r)
			}
		})
	}
	close(begin)
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return manifests
}

// checkMoves holds the history of v1 against itself and the tag; exactly 0
// means any number.
func (s *site) checkMoves(t *testing.T, repo string, manifests [][]byte, exactly int) {
	t.Helper()
	list, err := s.gate.History(t.Context(), repo, "v1", 0, 1000, false)
	if err != nil || len(list) == 0 || exactly > 0 && len(list) != exactly {
		t.Fatalf("%s: %d moves, want %d; %v", repo, len(list), exactly, err)
	}
	seen := map[artifact.Digest]bool{}
	before, number := artifact.Digest(""), int64(0)
	for i := len(list) - 1; i >= 0; i-- {
		h := list[i]
		if h.From != before || h.Number <= number || seen[h.To] {
			t.Fatalf("%s: move %+v after %s, number %d", repo, h, before, number)
		}
		seen[h.To], before, number = true, h.To, h.Number
	}
	if got := s.as("owner").Do("GET", "/v2/"+repo+"/manifests/v1", "").Header.Get("Docker-Content-Digest"); got != string(before) {
		t.Fatalf("%s: the tag names %s, the last move was to %s", repo, got, before)
	}
	for _, m := range manifests {
		if exactly > 0 && !seen[artifact.SHA256Of(m)] {
			t.Fatalf("%s: the move to %s is not in the history", repo, digest(m))
		}
		get(t, "what was acknowledged", s.as("owner"), repo, digest(m), http.StatusOK, "")
	}
}

const crashEnv = "ASSAY_GATE_CRASH_CHILD"

// TestCrashChild is the process that TestThreat_Store_KilledAroundPromotions
// kills.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashEnv)
	if dir == "" {
		t.Skip("runs as a child process only")
	}
	h := &hand{}
	s := start(t, storetest.OpenDSN(t, "sqlite:"+dir+"/assay.db", store.WithClock(h.clock)), h, dir+"/blobs", staged)
	s.gate.Set(gate.Rules{Repositories: specs(t, staged), Policies: policies(t, warning)})
	s.work()
	fmt.Printf("READY %s %s %s\n", s.URL, s.Token(t, "owner", identity.AudienceRegistry), s.Token(t, "reader", identity.AudienceRegistry))
	ctx, stop := contextFor(t)
	defer stop()
	_ = s.gate.Run(ctx)
}

// warning is a policy that denies what is unsigned and lets it in: each push is
// decided upon and promoted in its own transaction.
var warning = strings.Replace(signed, "spec:\n", "spec:\n  mode: warn\n", 1)

// TestThreat_Store_KilledAroundPromotions kills the registry while clients push
// to a gated repository and everything is promoted, and then holds each tag
// against what is public: a tag never names what is not active, what was
// acknowledged is there, and every move is in the history.
func TestThreat_Store_KilledAroundPromotions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cycles := 3
	if testing.Short() {
		cycles = 1
	}
	var mu sync.Mutex
	acked := map[string]string{} // digest to tag
	for range cycles {
		c := startChild(t, dir)
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					tag := fmt.Sprintf("w%d", worker)
					m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"annotations":{"n":"%d %d %d"}}`,
						registrytest.ImageType, artifact.SHA256Of([]byte("{}")), worker, i, rand.Int())
					if !c.created("POST", "/v2/staged/app/blobs/uploads/?digest="+digest([]byte("{}")), "{}", "") || !c.created("PUT", "/v2/staged/app/manifests/"+tag, m, registrytest.ImageType) {
						return
					}
					mu.Lock()
					acked[digest([]byte(m))] = tag
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(80+rand.IntN(250)) * time.Millisecond)
		c.kill(t)
		wg.Wait()
	}
	if len(acked) == 0 {
		t.Fatal("nothing was acknowledged")
	}
	c := startChild(t, dir)
	defer c.kill(t)
	for d := range acked {
		if status := c.get(t, c.owner, "/v2/staged/app/manifests/"+d); status != http.StatusOK {
			t.Fatalf("acknowledged and lost: %s: %d", d, status)
		}
	}
	for worker := range 4 {
		if status := c.get(t, c.reader, fmt.Sprintf("/v2/staged/app/manifests/w%d", worker)); status != http.StatusOK {
			t.Errorf("tag w%d is not public: %d", worker, status)
		}
	}
	c.kill(t)
	db := storetest.OpenDSN(t, "sqlite:"+dir+"/assay.db")
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		for what, q := range map[string]string{
			"tags that name what is not active": `SELECT COUNT(*) FROM registry_tag t LEFT JOIN gate_state s ON s.repository = t.repository AND s.digest = t.digest WHERE s.state IS NULL OR s.state <> 'active'`,
			"tags that are not where their history ends": `SELECT COUNT(*) FROM registry_tag t WHERE t.digest <> (SELECT h.to_digest FROM registry_tag_history h
				WHERE h.repository = t.repository AND h.tag = t.tag ORDER BY h.number DESC LIMIT 1)`,
			"moves without their record": `SELECT COUNT(*) FROM registry_tag_history h WHERE NOT EXISTS (SELECT 1 FROM event e WHERE e.id = h.event)
				AND NOT EXISTS (SELECT 1 FROM event_pending p WHERE p.id = h.event)`,
		} {
			var n int
			if err := tx.QueryRow(t.Context(), q).Scan(&n); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			if n != 0 {
				t.Errorf("%d %s", n, what)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d kills, %d pushes acknowledged, none lost", cycles, len(acked))
}

type child struct {
	cmd                *exec.Cmd
	url, owner, reader string
}

func startChild(t *testing.T, dir string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), crashEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: cmd}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if _, err := fmt.Sscanf(lines.Text(), "READY %s %s %s", &c.url, &c.owner, &c.reader); err == nil {
			return c
		}
	}
	t.Fatalf("the child ended before it was ready:\n%s", said.String())
	return nil
}

func (c *child) kill(t *testing.T) {
	t.Helper()
	if c.cmd.ProcessState != nil {
		return
	}
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

func (c *child) created(method, path, body, mediaType string) bool {
	req, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		return false
	}
	req.SetBasicAuth("x", c.owner)
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = r.Body.Close()
	return r.StatusCode == http.StatusCreated
}

func (c *child) get(t *testing.T, token, path string) int {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, c.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("x", token)
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	return r.StatusCode
}
