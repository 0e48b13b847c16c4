// Package artifact names the things that Assay decides about: content by
// [Digest] and [DigestSet], packages by [PURL], and places by [Reference].
//
// Everything here is a value: comparable, immutable, and valid once parsed.
package artifact

import (
	"crypto"
	_ "crypto/sha256" // the algorithms named below
	_ "crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"

	"assay/internal/fault"
)

// Digest is content's name, "algorithm:lowercase hex", as in the OCI image
// specification, section "Digests". The zero value names nothing. A Digest
// that came from [ParseDigest] or [NewDigest] is valid and safe as a file name
// once split with [Digest.Algorithm] and [Digest.Hex].
type Digest string

// The digest algorithms that count as strong. SHA-1 and MD5 appear in
// documents of others; they are read, shown, and satisfy nothing.
const (
	SHA256 = "sha256"
	SHA384 = "sha384"
	SHA512 = "sha512"
)

var hashes = map[string]crypto.Hash{
	SHA256: crypto.SHA256,
	SHA384: crypto.SHA384,
	SHA512: crypto.SHA512,
}

// ParseDigest reads "alg:hex". Unknown and weak algorithms, upper case and a
// wrong length are [fault.Invalid].
func ParseDigest(s string) (Digest, error) {
	alg, sum, ok := strings.Cut(s, ":")
	if !ok {
		return "", fault.Newf(fault.Invalid, "digest %.80q: want algorithm:hex, for example sha256:<64 hex digits>", s)
	}
	h, known := hashes[alg]
	if !known {
		return "", fault.Newf(fault.Invalid, "digest %.80q: algorithm %.20q is not one of sha256, sha384, sha512", s, alg)
	}
	if len(sum) != 2*h.Size() {
		return "", fault.Newf(fault.Invalid, "digest %.160q: %s wants %d hex digits, found %d", s, alg, 2*h.Size(), len(sum))
	}
	for i := range len(sum) {
		if c := sum[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", fault.Newf(fault.Invalid, "digest %.160q: want lowercase hex", s)
		}
	}
	return Digest(s), nil
}

// NewDigest joins an algorithm and a raw sum; it panics when the two do not
// fit, since both then come from this program.
func NewDigest(alg string, sum []byte) Digest {
	h, ok := hashes[alg]
	if !ok || h.Size() != len(sum) {
		panic(fmt.Sprintf("artifact: no digest %s of %d bytes", alg, len(sum)))
	}
	return Digest(alg + ":" + hex.EncodeToString(sum))
}

// SHA256Of is the sha256 digest of b.
func SHA256Of(b []byte) Digest {
	h := crypto.SHA256.New()
	h.Write(b)
	return NewDigest(SHA256, h.Sum(nil))
}

// SHA256Reader reads r to its end and gives the digest and the length in bytes.
func SHA256Reader(r io.Reader) (Digest, int64, error) {
	h := crypto.SHA256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return "", n, err
	}
	return NewDigest(SHA256, h.Sum(nil)), n, nil
}

// NewHash gives the hash function of an algorithm, or false.
func NewHash(alg string) (hash.Hash, bool) {
	h, ok := hashes[alg]
	if !ok {
		return nil, false
	}
	return h.New(), true
}

// Algorithm is the part before the colon.
func (d Digest) Algorithm() string { alg, _, _ := strings.Cut(string(d), ":"); return alg }

// Hex is the part after the colon.
func (d Digest) Hex() string { _, sum, _ := strings.Cut(string(d), ":"); return sum }

// Bytes is the raw sum, nil for the zero Digest.
func (d Digest) Bytes() []byte { b, _ := hex.DecodeString(d.Hex()); return b }

// Hash gives a fresh hash function of the digest's algorithm.
func (d Digest) Hash() hash.Hash { return hashes[d.Algorithm()].New() }

// Validate says whether d would parse.
func (d Digest) Validate() error { _, err := ParseDigest(string(d)); return err }

func (d Digest) String() string { return string(d) }

// Short is the first twelve hex digits, for people only.
func (d Digest) Short() string {
	if h := d.Hex(); len(h) > 12 {
		return h[:12]
	}
	return d.Hex()
}

// DigestSet is in-toto's DigestSet: algorithm to lowercase hex.
type DigestSet map[string]string

// Set gives d as a DigestSet of one.
func (d Digest) Set() DigestSet { return DigestSet{d.Algorithm(): d.Hex()} }

// Match applies in-toto's rule as Assay reads it: at least one strong algorithm
// is in both sets and agrees, and no strong algorithm that is in both sets
// disagrees. Weak or unknown algorithms neither help nor hurt.
func (s DigestSet) Match(other DigestSet) bool {
	matched := false
	for alg, sum := range s {
		if _, strong := hashes[alg]; !strong {
			continue
		}
		o, both := other[alg]
		if !both {
			continue
		}
		if o != sum {
			return false
		}
		if (Digest(alg + ":" + sum)).Validate() != nil {
			return false
		}
		matched = true
	}
	return matched
}

// Strong lists the valid strong digests in the set, sha256 first.
func (s DigestSet) Strong() []Digest {
	var out []Digest
	for _, alg := range []string{SHA256, SHA384, SHA512} {
		if d, err := ParseDigest(alg + ":" + s[alg]); err == nil {
			out = append(out, d)
		}
	}
	return out
}
