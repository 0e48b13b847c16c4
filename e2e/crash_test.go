//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"assay/artifact"
	"assay/client"

	"google.golang.org/protobuf/encoding/protojson"
)

// acknowledged is what the server has said yes to.
type acknowledged struct {
	mu        sync.Mutex
	entries   map[uint64][]byte          // log index: canonicalised body
	manifests map[artifact.Digest][]byte // manifest bytes
	evidence  map[string]artifact.Digest // att_ ID: subject
	layers    map[artifact.Digest][]byte // blobs
	pulls     map[string]bool            // user agents, each of which pulled once
}

// TestKillDuringWrites is kill -9 in the middle of log appends, pushes and
// attestation writes, again and again: nothing acknowledged is lost, the log
// never forks, and each restart is quick. ASSAY_CRASH_CYCLES sets how often.
func TestThreat_Store_KillDuringWrites(t *testing.T) {
	cycles := 20
	if n, err := strconv.Atoi(os.Getenv("ASSAY_CRASH_CYCLES")); err == nil {
		cycles = n
	}
	s := &site{t: t, data: filepath.Join(shortTemp(t), "data")}
	address := freeAddress(t)
	ack := &acknowledged{entries: map[uint64][]byte{}, manifests: map[artifact.Digest][]byte{}, evidence: map[string]artifact.Digest{}, layers: map[artifact.Digest][]byte{}, pulls: map[string]bool{}}
	monitor := filepath.Join(t.TempDir(), "monitor.json")
	var slowest time.Duration
	for i := range cycles {
		s.start(address)
		slowest = max(slowest, s.readyAfter)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		token := s.token(alice, "assay-registry")
		for range 4 {
			wg.Go(func() { appendEntries(ctx, s, ack) })
			wg.Go(func() { pushManifests(ctx, s, token, ack) })
		}
		wg.Go(func() { writeEvidence(ctx, s, ack) })
		wg.Go(func() { pullManifests(ctx, s, token, fmt.Sprintf("cycle%d", i), ack) })
		time.Sleep(time.Duration(30+mathrand.IntN(250)) * time.Millisecond)
		s.kill()
		cancel()
		wg.Wait()
		if t.Failed() {
			return
		}
		if i%10 == 9 || i == cycles-1 {
			s.start(address)
			slowest = max(slowest, s.readyAfter)
			s.assay("log", "monitor", "--state", monitor, "--once")
			ack.check(t, s)
			ack.checkPulls(t, s)
			s.kill()
			if t.Failed() {
				t.Fatalf("after %d cycles", i+1)
			}
		}
	}
	s.start(address)
	s.assay("log", "verify")
	s.stop()
	t.Logf("%d cycles: %d log entries, %d manifests, %d attestations, %d pulls acknowledged and there; slowest start %d ms",
		cycles, len(ack.entries), len(ack.manifests), len(ack.evidence), len(ack.pulls), slowest.Milliseconds())
	if len(ack.entries) == 0 || len(ack.manifests) == 0 || len(ack.evidence) == 0 || len(ack.pulls) == 0 {
		t.Fatal("one kind of write was never acknowledged: the test shows nothing")
	}
	if slowest > 2*time.Second {
		t.Errorf("the slowest start took %s, want under 2 s", slowest)
	}
}

// one HTTP client for all: connections break at each kill.
var web = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}

func appendEntries(ctx context.Context, s *site, ack *acknowledged) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, _ := x509.MarshalPKIXPublicKey(key.Public())
	for ctx.Err() == nil {
		var nonce [32]byte
		_, _ = rand.Read(nonce[:])
		sum := sha256.Sum256(nonce[:])
		sig, _ := key.Sign(rand.Reader, sum[:], crypto.SHA256)
		body, _ := json.Marshal(map[string]any{"hashedRekordRequestV002": map[string]any{
			"digest":    sum[:],
			"signature": map[string]any{"content": sig, "verifier": map[string]any{"keyDetails": "PKIX_ECDSA_P256_SHA_256", "publicKey": map[string]any{"rawBytes": der}}},
		}})
		b, status, err := do(ctx, http.MethodPost, s.Services.Rekor+"/api/v2/log/entries", "application/json", "", body)
		if err != nil || status != http.StatusCreated {
			return
		}
		var entry struct {
			LogIndex          string `json:"logIndex"`
			CanonicalizedBody []byte `json:"canonicalizedBody"`
		}
		if json.Unmarshal(b, &entry) != nil {
			return
		}
		index, _ := strconv.ParseUint(entry.LogIndex, 10, 64) // protojson leaves 0 out
		ack.mu.Lock()
		if have, twice := ack.entries[index]; twice && !bytes.Equal(have, entry.CanonicalizedBody) {
			s.t.Errorf("log index %d was given to two entries: the log forked", index)
		}
		ack.entries[index] = entry.CanonicalizedBody
		ack.mu.Unlock()
	}
}

func pushManifests(ctx context.Context, s *site, token string, ack *acknowledged) {
	base := s.PublicURL + "/v2/team/crash"
	for ctx.Err() == nil {
		layer := make([]byte, 4096)
		_, _ = rand.Read(layer)
		d := artifact.SHA256Of(layer)
		_, status, err := do(ctx, http.MethodPost, base+"/blobs/uploads/?digest="+string(d), "application/octet-stream", token, layer)
		if err != nil || status != http.StatusCreated {
			return
		}
		ack.mu.Lock()
		ack.layers[d] = layer
		ack.mu.Unlock()
		config := []byte("{}")
		cd := artifact.SHA256Of(config)
		if _, status, err := do(ctx, http.MethodPost, base+"/blobs/uploads/?digest="+string(cd), "application/octet-stream", token, config); err != nil || status != http.StatusCreated {
			return
		}
		m := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[{"mediaType":"application/octet-stream","digest":%q,"size":%d}],"artifactType":"application/vnd.example"}`, cd, d, len(layer))
		md := artifact.SHA256Of(m)
		_, status, err = do(ctx, http.MethodPut, base+"/manifests/tag-"+md.Short(), "application/vnd.oci.image.manifest.v1+json", token, m)
		if err != nil || status != http.StatusCreated {
			return
		}
		ack.mu.Lock()
		ack.manifests[md] = m
		ack.mu.Unlock()
	}
}

// pullManifests pulls what was pushed, each time as another client. A pull that was
// answered must be on record.
func pullManifests(ctx context.Context, s *site, token, cycle string, ack *acknowledged) {
	for n := 0; ctx.Err() == nil; n++ {
		var d artifact.Digest
		ack.mu.Lock()
		for d = range ack.manifests {
			break
		}
		ack.mu.Unlock()
		if d == "" {
			time.Sleep(time.Millisecond)
			continue
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.PublicURL+"/v2/team/crash/manifests/tag-"+d.Short(), nil)
		if err != nil {
			return
		}
		agent := fmt.Sprintf("crash-%s-%d", cycle, n)
		req.Header.Set("User-Agent", agent)
		req.SetBasicAuth("assay", token)
		resp, err := web.Do(req)
		if err != nil {
			return
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || artifact.SHA256Of(b) != d {
			return
		}
		ack.mu.Lock()
		ack.pulls[agent] = true
		ack.mu.Unlock()
	}
}

// checkPulls wants each pull that was answered once in the audit trail.
func (a *acknowledged) checkPulls(t *testing.T, s *site) {
	t.Helper()
	s.assay("audit", "verify")
	out := filepath.Join(t.TempDir(), "trail.jsonl")
	var times map[string]int
	// What the start found in the journal is sealed once the killed process's lease is over.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		times = map[string]int{}
		_ = os.Remove(out)
		s.assay("audit", "export", "--out", out)
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"user_agent":"(crash-[^"]*)"`).FindAllSubmatch(b, -1) {
			times[string(m[1])]++
		}
		missing := 0
		for agent := range a.pulls {
			if times[agent] == 0 {
				missing++
			}
		}
		if missing == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d pulls that were answered are not on record", missing, len(a.pulls))
		}
	}
	for agent, n := range times {
		if n != 1 {
			t.Errorf("the pull of %s is on record %d times", agent, n)
		}
	}
}

func writeEvidence(ctx context.Context, s *site, ack *acknowledged) {
	admin := client.Socket(filepath.Join(s.data, "run", "admin.sock"))
	signing := &client.Signing{Fulcio: s.Services.Fulcio, Rekor: s.Services.Rekor, TSA: s.Services.TSA, HTTP: web,
		Token: func(ctx context.Context) (string, error) {
			a, err := admin.Mint(ctx, client.TokenRequest{Subject: alice, Audience: "sigstore", TTL: 300})
			if err != nil {
				return "", err
			}
			return a.Token, nil
		}}
	for ctx.Err() == nil {
		var nonce [16]byte
		_, _ = rand.Read(nonce[:])
		subject := artifact.SHA256Of(nonce[:])
		b, err := signing.Blob(ctx, subject)
		if err != nil {
			return
		}
		doc, err := protojson.Marshal(b)
		if err != nil {
			return
		}
		got, err := admin.Ingest(ctx, doc, "")
		if err != nil || len(got) == 0 {
			return
		}
		ack.mu.Lock()
		ack.evidence[got[0].ID] = subject
		ack.mu.Unlock()
	}
}

// check asks for everything that was acknowledged.
func (a *acknowledged) check(t *testing.T, s *site) {
	t.Helper()
	ctx := t.Context()
	admin := client.Socket(filepath.Join(s.data, "run", "admin.sock"))
	for index, body := range a.entries {
		e, err := admin.LogEntry(ctx, index)
		if err != nil {
			t.Errorf("log entry %d: %v", index, err)
			return
		}
		if !bytes.Equal(e.Body, body) {
			t.Errorf("log entry %d is another one now", index)
		}
	}
	token := s.token(alice, "assay-registry")
	for d, m := range a.manifests {
		for _, ref := range []string{string(d), "tag-" + d.Short()} {
			b, status, err := do(ctx, http.MethodGet, s.PublicURL+"/v2/team/crash/manifests/"+ref, "", token, nil)
			if err != nil || status != http.StatusOK || !bytes.Equal(b, m) {
				t.Errorf("manifest %s: status %d, %v, %d bytes", ref, status, err, len(b))
				return
			}
		}
	}
	// A blob that no manifest came to name is its uploader's to see for a day.
	for d, want := range a.layers {
		b, status, err := do(ctx, http.MethodGet, s.PublicURL+"/v2/team/crash/blobs/"+string(d), "", token, nil)
		if err != nil || status != http.StatusOK || !bytes.Equal(b, want) {
			t.Errorf("blob %s: status %d, %v, %d bytes", d, status, err, len(b))
			return
		}
	}
	for id, subject := range a.evidence {
		b, err := admin.Bundle(ctx, id)
		if err != nil || "att_"+artifact.SHA256Of(b).Hex() != id {
			t.Errorf("evidence %s about %s: %v", id, subject, err)
			return
		}
	}
}

func do(ctx context.Context, method, url, contentType, token string, body []byte) ([]byte, int, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("Accept", "*/*")
	if token != "" {
		req.SetBasicAuth("assay", token)
	}
	resp, err := web.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	return b, resp.StatusCode, err
}
