package backup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"assay/artifact"
	"assay/blob"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/store"
)

// Target is where a backup is restored to. DB and Blobs are empty.
type Target struct {
	Data       string // an absent or empty folder
	Open       func(ctx context.Context) (*store.DB, blob.Store, func() error, error)
	Migrations []store.Migrations // of this binary
	References func(ctx context.Context, tx *store.Tx, fn func(artifact.Digest) error) error
	Now        func() time.Time
	Logger     *slog.Logger
}

// Report says what a restore or a verification found to be whole.
type Report struct {
	Backup  string    `json:"backup"`
	Host    string    `json:"host"`
	TakenAt time.Time `json:"taken_at"`
	Key     string    `json:"key"`
	Objects int       `json:"objects"`
	Rows    int64     `json:"rows"`
	Files   int       `json:"files"`
	Blobs   int       `json:"blobs"`
	Bytes   int64     `json:"bytes"`
	Missing []string  `json:"missing,omitempty"` // blobs that rows name and the backup says it has not
	Logs    []LogHead `json:"logs"`
	Events  int64     `json:"events"` // last sealed event
}

// prepare takes the target folder, which must be empty, and marks it.
func prepare(to string, m Manifest) (unlock func() error, err error) {
	if es, err := os.ReadDir(to); err == nil && len(es) > 0 {
		if mk, _ := ReadMarker(to); mk != nil && mk.State == Incomplete {
			return nil, fault.Newf(fault.Conflict, "%s holds a restore that broke off: remove the folder and restore again", to)
		}
		return nil, fault.Newf(fault.Conflict, "%s is not empty: restore into a folder that is absent or empty, and put it in place after", to)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := durable.MkdirAll(to, 0o700); err != nil {
		return nil, err
	}
	if err := durable.CheckPrivate(to); err != nil {
		return nil, err
	}
	if err := (&Marker{State: Incomplete, Backup: m.ID, TakenAt: m.CreatedAt, Logs: []MarkedLog{}}).Write(to); err != nil {
		return nil, err
	}
	l, err := durable.Lock(filepath.Join(to, "lock"))
	if err != nil {
		return nil, err
	}
	return l.Close, nil
}

// Restore writes a backup into an empty folder, database and blob store, and
// verifies what it wrote: every blob by its digest, every log from its entries to
// its signed checkpoint, the chain of events and that its published heads are in
// the log, the database, and that each blob that rows name is there. Until all
// that is done the folder is marked incomplete, and after it "restored": its logs
// take no entries until they are reconciled.
func Restore(ctx context.Context, l Listed, r Repo, keys Keys, t Target) (_ Report, err error) {
	rd, err := newReader(ctx, r, l, keys)
	if err != nil {
		return Report{}, err
	}
	unlock, err := prepare(t.Data, l.Manifest)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	x := &restoration{reader: rd, t: t, missing: map[artifact.Digest]bool{}}
	if x.root, err = os.OpenRoot(t.Data); err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, x.root.Close()) }()
	var closeAll func() error
	if x.db, x.blobs, closeAll, err = t.Open(ctx); err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	if err := rd.entries(ctx, x.entry); err != nil {
		return Report{}, fmt.Errorf("restore %s: %w", l.ID, err)
	}
	if err := x.syncFolders(); err != nil {
		return Report{}, err
	}
	if err := x.verify(ctx); err != nil {
		return Report{}, fmt.Errorf("verify what was restored of %s: %w", l.ID, err)
	}
	m := Marker{State: Restored, Backup: l.ID, TakenAt: l.CreatedAt, RestoredAt: t.Now().UTC(), Logs: x.marks}
	return rd.report, m.Write(t.Data)
}

// reader reads a backup's pieces.
type reader struct {
	repo   Repo
	l      Listed
	ids    []age.Identity
	stored map[string]stored
	report Report
}

func newReader(ctx context.Context, r Repo, l Listed, keys Keys) (*reader, error) {
	ids, err := keys.identities(ctx, r)
	if err != nil {
		return nil, err
	}
	all, err := objects(ctx, r, l.Manifest)
	if err != nil {
		return nil, err
	}
	return &reader{repo: r, l: l, ids: ids, stored: all, report: Report{
		Backup: l.ID, Host: l.Host, TakenAt: l.CreatedAt, Key: l.Key, Objects: len(all), Logs: l.Logs,
	}}, nil
}

// piece reads one piece, checked against the signed list.
func (r *reader) piece(ctx context.Context, p Piece) ([]byte, error) {
	want, ok := r.stored[p.Name]
	if !ok || !validName(p.Name) {
		return nil, fault.Newf(fault.Tampered, "the index names a piece %.80q that the backup has not", p.Name)
	}
	b, err := object(ctx, r.repo, p.Name, want)
	if err != nil {
		return nil, err
	}
	data, err := unlock(r.ids, b, p.Size)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", p.Name, err)
	}
	return data, nil
}

func object(ctx context.Context, r Repo, name string, want stored) ([]byte, error) {
	b, err := r.Get(ctx, objectName(name), want.size)
	if errors.Is(err, fault.NotFound) || errors.Is(err, fault.TooLarge) {
		return nil, fault.Newf(fault.Tampered, "object %s: %w", name, err)
	}
	if err != nil {
		return nil, err
	}
	if int64(len(b)) != want.size || hexSum(b) != want.sum {
		return nil, fault.Newf(fault.Tampered, "object %s is not what was written: %d bytes with SHA-256 %.12s…, want %d with %.12s…", name, len(b), hexSum(b), want.size, want.sum)
	}
	return b, nil
}

// entries gives the lines of the index.
func (r *reader) entries(ctx context.Context, fn func(context.Context, entry) error) error {
	pr, pw := io.Pipe()
	go func() {
		for _, p := range r.l.Index {
			b, err := r.piece(ctx, p)
			if err == nil {
				_, err = pw.Write(b)
			}
			if err != nil {
				pw.CloseWithError(err)
				return
			}
		}
		pw.Close()
	}()
	defer pr.Close()
	sc := bufio.NewScanner(pr)
	sc.Buffer(nil, 256<<20) // a table of a hundred million rows lists its pieces in one line
	for sc.Scan() {
		var e entry
		if err := strictjson.Unmarshal(sc.Bytes(), &e, strictjson.RejectUnknown()); err != nil {
			return fault.Newf(fault.Tampered, "a line of the index does not read: %w", err)
		}
		if err := fn(ctx, e); err != nil {
			return err
		}
	}
	return sc.Err()
}

// restoration is a restore under way.
type restoration struct {
	*reader
	t       Target
	root    *os.Root
	db      *store.DB
	blobs   blob.Store
	tables  map[string]store.Table
	logs    []logEntry
	marks   []MarkedLog
	missing map[artifact.Digest]bool
	dirs    map[string]bool
}

func (x *restoration) entry(ctx context.Context, e entry) error {
	switch {
	case e.Steps != nil:
		return x.schema(ctx, e.Steps)
	case e.Table != nil:
		return x.table(ctx, e.Table)
	case e.Log != nil:
		x.logs = append(x.logs, *e.Log)
		return nil
	case e.File != nil:
		return x.file(ctx, e.File)
	case e.Blob != nil:
		return x.blob(ctx, e.Blob)
	case e.Missing != "":
		if err := e.Missing.Validate(); err != nil {
			return fault.Wrap(fault.Tampered, err)
		}
		x.missing[e.Missing] = true
		x.report.Missing = append(x.report.Missing, string(e.Missing))
		return nil
	}
	return fault.Newf(fault.Tampered, "a line of the index is empty")
}

// schema makes the tables as the backup's own version had them; the server's
// next start brings them up to date.
func (x *restoration) schema(ctx context.Context, steps []store.Step) error {
	if x.tables != nil {
		return fault.Newf(fault.Tampered, "the index lists the database twice")
	}
	sets, err := store.Upto(steps, x.t.Migrations)
	if err != nil {
		return err
	}
	var have []store.Table
	if err := x.db.View(ctx, func(tx *store.Tx) (err error) { have, err = tx.Tables(ctx); return err }); err != nil {
		return err
	}
	if len(have) > 0 {
		return fault.Newf(fault.Conflict, "the database to restore into is not empty: it has the table %s", have[0].Name)
	}
	if err := x.db.Migrate(ctx, sets...); err != nil {
		return err
	}
	if err := x.db.View(ctx, func(tx *store.Tx) (err error) { have, err = tx.Tables(ctx); return err }); err != nil {
		return err
	}
	x.tables = map[string]store.Table{}
	for _, t := range have {
		x.tables[t.Name] = t
	}
	return nil
}

func (x *restoration) table(ctx context.Context, e *tableEntry) error {
	have, ok := x.tables[e.Name]
	if !ok || !slices.Equal(have.Columns, e.Columns) {
		return fault.Newf(fault.Tampered, "the backup's table %.80q is not the one that its migrations make", e.Name)
	}
	if err := x.db.Update(ctx, func(tx *store.Tx) error { return tx.Delete(ctx, have) }); err != nil { // rows that a step made
		return err
	}
	n := int64(0)
	for _, p := range e.Pieces {
		data, err := x.piece(ctx, p)
		if err != nil {
			return err
		}
		lines := bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
		n += int64(len(lines))
		if err := x.db.Update(ctx, func(tx *store.Tx) error { return tx.Insert(ctx, have, lines) }); err != nil {
			return fmt.Errorf("table %s: %w", e.Name, err)
		}
	}
	if n != e.Rows {
		return fault.Newf(fault.Tampered, "table %s has %d rows in the backup, want %d", e.Name, n, e.Rows)
	}
	x.report.Rows += n
	return nil
}

// place says where a file of a backup may be written: below the data folder,
// under a plain name, and over nothing that the restore itself makes.
func place(name string) error {
	switch {
	case !filepath.IsLocal(filepath.FromSlash(name)), path.Clean(name) != name, strings.ContainsAny(name, "\\\x00:"),
		name == MarkerFile, name == "lock", strings.HasPrefix(name, "assay.db"), strings.HasPrefix(name, "run/"), strings.HasPrefix(name, "blobs/"), name == ".":
		return fault.Newf(fault.Tampered, "the backup has a file %.200q, which is none of a data folder's", name)
	}
	return nil
}

func (x *restoration) file(ctx context.Context, e *fileEntry) error {
	if err := place(e.Path); err != nil {
		return err
	}
	dir := path.Dir(e.Path)
	if err := x.root.MkdirAll(filepath.FromSlash(dir), 0o700); err != nil {
		return err
	}
	if x.dirs == nil {
		x.dirs = map[string]bool{}
	}
	for d := dir; !x.dirs[d]; d = path.Dir(d) {
		x.dirs[d] = true
	}
	// Exclusive: no name twice, and through no link.
	f, err := x.root.OpenFile(filepath.FromSlash(e.Path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fault.Newf(fault.Tampered, "the backup has the file %.200q twice", e.Path)
		}
		return diskError(err)
	}
	h, n := artifact.Digest("sha256:"+e.SHA256), int64(0)
	sum := artifact.SHA256Of(nil).Hash()
	for _, p := range e.Pieces {
		data, err := x.piece(ctx, p)
		if err == nil {
			_, err = f.Write(data)
		}
		if err != nil {
			return errors.Join(diskError(err), f.Close())
		}
		sum.Write(data)
		n += int64(len(data))
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return diskError(err)
	}
	if got := artifact.NewDigest(artifact.SHA256, sum.Sum(nil)); got != h || n != e.Size {
		return fault.Newf(fault.Tampered, "%s came out with %d bytes and %s, want %d and %s", e.Path, n, got, e.Size, h)
	}
	x.report.Files++
	x.report.Bytes += n
	return nil
}

func (x *restoration) syncFolders() error {
	for d := range x.dirs {
		if err := durable.SyncDir(filepath.Join(x.t.Data, filepath.FromSlash(d))); err != nil {
			return err
		}
	}
	return nil
}

func (x *restoration) blob(ctx context.Context, e *blobEntry) error {
	if err := e.Digest.Validate(); err != nil {
		return fault.Wrap(fault.Tampered, err)
	}
	w, err := x.blobs.Create(ctx)
	if err != nil {
		return err
	}
	for _, p := range e.Pieces {
		data, err := x.piece(ctx, p)
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			return errors.Join(err, w.Cancel())
		}
	}
	if w.Offset() != e.Size {
		return errors.Join(fault.Newf(fault.Tampered, "blob %s has %d bytes in the backup, want %d", e.Digest, w.Offset(), e.Size), w.Cancel())
	}
	if err := w.Commit(ctx, e.Digest); err != nil {
		if errors.Is(err, fault.Invalid) {
			err = fault.Wrap(fault.Tampered, err)
		}
		return err
	}
	x.report.Blobs++
	x.report.Bytes += e.Size
	return nil
}
