package tlog

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"

	"golang.org/x/mod/sumdb/note"
)

// testWitness is a small witness by C2SP tlog-witness: it verifies what it
// signs. e2e has a real one.
type testWitness struct {
	t    *testing.T
	name string
	key  ed25519.PrivateKey
	logs note.Verifiers
	url  string

	mu   sync.Mutex
	size uint64
	root Hash
	down bool
	sign func(text []byte) []byte // in place of its own
	asks int
}

func newTestWitness(t *testing.T, name string, log note.Verifier) *testWitness {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &testWitness{t: t, name: name, key: key, logs: note.VerifierList(log)}
	srv := httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(srv.Close)
	w.url = srv.URL
	return w
}

func (w *testWitness) vkey() string {
	pub := append([]byte{algCosignature}, w.key.Public().(ed25519.PublicKey)...)
	h := noteKeyHash(w.name, algCosignature, pub[1:])
	return fmt.Sprintf("%s+%08x+%s", w.name, binary.BigEndian.Uint32(h[:]), base64.StdEncoding.EncodeToString(pub))
}

func (w *testWitness) witness() Witness {
	k, err := ParseWitnessKey(w.vkey())
	if err != nil {
		w.t.Fatal(err)
	}
	return Witness{URL: w.url, Key: k}
}

func (w *testWitness) cosign(text []byte) []byte {
	now := uint64(time.Now().Unix())
	sig := ed25519.Sign(w.key, append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", now), text...))
	h := noteKeyHash(w.name, algCosignature, w.key.Public().(ed25519.PublicKey))
	raw := binary.BigEndian.AppendUint64(append([]byte(nil), h[:4]...), now)
	return fmt.Appendf(nil, "— %s %s\n", w.name, base64.StdEncoding.EncodeToString(append(raw, sig...)))
}

func (w *testWitness) serve(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asks++
	if w.down {
		http.Error(rw, "down", http.StatusServiceUnavailable)
		return
	}
	body, _ := io.ReadAll(r.Body)
	head, signed, _ := bytes.Cut(body, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	old, err := strconv.ParseUint(strings.TrimPrefix(lines[0], "old "), 10, 63)
	n, nerr := note.Open(signed, w.logs)
	if err != nil || nerr != nil {
		http.Error(rw, "bad", http.StatusForbidden)
		return
	}
	c, err := parseText(n.Text)
	if err != nil {
		http.Error(rw, "bad", http.StatusBadRequest)
		return
	}
	if old != w.size {
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		rw.WriteHeader(http.StatusConflict)
		fmt.Fprintf(rw, "%d\n", w.size)
		return
	}
	var proof [][]byte
	for _, l := range lines[1:] {
		p, _ := base64.StdEncoding.DecodeString(l)
		proof = append(proof, p)
	}
	switch {
	case w.size > c.Size, w.size == c.Size && w.root != c.Root:
		rw.WriteHeader(http.StatusUnprocessableEntity)
		return
	case w.size > 0 && w.size < c.Size:
		if err := VerifyConsistency(w.size, c.Size, proof, w.root[:], c.Root[:]); err != nil {
			rw.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
	}
	w.size, w.root = c.Size, c.Root
	sign := w.cosign
	if w.sign != nil {
		sign = w.sign
	}
	_, _ = rw.Write(sign([]byte(n.Text)))
}

func (w *testWitness) set(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
}

// witnessLog opens a log with witnesses.
func witnessLog(t *testing.T, o Options) *Log {
	t.Helper()
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func witnessOptions(t *testing.T) (Options, note.Verifier) {
	t.Helper()
	db := storetest.Open(t, store.SQLite)
	if err := db.Migrate(t.Context(), Migrations); err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	v, err := NewVerifier("log.test", key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return Options{Dir: t.TempDir(), Origin: "log.test", Signer: key, DB: db, Deduplicate: true}, v
}

func TestWitnesses(t *testing.T) {
	o, v := witnessOptions(t)
	a, b := newTestWitness(t, "a.test/w", v), newTestWitness(t, "b.test/w", v)
	var states []WitnessState
	var mu sync.Mutex
	o.Witnesses = Witnesses{All: []Witness{a.witness(), b.witness()}, Quorum: 2, Changed: func(s WitnessState) {
		mu.Lock()
		defer mu.Unlock()
		states = append(states, s)
	}}
	known := []*WitnessKey{a.witness().Key, b.witness().Key}
	l := witnessLog(t, o)
	have := func(e Entry) (out []string) {
		for _, c := range Cosignatures(e.Checkpoint, known) {
			out = append(out, c.Witness)
		}
		slices.Sort(out)
		return out
	}
	add := func(text string) Entry {
		t.Helper()
		e, err := l.Add(t.Context(), []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseCheckpoint(e.Checkpoint, v); err != nil {
			t.Fatal(err)
		}
		return e
	}
	for i := range 5 {
		if got := have(add(fmt.Sprint("entry ", i))); len(got) != 2 {
			t.Fatalf("entry %d: cosigned by %v", i, got)
		}
	}
	b.set(true)
	if got := have(add("without b")); len(got) != 1 {
		t.Errorf("with one witness down: %v", got)
	}
	mu.Lock()
	last := states[len(states)-1]
	mu.Unlock()
	if last.Reached || last.Missing["b.test/w"] == "" {
		t.Errorf("the outage was told as %+v", last)
	}
	// A restart finds what it published, and asks b again.
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b.set(false)
	l = witnessLog(t, o)
	if got := Cosignatures(l.Head().Note, known); len(got) != 2 {
		t.Errorf("after a restart with both: %v", got)
	}
	asks := a.asks
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = witnessLog(t, o)
	if a.asks != asks {
		t.Error("a checkpoint that has its quorum was witnessed anew")
	}
	if got := have(add("after")); len(got) != 2 {
		t.Errorf("after the restart: %v", got)
	}
}

func TestWitnessesRefuse(t *testing.T) {
	o, v := witnessOptions(t)
	a := newTestWitness(t, "a.test/w", v)
	o.Witnesses = Witnesses{All: []Witness{a.witness()}, Quorum: 1, Refuse: true, Wait: time.Second}
	var clock sync.Mutex
	now := time.Now()
	o.Clock = func() time.Time { clock.Lock(); defer clock.Unlock(); return now }
	l := witnessLog(t, o)
	if _, err := l.Add(t.Context(), []byte("first")); err != nil {
		t.Fatal(err)
	}
	a.set(true)
	if _, err := l.Add(t.Context(), []byte("second")); !errors.Is(err, fault.Unavailable) {
		t.Fatalf("without the witness: %v, want unavailable", err)
	}
	if got := l.Head().Size; got != 1 {
		t.Errorf("a checkpoint of %d entries is served, 1 was witnessed", got)
	}
	if _, err := l.Add(t.Context(), []byte("third")); !errors.Is(err, fault.Unavailable) {
		t.Errorf("still without: %v", err)
	}
	// A start in that state shows what was witnessed.
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = witnessLog(t, o)
	if got := l.Head().Size; got != 1 {
		t.Errorf("after a start without the witness, a checkpoint of %d entries is served", got)
	}
	a.set(false)
	clock.Lock()
	now = now.Add(2 * time.Minute)
	clock.Unlock()
	e, err := l.Add(t.Context(), []byte("second"))
	if err != nil || e.Index != 1 || !e.Duplicate {
		t.Fatalf("the entry that was recorded before: %+v, %v", e, err)
	}
	if got := Cosignatures(e.Checkpoint, []*WitnessKey{a.witness().Key}); len(got) != 1 {
		t.Error("it is answered under a checkpoint that was not witnessed")
	}
}

func TestThreat_Witness_Answers(t *testing.T) {
	other := newTestWitness(t, "b.test/w", &verifier{name: "x"})
	for name, sign := range map[string]func(w *testWitness, text []byte) []byte{
		"empty":         func(*testWitness, []byte) []byte { return nil },
		"another key's": func(_ *testWitness, text []byte) []byte { return other.cosign(text) },
		"over another size": func(w *testWitness, text []byte) []byte {
			return w.cosign(bytes.Replace(text, []byte("\n1\n"), []byte("\n2\n"), 1))
		},
		"a bit flipped": func(w *testWitness, text []byte) []byte { b := w.cosign(text); b[len(b)-10] ^= 1; return b },
		"a page":        func(*testWitness, []byte) []byte { return []byte("<html>welcome</html>\n") },
		"endless":       func(*testWitness, []byte) []byte { return bytes.Repeat([]byte("— a.test/w AAAA\n"), 1<<16) },
		"cosignature as a note": func(w *testWitness, text []byte) []byte {
			return append(append([]byte("\n"), text...), w.cosign(text)...)[:20]
		},
	} {
		t.Run(name, func(t *testing.T) {
			o, v := witnessOptions(t)
			w := newTestWitness(t, "a.test/w", v)
			w.sign = func(text []byte) []byte { return sign(w, text) }
			o.Witnesses = Witnesses{All: []Witness{w.witness()}, Quorum: 1, Refuse: true}
			l := witnessLog(t, o)
			if _, err := l.Add(t.Context(), []byte("x")); !errors.Is(err, fault.Unavailable) {
				t.Errorf("got %v, want unavailable", err)
			}
			if l.Head().Size != 0 {
				t.Error("the checkpoint was published")
			}
		})
	}
	t.Run("one key under two names", func(t *testing.T) {
		o, v := witnessOptions(t)
		a := newTestWitness(t, "a.test/w", v)
		twin := &testWitness{t: t, name: "twin.test/w", key: a.key, url: a.url}
		o.Witnesses = Witnesses{All: []Witness{a.witness(), twin.witness()}, Quorum: 2}
		if _, err := Open(t.Context(), o); !errors.Is(err, fault.Invalid) {
			t.Errorf("got %v, want invalid", err)
		}
		text := []byte("log.test\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n")
		signed := slices.Concat(text, []byte("\n"), a.cosign(text), twin.cosign(text), a.cosign(text))
		if got := Cosignatures(signed, []*WitnessKey{a.witness().Key, twin.witness().Key}); len(got) != 1 {
			t.Errorf("one key counts %d times", len(got))
		}
	})
	t.Run("a log that was rolled back", func(t *testing.T) {
		o, v := witnessOptions(t)
		w := newTestWitness(t, "a.test/w", v)
		o.Witnesses = Witnesses{All: []Witness{w.witness()}, Quorum: 1, Refuse: true}
		l := witnessLog(t, o)
		for i := range 3 {
			if _, err := l.Add(t.Context(), fmt.Append(nil, i)); err != nil {
				t.Fatal(err)
			}
		}
		// Folder and database together from the beginning: from inside it looks sound.
		old, _ := witnessOptions(t)
		old.Signer, old.Witnesses = o.Signer, o.Witnesses
		l = witnessLog(t, old)
		if _, err := l.Add(t.Context(), []byte("a new history")); !errors.Is(err, fault.Unavailable) {
			t.Errorf("got %v, want unavailable", err)
		}
		if l.Head().Size != 0 {
			t.Error("a forked log was published")
		}
	})
}

func FuzzCosignatures(f *testing.F) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	w := &testWitness{name: "a.test/w", key: key}
	k, err := ParseWitnessKey(w.vkey())
	if err != nil {
		f.Fatal(err)
	}
	text := []byte("log.test\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n")
	f.Add(slices.Concat(text, []byte("\n"), w.cosign(text)))
	f.Add([]byte("\n\n— a.test/w AAAA\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(Cosignatures(b, []*WitnessKey{k})); n > 1 {
			t.Errorf("one witness counts %d times", n)
		}
		if _, err := ParseWitnessKey(string(b)); err == nil && len(b) < 40 {
			t.Errorf("%q is no key", b)
		}
	})
}
