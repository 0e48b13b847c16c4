package credential

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"hash/crc32"
	"strings"
)

// Prefix begins every robot's token, for scanners that look for secrets in
// source code and logs. The whole is of the form
//
//	assay_robot_[a-z2-7]{16}_[a-z2-7]{59}
//
// an id of 80 random bits, and 256 random bits followed by a CRC-32 of all that
// stands before it, so that a scanner, and this server, tell a token from a text
// that looks like one without asking anybody.
const Prefix = "assay_robot_"

const (
	idLength     = 16 // of 10 bytes
	secretLength = 52 // of 32 bytes
	sumLength    = 7  // of 4 bytes
	tokenLength  = len(Prefix) + idLength + 1 + secretLength + sumLength
)

var base32lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newSecret makes a robot's token: the text for its owner, its id, and the hash
// that is kept. The secret has 256 random bits, so a plain hash hides it: there
// is nothing to guess that a slow hash would protect.
func newSecret() (text, id string, hash [sha256.Size]byte) {
	var b [10 + 32]byte
	_, _ = rand.Read(b[:]) // never fails, crypto/rand
	id = base32lower.EncodeToString(b[:10])
	text = Prefix + id + "_" + base32lower.EncodeToString(b[10:])
	text += checksum(text)
	return text, id, sha256.Sum256([]byte(text))
}

func checksum(s string) string {
	n := crc32.ChecksumIEEE([]byte(s))
	return base32lower.EncodeToString([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// IsSecret says whether text claims to be a robot's token, whole or not.
func IsSecret(text string) bool { return strings.HasPrefix(text, Prefix) }

// parseSecret gives the id of a well-formed token.
func parseSecret(text string) (id string, ok bool) {
	if len(text) != tokenLength || !IsSecret(text) {
		return "", false
	}
	for i := len(Prefix); i < len(text); i++ {
		c := text[i]
		if i == len(Prefix)+idLength {
			if c != '_' {
				return "", false
			}
			continue
		}
		if (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return "", false
		}
	}
	body := text[:len(text)-sumLength]
	return text[len(Prefix) : len(Prefix)+idLength], checksum(body) == text[len(body):]
}

// sameSecret compares in constant time.
func sameSecret(text string, hash []byte) bool {
	got := sha256.Sum256([]byte(text))
	return subtle.ConstantTimeCompare(got[:], hash) == 1
}
