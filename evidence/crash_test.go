//go:build unix

package evidence_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/attestation"
	"assay/blob"
	"assay/event"
	"assay/evidence"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
	"assay/trust/trusttest"
)

// crashCycles is how often the child is killed: ASSAY_CRASH_CYCLES, or a few.
func crashCycles(t *testing.T) int {
	t.Helper()
	text := os.Getenv("ASSAY_CRASH_CYCLES")
	if text == "" {
		return 5
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("ASSAY_CRASH_CYCLES=%q, want a number from 1", text)
	}
	return n
}

const crashChild = "ASSAY_EVIDENCE_CRASH_CHILD" // folder that the child works in

// crashPool is how many bundles a folder has for its cycles.
const crashPool = 1500

// TestThreat_Store_Kill9 kills a process that ingests with kill -9, over and
// over: whatever it acknowledged is there afterwards, whole and with its event,
// and nothing is there by half.
func TestThreat_Store_Kill9(t *testing.T) {
	if dir := os.Getenv(crashChild); dir != "" {
		ingestForEver(t, dir)
		return
	}
	w := trusttest.New(t)
	var dir string
	acked := map[string]bool{}
	left, total := 0, 0
	slowest := time.Duration(0)
	for range crashCycles(t) {
		if left <= 0 {
			dir, acked = crashFolder(t, w), map[string]bool{}
			left = crashPool
		}
		before := len(acked)
		killChild(t, dir, acked)
		left -= len(acked) - before + 64 // those under way count as used
		total += len(acked) - before
		slowest = max(slowest, checkFolder(t, dir, acked))
	}
	if total == 0 {
		t.Error("nothing was ever acknowledged: the test proves nothing")
	}
	t.Logf("%d attestations acknowledged before a kill, all there; slowest opening %v", total, slowest)
	if slowest > 2*time.Second {
		t.Errorf("opening after a kill took %v, want under 2 s", slowest)
	}
}

// crashFolder holds bundles, every seventh of them large, and the root.
func crashFolder(t *testing.T, w *trusttest.World) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	bundles := distinct(t, w, crashPool)
	pad := attestation.Statement{Type: attestation.StatementV1, PredicateType: attestation.PredicateSPDX, Predicate: []byte(`{"pad":"` + strings.Repeat("x", 70_000) + `"}`)}
	for i := 0; i < len(bundles)/10; i += 7 {
		pad.Subject = []attestation.Subject{{Digest: digest(fmt.Sprint("large ", i)).Set()}}
		raw, err := pad.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		bundles[i*10] = w.Draft(t, trusttest.Request{Statement: raw, Leaf: leaf()}).JSON(t)
	}
	text, err := json.Marshal(bundles)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"bundles.json": text, "root.json": w.Root(t).Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// killChild runs a child on the folder and kills it at some moment after its
// first acknowledgement. It notes what the child acknowledged.
func killChild(t *testing.T, dir string, acked map[string]bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestThreat_Store_Kill9$", "-test.count=1")
	cmd.Env = append(os.Environ(), crashChild+"="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	kill := func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Log(err)
		}
	}
	watchdog := time.AfterFunc(30*time.Second, kill)
	defer watchdog.Stop()
	first := true
	for lines.Scan() {
		if id, ok := strings.CutPrefix(lines.Text(), "ack "); ok {
			acked[id] = true
			if first {
				first = false
				time.AfterFunc(time.Duration(rand.IntN(120))*time.Millisecond, kill)
			}
		}
	}
	if err := cmd.Wait(); err == nil || first {
		t.Fatalf("the child ended by itself (%v): %s", err, stderr.String())
	}
}

// checkFolder opens what a killed child left, and gives how long that took.
func checkFolder(t *testing.T, dir string, acked map[string]bool) time.Duration {
	t.Helper()
	start := time.Now()
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "assay.db"))
	if err != nil {
		t.Fatalf("the database does not open after a kill: %v", err)
	}
	defer db.Close()
	blobs, err := blob.NewDir(filepath.Join(dir, "blobs"), blob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	s, err := evidence.New(evidence.Options{DB: db, Blobs: blobs, Verifier: failing{io.EOF}})
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	if err := db.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	told := map[string]int{}
	for _, e := range (&site{db: db}).events(t, event.AttestationIngested) {
		told[e["id"].(string)]++
	}
	var all []string
	for f := (evidence.Filter{Limit: 1000}); ; {
		page, err := s.List(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		for i := range page {
			all = append(all, page[i].ID)
		}
		if len(page) < f.Limit {
			break
		}
		f.After = page[len(page)-1].Cursor()
	}
	there := map[string]bool{}
	for _, id := range all {
		there[id] = true
		if _, err := s.Bundle(t.Context(), id); err != nil {
			t.Errorf("%s is stored by half: %v", id, err)
		}
		if told[id] != 1 {
			t.Errorf("%s has %d events, want 1", id, told[id])
		}
	}
	for id := range acked {
		if !there[id] {
			t.Errorf("%s was acknowledged and is gone", id)
		}
	}
	if n := (&site{db: db}).count(t, "evidence_bundle"); n != len(all) || n != len(told) {
		t.Errorf("%d bundles, %d records and %d events, want as many of each", n, len(all), len(told))
	}
	return took
}

// ingestForEver is the child: it ingests what is not there yet from many
// callers at once, some in batches, and says what was acknowledged.
func ingestForEver(t *testing.T, dir string) {
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var bundles [][]byte
	if err := json.Unmarshal(read("bundles.json"), &bundles); err != nil {
		t.Fatal(err)
	}
	root, err := trust.ParseTrustedRoot(read("root.json"))
	if err != nil {
		t.Fatal(err)
	}
	db := storetest.OpenDSN(t, "sqlite:"+filepath.Join(dir, "assay.db"))
	migrate(t, db)
	blobs, err := blob.NewDir(filepath.Join(dir, "blobs"), blob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := evidence.New(evidence.Options{DB: db, Blobs: blobs, Verifier: &rootVerifier{root: root}})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	ack := func(raw []byte, isNew bool, err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if !isNew {
			return // acknowledged, or under way, when an earlier child died
		}
		mu.Lock()
		defer mu.Unlock()
		if _, err := fmt.Printf("ack %s\n", evidence.ID(raw)); err != nil {
			os.Exit(1)
		}
	}
	ctx := context.Background()
	rand.Shuffle(len(bundles), func(i, j int) { bundles[i], bundles[j] = bundles[j], bundles[i] })
	half := len(bundles) / 2
	go func() {
		for at := 0; at < half; at += 32 {
			part := bundles[at:min(at+32, half)]
			for i, r := range s.IngestBatch(ctx, part, origin("import/all")) {
				ack(part[i], r.New, r.Err)
			}
		}
	}()
	parallel(16, bundles[half:], func(raw []byte) {
		_, isNew, err := s.Ingest(ctx, raw, origin("team/app"))
		ack(raw, isNew, err)
	})
	time.Sleep(time.Minute) // all is done: wait for the kill
}
