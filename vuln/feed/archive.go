package feed

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"assay/internal/fault"
	"assay/vuln"
)

// Limits bound what an archive may hold.
type Limits struct {
	Records int   // at most this many
	Bytes   int64 // unpacked, all together
}

// DefaultLimits hold several times what the largest public feed has today.
func DefaultLimits() Limits { return Limits{Records: 2_000_000, Bytes: 32 << 30} }

// Archive is a feed to be imported: some records, and what identifies the whole.
type Archive interface {
	// Digest names the bytes; "" when it would cost as much as reading them.
	Digest() string
	// Each gives every record, named for messages. The bytes are good until the
	// next one. It ends with the first error, which may be the caller's own.
	Each(lim Limits, fn func(name string, record []byte) error) error
	Close() error
}

// zipped is ECOSYSTEM/all.zip, as OSV exports it.
type zipped struct {
	file   *os.File
	r      *zip.Reader
	digest string
}

// OpenZip opens a zip of OSV records. What is no zip, or has been cut short, is
// fault.Invalid.
func OpenZip(name string) (Archive, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fault.Wrap(fault.NotFound, err)
	}
	h := sha256.New()
	size, err := io.Copy(h, f)
	if err != nil {
		f.Close()
		return nil, err
	}
	in := &opening{f: f}
	in.left.Store(maxDirectory)
	r, err := zip.NewReader(in, size)
	in.open.Store(true)
	if errors.Is(err, fault.TooLarge) {
		f.Close()
		return nil, err
	}
	if err != nil {
		f.Close()
		return nil, fault.Newf(fault.Invalid, "%w; was it cut short?", err)
	}
	return &zipped{f, r, "sha256:" + hex.EncodeToString(h.Sum(nil))}, nil
}

// maxDirectory is how many bytes the list of an archive's members may have, at whose
// opening all of them are read into memory: some million, several times those of the
// largest public feed.
var maxDirectory int64 = 128 << 20

// opening reads a file of which only so much may be read, until it is open: where the
// list of members begins and ends, an archive says in several places.
type opening struct {
	f    io.ReaderAt
	left atomic.Int64
	open atomic.Bool
}

func (o *opening) ReadAt(p []byte, at int64) (int, error) {
	if !o.open.Load() && o.left.Add(-int64(len(p))) < 0 {
		return 0, fault.Newf(fault.TooLarge, "the list of its members has more than %d bytes", maxDirectory)
	}
	return o.f.ReadAt(p, at)
}

func (z *zipped) Digest() string { return z.digest }
func (z *zipped) Close() error   { return z.file.Close() }

func (z *zipped) Each(lim Limits, fn func(string, []byte) error) error {
	left := lim.Bytes
	records := 0
	var buf []byte
	for _, f := range z.r.File {
		if f.FileInfo().IsDir() || !strings.HasSuffix(f.Name, ".json") {
			continue
		}
		if records++; records > lim.Records {
			return fault.Newf(fault.TooLarge, "more than %d records", lim.Records)
		}
		r, err := f.Open()
		if err != nil {
			return fault.Newf(fault.Invalid, "%.200q: %w", f.Name, err)
		}
		buf, err = readRecord(buf, r, left)
		r.Close()
		if err != nil {
			return named(f.Name, err)
		}
		left -= int64(len(buf))
		if err := fn(f.Name, buf); err != nil {
			return err
		}
	}
	return nil
}

// readRecord reads one into buf, whatever size the archive says that it has.
func readRecord(buf []byte, r io.Reader, left int64) ([]byte, error) {
	most := min(left, vuln.MaxAdvisory)
	buf = buf[:0]
	in := io.LimitReader(r, most+1)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := in.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if int64(len(buf)) > most {
			if most < vuln.MaxAdvisory {
				return buf, fault.Newf(fault.TooLarge, "the archive unpacks to more than its limit")
			}
			return buf, fault.Newf(fault.TooLarge, "a record of more than %d bytes", vuln.MaxAdvisory)
		}
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return buf, fault.Newf(fault.Invalid, "%w", err)
		}
	}
}

func named(name string, err error) error {
	return fault.Newf(fault.KindOf(err), "%.200q: %w", name, err)
}

// folder is OSV records as files, below one root that nothing leaves.
type folder struct{ root *os.Root }

// OpenFolder opens a folder of OSV records.
func OpenFolder(name string) (Archive, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, fault.Wrap(fault.NotFound, err)
	}
	return &folder{root}, nil
}

func (f *folder) Digest() string { return "" }
func (f *folder) Close() error   { return f.root.Close() }

func (f *folder) Each(lim Limits, fn func(string, []byte) error) error {
	left, records := lim.Bytes, 0
	var buf []byte
	return fs.WalkDir(f.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fault.Newf(fault.Invalid, "%.200q: %w", name, err)
		}
		if !d.Type().IsRegular() || !strings.HasSuffix(name, ".json") {
			return nil
		}
		if records++; records > lim.Records {
			return fault.Newf(fault.TooLarge, "more than %d records", lim.Records)
		}
		r, err := f.root.Open(name)
		if err != nil {
			return fault.Newf(fault.Invalid, "%.200q: %w", name, err)
		}
		defer r.Close()
		if buf, err = readRecord(buf, r, left); err != nil {
			return named(name, err)
		}
		if left -= int64(len(buf)); isList(buf[:min(len(buf), listHead)]) {
			return nil // CISA's catalog lies beside the records
		}
		return fn(name, buf)
	})
}

// Found is a feed that a path holds.
type Found struct {
	Ecosystem string // "" when the path does not say: records may be of any
	Path      string
	Zip       bool
	List      bool // CISA's catalog or EPSS's scores: no archive of records
}

// Find says what a path holds: a zip, a folder of records, a tree of
// ECOSYSTEM/all.zip as the public bucket has it, a list of exploited flaws. Lists
// that lie in the folder are found with it. Other files are not looked at.
func Find(name string) ([]Found, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, fault.Wrap(fault.NotFound, err)
	}
	if !st.IsDir() {
		if IsList(name) {
			return []Found{{Path: name, List: true}}, nil
		}
		ecosystem := ""
		if filepath.Base(name) == "all.zip" {
			ecosystem = ecosystemOf(filepath.Base(filepath.Dir(name)))
		}
		return []Found{{Ecosystem: ecosystem, Path: name, Zip: true}}, nil
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	var found, lists []Found
	records := false
	for _, e := range entries {
		at := filepath.Join(name, e.Name())
		switch {
		case e.IsDir():
			at = filepath.Join(at, "all.zip")
			if _, err := os.Stat(at); err == nil {
				found = append(found, Found{Ecosystem: ecosystemOf(e.Name()), Path: at, Zip: true})
			}
		case !e.Type().IsRegular():
		case listName(e.Name()) && IsList(at):
			lists = append(lists, Found{Path: at, List: true})
		default:
			records = records || strings.HasSuffix(e.Name(), ".json")
		}
	}
	whole := filepath.Join(name, "all.zip")
	_, wholeErr := os.Stat(whole)
	switch {
	case len(found) > 0 && records:
		return nil, fault.Newf(fault.Invalid, "%s holds both records and ECOSYSTEM/all.zip: give them one after the other", name)
	case len(found) > 0:
		slices.SortFunc(found, func(a, b Found) int { return strings.Compare(a.Path, b.Path) })
	case wholeErr == nil && records:
		return nil, fault.Newf(fault.Invalid, "%s holds both records and all.zip: give %s, or remove it", name, whole)
	case wholeErr == nil: // one ECOSYSTEM of a tree
		abs, err := filepath.Abs(name)
		if err != nil {
			return nil, err
		}
		found = []Found{{Ecosystem: ecosystemOf(filepath.Base(abs)), Path: whole, Zip: true}}
	case records:
		found = []Found{{Path: name}}
	}
	if found = append(found, lists...); len(found) > 0 {
		return found, nil
	}
	return nil, fault.Newf(fault.Invalid, "%s holds no feed: want a zip of OSV records, a folder of *.json, a tree of ECOSYSTEM/all.zip, CISA's catalog (JSON) or EPSS's scores (CSV)", name)
}

// listHead is how much of a file tells a list by.
const listHead = 512

// IsList says whether a file is CISA's catalog of known exploited vulnerabilities
// or EPSS's scores rather than an archive of records: it begins as those do.
func IsList(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, listHead)
	n, _ := io.ReadFull(f, head)
	return isList(head[:n])
}

func isList(head []byte) bool {
	head = bytes.TrimSpace(head)
	return bytes.HasPrefix(head, []byte{0x1f, 0x8b}) || bytes.HasPrefix(head, []byte("#model_version")) || bytes.HasPrefix(head, []byte("{")) && bytes.Contains(head, []byte(`"catalogVersion"`))
}

// listName says whether a file of a folder may be a list: what is compressed
// there may be anything.
func listName(name string) bool {
	return strings.HasSuffix(name, ".json") || strings.HasSuffix(name, ".csv") || strings.HasSuffix(name, ".csv.gz")
}

// Open opens what was found.
func (f Found) Open() (Archive, error) {
	if f.Zip {
		return OpenZip(f.Path)
	}
	return OpenFolder(f.Path)
}

// ecosystemOf takes the folder's name for the ecosystem's where it can be one.
func ecosystemOf(folder string) string {
	folder = path.Base(folder)
	if folder == "." || folder == "/" || len(folder) > 100 || strings.ContainsFunc(folder, func(r rune) bool { return r < ' ' }) {
		return ""
	}
	return folder
}
