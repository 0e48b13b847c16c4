package backup

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"filippo.io/age"

	"assay/artifact"
	"assay/store"
)

// entry is one line of the index; exactly one member is set.
type entry struct {
	Steps []store.Step `json:"steps,omitempty"` // of the database, first
	Table *tableEntry  `json:"table,omitempty"`
	Log   *logEntry    `json:"log,omitempty"`
	File  *fileEntry   `json:"file,omitempty"`
	Blob  *blobEntry   `json:"blob,omitempty"`
	// Missing is a blob that rows name and that was not there.
	Missing artifact.Digest `json:"missing,omitempty"`
}

type tableEntry struct {
	store.Table
	Rows   int64   `json:"rows"`
	Pieces []Piece `json:"pieces"` // lines, as store.Tx.Rows gives them
}

type logEntry struct {
	Name       string   `json:"name"`
	Folder     string   `json:"folder"` // below the data folder
	Origin     string   `json:"origin"`
	CT         bool     `json:"ct"`
	Keys       [][]byte `json:"keys"`       // PKIX, DER
	Checkpoint []byte   `json:"checkpoint"` // signed note
}

type fileEntry struct {
	Path   string  `json:"path"` // below the data folder, "/" between its parts
	Size   int64   `json:"size"`
	SHA256 string  `json:"sha256"`
	Pieces []Piece `json:"pieces"`
}

type blobEntry struct {
	Digest artifact.Digest `json:"digest"`
	Size   int64           `json:"size"`
	Pieces []Piece         `json:"pieces"`
}

// sink takes pieces: it encrypts and writes those that the backup before has
// not, several at once.
type sink struct {
	repo  Repo
	to    []age.Recipient
	names []byte // key of the pieces' names
	known map[string]stored

	ctx   context.Context //nolint:containedctx // of the one backup
	stop  context.CancelFunc
	slots chan struct{}
	wg    sync.WaitGroup

	mu     sync.Mutex
	used   map[string]stored // size 0: on its way
	err    error
	counts Counts
	bad    []string

	line []byte // of the index, not yet a piece
	list []Piece
}

const writers = 4

func newSink(ctx context.Context, r Repo, to []age.Recipient, names []byte, known map[string]stored) *sink {
	s := &sink{repo: r, to: to, names: names, known: known, used: map[string]stored{}, slots: make(chan struct{}, writers)}
	s.ctx, s.stop = context.WithCancel(ctx)
	return s
}

// name is a piece's name: a keyed hash, so that who sees the repository cannot
// find out whether a file that he has is in it.
func (s *sink) name(what string) string {
	h := hmac.New(sha256.New, s.names)
	// To other recipients a piece is another one.
	for _, r := range s.to {
		fmt.Fprintf(h, "%s\n", r)
	}
	h.Write([]byte(what))
	return hex.EncodeToString(h.Sum(nil))
}

// has says whether the piece needs not be given.
func (s *sink) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.used[name]; ok {
		return true
	}
	k, ok := s.known[name]
	if ok {
		s.used[name] = k
	}
	return ok
}

// add puts a piece under a name; data must not change after.
func (s *sink) add(name string, data []byte, compress bool) error {
	if s.has(name) {
		return s.failed()
	}
	s.mu.Lock()
	if _, ok := s.used[name]; ok {
		s.mu.Unlock()
		return nil
	}
	s.used[name] = stored{}
	s.mu.Unlock()
	s.slots <- struct{}{}
	s.wg.Go(func() {
		defer func() { <-s.slots }()
		b, err := lock(s.to, data, compress)
		if err == nil && s.ctx.Err() == nil {
			err = s.repo.Put(s.ctx, objectName(name), b)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil {
			if s.err == nil {
				s.err = err
			}
			s.stop()
			return
		}
		s.used[name] = stored{int64(len(b)), hexSum(b)}
		s.counts.New++
		s.counts.NewBytes += int64(len(b))
	})
	return s.failed()
}

func (s *sink) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	return s.ctx.Err()
}

// content adds bytes under the name of their own hash.
func (s *sink) content(data []byte) (Piece, error) {
	p := Piece{Name: s.name("content " + hexSum(data)), Size: int64(len(data))}
	return p, s.add(p.Name, data, true)
}

// index adds a line to the index.
func (s *sink) index(e entry) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	s.line = append(append(s.line, b...), '\n')
	for len(s.line) >= maxPiece {
		if err := s.cut(maxPiece); err != nil {
			return err
		}
	}
	return nil
}

func (s *sink) cut(n int) error {
	p, err := s.content(slices.Clone(s.line[:n]))
	s.list, s.line = append(s.list, p), s.line[n:]
	return err
}

// forget takes pieces out of the backup whose content turned out wrong.
func (s *sink) forget(ps []Piece) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range ps {
		s.bad = append(s.bad, p.Name)
	}
}

// finish waits for all pieces and gives the list of objects.
func (s *sink) finish() ([]byte, error) {
	var err error
	if len(s.line) > 0 {
		err = s.cut(len(s.line))
	}
	s.wg.Wait()
	if ferr := s.failed(); err == nil {
		err = ferr
	}
	if err != nil {
		return nil, err
	}
	for _, n := range s.bad {
		delete(s.used, n)
	}
	names := make([]string, 0, len(s.used))
	for n := range s.used {
		names = append(names, n)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, n := range names {
		o := s.used[n]
		s.counts.Objects++
		s.counts.Bytes += o.size
		fmt.Fprintf(&b, "%s %d %s\n", n, o.size, o.sum)
	}
	return []byte(b.String()), nil
}

// abandon ends what is on its way.
func (s *sink) abandon() {
	s.stop()
	s.wg.Wait()
}
