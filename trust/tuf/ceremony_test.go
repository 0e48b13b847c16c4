package tuf_test

import (
	"bytes"
	"crypto"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"assay/internal/fault"
	"assay/trust/trusttest"
	"assay/trust/tuf"
)

// ceremony is a site whose root keys are three people's.
type ceremony struct {
	t      *testing.T
	now    time.Time
	people []crypto.Signer
	online crypto.Signer
	first  []byte
}

func newCeremony(t *testing.T, threshold int) *ceremony {
	t.Helper()
	c := &ceremony{t: t, now: time.Now().UTC(), online: trusttest.NewKey(t)}
	plan := tuf.RootPlan{Threshold: threshold, Online: c.online.Public(), Expires: c.now.Add(365 * 24 * time.Hour)}
	for range 3 {
		k := trusttest.NewKey(t)
		c.people, plan.Root = append(c.people, k), append(plan.Root, k.Public())
	}
	b, err := tuf.PlanRoot(nil, plan, c.now)
	if err != nil {
		t.Fatal(err)
	}
	c.first = b
	return c
}

func (c *ceremony) sign(root, before []byte, keys ...crypto.Signer) []byte {
	c.t.Helper()
	for _, k := range keys {
		var err error
		if root, err = tuf.SignRoot(root, before, k); err != nil {
			c.t.Fatal(err)
		}
	}
	return root
}

// open is the server: it has the online key alone.
func (c *ceremony) open(dir string, online crypto.Signer) (*tuf.Repository, error) {
	return tuf.NewRepository(c.t.Context(), tuf.Options{Dir: dir, Roles: tuf.Roles{Targets: online, Snapshot: online, Timestamp: online}, Clock: func() time.Time { return c.now }})
}

func (c *ceremony) next(before []byte, p tuf.RootPlan) []byte {
	c.t.Helper()
	if p.Expires.IsZero() {
		p.Expires = c.now.Add(365 * 24 * time.Hour)
	}
	b, err := tuf.PlanRoot(before, p, c.now)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

func TestCeremony(t *testing.T) {
	c := newCeremony(t, 2)
	root := c.sign(c.first, nil, c.people[0])
	st, err := tuf.CheckRoot(root, nil)
	if err != nil || st.Complete || st.Signed != 1 || len(st.Missing) != 2 {
		t.Fatalf("after one of two: %+v, %v", st, err)
	}
	dir := t.TempDir()
	if _, err := c.open(dir, c.online); !errors.Is(err, fault.Invalid) {
		t.Fatalf("a repository without a root made one: %v", err)
	}
	put(t, dir, "1.root.json", root)
	if _, err := c.open(dir, c.online); !errors.Is(err, fault.Tampered) {
		t.Fatalf("one of two signatures: %v, want tampered", err)
	}
	root = c.sign(root, nil, c.people[2])
	put(t, dir, "1.root.json", root)
	repo, err := c.open(dir, c.online)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Publish(t.Context(), map[string][]byte{"a.json": []byte("1")}); err != nil {
		t.Fatal(err)
	}
	// A later root: a new online key, another person, signed by two of the old.
	newOnline, dave := trusttest.NewKey(t), trusttest.NewKey(t)
	second := c.next(root, tuf.RootPlan{
		Root: []crypto.PublicKey{c.people[0].Public(), c.people[1].Public(), dave.Public()}, Online: newOnline.Public(),
	})
	second = c.sign(second, root, c.people[0], c.people[1])
	if _, err := repo.Import(second); !errors.Is(err, fault.Conflict) {
		t.Fatalf("a root of an online key that is not here: %v, want conflict", err)
	}
	if _, err := repo.Import(second, newOnline); err != nil {
		t.Fatal(err)
	}
	if err := repo.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Import(second, newOnline); err != nil {
		t.Fatalf("the same root again: %v", err)
	}
	// The server's next start, with the new key; the old one does not fit any more.
	if _, err := c.open(dir, c.online); !errors.Is(err, fault.Conflict) {
		t.Fatalf("the old online key: %v, want conflict", err)
	}
	if _, err := c.open(dir, newOnline); err != nil {
		t.Fatal(err)
	}
	if v, _, renewable := repo.RootInfo(); v != 2 || renewable {
		t.Errorf("root %d, renewable here %t; want 2 and not", v, renewable)
	}
}

func TestThreat_TUF_RootCeremony(t *testing.T) {
	c := newCeremony(t, 2)
	first := c.sign(c.first, nil, c.people[0], c.people[1])
	stranger := trusttest.NewKey(t)
	later := c.now.Add(24 * time.Hour)
	plan := func(threshold int, keys ...crypto.Signer) tuf.RootPlan {
		p := tuf.RootPlan{Threshold: threshold}
		for _, k := range keys {
			p.Root = append(p.Root, k.Public())
		}
		return p
	}
	renewal := c.next(first, tuf.RootPlan{})
	edit := func(b []byte, change func(signed map[string]any, doc map[string]any)) []byte {
		var doc map[string]any
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Fatal(err)
		}
		change(doc["signed"].(map[string]any), doc)
		out, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	signedRenewal := c.sign(renewal, first, c.people[0], c.people[2])
	takeover := c.next(first, plan(1, stranger, trusttest.NewKey(t)))
	skip := c.sign(c.next(signedRenewal, tuf.RootPlan{}), signedRenewal, c.people[0], c.people[1])
	for name, tt := range map[string]struct {
		root []byte
		want *fault.Kind
	}{
		"no signature":       {renewal, fault.Unverified},
		"one of two":         {c.sign(renewal, first, c.people[0]), fault.Unverified},
		"one key twice":      {edit(c.sign(renewal, first, c.people[0]), func(_, d map[string]any) { s := d["signatures"].([]any); d["signatures"] = append(s, s[0]) }), fault.Invalid},
		"new keys alone":     {c.sign(takeover, nil, stranger), fault.Unverified},
		"tampered":           {edit(signedRenewal, func(s, _ map[string]any) { s["expires"] = later.Format("2006-01-02T15:04:05Z") }), fault.Unverified},
		"version skipped":    {skip, fault.Invalid},
		"version repeated":   {c.sign(c.first, nil, c.people[0], c.people[2]), fault.Invalid},
		"not a root":         {[]byte(`{"signed":{"_type":"timestamp"},"signatures":[]}`), fault.Invalid},
		"nothing":            {nil, fault.Invalid},
		"null members":       {[]byte(`{"signed":{"_type":"root","keys":null,"roles":null},"signatures":null}`), fault.Invalid},
		"role without key":   {edit(signedRenewal, func(s, _ map[string]any) { delete(s["keys"].(map[string]any), first0(s)) }), fault.Invalid},
		"more than its size": {bytes.Repeat([]byte(" "), 1<<20), fault.TooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir, "1.root.json", first)
			repo, err := c.open(dir, c.online)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := repo.Import(tt.root); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %s", err, tt.want.Name())
			}
			if v, _, _ := repo.RootInfo(); v != 1 {
				t.Errorf("root %d is in force", v)
			}
		})
	}
	t.Run("two names of one key", func(t *testing.T) {
		for name, p := range map[string]tuf.RootPlan{
			"one root key twice":         plan(2, stranger, stranger),
			"the online key":             plan(1, c.online, stranger),
			"threshold above the keys":   plan(4, c.people...),
			"a life without end":         {Expires: c.now.Add(10 * 365 * 24 * time.Hour)},
			"a life that is over":        {Expires: c.now.Add(-time.Hour)},
			"a threshold of less than 0": plan(-1, c.people...),
		} {
			if p.Expires.IsZero() {
				p.Expires = c.now.Add(365 * 24 * time.Hour)
			}
			if _, err := tuf.PlanRoot(first, p, c.now); !errors.Is(err, fault.Invalid) {
				t.Errorf("%s: %v, want invalid", name, err)
			}
		}
	})
	t.Run("a stranger signs", func(t *testing.T) {
		if _, err := tuf.SignRoot(renewal, first, stranger); !errors.Is(err, fault.Denied) {
			t.Errorf("%v, want denied", err)
		}
	})
}

// first0 is some key of a root.
func first0(signed map[string]any) string {
	for id := range signed["keys"].(map[string]any) {
		return id
	}
	return ""
}

func put(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func FuzzCheckRoot(f *testing.F) {
	f.Add([]byte(`{"signed":{"_type":"root","spec_version":"1.0.31","version":1,"expires":"2030-01-01T00:00:00Z","keys":{},"roles":{}},"signatures":[]}`))
	f.Add([]byte(`{"signatures":[{"keyid":"","sig":"00"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := tuf.CheckRoot(b, nil)
		if err == nil && st.Complete && st.Signed == 0 {
			t.Errorf("complete without a signature: %q", b)
		}
	})
}
