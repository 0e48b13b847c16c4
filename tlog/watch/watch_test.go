package watch

import (
	"context"
	"encoding/hex"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"assay/event"
	"assay/internal/fault"
	"assay/tlog/rekor"
)

const auditKey = "sha256:aaaa"

// chain makes heads of n batches; salt makes another history.
func chain(n int, salt byte) (out []event.Head) {
	var prev event.Hash
	for i := range n {
		h := event.Head{Batch: int64(i + 1), FirstSeq: int64(i*2 + 1), LastSeq: int64(i*2 + 2), Count: 2, Prev: prev, Time: time.Unix(int64(1000+i), 0).UTC()}
		h.Root[0], h.Root[1] = salt, byte(i)
		h.Hash = h.Sum()
		prev = h.Hash
		out = append(out, h)
	}
	return out
}

// site is what a monitor sees of one.
type site struct {
	heads []event.Head
	keys  []string
}

func (s *site) audit(state string) *Audit {
	return &Audit{
		Heads: func(_ context.Context, after int64) ([]event.Head, error) {
			if after >= int64(len(s.heads)) {
				return nil, nil
			}
			return s.heads[after:min(int(after)+3, len(s.heads))], nil // pages
		},
		Keys:  func(context.Context) ([]string, error) { return s.keys, nil },
		State: state,
	}
}

func logged(index uint64, h event.Head) rekor.Inspection {
	return rekor.Inspection{Index: index, Digest: "sha256:" + hex.EncodeToString(h.Hash[:]), KeyFingerprint: auditKey}
}

// step is one run of the monitor: entries of the log, then heads.
func step(t *testing.T, s *site, state string, entries ...rekor.Inspection) (AuditReport, error) {
	t.Helper()
	a := s.audit(state)
	if err := a.Open(t.Context()); err != nil {
		return AuditReport{}, err
	}
	for _, e := range entries {
		if err := a.Entry(e); err != nil {
			t.Fatal(err)
		}
	}
	return a.Check(t.Context())
}

func TestAuditFollowsHeads(t *testing.T) {
	s := &site{keys: []string{auditKey}}
	state := filepath.Join(t.TempDir(), "state")
	if rep, err := step(t, s, state); err != nil || !rep.First || rep.Batch != 0 {
		t.Fatalf("of a site without events: %+v, %v", rep, err)
	}
	s.heads = chain(5, 1)
	stranger := rekor.Inspection{Digest: "sha256:00", KeyFingerprint: "sha256:bbbb"}
	rep, err := step(t, s, state, logged(0, s.heads[2]), stranger)
	if err != nil || rep.Batch != 5 || rep.New != 5 || rep.Logged != 1 || rep.Waiting != 2 {
		t.Fatalf("first: %+v, %v", rep, err)
	}
	s.heads = chain(9, 1)
	rep, err = step(t, s, state, logged(7, s.heads[4]), logged(8, s.heads[4]), logged(9, s.heads[8]))
	if err != nil || rep.New != 4 || rep.Logged != 3 || rep.Waiting != 0 || rep.Events != 18 {
		t.Fatalf("second: %+v, %v", rep, err)
	}
	// A key that the site does not name any more still counts.
	s.keys = []string{"sha256:cccc"}
	if _, err := step(t, s, state, logged(10, chain(9, 2)[8])); !errors.Is(err, fault.Tampered) {
		t.Errorf("a head of the former key that is not in the chain: %v, want tampered", err)
	}
}

func TestThreat_Audit_RewrittenChain(t *testing.T) {
	for name, tt := range map[string]struct {
		now   []event.Head
		entry []rekor.Inspection
	}{
		"rewritten from the beginning": {now: chain(5, 2)},
		"rewritten and gone on":        {now: chain(8, 2)},
		"cut":                          {now: chain(3, 1)},
		"emptied":                      {now: nil},
		"a batch left out":             {now: append(chain(5, 1), chain(7, 1)[6])},
		"the log has another head":     {now: chain(6, 1), entry: []rekor.Inspection{logged(4, chain(6, 3)[5])}},
		"a head that contradicts itself": {now: func() []event.Head {
			c := chain(6, 1)
			c[5].LastSeq++
			return c
		}()},
	} {
		t.Run(name, func(t *testing.T) {
			s := &site{keys: []string{auditKey}, heads: chain(5, 1)}
			state := filepath.Join(t.TempDir(), "state")
			if _, err := step(t, s, state, logged(1, s.heads[1])); err != nil {
				t.Fatal(err)
			}
			s.heads = tt.now
			for range 2 { // and every later check says the same
				_, err := step(t, s, state, tt.entry...)
				if !errors.Is(err, fault.Tampered) {
					t.Fatalf("got %v, want tampered", err)
				}
				tt.entry = nil
			}
		})
	}
}

func TestWatched(t *testing.T) {
	if _, err := NewWatched([]string{"("}, nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("a broken expression: %v", err)
	}
	if _, err := NewWatched(nil, []string{"aaaa"}); !errors.Is(err, fault.Invalid) {
		t.Errorf("half a fingerprint: %v", err)
	}
	key := "sha256:" + hex.EncodeToString(make([]byte, 32))
	w, err := NewWatched([]string{`.*@example\.com|ci`}, []string{key})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]bool{
		"me@example.com": true, "ci": true, "": false,
		// Anchored at both ends (CVE-2025-29778).
		"me@example.com.evil.test": false, "circus": false, "xci": false, "me@example.com\nx": false,
	} {
		if got := w.Matches(id, "sha256:ff"); got != want {
			t.Errorf("%q: %t, want %t", id, got, want)
		}
	}
	if !w.Matches("", key) {
		t.Error("the key is not watched")
	}
}
