package backup_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/backup"
	"assay/blob"
	"assay/blob/s3"
	"assay/blob/s3/s3test"
	"assay/event"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/store"
	"assay/store/storetest"
	"assay/tlog"
	"assay/tlog/ct"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t testing.TB, what string, err error, kind *fault.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("%s: %v, want kind %v", what, err, kind)
	}
}

// named is the table of the test's own domain: rows that name blobs.
var named = store.Migrations{Name: "named", Steps: []string{`CREATE TABLE named (digest TEXT NOT NULL PRIMARY KEY, note BYTES)`}}

var sets = []store.Migrations{event.Migrations, tlog.Migrations, named}

func references(ctx context.Context, tx *store.Tx, fn func(artifact.Digest) error) error {
	rows, err := tx.Query(ctx, `SELECT digest FROM named`)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var d string
		if err := rows.Scan(&d); err != nil {
			return err
		}
		if err := fn(artifact.Digest(d)); err != nil {
			return err
		}
	}
	return rows.Err()
}

// world is a small site: database, blobs, both logs, files, and a repository.
type world struct {
	t    testing.TB
	site backup.Site
	log  *tlog.Log
	ct   *ct.CT
	id   *age.X25519Identity
	repo *backup.Folder
	dir  string // of repo
	key  backup.KeySigner
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
}

func newWorld(t testing.TB, db *store.DB) *world {
	ctx := t.Context()
	ok(t, db.Migrate(ctx, sets...))
	w := &world{t: t, id: must(age.GenerateX25519Identity())(t), dir: filepath.Join(t.TempDir(), "repo"), key: backup.KeySigner{Key: newKey(t)}}
	data := filepath.Join(t.TempDir(), "data")
	for _, dir := range []string{"keys", "tuf", "ca", "run"} {
		ok(t, os.MkdirAll(filepath.Join(data, dir), 0o700))
	}
	for name, text := range map[string]string{
		"site.json": "{}", "keys/log.pem": "secret", "keys/unlock": "passphrase", "tuf/timestamp.json": "t", "tuf/1.root.json": "r",
		"lock": "", "run/pid": "7", "keys/.tmp": "half",
	} {
		ok(t, os.WriteFile(filepath.Join(data, name), []byte(text), 0o600))
	}
	blobs := must(blob.NewDir(filepath.Join(data, "blobs"), blob.Options{}))(t)
	t.Cleanup(func() { _ = blobs.Close() })
	keys := []*ecdsa.PrivateKey{newKey(t), newKey(t)}
	w.log = must(tlog.Open(ctx, tlog.Options{Dir: filepath.Join(data, "log"), Origin: "site.example", Signer: keys[0], DB: db, Deduplicate: true}))(t)
	w.ct = must(ct.Open(ctx, ct.Options{Options: tlog.Options{Dir: filepath.Join(data, "ct"), Origin: "site.example/ct", Signer: keys[1], DB: db}}))(t)
	t.Cleanup(func() { _ = w.log.Close(); _ = w.ct.Close() })
	w.site = backup.Site{
		Data: data, Host: "site.example", Program: "test", DB: db, Blobs: blobs, References: references, Logger: slog.New(slog.DiscardHandler),
		Logs: []backup.Log{
			{Name: "log", Folder: "log", Origin: "site.example", Keys: []crypto.PublicKey{keys[0].Public()}},
			{Name: "ct", Folder: "ct", Origin: "site.example/ct", CT: true, Keys: []crypto.PublicKey{keys[1].Public()}},
		},
	}
	w.repo = must(backup.OpenFolder(w.dir, true))(t)
	t.Cleanup(func() { _ = w.repo.Close() })
	return w
}

func random(n int) []byte {
	b := make([]byte, n)
	r := mrand.New(mrand.NewPCG(3, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// blob stores content with a row that names it.
func (w *world) blob(b []byte) artifact.Digest {
	w.t.Helper()
	ctx := w.t.Context()
	d := must(blob.Put(ctx, w.site.Blobs, b))(w.t)
	ok(w.t, w.site.DB.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO named (digest, note) VALUES (?, ?)`, string(d), []byte{})
		return err
	}))
	return d
}

// entries logs n entries, and a certificate.
func (w *world) entries(n int) {
	w.t.Helper()
	size := w.log.Head().Size
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := w.log.Add(w.t.Context(), fmt.Appendf(nil, "entry %d of %d", i, size)); err != nil {
				w.t.Error(err)
			}
		})
	}
	wg.Wait()
	must(w.ct.AddPreCert(w.t.Context(), []byte("to be signed"), [32]byte{1}))(w.t)
}

// events seals some events and publishes their head.
func (w *world) events() {
	w.t.Helper()
	ctx, stop := context.WithCancel(w.t.Context())
	db := w.site.DB
	ok(w.t, db.Update(ctx, func(tx *store.Tx) error {
		return event.Append(ctx, tx, event.Event{Kind: event.ServerStarted, Actor: "test", Body: map[string]string{"version": "1"}})
	}))
	events := event.NewLog(db, event.LogOptions{})
	before, _ := events.LastHead(ctx)
	sealed := make(chan error, 1)
	go func() { sealed <- event.NewSealer(db, event.SealerOptions{}).Run(ctx) }()
	head := before
	for head.Batch == before.Batch && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
		head, _ = events.LastHead(ctx)
	}
	stop()
	<-sealed
	sum := artifact.SHA256Of(head.Text()).Bytes()
	e := must(w.log.Add(w.t.Context(), []byte("head "+base64.StdEncoding.EncodeToString(sum))))(w.t)
	// As the server does: by way of the outbox.
	ok(w.t, db.Update(w.t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(w.t.Context(), `INSERT INTO event_outbox (batch, due, log_index, logged) VALUES (?, 1, ?, 1)
			ON CONFLICT (batch) DO UPDATE SET log_index = excluded.log_index, logged = 1`, head.Batch, int64(e.Index))
		return err
	}))
}

func (w *world) keys() backup.Keys {
	return backup.Keys{Recipients: []string{w.id.Recipient().String()}, Identities: []byte(w.id.String())}
}

func (w *world) create() backup.Listed {
	w.t.Helper()
	return must(backup.Create(w.t.Context(), w.site, w.repo, w.keys(), w.key))(w.t)
}

// target is a place to restore to, with a database of the dialect.
func (w *world) target(dsn string) backup.Target {
	to := filepath.Join(w.t.TempDir(), "to")
	return backup.Target{
		Data: to, Migrations: sets, References: references, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
		Open: func(ctx context.Context) (*store.DB, blob.Store, func() error, error) {
			if dsn == "" {
				dsn = "sqlite:" + filepath.Join(to, "assay.db")
			}
			db, err := store.Open(ctx, dsn)
			if err != nil {
				return nil, nil, nil, err
			}
			blobs, err := blob.NewDir(filepath.Join(to, "blobs"), blob.Options{})
			if err != nil {
				return nil, nil, nil, errors.Join(err, db.Close())
			}
			return db, blobs, func() error { return errors.Join(blobs.Close(), db.Close()) }, nil
		},
	}
}

func (w *world) restore(l backup.Listed, dsn string) (backup.Target, backup.Report, error) {
	t := w.target(dsn)
	r, err := backup.Restore(w.t.Context(), l, w.repo, w.keys(), t)
	return t, r, err
}

func full(t testing.TB, db *store.DB) *world {
	w := newWorld(t, db)
	w.entries(300) // a full tile and more
	w.blob([]byte("hello"))
	w.blob(nil)
	w.blob(random(9<<20 + 17)) // two pieces
	w.events()
	return w
}

// rows reads a whole database.
func rows(t testing.TB, db *store.DB) map[string][]string {
	all := map[string][]string{}
	ok(t, db.View(t.Context(), func(tx *store.Tx) error {
		tables, err := tx.Tables(t.Context())
		if err != nil {
			return err
		}
		for _, table := range tables {
			all[table.Name] = []string{}
			if err := tx.Rows(t.Context(), table, func(line []byte) error { all[table.Name] = append(all[table.Name], string(line)); return nil }); err != nil {
				return err
			}
		}
		return nil
	}))
	return all
}

// From each database into each.
func TestThereAndBack(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := full(t, db)
		l := w.create()
		before := rows(t, db)
		// What comes after the backup is not in it.
		w.entries(3)
		w.blob([]byte("later"))
		for _, dialect := range storetest.Dialects {
			t.Run("into "+string(dialect), func(t *testing.T) {
				w.t = t
				dsn := ""
				if dialect == store.PostgreSQL {
					dsn = storetest.DSN(t, dialect)
				}
				to, rep, err := w.restore(l, dsn)
				ok(t, err)
				if rep.Blobs != 3 || rep.Events < 1 || rep.Logs[0].Size != 301 || rep.Logs[1].Size != 1 {
					t.Errorf("report: %+v", rep)
				}
				got, blobs, done, err := to.Open(t.Context())
				ok(t, err)
				defer func() { _ = done() }()
				if d := cmp.Diff(before, rows(t, got)); d != "" {
					t.Errorf("rows (-before +restored):\n%s", d)
				}
				if _, err := blobs.Stat(t.Context(), artifact.SHA256Of([]byte("later"))); !errors.Is(err, fault.NotFound) {
					t.Errorf("a later blob: %v", err)
				}
				var files []string
				ok(t, filepath.WalkDir(to.Data, func(p string, e fs.DirEntry, err error) error {
					rel := filepath.ToSlash(strings.TrimPrefix(p, to.Data+string(filepath.Separator)))
					if !e.IsDir() && !strings.HasPrefix(rel, "blobs/") && !strings.HasPrefix(rel, "log/") && !strings.HasPrefix(rel, "ct/") && !strings.HasPrefix(rel, "assay.db") {
						files = append(files, rel)
					}
					return err
				}))
				want := []string{"backup.names", "keys/log.pem", "lock", "restore.json", "site.json", "tuf/1.root.json", "tuf/timestamp.json"}
				if d := cmp.Diff(want, files); d != "" {
					t.Errorf("files (-want +got):\n%s", d)
				}
				m := must(backup.ReadMarker(to.Data))(t)
				if m.State != backup.Restored || m.Backup != l.ID || m.Logs[0].Size != 301 {
					t.Errorf("marker: %+v", m)
				}
				// Nothing is restored over it.
				to2 := to
				_, err = backup.Restore(t.Context(), l, w.repo, w.keys(), to2)
				wantKind(t, "a second time", err, fault.Conflict)
			})
		}
	})
}

func sqlite(t testing.TB) *store.DB { return storetest.Open(t, store.SQLite) }

func TestIncremental(t *testing.T) {
	w := full(t, sqlite(t))
	first := w.create()
	if first.Parent != "" || first.Counts.New != first.Counts.Objects {
		t.Fatalf("first: %+v", first.Counts)
	}
	second := w.create()
	if second.Parent != first.ID || second.Counts.NewBytes*20 > first.Counts.Bytes {
		t.Fatalf("nothing changed, and %d of %d bytes are new (%+v)", second.Counts.NewBytes, second.Counts.Bytes, second.Counts)
	}
	w.blob(random(1 << 20))
	w.entries(5)
	third := w.create()
	if n := third.Counts.NewBytes; n < 1<<20 || n > 3<<19 {
		t.Fatalf("1 MiB is new, and %d bytes were written", n)
	}
	t.Logf("incremental: first %d bytes, unchanged %d, with 1 MiB more %d", first.Counts.Bytes, second.Counts.NewBytes, third.Counts.NewBytes)
	p := must(backup.Prune(t.Context(), w.repo, 1, time.Now().Add(48*time.Hour)))(t)
	if d := cmp.Diff([]string{first.ID, second.ID}, p.Backups); d != "" || p.Objects == 0 {
		t.Fatalf("pruned %+v", p)
	}
	if _, _, err := w.restore(third, ""); err != nil {
		t.Fatalf("after pruning: %v", err)
	}
	_, err := backup.Get(t.Context(), w.repo, first.ID, "")
	wantKind(t, "the pruned backup", err, fault.NotFound)
}

// A young object may belong to a backup that is being made.
func TestPruneGrace(t *testing.T) {
	w := full(t, sqlite(t))
	w.create()
	orphan := "objects/ab/ab" + strings.Repeat("0", 62)
	ok(t, w.repo.Put(t.Context(), orphan, []byte("x")))
	must(backup.Prune(t.Context(), w.repo, 5, time.Now().Add(23*time.Hour)))(t)
	must(w.repo.Get(t.Context(), orphan, 10))(t)
	must(backup.Prune(t.Context(), w.repo, 5, time.Now().Add(25*time.Hour)))(t)
	_, err := w.repo.Get(t.Context(), orphan, 10)
	wantKind(t, "the old orphan", err, fault.NotFound)
	_, err = backup.Prune(t.Context(), w.repo, 0, time.Now())
	wantKind(t, "keep none", err, fault.Invalid)
}

func TestPassphrase(t *testing.T) {
	w := full(t, sqlite(t))
	keys := backup.Keys{Passphrase: []byte("correct horse")}
	l := must(backup.Create(t.Context(), w.site, w.repo, keys, w.key))(t)
	if l2 := must(backup.Create(t.Context(), w.site, w.repo, keys, w.key))(t); l2.Parent != l.ID {
		t.Fatal("the second backup does not build on the first")
	}
	to := w.target("")
	if _, err := backup.Restore(t.Context(), l, w.repo, keys, to); err != nil {
		t.Fatal(err)
	}
	_, err := backup.Verify(t.Context(), l, w.repo, &backup.Keys{Passphrase: []byte("wrong")})
	wantKind(t, "a wrong passphrase", err, fault.Denied)
}

func TestWrongKeys(t *testing.T) {
	w := full(t, sqlite(t))
	l := w.create()
	other := must(age.GenerateX25519Identity())(t)
	to := w.target("")
	_, err := backup.Restore(t.Context(), l, w.repo, backup.Keys{Identities: []byte(other.String())}, to)
	wantKind(t, "another identity", err, fault.Denied)
	_, err = backup.Get(t.Context(), w.repo, l.ID, "sha256:"+strings.Repeat("0", 64))
	wantKind(t, "another signer", err, fault.Unverified)
	_, err = backup.Create(t.Context(), w.site, w.repo, backup.Keys{}, w.key)
	wantKind(t, "nobody to encrypt to", err, fault.Invalid)
	site := w.site
	site.Host = "other.example"
	_, err = backup.Create(t.Context(), site, w.repo, w.keys(), w.key)
	wantKind(t, "another site's repository", err, fault.Conflict)
}

// Nothing of what is backed up can be read off the repository.
func TestNothingInTheClear(t *testing.T) {
	w := full(t, sqlite(t))
	d := w.blob([]byte("a very recognisable content"))
	l := w.create()
	ok(t, filepath.WalkDir(w.dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b := must(os.ReadFile(p))(t)
		for _, secret := range []string{"recognisable", "passphrase", "entry 1 of", d.Hex(), artifact.SHA256Of([]byte("secret")).Hex()} {
			if bytes.Contains(b, []byte(secret)) || strings.Contains(p, secret) {
				t.Errorf("%s holds %q", p, secret)
			}
		}
		return nil
	}))
	if l.Counts.Missing+l.Counts.Damaged != 0 {
		t.Fatalf("%+v", l.Counts)
	}
}

// Every flipped bit, cut file and missing object is found, with and without the
// identity, and by a restore, which leaves a folder on which nothing starts.
func TestDamage(t *testing.T) {
	w := full(t, sqlite(t))
	l := w.create()
	var files []string
	ok(t, filepath.WalkDir(w.dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, p)
		}
		return err
	}))
	if len(files) < 10 {
		t.Fatalf("%d files", len(files))
	}
	for i, p := range files {
		good := must(os.ReadFile(p))(t)
		bad := bytes.Clone(good)
		switch i % 3 {
		case 0:
			bad[len(bad)/2] ^= 0x10
		case 1:
			bad = bad[:len(bad)-1]
		case 2:
			ok(t, os.Remove(p))
			bad = nil
		}
		if bad != nil {
			ok(t, os.WriteFile(p, bad, 0o600))
		}
		found := func() error {
			l, err := backup.Get(t.Context(), w.repo, l.ID, "")
			if err != nil {
				return err
			}
			_, err = backup.Verify(t.Context(), l, w.repo, nil)
			return err
		}()
		if found == nil {
			t.Errorf("%s: the damage %d is not found", p, i%3)
		}
		if i < 6 && strings.Contains(p, "/objects/") { // some of them by restoring
			to, _, err := w.restore(l, "")
			wantKind(t, "restore of damage", err, fault.Tampered)
			if m := must(backup.ReadMarker(to.Data))(t); m == nil || m.State != backup.Incomplete {
				t.Errorf("a restore that failed left the marker %+v", m)
			}
		}
		ok(t, os.WriteFile(p, good, 0o600))
	}
	must(backup.Verify(t.Context(), l, w.repo, &backup.Keys{Identities: []byte(w.id.String())}))(t)
}

// Damage at the source does not go into a backup without a word.
func TestDamagedSource(t *testing.T) {
	w := full(t, sqlite(t))
	small := w.blob([]byte("sound"))
	gone := w.blob([]byte("gone"))
	at := func(d artifact.Digest) string {
		return filepath.Join(w.site.Data, "blobs", d.Algorithm(), d.Hex()[:2], d.Hex())
	}
	ok(t, os.WriteFile(at(small), []byte("souND"), 0o600))
	ok(t, os.Remove(at(gone)))
	l := w.create()
	if l.Counts.Damaged != 1 || l.Counts.Missing != 1 {
		t.Fatalf("%+v", l.Counts)
	}
	// The blob that was mended is written by the next, not taken as known.
	ok(t, os.WriteFile(at(small), []byte("sound"), 0o600))
	must(blob.Put(t.Context(), w.site.Blobs, []byte("gone")))(t)
	l = w.create()
	_, _, err := w.restore(l, "")
	ok(t, err)
	// A tile of the log that rotted stops it.
	p := filepath.Join(w.site.Data, "log", "tile", "entries", "000")
	b := must(os.ReadFile(p))(t)
	b[100] ^= 1
	ok(t, os.WriteFile(p, b, 0o600))
	_, err = backup.Create(t.Context(), w.site, w.repo, w.keys(), w.key)
	wantKind(t, "a rotten log", err, fault.Tampered)
}

// A repository in a bucket, with a second backup that builds on the first.
func TestRepositoryInABucket(t *testing.T) {
	srv := s3test.Start(t)
	o := srv.Bucket(t, "backups")
	o.Prefix = "site"
	r := must(s3.OpenObjects(t.Context(), o))(t)
	defer r.Close()
	w := full(t, sqlite(t))
	must(backup.Create(t.Context(), w.site, r, w.keys(), w.key))(t)
	w.blob(random(100_000))
	l := must(backup.Create(t.Context(), w.site, r, w.keys(), w.key))(t)
	if l.Parent == "" || l.Counts.New > 20 {
		t.Fatalf("%+v", l.Counts)
	}
	if _, err := backup.Restore(t.Context(), l, r, w.keys(), w.target("")); err != nil {
		t.Fatal(err)
	}
	p := must(backup.Prune(t.Context(), r, 1, time.Now().Add(48*time.Hour)))(t)
	if len(p.Backups) != 1 {
		t.Fatalf("%+v", p)
	}
	must(backup.Verify(t.Context(), l, r, nil))(t)
}

// A key of another time than the index of keys is found.
func TestKeysOfAnotherSite(t *testing.T) {
	w := full(t, sqlite(t))
	index := func(fingerprint string) {
		ok(t, os.WriteFile(filepath.Join(w.site.Data, "keys.json"), []byte(`{"version": 1, "keys": [{"name": "log", "fingerprint": "`+fingerprint+`", "where": "file"}]}`), 0o600))
	}
	index(must(keyring.Fingerprint(w.site.Logs[0].Keys[0]))(t))
	_, _, err := w.restore(w.create(), "")
	wantKind(t, "the certificate log's key is not in the index", err, fault.Tampered)
	both := must(keyring.Fingerprint(w.site.Logs[0].Keys[0]))(t) + `", "where": "offline"}, {"name": "ct", "fingerprint": "` + must(keyring.Fingerprint(w.site.Logs[1].Keys[0]))(t)
	ok(t, os.WriteFile(filepath.Join(w.site.Data, "keys", "ct.pem"), []byte("secret"), 0o600))
	index(both)
	_, _, err = w.restore(w.create(), "")
	ok(t, err)
	ok(t, os.Remove(filepath.Join(w.site.Data, "keys", "ct.pem")))
	_, _, err = w.restore(w.create(), "")
	wantKind(t, "a key file is gone", err, fault.Tampered)
}

// TestFirstFiles: files that are emptied into the database are in the backup as they
// were before its snapshot, so that what is not in the one is in the other.
func TestFirstFiles(t *testing.T) {
	w := newWorld(t, storetest.Open(t, store.SQLite))
	w.entries(3)
	w.events()
	p := filepath.Join(w.site.Data, "journal", "0")
	ok(t, os.MkdirAll(filepath.Dir(p), 0o700))
	ok(t, os.WriteFile(p, []byte("records"), 0o600))
	w.site.First = []string{"journal/0", "journal/1"} // of which the second is not there
	refs, asked := w.site.References, 0
	w.site.References = func(ctx context.Context, tx *store.Tx, fn func(artifact.Digest) error) error {
		asked++
		ok(t, os.WriteFile(p, []byte("emptied"), 0o600))
		return refs(ctx, tx, fn)
	}
	l := w.create()
	if asked == 0 {
		t.Fatal("the snapshot was not read: the test shows nothing")
	}
	to, _, err := w.restore(l, "")
	ok(t, err)
	if b := must(os.ReadFile(filepath.Join(to.Data, "journal", "0")))(t); string(b) != "records" {
		t.Errorf("restored %q, want what was there before the snapshot", b)
	}
}
