package tlog

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"assay/internal/keyring"
	"assay/store"
)

// envCrash makes the test binary the process that is killed.
const envCrash = "ASSAY_TLOG_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(envCrash); dir != "" {
		if err := crashChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func crashOptions(ctx context.Context, dir string) (Options, error) {
	key, err := keyring.LoadFile(filepath.Join(dir, "key.pem"), nil)
	if err != nil {
		return Options{}, err
	}
	db, err := store.Open(ctx, "sqlite:"+filepath.Join(dir, "assay.db"))
	if err != nil {
		return Options{}, err
	}
	return Options{Dir: filepath.Join(dir, "log"), Origin: testOrigin, Signer: key, DB: db, Deduplicate: true}, db.Migrate(ctx, Migrations)
}

// crashChild adds entries from several goroutines and tells each answer on its
// standard output, until it is killed.
func crashChild(dir string) error {
	ctx := context.Background()
	o, err := crashOptions(ctx, dir)
	if err != nil {
		return err
	}
	l, err := Open(ctx, o)
	if err != nil {
		return err
	}
	fmt.Printf("open %d\n", l.Head().Size)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				leaf := fmt.Sprintf("%d of %d of %d, and some more so that bundles have a size", i, w, os.Getpid())
				e, err := l.Add(ctx, []byte(leaf))
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				// One write: a line is whole or absent.
				fmt.Printf("ack %d %d %x %s\n", e.Index, e.TreeSize, e.Root, base64.StdEncoding.EncodeToString([]byte(leaf)))
			}
		})
	}
	wg.Wait()
	return nil
}

type acked struct {
	index, size uint64
	root        Hash
	leaf        []byte
}

// TestThreat_Store_KillNine kills the writer at any moment and starts again:
// what it had acknowledged is there, in a tree that extends every checkpoint it
// gave out, and the start takes less than two seconds. ASSAY_CRASH_CYCLES says
// how often.
func TestThreat_Store_KillNine(t *testing.T) {
	cycles := 5
	if s := os.Getenv("ASSAY_CRASH_CYCLES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		cycles = n
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	pem, err := keyring.Marshal(newKey(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "key.pem"), pem, 0o600); err != nil {
		t.Fatal(err)
	}
	var all []acked
	var slowest time.Duration
	for c := range cycles {
		fresh := crashOnce(t, dir, time.Duration(20+rand.IntN(230))*time.Millisecond)
		all = append(all, fresh...)
		if took := crashCheck(t, dir, fresh, all); took > slowest {
			slowest = took
		}
		if t.Failed() {
			t.Fatalf("in cycle %d of %d", c+1, cycles)
		}
	}
	t.Logf("%d cycles, %d entries acknowledged, slowest start %v", cycles, len(all), slowest)
	if len(all) == 0 {
		t.Error("no entry was ever acknowledged: the test saw nothing")
	}
	if slowest > 2*time.Second {
		t.Errorf("a start took %v, at most 2s", slowest)
	}
}

// crashOnce runs the writer and kills it some time after it has opened the log.
func crashOnce(t *testing.T, dir string, after time.Duration) []acked {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envCrash+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var got []acked
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var a acked
		var root, leaf string
		if _, err := fmt.Sscanf(lines.Text(), "ack %d %d %s %s", &a.index, &a.size, &root, &leaf); err != nil {
			time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
			continue
		}
		b, err1 := hex.DecodeString(root)
		leafBytes, err2 := base64.StdEncoding.DecodeString(leaf)
		if err1 != nil || err2 != nil || len(b) != len(a.root) {
			continue // the last line may be cut
		}
		a.root, a.leaf = Hash(b), leafBytes
		got = append(got, a)
	}
	_ = cmd.Wait()
	return got
}

func crashCheck(t *testing.T, dir string, fresh, all []acked) time.Duration {
	t.Helper()
	o, err := crashOptions(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer o.DB.Close()
	began := time.Now()
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	defer l.Close()
	look := fresh
	for range min(50, len(all)) {
		look = append(look, all[rand.IntN(len(all))])
	}
	head := l.Head()
	for _, a := range look {
		if leaf, err := l.Leaf(t.Context(), a.index); err != nil || string(leaf) != string(a.leaf) {
			t.Errorf("entry %d is %q (%v), acknowledged was %q", a.index, leaf, err, a.leaf)
		}
		p, err := l.ConsistencyProof(t.Context(), a.size, head.Size)
		if err == nil {
			err = VerifyConsistency(a.size, head.Size, p, a.root[:], head.Root[:])
		}
		if err != nil {
			t.Errorf("the checkpoint of %d is not in the log of %d: %v", a.size, head.Size, err)
		}
	}
	return took
}
