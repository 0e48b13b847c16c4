package upstream

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"assay/event"
	"assay/store"
	"assay/vuln/exploit"
	"assay/vuln/feed"
)

// TestThreat_Feed_TwoReplicas: of two processes of a site one asks an upstream,
// also when the one that did was killed: then nobody does until its lease is over.
func TestThreat_Feed_TwoReplicas(t *testing.T) {
	s := newSite(t)
	var now atomic.Int64
	now.Store(s.now.UnixMicro())
	clock := func() time.Time { return time.UnixMicro(now.Load()).UTC() }
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "assay.db"), store.WithClock(clock))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Migrate(t.Context(), event.Migrations, feed.Migrations, exploit.Migrations, Migrations); err != nil {
		t.Fatal(err)
	}
	feeds, err := feed.NewStore(db, feed.DefaultLimits(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if held, _, err := db.Lease(t.Context(), leaseName, "killed", leaseTTL); err != nil || !held {
		t.Fatal(held, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var both []*Upstreams
	var running sync.WaitGroup
	for range 2 {
		u, err := New(Options{DB: db, Feeds: feeds, Lists: exploit.NewStore(db), Dir: filepath.Join(t.TempDir(), "feeds"), MaxAge: 48 * time.Hour, Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, u)
		running.Go(func() {
			if err := u.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	if err := both[0].Add(t.Context(), Spec{Name: "osv", URL: s.url, Ecosystems: []string{"npm"}, AllowPrivate: true, Proxy: "none"}, "alice"); err != nil {
		t.Fatal(err)
	}
	turn := func() {
		both[0].stir()
		both[1].stir()
		time.Sleep(5 * time.Millisecond)
	}
	for range 40 {
		turn()
	}
	if took := s.from.took(); took != "" {
		t.Fatalf("somebody asked while the lease of another stood: %s", took)
	}
	now.Add((leaseTTL + time.Second).Microseconds())
	for end := time.Now().Add(30 * time.Second); ; turn() {
		if a, err := feeds.InForce(t.Context(), "osv", "npm", "X-07"); err == nil && a != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("nobody took over: %s", s.from.took())
		}
	}
	stop()
	running.Wait()
	if took := s.from.took(); strings.Count(took, "all.zip") != 1 {
		t.Errorf("the archive was asked for by more than one: %s", took)
	}
}
