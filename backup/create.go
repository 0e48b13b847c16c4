package backup

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"assay/artifact"
	"assay/blob"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/store"
	"assay/tlog"
	"assay/tlog/ct"
)

// Site is what is backed up.
type Site struct {
	Data    string // the data folder
	Host    string
	Program string // name and version of this binary
	DB      *store.DB
	Blobs   blob.Store
	Logs    []Log
	// References gives each blob that rows of the snapshot name.
	References func(ctx context.Context, tx *store.Tx, fn func(artifact.Digest) error) error
	Logger     *slog.Logger
	// First are files of the data folder that are read before the snapshot of the
	// database, since what leaves them comes into it.
	First []string
	// Pin keeps every blob until it is released; nil: nothing deletes blobs.
	Pin func(ctx context.Context) (release func(), err error)
}

// Log is one of the site's logs.
type Log struct {
	Name   string // "log", "ct"
	Folder string // below the data folder
	Origin string
	CT     bool
	Keys   []crypto.PublicKey // any of them may have signed its checkpoint; rotation leaves several
}

func (l Log) codec() tlog.Codec {
	if l.CT {
		return ct.Codec{}
	}
	return tlog.Plain{}
}

// parse reads a checkpoint that one of the log's keys signed.
func (l Log) parse(b []byte) (cp tlog.Checkpoint, err error) {
	err = fault.Newf(fault.Invalid, "the log %s has no key", l.Origin)
	for _, k := range l.Keys {
		var v note.Verifier
		if l.CT {
			v, err = tlog.NewCTVerifier(l.Origin, k)
		} else {
			v, err = tlog.NewVerifier(l.Origin, k)
		}
		if err != nil {
			return cp, err
		}
		if cp, err = tlog.ParseCheckpoint(b, v); err == nil || !errors.Is(err, fault.Unverified) {
			return cp, err
		}
	}
	return cp, err
}

func marshalKeys(keys []crypto.PublicKey) (all [][]byte, err error) {
	for _, k := range keys {
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err)
		}
		all = append(all, der)
	}
	return all, nil
}

func parseKeys(ders [][]byte) (all []crypto.PublicKey, err error) {
	for _, der := range ders {
		k, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			return nil, fault.Wrap(fault.Tampered, err)
		}
		all = append(all, k)
	}
	return all, nil
}

// namesFile holds the key of the pieces' names. Losing it costs a backup that
// writes everything again.
const namesFile = "backup.names"

// Create makes a backup. What it wrote before an error is taken up by nobody and
// goes with the next [Prune].
func Create(ctx context.Context, site Site, r Repo, keys Keys, signer Signer) (Listed, error) {
	to, recipients, err := keys.recipients(ctx, r)
	if err != nil {
		return Listed{}, err
	}
	names, err := namesKey(site.Data)
	if err != nil {
		return Listed{}, err
	}
	if site.Pin != nil {
		release, err := site.Pin(ctx)
		if err != nil {
			return Listed{}, err
		}
		defer release()
	}
	m := Manifest{Version: formatVersion, Host: site.Host, Program: site.Program, Recipients: recipients, CreatedAt: site.DB.Now(), Logs: []LogHead{}}
	m.ID = m.CreatedAt.Format(idTime) + "-" + strings.ToLower(rand.Text()[:8])
	known, err := parent(ctx, r, &m, signer)
	if err != nil {
		return Listed{}, err
	}
	s := newSink(ctx, r, to, names, known)
	defer s.abandon()
	c := &creation{site: site, sink: s, m: &m, named: map[artifact.Digest]bool{}}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{{"journal", c.first}, {"database", c.database}, {"logs", c.logs}, {"files", c.files}, {"blobs", c.blobs}} {
		if err := step.do(s.ctx); err != nil {
			if ferr := s.failed(); ferr != nil { // what ended the context says more
				err = ferr
			}
			return Listed{}, fmt.Errorf("back up the %s: %w", step.what, err)
		}
	}
	list, err := s.finish()
	if err != nil {
		return Listed{}, err
	}
	m.Index, m.Counts = s.list, s.counts
	m.Objects = List{Name: listName(m.ID), SHA256: hexSum(list), Count: m.Counts.Objects}
	return write(ctx, r, m, list, signer)
}

func write(ctx context.Context, r Repo, m Manifest, list []byte, signer Signer) (Listed, error) {
	payload, err := json.Marshal(m)
	if err != nil {
		return Listed{}, err
	}
	envelope, key, err := signer.SignBackup(ctx, payload)
	if err != nil {
		return Listed{}, fmt.Errorf("sign the manifest: %w", err)
	}
	b, err := json.Marshal(signed{Key: string(key), Envelope: envelope})
	if err != nil {
		return Listed{}, err
	}
	if err := r.Put(ctx, listName(m.ID), list); err != nil {
		return Listed{}, err
	}
	// Last: a backup exists when its manifest does.
	if err := r.Put(ctx, manifestName(m.ID), b); err != nil {
		return Listed{}, err
	}
	return Get(ctx, r, m.ID, "")
}

// parent takes the newest backup of this site as the one before, and gives its
// pieces as far as they lie there in their full size.
func parent(ctx context.Context, r Repo, m *Manifest, signer Signer) (map[string]stored, error) {
	ids, err := IDs(ctx, r)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	last, err := Get(ctx, r, ids[len(ids)-1], "")
	if err != nil {
		return nil, fmt.Errorf("the backup before cannot be relied on; verify it, and prune it or take another repository: %w", err)
	}
	if last.Host != m.Host {
		return nil, fault.Newf(fault.Conflict, "this repository holds backups of %s: take one of its own for %s", last.Host, m.Host)
	}
	// What another key signed is not relied on, so that nobody can plant pieces.
	if k, ok := signer.(interface {
		Fingerprint(context.Context) (string, error)
	}); ok {
		mine, err := k.Fingerprint(ctx)
		if err != nil {
			return nil, err
		}
		if mine != last.Key {
			return nil, nil
		}
	}
	known, err := objects(ctx, r, last.Manifest)
	if err != nil {
		return nil, err
	}
	there := make(map[string]stored, len(known))
	if err := r.List(ctx, "objects/", func(name string, size int64, _ time.Time) error {
		n := path.Base(name)
		if k, ok := known[n]; ok && k.size == size {
			there[n] = k
		}
		return nil
	}); err != nil {
		return nil, err
	}
	m.Parent = last.ID
	return there, nil
}

func namesKey(data string) ([]byte, error) {
	p := filepath.Join(data, namesFile)
	b, err := os.ReadFile(p)
	if errors.Is(err, fs.ErrNotExist) {
		key := make([]byte, 32)
		_, _ = rand.Read(key) // never fails
		if err := durable.CreateFile(p, []byte(hex.EncodeToString(key)+"\n"), 0o600); err != nil {
			return nil, err
		}
		return key, nil
	}
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(key) != 32 {
		return nil, fault.Newf(fault.Tampered, "%s does not read: remove it; the next backup is then a full one", p)
	}
	return key, nil
}

// creation is a backup under way.
type creation struct {
	site  Site
	sink  *sink
	m     *Manifest
	heads []tlog.Checkpoint // of site.Logs, at the snapshot
	named map[artifact.Digest]bool
}

// database reads the snapshot: rows, the logs' recorded checkpoints, and the
// blobs that are named.
func (c *creation) database(ctx context.Context) error {
	return c.site.DB.View(ctx, func(tx *store.Tx) error {
		steps, err := tx.Steps(ctx)
		if err != nil {
			return err
		}
		if err := c.sink.index(entry{Steps: steps}); err != nil {
			return err
		}
		for _, l := range c.site.Logs {
			b, err := tlog.Recorded(ctx, tx, l.Origin)
			if err != nil {
				return fmt.Errorf("the recorded checkpoint of %s: %w", l.Origin, err)
			}
			cp, err := l.parse(b)
			if err != nil {
				return err
			}
			c.heads = append(c.heads, cp)
			c.m.Logs = append(c.m.Logs, LogHead{l.Name, l.Origin, cp.Size, hex.EncodeToString(cp.Root[:])})
		}
		if err := c.site.References(ctx, tx, func(d artifact.Digest) error { c.named[d] = true; return nil }); err != nil {
			return err
		}
		tables, err := tx.Tables(ctx)
		if err != nil {
			return err
		}
		for _, t := range tables {
			if err := c.table(ctx, tx, t); err != nil {
				return fmt.Errorf("table %s: %w", t.Name, err)
			}
		}
		return nil
	})
}

// rowPiece is the mean size of a piece of rows. Where it ends is decided by the
// rows themselves, so that a row more or less changes one piece and not all that
// follow.
const rowPiece = 512 << 10

func (c *creation) table(ctx context.Context, tx *store.Tx, t store.Table) error {
	e := &tableEntry{Table: t, Pieces: []Piece{}}
	var buf []byte
	flush := func() error {
		if len(buf) == 0 {
			return nil
		}
		p, err := c.sink.content(buf)
		e.Pieces, buf = append(e.Pieces, p), nil
		return err
	}
	err := tx.Rows(ctx, t, func(line []byte) error {
		if len(line) > maxPiece {
			return fault.Newf(fault.TooLarge, "a row of %d bytes", len(line))
		}
		if len(buf)+len(line) > maxPiece {
			if err := flush(); err != nil {
				return err
			}
		}
		buf = append(buf, line...)
		e.Rows++
		h := fnv.New64a()
		h.Write(line)
		if h.Sum64()*0x9E3779B97F4A7C15 < math.MaxUint64/rowPiece*uint64(min(len(line), rowPiece)) {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return err
	}
	c.sink.counts.Rows += e.Rows
	return c.sink.index(entry{Table: e})
}

// logs copies each log at the size of the snapshot, checking every entry.
func (c *creation) logs(ctx context.Context) error {
	for i, l := range c.site.Logs {
		ders, err := marshalKeys(l.Keys)
		if err != nil {
			return err
		}
		cp := c.heads[i]
		if err := c.sink.index(entry{Log: &logEntry{l.Name, l.Folder, l.Origin, l.CT, ders, cp.Note}}); err != nil {
			return err
		}
		dir := tlog.Dir{Path: filepath.Join(c.site.Data, l.Folder), Folder: l.codec().Folder()}
		tree, err := tlog.LoadTree(ctx, dir, l.codec(), cp)
		if err != nil {
			return err
		}
		if err := tree.Files(ctx, func(name string, data []byte) error {
			return c.file(l.Folder+"/"+name, data)
		}); err != nil {
			return err
		}
		if err := c.file(l.Folder+"/checkpoint", cp.Note); err != nil {
			return err
		}
	}
	return nil
}

func (c *creation) file(name string, data []byte) error {
	e := &fileEntry{Path: name, Size: int64(len(data)), SHA256: hexSum(data), Pieces: []Piece{}}
	for len(data) > 0 {
		n := min(len(data), maxPiece)
		p, err := c.sink.content(data[:n])
		if err != nil {
			return err
		}
		e.Pieces, data = append(e.Pieces, p), data[n:]
	}
	c.sink.counts.Files++
	return c.sink.index(entry{File: e})
}

// leftOut says what of the data folder is not copied as files: the database,
// the blobs and the logs come by themselves; sockets and locks belong to a
// process; what unlocks keys must never lie beside them.
func (c *creation) leftOut(name string) bool {
	first, _, _ := strings.Cut(name, "/")
	for _, l := range c.site.Logs {
		if first == l.Folder {
			return true
		}
	}
	base := path.Base(name)
	switch {
	case slices.Contains(c.site.First, name):
		return true
	case first == "blobs", first == "run", name == "lock", name == MarkerFile, strings.HasPrefix(name, "assay.db"):
		return true
	case base == "unlock", strings.HasSuffix(base, ".unlock"), strings.HasPrefix(base, "unlock."):
		return true
	}
	return strings.HasPrefix(base, ".") // a file that is being written
}

const maxFile = 256 << 20 // bytes; certificates, keys, TUF metadata have some KiB

// files copies what else the data folder holds. The TUF timestamp comes first:
// what it refers to is there when it is read.
func (c *creation) files(ctx context.Context) error {
	root, err := os.OpenRoot(c.site.Data)
	if err != nil {
		return err
	}
	defer root.Close()
	names := []string{"tuf/timestamp.json"}
	if err := fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		switch {
		case err != nil, name == ".", ctx.Err() != nil:
		case c.leftOut(name):
			if e.IsDir() {
				return fs.SkipDir
			}
		case e.Type().IsRegular() && name != names[0]:
			names = append(names, name)
		}
		return ctx.Err()
	}); err != nil {
		return err
	}
	return c.copyFiles(root, names)
}

// first copies what is to be read before the database.
func (c *creation) first(context.Context) error {
	root, err := os.OpenRoot(c.site.Data)
	if err != nil {
		return err
	}
	defer root.Close()
	return c.copyFiles(root, c.site.First)
}

func (c *creation) copyFiles(root *os.Root, names []string) error {
	for _, name := range names {
		f, err := root.Open(filepath.FromSlash(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // replaced or removed since
		}
		if err != nil {
			return err
		}
		b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		if len(b) > maxFile {
			return fault.Newf(fault.TooLarge, "%s has more than %d bytes: it is none of a data folder's files", name, maxFile)
		}
		if err := c.file(name, b); err != nil {
			return err
		}
	}
	return nil
}

// blobs copies every blob that is there now, which includes all that the
// snapshot names but what was deleted meanwhile.
func (c *creation) blobs(ctx context.Context) error {
	if err := c.site.Blobs.Walk(ctx, func(i blob.Info) error {
		delete(c.named, i.Digest)
		err := c.blob(ctx, i)
		switch {
		case errors.Is(err, fault.NotFound): // deleted while it was read
			return nil
		case errors.Is(err, fault.Tampered):
			c.sink.counts.Damaged++
			c.site.Logger.Error("a blob is damaged and is not in the backup", "digest", i.Digest, "error", err)
			return nil
		}
		return err
	}); err != nil {
		return err
	}
	for d := range c.named {
		c.sink.counts.Missing++
		if err := c.sink.index(entry{Missing: d}); err != nil {
			return err
		}
	}
	return nil
}

func (c *creation) blob(ctx context.Context, i blob.Info) error {
	e := &blobEntry{Digest: i.Digest, Size: i.Size, Pieces: []Piece{}}
	have := true
	for off, n := int64(0), 0; off < i.Size; n++ {
		p := Piece{c.sink.name(fmt.Sprintf("blob %s %d", i.Digest, n)), min(maxPiece, i.Size-off)}
		e.Pieces, off = append(e.Pieces, p), off+p.Size
		_, known := c.sink.known[p.Name]
		have = have && known
	}
	if have {
		for _, p := range e.Pieces {
			c.sink.has(p.Name)
		}
	} else if err := c.readBlob(ctx, e); err != nil {
		return err
	}
	c.sink.counts.Blobs++
	c.sink.counts.BlobBytes += i.Size
	return c.sink.index(entry{Blob: e})
}

func (c *creation) readBlob(ctx context.Context, e *blobEntry) (err error) {
	f, err := c.site.Blobs.Open(ctx, e.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	defer func() {
		if err != nil {
			c.sink.forget(e.Pieces)
		}
	}()
	h := e.Digest.Hash()
	// Pieces go out before the whole is known to be what its name says. Those of a
	// blob that is not are forgotten, lest the next backup rely on them.
	for k, p := range e.Pieces {
		data := make([]byte, p.Size)
		if _, err := io.ReadFull(f, data); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return fault.Newf(fault.Tampered, "blob %s is shorter than its %d bytes", e.Digest, e.Size)
			}
			return err
		}
		h.Write(data)
		if k == len(e.Pieces)-1 {
			if got := artifact.NewDigest(e.Digest.Algorithm(), h.Sum(nil)); got != e.Digest {
				return fault.Newf(fault.Tampered, "blob %s has the content of %s", e.Digest, got)
			}
		}
		if err := c.sink.add(p.Name, data, false); err != nil {
			return err
		}
	}
	return nil
}
