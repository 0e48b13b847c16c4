package revocation_test

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
	"assay/trust"
	"assay/trust/revocation"
	"assay/trust/trusttest"
)

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if trust.Code(err) != code || !errors.Is(err, fault.Unverified) {
		t.Errorf("%v (code %q), want %s", err, trust.Code(err), code)
	}
}

func TestOpen(t *testing.T) {
	s := newSite(t)
	l := s.list(1, keyEntry(t, trusttest.NewKey(t), s.Start))
	online := s.seal(l, s.online)
	if got := s.open(online); got.Root || got.List.Version != 1 || got.Entries() != l.EntriesDigest() || got.LogIndex() == nil {
		t.Errorf("online: %+v", got)
	}
	if got := s.open(s.seal(l, s.offline[0], s.offline[2])); !got.Root {
		t.Error("two root keys of three are the root")
	}
	if got := s.open(s.seal(l, s.online, s.offline[1])); got.Root {
		t.Error("one root key is not the root, whoever signs beside it")
	}
	other := trusttest.New(t)
	edit := func(b []byte, change func(m map[string]any)) []byte {
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for name, tt := range map[string]struct {
		b    []byte
		root *trust.Root
		code string
	}{
		"a stranger's key":         {s.seal(l, s.offline[0]), s.root, revocation.CodeSigner},
		"another log":              {online, other.Root(t), revocation.CodeUnlogged},
		"no proof":                 {edit(online, func(m map[string]any) { m["proofs"] = []any{} }), s.root, revocation.CodeUnlogged},
		"the proof of another":     {edit(online, func(m map[string]any) { m["proofs"] = proofsOf(t, s.seal(s.list(2), s.online)) }), s.root, revocation.CodeUnlogged},
		"more proofs than reasons": {edit(online, func(m map[string]any) { p := m["proofs"].([]any); m["proofs"] = append(p, p...) }), s.root, revocation.CodeUnlogged},
		"an unknown member":        {edit(online, func(m map[string]any) { m["more"] = 1 }), s.root, revocation.CodeMalformed},
		"another media type":       {edit(online, func(m map[string]any) { m["media_type"] = "x" }), s.root, revocation.CodeMalformed},
		"no JSON":                  {[]byte("x"), s.root, revocation.CodeMalformed},
		"an altered payload":       {edit(online, func(m map[string]any) { m["envelope"].(map[string]any)["payload"] = "e30=" }), s.root, revocation.CodeSigner},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := revocation.Open(t.Context(), tt.b, s.authority, tt.root)
			wantCode(t, err, tt.code)
		})
	}
}

func proofsOf(t *testing.T, b []byte) any {
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m["proofs"]
}

// A list of revocations is like TUF's own documents: nothing older, nothing
// less, nothing that was kept back beyond its time.
func TestThreat_TUF_RevocationsRollback(t *testing.T) {
	s := newSite(t)
	key := keyEntry(t, trusttest.NewKey(t), s.Start.Add(time.Minute))
	digest := entry(revocation.Entry{Kind: revocation.Artifact, Digest: digestOf("bad")}, s.Start)
	later, sooner := key, key
	later.InvalidSince, sooner.InvalidSince = revocation.At(s.Start.Add(time.Hour)), revocation.At(s.Start)
	root := []crypto.Signer{s.offline[0], s.offline[1]}
	for name, tt := range map[string]struct {
		next []byte
		code string
	}{
		"the same":                         {s.seal(s.list(5, key, digest), s.online), ""},
		"renewed":                          {s.seal(s.list(6, key, digest), s.online), ""},
		"more":                             {s.seal(s.list(7, key, digest, keyEntry(t, trusttest.NewKey(t), s.Start)), s.online), ""},
		"from earlier on":                  {s.seal(s.list(6, sooner, digest), s.online), ""},
		"an older version":                 {s.seal(s.list(4, key, digest), s.online), revocation.CodeRollback},
		"an older version by the root":     {s.seal(s.list(4, key, digest), root...), revocation.CodeRollback},
		"the same version, less":           {s.seal(s.list(5, key), s.online), revocation.CodeRollback},
		"the same version, less, by root":  {s.seal(s.list(5, key), root...), revocation.CodeRollback},
		"less":                             {s.seal(s.list(6, key), s.online), revocation.CodeNarrowed},
		"nothing":                          {s.seal(s.list(6), s.online), revocation.CodeNarrowed},
		"from later on":                    {s.seal(s.list(6, later, digest), s.online), revocation.CodeNarrowed},
		"less, by one root key and online": {s.seal(s.list(6, key), s.online, s.offline[0]), revocation.CodeNarrowed},
		"less, by the root":                {s.seal(s.list(6, key), root...), ""},
		"from later on, by the root":       {s.seal(s.list(6, later, digest), root...), ""},
	} {
		t.Run(name, func(t *testing.T) {
			before, next := s.open(s.seal(s.list(5, key, digest), s.online)), s.open(tt.next)
			m := revocation.Memory{Dir: t.TempDir()}
			if err := m.Accept(t.Context(), before); err != nil {
				t.Fatal(err)
			}
			for who, err := range map[string]error{"server": revocation.Follow(before, next), "client": m.Accept(t.Context(), next)} {
				if tt.code == "" && err != nil {
					t.Errorf("%s: %v", who, err)
				}
				if tt.code != "" {
					wantCode(t, err, tt.code)
				}
			}
			// What was refused is not remembered, what was accepted is.
			if err := m.Accept(t.Context(), before); (err == nil) != (tt.code != "" || next.List.Version == 5) {
				t.Errorf("the list before, once more: %v", err)
			}
		})
	}
}

// A client that was away while the root took an entry back follows all the same:
// the root's list comes along. What builds upon anything else is refused.
func TestBase(t *testing.T) {
	s := newSite(t)
	key, more := keyEntry(t, trusttest.NewKey(t), s.Start), keyEntry(t, trusttest.NewKey(t), s.Start)
	seen := s.open(s.seal(s.list(3, key), s.online))
	byRoot := s.open(s.seal(s.list(4), s.offline[0], s.offline[1]))
	next := s.open(s.sealOn(byRoot, s.list(5, more), s.online))
	if err := revocation.Follow(seen, next); err != nil {
		t.Errorf("list 5 upon the root's list 4, after list 3: %v", err)
	}
	if err := revocation.Follow(seen, s.open(s.sealOn(next, s.list(9, more), s.online))); err != nil {
		t.Errorf("a later one, upon the same: %v", err)
	}
	wantCode(t, revocation.Follow(seen, s.open(s.seal(s.list(5, more), s.online))), revocation.CodeNarrowed)
	// The root's word counts once: what came after it cannot be taken back by it.
	wantCode(t, revocation.Follow(next, s.open(s.sealOn(byRoot, s.list(6), s.online))), revocation.CodeNarrowed)
	for name, tt := range map[string]struct {
		b    []byte
		code string
	}{
		"less than the root's":  {s.sealOn(s.open(s.seal(s.list(4, key), s.offline[0], s.offline[1])), s.list(5), s.online), revocation.CodeNarrowed},
		"older than the root's": {s.sealOn(byRoot, s.list(4), s.online), revocation.CodeMalformed},
		"not of the root":       {bytes.Replace(s.sealOn(byRoot, s.list(5), s.online), byRoot.Bytes(), seen.Bytes(), 1), revocation.CodeSigner},
	} {
		_, err := revocation.Open(t.Context(), tt.b, s.authority, s.root)
		if trust.Code(err) != tt.code {
			t.Errorf("%s: %v, want %s", name, err, tt.code)
		}
	}
}

// Two sites of one name do not stand in each other's way; one that rotates its
// keys, some at a time, stays the same.
func TestMemoryOfSites(t *testing.T) {
	a, b := newSite(t), newSite(t)
	m := revocation.Memory{Dir: t.TempDir()}
	accept := func(s *site, version int64) error {
		return m.Accept(t.Context(), s.open(s.seal(s.list(version), s.online)))
	}
	for _, step := range []struct {
		s       *site
		version int64
		code    string
	}{{a, 7, ""}, {b, 1, ""}, {b, 3, ""}, {b, 2, revocation.CodeRollback}, {a, 6, revocation.CodeRollback}, {a, 8, ""}} {
		if err := accept(step.s, step.version); trust.Code(err) != step.code {
			t.Fatalf("version %d: %v, want %q", step.version, err, step.code)
		}
	}
	a.online = trusttest.NewKey(t)
	a.authority.Online = []crypto.PublicKey{a.online.Public()}
	if err := accept(a, 9); err != nil {
		t.Fatal(err)
	}
	for i := range a.offline { // and then the root's
		a.offline[i] = trusttest.NewKey(t)
		a.authority.Root[i] = a.offline[i].Public()
	}
	wantCode(t, accept(a, 8), revocation.CodeRollback)
}

func TestMemoryIsDamaged(t *testing.T) {
	s := newSite(t)
	m := revocation.Memory{Dir: t.TempDir()}
	one := s.open(s.seal(s.list(1), s.online))
	if err := m.Accept(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(m.Dir, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string][]byte{"empty": {}, "cut": b[:len(b)/2], "another domain": bytes.Replace(b, []byte(`"site"`), []byte(`"sire"`), 1)} {
		if err := os.WriteFile(files[0], damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := m.Accept(t.Context(), one); !errors.Is(err, fault.Tampered) {
			t.Errorf("%s: %v, want tampered: as nothing seen it would let an old list in", name, err)
		}
	}
}

// Missing, stale and failing lists are told apart, and a stale one is not
// current.
func TestThreat_Feed_RevocationsStale(t *testing.T) {
	s := newSite(t)
	signed := s.open(s.seal(s.list(1), s.online))
	issued := signed.List.Issued.Time
	for at, want := range map[time.Time]revocation.Status{
		issued:                                 revocation.Current,
		issued.Add(-time.Minute):               revocation.Current, // clocks differ
		issued.Add(-time.Hour):                 revocation.Stale,   // signed in the future
		issued.Add(24*time.Hour - time.Second): revocation.Current,
		issued.Add(24 * time.Hour):             revocation.Stale,
	} {
		if got := signed.Status(at); got != want {
			t.Errorf("at %v: %s, want %s", at, got, want)
		}
	}
	if got := (*revocation.Signed)(nil).Status(s.now()); got != revocation.NotConfigured {
		t.Errorf("no list: %s", got)
	}
}
