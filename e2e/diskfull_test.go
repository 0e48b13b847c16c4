//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"assay/artifact"
)

// TestThreat_Store_DiskFull fills the disk below a running site: every write is
// refused with 507 or 503, nothing that was acknowledged is lost, reads go on,
// and writes succeed again when there is room, without a restart.
func TestThreat_Store_DiskFull(t *testing.T) {
	dir := shortTemp(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=96m,mode=0700"); err != nil {
		t.Skipf("a file system of its own cannot be mounted here (%v): run as root", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	s := &site{t: t, data: filepath.Join(dir, "data")}
	s.start("127.0.0.1:0")
	ack := &acknowledged{entries: map[uint64][]byte{}, manifests: map[artifact.Digest][]byte{}, evidence: map[string]artifact.Digest{}, layers: map[artifact.Digest][]byte{}}
	token := s.token(alice, "assay-registry")
	write := func(d time.Duration) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		done := make(chan struct{}, 3)
		go func() { appendEntries(ctx, s, ack); done <- struct{}{} }()
		go func() { pushManifests(ctx, s, token, ack); done <- struct{}{} }()
		go func() { writeEvidence(ctx, s, ack); done <- struct{}{} }()
		for range 3 {
			<-done
		}
	}
	write(500 * time.Millisecond)
	before := len(ack.entries) + len(ack.manifests) + len(ack.evidence)
	if len(ack.entries) == 0 || len(ack.manifests) == 0 || len(ack.evidence) == 0 {
		t.Fatalf("before the disk was full: %d entries, %d manifests, %d attestations", len(ack.entries), len(ack.manifests), len(ack.evidence))
	}

	filler := filepath.Join(dir, "filler")
	fill(t, filler)
	blob := make([]byte, 8<<20)
	_, _ = rand.Read(blob)
	_, status, err := do(t.Context(), http.MethodPost, s.PublicURL+"/v2/team/crash/blobs/uploads/?digest="+string(artifact.SHA256Of(blob)), "application/octet-stream", token, blob)
	if err != nil || status != http.StatusInsufficientStorage {
		t.Errorf("a push onto a full disk: status %d, %v; want 507", status, err)
	}
	var refusals int
	for range 40 {
		n := len(ack.entries)
		write(200 * time.Millisecond)
		if len(ack.entries) == n {
			refusals++
			break
		}
	}
	if refusals == 0 {
		t.Error("the log took entries for seconds on a full disk: is it full?")
	}
	if _, status, err := do(t.Context(), http.MethodGet, s.PublicURL+"/healthz", "", "", nil); err != nil || status != http.StatusOK {
		t.Errorf("health on a full disk: %d, %v", status, err)
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	now := len(ack.entries) + len(ack.manifests) + len(ack.evidence)
	token = s.token(alice, "assay-registry")
	write(2 * time.Second)
	if after := len(ack.entries) + len(ack.manifests) + len(ack.evidence); after <= now {
		t.Errorf("no write succeeded after there was room again (%d before, %d while full, %d after)\n%s", before, now, after, s.log)
	}
	ack.check(t, s)
	s.assay("log", "verify")
	s.stop()
}

// fill writes until nothing more fits.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4096, 1} {
		block := make([]byte, size)
		for {
			if _, err := f.Write(block); err != nil {
				break
			}
		}
	}
}
