package event

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Hash is a SHA-256 sum. Its text form is lowercase hex.
type Hash [sha256.Size]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText gives lowercase hex.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads 64 lowercase hex digits.
func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) != 2*len(h) || !isHex(string(b)) {
		return fault.Newf(fault.Invalid, "hash %.80q: want 64 lowercase hex digits", b)
	}
	_, err := hex.Decode(h[:], b)
	return err
}

// Head is the seal of one batch of events. It commits to every event up to its
// last, and is what gets published.
type Head struct {
	Batch    int64     `json:"batch"`     // from 1, without gaps
	FirstSeq int64     `json:"first_seq"` // first event of the batch
	LastSeq  int64     `json:"last_seq"`  // last event of the batch
	Count    int64     `json:"count"`     // LastSeq - FirstSeq + 1
	Root     Hash      `json:"root"`      // RFC 6962 tree hash of the batch's leaves
	Prev     Hash      `json:"prev"`      // Hash of the head before; zero for the first
	Hash     Hash      `json:"hash"`      // of this head, see Sum
	Time     time.Time `json:"time"`      // when it was sealed, UTC, microseconds
}

const headTitle = "assay event head v1"

// Text is the head's text as the package's documentation defines it, the bytes
// to publish and to sign. [ParseHead] reads it back.
func (h Head) Text() []byte {
	return fmt.Appendf(nil, "%s\nbatch %d\nevents %d %d\nroot %s\nprev %s\ntime %s\n",
		headTitle, h.Batch, h.FirstSeq, h.LastSeq, h.Root, h.Prev, h.Time.UTC().Format(timeFormat))
}

// Sum is the hash of [Head.Text]. A sound head's Hash is its Sum.
func (h Head) Sum() Hash { return sha256.Sum256(h.Text()) }

// Validate says whether the head agrees with itself.
func (h Head) Validate() error {
	switch {
	case h.Batch < 1 || h.FirstSeq < 1 || h.LastSeq < h.FirstSeq || h.Count != h.LastSeq-h.FirstSeq+1,
		(h.Batch == 1) != (h.Prev == Hash{}), (h.Batch == 1) != (h.FirstSeq == 1):
		return fault.Newf(fault.Invalid, "head of batch %d: its numbers (events %d to %d, count %d) do not fit together", h.Batch, h.FirstSeq, h.LastSeq, h.Count)
	case h.Hash != h.Sum():
		return fault.Newf(fault.Tampered, "head of batch %d: its hash is %s, its text gives %s", h.Batch, h.Hash, h.Sum())
	}
	return nil
}

// ParseHead reads the text of a head, exactly as [Head.Text] writes it, and
// computes its hash. Anything else is [fault.Invalid].
func ParseHead(text []byte) (Head, error) {
	if len(text) > 512 {
		return Head{}, fault.Newf(fault.Invalid, "head of %d bytes: want at most 512", len(text))
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) != 7 || lines[0] != headTitle {
		return Head{}, fault.Newf(fault.Invalid, "head: want the line %q and five more", headTitle)
	}
	var h Head
	var err error
	field := func(i int, name string) string {
		v, ok := strings.CutPrefix(lines[i], name+" ")
		if !ok && err == nil {
			err = fault.Newf(fault.Invalid, "head: line %d: want %q first", i+1, name)
		}
		return v
	}
	number := func(s string) int64 {
		n, nerr := strconv.ParseInt(s, 10, 64)
		if nerr != nil && err == nil {
			err = fault.Newf(fault.Invalid, "head: %.30q is no number", s)
		}
		return n
	}
	hash := func(s string) (sum Hash) {
		if herr := sum.UnmarshalText([]byte(s)); herr != nil && err == nil {
			err = fmt.Errorf("head: %w", herr)
		}
		return sum
	}
	h.Batch = number(field(1, "batch"))
	first, last, _ := strings.Cut(field(2, "events"), " ")
	h.FirstSeq, h.LastSeq = number(first), number(last)
	h.Count = h.LastSeq - h.FirstSeq + 1
	h.Root, h.Prev = hash(field(3, "root")), hash(field(4, "prev"))
	t, terr := time.Parse(timeFormat, field(5, "time"))
	if terr != nil && err == nil {
		err = fault.Newf(fault.Invalid, "head: time: %w", terr)
	}
	h.Time = t.UTC()
	if err != nil {
		return Head{}, err
	}
	h.Hash = sha256.Sum256(text)
	// One text for one head: no second spelling of a number or a time.
	if string(h.Text()) != string(text) {
		return Head{}, fault.Newf(fault.Invalid, "head: it is not written in the one form: want %q", h.Text())
	}
	if err := h.Validate(); err != nil {
		return Head{}, err
	}
	return h, nil
}

// UnmarshalJSON reads a head strictly and checks it against its own hash.
func (h *Head) UnmarshalJSON(b []byte) error {
	type plain Head
	var p plain
	if err := strictjson.Unmarshal(b, &p, strictjson.RejectUnknown()); err != nil {
		return fmt.Errorf("head: %w", err)
	}
	if err := Head(p).Validate(); err != nil {
		return err
	}
	*h = Head(p)
	return nil
}

// tree computes an RFC 6962 root leaf by leaf.
type tree struct{ r *compact.Range }

var treeFactory = compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

func newTree() tree { return tree{treeFactory.NewEmptyRange(0)} }

func (t tree) add(leaf []byte) error {
	return t.r.Append(rfc6962.DefaultHasher.HashLeaf(leaf), nil)
}

func (t tree) root() (Hash, error) {
	b, err := t.r.GetRootHash(nil)
	if err != nil {
		return Hash{}, err
	}
	if b == nil {
		b = rfc6962.DefaultHasher.EmptyRoot()
	}
	return Hash(b), nil
}
