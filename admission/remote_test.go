package admission

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/policy"
)

// backEnd is a server that can be down.
type backEnd struct {
	j      *judge
	bundle []byte
	down   bool
	asked  int
	got    []event.Event
}

func (b *backEnd) Judge(ctx context.Context, q Question) (*Reply, error) {
	if b.asked++; b.down {
		return nil, fault.Newf(fault.Unavailable, "connection refused")
	}
	return ReplyOf(b.j.Judge(ctx, q)), nil
}

func (b *backEnd) Bundle(context.Context, int64) ([]byte, error) {
	if b.down {
		return nil, fault.Newf(fault.Unavailable, "connection refused")
	}
	return b.bundle, nil
}

func (b *backEnd) Record(_ context.Context, list []event.Event) error {
	if b.down {
		return fault.Newf(fault.Unavailable, "connection refused")
	}
	b.got = append(b.got, list...)
	return nil
}

// authority is a key with its certificate.
func authority(t *testing.T) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a, err := OpenAuthority(filepath.Join(t.TempDir(), "ca.pem"), key, []string{"localhost"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return key, a.PEM()
}

var shop = Place{Cluster: "c1", Namespace: "shop"}

func bundleOf(now time.Time, version int64) *Bundle {
	scope := shop.ScopeID("shop/app")
	return &Bundle{
		Version: version, Cluster: "c1", Issued: now, Expires: now.Add(BundleLife), Hosts: []string{"r.example"},
		Entries: []Entry{
			{Digest: good, Scope: scope, Allow: true, Mode: policy.Enforce, Decision: "dec_1", Until: now.Add(24 * time.Hour).Unix()},
			{Digest: bad, Scope: scope, Mode: policy.Enforce, Decision: "dec_2", Reason: "signatures/release: none", Until: now.Add(24 * time.Hour).Unix()},
			{Digest: old, Scope: scope, Mode: policy.Enforce, Decision: "dec_3", Reason: "trust/fresh: stale", Soft: true, Runs: true, Until: now.Add(24 * time.Hour).Unix()},
			{Digest: revoked, Scope: scope, Allow: true, Mode: policy.Enforce, Decision: "dec_4", Until: now.Add(24 * time.Hour).Unix()},
		},
		Blocked: []Blocked{{revoked, "revoked: stolen key"}},
	}
}

// TestThreat_Admission_BackEndDown: thirty minutes, and more, without a server:
// what was allowed runs until its decision ends, what was denied or revoked does
// not, what is not known is refused, and no answer is another than it was before.
func TestThreat_Admission_BackEndDown(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	key, cert := authority(t)
	b := &backEnd{j: &judge{}}
	var err error
	if b.bundle, err = bundleOf(now, 7).Seal(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	var kept []byte
	o := RemoteOptions{Server: b, Authority: cert, Cluster: "c1", Clock: func() time.Time { return now }, Save: func(raw []byte) error { kept = raw; return nil }, Load: func() ([]byte, error) { return kept, nil }}
	r, err := NewRemote(o)
	if err != nil || r.Ready() == nil {
		t.Fatal(err)
	}
	r.fetch(t.Context())
	ask := func(what, ns string) (string, error) {
		t.Helper()
		ref, err := normalize(host + what)
		if err != nil {
			t.Fatal(err)
		}
		a, err := r.Judge(t.Context(), Question{Reference: ref, Place: Place{Cluster: "c1", Namespace: ns}})
		switch {
		case err != nil:
			return fault.KindOf(err).Name(), err
		case a.Allowed():
			return "allowed", nil
		case a.Refuses():
			return "denied", nil
		}
		return "warned", nil
	}
	other := artifact.SHA256Of([]byte("other"))
	want := map[[2]string]string{
		{"@" + string(good), "shop"}: "allowed", {"@" + string(bad), "shop"}: "denied", {"@" + string(revoked), "shop"}: "denied", {"@" + string(old), "shop"}: "denied",
		{"@" + string(other), "shop"}: "undecided", {"@" + string(good), "bank"}: "undecided", {":good", "shop"}: "undecided",
	}
	b.down = true
	for range 180 { // half an hour, every ten seconds
		now = now.Add(10 * time.Second)
		for q, w := range want {
			if got, err := ask(q[0], q[1]); got != w {
				t.Fatalf("after %s, %v: %s (%v), want %s", now.Format("15:04:05"), q, got, err, w)
			}
		}
	}
	// A server that does not answer is not waited for by each.
	if b.asked > 2*180 {
		t.Errorf("asked %d times in half an hour", b.asked)
	}
	// It also goes on over a start of its own.
	if r, err = NewRemote(o); err != nil || r.Ready() != nil {
		t.Fatal(err)
	}
	if got, err := ask("@"+string(good), "shop"); got != "allowed" {
		t.Errorf("after a restart: %s (%v)", got, err)
	}
	now = now.Add(2 * time.Hour) // the bundle ended, the decision did not
	if got, err := ask("@"+string(good), "shop"); got != "allowed" {
		t.Errorf("after the bundle's end: %s (%v)", got, err)
	}
	if got, _ := ask("@"+string(bad), "shop"); got != "undecided" {
		t.Errorf("a deny after the bundle's end: %s", got)
	}
	now = now.Add(24 * time.Hour)
	if got, err := ask("@"+string(good), "shop"); got != "undecided" || !strings.Contains(err.Error(), "ended at") {
		t.Errorf("after the decision's end: %s (%v)", got, err)
	}
	// What was told meanwhile is handed on when the server is back.
	_ = r.Record(t.Context(), event.Event{Kind: event.AdmissionAllowed, Digest: good})
	r.forward(t.Context())
	b.down = false
	now = now.Add(downFor)
	r.forward(t.Context())
	if len(b.got) != 1 {
		t.Errorf("handed on: %d", len(b.got))
	}
	if got, err := ask(":good", "shop"); got != "allowed" {
		t.Errorf("with the server back: %s (%v)", got, err)
	}
}

func TestThreat_Admission_ForgedBundle(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	key, cert := authority(t)
	mallory, theirs := authority(t)
	seal := func(k *ecdsa.PrivateKey, version int64) []byte {
		raw, err := bundleOf(now, version).Seal(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	if b, err := OpenBundle(seal(key, 7), cert, "c1", 7); err != nil || b.Version != 7 || len(b.Entries) != 4 {
		t.Fatalf("%+v, %v", b, err)
	}
	for name, tt := range map[string]struct {
		raw, cert []byte
		cluster   string
		seen      int64
		want      *fault.Kind
	}{
		"another key":     {seal(mallory, 7), cert, "c1", 0, fault.Tampered},
		"their authority": {seal(key, 7), theirs, "c1", 0, fault.Tampered},
		"another cluster": {seal(key, 7), cert, "c2", 0, fault.Invalid},
		"an older one":    {seal(key, 6), cert, "c1", 7, fault.Conflict},
		"cut short":       {seal(key, 7)[:200], cert, "c1", 0, fault.Tampered},
		"no bundle":       {[]byte("{}"), cert, "c1", 0, fault.Tampered},
		"no authority":    {seal(key, 7), []byte("x"), "c1", 0, fault.Invalid},
	} {
		if _, err := OpenBundle(tt.raw, tt.cert, tt.cluster, tt.seen); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	// One that is refused leaves the last in force.
	b := &backEnd{j: &judge{}, bundle: seal(key, 7)}
	r, err := NewRemote(RemoteOptions{Server: b, Authority: cert, Cluster: "c1", Load: func() ([]byte, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	r.fetch(t.Context())
	for _, raw := range [][]byte{seal(mallory, 9), seal(key, 6)} {
		b.bundle = raw
		r.fetch(t.Context())
		if v := r.bundle.Load().Version; v != 7 {
			t.Errorf("version %d is in force", v)
		}
	}
	if _, err := NewRemote(RemoteOptions{Server: b, Authority: cert, Cluster: "c1", Load: func() ([]byte, error) { return []byte("x"), nil }}); !errors.Is(err, fault.Tampered) {
		t.Errorf("a kept bundle that was altered: %v", err)
	}
}
