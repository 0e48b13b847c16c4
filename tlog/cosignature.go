package tlog

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"assay/internal/fault"
)

// algCosignature is the signature type of C2SP tlog-cosignature with Ed25519.
const algCosignature = 0x04

// WitnessKey is the key of a witness: another party that signs a checkpoint when
// it extends the one that it signed before (C2SP tlog-cosignature v1).
type WitnessKey struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

// ParseWitnessKey reads a verifier key of C2SP signed-note,
// "name+hash+base64", of type cosignature/v1 (0x04): what a witness prints as
// its vkey.
func ParseWitnessKey(vkey string) (*WitnessKey, error) {
	bad := func(why string) (*WitnessKey, error) {
		return nil, fault.Newf(fault.Invalid, "witness key %.120q: %s; want NAME+HASH+KEY as the witness prints its vkey", vkey, why)
	}
	name, rest, ok := strings.Cut(vkey, "+")
	hash, key, ok2 := strings.Cut(rest, "+")
	if !ok || !ok2 {
		return bad("it has not three parts")
	}
	if err := checkOrigin(name); err != nil {
		return bad("its name is not that of a key")
	}
	h, err := strconv.ParseUint(hash, 16, 32)
	raw, err2 := base64.StdEncoding.Strict().DecodeString(key)
	switch {
	case err != nil || len(hash) != 8 || err2 != nil || len(raw) == 0:
		return bad("its hash or key does not decode")
	case raw[0] != algCosignature:
		return bad(fmt.Sprintf("its type is %#02x, want %#02x (cosignature/v1, Ed25519)", raw[0], algCosignature))
	case len(raw) != 1+ed25519.PublicKeySize:
		return bad("it is not an Ed25519 key")
	}
	w := &WitnessKey{name: name, key: ed25519.PublicKey(raw[1:])}
	full := noteKeyHash(name, algCosignature, w.key)
	if w.hash = binary.BigEndian.Uint32(full[:]); w.hash != uint32(h) {
		return bad("its hash is not that of its name and key")
	}
	return w, nil
}

// Name is the witness's name.
func (w *WitnessKey) Name() string { return w.name }

// Hash stands before the signature in a note.
func (w *WitnessKey) Hash() uint32 { return w.hash }

// Same says whether two names have one key: it is one witness then.
func (w *WitnessKey) Same(other *WitnessKey) bool { return w.key.Equal(other.key) }

// Verify checks a cosignature, without its four bytes of key hash, over the text
// of a checkpoint, and gives the time at which the witness saw it.
func (w *WitnessKey) Verify(text, sig []byte) (at time.Time, ok bool) {
	if len(sig) != 8+ed25519.SignatureSize {
		return at, false
	}
	unix := binary.BigEndian.Uint64(sig)
	if unix == 0 || unix > 1<<40 {
		return at, false
	}
	msg := append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", unix), text...)
	return time.Unix(int64(unix), 0).UTC(), ed25519.Verify(w.key, msg, sig[8:])
}

// Cosignature is one that holds.
type Cosignature struct {
	Witness string
	Time    time.Time // at which the witness says that it saw the checkpoint
	line    string    // of the note
}

// maxSignatures bounds the signature lines of a note that are looked at.
const maxSignatures = 64

// Cosignatures gives the valid cosignatures of known witnesses on a signed note,
// each key once.
func Cosignatures(signed []byte, known []*WitnessKey) (out []Cosignature) {
	text, lines, ok := bytes.Cut(signed, []byte("\n\n"))
	if !ok || len(known) == 0 || len(signed) > maxCheckpoint {
		return nil
	}
	return cosignatures(append(text, '\n'), string(lines), known)
}

func cosignatures(text []byte, lines string, known []*WitnessKey) (out []Cosignature) {
	var have []*WitnessKey
	for i, line := range strings.Split(lines, "\n") {
		if i >= maxSignatures {
			break
		}
		rest, ok := strings.CutPrefix(line, "— ")
		name, b64, ok2 := strings.Cut(rest, " ")
		raw, err := base64.StdEncoding.DecodeString(b64)
		if !ok || !ok2 || err != nil || len(raw) < 5 {
			continue
		}
		for _, w := range known {
			if w.name != name || w.hash != binary.BigEndian.Uint32(raw) || containsKey(have, w) {
				continue
			}
			if at, ok := w.Verify(text, raw[4:]); ok {
				have = append(have, w)
				out = append(out, Cosignature{Witness: name, Time: at, line: line})
			}
		}
	}
	return out
}

func containsKey(have []*WitnessKey, w *WitnessKey) bool {
	for _, h := range have {
		if h.Same(w) {
			return true
		}
	}
	return false
}
