package server

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"assay/backup"
	"assay/event"
	"assay/internal/fault"
)

// copyFile takes a database as a careless operator does.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// opens wants New to fail, with words, or to succeed when there are none.
func (s *testSite) opens(words ...string) error {
	s.t.Helper()
	srv, err := New(s.t.Context(), s.cfg, s.opts)
	if err == nil {
		if cerr := srv.Close(); cerr != nil {
			s.t.Error(cerr)
		}
	}
	if (err == nil) != (len(words) == 0) {
		s.t.Fatalf("start: %v, want words %q", err, words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			s.t.Errorf("start: %v, want %q in it", err, w)
		}
	}
	return err
}

func (s *testSite) logSomething() {
	s.t.Helper()
	if _, err := s.tlog.Add(s.t.Context(), []byte("entry at "+time.Now().String())); err != nil {
		s.t.Fatal(err)
	}
}

func (s *testSite) reconcile(q backup.Question) ([]backup.Outcome, error) {
	s.t.Helper()
	o, err := OpenOffline(s.t.Context(), s.cfg, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = o.Close() }()
	q.Data, q.DB, q.Logs, q.Now, q.By = o.Site.Data, o.Site.DB, o.Site.Logs, time.Now, "test"
	return backup.Reconciliation(s.t.Context(), q)
}

// An older database under a newer log is not gone on with: its chain of events
// would be signed and published a second time.
func TestThreat_Store_OlderDatabaseUnderNewerLog(t *testing.T) {
	s := newSite(t, true, nil)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	db, old := filepath.Join(s.cfg.Data, "assay.db"), filepath.Join(t.TempDir(), "old.db")
	copyFile(t, db, old)
	s.start()
	s.logSomething()
	size := s.tlog.Head().Size
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	copyFile(t, old, db)
	_ = os.Remove(db + "-wal")
	_ = os.Remove(db + "-shm")
	if err := s.opens("the database is older than the log", "reconcile"); !errors.Is(err, fault.Tampered) {
		t.Fatal(err)
	}
	// Nothing but an operator's word brings it back, whatever the log itself knows.
	notes := [][]byte{}
	for _, dir := range []string{"log", "ct"} {
		b, err := os.ReadFile(filepath.Join(s.cfg.Data, dir, "checkpoint"))
		if err != nil {
			t.Fatal(err)
		}
		notes = append(notes, b)
	}
	if _, err := s.reconcile(backup.Question{Known: notes}); !errors.Is(err, fault.Undecided) {
		t.Fatalf("%v, want undecided", err)
	}
	if _, err := s.reconcile(backup.Question{Known: notes, AcceptLoss: true, Reason: " "}); !errors.Is(err, fault.Invalid) {
		t.Fatalf("no reason: %v", err)
	}
	outs, err := s.reconcile(backup.Question{Known: notes, AcceptLoss: true, Reason: "disk 2 died"})
	if err != nil || outs[0].How != "loss accepted" || outs[0].Size < size {
		t.Fatalf("%+v, %v", outs, err)
	}
	s.start()
	found := false
	for range 200 {
		es, err := s.events.Query(t.Context(), event.Filter{Kinds: []event.Kind{event.RestoreReconciled}})
		if err != nil {
			t.Fatal(err)
		}
		if found = len(es) == 1 && strings.Contains(string(mustJSON(es[0].Body)), "disk 2 died"); found {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !found {
		t.Error("the loss is not in the event log")
	}
	s.logSomething()
}

// What the first start made is missed when it is gone.
func TestThreat_Store_LostDatabaseIsNoFirstStart(t *testing.T) {
	for _, gone := range []string{"assay.db", "log", "ct"} {
		s := newSite(t, true, nil)
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(s.cfg.Data, gone)); err != nil {
			t.Fatal(err)
		}
		if err := s.opens("is gone"); !errors.Is(err, fault.Tampered) {
			t.Fatalf("%s: %v", gone, err)
		}
	}
}

// A restored site waits; every way to let its log go on.
func TestThreat_Log_RestoredOlderLogForks(t *testing.T) {
	s := newSite(t, true, nil)
	s.logSomething()
	ctx := t.Context()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	keys := backup.Keys{Recipients: []string{id.Recipient().String()}, Identities: []byte(id.String())}
	repo, err := backup.OpenFolder(filepath.Join(t.TempDir(), "repo"), true)
	if err != nil {
		t.Fatal(err)
	}
	defer repo.Close()
	l := backUp(t, s, repo, keys)
	at := read(t, s.cfg.Data, "log/checkpoint") // what a client saw at the time of the backup
	ctAt := read(t, s.cfg.Data, "ct/checkpoint")
	s.logSomething()
	later := read(t, s.cfg.Data, "log/checkpoint")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	restore := func(t *testing.T) *testSite {
		t.Helper()
		dir, err := os.MkdirTemp("", "assay-site-") //nolint:usetesting // a socket's path is short
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		r := &testSite{t: t, cfg: s.cfg, opts: s.opts, logs: s.logs}
		r.cfg.Data = filepath.Join(dir, "data")
		target, err := RestoreTarget(s.cfg, r.cfg.Data, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := backup.Restore(ctx, l, repo, keys, target); err != nil {
			t.Fatal(err)
		}
		return r
	}
	t.Run("it waits", func(t *testing.T) {
		r := restore(t)
		r.start()
		size := r.tlog.Head().Size
		if _, err := r.tlog.Add(t.Context(), []byte("x")); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "reconcile") {
			t.Fatalf("the restored log took an entry: %v", err)
		}
		// A backup of it is one of what it has.
		if l := backUp(t, r, repo2(t), keys); l.Logs[0].Size != size {
			t.Fatalf("%+v", l.Logs)
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		if string(read(t, r.cfg.Data, "log/checkpoint")) != string(at) {
			t.Fatal("the restored log signed something")
		}
	})
	t.Run("nobody saw more", func(t *testing.T) {
		r := restore(t)
		if _, err := r.reconcile(backup.Question{Known: [][]byte{at}}); !errors.Is(err, fault.Undecided) {
			t.Fatalf("of ct nothing is known: %v", err)
		}
		if _, err := r.reconcile(backup.Question{Known: [][]byte{at, ctAt}}); err != nil {
			t.Fatal(err)
		}
		r.start()
		r.logSomething()
	})
	t.Run("somebody saw more", func(t *testing.T) {
		r := restore(t)
		if _, err := r.reconcile(backup.Question{Known: [][]byte{later, ctAt}, AcceptLoss: true, Reason: "x"}); !errors.Is(err, fault.Conflict) {
			t.Fatalf("what is known to be longer was overruled: %v", err)
		}
		if _, err := r.reconcile(backup.Question{Known: [][]byte{[]byte("127.0.0.1\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— 127.0.0.1 AAAAAAAA\n")}, AcceptLoss: true, Reason: "x"}); err == nil {
			t.Fatal("a checkpoint that the log did not sign was taken")
		}
		r.opens() // held still, and nothing was changed
	})
	t.Run("loss accepted", func(t *testing.T) {
		r := restore(t)
		if _, err := r.reconcile(backup.Question{AcceptLoss: true, Reason: "no copy"}); err != nil {
			t.Fatal(err)
		}
		r.start()
		r.logSomething()
	})
}

func repo2(t *testing.T) *backup.Folder {
	t.Helper()
	r, err := backup.OpenFolder(filepath.Join(t.TempDir(), "repo"), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func backUp(t *testing.T, s *testSite, repo backup.Repo, keys backup.Keys) backup.Listed {
	t.Helper()
	o, err := OpenOffline(t.Context(), s.cfg, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = o.Close() }()
	signer, done, err := BackupSigner(t.Context(), s.cfg, o.Site.DB, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = done() }()
	l, err := backup.Create(t.Context(), o.Site, repo, keys, signer)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The socket signs manifests of this site, and nothing else.
func TestSignBackup(t *testing.T) {
	s := newSite(t, true, nil)
	for _, body := range []string{"x", "{}", `{"version":1,"host":"other"}`} {
		if _, err := s.admin.SignBackup(t.Context(), []byte(body)); err == nil {
			t.Errorf("%q was signed", body)
		}
	}
	a, err := s.admin.SignBackup(t.Context(), nil)
	if err != nil || !strings.HasPrefix(a.Fingerprint, "sha256:") || len(a.Envelope) > 0 {
		t.Fatalf("%+v, %v", a, err)
	}
}
