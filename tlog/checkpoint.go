package tlog

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"assay/internal/fault"

	"golang.org/x/mod/sumdb/note"
)

const (
	maxCheckpoint = 64 << 10 // bytes; with many witnesses some 10 KiB
	maxExtensions = 16       // lines after the root
	maxOrigin     = 255      // bytes; a DNS name, for CT with a path
)

// Checkpoint is the head of a log as its key signed it
// (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin     string   // name of the log: here its host name
	Size       uint64   // number of entries
	Root       Hash     // RFC 6962 root of them
	Extensions []string // further lines of the text, as they stand
	Note       []byte   // the whole signed note
}

// text is what the log signs: the note without its signatures.
func (c Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
}

// ParseCheckpoint reads a signed note strictly by C2SP tlog-checkpoint and
// signed-note. The origin must be v's name and the signature of v must be
// among the signatures and valid; further signatures (witnesses) are kept and
// not judged. With others, a valid signature of any of the keys will do: those of
// a log that changes its key. What is malformed is [fault.Invalid], what v did not sign
// [fault.Unverified].
func ParseCheckpoint(signed []byte, v note.Verifier, others ...note.Verifier) (Checkpoint, error) {
	if len(signed) > maxCheckpoint {
		return Checkpoint{}, fault.Newf(fault.Invalid, "a checkpoint of %d bytes: at most %d are read", len(signed), maxCheckpoint)
	}
	n, err := note.Open(signed, distinct(v, others))
	if err != nil {
		if _, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
			return Checkpoint{}, fault.Newf(fault.Unverified, "the checkpoint has no signature of %s: check that this is the log's key", v.Name())
		}
		if _, ok := errors.AsType[*note.InvalidSignatureError](err); ok {
			return Checkpoint{}, fault.Newf(fault.Unverified, "the signature of %s on the checkpoint is not valid", v.Name())
		}
		return Checkpoint{}, fault.Newf(fault.Invalid, "checkpoint: %w", err)
	}
	c, err := parseText(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != v.Name() {
		return Checkpoint{}, fault.Newf(fault.Unverified, "the checkpoint is of the log %q, want %q", c.Origin, v.Name())
	}
	c.Note = bytes.Clone(signed)
	return c, nil
}

// distinct is the list of verifiers, each key once: note.VerifierList refuses
// to choose between two of one name and hash.
func distinct(v note.Verifier, others []note.Verifier) note.Verifiers {
	list := []note.Verifier{v}
	for _, o := range others {
		if !slices.ContainsFunc(list, func(k note.Verifier) bool { return k.KeyHash() == o.KeyHash() && k.Name() == o.Name() }) {
			list = append(list, o)
		}
	}
	return note.VerifierList(list...)
}

// parseText reads the text of a checkpoint: origin, size, root, extensions,
// one a line.
func parseText(text string) (Checkpoint, error) {
	bad := func(format string, a ...any) (Checkpoint, error) {
		return Checkpoint{}, fault.Newf(fault.Invalid, "checkpoint: "+format, a...)
	}
	body, ok := strings.CutSuffix(text, "\n")
	if !ok {
		return bad("the text does not end with a newline")
	}
	lines := strings.Split(body, "\n")
	if len(lines) < 3 || len(lines) > 3+maxExtensions {
		return bad("%d lines, want origin, size, root and at most %d extensions", len(lines), maxExtensions)
	}
	c := Checkpoint{Origin: lines[0]}
	if err := checkOrigin(c.Origin); err != nil {
		return bad("%w", err)
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] {
		return bad("the size %.30q is not a plain decimal number", lines[1])
	}
	c.Size = size
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != len(c.Root) {
		return bad("the root %.60q is not the base64 of 32 bytes", lines[2])
	}
	c.Root = Hash(root)
	if c.Size == 0 && c.Root != emptyRoot() {
		return bad("the root of no entries is SHA-256 of nothing (RFC 6962)")
	}
	for _, l := range lines[3:] {
		if l == "" {
			return bad("an extension line is empty")
		}
	}
	if len(lines) > 3 {
		c.Extensions = lines[3:]
	}
	return c, nil
}

// checkOrigin admits what can name a log both as the first line of a
// checkpoint and as the name of its key.
func checkOrigin(o string) error {
	switch {
	case o == "", len(o) > maxOrigin, !utf8.ValidString(o):
	case strings.Contains(o, "+"), strings.ContainsFunc(o, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
	default:
		return nil
	}
	return fault.Newf(fault.Invalid, "the origin %.80q: want 1 to %d bytes without space and plus sign", o, maxOrigin)
}
