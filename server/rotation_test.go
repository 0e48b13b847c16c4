package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/authority/rotation"
	"assay/client"
	"assay/config"
	"assay/identity"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/store"
	"assay/trust"
	"assay/trust/tuf"

	"google.golang.org/protobuf/encoding/protojson"
)

// movable is a clock that a test moves forward. The timestamp library states the
// machine's time in its signatures beside the real thing, so a certificate must
// not begin after that: tests that make chains begin in the past.
type movable struct{ ahead atomic.Int64 }

func daysAgo(n int) *movable {
	m := &movable{}
	m.pass(-time.Duration(n) * 24 * time.Hour)
	return m
}

func (m *movable) now() time.Time       { return time.Now().Add(time.Duration(m.ahead.Load())) }
func (m *movable) pass(d time.Duration) { m.ahead.Add(int64(d)) }

// signed is a bundle and what it is about.
type signed struct {
	digest artifact.Digest
	bundle []byte
	at     time.Time
}

// signs signs one file with the site's services, as cosign would.
func (s *testSite) signs(ctx context.Context, content string) (signed, error) {
	st := s.Status(ctx)
	sig := &client.Signing{Fulcio: st.Services.Fulcio, Rekor: st.Services.Rekor, TSA: st.Services.TSA, Token: func(ctx context.Context) (string, error) {
		a, err := s.admin.Mint(ctx, client.TokenRequest{Subject: "signer@example.com", Audience: string(identity.AudienceSigstore), TTL: 60})
		return a.Token, err
	}}
	out := signed{digest: artifact.SHA256Of([]byte(content)), at: s.clock()}
	pb, err := sig.Blob(ctx, out.digest)
	if err != nil {
		return out, err
	}
	out.bundle, err = protojson.Marshal(pb)
	return out, err
}

// under verifies a bundle under a root, offline.
func (b signed) under(ctx context.Context, r *trust.Root, now clock.Clock) error {
	parsed, err := attestation.ParseBundle(b.bundle, attestation.DefaultLimits())
	if err != nil {
		return err
	}
	_, err = r.VerifyBundle(ctx, parsed, trust.VerifyOptions{Artifact: b.digest.Set(), AnyIdentity: true, Now: now})
	return err
}

// updates reads the trusted root as a TUF client does that keeps a cache.
func (s *testSite) updates(ctx context.Context, first []byte, cache string) (*trust.Root, error) {
	return tuf.LoadFromTUF(ctx, tuf.ClientOptions{URL: s.public + "/tuf", Root: first, CacheDir: cache, Now: s.clock})
}

func (s *testSite) rotates(role rotation.Role, q client.RotateKeyRequest) client.Key {
	s.t.Helper()
	k, err := s.admin.RotateKey(s.t.Context(), string(role), q)
	if err != nil {
		s.t.Fatalf("rotate %s: %v", role, err)
	}
	return *k
}

// withSourceKey makes the key that a site makes with its first statement about a
// commit, so that all roles have one.
func (s *testSite) withSourceKey() {
	s.t.Helper()
	if _, err := s.ownKey(s.t.Context(), s.keys, rotation.Source); err != nil {
		s.t.Fatal(err)
	}
	if err := s.reloadTrust(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// stateOf gives the states of a role's keys, oldest first.
func (s *testSite) statesOf(role rotation.Role) (out []string) {
	s.t.Helper()
	for _, k := range rotation.Of(s.trust().keys, role) {
		out = append(out, string(k.State))
	}
	return out
}

// settle steps until nothing is due.
func (s *testSite) settle() {
	s.t.Helper()
	if _, err := s.own.keeper.Step(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// TestDrill rotates every key of a site, one after the other, while signers sign
// and verifiers verify, with what they knew up to the overlap ago and with what
// they have just fetched: none fails. In the end all that was ever signed
// verifies, also after the windows have ended, the private keys are gone, and
// the server was started again.
func TestDrill(t *testing.T) {
	const overlap = 1500 * time.Millisecond
	clk := &movable{}
	s := newSiteAt(t, clk.now, func(c *config.Config) { c.Keys.Rotation.Overlap = overlap })
	s.withSourceKey()
	ctx := t.Context()
	first, err := s.firstRoot()
	if err != nil {
		t.Fatal(err)
	}
	old, err := s.signs(ctx, "before")
	if err != nil {
		t.Fatal(err)
	}
	scoped := s.scopedToken()
	load := &drill{testSite: s, first: first, all: []signed{old}}
	stop := load.start(overlap)
	for _, role := range rotation.Roles() {
		if k := s.rotates(role, client.RotateKeyRequest{}); k.State != "pending" || k.TakesOver.IsZero() {
			t.Errorf("%s: %+v", role, k)
		}
		time.Sleep(50 * time.Millisecond) // the load goes on beside
	}
	await(t, func() bool {
		for _, role := range rotation.Roles() {
			if !slices.Equal(s.statesOf(role), []string{"retiring", "active"}) {
				return false
			}
		}
		return true
	})
	time.Sleep(300 * time.Millisecond)
	stop()
	if load.signings.Load() < 20 || load.checks.Load() < 40 {
		t.Errorf("%d signings and %d verifications are no load", load.signings.Load(), load.checks.Load())
	}
	t.Logf("%d signings, %d verifications, %d roots fetched while %d keys changed: %d failed",
		load.signings.Load(), load.checks.Load(), load.fetched.Load(), len(rotation.Roles()), load.failed.Load())
	if code := s.pulls(scoped); code != http.StatusOK {
		t.Errorf("a scoped token of before the change: %d", code)
	}

	clk.pass(25 * time.Hour) // all grace
	s.settle()
	for _, role := range rotation.Roles() {
		if got := s.statesOf(role); !slices.Equal(got, []string{"retired", "active"}) {
			t.Errorf("%s: %v", role, got)
		}
		if _, err := s.keys.Load(ctx, firstNames[role]); err == nil {
			t.Errorf("the private %s key is still there", role)
		}
	}
	for range 2 {
		root, err := s.updates(ctx, first, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		after, err := s.signs(ctx, "after")
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range append(load.all, after) {
			if err := b.under(ctx, root, clk.now); err != nil {
				t.Errorf("bundle %d of %d, signed at %s: %v", i, len(load.all), b.at.Format(time.RFC3339Nano), err)
			}
			if _, err := s.admin.Ingest(ctx, b.bundle, ""); err != nil {
				t.Errorf("bundle %d is no evidence any more: %v", i, err)
			}
		}
		if code := s.pulls(scoped); code == http.StatusOK {
			t.Error("a scoped token holds longer than its key")
		}
		s.restart()
	}
	if failed := load.failed.Load(); failed != 0 {
		t.Errorf("%d failed", failed)
	}
}

// drill is the load of a drill.
type drill struct {
	*testSite
	first []byte

	signings, checks, fetched, failed atomic.Int64

	mu  sync.Mutex
	all []signed
}

func (d *drill) fail(format string, a ...any) {
	if d.failed.Add(1) < 10 {
		d.t.Errorf(format, a...)
	}
}

// start signs and verifies until the function that it gives is called.
func (d *drill) start(overlap time.Duration) (stop func()) {
	ctx := d.t.Context()
	var wg sync.WaitGroup
	done := make(chan struct{})
	every := func(run func(i int)) {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
					run(i)
				}
			}
		})
	}
	for g := range 2 {
		every(func(i int) {
			b, err := d.signs(ctx, fmt.Sprintf("%d/%d", g, i))
			if err != nil {
				d.fail("signing failed: %v", err)
				return
			}
			d.signings.Add(1)
			d.mu.Lock()
			d.all = append(d.all, b)
			d.mu.Unlock()
		})
	}
	for _, old := range []time.Duration{0, overlap * 2 / 3} { // what a verifier knows is that old at most
		cache := d.t.TempDir()
		var root *trust.Root
		var at time.Time
		every(func(int) {
			d.mu.Lock()
			b := d.all[len(d.all)-1]
			oldest := d.all[0]
			d.mu.Unlock()
			if root == nil || time.Since(at) > old {
				at = time.Now()
				if old == 0 {
					cache = d.t.TempDir() // one that has never heard of the site
				}
				next, err := d.updates(ctx, d.first, cache)
				if err != nil {
					d.fail("update failed: %v", err)
					return
				}
				d.fetched.Add(1)
				root = next
			}
			for _, b := range []signed{b, oldest} {
				if err := b.under(ctx, root, d.clock); err != nil {
					d.fail("verification failed, with a root of %s ago: %v", time.Since(at), err)
				}
				d.checks.Add(1)
			}
		})
	}
	every(func(int) {
		d.mu.Lock()
		b := d.all[len(d.all)-1]
		d.mu.Unlock()
		if _, err := d.admin.Ingest(ctx, b.bundle, ""); err != nil {
			d.fail("evidence refused: %v", err)
		}
		d.checks.Add(1)
	})
	return func() { close(done); wg.Wait() }
}

func await(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come")
		}
	}
}

// newSiteAt is newSite with a clock, for whoever owns the folder.
func newSiteAt(t *testing.T, now clock.Clock, change func(*config.Config)) *testSite {
	t.Helper()
	return newSiteWith(t, true, change, func(o *Options) { o.Clock = now })
}

// scopedToken is a token of /token, of a registry user.
func (s *testSite) scopedToken() string {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.public+"/token?service="+s.host()+"&scope=registry:catalog:*", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.SetBasicAuth("token", s.token("user@example.com", identity.AudienceRegistry))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var a struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || a.Token == "" {
		s.t.Fatalf("no scoped token: %s, %v", resp.Status, err)
	}
	return a.Token
}

func (s *testSite) pulls(token string) int {
	s.t.Helper()
	code, _, _ := s.do(http.MethodGet, "/v2/_catalog", map[string]string{"Authorization": "Bearer " + token}, nil)
	return code
}

// TestThreat_Bundle_KeyAfterItsWindow: each authority is declared compromised
// from a time on. What it signed before counts, what it signed after does not,
// and signing goes on with the key that follows, at once.
func TestThreat_Bundle_KeyAfterItsWindow(t *testing.T) {
	for role, code := range map[rotation.Role]string{
		rotation.CA: trust.CodeCertOutside, rotation.TSA: trust.CodeTSAOutside, rotation.CT: trust.CodeSCTInvalid, rotation.Log: trust.CodeTLogOutside,
	} {
		t.Run(string(role), func(t *testing.T) {
			clk := daysAgo(3)
			s := newSiteAt(t, clk.now, nil)
			ctx := t.Context()
			first, err := s.firstRoot()
			if err != nil {
				t.Fatal(err)
			}
			must := func(content string) signed {
				b, err := s.signs(ctx, content)
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			clk.pass(time.Hour)
			before := must("before")
			clk.pass(time.Minute)
			since := clk.now().UTC().Truncate(time.Second)
			clk.pass(time.Minute)
			stolen := must("stolen")
			k := s.rotates(role, client.RotateKeyRequest{Reason: rotation.ReasonCompromised, Since: since})
			if k.State != "active" || k.Reason != rotation.ReasonCompromised {
				t.Errorf("%+v", k)
			}
			after := must("after")
			root, err := s.updates(ctx, first, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			for name, c := range map[string]struct {
				b    signed
				code string
			}{"before": {before, ""}, "after its end": {stolen, code}, "by the next": {after, ""}} {
				if got := trust.Code(c.b.under(ctx, root, clk.now)); got != c.code {
					t.Errorf("%s, offline: code %q, want %q", name, got, c.code)
				}
				if _, err := s.admin.Ingest(ctx, c.b.bundle, ""); (err != nil) != (c.code != "") {
					t.Errorf("%s, at the server: %v", name, err)
				}
			}
		})
	}
}

// A process dies after a step was written and before anything of it was done:
// the next start goes on from there, whatever the step was.
func TestRotationGoesOnAfterACrash(t *testing.T) {
	clk := daysAgo(3)
	s := newSiteAt(t, clk.now, func(c *config.Config) { c.Keys.Rotation.Overlap = time.Hour })
	s.withSourceKey()
	ctx := t.Context()
	first, err := s.firstRoot()
	if err != nil {
		t.Fatal(err)
	}
	known := s.trust().root
	bundles := []signed{}
	sign := func(content string) {
		b, err := s.signs(ctx, content)
		if err != nil {
			t.Fatal(err)
		}
		bundles = append(bundles, b)
	}
	sign("before")
	// blind writes the rows, and does not see to anything that follows of them.
	blind := func(do func(k *rotation.Keeper)) {
		t.Helper()
		k, err := rotation.New(rotation.Options{
			DB: s.db, Keys: rotationStore{s.keys}, Chain: s.newChain, Clock: s.clock, Holder: "a process that dies",
			Schedule: s.cfg.Keys.Rotation.Schedule,
			Apply:    func(context.Context) (map[rotation.Role]string, error) { return nil, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		clk.pass(3 * time.Minute) // the lease of the server's own keeper ends
		do(k)
		clk.pass(3 * time.Minute)
		s.restart()
		s.settle()
	}
	states := func(want ...string) {
		t.Helper()
		for _, role := range rotation.Roles() {
			if got := s.statesOf(role); !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", role, got, want)
			}
		}
		root, err := s.updates(ctx, first, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		sign(strings.Join(want, ", "))
		for i, b := range bundles {
			if err := b.under(ctx, root, clk.now); err != nil {
				t.Errorf("bundle %d: %v", i, err)
			}
		}
	}
	blind(func(k *rotation.Keeper) {
		for _, role := range rotation.Roles() {
			if _, err := k.Rotate(ctx, rotation.Request{Role: role}); err != nil {
				t.Fatal(err)
			}
		}
	})
	states("active", "pending")
	blind(func(k *rotation.Keeper) {
		clk.pass(time.Hour)
		if _, err := k.Step(ctx); err != nil {
			t.Fatal(err)
		}
	})
	states("retiring", "active")
	// What the drill looks for is there to be found: a root from before the keys
	// were published refuses what they sign.
	if err := bundles[len(bundles)-1].under(ctx, known, clk.now); !errors.Is(err, fault.Unverified) {
		t.Errorf("under a root that does not know the keys: %v", err)
	}
	clk.pass(25 * time.Hour)
	s.settle()
	states("retired", "active")
}

// TestThreat_Store_RowOfAStrangersKey: who can write the database, and nothing
// else, does not become an authority of the site.
func TestThreat_Store_RowOfAStrangersKey(t *testing.T) {
	s := newSiteAt(t, nil, nil)
	ctx := t.Context()
	before := s.trust().root.Digest()
	if err := s.db.Update(ctx, func(tx *store.Tx) error {
		d, err := trust.GetDocument(ctx, tx, trust.DocAuthority, keyLog)
		if err != nil {
			return err
		}
		mine, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		k, err := rotation.Describe(rotation.Log, keyLog, mine, nil, time.Now().Add(-time.Hour).UTC())
		if err != nil {
			return err
		}
		k.Number, k.State = 1, rotation.Active
		if d.Body, err = json.Marshal(k); err != nil {
			return err
		}
		d.Version++
		_, err = trust.PutDocument(ctx, tx, d)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.reloadTrust(ctx); !errors.Is(err, fault.Tampered) {
		t.Errorf("a stranger's key was taken: %v", err)
	}
	if s.trust().root.Digest() != before {
		t.Error("the trusted root changed")
	}
}
