package admission

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// What is signed of a bundle is gzip of lines, each of a letter and a JSON object, so
// that neither who makes it nor who reads it ever holds 100,000 decisions as text: an
// entry, something that is blocked, and at the end the head.
const (
	lineEntry   = 'e'
	lineBlocked = 'b'
	lineHead    = 'h'
	// maxLine bounds one line.
	maxLine = 64 << 10
)

// sealed is DSSE around them.
type sealed struct {
	Type      string `json:"payloadType"`
	Payload   []byte `json:"payload"`
	Signature []byte `json:"sig"`
}

// BundleWriter makes a bundle of entries as they come.
type BundleWriter struct {
	out bytes.Buffer
	z   *gzip.Writer
	sum hash.Hash
	n   int
}

// NewBundleWriter begins one.
func NewBundleWriter() *BundleWriter {
	w := &BundleWriter{sum: sha256.New()}
	w.z = gzip.NewWriter(&w.out)
	return w
}

// Entry adds a decision.
func (w *BundleWriter) Entry(e *Entry) error { return w.line(lineEntry, e) }

// Blocked adds a digest that runs nowhere.
func (w *BundleWriter) Blocked(b *Blocked) error { return w.line(lineBlocked, b) }

// Sum is a hash of what was added, in its order.
func (w *BundleWriter) Sum() (sum [sha256.Size]byte) {
	w.sum.Sum(sum[:0])
	return sum
}

func (w *BundleWriter) line(letter byte, v any) error {
	text, err := strictjson.Marshal(v)
	if err != nil {
		return err
	}
	text = append(append(append(make([]byte, 0, len(text)+2), letter), text...), '\n')
	if w.n += len(text); len(text) > maxLine || w.n > 2*MaxBundle {
		return fault.Newf(fault.Invalid, "bundle: a line of %d bytes, %d in all, want at most %d and %d", len(text), w.n, maxLine, 2*MaxBundle)
	}
	_, _ = w.sum.Write(text) // never fails
	_, err = w.z.Write(text)
	return err
}

// Seal ends the bundle with its head and signs it. Entries and Blocked of the head
// do not count.
func (w *BundleWriter) Seal(ctx context.Context, key crypto.Signer, head *Bundle) ([]byte, error) {
	if err := w.line(lineHead, head); err != nil {
		return nil, err
	}
	if err := w.z.Close(); err != nil {
		return nil, err
	}
	sig, err := attestation.SignMessage(ctx, key, attestation.PAE(BundleType, w.out.Bytes()))
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "sign the bundle: %w", err)
	}
	raw, err := strictjson.Marshal(sealed{BundleType, w.out.Bytes(), sig})
	if err == nil && len(raw) > MaxBundle {
		err = fault.Newf(fault.Invalid, "bundle: %d bytes, want at most %d", len(raw), MaxBundle)
	}
	return raw, err
}

// readBundle reads what was signed, and gives its entries to each.
func readBundle(payload []byte, each func(*Entry)) (*Bundle, error) {
	z, err := gzip.NewReader(bytes.NewReader(payload))
	if err != nil {
		return nil, err
	}
	limited := &io.LimitedReader{R: z, N: 2*MaxBundle + 1}
	lines := bufio.NewReaderSize(limited, maxLine)
	var b Bundle
	for headed := false; ; {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0 && headed && limited.N > 0:
			return &b, nil
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("it ends within a line, without a head, or after more than %d bytes", 2*MaxBundle)
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, fmt.Errorf("a line is longer than %d bytes", maxLine)
		case err != nil:
			return nil, err
		case headed:
			return nil, errors.New("something stands behind its head")
		}
		text := line[1:]
		switch line[0] {
		case lineEntry:
			var e Entry
			err = strictjson.Unmarshal(text, &e, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxLine))
			each(&e)
		case lineBlocked:
			var x Blocked
			err = strictjson.Unmarshal(text, &x, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxLine))
			b.Blocked = append(b.Blocked, x)
		case lineHead:
			err = strictjson.Unmarshal(text, &b, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxLine))
			headed = true
		default:
			return nil, fmt.Errorf("a line begins with %q", line[0])
		}
		if err != nil {
			return nil, err
		}
	}
}
