package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// openName is Assay without a gate.
const openName = "open"

// contestants are the registries: Assay without a gate, with one of each mode,
// and its peers with their programs.
var contestants = []struct{ name, gate, program string }{
	{openName, "", ""}, {"staged", "staged", ""}, {"strict", "strict", ""},
	{"olareg", "", "olareg"}, {"distribution", "", "registry"},
}

// durability says what each answers a push after. Read in the sources of the
// versions that tools/ pins.
var durability = map[string]string{
	openName:       "fsync of the blob, its folder and the database, shared by those who wait at a time",
	"olareg":       "no fsync: a push is in the page cache when it is answered, and there is no setting for more",
	"distribution": "fsync of each file and of its folder; no database",
}

// target is one registry under load.
type target struct {
	*process
	name   string
	gate   string                                    // the mode; "": none
	peer   bool                                      // it is not Assay
	base   string                                    // http://127.0.0.1:port
	bearer func(ctx context.Context) (string, error) // nil: no authentication
	rates  samples                                   // operations a second, one a round
	cpu    samples                                   // µs an operation
	peaks  samples                                   // MB that were resident at most, one a round
}

// startTarget starts one of the contestants on a fresh folder.
func (b *bench) startTarget(ctx context.Context, name string) (*target, error) {
	dir := b.folder("registry-" + name)
	i := slices.IndexFunc(contestants, func(c struct{ name, gate, program string }) bool { return c.name == name })
	t := &target{name: name, gate: contestants[i].gate, peer: contestants[i].program != ""}
	if !t.peer {
		return t, b.startAssay(ctx, t, dir)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	t.base = fmt.Sprintf("http://127.0.0.1:%d", port)
	program, args := "olareg", []string{"serve", "--addr", "127.0.0.1", "--port", fmt.Sprint(port), "--dir", dir, "-v", "error"}
	if name == "distribution" {
		config := filepath.Join(b.dir, "distribution.yml")
		if err := os.WriteFile(config, fmt.Appendf(nil, distributionConfig, dir, port), 0o600); err != nil {
			return nil, err
		}
		program, args = "registry", []string{"serve", config}
	}
	if t.process, err = start(program, args, nil, nil); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := answers(ctx, t.process, t.base+"/v2/"); err != nil {
		t.stop()
		return nil, err
	}
	return t, nil
}

// distributionConfig is its example configuration without authentication, with
// logs of errors only.
const distributionConfig = `version: 0.1
log:
  level: error
  accesslog: {disabled: true}
storage:
  cache: {blobdescriptor: inmemory}
  filesystem: {rootdirectory: %s}
  tag: {concurrencylimit: 8}
http:
  addr: 127.0.0.1:%d
  secret: only for this benchmark
`

// installed are the contestants without those peers that are not on PATH.
func installed() (names []string, missing error) {
	for _, c := range contestants {
		if c.program != "" {
			if _, err := exec.LookPath(c.program); err != nil {
				missing = errors.Join(missing, fmt.Errorf("%s is not on PATH (tools/install.sh %s): measured without it", c.program, c.name))
				continue
			}
		}
		names = append(names, c.name)
	}
	return names, missing
}

// scopedToken is what a client gets from /token for its login: as containerd
// and crane do once for all their requests to a repository.
func scopedToken(ctx context.Context, s *site, repository string) (string, error) {
	login, err := s.token(ctx, "assay-registry")
	if err != nil {
		return "", err
	}
	q := url.Values{"service": {s.Services.Registry}, "scope": {"repository:" + repository + ":pull,push"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.PublicURL+"/token?"+q.Encode(), nil)
	if err != nil {
		return "", err
	}
	req.SetBasicAuth("assay", login)
	res, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || res.StatusCode != http.StatusOK || answer.Token == "" {
		return "", fmt.Errorf("GET /token answers %d, want 200 with a token (%w)", res.StatusCode, err)
	}
	return answer.Token, nil
}
