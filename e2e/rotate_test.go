//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// ownKey is a row of assay keys list -o json.
type ownKey struct {
	Name        string `json:"name"`
	Role        string `json:"role"`
	State       string `json:"state"`
	Fingerprint string `json:"fingerprint"`
}

func (s *site) ownKeys() (keys []ownKey) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(s.assay("keys", "list", "-o", "json")), &keys); err != nil {
		s.t.Fatal(err)
	}
	return keys
}

// turned says how many times each role's key was followed; -1 while one is
// pending.
func (s *site) turned() int {
	n := map[string]int{}
	for _, k := range s.ownKeys() {
		switch k.State {
		case "pending":
			return -1
		case "retiring", "retired":
			n[k.Role]++
		case "active":
			n[k.Role] += 0
		}
	}
	least := -1
	for _, c := range n {
		if least < 0 || c < least {
			least = c
		}
	}
	return least
}

// cosigner is one person with an unmodified cosign, whose TUF cache was begun
// before any key changed.
type cosigner struct {
	s    *site
	env  []string
	dir  string
	who  []string
	mu   sync.Mutex
	made []string // files that are signed; the bundle is FILE.bundle
	n    int
}

func newCosigner(s *site) *cosigner {
	s.t.Helper()
	c := &cosigner{s: s, env: s.home(alice), dir: s.t.TempDir(), who: []string{"--certificate-identity", alice, "--certificate-oidc-issuer", s.Services.OIDC}}
	s.assay("trust", "root", "--out", c.path("root.json"))
	must(s.t, c.env, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", c.path("root.json"))
	return c
}

func (c *cosigner) path(name string) string { return filepath.Join(c.dir, name) }

// sign signs a new file and gives its name, or what went wrong.
func (c *cosigner) sign() (string, error) {
	c.mu.Lock()
	c.n++
	file := c.path(fmt.Sprintf("file%d", c.n))
	c.mu.Unlock()
	if err := os.WriteFile(file, []byte(file), 0o600); err != nil {
		return "", err
	}
	token := run(c.s.t, cleanEnv("ASSAY_DATA="+c.s.data), assayBin(c.s.t), "token", "--subject", alice, "--audience", "sigstore")
	if token.code != 0 {
		return "", fmt.Errorf("token: %s", token.stderr)
	}
	r := run(c.s.t, c.env, "cosign", "sign-blob", "--yes", "--identity-token", strings.TrimSpace(token.stdout), "--bundle", file+".bundle", file)
	if r.code != 0 {
		return "", fmt.Errorf("cosign sign-blob: %s", r.stderr)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made = append(c.made, file)
	return file, nil
}

// verify verifies a file with the cache that env has.
func (c *cosigner) verify(env []string, file string) error {
	if r := run(c.s.t, env, "cosign", append(append([]string{"verify-blob"}, c.who...), "--bundle", file+".bundle", file)...); r.code != 0 {
		return fmt.Errorf("cosign verify-blob %s: %s", filepath.Base(file), r.stderr)
	}
	return nil
}

// TestRotation: every key of a running site is followed by another while an
// unmodified cosign signs and verifies with the cache that it began with, and
// another that has never heard of the site begins now. Nothing fails. Then all
// of it again, with kill -9 between the steps.
func TestRotation(t *testing.T) {
	s := &site{t: t, data: filepath.Join(shortTemp(t), "data"), env: []string{"ASSAY_KEYS_ROTATION_OVERLAP=4s"}}
	s.start("127.0.0.1:0")
	c := newCosigner(s)
	image := pushImage(t, s, c.env, "team/app", "one")
	must(t, c.env, "cosign", "sign", "--yes", "--identity-token", s.token(alice, "sigstore"), image)
	before := slices.DeleteFunc(s.ownKeys(), func(k ownKey) bool { return k.State != "active" }) // the roots of the chains go with these
	if _, err := c.sign(); err != nil {
		t.Fatal(err)
	}

	stop := make(chan struct{})
	var wg sync.WaitGroup
	signings, checks := 0, 0
	wg.Go(func() {
		for {
			file, err := c.sign()
			if err != nil {
				t.Errorf("while keys change: %v", err)
				return
			}
			signings++
			fresh := s.home(alice)
			if r := run(t, fresh, "cosign", "initialize", "--mirror", s.Services.TUF, "--root", c.path("root.json")); r.code != 0 {
				t.Errorf("a fresh cosign: %s", r.stderr)
			}
			for _, env := range [][]string{c.env, fresh} {
				for _, f := range []string{file, c.path("file1")} {
					if err := c.verify(env, f); err != nil {
						t.Errorf("while keys change: %v", err)
					}
					checks++
				}
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	s.assay("keys", "rotate", "--all")
	turn(t, s, 1)
	time.Sleep(time.Second)
	close(stop)
	wg.Wait()
	t.Logf("cosign: %d signings and %d verifications while %d keys changed", signings, checks, len(before))
	if signings < 2 {
		t.Errorf("%d signings are no load", signings)
	}
	for _, k := range before {
		if !slices.ContainsFunc(s.ownKeys(), func(n ownKey) bool { return n.Role == k.Role && n.State == "active" && n.Fingerprint != k.Fingerprint }) {
			t.Errorf("%s: no other key is active", k.Role)
		}
	}

	// Killed after the keys were asked for, and again while they take over.
	u, err := url.Parse(s.PublicURL)
	if err != nil {
		t.Fatal(err)
	}
	s.assay("keys", "rotate", "--all")
	s.kill()
	s.start(u.Host)
	time.Sleep(3800 * time.Millisecond)
	s.kill()
	s.start(u.Host)
	turn(t, s, 2)
	if _, err := c.sign(); err != nil {
		t.Fatal(err)
	}
	for _, file := range c.made {
		if err := c.verify(c.env, file); err != nil {
			t.Errorf("in the end: %v", err)
		}
	}
	must(t, c.env, "cosign", append(append([]string{"verify"}, c.who...), image)...)
	s.assay("verify", "--subject", alice, "--certificate-identity", alice, "--certificate-oidc-issuer", s.Services.OIDC, image)
	s.assay("log", "verify")
	s.stop()
}

// turn waits until every key was followed n times.
func turn(t *testing.T, s *site, n int) {
	t.Helper()
	for end := time.Now().Add(40 * time.Second); s.turned() != n; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the keys were not followed %d times:\n%s\n%s", n, s.assay("keys", "list"), s.log)
		}
	}
}
