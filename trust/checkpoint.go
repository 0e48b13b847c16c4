package trust

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"strings"
	"unicode/utf8"
)

const maxCheckpoint = 16 << 10

// checkpoint is a signed note over a log's size and root hash (C2SP
// tlog-checkpoint and signed-note).
type checkpoint struct {
	origin string
	size   uint64
	root   []byte
	text   []byte // what is signed, with its last newline
	sigs   []noteSig
}

type noteSig struct {
	name string
	hash uint32
	sig  []byte
}

// parseCheckpoint reads the note strictly as to what is signed, and takes
// signature lines as they come: lines of unknown witnesses are theirs to judge.
func parseCheckpoint(env string) (*checkpoint, error) {
	bad := func(why string) (*checkpoint, error) {
		return nil, refuse(CodeTLogCheckpoint, "checkpoint: %s; want origin, size, root hash and signatures as C2SP tlog-checkpoint says", why)
	}
	if len(env) == 0 || len(env) > maxCheckpoint || !utf8.ValidString(env) || env[len(env)-1] != '\n' {
		return bad("empty, too long, not UTF-8 or without final newline")
	}
	for _, c := range env {
		if c < 0x20 && c != '\n' {
			return bad("control character")
		}
	}
	split := strings.LastIndex(env, "\n\n")
	if split < 0 {
		return bad("no signatures")
	}
	c := &checkpoint{text: []byte(env[:split+1])}
	lines := strings.Split(env[:split], "\n")
	if len(lines) < 3 || lines[0] == "" {
		return bad("fewer than three lines")
	}
	c.origin = lines[0]
	var err error
	if c.size, err = strconv.ParseUint(lines[1], 10, 63); err != nil || (len(lines[1]) > 1 && lines[1][0] == '0') || lines[1][0] == '+' {
		return bad("size line is not a decimal number")
	}
	if c.root, err = base64.StdEncoding.Strict().DecodeString(lines[2]); err != nil || len(c.root) != 32 {
		return bad("root hash line is not 32 bytes in base64")
	}
	for _, l := range lines[3:] {
		if l == "" {
			return bad("empty extension line")
		}
	}
	sigs := strings.Split(strings.TrimSuffix(env[split+2:], "\n"), "\n")
	if len(sigs) > 64 {
		return bad("more than 64 signature lines")
	}
	for _, l := range sigs {
		rest, ok := strings.CutPrefix(l, "— ")
		name, b64, ok2 := strings.Cut(rest, " ")
		raw, err := base64.StdEncoding.DecodeString(b64)
		if !ok || !ok2 || name == "" || err != nil || len(raw) < 5 {
			return bad("a signature line does not parse")
		}
		c.sigs = append(c.sigs, noteSig{name: name, hash: binary.BigEndian.Uint32(raw), sig: raw[4:]})
	}
	return c, nil
}

// signedBy says whether l signed the checkpoint under its name.
func (r *Root) signedBy(c *checkpoint, l *logKey, name string) bool {
	id := l.noteHash
	if name != l.origin {
		id = binary.BigEndian.Uint32(noteKeyID(name, l.verifyKey))
	}
	for _, s := range c.sigs {
		if s.name == name && s.hash == id && r.facts.message(l.verifyKey, c.text, s.sig, false) {
			return true
		}
	}
	return false
}

// verifyCheckpoint checks that the log signed env and that it agrees with the
// size and root hash beside it in the bundle.
//
// A Rekor v2 log's origin is its host name; a Rekor v1 shard's is
// "host - treeID", signed under the host.
func (r *Root) verifyCheckpoint(env string, l *logKey, v2 bool) (*checkpoint, error) {
	c, err := parseCheckpoint(env)
	if err != nil {
		return nil, err
	}
	name := c.origin
	if v2 {
		if l.origin == "" {
			return nil, refuse(CodeTLogCheckpoint, "checkpoint: the trusted root gives log %x no baseUrl, and a Rekor v2 checkpoint is known by it; add baseUrl", l.id)
		}
		if c.origin != l.origin {
			return nil, refuse(CodeTLogCheckpoint, "checkpoint: origin is %.120q, want %q as the trusted root names the log", c.origin, l.origin)
		}
	} else {
		host, tree, ok := strings.Cut(c.origin, " - ")
		if _, err := strconv.ParseUint(tree, 10, 64); !ok || err != nil {
			return nil, refuse(CodeTLogCheckpoint, "checkpoint: origin is %.120q, want \"host - treeID\" for a Rekor v1 entry", c.origin)
		}
		name = host
	}
	if !r.signedBy(c, l, name) {
		return nil, refuse(CodeTLogCheckpoint, "checkpoint: no valid signature of log %s (key %s) among %d", l.url, l.fingerprint(), len(c.sigs))
	}
	return c, nil
}

// agrees says whether the bundle repeats the checkpoint's size and hash.
func (c *checkpoint) agrees(size int64, root []byte) bool {
	return size >= 0 && uint64(size) == c.size && bytes.Equal(root, c.root)
}

// verifySET checks a Rekor v1 signed entry timestamp: the log's signature over
// the canonical JSON (RFC 8785) of body, integrated time, log ID and index.
func (r *Root) verifySET(l *logKey, body []byte, integrated, index int64, logID, set []byte) bool {
	b := make([]byte, 0, base64.StdEncoding.EncodedLen(len(body))+256)
	b = append(b, `{"body":"`...)
	b = base64.StdEncoding.AppendEncode(b, body)
	b = append(b, `","integratedTime":`...)
	b = strconv.AppendInt(b, integrated, 10)
	b = append(b, `,"logID":"`...)
	const digits = "0123456789abcdef"
	for _, c := range logID {
		b = append(b, digits[c>>4], digits[c&15])
	}
	b = append(b, `","logIndex":`...)
	b = strconv.AppendInt(b, index, 10)
	b = append(b, '}')
	return r.facts.message(l.verifyKey, b, set, true)
}
