package tlog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/internal/fault"
)

func newMonitor(t *testing.T, l *Log) (*Monitor, *[]Record) {
	var got []Record
	return &Monitor{
		Source: Dir{Path: l.opts.Dir}, Verifier: l.Verifier(), State: filepath.Join(t.TempDir(), "state.json"),
		Entry: func(_ context.Context, r Record) error { got = append(got, r); return nil },
	}, &got
}

func TestMonitor(t *testing.T) {
	l := open(t, options(t, openStore(t)))
	m, got := newMonitor(t, l)
	total := 0
	for i, n := range []int{0, 1, 0, 260, 700} {
		add(t, l, total, n)
		before := total
		total += n
		rep, err := m.Check(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if rep.First != (i == 0) || rep.Before != uint64(before) || rep.Size != uint64(total) || rep.Reported != uint64(n) {
			t.Errorf("%+v, want %d more than %d", rep, n, before)
		}
	}
	for i, r := range *got {
		if r.Index != uint64(i) {
			t.Fatalf("entry %d was reported as number %d", r.Index, i)
		}
	}
	// One that stops over an entry gets it again.
	add(t, l, total, 5)
	keep := m.Entry
	stop := errors.New("stop")
	m.Entry = func(ctx context.Context, r Record) error {
		if r.Index == uint64(total+2) {
			return stop
		}
		return keep(ctx, r)
	}
	if _, err := m.Check(t.Context()); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	m.Entry = keep
	if rep, err := m.Check(t.Context()); err != nil || rep.Reported != 3 || len(*got) != total+5 {
		t.Errorf("%+v, %v, %d entries", rep, err, len(*got))
	}
}

// TestThreat_Store_RewrittenHistory: folder and database were set back together
// and written on. The log sees nothing wrong; the monitor does.
func TestThreat_Store_RewrittenHistory(t *testing.T) {
	db := openStore(t)
	o := options(t, db)
	l := open(t, o)
	add(t, l, 0, 20)
	mustClose(t, l)
	backup, old := filepath.Join(t.TempDir(), "backup"), saveRecord(t, db)
	copyDir(t, o.Dir, backup)
	l = open(t, o)
	add(t, l, 20, 300)
	m, _ := newMonitor(t, l)
	if _, err := m.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	copyDir(t, backup, o.Dir)
	restoreRecord(t, db, old)

	l = open(t, o)
	if _, err := m.Check(t.Context()); !errors.Is(err, fault.Tampered) || !strings.Contains(err.Error(), "it had 320 entries and now shows 20") {
		t.Errorf("shrunk: %v", err)
	}
	if err := os.Remove(m.State + ".fork"); err != nil {
		t.Errorf("no proof of the fork was kept: %v", err)
	}
	add(t, l, 1000, 300)
	if _, err := m.Check(t.Context()); !errors.Is(err, fault.Tampered) || !strings.Contains(err.Error(), "two roots for 320 entries") {
		t.Errorf("same size: %v", err)
	}
	add(t, l, 2000, 30)
	if _, err := m.Check(t.Context()); !errors.Is(err, fault.Tampered) || !strings.Contains(err.Error(), "does not extend") {
		t.Errorf("longer: %v", err)
	}
	b, err := os.ReadFile(m.State + ".fork")
	if err != nil || !strings.Contains(string(b), "320") {
		t.Errorf("the proof of the fork: %q, %v", b, err)
	}
}

// TestThreat_Bundle_LogKeyFromTheLog: a log that answers with another key is not
// believed (CVE-2023-47122).
func TestThreat_Bundle_LogKeyFromTheLog(t *testing.T) {
	l := open(t, options(t, openStore(t)))
	add(t, l, 0, 3)
	m, _ := newMonitor(t, l)
	v, err := NewVerifier(testOrigin, newKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	m.Verifier = v
	if _, err := m.Check(t.Context()); !errors.Is(err, fault.Unverified) {
		t.Errorf("%v, want unverified", err)
	}
}

func TestMonitorState(t *testing.T) {
	l := open(t, options(t, openStore(t)))
	m, _ := newMonitor(t, l)
	if _, err := m.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(m.State)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"cut":     string(b[:len(b)/2]),
		"ahead":   strings.Replace(string(b), `"next":0`, `"next":9`, 1),
		"unknown": strings.Replace(string(b), `"next":0`, `"next":0,"x":1`, 1),
		"doubled": strings.Replace(string(b), `"next":0`, `"next":0,"next":0`, 1),
		"forged":  strings.Replace(string(b), `\n0\n`, `\n1\n`, 1),
	} {
		if bad == string(b) {
			t.Fatalf("%s: the case changes nothing", name)
		}
		if err := os.WriteFile(m.State, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Check(t.Context()); err == nil {
			t.Errorf("%s: a damaged state was taken", name)
		}
	}
}

// TestThreat_Log_SplitView: the log shows us one history and others another.
func TestThreat_Log_SplitView(t *testing.T) {
	o := options(t, openStore(t))
	ours := open(t, o)
	add(t, ours, 0, 20)
	m, _ := newMonitor(t, ours)
	if _, err := m.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	twin := options(t, openStore(t))
	twin.Signer = o.Signer
	theirs := open(t, twin)
	note := func(l *Log) []byte {
		b, err := l.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	older := note(ours)
	add(t, ours, 20, 5)
	if _, err := m.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"the same": note(ours), "an older one": older} {
		if err := m.Compare(t.Context(), b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// One that we have not read yet.
	add(t, ours, 25, 5)
	if err := m.Compare(t.Context(), note(ours)); err != nil {
		t.Errorf("a newer one of the same log: %v", err)
	}
	for name, n := range map[string]int{"shorter": 10, "of the same size": 20, "longer": 30} {
		add(t, theirs, 1000+n, n)
		if err := m.Compare(t.Context(), note(theirs)); !errors.Is(err, fault.Tampered) {
			t.Errorf("another history, %s (%d entries): %v, want tampered", name, theirs.Head().Size, err)
		}
		if err := os.Remove(m.State + ".fork"); err != nil {
			t.Errorf("%s: no proof was kept: %v", name, err)
		}
	}
	if err := m.Compare(t.Context(), []byte("no checkpoint")); !errors.Is(err, fault.Invalid) {
		t.Errorf("what is no checkpoint: %v", err)
	}
}
